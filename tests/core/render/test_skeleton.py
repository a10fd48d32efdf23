import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from posecore.body.skeletons import COCO_17, H36M_17, JOINT_SETS, JointSet
from posecore.render.skeleton import (
    FRONT,
    SIDE_COLORS,
    TOP,
    View,
    display_bones,
    draw_skeleton_2d,
    draw_skeleton_3d,
    draw_skeleton_cloud,
    side_view,
)

# One joint per view axis, in the camera frame: right, down, forward.
RIGHT, DOWN, FORWARD = np.eye(3)


def standing(heading: float = 0.0) -> Tensor:
    """A Human3.6M person who faces the camera, turned to the camera's right by `heading` radians; metres."""
    places = {
        "pelvis": (0, 0), "r_hip": (-0.13, 0), "r_knee": (-0.13, 0.45), "r_ankle": (-0.13, 0.9), "l_hip": (0.13, 0),
        "l_knee": (0.13, 0.45), "l_ankle": (0.13, 0.9), "spine": (0, -0.25), "thorax": (0, -0.5),
        "neck_nose": (0, -0.6), "head_top": (0, -0.75), "l_shoulder": (0.18, -0.48), "l_elbow": (0.2, -0.2),
        "l_wrist": (0.2, 0.05), "r_shoulder": (-0.18, -0.48), "r_elbow": (-0.2, -0.2), "r_wrist": (-0.2, 0.05),
    }  # fmt: skip
    flat = torch.tensor([places[name] for name in H36M_17.joint_names])
    cos, sin = float(np.cos(heading)), float(np.sin(heading))
    return torch.stack([flat[:, 0] * cos, flat[:, 1], flat[:, 0] * sin], dim=-1)


def canvas(size: float = 1.2) -> tuple[Figure, object]:
    figure = Figure(figsize=(4, 4), dpi=100)
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(-size, size)
    ax.set_ylim(-size, size)
    ax.set_axis_off()
    return figure, ax


def pixels(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255.0  # type: ignore[attr-defined]


def mean_column(image: np.ndarray, color: str) -> float:
    """Mean horizontal place (0 left, 1 right) of the pixels of about that hue."""
    saturated = image - image.mean(axis=-1, keepdims=True)
    wanted = np.array(to_rgb(color)) - np.mean(to_rgb(color))
    alike = (saturated @ wanted) > 0.5 * wanted @ wanted
    assert alike.any()
    return float(np.nonzero(alike)[1].mean() / image.shape[1])


@pytest.mark.parametrize("view", [FRONT, TOP, side_view(standing(), H36M_17), side_view(standing(np.pi), H36M_17)])
def test_views_are_rotations(view: View) -> None:
    axes = np.asarray(view.axes, dtype=float)
    np.testing.assert_array_equal(axes @ axes.T, np.eye(3))
    assert np.linalg.det(axes) == pytest.approx(1.0)  # nobody is mirrored


def test_what_lies_where() -> None:
    np.testing.assert_array_equal(FRONT(RIGHT), [1, 0, 0])
    np.testing.assert_array_equal(FRONT(DOWN), [0, -1, 0])
    np.testing.assert_array_equal(FRONT(FORWARD), [0, 0, -1])  # far things lie away from the viewer
    np.testing.assert_array_equal(TOP(FORWARD), [0, 1, 0])
    assert TOP(DOWN)[2] == -1


@pytest.mark.parametrize(
    ("degrees", "name"),
    [(0, "left"), (30, "left"), (60, "front"), (90, "front"), (120, "back"), (150, "left"), (180, "left")],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_side_view_says_what_it_shows(degrees: int, name: str, sign: int) -> None:
    joints = standing(sign * np.radians(degrees))
    view = side_view(joints, H36M_17)
    left = joints[H36M_17.index("l_hip")] - joints[H36M_17.index("r_hip")]
    assert view(left.double().numpy())[2] >= -1e-6  # never from the right
    if sign < 0:  # turned the other way, a front becomes a back
        name = {"front": "back", "back": "front"}.get(name, name)
    if degrees == 90:  # exactly sideways: either side would do
        assert view.name in ("from the person's front", "from the person's back")
    else:
        assert view.name == f"from the person's {name}"


def test_seen_from_the_left_a_person_looks_to_the_left() -> None:
    view = side_view(standing(), H36M_17)
    towards_camera = -FORWARD  # where this person looks
    np.testing.assert_array_equal(view(towards_camera), [-1, 0, 0])


@pytest.mark.parametrize("heading", [0.0, np.pi])
def test_left_is_blue_on_the_side_where_it_is(heading: float) -> None:
    figure, ax = canvas()
    draw_skeleton_3d(ax, standing(heading), H36M_17)
    image = pixels(figure)
    blue, orange = mean_column(image, SIDE_COLORS["left"]), mean_column(image, SIDE_COLORS["right"])
    assert (blue > orange) == (heading == 0.0)  # facing us, his left is on our right
    assert abs(blue + orange - 1.0) < 0.05  # drawn symmetrically


def test_the_nearer_leg_hides_the_other() -> None:
    joints = standing(np.pi / 2 - 1e-3)  # the left leg is farther from the camera
    figure, ax = canvas()
    draw_skeleton_3d(ax, joints, H36M_17)
    image = pixels(figure)
    knee_to_ankle = image[int((1 + 0.7 / 1.2) / 2 * 400), 200]
    assert knee_to_ankle[0] > knee_to_ankle[2]  # orange: the right leg


@pytest.mark.parametrize("joint_set", JOINT_SETS.values(), ids=lambda joint_set: joint_set.name)
def test_every_joint_set_can_be_drawn(joint_set: JointSet) -> None:
    generator = torch.Generator().manual_seed(0)
    joints = torch.rand(3, joint_set.num_joints, 3, generator=generator) - 0.5
    for draw in ("2d", "3d", "cloud"):
        figure, ax = canvas()
        if draw == "2d":
            draw_skeleton_2d(ax, joints[0, :, :2], joint_set)
        elif draw == "3d":
            draw_skeleton_3d(ax, joints[0], joint_set, TOP)
        else:
            draw_skeleton_cloud(ax, joints, joint_set)
        assert (pixels(figure) < 0.9).any(axis=-1).sum() > 100


def test_unseen_joints_are_left_out() -> None:
    keypoints = standing()[:, :2]
    confidence = torch.ones(17)
    _, ax = canvas()
    draw_skeleton_2d(ax, keypoints, H36M_17, confidence)
    whole = len(ax.lines)
    confidence[H36M_17.index("l_elbow")] = 0
    _, ax = canvas()
    draw_skeleton_2d(ax, keypoints, H36M_17, confidence)
    assert len(ax.lines) == whole - 3  # the joint and the two bones that end in it
    _, ax = canvas()
    draw_skeleton_2d(ax, keypoints, H36M_17, torch.zeros(17))
    assert len(ax.lines) == 0


def test_coco_gets_lines_across_shoulders_and_hips() -> None:
    extra = set(display_bones(COCO_17)) - set(COCO_17.bones)
    names = COCO_17.joint_names
    assert {(names[a], names[b]) for a, b in extra} == {("l_shoulder", "r_shoulder"), ("l_hip", "r_hip")}
    assert display_bones(H36M_17) == H36M_17.bones
