"""Panels of square cells: a heading, pictures in rows and columns, and the part of a photograph with one person.

Lengths are inches; places are measured from the top left corner of the panel.
"""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from PIL import Image
from torch import Tensor

from posecore.geometry.camera import project
from posecore.render.rasterizer import NEAR_PLANE

TEXT = "#1f2630"
QUIET = "#6b7480"
FRAME = "#c8ced6"
MARGIN, GAP, HEADING, CAPTION = 0.15, 0.08, 0.26, 0.26
CELL_PIXELS = 480  # the fewest of a cell's picture

_TITLE, _SUBTITLE, _MORE_SUBTITLE = 0.32, 0.22, 0.19
_SUBTITLE_FONT = FontProperties(size=9.5)
_EMPTY = "#f3f5f8"


def panel_figure(width: float, body_height: float, title: str, subtitle: str) -> tuple[Figure, float]:
    """A white figure with a heading.

    Args:
        width: Of the figure.
        body_height: Of what comes below the heading.
        title: One line; empty takes no room.
        subtitle: Smaller lines below it, broken where they are longer than the figure is wide; empty takes no room.

    Returns:
        The figure, and where its body begins.
    """
    below_title = _TITLE if title else 0.0
    lines = [line for part in subtitle.splitlines() for line in wrapped(part, _SUBTITLE_FONT, width - 2 * MARGIN)]
    head = below_title + (_SUBTITLE + _MORE_SUBTITLE * (len(lines) - 1) if lines else 0.0)
    height = head + body_height
    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        corner = (MARGIN / width, 1 - MARGIN / height)
        figure.text(*corner, title, fontsize=14, weight="bold", color=TEXT, va="top", parse_math=False)
    if lines:
        corner = (MARGIN / width, 1 - (MARGIN + below_title) / height)
        figure.text(*corner, "\n".join(lines), font=_SUBTITLE_FONT, color=QUIET, va="top", parse_math=False)
    return figure, head


def add_cell(
    figure: Figure,
    place: tuple[float, float],
    side: float,
    picture: np.ndarray,
    box: tuple[int, int, int, int],
    heading: str,
    fontsize: float = 9.5,
) -> Axes:
    """Square axes with a picture in their middle, in pixels of what the picture was cut from.

    Args:
        figure: The panel.
        place: Of the left upper corner, from the left and from the top.
        side: Of the cell.
        picture: "height width 3" uint8.
        box: Left, top, right, bottom of the picture in pixels.
        heading: Above the cell.
        fontsize: Of the heading, points.
    """
    width, height = (float(length) for length in figure.get_size_inches())
    ax = figure.add_axes((place[0] / width, (height - place[1] - side) / height, side / width, side / height))
    left, top, right, bottom = box
    half = max(right - left, bottom - top) / 2
    ax.imshow(picture, extent=(left, right, bottom, top), interpolation="lanczos", zorder=1)
    ax.set_xlim((left + right) / 2 - half, (left + right) / 2 + half)
    ax.set_ylim((top + bottom) / 2 + half, (top + bottom) / 2 - half)
    ax.set_facecolor(_EMPTY)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_color(FRAME)
    ax.set_title(heading, fontsize=fontsize, color=TEXT, pad=5)
    return ax


def add_caption(ax: Axes, text: str) -> None:
    """One line of small text below a cell."""
    ax.set_xlabel(text, fontsize=9, color=QUIET, labelpad=4, loc="left", parse_math=False)


def person_box(
    photo: np.ndarray,
    K: Float[Tensor, "3 3"],
    bodies: Sequence[Float[Tensor, "_ 3"]],
    points: Float[Tensor, "_ 2"] | None,
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a square around bodies and points, cut where it leaves the photograph.

    Args:
        photo: "height width 3".
        K: Its camera, pixels.
        bodies: Vertices in metres, camera frame; what lies outside of the photograph does not count.
        points: More to be shown, pixels.
    """
    height, width = photo.shape[:2]
    seen = [body.detach().cpu().double() for body in bodies]
    every = torch.cat(
        [
            *(project(body[body[:, 2] >= NEAR_PLANE], K.detach().cpu().double()) for body in seen),
            *([] if points is None else [points]),
        ]
    )
    limit = torch.tensor([width, height], dtype=torch.float64)
    every = every[((every >= 0) & (every <= limit)).all(dim=-1)]
    if not len(every):
        return 0, 0, width, height
    low, high = every.amin(dim=0), every.amax(dim=0)
    side = math.ceil(max(32.0, 1.15 * float((high - low).max())))
    # A box that would leave the photograph moves into it, and is cut where it is longer.
    start = torch.minimum(((low + high - side) / 2).clamp_min(0), (limit - side).clamp_min(0)).floor()
    end = torch.minimum(start + side, limit)
    left, top, right, bottom = torch.cat([start, end]).int().tolist()
    return left, top, right, bottom


def enlarged(
    photo: np.ndarray, K: Float[Tensor, "3 3"], box: tuple[int, int, int, int]
) -> tuple[np.ndarray, Float[Tensor, "3 3"]]:
    """The part of the photograph in the box, with its camera; small ones are enlarged, so that the mesh stays crisp."""
    left, top, right, bottom = box
    scale = max(1, math.ceil(CELL_PIXELS / max(right - left, bottom - top)))
    part = Image.fromarray(photo[top:bottom, left:right])
    part = part.resize((part.width * scale, part.height * scale), Image.Resampling.LANCZOS)
    return np.array(part), part_camera(K.detach().cpu().double(), left, top, scale)


def part_camera(K: Float[Tensor, "3 3"], left: int, top: int, scale: int) -> Float[Tensor, "3 3"]:
    """K of the picture's part that begins at (left, top), enlarged."""
    moved = K.clone()
    moved[0, 2] -= left
    moved[1, 2] -= top
    moved[:2] *= scale
    return moved


def wrapped(text: str, font: FontProperties, width: float) -> list[str]:
    """Breaks a text into lines of at most ``width`` inches: between words, within a word only where it is too long."""

    def inches(line: str) -> float:
        points: float = text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]
        return 1.03 * points / 72  # the renderer's hinting widens letters a little

    if not text.strip():
        return []
    columns = max(1, int(len(text) * width / inches(text)))  # right for letters of mean width
    while True:
        lines = textwrap.wrap(text, columns)
        if columns == 1 or all(inches(line) <= width for line in lines):
            return lines
        columns -= 1
