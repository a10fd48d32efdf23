"""The picture of the README's first screen: a photograph, 3D hypotheses of the person, and a body fitted to him.

    python tools/readme_picture.py [--output docs/first_screen.png]

From the keypoints of ``tools/demo_data/photographer.json``: ZeDO's hypotheses from the camera's side and from the
side, and ScoreHMR's body over the photograph and from the same two sides; both with the weights that are shipped.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from posecore.body.skeletons import H36M_17
from posecore.body.smpl import SMPLLayer
from posecore.data.keypoints import read_keypoints
from posecore.data.predict_input import PredictInput
from posecore.export.files import write_bytes
from posecore.render.cells import FRAME, QUIET, TEXT
from posecore.render.mesh import overlay, render_mesh, side_scene
from posecore.render.panels import read_photo
from posecore.render.skeleton import FRONT, View, draw_skeleton_2d, draw_skeleton_3d, draw_skeleton_cloud, side_view
from scorehmr.fitting import FitSettings
from scorehmr.guidance import TermWeights
from scorehmr.module import ScoreHMR
from scorehmr.sampler import Guidance
from zedo.module import ZeDO
from zedo.sampler import InitialPose

DEMO_DATA = Path(__file__).parent / "demo_data"
WIDTH, DPI = 16.0, 100
MARGIN, GAP, GROUP_GAP, HEAD, FOOT = 0.06, 0.08, 0.34, 0.46, 0.36  # inches
GROUPS = (("2D keypoints", 1), ("Many poses that fit them", 2), ("A body that fits them", 3))
"""Headings, and how many of the square cells are below each."""
PIXELS = 520
"""Side of a rendered cell before it is scaled down."""


def picture(photo: Path, keypoints: Path, poses: ZeDO, bodies: ScoreHMR) -> Figure:
    """The picture of the first person of a keypoint file.

    Args:
        photo: The photograph.
        keypoints: COCO's 17, in the simple JSON.
        poses: Gives the hypotheses.
        bodies: Gives the body.
    """
    given = PredictInput(photo=photo, keypoints=keypoints)
    with torch.inference_mode():
        hypotheses = poses(given.dataset("h36m17").__getitems__([0]))
    batch = given.dataset("joints44", copies_only=True).__getitems__([0])
    fitted = bodies(batch).fitted
    layer = SMPLLayer(joints=())
    vertices = layer(fitted.betas, fitted.body_pose, fitted.global_orient, fitted.transl).vertices
    faces = layer.model.faces
    image = read_photo(photo)
    seen = read_keypoints(keypoints)

    cells = _cells()
    axes = [cells.add_axes(place) for place in _places()]
    _show(axes[0], image)
    draw_skeleton_2d(axes[0], seen.keypoints[0], seen.joint_set, seen.confidence[0], line_width=3.0)
    best = int(hypotheses.best[0])
    sides = FRONT, side_view(hypotheses.joints_rel[0, best], H36M_17)
    for ax, view in zip(axes[1:3], sides, strict=True):
        _poses(ax, hypotheses.joints_rel[0], best, view)
    _show(axes[3], overlay(image, vertices, faces, batch["K"][0]))
    for ax, turned in zip(axes[4:], (_quarter_turn(vertices), vertices), strict=True):
        scene = side_scene(turned, PIXELS)
        _show(ax, render_mesh(scene.vertices, faces, scene.K, (PIXELS, PIXELS), background=scene.floor, antialias=3))
    count = hypotheses.joints_rel.shape[1]
    captions = (
        "of a photograph",
        f"ZeDO: {count} hypotheses",
        "from the side",
        "ScoreHMR",
        "as the camera sees it",
        "from the side",
    )
    for ax, caption in zip(axes, captions, strict=True):
        ax.set_xlabel(caption, fontsize=12, color=QUIET, labelpad=5)
    return cells


def _side() -> float:
    """Inches of a cell's side."""
    count = sum(number for _, number in GROUPS)
    return (WIDTH - 2 * MARGIN - GROUP_GAP * (len(GROUPS) - 1) - GAP * (count - len(GROUPS))) / count


def _height() -> float:
    return HEAD + _side() + FOOT


def _places() -> list[tuple[float, float, float, float]]:
    """Of every cell in the figure: left, bottom, width, height as shares."""
    places, left = [], MARGIN
    for _, number in GROUPS:
        for _ in range(number):
            places.append((left / WIDTH, FOOT / _height(), _side() / WIDTH, _side() / _height()))
            left += _side() + GAP
        left += GROUP_GAP - GAP
    return places


def _cells() -> Figure:
    """A white figure with the headings."""
    figure = Figure(figsize=(WIDTH, _height()), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    places, first = _places(), 0
    for heading, number in GROUPS:
        left, last = places[first][0], places[first + number - 1]
        middle = (left + last[0] + last[2]) / 2
        figure.text(middle, 1 - 0.1 / _height(), heading, fontsize=17, weight="bold", color=TEXT, ha="center", va="top")
        first += number
    return figure


def _frame(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_color(FRAME)


def _show(ax: Axes, image: np.ndarray) -> None:
    """A picture in its own pixels."""
    ax.imshow(image, extent=(0, image.shape[1], image.shape[0], 0), interpolation="lanczos")
    _frame(ax)


def _poses(ax: Axes, hypotheses: Float[Tensor, "hypotheses joints 3"], best: int, view: View) -> None:
    """All hypotheses over one another, and the one nearest to all others in full."""
    every = view(hypotheses.double().numpy())[..., :2].reshape(-1, 2)
    low, high = every.min(axis=0), every.max(axis=0)
    middle, half = (low + high) / 2, 0.54 * float((high - low).max())
    draw_skeleton_cloud(ax, hypotheses, H36M_17, view, line_width=1.6)
    draw_skeleton_3d(ax, hypotheses[best], H36M_17, view, line_width=4.0)
    ax.set_xlim(middle[0] - half, middle[0] + half)
    ax.set_ylim(middle[1] - half, middle[1] + half)
    ax.set_aspect("equal")
    _frame(ax)


def _quarter_turn(vertices: Float[Tensor, "*people vertices 3"]) -> Float[Tensor, "*people vertices 3"]:
    """Bodies turned so that `side_scene`, which looks from the right, sees what the camera saw."""
    x, y, z = vertices.unbind(-1)
    return torch.stack((-z, y, x), dim=-1)


def png(figure: Figure) -> bytes:
    """The figure as a PNG of 256 colours, a third of the size of all of them."""
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=DPI)
    with Image.open(raw) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
    content = io.BytesIO()
    few.save(content, format="png", optimize=True)
    return content.getvalue()


def main() -> None:
    """Draws the picture with the settings of both methods' ``open.yaml``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "first_screen.png")
    args = parser.parse_args()
    poses = ZeDO.pretrained(num_hypotheses=50, initial_pose=InitialPose(depth=None, keypoints=None))
    bodies = ScoreHMR.pretrained(
        terms=TermWeights(keypoints=0.006, confidence_power=4.0), fit=FitSettings(guidance=Guidance(outer_loops=20))
    )
    name = "photographer"
    write_bytes(args.output, png(picture(DEMO_DATA / f"{name}.png", DEMO_DATA / f"{name}.json", poses, bodies)))


if __name__ == "__main__":
    main()
