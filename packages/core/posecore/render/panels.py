"""Pictures of results: photograph, best hypothesis from two sides, spread of all hypotheses; and simple curves."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from posecore.body.skeletons import JointSet
from posecore.pictures import upright_rgb
from posecore.render.cells import wrapped
from posecore.render.skeleton import (
    FRONT,
    SIDE_COLORS,
    View,
    draw_skeleton_2d,
    draw_skeleton_3d,
    draw_skeleton_cloud,
    side_view,
)

_GRID = "#e6e9ee"
_TEXT = "#1f2630"
_FRAME = "#c8ced6"
_QUIET = "#6b7480"
_CURVES = ("#2477b3", "#e8761a", "#3a9a5b", "#8a5bb5", "#b5373f", "#6b7480")
_SCALE_BAR = 0.5  # metres
_FAR = 3.0  # metres from the root; a joint that lies farther, as early in a training, is drawn there

# Layout of the panel in inches.
_ROW_HEIGHT, _STAGE_WIDTH, _PHOTO_WIDTH = 3.4, 2.65, 4.4
_MARGIN, _GAP, _HEADING, _CAPTION, _LEGEND = 0.15, 0.1, 0.26, 0.26, 0.36
_LINE_SPACING = 1.25
_DASHES = (0, (3, 2))
# Fonts that a given text is set in; the sizes are points.
_TITLE_FONT = FontProperties(size=14, weight="bold")
_SUBTITLE_FONT = FontProperties(size=10)
_LABEL_FONT = FontProperties(size=9)
_PHOTO_ASPECT, _STAGE_ASPECT = _PHOTO_WIDTH / _ROW_HEIGHT, _STAGE_WIDTH / _ROW_HEIGHT


def read_photo(path: Path | str) -> np.ndarray:
    """Reads a photograph upright (EXIF orientation applied) as "height width 3", uint8 sRGB, transparency on white.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file is not an image that can be read, or is cut off.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no photograph at '{path}'")
    try:
        with Image.open(path) as image:
            return upright_rgb(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not an image that can be read ({error}); JPEG, PNG and WebP files are") from error


def hypothesis_panel(
    image: np.ndarray | Sequence[np.ndarray] | None,
    keypoints_2d: Float[Tensor, "people keypoints 2"],
    confidence: Float[Tensor, "people keypoints"],
    hypotheses: Float[Tensor, "people hypotheses joints 3"],
    best: Int[Tensor, "people"],
    joint_set: JointSet,
    title: str = "",
    subtitle: str = "",
    *,
    keypoint_set: JointSet | None = None,
    reprojected_px: Float[Tensor, "people joints 2"] | None = None,
    labels: Sequence[str] | None = None,
    max_people: int = 6,
    truth: Float[Tensor, "people joints 3"] | None = None,
    overlays: Sequence[np.ndarray] | None = None,
) -> Figure:
    """One row per person: photo with keypoints, best hypothesis from two sides, all hypotheses from the same two sides.

    3D skeletons are drawn relative to their root, all with one scale.

    Args:
        image: Photograph, "height width 3" uint8, or one for each person; None draws the keypoints alone.
        keypoints_2d: Pixels.
        confidence: In [0, 1]; 0 leaves a joint out.
        hypotheses: Camera frame, metres.
        best: Index of the best hypothesis per person.
        joint_set: Joints of ``hypotheses``.
        title: Heading of the whole picture; broken into lines where it is longer than the picture is wide.
        subtitle: Smaller text below the title, broken likewise.
        keypoint_set: Joints of ``keypoints_2d``, where they are not those of ``joint_set``.
        reprojected_px: Projection of the best hypothesis, drawn over the photo as a thin line.
        labels: One line per person, below the photo; cut short where it is longer than the picture is wide.
        max_people: Most rows; the picture says how many people are left out.
        truth: Drawn over the best hypothesis as a thin line, root on root; NaN where a joint is not known.
        overlays: A picture with the body on it for each person, which gets a column of its own.

    Raises:
        ValueError: If there is nobody, or ``max_people`` is below 1.
    """
    num_people, num_hypotheses = hypotheses.shape[:2]
    if num_people == 0:
        raise ValueError("hypotheses hold no person to draw")
    if max_people < 1:
        raise ValueError(f"max_people must be at least 1, not {max_people}")
    rows = min(num_people, max_people)
    before = 1 if overlays is None else 2  # columns before the stages
    width = 2 * _MARGIN + _PHOTO_WIDTH + (before + 3) * (_STAGE_WIDTH + _GAP)
    text_width = width - 2 * _MARGIN
    head = [
        (wrapped(text, font, text_width), font) for text, font in ((title, _TITLE_FONT), (subtitle, _SUBTITLE_FONT))
    ]
    head_height = sum(len(lines) * _line_height(font) for lines, font in head)
    if head_height:
        head_height += 2 * _MARGIN  # above and below
    height = head_height + rows * (_HEADING + _ROW_HEIGHT + _CAPTION) + _LEGEND
    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)

    def axes(row: int, column: int) -> Axes:
        left = _MARGIN + (_PHOTO_WIDTH + _GAP + (column - 1) * (_STAGE_WIDTH + _GAP) if column else 0.0)
        bottom = _LEGEND + (rows - row) * (_HEADING + _ROW_HEIGHT + _CAPTION) - _HEADING - _ROW_HEIGHT
        across = _STAGE_WIDTH if column else _PHOTO_WIDTH
        return figure.add_axes((left / width, bottom / height, across / width, _ROW_HEIGHT / height))

    root = list(joint_set.root)
    relative = (hypotheses - hypotheses[..., root, :].mean(dim=-2, keepdim=True)).detach().cpu()
    relative = relative.nan_to_num().clamp(-_FAR, _FAR)
    if truth is not None:
        truth = (truth - truth[:, root].mean(dim=-2, keepdim=True)).detach().cpu()
    for row in range(rows):
        ax = axes(row, 0)
        reprojection = None if reprojected_px is None else reprojected_px[row]
        photo = image if image is None or isinstance(image, np.ndarray) else image[row]
        _photo(ax, photo, keypoints_2d[row], confidence[row], keypoint_set or joint_set, joint_set, reprojection)
        if labels is not None:
            # Narrow photos stand in the middle of their place.
            line, *more = wrapped(labels[row], _LABEL_FONT, text_width - _PHOTO_WIDTH / 2) or [""]
            label = f"{line[:-1]}\N{HORIZONTAL ELLIPSIS}" if more else line
            ax.set_xlabel(label, font=_LABEL_FONT, color=_QUIET, labelpad=4, loc="left", parse_math=False)
        if overlays is not None:
            _overlay(axes(row, 1), overlays[row])
        chosen = relative[row, int(best[row])]
        side = side_view(chosen, joint_set)
        for column, view in enumerate((FRONT, side, FRONT, side), start=1):
            ax = axes(row, column + before - 1)
            room = relative[row] if truth is None else torch.cat((relative[row], truth[row].nan_to_num()[None]))
            _stage(ax, room, view, scale_bar=column == 4)
            if column <= 2:
                draw_skeleton_3d(ax, chosen, joint_set, view)
                if truth is not None:
                    _line_skeleton(ax, view(truth[row].double().numpy())[:, :2], joint_set)
                heading = f"Best, {view.name}"
            else:
                draw_skeleton_cloud(ax, relative[row], joint_set, view)
                heading = f"All {num_hypotheses}, {view.name}" if num_hypotheses > 1 else f"The one, {view.name}"
            ax.set_title(heading, fontsize=9.5, color=_TEXT, pad=5)
    top = height - _MARGIN
    for (lines, font), color in zip(head, (_TEXT, _QUIET), strict=True):
        for line in lines:
            place = (_MARGIN / width, top / height)
            figure.text(*place, line, font=font, color=color, va="top", parse_math=False)
            top -= _line_height(font)
    handles = [
        Line2D([], [], color=SIDE_COLORS[side], linewidth=4, solid_capstyle="round", label=label)
        for side, label in (("left", "person's left"), ("right", "person's right"), ("middle", "mid-line"))
    ]
    for drawn, label in ((reprojected_px, "best, reprojected"), (truth, "truth")):
        if drawn is not None:
            handles.append(Line2D([], [], color="#111111", linewidth=1.2, linestyle=_DASHES, label=label))
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(_MARGIN / width, 0.06 / height),
        borderaxespad=0,
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        labelcolor=_TEXT,
    )
    note = "3D poses relative to the pelvis; nearer limbs thicker and darker"
    if rows < num_people:
        note = f"{rows} of {num_people} people shown; {note}"
    figure.text(1 - _MARGIN / width, 0.12 / height, note, fontsize=9, color=_QUIET, ha="right", va="bottom")
    return figure


