"""The benchmark as a picture: seconds as horizontal bars, one block per group, logarithmic."""

import math
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from benchmarks.timing import OURS, Measured

RELEASED = "released program (another run)"
_COLOURS = {OURS: "#2477b3", RELEASED: "#c8ced6"}
_OTHERS = ("#e8761a", "#3a9a5b", "#8a5bb5", "#c2417c", "#7a7f87", "#b59a2b")
_BAR, _MARGIN = 0.22, 0.6  # inches
_WIDTH = 10.0


def bar_plot(cases: Sequence[Measured], title: str) -> Figure:
    """A bar per variant and case, labelled with the time and how many times humandiff's it is."""
    groups = list(dict.fromkeys(case.group for case in cases))
    blocks = {group: [_bars(case) for case in cases if case.group == group] for group in groups}
    lines = {group: sum(len(bars) + 1 for _, bars in block) for group, block in blocks.items()}
    height = sum(lines.values()) * _BAR + (len(groups) + 1) * _MARGIN
    figure = Figure(figsize=(_WIDTH, height), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, weight="bold")
    all_axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=list(lines.values()))[:, 0]
    for ax, group in zip(all_axes, groups, strict=True):
        others = dict.fromkeys(name for _, bars in blocks[group] for name, _, _ in bars if name not in _COLOURS)
        colours = _COLOURS | dict(zip(others, _OTHERS, strict=False))
        seen, y, ticks = {}, 0.0, []
        for name, bars in blocks[group]:
            ticks.append((y + (len(bars) - 1) / 2, name))
            for variant, seconds, label in bars:
                ax.barh(y, seconds, color=colours[variant], height=0.9)
                ax.text(seconds, y, f" {label}", va="center", fontsize=7.5)
                seen[variant] = Patch(color=colours[variant], label=variant)
                y += 1
            y += 1
        ax.set_xscale("log")
        ax.set_xlabel("seconds", fontsize=8)
        shown = [seconds for _, bars in blocks[group] for _, seconds, _ in bars] or [1.0]
        # Whole decades, and room for the last label.
        ax.set_xlim(10 ** math.floor(math.log10(min(shown))), 10 ** math.ceil(math.log10(max(shown)) + 0.3))
        ax.set_yticks([tick for tick, _ in ticks], [name for _, name in ticks], fontsize=8)
        ax.set_ylim(y - 0.8, -0.8)
        ax.set_title(group, loc="left", fontsize=10)
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.tick_params(axis="x", labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(
            handles=list(seen.values()), frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=4
        )
    return figure


def _bars(case: Measured) -> tuple[str, list[tuple[str, float, str]]]:
    """The case's name and (variant, seconds, label) of every bar."""
    bars = []
    for name, timing in case.timings.items():
        if timing.median_s is not None:
            ratio = f"  {case.ratios[name]:.1f} x" if name in case.ratios else ""
            bars.append((name, timing.median_s, seconds_text(timing.median_s) + ratio))
    if case.released_s is not None:
        bars.append((RELEASED, case.released_s, seconds_text(case.released_s)))
    return case.name, bars


def seconds_text(seconds: float) -> str:
    """Three digits in seconds or milliseconds."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
