"""What the sampler's tests share: people before cameras, a small network, a prior without opinion."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from posecore.geometry.camera import project
from zedo.network import ScoreNetwork
from zedo.prior import Backbone, DenoisingSteps, Perturbed
from zedo.sampler import Target

JOINTS = 17


def make_anchors(num: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Pelvis-relative point clouds about as large as a person."""
    generator = torch.Generator().manual_seed(seed)
    poses = torch.randn(num, JOINTS, 3, generator=generator, dtype=torch.float64)
    poses = poses * poses.new_tensor([0.25, 0.5, 0.2])
    poses[:, 1] = poses.new_tensor([0.14, 0.02, 0.03])  # hips that look like hips: the initial pose rests on them
    poses[:, 4] = poses.new_tensor([-0.14, 0.01, -0.02])
    return (poses - poses[:, :1]).to(dtype)


def make_target(people: int, dtype: torch.dtype = torch.float64, noise_px: float = 5.0, seed: int = 1) -> Target:
    """Turned and perturbed anchors before different cameras; confidences in (0, 1], two joints never found."""
    generator = torch.Generator().manual_seed(seed)
    poses = make_anchors(people, seed=seed)
    low, high = torch.tensor([[-0.6, -0.4, 2.5], [0.6, 0.4, 6.0]], dtype=torch.float64)
    transl = low + (high - low) * torch.rand(people, 1, 3, generator=generator, dtype=torch.float64)
    K = torch.eye(3, dtype=torch.float64).repeat(people, 1, 1)
    K[:, 0, 0] = 900 + 400 * torch.rand(people, generator=generator, dtype=torch.float64)
    K[:, 1, 1] = K[:, 0, 0] * 1.02
    K[:, :2, 2] = 450 + 100 * torch.rand(people, 2, generator=generator, dtype=torch.float64)
    pixels = project(poses + transl, K)
    pixels = pixels + noise_px * torch.randn(pixels.shape, generator=generator, dtype=torch.float64)
    confidence = 1 - 0.9 * torch.rand(people, JOINTS, generator=generator, dtype=torch.float64)
    confidence[0, [6, 13]] = 0
    return Target(pixels.to(dtype), confidence.to(dtype), K.to(dtype))


def small_network(dtype: torch.dtype = torch.float64) -> ScoreNetwork:
    """A network with fixed random weights, whose output is not small.

    With groups of fewer than four channels an untrained network has steps that tell float32 from float64.
    """
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = ScoreNetwork(JOINTS, hidden_dim=128, embed_dim=32).eval().to(dtype)
    with torch.no_grad():
        network.head.weight.mul_(5)
    return network


class NoPrior(Backbone):
    """A prior without opinion: a step changes nothing."""

    def perturb(self, x_0: Tensor, generator: torch.Generator | None = None) -> Perturbed:
        return Perturbed(x_0, torch.zeros_like(x_0), x_0.new_zeros(len(x_0)))

    def steps(
        self, times: Tensor, dt: float, score_factor: float = 1.0, stochastic: bool | None = None
    ) -> DenoisingSteps:
        num = len(times)
        return DenoisingSteps(times, [1.0] * num, [0.0] * num, [0.0] * num)


@pytest.fixture
def make() -> SimpleNamespace:
    """The functions above under one name: ``make.anchors(2)``, ``make.target(3)``, ``make.network()``."""
    return SimpleNamespace(anchors=make_anchors, target=make_target, network=small_network, no_prior=NoPrior)
