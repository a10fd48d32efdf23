import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import multivariate_normal
from torch import Tensor

from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import SMPL_24
from posecore.body.smpl import SMPLLayer
from posecore.fitting.estimate import PosedPeople, SMPLEstimate
from posecore.fitting.priors import (
    POSE_PRIOR_CMU,
    AnglePrior,
    GaussianPosePrior,
    MixturePosePrior,
    Prior,
    ShapePrior,
)
from posecore.geometry.rotation import axis_angle_to_rotmat, rotmat_to_rot6d


def with_pose(axis_angle: Tensor) -> SMPLEstimate:
    """People of mean shape at the origin in poses of 72 numbers."""
    rot6d = rotmat_to_rot6d(axis_angle_to_rotmat(axis_angle.unflatten(-1, (24, 3))))
    return SMPLEstimate(rot6d, rot6d.new_zeros(len(rot6d), 10), rot6d.new_zeros(len(rot6d), 3))


@pytest.fixture
def mixture(generator: torch.Generator) -> dict[str, np.ndarray]:
    """Three components of unequal size and share in 69 dimensions."""
    draw = {"generator": generator, "dtype": torch.float64}
    factor = torch.randn(3, 69, 69, **draw) * torch.tensor([0.02, 0.03, 0.05])[:, None, None]
    return {
        "means": (0.3 * torch.randn(3, 69, **draw)).numpy(),
        "covariances": (factor @ factor.mT + 0.01 * torch.eye(69)).numpy(),
        "weights": np.array([0.5, 0.1, 0.4]),
    }


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_mixture_is_scipys_log_densities_up_to_a_constant(
    mixture: dict[str, np.ndarray], body: NamedJoints, generator: torch.Generator
) -> None:
    # Near each mean in turn, so that each component is the nearest to somebody.
    pose = 0.2 * torch.randn(9, 72, generator=generator, dtype=torch.float64)
    pose[:, 3:] += torch.from_numpy(mixture["means"]).repeat(3, 1)
    people = with_pose(pose)
    theta = Rotation.from_matrix(people.body_pose.flatten(0, 1).numpy()).as_rotvec().reshape(9, 69)
    parts = list(zip(mixture["weights"], mixture["means"], mixture["covariances"], strict=True))
    logs = np.stack([np.log(g) + multivariate_normal(mu, cov).logpdf(theta) for g, mu, cov in parts], axis=-1)
    assert set(logs.argmax(axis=-1)) == {0, 1, 2}
    # c is (2 pi)^(69/2) times the root of the smallest determinant.
    log_c = 69 / 2 * np.log(2 * np.pi) + min(0.5 * np.linalg.slogdet(cov)[1] for _, _, cov in parts)
    found = MixturePosePrior(**tensors(mixture))(PosedPeople(people, body))
    np.testing.assert_allclose(found.numpy(), -(logs + log_c).max(axis=-1), rtol=1e-9)
    assert found.min() > 0


