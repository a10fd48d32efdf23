"""Human3.6M in the files that lifting methods share: VideoPose3D's archives and the public camera parameters."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from posecore.body.skeletons import H36M_17, get_joint_set
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
    view_keypoints,
)
from posecore.data.sample import PoseSample, concatenate
from posecore.safe_pickle import load_npz

FOLDERS = ("human36m", "h36m")
SUBJECTS = {"train": ("S1", "S5", "S6", "S7", "S8"), "test": ("S9", "S11")}
CAMERAS = {
    "54138969": (1000, 1002),
    "55011271": (1000, 1000),
    "58860488": (1000, 1000),
    "60457274": (1000, 1002),
}
"""Width and height of each camera's images, in the order of VideoPose3D's lists."""
ACTIONS = [
    "Directions",
    "Discussion",
    "Eating",
    "Greeting",
    "Phoning",
    "Posing",
    "Purchases",
    "Sitting",
    "SittingDown",
    "Smoking",
    "Photo",
    "Waiting",
    "Walking",
    "WalkDog",
    "WalkTogether",
]
"""In the order of the dataset's numbers, which begin at 2."""
HOW_TO_OBTAIN = (
    "Human3.6M is free for academic research: register at vision.imar.ro/human3.6m, prepare data_3d_h36m.npz and "
    "data_2d_h36m_<keypoints>.npz as VideoPose3D's DATASETS.md says, and take camera-parameters.json from GitHub "
    "(karfly/human36m-camera-parameters); put them into one folder. ZeDO's own files, with the stacked hourglass's "
    "keypoints, are read by posecore.data.zedo_files.ZeDOHuman36MTest"
)
FPS = 50.0
# Of the 32 joints of the recording (some are doubles) the 17 of H36M_17, in its order.
FROM_32 = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)
_JOINT_SETS = ("h36m17", "h36m16")
_MAX_MISSING_FRAMES = 10  # A video may end a few frames before the motion capture; more is another version.


class Human36M(PoseTable):
    """Human3.6M: 17 joints from motion capture, four calibrated cameras.

    ============  ====================================================================================================
    content       15 everyday actions, each twice, by 7 actors with published labels, seen by 4 fixed cameras; 50
                  frames per second: 389,938 mocap frames of S1 S5 S6 S7 S8 and 135,836 of S9 S11 (times 4 views)
    joints        the 17 of H36M-17 out of the recording's 32; H36M-16 is without neck/nose
    frame         camera (x right, y down, z forward), metres; the world frame has z up
    2D            ``exact``: computed here, the projection by ``K``, without lens distortion; ``gt``: VideoPose3D's
                  ground truth, with distortion; ``hr``: HRNet (16 joints); ``cpn_ft_h36m_dbb``: CPN fine-tuned on
                  Human3.6M; or any other ``data_2d_h36m_<keypoints>.npz``. Confidence is 1 unless the file has a
                  third column
    files         data_3d_h36m.npz, data_2d_h36m_<keypoints>.npz (not for ``exact``), camera-parameters.json
    licence       academic research only, no redistribution
    to obtain     register at vision.imar.ro/human3.6m; VideoPose3D's DATASETS.md; karfly/human36m-camera-parameters
    protocol      train on S1 S5 S6 S7 S8, test on S9 S11 ("Protocol 1" MPJPE, "Protocol 2" PA-MPJPE), mean per action;
                  S11's clip Directions is not in VideoPose3D's files (its video is broken)
    ============  ====================================================================================================

    Rows run over subjects, clips, cameras, then frames. ``action`` is the clip without its number ("Walking 1" is
    "Walking"); ``frame`` counts from 0 at 50 per second, ``view`` is the camera's place in `CAMERAS`.

    Args:
        root: folder with the files, or the folder that holds it as ``human36m`` or ``h36m``.
        subjects: "train", "test", or names like "S9".
        keypoints: "exact", or the end of a file name ``data_2d_h36m_<keypoints>.npz``, as "gt".
        joint_set: "h36m17" or "h36m16"; HRNet's 16 keypoints need the latter.
        stride: takes every ``stride``-th frame of every clip and camera.
        actions: only these, by name without number.
        cameras: only these, by name.

    Raises:
        FileNotFoundError: if a file is not there; the message says where to get it.
        ValueError: if an argument names something unknown, nothing is selected, or a file is broken.

    References:
        Ionescu et al., Human3.6M, TPAMI 2014. Pavllo et al., VideoPose3D, CVPR 2019.
    """

    def __init__(
        self,
        root: Path,
        subjects: list[str] | str = "train",
        keypoints: str = "exact",
        joint_set: str = "h36m17",
        stride: int = 1,
        actions: list[str] | None = None,
        cameras: list[str] | None = None,
    ) -> None:
        check_choice("joint_set", [joint_set], _JOINT_SETS)
        check_choice("actions", actions or [], ACTIONS)
        check_choice("cameras", cameras or [], CAMERAS)
        check_stride(stride)
        if isinstance(subjects, str):
            check_choice("subjects", [subjects], [*SUBJECTS, "a list like [S9, S11]"])
            subjects = list(SUBJECTS[subjects])
        root = Path(root)
        path_3d = find_path(root, FOLDERS, "data_3d_h36m.npz", HOW_TO_OBTAIN)
        positions = get_key(load_npz(path_3d), "positions_3d", path_3d)
        check_choice("subjects", subjects, positions)
        parameters = read_cameras(find_path(root, FOLDERS, "camera-parameters.json", HOW_TO_OBTAIN), subjects)
        detections, path_2d = None, Path()
        if keypoints != "exact":
            path_2d = find_path(root, FOLDERS, f"data_2d_h36m_{keypoints}.npz", HOW_TO_OBTAIN)
            detections = get_key(load_npz(path_2d), "positions_2d", path_2d)

        target = get_joint_set(joint_set)
        picked = [H36M_17.index(name) for name in target.joint_names]
        tables: list[PoseSample] = []
        for subject in subjects:
            for clip, recorded in positions[subject].items():
                action = re.sub(r" \d+$", "", clip)
                if actions is not None and action not in actions:
                    continue
                where = f"positions_3d[{subject}][{clip}]"
                joints_world = check_shape(where, recorded, (None, 32, 3), path_3d)[:, FROM_32][:, picked]
                for view, camera in enumerate(CAMERAS):
                    if cameras is not None and camera not in cameras:
                        continue
                    K, R, t = parameters[subject, camera]
                    seen, confidence = None, None
                    joints = joints_world
                    if detections is not None:
                        keypoints_2d = view_keypoints(detections, subject, clip, view, len(CAMERAS), path_2d)
                        seen, confidence = _to_joint_set(keypoints_2d, picked, joint_set, path_2d)
                        joints, seen, confidence = trim(joints_world, seen, confidence, f"{subject} {clip}", path_2d)
                        seen, confidence = seen[::stride], confidence[::stride]
                    frame = np.arange(len(joints))[::stride]
                    joints_cam = joints[::stride] @ R.T + t
                    rows = camera_rows(target, joints_cam, K, CAMERAS[camera], seen, confidence)
                    extrinsic_rows(rows, R, t)
                    tables.append(label_rows(rows, subject, f"{subject}/{clip}", action, frame, view, FPS))
        if not tables:
            raise ValueError(f"actions: {path_3d} has no clip of {subjects} with an action in {actions}")
        super().__init__(target, concatenate(tables))


