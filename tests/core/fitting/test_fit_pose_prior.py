"""The tool that fits the shipped pose prior."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from posecore.body.skeletons import SMPL_24
from posecore.body.smpl import SMPLLayer
from posecore.fitting.estimate import SMPLEstimate
from posecore.fitting.priors import POSE_PRIOR_CMU, MixturePosePrior

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))  # tools are scripts, not an installed package

import fit_pose_prior
from fit_pose_prior import fit, main, with_mirrored


def test_mirrored_poses_mirror_the_joints(people: SMPLEstimate) -> None:
    both = with_mirrored(people.body_pose)
    assert torch.equal(both[:8], people.body_pose)
    # A body whose two sides are alike; the open body's differ by less than a millimetre.
    layer = SMPLLayer(vertices=())
    upright = torch.eye(3, dtype=torch.float64).expand(8, 3, 3)
    joints, mirrored = (layer(people.betas.new_zeros(8, 10), pose, upright).joints for pose in (both[:8], both[8:]))
    middle = joints[:, :1] * torch.tensor([1.0, 0, 0])
    expected = (joints - middle)[:, list(SMPL_24.flip)] * torch.tensor([-1.0, 1, 1]) + middle
    torch.testing.assert_close(mirrored, expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(with_mirrored(both[8:])[8:], both[:8])


def test_recovers_the_densities_it_draws_from(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    means = 0.4 * rng.standard_normal((fit_pose_prior.COMPONENTS, 69))
    drawn = np.concatenate([mean + 0.05 * rng.standard_normal((150, 69)) for mean in means])
    rotmat = torch.from_numpy(Rotation.from_rotvec(drawn.reshape(-1, 3)).as_matrix()).view(-1, 23, 3, 3)
    arrays = fit(rotmat, seed=0)
    nearest = np.linalg.norm(arrays["means"][:, None] - means, axis=-1)
    assert sorted(nearest.argmin(axis=1)) == list(range(fit_pose_prior.COMPONENTS))
    assert nearest.min(axis=1).max() < 0.1
    np.testing.assert_allclose(arrays["weights"], 1 / 8, atol=1e-3)
    variances = arrays["covariances"].diagonal(axis1=1, axis2=2)
    np.testing.assert_allclose(variances.mean(), 0.05**2 + fit_pose_prior.REGULARISATION, rtol=0.02)
    np.testing.assert_allclose(
        arrays["mean_rot6d"].reshape(23, 2, 3), rotmat[..., :2].mean(dim=0).mT.numpy(), rtol=0, atol=1e-6
    )
    assert np.linalg.eigvalsh(arrays["covariance_rot6d"]).min() >= 0.99 * fit_pose_prior.REGULARISATION
    np.savez(tmp_path / "prior.npz", **arrays)
    MixturePosePrior.load(tmp_path / "prior.npz")


@pytest.mark.real_data
@pytest.mark.slow
def test_the_committed_prior_is_what_the_tool_writes(tmp_path: Path, data_root: Path) -> None:
    pytest.importorskip("sklearn")
    assert main(["--data", str(data_root), "--output", str(tmp_path / "prior.npz")]) == 0
    with (
        np.load(tmp_path / "prior.npz", allow_pickle=False) as new,
        np.load(POSE_PRIOR_CMU, allow_pickle=False) as committed,
    ):
        assert new.files == committed.files
        assert str(new["source"]) == str(committed["source"])
        for name in ("means", "covariances", "weights", "mean_rot6d", "covariance_rot6d"):
            np.testing.assert_allclose(new[name], committed[name], rtol=0, atol=1e-3)


def test_needs_the_database(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no BVH files"):
        main(["--data", str(tmp_path), "--output", str(tmp_path / "prior.npz")])
    assert list(tmp_path.iterdir()) == []
