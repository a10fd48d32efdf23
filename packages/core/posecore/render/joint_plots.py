"""Numbers of single joints as pictures: a heat map over a training, and bars."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

_TEXT, _QUIET, _GRID = "#1f2630", "#6b7480", "#e6e9ee"
_BAR_COLORS = ("#2477b3", "#e8761a", "#6b7480")
_MOST_LABELS = 8


def joint_heat_map(
    errors: Float[Tensor, "columns joints"], columns: Sequence[int], names: Sequence[str], title: str = ""
) -> Figure:
    """A row per joint, a column per validation, dark where the error is large; the last column in numbers beside it.

    Args:
        errors: Millimetres; NaN where a joint is not known, which is left grey.
        columns: Steps of training.
        names: Of the joints.
        title: Heading; the mean of the last column follows it.

    Raises:
        ValueError: There is no column, or names or columns do not fit.
    """
    if not len(columns) or errors.shape != (len(columns), len(names)):
        raise ValueError(f"errors must be columns x joints, got {tuple(errors.shape)} for {len(columns)}, {len(names)}")
    values = errors.detach().cpu().double().numpy().T
    figure = Figure(figsize=(8.0, 1.3 + 0.24 * len(names)), dpi=80, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    ax.set_facecolor("#d5dae1")
    seen = values[np.isfinite(values)]
    # An early validation with wild poses must not make all others look alike.
    limit = max(float(np.percentile(seen, 95)), 1.0) if len(seen) else 1.0
    image = ax.imshow(values, aspect="auto", cmap="YlOrRd", vmin=0, vmax=limit, interpolation="nearest")
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=9, color=_TEXT)
    shown = range(0, len(columns), -(-len(columns) // _MOST_LABELS))
    ax.set_xticks(list(shown), [f"{columns[column]}" for column in shown], fontsize=9, color=_QUIET)
    ax.set_xlabel("step", color=_QUIET)
    last = values[:, -1]
    right = ax.secondary_yaxis("right")
    right.set_yticks(range(len(names)), [f"{value:.0f}" for value in last], fontsize=9, color=_TEXT)
    mean = float(np.mean(last[np.isfinite(last)])) if np.isfinite(last).any() else float("nan")
    ax.set_title(f"{title}, mean {mean:.1f} mm".lstrip(", "), loc="left", weight="bold", color=_TEXT, parse_math=False)
    for axis in (ax, right):
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.colorbar(image, ax=ax, label="mm", extend="max").outline.set_visible(False)
    return figure


def joint_bars(bars: Mapping[str, Float[Tensor, " joints"]], names: Sequence[str], title: str = "") -> Figure:
    """Bars side by side for every joint, a colour for each kind.

    Args:
        bars: Millimetres by kind; NaN leaves a bar out.
        names: Of the joints.
        title: Heading.

    Raises:
        ValueError: There are no bars, or they do not fit the names.
    """
    if not bars or any(len(values) != len(names) for values in bars.values()):
        raise ValueError(
            f"bars must hold a value for each of {len(names)} joints, got {[len(v) for v in bars.values()]}"
        )
    figure = Figure(figsize=(8.0, 1.3 + 0.24 * len(names)), dpi=80, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    height = 0.8 / len(bars)
    places = np.arange(len(names))
    for number, (kind, values) in enumerate(bars.items()):  # NaN becomes a bar of no length
        offset = (number - (len(bars) - 1) / 2) * height
        lengths = values.detach().cpu().double().numpy()
        color = _BAR_COLORS[number % len(_BAR_COLORS)]
        ax.barh(places + offset, np.nan_to_num(lengths), height, color=color, label=kind)
    ax.set_yticks(places, [name.replace("_", " ") for name in names], fontsize=9, color=_TEXT)
    ax.invert_yaxis()
    ax.set_xlabel("mm", color=_QUIET)
    ax.set_title(title, loc="left", weight="bold", color=_TEXT, parse_math=False)
    ax.grid(axis="x", color=_GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if len(bars) > 1:
        ax.legend(frameon=False, fontsize=9, labelcolor=_TEXT)
    return figure
