from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from posecore.diffusion.samplers import ddim_step, ddpm_step
from posecore.diffusion.schedule import NoiseSchedule
from posecore.diffusion.sde import SubVPSDE
from zedo.network import ScoreNetwork
from zedo.prior import (
    Backbone,
    DenoisingSteps,
    DiscreteBackbone,
    ScoreBackbone,
    denoising_step,
    generate,
    make_backbone,
)

TIMES = torch.tensor([0.1, 0.05, 0.01, 0.002, 1.0], dtype=torch.float64)
NAMES = ["score", "ddim", "ddpm"]


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_score_steps_have_the_releases_gain() -> None:
    steps = ScoreBackbone().steps(TIMES[:3], dt=1e-3)
    assert steps.remove == pytest.approx([0.0040, 0.0022, 0.0006], abs=5e-5)
    assert steps.keep == pytest.approx([1 + 0.5 * (0.1 + 19.9 * t) / 1000 for t in (0.1, 0.05, 0.01)], rel=1e-12)
    assert steps.labels.tolist() == pytest.approx([99.9, 49.95, 9.99])
    assert steps.random == [0, 0, 0]


@pytest.mark.parametrize("score_factor", [1.0, 0.5])
@pytest.mark.parametrize("dt", [1e-3, 9e-5])
def test_score_steps_equal_the_sdes(score_factor: float, dt: float) -> None:
    sde = SubVPSDE()
    steps = ScoreBackbone(sde).steps(TIMES, dt, score_factor)
    poses, noise = draw(0, 3, 17, 3), draw(1, 3, 17, 3)
    for i, t in enumerate(TIMES.tolist()):
        score = sde.score_from_noise(noise, t)
        expected = sde.probability_flow_step(poses, t, dt, score, score_factor)
        found = denoising_step(lambda x, i: noise, steps, poses, i)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_stochastic_score_steps_equal_the_reverse_sde() -> None:
    sde = SubVPSDE()
    steps = ScoreBackbone(sde).steps(TIMES, 1e-2, stochastic=True)
    poses, noise = draw(0, 3, 17, 3), draw(1, 3, 17, 3)
    for i, t in enumerate(TIMES.tolist()):
        score = sde.score_from_noise(noise, t)
        expected = sde.reverse_step(poses, t, 1e-2, score, torch.Generator().manual_seed(i))
        found = denoising_step(lambda x, i: noise, steps, poses, i, torch.Generator().manual_seed(i))
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dt", [1e-3, 0.02])
def test_ddim_steps_equal_the_samplers(dt: float) -> None:
    schedule = NoiseSchedule.named("linear_1000")
    steps = make_backbone("ddim").steps(TIMES, dt)
    assert steps.labels.tolist() == [99, 49, 9, 1, 999]
    poses, noise = draw(0, 3, 17, 3), draw(1, 3, 17, 3)
    for i, t in enumerate(steps.labels.long().tolist()):
        expected = ddim_step(schedule, noise, poses, t, max(-1, t - round(1000 * dt))).x_prev
        found = denoising_step(lambda x, i: noise, steps, poses, i)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert steps.random == [0] * len(TIMES)


@pytest.mark.parametrize("dt", [1e-3, 0.02])
def test_ddpm_steps_equal_the_samplers(dt: float) -> None:
    schedule = NoiseSchedule.named("linear_1000")
    steps = make_backbone("ddpm").steps(TIMES, dt)
    poses, noise = draw(0, 3, 17, 3), draw(1, 3, 17, 3)
    for i, t in enumerate(steps.labels.long().tolist()):
        t_prev = max(-1, t - round(1000 * dt))
        # The same generator makes the random part equal as well.
        expected = ddpm_step(schedule, noise, poses, t, t_prev, generator=torch.Generator().manual_seed(i)).x_prev
        found = denoising_step(lambda x, i: noise, steps, poses, i, torch.Generator().manual_seed(i))
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
        assert (steps.random[i] == 0) == (t_prev == -1)
    assert make_backbone("ddpm").steps(TIMES, dt, stochastic=False).random == [0] * len(TIMES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_denoising_step_keeps_precision_and_input(dtype: torch.dtype) -> None:
    steps = make_backbone("ddpm").steps(TIMES, 1e-3)
    poses = draw(0, 2, 17, 3, dtype=dtype)
    before = poses.clone()
    found = denoising_step(lambda x, i: 0.1 * x, steps, poses, 0, torch.Generator().manual_seed(0))
    assert found.dtype == dtype
    assert torch.equal(poses, before)


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_score_factor_belongs_to_the_score_backbone(name: str) -> None:
    with pytest.raises(ValueError, match=f"score_factor belongs to the score backbone; {name} takes 1.0, got 0.5"):
        make_backbone(name).steps(TIMES, 1e-3, score_factor=0.5)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="backbone must be 'score', 'ddim' or 'ddpm', got 'flow'"):
        make_backbone.__wrapped__("flow")  # the tests' type checker would refuse it first
    with pytest.raises(ValueError, match="sampler must be 'ddim' or 'ddpm', got 'pndm'"):
        DiscreteBackbone.__init__.__wrapped__(object.__new__(DiscreteBackbone), "pndm")


