"""Training losses of ScoreHMR and of its open starting regressor."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posecore.geometry.rotation import rot6d_to_rotmat


def noise_loss(
    output: Float[Tensor, "batch dim"], noise: Float[Tensor, "batch dim"], known: Bool[Tensor, " batch"] | None = None
) -> Float[Tensor, ""]:
    """Eq. (11): squared error of the predicted noise, mean over dimensions and over the people whose pose is known.

    Args:
        output: The denoiser's output.
        noise: The noise that was added.
        known: Rows that count; all where None. A batch without any gives 0.
    """
    error = (output - noise).square().mean(dim=-1)
    return _mean(error, known)


def regressor_loss(
    pose_rot6d: Float[Tensor, "batch 24 6"],
    betas: Float[Tensor, "batch 10"],
    joints: Float[Tensor, "batch joints 3"],
    true_pose_rotmat: Float[Tensor, "batch 24 3 3"],
    true_betas: Float[Tensor, "batch 10"],
    true_joints: Float[Tensor, "batch joints 3"],
    w_joints: float,
    w_betas: float,
    has_pose: Bool[Tensor, " batch"] | None = None,
    has_betas: Bool[Tensor, " batch"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Losses of a human mesh regressor, as SPIN's but for the camera, which is solved and not regressed.

    Args:
        pose_rot6d: Predicted pose, root first.
        betas: Predicted shape.
        joints: Joints of the predicted body, metres, relative to the pelvis.
        true_pose_rotmat: Pose.
        true_betas: Shape.
        true_joints: Joints, metres, relative to the pelvis.
        w_joints: Weight of the joints' mean distance in metres.
        w_betas: Weight of the shape's mean squared error.
        has_pose: Rows whose pose counts; all where None.
        has_betas: Rows whose shape counts; all where None. Joints count where both are known.

    Returns:
        ``pose`` (mean squared error of the rotation matrices), ``joints`` and ``betas``, weighted.
    """
    pose = (rot6d_to_rotmat(pose_rot6d) - true_pose_rotmat).square().mean(dim=(-1, -2, -3))
    distance = (joints - true_joints).norm(dim=-1).mean(dim=-1)
    shape = (betas - true_betas).square().mean(dim=-1)
    both = has_betas if has_pose is None else has_pose if has_betas is None else has_pose & has_betas
    return {
        "pose": _mean(pose, has_pose),
        "joints": w_joints * _mean(distance, both),
        "betas": w_betas * _mean(shape, has_betas),
    }


def _mean(values: Float[Tensor, " batch"], known: Bool[Tensor, " batch"] | None) -> Float[Tensor, ""]:
    if known is None:
        return values.mean()
    return torch.where(known, values, 0.0).sum() / known.sum().clamp_min(1)
