"""Moves a recorded skeleton's motion onto SMPL's 24 joints: every limb keeps its direction exactly."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.skeletons import SMPL_24

# These carry a frame of the trunk or the head, and the rest skeletons agree in it: no correction of direction.
_UPRIGHT = ("pelvis", "spine1", "spine2", "spine3", "neck", "head")
_LEGS = (("l_hip", "l_knee"), ("l_knee", "l_ankle"), ("r_hip", "r_knee"), ("r_knee", "r_ankle"))


@dataclass(frozen=True)
class RetargetedPose:
    """SMPL parameters in the world frame, for a body of shape ``betas = 0``; ``body_scale`` scaled the trajectory."""

    global_orient: Float[Tensor, "frames 3 3"]
    body_pose: Float[Tensor, "frames 23 3 3"]
    transl: Float[Tensor, "frames 3"]
    body_scale: float


def smallest_rotation(
    source: Float[Tensor, "*batch 3"], target: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 3 3"]:
    """The rotation by the smallest angle that turns the direction ``source`` into ``target`` (lengths do not matter).

    For opposite directions, where the axis is free, it is half a turn about an axis perpendicular to ``source``.
    """
    a = source / source.norm(dim=-1, keepdim=True)
    b = target / target.norm(dim=-1, keepdim=True)
    # A product of two reflections: a onto the half vector, the half vector onto b.
    half = a + b
    opposite = half.norm(dim=-1, keepdim=True) < 1e-6
    other = torch.zeros_like(a).scatter(-1, a.abs().argmin(dim=-1, keepdim=True), 1.0)
    half = torch.where(opposite, torch.linalg.cross(a, other, dim=-1), half)
    half = half / half.norm(dim=-1, keepdim=True)
    eye = torch.eye(3, dtype=a.dtype, device=a.device)
    turn = 2 * half[..., :, None] * half[..., None, :] - eye
    # ``turn`` is half a turn about the half vector; half a turn about a before it leaves the smallest rotation.
    first = 2 * a[..., :, None] * a[..., None, :] - eye
    return torch.where(opposite[..., None], turn, turn @ first)


def retarget_to_smpl(
    source_rotations: Float[Tensor, "frames 24 3 3"],
    source_rest: Float[Tensor, "24 3"],
    source_hips: Float[Tensor, "frames 3"],
    target_rest: Float[Tensor, "24 3"],
) -> RetargetedPose:
    """R_target[j] = R_source[j] C[j], with C[j] the smallest rotation from the target's to the source's rest bone.

    Args:
        source_rotations: world rotations of the source joints that stand for SMPL's 24 joints.
        source_rest: their positions in the source's rest pose, metres.
        source_hips: middle of the two hip joints in the world, metres.
        target_rest: rest joints of the SMPL body, metres.
    """
    dtype = source_rotations.dtype
    correction = torch.eye(3, dtype=dtype).repeat(24, 1, 1)
    for j, (name, parent) in enumerate(zip(SMPL_24.joint_names, SMPL_24.parents, strict=True)):
        # The bone of a joint is the one to its child; each limb joint has exactly one.
        if name not in _UPRIGHT and j in SMPL_24.parents:
            child = SMPL_24.parents.index(j)
            correction[j] = smallest_rotation(target_rest[child] - target_rest[j], source_rest[child] - source_rest[j])
        elif name not in _UPRIGHT:  # Feet and hands have no bone of their own.
            correction[j] = correction[parent]
    world = source_rotations @ correction
    parents = torch.tensor(SMPL_24.parents[1:])
    body_pose = world[:, parents].transpose(-1, -2) @ world[:, 1:]
    hips = [SMPL_24.index("l_hip"), SMPL_24.index("r_hip")]
    pelvis_from_hips = target_rest[0] - target_rest[hips].mean(dim=0)
    body_scale = _leg_length(target_rest) / _leg_length(source_rest)
    pelvis = source_hips * body_scale + world[:, 0] @ pelvis_from_hips
    return RetargetedPose(world[:, 0].contiguous(), body_pose, pelvis - target_rest[0], body_scale)


def _leg_length(rest: Float[Tensor, "24 3"]) -> float:
    """Sum of thigh and shank, mean of both sides."""
    bones = [(rest[SMPL_24.index(b)] - rest[SMPL_24.index(a)]).norm() for a, b in _LEGS]
    return float(torch.stack(bones).sum()) / 2
