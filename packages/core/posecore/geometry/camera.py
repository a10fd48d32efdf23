"""Pinhole and weak-perspective cameras, lens distortion, and image crops.

Camera frame: x right, y down, z forward, metres. Pixels: x right, y down, continuous, (0, 0) is the top left *corner*
of the image, so that an image of width W spans [0, W] and crops scale without half-pixel shifts.
Batch dimensions broadcast: one camera may serve a whole batch. Half-precision inputs are raised to float32.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.geometry.precision import full_precision

LensModel = Literal["human36m", "opencv"]

MIN_DEPTH = 1e-3  # metres; nothing that a camera sees is nearer


@full_precision
def intrinsics(
    focal_length: Float[Tensor, "*#batch _"] | float | int, center: Float[Tensor, "*#batch 2"]
) -> Float[Tensor, "*#batch 3 3"]:
    """Builds K from focal length and principal point in pixels.

    Args:
        focal_length: One number for all cameras; or, in the last dimension, one number or (fx, fy) per camera.
        center: Principal point (x, y) per camera.

    Raises:
        ValueError: If the last dimension of ``focal_length`` is neither 1 nor 2.
    """
    focal = focal_length if isinstance(focal_length, Tensor) else center.new_tensor([focal_length])
    if focal.shape[-1:] not in ((1,), (2,)):
        raise ValueError(
            f"focal_length has shape {tuple(focal.shape)}; its last dimension must be 1, or 2 for (fx, fy)"
        )
    focal, center = torch.broadcast_tensors(focal, center)
    zero, one = torch.zeros_like(center[..., 0]), torch.ones_like(center[..., 0])
    rows = (focal[..., 0], zero, center[..., 0], zero, focal[..., 1], center[..., 1], zero, zero, one)
    return torch.stack(rows, dim=-1).reshape(*zero.shape, 3, 3)


@full_precision
def world_to_cam(
    points_world: Float[Tensor, "*#batch n 3"],
    R_world_to_cam: Float[Tensor, "*#batch 3 3"],
    t_world_to_cam: Float[Tensor, "*#batch 3"],
) -> Float[Tensor, "*#batch n 3"]:
    """Moves points from the world into the camera frame, R x + t (metres)."""
    return points_world @ R_world_to_cam.transpose(-1, -2) + t_world_to_cam.unsqueeze(-2)


@full_precision
def cam_to_world(
    points_cam: Float[Tensor, "*#batch n 3"],
    R_world_to_cam: Float[Tensor, "*#batch 3 3"],
    t_world_to_cam: Float[Tensor, "*#batch 3"],
) -> Float[Tensor, "*#batch n 3"]:
    """Undoes :func:`world_to_cam`, R^T (x - t); it takes the same camera."""
    return (points_cam - t_world_to_cam.unsqueeze(-2)) @ R_world_to_cam


@full_precision
def project(points_cam: Float[Tensor, "*#batch n 3"], K: Float[Tensor, "*#batch 3 3"]) -> Float[Tensor, "*#batch n 2"]:
    """Projects points of the camera frame to pixels.

    Depths below ``MIN_DEPTH`` (1 mm), so also points behind the camera, are taken as ``MIN_DEPTH``: the result is
    finite, lies on the side of the image where the point is, far outside, and passes no gradient to the depth.

    Args:
        points_cam: Metres, camera frame.
        K: Intrinsics in pixels; the last row is taken as (0, 0, 1).
    """
    points_norm = points_cam[..., :2] / points_cam[..., 2:].clamp_min(MIN_DEPTH)
    return denormalize_points(points_norm, K)


@full_precision
def denormalize_points(
    points_norm: Float[Tensor, "*#batch n 2"], K: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*#batch n 2"]:
    """Image plane at depth 1 to pixels."""
    points_2d_px: Tensor = points_norm @ K[..., :2, :2].transpose(-1, -2) + K[..., None, :2, 2]
    return points_2d_px


@full_precision
def normalize_points(
    points_2d_px: Float[Tensor, "*#batch n 2"], K: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*#batch n 2"]:
    """Pixels to the image plane at depth 1. K is upper triangular; a skew in K[0, 1] is honoured."""
    y = (points_2d_px[..., 1] - K[..., None, 1, 2]) / K[..., None, 1, 1]
    x = (points_2d_px[..., 0] - K[..., None, 0, 2] - K[..., None, 0, 1] * y) / K[..., None, 0, 0]
    return torch.stack((x, y), dim=-1)


@full_precision
def backproject_rays(
    points_2d_px: Float[Tensor, "*#batch n 2"], K: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*#batch n 3"]:
    """Unit vectors, in the camera frame, from the camera's centre through pixels."""
    points_norm = normalize_points(points_2d_px, K)
    rays = torch.cat((points_norm, torch.ones_like(points_norm[..., :1])), dim=-1)
    return torch.nn.functional.normalize(rays, dim=-1)


