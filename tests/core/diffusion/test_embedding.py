import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from posecore.diffusion.embedding import sinusoidal_embedding


@pytest.mark.parametrize("dim", [4, 48, 61, 144, 512])
@pytest.mark.parametrize("order", ["sin_cos", "cos_sin"])
@pytest.mark.parametrize("divisor", ["half", "half_minus_one"])
@pytest.mark.parametrize("max_period", [10000.0, 100.0])
def test_equals_diffusers(dim: int, order: str, divisor: str, max_period: float) -> None:
    labels = torch.tensor([0.0, 0.5, 1.0, 99.9, 999.0])
    expected = get_timestep_embedding(
        labels,
        dim,
        flip_sin_to_cos=order == "cos_sin",
        downscale_freq_shift=float(divisor == "half_minus_one"),
        max_period=int(max_period),
    )
    found = sinusoidal_embedding(labels, dim, max_period, order=order, divisor=divisor)
    # float32 angles near 1000 rad are good to 6e-5.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_takes_any_batch_and_label_type(batch: tuple[int, ...]) -> None:
    labels = torch.full(batch, 7)
    found = sinusoidal_embedding(labels, 16)
    assert found.shape == (*batch, 16)
    assert found.dtype == torch.float32
    assert torch.equal(found, sinusoidal_embedding(labels.float(), 16))
    assert sinusoidal_embedding(labels.double(), 16).dtype == torch.float64
    torch.testing.assert_close(found.double(), sinusoidal_embedding(labels.double(), 16), rtol=0, atol=1e-5)


def test_is_not_rounded_to_16_bits() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sinusoidal_embedding(torch.tensor([998.0, 999.0]), 32)
    assert torch.equal(found, sinusoidal_embedding(torch.tensor([998.0, 999.0]), 32))
    assert sinusoidal_embedding(torch.tensor([8.0], dtype=torch.bfloat16), 32).dtype == torch.float32
    assert not torch.equal(found[0], found[1])


def test_odd_dimension_ends_in_zero() -> None:
    found = sinusoidal_embedding(torch.rand(5) * 200, 61)
    assert torch.equal(found[:, -1], torch.zeros(5))
    assert found.shape == (5, 61)


def test_rejects_bad_arguments() -> None:
    with pytest.raises(ValueError, match="dim must be at least 4, got 3"):
        sinusoidal_embedding(torch.zeros(1), 3)
    with pytest.raises(Exception, match="tan"):
        sinusoidal_embedding(torch.zeros(1), 8, order="tan")
    with pytest.raises(Exception, match="third"):
        sinusoidal_embedding(torch.zeros(1), 8, divisor="third")
