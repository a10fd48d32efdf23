"""The page of the ablations has every row, and its counts are its rows'; the tool says what it measured."""

import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))  # tools are scripts, not an installed package

import ablations  # noqa: E402
from ablation_rows import Group, Row  # noqa: E402
from ablations import difference, main, run, table  # noqa: E402

from posecore.data import PoseSample, SyntheticMotion  # noqa: E402

METHODS = {"Diff-HMR": "diffhmr", "ScoreHMR": "scorehmr", "HMDiff": "hmdiff", "DiffuPose": "diffupose", "ZeDO": "zedo"}
SECTIONS = {part.partition("\n")[0]: part for part in (ROOT / "docs/ablations.md").read_text().split("\n## ")[1:]}
VERDICTS = ("same", "no effect", "opposite", "mixed", "not run")


def configs(heading: str) -> Path:
    return ROOT / "packages" / METHODS[heading] / METHODS[heading] / "configs"


def verdicts(section: str) -> list[str]:
    found, column = [], -1
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            column = -1
        elif "verdict" in cells:
            column = cells.index("verdict")
        elif column >= 0 and not line.startswith("|--") and cells[column] != "-":
            found.append(cells[column])
    return found


@pytest.mark.parametrize("heading", METHODS)
def test_every_row_of_the_tables_is_on_the_page(heading: str) -> None:
    folder = configs(heading)
    rows = {
        f"{path.parent.name}/{path.name}" for kind in ("table", "figure") for path in folder.glob(f"{kind}*/*.yaml")
    }
    assert rows
    assert rows <= set(re.findall(r"`([^`]+)`", SECTIONS[heading]))


@pytest.mark.parametrize("heading", METHODS)
def test_every_config_on_the_page_is_there(heading: str) -> None:
    named = re.findall(r"`([a-z0-9_]+/[\w]+\.yaml)`", SECTIONS[heading])
    assert named
    assert [name for name in named if not (configs(heading) / name).is_file()] == []


@pytest.mark.parametrize("heading", METHODS)
def test_the_summary_counts_the_rows(heading: str) -> None:
    found = verdicts(SECTIONS[heading])
    counted = Counter(word for text in found for word in VERDICTS if text.lstrip("*").startswith(word))
    assert sum(counted.values()) == len(found) > 0
    (line,) = re.findall(rf"^\| {heading} \|.*$", SECTIONS["Summary"], flags=re.MULTILINE)
    numbers = [int(cell) for cell in re.findall(r"\d+", line)]
    assert numbers == [len(found), *(counted[word] for word in VERDICTS)]


def test_a_difference_of_every_picture_counts_and_one_of_a_clip_does_not() -> None:
    clips = [f"clip {n // 10}" for n in range(100)]
    reference = torch.linspace(40, 90, 100).tolist()
    better = difference([value - 2 for value in reference], reference, clips)
    assert better.mean == pytest.approx(-2)
    assert (better.low, better.word) == (pytest.approx(-2), "better")
    assert difference([value + 2 for value in reference], reference, clips).word == "worse"
    # All of it is one clip of ten: another draw of clips might not have it.
    one = difference([value + 30 * (30 <= n < 40) for n, value in enumerate(reference)], reference, clips)
    assert one.mean == pytest.approx(3)
    assert (one.low, one.word) == (pytest.approx(0), "no effect")


def test_the_interval_is_that_of_the_normal_distribution() -> None:
    drawn = 10 * torch.randn(400, generator=torch.Generator().manual_seed(0))
    found = difference(drawn.tolist(), [0.0] * 400, [str(n) for n in range(400)])
    half = 1.96 * float(drawn.std()) / 20
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    assert found.mean - found.low == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize(("row", "clips"), [([1.0], ["a", "b"]), ([], [])])
def test_rows_of_other_pictures_are_not_compared(row: list[float], clips: list[str]) -> None:
    with pytest.raises(ValueError, match="pictures"):
        difference(row, row, clips)


def test_rows_are_run_once_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def error(batch: PoseSample, of: float) -> dict[str, torch.Tensor]:
        calls.append(of)
        return {"mpjpe": torch.full((len(batch["clip"]),), of)}

    def sets(root: Path) -> dict[str, SyntheticMotion]:
        return {"synthetic": SyntheticMotion(split="test", num_clips=7, stride=30)}

    rows = (Row("plain", lambda batch: error(batch, 50.0)), Row("better", lambda batch: error(batch, 45.0), "plain"))
    path = tmp_path / "group.json"
    run(Group(sets, ("mpjpe",), rows[:1]), tmp_path, path)
    run(Group(sets, ("mpjpe",), rows), tmp_path, path)
    assert calls == [50.0, 45.0]
    shown = table(Group(sets, ("mpjpe",), rows), json.loads(path.read_text()))
    assert "| better | synthetic |" in shown
    assert "| plain | -5.0 [-5.0, -5.0] | better |" in shown


def test_missing_data_and_unknown_groups_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--only", "zedo/figure5"]) == 2
    assert "error: zedo/figure5: root" in capsys.readouterr().err
    assert main(["--output", str(tmp_path / "out"), "--table", "--only", "zedo/figure5"]) == 0
    assert "not run" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--only", "zedo/figure6"])
    assert "there are" in capsys.readouterr().err


def test_every_row_is_compared_with_one_before_it() -> None:
    for name, group in ablations.GROUPS.items():
        names = [row.name for row in group.rows]
        assert len(set(names)) == len(names), name
        assert all(row.against is None or row.against in names[:n] for n, row in enumerate(group.rows)), name
