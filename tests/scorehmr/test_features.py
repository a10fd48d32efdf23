import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor

from posecore.data.sample import PoseSample
from scorehmr.features import CachedFeatures, KeypointFeatures, Standardizer, TimmFeatures
from scorehmr.keypoints import keypoint_encoding

TINY = "test_resnet.r160_in1k"  # timm's own for tests


def batch_of(**values: Any) -> PoseSample:
    return cast(PoseSample, values)


def test_cached_features_are_read() -> None:
    features = torch.randn(3, 5)
    assert torch.equal(CachedFeatures(5)(batch_of(features=features)), features)
    assert CachedFeatures().dim == 3072


def test_cached_features_must_be_there_in_their_length() -> None:
    with pytest.raises(ValueError, match="features: the data set has none"):
        CachedFeatures(5)(batch_of(K=torch.eye(3)[None]))
    with pytest.raises(ValueError, match="features: the data set's have length 4, but the model expects 5"):
        CachedFeatures(5)(batch_of(features=torch.zeros(2, 4)))
    with pytest.raises(ValueError, match="dim must be positive, got 0"):
        CachedFeatures(0)


def test_keypoint_features_are_the_last_layer_and_its_input(people: PoseSample) -> None:
    features = KeypointFeatures(feature_dim=6, num_blocks=1)
    found = features(people)
    assert found.shape == (6, features.dim)
    encoding = keypoint_encoding(people)
    assert torch.equal(found[:, 6:], encoding)
    pose, betas = features.regressor(encoding)
    last = found[:, :6]  # what the heads see
    identity = torch.tensor([1.0, 0, 0, 0, 1, 0])
    torch.testing.assert_close(features.regressor.pose(last).unflatten(-1, (24, 6)) + identity, pose)
    torch.testing.assert_close(features.regressor.betas(last), betas)
    assert not found.requires_grad


def images(size: int = 32) -> PoseSample:
    return batch_of(image=torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)))


def pooled(backbone: Any, image: Tensor) -> Tensor:
    with torch.no_grad():
        return backbone.eval().forward_features(image).mean(dim=(-2, -1))


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Any]:
    """A file of weights as they are published, classifier included, and the network they are of."""
    torch.manual_seed(4)
    network = timm.create_model(TINY.partition(".")[0], num_classes=1000)
    network.bn1.running_mean.normal_()
    torch.save(network.state_dict(), tmp_path / "backbone.pth")
    return tmp_path / "backbone.pth", network


def test_a_local_checkpoint_is_loaded(published: tuple[Path, Any]) -> None:
    path, network = published
    features = TimmFeatures(TINY, checkpoint=path)
    batch = images()
    found = features.eval()(batch)
    assert found.shape == (2, features.dim)
    torch.testing.assert_close(found, pooled(network, batch["image"]))


def test_a_checkpoint_without_classifier_is_loaded(published: tuple[Path, Any], tmp_path: Path) -> None:
    _, network = published
    network.reset_classifier(0)
    torch.save(network.state_dict(), tmp_path / "headless.pth")
    batch = images()
    found = TimmFeatures(TINY, checkpoint=tmp_path / "headless.pth").eval()(batch)
    torch.testing.assert_close(found, pooled(network, batch["image"]))


def test_pretrained_asks_timm_for_the_published_weights(
    published: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm's registry is told that they lie in a local file; without network nothing else could be loaded."""
    path, network = published
    registry = timm.models._registry._model_pretrained_cfgs
    local = dataclasses.replace(registry[TINY], file=str(path), hf_hub_id=None, url="")
    monkeypatch.setitem(registry, TINY, local)
    batch = images()
    expected = pooled(network, batch["image"])
    torch.testing.assert_close(TimmFeatures(TINY).eval()(batch), expected)
    assert not torch.allclose(TimmFeatures(TINY, pretrained=False).eval()(batch), expected)


def test_a_checkpoint_of_another_backbone_is_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"checkpoint: in .*other.pth conv1.0.weight is missing; the backbone needs \("
    ):
        TimmFeatures(TINY, checkpoint=tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match=r"checkpoint: there is no file .*nowhere.pth"):
        TimmFeatures(TINY, checkpoint=tmp_path / "nowhere.pth")


def test_a_frozen_backbone_does_not_move() -> None:
    torch.manual_seed(0)
    features = TimmFeatures(TINY, pretrained=False).train()
    before = {name: value.clone() for name, value in features.state_dict().items()}
    found = features(images())
    assert not found.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in features.state_dict().items())
    assert not any(parameter.requires_grad for parameter in features.parameters())


def test_a_trainable_backbone_does() -> None:
    torch.manual_seed(0)
    features = TimmFeatures(TINY, pretrained=False, trainable=True).train()
    mean = features.backbone.bn1.running_mean.clone()
    features(images()).sum().backward()
    assert not torch.equal(features.backbone.bn1.running_mean, mean)
    assert features.backbone.conv1[0].weight.grad.any()
    with torch.no_grad():
        assert not features(images()).requires_grad


def test_a_backbone_needs_images() -> None:
    with pytest.raises(ValueError, match="features: the data set has no images for the backbone"):
        TimmFeatures(TINY, pretrained=False)(batch_of(features=torch.zeros(1, 4)))


def test_standardizer_takes_statistics_per_dimension() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 3, generator=generator) * torch.tensor([1.0, 20.0, 0.0]) + torch.tensor([5.0, -3, 7])
    standardizer = Standardizer(3)
    assert torch.equal(standardizer(features), features), "before it has seen any data it changes nothing"
    standardizer.fit(features)
    found = standardizer(features)
    torch.testing.assert_close(found[:, :2].mean(dim=0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, :2].std(dim=0, correction=0), torch.ones(2))
    assert not found[:, 2].any(), "a dimension that never changes is 0, not infinite"
    assert set(standardizer.state_dict()) == {"mean", "std"}


def test_statistics_of_a_single_row_are_finite() -> None:
    standardizer = Standardizer(2)
    standardizer.fit(torch.ones(1, 2))
    assert torch.equal(standardizer(torch.full((1, 2), 3.0)), torch.full((1, 2), 2.0))
