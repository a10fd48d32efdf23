"""The benchmark as a Markdown page: a table for each group, growth, scaling and memory."""

from collections.abc import Sequence
from typing import Any

from benchmarks.growth import Grown
from benchmarks.plot import seconds_text
from benchmarks.timing import OURS, Measured


def markdown(
    machine: dict[str, Any],
    cases: Sequence[Measured],
    curves: Sequence[Grown],
    memory: Sequence[dict[str, Any]],
    scaling: Sequence[dict[str, Any]],
) -> str:
    """Medians, and how many times humandiff's the others take."""
    lines = [", ".join(f"{name} {value}" for name, value in machine.items()), ""]
    for group in dict.fromkeys(case.group for case in cases):
        lines += [f"### {group}", "", "| what | humandiff | others: time (times humandiff's) |", "| --- | --- | --- |"]
        lines += [f"| {case.name} | {_ours(case)} | {_others(case)} |" for case in cases if case.group == group]
        lines.append("")
    if curves:
        lines += ["### growth", "", "| what | by | exponent | medians |", "| --- | --- | --- | --- |"]
        for curve in curves:
            points = ", ".join(f"{n}: {seconds_text(s)}" for n, s in zip(curve.sizes, curve.median_s, strict=True))
            lines.append(f"| {curve.name} | {curve.axis} | {curve.exponent:.2f} | {points} |")
        lines.append("")
    if memory:
        lines += ["### peak memory", "", "| what | whole process, GB | of it by the run, GB |", "| --- | --- | --- |"]
        lines += [f"| {facts['name']} | {facts['peak_gb']:.2f} | {facts['added_gb']:.2f} |" for facts in memory]
        lines.append("")
    if scaling:
        lines += ["### scaling", "", "| training | 1 process | 2 processes | speed-up |", "| --- | --- | --- | --- |"]
        for facts in scaling:
            found = " | ".join(
                f"{of['samples_per_second']:.0f} samples/s, {of['data_wait']:.1%} of it waiting for data"
                for of in facts["processes"].values()
            )
            lines.append(f"| {facts['name']} | {found} | {facts['speed_up']:.2f} |")
        lines.append("")
    return "\n".join(lines)


def _ours(case: Measured) -> str:
    median = case.timings[OURS].median_s
    return "not run" if median is None else seconds_text(median)


def _others(case: Measured) -> str:
    parts = []
    for name, timing in case.timings.items():
        if name != OURS:
            ratio = f" ({case.ratios[name]:.2f}x)" if name in case.ratios else ""
            time = "not run" if timing.median_s is None else seconds_text(timing.median_s)
            parts.append(f"{name} {time}{ratio}")
    return "; ".join(parts)
