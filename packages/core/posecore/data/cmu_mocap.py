"""The CMU Graphics Lab Motion Capture Database as BVH: clips read, repaired, resampled and retargeted."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posecore.body.files import load_body_model
from posecore.body.skeletons import H36M_17, get_joint_set
from posecore.data.base import PoseTable
from posecore.data.bvh import BVH, read_bvh
from posecore.data.cameras import CameraSampler
from posecore.data.cmu_rigs import RIGS, h36m_joints, recognise_rig
from posecore.data.detector_noise import DetectorNoise
from posecore.data.motion import Motion, resampling_positions
from posecore.data.motion_samples import make_samples
from posecore.data.recombine import recombine_arms
from posecore.data.retarget import retarget_to_smpl
from posecore.geometry.rotation import slerp

SPLITS = ("train", "val", "test_subjects", "test_takes")
HOW_TO_OBTAIN = (
    "CMU motion capture is free: see mocap.cs.cmu.edu, and take the BVH conversion by B. Hahne (cgspeed) that is "
    "linked there; unpack it so that the folder holds <subject>/<clip>.bvh. Without it, posecore.data.SyntheticMotion "
    "makes motion that needs no download"
)
# The project's fixed splits, used where a folder has no manifest: by subject, plus unseen takes of two subjects.
_SPLIT_OF_SUBJECT = {"10": "val", "16": "val", "94": "val", "32": "test_subjects", "131": "test_subjects"}
_TEST_TAKES = frozenset(
    {"05_05", "05_10", "05_16", "49_03", "49_05", "49_07", "49_09", "49_12", "49_16", "49_19", "49_22"}
)
_MAX_JOINT_SPEED = 20.0  # m/s; a sprinter's hand stays below 15.
_GLITCH_MARGIN = 0.1  # seconds on both sides of a jump, where the recording's filter rings


@dataclass(frozen=True)
class ClipInfo:
    """What is known of a clip beside its file; None leaves it to the file and its rig."""

    clip: str
    path: Path
    subject: str
    split: str
    action: str = ""
    fps: float | None = None
    trim_start: int | None = None
    unit_to_m: float | None = None


def list_clips(root: Path) -> list[ClipInfo]:
    """Clips below ``root`` (or ``root/cmu_mocap``), by ``manifest.csv`` where there is one.

    The manifest needs the column ``clip`` and may have ``subject split action fps trim_start unit_to_m``. Its ``fps``
    matters: headers say 120 even for trials recorded at 60 frames per second (subjects 60 and 61 among them). Without a
    manifest every ``*.bvh`` file is a clip named ``<subject>_<take>.bvh`` and the project's splits apply.

    Raises:
        FileNotFoundError: if there is no such folder, no BVH file in it, or a clip of the manifest has no file.
        ValueError: if the manifest is broken.
    """
    folder = root / "cmu_mocap" if (root / "cmu_mocap").is_dir() else root
    if not folder.is_dir():
        raise FileNotFoundError(f"root: {folder} is not a folder. {HOW_TO_OBTAIN}")
    files = {path.stem: path for path in sorted(folder.rglob("*.bvh"))}
    if not files:
        raise FileNotFoundError(f"root: {folder} has no BVH files. {HOW_TO_OBTAIN}")
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        return _read_manifest(manifest, files)
    return [ClipInfo(clip, path, clip.split("_")[0], default_split(clip)) for clip, path in files.items()]


def default_split(clip: str) -> str:
    """The project's split of a clip of the database, by its name."""
    return "test_takes" if clip in _TEST_TAKES else _SPLIT_OF_SUBJECT.get(clip.split("_")[0], "train")


def _read_manifest(manifest: Path, files: dict[str, Path]) -> list[ClipInfo]:
    infos = []
    with manifest.open(newline="", encoding="utf-8") as handle:
        for number, row in enumerate(csv.DictReader(handle), start=2):
            clip = row.get("clip")
            if not clip:
                raise ValueError(f"{manifest}: line {number} has no value in a column named 'clip'")
            if clip not in files:
                raise FileNotFoundError(f"{manifest}: line {number} lists {clip}, but there is no {clip}.bvh")
            try:
                info = ClipInfo(
                    clip=clip,
                    path=files[clip],
                    subject=row.get("subject") or clip.split("_")[0],
                    split=row.get("split") or default_split(clip),
                    action=row.get("action") or "",
                    fps=float(row["fps"]) if row.get("fps") else None,
                    trim_start=int(row["trim_start"]) if row.get("trim_start") else None,
                    unit_to_m=float(row["unit_to_m"]) if row.get("unit_to_m") else None,
                )
            except ValueError as error:
                raise ValueError(f"{manifest}: line {number} ({clip}): {error}") from error
            if info.split not in SPLITS:
                raise ValueError(f"{manifest}: line {number}: split {info.split!r}, valid are {', '.join(SPLITS)}")
            infos.append(info)
    return infos