@full_precision
def distort(
    points_norm: Float[Tensor, "*#batch n 2"],
    k: Float[Tensor, "*#batch 3"],
    p: Float[Tensor, "*#batch 2"],
    model: LensModel = "human36m",
) -> Float[Tensor, "*#batch n 2"]:
    """Bends ideal image points as the lens does, with three radial and two tangential terms.

    With r the distance from the middle, (x, y) goes to (x, y) (1 + k1 r^2 + k2 r^4 + k3 r^6 + c (p1 y + p2 x)) +
    (p2, p1) r^2, where c is 2 in OpenCV and 1 in Human3.6M. (VideoPose3D swaps p1 and p2 against Human3.6M's own code.)

    Args:
        points_norm: Points on the image plane at depth 1 (not pixels).
        k: Radial (k1, k2, k3).
        p: Tangential (p1, p2). OpenCV's vector lists them as (k1, k2, p1, p2, k3).
        model: Whose formula the numbers were calibrated with.

    Raises:
        ValueError: If ``model`` is not one of the two.
    """
    _check_model(model)
    k, p_swapped = k.unsqueeze(-2), p.flip(-1).unsqueeze(-2)
    r2 = points_norm.square().sum(dim=-1, keepdim=True)
    radial = 1 + r2 * (k[..., :1] + r2 * (k[..., 1:2] + r2 * k[..., 2:]))
    tangential = (points_norm * p_swapped).sum(dim=-1, keepdim=True)
    if model == "opencv":
        tangential = 2 * tangential
    return points_norm * (radial + tangential) + p_swapped * r2


@full_precision
def undistort(
    points_norm: Float[Tensor, "*#batch n 2"],
    k: Float[Tensor, "*#batch 3"],
    p: Float[Tensor, "*#batch 2"],
    model: LensModel = "human36m",
    tolerance: float = 1e-6,
    max_iterations: int = 50,
) -> Float[Tensor, "*#batch n 2"]:
    """Undoes :func:`distort` by fixed-point iteration.

    Args:
        points_norm: Bent points on the image plane at depth 1.
        k: Radial (k1, k2, k3).
        p: Tangential (p1, p2).
        model: Whose formula the numbers were calibrated with, see :func:`distort`.
        tolerance: The iteration ends when no point, bent again, misses its place on the image plane by more than this.
        max_iterations: It also ends after this many steps.

    Returns:
        The ideal points. Points so far out that no ideal point is bent there, or that the iteration does not find, come
        back as they are.

    Raises:
        ValueError: If ``model`` is unknown, or ``tolerance`` or ``max_iterations`` not positive.
    """
    _check_model(model)
    if tolerance <= 0:
        raise ValueError(f"tolerance is {tolerance}; valid are lengths above 0")
    if max_iterations < 1:
        raise ValueError(f"max_iterations is {max_iterations}; valid are 1 or more")
    ideal = points_norm
    for _ in range(max_iterations):
        error = distort(ideal, k, p, model) - points_norm
        if (error.abs() <= tolerance).all():
            return ideal
        ideal = ideal - error
    error = distort(ideal, k, p, model) - points_norm
    found = (error.abs() <= tolerance).all(dim=-1, keepdim=True)  # not a number compares as not found
    return torch.where(found, ideal, points_norm)


def _check_model(model: str) -> None:
    if model not in get_args(LensModel):
        raise ValueError(f"model is {model!r}; valid are {', '.join(map(repr, get_args(LensModel)))}")


