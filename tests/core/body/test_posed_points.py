"""Points that joints hold, against one joint after the other and finite differences."""

import numpy as np
import pytest
import torch

from posecore.body.posed_points import PosedPoints
from posecore.geometry.rotation import random_rotmat

# Several roots, children before parents, and a chain.
TREES = [(-1,), (-1, 0, 0, 1, 3), (2, -1, -1, 1, 0, 4)]


def drawn(parents, generator, people=3, shapes=3):
    """A point per joint and one in the world, sums of them, and a pose."""
    holders = [*range(len(parents)), -1]
    mix = torch.randn(4, len(holders), generator=generator, dtype=torch.float64)
    points = torch.randn(len(holders), 3, shapes, generator=generator, dtype=torch.float64)
    rotmat = random_rotmat((people, len(parents)), generator, dtype=torch.float64)
    return PosedPoints(parents, holders, mix), mix, points, rotmat


@pytest.mark.parametrize("parents", TREES)
@pytest.mark.parametrize("shapes", [3, 1])
def test_equals_one_joint_after_the_other(parents, shapes, generator):
    posed, mix, points, rotmat = drawn(parents, generator, shapes=shapes)
    outputs, world = posed(points, rotmat)

    def frame(joint, person):
        if joint < 0:
            return np.eye(3)
        return frame(parents[joint], person) @ rotmat[person, joint].numpy()

    for person in range(3):
        frames = np.stack([frame(joint, person) for joint in [*range(len(parents)), -1]])
        held = np.einsum("pab,pb->pa", frames, points[..., person % shapes].numpy())
        np.testing.assert_allclose(world[..., person], frames[:-1], atol=1e-12)
        np.testing.assert_allclose(outputs[..., person], mix.numpy() @ held, atol=1e-12)


@pytest.mark.parametrize("parents", TREES)
@pytest.mark.parametrize("shapes", [3, 1])
@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)])
def test_gradients_are_those_of_finite_differences(parents, shapes, used, generator):
    posed, _, points, rotmat = drawn(parents, generator, shapes=shapes)

    def pose(points, rotmat):
        made = posed(points, rotmat)
        return tuple(made[i] for i in used)

    # Any matrices will do: nothing relies on rotations.
    inputs = points.requires_grad_(), (rotmat + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(pose, inputs)


def test_gradients_of_gradients_are_refused(generator):
    posed, _, points, rotmat = drawn(TREES[1], generator)
    (gradient,) = torch.autograd.grad(
        posed(points, rotmat.requires_grad_())[0].square().sum(), rotmat, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("people", [0, 2])
def test_what_comes_out_with_and_without_gradients_is_the_same(people, generator):
    posed, _, points, rotmat = drawn(TREES[2], generator, people=people, shapes=people)
    for plain, with_gradient in zip(posed(points, rotmat), posed(points, rotmat.requires_grad_()), strict=True):
        assert torch.equal(plain, with_gradient)


def test_circular_parents():
    with pytest.raises(ValueError, match=r"parents \(-1, 2, 1\) run in a circle"):
        PosedPoints((-1, 2, 1), [0], torch.ones(1, 1))
