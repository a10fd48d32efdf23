import pytest
import torch
from torch import Tensor

from scorehmr.network import Denoiser
from scorehmr.prepared import PreparedDenoiser

STEPS = [50, 2, 0, 999]


@pytest.fixture
def network() -> Denoiser:
    torch.manual_seed(1)
    network = Denoiser(cond_dim=40, hidden_dim=48)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return network


def inputs(people: int = 5, cond_dim: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(people, 144, generator=generator), torch.randn(people, cond_dim, generator=generator)


def direct(network: Denoiser, x_t: Tensor, t: int, cond: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x_t, torch.full((len(x_t),), t), cond)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_equals_the_denoiser(network: Denoiser, dtype: torch.dtype, tolerance: float) -> None:
    # The sinusoidal embedding is computed in float32 either way.
    network = network.to(dtype)
    x_t, cond = (values.to(dtype) for values in inputs())
    prepared = PreparedDenoiser(network, cond, STEPS)
    for t in STEPS:
        expected = direct(network, x_t, t, cond)
        torch.testing.assert_close(prepared(x_t, t), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_conditions_far_from_zero_lose_no_digits(network: Denoiser, offset: float) -> None:
    """A float64 network is the yardstick: the fast program errs hardly more than the plain one in float32."""
    x_t, cond = inputs()
    cond = cond + offset
    exact = direct(network.double(), x_t.double(), 50, cond.double())
    network = network.float()
    plain = (direct(network, x_t, 50, cond) - exact).abs().max()
    fast = (PreparedDenoiser(network, cond, [50])(x_t, 50) - exact).abs().max()
    assert fast < 4 * plain + 1e-5


def test_keeps_rows(network: Denoiser) -> None:
    x_t, cond = inputs()
    prepared = PreparedDenoiser(network, cond, STEPS)
    prepared.keep(torch.tensor([0, 2, 4]))
    prepared.keep(torch.tensor([2, 1]))
    rows = [4, 2]
    torch.testing.assert_close(prepared(x_t[rows], 50), direct(network, x_t[rows], 50, cond[rows]), atol=1e-5, rtol=0)


def test_does_not_see_later_weights_and_has_no_gradient(network: Denoiser) -> None:
    x_t, cond = inputs()
    prepared = PreparedDenoiser(network, cond, [50])
    before = prepared(x_t.requires_grad_(), 50).clone()
    assert not before.requires_grad
    with torch.no_grad():
        network.output.weight.mul_(2)
        network.blocks[0].linear_in.weight.mul_(2)
    assert torch.equal(prepared(x_t, 50), before)


def test_a_timestep_that_was_not_prepared_is_an_error(network: Denoiser) -> None:
    x_t, cond = inputs()
    with pytest.raises(KeyError, match="3"):
        PreparedDenoiser(network, cond, [50])(x_t, 3)
