"""One clip of motion in memory, whatever file or generator it came from."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from posecore.body.skeletons import JointSet


@dataclass(frozen=True)
class Motion:
    """One person's motion: joints of the recorded skeleton, and the same motion as SMPL parameters.

    The world frame is y up, metres. Rotations and ``transl`` drive a body of shape ``betas = 0``: the SMPL pelvis is
    placed so that its hips' centre lies at the recorded one after the trajectory was scaled by ``body_scale``.
    """

    joints_world: Float[Tensor, "frames joints 3"]
    joint_set: JointSet
    global_orient: Float[Tensor, "frames 3 3"]
    body_pose: Float[Tensor, "frames 23 3 3"]
    transl: Float[Tensor, "frames 3"]
    frame_index: Int[Tensor, " frames"]
    """Number of each frame at ``fps``; a gap is where frames were dropped."""
    fps: float
    clip: str
    subject: str
    action: str = ""
    split: str = ""
    body_scale: float = 1.0
    """Leg length of the mean open body over that of the recorded person."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return int(self.frame_index.shape[0])


def resampling_positions(num_frames: int, source_fps: float, target_fps: float) -> Float[np.ndarray, " frames"]:
    """Fractional source frame of every frame of the resampled clip: k * source_fps / target_fps, none past the end.

    Raises:
        ValueError: if a rate is not positive.
    """
    if source_fps <= 0 or target_fps <= 0:
        raise ValueError(f"fps: rates must be positive, got source_fps={source_fps}, target_fps={target_fps}")
    step = source_fps / target_fps
    # Headers store 1/120 s with seven digits; without the rounding 4.0000002 would ask for slerp on every frame.
    step = round(step) if math.isclose(step, round(step), rel_tol=1e-3) and step >= 1 else step
    return np.arange(math.floor((num_frames - 1) / step) + 1) * float(step)
