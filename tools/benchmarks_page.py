"""Fills the tables of docs/benchmarks.md: each row of the papers' tables, its command, files, protocol and numbers.

    python tools/benchmarks_page.py            # writes between <!-- rows:METHOD --> and <!-- /rows:METHOD -->
    python tools/benchmarks_page.py --check    # writes nothing; fails where the page is not up to date

Everything is read from the methods' configs. A row is a config with `results.table`; its command is the first `test`
command in the config's header, or its `fit` command made one. Configs that a command names are laid over one another
as the command line does it, to see what is read and by which protocol.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from results_table import METHODS, PACKAGES, read_rows

from posecore.export.files import write_text
from posecore.training.results import format_value

PAGE = PACKAGES.parent / "docs" / "benchmarks.md"
_PATHS = ("file", "files", "features", "start")
"""Arguments of data sets that name files below ``data.root``."""
_PLACES = ("image_root", "body_models")
"""Arguments of data sets that name folders where the command is run."""
_COMMAND = re.compile(
    r"^#\s*(?:Commands?:)?\s*(?P<command>(?:{}) (?P<what>test|fit) --config .*)$".format("|".join(METHODS))
)
_NEEDS_TRAINING = ("--ckpt_path", "--model.weights", "--model.pose_weights", "--model.init_weights")
_ROOT = " --data.root FOLDER"


@dataclass(frozen=True)
class Row:
    """A row of a paper's table.

    Attributes:
        method: Package's name.
        config: Its file, below the method's configs.
        table: The paper's table.
        name: The row.
        paper: The paper's numbers by ``<set>/<metric>``.
        command: What runs it, from the folder that holds ``data``.
        settings: All configs of the command, laid over one another.
    """

    method: str
    config: str
    table: str
    name: str
    paper: Mapping[str, float]
    command: str
    settings: Mapping[str, Any]

    @property
    def root(self) -> str:
        """Folder of the files."""
        return str(self.settings["data"].get("root", "data"))

    def files(self) -> list[str]:
        """Loaders of the test sets, with the files below ``data.root`` that their options name."""
        found = []
        for test in self.settings["data"]["test"].values():
            options = test.get("init_args") or {}
            names = [name for key in _PATHS for name in _listed(options.get(key))]
            found.append(f"`{test['class_path'].rpartition('.')[2]}`" + "".join(f" `{name}`" for name in names))
        return found

    def paths(self, part: str = "test") -> list[str]:
        """Files and folders that the config names for ``test`` or ``train``, from the folder that holds ``data``."""
        data, model = self.settings["data"], self.settings["model"]
        sets = data[part].values() if part == "test" else data[part]
        found = [self.root, *(str(model[key]) for key in ("body_model", "pyramid") if model.get(key))]
        for options in (one.get("init_args") or {} for one in sets):
            found += [str(options[key]) for key in _PLACES if options.get(key)]
            found += [str(PurePosixPath(self.root) / name) for key in _PATHS for name in _listed(options.get(key))]
        return list(dict.fromkeys(found))


def rows(method: str, packages: Path = PACKAGES) -> list[Row]:
    """All rows of a method, in the order of the tables.

    Raises:
        ValueError: A row's header has no command, or one that names no config.
    """
    folder = packages / method / method / "configs"
    found = []
    for entry in read_rows(method, packages):
        text = (folder / entry.name).read_text(encoding="utf-8")
        command = _command(text, f"{method}: {entry.name}")
        names = re.findall(r"--config (\S+)", command)
        settings: Mapping[str, Any] = {}
        for name in names:
            settings = overlay(settings, _parsed((folder / name).read_text(encoding="utf-8")))
        if (settings.get("results") or {}).get("row") != entry.row:
            raise ValueError(f"{method}: {entry.name}: its command {command!r} does not end with the row's own config")
        found.append(Row(method, entry.name, str(entry.table), str(entry.row), entry.paper, command, settings))
    return sorted(found, key=lambda row: (not row.table.startswith("Table"), re.findall(r"\d+", row.table)))


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others on top, as the command line takes them: groups by key, data sets as a whole."""
    merged = dict(below)
    for key, value in above.items():
        group = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        is_set = key in ("test", "val", "results") or (isinstance(value, Mapping) and "class_path" in value)
        merged[key] = overlay(merged[key], value) if group and not is_set else value
    return merged


