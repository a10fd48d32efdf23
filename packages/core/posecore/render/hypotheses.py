"""Several bodies that may all be the person of a photograph: laid over each other, and one by one."""

import colorsys
import math
from collections.abc import Sequence

import matplotlib.colors as mcolors
import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from posecore.body.skeletons import COCO_17, JointSet
from posecore.render.cells import (
    CAPTION,
    CELL_PIXELS,
    GAP,
    HEADING,
    MARGIN,
    add_caption,
    add_cell,
    enlarged,
    panel_figure,
    person_box,
)
from posecore.render.mesh import MESH_COLORS, Backend, mesh_layer, overlay, render_mesh, side_scene
from posecore.render.skeleton import draw_skeleton_2d

_CELL = 2.6  # inches
_OPACITY = 0.96  # of what all bodies cover
_FAINTEST = 0.16  # opacity of what one body covers
_GOLDEN = (math.sqrt(5) - 1) / 2  # of the circle of hues from one to the next
_BOX_COLOR = "#f2c230"


def hypothesis_colors(count: int, best: int, best_color: str) -> list[str]:
    """A colour per hypothesis: hues of which the first differ most, and the pick's own."""
    hues = (colorsys.hls_to_rgb(_GOLDEN * number % 1, 0.63, 0.66) for number in range(count))
    colors = [mcolors.to_hex(color) for color in hues]
    colors[best] = best_color
    return colors


def blend_meshes(
    picture: np.ndarray,
    vertices_cam: Float[Tensor, "hypotheses vertices 3"],
    faces: Int[Tensor, "faces 3"],
    K: Float[Tensor, "3 3"],
    colors: Sequence[str],
    backend: Backend = "software",
) -> np.ndarray:
    """The picture with bodies that shine through each other, in no order: where all agree, they look solid.

    A pixel that m of n bodies cover shows the mean of their colours with opacity 1 - (1 - a)^m. One body's a is such
    that n bodies hide all but 4 % of the picture, and 0.16 at least.

    Args:
        picture: "height width 3" uint8.
        vertices_cam: Metres, camera frame.
        faces: The triangles of each body.
        K: Intrinsics of the picture, pixels.
        colors: One per body, names or hex codes.
        backend: As for :func:`posecore.render.mesh.render_mesh`.

    Raises:
        ValueError: There are not as many colours as bodies, or as :func:`posecore.render.mesh.render_mesh`.
    """
    if len(colors) != len(vertices_cam):
        raise ValueError(f"colors holds {len(colors)} colours for {len(vertices_cam)} bodies")
    height, width = picture.shape[:2]
    light, covered = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    for body, color in zip(vertices_cam, colors, strict=True):
        if (layer := mesh_layer(body, faces, K, (width, height), color, backend=backend)) is not None:
            left, top, right, bottom = layer.window
            light[top:bottom, left:right] += layer.light
            covered[top:bottom, left:right] += layer.coverage
    clear = min((1 - _OPACITY) ** (1 / max(len(colors), 1)), 1 - _FAINTEST)
    opacity = 1 - clear**covered
    blended = picture * (1 - opacity) + 255 * opacity * light / np.maximum(covered, 1e-9)
    rounded: np.ndarray = np.rint(blended).astype(np.uint8)
    return rounded


