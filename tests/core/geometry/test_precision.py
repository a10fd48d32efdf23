import torch
from torch import Tensor

from posecore.geometry.precision import full_precision


@full_precision
def product(a: Tensor, b: Tensor, factor: float = 1.0) -> Tensor:
    """Product of two matrices, times a number."""
    return factor * (a @ b)


def test_autocast_is_off_inside_and_on_again_outside(generator: torch.Generator) -> None:
    a, b = torch.randn(2, 8, 8, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(product(a, b), torch.mul(product(a, b=b, factor=2.0), 0.5))
        assert product(a, b).dtype == torch.float32
        assert (a @ b).dtype == torch.bfloat16
    assert torch.equal(product(a, b), a @ b)


def test_half_is_raised_and_the_rest_stays(generator: torch.Generator) -> None:
    a, b = torch.randn(2, 8, 8, generator=generator)
    for half in (torch.float16, torch.bfloat16):
        raised = product(a.to(half), b=b.to(half))
        assert raised.dtype == torch.float32
        assert torch.equal(raised, a.to(half).float() @ b.to(half).float())
    assert product(a.double(), b.double()).dtype == torch.float64


def test_the_function_keeps_its_name_and_text() -> None:
    assert product.__name__ == "product"
    assert product.__doc__ == "Product of two matrices, times a number."
