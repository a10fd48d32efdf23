import copy

import pytest
import torch
from diffusers import DDPMScheduler

from posecore.diffusion.schedule import (
    NAMED_BETAS,
    NoiseSchedule,
    cosine_betas,
    expand_to,
    linear_alpha_bar_betas,
    linear_betas,
)

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
BATCH_SHAPES = [(), (2,), (2, 3)]


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    return NoiseSchedule.named("cosine_1000")


@pytest.mark.parametrize("num_train_timesteps", [100, 1000])
def test_betas_equal_diffusers(num_train_timesteps: int) -> None:
    linear = DDPMScheduler(num_train_timesteps, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    cosine = DDPMScheduler(num_train_timesteps, beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(linear_betas(num_train_timesteps).float(), linear.betas)
    torch.testing.assert_close(cosine_betas(num_train_timesteps).float(), cosine.betas, rtol=1e-5, atol=1e-7)
    alphas_cumprod = NoiseSchedule(cosine_betas(num_train_timesteps)).alphas_cumprod
    torch.testing.assert_close(alphas_cumprod.float(), cosine.alphas_cumprod, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "t", "expected", "tolerance"),
    [
        ("cosine_1000", 0, 0.999959, 1e-6),
        ("cosine_1000", 2, 0.999862, 1e-6),
        ("cosine_1000", 10, 0.99928, 1e-5),
        ("cosine_1000", 50, 0.99172, 1e-5),
        ("cosine_1000", 100, 0.97158, 1e-5),
        ("cosine_100", 0, 0.99937, 1e-5),
        ("cosine_100", 10, 0.967, 5e-4),
        ("cosine_100", 50, 0.478, 5e-4),
        ("cosine_100", 98, 2.4e-4, 1e-5),
        ("linear_100", 0, 0.999, 1e-9),
        ("linear_100", 99, 2.0e-5, 1e-6),
        ("linear_200", 199, 3e-5, 1e-6),
        ("linear_1000", 999, 4.0e-5, 1e-6),
        ("linear_alpha_bar_200", 99, 0.50005, 1e-9),
        ("linear_alpha_bar_200", 199, 1e-4, 1e-9),
    ],
)
def test_alphas_cumprod_of_the_papers(name: str, t: int, expected: float, tolerance: float) -> None:
    assert NoiseSchedule.named(name).alphas_cumprod[t].item() == pytest.approx(expected, abs=tolerance)


def test_sigma_is_a_standard_deviation(schedule: NoiseSchedule) -> None:
    x = torch.zeros(1, dtype=torch.float64)
    assert schedule.sigma(50, x).item() == pytest.approx(0.0910, abs=5e-5)
    assert schedule.sigma(100, x).item() == pytest.approx(0.1686, abs=5e-5)


def test_betas_are_clipped_and_increase() -> None:
    for name, make in NAMED_BETAS.items():
        betas = make()
        assert betas.dtype == torch.float64, name
        assert betas.min() > 0, name
        assert betas.max() <= 0.999, name
        assert (betas.diff() >= -1e-15).all(), name
    assert cosine_betas(1000)[-1] == 0.999


@pytest.mark.parametrize("batch", BATCH_SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 1])
def test_predictions_convert_into_each_other(
    schedule: NoiseSchedule, batch: tuple[int, ...], dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_0, noise = torch.randn(2, *batch, 17, 3, generator=generator, dtype=dtype)
    t = torch.randint(100, 900, batch, generator=generator)
    x_t = schedule.q_sample(x_0, t, noise)
    v = schedule.signal(t, x_0) * noise - schedule.sigma(t, x_0) * x_0
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    for prediction_type, output in zip(PREDICTION_TYPES, (noise, x_0, v), strict=True):
        for found, expected in (
            (schedule.to_x0(output, x_t, t, prediction_type), x_0),
            (schedule.to_noise(output, x_t, t, prediction_type), noise),
            (schedule.to_v(output, x_t, t, prediction_type), v),
        ):
            assert found.dtype == dtype
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_q_sample_equals_diffusers(schedule: NoiseSchedule, generator: torch.Generator) -> None:
    scheduler = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    x_0, noise = torch.randn(2, 8, 24, 6, generator=generator)
    t = torch.randint(0, 1000, (8,), generator=generator)
    torch.testing.assert_close(
        schedule.q_sample(x_0, t, noise), scheduler.add_noise(x_0, noise, t), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        schedule.to_v(noise, schedule.q_sample(x_0, t, noise), t)[t < 900],
        scheduler.get_velocity(x_0, noise, t)[t < 900],
        rtol=1e-3,
        atol=1e-4,
    )


def test_shared_and_per_sample_t_agree(schedule: NoiseSchedule, generator: torch.Generator) -> None:
    x_0, noise = torch.randn(2, 4, 3, 5, generator=generator)
    expected = schedule.q_sample(x_0, 7, noise)
    for shape in [(), (4,), (4, 1), (4, 3)]:
        assert torch.equal(schedule.q_sample(x_0, torch.full(shape, 7), noise), expected)
    assert torch.equal(schedule.q_sample(x_0, -1, noise), x_0)
    mixed = schedule.q_sample(x_0, torch.tensor([-1, 0, 500, 999]), noise)
    for i, t in enumerate([-1, 0, 500, 999]):
        assert torch.equal(mixed[i], schedule.q_sample(x_0[i], t, noise[i]))


def test_inputs_are_left_alone(schedule: NoiseSchedule, generator: torch.Generator) -> None:
    x_0, noise = torch.randn(2, 4, 3, generator=generator)
    before = x_0.clone(), noise.clone()
    schedule.q_sample(x_0, 500, noise)
    schedule.to_x0(noise, x_0, 500)
    assert torch.equal(x_0, before[0])
    assert torch.equal(noise, before[1])


def test_half_precision_rounds_only_the_result(schedule: NoiseSchedule, generator: torch.Generator) -> None:
    half = copy.deepcopy(schedule).to(torch.bfloat16)
    assert half.alphas_cumprod.dtype == torch.float64
    x_0, noise = torch.randn(2, 64, generator=generator)
    x_t = half.q_sample(x_0.bfloat16(), 3, noise.bfloat16())
    assert x_t.dtype == torch.bfloat16
    expected = half.q_sample(x_0.bfloat16().float(), 3, noise.bfloat16().float())
    torch.testing.assert_close(x_t, expected.bfloat16(), rtol=0, atol=0)
    # sqrt(alpha-bar_0) is 1 in bfloat16; the noise must not vanish with it.
    assert not torch.equal(half.q_sample(torch.zeros(64), 0, noise), torch.zeros(64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(half.q_sample(x_0, 3, noise), schedule.q_sample(x_0, 3, noise), rtol=0, atol=0)
        assert half.to_x0(noise.bfloat16(), x_0, 3).dtype == torch.float32


def test_is_no_part_of_a_checkpoint_and_differentiable(schedule: NoiseSchedule) -> None:
    assert schedule.state_dict() == {}
    assert "num_train_timesteps=1000" in repr(schedule)
    noise = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    x_t = torch.ones(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda n: schedule.to_x0(n, x_t, 100), (noise,))


@pytest.mark.gpu
def test_tables_follow_the_device_without_synchronising(schedule: NoiseSchedule) -> None:
    on_gpu = copy.deepcopy(schedule).to("cuda")
    x_0, noise = torch.randn(2, 4, 3, device="cuda")
    ts = [torch.tensor(500, device="cuda"), torch.tensor([1, 2, 3, 999], device="cuda"), 10]
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [on_gpu.q_sample(x_0, t, noise) for t in ts]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for t, x_t in zip(ts, found, strict=True):
        t_cpu = t if isinstance(t, int) else t.cpu()
        torch.testing.assert_close(x_t.cpu(), schedule.q_sample(x_0.cpu(), t_cpu, noise.cpu()))


def test_rejects_bad_arguments(schedule: NoiseSchedule) -> None:
    x = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"t must lie in -1..999, got 1000"):
        schedule.q_sample(x, 1000, x)
    with pytest.raises(ValueError, match=r"got -2"):
        schedule.q_sample(x, -2, x)
    with pytest.raises(IndexError, match="out of range"):
        schedule.q_sample(x, torch.tensor([0, 1, 2, 1000]), x)
    with pytest.raises(IndexError, match="out of range"):
        schedule.q_sample(x, torch.tensor([0, 1, 2, -2]), x)
    with pytest.raises(ValueError, match=r"t of shape \(3,\) does not index"):
        schedule.q_sample(x, torch.tensor([0, 1, 2]), x)
    with pytest.raises(ValueError, match="does not index the leading dimensions"):
        expand_to(torch.zeros(4, 3, 1), x)
    with pytest.raises(ValueError, match="unknown schedule 'cosine', expected one of"):
        NoiseSchedule.named("cosine")
    with pytest.raises(ValueError, match=r"betas must be a non-empty table of values in \(0, 1\)"):
        NoiseSchedule(torch.tensor([0.1, 1.0]))
    with pytest.raises(ValueError, match="non-empty"):
        NoiseSchedule(torch.zeros(0))
    with pytest.raises(ValueError, match="num_train_timesteps must be at least 1, got 0"):
        linear_betas(0)
    with pytest.raises(ValueError, match="need 0 < beta_start <= beta_end < 1"):
        linear_betas(10, 0.2, 0.1)
    with pytest.raises(ValueError, match="num_train_timesteps must be at least 1, got 0"):
        cosine_betas(0)
    with pytest.raises(ValueError, match="max_beta must lie in"):
        cosine_betas(10, max_beta=1.0)
    with pytest.raises(ValueError, match="num_train_timesteps must be at least 1, got -1"):
        linear_alpha_bar_betas(-1)
    with pytest.raises(ValueError, match="final_alpha_bar must lie in"):
        linear_alpha_bar_betas(10, 0.0)


@pytest.mark.parametrize("convert", ["to_x0", "to_noise", "to_v"])
def test_rejects_unknown_prediction_type(schedule: NoiseSchedule, convert: str) -> None:
    x = torch.zeros(4, 3)
    # Named "eps" in some programs; the signature's Literal refuses it before the function does where types are checked.
    with pytest.raises(Exception, match="eps"):
        getattr(schedule, convert)(x, x, 0, "eps")
