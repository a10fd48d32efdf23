"""MATLAB annotations and camera calibration of MPI-INF-3DHP, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Int64

from posecore.body.skeletons import MPI_INF_3DHP_17, MPI_INF_3DHP_28
from posecore.data.benchmark_files import check_shape, find_path, get_key

HOW_TO_OBTAIN = (
    "MPI-INF-3DHP is free for research: register at vcai.mpi-inf.mpg.de/3dhp-dataset and run its scripts "
    "get_dataset.sh (gives S*/Seq*/annot.mat and camera.calibration, and imageSequence/video_*.avi) and get_testset.sh "
    "(gives mpi_inf_3dhp_test_set/TS*/annot_data.mat and imageSequence/img_*.jpg)"
)
NUM_CAMERAS = 14
NUM_ACTIVITIES = 7
_CALIBRATION_HEADER = "Skeletool Camera Calibration File V1.0"


@dataclass(frozen=True)
class Annotations:
    """What one camera sees of one sequence.

    Attributes:
        camera: Its number.
        K: Intrinsics, pixels.
        extrinsic: R and t (metres), x_cam = R x_world + t; None where no world is known.
        frame: Number of each row in the video, from 0.
        joints_mm: In the camera's frame, mm.
        keypoints: Pixels.
        activity: 1 to 7; of training sequences, which have none, empty.
    """

    camera: int
    K: Float[np.ndarray, "3 3"]
    extrinsic: tuple[np.ndarray, np.ndarray] | None
    frame: Int64[np.ndarray, " rows"]
    joints_mm: Float[np.ndarray, "rows joints 3"]
    keypoints: Float[np.ndarray, "rows joints 2"]
    activity: Int64[np.ndarray, " labelled"]


def read_train(path: Path, cameras: Sequence[int], universal: bool) -> list[Annotations]:
    """The 28 joints of one training sequence (annot.mat) in each of the cameras.

    Raises:
        FileNotFoundError: If camera.calibration is not beside it.
        ImportError: If scipy is not installed.
        ValueError: If a file is broken.
    """
    content = _load_mat(path)
    calibration = _read_calibration(
        find_path(path.parent, (), "camera.calibration", f"It belongs beside {path}. {HOW_TO_OBTAIN}")
    )
    found = []
    for camera in cameras:
        if camera not in calibration:
            raise ValueError(f"{path.parent / 'camera.calibration'}: has no camera {camera}")
        K, R, t = calibration[camera]
        seen = _cell(content, "annot2", camera, 2, path)
        joints = _cell(content, "annot3", camera, 3, path)
        if len(seen) != len(joints):
            raise ValueError(f"{path}: camera {camera} has {len(seen)} frames in annot2, {len(joints)} in annot3")
        if universal:
            other = _cell(content, "univ_annot3", camera, 3, path)
            joints = _scaled(joints, other, MPI_INF_3DHP_28.index("pelvis"))
        found.append(Annotations(camera, K, (R, t), np.arange(len(joints)), joints, seen, np.array([], dtype=np.int64)))
    return found


def read_test(path: Path, universal: bool) -> Annotations:
    """The 17 joints of the valid frames of one test sequence (annot_data.mat).

    Raises:
        ValueError: If the file is broken.
    """
    try:
        with h5py.File(path, "r") as file:
            content = {key: np.asarray(file[key]) for key in file if isinstance(file[key], h5py.Dataset)}
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: is no whole MATLAB 7.3 (HDF5) file: {error}") from error
    valid = check_shape("valid_frame", get_key(content, "valid_frame", path), (None, 1), path)[:, 0] > 0
    frames = len(valid)
    frame = np.flatnonzero(valid)
    if not len(frame):
        raise ValueError(f"{path}: valid_frame marks none of its {frames} frames")
    activity = check_shape("activity_annotation", get_key(content, "activity_annotation", path), (frames, 1), path)
    joints = MPI_INF_3DHP_17.num_joints

    def annotation(key: str, columns: int) -> np.ndarray:
        # Invalid frames may hold anything, so only the others are looked at.
        array: np.ndarray = get_key(content, key, path)
        if array.shape != (frames, 1, joints, columns):
            check_shape(key, array, (frames, 1, joints, columns), path)
        return check_shape(key, array[valid, 0], (None, joints, columns), path)

    seen, joints_mm = annotation("annot2", 2), annotation("annot3", 3)
    K = _fit_intrinsics(joints_mm, seen, path)
    if universal:
        joints_mm = _scaled(joints_mm, annotation("univ_annot3", 3), MPI_INF_3DHP_17.index("pelvis"))
    numbers = activity[frame, 0].astype(np.int64)
    if not set(numbers.tolist()) <= set(range(1, NUM_ACTIVITIES + 1)):
        raise ValueError(f"{path}: activity_annotation holds {sorted(set(numbers.tolist()))}, valid are 1 to 7")
    return Annotations(0, K, None, frame, joints_mm, seen, numbers)


def _scaled(joints: np.ndarray, universal: np.ndarray, root: int) -> np.ndarray:
    """The universal skeleton moved along the ray of its root to where it has the same picture as the actor's own."""
    own = joints - joints[:, root : root + 1]
    other = universal - universal[:, root : root + 1]
    factor = (own * other).sum(axis=(1, 2), keepdims=True) / (own**2).sum(axis=(1, 2), keepdims=True)
    return np.asarray(factor * joints[:, root : root + 1] + other)


