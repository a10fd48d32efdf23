"""Turns a folder of test runs into Markdown tables: ours beside the paper's, one table for each of the paper's.

    python tools/results_table.py runs                                        # prints the tables of all methods
    python tools/results_table.py runs --insert packages/zedo/README.md       # writes them into a card

Every metrics.json below the folder is a run. The rows of a table are those of the method's configs, so that what was
not run is listed, too (--no-configs leaves it out); a row that was run more than once has a line for each run. Runs
that belong to no row, or used a row's settings on other data, are listed below under their folder's name.

`--insert` replaces what stands between `<!-- results:METHOD -->` and `<!-- /results:METHOD -->`, METHOD being a
package's name such as zedo, wherever the file has such a pair of lines.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from posecore.export.files import write_text
from posecore.training.results import FILE_NAME, format_value

METHODS = ("diffhmr", "scorehmr", "hmdiff", "diffupose", "zedo")
PACKAGES = Path(__file__).resolve().parents[1] / "packages"
_NOT_RUN = "not run"


@dataclass(frozen=True)
class Entry:
    """A row of a table: a run, or a config that was not run.

    Attributes:
        method: Package's name.
        name: Folder of the run, or the config's name.
        table: The paper's table; None for a run that is of none.
        row: Its row.
        paper: The paper's numbers by ``<set>/<metric>``.
        metrics: Ours by the same names; None where not run.
        about: Cells of protocol, config, commit, seed and hours.
    """

    method: str
    name: str
    table: str | None
    row: str | None
    paper: dict[str, float]
    metrics: dict[str, float] | None = None
    about: list[str] = field(default_factory=list)

    @property
    def is_compared(self) -> bool:
        """Whether it stands in a table: one of the paper's, and not with the row's settings on other data."""
        if self.table is None:
            return False
        return self.metrics is None or not self.paper or not self.paper.keys().isdisjoint(self.metrics)


def read_run(path: Path, folder: Path) -> Entry:
    """A run from its metrics.json.

    Raises:
        ValueError: It is no such file, or broken; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not readable as JSON ({error}); remove it or run the test again") from error
    if not isinstance(content, dict) or str(content.get("method")).lower() not in METHODS:
        raise ValueError(f"{path}: names no method of {', '.join(METHODS)}; it is not what `test` writes")
    numbers = {}
    for key in ("metrics", "paper"):
        found = content.get(key, {})
        if not isinstance(found, dict) or not all(isinstance(value, int | float) for value in found.values()):
            raise ValueError(f"{path}: {key} must be numbers by name, got {str(found)[:80]}")
        numbers[key] = {name.removeprefix("test/"): float(value) for name, value in found.items()}
    partial = " (partial)" if content.get("partial") else ""
    return Entry(
        content["method"].lower(),
        str(path.parent.relative_to(folder)) + partial,
        content.get("table"),
        None if content.get("row") is None else content["row"] + partial,
        numbers["paper"],
        numbers["metrics"],
        _about(content),
    )


def read_rows(method: str, packages: Path = PACKAGES) -> list[Entry]:
    """The rows of the paper's tables that a method has configs of, in the order of the tables."""
    folder = packages / method / method / "configs"
    entries = []
    for path in sorted(folder.rglob("*.yaml"), key=lambda path: _natural(str(path.relative_to(folder)))):
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        said = config.get("results") or {}
        if said.get("table") is not None:
            name = str(path.relative_to(folder))
            about = [(config.get("model") or {}).get("protocol", ""), f"`{name}`", "", "", ""]
            entries.append(Entry(method, name, said["table"], said["row"], said.get("paper") or {}, None, about))
    return entries


def tables(method: str, runs: Sequence[Entry], rows: Sequence[Entry]) -> str:
    """All tables of a method as Markdown; empty where there is nothing to show.

    Args:
        method: Package's name.
        runs: Runs of any method.
        rows: What the tables should have, in their order.
    """
    own = [run for run in runs if run.method == method]
    entries: list[Entry] = []
    for row in rows:
        done = [run for run in own if run.is_compared and _place(run) == _place(row)]
        entries += [run for run in done if run not in entries] or ([] if done else [row])
    entries += [run for run in own if run.is_compared and run not in entries]
    names = sorted({str(entry.table) for entry in entries}, key=_natural)
    parts = [_table(name, [entry for entry in entries if entry.table == name]) for name in names]
    if others := [run for run in own if not run.is_compared]:
        parts.append(_others(others))
    return "\n\n".join(parts)


