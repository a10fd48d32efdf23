"""HumanEva-I in the archives that VideoPose3D's scripts make; its cameras are computed from their points."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from posecore.body.skeletons import HUMANEVA_15
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

FOLDERS = ("humaneva", "humaneva15")
SPLITS = {"train": ("Train/S1", "Train/S2", "Train/S3"), "validation": ("Validate/S1", "Validate/S2", "Validate/S3")}
CAMERAS = ("C1", "C2", "C3")
ACTIONS = {"Walking": "Walk", "Jog": "Jog", "ThrowCatch": "ThrowCatch", "Gestures": "Gesture", "Box": "Box"}
"""The archives' names to the papers'."""
HOW_TO_OBTAIN = (
    "HumanEva-I is free for academic research: register at humaneva.is.tue.mpg.de, prepare data_3d_humaneva15.npz and "
    "data_2d_humaneva15_gt.npz as VideoPose3D's DATASETS.md says (it needs MATLAB), and put them into one folder"
)
MAX_RESIDUAL_PX = 3.0
_IMAGE_SIZE = (640, 480)
_FPS = 60.0
_JOINTS = HUMANEVA_15.num_joints
# Least ratio of the next-to-last singular value to the first: below it, points do not determine a camera.
_MIN_RATIO = 1e-5


class HumanEva(PoseTable):
    """HumanEva-I: 15 joints from motion capture, three cameras in colour.

    ============  ====================================================================================================
    content       5 actions (Walk, Jog, Box; ThrowCatch, Gesture) by 3 people with published labels, seen by 3 fixed
                  cameras of 640 x 480 pixels; 60 frames per second. VideoPose3D halves each take into Train and
                  Validate: 6978 and 6790 frames (times 3 views) before those of failed motion capture are left out,
                  which cuts a take into chunks
    joints        the 15 of HumanEva-15
    frame         camera (x right, y down, z forward), metres; the world frame has z up
    2D            ``gt``: VideoPose3D's ground truth, projected by the dataset's own code, with lens distortion; any
                  other ``data_2d_humaneva15_<keypoints>.npz`` of 15 joints. Confidence is 1 unless the file has a third
                  column. VideoPose3D's detectron_pt_coco has COCO's 17 joints, so it is refused
    cameras       the archives hold none. ``K``, ``R`` and ``t`` of each person's cameras are computed from the points
                  of ``gt`` and the motion (resection: normalised direct linear transform, with skew, without
                  distortion), since the cameras stood still and were calibrated for each person
    files         data_3d_humaneva15.npz, data_2d_humaneva15_gt.npz, data_2d_humaneva15_<keypoints>.npz
    licence       academic research only, no redistribution
    to obtain     register at humaneva.is.tue.mpg.de; VideoPose3D's DATASETS.md
    protocol      train on Train, test on Validate of the same people, Walk, Jog and Box, P-MPJPE per person and action
    ============  ====================================================================================================

    Rows run over subjects, clips, cameras, then frames. ``subject`` is "S1", ``action`` "Walk", ``clip``
    "Validate/S1/Walking 1 chunk0"; ``frame`` counts from 0 in each chunk (the archives do not say where in the take it
    begins), ``view`` is the camera's place in `CAMERAS`.

    Cameras come from the frames of Train of all actions, whatever the split, so no test frame takes part. Only where an
    archive has no Train frames of a person, those that are selected serve, with a warning.

    Attributes:
        residuals_px: Median distance of the given 2D from the projection by the computed camera, by person and camera
            ("S1", "C1"): what distortion and skew leave.

    Args:
        root: folder with the files, or the folder that holds it as ``humaneva`` or ``humaneva15``.
        split: "train", "validation", or names in the archives like "Validate/S1".
        keypoints: the end of a file name ``data_2d_humaneva15_<keypoints>.npz``.
        actions: only these, by the papers' names; the default is what they report.
        stride: takes every ``stride``-th frame of every chunk and camera.
        cameras: only these, by name.

    Raises:
        FileNotFoundError: if a file is not there; the message says where to get it.
        ValueError: if an argument names something unknown, nothing is selected, a file is broken, or no camera fits the
            ground truth to a median of ``MAX_RESIDUAL_PX``.

    References:
        Sigal et al., HumanEva, IJCV 2010. Pavllo et al., VideoPose3D, CVPR 2019. Hartley and Zisserman, Multiple View
        Geometry, 2003, Algorithm 7.1 (resection).
    """

    def __init__(
        self,
        root: Path,
        split: list[str] | str = "train",
        keypoints: str = "gt",
        actions: Sequence[str] = ("Walk", "Jog", "Box"),
        stride: int = 1,
        cameras: list[str] | None = None,
    ) -> None:
        check_choice("actions", actions, ACTIONS.values())
        check_choice("cameras", cameras or [], CAMERAS)
        check_stride(stride)
        if isinstance(split, str):
            check_choice("split", [split], [*SPLITS, "a list like [Validate/S1]"])
            split = list(SPLITS[split])
        root = Path(root)
        path_3d = find_path(root, FOLDERS, "data_3d_humaneva15.npz", HOW_TO_OBTAIN)
        positions = get_key(load_npz(path_3d), "positions_3d", path_3d)
        check_choice("split", split, positions)
        path_gt = find_path(root, FOLDERS, "data_2d_humaneva15_gt.npz", HOW_TO_OBTAIN)
        truth = get_key(load_npz(path_gt), "positions_2d", path_gt)
        given, path_2d = truth, path_gt
        if keypoints != "gt":
            path_2d = find_path(root, FOLDERS, f"data_2d_humaneva15_{keypoints}.npz", HOW_TO_OBTAIN)
            given = get_key(load_npz(path_2d), "positions_2d", path_2d)

        views = [view for view, camera in enumerate(CAMERAS) if cameras is None or camera in cameras]
        self.residuals_px: dict[tuple[str, str], float] = {}
        calibrated: dict[tuple[str, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        tables: list[PoseSample] = []
        for subject in split:
            person = subject.rpartition("/")[2]
            for clip, joints_world in _clips(positions, subject, path_3d):
                action = ACTIONS.get(clip.partition(" ")[0])
                if action not in actions:
                    continue
                for view in views:
                    if (person, view) not in calibrated:
                        points = _correspondences(positions, truth, subject, view, path_3d, path_gt)
                        *camera, residual = _resect(*points, f"{path_gt}: camera {CAMERAS[view]} of {person}")
                        calibrated[person, view] = (camera[0], camera[1], camera[2])
                        self.residuals_px[person, CAMERAS[view]] = residual
                    K, R, t = calibrated[person, view]
                    seen, confidence = _keypoints(given, subject, clip, view, len(joints_world), path_2d)
                    joints_cam = joints_world[::stride] @ R.T + t
                    rows = camera_rows(HUMANEVA_15, joints_cam, K, _IMAGE_SIZE, seen[::stride], confidence[::stride])
                    extrinsic_rows(rows, R, t)
                    frame = np.arange(len(joints_world))[::stride]
                    tables.append(label_rows(rows, person, f"{subject}/{clip}", action, frame, view, _FPS))
        if not tables:
            raise ValueError(f"actions: {path_3d} has no whole chunk of {split} with an action in {list(actions)}")
        super().__init__(HUMANEVA_15, concatenate(tables))


def _clips(positions: Any, subject: str, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """A subject's chunks, metres, without those that are empty or of failed motion capture (NaN)."""
    for clip, recorded in get_key(positions, subject, path).items():
        joints = np.asarray(recorded)
        if joints.dtype.kind != "f" or (joints.size and np.isfinite(joints).all()):
            yield clip, check_shape(f"positions_3d[{subject}][{clip}]", joints, (None, _JOINTS, 3), path)


