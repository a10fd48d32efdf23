"""3DPW's SMPL parameters at 60 Hz, the rate of its sensors, seen by virtual cameras."""

import re
from pathlib import Path
from typing import Any, cast

import torch

from posecore.body.files import Gender
from posecore.body.skeletons import get_joint_set
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import check_shape, get_key
from posecore.data.cameras import CameraSampler
from posecore.data.detector_noise import DetectorNoise
from posecore.data.smpl_motion import SMPLMotion, smpl_motion_samples
from posecore.data.threedpw import of_person, person_betas, person_gender, sequence_files
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.safe_pickle import load_pickle

_FPS = 60.0


class ThreeDPWMotion(PoseTable):
    """3DPW at 60 Hz: people's motion in the world, without the data set's pictures and cameras.

    ============  ====================================================================================================
    content       the people of 60 sequences, 60 frames per second: ``poses_60Hz`` and ``trans_60Hz``
    joints        H36M-17, SMPL-24, body25 or joints44 of each person's gendered SMPL, or of the open body, metres
    frame         camera of a virtual camera (x right, y down, z forward); the files' world is y up
    body          ``global_orient`` and ``transl`` in the camera frame, ``body_pose``, ``betas``
    files         sequenceFiles/<split>/*.pkl; SMPL's female and male files for the person's own body
    licence       non-commercial research only, no redistribution; SMPL likewise
    to obtain     virtualhumans.mpi-inf.mpg.de/3DPW; smpl.is.tue.mpg.de
    protocol      none of the papers'; `posecore.data.threedpw.ThreeDPW` is the benchmark
    ============  ====================================================================================================

    Cameras and their flags are of the pictures alone. The files' ``img_frame_ids`` say which pose at 60 Hz belongs to
    which picture; those poses are what the files have at 30 Hz, too, and the others have no camera. So none of the
    moving cameras is interpolated here: the whole motion is seen by virtual cameras, as `AMASS` is.

    Args:
        root: folder with ``sequenceFiles``, or the folder that holds it as ``3dpw``.
        split: "train", "validation" or "test".
        body_models: folder with SMPL's files; None is the open body in its mean shape.
        joint_set: "h36m17", "smpl24", "body25" or "joints44".
        cameras: "single", "ring", "track", or a camera sampler.
        views: cameras per frame.
        stride: takes every ``stride``-th frame.
        noise: 2D noise; None gives exact 2D with confidence 1.
        seed: changes cameras and noise.

    Raises:
        FileNotFoundError: if a file is not there; the message says what to register for.
        ValueError: if an argument is outside its range or a file is broken.
    """

    def __init__(
        self,
        root: Path,
        split: str = "train",
        body_models: Path | None = None,
        joint_set: str = "h36m17",
        cameras: CameraSampler | str = "single",
        views: int = 1,
        stride: int = 1,
        noise: DetectorNoise | None = None,
        seed: int = 0,
    ) -> None:
        chosen = get_joint_set(joint_set)
        motions = []
        for path in sequence_files(Path(root), split):
            content = load_pickle(path)
            motions += [_motion(content, person, path) for person in range(len(get_key(content, "poses_60Hz", path)))]
        super().__init__(chosen, smpl_motion_samples(motions, chosen, body_models, cameras, views, stride, noise, seed))


def _motion(content: Any, person: int, path: Path) -> SMPLMotion:
    poses = check_shape("poses_60Hz", of_person(content, "poses_60Hz", person, path), (None, 72), path)
    transl = check_shape("trans_60Hz", of_person(content, "trans_60Hz", person, path), (len(poses), 3), path)
    clip = f"{path.stem}_{person}"
    return SMPLMotion(
        pose=axis_angle_to_rotmat(torch.from_numpy(poses).unflatten(-1, (24, 3))).float(),
        betas=torch.from_numpy(person_betas(content, person, path)).float(),
        transl=torch.from_numpy(transl).float(),
        fps=_FPS,
        clip=clip,
        subject=clip,
        action=re.sub(r"_\d+$", "", path.stem),
        gender=cast(Gender, person_gender(content, person, path)),
    )
