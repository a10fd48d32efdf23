import inspect
from dataclasses import replace
from pathlib import Path

import bvhio
import numpy as np
import pytest
import torch

from posecore.body.files import load_body_model
from posecore.body.smpl import SMPLLayer
from posecore.data.bvh import read_bvh
from posecore.export import BodyMotion, write_bvh
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.testing import swaying_body


@pytest.fixture(scope="module")
def motion() -> BodyMotion:
    motion = swaying_body(load_body_model(), frames=30)
    return replace(motion, betas=motion.betas[:1])


@pytest.fixture(scope="module")
def joints(motion: BodyMotion) -> np.ndarray:
    """Of SMPLLayer, y up."""
    made = SMPLLayer(motion.model)(motion.betas, motion.body_pose, motion.global_orient, motion.transl).joints
    return (made * torch.tensor([1.0, -1.0, -1.0])).numpy()


def turning(motion: BodyMotion, joint: str, axis: int, degrees: np.ndarray) -> BodyMotion:
    """Only one joint turns, about one of its axes."""
    angles = torch.zeros(len(degrees), 24, 3)
    angles[:, motion.joint_names.index(joint), axis] = torch.tensor(np.deg2rad(degrees)).float()
    rotmat = axis_angle_to_rotmat(angles)
    # Half a turn, for a camera that has y down.
    root = torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ rotmat[:, 0]
    return replace(motion, global_orient=root, body_pose=rotmat[:, 1:], transl=torch.zeros(len(degrees), 3))


@pytest.mark.parametrize("scale", [1, 100])
def test_our_reader_finds_the_joints(tmp_path: Path, motion: BodyMotion, joints: np.ndarray, scale: int) -> None:
    write_bvh(tmp_path / "a.bvh", motion, unit="m" if scale == 1 else "cm")
    bvh = read_bvh(tmp_path / "a.bvh")
    _, positions = bvh.forward_kinematics()
    order = [bvh.index(name) for name in motion.joint_names]
    np.testing.assert_allclose(positions[:, order] / scale, joints, rtol=0, atol=1e-5)
    assert bvh.fps == pytest.approx(25, rel=1e-6)
    assert bvh.num_frames == 30


def test_bvhio_finds_the_joints(tmp_path: Path, motion: BodyMotion, joints: np.ndarray) -> None:
    write_bvh(tmp_path / "a.bvh", motion)
    root = bvhio.readAsHierarchy(str(tmp_path / "a.bvh"))
    for frame, truth in enumerate(joints):
        root.loadPose(frame)
        positions = {joint.Name: np.array(joint.PositionWorld) for joint, _, _ in root.layout()}
        made = np.stack([positions[name] for name in motion.joint_names])
        np.testing.assert_allclose(made, truth, rtol=0, atol=1e-4)
    assert bvhio.readAsBvh(str(tmp_path / "a.bvh")).FrameTime == pytest.approx(1 / 25)


def test_the_hierarchy(tmp_path: Path, motion: BodyMotion) -> None:
    write_bvh(tmp_path / "a.bvh", motion)
    bvh = read_bvh(tmp_path / "a.bvh")
    assert bvh.joint_names[0] == "pelvis"
    assert (bvh.offsets[0] == 0).all()
    for name, parent in zip(motion.joint_names, motion.parents, strict=True):
        above = bvh.parents[bvh.index(name)]
        assert (above < 0) if parent < 0 else (bvh.joint_names[above] == motion.joint_names[parent])
        assert bvh.channels[bvh.index(name)][-3:] == ("Zrotation", "Xrotation", "Yrotation")
    ends = [name for name in bvh.joint_names if name.endswith("_end")]
    assert sorted(ends) == ["head_end", "l_foot_end", "l_hand_end", "r_foot_end", "r_hand_end"]
    assert 0.1 < bvh.offsets[bvh.index("head_end"), 1] < 0.3
    assert 0.05 < bvh.offsets[bvh.index("l_hand_end"), 0] < 0.2


def test_a_last_joint_that_no_vertex_follows_ends_in_itself(tmp_path: Path, motion: BodyMotion) -> None:
    weights = motion.model.lbs_weights.clone()
    weights[:, motion.joint_names.index("head")] = 0
    write_bvh(tmp_path / "a.bvh", replace(motion, model=replace(motion.model, lbs_weights=weights)))
    bvh = read_bvh(tmp_path / "a.bvh")
    assert (bvh.offsets[bvh.index("head_end")] == 0).all()


@pytest.mark.parametrize(("joint", "axis", "column"), [("pelvis", 1, 2), ("l_knee", 0, 1), ("r_shoulder", 2, 0)])
def test_a_turn_about_one_axis_is_one_straight_curve(
    tmp_path: Path, motion: BodyMotion, joint: str, axis: int, column: int
) -> None:
    degrees = np.linspace(0, 700, 142)  # passes 90 degrees, where two axes meet, and whole turns
    write_bvh(tmp_path / "a.bvh", turning(motion, joint, axis, degrees))
    bvh = read_bvh(tmp_path / "a.bvh")
    before = sum(len(channels) for channels in bvh.channels[: bvh.index(joint)])
    first = before + (3 if joint == "pelvis" else 0)
    np.testing.assert_allclose(bvh.motion[:, first + column], degrees, rtol=0, atol=1e-2)
    others = np.delete(bvh.motion[:, first : first + 3], column, axis=1)
    np.testing.assert_allclose(others, 0, atol=1e-2)


def test_curves_have_no_jumps(tmp_path: Path, motion: BodyMotion) -> None:
    long = swaying_body(motion.model, frames=200, seed=3)
    write_bvh(tmp_path / "a.bvh", long)
    angles = read_bvh(tmp_path / "a.bvh").motion[:, 3:]
    assert np.abs(np.diff(angles, axis=0)).max() < 90
    assert np.abs(angles[:, 2]).max() > 180  # the body turns round more than once


def test_what_cannot_be_written_is_refused(tmp_path: Path, motion: BodyMotion) -> None:
    with pytest.raises(ValueError, match="unit: is 'inch'; valid are 'm', 'cm'"):
        inspect.unwrap(write_bvh)(tmp_path / "a.bvh", motion, "inch")
    with pytest.raises(OSError, match="cannot be written"):
        write_bvh(tmp_path / "missing" / "a.bvh", motion)
    assert not list(tmp_path.iterdir())
