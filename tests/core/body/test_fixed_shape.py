"""Joints at fixed shape against the body layer, forward and backward."""

import dataclasses

import pytest
import torch

from posecore.body.files import load_body_model
from posecore.body.fixed_shape import FixedShapeJoints
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import BODY_25, H36M_17, JOINTS_44, SMPL_24, JointSet
from posecore.geometry.rotation import rot6d_to_rotmat

SETS = [SMPL_24, BODY_25, JOINTS_44, H36M_17]


def drawn(people: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(people)
    pose = torch.randn(people, 24, 6, generator=generator, dtype=dtype)
    return pose, torch.randn(people, 10, generator=generator, dtype=dtype)


@pytest.mark.parametrize("joint_set", SETS, ids=lambda joint_set: joint_set.name)
@pytest.mark.parametrize("people", [1, 5])
def test_joints_and_gradients_equal_the_layers(joint_set: JointSet, people: int) -> None:
    named = NamedJoints(joint_set, load_body_model(dtype=torch.float64))
    pose, betas = drawn(people, torch.float64)
    found, reference = pose.clone().requires_grad_(), pose.clone().requires_grad_()
    joints = FixedShapeJoints(named, betas)(found)
    rotmat = rot6d_to_rotmat(reference)
    expected = named(betas, rotmat[:, 1:], rotmat[:, 0])
    torch.testing.assert_close(joints, expected, atol=1e-12, rtol=0)
    pull = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(joints, found, pull)
    (wanted,) = torch.autograd.grad(expected, reference, pull)
    torch.testing.assert_close(gradient, wanted, atol=1e-9, rtol=1e-9)


def test_the_gradient_is_that_of_finite_differences() -> None:
    pose, betas = drawn(2, torch.float64)
    body = FixedShapeJoints(NamedJoints(BODY_25, load_body_model(dtype=torch.float64)), betas)
    assert torch.autograd.gradcheck(body, (pose.requires_grad_(),), atol=1e-6)


def test_autocast_changes_nothing() -> None:
    """A Trainer's bf16-mixed precision reaches fits, too; joints in 16 bits would be centimetres off."""
    pose, betas = drawn(3, torch.float32)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            leaf = pose.clone().requires_grad_()
            joints = FixedShapeJoints(NamedJoints(BODY_25), betas)(leaf)
            (gradient,) = torch.autograd.grad(joints.square().sum(), leaf)
        results.append((joints.detach(), gradient))
    for plain, automatic in zip(*results, strict=True):
        assert automatic.dtype == torch.float32
        assert torch.equal(plain, automatic)


def test_take_keeps_people_and_leaves_the_others_alone() -> None:
    pose, betas = drawn(4, torch.float32)
    body = FixedShapeJoints(NamedJoints(BODY_25), betas)
    whole = body(pose)
    rows = torch.tensor([3, 1])
    torch.testing.assert_close(body.take(rows)(pose[rows]), whole[rows])
    torch.testing.assert_close(body(pose), whole)


def test_pose_blend_shapes_are_refused_where_they_matter() -> None:
    model = load_body_model()
    model = dataclasses.replace(model, posedirs=torch.ones_like(model.posedirs))
    _, betas = drawn(1, torch.float32)
    assert not FixedShapeJoints.supports(NamedJoints(BODY_25, model))
    with pytest.raises(ValueError, match="move with pose blend shapes"):
        FixedShapeJoints(NamedJoints(BODY_25, model), betas)
    assert FixedShapeJoints.supports(NamedJoints(SMPL_24, model))  # no vertex is needed
    assert FixedShapeJoints.supports(NamedJoints(BODY_25))
