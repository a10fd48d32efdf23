"""MPI-INF-3DHP as it is distributed: MATLAB annotations of the training and test sequences."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from posecore.body.joint_maps import joint_map
from posecore.body.skeletons import MPI_INF_3DHP_17, MPI_INF_3DHP_28, JointSet, get_joint_set
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import (
    camera_rows,
    check_choice,
    check_shape,
    check_stride,
    extrinsic_rows,
    find_path,
    get_key,
    label_rows,
)
from posecore.data.sample import PoseSample, concatenate

SUBJECTS = {
    "train": tuple(f"S{number}" for number in range(1, 9)),
    "test": tuple(f"TS{number}" for number in range(1, 7)),
}
ACTIVITIES = ("StandWalk", "Exercise", "SitOnChair", "CrouchReach", "OnFloor", "Sports", "Misc")
"""Names of the test set's ``activity_annotation`` 1 to 7."""
REGULAR_CAMERAS = (0, 1, 2, 4, 5, 6, 7, 8)
"""The eight of the 14 cameras that methods train on; the others look down from high on the walls or the ceiling."""
HOW_TO_OBTAIN = (
    "MPI-INF-3DHP is free for research: register at vcai.mpi-inf.mpg.de/3dhp-dataset and run its scripts "
    "get_dataset.sh (gives S*/Seq*/annot.mat and camera.calibration) and get_testset.sh (gives "
    "mpi_inf_3dhp_test_set/TS*/annot_data.mat)"
)
_FOLDERS = ("mpi_inf_3dhp", "3dhp")
_JOINT_SETS = ("h36m17", "mpii3d17")
_NUM_CAMERAS = 14
_TRAIN_SIZE = (2048, 2048)
_AT_50_FPS = ("S1/Seq2", "S3/Seq1", "S3/Seq2", "S5/Seq1", "S5/Seq2")  # All other training sequences are at 25.
_CALIBRATION_HEADER = "Skeletool Camera Calibration File V1.0"


class MPIINF3DHP(PoseTable):
    """MPI-INF-3DHP: markerless motion capture in a green-screen studio; test scenes also without it and outdoors.

    ============  ====================================================================================================
    content       train: 8 actors, 2 sequences each, 14 cameras, over 1.3 million frames (2048 x 2048). Test: 6
                  sequences, 7 activities, 2,929 valid frames (TS1 to TS4 2048 x 2048, TS5 and TS6 1920 x 1080)
    joints        28 (train) or 17 (test), given as H36M-17 or as MPI-INF-3DHP's own 17
    frame         camera (x right, y down, z forward), metres (files: mm)
    2D            the file's annotated keypoints, confidence 1
    camera        train: camera.calibration, world in the studio. Test: the annotations hold no camera, so K is fitted
                  to each sequence's pairs of 2D and 3D joints (least squares, no distortion); no world frame
    files         S*/Seq*/annot.mat and camera.calibration; mpi_inf_3dhp_test_set/TS*/annot_data.mat
    licence       research only, no redistribution
    to obtain     register at vcai.mpi-inf.mpg.de/3dhp-dataset; its scripts get_dataset.sh and get_testset.sh
    protocol      3DPCK at 150 mm, AUC, MPJPE, root-relative to the pelvis (joint 14 of the 17), on valid test frames
    ============  ====================================================================================================

    Rows run over sequences, cameras, then frames. ``frame`` counts from 0 in the video; images are numbered from 1.
    ``action`` (test only) is the activity; ``fps`` (train only) is 25 or 50 by sequence.

    Args:
        root: folder with the files, or the folder that holds it as ``mpi_inf_3dhp`` or ``3dhp``.
        split: "train" (needs the package scipy: its files are MATLAB v5) or "test".
        subjects: only these, "S1" to "S8" or "TS1" to "TS6".
        joint_set: "h36m17" or "mpii3d17".
        stride: takes every ``stride``-th frame of every sequence and camera, of the valid ones in the test set.
        cameras: training cameras, 0 to 13; None takes `REGULAR_CAMERAS`.
        universal: takes the skeleton scaled to one height (``univ_annot3``), which the dataset's own evaluation
            uses. It is scaled about the camera, so that it has the same picture.

    Raises:
        FileNotFoundError: if a file is not there; the message says where to get it.
        ImportError: if scipy is needed and not installed.
        ValueError: if an argument names something unknown or a file is broken.

    References:
        Mehta et al., Monocular 3D Human Pose Estimation In The Wild Using Improved CNN Supervision, 3DV 2017.
    """

    def __init__(
        self,
        root: Path,
        split: str = "train",
        subjects: list[str] | None = None,
        joint_set: str = "h36m17",
        stride: int = 1,
        cameras: list[int] | None = None,
        universal: bool = False,
    ) -> None:
        check_choice("split", [split], SUBJECTS)
        check_choice("subjects", subjects or [], SUBJECTS[split])
        check_choice("joint_set", [joint_set], _JOINT_SETS)
        check_choice("cameras", cameras or [], range(_NUM_CAMERAS) if split == "train" else ["None for the test set"])
        check_stride(stride)
        target = get_joint_set(joint_set)
        tables: list[PoseSample] = []
        for subject in SUBJECTS[split] if subjects is None else subjects:
            if split == "test":
                path = find_path(Path(root), _test_folders(), f"{subject}/annot_data.mat", HOW_TO_OBTAIN)
                tables.append(_test_rows(path, subject, target, stride, universal))
                continue
            for sequence in ("Seq1", "Seq2"):
                path = find_path(Path(root), _FOLDERS, f"{subject}/{sequence}/annot.mat", HOW_TO_OBTAIN)
                chosen = REGULAR_CAMERAS if cameras is None else cameras
                tables += _train_rows(path, f"{subject}/{sequence}", target, stride, chosen, universal)
        super().__init__(target, concatenate(tables))


