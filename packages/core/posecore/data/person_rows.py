"""Rows of people in photographs, the same keys whatever the annotations know, so that such data sets can be mixed."""

from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posecore.body.skeletons import JOINTS_44, JointSet
from posecore.data.sample import PoseSample
from posecore.data.start_estimates import FOCAL_LENGTH
from posecore.geometry.camera import intrinsics


def same_joints(
    points: Float[np.ndarray, "rows source columns"],
    known: Bool[np.ndarray, "rows source"],
    source: JointSet,
    target: JointSet = JOINTS_44,
    renamed: dict[str, str] | None = None,
) -> tuple[Float[np.ndarray, "rows target columns"], Bool[np.ndarray, "rows target"]]:
    """Joints that both sets name; nothing is constructed from others, so nothing false is learned.

    OpenPose's joints of ``joints44`` (``op_*``) that only it has, of face and feet, are found without the prefix.

    Args:
        points: coordinates in any unit.
        known: which of them hold something.
        source: their joint set.
        target: the wanted one.
        renamed: ``{joint of target: joint of source}`` where an annotation of another name is meant.

    Returns:
        Coordinates, 0 where not known, and what is known.
    """
    out = np.zeros((len(points), target.num_joints, points.shape[-1]))
    out_known = np.zeros(out.shape[:2], dtype=bool)
    for joint, name in enumerate(target.joint_names):
        plain = name.removeprefix("op_")
        name = (renamed or {}).get(name, name if plain in target.joint_names else plain)
        if name in source.joint_names:
            row = source.index(name)
            out_known[:, joint] = known[:, row]
            out[:, joint] = np.where(known[:, row, None], points[:, row], 0)
    return out, out_known


def person_rows(
    clip: list[str],
    box: Float[np.ndarray, "rows 3"],
    image_size: Float[np.ndarray, "rows 2"],
    K: Float[np.ndarray, "rows 3 3"] | None = None,
    joints_2d_px: Float[np.ndarray, "rows joints 2"] | None = None,
    confidence: Float[np.ndarray, "rows joints"] | None = None,
    joints_cam: Float[np.ndarray, "rows joints 3"] | None = None,
    joints_known: Bool[np.ndarray, "rows joints"] | None = None,
    pose: Float[Tensor, "rows 24 3 3"] | None = None,
    betas: Float[np.ndarray, "rows 10"] | None = None,
    has_pose: Bool[np.ndarray, " rows"] | None = None,
    has_betas: Bool[np.ndarray, " rows"] | None = None,
    joint_set: JointSet = JOINTS_44,
) -> PoseSample:
    """Rows with all of the keys that training on photographs takes.

    Args:
        clip: the picture of each row, below the data set's folder.
        box: middle (x, y) and side of the person's square box, pixels.
        image_size: width and height of the picture, pixels.
        K: intrinsics, pixels; None assumes what the released regressors do: a focal length of 5000 px, the principal
            point in the middle of the picture.
        joints_2d_px: keypoints, pixels; None where there are none.
        confidence: of the keypoints, in [0, 1]; 0 = not known.
        joints_cam: camera axes, metres; None where there are none.
        joints_known: which of them hold something; None is all.
        pose: rotations of SMPL's 24 joints, root first, camera axes; None where there are none.
        betas: shape; None where there is none.
        has_pose: where ``pose`` holds something; None is everywhere.
        has_betas: likewise of ``betas``.
        joint_set: of the keypoints and joints.

    Returns:
        ``joints_2d_px confidence joints_cam joints_known global_orient body_pose betas has_pose has_betas box K
        image_size clip``, the keys of `SPINNpz`. What is not known is 0 or the identity.
    """
    rows, joints = len(clip), joint_set.num_joints

    def column(values: Any, shape: tuple[int, ...], known: Tensor | None = None) -> Tensor:
        if values is None:
            return torch.zeros(rows, *shape)
        tensor = torch.as_tensor(np.ascontiguousarray(values)).float().reshape(rows, *shape)
        return tensor if known is None else torch.where(known, tensor, 0.0)

    def flag(given: Any, values: Any, shape: tuple[int, ...] = ()) -> Tensor:
        if values is None or given is None:
            return torch.full((rows, *shape), values is not None)
        return torch.as_tensor(np.ascontiguousarray(given)).bool()

    conf = column(confidence, (joints,)).clamp(0, 1)
    known, of_pose, of_betas = flag(joints_known, joints_cam, (joints,)), flag(has_pose, pose), flag(has_betas, betas)
    rotmat = torch.eye(3).repeat(rows, 24, 1, 1)
    if pose is not None:
        rotmat = torch.where(of_pose[:, None, None, None], pose.float(), rotmat)
    size = column(image_size, (2,))
    return cast(
        PoseSample,
        {
            "joints_2d_px": column(joints_2d_px, (joints, 2), (conf > 0)[..., None]),
            "confidence": conf,
            "joints_cam": column(joints_cam, (joints, 3), known[..., None]),
            "joints_known": known,
            "global_orient": rotmat[:, 0].clone(),
            "body_pose": rotmat[:, 1:].clone(),
            "betas": column(betas, (10,), of_betas[:, None]),
            "has_pose": of_pose,
            "has_betas": of_betas,
            "box": column(box, (3,)),
            "K": intrinsics(FOCAL_LENGTH, size / 2) if K is None else column(K, (3, 3)),
            "image_size": size,
            "clip": list(clip),
        },
    )
