"""What the loaders of the licensed benchmarks share: finding their files, and turning labels in a camera into rows."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.skeletons import JointSet
from posecore.data.sample import PoseSample
from posecore.geometry.camera import project


def find_path(root: Path, folders: Sequence[str], name: str, how_to_obtain: str) -> Path:
    """The file or folder ``name`` below ``root``, or below one of ``folders`` in it.

    Raises:
        FileNotFoundError: if it is in none of them; the message ends with ``how_to_obtain``.
    """
    for folder in ("", *folders):
        if (path := root / folder / name).exists():
            return path
    also = f", nor in its folders {', '.join(folders)}" if folders else ""
    raise FileNotFoundError(f"root: there is no {name} in {root}{also}. {how_to_obtain}")


def get_key(content: Any, key: str, path: Path) -> Any:
    """``content[key]``; an array that wraps a single object, as NumPy saves a dict, is unwrapped.

    Raises:
        ValueError: if ``content`` is no mapping or lacks the key; the message names the file.
    """
    if not isinstance(content, Mapping) or key not in content:
        found = ", ".join(map(str, content)) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ValueError(f"{path}: has no {key!r} (it holds {found}); it is cut off, or of another version")
    value = content[key]
    return value.item() if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0 else value


def check_shape(name: str, array: Any, shape: Sequence[int | None], path: Path) -> np.ndarray:
    """``array`` as a float64 array; None in ``shape`` stands for any length.

    Raises:
        ValueError: if it has another shape or holds something that is not a finite number.
    """
    try:
        values = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {name} is no array of numbers: {error}") from error
    if values.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, values.shape, strict=True)):
        found, wanted = (" x ".join("any" if n is None else str(n) for n in part) for part in (values.shape, shape))
        raise ValueError(f"{path}: {name} has shape {found}, expected {wanted}: cut off, or another version")
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: {name} holds values that are not finite numbers")
    return values


def view_keypoints(
    positions_2d: Any, subject: str, clip: str, view: int, num_views: int, path: Path
) -> Float[np.ndarray, "frames joints columns"]:
    """Keypoints of one camera in VideoPose3D's layout, ``positions_2d[subject][clip][view]``, in pixels.

    Raises:
        ValueError: if it is not there, the clip has not ``num_views`` cameras, or is no finite array of 3 dimensions.
    """
    views = get_key(get_key(positions_2d, subject, path), clip, path)
    if len(views) != num_views:
        raise ValueError(f"{path}: {subject} {clip} has {len(views)} cameras, expected {num_views}")
    return check_shape(f"positions_2d[{subject}][{clip}][{view}]", views[view], (None, None, None), path)


def check_choice(name: str, values: Iterable[object], valid: Iterable[object]) -> None:
    """Checks that an argument takes known values.

    Raises:
        ValueError: if one of ``values`` is not among ``valid``.
    """
    valid = list(valid)
    if unknown := [value for value in values if value not in valid]:
        raise ValueError(f"{name}: {unknown} unknown, valid are {', '.join(map(str, valid))}")


def check_stride(stride: int) -> None:
    """Checks a stride.

    Raises:
        ValueError: if it is below 1.
    """
    if stride < 1:
        raise ValueError(f"stride: must be at least 1, got {stride}")


def camera_rows(
    joint_set: JointSet,
    joints_cam: Float[np.ndarray, "rows joints 3"],
    K: Float[np.ndarray, "rows 3 3"] | Float[np.ndarray, "3 3"],
    image_size: Float[np.ndarray, "rows 2"] | Float[np.ndarray, "2"] | tuple[int, int],
    joints_2d_px: Float[np.ndarray, "rows joints 2"] | None = None,
    confidence: Float[np.ndarray, "rows joints"] | None = None,
) -> PoseSample:
    """Rows of people whose joints are known in a camera's frame.

    Args:
        joint_set: their joints.
        joints_cam: metres, camera frame.
        K: intrinsics, pixels; one for all rows or one each.
        image_size: width and height, pixels; one for all rows or one each.
        joints_2d_px: keypoints, pixels; None takes the exact projection.
        confidence: of the keypoints; None means 1.

    Returns:
        ``joints_cam joints_rel joints_2d_px joints_2d_true_px confidence K image_size``, float32, computed in float64.
    """
    rows = len(joints_cam)
    joints = _tensor(joints_cam, joints_cam.shape)
    intrinsics = _tensor(K, (rows, 3, 3))
    exact = project(joints, intrinsics)
    return PoseSample(
        joints_cam=joints.float(),
        joints_rel=(joints - joints[:, list(joint_set.root)].mean(dim=1, keepdim=True)).float(),
        joints_2d_px=(exact.clone() if joints_2d_px is None else _tensor(joints_2d_px, exact.shape)).float(),
        confidence=_tensor(1.0 if confidence is None else confidence, exact.shape[:2]).float(),
        joints_2d_true_px=exact.float(),
        K=intrinsics.float(),
        image_size=_tensor(image_size, (rows, 2)).float(),
    )


def label_rows(
    rows: PoseSample, subject: str, clip: str, action: str | None, frame: np.ndarray, view: int, fps: float | None
) -> PoseSample:
    """Adds the labels that all rows of one clip share, and their frame numbers; None leaves a key out."""
    count = len(frame)
    rows["subject"], rows["clip"] = [subject] * count, [clip] * count
    if action is not None:
        rows["action"] = [action] * count
    rows["frame"] = torch.from_numpy(np.ascontiguousarray(frame, dtype=np.int64))
    rows["view"] = torch.full((count,), view)
    if fps is not None:
        rows["fps"] = torch.full((count,), fps)
    return rows


def extrinsic_rows(rows: PoseSample, R_world_to_cam: np.ndarray, t_world_to_cam: np.ndarray) -> PoseSample:
    """Adds the camera's place: one for all rows or one each; translation in metres."""
    count = len(rows["joints_cam"])
    rows["R_world_to_cam"] = _tensor(R_world_to_cam, (count, 3, 3)).float()
    rows["t_world_to_cam"] = _tensor(t_world_to_cam, (count, 3)).float()
    return rows


def _tensor(values: Any, shape: Sequence[int]) -> Tensor:
    """A float64 tensor of its own memory, repeated to ``shape``."""
    return torch.from_numpy(np.array(np.broadcast_to(values, tuple(shape)), dtype=np.float64))
