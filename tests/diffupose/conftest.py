"""What DiffuPose's tests share: people before cameras."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from posecore.body.skeletons import JointSet
from posecore.data.sample import PoseSample
from posecore.geometry.camera import project


def make_people(
    joint_set: JointSet,
    people: int = 4,
    dtype: torch.dtype = torch.float64,
    rotmat: Tensor | None = None,
    focal_length: float | None = None,
    resolution: float = 1.0,
    seed: int = 0,
) -> PoseSample:
    """Made-up people of a person's size, 3 to 6 m before their cameras, keypoints exact and all seen.

    Args:
        joint_set: Their joints.
        people: How many.
        dtype: Of everything.
        rotmat: Turns every camera about its centre: joints become ``rotmat @ joint``.
        focal_length: Of all cameras, pixels; different ones where None.
        resolution: Factor on the size of the pictures.
        seed: Of the draw.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: list[float], high: list[float]) -> Tensor:
        low_, high_ = torch.tensor([low, high], dtype=torch.float64)
        return low_ + (high_ - low_) * torch.rand(people, len(low), generator=generator, dtype=torch.float64)

    joints = torch.randn(people, joint_set.num_joints, 3, generator=generator, dtype=torch.float64)
    joints = joints * joints.new_tensor([0.2, 0.4, 0.2])
    joints_cam = joints - joints[:, :1] + uniform([-0.4, -0.4, 3], [0.4, 0.4, 6])[:, None]
    if rotmat is not None:
        joints_cam = joints_cam @ rotmat.mT
    K = torch.eye(3, dtype=torch.float64).repeat(people, 1, 1)
    K[:, [0, 1], [0, 1]] = uniform([800, 800], [1200, 1200])
    if focal_length is not None:
        K[:, [0, 1], [0, 1]] = focal_length
    K[:, :2, 2] = uniform([440, 350], [560, 450])
    K[:, 0, 1] = uniform([-3], [3])[:, 0]
    K[:, :2] *= resolution
    pixels = project(joints_cam, K)
    sample = {
        "joints_cam": joints_cam,
        "joints_rel": joints_cam - joints_cam[:, :1],
        "joints_2d_px": pixels,
        "joints_2d_true_px": pixels.clone(),
        "confidence": torch.ones(people, joint_set.num_joints, dtype=torch.float64),
        "K": K,
        "image_size": torch.tensor([1000.0, 800.0], dtype=torch.float64).expand(people, 2) * resolution,
    }
    return PoseSample(**{key: value.to(dtype) for key, value in sample.items()})


@pytest.fixture
def make_sample() -> Callable[..., PoseSample]:
    """`make_people`."""
    return make_people