def convert_clip(info: ClipInfo, bvh: BVH, target_rest: Float[Tensor, "24 3"], fps: float = 30.0) -> Motion:
    """One clip as `Motion`: repairs the skeleton, trims the T-pose, drops glitches, resamples, retargets.

    Args:
        info: what is known of the clip.
        bvh: its file.
        target_rest: rest joints of the SMPL body, metres.
        fps: frame rate to resample to.

    Raises:
        ValueError: if the rig is unknown or the file is no longer than its trim; the message names the file.
    """
    rig = recognise_rig(bvh)
    unit = rig.unit_to_m if info.unit_to_m is None else info.unit_to_m
    trim = rig.trim_start if info.trim_start is None else info.trim_start
    source_fps = bvh.fps if info.fps is None else info.fps
    if bvh.num_frames <= trim:
        raise ValueError(
            f"{info.path}: {bvh.num_frames} frames, of which the first {trim} are trimmed: nothing is left"
        )
    offsets = rig.repaired_offsets(bvh)
    rotations, positions = bvh.forward_kinematics(offsets, start=trim)
    joints = h36m_joints(rig, bvh, rotations, positions) * unit
    broken = glitches(joints, source_fps)

    where = resampling_positions(len(joints), source_fps, fps)
    lower = np.floor(where).astype(np.int64)
    upper = np.minimum(lower + 1, len(joints) - 1)
    weight = where - lower
    keep = ~(broken[lower] | (broken[upper] & (weight > 0)))
    lower, upper, weight = lower[keep], upper[keep], weight[keep]
    sources = [bvh.index(name) for name in rig.smpl]
    source_rotations = torch.from_numpy(rotations[lower][:, sources])
    if weight.any():
        later = torch.from_numpy(rotations[upper][:, sources])
        source_rotations = slerp(source_rotations, later, torch.from_numpy(weight)[:, None].expand(-1, len(sources)))
    joints = joints[lower] + (joints[upper] - joints[lower]) * weight[:, None, None]

    rest = np.zeros_like(offsets)
    for j, parent in enumerate(bvh.parents):
        rest[j] = offsets[j] + (rest[parent] if parent >= 0 else 0)
    pose = retarget_to_smpl(
        source_rotations,
        torch.from_numpy(rest[sources] * unit),
        torch.from_numpy(joints[:, H36M_17.index("pelvis")]),
        target_rest.double(),
    )
    return Motion(
        joints_world=torch.from_numpy(joints).float(),
        joint_set=H36M_17,
        global_orient=pose.global_orient.float(),
        body_pose=pose.body_pose.float(),
        transl=pose.transl.float(),
        frame_index=torch.from_numpy(np.flatnonzero(keep)),
        fps=fps,
        clip=info.clip,
        subject=info.subject,
        action=info.action,
        split=info.split,
        body_scale=pose.body_scale,
    )


def glitches(joints: Float[np.ndarray, "frames joints 3"], fps: float) -> Bool[np.ndarray, " frames"]:
    """Frames within 0.1 s of a step in which a joint moves faster than 20 m/s (metres in, e.g. 60_10 and 94_i07)."""
    fast = (np.linalg.norm(np.diff(joints, axis=0), axis=-1).max(axis=-1, initial=0.0) * fps) > _MAX_JOINT_SPEED
    broken = np.zeros(len(joints), dtype=bool)
    margin = round(_GLITCH_MARGIN * fps)
    for step in np.flatnonzero(fast):  # A step joins frames step and step + 1.
        broken[max(0, step - margin) : step + 2 + margin] = True
    return broken


