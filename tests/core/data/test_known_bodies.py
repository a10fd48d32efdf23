"""Rows whose body is known, sets that know none, and the joints that these are scored by."""

from typing import Any, cast

import pytest
import torch

from posecore.body.joint_maps import joint_map
from posecore.body.skeletons import COCO_17, H36M_17, JOINTS_44, SMPL_24
from posecore.data import SyntheticMotion
from posecore.data.base import PoseTable
from posecore.data.known_bodies import has_bodies, known_bodies, own_joints
from posecore.data.sample import PoseSample

POSE, BETAS = torch.tensor([True, False, True]), torch.tensor([True, True, False])


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ({"has_pose": POSE}, [True, False, True]),
        ({"has_betas": BETAS}, [True, True, False]),
        ({"has_pose": POSE, "has_betas": BETAS}, [True, False, False]),
    ],
)
def test_a_body_is_known_where_pose_and_shape_are(flags: dict[str, Any], wanted: list[bool]) -> None:
    known = known_bodies(cast(PoseSample, flags))
    assert known is not None
    assert known.tolist() == wanted
    assert known_bodies({"betas": torch.zeros(3, 10)}) is None


def test_sets_with_bodies() -> None:
    assert has_bodies(PoseTable(SMPL_24, {"betas": torch.zeros(3, 10)}))
    assert has_bodies(PoseTable(SMPL_24, {"has_pose": POSE, "has_betas": BETAS}))
    assert not has_bodies(PoseTable(SMPL_24, {"has_pose": POSE, "has_betas": ~POSE}))
    assert has_bodies(SyntheticMotion(split="test", num_clips=1))


def test_own_joints_are_those_of_the_set() -> None:
    """Joints that joints44 has twice are taken where SPIN's files put Human3.6M's."""
    generator = torch.Generator().manual_seed(0)
    joints = torch.randn(2, 44, 3, generator=generator)
    known = torch.rand(2, 44, generator=generator) > 0.3
    batch: PoseSample = {"joints_cam": joints, "joints_known": known}
    found, told = own_joints(batch, H36M_17)
    places = {"pelvis": "pelvis", "l_wrist": "l_wrist", "thorax": "neck", "head_top": "head_top_h36m"}
    for name, place in places.items():
        torch.testing.assert_close(found[:, H36M_17.index(name)], joints[:, JOINTS_44.index(place)], rtol=0, atol=0)
        assert torch.equal(told[:, H36M_17.index(name)], known[:, JOINTS_44.index(place)])
    general, told = own_joints(batch, COCO_17)
    torch.testing.assert_close(general, joint_map(JOINTS_44, COCO_17).apply(joints))
    assert told.shape == (2, 17)
