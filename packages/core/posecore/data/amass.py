"""AMASS as it is distributed: motion capture of many laboratories as SMPL parameters, seen by virtual cameras."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from posecore.body.skeletons import get_joint_set
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import check_choice, check_shape, check_stride, get_key
from posecore.data.cameras import CameraSampler
from posecore.data.detector_noise import DetectorNoise
from posecore.data.smpl_motion import SMPLMotion, smpl_motion_samples
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.safe_pickle import load_npz

SUBSETS = {
    "train": (
        *("ACCAD", "BioMotionLab_NTroje", "BMLrub", "BMLmovi", "CMU", "EKUT", "Eyes_Japan_Dataset", "EyesJapanDataset"),
        *("KIT", "MPI_Limits", "PosePrior", "TCD_handMocap", "TCDHands", "TotalCapture"),
    ),
    "validation": ("HumanEva", "MPI_HDM05", "HDM05", "SFU", "MPI_mosh", "MoSh"),
    "test": ("Transitions_mocap", "Transitions", "SSM_synced", "SSM"),
}
"""Folders of each split, by their older and newer names: VPoser's public splits."""
FOLDERS = ("amass", "AMASS")
HOW_TO_OBTAIN = (
    "AMASS is free for non-commercial research: register at amass.is.tue.mpg.de, download the SMPL-H, SMPL-X or SMPL "
    "files of its sub data sets and unpack them, so that the folder holds <sub data set>/<subject>/<name>_poses.npz "
    "(or _stageii.npz). Without it, posecore.data.CMUMocap reads free motion capture"
)
_WIDTHS = (72, 156, 165)
_RATES = ("mocap_framerate", "mocap_frame_rate")
_Z_UP_TO_Y_UP = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]], dtype=torch.float64)


class AMASS(PoseTable):
    """AMASS: motion capture of some twenty laboratories, all fitted with SMPL's kind of body, seen by virtual cameras.

    ============  ====================================================================================================
    content       more than 40 hours of motion of more than 300 people (as first published, and it grows)
    joints        H36M-17, SMPL-24, body25 or joints44 of the neutral body, metres
    frame         camera (x right, y down, z forward); the files' world is z up and is turned to y up
    2D            exact projection, or with ``noise`` a detector's errors
    body          ``global_orient`` and ``transl`` in the camera frame, ``body_pose``, ``betas``. Of SMPL-H and SMPL-X
                  files the 22 joints that SMPL shares; SMPL's two hands are the identity, fingers and face left out
    files         <sub data set>/<subject>/<name>_poses.npz or _stageii.npz with ``poses trans betas mocap_framerate``
    splits        VPoser's: validation HumanEva, HDM05, SFU, MoSh; test Transitions, SSM; train ACCAD, BMLrub (also
                  called BioMotionLab_NTroje), BMLmovi, CMU, EKUT, Eyes Japan, KIT, PosePrior, TCD hands, TotalCapture.
                  Other folders (BMLhandball, DanceDB, DFaust ...) are in no split and can be named
    licence       non-commercial research only, no redistribution; SMPL likewise
    to obtain     amass.is.tue.mpg.de; smpl.is.tue.mpg.de for the licensed body
    protocol      none of the papers is tested on it; it trains pose priors
    ============  ====================================================================================================

    Clips are resampled by taking frames, never between them: every n-th, with n the whole number nearest to the file's
    rate by ``fps``, at least 1. 120 and 60 Hz give 30; 100 Hz gives 33.3, a clip slower than ``fps`` stays as it is.
    The key ``fps`` is the rate that came out.

    The rows' body is the neutral one, whatever the person's gender. The files' ``betas`` are of the gendered SMPL-H or
    SMPL-X: with SMPL's neutral body limbs come close to the person's, the open body is taken in its mean shape. Rows
    run over files, then frames, then views, some 3 kB each: a ``stride`` of 5 or 10 keeps all of AMASS in memory.

    Args:
        root: folder with the sub data sets, or the folder that holds them as ``amass``.
        split: "train", "validation" or "test"; None takes every folder. Of a split's folders those there are taken.
        subsets: only these folders, by name (they must be in the split).
        fps: frame rate to resample to.
        trim: share of each clip that is cut off at either end, where people stand in rest poses; VPoser takes 0.1.
        body_models: folder with SMPL's neutral file; None is the open body.
        joint_set: "h36m17", "smpl24", "body25" or "joints44".
        cameras: "single", "ring", "track", or a camera sampler.
        views: cameras per frame.
        stride: takes every ``stride``-th of the resampled frames.
        noise: 2D noise; None gives exact 2D with confidence 1.
        seed: changes cameras and noise.

    Raises:
        FileNotFoundError: if there are no files; the message says what to register for.
        ValueError: if an argument is outside its range, nothing is selected or a file is broken.

    References:
        Mahmood et al., AMASS: Archive of Motion Capture as Surface Shapes, ICCV 2019.
        Pavlakos et al., Expressive Body Capture: 3D Hands, Face, and Body from a Single Image, CVPR 2019 (VPoser).
    """

    def __init__(
        self,
        root: Path,
        split: str | None = "train",
        subsets: Sequence[str] | None = None,
        fps: float = 30.0,
        trim: float = 0.1,
        body_models: Path | None = None,
        joint_set: str = "h36m17",
        cameras: CameraSampler | str = "single",
        views: int = 1,
        stride: int = 1,
        noise: DetectorNoise | None = None,
        seed: int = 0,
    ) -> None:
        chosen = get_joint_set(joint_set)
        check_stride(stride)
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps: must be above 0, got {fps}")
        if not 0 <= trim < 0.5:
            raise ValueError(f"trim: must be a share in [0, 0.5) of each end, got {trim}")
        files = amass_files(Path(root), split, subsets)
        motions = [read_amass(path, fps, trim) for path in files]
        motions = [motion for motion in motions if len(motion.pose)]
        if not motions:
            raise ValueError(f"trim: nothing is left of the {len(files)} files below {root}")
        super().__init__(chosen, smpl_motion_samples(motions, chosen, body_models, cameras, views, stride, noise, seed))


