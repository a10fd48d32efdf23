import numpy as np
import pytest
import torch
from torch import Tensor

from posecore.geometry.hypotheses import medoid, nearest, pick

DTYPES = [torch.float32, torch.float64]


def draw(people: int, hypotheses: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(people, hypotheses, 17, 3, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hypotheses", [1, 2, 5, 8])
@pytest.mark.parametrize("seed", range(3))
def test_medoid_equals_brute_force(seed: int, hypotheses: int, dtype: torch.dtype) -> None:
    joints = draw(4, hypotheses, seed, dtype)
    found = medoid(joints)
    for person in range(4):
        poses = joints[person].double().numpy()
        poses = poses - poses[:, :1]
        total = [sum(np.linalg.norm(one - other, axis=1).sum() for other in poses) for one in poses]
        assert total[int(found[person])] == pytest.approx(min(total), rel=1e-6)


def test_medoid_is_relative_to_the_root() -> None:
    joints = draw(4, 6, 0)
    moved = joints + 10 * draw(4, 6, 1)[..., :1, :]
    assert torch.equal(medoid(joints), medoid(moved))


def test_medoid_ignores_an_outlier() -> None:
    joints = draw(1, 1, 0) + 0.01 * draw(3, 7, 1)
    joints[0, 0], joints[1, 3], joints[2, 6] = draw(3, 1, 2)[:, 0] * 5
    assert not set(enumerate(medoid(joints).tolist())) & {(0, 0), (1, 3), (2, 6)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nearest_equals_brute_force(dtype: torch.dtype) -> None:
    joints, pose = draw(5, 6, 0, dtype), draw(5, 1, 1, dtype)[:, 0]
    distances = np.linalg.norm(joints.double().numpy() - pose.double().numpy()[:, None], axis=-1).mean(axis=-1)
    assert nearest(joints, pose).tolist() == distances.argmin(axis=1).tolist()
    assert len(set(nearest(joints, pose).tolist())) > 1  # else any constant would do
    assert nearest(joints, joints[:, 4]).tolist() == [4] * 5


def test_pick_takes_one_hypothesis_of_each_person() -> None:
    joints, index = draw(4, 3, 0), torch.tensor([2, 0, 1, 2])
    found = pick(joints, index)
    assert found.shape == (4, 17, 3)
    for person, number in enumerate(index.tolist()):
        assert torch.equal(found[person], joints[person, number])