def test_mixture_ignores_root_shape_and_place(people: SMPLEstimate, body: NamedJoints) -> None:
    prior = MixturePosePrior.load()
    pose = people.pose_rot6d.clone()
    pose[:, 0] = pose[:, 0].flip(0)
    moved = SMPLEstimate(pose, people.betas + 1, people.transl + 1)
    torch.testing.assert_close(prior(PosedPeople(moved, body)), prior(PosedPeople(people, body)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("prior", [MixturePosePrior.load(), GaussianPosePrior.load()], ids=["mixture", "gaussian"])
def test_the_shipped_priors_prefer_poses_of_people(prior: Prior, people: SMPLEstimate, body: NamedJoints) -> None:
    likely = prior(PosedPeople(people, body))
    generator = torch.Generator().manual_seed(1)
    pose = people.pose_axis_angle + 0.5 * torch.randn(8, 24, 3, generator=generator, dtype=torch.float64)
    shaken = prior(PosedPeople(with_pose(pose.flatten(1)), body))
    assert (shaken > 2 * likely).all()
    assert likely.min() >= 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_priors_have_gradients_at_the_rest_pose_and_at_half_a_turn(dtype: torch.dtype, body: NamedJoints) -> None:
    pose = torch.zeros(2, 72, dtype=dtype)
    pose[1, 3::3] = torch.pi
    priors = (MixturePosePrior.load(), GaussianPosePrior.load(), AnglePrior(), ShapePrior())
    for prior in priors:
        start = with_pose(pose)
        rot6d, betas = start.pose_rot6d.clone().requires_grad_(), (start.betas + 1).requires_grad_()
        loss = prior(PosedPeople(SMPLEstimate(rot6d, betas, start.transl), body))
        assert loss.dtype == dtype
        found = torch.autograd.grad(loss.sum(), (rot6d, betas), allow_unused=True, materialize_grads=True)
        assert all(gradient.isfinite().all() for gradient in found)
        assert any(gradient[0].abs().max() > 0 for gradient in found)


def test_mixture_gradient_against_finite_differences(body: NamedJoints, generator: torch.Generator) -> None:
    prior = MixturePosePrior.load()
    pose = 0.3 * torch.randn(2, 72, generator=generator, dtype=torch.float64)
    direction = torch.randn(2, 72, generator=generator, dtype=torch.float64)

    def losses(step: Tensor) -> Tensor:
        return prior(PosedPeople(with_pose(pose + step * direction), body))

    assert torch.autograd.gradcheck(losses, torch.zeros((), dtype=torch.float64, requires_grad=True), rtol=1e-4)


def test_the_shipped_prior_is_symmetric_small_and_says_its_source() -> None:
    assert POSE_PRIOR_CMU.stat().st_size < 300_000
    with np.load(POSE_PRIOR_CMU, allow_pickle=False) as arrays:
        assert "NSF EIA-0196217" in str(arrays["source"])
        assert arrays["means"].shape == (8, 69)
        np.testing.assert_allclose(arrays["weights"].sum(), 1, rtol=1e-5)
        # The 6D Gaussian was fitted to mirrored poses, too: left and right have the same spread.
        spread = arrays["covariance_rot6d"].diagonal().reshape(23, 6)
        partner = np.array(SMPL_24.flip)[1:] - 1
        np.testing.assert_allclose(spread, spread[partner], rtol=1e-4)
        for name in ("means", "covariances", "mean_rot6d", "covariance_rot6d"):
            assert arrays[name].dtype == np.float32


def test_loads_smplifys_pickle_and_the_npz_layout(
    tmp_path: Path, mixture: dict[str, np.ndarray], people: SMPLEstimate, body: NamedJoints
) -> None:
    posed = PosedPeople(people, body)
    expected = MixturePosePrior(**tensors(mixture))(posed)
    released = {"means": mixture["means"], "covars": mixture["covariances"], "weights": mixture["weights"]}
    (tmp_path / "gmm_08.pkl").write_bytes(pickle.dumps(released, protocol=2))
    np.savez(tmp_path / "prior.npz", **mixture)
    for name in ("gmm_08.pkl", "prior.npz"):
        prior = MixturePosePrior.load(tmp_path / name, weight=0.5)
        assert prior.weight == 0.5
        torch.testing.assert_close(prior(posed), expected)


def test_refuses_broken_files_and_numbers(tmp_path: Path, mixture: dict[str, np.ndarray]) -> None:
    def saved(**arrays: np.ndarray) -> Path:
        np.savez(tmp_path / "prior.npz", **arrays)
        return tmp_path / "prior.npz"

    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        MixturePosePrior.load(tmp_path / "nothing.npz")
    with pytest.raises(ValueError, match=r"prior\.npz: has no 'covariances' \(it holds means, weights\)"):
        MixturePosePrior.load(saved(means=mixture["means"], weights=mixture["weights"]))
    with pytest.raises(ValueError, match=r"weights has shape \(2,\) and type float64, expected floats of \(3,\)"):
        MixturePosePrior.load(saved(**{**mixture, "weights": mixture["weights"][:2]}))
    with pytest.raises(ValueError, match=r"means has shape .* and type int64"):
        MixturePosePrior.load(saved(**{**mixture, "means": np.zeros((3, 69), dtype=np.int64)}))
    with pytest.raises(ValueError, match="covariances: a covariance is not positive definite"):
        MixturePosePrior.load(saved(**{**mixture, "covariances": np.zeros((3, 69, 69))}))
    with pytest.raises(ValueError, match=r"weights: every component's share must be above 0, got \[1\.0, 0\.0, 0\.0\]"):
        MixturePosePrior.load(saved(**{**mixture, "weights": np.array([1.0, 0, 0])}))
    with pytest.raises(ValueError, match=r"prior\.npz: has no 'mean_rot6d'"):
        GaussianPosePrior.load(saved(**mixture))
    with pytest.raises(ValueError, match="covariance: a covariance is not positive definite"):
        GaussianPosePrior(torch.zeros(138), -torch.eye(138))
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match=r"list\.pkl: holds a list"):
        MixturePosePrior.load(tmp_path / "list.pkl")


def test_gaussian_is_half_the_squared_mahalanobis_distance(
    people: SMPLEstimate, body: NamedJoints, generator: torch.Generator
) -> None:
    factor = torch.randn(138, 138, generator=generator, dtype=torch.float64)
    mean, covariance = torch.randn(138, generator=generator, dtype=torch.float64), factor @ factor.T + torch.eye(138)
    found = GaussianPosePrior(mean, covariance)(PosedPeople(people, body))
    inverse = np.linalg.inv(covariance.numpy())
    deviations = people.pose_rot6d[:, 1:].flatten(1).numpy() - mean.numpy()
    np.testing.assert_allclose(found.numpy(), [0.5 * d @ inverse @ d for d in deviations], rtol=1e-9)
    at_mean = people.pose_rot6d.clone()
    at_mean[:, 1:] = mean.view(23, 6)
    posed = PosedPeople(SMPLEstimate(at_mean, people.betas, people.transl), body)
    assert GaussianPosePrior(mean, covariance)(posed).abs().max() < 1e-20


# SMPL's 72 numbers; the joint that swings, the hinge's number, and what bends it as people do.
@pytest.mark.parametrize(
    ("tip", "number", "forwards"), [("l_wrist", 55, -1), ("r_wrist", 58, 1), ("l_ankle", 12, 1), ("r_ankle", 15, 1)]
)
def test_limbs_bend_one_way_on_the_body(tip: str, number: int, forwards: int, body: NamedJoints) -> None:
    pose = torch.zeros(3, 72)
    pose[1, number], pose[2, number] = 0.8 * forwards, -0.8 * forwards
    people = with_pose(pose)
    layer = SMPLLayer(vertices=())
    joints = layer(people.betas, people.body_pose, people.global_orient).joints[:, SMPL_24.index(tip)]
    # The rest pose looks along +z: forearms swing to the front, shanks to the back.
    swing = (joints[1:] - joints[0])[:, 2] * (1 if tip.endswith("wrist") else -1)
    assert swing[0] > 0.1
    assert swing[1] < -0.1
    straight, natural, backwards = AnglePrior()(PosedPeople(people, body)).tolist()
    assert straight == pytest.approx(4)
    assert natural == pytest.approx(3 + np.exp(-0.8) ** 2)
    assert backwards == pytest.approx(3 + np.exp(0.8) ** 2)


def test_angle_prior_sees_four_numbers_only(body: NamedJoints) -> None:
    pose = torch.zeros(1, 72, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(AnglePrior()(PosedPeople(with_pose(pose), body)).sum(), pose)
    assert {int(i): float(gradient[0, i]) for i in gradient[0].nonzero()} == {12: -2, 15: -2, 55: 2, 58: -2}


def test_shape_prior_is_the_squared_length(people: SMPLEstimate, body: NamedJoints) -> None:
    expected = [sum(beta**2 for beta in betas) for betas in people.betas.tolist()]
    np.testing.assert_allclose(ShapePrior()(PosedPeople(people, body)).numpy(), expected)


def test_default_weights_are_spins_and_take_is_for_anybody(people: SMPLEstimate, body: NamedJoints) -> None:
    rows = torch.tensor([4, 0])
    weights = {"mixture": 4.78**2, "angle": 15.2**2, "shape": 25.0}
    priors = {"mixture": MixturePosePrior.load(), "angle": AnglePrior(), "shape": ShapePrior()}
    for name, prior in priors.items():
        assert prior.weight == pytest.approx(weights[name])
        few = prior.take(rows)(PosedPeople(people.take(rows), body))
        torch.testing.assert_close(few, prior(PosedPeople(people, body))[rows])
