import pytest
import torch

from zedo.losses import denoising_score_matching_loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 4])
def test_equals_the_score_matching_formula(batch: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(batch)
    noise_pred, noise = torch.randn(2, batch, 17, 3, generator=generator, dtype=dtype)
    std = 0.3
    score = -noise_pred / std  # Eq. (3) is written with the score
    expected = sum(0.5 * ((std * score[i] + noise[i]) ** 2).sum().item() for i in range(batch)) / batch
    loss = denoising_score_matching_loss(noise_pred, noise)
    assert loss.shape == ()
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_is_half_the_coordinates_for_a_network_that_outputs_zero() -> None:
    noise = torch.randn(20_000, 17, 3, generator=torch.Generator().manual_seed(0))
    assert denoising_score_matching_loss(torch.zeros_like(noise), noise).item() == pytest.approx(51 / 2, rel=5e-3)


def test_is_zero_for_the_right_noise_and_pulls_towards_it() -> None:
    noise = torch.randn(3, 17, 3, generator=torch.Generator().manual_seed(0))
    pred = torch.zeros_like(noise, requires_grad=True)
    assert denoising_score_matching_loss(noise, noise).item() == 0
    denoising_score_matching_loss(pred, noise).backward()
    torch.testing.assert_close(pred.grad, -noise / 3)