def amass_files(root: Path, split: str | None = "train", subsets: Sequence[str] | None = None) -> list[Path]:
    """The motion files of a split, sorted.

    Args:
        root: folder with the sub data sets, or the folder that holds them as ``amass``.
        split: one of ``SUBSETS``; None takes every folder.
        subsets: only these folders.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if the split is unknown, or a folder is not in it.
    """
    if split is not None:
        check_choice("split", [split], SUBSETS)
        check_choice("subsets", subsets or (), SUBSETS[split])
    folder = next((root / name for name in FOLDERS if (root / name).is_dir()), root)
    wanted = subsets or (None if split is None else SUBSETS[split])
    files = [
        path
        for path in sorted(folder.glob("*/*/*.npz"))
        if path.stem.endswith(("_poses", "_stageii")) and (wanted is None or path.parts[-3] in wanted)
    ]
    if not files:
        names = "<sub data set>" if wanted is None else " or ".join(wanted)
        raise FileNotFoundError(f"root: {folder} holds no {names}/<subject>/*_poses.npz. {HOW_TO_OBTAIN}")
    return files


def read_amass(path: Path, fps: float = 30.0, trim: float = 0.0) -> SMPLMotion:
    """One file, its world turned to y up, resampled by taking frames.

    SMPL turns about its pelvis, which does not rest at the origin: the path of the pelvis is turned, and so the joints
    are the file's, turned, but for a shift that is the same in all frames.

    Args:
        path: the file.
        fps: frame rate to resample to; see `AMASS`.
        trim: share that is cut off at either end.

    Raises:
        ValueError: if the file is broken; the message names it.
    """
    content = load_npz(path)
    poses = check_shape("poses", get_key(content, "poses", path), (None, None), path)
    frames, width = poses.shape
    if width not in _WIDTHS:
        raise ValueError(f"{path}: poses has {width} numbers per frame, expected one of {_WIDTHS}: another version")
    transl = torch.from_numpy(check_shape("trans", get_key(content, "trans", path), (frames, 3), path))
    betas = check_shape("betas", get_key(content, "betas", path), (None,), path)
    if len(betas) < 10:
        raise ValueError(f"{path}: betas has {len(betas)} numbers, expected at least 10: another version")
    rate = _rate(content, path)
    step = max(1, round(rate / fps))
    kept = slice(int(trim * frames), frames - int(trim * frames), step)

    joints = 24 if width == 72 else 22  # What follows are fingers, jaw and eyes.
    rotmat = torch.eye(3, dtype=torch.float64).repeat(len(poses[kept]), 24, 1, 1)
    rotmat[:, :joints] = axis_angle_to_rotmat(
        torch.from_numpy(np.ascontiguousarray(poses[kept, : 3 * joints])).unflatten(-1, (joints, 3))
    )
    rotmat[:, 0] = _Z_UP_TO_Y_UP @ rotmat[:, 0]
    subset, subject = path.parts[-3:-1]
    return SMPLMotion(
        pose=rotmat.float(),
        betas=torch.from_numpy(betas[:10]).float(),
        transl=(transl[kept] @ _Z_UP_TO_Y_UP.T).float(),
        fps=rate / step,
        clip=f"{subset}/{subject}/{path.stem}",
        subject=f"{subset}/{subject}",
    )


def _rate(content: dict[str, Any], path: Path) -> float:
    key = next((key for key in _RATES if key in content), None)
    if key is None:
        raise ValueError(f"{path}: has none of {', '.join(_RATES)} (it holds {', '.join(content)})")
    rate = float(check_shape(key, content[key], (), path))
    if rate <= 0:
        raise ValueError(f"{path}: {key} is {rate:g}, expected frames per second above 0")
    return rate
