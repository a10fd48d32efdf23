"""The three test sets as ZeDO's release distributes them, with its subsampling, so that its numbers can be compared.

References:
    Jiang et al., Back to Optimization: Diffusion-based Zero-Shot 3D Human Pose Estimation, WACV 2024 (ZeDO).
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from posecore.body.skeletons import H36M_17
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import camera_rows, check_choice, check_shape, check_stride, find_path, get_key
from posecore.data.human36m import ACTIONS, CAMERAS
from posecore.data.mpi_inf_3dhp import ACTIVITIES
from posecore.data.sample import PoseSample
from posecore.safe_pickle import load_npz, load_pickle

_HOW_TO_OBTAIN = (
    "ZeDO's evaluation files are linked in the README of its release (GitHub: ipl-uw/ZeDO-Release); they derive from "
    "{name}, whose licence ({licence}) applies: register there first. Put the file into {folder}"
)
# Joint j of H36M-17 is joint _FROM_3DPW[j] of the file.
_FROM_3DPW = (14, 10, 1, 3, 11, 0, 2, 15, 12, 16, 13, 4, 6, 8, 5, 7, 9)


class ZeDOHuman36MTest(PoseTable):
    """Human3.6M's test set (S9, S11) as ZeDO and GFPose evaluate it.

    ============  ====================================================================================================
    content       every 640th row of the 4 cameras' joined test list: 886 poses
    joints        H36M-17, camera frame, metres (the file has mm)
    2D            ``sh``: fine-tuned stacked hourglass with confidence; ``gt``: the file's image joints, confidence 1
    files         h36m_test.pkl; for ``sh`` also h36m_sh_dt_ft.pkl
    licence       Human3.6M's: academic research only, no redistribution
    to obtain     register at vision.imar.ro/human3.6m; links in the README of ZeDO's release
    protocol      ``zedo_h36m``: MPJPE and PA-MPJPE (with reflection), least over hypotheses, mean over actions
    ============  ====================================================================================================

    The file is one pickle of 567,000 poses: reading it takes about a minute and 5 GB of memory, whatever the stride.

    Args:
        root: folder with the files, or the folder that holds it as ``h36m`` or ``human36m``.
        keypoints: "sh" or "gt".
        stride: takes every ``stride``-th row of the list, cameras and clips run together, as the release does.

    Raises:
        FileNotFoundError: if a file is not there; the message says where to get it.
        ValueError: if an argument is out of range or a file is broken.
    """

    def __init__(self, root: Path, keypoints: str = "sh", stride: int = 640) -> None:
        check_choice("keypoints", [keypoints], ("sh", "gt"))
        check_stride(stride)
        how = _HOW_TO_OBTAIN.format(name="Human3.6M", licence="vision.imar.ro/human3.6m", folder="<root>/h36m")
        folders = ("h36m", "human36m")
        path = find_path(Path(root), folders, "h36m_test.pkl", how)
        everything = _read_list(path)
        items = everything[::stride]
        joints_mm = check_shape("joint_3d_camera", _column(items, "joint_3d_camera", path), (None, 17, 3), path)
        confidence = None
        if keypoints == "gt":
            seen = check_shape("joint_3d_image", _column(items, "joint_3d_image", path), (None, 17, None), path)[
                ..., :2
            ]
        else:
            path_2d = find_path(Path(root), folders, "h36m_sh_dt_ft.pkl", how)
            detected = get_key(load_pickle(path_2d), "test", path_2d)
            rows = len(everything)
            seen = check_shape("joint3d_image", get_key(detected, "joint3d_image", path_2d), (rows, 17, None), path_2d)
            certain = check_shape("confidence", get_key(detected, "confidence", path_2d), (rows, 17, 1), path_2d)
            seen, confidence = seen[::stride, :, :2], certain[::stride, :, 0].clip(0, 1)
        cameras = _column(items, "camera_param", path)
        K = _intrinsics(cameras, path)
        sizes = np.array([CAMERAS.get(str(camera.get("name")), (1000, 1000)) for camera in cameras], dtype=np.float64)
        table = camera_rows(H36M_17, joints_mm / 1000, K, sizes, seen, confidence)
        _label(
            table, _column(items, "image_path", path), _column(items, "action", path), dict(enumerate(ACTIONS, 2)), path
        )
        super().__init__(H36M_17, table)


class ZeDOMPIINF3DHPTest(PoseTable):
    """MPI-INF-3DHP's test set as ZeDO evaluates it.

    ============  ====================================================================================================
    content       every 3rd valid frame of the 6 test sequences: 959 poses
    joints        H36M-17, camera frame, metres (the file has mm)
    2D            the file's annotated joints, confidence 1
    files         mpii3d_test.pkl
    licence       MPI-INF-3DHP's: research only, no redistribution
    to obtain     register at vcai.mpi-inf.mpg.de/3dhp-dataset; links in the README of ZeDO's release
    protocol      ``zedo_3dhp``: MPJPE, PCK at 150 mm, AUC, least over hypotheses, mean over activities
    ============  ====================================================================================================

    Args:
        root: folder with the file, or the folder that holds it as ``3dhp`` or ``mpi_inf_3dhp``.
        stride: takes every ``stride``-th of the valid rows.

    Raises:
        FileNotFoundError: if the file is not there; the message says where to get it.
        ValueError: if ``stride`` is below 1, no row is valid, or the file is broken.
    """

    def __init__(self, root: Path, stride: int = 3) -> None:
        check_stride(stride)
        how = _HOW_TO_OBTAIN.format(
            name="MPI-INF-3DHP", licence="vcai.mpi-inf.mpg.de/3dhp-dataset", folder="<root>/3dhp"
        )
        path = find_path(Path(root), ("3dhp", "mpi_inf_3dhp"), "mpii3d_test.pkl", how)
        everything = _read_list(path)
        valid = [_number(flag, "valid_i", path) == 1 for flag in _column(everything, "valid_i", path)]
        items = [item for item, is_valid in zip(everything, valid, strict=True) if is_valid][::stride]
        if not items:
            raise ValueError(f"{path}: none of its {len(everything)} rows has valid_i = 1")
        joints_mm = check_shape("joint_3d_camera", _column(items, "joint_3d_camera", path), (None, 17, 3), path)
        seen = check_shape("joint_2d", _column(items, "joint_2d", path), (None, 17, None), path)[..., :2]
        sizes = np.array([[_number(size, key, path) for size in _column(items, key, path)] for key in ("w", "h")]).T
        K = _intrinsics(_column(items, "camera_param", path), path)
        table = camera_rows(H36M_17, joints_mm / 1000, K, sizes, seen)
        _label(
            table, _column(items, "imageid", path), _column(items, "action", path), dict(enumerate(ACTIVITIES, 1)), path
        )
        super().__init__(H36M_17, table)


class ZeDO3DPWTest(PoseTable):
    """3DPW's test set as ZeDO evaluates it.

    ============  ====================================================================================================
    content       every 35th row of the test split: 1015 poses
    joints        H36M-17, regressed from SMPL by the file's makers, camera frame, metres
    2D            exact projection of the 3D joints, confidence 1 (the release has no detections)
    files         pw3d_test.npz
    licence       3DPW's: non-commercial research only, no redistribution
    to obtain     register at virtualhumans.mpi-inf.mpg.de/3DPW; links in the README of ZeDO's release
    protocol      ``zedo_3dpw_17`` and ``zedo_3dpw_14``: MPJPE, PA-MPJPE, least over hypotheses, mean over frames
    ============  ====================================================================================================

    Args:
        root: folder with the file, or the folder that holds it as ``3dpw``.
        stride: takes every ``stride``-th row.

    Raises:
        FileNotFoundError: if the file is not there; the message says where to get it.
        ValueError: if ``stride`` is below 1 or the file is broken.
    """

    def __init__(self, root: Path, stride: int = 35) -> None:
        check_stride(stride)
        how = _HOW_TO_OBTAIN.format(name="3DPW", licence="virtualhumans.mpi-inf.mpg.de/3DPW", folder="<root>/3dpw")
        path = find_path(Path(root), ("3dpw",), "pw3d_test.npz", how)
        content = load_npz(path)
        relative = check_shape(
            "keypoints3d17_relative", get_key(content, "keypoints3d17_relative", path), (None, 17, None), path
        )[:, _FROM_3DPW, :3]
        rows = len(relative)
        root_cam = check_shape("root_cam", get_key(content, "root_cam", path), (rows, 3), path)
        camera = get_key(content, "cam_param", path)
        f = check_shape("cam_param f", get_key(camera, "f", path), (rows, 2), path)
        c = check_shape("cam_param c", get_key(camera, "c", path), (rows, 2), path)
        sizes = [
            check_shape(key, get_key(content, key, path), (rows,), path) for key in ("image_width", "image_height")
        ]
        images = list(get_key(content, "image_path", path))
        if len(images) != rows:
            raise ValueError(f"{path}: image_path names {len(images)} images, but there are {rows} poses")
        joints_cam = (relative + root_cam[:, None])[::stride]
        table = camera_rows(H36M_17, joints_cam, _pinhole(f, c)[::stride], np.stack(sizes, axis=1)[::stride])
        _label(table, images[::stride], None, {}, path)
        super().__init__(H36M_17, table)


def _read_list(path: Path) -> list[dict[str, Any]]:
    items = load_pickle(path)
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise ValueError(f"{path}: holds a {type(items).__name__}, expected a list of dicts, one for each pose")
    return items


def _column(items: Sequence[dict[str, Any]], key: str, path: Path) -> list[Any]:
    return [get_key(item, key, path) for item in items]


def _number(value: Any, name: str, path: Path) -> float:
    """A number that the file may wrap in an array."""
    array = np.asarray(value)
    if array.size != 1 or not np.issubdtype(array.dtype, np.number):
        raise ValueError(f"{path}: {name} is {value!r}, expected one number")
    return float(array.item())


def _intrinsics(cameras: Sequence[Any], path: Path) -> np.ndarray:
    fx, fy, cx, cy = (
        [_number(get_key(camera, key, path), key, path) for camera in cameras] for key in ("fx", "fy", "cx", "cy")
    )
    return _pinhole(np.stack((fx, fy), axis=1), np.stack((cx, cy), axis=1))


def _pinhole(f: np.ndarray, c: np.ndarray) -> np.ndarray:
    K = np.zeros((len(f), 3, 3))
    K[:, [0, 1], [0, 1]], K[:, :2, 2], K[:, 2, 2] = f, c, 1
    return K


def _label(
    table: PoseSample, images: Sequence[Any], actions: Sequence[Any] | None, names: dict[int, str], path: Path
) -> None:
    """Adds clip, subject and frame from the images' paths, and the actions' names."""
    paths = [PurePosixPath(str(image)) for image in images]
    subjects = [re.match(r"(?:s_0*(\d+)|(TS\d))", part.parent.name) for part in paths]
    numbers = [re.search(r"(\d+)$", part.stem) for part in paths]
    table["clip"] = [part.parent.name for part in paths]
    table["subject"] = ["" if hit is None else (hit[2] or f"S{hit[1]}") for hit in subjects]
    table["frame"] = torch.tensor([row if hit is None else int(hit[1]) for row, hit in enumerate(numbers)])
    if actions is not None:
        numbered = [int(_number(action, "action", path)) for action in actions]
        if unknown := sorted(set(numbered) - set(names)):
            raise ValueError(f"{path}: action numbers {unknown} are unknown, valid are {min(names)} to {max(names)}")
        table["action"] = [names[number] for number in numbered]
