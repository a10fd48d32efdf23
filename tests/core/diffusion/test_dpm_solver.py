import itertools
import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from posecore.diffusion.dpm_solver import dpm_solver_step
from posecore.diffusion.samplers import ddim_step, timesteps
from posecore.diffusion.schedule import NoiseSchedule

MEANS, STDS, WEIGHTS = torch.tensor([-0.6, 0.5]).double(), torch.tensor([0.2, 0.3]).double(), torch.tensor([0.4, 0.6])


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    return NoiseSchedule.named("cosine_1000")


def exact_x_0(schedule: NoiseSchedule, x: Tensor, t: int) -> Tensor:
    """The mean of x_0 given x_t where x_0 is one of two normal variables."""
    signal, sigma = schedule.signal(t, x), schedule.sigma(t, x)
    x = x[..., None]
    variance = (signal * STDS) ** 2 + sigma**2
    log_weight = WEIGHTS.log() - 0.5 * variance.log() - 0.5 * (x - signal * MEANS) ** 2 / variance
    return (log_weight.softmax(-1) * (MEANS + signal * STDS**2 / variance * (x - signal * MEANS))).sum(-1)


def sampled(schedule: NoiseSchedule, x: Tensor, steps: list[int], second_order: bool) -> Tensor:
    before = None
    for t, t_prev in itertools.pairwise(steps):
        clean = exact_x_0(schedule, x, t)
        x, x_0 = dpm_solver_step(schedule, clean, x, t, t_prev, before, prediction_type="sample")
        before = (x_0, t) if second_order else None
    return x


def quantile_moved(schedule: NoiseSchedule, x: Tensor, start: int, end: int) -> Tensor:
    """Where the exact, noise-free process takes x: in one dimension it keeps every sample at its quantile."""

    def cdf(x: Tensor, t: int) -> Tensor:
        signal, sigma = schedule.signal(t, x), schedule.sigma(t, x)
        z = (x[..., None] - signal * MEANS) / ((signal * STDS) ** 2 + sigma**2).sqrt()
        return (WEIGHTS * torch.special.ndtr(z)).sum(-1)

    low, high, wanted = torch.full_like(x, -9), torch.full_like(x, 9), cdf(x, start)
    for _ in range(60):  # bisection
        middle = (low + high) / 2
        below = cdf(middle, end) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(("eta", "name"), [(0.0, "dpmsolver++"), (1.0, "sde-dpmsolver++")])
