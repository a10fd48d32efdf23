"""EMDB as it is distributed: SMPL from electromagnetic sensors, seen by a moving phone."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.skeletons import SMPL_24, JointSet
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import (
    camera_rows,
    check_choice,
    check_shape,
    check_stride,
    extrinsic_rows,
    get_key,
    label_rows,
)
from posecore.data.crops import PersonCrops, box_of_keypoints
from posecore.data.sample import PoseSample, concatenate
from posecore.data.world_bodies import (
    CAMERAS,
    JOINT_SETS,
    GenderedBodies,
    assumed_camera,
    body_rows,
    check_caches,
    find_bodies,
    truth_rows,
    with_caches,
)
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.safe_pickle import load_pickle

PARTS = (1, 2)
JOINT_SOURCES = ("smpl24", "joints44")
FOLDERS = ("emdb", "EMDB")
GENDERS = ("female", "male", "neutral")
HOW_TO_OBTAIN = (
    "EMDB is free for non-commercial research: fill in the form at emdb.ait.ethz.ch and unpack the participants, so "
    "that the folder holds P0/<sequence>/P0_<sequence>_data.pkl"
)
_FPS = 30.0
_BOX_SCALE = 1.2


class EMDB(PoseTable):
    """EMDB: one person indoors and outdoors, a hand-held phone, SMPL from electromagnetic sensors on the body.

    ============  ====================================================================================================
    content       81 sequences of 10 people, 58 minutes at 30 per second; EMDB 1, which image-based methods are tested
                  on, has 17 sequences; EMDB 2 is for trajectories in the world
    joints        of the person's own gendered SMPL: SMPL-24, or joints44
    frame         camera (x right, y down, z forward), metres
    2D            of SMPL-24 the file's ``kp2d`` (its joints projected), of joints44 the exact projection; confidence 1.
                  EMDB has no detections: the papers' 2D is from detectors of their own
    box           the file's, made square: side 1.2 times the longer side; around ``kp2d`` where it is invalid
    body          ``global_orient`` and ``transl`` in the camera frame, ``body_pose``, ``betas``
    files         P*/<sequence>/P*_<sequence>_data.pkl; images/00000.jpg there for pictures; SMPL's files
    licence       non-commercial research only, no redistribution; SMPL likewise
    to obtain     emdb.ait.ethz.ch; smpl.is.tue.mpg.de
    protocol      only frames of ``good_frames_mask``, where the person is in view
    ============  ====================================================================================================

    Rows run over sequences, then frames, and have the keys of `SMPLNpz` with ``truth="smpl"``, and more. ``subject`` is
    the participant ("P0"), ``clip`` participant and sequence ("P0_00_mvs_a"), ``action`` the sequence without its
    number, ``frame`` the number of the picture.

    Args:
        root: folder with the participants, or the folder that holds it as ``emdb``.
        part: 1 or 2.
        joint_source: "smpl24" or "joints44".
        stride: takes every ``stride``-th good frame of every sequence.
        body_models: folder with SMPL's files; None is ``body_models`` in ``root`` or beside the participants.
        crops: side of the person's box in ``image`` in pixels; None reads no pictures.
        crop_margin: side of ``image`` by that of the box, a raw crop for `posecore.data.augment`; None gives crops
            normalised as a network wants them.
        camera: "calibrated", or "assumed": a focal length of 5000 px, with which released regressors place people; rows
            then have no ``transl``, no place of the camera and no ``joints_2d_true_px``.
        features: cache of image features of all rows in order, below ``root`` (`SMPLNpz`).
        start: cache of predictions of all rows in order (`read_start_estimates`); needs ``camera="assumed"``.

    Raises:
        FileNotFoundError: if a file is not there; the message says what to register for.
        ValueError: if an argument names something unknown, arguments contradict one another, nothing is in the part or
            a file is broken.

    References:
        Kaufmann et al., EMDB: The Electromagnetic Database of Global 3D Human Pose and Shape in the Wild, ICCV 2023.
    """

    def __init__(
        self,
        root: Path,
        part: int = 1,
        joint_source: str = "smpl24",
        stride: int = 1,
        body_models: Path | None = None,
        crops: int | None = None,
        crop_margin: float | None = 1.5,
        camera: str = "calibrated",
        features: str | None = None,
        start: str | None = None,
    ) -> None:
        check_choice("part", [part], PARTS)
        check_choice("joint_source", [joint_source], JOINT_SOURCES)
        check_choice("camera", [camera], CAMERAS)
        check_stride(stride)
        check_caches(features, start, stride, camera)
        root = Path(root)
        found = (sorted((root / folder).glob("P*/*/*_data.pkl")) for folder in ("", *FOLDERS))
        paths = next(filter(None, found), [])
        if not paths:
            raise FileNotFoundError(
                f"root: there is no P*/<sequence>/*_data.pkl in {root}, nor in its folders {', '.join(FOLDERS)}. "
                f"{HOW_TO_OBTAIN}"
            )
        bodies = find_bodies(root, FOLDERS, body_models)
        joint_set = JOINT_SETS[joint_source]
        tables: list[PoseSample] = []
        pictures: list[Path] = []
        for path in paths:
            content = load_pickle(path)
            if not get_key(content, f"emdb{part}", path):
                continue
            frame = _good_frames(content, path)[::stride]
            if len(frame):
                tables.append(_sequence(content, path, frame, joint_set, bodies))
                pictures += [path.parent / "images" / f"{number:05d}.jpg" for number in frame]
        if not tables:
            raise ValueError(
                f"part: none of the {len(paths)} sequences below {root} is in EMDB {part} and has a good frame"
            )
        samples = concatenate(tables)
        if camera == "assumed":
            samples = assumed_camera(samples)
        samples = with_caches(samples, root, features, start)
        images = None
        if crops is not None:
            box = samples["box"]
            images = PersonCrops(tuple(pictures), box[:, :2], box[:, 2], crops, crop_margin)
        super().__init__(joint_set, samples, images)


def _good_frames(content: Any, path: Path) -> np.ndarray:
    count = int(get_key(content, "n_frames", path))
    good = check_shape("good_frames_mask", get_key(content, "good_frames_mask", path), (count,), path)
    return np.flatnonzero(good)


def _sequence(content: Any, path: Path, frame: np.ndarray, joint_set: JointSet, bodies: GenderedBodies) -> PoseSample:
    count = int(get_key(content, "n_frames", path))

    def frames(group: Any, key: str, *shape: int) -> np.ndarray:
        """Only the good frames: what stands in the others does not matter."""
        values = np.asarray(get_key(group, key, path))
        is_whole = values.shape == (count, *shape)
        return check_shape(
            key, values[frame] if is_whole else values, (len(frame) if is_whole else count, *shape), path
        )

    smpl, camera, boxes = (get_key(content, key, path) for key in ("smpl", "camera", "bboxes"))
    gender = str(get_key(content, "gender", path))
    if gender not in GENDERS:
        raise ValueError(f"{path}: gender {gender!r} is unknown, valid are {', '.join(GENDERS)}")
    rotations = np.concatenate((frames(smpl, "poses_root", 3), frames(smpl, "poses_body", 69)), axis=1)
    pose = axis_angle_to_rotmat(torch.from_numpy(rotations).unflatten(-1, (24, 3)))
    betas = check_shape("betas", get_key(smpl, "betas", path), (10,), path)
    transl = frames(smpl, "trans", 3)
    K = check_shape("intrinsics", get_key(camera, "intrinsics", path), (3, 3), path)
    extrinsics = frames(camera, "extrinsics", 4, 4)
    size = np.array([float(get_key(camera, key, path)) for key in ("width", "height")])
    R, t = extrinsics[:, :3, :3], extrinsics[:, :3, 3]

    shape, shift = torch.from_numpy(betas), torch.from_numpy(transl)

    def joints_cam(of: JointSet) -> np.ndarray:
        joints = bodies.joints(of, gender, shape, pose, shift).numpy()
        return np.asarray(joints @ R.transpose(0, 2, 1) + t[:, None])

    kinematic, kp2d = joints_cam(SMPL_24), frames(content, "kp2d", 24, 2)
    own = joint_set == SMPL_24
    rows = camera_rows(joint_set, kinematic if own else joints_cam(joint_set), K, size, kp2d if own else None)
    extrinsic_rows(rows, R, t)
    body_rows(rows, R, t, pose, betas, transl, bodies.pelvis(gender, shape).numpy())
    truth_rows(rows, gender, kinematic)
    invalid = np.isin(frame, np.asarray(get_key(boxes, "invalid_idxs", path)).astype(np.int64))
    rows["box"] = _squares(np.asarray(get_key(boxes, "bboxes", path)), frame, invalid, count, kp2d, path)
    action = path.parent.name.split("_", 1)[-1]
    subject = path.parent.parent.name
    return label_rows(rows, subject, f"{subject}_{path.parent.name}", action, frame, 0, _FPS)


def _squares(
    corners: np.ndarray,
    frame: np.ndarray,
    invalid: np.ndarray,
    count: int,
    kp2d: Float[np.ndarray, "frames 24 2"],
    path: Path,
) -> Float[Tensor, "frames 3"]:
    """Middle (x, y) and side of the squares around the file's boxes (low x, y, high x, y), or around ``kp2d``."""
    if corners.shape != (count, 4):
        check_shape("bboxes", corners, (count, 4), path)
    of_frames = corners[frame].astype(np.float64)
    invalid = invalid | ~(of_frames[:, 2:] > of_frames[:, :2]).all(axis=1)
    points = torch.from_numpy(kp2d).float()
    center, side = box_of_keypoints(points, torch.ones_like(points[..., 0]), _BOX_SCALE)
    valid = torch.from_numpy(~invalid)
    low_high = torch.from_numpy(of_frames).float().unflatten(1, (2, 2))[valid]
    center[valid], side[valid] = box_of_keypoints(low_high, torch.ones(low_high.shape[:2]), _BOX_SCALE)
    return torch.cat((center, side[:, None]), dim=1)
