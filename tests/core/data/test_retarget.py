import math

import numpy as np
import pytest
import torch

from posecore.body.skeletons import SMPL_24
from posecore.data.motion import resampling_positions
from posecore.data.retarget import retarget_to_smpl, smallest_rotation
from posecore.geometry.rotation import random_rotmat


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smallest_rotation_turns_source_into_target_by_their_angle(shape, dtype, generator) -> None:
    source, target = torch.randn((2, *shape, 3), generator=generator, dtype=dtype)
    rotation = smallest_rotation(source, target)
    turned = (rotation @ source[..., None])[..., 0]
    torch.testing.assert_close(turned / turned.norm(dim=-1, keepdim=True), target / target.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(shape, dtype=dtype))
    angle = torch.acos((rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2)
    between = torch.acos(torch.cosine_similarity(source, target, dim=-1))
    torch.testing.assert_close(angle, between, atol=1e-3, rtol=0)


def test_smallest_rotation_of_equal_and_of_opposite_directions() -> None:
    x = torch.tensor([[2.0, 0, 0], [0, 0.1, 0], [1.0, 1, 1]])
    torch.testing.assert_close(smallest_rotation(x, 3 * x), torch.eye(3).expand(3, 3, 3))
    half_turn = smallest_rotation(x, -x)
    torch.testing.assert_close((half_turn @ x[..., None])[..., 0], -x)
    torch.testing.assert_close(torch.linalg.det(half_turn), torch.ones(3))


def test_limbs_keep_their_directions_and_hips_their_place(generator) -> None:
    target_rest = torch.randn((24, 3), generator=generator, dtype=torch.float64)
    source_rest = torch.randn((24, 3), generator=generator, dtype=torch.float64)
    rotations = random_rotmat((5, 24), generator=generator, dtype=torch.float64)
    hips = torch.randn((5, 3), generator=generator, dtype=torch.float64)
    pose = retarget_to_smpl(rotations, source_rest, hips, target_rest)
    world, place = [pose.global_orient], [target_rest[0] + pose.transl]
    for j, parent in enumerate(SMPL_24.parents[1:], start=1):
        world.append(world[parent] @ pose.body_pose[:, j - 1])
        place.append(place[parent] + world[parent] @ (target_rest[j] - target_rest[parent]))
    for name in ("l_hip", "r_knee", "l_shoulder", "r_elbow", "l_wrist", "r_collar"):
        j = SMPL_24.index(name)
        child = SMPL_24.parents.index(j)
        expected = rotations[:, j] @ (source_rest[child] - source_rest[j])
        actual = place[child] - place[j]
        torch.testing.assert_close(
            torch.cosine_similarity(actual, expected, dim=-1), torch.ones(5, dtype=torch.float64)
        )
    middle = (place[SMPL_24.index("l_hip")] + place[SMPL_24.index("r_hip")]) / 2
    torch.testing.assert_close(middle, hips * pose.body_scale)


@pytest.mark.parametrize(
    ("frames", "source", "target", "expected"),
    [(9, 120.0, 30.0, [0, 4, 8]), (5, 60.0, 30.0, [0, 2, 4]), (3, 30.0, 30.0, [0, 1, 2]), (4, 50.0, 30.0, [0, 5 / 3]),
     (3, 20.0, 40.0, [0, 0.5, 1, 1.5, 2]), (1, 120.0, 30.0, [0])],
)  # fmt: skip
def test_resampling_positions(frames: int, source: float, target: float, expected: list[float]) -> None:
    np.testing.assert_allclose(resampling_positions(frames, source, target), expected)


def test_resampling_takes_a_rounded_header_for_what_it_means() -> None:
    positions = resampling_positions(4000, 1 / 0.0083333, 30.0)
    assert (positions == np.arange(0, 4000, 4)).all()


@pytest.mark.parametrize("rates", [(0.0, 30.0), (30.0, -1.0), (-math.inf, 30.0)])
def test_resampling_refuses_rates_that_are_not_positive(rates: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="rates must be positive"):
        resampling_positions(5, *rates)
