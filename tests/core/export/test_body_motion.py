import inspect
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from posecore.body.files import load_body_model
from posecore.body.smpl import SMPLLayer
from posecore.export import BodyMotion
from posecore.testing import swaying_body, write_hand_model

UP = torch.tensor([1.0, -1.0, -1.0])


@pytest.fixture(scope="module")
def motion() -> BodyMotion:
    return swaying_body(load_body_model())


def test_posing_the_upright_motion_gives_the_body_turned_by_half_a_turn(motion: BodyMotion) -> None:
    one_shape = replace(motion, betas=motion.betas[:1])
    layer = SMPLLayer(motion.model)
    cam = layer(one_shape.betas, motion.body_pose, motion.global_orient, motion.transl).vertices
    root, body = one_shape.rotmat_up[:, 0], one_shape.rotmat_up[:, 1:]
    up = layer(one_shape.mean_betas, body, root, one_shape.pelvis_up - one_shape.rest_joints[0]).vertices
    torch.testing.assert_close(up.float(), cam * UP, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(root), torch.ones(len(root)).double())


def test_the_pelvis_keeps_its_path_where_the_shape_changes(motion: BodyMotion) -> None:
    joints = SMPLLayer(motion.model)(motion.betas, motion.body_pose, motion.global_orient, motion.transl).joints
    torch.testing.assert_close(motion.pelvis_up.float(), joints[:, 0] * UP, rtol=0, atol=1e-5)
    torch.testing.assert_close(motion.mean_betas, motion.betas.double().mean(dim=0))
    rest = SMPLLayer(motion.model)(motion.mean_betas, torch.eye(3).double().expand(23, 3, 3), torch.eye(3).double())
    torch.testing.assert_close(motion.rest_vertices, rest.vertices, rtol=0, atol=1e-6)
    torch.testing.assert_close(motion.rest_joints, rest.joints, rtol=0, atol=1e-6)


def test_parents_come_first(motion: BodyMotion) -> None:
    assert all(parent < joint for joint, parent in enumerate(motion.parents))
    assert motion.joint_names[motion.parents[motion.joint_names.index("l_knee")]] == "l_hip"


def test_tensors_that_need_gradients_or_are_half_precise_will_do(motion: BodyMotion) -> None:
    given = replace(motion, transl=motion.transl.clone().requires_grad_(), betas=motion.betas[:1].half())
    assert not given.pelvis_up.requires_grad
    assert given.rest_joints.dtype == torch.float64


def unchecked(motion: BodyMotion, **changes: Any) -> None:
    """As a user makes one, for whom nothing checks the signature."""
    values = {field.name: getattr(motion, field.name) for field in fields(motion)}
    inspect.unwrap(BodyMotion.__init__)(object.__new__(BodyMotion), **{**values, **changes})


def test_what_is_no_motion_is_refused(tmp_path: Path, motion: BodyMotion) -> None:
    write_hand_model(tmp_path / "hand.npz")
    with pytest.raises(ValueError, match=r"model: body 'hand' has 16 joints; SMPL's 24 .* are needed"):
        replace(motion, model=load_body_model(tmp_path / "hand.npz"))
    empty = {key: getattr(motion, key)[:0] for key in ("global_orient", "body_pose", "transl")}
    with pytest.raises(ValueError, match="global_orient: has no frames"):
        replace(motion, **empty)
    with pytest.raises(ValueError, match="body_pose: has 3 rows for 8 frames"):
        unchecked(motion, body_pose=motion.body_pose[:3])
    with pytest.raises(ValueError, match="transl: has 7 rows for 8 frames"):
        unchecked(motion, transl=motion.transl[1:])
    with pytest.raises(ValueError, match="betas: has 2 rows for 8 frames"):
        replace(motion, betas=motion.betas[:2])
    with pytest.raises(ValueError, match="transl: holds a value that is not finite"):
        replace(motion, transl=motion.transl * math.nan)
    for fps in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"fps: is .*; it must be positive"):
            replace(motion, fps=fps)
