import dataclasses
import inspect
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from diffhmr.network import Prepared, UNet1D
from diffhmr.sampler import Sampling, pick_most_plausible, sample
from posecore.diffusion.noise import NoiseStreams
from posecore.diffusion.samplers import ddpm_step
from posecore.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.named("cosine_1000")
SHORT = NoiseSchedule.named("cosine_100")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Gaussian:
    """The exact denoiser of x_0 ~ N(mean of the image, std^2), a number at a time.

    With x_t = a x_0 + s noise, the expected noise is s (x_t - a mean) / (a^2 std^2 + s^2).
    """

    length, channels = 24, 2

    def __init__(self, schedule: NoiseSchedule, std: float) -> None:
        self.schedule, self.std = schedule, std

    def __call__(self, x: Tensor, t: Tensor, prepared: Prepared) -> Tensor:
        assert t.ndim == 0
        assert len(x) == len(prepared)
        assert prepared.stem is not None
        mean = prepared.stem.repeat_interleave(prepared.num_hypotheses, dim=0)
        alpha_bar = self.schedule.alphas_cumprod[t]
        a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        return (s * (x - a * mean) / (a**2 * self.std**2 + s**2)).to(x)


def means(images: int = 2) -> Tensor:
    return torch.randn(images, 24, 2, generator=seeded(1))


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        (Sampling(), 0.02),
        (Sampling("ddpm", 100), 0.04),
        (Sampling(None, 50), 0.02),
        (Sampling("ddim", 50, eta=1.0), 0.06),
        (Sampling("dpm_solver", 20), 0.01),
        (Sampling("dpm_solver", 50, eta=1.0), 0.03),
    ],
    ids=["ddpm", "ddpm-100", "ddim-50", "ddim-50-eta", "solver-20", "solver-50-eta"],
)
def test_a_gaussian_is_recovered(settings: Sampling, tolerance: float) -> None:
    """With alpha in place of the cumulative alpha-bar, as the paper prints it, neither mean nor std would be found."""
    mean, std = means(), 0.3
    found = sample(Gaussian(SCHEDULE, std), SCHEDULE, Prepared(stem=mean), 2000, settings, None, seeded())
    assert found.shape == (2, 2000, 24, 2)
    torch.testing.assert_close(found.mean(dim=1), mean, atol=0.04, rtol=0)
    torch.testing.assert_close(found.std(dim=1).mean(), torch.tensor(std), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "settings", [Sampling(), Sampling(None, 10), Sampling("ddpm", 10), Sampling("dpm_solver", 10)], ids=str
)
def test_clipped_samples_stay_in_bounds(settings: Sampling) -> None:
    """A certain pose at 0.9, a clip at 0.5: the bound is reached and kept."""
    mean = torch.full((1, 24, 2), 0.9)
    found = sample(Gaussian(SHORT, 1e-3), SHORT, Prepared(stem=mean), 4, settings, 0.5, seeded())
    torch.testing.assert_close(found, torch.full_like(found, 0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("settings", [Sampling(), Sampling("ddim", 10, eta=0.5)], ids=["ddpm", "ddim"])
def test_hypotheses_depend_on_nobody_else(settings: Sampling) -> None:
    """Not on batch, block of rows or the number of hypotheses: each has a stream of noise of its own."""
    rows = torch.tensor([7, 3, 5])

    def found(part: slice, num_hypotheses: int, max_rows: int = 1024) -> Tensor:
        used, source = dataclasses.replace(settings, max_rows=max_rows), NoiseStreams.of_rows(1, rows[part])
        return sample(
            Gaussian(SHORT, 0.5), SHORT, Prepared(stem=means(3)[part]), num_hypotheses, used, generator=source
        )

    wanted = found(slice(None), 4)
    torch.testing.assert_close(found(slice(1, 3), 4, 3), wanted[1:])
    torch.testing.assert_close(found(slice(0, 1), 2), wanted[:1, :2])
    assert torch.pdist(wanted.flatten(2).flatten(0, 1)).min() > 0.1


def test_all_steps_are_ancestral_and_fewer_are_ddims() -> None:
    arguments = (Gaussian(SHORT, 0.5), SHORT, Prepared(stem=means()), 3)

    def run(settings: Sampling) -> Tensor:
        return sample(*arguments, settings, None, seeded())

    assert torch.equal(run(Sampling()), run(Sampling("ddpm", 100)))
    assert torch.equal(run(Sampling(num_inference_steps=100)), run(Sampling("ddpm")))
    assert torch.equal(run(Sampling(num_inference_steps=20)), run(Sampling("ddim", 20)))
    assert not torch.allclose(run(Sampling("ddim")), run(Sampling("ddpm")))


def small(conditioning: Any = "concat") -> UNet1D:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet1D(5, 4, dim=8, mults=(1, 2), cond_channels=6, conditioning=conditioning).eval()


def images() -> Tensor:
    return torch.randn(3, 5, 2, 2, generator=seeded(2))


@pytest.mark.parametrize("conditioning", ["concat", "cross_attention"])
def test_equal_to_a_loop_over_rows(conditioning: str) -> None:
    """Algorithm and order of noise: image by image, hypothesis by hypothesis, each with features of its own."""
    network = small(conditioning)
    found = sample(network, SHORT, network.prepare(images()), 2, Sampling("ddpm", 10), 1.0, seeded())
    generator = seeded()
    x = torch.randn(3, 2, 24, 6, generator=generator)
    with torch.no_grad():
        for t in range(99, 0, -10):
            noise = torch.empty_like(x)
            for i, j in itertools.product(range(3), range(2)):
                prepared = network.prepare(images()[i : i + 1])
                noise[i, j] = network(x[i, j, None], torch.tensor([t]), prepared)[0]
            x = ddpm_step(SHORT, noise, x, t, max(t - 10, -1), clip_x0=1.0, generator=generator).x_prev
    torch.testing.assert_close(found, x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("max_rows", [1, 2, 4, 5, 7, 14])
@pytest.mark.parametrize("conditioning", ["concat", "cross_attention"])
def test_max_rows_changes_nothing(conditioning: str, max_rows: int) -> None:
    network, rows = small(conditioning), []
    network.stem.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    settings = {"sampler": "ddim", "num_inference_steps": 5, "eta": 1.0}
    prepared = network.prepare(images())
    expected = sample(network, SHORT, prepared, 4, Sampling(**settings), 1.0, seeded())
    rows.clear()
    found = sample(network, SHORT, prepared, 4, Sampling(**settings, max_rows=max_rows), 1.0, seeded())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert max(rows) <= max_rows
    assert sum(rows) == 5 * 12


def test_images_are_prepared_by_the_caller_once() -> None:
    network, calls = small(), []
    prepared = network.prepare(images())
    network.cond_cells.register_forward_hook(lambda *call: calls.append(call))
    sample(network, SHORT, prepared, 4, Sampling(None, 5), 1.0, seeded())
    assert calls == []


def test_hypotheses_differ_and_repeat_by_seed() -> None:
    network = small()
    prepared = network.prepare(images())
    first, again, other = (
        sample(network, SHORT, prepared, 3, Sampling(None, 10), 1.0, seeded(seed)) for seed in (4, 4, 5)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    for one, another in ((0, 1), (0, 2), (1, 2)):
        assert (first[:, one] - first[:, another]).abs().amax(dim=(1, 2)).min() > 1e-3
    assert not first.requires_grad
    assert not first.is_inference(), "it may go on into what is differentiated"


def test_noise_can_be_given() -> None:
    network = small()
    prepared = network.prepare(images())
    x_T = torch.randn(3, 2, 24, 6, generator=seeded(7))
    before = x_T.clone()
    given = sample(network, SHORT, prepared, 2, Sampling(None, 10), 1.0, x_T=x_T)
    assert torch.equal(given, sample(network, SHORT, prepared, 2, Sampling(None, 10), 1.0, seeded(7)))
    assert torch.equal(x_T, before)


def test_autocast_and_progress() -> None:
    network, calls = small(), []
    prepared = network.prepare(images())
    expected = sample(network, SHORT, prepared, 2, Sampling(None, 10), 1.0, seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sample(network, SHORT, prepared, 2, Sampling(None, 10), 1.0, seeded(), lambda *call: calls.append(call))
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.02
    assert calls == [(step, 10) for step in range(1, 11)]


def test_sample_refuses() -> None:
    prepared, denoiser = Prepared(stem=means()), Gaussian(SHORT, 0.3)
    with pytest.raises(ValueError, match="num_hypotheses must be at least 1, got 0"):
        sample(denoiser, SHORT, prepared, 0, Sampling())
    with pytest.raises(ValueError, match=r"x_T must have the shape \(2, 3, 24, 2\), got \(2, 4, 24, 2\)"):
        sample(denoiser, SHORT, prepared, 3, Sampling(), x_T=torch.zeros(2, 4, 24, 2))
    with pytest.raises(ValueError, match=r"num_inference_steps must lie in 1\.\.100, got 101"):
        sample(denoiser, SHORT, prepared, 3, Sampling(None, 101))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1, got 0"),
        ({"eta": 1.5}, r"eta must lie in \[0, 1\], got 1.5"),
        ({"max_rows": 0}, "max_rows must be at least 1, got 0"),
    ],
)
def test_sampling_refuses(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Sampling(**options)


def test_sampling_refuses_another_sampler() -> None:
    settings = Sampling()
    # Past the check of types, which refuses first in tests.
    object.__setattr__(settings, "sampler", "dpm")
    with pytest.raises(ValueError, match="sampler must be 'ddpm', 'ddim', 'dpm_solver' or None, got 'dpm'"):
        settings.__post_init__()


def test_pick_by_brute_force() -> None:
    joints = torch.randn(4, 5, 7, 3, generator=seeded()) + torch.tensor([0.0, 0, 10])
    keypoints = 100 * torch.randn(4, 7, 2, generator=seeded(1))
    confidence = torch.rand(4, 7, generator=seeded(2)).round(decimals=1)
    confidence[2] = 0
    keypoints[confidence == 0] = torch.nan
    K = torch.tensor([[500.0, 0, 20], [0, 400, -10], [0, 0, 1]]).repeat(4, 1, 1)
    K[1, 0, 0] = 900
    central = pick_most_plausible(joints, "medoid")
    closest = pick_most_plausible(joints, "keypoints", keypoints, confidence, K)
    for image in range(4):
        rel = joints[image] - joints[image, :, :1]
        spread = [sum(float((one - other).norm(dim=-1).mean()) for other in rel) for one in rel]
        assert int(central[image]) == spread.index(min(spread))
        errors = []
        for hypothesis in joints[image]:
            u = K[image, 0, 0] * hypothesis[:, 0] / hypothesis[:, 2] + 20
            v = K[image, 1, 1] * hypothesis[:, 1] / hypothesis[:, 2] - 10
            distance = (torch.stack((u, v), dim=-1) - keypoints[image]).norm(dim=-1)
            errors.append(sum(float(c * d) for c, d in zip(confidence[image], distance, strict=True) if c > 0))
        expected = spread.index(min(spread)) if image == 2 else errors.index(min(errors))
        assert int(closest[image]) == expected
    assert torch.equal(pick_most_plausible(joints, "keypoints"), central), "without keypoints"
    assert pick_most_plausible(joints, "first").tolist() == [0, 0, 0, 0]


def test_pick_refuses() -> None:
    # Past the signature's check of types, which refuses first in tests.
    with pytest.raises(ValueError, match=r"pick must be one of .*, got 'best'"):
        inspect.unwrap(pick_most_plausible)(torch.zeros(1, 1, 7, 3), "best")
