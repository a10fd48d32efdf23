import math
from typing import Any

import pytest
import torch

from diffhmr.representation import PoseRepresentation
from posecore.geometry.rotation import axis_angle_to_rotmat, random_rotmat

each = pytest.mark.parametrize("rotation", ["rot6d", "axis_angle"])


@each
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_there_and_back(rotation: Any, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    representation = PoseRepresentation(rotation)
    rotmat = random_rotmat((*shape, 24), generator, dtype=dtype)
    x_0 = representation.encode(rotmat)
    assert x_0.shape == (*shape, 24, representation.channels)
    assert x_0.abs().max() <= representation.clip
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(representation.decode(x_0), rotmat, atol=tolerance, rtol=0)


def test_rot6d_is_one_column_after_the_other() -> None:
    rotmat = torch.arange(9.0).reshape(3, 3).expand(24, 3, 3)
    assert PoseRepresentation().encode(rotmat)[5].tolist() == [0, 3, 6, 1, 4, 7]


def test_axis_angle_is_smpls() -> None:
    representation = PoseRepresentation("axis_angle")
    theta = torch.zeros(24, 3)
    theta[3] = torch.tensor([0.3, -1.2, 2.0])
    torch.testing.assert_close(representation.encode(axis_angle_to_rotmat(theta)), theta)
    half_turn = axis_angle_to_rotmat(torch.tensor([math.pi, 0, 0]).expand(24, 3))
    assert representation.encode(half_turn).abs().max() > 3.14, "the bound is reached"


@each
def test_noise_is_a_pose(rotation: Any, generator: torch.Generator) -> None:
    representation = PoseRepresentation(rotation)
    rotmat = representation.decode(torch.randn(5, 24, representation.channels, generator=generator))
    torch.testing.assert_close(rotmat @ rotmat.mT, torch.eye(3).expand(5, 24, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotmat), torch.ones(5, 24))


def test_other_rotations_are_refused() -> None:
    representation = PoseRepresentation()
    # Past the check of types, which refuses first in tests.
    object.__setattr__(representation, "rotation", "quaternion")
    with pytest.raises(ValueError, match=r"rotation must be one of .*, got 'quaternion'"):
        representation.__post_init__()
