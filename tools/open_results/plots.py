"""Pictures of the page: curves over hypotheses, calibration, cost, joints."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, ScalarFormatter

from open_results.details import calibration_curve, errors_of_joints
from open_results.lines import JOINTS, SAMPLERS, curve, steps
from open_results.results import Results, seconds_per_row
from open_results.stored import SETS
from posecore.metrics.functional import CALIBRATION_LEVELS

COLOURS = ("#2477b3", "#e8761a", "#3a9a5b", "#8a5bb5", "#c2417c")
_OF = dict(zip(("ZeDO", "DiffuPose", "Diff-HMR", "HMDiff", "ScoreHMR"), COLOURS, strict=True))
_GREY = "#8a919b"
_SIZE = 9
_TASKS = {"2D to 3D, detector-like keypoints": ("ZeDO", "DiffuPose"), "photograph to mesh": ("Diff-HMR", "HMDiff")}


def hypotheses_figure(results: Results) -> Figure:
    """MPJPE against the number of hypotheses: the answer without the truth, and the best of n."""
    figure, axes = _figure(len(_TASKS), 3.6)
    for ax, (task, methods) in zip(axes, _TASKS.items(), strict=True):
        counts: set[int] = set()
        for method in methods:
            points = curve(method)
            for index, style in ((0, "-"), (1, "--")):
                found = {n: _both(results, str(lines[index].runs[0]), lines[index].rule) for n, lines in points.items()}
                known = {n: value for n, value in found.items() if value is not None}
                ax.plot(list(known), list(known.values()), style, color=_OF[method], marker="o", ms=4)
                counts |= set(known)
        _finish(ax, task, "hypotheses", "MPJPE, mm", sorted(counts))
        handles = [Line2D([], [], color=_OF[method], label=method) for method in methods]
        handles += [Line2D([], [], color=_GREY, ls="-", label="answer without the truth")]
        handles += [Line2D([], [], color=_GREY, ls="--", label="best of n, chosen by the truth")]
        ax.legend(handles=handles, frameon=False, fontsize=_SIZE - 1)
        ax.set_ylim(bottom=0)
    return figure


def calibration_figure(results: Results) -> Figure:
    """Share of joints whose truth lies among the central part of the hypotheses."""
    figure, (ax,) = _figure(1, 4.2, width=4.8)
    ax.plot([0, 1], [0, 1], color=_GREY, lw=1)
    ax.text(0.99, 0.93, "calibrated", rotation=45, color=_GREY, fontsize=_SIZE - 1, ha="right", va="top")
    for name, (run, _) in SAMPLERS.items():
        shares = calibration_curve(results, run)
        if shares is not None:
            ax.plot(CALIBRATION_LEVELS, shares.tolist(), marker="o", ms=4, color=_OF[name.split(",")[0]], label=name)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_aspect("equal")
    _finish(ax, "calibration", "central share of the hypotheses", "share of joints whose truth is inside")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=_SIZE - 1, loc="upper left")
    return figure


def cost_figure(results: Results) -> Figure:
    """MPJPE against network calls and against seconds, of every method's settings."""
    figure, axes = _figure(2, 3.8)
    for ax, of_seconds in zip(axes, (False, True), strict=True):
        for name, lines in steps().items():
            points = []
            for line in lines:
                run = results.runs.get(str(line.runs[0]))
                value = _both(results, str(line.runs[0]), line.rule)
                if run is not None and value is not None:
                    calls = np.mean([float(run.tables[test_set]["calls"].mean()) for test_set in SETS])
                    points.append((seconds_per_row(run) if of_seconds else float(calls), value))
            points.sort()
            if points:
                method = name.split(",")[0]
                ax.plot(*zip(*points, strict=True), marker="o", ms=4, color=_OF[method], label=name)
        label = "seconds a person (2 CPU cores)" if of_seconds else "network calls for a hypothesis"
        _finish(ax, "", label, "MPJPE, mm")
        ax.set_xscale("log")
        ax.set_ylim(bottom=0)
    if axes[0].has_data():
        axes[0].legend(frameon=False, fontsize=_SIZE - 1)
    return figure


def joints_figure(results: Results) -> Figure:
    """Error of each joint, a panel for each task."""
    figure, axes = _figure(len(JOINTS), 5.2, width=10.5)
    marks = ((_GREY, "s"), (COLOURS[0], "o"), (COLOURS[1], "D"))
    for ax, (task, lines) in zip(axes, JOINTS.items(), strict=True):
        columns = {name: errors_of_joints(results, line) for name, line in lines.items()}
        names = list(dict.fromkeys(joint for found in columns.values() for joint in found))
        for (name, found), (colour, mark) in zip(columns.items(), marks, strict=True):
            if found:
                places = [names.index(joint) for joint in found]
                ax.plot(list(found.values()), places, mark, color=colour, ms=5, label=name, alpha=0.9)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.4, -0.6)
        _finish(ax, task, "mean error, mm", "")
        ax.grid(axis="y", color="#eceff2")
        ax.set_xlim(left=0)
        if names:
            ax.legend(frameon=False, fontsize=_SIZE - 1, loc="upper left", bbox_to_anchor=(0, -0.11))
    return figure


def _both(results: Results, run: str, rule: object) -> float | None:
    """MPJPE over both test sets, each row counting once."""
    if run not in results.runs:
        return None
    sizes = [len(results.runs[run].tables[test_set]) for test_set in SETS]
    means = [results.mean_errors(run, test_set, rule)["mpjpe"] for test_set in SETS]  # type: ignore[arg-type]
    value = float(np.average(means, weights=sizes))
    return None if math.isnan(value) else value


def _figure(panels: int, height: float, width: float = 9.0) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(width, height), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _finish(ax: Axes, title: str, x: str, y: str, ticks: Sequence[int] = ()) -> None:
    ax.set_title(title, fontsize=_SIZE + 1, loc="left", weight="bold")
    ax.set_xlabel(x, fontsize=_SIZE)
    ax.set_ylabel(y, fontsize=_SIZE)
    ax.tick_params(labelsize=_SIZE)
    ax.grid(color="#e3e6ea", lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if ticks:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(list(ticks)))
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_minor_formatter(NullFormatter())
