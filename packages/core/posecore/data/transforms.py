"""Batch functions that change poses: mirroring and turning, of joints alone and of whole samples.

Mirroring maps x to -x and exchanges left and right joints, so a mirrored person's left wrist is again called left.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.skeletons import SMPL_24, JointSet
from posecore.data.sample import PoseSample
from posecore.geometry.precision import full_precision


def flip_joints(joints: Float[Tensor, "*batch joints 3"], joint_set: JointSet) -> Float[Tensor, "*batch joints 3"]:
    """Mirrors 3D joints at the plane x = 0 and exchanges left and right.

    Raises:
        ValueError: if the number of joints is not that of ``joint_set``.
    """
    return _swap_sides(joints, joint_set, dim=-2) * _mirror(joints)


def flip_joints_2d(
    joints_2d_px: Float[Tensor, "*batch joints 2"], width: Float[Tensor, "*batch"] | float, joint_set: JointSet
) -> Float[Tensor, "*batch joints 2"]:
    """Mirrors keypoints in a picture of ``width`` pixels (u to width - u) and exchanges left and right.

    Raises:
        ValueError: if the number of joints is not that of ``joint_set``.
    """
    swapped = _swap_sides(joints_2d_px, joint_set, dim=-2)
    width = torch.as_tensor(width, dtype=joints_2d_px.dtype, device=joints_2d_px.device)
    return torch.stack((width[..., None] - swapped[..., 0], swapped[..., 1]), dim=-1)


@full_precision
def rotate_joints(
    joints: Float[Tensor, "*#batch joints 3"], rotmat: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*#batch joints 3"]:
    """Turns joints about the origin by ``rotmat`` (root-relative joints turn about their root)."""
    return joints @ rotmat.transpose(-1, -2)


def flip_rotations(rotmat: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The mirror image M R M of rotations, with M = diag(-1, 1, 1)."""
    mirror = _mirror(rotmat)
    return rotmat * mirror[:, None] * mirror


def flip_body_pose(body_pose: Float[Tensor, "*batch 23 3 3"]) -> Float[Tensor, "*batch 23 3 3"]:
    """Mirrors SMPL's 23 local rotations and exchanges left and right (right for a body that is symmetric at rest)."""
    order = torch.tensor([joint - 1 for joint in SMPL_24.flip[1:]], device=body_pose.device)
    return flip_rotations(body_pose.index_select(-3, order))


def flip_sample(sample: PoseSample, joint_set: JointSet) -> PoseSample:
    """The sample of the mirrored picture: what a camera sees that is mirrored together with the person.

    World coordinates are mirrored at x = 0 too. ``K`` stays an ordinary camera: the principal point moves to
    ``width - cx`` and a skew changes its sign. SMPL parameters are those of a body that is symmetric at rest. Vertices
    of ``vertices_cam`` keep their numbers, so the mesh is turned inside out.

    Args:
        sample: one row or a batch; keys that it lacks stay out.
        joint_set: its joints.

    Raises:
        ValueError: if the number of joints is not that of ``joint_set``, or 2D or ``K`` come without ``image_size``.
    """
    flipped: dict[str, Any] = dict(sample)
    for key in ("joints_cam", "joints_rel"):
        if key in sample:
            flipped[key] = flip_joints(flipped[key], joint_set)
    if "joints_known" in sample:
        flipped["joints_known"] = _swap_sides(sample["joints_known"], joint_set, dim=-1)
    if "joints_smpl24_cam" in sample:
        flipped["joints_smpl24_cam"] = flip_joints(flipped["joints_smpl24_cam"], SMPL_24)
    if "vertices_cam" in sample:  # No vertices change places: a mirrored right hand is a left one.
        flipped["vertices_cam"] = sample["vertices_cam"] * _mirror(sample["vertices_cam"])
    needs_width = [key for key in ("joints_2d_px", "joints_2d_true_px", "K") if key in sample]
    if needs_width and "image_size" not in sample:
        raise ValueError(f"sample: mirroring {', '.join(needs_width)} needs the key image_size")
    for key in needs_width:
        if key != "K":
            flipped[key] = flip_joints_2d(flipped[key], sample["image_size"][..., 0], joint_set)
    if "confidence" in sample:
        flipped["confidence"] = _swap_sides(sample["confidence"], joint_set, dim=-1)
        if "joints_2d_px" in sample:  # A missing joint stays at (0, 0).
            seen = flipped["confidence"][..., None] > 0
            flipped["joints_2d_px"] = torch.where(seen, flipped["joints_2d_px"], 0.0)
    if "K" in sample:
        K = sample["K"].clone()
        K[..., 0, 1] = -K[..., 0, 1]
        K[..., 0, 2] = sample["image_size"][..., 0] - K[..., 0, 2]
        flipped["K"] = K
    for key in ("R_world_to_cam", "global_orient"):
        if key in sample:
            flipped[key] = flip_rotations(flipped[key])
    for key in ("t_world_to_cam", "transl"):
        if key in sample:
            flipped[key] = flipped[key] * _mirror(flipped[key])
    if "body_pose" in sample:
        flipped["body_pose"] = flip_body_pose(sample["body_pose"])
    return cast(PoseSample, flipped)


def truncate_keypoints(
    joints_2d_px: Float[Tensor, "batch joints 2"],
    confidence: Float[Tensor, "batch joints"],
    prob: float,
    generator: torch.Generator,
) -> Float[Tensor, "batch joints"]:
    """Confidences of people cut off by the edge of their picture, as in portraits: 0 beyond a random line.

    Half of the lines cut away what is below them, a sixth each what is above, left and right. The line lies anywhere in
    the person's box but in the fifth that is farthest from the edge.

    Args:
        joints_2d_px: Keypoints, pixels; where ``confidence`` is 0 the value does not matter.
        confidence: In [0, 1].
        prob: Share of people that are cut.
        generator: On the CPU.
    """
    draw = torch.rand((3, len(confidence)), generator=generator).to(confidence.device)
    side = (draw[1] * 6).long()  # 0-2 below, 3 above, 4 right, 5 left
    axis = torch.where(side < 4, 1, 0)
    sign = torch.where((side == 3) | (side == 5), -1.0, 1.0)
    seen = confidence > 0
    place = sign[:, None] * joints_2d_px.gather(2, axis[:, None, None].expand(-1, joints_2d_px.shape[1], 1))[..., 0]
    low = place.masked_fill(~seen, torch.inf).amin(dim=1)
    high = place.masked_fill(~seen, -torch.inf).amax(dim=1)
    line = low + (high - low) * (0.2 + 0.8 * draw[2])
    cut = (draw[0] < prob)[:, None] & (place > line[:, None])
    return confidence.masked_fill(cut, 0.0)


def _mirror(like: Tensor) -> Float[Tensor, "3"]:
    return torch.tensor([-1.0, 1.0, 1.0], dtype=like.dtype, device=like.device)


def _swap_sides(values: Tensor, joint_set: JointSet, dim: int) -> Tensor:
    if values.shape[dim] != joint_set.num_joints:
        raise ValueError(
            f"joints: {joint_set.name} has {joint_set.num_joints} joints, got {values.shape[dim]} of shape "
            f"{tuple(values.shape)}"
        )
    return values.index_select(dim, torch.tensor(joint_set.flip, device=values.device))