def page(text: str, packages: Path = PACKAGES) -> str:
    """The page with its tables anew.

    Raises:
        ValueError: The markers of a method do not come in one pair in order, or there are none.
    """
    markers = {method: (f"<!-- rows:{method} -->", f"<!-- /rows:{method} -->") for method in METHODS}
    for begin, end in markers.values():
        if (text.count(begin), text.count(end)) != (1, 1) or text.index(begin) > text.index(end):
            raise ValueError(f"markers: {begin} and {end} must stand in the page once each and in this order")
    for method, (begin, end) in markers.items():
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n\n{tables(rows(method, packages))}\n\n{end}{rest.partition(end)[2]}"
    return text


def tables(found: Sequence[Row]) -> str:
    """Rows as Markdown, a table for each of the paper's."""
    parts = []
    for name in dict.fromkeys(row.table for row in found):
        lines = [
            "| row | the paper's number | protocol | read by, files below `data.root` | command |",
            "|---|---|---|---|---|",
        ]
        for row in (row for row in found if row.table == name):
            link = f"[{row.name}](../packages/{row.method}/{row.method}/configs/{row.config})"
            cells = [link, _numbers(row.paper), f"`{row.settings['model']['protocol']}`", "; ".join(row.files())]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in [*cells, f"`{row.command}`"]) + " |")
        parts.append("\n".join([f"**{name}**", "", *lines]))
    return "\n\n".join(parts)


@cache
def _parsed(text: str) -> Mapping[str, Any]:
    """A config; default.yaml lies below every row."""
    content: Mapping[str, Any] = yaml.safe_load(text)
    return content


def _command(text: str, where: str) -> str:
    """The command that tests the row with a checkpoint, without ``--data.root FOLDER``: configs have the folder."""
    found = [match for line in text.splitlines() if (match := _COMMAND.match(line))]
    commands = sorted((match["what"] != "test", number) for number, match in enumerate(found))
    if not commands:
        raise ValueError(f"{where}: its header has no command")
    command = found[commands[0][1]]["command"].replace(_ROOT, "")
    if " fit " in command:
        configs = " ".join(re.findall(r"--config \S+", command))
        command = f"{command.split()[0]} test {configs} --ckpt_path CHECKPOINT"
    return re.sub(r"\s{2,}\(.*$", "", command).strip()


def _numbers(paper: Mapping[str, float]) -> str:
    """The averages; where a row has none, as of single people and actions, all."""
    averages = {name: value for name, value in paper.items() if name.count("/") == 1} or paper
    sets = dict.fromkeys(name.partition("/")[0] for name in averages)
    parts = []
    for one in sets:
        own = {name: value for name, value in averages.items() if name.partition("/")[0] == one}
        said = ", ".join(f"{name.partition('/')[2]} {format_value(name, value)}" for name, value in own.items())
        parts.append(f"{one}: {said}")
    return "; ".join(parts)


def _listed(value: Any) -> list[str]:
    return [] if value is None else [str(one) for one in (value if isinstance(value, list) else [value])]


def main(args: Sequence[str] | None = None) -> int:
    """Runs the tool; 0 where all went well and, with --check, the page is up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "page", type=Path, nargs="?", default=PAGE, help="Markdown file; docs/benchmarks.md if not given"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is not up to date")
    options = parser.parse_args(args)
    try:
        before = options.page.read_text(encoding="utf-8")
        after = page(before)
        if options.check and before != after:
            raise ValueError(f"{options.page}: is not up to date with the configs; run python tools/benchmarks_page.py")
        if before != after:
            write_text(options.page, after)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.page}: {'up to date' if before == after else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