def hypotheses_mesh_panel(
    photo: np.ndarray,
    vertices: Float[Tensor, "people hypotheses vertices 3"],
    best: Int[Tensor, " people"],
    faces: Int[Tensor, "faces 3"],
    K: Float[Tensor, "3 3"],
    keypoints: Float[Tensor, "_ keypoints 2"] | None = None,
    confidence: Float[Tensor, "_ keypoints"] | None = None,
    keypoint_set: JointSet = COCO_17,
    boxes: Float[Tensor, "_ 3"] | None = None,
    title: str = "",
    labels: Sequence[str] | None = None,
    subtitle: str = "",
    max_shown: int = 5,
    backend: Backend = "software",
    pick_name: str = "Pick",
) -> Figure:
    """One row per person: photograph, the pick over it, all hypotheses over it, both from the side, and some by one.

    Over the photograph and from the side, all hypotheses shine through each other (see :func:`blend_meshes`), so that
    what they agree in looks solid. A single hypothesis makes a row of photograph, body, and side.

    Args:
        photo: "height width 3" uint8.
        vertices: Metres, camera frame.
        best: Number of each person's pick.
        faces: The triangles of each body.
        K: Intrinsics of the photograph, pixels.
        keypoints: Pixels; None shows none.
        confidence: In [0, 1]; 0 leaves a keypoint out, None shows all.
        keypoint_set: Names and order of ``keypoints``.
        boxes: Middle (x, y) and side of each person's square box, pixels; None shows none.
        title: Heading of the whole picture.
        labels: One line per person, below the photograph.
        subtitle: Smaller text below the title, one line or more.
        max_shown: Most hypotheses that are shown by themselves: the first that are not the pick.
        backend: As for :func:`posecore.render.mesh.render_mesh`.
        pick_name: What ``best`` is called.

    Raises:
        ValueError: There is nobody or no hypothesis, the numbers of people differ, a pick is none of the hypotheses,
            ``max_shown`` is negative, or as :func:`posecore.render.mesh.render_mesh`.
    """
    people, count = vertices.shape[:2]
    if not people or not count:
        raise ValueError(f"vertices are {count} hypotheses of {people} people; there is no body to draw")
    parts = {"best": best, "keypoints": keypoints, "confidence": confidence, "boxes": boxes, "labels": labels}
    for name, part in parts.items():
        if part is not None and len(part) != people:
            raise ValueError(f"{name} has length {len(part)}; vertices are for {people} people")
    if not bool(((best >= 0) & (best < count)).all()):
        raise ValueError(f"best is {best.tolist()}; valid are 0 to {count - 1}")
    if max_shown < 0:
        raise ValueError(f"max_shown is {max_shown}; valid are 0 or more")
    small_columns = math.ceil(min(max_shown, count - 1) / 2)
    small = (_CELL - HEADING - GAP) / 2  # two of them and a heading are as high as a cell
    large_columns = 5 if count > 1 else 3
    width = 2 * MARGIN + large_columns * (_CELL + GAP) + small_columns * (small + GAP) - GAP
    row_height = HEADING + _CELL + CAPTION
    figure, head = panel_figure(width, people * row_height, title, subtitle)
    for row in range(people):
        pick = int(best[row])
        colors = hypothesis_colors(count, pick, MESH_COLORS[row % len(MESH_COLORS)])
        points, sure = _seen(row, keypoints, confidence)
        corners = None if boxes is None else _corners(boxes[row])
        box = person_box(photo, K, list(vertices[row]), _to_be_shown(photo, corners, points, sure))
        crop, K_crop = enlarged(photo, K, box)
        side = side_scene(vertices[row])
        size = (CELL_PIXELS, CELL_PIXELS)
        name = f"{pick_name} (no. {pick})" if count > 1 else "Body"
        picked = overlay(crop, vertices[row, pick], faces, K_crop, colors[pick], backend=backend)
        from_side = render_mesh(side.vertices[pick], faces, side.K, size, colors[pick], side.floor, backend=backend)
        cells = [("Photo" if points is None else "Photo and 2D keypoints", crop, box), (name, picked, box)]
        if count > 1:
            cells.append((f"All {count}", blend_meshes(crop, vertices[row], faces, K_crop, colors, backend), box))
        cells.append((f"{name}, from the side", from_side, (0, 0, *size)))
        if count > 1:
            blended = blend_meshes(side.floor, side.vertices, faces, side.K, colors, backend)
            cells.append((f"All {count}, from the side", blended, (0, 0, *size)))
        top = head + row * row_height + HEADING
        for column, (heading, picture, shown) in enumerate(cells):
            ax = add_cell(figure, (MARGIN + column * (_CELL + GAP), top), _CELL, picture, shown, heading)
            if column:
                continue
            if corners is not None:
                _draw_box(ax, corners)
            if points is not None:
                draw_skeleton_2d(ax, points, keypoint_set, sure)
            if labels is not None:
                add_caption(ax, labels[row])
        others = [number for number in range(count) if number != pick][:max_shown]
        for place, number in enumerate(others):
            left = MARGIN + large_columns * (_CELL + GAP) + place % small_columns * (small + GAP)
            below = top + place // small_columns * (small + HEADING + GAP)
            picture = overlay(crop, vertices[row, number], faces, K_crop, colors[number], backend=backend)
            ax = add_cell(figure, (left, below), small, picture, box, f"No. {number}", fontsize=8.0)
        if others and len(others) < count - 1:
            add_caption(ax, f"and {count - 1 - len(others)} more")
    return figure


def _seen(
    row: int, keypoints: Float[Tensor, "_ keypoints 2"] | None, confidence: Float[Tensor, "_ keypoints"] | None
) -> tuple[Float[Tensor, "keypoints 2"] | None, Float[Tensor, " keypoints"] | None]:
    """One person's keypoints and how sure they are."""
    if keypoints is None:
        return None, None
    points = keypoints[row].detach().cpu().double()
    return points, torch.ones(len(points)) if confidence is None else confidence[row].detach().cpu()


def _corners(box: Float[Tensor, "3"]) -> Float[Tensor, "2 2"]:
    """Left upper and right lower corner of a square of which middle and side are given."""
    middle, half = box[:2].detach().cpu().double(), float(box[2]) / 2
    return torch.stack((middle - half, middle + half))


def _to_be_shown(
    photo: np.ndarray,
    corners: Float[Tensor, "2 2"] | None,
    points: Float[Tensor, "keypoints 2"] | None,
    sure: Float[Tensor, " keypoints"] | None,
) -> Float[Tensor, "_ 2"]:
    """Seen keypoints, and corners of the box as far as it lies in the photograph."""
    limit = torch.tensor([photo.shape[1], photo.shape[0]], dtype=torch.float64)
    shown = torch.zeros(0, 2, dtype=torch.float64) if corners is None else torch.minimum(corners.clamp_min(0), limit)
    return shown if points is None or sure is None else torch.cat((shown, points[sure > 0]))


def _draw_box(ax: Axes, corners: Float[Tensor, "2 2"]) -> None:
    left, top, right, bottom = corners.flatten().tolist()
    width, height = right - left, bottom - top
    ax.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=_BOX_COLOR, linewidth=1.6, zorder=2))