def _test_folders() -> tuple[str, ...]:
    inner = "mpi_inf_3dhp_test_set"
    return (inner, *(f"{folder}/{inner}" for folder in _FOLDERS), *_FOLDERS)


def _mapped(points: np.ndarray, source: JointSet, target: JointSet) -> np.ndarray:
    """3D joints or 2D keypoints in another set. All joints are copies, so 2D keypoints map as exactly as 3D joints."""
    return joint_map(source, target).apply(torch.from_numpy(points)).numpy()


def _scaled(joints: np.ndarray, universal: np.ndarray, root: int) -> np.ndarray:
    """The universal skeleton moved along the ray of its root to where it has the same picture as the actor's own."""
    own = joints - joints[:, root : root + 1]
    other = universal - universal[:, root : root + 1]
    factor = (own * other).sum(axis=(1, 2), keepdims=True) / (own**2).sum(axis=(1, 2), keepdims=True)
    return np.asarray(factor * joints[:, root : root + 1] + other)


# ----------------------------------------------------------------------------------------------------- training set


def _train_rows(
    path: Path, clip: str, target: JointSet, stride: int, cameras: tuple[int, ...] | list[int], universal: bool
) -> list[PoseSample]:
    content = _load_mat(path)
    calibration = _read_calibration(
        find_path(path.parent, (), "camera.calibration", f"It belongs beside {path}. {HOW_TO_OBTAIN}")
    )
    root = MPI_INF_3DHP_28.index("pelvis")
    fps = 50.0 if clip in _AT_50_FPS else 25.0
    tables = []
    for camera in cameras:
        if camera not in calibration:
            raise ValueError(f"{path.parent / 'camera.calibration'}: has no camera {camera}")
        K, R, t = calibration[camera]
        seen = _cell(content, "annot2", camera, 2, path)
        joints = _cell(content, "annot3", camera, 3, path)
        if len(seen) != len(joints):
            raise ValueError(f"{path}: camera {camera} has {len(seen)} frames in annot2, {len(joints)} in annot3")
        if universal:
            joints = _scaled(joints, _cell(content, "univ_annot3", camera, 3, path), root)
        frame = np.arange(len(joints))[::stride]
        picked, keypoints = (_mapped(points[::stride], MPI_INF_3DHP_28, target) for points in (joints / 1000, seen))
        rows = camera_rows(target, picked, K, _TRAIN_SIZE, keypoints)
        extrinsic_rows(rows, R, t)
        tables.append(label_rows(rows, clip.split("/")[0], clip, None, frame, camera, fps))
    return tables


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
    if cells.dtype != object or cells.shape != (_NUM_CAMERAS, 1):
        raise ValueError(f"{path}: {key} has shape {cells.shape}, expected {_NUM_CAMERAS} cells, one for each camera")
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


# --------------------------------------------------------------------------------------------------------- test set


def _test_rows(path: Path, subject: str, target: JointSet, stride: int, universal: bool) -> PoseSample:
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
    numbers = activity[frame[::stride], 0].astype(np.int64)
    if not set(numbers.tolist()) <= set(range(1, len(ACTIVITIES) + 1)):
        raise ValueError(f"{path}: activity_annotation holds {sorted(set(numbers.tolist()))}, valid are 1 to 7")
    size = (2048, 2048) if subject in ("TS1", "TS2", "TS3", "TS4") else (1920, 1080)
    picked, keypoints = (_mapped(points[::stride], MPI_INF_3DHP_17, target) for points in (joints_mm / 1000, seen))
    rows = camera_rows(target, picked, K, size, keypoints)
    label_rows(rows, subject, subject, None, frame[::stride], 0, None)
    rows["action"] = [ACTIVITIES[number - 1] for number in numbers]
    return rows


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
