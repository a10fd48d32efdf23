import itertools

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler

from posecore.diffusion.samplers import ddim_invert_step, ddim_step, ddpm_step, timesteps
from posecore.diffusion.schedule import NoiseSchedule

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
BATCH_SHAPES = [(), (2,), (2, 3)]


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    return NoiseSchedule.named("cosine_1000")


def with_our_table(scheduler, schedule: NoiseSchedule):
    """Gives diffusers' scheduler float64 tables, so that steps can be compared to float64 (tables: test_schedule)."""
    scheduler.betas, scheduler.alphas = schedule.betas, 1 - schedule.betas
    scheduler.alphas_cumprod = schedule.alphas_cumprod
    return scheduler


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(("total", "steps"), [(1000, 50), (1000, 1000), (1000, 16), (1000, 7), (200, 40), (100, 1)])
def test_timesteps_equal_diffusers(spacing: str, total: int, steps: int) -> None:
    scheduler = DDIMScheduler(total, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    found = timesteps(total, steps, spacing)
    assert found == scheduler.timesteps.tolist()
    assert all(isinstance(t, int) for t in found)


def test_timesteps_of_the_papers() -> None:
    assert timesteps(1000, 20, "leading") == list(range(950, -1, -50))  # ScoreHMR's validation sampling
    # lucidrains' spacing, used by Diff-HMR's relatives: evenly from -1 to T-1.
    expected = np.linspace(-1, 999, 51).astype(int)[:0:-1].tolist()
    assert timesteps(1000, 50, "trailing") == expected


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("t", [0, 1, 20, 500, 999])
def test_ddpm_step_equals_diffusers(schedule: NoiseSchedule, prediction_type: str, clip: float | None, t: int) -> None:
    scheduler = DDPMScheduler(
        1000,
        prediction_type=prediction_type,
        variance_type="fixed_small",
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
    )
    with_our_table(scheduler, schedule)
    output, x_t = torch.randn(2, 5, 17, 3, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
    expected = scheduler.step(output, t, x_t, generator=torch.Generator().manual_seed(1))
    found = ddpm_step(
        schedule,
        output,
        x_t,
        t,
        prediction_type=prediction_type,
        clip_x0=clip,
        generator=torch.Generator().manual_seed(1),
    )
    torch.testing.assert_close(found.x_0, expected.pred_original_sample, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.x_prev, expected.prev_sample, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("clip", "rederive"), [(None, False), (1.0, False), (1.0, True)])
def test_ddim_step_equals_diffusers(
    schedule: NoiseSchedule, prediction_type: str, eta: float, clip: float | None, rederive: bool
) -> None:
    scheduler = DDIMScheduler(
        1000, prediction_type=prediction_type, clip_sample=clip is not None, timestep_spacing="trailing"
    )
    with_our_table(scheduler, schedule)
    scheduler.set_timesteps(50)
    for t, t_prev in [(999, 979), (499, 479), (19, -1)]:
        output, x_t = torch.randn(2, 5, 17, 3, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
        expected = scheduler.step(
            output, t, x_t, eta=eta, use_clipped_model_output=rederive, generator=torch.Generator().manual_seed(1)
        )
        found = ddim_step(
            schedule,
            output,
            x_t,
            t,
            t_prev,
            prediction_type=prediction_type,
            eta=eta,
            clip_x0=clip,
            rederive_noise=rederive,
            generator=torch.Generator().manual_seed(1),
        )
        torch.testing.assert_close(found.x_0, expected.pred_original_sample, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.x_prev, expected.prev_sample, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("t_next", [20, 500, 980])
def test_ddim_invert_step_equals_diffusers(schedule: NoiseSchedule, prediction_type: str, t_next: int) -> None:
    scheduler = DDIMInverseScheduler(1000, prediction_type=prediction_type, clip_sample=False)
    with_our_table(scheduler, schedule)
    scheduler.set_timesteps(50)
    output, x_t = torch.randn(2, 5, 17, 3, generator=torch.Generator().manual_seed(t_next), dtype=torch.float64)
    expected = scheduler.step(output, t_next, x_t)
    found = ddim_invert_step(schedule, output, x_t, t_next - 20, t_next, prediction_type=prediction_type)
    torch.testing.assert_close(found.x_prev, expected.prev_sample, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batch", BATCH_SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 1])
def test_inversion_is_undone_by_sampling(
    schedule: NoiseSchedule, batch: tuple[int, ...], dtype: torch.dtype, seed: int
) -> None:
    x_0, noise = torch.randn(2, *batch, 24, 6, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    path = list(range(-1, 200, 3))
    x = x_0
    for t, t_next in itertools.pairwise(path):
        x = ddim_invert_step(schedule, noise, x, t, t_next).x_prev
    torch.testing.assert_close(x, schedule.q_sample(x_0, path[-1], noise), rtol=1e-4, atol=1e-4)
    for t, t_prev in itertools.pairwise(reversed(path)):
        x = ddim_step(schedule, noise, x, t, t_prev).x_prev
    torch.testing.assert_close(x, x_0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 3, 10, 1000])
def test_any_spacing_reaches_the_sample_an_exact_denoiser_knows(schedule: NoiseSchedule, num_steps: int) -> None:
    generator = torch.Generator().manual_seed(num_steps)
    x_0 = torch.rand(6, 3, generator=generator, dtype=torch.float64) * 2 - 1
    x_ddim = x_ddpm = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    for t, t_prev in itertools.pairwise([*timesteps(1000, num_steps, "trailing"), -1]):
        x_ddim = ddim_step(schedule, x_0, x_ddim, t, t_prev, prediction_type="sample").x_prev
        step = ddpm_step(schedule, x_0, x_ddpm, t, t_prev, prediction_type="sample", generator=generator)
        x_ddpm = step.x_prev
    torch.testing.assert_close(x_ddim, x_0)
    torch.testing.assert_close(x_ddpm, x_0)


@pytest.mark.parametrize("spacing", [1, 25])
def test_samplers_recover_a_normal_distribution(spacing: int) -> None:
    """For x_0 ~ N(m, s^2) the best denoiser is linear; the sampler must then draw from that distribution."""
    schedule = NoiseSchedule.named("cosine_100")
    mean, std = 0.4, 0.3
    generator = torch.Generator().manual_seed(0)
    path = [*range(99, -1, -spacing), -1]
    for eta in (0.0, 1.0, None):
        x = torch.randn(20000, 1, generator=generator)
        for t, t_prev in itertools.pairwise(path):
            signal, sigma = schedule.signal(t, x), schedule.sigma(t, x)
            noise = sigma * (x - signal * mean) / (signal**2 * std**2 + sigma**2)
            if eta is None:
                x = ddpm_step(schedule, noise, x, t, t_prev, generator=generator).x_prev
            else:
                x = ddim_step(schedule, noise, x, t, t_prev, eta=eta, generator=generator).x_prev
        assert x.mean().item() == pytest.approx(mean, abs=0.02)
        if spacing == 1:  # large ancestral steps lose variance by construction
            assert x.std().item() == pytest.approx(std, rel=0.08)


def test_full_eta_is_the_ancestral_step(schedule: NoiseSchedule, generator: torch.Generator) -> None:
    output, x_t = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    for t, t_prev in [(999, 998), (500, 100), (10, 9), (3, -1)]:
        ancestral = ddpm_step(schedule, output, x_t, t, t_prev, generator=torch.Generator().manual_seed(3))
        implicit = ddim_step(schedule, output, x_t, t, t_prev, eta=1.0, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(implicit.x_prev, ancestral.x_prev, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_steps_take_t_per_sample_and_keep_the_precision(
    schedule: NoiseSchedule, generator: torch.Generator, dtype: torch.dtype
) -> None:
    output, x_t = torch.randn(2, 3, 5, 2, generator=generator, dtype=torch.float64).to(dtype)
    t, t_prev = torch.tensor([900, 500, 0]), torch.tensor([800, 499, -1])
    before = output.clone(), x_t.clone()
    # Noise has the shape of the whole sample, so only the deterministic part can be compared one by one.
    found = ddim_step(schedule, output, x_t, t, t_prev)
    inverted = ddim_invert_step(schedule, output, x_t, t_prev, t)
    for i in range(3):
        alone = ddim_step(schedule, output[i], x_t[i], int(t[i]), int(t_prev[i]))
        assert torch.equal(found.x_prev[i], alone.x_prev)
        assert torch.equal(found.x_0[i], alone.x_0)
        alone = ddim_invert_step(schedule, output[i], x_t[i], int(t_prev[i]), int(t[i]))
        assert torch.equal(inverted.x_prev[i], alone.x_prev)
    for step in (
        found,
        ddim_step(schedule, output, x_t, t, t_prev, eta=0.5, generator=generator),
        ddpm_step(schedule, output, x_t, t, t_prev, generator=generator),
    ):
        assert step.x_prev.dtype == dtype
        assert step.x_0.dtype == dtype
        assert step.x_prev.isfinite().all()
    assert torch.equal(output, before[0])
    assert torch.equal(x_t, before[1])
    # The last sample goes to t = -1, which is its predicted x_0.
    clean = ddpm_step(schedule, output, x_t, t, t_prev, generator=generator)
    torch.testing.assert_close(clean.x_prev[2], clean.x_0[2])


def test_generator_decides_the_noise(schedule: NoiseSchedule, generator: torch.Generator) -> None:
    output, x_t = torch.randn(2, 4, 3, generator=generator)
    draws = [ddpm_step(schedule, output, x_t, 500, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0].x_prev, draws[1].x_prev)
    assert not torch.equal(draws[0].x_prev, draws[2].x_prev)
    state = torch.get_rng_state()
    ddpm_step(schedule, output, x_t, 500, generator=generator)
    ddim_step(schedule, output, x_t, 500, 499)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gpu
def test_steps_do_not_synchronise(schedule: NoiseSchedule) -> None:
    on_gpu = NoiseSchedule(schedule.betas).to("cuda")
    output, x_t = torch.randn(2, 4, 3, device="cuda")
    t, t_prev = torch.tensor(500, device="cuda"), torch.tensor([1, 2, 3, -1], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps = [
            ddpm_step(on_gpu, output, x_t, t, t_prev),
            ddim_step(on_gpu, output, x_t, t, t_prev, eta=0.5, clip_x0=1.0),
            ddim_invert_step(on_gpu, output, x_t, t_prev, t),
            ddim_step(on_gpu, output, x_t, 500, 499),
        ]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(step.x_prev.isfinite().all() for step in steps)
    expected = ddim_step(schedule, output.cpu(), x_t.cpu(), 500, 499)
    torch.testing.assert_close(steps[-1].x_prev.cpu(), expected.x_prev)


def test_rejects_bad_arguments(schedule: NoiseSchedule) -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"num_inference_steps must lie in 1..1000, got 1001"):
        timesteps(1000, 1001)
    with pytest.raises(ValueError, match=r"num_inference_steps must lie in 1..1000, got 0"):
        timesteps(1000, 0)
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\], got 2"):
        ddim_step(schedule, x, x, 10, 9, eta=2.0)
    with pytest.raises(ValueError, match="t_prev must be below t, got t_prev=10 and t=10"):
        ddim_step(schedule, x, x, 10, 10)
    with pytest.raises(ValueError, match="t_prev must be below t, got t_prev=11 and t=10"):
        ddpm_step(schedule, x, x, 10, 11)
    with pytest.raises(ValueError, match="t must be below t_next, got t=10 and t_next=9"):
        ddim_invert_step(schedule, x, x, 10, 9)
    with pytest.raises(ValueError, match=r"t must lie in -1..999, got 1000"):
        ddpm_step(schedule, x, x, 1000)
    with pytest.raises(Exception, match="quadratic"):
        timesteps(1000, 10, "quadratic")
