"""The paper's tables end to end: every table config on tiny files in VideoPose3D's layout."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import diffupose
from diffupose.data import DiffuPoseDataModule
from diffupose.module import DiffuPose
from posecore.cli import run
from posecore.data.human36m import ACTIONS
from posecore.metrics.protocols import PROTOCOLS
from posecore.testing import write_human36m, write_humaneva

CONFIGS = Path(diffupose.__file__).parent / "configs"
ROWS = sorted(str(path.relative_to(CONFIGS)) for part in ("table*", "schedule") for path in CONFIGS.glob(f"{part}/*"))
HUMANEVA = [f"{half}/S{person}" for half in ("Train", "Validate") for person in (1, 2, 3)]
PROTOCOL_OF = {"table3": "diffupose_h36m_gt", "table5": "diffupose_humaneva"}
SMALL = [
    "--model.dim=32", "--model.sampling.sampler=ddim", "--model.sampling.num_inference_steps=2",
    "--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false", "--trainer.logger=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that the configs name, with all actions of the tables."""
    root = tmp_path_factory.mktemp("data")
    write_human36m(root / "human36m", subjects=("S9", "S11"), clips=ACTIONS, frames=1, extra_frames=0)
    clips = [f"{action} 1 chunk0" for action in ("Walking", "Jog", "Box")]
    write_humaneva(root / "humaneva", HUMANEVA, clips, frames=2)
    return root


def configs_of(row: str) -> list[str]:
    """The configs of the command that the row's header states."""
    (line,) = (line for line in (CONFIGS / row).read_text().splitlines() if line.startswith("# Command: diffupose"))
    return re.findall(r"--config (\S+)", line)


def test_every_table_of_the_paper_has_rows() -> None:
    assert {row.split("/")[0] for row in ROWS} == {"schedule", *(f"table{number}" for number in range(1, 6))}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_runs_and_is_compared(
    root: Path, row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HUMANDIFF_TRACEBACK", "1")
    args = ["test", *(f"--config={name}" for name in configs_of(row)), *SMALL]
    args += [f"--data.root={root}", f"--trainer.default_root_dir={tmp_path}"]
    run(DiffuPose, DiffuPoseDataModule, CONFIGS, args)
    (path,) = tmp_path.rglob("metrics.json")
    content = json.loads(path.read_text())
    said = yaml.safe_load((CONFIGS / row).read_text())["results"]
    assert {name: content[name] for name in ("table", "row", "paper")} == said
    assert content["configs"] == configs_of(row)
    assert content["options"] == [option.removeprefix("--model.") for option in SMALL if option.startswith("--model.")]
    assert content["paper"]
    for name in content["paper"]:
        assert np.isfinite(content["metrics"][f"test/{name}"]), name
    expected = PROTOCOL_OF.get(row.split("/")[0], "diffupose_h36m")
    assert content["protocol_name"] == expected
    assert content["protocol"] == PROTOCOLS[expected].describe()
    # Two people seen by four cameras, in 15 actions; three people, 3 actions, three cameras, two frames.
    assert content["rows"] == ({"humaneva": 54} if row.startswith("table5") else {"h36m": 120})
    assert f"DiffuPose, {said['table']}, {said['row']}\n" in capsys.readouterr().out


@pytest.mark.parametrize("row", ["table1/baseline", "table1/n1", "table1/n10", "table3/n10"])
def test_human36m_is_compared_by_the_release_s_rule_and_per_action(row: str) -> None:
    """The average that the paper prints is its actions', to the rounding."""
    paper = yaml.safe_load((CONFIGS / f"{row}.yaml").read_text())["results"]["paper"]
    metrics = ["true_root_mpjpe"] if row.startswith("table3") else ["true_root_mpjpe", "true_root_pa_mpjpe"]
    assert paper.keys() == {f"h36m/{metric}{at}" for metric in metrics for at in ("", *(f"/{a}" for a in ACTIONS))}
    for metric in metrics:
        mean = np.mean([paper[f"h36m/{metric}/{action}"] for action in ACTIONS])
        assert paper[f"h36m/{metric}"] == pytest.approx(mean, abs=0.5)


def test_protocols_average_the_hypotheses() -> None:
    """Sec. 4.3: no truth chooses among them; Human3.6M by action, HumanEva-I by person and action."""
    for name, joint_set, averaging in (
        ("diffupose_h36m", "h36m16", "action"),
        ("diffupose_h36m_gt", "h36m17", "action"),
        ("diffupose_humaneva", "humaneva15", "subject_action"),
    ):
        protocol = PROTOCOLS[name]
        assert (protocol.joint_set, protocol.averaging, protocol.hypotheses) == (joint_set, averaging, "aggregate")
        assert protocol.stride == 1
        assert not protocol.reflection
