"""From motion to samples: every frame of every clip, seen by cameras, as one table of `PoseSample` rows."""

import zlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.files import load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import H36M_17, JointSet
from posecore.body.smpl import SMPLLayer
from posecore.data.cameras import CameraSampler, get_cameras
from posecore.data.detector_noise import DetectorNoise
from posecore.data.motion import Motion
from posecore.data.sample import PoseSample, concatenate
from posecore.geometry.camera import project, world_to_cam

JOINT_SOURCES = ("mocap", "body")
BETAS_SOURCES = ("frame", "clip", "mean")


def make_samples(
    motions: Sequence[Motion],
    joints: str = "mocap",
    cameras: CameraSampler | str = "single",
    views: int = 1,
    stride: int = 1,
    noise: DetectorNoise | None = None,
    betas: str = "frame",
    seed: int = 0,
    joint_set: JointSet = H36M_17,
) -> PoseSample:
    """Turns motion into a table of samples; rows run over clips, then frames, then views.

    All draws of a clip come from a generator of its own, seeded by ``seed`` and the clip's name: a clip gives the same
    samples whichever other clips are asked for.

    Args:
        motions: clips, all with the same joint set.
        joints: "mocap" takes the joints of the recorded skeleton (real limb lengths; no SMPL keys, since no SMPL
            parameters agree with them exactly); "body" regresses them from the open body, and the rows carry
            ``global_orient body_pose betas transl joints_smpl24_cam`` in the camera frame that agree with the joints.
        cameras: a camera sampler or the name of one ("single", "ring", "track").
        views: cameras per frame; 4 with "ring" is Human3.6M's set-up.
        stride: takes every ``stride``-th frame.
        noise: 2D noise; None gives exact 2D with confidence 1.
        betas: with joints "body", a random shape for each frame, each clip, or the mean shape.
        seed: changes every draw.
        joint_set: with joints "body", any that `posecore.body.named_joints.NamedJoints` knows.

    Raises:
        ValueError: if an argument is outside its range, or no frame is left.
    """
    if not motions:
        raise ValueError("motions: expected at least one clip, got none")
    if views < 1 or stride < 1:
        raise ValueError(f"views and stride: must be at least 1, got views={views}, stride={stride}")
    if joints not in JOINT_SOURCES:
        raise ValueError(f"joints: {joints!r} is unknown, valid are {', '.join(JOINT_SOURCES)}")
    if betas not in BETAS_SOURCES:
        raise ValueError(f"betas: {betas!r} is unknown, valid are {', '.join(BETAS_SOURCES)}")
    if joints == "mocap" and joint_set != motions[0].joint_set:
        raise ValueError(f"joint_set: the recorded skeleton has {motions[0].joint_set.name}, not {joint_set.name}")
    sampler = get_cameras(cameras)
    body = _PosedBody(betas, joint_set) if joints == "body" else None
    return concatenate([_clip_samples(motion, body, sampler, views, stride, noise, seed) for motion in motions])


class _PosedBody:
    """Joints of the open body in world poses, with random shapes."""

    def __init__(self, betas: str, joint_set: JointSet) -> None:
        model = load_body_model()
        self.betas = betas
        self.joint_set = joint_set
        self.named = NamedJoints(joint_set, model)
        self.kinematic = SMPLLayer(model, vertices=())

    def draw_betas(self, frames: int, generator: torch.Generator) -> Float[Tensor, "frames 10"]:
        """Shapes in standard deviations, within +-2.5."""
        rows = frames if self.betas == "frame" else 1
        drawn = torch.randn((rows, 10), generator=generator).clamp(-2.5, 2.5)
        return (drawn * (self.betas != "mean")).expand(frames, 10)


def _clip_samples(
    motion: Motion,
    body: _PosedBody | None,
    cameras: CameraSampler,
    views: int,
    stride: int,
    noise: DetectorNoise | None,
    seed: int,
) -> PoseSample:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{motion.clip}".encode()))
    frame_index = motion.frame_index[::stride]
    frames = frame_index.shape[0]
    joint_set = motion.joint_set if body is None else body.joint_set
    sample = PoseSample()
    if body is None:
        joints_world = motion.joints_world[::stride]
    else:
        betas = body.draw_betas(frames, generator)
        orient, pose, transl = motion.global_orient[::stride], motion.body_pose[::stride], motion.transl[::stride]
        joints_world = body.named(betas=betas, body_pose=pose, global_orient=orient, transl=transl)
        smpl_world = body.kinematic(betas=betas, body_pose=pose, global_orient=orient, transl=transl).joints
    root = list(joint_set.root)
    seen = cameras(joints_world[:, root].mean(dim=1), motion.fps, views, generator)
    K, R, t = seen.K.flatten(0, 1), seen.R_world_to_cam.flatten(0, 1), seen.t_world_to_cam.flatten(0, 1)
    rows = frames * views

    joints_cam = world_to_cam(joints_world.repeat_interleave(views, dim=0), R, t)
    joints_2d = project(joints_cam, K)
    sample["joints_cam"] = joints_cam
    sample["joints_rel"] = joints_cam - joints_cam[:, root].mean(dim=1, keepdim=True)
    sample["joints_2d_true_px"] = joints_2d
    sample["image_size"] = torch.tensor(seen.image_size, dtype=torch.float32).repeat(rows, 1)
    if noise is None:
        sample["joints_2d_px"] = joints_2d.clone()
        sample["confidence"] = torch.ones(joints_2d.shape[:-1])
    else:
        detected = noise(joints_2d, sample["image_size"], joint_set, generator)
        sample["joints_2d_px"], sample["confidence"] = detected
    sample["K"], sample["R_world_to_cam"], sample["t_world_to_cam"] = K, R, t
    if body is not None:
        betas = betas.repeat_interleave(views, dim=0)
        pelvis = body.kinematic.rest_joints(betas)[:, 0]
        # The body turns about its pelvis: R (pelvis + transl_world) + t = pelvis + transl_cam.
        moved = pelvis + transl.repeat_interleave(views, dim=0)
        sample["global_orient"] = R @ orient.repeat_interleave(views, dim=0)
        sample["body_pose"] = pose.repeat_interleave(views, dim=0)
        sample["betas"] = betas
        sample["transl"] = (R @ moved[..., None])[..., 0] + t - pelvis
        sample["joints_smpl24_cam"] = world_to_cam(smpl_world.repeat_interleave(views, dim=0), R, t)
    sample["subject"], sample["clip"], sample["action"] = ([text] * rows for text in _labels(motion))
    sample["frame"] = frame_index.repeat_interleave(views)
    sample["view"] = torch.arange(views).repeat(frames)
    sample["fps"] = torch.full((rows,), motion.fps)
    return sample


def _labels(motion: Motion) -> tuple[str, str, str]:
    return motion.subject, motion.clip, motion.action