def curve_plot(
    x: Sequence[float | int],
    curves: Mapping[str, Sequence[float | int]],
    x_label: str,
    y_label: str,
    title: str = "",
    log_x: bool = False,
) -> Figure:
    """A line per name over a common x, each named at its end.

    Args:
        x: Common positions.
        curves: Values by name, as many as ``x``; NaN leaves a gap.
        x_label: With unit.
        y_label: With unit.
        title: Heading.
        log_x: Logarithmic x axis.

    Raises:
        ValueError: If there is no curve, or one has another length than ``x``.
    """
    if not curves:
        raise ValueError("curves is empty; give at least one {name: values}")
    figure = Figure(figsize=(7.0, 4.3), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    for index, (name, values) in enumerate(curves.items()):
        if len(values) != len(x):
            raise ValueError(f"curve {name!r} has {len(values)} values for {len(x)} positions")
        color = _CURVES[index % len(_CURVES)]
        style = ("-", "--", ":")[index // len(_CURVES) % 3]
        ax.plot(x, values, style, color=color, linewidth=2, marker="o", markersize=4.5, label=name)
    if log_x:
        ax.set_xscale("log")
        ax.set_xticks(x, [f"{value:g}" for value in x])
        ax.minorticks_off()
    ax.set_xlabel(x_label, color=_TEXT)
    ax.set_ylabel(y_label, color=_TEXT)
    ax.set_title(title, loc="left", weight="bold", color=_TEXT, parse_math=False)
    ax.grid(color=_GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_QUIET)
    ax.tick_params(colors=_QUIET)
    if len(curves) > 1:
        ax.legend(frameon=False, fontsize=9, labelcolor=_TEXT)
    return figure


def affinity_plot(
    matrices: Mapping[str, Float[Tensor, "joints joints"]], joint_set: JointSet, title: str = ""
) -> Figure:
    """Affinities between joints side by side, one colour scale: blue below 0, white at 0, red above.

    Args:
        matrices: By name, over the joints of the set.
        joint_set: Names of rows and columns.
        title: Heading.

    Raises:
        ValueError: If there is no matrix, or one does not fit the joint set.
    """
    if not matrices:
        raise ValueError("matrices is empty; give at least one {name: matrix}")
    count = joint_set.num_joints
    for name, matrix in matrices.items():
        if tuple(matrix.shape) != (count, count):
            raise ValueError(
                f"matrix {name!r} has shape {tuple(matrix.shape)}; {joint_set.name} needs ({count}, {count})"
            )
    limit = max(float(matrix.detach().abs().max()) for matrix in matrices.values()) or 1.0
    figure = Figure(figsize=(1.2 + 5.0 * len(matrices), 6.0), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    names = [name.replace("_", " ") for name in joint_set.joint_names]
    every = figure.subplots(1, len(matrices), squeeze=False)[0]
    for number, (ax, (name, matrix)) in enumerate(zip(every, matrices.items(), strict=True)):
        image = ax.imshow(matrix.detach().float().cpu().numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.set_title(name, loc="left", color=_TEXT, parse_math=False)
        ax.set_xticks(range(count), names, rotation=90, fontsize=8, color=_QUIET)
        ax.set_yticks(range(count), names if number == 0 else [""] * count, fontsize=8, color=_QUIET)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=every, shrink=0.8, label="affinity").outline.set_visible(False)
    if title:
        figure.suptitle(title, x=0.01, ha="left", weight="bold", color=_TEXT, parse_math=False)
    return figure


def figure_png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def image_png(picture: np.ndarray) -> bytes:
    """A "height width 3" uint8 picture as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png")
    return buffer.getvalue()


def _line_height(font: FontProperties) -> float:
    """Inches from line to line."""
    return float(font.get_size_in_points()) * _LINE_SPACING / 72


def _photo(
    ax: Axes,
    image: np.ndarray | None,
    keypoints: Tensor,
    confidence: Tensor,
    keypoint_set: JointSet,
    joint_set: JointSet,
    reprojected: Tensor | None,
) -> None:
    """The photo around one person with the keypoints; the frame has room for the person and keeps the photo's edges."""
    seen = keypoints[confidence > 0]
    if not len(seen):
        seen = keypoints if reprojected is None else reprojected
    low, high = seen.amin(dim=0), seen.amax(dim=0)
    middle, extent = (low + high) / 2, (high - low).clamp_min(20.0)
    # Keypoints end below the crown and above the feet.
    half_height = float(torch.maximum(extent[1], extent[0] / _PHOTO_ASPECT)) * 0.76
    half_width = _PHOTO_ASPECT * half_height
    left, right = float(middle[0]) - half_width, float(middle[0]) + half_width
    top, bottom = float(middle[1]) - half_height, float(middle[1]) + half_height
    ax.set_facecolor("#f3f5f8")
    if image is not None:
        ax.imshow(image, extent=(0, image.shape[1], image.shape[0], 0), interpolation="lanczos", zorder=1)
        left, right = _inside(left, right, float(image.shape[1]))
        top, bottom = _inside(top, bottom, float(image.shape[0]))
    ax.set_aspect("equal", adjustable="box")
    if reprojected is not None:
        _line_skeleton(ax, reprojected.detach().cpu().double().numpy(), joint_set)
    draw_skeleton_2d(ax, keypoints, keypoint_set, confidence)
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_color(_FRAME)
    ax.set_title("Photo and 2D keypoints" if image is not None else "2D keypoints", fontsize=9.5, color=_TEXT, pad=5)


def _overlay(ax: Axes, picture: np.ndarray) -> None:
    """A picture with a body on it, in full."""
    ax.imshow(picture, interpolation="lanczos")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_color(_FRAME)
    ax.set_title("Body over the photo", fontsize=9.5, color=_TEXT, pad=5)


def _line_skeleton(ax: Axes, points: np.ndarray, joint_set: JointSet) -> None:
    """A thin dashed skeleton over what is drawn already; NaN leaves a joint out."""
    for parent, child in joint_set.bones:
        ax.plot(*points[[parent, child]].T, color="#ffffff", linewidth=2.2, alpha=0.7, zorder=5)
        ax.plot(*points[[parent, child]].T, color="#111111", linewidth=1.2, linestyle=_DASHES, zorder=6)


def _inside(low: float, high: float, size: float) -> tuple[float, float]:
    """Moves an interval into [0, size], and cuts it where it is longer."""
    shift = max(0.0, -low) - max(0.0, high - size)
    return max(0.0, low + shift), min(size, high + shift)


def _stage(ax: Axes, relative: Float[Tensor, "hypotheses joints 3"], view: View, scale_bar: bool) -> None:
    """Axes in metres for root-relative poses: equal scales, a light grid of half metres, room for every hypothesis."""
    heights = -relative[..., 1]
    low, high = float(heights.min()) - 0.16, float(heights.max()) + 0.2
    reach = float(relative[..., [0, 2]].abs().max()) + 0.16
    half = max((high - low) / 2, reach / _STAGE_ASPECT, 0.5)
    half_width, middle = half * _STAGE_ASPECT, (low + high) / 2
    ax.set_xlim(-half_width, half_width)
    ax.set_ylim(middle - half, middle + half)
    ax.set_aspect("equal", adjustable="box")
    ax.xaxis.set_major_locator(MultipleLocator(0.5))
    ax.yaxis.set_major_locator(MultipleLocator(0.5))
    ax.grid(color=_GRID, linewidth=0.8, zorder=0)
    ax.tick_params(length=0, labelbottom=False, labelleft=False)
    ax.spines[:].set_color(_FRAME)
    if scale_bar:
        x, y = half_width * 0.92, middle - half * 0.93
        ax.plot([x - _SCALE_BAR, x], [y, y], color=_TEXT, linewidth=2.5, solid_capstyle="butt", zorder=9)
        label = f"{_SCALE_BAR:g} m"
        ax.text(x - _SCALE_BAR / 2, y + half * 0.03, label, ha="center", va="bottom", fontsize=8, color=_TEXT)