def test_score_perturbation_is_the_sdes() -> None:
    x_0 = draw(0, 4000, 5, 3, dtype=torch.float32)
    x_t, noise, label = ScoreBackbone().perturb(x_0, torch.Generator().manual_seed(1))
    t = label.double() / 999
    integral = 0.1 * t + 9.95 * t * t
    mean, std = torch.exp(-integral / 2)[:, None, None], (1 - torch.exp(-integral))[:, None, None]
    torch.testing.assert_close(x_t.double(), mean * x_0 + std * noise, atol=1e-5, rtol=0)
    assert x_t.dtype == torch.float32
    assert 0 < t.min() < 0.002
    assert 0.998 < t.max() < 1
    assert t.mean().item() == pytest.approx(0.5, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


def test_discrete_perturbation_is_the_schedules() -> None:
    schedule = NoiseSchedule.named("linear_1000")
    x_0 = draw(0, 20_000, 1, 3)
    x_t, noise, label = make_backbone("ddim").perturb(x_0, torch.Generator().manual_seed(1))
    assert torch.equal(label, label.round())
    assert (label.min(), label.max()) == (0, 999)
    alpha_bar = schedule.alphas_cumprod[label.long()][:, None, None]
    torch.testing.assert_close(x_t, alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_perturbation_follows_the_generator(name: str) -> None:
    x_0 = draw(0, 6, 17, 3)
    first, second, other = (make_backbone(name).perturb(x_0, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert all(map(torch.equal, first, second))
    assert not torch.equal(first.x_t, other.x_t)
    assert first.x_t.dtype == x_0.dtype


class ExactGaussian(ScoreNetwork):
    """The right answer for poses drawn from independent normal distributions: a linear noise estimate."""

    def __init__(self, mean: Tensor, std: Tensor, marginal: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__(num_joints=mean.shape[0], hidden_dim=32, embed_dim=4)
        self.double()
        self.mean, self.std, self.marginal = mean, std, marginal

    def frozen(self, labels: Tensor) -> Callable[[Tensor, int], Tensor]:
        signal, sigma = self.marginal(labels)

        def denoise(x_t: Tensor, i: int) -> Tensor:
            variance = (signal[i] * self.std).square() + sigma[i].square()
            return sigma[i] * (x_t - signal[i] * self.mean) / variance  # -sigma times the score

        return denoise


def discrete_marginal(labels: Tensor) -> tuple[Tensor, Tensor]:
    alpha_bar = NoiseSchedule.named("linear_1000").alphas_cumprod[labels.long()]
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


@pytest.mark.parametrize("name", NAMES)
def test_generation_with_the_exact_score_gives_the_distribution(name: str) -> None:
    mean, std = 0.4 * draw(0, 4, 3), 0.05 + 0.2 * draw(1, 4, 3).abs()
    marginal = (lambda labels: SubVPSDE().marginal(labels / 999)) if name == "score" else discrete_marginal
    network = ExactGaussian(mean, std, marginal)
    poses = generate(network, make_backbone(name), 4000, torch.Generator().manual_seed(0), num_steps=500)
    assert poses.dtype == torch.float64
    assert not poses.is_inference()
    torch.testing.assert_close(poses.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(poses.std(0), std, atol=0.01, rtol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_generation_is_reproducible(name: str) -> None:
    network = ScoreNetwork(hidden_dim=32, embed_dim=8).eval()

    def run(seed: int) -> Tensor:
        return generate(network, make_backbone(name), 3, torch.Generator().manual_seed(seed), num_steps=20)

    assert run(0).shape == (3, 17, 3)
    assert run(0).isfinite().all()
    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_backbones_share_one_interface() -> None:
    for name in NAMES:
        backbone = make_backbone(name)
        steps = backbone.steps(torch.zeros(0, dtype=torch.float64), 1e-3)
        assert isinstance(backbone, Backbone)
        assert isinstance(steps, DenoisingSteps)
        assert (len(steps.labels), steps.keep, steps.remove, steps.random) == (0, [], [], [])
