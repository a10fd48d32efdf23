"""A backbone that computes its blocks twice: the same numbers, with less kept in between."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from posecore.training.grad_checkpointing import checkpoint_blocks
from posecore.training.timm_backbone import build_backbone, feature_map


def network(name: str, grad_checkpointing: bool) -> nn.Module:
    torch.manual_seed(0)
    backbone = build_backbone(name, pretrained=False, grad_checkpointing=grad_checkpointing)
    for parameter in backbone.parameters():
        if not parameter.any():  # timm starts the last norm of a block at zero
            parameter.data.fill_(1)
    return backbone


def image() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def step(backbone: nn.Module) -> tuple[Tensor, dict[str, Tensor], int]:
    """Loss, gradients, and the bytes that the forward pass keeps for the backward pass, weights apart."""
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = feature_map(backbone, image()).square().mean()
    memory = sum(kept.values())
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}, memory


@pytest.mark.parametrize("name", ["resnet26", "hrnet_w18_small", "regnetx_002"])
def test_same_loss_gradients_and_statistics_with_less_memory(name: str) -> None:
    plain, twice = network(name, False), network(name, True)
    names = set(plain.state_dict())
    (loss, gradients, memory), (loss_2, gradients_2, memory_2) = step(plain.train()), step(twice.train())
    torch.testing.assert_close(loss_2, loss, rtol=0, atol=0)
    assert gradients.keys() == gradients_2.keys()
    for key, value in gradients.items():
        torch.testing.assert_close(gradients_2[key], value, rtol=1e-5, atol=1e-7, msg=key)
    assert set(twice.state_dict()) == names
    for key, value in twice.state_dict().items():  # running means of the batch normalisation, which moved once
        assert torch.equal(value, plain.state_dict()[key]), key
    assert any(key.endswith("num_batches_tracked") and int(value) == 1 for key, value in twice.state_dict().items())
    assert memory_2 < 0.6 * memory


def test_evaluation_and_frozen_networks_run_once() -> None:
    calls = []
    backbone = network("test_resnet", True)
    conv = next(module for module in backbone.layer1.modules() if isinstance(module, nn.Conv2d))  # type: ignore[union-attr]
    conv.register_forward_hook(lambda *args: calls.append(1))
    backbone.eval()
    feature_map(backbone, image()).sum().backward()
    with torch.no_grad():
        feature_map(backbone.train(), image())
    assert len(calls) == 2
    feature_map(backbone, image()).sum().backward()
    assert len(calls) == 4


def test_a_copy_runs_its_own_blocks() -> None:
    """An average of weights (EMA) is a copy of the model."""
    backbone = network("test_resnet", True).train()
    twin = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
    assert feature_map(twin, image()).abs().mean() > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_reaches_the_second_run(dtype: torch.dtype) -> None:
    found = []
    for twice in (False, True):
        backbone = network("test_resnet", twice).train()
        with torch.autocast("cpu", dtype):
            loss = feature_map(backbone, image()).square().mean()
        loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


def test_a_network_without_blocks() -> None:
    plain: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert checkpoint_blocks(plain) == 0
    assert "forward" not in vars(plain[0])
