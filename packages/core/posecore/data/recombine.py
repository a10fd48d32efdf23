"""More poses than were recorded: the arms of one moment on the body of another."""

import dataclasses
import zlib
from collections.abc import Sequence

import torch

from posecore.body.skeletons import SMPL_24
from posecore.data.motion import Motion

_ARM_PARTS = ("collar", "shoulder", "elbow", "wrist", "hand")
ARMS = tuple(i - 1 for i, name in enumerate(SMPL_24.joint_names) if name.partition("_")[2] in _ARM_PARTS)
"""Rows of ``body_pose`` that belong to the arms, collars included."""


def recombine_arms(motions: Sequence[Motion], copies: int, seed: int = 0) -> list[Motion]:
    """Copies of clips in which every frame has the arms of a random frame of any clip.

    A few thousand seconds of motion hold few combinations of what legs and arms do; a network that sees each of them
    from many cameras learns them by heart. Recombined frames are no motion: neighbours in time do not belong together.
    ``joints_world`` is left as it was recorded, so only the SMPL parameters are of use.

    Args:
        motions: The clips.
        copies: Copies of each clip.
        seed: Changes the draws; those of a clip depend on its name and the clips given, in their order.

    Returns:
        Clips named ``<clip>+arms<copy>``.

    Raises:
        ValueError: ``copies`` is negative.
    """
    if copies < 0:
        raise ValueError(f"copies: must not be negative, got {copies}")
    arms = torch.cat([motion.body_pose[:, list(ARMS)] for motion in motions])
    mixed = []
    for copy in range(copies):
        for motion in motions:
            name = f"{motion.clip}+arms{copy}"
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
            body_pose = motion.body_pose.clone()
            body_pose[:, list(ARMS)] = arms[torch.randint(len(arms), (len(body_pose),), generator=generator)]
            mixed.append(dataclasses.replace(motion, body_pose=body_pose, clip=name))
    return mixed