def insert(text: str, method: str, content: str) -> str:
    """``text`` with ``content`` between the markers of a method; unchanged where it has none.

    Raises:
        ValueError: The markers do not come in one pair in order.
    """
    begin, end = f"<!-- results:{method} -->", f"<!-- /results:{method} -->"
    counts = text.count(begin), text.count(end)
    if counts == (0, 0):
        return text
    if counts != (1, 1) or text.index(begin) > text.index(end):
        raise ValueError(f"markers: {begin} and {end} must stand once each and in this order, found {counts}")
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"


def _table(name: str, entries: Sequence[Entry]) -> str:
    columns = list(dict.fromkeys(column for entry in entries for column in entry.paper))
    # A table with averages shows these; those of single actions are in metrics.json and in what `test` prints.
    columns = [column for column in columns if column.count("/") == 1] or columns
    lines = _header(["row", *columns, "protocol", "config", "commit", "seed", "hours"])
    for entry in entries:
        cells = [_cell(entry, column) for column in columns]
        lines.append(_line([str(entry.row), *cells, *entry.about]))
    return "\n".join([f"**{name}**: ours (paper)", "", *lines])


def _cell(entry: Entry, column: str) -> str:
    paper = entry.paper.get(column)
    if entry.metrics is None:
        return "" if paper is None else f"{_NOT_RUN} ({format_value(column, paper)})"
    ours = format_value(column, entry.metrics.get(column))
    return ours if paper is None else f"{ours or '-'} ({format_value(column, paper)})"


def _others(runs: Sequence[Entry]) -> str:
    lines = _header(["run", "metrics", "protocol", "config", "commit", "seed", "hours"])
    for run in runs:
        averages = {name: value for name, value in (run.metrics or {}).items() if name.count("/") == 1}
        metrics = "; ".join(f"{name} {format_value(name, value)}" for name, value in averages.items())
        lines.append(_line([run.name, metrics, *run.about]))
    return "\n".join(["**Other runs**", "", *lines])


def _about(content: dict[str, Any]) -> list[str]:
    """Cells of protocol, config, commit, seed and hours; those of older files may be empty."""
    protocol = content.get("protocol_name") or str(content.get("protocol") or "").partition(":")[0]
    configs = " + ".join(f"`{name}`" for name in content.get("configs", []))
    options = "".join(f", `--model.{option}`" for option in content.get("options", []))
    seed, seconds = content.get("seed"), content.get("seconds")
    hours = "" if seconds is None else f"{seconds / 3600:.3f}"
    return [protocol, configs + options, content.get("commit") or "", "" if seed is None else str(seed), hours]


def _place(entry: Entry) -> tuple[str | None, str]:
    return entry.table, str(entry.row).removesuffix(" (partial)")


def _header(names: Sequence[str]) -> list[str]:
    return [_line(names), "|" + "---|" * len(names)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which s2 comes before s10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def main(args: Sequence[str] | None = None) -> int:
    """Runs the tool; 0 where all went well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the runs are; every metrics.json below it is read")
    parser.add_argument("--insert", type=Path, metavar="FILE", help="Markdown file with markers, in place of printing")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="only these")
    parser.add_argument("--configs", action=argparse.BooleanOptionalAction, default=True, help="list rows not run, too")
    options = parser.parse_args(args)
    try:
        if not options.folder.is_dir():
            raise ValueError(f"folder: there is no folder {options.folder}")
        paths = sorted(options.folder.rglob(FILE_NAME), key=lambda path: _natural(str(path)))
        runs = [read_run(path, options.folder) for path in paths]
        made = {name: tables(name, runs, read_rows(name) if options.configs else []) for name in options.methods}
        if options.insert is None:
            print("\n\n".join(f"## {name}\n\n{content}" for name, content in made.items() if content))
            return 0
        before = after = options.insert.read_text(encoding="utf-8")
        inserted = [name for name in made if f"<!-- results:{name} -->" in before]
        if not inserted:
            raise ValueError(f"--insert: {options.insert} has no line <!-- results:METHOD --> of {', '.join(made)}")
        for name in inserted:
            after = insert(after, name, made[name])
        write_text(options.insert, after)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(runs)} runs; written into {options.insert}: {', '.join(inserted)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
