from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from diffhmr.encoder import ImageEncoder

TINY = "test_resnet"  # timm's own for tests


def images(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def tiny() -> ImageEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ImageEncoder(TINY, pretrained=False).eval()


def test_the_papers_features() -> None:
    encoder = ImageEncoder(pretrained=False).eval()
    with torch.no_grad():
        z = encoder(images(224)[:1])
    assert z.shape == (1, 2048, 7, 7)
    assert (encoder.dim, encoder.num_cells(224)) == (2048, 49)


def test_it_is_the_last_stage_of_timm() -> None:
    """timm's own way to a feature map, with the same weights."""
    encoder = tiny()
    reference = timm.create_model(TINY, features_only=True, out_indices=(-1,)).eval()
    reference.load_state_dict({name: encoder.backbone.state_dict()[name] for name in reference.state_dict()})
    torch.testing.assert_close(encoder(images()), reference(images())[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [64, 96, 100, 160])
def test_number_of_cells(size: int) -> None:
    encoder = tiny()
    assert encoder(images(size)).flatten(2).shape == (2, encoder.dim, encoder.num_cells(size))


def test_a_local_checkpoint_is_loaded(tmp_path: Path) -> None:
    source = tiny()
    torch.save(source.backbone.state_dict(), tmp_path / "backbone.pth")
    torch.manual_seed(1)
    loaded = ImageEncoder(TINY, checkpoint=tmp_path / "backbone.pth").eval()
    torch.testing.assert_close(loaded(images()), source(images()))


def test_float32_under_autocast() -> None:
    encoder = tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = encoder(images())
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, encoder(images()), atol=0.1, rtol=0.1)


def test_every_layer_is_trained() -> None:
    encoder = tiny().train()
    for parameter in encoder.parameters():
        if not parameter.any():  # timm starts the last norm of a block at zero
            parameter.data.fill_(1)
    encoder(images()).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_features_must_be_a_map() -> None:
    encoder = ImageEncoder("test_vit", pretrained=False)
    with pytest.raises(ValueError, match=r"backbone: features of shape \(2, \d+, \d+\) are no map of \d+ channels"):
        encoder(images(160))
