"""Training losses: L_diff of the noise, and the terms of L_hmr on the one-step estimate of the clean pose (Sec. 3.2).

The paper names the terms of L_hmr and no more; their form is SPIN's. Every term is a mean over what is known, so that
rows without truth change nothing, and is 0 where nothing is. ``weight`` scales a row's share and leaves the count as it
is: a batch of rows of little weight has a small loss.

References:
    Kolotouros et al., Learning to Reconstruct 3D Human Pose and Shape via Model-fitting in the Loop, ICCV 2019.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

X0Weighting = Literal["uniform", "alpha_bar", "gate"]
"""How much the terms on a one-step x_0 count: all alike, by alpha-bar_t, or only above a bound on alpha-bar_t."""


def noise_loss(
    predicted: Float[Tensor, "rows 24 channels"],
    noise: Float[Tensor, "rows 24 channels"],
    known: Bool[Tensor, " rows"] | None = None,
    weight: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """L_diff: squared error of the predicted noise; mean over the numbers of all rows whose pose is known."""
    return _mean(_squared_error(predicted, noise, known), known, weight)


def pose_loss(
    pose_rotmat: Float[Tensor, "rows 24 3 3"],
    true_pose_rotmat: Float[Tensor, "rows 24 3 3"],
    has_pose: Bool[Tensor, " rows"] | None = None,
    weight: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """Squared error of the rotation matrices; mean over the entries of all rows whose pose is known."""
    return _mean(_squared_error(pose_rotmat, true_pose_rotmat, has_pose), has_pose, weight)


def betas_loss(
    betas: Float[Tensor, "rows 10"],
    true_betas: Float[Tensor, "rows 10"],
    has_betas: Bool[Tensor, " rows"] | None = None,
    weight: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """Squared error of the shape; mean over the betas of all rows whose shape is known."""
    return _mean(_squared_error(betas, true_betas, has_betas), has_betas, weight)


def joints_loss(
    joints: Float[Tensor, "rows joints 3"],
    true_joints: Float[Tensor, "rows joints 3"],
    root: Sequence[int],
    joints_known: Bool[Tensor, "rows joints"] | None = None,
    weight: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """Squared error of the 3D joints relative to the root, square metres; mean over coordinates of known joints.

    Args:
        joints: Predicted, metres.
        true_joints: True, metres, in axes parallel to those of the prediction.
        root: Joints whose mean is the root: SPIN's are the two hips.
        joints_known: Which joints count; all where None. A row whose root is unknown does not count at all.
        weight: Of the rows.
    """
    at = list(root)
    centred, true_centred = (points - points[:, at].mean(dim=1, keepdim=True) for points in (joints, true_joints))
    if joints_known is not None:
        joints_known = joints_known & joints_known[:, at].all(dim=1, keepdim=True)
    return _mean(_squared_error(centred, true_centred, joints_known), joints_known, weight)


def keypoints_loss(
    joints_2d: Float[Tensor, "rows joints 2"],
    keypoints: Float[Tensor, "rows joints 2"],
    confidence: Float[Tensor, "rows joints"],
    weight: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """Squared error of the projected joints times confidence; mean over coordinates of joints of any confidence.

    Args:
        joints_2d: Projected, [-1, 1] over the crop.
        keypoints: True or detected, likewise.
        confidence: Of each, 0 where there is none.
        weight: Of the rows.
    """
    known = confidence > 0
    error = _squared_error(joints_2d, keypoints, known) * torch.where(known, confidence, 0.0)[..., None]
    return _mean(error, known, weight)


def camera_scale_loss(scale: Float[Tensor, " rows"], weight: Float[Tensor, " rows"] | None = None) -> Float[Tensor, ""]:
    """exp(-10 s)^2, which keeps the weak camera's scale s off zero; mean over all rows."""
    return _mean(torch.exp(-20 * scale), None, weight)


def x0_weight(
    alpha_bar: Float[Tensor, " rows"], kind: X0Weighting = "alpha_bar", gate: float = 0.5
) -> Float[Tensor, " rows"]:
    """Weight of a row's terms on its one-step x_0, whose error grows without bound with the noise.

    Deviation: the paper has no weights, or does not say so.

    Args:
        alpha_bar: alpha-bar_t of each row, the share of the signal in its variance.
        kind: ``uniform`` is 1, ``alpha_bar`` is alpha-bar_t, ``gate`` is 1 from a bound on and 0 below.
        gate: That bound; at 0.5 there is as much signal as noise.

    Raises:
        ValueError: ``kind`` is unknown.
    """
    if kind not in get_args(X0Weighting):
        raise ValueError(f"x_0 weighting must be one of {get_args(X0Weighting)}, got {kind!r}")
    if kind == "uniform":
        return torch.ones_like(alpha_bar)
    return alpha_bar if kind == "alpha_bar" else (alpha_bar >= gate).to(alpha_bar)


def _squared_error(predicted: Tensor, true: Tensor, known: Tensor | None) -> Tensor:
    """0, with no gradient, where unknown, so that what stands there may be anything, NaN too."""
    difference = predicted - true
    if known is not None:
        difference = torch.where(_expand(known, difference), difference, 0.0)
    return difference.square()


def _mean(error: Tensor, known: Tensor | None, weight: Tensor | None) -> Tensor:
    """Over known numbers; ``error`` is 0 at the others."""
    if weight is not None:
        error = error * _expand(weight, error)
    if known is None:
        return error.mean()
    numbers = math.prod(error.shape[known.ndim :])  # of one flag
    return error.sum() / (known.sum() * numbers).clamp_min(1)


def _expand(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))
