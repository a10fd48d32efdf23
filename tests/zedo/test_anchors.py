from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from zedo.anchors import kmeans_poses, random_poses, read_poses

JOINTS = 17


def blobs(sizes: list[int], spread: float, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Root-relative poses around a few centres, shuffled; and the centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(sizes), JOINTS, 3, generator=generator, dtype=torch.float64)
    centres = centres - centres[:, :1]
    which = torch.repeat_interleave(torch.tensor(sizes))
    noise = spread * torch.randn(len(which), JOINTS, 3, generator=generator, dtype=torch.float64)
    noise[:, 0] = 0
    order = torch.randperm(len(which), generator=generator)
    return (centres[which] + noise)[order].to(dtype), centres.to(dtype)


def inertia(poses: Tensor, centres: Tensor) -> float:
    return torch.cdist(poses.flatten(1), centres.flatten(1)).amin(-1).square().sum().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_kmeans_finds_separated_blobs_largest_first(seed: int, dtype: torch.dtype) -> None:
    poses, centres = blobs([30, 120, 60, 90], 0.05, seed, dtype)
    found = kmeans_poses(poses, 4, torch.Generator().manual_seed(seed))
    assert found.dtype == dtype
    torch.testing.assert_close(found, centres[[1, 3, 2, 0]], atol=0.05, rtol=0)


def test_kmeans_is_as_good_as_scipys() -> None:
    poses, _ = blobs([80, 80, 80], 0.6)  # overlapping, so that the centres are not given by the draw
    ours = [inertia(poses, kmeans_poses(poses, 6, torch.Generator().manual_seed(seed))) for seed in range(10)]
    theirs = []
    for seed in range(10):
        centres, _ = kmeans2(poses.flatten(1).numpy(), 6, minit="++", seed=seed)
        theirs.append(inertia(poses, torch.from_numpy(centres).unflatten(-1, (JOINTS, 3))))
    assert min(ours) == pytest.approx(min(theirs), rel=0.01)
    assert sum(ours) == pytest.approx(sum(theirs), rel=0.01)


def test_kmeans_ends_where_scipys_iterations_end() -> None:
    poses, _ = blobs([50, 50, 50], 0.05)
    found = kmeans_poses(poses, 3, torch.Generator().manual_seed(0))
    again, _ = kmeans2(poses.flatten(1).numpy(), found.flatten(1).numpy(), minit="matrix")
    torch.testing.assert_close(found.flatten(1), torch.from_numpy(again), atol=1e-9, rtol=0)


def test_one_cluster_is_the_mean() -> None:
    poses, _ = blobs([10, 20], 0.1)
    torch.testing.assert_close(kmeans_poses(poses, 1), poses.mean(0, keepdim=True), atol=1e-12, rtol=0)


def test_kmeans_is_deterministic_under_a_seed() -> None:
    poses, _ = blobs([50, 50], 0.5)
    first, second, other = (kmeans_poses(poses, 5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("root", [0, 8])
def test_root_lies_at_zero(root: int) -> None:
    poses, _ = blobs([20, 20], 0.1)
    moved = poses + torch.tensor([1.0, 2.0, 3.0], dtype=poses.dtype)
    assert kmeans_poses(moved, 3, root=root)[:, root].abs().max() == 0


def test_every_pose_its_own_cluster() -> None:
    poses, _ = blobs([6], 0.3)
    found = kmeans_poses(poses, 6, torch.Generator().manual_seed(0))
    assert inertia(poses, found) < 1e-12


def test_equal_poses_are_finite() -> None:
    poses = blobs([1], 0.0)[0].expand(5, -1, -1)
    torch.testing.assert_close(kmeans_poses(poses, 3), poses[:3])


@pytest.mark.parametrize("num_clusters", [0, 11])
def test_kmeans_refuses_a_number_that_does_not_fit(num_clusters: int) -> None:
    with pytest.raises(ValueError, match=rf"num_clusters must be in 1..10 .* got {num_clusters}"):
        kmeans_poses(blobs([10], 0.1)[0], num_clusters)


def test_random_poses_are_different_training_poses() -> None:
    poses, _ = blobs([10], 0.1)
    first, second, other = (random_poses(poses, 4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    which = [[i for i in range(10) if torch.equal(poses[i], pose)] for pose in first]
    assert len({i for hits in which for i in hits}) == 4
    everyone = random_poses(poses, 10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(everyone.sum(0), poses.sum(0))


@pytest.mark.parametrize("num_poses", [0, 11])
def test_random_poses_refuses_a_number_that_does_not_fit(num_poses: int) -> None:
    with pytest.raises(ValueError, match=rf"num_poses must be in 1..10 .* got {num_poses}"):
        random_poses(blobs([10], 0.1)[0], num_poses)


def test_poses_of_a_file_are_made_relative_to_the_root(tmp_path: Path) -> None:
    poses = blobs([5], 0.1)[0].numpy() / 3 + np.array([0.1, 0.2, 3.0])
    np.save(tmp_path / "centres.npy", poses)
    found = read_poses(tmp_path / "centres.npy", 5, JOINTS)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, poses - poses[:, :1], atol=1e-6)
    assert read_poses(tmp_path / "centres.npy", 5, JOINTS, root=8)[:, 8].eq(0).all()


def test_files_that_hold_no_poses_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "centres.npy"
    with pytest.raises(FileNotFoundError, match=r"anchors_file: there is no file .*centres.npy"):
        read_poses(path, 1, JOINTS)
    good = blobs([2], 0.1)[0].numpy() / 3
    for poses, message in (
        (good[:1], r"centres.npy has shape \(1, 17, 3\), expected \(2, 17, 3\): num_hypotheses is 2"),
        (good[:, :16], r"has shape \(2, 16, 3\), expected \(2, 17, 3\)"),
        (1000 * good, r"has joints up to \S+ from the root, expected metres"),
        (np.where(good == good[1, 3, 0], np.nan, good), "has joints up to nan from the root"),
        (0 * good, "has joints up to 0 from the root"),
        (good.astype(str), "holds no array of numbers"),
        (np.array([{"poses": good}]), "is no whole NumPy file of numbers"),
    ):
        np.save(path, poses, allow_pickle=True)
        with pytest.raises(ValueError, match=message):
            read_poses(path, 2, JOINTS)
    np.save(path, good)
    for content in (path.read_bytes()[:200], b"poses"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"centres\.npy is no whole NumPy file of numbers"):
            read_poses(path, 2, JOINTS)
