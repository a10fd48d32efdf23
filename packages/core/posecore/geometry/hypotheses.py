"""Choosing among several poses of one person without knowing the truth."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def medoid(joints: Float[Tensor, "people hypotheses joints 3"]) -> Int[Tensor, " people"]:
    """The hypothesis closest to all others, relative to joint 0, by mean joint distance."""
    relative = joints - joints[..., :1, :]
    distance = [(relative - relative[:, i, None]).norm(dim=-1).mean(dim=(1, 2)) for i in range(relative.shape[1])]
    index: Tensor = torch.stack(distance, dim=-1).argmin(dim=-1)
    return index


def nearest(
    joints: Float[Tensor, "people hypotheses joints 3"], pose: Float[Tensor, "people joints 3"]
) -> Int[Tensor, " people"]:
    """The hypothesis closest to a pose, by mean joint distance."""
    index: Tensor = (joints - pose[:, None]).norm(dim=-1).mean(dim=-1).argmin(dim=-1)
    return index


def pick(
    joints: Float[Tensor, "people hypotheses joints 3"], index: Int[Tensor, " people"]
) -> Float[Tensor, "people joints 3"]:
    """One hypothesis per person."""
    return joints[torch.arange(len(joints), device=joints.device), index]
