import pytest
import torch
import torch.nn.functional as F

from posecore.diffusion.packed_linear import packed_linear

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.0}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("batch", [(), (1,), (7,), (3, 5), (0, 5)], ids=str)
def test_equals_linear(batch: tuple[int, ...], with_bias: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 40, generator=generator).to(dtype).requires_grad_()
    bias = torch.randn(24, generator=generator).to(dtype) if with_bias else None
    x = torch.randn(*batch, 40, generator=generator).to(dtype)
    found = packed_linear(weight)(x, bias)
    assert (found.shape, found.dtype, found.requires_grad) == ((*batch, 24), dtype, False)
    torch.testing.assert_close(found, F.linear(x, weight.detach(), bias), atol=TOLERANCE[dtype], rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_later_changes_of_the_weight_are_not_seen(dtype: torch.dtype) -> None:
    weight, x = torch.ones(8, 8, dtype=dtype), torch.ones(2, 8, dtype=dtype)
    linear = packed_linear(weight)
    before = linear(x, None).clone()
    weight.mul_(2)
    assert torch.equal(linear(x, None), before)
    assert torch.equal(packed_linear(weight)(x, None), 2 * before)


def test_weights_laid_out_otherwise() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(40, 24, generator=generator).mT, torch.randn(40, 6, generator=generator).mT
    torch.testing.assert_close(packed_linear(weight)(x, None), x.contiguous() @ weight.mT, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
def test_equals_linear_on_a_gpu() -> None:
    weight, bias, x = (torch.randn(*shape, device="cuda") for shape in ((24, 40), (24,), (6, 40)))
    torch.testing.assert_close(packed_linear(weight)(x, bias), F.linear(x, weight, bias))
