"""Skeletons drawn flat: 2D keypoints over a photograph, and 3D joints seen from any side.

Blue is the person's own left, orange the person's own right, grey the mid-line, everywhere. Of a 3D skeleton the nearer
limbs are drawn later, thicker and in full colour. Drawing goes through matplotlib's object interface: no display, no
pyplot state.
"""

from dataclasses import dataclass
from typing import Any

import matplotlib.colors as mcolors
import matplotlib.patheffects as path_effects
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Polygon
from torch import Tensor

from posecore.body.skeletons import JointSet

SIDE_COLORS = {"left": "#2477b3", "right": "#e8761a", "middle": "#47505c"}
HEAD_RADIUS = 0.1  # metres; half the height of a head, less the chin
# Pairs of joints with the middle of the head between them, best first.
_HEAD_ENDS = (
    ("neck_nose", "head_top"),
    ("nose", "head_top"),
    ("l_ear", "r_ear"),
    ("neck", "head_top"),
    ("head", "head"),
)
_BODY = "#d5dae1"
_PAPER = "#ffffff"


@dataclass(frozen=True)
class View:
    """A parallel projection along a horizontal or vertical direction of the camera frame.

    Attributes:
        name: Heading for the picture.
        axes: Rows are the picture's right, its up, and towards the viewer, as unit vectors of the camera frame.
    """

    name: str
    axes: tuple[tuple[int, int, int], ...]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Camera-frame points "... 3" as picture coordinates right, up, towards the viewer (metres)."""
        projected: np.ndarray = points @ np.asarray(self.axes).T
        return projected


FRONT = View("as the camera sees it", ((1, 0, 0), (0, -1, 0), (0, 0, -1)))
TOP = View("from above", ((1, 0, 0), (0, 0, 1), (0, -1, 0)))
_FROM_PLUS_X = ((0, 0, 1), (0, -1, 0), (1, 0, 0))
_FROM_MINUS_X = ((0, 0, -1), (0, -1, 0), (-1, 0, 0))


def side_view(joints: Float[Tensor, "joints 3"], joint_set: JointSet) -> View:
    """The view turned by 90 degrees about the camera's vertical axis: it shows the depth that the photograph hides.

    Of the two such views the one nearer to the person's left is taken. Its name says what it shows of the person, whose
    heading follows from hips and shoulders.

    Args:
        joints: Camera frame (x right, y down, z forward), metres.
        joint_set: Names and order of the joints.
    """
    points = _numpy(joints)
    across = np.zeros(3)
    for part in ("hip", "shoulder"):
        if {f"l_{part}", f"r_{part}"} <= set(joint_set.joint_names):
            across += points[joint_set.index(f"l_{part}")] - points[joint_set.index(f"r_{part}")]
    to_left = across[[0, 2]] / max(float(np.hypot(across[0], across[2])), 1e-9)
    axes = _FROM_PLUS_X if to_left[0] >= 0 else _FROM_MINUS_X
    if abs(to_left[0]) >= np.sqrt(0.5):  # within 45 degrees of the person's left
        return View("from the person's left", axes)
    # Facing the camera (-z) goes with a left hand at +x; the heading turns with it.
    heading_x = float(to_left[1])
    return View("from the person's front" if heading_x * axes[2][0] > 0 else "from the person's back", axes)


def draw_skeleton_2d(
    ax: Axes,
    keypoints: Float[Tensor, "joints 2"],
    joint_set: JointSet,
    confidence: Float[Tensor, "joints"] | None = None,
    line_width: float = 2.5,
) -> None:
    """Draws 2D keypoints; a joint with confidence 0 and its bones are left out, less certain ones are paler.

    Args:
        ax: Axes in pixels, y down.
        keypoints: Pixels.
        joint_set: Names and order of the joints.
        confidence: In [0, 1]; None draws every joint in full.
        line_width: Points.
    """
    points = _numpy(keypoints)
    sure = np.ones(len(points)) if confidence is None else _numpy(confidence)
    halo = [path_effects.Stroke(linewidth=line_width + 2.0, foreground=_PAPER, alpha=0.75), path_effects.Normal()]
    for parent, child in display_bones(joint_set):
        certainty = min(sure[parent], sure[child])
        if certainty > 0:
            ax.plot(
                *points[[parent, child]].T,
                color=SIDE_COLORS[_side(joint_set, child)],
                linewidth=line_width,
                alpha=0.45 + 0.55 * certainty,
                solid_capstyle="round",
                path_effects=halo,
                zorder=3,
            )
    for joint, (x, y) in enumerate(points):
        if sure[joint] > 0:
            ax.plot(
                x,
                y,
                marker="o",
                markersize=line_width * 2.2,
                markerfacecolor=SIDE_COLORS[_side(joint_set, joint)],
                markeredgecolor=_PAPER,
                markeredgewidth=1.0,
                alpha=0.45 + 0.55 * sure[joint],
                zorder=4,
            )


def draw_skeleton_3d(
    ax: Axes,
    joints: Float[Tensor, "joints 3"],
    joint_set: JointSet,
    view: View = FRONT,
    line_width: float = 5.0,
) -> None:
    """Draws one 3D skeleton in a parallel projection, with depth cues and a head.

    Args:
        ax: Axes in metres with equal scales.
        joints: Camera frame, metres.
        joint_set: Names and order of the joints.
        view: Where from.
        line_width: Points, of a limb at middle depth.
    """
    points = view(_numpy(joints))
    names = joint_set.joint_names
    near = points[:, 2]
    closeness = (near - near.min()) / max(float(np.ptp(near)), 0.3)  # a flat pose keeps one width
    torso = ("l_shoulder", "r_shoulder", "r_hip", "l_hip")
    if set(torso) <= set(names):
        corners = [names.index(name) for name in torso]
        depth = float(closeness[corners].min())
        ax.add_patch(Polygon(points[corners, :2], facecolor=_BODY, edgecolor="none", alpha=0.75, zorder=3 + depth))
    bones = display_bones(joint_set)
    on_top = closeness.copy()  # a joint lies on the nearest of its bones
    for parent, child in bones:
        depth = float(closeness[[parent, child]].mean())
        on_top[[parent, child]] = np.maximum(on_top[[parent, child]], depth)
        width = line_width * (0.7 + 0.6 * depth)
        line = points[[parent, child], :2].T
        # The white edge parts crossing limbs; blunt ends keep it from cutting the next bone of the same limb.
        _add_line(ax, *line, color=_PAPER, linewidth=width + 2.2, solid_capstyle="butt", zorder=3 + depth)
        color = _faded(SIDE_COLORS[_side(joint_set, child)], depth)
        _add_line(ax, *line, color=color, linewidth=width, solid_capstyle="round", zorder=3.001 + depth)
    for joint, depth in enumerate(on_top):
        if names[joint] == "head_top":
            continue  # the head's outline shows it
        _add_line(
            ax,
            *points[joint, :2, None],
            marker="o",
            markersize=line_width * (0.5 + 0.3 * depth),
            markerfacecolor=_PAPER,
            markeredgecolor=_faded(SIDE_COLORS[_side(joint_set, joint)], depth),
            markeredgewidth=1.2,
            zorder=3.01 + depth,
        )
    center = _head_center(points, joint_set)
    if center is not None:
        depth = float(np.clip((center[2] - near.min()) / max(float(np.ptp(near)), 0.3), 0, 1))
        edge = _faded(SIDE_COLORS["middle"], depth)
        head = Circle((center[0], center[1]), HEAD_RADIUS, facecolor=_BODY, edgecolor=edge, linewidth=1.8)
        head.set_zorder(3.02 + depth)
        ax.add_patch(head)
    ax.update_datalim(points[:, :2])
    ax.autoscale_view()


def draw_skeleton_cloud(
    ax: Axes,
    joints: Float[Tensor, "hypotheses joints 3"],
    joint_set: JointSet,
    view: View = FRONT,
    line_width: float = 1.1,
) -> None:
    """Draws many hypotheses of one person as thin, transparent skeletons, so that agreement shows as depth of colour.

    Args:
        ax: Axes in metres with equal scales.
        joints: Camera frame or root-relative, metres.
        joint_set: Names and order of the joints.
        view: Where from.
        line_width: Points.
    """
    points = view(_numpy(joints))[..., :2]
    bones = display_bones(joint_set)
    # Hypothesis after hypothesis, so that no side of the body hides another.
    segments = points[:, np.asarray(bones)].reshape(-1, 2, 2)
    colors = [SIDE_COLORS[_side(joint_set, child)] for _, child in bones] * len(points)
    alpha = float(np.clip(1.0 / np.sqrt(len(points)), 0.08, 0.8))
    ax.add_collection(
        LineCollection(list(segments), colors=colors, linewidths=line_width, alpha=alpha, capstyle="round", zorder=3),
        autolim=False,
    )


def display_bones(joint_set: JointSet) -> tuple[tuple[int, int], ...]:
    """The set's bones, and lines across shoulders and hips where the set has no joint between them (COCO)."""
    names = joint_set.joint_names
    across = []
    for part, middles in (("shoulder", ("thorax", "neck", "spine3")), ("hip", ("pelvis", "mid_hip", "neck"))):
        pair = (f"l_{part}", f"r_{part}")
        if set(pair) <= set(names) and not set(middles) & set(names):
            across.append((names.index(pair[0]), names.index(pair[1])))
    return tuple(joint_set.bones) + tuple(across)


def _add_line(ax: Axes, x: np.ndarray, y: np.ndarray, **style: Any) -> None:
    """`Axes.plot` in half of the time: without parsing, and without looking at the axes' limits line by line."""
    ax.add_artist(Line2D(x, y, **style))


def _side(joint_set: JointSet, joint: int) -> str:
    if joint in joint_set.left:
        return "left"
    return "right" if joint in joint_set.right else "middle"


def _head_center(points: np.ndarray, joint_set: JointSet) -> np.ndarray | None:
    names = joint_set.joint_names
    for pair in _HEAD_ENDS:
        if set(pair) <= set(names):
            center: np.ndarray = (points[names.index(pair[0])] + points[names.index(pair[1])]) / 2
            return center
    return None


def _faded(color: str, closeness: float) -> tuple[float, float, float]:
    """Far parts fade towards the paper, as in haze."""
    share = 0.42 * (1.0 - float(np.clip(closeness, 0, 1)))
    red, green, blue = ((1 - share) * channel + share for channel in mcolors.to_rgb(color))
    return red, green, blue


def _numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().double().numpy()
    return array