def read_cameras(path: Path, subjects: list[str]) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """K (pixels), R and t (metres, x_cam = R x_world + t) of every subject's cameras, from camera-parameters.json.

    Raises:
        ValueError: if the file is broken.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is no whole JSON file: {error}") from error
    cameras = {}
    for camera in CAMERAS:
        intrinsic = get_key(get_key(content, "intrinsics", path), camera, path)
        K = check_shape(f"calibration_matrix of {camera}", get_key(intrinsic, "calibration_matrix", path), (3, 3), path)
        for subject in subjects:
            extrinsic = get_key(get_key(get_key(content, "extrinsics", path), subject, path), camera, path)
            where = f"of {camera} for {subject}"
            R = check_shape(f"R {where}", get_key(extrinsic, "R", path), (3, 3), path)
            t_mm = check_shape(f"t {where}", get_key(extrinsic, "t", path), (3, 1), path)
            cameras[subject, camera] = (K, R, t_mm[:, 0] / 1000)
    return cameras


def _to_joint_set(
    keypoints: np.ndarray, picked: list[int], joint_set: str, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints of the wanted joints, and their confidence (a third column, or 1)."""
    count, columns = keypoints.shape[1:]
    if count not in (16, 17) or columns not in (2, 3):
        raise ValueError(
            f"{path}: keypoints have shape {keypoints.shape[1:]}, expected 16 or 17 joints of 2 or 3 numbers"
        )
    if count == 16 and joint_set != "h36m16":
        raise ValueError(f"joint_set: {path} has 16 keypoints (no neck/nose); use 'h36m16', not {joint_set!r}")
    if count == 17:
        keypoints = keypoints[:, picked]
    confidence = keypoints[..., 2] if columns == 3 else np.ones(keypoints.shape[:2])
    return keypoints[..., :2], confidence


def trim(
    joints: np.ndarray, seen: np.ndarray, confidence: np.ndarray, where: str, path: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts both to the frames they share: videos and motion capture differ by a few frames at the end.

    Raises:
        ValueError: if keypoints of more than a few frames are missing.
    """
    if len(seen) < len(joints) - _MAX_MISSING_FRAMES:
        raise ValueError(
            f"{path}: {where} has keypoints for {len(seen)} frames, but {len(joints)} frames were recorded: cut off, "
            "or another version"
        )
    shared = min(len(seen), len(joints))
    return joints[:shared], seen[:shared], confidence[:shared]
