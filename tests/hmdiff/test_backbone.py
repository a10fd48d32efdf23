from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from hmdiff.backbone import Backbone

TINY = "test_resnet.r160_in1k"  # timm's own for tests


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("output_stride", "cells"), [(None, 2), (16, 4), (8, 8)])
def test_features_are_a_map_over_the_image(images: Tensor, output_stride: int | None, cells: int) -> None:
    backbone = Backbone(TINY, pretrained=False, output_stride=output_stride).eval()
    f_c = backbone(images)
    assert f_c.shape == (2, backbone.dim, cells, cells)
    assert f_c.dtype == torch.float32


def test_is_timms_network_without_its_pooling(images: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = timm.create_model(TINY, pretrained=False).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    backbone = Backbone(TINY, checkpoint=tmp_path / "weights.pth").eval()
    with torch.no_grad():
        wanted, found = network.forward_features(images), backbone(images)  # type: ignore[operator]
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        pooled = found.mean(dim=(2, 3))
        torch.testing.assert_close(network.get_classifier()(pooled), network(images), atol=1e-4, rtol=1e-4)  # type: ignore[operator]


def test_features_are_single_precision_under_autocast(images: Tensor) -> None:
    backbone = Backbone(TINY, pretrained=False).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        f_c = backbone(images)
    assert f_c.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(f_c, backbone(images), atol=0.1, rtol=0.1)


def test_features_that_are_no_map(images: Tensor) -> None:
    backbone = Backbone("test_vit", pretrained=False).eval()
    message = r"backbone: features of shape \(2, \d+, 64\) are no map of 64 channels; take a convolutional network"
    with pytest.raises(ValueError, match=message), torch.no_grad():
        backbone(torch.nn.functional.interpolate(images, (160, 160)))


def test_names_strides_and_files_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="backbone: timm has none called 'hrnet_w65'"):
        Backbone("hrnet_w65", pretrained=False)
    with pytest.raises(ValueError, match=f"output_stride: timm's {TINY} cannot have 5"):
        Backbone(TINY, pretrained=False, output_stride=5)
    with pytest.raises(FileNotFoundError, match=r"checkpoint: there is no file .*nowhere.pth"):
        Backbone(TINY, checkpoint=tmp_path / "nowhere.pth")
