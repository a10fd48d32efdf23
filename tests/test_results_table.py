"""The tool that makes tables of runs: rows of configs and of runs, markers, and broken files."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))  # tools are scripts, not an installed package

from results_table import METHODS, insert, main, read_rows, read_run, tables

TABLE_2 = {
    "method": "ZeDO",
    "table": "Table 2",
    "row": "S = 10",
    "paper": {"h36m/mpjpe": 57.3, "h36m/pa_mpjpe": 45.1},
    "protocol": "zedo_h36m: mpjpe [mm], 17 joints of h36m17",
    "protocol_name": "zedo_h36m",
    "metrics": {"test/h36m/mpjpe": 58.04, "test/h36m/pa_mpjpe": 44.96, "test/h36m/mpjpe/Walking": 40.0},
    "configs": ["default.yaml", "table2/s10.yaml"],
    "options": ["seed=3"],
    "commit": "0123456789ab",
    "seed": 3,
    "seconds": 5400.0,
    "partial": False,
}
OLD = {"method": "ZeDO", "protocol": "open_h36m17: ...", "metrics": {"test/cmu/mpjpe": 60.0}, "seconds": 36.0}


def write(folder: Path, **changes: Any) -> Path:
    """A run of Table 2, changed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.json"
    path.write_text(json.dumps({**TABLE_2, **changes}))
    return path


def cells(markdown: str, first: str) -> list[list[str]]:
    """Cells of the lines that begin with a cell."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in markdown.splitlines()]
    return [line for line in lines if line[0] == first]


def printed(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    assert main([str(arg) for arg in args]) == 0
    return capsys.readouterr().out


def test_ours_stands_beside_the_paper_s_with_what_made_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a" / "version_0")
    out = printed(capsys, tmp_path, "--methods", "zedo", "--no-configs")
    assert out.splitlines()[:3] == ["## zedo", "", "**Table 2**: ours (paper)"]
    (header,), (row,) = cells(out, "row"), cells(out, "S = 10")
    assert header == ["row", "h36m/mpjpe", "h36m/pa_mpjpe", "protocol", "config", "commit", "seed", "hours"]
    config = "`default.yaml` + `table2/s10.yaml`, `--model.seed=3`"
    assert row == ["S = 10", "58.0 (57.3)", "45.0 (45.1)", "zedo_h36m", config, "0123456789ab", "3", "1.500"]


def test_all_rows_of_the_configs_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", metrics={"test/h36m/mpjpe": 59.0}, partial=True)
    out = printed(capsys, tmp_path, "--methods", "zedo")
    assert [line for line in out.splitlines() if line.startswith("**")] == [
        f"**Table {number}**: ours (paper)" for number in range(1, 8)
    ]
    table = out[out.index("**Table 2**") : out.index("**Table 3**")]
    rows = [line.split(" | ")[:3] for line in table.splitlines() if line.startswith("| S =")]
    assert rows == [
        ["| S = 1", "not run (65.7)", "not run (49.0)"],
        ["| S = 10", "58.0 (57.3)", "45.0 (45.1)"],
        ["| S = 10 (partial)", "59.0 (57.3)", "- (45.1)"],
        ["| S = 50", "not run (51.4)", "not run (42.1)"],
    ]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_tables_of_what_was_not_run(method: str) -> None:
    rows = read_rows(method)
    made = tables(method, [], rows)
    assert made.count(f"`{rows[-1].name}`") == 1
    assert sum(line.startswith("| ") and not line.startswith("| row") for line in made.splitlines()) == len(rows)
    assert "Other runs" not in made


def test_single_actions_are_columns_where_there_is_no_average(tmp_path: Path) -> None:
    paper = {"h36m/mpjpe": 57.3, "h36m/mpjpe/Walking": 41.0}
    runs = [read_run(write(tmp_path, paper=paper), tmp_path)]
    assert cells(tables("zedo", runs, []), "row")[0][1:3] == ["h36m/mpjpe", "protocol"]
    runs = [read_run(write(tmp_path, paper={"h36m/mpjpe/Walking": 41.0}), tmp_path)]
    made = tables("zedo", runs, [])
    assert cells(made, "row")[0][1:3] == ["h36m/mpjpe/Walking", "protocol"]
    assert cells(made, "S = 10")[0][1] == "40.0 (41.0)"


def test_runs_that_are_no_row_are_listed_below(tmp_path: Path) -> None:
    """Runs without a table, of older files, and those with a row's settings on other data."""
    other = write(tmp_path / "open", metrics={"test/cmu/mpjpe": 60.5, "test/cmu/pck": 0.5, "test/cmu/mpjpe/Walk": 1.0})
    old = tmp_path / "old" / "metrics.json"
    old.parent.mkdir()
    old.write_text(json.dumps(OLD))
    runs = [read_run(path, tmp_path) for path in (other, old)]
    made = tables("zedo", runs, read_rows("zedo"))
    below = made[made.index("**Other runs**") :]
    assert cells(below, "open")[0][1:3] == ["cmu/mpjpe 60.5; cmu/pck 0.500", "zedo_h36m"]
    assert cells(below, "old")[0] == ["old", "cmu/mpjpe 60.0", "open_h36m17", "", "", "", "0.010"]
    assert "not run (57.3)" in made


def test_other_methods_runs_stay_out(tmp_path: Path) -> None:
    assert tables("hmdiff", [read_run(write(tmp_path), tmp_path)], []) == ""


def test_tables_are_inserted_between_markers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "runs")
    card = tmp_path / "README.md"
    card.write_text("# Card\n<!-- results:zedo -->\nold\n<!-- /results:zedo -->\nend\n")
    out = printed(capsys, tmp_path / "runs", "--insert", card, "--no-configs")
    assert out == f"1 runs; written into {card}: zedo\n"
    once = card.read_text()
    assert once.startswith("# Card\n<!-- results:zedo -->\n\n**Table 2**: ours (paper)\n")
    assert once.endswith("|\n\n<!-- /results:zedo -->\nend\n")
    assert "old" not in once
    printed(capsys, tmp_path / "runs", "--insert", card, "--no-configs")
    assert card.read_text() == once


@pytest.mark.parametrize(
    "text",
    [
        "<!-- results:zedo -->",
        "<!-- /results:zedo --> <!-- results:zedo -->",
        "<!-- results:zedo --> <!-- results:zedo --> <!-- /results:zedo -->",
    ],
)
def test_markers_come_in_one_pair(text: str) -> None:
    with pytest.raises(ValueError, match="must stand once each and in this order"):
        insert(text, "zedo", "table")


def test_a_file_without_markers_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert insert("# Card", "zedo", "table") == "# Card"
    (tmp_path / "README.md").write_text("# Card\n")
    assert main([str(tmp_path), "--insert", str(tmp_path / "README.md")]) == 1
    assert "has no line <!-- results:METHOD -->" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "# Card\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"method": "ZeDO", "metr', "is not readable as JSON"),
        (b"\xff\xfe", "is not readable as JSON"),
        ("[]", "names no method of diffhmr"),
        ('{"method": "Other", "metrics": {}}', "names no method of diffhmr"),
        ('{"method": "ZeDO", "metrics": {"test/h36m/mpjpe": "low"}}', "metrics must be numbers by name"),
        ('{"method": "ZeDO", "metrics": {}, "paper": [1]}', "paper must be numbers by name"),
    ],
)
def test_broken_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | bytes, message: str
) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_run(path, tmp_path)
    assert main([str(tmp_path)]) == 1
    assert str(path) in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "gone")]) == 1
    assert f"there is no folder {tmp_path / 'gone'}" in capsys.readouterr().err
