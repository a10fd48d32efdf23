"""3DPW as it is distributed: SMPL parameters, pictures and a moving camera for every sequence."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.skeletons import JOINTS_44, SMPL_24, JointSet
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
from posecore.geometry.camera import project
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.safe_pickle import load_pickle

SPLITS = ("train", "validation", "test")
JOINT_SOURCES = ("h36m17", "smpl24", "joints44")
KEYPOINTS = ("exact", "detected")
BOXES = ("detected", "projected")
FOLDERS = ("3dpw", "3DPW")
GENDERS = {"m": "male", "f": "female"}
HOW_TO_OBTAIN = (
    "3DPW is free for non-commercial research: accept its licence at virtualhumans.mpi-inf.mpg.de/3DPW and unpack "
    "sequenceFiles.zip, so that the folder holds sequenceFiles/<split>/*.pkl (and imageFiles.zip for the pictures)"
)
_FPS = 30.0
# OpenPose's COCO model: the 18 joints of poses2d.
_DETECTED = (
    *("nose", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist", "r_hip", "r_knee"),
    *("r_ankle", "l_hip", "l_knee", "l_ankle", "r_eye", "l_eye", "r_ear", "l_ear"),
)
_NOT_OPENPOSE = ("neck",)  # OpenPose's lies between the shoulders, SMPL's does not.


class ThreeDPW(PoseTable):
    """3DPW: one or two people in everyday scenes, a hand-held camera, SMPL fitted to body-worn sensors.

    ============  ====================================================================================================
    content       60 sequences, 51,000 frames at 30 per second; test: 24 sequences, 35,515 people in valid frames
    joints        of the person's gendered SMPL mesh: H36M-17 (SPIN's regressor) or joints44; or the file's own SMPL-24
    frame         camera (x right, y down, z forward), metres
    2D            exact projection of the 3D joints, confidence 1, or OpenPose's 18 joints of the file (``poses2d``);
                  the image is twice its principal point
    box           around OpenPose's joints, side 1.2 times the longer side as in SPIN's and ProHMR's scripts; where
                  nothing was detected (the files then hold 0), around the projected joints
    body          ``global_orient`` and ``transl`` in the camera frame, ``body_pose``, the first 10 ``betas``, of the
                  person's gendered SMPL
    files         sequenceFiles/<split>/*.pkl; imageFiles/<sequence>/image_00000.jpg for pictures; for all but SMPL-24
                  also SMPL's female and male files, for H36M-17 J_regressor_h36m.npy
    licence       non-commercial research only, no redistribution; SMPL likewise
    to obtain     virtualhumans.mpi-inf.mpg.de/3DPW; smpl.is.tue.mpg.de
    protocol      only frames whose camera is aligned with the image (``campose_valid``)
    ============  ====================================================================================================

    Rows run over sequences, people, then frames. ``clip`` is the sequence and the person's number in it, ``action`` the
    sequence's name without its number, ``frame`` the number of the image.

    These are the files' parameters at 30 Hz, one set for each image. Those at 60 Hz have no camera and no flag between
    two images, so they are no rows of this table: `posecore.data.threedpw_motion.ThreeDPWMotion` reads them.

    With ``joint_source="joints44"`` rows have the keys of `SPINNpz` with ``truth="smpl"``, on which mesh recovery is
    tested, and more.

    Args:
        root: folder with ``sequenceFiles``, or the folder that holds it as ``3dpw``.
        split: "train", "validation" or "test".
        joint_source: "h36m17", "joints44", or "smpl24", which needs no licensed body file.
        stride: takes every ``stride``-th valid frame of every person.
        body_models: folder with the SMPL files and J_regressor_h36m.npy; None is ``body_models`` in ``root`` or
            beside ``sequenceFiles``.
        keypoints: ``joints_2d_px``: "exact", or "detected": OpenPose's limbs under their names, in joints44 all 18 as
            ``op_*`` and none of the other 19; what was not detected has confidence 0.
        boxes: "detected" or "projected", around all projected joints.
        crops: side of the person's box in ``image`` in pixels; None reads no pictures.
        crop_margin: side of ``image`` by that of the box, a raw crop for `posecore.data.augment`; None gives crops
            normalised as a network wants them.
        camera: "calibrated", or "assumed": a focal length of 5000 px, with which released regressors place people; rows
            then have no ``transl``, no place of the camera and no ``joints_2d_true_px``.
        features: cache of image features of all rows in order, below ``root`` (`SMPLNpz`).
        start: cache of predictions of all rows in order (`read_start_estimates`); needs ``camera="assumed"``.

    Raises:
        FileNotFoundError: if a file is not there; the message says what to register for.
        ValueError: if an argument names something unknown, arguments contradict one another, nothing is valid or a
            file is broken.

    References:
        von Marcard et al., Recovering Accurate 3D Human Pose in The Wild Using IMUs and a Moving Camera, ECCV 2018.
    """

    def __init__(
        self,
        root: Path,
        split: str = "test",
        joint_source: str = "h36m17",
        stride: int = 1,
        body_models: Path | None = None,
        keypoints: str = "exact",
        boxes: str = "detected",
        crops: int | None = None,
        crop_margin: float | None = 1.5,
        camera: str = "calibrated",
        features: str | None = None,
        start: str | None = None,
    ) -> None:
        check_choice("joint_source", [joint_source], JOINT_SOURCES)
        check_choice("keypoints", [keypoints], KEYPOINTS)
        check_choice("boxes", [boxes], BOXES)
        check_choice("camera", [camera], CAMERAS)
        check_stride(stride)
        check_caches(features, start, stride, camera)
        root = Path(root)
        paths = sequence_files(root, split)
        wanted = _Wanted(JOINT_SETS[joint_source], find_bodies(root, FOLDERS, body_models), keypoints, boxes)
        tables = [(path, rows) for path in paths for rows in _sequence(path, wanted, stride)]
        if not tables:
            raise ValueError(f"split: no frame below {paths[0].parent} has a valid camera")
        samples = concatenate([rows for _, rows in tables])
        if camera == "assumed":
            samples = assumed_camera(samples)
        samples = with_caches(samples, root, features, start)
        images = None
        if crops is not None:
            folder = find_path(root, FOLDERS, "imageFiles", HOW_TO_OBTAIN)
            pictures = [
                folder / path.stem / f"image_{frame:05d}.jpg" for path, rows in tables for frame in rows["frame"]
            ]
            box = samples["box"]
            images = PersonCrops(tuple(pictures), box[:, :2], box[:, 2], crops, crop_margin)
        super().__init__(wanted.joint_set, samples, images)


@dataclass(frozen=True)
class _Wanted:
    """What a person's rows hold."""

    joint_set: JointSet
    bodies: GenderedBodies
    keypoints: str
    boxes: str


def sequence_files(root: Path, split: str) -> list[Path]:
    """The files of a split, sorted.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if the split is unknown.
    """
    check_choice("split", [split], SPLITS)
    folder = find_path(root, FOLDERS, f"sequenceFiles/{split}", HOW_TO_OBTAIN)
    paths = sorted(folder.glob("*.pkl"))
    if not paths:
        raise FileNotFoundError(f"root: {folder} holds no .pkl files. {HOW_TO_OBTAIN}")
    return paths


def person_gender(content: Any, person: int, path: Path) -> str:
    """Whose body a person's parameters are of: "female" or "male".

    Raises:
        ValueError: if the file says something else, or nothing.
    """
    gender = str(of_person(content, "genders", person, path))
    if gender not in GENDERS:
        raise ValueError(f"{path}: gender {gender!r} of person {person} is unknown, valid are {', '.join(GENDERS)}")
    return GENDERS[gender]


def person_betas(content: Any, person: int, path: Path) -> Float[np.ndarray, "10"]:
    """The first 10 numbers of a person's shape (the files have 10 or 300).

    Raises:
        ValueError: if there are fewer, or they are no numbers.
    """
    betas = check_shape("betas", of_person(content, "betas", person, path), (None,), path)
    return check_shape("betas", betas[:10], (10,), path)


def of_person(content: Any, key: str, person: int, path: Path) -> Any:
    """``content[key][person]``.

    Raises:
        ValueError: if the file lacks the key or the person.
    """
    people = get_key(content, key, path)
    if len(people) <= person:
        raise ValueError(f"{path}: {key} is of {len(people)} people, but poses of at least {person + 1}")
    return people[person]


def _sequence(path: Path, wanted: _Wanted, stride: int) -> list[PoseSample]:
    content = load_pickle(path)
    K = check_shape("cam_intrinsics", get_key(content, "cam_intrinsics", path), (3, 3), path)
    cameras = check_shape("cam_poses", get_key(content, "cam_poses", path), (None, 4, 4), path)
    tables = []
    for person in range(len(get_key(content, "poses", path))):
        valid = check_shape("campose_valid", of_person(content, "campose_valid", person, path), (len(cameras),), path)
        frame = np.flatnonzero(valid)[::stride]
        if len(frame):
            tables.append(_person(content, path, person, frame, K, cameras, wanted))
    return tables


def _person(
    content: Any, path: Path, person: int, frame: np.ndarray, K: np.ndarray, cameras: np.ndarray, wanted: _Wanted
) -> PoseSample:
    def frames(key: str, *shape: int) -> np.ndarray:
        values = check_shape(key, of_person(content, key, person, path), (len(cameras), *shape), path)
        return values.take(frame, axis=0)

    poses, transl, kinematic = frames("poses", 72), frames("trans", 3), frames("jointPositions", 72).reshape(-1, 24, 3)
    betas, gender = person_betas(content, person, path), person_gender(content, person, path)
    pose = axis_angle_to_rotmat(torch.from_numpy(poses).unflatten(-1, (24, 3)))
    R, t = cameras[frame, :3, :3], cameras[frame, :3, 3]

    def to_cam(joints_world: np.ndarray) -> np.ndarray:
        return np.asarray(joints_world @ R.transpose(0, 2, 1) + t[:, None])

    joint_set, joints_world = wanted.joint_set, kinematic
    if joint_set != SMPL_24:
        shape, shift = torch.from_numpy(betas), torch.from_numpy(transl)
        joints_world = wanted.bodies.joints(joint_set, gender, shape, pose, shift).numpy()
    rows = camera_rows(joint_set, to_cam(joints_world), K, 2 * K[:2, 2])
    extrinsic_rows(rows, R, t)
    body_rows(rows, R, t, pose, betas, transl, pelvis=kinematic[:, 0] - transl)
    truth_rows(rows, gender, to_cam(kinematic))
    seen = None
    if "detected" in (wanted.boxes, wanted.keypoints):
        seen = frames("poses2d", 3, 18).transpose(0, 2, 1)
    rows["box"] = _boxes(rows, seen if wanted.boxes == "detected" else None)
    if seen is not None and wanted.keypoints == "detected":
        rows["joints_2d_px"], rows["confidence"] = _keypoints(seen, joint_set)
    action = re.sub(r"_\d+$", "", path.stem)
    clip = f"{path.stem}_{person}"
    return label_rows(rows, clip, clip, action, frame, 0, _FPS)


def _boxes(rows: PoseSample, seen: Float[np.ndarray, "frames 18 3"] | None) -> Float[Tensor, "frames 3"]:
    """Middle (x, y) and side of the squares around the detected joints, or around the projected ones."""
    points = project(rows["joints_cam"], rows["K"])
    center, side = box_of_keypoints(points, torch.ones_like(points[..., 0]))
    if seen is not None:
        detected, known = torch.from_numpy(seen[..., :2]).float(), torch.from_numpy(seen[..., 2]) > 0
        apart = (detected[:, :, None] != detected[:, None]).any(dim=-1) & known[:, :, None] & known[:, None]
        has_box = apart.flatten(1).any(dim=1)
        center[has_box], side[has_box] = box_of_keypoints(detected[has_box], known[has_box].float())
    return torch.cat((center, side[:, None]), dim=1)


def _keypoints(
    seen: Float[np.ndarray, "frames 18 3"], joint_set: JointSet
) -> tuple[Float[Tensor, "frames joints 2"], Float[Tensor, "frames joints"]]:
    """Detected joints in the order of the joint set, and their confidence."""
    out = torch.zeros(len(seen), joint_set.num_joints, 3)
    for number, name in enumerate(_DETECTED):
        target = f"op_{name}" if joint_set == JOINTS_44 else name
        if target in joint_set.joint_names and target not in _NOT_OPENPOSE:
            out[:, joint_set.index(target)] = torch.from_numpy(seen[:, number]).float()
    confidence = out[..., 2].clamp(0, 1)
    return torch.where((confidence > 0)[..., None], out[..., :2], 0.0), confidence
