import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scorehmr.network import POSE_DIM, Denoiser


def plain_forward(network: Denoiser, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    """The released network's formulas on the state dict, one person at a time, float64."""
    w = {name: value.double() for name, value in network.state_dict().items()}
    dim = x_t.shape[1]
    rows = []
    for x, step, c in zip(x_t.double(), t.tolist(), cond.double(), strict=True):
        frequencies = [math.exp(-math.log(10000) * i / (dim // 2 - 1)) for i in range(dim // 2)]
        embedding = [math.sin(step * f) for f in frequencies] + [math.cos(step * f) for f in frequencies]
        time = w["time.0.weight"] @ torch.tensor(embedding, dtype=torch.float64) + w["time.0.bias"]
        time = w["time.2.weight"] @ F.gelu(time) + w["time.2.bias"]
        h = w["input.weight"] @ x + w["input.bias"]
        for i in range(len(network.blocks)):
            b = {name.removeprefix(f"blocks.{i}."): value for name, value in w.items() if f"blocks.{i}." in name}
            modulation = b["modulation.weight"] @ (time * torch.sigmoid(time)) + b["modulation.bias"]
            h = h * (1 + modulation[:dim]) + modulation[dim:]
            y = torch.cat((h, c))
            y = (y - y.mean()) / (y.var(correction=0) + 1e-5).sqrt() * b["norm_in.weight"] + b["norm_in.bias"]
            y = F.gelu(b["linear_in.weight"] @ y + b["linear_in.bias"])
            y = (y - y.mean()) / (y.var(correction=0) + 1e-5).sqrt() * b["norm_out.weight"] + b["norm_out.bias"]
            h = h + F.gelu(b["linear_out.weight"] @ y + b["linear_out.bias"])
        rows.append(w["output.weight"] @ h + w["output.bias"])
    return torch.stack(rows)


@pytest.mark.parametrize(("dim", "cond_dim", "num_blocks"), [(144, 20, 3), (10, 6, 2)])
def test_equals_the_plain_formulas(dim: int, cond_dim: int, num_blocks: int) -> None:
    torch.manual_seed(0)
    network = Denoiser(dim, cond_dim, num_blocks, hidden_dim=24)
    for parameter in network.parameters():  # norms too, whose initial values are 1 and 0
        parameter.data += 0.03 * torch.randn(parameter.shape)
    x_t, t, cond = torch.randn(4, dim), torch.tensor([0, 2, 50, 400]), 3 * torch.randn(4, cond_dim) + 1
    expected = plain_forward(network, x_t, t, cond)
    torch.testing.assert_close(network(x_t, t, cond).double(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network.double()(x_t.double(), t, cond.double()), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("cond_dim", "expected"), [(3072, 11_307_024), (2048, 8_155_152)])
def test_has_the_released_number_of_parameters(cond_dim: int, expected: int) -> None:
    with torch.device("meta"):
        network = Denoiser(cond_dim=cond_dim)
    assert network.dim == POSE_DIM == 144
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_sizes_of_the_shape_branch() -> None:
    with torch.device("meta"):
        network = Denoiser(10, 1536, 2)
    assert network.time[0].weight.shape == (40, 10)
    assert network.time[2].weight.shape == (40, 40)
    assert len(network.blocks) == 2
    for block in network.blocks:
        assert block.modulation.weight.shape == (20, 40)
        assert block.linear_in.weight.shape == (1024, 1546)
        assert block.linear_out.weight.shape == (10, 1024)


@pytest.mark.parametrize("argument", ["dim", "cond_dim", "num_blocks", "hidden_dim"])
def test_sizes_must_be_positive(argument: str) -> None:
    with pytest.raises(ValueError, match=r"dim, cond_dim, num_blocks and hidden_dim must be positive, got .*0"):
        Denoiser(**{argument: 0})