def _load_mat(path: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat  # Not a dependency: only the training set's MATLAB v5 files need it.
    except ImportError as error:
        raise ImportError(
            f"{path} is a MATLAB v5 file, which takes the package scipy to read: pip install scipy"
        ) from error
    try:
        content: dict[str, Any] = loadmat(path)
    except (ValueError, TypeError, OSError, NotImplementedError, EOFError) as error:
        raise ValueError(f"{path}: is no whole MATLAB v5 file: {error}") from error
    return content


def _cell(content: dict[str, Any], key: str, camera: int, columns: int, path: Path) -> np.ndarray:
    """The joints of one camera: a row per frame in the file, (frames, 28, columns) here."""
    cells = get_key(content, key, path)
    if cells.dtype != object or cells.shape != (NUM_CAMERAS, 1):
        raise ValueError(f"{path}: {key} has shape {cells.shape}, expected {NUM_CAMERAS} cells, one for each camera")
    joints = MPI_INF_3DHP_28.num_joints
    flat = check_shape(f"{key} of camera {camera}", cells[camera, 0], (None, joints * columns), path)
    return flat.reshape(-1, joints, columns)


def _read_calibration(path: Path) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """K (pixels), R and t (metres, x_cam = R x_world + t) of each camera."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != _CALIBRATION_HEADER:
        raise ValueError(f"{path}: does not begin with {_CALIBRATION_HEADER!r}")
    cameras: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    name, K = None, np.eye(3)
    try:
        for key, *values in (line.split() for line in lines[1:] if line.strip()):
            if key == "name":
                name = int(values[0])
            elif key == "intrinsic":
                K = np.array(values, dtype=np.float64).reshape(4, 4)[:3, :3]
            elif key == "extrinsic" and name is not None:
                matrix = np.array(values, dtype=np.float64).reshape(4, 4)
                cameras[name] = (K, matrix[:3, :3], matrix[:3, 3] / 1000)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: camera {name} is cut off or broken: {error}") from error
    return cameras


def _fit_intrinsics(joints: np.ndarray, keypoints: np.ndarray, path: Path) -> np.ndarray:
    """The pinhole camera without skew that best maps ``joints`` (any unit) to ``keypoints`` (pixels)."""
    if (joints[..., 2] <= 0).any():
        raise ValueError(f"{path}: annot3 has joints behind the camera; it is of another version")
    K = np.eye(3)
    for axis in range(2):
        slope = (joints[..., axis] / joints[..., 2]).ravel()
        (K[axis, axis], K[axis, 2]), _, rank, _ = np.linalg.lstsq(
            np.stack((slope, np.ones_like(slope)), axis=1), keypoints[..., axis].ravel(), rcond=None
        )
        if rank < 2 or K[axis, axis] <= 0:
            raise ValueError(f"{path}: annot2 is no picture of annot3 (focal length {K[axis, axis]:.1f} px)")
    return K
