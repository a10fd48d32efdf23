"""All finished runs together, and Markdown tables of their errors."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from open_results.execute import Place, finished, kept
from open_results.runs import RUNS
from open_results.stored import SETS, Poses, Stored, Table, errors

NOT_RUN = "not run"
METRICS = {"mpjpe": "MPJPE", "pa_mpjpe": "PA-MPJPE", "pve": "PVE", "acceleration": "acceleration"}


@dataclass
class Results:
    """Runs by name, and why others are missing."""

    runs: dict[str, Stored] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    _errors: dict[Any, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, place: Place, missing: dict[str, str], any_code: bool = False) -> "Results":
        """What is finished below a folder.

        Args:
            place: Where, and which settings a run must have been made with.
            missing: Reasons that are known already.
            any_code: Whether runs of other code than what is here now count, too.
        """
        results = cls()
        for name, run in RUNS.items():
            if kept(run, place) if any_code else finished(run, place, RUNS):
                results.runs[name] = Stored.read(place.folder(run))
                continue
            noted = place.output / f"{name}.failed.txt"
            said = noted.read_text(encoding="utf-8").strip() if noted.is_file() else ""
            results.missing[name] = missing.get(name) or said or "not asked for yet"
        return results

    def table(self, name: str, test_set: str) -> Table | None:
        """The rows of a run; None where it was not run."""
        run = self.runs.get(name)
        return None if run is None else run.tables[test_set]

    def mean_errors(self, name: str, test_set: str, rule: Callable[[Table], Poses], step: int = 1) -> dict[str, float]:
        """Mean of each metric over every so manieth row; empty where the run is missing."""
        if name not in self.runs:
            return {}
        key = name, test_set, rule, step
        if key not in self._errors:
            rows = self.runs[name].tables[test_set].every(step)
            found = errors(rows, self.runs[name].protocol, rule)
            self._errors[key] = {metric: float(values.nanmean()) for metric, values in found.items()}
        return self._errors[key]


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        label: What it says in front.
        rule: Which poses are scored.
        runs: Of each group of columns; None where the line has nothing to say there.
        truth: Whether the truth chooses.
        mesh: Under what name the method's own `test` logged PVE, where the table has it.
        free: Whether it costs nothing, so that the run's network calls and seconds are not its own.
    """

    label: str
    rule: Callable[[Table], Poses]
    runs: tuple[str | None, ...]
    truth: bool = False
    mesh: str | None = None
    free: bool = False


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def error_table(
    results: Results,
    lines: Sequence[Line],
    groups: Sequence[str],
    metrics: Sequence[str],
    step_of: Callable[[str], int] = lambda name: 1,
    with_cost: bool = True,
) -> str:
    """Lines against groups of columns, each of them with both test sets.

    Args:
        results: The runs.
        lines: What is compared; each names a run for every group.
        groups: Headings, such as "exact 2D".
        metrics: Of a cell, parted by strokes.
        step_of: Every so manieth row of a run is scored.
        with_cost: Whether calls and seconds have columns.
    """
    marked = any(line.truth for line in lines)
    header = ["", *(["chosen by the truth"] if marked else [])]
    header += [f"{group}{', ' if group else ''}{name}" for group in groups for name in SETS]
    header += [*(["network calls", "seconds a person"] if with_cost else []), "rows", "seed", "commit", "hours"]
    rows = []
    for line in lines:
        cells = [line.label, *([("**yes**" if line.truth else "no")] if marked else [])]
        for name in line.runs:
            cells += [_cell(results, name, test_set, line, metrics, step_of) for test_set in SETS]
        told = about(results, [name for name in line.runs if name is not None], step_of, with_cost)
        rows.append(cells + (["-", "-", *told[2:]] if with_cost and line.free else told))
    return markdown(header, rows)


def _cell(
    results: Results,
    name: str | None,
    test_set: str,
    line: Line,
    metrics: Sequence[str],
    step_of: Callable[[str], int],
) -> str:
    if name is None:
        return "-"
    if name not in results.runs:
        return NOT_RUN
    found = results.mean_errors(name, test_set, line.rule, step_of(name))
    values = [found.get(metric) for metric in metrics]
    if "pve" in metrics and line.mesh is not None:
        values[list(metrics).index("pve")] = results.runs[name].metric(test_set, line.mesh)
    return " / ".join("-" if value is None else f"{value:.1f}" for value in values)


def about(results: Results, names: Sequence[str], step_of: Callable[[str], int], with_cost: bool = True) -> list[str]:
    """Calls, seconds, rows, seed, commit and hours of the runs of a line; the cost is that of the first."""
    there = [results.runs[name] for name in names if name in results.runs]
    if not there:
        return ([""] * 2 if with_cost else []) + [""] * 4
    first = there[0]
    tables = [first.tables[test_set] for test_set in SETS]
    calls = torch.cat([table["calls"] for table in tables]).mean()
    cost = [f"{float(calls):.0f}", _short(seconds_per_row(first))]
    step = step_of(first.folder.name)
    rows = " + ".join(str(len(table.every(step))) for table in tables)
    told = {str(run.about[key]): None for key in ("seed",) for run in there}
    commits = {str(run.about["commit"]): None for run in there}
    hours = sum(run.about["hours"] for run in there)
    return [*(cost if with_cost else []), rows, ", ".join(told), ", ".join(commits), f"{hours:.3f}"]


def seconds_per_row(run: Stored) -> float:
    """Mean over both test sets, of the method's ``forward``."""
    total = sum(float(run.tables[test_set]["seconds"].sum()) for test_set in SETS)
    return total / sum(len(run.tables[test_set]) for test_set in SETS)


def _short(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"
