"""``y`` of Sec. 3.3: 2D keypoints as the denoiser sees them, and the frame in which it then works."""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posecore.body.skeletons import JointSet
from posecore.data.sample import PoseSample
from posecore.geometry.camera import normalize_points
from posecore.geometry.precision import full_precision

Coordinates = Literal["image", "person"]
"""``image``: over the picture's width, as the paper; ``person``: seen by a camera turned to the person, to scale."""

PERSON_SCALE = 2.5  # a standing person's keypoints then lie within about [-1, 1]


class Condition(NamedTuple):
    """What a denoiser is given, and how to leave its frame."""

    keypoints: Float[Tensor, "people joints 2"]
    """Keypoints in the network's coordinates; mirroring a person is changing the sign of x and swapping sides."""
    rotmat: Float[Tensor, "people 3 3"]
    """Takes root-relative poses from the camera's axes to the network's: ``x_0 = rotmat @ joint``."""


def condition(sample: PoseSample, joint_set: JointSet, coordinates: Coordinates) -> Condition:
    """Brings keypoints into the network's coordinates.

    ``image``: x from -1 to 1 over the width, y to the same scale, 0 in the middle; poses keep the camera's axes. It
    ties a network to the cameras it was trained with.

    ``person``. Deviation: the keypoints as a camera would see them that stands at the same place and looks at the
    person, divided by their spread; poses turn with that camera. Focal length and resolution no longer matter, place in
    the picture and distance little, so that one network serves all cameras.

    A keypoint that was not found takes the place of its parent in the skeleton, so a detector's gaps need no sixth
    channel (Deviation: the paper has every keypoint).

    Args:
        sample: ``joints_2d_px``, ``confidence``, and ``image_size`` or ``K``.
        joint_set: The joints.
        coordinates: Which.

    Raises:
        ValueError: ``coordinates`` is unknown, or a key that it needs is missing.
    """
    if coordinates not in get_args(Coordinates):
        raise ValueError(f"unknown coordinates {coordinates!r}, expected one of {get_args(Coordinates)}")
    needed = "image_size" if coordinates == "image" else "K"
    if needed not in sample:
        raise ValueError(f"coordinates {coordinates!r} need the key {needed}, which the data do not have")
    seen = sample["confidence"] > 0
    if coordinates == "person":
        return _person(sample["joints_2d_px"], seen, sample["K"], joint_set)
    width = sample["image_size"][:, None, :1]
    keypoints = (2 * sample["joints_2d_px"] - sample["image_size"][:, None]) / width
    rotmat = torch.eye(3, dtype=keypoints.dtype, device=keypoints.device).expand(len(keypoints), 3, 3)
    return Condition(fill_missing(keypoints, seen, joint_set), rotmat)


@full_precision
def _person(
    joints_2d_px: Float[Tensor, "people joints 2"],
    seen: Bool[Tensor, "people joints"],
    K: Float[Tensor, "people 3 3"],
    joint_set: JointSet,
) -> Condition:
    plane = fill_missing(normalize_points(joints_2d_px, K), seen, joint_set)
    center = (plane.amin(dim=1) + plane.amax(dim=1)) / 2
    rotmat = look_at(center)
    rays = torch.cat((plane, torch.ones_like(plane[..., :1])), dim=-1) @ rotmat.mT
    turned = rays[..., :2] / rays[..., 2:].clamp_min(0.05)  # 87 degrees off the axis; no lens sees a person so wide
    weight = seen[..., None] / seen.sum(dim=1).clamp(min=1)[:, None, None]
    spread = ((turned - (turned * weight).sum(dim=1, keepdim=True)).square() * weight).sum(dim=(1, 2)).sqrt()
    return Condition(turned / (PERSON_SCALE * spread.clamp_min(1e-6))[:, None, None], rotmat)


def look_at(center: Float[Tensor, "people 2"]) -> Float[Tensor, "people 3 3"]:
    """The smallest rotation that takes the ray through ``center`` (on the plane z = 1) to the optical axis."""
    ray = torch.nn.functional.normalize(torch.cat((center, torch.ones_like(center[:, :1])), dim=-1), dim=-1)
    x, y, z = ray.unbind(-1)
    k = 1 / (1 + z)  # z > 0: the person is before the camera
    rows = (1 - k * x * x, -k * x * y, -x, -k * x * y, 1 - k * y * y, -y, x, y, z)
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def fill_missing(
    keypoints: Float[Tensor, "people joints 2"], seen: Bool[Tensor, "people joints"], joint_set: JointSet
) -> Float[Tensor, "people joints 2"]:
    """Puts each keypoint that was not seen on its parent; a root that was not seen, on the mean of all that were."""
    weight = seen[..., None] / seen.sum(dim=1).clamp(min=1)[:, None, None]
    mean = (torch.where(seen[..., None], keypoints, 0.0) * weight).sum(dim=1)
    filled: dict[int, Tensor] = {}
    while len(filled) < joint_set.num_joints:
        for joint, parent in enumerate(joint_set.parents):
            if joint not in filled and (parent in filled or parent < 0):
                place = mean if parent < 0 else filled[parent]
                filled[joint] = torch.where(seen[:, joint, None], keypoints[:, joint], place)
    return torch.stack([filled[joint] for joint in range(joint_set.num_joints)], dim=1)