def _keypoints(
    positions_2d: Any, subject: str, clip: str, view: int, frames: int, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints in pixels, and their confidence (a third column, or 1)."""
    keypoints = view_keypoints(positions_2d, subject, clip, view, len(CAMERAS), path)
    count, columns = keypoints.shape[1:]
    if count != _JOINTS or columns not in (2, 3):
        raise ValueError(
            f"{path}: keypoints have shape {keypoints.shape[1:]}, expected the {_JOINTS} joints of HumanEva, of 2 or 3 "
            "numbers (detectron_pt_coco as VideoPose3D distributes it has COCO's 17 joints, which are others)"
        )
    if len(keypoints) != frames:
        raise ValueError(
            f"{path}: {subject} {clip} has keypoints for {len(keypoints)} frames, but {frames} frames were recorded: "
            "cut off, or another version"
        )
    confidence = keypoints[..., 2] if columns == 3 else np.ones(keypoints.shape[:2])
    return keypoints[..., :2], confidence


def _correspondences(
    positions: Any, truth: Any, subject: str, view: int, path_3d: Path, path_gt: Path
) -> tuple[Float[np.ndarray, "points 3"], Float[np.ndarray, "points 2"]]:
    """World points (metres) and where a camera sees them (pixels): of the person's Train frames if there are any."""
    for source in (f"Train/{subject.rpartition('/')[2]}", subject):
        clips = list(_clips(positions, source, path_3d)) if source in positions else []
        if clips:
            break
        warnings.warn(f"{path_3d}: has no frames of {source}, so its cameras are found from {subject}", stacklevel=3)
    seen = [_keypoints(truth, source, clip, view, len(joints), path_gt)[0] for clip, joints in clips]
    return np.concatenate([joints for _, joints in clips]).reshape(-1, 3), np.concatenate(seen).reshape(-1, 2)


def _resect(
    points_world: Float[np.ndarray, "points 3"], points_2d_px: Float[np.ndarray, "points 2"], where: str
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3 3"], Float[np.ndarray, "3"], float]:
    """K (pixels, with skew), R, t (metres, x_cam = R x_world + t) of the camera that sees the points, median residual.

    The normalised direct linear transform: Hartley and Zisserman, Algorithm 7.1 without its last step, in float64.

    Raises:
        ValueError: if the points lie in a plane (or are otherwise too few), or no camera sees them as given.
    """
    to_unit_3d, to_unit_2d = _normalisation(points_world), _normalisation(points_2d_px)
    world = np.concatenate((points_world, np.ones((len(points_world), 1))), axis=1)
    X = world @ to_unit_3d.T
    u, v = (points_2d_px @ to_unit_2d[:2, :2].T + to_unit_2d[:2, 2]).T[..., None]
    zero = np.zeros_like(X)
    A = np.concatenate((np.concatenate((X, zero, -u * X), axis=1), np.concatenate((zero, X, -v * X), axis=1)))
    _, singular, vectors = np.linalg.svd(A, full_matrices=False)
    if singular[-2] < _MIN_RATIO * singular[0]:
        raise ValueError(f"{where}: cannot be found from {len(world)} points that lie in a plane or are too alike")
    P = np.linalg.inv(to_unit_2d) @ vectors[-1].reshape(3, 4) @ to_unit_3d
    P /= np.linalg.norm(P[2, :3]) * np.sign(np.median(world @ P[2]))  # The third row gives depths in metres.
    uvw = world @ P.T
    residual = float(np.median(np.linalg.norm(uvw[:, :2] / uvw[:, 2:] - points_2d_px, axis=1)))
    if not residual <= MAX_RESIDUAL_PX or np.linalg.det(P[:, :3]) <= 0 or uvw[:, 2].min() <= 0:
        raise ValueError(
            f"{where}: no camera sees the motion as the file says (median residual {residual:.1f} px, at most "
            f"{MAX_RESIDUAL_PX} allowed; the picture must not be mirrored): the files are not of one version"
        )
    # P[:, :3] = K R, so its inverse is an orthogonal times an upper triangular matrix.
    orthogonal, triangular = np.linalg.qr(np.linalg.inv(P[:, :3]))
    signs = np.sign(np.diag(triangular))
    K, R = np.linalg.inv(triangular) * signs, signs[:, None] * orthogonal.T
    return np.triu(K / K[2, 2]), R, np.linalg.solve(K, P[:, 3]), residual


def _normalisation(points: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "dim+1 dim+1"]:
    """Moves the middle of the points to the origin, and their mean square distance from it to their dimension."""
    dim = points.shape[1]
    middle = points.mean(axis=0)
    scale = 1 / max(np.sqrt(((points - middle) ** 2).mean()), np.finfo(np.float64).tiny)
    out: np.ndarray = np.diag([scale] * dim + [1.0])
    out[:dim, dim] = -scale * middle
    return out
