"""The page of the papers' benchmarks: its tables are the configs', its commands are the tools' and its tree has all."""

import re
import runpy
import shlex
import sys
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "tools"
sys.path.insert(0, str(TOOLS))  # tools are scripts, not an installed package

import preparation  # noqa: E402
from benchmarks_page import PAGE, main, overlay, page, rows  # noqa: E402
from results_table import METHODS  # noqa: E402

TEXT = PAGE.read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL)
PREPARE = [line for block in BLOCKS for line in block.splitlines() if "tools/prepare_" in line]
CONFIGS = {method: ROOT / "packages" / method / method / "configs" for method in METHODS}


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_changed_page_is_found_and_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.md"
    path.write_text(TEXT.replace("65.7", "65.8"))
    assert main([str(path), "--check"]) == 1
    assert f"{path}: is not up to date" in capsys.readouterr().err
    assert "65.8" in path.read_text()
    assert main([str(path)]) == 0
    assert path.read_text() == TEXT


@pytest.mark.parametrize("method", METHODS)
def test_every_row_is_there_with_a_command_of_configs(method: str) -> None:
    found = rows(method)
    configs = [path for path in CONFIGS[method].rglob("*.yaml") if "\nresults:" in path.read_text()]
    assert {row.config for row in found} == {str(path.relative_to(CONFIGS[method])) for path in configs}
    for row in found:
        names = re.findall(r"--config (\S+)", row.command)
        assert row.command.startswith(f"{method} test --config default.yaml")
        assert names[-1] == row.config
        assert "FOLDER" not in row.command
        assert all((CONFIGS[method] / name).is_file() for name in names)
        assert f"`{row.command}`" in TEXT
        assert {name.partition("/")[0] for name in row.paper} == set(row.settings["data"]["test"])


def test_every_path_of_the_configs_is_in_the_tree() -> None:
    (tree,) = re.findall(r"```text\n(.*?)```", TEXT, flags=re.DOTALL)
    paths = {
        Path(path)
        for method in METHODS
        for row in rows(method)
        for part in ("test", "train")
        for path in row.paths(part)
    }
    folders = [path.relative_to("data") for path in paths if not path.suffix and path != Path("data")]
    names = {path.name for path in paths if path.suffix and path.parent in (Path("data"), Path("data/spin_npz"))}
    assert len(folders) > 8
    assert len(names) > 15
    assert [str(path) for path in folders if f" {path}/" not in tree] == []
    assert [name for name in names if name not in tree] == []
    caches = {path.parent.name for path in paths if path.suffix} - {"data", "spin_npz", "body_models"}
    assert caches == {"pare_features", "prohmr_features", "hmr2b", "prohmr"}
    assert all(f"{name}/" in tree for name in caches)


@pytest.mark.parametrize("line", PREPARE)
def test_a_tool_takes_its_command(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder without data every split is missing; what the command says is understood."""
    program, *args = shlex.split(line.removeprefix("python "))
    name = Path(program).stem.removeprefix("prepare_")
    tool: dict[str, Any] = runpy.run_path(str(ROOT / program))
    monkeypatch.chdir(tmp_path)
    status = tool["prepare"](args) if name == "spin" else preparation.main(name, tool["__doc__"], tool["SPLITS"], args)
    assert status == 1
    assert "missing: " in capsys.readouterr().out


def test_every_tool_has_a_command_and_its_published_counts() -> None:
    """But for the rendered pictures, which are no licensed data set."""
    tools = {path.name for path in TOOLS.glob("prepare_*.py")} - {"prepare_open_images.py"}
    assert {Path(line.split()[1]).name for line in PREPARE} == tools
    for name in sorted(tools - {"prepare_spin.py"}):
        section = next(part for part in TEXT.split("\n### ") if f"tools/{name}" in part)
        for split, made in runpy.run_path(str(TOOLS / name))["SPLITS"].items():
            assert f"`{split}`" in section, (name, split)
            assert all(f"{count:,}" in section for count in made.published.values()), (name, split, made.published)


def test_every_config_that_the_text_names_is_there() -> None:
    named = re.findall(r"`({}) (?:test|fit)((?:\s--config\s[^\s`]+)+)".format("|".join(METHODS)), TEXT)
    assert {method for method, _ in named} == set(METHODS)
    for method, configs in named:
        for name in re.findall(r"--config\s([^\s`]+)", configs):
            assert name == "ROW" or (CONFIGS[method] / name).is_file(), (method, name)


def test_settings_lie_over_one_another_as_on_the_command_line() -> None:
    below = {"model": {"dim": 1, "loop": {"steps": 2, "dt": 3}}, "data": {"root": "data", "test": {"a": {"x": 1}}}}
    above = {"model": {"loop": {"steps": 4}}, "data": {"test": {"b": {"x": 2}}}}
    merged = overlay(below, above)
    assert merged["model"] == {"dim": 1, "loop": {"steps": 4, "dt": 3}}
    assert merged["data"] == {"root": "data", "test": {"b": {"x": 2}}}
    assert overlay({"features": {"class_path": "A", "init_args": {"a": 1}}}, {"features": {"class_path": "B"}}) == {
        "features": {"class_path": "B"}
    }


@pytest.mark.parametrize("broken", ["", "<!-- rows:zedo --><!-- rows:zedo --><!-- /rows:zedo -->", None])
def test_broken_markers_are_named(broken: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin, end = "<!-- rows:zedo -->", "<!-- /rows:zedo -->"
    text = TEXT.replace(begin, "").replace(end, f"{end}{begin}" if broken is None else broken)
    with pytest.raises(ValueError, match="markers: <!-- rows:zedo --> and <!-- /rows:zedo --> must stand"):
        page(text)
    path = tmp_path / "page.md"
    path.write_text(text)
    assert main([str(path)]) == 1
    assert capsys.readouterr().err.startswith("error: markers:")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# Command: ", "# ", "table2/s10.yaml: its header has no command"),
        ("--config table2/s10.yaml", "--config table2/s1.yaml", "table2/s10.yaml: its command .* does not end with"),
    ],
)
def test_a_header_without_the_row_s_command_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    copytree(CONFIGS["zedo"], tmp_path / "zedo" / "zedo" / "configs")
    path = tmp_path / "zedo" / "zedo" / "configs" / "table2" / "s10.yaml"
    lines = path.read_text().splitlines()
    text = "\n".join("" if old == "# Command: " and old in line else line.replace(old, new) for line in lines)
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        rows("zedo", tmp_path)