def load_cmu_motions(
    root: Path,
    split: str | None = "train",
    clips: Sequence[str] | None = None,
    rigs: Sequence[str] | None = None,
    fps: float = 30.0,
) -> list[Motion]:
    """Reads the clips of a split.

    Args:
        root: folder of the database, or the folder that holds it as ``cmu_mocap``.
        split: one of ``SPLITS``; None takes all.
        clips: only these, by name (they must be in the split).
        rigs: only clips of these rigs; the generic skeleton ``cgspeed-daz-43`` is for variety in training only.
        fps: frame rate to resample to.

    Raises:
        FileNotFoundError: if the data is not there.
        ValueError: if an argument names something unknown, nothing is selected or a file is broken.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split: {split!r} is unknown, valid are {', '.join(SPLITS)} and None for all")
    if unknown := sorted(set(rigs or ()) - set(RIGS)):
        raise ValueError(f"rigs: {unknown} are unknown, valid are {', '.join(RIGS)}")
    infos = [info for info in list_clips(root) if split is None or info.split == split]
    if clips is not None:
        if missing := sorted(set(clips) - {info.clip for info in infos}):
            raise ValueError(f"clips: {missing} are not in split {split!r} below {root}")
        infos = [info for info in infos if info.clip in clips]
    model = load_body_model()
    target_rest = model.J_regressor @ model.v_template
    motions = []
    for info in infos:
        bvh = read_bvh(info.path)
        if rigs is None or recognise_rig(bvh).name in rigs:
            motions.append(convert_clip(info, bvh, target_rest, fps))
    motions = [motion for motion in motions if motion.num_frames]
    if not motions:
        raise ValueError(f"split: no clip below {root} is in split {split!r} and has one of the rigs asked for")
    return motions


class CMUMocap(PoseTable):
    """CMU Graphics Lab Motion Capture Database, seen by virtual cameras.

    ============  ====================================================================================================
    content       walks, runs, jumps, dance, acrobatics, everyday actions of some 140 people (the whole database)
    joints        H36M-17, metres, camera frame (x right, y down, z forward); 30 frames per second
    source        BVH conversion by B. Hahne (cgspeed) in three rigs, recognised by their joints; the two defects of the
                  conversion are repaired, the added T-pose trimmed, stretches faster than 20 m/s dropped
    splits        ``train``, ``val`` (subjects 10, 16, 94), ``test_subjects`` (32, 131, seen nowhere else),
                  ``test_takes`` (unseen takes of subjects 05 and 49: hard poses); a ``manifest.csv`` may say otherwise
    licence       free for all uses, also inside products; may not be resold directly, even converted. Acknowledge: data
                  from mocap.cs.cmu.edu, created with funding from NSF EIA-0196217
    to obtain     mocap.cs.cmu.edu and the cgspeed BVH release; one folder with <subject>/<clip>.bvh
    ============  ====================================================================================================

    Args:
        root: folder of the database, or the folder that holds it as ``cmu_mocap``.
        split: one of the four splits; None takes every clip.
        clips: only these clips, by name.
        rigs: only clips of these rigs (``posecore.data.RIGS``).
        joints: "mocap" takes the recorded skeleton's joints; "body" those of the open body, with SMPL parameters.
        cameras: "single", "ring", "track", or a camera sampler.
        views: cameras per frame.
        stride: takes every ``stride``-th frame.
        noise: 2D noise; None gives exact 2D with confidence 1.
        betas: with joints "body": a random shape per frame, per clip, or the mean shape.
        seed: changes cameras, noise and shapes.
        fps: frame rate that clips are resampled to.
        joint_set: with joints "body": also "body25", "joints44" or "smpl24".
        recombined: with joints "body": in place of each clip, so many copies whose frames have the arms of other frames
            (`posecore.data.recombine`); for training only.

    Raises:
        FileNotFoundError: if the data is not there.
        ValueError: if an argument names something unknown, nothing is selected or a file is broken.
    """

    def __init__(
        self,
        root: Path,
        split: str | None = "train",
        clips: list[str] | None = None,
        rigs: list[str] | None = None,
        joints: str = "mocap",
        cameras: CameraSampler | str = "single",
        views: int = 1,
        stride: int = 1,
        noise: DetectorNoise | None = None,
        betas: str = "frame",
        seed: int = 0,
        fps: float = 30.0,
        joint_set: str = "h36m17",
        recombined: int = 0,
    ) -> None:
        motions = load_cmu_motions(root, split, clips, rigs, fps)
        if recombined:
            if joints != "body":
                raise ValueError(f"recombined: arms can be exchanged with joints 'body' only, not with {joints!r}")
            motions = recombine_arms(motions, recombined, seed)
        chosen = get_joint_set(joint_set)
        super().__init__(chosen, make_samples(motions, joints, cameras, views, stride, noise, betas, seed, chosen))
