"""Motion that is given as SMPL parameters, seen by virtual cameras: what AMASS and 3DPW at 60 Hz share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.files import BodyModel, Gender, load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import SMPL_24, JointSet
from posecore.body.smpl import SMPLLayer
from posecore.data.cameras import CameraSampler
from posecore.data.detector_noise import DetectorNoise
from posecore.data.motion import Motion
from posecore.data.motion_samples import make_samples
from posecore.data.sample import PoseSample, concatenate
from posecore.geometry.camera import world_to_cam

_FRAMES_AT_ONCE = 512  # Bounds the memory of the skinned vertices.


@dataclass(frozen=True)
class SMPLMotion:
    """One person's motion as a file has it; the world frame is y up, metres."""

    pose: Float[Tensor, "frames 24 3 3"]
    """Rotations of SMPL's 24 joints, root first."""
    betas: Float[Tensor, "10"]
    transl: Float[Tensor, "frames 3"]
    fps: float
    clip: str
    subject: str
    action: str = ""
    gender: Gender = "neutral"
    """Whose body the rows are of, where there are SMPL's files."""


def smpl_motion_samples(
    motions: Sequence[SMPLMotion],
    joint_set: JointSet,
    body_models: Path | None = None,
    cameras: CameraSampler | str = "single",
    views: int = 1,
    stride: int = 1,
    noise: DetectorNoise | None = None,
    seed: int = 0,
) -> PoseSample:
    """Turns motion into a table of samples, as `make_samples` does, of each person's own body.

    Args:
        motions: clips.
        joint_set: any that `posecore.body.named_joints.NamedJoints` knows.
        body_models: folder with SMPL's files; None takes the open body in its mean shape, since ``betas`` of SMPL mean
            nothing to it.
        cameras: a camera sampler or the name of one ("single", "ring", "track").
        views: cameras per frame.
        stride: takes every ``stride``-th frame; ``frame`` and ``fps`` stay those of the clip.
        noise: 2D noise; None gives exact 2D with confidence 1.
        seed: changes every draw.

    Returns:
        The keys of `make_samples` with joints "body", and ``gender joints_known has_pose has_betas``.

    Raises:
        FileNotFoundError: if a body's file is not there.
        ValueError: if an argument is outside its range, or there is no clip.
    """
    if not motions:
        raise ValueError("motions: expected at least one clip, got none")
    if views < 1 or stride < 1:
        raise ValueError(f"views and stride: must be at least 1, got views={views}, stride={stride}")
    bodies: dict[Gender, _Body] = {}
    tables = []
    for motion in motions:
        gender: Gender = "neutral" if body_models is None else motion.gender
        if gender not in bodies:
            bodies[gender] = _Body(joint_set, load_body_model(body_models, gender))
        betas = torch.zeros(10) if body_models is None else motion.betas.float()
        pose, transl = motion.pose[::stride].float(), motion.transl[::stride].float()
        joints_world, smpl_world = bodies[gender].joints(betas, pose, transl)
        seen = Motion(
            joints_world=joints_world,
            joint_set=joint_set,
            global_orient=pose[:, 0],
            body_pose=pose[:, 1:],
            transl=transl,
            frame_index=torch.arange(0, len(motion.pose), stride),
            fps=motion.fps,
            clip=motion.clip,
            subject=motion.subject,
            action=motion.action,
        )
        rows = make_samples([seen], "mocap", cameras, views, 1, noise, seed=seed, joint_set=joint_set)
        tables.append(_with_body(rows, seen, betas, smpl_world, bodies[gender].pelvis(betas), gender))
    return concatenate(tables)


class _Body:
    def __init__(self, joint_set: JointSet, model: BodyModel) -> None:
        self.layers = [NamedJoints(wanted, model) for wanted in (joint_set, SMPL_24)]
        self.kinematic = SMPLLayer(model, vertices=())

    def joints(
        self, betas: Float[Tensor, "10"], pose: Float[Tensor, "frames 24 3 3"], transl: Float[Tensor, "frames 3"]
    ) -> list[Tensor]:
        """Joints of the joint set, and of SMPL-24."""
        parts = list(zip(pose.split(_FRAMES_AT_ONCE), transl.split(_FRAMES_AT_ONCE), strict=True))
        return [
            torch.cat([layer(betas, part[:, 1:], part[:, 0], shift) for part, shift in parts]) for layer in self.layers
        ]

    def pelvis(self, betas: Float[Tensor, "10"]) -> Float[Tensor, "3"]:
        return self.kinematic.rest_joints(betas)[0]


def _with_body(
    rows: PoseSample,
    motion: Motion,
    betas: Float[Tensor, "10"],
    smpl_world: Float[Tensor, "frames 24 3"],
    pelvis: Float[Tensor, "3"],
    gender: Gender,
) -> PoseSample:
    """Adds the body in each row's camera frame, and that all of it is known."""
    count, joints = rows["joints_cam"].shape[:2]
    views = count // motion.num_frames
    R, t = rows["R_world_to_cam"], rows["t_world_to_cam"]
    orient, pose, transl, smpl = (
        values.repeat_interleave(views, dim=0)
        for values in (motion.global_orient, motion.body_pose, motion.transl, smpl_world)
    )
    rows["global_orient"], rows["body_pose"] = R @ orient, pose
    rows["betas"] = betas.expand(count, -1).clone()
    # The body turns about its pelvis: R (pelvis + transl_world) + t = pelvis + transl_cam.
    rows["transl"] = (R @ (pelvis + transl)[..., None])[..., 0] + t - pelvis
    rows["joints_smpl24_cam"] = world_to_cam(smpl, R, t)
    rows["joints_known"] = torch.ones(count, joints, dtype=torch.bool)
    rows["has_pose"] = torch.ones(count, dtype=torch.bool)
    rows["has_betas"] = torch.ones(count, dtype=torch.bool)
    rows["gender"] = [gender] * count
    return rows
