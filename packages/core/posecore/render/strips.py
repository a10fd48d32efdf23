"""One person at several noise levels, side by side."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from posecore.body.skeletons import JointSet
from posecore.render.skeleton import FRONT, draw_skeleton_3d

_TEXT, _QUIET, _FRAME = "#1f2630", "#6b7480", "#c8ced6"
_REACH = 1.15  # metres that a cell shows to every side of the root
_FAR = 10.0  # metres; whatever lies farther is drawn here


def denoising_strip(
    truth: Float[Tensor, "joints 3"],
    noisy: Float[Tensor, "levels joints 3"],
    estimate: Float[Tensor, "levels joints 3"],
    joint_set: JointSet,
    levels: Sequence[float],
    title: str = "",
) -> Figure:
    """Noisy poses above, what the network makes of each below, and the truth at the end; all to one scale.

    Args:
        truth: The clean pose, camera axes, metres.
        noisy: x_t of each level.
        estimate: x_0-hat of each level.
        joint_set: Joints of all of them.
        levels: Shares of the diffusion's time, the headings.
        title: Above all.

    Raises:
        ValueError: The levels are not as many as the poses.
    """
    if not len(levels) == len(noisy) == len(estimate):
        raise ValueError(f"levels must be one per pose, got {len(levels)} for {len(noisy)} and {len(estimate)}")
    columns = len(levels) + 1
    figure = Figure(figsize=(1.7 * columns + 0.4, 4.3), dpi=80, facecolor="white")
    FigureCanvasAgg(figure)
    # Fixed places: to find them takes longer than all the drawing.
    left = 0.4 / (1.7 * columns + 0.4)
    figure.subplots_adjust(left=left, right=0.995, bottom=0.02, top=0.84, wspace=0.06, hspace=0.1)
    cells = figure.subplots(2, columns, squeeze=False)
    root = list(joint_set.root)
    for row, (label, poses) in enumerate((("x_t", noisy), ("x_0 estimated", estimate))):
        for column in range(columns):
            ax = cells[row][column]
            ax.set_xlim(-_REACH, _REACH)
            ax.set_ylim(-_REACH, _REACH)
            ax.set_aspect("equal")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_color(_FRAME)
            if column == len(levels) and row == 0:
                ax.set_visible(False)
                continue
            pose = (truth if column == len(levels) else poses[column]).detach().cpu().float()
            # About the true root: noise moves a root joint too, and would take the pose out of the cell.
            pose = pose - truth[root].mean(dim=0).detach().cpu()
            draw_skeleton_3d(ax, torch.nan_to_num(pose).clamp(-_FAR, _FAR), joint_set, FRONT, line_width=3.0)
            if column == len(levels):
                ax.set_title("truth", fontsize=9.5, color=_TEXT)
            elif row == 0:
                ax.set_title(f"t = {levels[column]:.2f} T", fontsize=9.5, color=_TEXT)
        cells[row][0].set_ylabel(label, fontsize=9.5, color=_QUIET, parse_math=False)
    if title:
        figure.suptitle(title, x=0.01, y=0.99, ha="left", weight="bold", color=_TEXT, parse_math=False)
    return figure
