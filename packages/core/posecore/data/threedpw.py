"""3DPW as it is distributed: SMPL parameters and a moving camera for every sequence."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.files import load_body_model
from posecore.body.skeletons import H36M_17, SMPL_24
from posecore.body.smpl import SMPLLayer
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
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.safe_pickle import load_pickle

SPLITS = ("train", "validation", "test")
JOINT_SOURCES = ("h36m17", "smpl24")
HOW_TO_OBTAIN = (
    "3DPW is free for non-commercial research: accept its licence at virtualhumans.mpi-inf.mpg.de/3DPW and unpack "
    "sequenceFiles.zip, so that the folder holds sequenceFiles/<split>/*.pkl"
)
_HOW_TO_OBTAIN_REGRESSOR = (
    "J_regressor_h36m.npy (17 x 6890) comes with the data of SPIN (GitHub: nkolot/SPIN, fetch_data.sh); put it beside "
    "the SMPL files. joint_source='smpl24' needs neither"
)
_FOLDERS = ("3dpw", "3DPW")
_GENDERS = {"m": "male", "f": "female"}
_FPS = 30.0
_FRAMES_AT_ONCE = 512  # Bounds the memory of the skinned vertices.


class ThreeDPW(PoseTable):
    """3DPW: one or two people in everyday scenes, a hand-held camera, SMPL fitted to body-worn sensors.

    ============  ====================================================================================================
    content       60 sequences, 51,000 frames at 30 per second; test: 24 sequences, 35,515 people in valid frames
    joints        H36M-17 regressed from the person's gendered SMPL mesh, or the file's own SMPL-24 joints
    frame         camera (x right, y down, z forward), metres
    2D            exact projection of the 3D joints, confidence 1; the image is twice its principal point
    body          ``global_orient`` and ``transl`` in the camera frame, ``body_pose``, the first 10 ``betas``, of the
                  person's gendered SMPL
    files         sequenceFiles/<split>/*.pkl; for H36M-17 also SMPL's female and male files and J_regressor_h36m.npy
    licence       non-commercial research only, no redistribution; SMPL likewise
    to obtain     virtualhumans.mpi-inf.mpg.de/3DPW; smpl.is.tue.mpg.de
    protocol      only frames whose camera is aligned with the image (``campose_valid``)
    ============  ====================================================================================================

    Rows run over sequences, people, then frames. ``clip`` is the sequence and the person's number in it, ``action`` the
    sequence's name without its number, ``frame`` the number of the image.

    Args:
        root: folder with ``sequenceFiles``, or the folder that holds it as ``3dpw``.
        split: "train", "validation" or "test".
        joint_source: "h36m17", or "smpl24", which needs no licensed body file.
        stride: takes every ``stride``-th valid frame of every person.
        body_models: folder with the SMPL files and J_regressor_h36m.npy; None is ``body_models`` in ``root`` or
            beside ``sequenceFiles``.

    Raises:
        FileNotFoundError: if a file is not there; the message says what to register for.
        ValueError: if an argument names something unknown, nothing is valid or a file is broken.

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
    ) -> None:
        check_choice("split", [split], SPLITS)
        check_choice("joint_source", [joint_source], JOINT_SOURCES)
        check_stride(stride)
        root = Path(root)
        folder = find_path(root, _FOLDERS, f"sequenceFiles/{split}", HOW_TO_OBTAIN)
        paths = sorted(folder.glob("*.pkl"))
        if not paths:
            raise FileNotFoundError(f"root: {folder} holds no .pkl files. {HOW_TO_OBTAIN}")
        if body_models is None:
            places = [root / folder / "body_models" for folder in ("", *_FOLDERS)]
            body_models = next((place for place in places if place.is_dir()), places[0])
        bodies = _Bodies(Path(body_models))
        tables = [rows for path in paths for rows in _sequence(path, bodies, joint_source, stride)]
        if not tables:
            raise ValueError(f"split: no frame below {folder} has a valid camera")
        super().__init__(SMPL_24 if joint_source == "smpl24" else H36M_17, concatenate(tables))


class _Bodies:
    """Layers that give H36M-17 joints of gendered bodies, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layers: dict[str, SMPLLayer] = {}

    def joints(
        self, gender: str, betas: Tensor, pose: Float[Tensor, "frames 24 3 3"], transl: Float[Tensor, "frames 3"]
    ) -> Float[Tensor, "frames 17 3"]:
        if gender not in self.layers:
            model = load_body_model(self.folder, gender=gender, dtype=torch.float64)  # type: ignore[arg-type]
            if model.J_regressor_h36m is None:
                raise FileNotFoundError(f"no J_regressor_h36m.npy in {self.folder}. {_HOW_TO_OBTAIN_REGRESSOR}")
            self.layers[gender] = SMPLLayer(model, joints=(), vertices=(), regressor=model.J_regressor_h36m)
        layer = self.layers[gender]
        parts = zip(pose.split(_FRAMES_AT_ONCE), transl.split(_FRAMES_AT_ONCE), strict=True)
        return torch.cat([layer(betas, part[:, 1:], part[:, 0], shift).joints for part, shift in parts])


def _sequence(path: Path, bodies: _Bodies, joint_source: str, stride: int) -> list[PoseSample]:
    content = load_pickle(path)
    K = check_shape("cam_intrinsics", get_key(content, "cam_intrinsics", path), (3, 3), path)
    cameras = check_shape("cam_poses", get_key(content, "cam_poses", path), (None, 4, 4), path)
    tables = []
    for person in range(len(get_key(content, "poses", path))):
        valid = check_shape("campose_valid", _of_person(content, "campose_valid", person, path), (len(cameras),), path)
        frame = np.flatnonzero(valid)[::stride]
        if len(frame):
            tables.append(_person(content, path, person, frame, K, cameras, bodies, joint_source))
    return tables


def _person(
    content: Any,
    path: Path,
    person: int,
    frame: np.ndarray,
    K: np.ndarray,
    cameras: np.ndarray,
    bodies: _Bodies,
    joint_source: str,
) -> PoseSample:
    def frames(key: str, columns: int) -> np.ndarray:
        values = check_shape(key, _of_person(content, key, person, path), (len(cameras), columns), path)
        return values.take(frame, axis=0)

    poses, transl, kinematic = frames("poses", 72), frames("trans", 3), frames("jointPositions", 72).reshape(-1, 24, 3)
    betas = check_shape("betas", _of_person(content, "betas", person, path), (None,), path)[:10]
    gender = str(_of_person(content, "genders", person, path))
    if gender not in _GENDERS:
        raise ValueError(f"{path}: gender {gender!r} of person {person} is unknown, valid are {', '.join(_GENDERS)}")
    pose = axis_angle_to_rotmat(torch.from_numpy(poses).unflatten(-1, (24, 3)))
    R, t = cameras[frame, :3, :3], cameras[frame, :3, 3]

    joints_world = kinematic
    if joint_source == "h36m17":
        shape = torch.from_numpy(betas)
        joints_world = bodies.joints(_GENDERS[gender], shape, pose, torch.from_numpy(transl)).numpy()
    joints_cam = joints_world @ R.transpose(0, 2, 1) + t[:, None]
    joint_set = SMPL_24 if joint_source == "smpl24" else H36M_17
    rows = camera_rows(joint_set, joints_cam, K, 2 * K[:2, 2])
    extrinsic_rows(rows, R, t)

    # A body turns about its pelvis, which rests at `pelvis`: R (pelvis + transl_world) + t = pelvis + transl_cam.
    pelvis = kinematic[:, 0] - transl
    transl_cam = (R @ kinematic[:, 0, :, None])[..., 0] + t - pelvis
    rows["global_orient"] = (torch.from_numpy(R) @ pose[:, 0]).float()
    rows["body_pose"] = pose[:, 1:].float()
    rows["betas"] = torch.from_numpy(betas).float().expand(len(frame), -1).clone()
    rows["transl"] = torch.from_numpy(transl_cam).float()
    action = re.sub(r"_\d+$", "", path.stem)
    clip = f"{path.stem}_{person}"
    return label_rows(rows, clip, clip, action, frame, 0, _FPS)


def _of_person(content: Any, key: str, person: int, path: Path) -> Any:
    people = get_key(content, key, path)
    if len(people) <= person:
        raise ValueError(f"{path}: {key} is of {len(people)} people, but poses of at least {person + 1}")
    return people[person]