@pytest.mark.parametrize("num_steps", [5, 20])
def test_equals_diffusers(
    prediction_type: str, eta: float, name: str, num_steps: int, generator: torch.Generator
) -> None:
    schedule = NoiseSchedule.named("linear_1000")
    scheduler = DPMSolverMultistepScheduler(
        1000,
        trained_betas=schedule.betas.tolist(),
        prediction_type=prediction_type,
        algorithm_type=name,
        solver_order=2,
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(num_steps)
    steps = timesteps(1000, num_steps, "trailing")
    assert scheduler.timesteps.tolist() == steps
    # Its own table of sigma is rounded to float32, which is felt at the first steps.
    alpha_bar = torch.cat([schedule.alphas_cumprod[steps], torch.ones(1)])
    scheduler.sigmas = ((1 - alpha_bar) / alpha_bar).sqrt()
    ours = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    before = None
    for t, t_prev in itertools.pairwise([*steps, -1]):
        output = torch.tanh(ours * 2)  # any function of the sample
        noise = torch.randn(ours.shape, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
        # From the same sample in every step, because it rounds samples to float32.
        theirs = scheduler.step(output, t, ours, variance_noise=noise).prev_sample
        ours, x_0 = dpm_solver_step(
            schedule,
            output,
            ours,
            t,
            t_prev,
            before,
            prediction_type=prediction_type,
            eta=eta,
            generator=torch.Generator().manual_seed(t),
        )
        before = x_0, t
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_is_of_second_order_where_ddim_is_of_first() -> None:
    """Half as long steps divide the error by four, and DDIM's by two, between levels where lambda is finite."""
    # Steps that can be halved need more timesteps than a training has.
    fine = NoiseSchedule(1 - torch.exp(torch.linspace(0.05, 3.0, 6401).double().square().neg().diff()))
    start, end = 6399, 639
    x = torch.linspace(-2, 2, 50, dtype=torch.float64)
    exact = quantile_moved(fine, x, start, end)
    errors = {}
    for num_steps in (30, 60, 120):
        steps = list(range(start, end - 1, -(start - end) // num_steps))
        for second in (False, True):
            errors[second, num_steps] = (sampled(fine, x, steps, second) - exact).abs().mean().item()
    for fewer, more in ((30, 60), (60, 120)):
        order = {second: math.log2(errors[second, fewer] / errors[second, more]) for second in (False, True)}
        assert 0.8 < order[False] < 1.3
        assert 1.7 < order[True] < 2.6
    assert errors[True, 30] < 0.3 * errors[False, 30]


@pytest.mark.parametrize("num_steps", [10, 20, 40])
def test_few_steps_are_closer_to_the_exact_sample_than_ddims(schedule: NoiseSchedule, num_steps: int) -> None:
    x = torch.linspace(-2, 2, 50, dtype=torch.float64)
    exact = quantile_moved(schedule, x, 999, -1)
    steps = [*timesteps(1000, num_steps, "trailing"), -1]
    first, second = ((sampled(schedule, x, steps, order) - exact).abs().mean() for order in (False, True))
    assert second < 0.6 * first


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_first_and_last_step_are_ddims(
    schedule: NoiseSchedule, eta: float, clip: float | None, generator: torch.Generator
) -> None:
    output, x_t, x_0_before = torch.randn(3, 4, 3, generator=generator, dtype=torch.float64)
    for t, t_prev, before in ((999, 899, None), (99, -1, (x_0_before, 199))):
        found = dpm_solver_step(
            schedule, output, x_t, t, t_prev, before, eta=eta, clip_x0=clip, generator=torch.Generator().manual_seed(3)
        )
        expected = ddim_step(
            schedule,
            output,
            x_t,
            t,
            t_prev,
            eta=eta,
            clip_x0=clip,
            rederive_noise=True,
            generator=torch.Generator().manual_seed(3),
        )
        torch.testing.assert_close(found.x_prev, expected.x_prev)
        torch.testing.assert_close(found.x_0, expected.x_0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_takes_t_per_sample_and_keeps_the_precision(
    schedule: NoiseSchedule, generator: torch.Generator, dtype: torch.dtype
) -> None:
    output, x_t, x_0_before = torch.randn(3, 3, 5, 2, generator=generator, dtype=torch.float64).to(dtype)
    t, t_prev, t_before = torch.tensor([900, 500, 0]), torch.tensor([800, 499, -1]), torch.tensor([999, 510, 7])
    copies = output.clone(), x_t.clone(), x_0_before.clone()
    found = dpm_solver_step(schedule, output, x_t, t, t_prev, (x_0_before, t_before))
    assert found.x_prev.dtype == found.x_0.dtype == dtype
    for i in range(3):
        alone = dpm_solver_step(
            schedule, output[i], x_t[i], int(t[i]), int(t_prev[i]), (x_0_before[i], int(t_before[i]))
        )
        assert torch.equal(found.x_prev[i], alone.x_prev)
        assert torch.equal(found.x_0[i], alone.x_0)
    assert found.x_prev.isfinite().all()
    assert all(torch.equal(now, then) for now, then in zip((output, x_t, x_0_before), copies, strict=True))


@pytest.mark.gpu
def test_does_not_synchronise(schedule: NoiseSchedule) -> None:
    on_gpu = NoiseSchedule(schedule.betas).to("cuda")
    output, x_t, x_0_before = torch.randn(3, 4, 3, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = dpm_solver_step(on_gpu, output, x_t, 500, 400, (x_0_before, 600), clip_x0=1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = dpm_solver_step(schedule, output.cpu(), x_t.cpu(), 500, 400, (x_0_before.cpu(), 600), clip_x0=1.0)
    torch.testing.assert_close(found.x_prev.cpu(), expected.x_prev)


def test_rejects_bad_arguments(schedule: NoiseSchedule) -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\], got 2"):
        dpm_solver_step(schedule, x, x, 10, 9, eta=2.0)
    with pytest.raises(ValueError, match="t_prev must be below t, got t_prev=10 and t=10"):
        dpm_solver_step(schedule, x, x, 10, 10)
    with pytest.raises(ValueError, match="t must be below the timestep before, got t=10 and 10"):
        dpm_solver_step(schedule, x, x, 10, 9, (x, 10))
