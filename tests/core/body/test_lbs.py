import numpy as np
import pytest
import torch

from posecore.body.lbs import KinematicTree, linear_blend_skinning
from posecore.body.skeletons import JOINT_SETS, SMPL_24
from posecore.geometry.rotation import random_rotmat


def pose_one_by_one(rotmat, rest_joints, parents):
    """Reference: 4x4 matrices, joint by joint, recursing to the root."""

    def world(joint):
        parent = parents[joint]
        local = np.eye(4)
        local[:3, :3] = rotmat[joint]
        local[:3, 3] = rest_joints[joint] - (rest_joints[parent] if parent >= 0 else 0)
        return (world(parent) if parent >= 0 else np.eye(4)) @ local

    transforms = np.stack([world(joint) for joint in range(len(parents))])
    return transforms[:, :3, :3], transforms[:, :3, 3]


@pytest.mark.parametrize("name", JOINT_SETS)
def test_poses_every_tree_as_joint_by_joint_does(name, generator):
    parents = JOINT_SETS[name].parents  # some list children before parents
    rotmat = random_rotmat((len(parents),), generator, dtype=torch.float64)
    rest = torch.randn(len(parents), 3, generator=generator, dtype=torch.float64)
    world, joints = KinematicTree(parents)(rotmat, rest)
    expected_world, expected_joints = pose_one_by_one(rotmat.numpy(), rest.numpy(), parents)
    np.testing.assert_allclose(world, expected_world, atol=1e-12)
    np.testing.assert_allclose(joints, expected_joints, atol=1e-12)


def test_several_roots(generator):
    parents = (2, -1, -1, 1, 0)
    rotmat = random_rotmat((5,), generator, dtype=torch.float64)
    rest = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    world, joints = KinematicTree(parents)(rotmat, rest)
    expected_world, expected_joints = pose_one_by_one(rotmat.numpy(), rest.numpy(), parents)
    np.testing.assert_allclose(world, expected_world, atol=1e-12)
    np.testing.assert_allclose(joints, expected_joints, atol=1e-12)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_and_bone_lengths(batch, dtype, generator):
    tree = KinematicTree(SMPL_24.parents)
    rotmat = random_rotmat((*batch, 24), generator, dtype=dtype)
    rest = torch.randn(24, 3, generator=generator, dtype=dtype)
    world, joints = tree(rotmat, rest.expand(*batch, 24, 3))
    assert joints.shape == (*batch, 24, 3)
    assert joints.dtype == world.dtype == dtype
    parent, child = np.array(SMPL_24.bones).T
    lengths = (joints[..., child, :] - joints[..., parent, :]).norm(dim=-1)
    torch.testing.assert_close(lengths, (rest[child] - rest[parent]).norm(dim=-1).expand(*batch, 23))
    one, _ = tree(rotmat.reshape(-1, 24, 3, 3)[0], rest)
    torch.testing.assert_close(world.reshape(-1, 24, 3, 3)[0], one)


def test_autocast_does_not_coarsen(generator):
    tree = KinematicTree(SMPL_24.parents)
    rotmat, rest = random_rotmat((2, 24), generator), torch.randn(2, 24, 3, generator=generator)
    exact = tree(rotmat, rest)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = tree(rotmat, rest)[1]
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, exact)


@pytest.mark.parametrize("parents", [(), (-2, 0), (-1, 2)])
def test_parents_out_of_range(parents):
    with pytest.raises(ValueError, match="each must be -1 or the index of one of"):
        KinematicTree(parents)


@pytest.mark.parametrize("parents", [(0,), (-1, 2, 1), (-1, 3, 1, 2)])
def test_circular_parents(parents):
    with pytest.raises(ValueError, match="run in a circle"):
        KinematicTree(parents)


def skinning_inputs(generator, people=2, shapes=2):
    """Coefficients of blend shapes, these, weights, and motions of 4 joints."""
    coefficients = torch.randn(shapes, 5, generator=generator, dtype=torch.float64)
    blend_shapes = torch.randn(3, 5, 300, generator=generator, dtype=torch.float64)
    weights = torch.rand(4, 300, generator=generator, dtype=torch.float64)
    rigid = torch.randn(4, 3, people, 4, generator=generator, dtype=torch.float64)
    return coefficients, blend_shapes, weights, rigid


@pytest.mark.parametrize(("people", "shapes"), [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("block_bytes", [1, 10**6])
def test_skinning_is_the_weighted_mean_of_motions(people, shapes, block_bytes, generator, monkeypatch):
    monkeypatch.setattr("posecore.body.lbs._BLOCK_BYTES", block_bytes)  # three blocks, the last smaller, and one
    inputs = skinning_inputs(generator, people, shapes)
    coefficients, blend_shapes, weights, rigid = (value.requires_grad_() for value in inputs)
    skinned = linear_blend_skinning(coefficients, blend_shapes.detach(), weights.detach(), rigid)
    points = torch.einsum("nk,ckp->npc", coefficients, blend_shapes).expand(people, -1, -1)
    moved = torch.einsum("brnj,npb->njpr", rigid[:3], points) + rigid[3].permute(1, 2, 0)[:, :, None]
    expected = torch.einsum("jp,njpr->nrp", weights, moved)
    torch.testing.assert_close(skinned, expected)
    with torch.no_grad():
        torch.testing.assert_close(linear_blend_skinning(*inputs), expected)
    direction = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((made * direction).sum(), (coefficients, rigid)) for made in (skinned, expected)]
    torch.testing.assert_close(*gradients)


def test_skinning_gradients(generator):
    coefficients, blend_shapes, weights, rigid = skinning_inputs(generator)
    blend_shapes, weights = blend_shapes[..., :7].contiguous(), weights[:, :7].contiguous()

    def skin(coefficients, rigid):
        return linear_blend_skinning(coefficients, blend_shapes, weights, rigid)

    assert torch.autograd.gradcheck(skin, (coefficients.requires_grad_(), rigid.requires_grad_()))
