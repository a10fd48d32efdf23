import pytest
import torch
from scipy.integrate import solve_ivp

from posecore.diffusion.schedule import NoiseSchedule
from posecore.diffusion.sde import SDE, VESDE, VPSDE, SubVPSDE

SDES = [VPSDE(), SubVPSDE(), VESDE(), SubVPSDE(0.5, 3.0), VESDE(0.1, 2.0)]
BATCH_SHAPES = [(), (2,), (2, 3)]


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_marginal_equals_numerical_integration(sde: SDE) -> None:
    """Of dm/dt = f(m, t) and dv/dt = 2 f'(t) v + g(t)^2, the moments of a linear SDE."""
    one = torch.ones((), dtype=torch.float64)

    def moments(t: float, state: list[float]) -> list[float]:
        rate = sde.drift(one, t).item()
        return [rate * state[0], 2 * rate * state[1] + sde.diffusion(t).item() ** 2]

    times = [0.01, 0.05, 0.1, 0.5, 1.0]
    start = [1.0, sde.marginal(0.0)[1].item() ** 2]
    solution = solve_ivp(moments, (0, 1), start, t_eval=times, rtol=1e-11, atol=1e-15, method="DOP853")
    mean, std = sde.marginal(torch.tensor(times, dtype=torch.float64))
    torch.testing.assert_close(mean, torch.from_numpy(solution.y[0]), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(std**2, torch.from_numpy(solution.y[1]), rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize(
    ("t", "mean", "std", "gain"),
    [(0.1, 0.9467, 0.1037, 0.0040), (0.05, None, 0.0294, 0.0022), (0.01, None, 0.00199, 0.0006)],
)
def test_sub_vp_values_of_zedo(t: float, mean: float | None, std: float, gain: float) -> None:
    sde = SubVPSDE(beta_min=0.1, beta_max=20.0)
    found_mean, found_std = sde.marginal(t)
    assert found_std.item() == pytest.approx(std, abs=5e-5)
    if mean is not None:
        assert found_mean.item() == pytest.approx(mean, abs=5e-5)
        assert sde.diffusion(t).item() ** 2 == pytest.approx(0.411, abs=5e-4)
        assert VPSDE().marginal(t)[1].item() == pytest.approx(0.322, abs=5e-4)
    # What one step of 1/1000 at full score weight takes off the noise estimate.
    one = torch.ones(1, dtype=torch.float64)
    moved = sde.probability_flow_step(one, t, 1e-3, sde.score_from_noise(one, t), score_factor=1.0)
    assert (one - moved + 0.5 * sde.beta(t) * 1e-3).item() == pytest.approx(gain, abs=5e-5)


def test_vp_is_the_limit_of_ddpm() -> None:
    """N steps with beta_i = beta(i/N)/N have the alpha-bar of the VP SDE as N grows."""
    n = 20000
    sde = VPSDE()
    times = torch.arange(1, n + 1, dtype=torch.float64) / n
    schedule = NoiseSchedule(sde.beta(times) / n)
    mean, std = sde.marginal(times)
    torch.testing.assert_close(schedule.alphas_cumprod.sqrt(), mean, rtol=0, atol=3e-4)
    torch.testing.assert_close((1 - schedule.alphas_cumprod).sqrt(), std, rtol=0, atol=3e-4)


@pytest.mark.parametrize("sde", SDES, ids=repr)
@pytest.mark.parametrize("batch", BATCH_SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floats_and_tensors_per_sample_agree(sde: SDE, batch: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, *batch, 17, 3, generator=generator, dtype=dtype)
    before = x.clone(), noise.clone()
    t = torch.full(batch, 0.3, dtype=dtype)
    score = sde.score_from_noise(noise, 0.3)
    for shared, per_sample in (
        (sde.perturb(x, 0.3, noise), sde.perturb(x, t, noise)),
        (score, sde.score_from_noise(noise, t)),
        (sde.probability_flow_step(x, 0.3, 0.01, score), sde.probability_flow_step(x, t, 0.01, score)),
        (
            sde.reverse_step(x, 0.3, 0.01, score, torch.Generator().manual_seed(1)),
            sde.reverse_step(x, t, 0.01, score, torch.Generator().manual_seed(1)),
        ),
    ):
        assert shared.dtype == per_sample.dtype == dtype
        torch.testing.assert_close(shared, per_sample)
    torch.testing.assert_close(sde.noise_from_score(score, t), noise)
    assert sde.marginal(t)[0].shape == sde.marginal(t)[1].shape == sde.diffusion(t).shape == batch
    assert torch.equal(x, before[0])
    assert torch.equal(noise, before[1])


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE(0.01, 2.0)], ids=repr)
@pytest.mark.parametrize("stochastic", [False, True])
def test_running_backwards_recovers_a_normal_distribution(sde: SDE, stochastic: bool) -> None:
    """For x(0) ~ N(m, s^2) the score is known; both reverse processes must end in that distribution."""
    mean, std, steps, t_end = 0.4, 0.5, 500, 1e-3
    generator = torch.Generator().manual_seed(0)
    mean_coeff, noise_std = sde.marginal(1.0)
    # The prior is only the limit of the marginal; starting from the marginal tests the steps alone.
    x = mean_coeff * mean + torch.sqrt(mean_coeff**2 * std**2 + noise_std**2) * torch.randn(20000, generator=generator)
    dt = (1 - t_end) / steps
    for i in range(steps):
        t = 1 - i * dt
        mean_coeff, noise_std = sde.marginal(t)
        score = -(x - mean_coeff * mean) / (mean_coeff**2 * std**2 + noise_std**2)
        score = score.to(x.dtype)
        x = sde.reverse_step(x, t, dt, score, generator) if stochastic else sde.probability_flow_step(x, t, dt, score)
    assert x.mean().item() == pytest.approx(mean, abs=0.02)
    assert x.std().item() == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize("sde", SDES[:3], ids=repr)
def test_prior_is_the_last_marginal(sde: SDE) -> None:
    assert sde.prior_std == pytest.approx(sde.marginal(1.0)[1].item(), rel=1e-4)


def test_full_score_factor_is_the_mean_of_the_reverse_step(generator: torch.Generator) -> None:
    sde = SubVPSDE()
    x, noise = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    score = sde.score_from_noise(noise, 0.2)
    many = sde.reverse_step(x.expand(200000, 3), 0.2, 0.01, score.expand(200000, 3), generator)
    mean = sde.probability_flow_step(x, 0.2, 0.01, score, score_factor=1.0)
    torch.testing.assert_close(many.mean(0), mean, rtol=0, atol=2e-3)
    assert many.std(0)[0].item() == pytest.approx(sde.diffusion(0.2).item() * 0.1, rel=0.02)


def test_small_times_and_half_precision_keep_their_digits(generator: torch.Generator) -> None:
    sde = SubVPSDE()
    reference = sde.marginal(torch.tensor(1e-5, dtype=torch.float64))[1]
    torch.testing.assert_close(sde.marginal(torch.tensor(1e-5))[1].double(), reference, rtol=1e-5, atol=0)
    assert sde.marginal(torch.tensor(0.5, dtype=torch.bfloat16))[1].dtype == torch.float32
    x = torch.randn(8, 3, generator=generator).bfloat16()
    for t in (0.05, torch.full((8,), 0.05)):
        moved = sde.probability_flow_step(x, t, 1e-3, x)
        expected = sde.probability_flow_step(x.float(), t, 1e-3, x.float())
        torch.testing.assert_close(moved, expected.bfloat16(), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        std = sde.marginal(torch.tensor(0.01))[1]
    torch.testing.assert_close(std, sde.marginal(torch.tensor(0.01))[1], rtol=0, atol=0)


@pytest.mark.gpu
def test_steps_do_not_synchronise() -> None:
    x = torch.randn(4, 3, device="cuda")
    t = torch.rand(4, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for sde in SDES:
            score = sde.score_from_noise(x, t)
            sde.reverse_step(sde.probability_flow_step(x, t, 1e-3, score), 0.1, 1e-3, score)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = SubVPSDE().score_from_noise(x.cpu(), t.cpu())
    torch.testing.assert_close(SubVPSDE().score_from_noise(x, t).cpu(), expected)


def test_rejects_bad_arguments() -> None:
    for sde in (VPSDE, SubVPSDE):
        with pytest.raises(ValueError, match=r"need 0 < beta_min <= beta_max, got beta_min=2.0, beta_max=1.0"):
            sde(2.0, 1.0)
    with pytest.raises(ValueError, match="need 0 < sigma_min < sigma_max"):
        VESDE(0.0, 1.0)
    with pytest.raises(ValueError, match="does not index the leading dimensions"):
        SubVPSDE().score_from_noise(torch.zeros(2, 3), torch.ones(3))
