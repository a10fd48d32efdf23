"""Where a root-relative pose stands before a camera, from its 2D keypoints alone.

A pose plus a translation is a body in the camera frame. Everything here takes any number of hypotheses per person and
needs no ground truth.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.geometry.camera import normalize_points, project
from posecore.geometry.precision import full_precision


@full_precision
def solve_translation(
    joints_rel: Float[Tensor, "people hypotheses joints 3"],
    joints_2d_px: Float[Tensor, "people joints 2"],
    confidence: Float[Tensor, "people joints"],
    K: Float[Tensor, "people 3 3"],
    min_depth: float = 0.5,
) -> Float[Tensor, "people hypotheses 3"]:
    """The translation with which each pose comes closest to the rays through its keypoints.

    Joint (X, Y, Z) + T on the ray through (u, v), both on the plane z = 1, gives ``T_x - u T_z = u Z - X`` and the same
    for y: linear least squares, weighted by the confidence, solved in float64.

    Args:
        joints_rel: Poses, metres, camera axes.
        joints_2d_px: Keypoints, pixels.
        confidence: In [0, 1]; 0 for a keypoint that was not found.
        K: Intrinsics, pixels.
        min_depth: Least distance of the root from the camera plane, metres; where the solution is nearer (or behind
            the camera), the person stands at this distance on the mean ray.

    Returns:
        Metres, camera frame.
    """
    wide = torch.float32 if K.device.type == "mps" else torch.float64
    plane = normalize_points(joints_2d_px.to(wide), K.to(wide))[:, None]
    weight = (confidence.to(wide) / confidence.to(wide).sum(-1, keepdim=True).clamp_min(1e-9))[:, None, :, None]
    joints = joints_rel.to(wide)
    # Without its mean the problem has one unknown left, the depth.
    target = plane * joints[..., 2:] - joints[..., :2]
    plane_mean, target_mean = (plane * weight).sum(-2), (target * weight).sum(-2)
    spread = plane - plane_mean[..., None, :]
    slope = (weight * spread * (target - target_mean[..., None, :])).sum((-2, -1))
    depth = -slope / (weight * spread.square()).sum((-2, -1)).clamp_min(1e-12)
    depth = torch.where(depth > min_depth, depth, min_depth)[..., None]  # also where it is not a number
    return torch.cat((target_mean + plane_mean * depth, depth), dim=-1).to(joints_rel.dtype)


@full_precision
def refine_xy(
    joints_rel: Float[Tensor, "people hypotheses joints 3"],
    transl: Float[Tensor, "people hypotheses 3"],
    joints_2d_px: Float[Tensor, "people joints 2"],
    confidence: Float[Tensor, "people joints"],
    K: Float[Tensor, "people 3 3"],
) -> Float[Tensor, "people hypotheses joints 3"]:
    """Puts every joint that was seen on the ray through its keypoint, at its own depth; the root (joint 0) stays.

    With the true root as ``transl`` the result uses ground truth: x and y are then right wherever z and the keypoints
    are.

    Args:
        joints_rel: Poses, metres, camera axes, relative to the root.
        transl: The root's place, metres, camera frame.
        joints_2d_px: Keypoints, pixels.
        confidence: 0 for a keypoint that was not found; its joint stays.
        K: Intrinsics, pixels.
    """
    plane = normalize_points(joints_2d_px, K)[:, None]
    on_rays = plane * (joints_rel[..., 2:] + transl[..., None, 2:]) - transl[..., None, :2]
    moved = (confidence > 0)[:, None, :, None].clone()
    moved[:, :, 0] = False
    return torch.cat((torch.where(moved, on_rays, joints_rel[..., :2]), joints_rel[..., 2:]), dim=-1)


def reprojection_error(
    joints_rel: Float[Tensor, "people hypotheses joints 3"],
    transl: Float[Tensor, "people hypotheses 3"],
    joints_2d_px: Float[Tensor, "people joints 2"],
    confidence: Float[Tensor, "people joints"],
    K: Float[Tensor, "people 3 3"],
) -> Float[Tensor, "people hypotheses"]:
    """Mean distance in pixels between projected joints and keypoints, weighted by confidence."""
    pixels = project(joints_rel + transl[..., None, :], K[:, None])
    distance = (pixels - joints_2d_px[:, None]).norm(dim=-1)
    weight = confidence[:, None]
    mean: Tensor = (distance * weight).sum(-1) / weight.sum(-1).clamp(min=1e-9)
    return mean