@full_precision
def project_weak_perspective(
    points: Float[Tensor, "*#batch n 3"], cam_s_tx_ty: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*#batch n 2"]:
    """Projects points to the crop by s (x + tx, y + ty), in [-1, 1] over the crop; depth plays no part.

    Args:
        points: Metres, in axes parallel to the camera's, around the person's own origin.
        cam_s_tx_ty: Scale (crop half-widths per metre) and shift (metres), what HMR-style networks predict.
    """
    return cam_s_tx_ty[..., None, :1] * (points[..., :2] + cam_s_tx_ty[..., None, 1:])


@full_precision
def weak_to_full_translation(
    cam_s_tx_ty: Float[Tensor, "*#batch 3"],
    center: Float[Tensor, "*#batch 2"],
    box_size: Float[Tensor, "*#batch"],
    image_size: Float[Tensor, "*#batch 2"],
    focal_length: Float[Tensor, "*#batch"] | float | int,
) -> Float[Tensor, "*#batch 3"]:
    """Turns a crop's weak-perspective camera into the person's translation before the whole image's camera.

    tz = 2 f / (b s), tx' = tx + 2 (cx - W/2) / (b s), ty' alike: the box looks at that depth as the weak camera says.

    Args:
        cam_s_tx_ty: Weak camera of the crop, see :func:`project_weak_perspective`; ``s`` must not be 0.
        center: Middle of the square crop in the image, pixels.
        box_size: Side of the crop in the image, pixels.
        image_size: Width and height of the image, pixels; its middle is the principal point.
        focal_length: Of the whole image's camera, pixels.

    Returns:
        Translation in metres, camera frame.
    """
    pixels_per_metre = box_size * cam_s_tx_ty[..., 0] / 2
    shift = cam_s_tx_ty[..., 1:] + (center - image_size / 2) / pixels_per_metre.unsqueeze(-1)
    depth = focal_length / pixels_per_metre
    shift, depth = torch.broadcast_tensors(shift, depth.unsqueeze(-1))
    return torch.cat((shift, depth[..., :1]), dim=-1)


@full_precision
def full_to_weak_camera(
    translation: Float[Tensor, "*#batch 3"],
    center: Float[Tensor, "*#batch 2"],
    box_size: Float[Tensor, "*#batch"],
    image_size: Float[Tensor, "*#batch 2"],
    focal_length: Float[Tensor, "*#batch"] | float | int,
) -> Float[Tensor, "*#batch 3"]:
    """Undoes :func:`weak_to_full_translation`: translation (metres, depth above 0) to the crop's (s, tx, ty)."""
    pixels_per_metre = focal_length / translation[..., 2]
    scale = 2 * pixels_per_metre / box_size
    shift = translation[..., :2] - (center - image_size / 2) / pixels_per_metre.unsqueeze(-1)
    scale, shift = torch.broadcast_tensors(scale.unsqueeze(-1), shift)
    return torch.cat((scale[..., :1], shift), dim=-1)


@full_precision
def crop_keypoints(
    points_2d_px: Float[Tensor, "*#batch n 2"],
    center: Float[Tensor, "*#batch 2"],
    box_size: Float[Tensor, "*#batch"],
    extent: float | int = 1.0,
) -> Float[Tensor, "*#batch n 2"]:
    """Image pixels to coordinates of a square crop, whose edges lie at -``extent`` and +``extent``.

    Args:
        points_2d_px: Pixels of the whole image.
        center: Middle of the crop, pixels.
        box_size: Side of the crop, pixels.
        extent: 1 for [-1, 1] (weak-perspective cameras), 0.5 for [-0.5, 0.5] (ProHMR, HMR2, ScoreHMR).

    Raises:
        ValueError: If ``extent`` is not positive.
    """
    _check_extent(extent)
    return (points_2d_px - center.unsqueeze(-2)) * (2 * extent / box_size[..., None, None])


@full_precision
def uncrop_keypoints(
    points_crop: Float[Tensor, "*#batch n 2"],
    center: Float[Tensor, "*#batch 2"],
    box_size: Float[Tensor, "*#batch"],
    extent: float | int = 1.0,
) -> Float[Tensor, "*#batch n 2"]:
    """Undoes :func:`crop_keypoints`: from crop coordinates in [-extent, extent] to pixels of the image.

    Raises:
        ValueError: If ``extent`` is not positive.
    """
    _check_extent(extent)
    return points_crop * (box_size[..., None, None] / (2 * extent)) + center.unsqueeze(-2)


def _check_extent(extent: float | int) -> None:
    if extent <= 0:
        raise ValueError(f"extent is {extent}; valid are numbers above 0, such as 1 or 0.5")


@full_precision
def crop_intrinsics(
    K: Float[Tensor, "*#batch 3 3"],
    center: Float[Tensor, "*#batch 2"],
    box_size: Float[Tensor, "*#batch"],
    crop_size: float | int,
) -> Float[Tensor, "*#batch 3 3"]:
    """K of the camera that sees only the crop, resized to ``crop_size`` pixels a side.

    Args:
        K: Intrinsics of the whole image, pixels.
        center: Middle of the crop in the image, pixels.
        box_size: Side of the crop in the image, pixels.
        crop_size: Side of the resized crop, pixels.

    Raises:
        ValueError: If ``crop_size`` is not positive.
    """
    if crop_size <= 0:
        raise ValueError(f"crop_size is {crop_size}; valid are numbers of pixels above 0")
    scale = (crop_size / box_size)[..., None, None]
    corner = (center - box_size.unsqueeze(-1) / 2).unsqueeze(-1)
    top = scale * torch.cat(torch.broadcast_tensors(K[..., :2, :2], K[..., :2, 2:] - corner), dim=-1)[..., :3]
    return torch.cat((top, K[..., 2:, :].expand(*top.shape[:-2], 1, 3)), dim=-2)
