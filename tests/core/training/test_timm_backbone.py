import dataclasses
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from posecore.training.timm_backbone import build_backbone

TINY = "test_resnet.r160_in1k"  # timm's own for tests


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def features(network: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = network.eval().forward_features(images())
    return found


@pytest.fixture
def network() -> nn.Module:
    """One with the classifier that published files have."""
    torch.manual_seed(4)
    network: Any = timm.create_model("test_resnet", num_classes=1000)
    network.bn1.running_mean.normal_()
    return network  # type: ignore[no-any-return]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("classifier", [True, False])
def test_a_local_checkpoint_is_loaded(network: Any, tmp_path: Path, suffix: str, classifier: bool) -> None:
    if not classifier:
        network.reset_classifier(0)
    path = tmp_path / f"backbone{suffix}"
    if suffix == ".safetensors":
        save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path)
    torch.testing.assert_close(features(build_backbone(TINY, checkpoint=path)), features(network))


def test_pretrained_asks_timm_for_the_published_weights(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm's registry is told that they lie in a local file; without network nothing else could be loaded."""
    torch.save(network.state_dict(), tmp_path / "published.pth")
    registry = timm.models._registry._model_pretrained_cfgs
    local = dataclasses.replace(registry[TINY], file=str(tmp_path / "published.pth"), hf_hub_id=None, url="")
    monkeypatch.setitem(registry, TINY, local)
    torch.testing.assert_close(features(build_backbone(TINY)), features(network))
    assert not torch.allclose(features(build_backbone(TINY, pretrained=False)), features(network))


def test_weights_that_cannot_be_had_are_said_with_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that timm is sent to is missing, as is one behind a network that is not there."""
    registry = timm.models._registry._model_pretrained_cfgs
    nowhere = dataclasses.replace(registry[TINY], file=str(tmp_path / "nowhere.pth"), hf_hub_id=None, url="")
    monkeypatch.setitem(registry, TINY, nowhere)
    message = r"could not load published weights of test_resnet.r160_in1k .*by checkpoint, or .* pretrained: false"
    with pytest.raises(OSError, match=message):
        build_backbone(TINY)


def test_a_file_that_is_not_the_backbones_is_refused(network: nn.Module, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"checkpoint: in .*other.pth conv1.0.weight is missing; the backbone needs"):
        build_backbone(TINY, checkpoint=tmp_path / "other.pth")
    state = {**network.state_dict(), "bn1.weight": torch.zeros(3)}
    torch.save(state, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"in .*wide.pth bn1.weight is of shape \(3,\); the backbone needs"):
        build_backbone(TINY, checkpoint=tmp_path / "wide.pth")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ValueError, match=rf"checkpoint: .*{name} is no file of weights"):
            build_backbone(TINY, checkpoint=tmp_path / name)
    torch.save({"weight": nn.Linear(1, 1)}, tmp_path / "code.pth")  # whose reading would run code
    with pytest.raises(ValueError, match=r"checkpoint: .*code.pth is no file of weights"):
        build_backbone(TINY, checkpoint=tmp_path / "code.pth")
    with pytest.raises(FileNotFoundError, match=r"checkpoint: there is no file .*nowhere.pth"):
        build_backbone(TINY, checkpoint=tmp_path / "nowhere.pth")


def test_names_are_timms() -> None:
    with pytest.raises(ValueError, match="backbone: timm has none called 'resnet51'"):
        build_backbone("resnet51", pretrained=False)


@pytest.mark.parametrize(("output_stride", "cells"), [(None, 1), (16, 2), (8, 4)])
def test_output_stride_makes_features_finer_with_the_same_weights(
    network: nn.Module, tmp_path: Path, output_stride: int | None, cells: int
) -> None:
    torch.save(network.state_dict(), tmp_path / "backbone.pth")
    dilated = build_backbone(TINY, checkpoint=tmp_path / "backbone.pth", output_stride=output_stride)
    assert features(dilated).shape == (2, 96, cells, cells)
    own, found = network.state_dict(), dilated.state_dict()
    assert {name: value.shape for name, value in found.items()} == {name: own[name].shape for name in found}
    assert all(torch.equal(own[name], value) for name, value in found.items())
    random = build_backbone(TINY, pretrained=False, output_stride=output_stride)
    assert features(random).shape == (2, 96, cells, cells)


@pytest.mark.parametrize(("name", "stride"), [(TINY, 12), ("hrnet_w18_small", 16), ("test_vit", 8)])
def test_backbones_that_cannot_be_dilated(name: str, stride: int) -> None:
    with pytest.raises(ValueError, match=f"output_stride: timm's {name} cannot have {stride}"):
        build_backbone(name, pretrained=False, output_stride=stride)


@pytest.mark.parametrize("prefix", ["encoder.backbone.", "backbone.", "a.conv1."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_method_that_has_the_backbone_as_a_part(
    network: nn.Module, tmp_path: Path, prefix: str, suffix: str
) -> None:
    """Beside other parts, some with names like the backbone's."""
    state = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    others = {"denoiser.conv1.0.weight": torch.zeros(2), "aaa.bn1.weight": torch.ones(3), "bias": torch.zeros(1)}
    path = tmp_path / f"method{suffix}"
    if suffix == ".safetensors":
        save_file({**others, **state}, path)
    else:
        torch.save({**others, **state}, path)
    torch.testing.assert_close(features(build_backbone(TINY, checkpoint=path)), features(network))


def test_a_part_that_lacks_something_is_no_backbone(network: nn.Module, tmp_path: Path) -> None:
    state = {f"encoder.{name}": value for name, value in network.state_dict().items()}
    del state["encoder.bn1.bias"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"checkpoint: in .*part.pth conv1.0.weight is missing; the backbone needs"):
        build_backbone(TINY, checkpoint=tmp_path / "part.pth")


def test_the_shipped_encoder_of_another_method_is_a_start() -> None:
    """Diff-HMR's, whose backbone stands under ``encoder.backbone.``."""
    path = Path(__file__).parents[3] / "packages" / "diffhmr" / "diffhmr" / "weights" / "open.safetensors"
    stored = load_file(path)
    own = build_backbone("resnet10t", checkpoint=path, output_stride=16).state_dict()
    assert len(own) == sum(key.startswith("encoder.backbone.") for key in stored) > 80
    for key, value in own.items():
        torch.testing.assert_close(value, stored[f"encoder.backbone.{key}"], check_dtype=False, msg=key)
