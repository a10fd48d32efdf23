import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from posecore.diffusion.embedding import sinusoidal_embedding
from zedo.network import ScoreNetwork


def randomised(network: ScoreNetwork, seed: int = 0) -> ScoreNetwork:
    """Normalisation weights are trivial at the start and would hide errors; this draws them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in network.norms:
            norm.weight.copy_(1 + 0.3 * torch.randn(norm.weight.shape, generator=generator))
            norm.bias.copy_(0.3 * torch.randn(norm.bias.shape, generator=generator))
    return network.eval()


@pytest.fixture(scope="module")
def default_network() -> ScoreNetwork:
    return randomised(ScoreNetwork())


@pytest.fixture
def small_network() -> ScoreNetwork:
    return randomised(ScoreNetwork(num_joints=16, hidden_dim=128, embed_dim=32))


def plain_forward(network: ScoreNetwork, x: Tensor, label: float) -> Tensor:
    """One pose through the layers as the release lists them."""
    emb = sinusoidal_embedding(torch.tensor([label], dtype=x.dtype), network.embed_dim)
    emb = F.silu(network.time_embed[0](emb))

    def hidden(i: int, h: Tensor) -> Tensor:
        return F.silu(network.norms[i](network.layers[i](h) + network.time_layers[i](emb)))

    h = hidden(0, x.reshape(1, -1))
    for first, second in ((1, 2), (3, 4)):
        h = h + hidden(second, hidden(first, h))
    return network.head(h).reshape(x.shape)


def test_default_size(default_network: ScoreNetwork) -> None:
    assert sum(parameter.numel() for parameter in default_network.parameters()) == 7_203_379
    shapes = {name: tuple(parameter.shape) for name, parameter in default_network.named_parameters()}
    assert shapes["layers.0.weight"] == (1024, 51)
    assert shapes["layers.4.weight"] == (1024, 1024)
    assert shapes["time_embed.0.weight"] == (512, 512)
    assert {shapes[f"time_layers.{i}.weight"] for i in range(5)} == {(1024, 512)}
    assert shapes["head.weight"] == (51, 1024)
    assert default_network.dropout.p == 0.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_equals_the_layers_one_by_one(small_network: ScoreNetwork, dtype: torch.dtype) -> None:
    network = small_network.to(dtype)
    x = torch.randn(4, 16, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)
    labels = torch.tensor([0.01, 9.99, 99.9, 999.0], dtype=dtype)
    found = network(x, labels)
    expected = torch.stack([plain_forward(network, x[i], labels[i].item()) for i in range(4)])
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, atol=1e-5 if dtype == torch.float32 else 1e-12, rtol=0)


@pytest.mark.parametrize("name", ["default_network", "small_network"])
def test_frozen_equals_forward(request: pytest.FixtureRequest, name: str) -> None:
    network: ScoreNetwork = request.getfixturevalue(name)
    labels = torch.linspace(0.1, 0.01, 7) * 999
    x = torch.randn(5, network.num_joints, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        denoise = network.frozen(labels)
        for i, label in enumerate(labels):
            torch.testing.assert_close(denoise(x, i), network(x, label), atol=1e-5, rtol=0)


def test_frozen_works_in_float64_and_with_gradients_on(small_network: ScoreNetwork) -> None:
    x = torch.randn(3, 16, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([9.0, 99.0])
    found = small_network.frozen(labels)(x, 1)
    torch.testing.assert_close(found, small_network(x, labels[1]), atol=1e-5, rtol=0)
    network = small_network.double()
    found = network.frozen(labels.double())(x.double(), 0)
    torch.testing.assert_close(found, network(x.double(), labels[0].double()), atol=1e-12, rtol=0)


def test_frozen_does_not_see_later_weights(small_network: ScoreNetwork) -> None:
    x, labels = torch.ones(1, 16, 3), torch.tensor([50.0])
    denoise = small_network.frozen(labels)
    before = denoise(x, 0).clone()
    assert torch.equal(denoise(x, 0), before)
    with torch.no_grad():
        small_network.layers[0].bias[::2].add_(1)  # every other one: group norm removes what a group has in common
    assert torch.equal(denoise(x, 0), before)
    assert not torch.allclose(small_network(x, labels[0]), before)


@pytest.mark.parametrize("num_levels", [0, 3])
def test_time_path_shape(small_network: ScoreNetwork, num_levels: int) -> None:
    assert small_network.time_path(torch.zeros(num_levels)).biases.shape == (num_levels, 5, 128)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_one_label_serves_all(small_network: ScoreNetwork, batch: tuple[int, ...]) -> None:
    x = torch.randn(*batch, 16, 3, generator=torch.Generator().manual_seed(1))
    one = small_network(x, torch.full((1,) * len(batch), 42.5))
    each = small_network(x, torch.full(batch, 42.5))
    assert one.shape == x.shape
    torch.testing.assert_close(one, each)
    if batch:
        assert not torch.allclose(one, small_network(x, torch.full(batch, 700.0)), atol=1e-3)


def test_labels_broadcast_over_a_batch_dimension(small_network: ScoreNetwork) -> None:
    x = torch.randn(2, 3, 16, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[5.0], [500.0]])
    torch.testing.assert_close(small_network(x, labels), small_network(x, labels.expand(2, 3)))


def test_gradients_reach_every_parameter(small_network: ScoreNetwork) -> None:
    x = torch.randn(8, 16, 3, generator=torch.Generator().manual_seed(1))
    small_network.train()(x, torch.rand(8) * 999).square().sum().backward()
    without = [n for n, p in small_network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


def test_dropout_works_in_training_only(small_network: ScoreNetwork) -> None:
    x, label = torch.ones(2, 16, 3), torch.tensor([5.0])
    assert torch.equal(small_network(x, label), small_network(x, label))
    small_network.train()
    assert not torch.allclose(small_network(x, label), small_network(x, label))


def test_hidden_dim_must_fit_the_groups() -> None:
    with pytest.raises(ValueError, match=r"hidden_dim must be a multiple of 32 .* got 100"):
        ScoreNetwork(hidden_dim=100)


def test_embed_dim_must_be_even() -> None:
    with pytest.raises(ValueError, match=r"embed_dim must be even .* got 33"):
        ScoreNetwork(embed_dim=33)
