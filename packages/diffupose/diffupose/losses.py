"""DiffuPose's loss: L1 of noise and of reconstructed keypoints, joints weighted (Eqs. (8)-(10))."""

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.skeletons import JointSet

_WEIGHTS = {"knee": 2.0, "elbow": 2.0, "neck_nose": 2.0, "ankle": 4.0, "wrist": 4.0}


def joint_weights(joint_set: JointSet) -> Float[Tensor, " joints"]:
    """Ends of limbs count 4, their middles (and neck/nose) 2, all others 1, as in the release."""
    return torch.tensor(
        [next((w for part, w in _WEIGHTS.items() if part in name), 1.0) for name in joint_set.joint_names]
    )


def noise_loss(
    output: Float[Tensor, "batch joints 5"],
    noise: Float[Tensor, "batch joints 3"],
    weights: Float[Tensor, " joints"],
) -> Float[Tensor, ""]:
    """Eq. (8), the sum over its three channels divided by all five, so that it and `keypoint_loss` add up to a mean.

    Deviation: the paper writes a norm; L1 as in the release.
    """
    return ((output[..., :3] - noise).abs() * weights[:, None]).sum(dim=-1).mean() / 5


def keypoint_loss(
    output: Float[Tensor, "batch joints 5"],
    keypoints: Float[Tensor, "batch joints 2"],
    weights: Float[Tensor, " joints"],
) -> Float[Tensor, ""]:
    """Eq. (9), L1 as in the release; to be multiplied by lambda (0.8), Eq. (10)."""
    return ((output[..., 3:] - keypoints).abs() * weights[:, None]).sum(dim=-1).mean() / 5
