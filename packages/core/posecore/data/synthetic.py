"""Synthetic motion: plausible movements of random people on the open body, for machines that hold no data."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.files import load_body_model
from posecore.body.skeletons import H36M_17, SMPL_24, get_joint_set
from posecore.body.smpl import SMPLLayer
from posecore.data.base import PoseTable
from posecore.data.cameras import CameraSampler
from posecore.data.detector_noise import DetectorNoise
from posecore.data.gestures import GESTURES, Gesture, local_rotations, within_limits
from posecore.data.motion import Motion
from posecore.data.motion_samples import make_samples
from posecore.geometry.rotation import axis_angle_to_rotmat

SYNTHETIC_SPLITS = ("train", "val", "test")
_SOLE = 0.06  # metres from the joints of foot and ankle to the floor


def synthetic_motions(
    num_clips: int, seed: int = 0, split: str = "train", actions: tuple[str, ...] | None = None, fps: float = 30.0
) -> list[Motion]:
    """Clips of 4 to 8 seconds; clip i is the same for every ``num_clips``.

    Args:
        num_clips: number of clips; actions take turns.
        seed: changes all of them.
        split: "train", "val" or "test": other people and movements, drawn alike.
        actions: names out of `posecore.data.gestures.GESTURES`; None takes all.
        fps: frame rate.

    Raises:
        ValueError: if an argument is outside its range.
    """
    if split not in SYNTHETIC_SPLITS:
        raise ValueError(f"split: {split!r} is unknown, valid are {', '.join(SYNTHETIC_SPLITS)}")
    if num_clips < 1:
        raise ValueError(f"num_clips: must be at least 1, got {num_clips}")
    names = tuple(GESTURES) if actions is None else actions
    if not names or (unknown := sorted(set(names) - set(GESTURES))):
        raise ValueError(f"actions: {unknown if names else names} are unknown, valid are {', '.join(GESTURES)}")
    if fps <= 0:
        raise ValueError(f"fps: must be positive, got {fps}")
    model = load_body_model()
    layer = SMPLLayer(model, vertices=(), regressor=model.J_regressor_h36m)
    motions = []
    for i in range(num_clips):
        rng = np.random.default_rng([seed, SYNTHETIC_SPLITS.index(split), i])
        action = names[i % len(names)]
        gesture = Gesture(np.arange(round(rng.uniform(4.0, 8.0) * fps)) / fps, rng)
        GESTURES[action](gesture)
        heading = _heading(gesture)
        local = local_rotations(within_limits(gesture.angles)).float()
        local[:, 0] = axis_angle_to_rotmat(heading * torch.tensor([0.0, 1.0, 0.0])) @ local[:, 0]
        betas = torch.from_numpy(rng.standard_normal(10).clip(-2.5, 2.5)).float()
        posed = layer(betas=betas, body_pose=local[:, 1:], global_orient=local[:, 0]).joints
        transl = _travel(gesture, heading, posed[:, : SMPL_24.num_joints], fps)
        name = f"synthetic_{split}_{seed}_{i:04d}"
        motions.append(
            Motion(
                joints_world=posed[:, SMPL_24.num_joints :] + transl[:, None],
                joint_set=H36M_17,
                global_orient=local[:, 0],
                body_pose=local[:, 1:],
                transl=transl,
                frame_index=torch.arange(len(local)),
                fps=fps,
                clip=name,
                subject=name,
                action=action,
                split=split,
            )
        )
    return motions


def _heading(gesture: Gesture) -> Float[Tensor, "frames 1"]:
    """Angle about the world's y axis in radians: a random direction, a slow turn while walking."""
    turning = gesture.rng.normal(0, 15) if gesture.speed else 0.0  # degrees per second
    degrees = gesture.draw(-180, 180) + turning * gesture.seconds + gesture.slow_noise(4.0)
    return torch.from_numpy(np.deg2rad(degrees)).float()[:, None]


def _travel(
    gesture: Gesture, heading: Float[Tensor, "frames 1"], joints: Float[Tensor, "frames 24 3"], fps: float
) -> Float[Tensor, "frames 3"]:
    """Translation that puts the lower foot on the floor (y = 0) and moves the person ahead, or keeps the feet in place.

    Args:
        gesture: gives speed and flight.
        heading: radians about y.
        joints: SMPL-24 joints of the body that has not been translated.
        fps: frame rate.
    """
    feet = joints[:, [SMPL_24.index(name) for name in ("l_ankle", "r_ankle", "l_foot", "r_foot")]]
    height = _SOLE - feet[..., 1].amin(dim=1) + torch.from_numpy(gesture.flight).float()
    if gesture.speed is None:
        ground = -feet[..., [0, 2]].mean(dim=1)
    else:
        ground = (torch.cat((heading.sin(), heading.cos()), dim=-1) * gesture.speed / fps).cumsum(dim=0)
    return torch.stack((ground[:, 0], height, ground[:, 1]), dim=-1)


class SyntheticMotion(PoseTable):
    """Generated motion with the samples of `posecore.data.CMUMocap`; it needs no data at all.

    ============  =============================================================================================
    content       walking, running, squatting, reaching, waving, jumping, sitting: joint-angle curves within the range
                  of motion, with random people, phases and speeds
    joints        H36M-17, metres, camera frame (x right, y down, z forward); 30 frames per second
    splits        ``train``, ``val``, ``test``: other draws of the same movements
    licence       the project's own; the body is CC0
    ============  =============================================================================================

    Args:
        root: not used; it is here so that configs can name this class where another dataset reads a folder.
        num_clips: clips of 4 to 8 seconds; the actions take turns.
        split: "train", "val" or "test".
        actions: names out of walk, run, squat, reach, wave, jump, sit; None takes all.
        joints: "mocap" regresses the joints from each person's own body, without SMPL keys, as a recorded skeleton
            would give them; "body" draws shapes as ``betas`` says and gives the SMPL parameters too.
        cameras: "single", "ring", "track", or a camera sampler.
        views: cameras per frame.
        stride: takes every ``stride``-th frame.
        noise: 2D noise; None gives exact 2D with confidence 1.
        betas: with joints "body": a random shape per frame, per clip, or the mean shape.
        seed: changes people, movements, cameras and noise.
        fps: frame rate.
        joint_set: with joints "body": also "body25", "joints44" or "smpl24".

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        root: Path | None = None,
        num_clips: int = 70,
        split: str = "train",
        actions: list[str] | None = None,
        joints: str = "mocap",
        cameras: CameraSampler | str = "single",
        views: int = 1,
        stride: int = 1,
        noise: DetectorNoise | None = None,
        betas: str = "frame",
        seed: int = 0,
        fps: float = 30.0,
        joint_set: str = "h36m17",
    ) -> None:
        motions = synthetic_motions(num_clips, seed, split, None if actions is None else tuple(actions), fps)
        chosen = get_joint_set(joint_set)
        super().__init__(chosen, make_samples(motions, joints, cameras, views, stride, noise, betas, seed, chosen))
