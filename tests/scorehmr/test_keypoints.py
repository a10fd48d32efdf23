from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from posecore.data.sample import PoseSample
from posecore.training.checkpoints import save_weights
from scorehmr.features import KeypointFeatures
from scorehmr.keypoints import KeypointRegressor, keypoint_encoding


def changed(batch: PoseSample, **values: Any) -> PoseSample:
    return cast(PoseSample, {**batch, **values})


def test_encoding_says_where_keypoints_are_in_their_box(people: PoseSample, make: SimpleNamespace) -> None:
    batch = make.confidence(people)
    encoding = keypoint_encoding(batch)
    assert encoding.shape == (len(batch["K"]), 78)
    for row in range(len(encoding)):
        confidence = batch["confidence"][row, :25]
        pixels = torch.cat((batch["joints_2d_px"][row, :25], torch.ones(25, 1)), dim=1)
        plane = torch.linalg.solve(batch["K"][row], pixels.T).T[:, :2]
        seen = plane[confidence > 0]
        low, high = seen.amin(dim=0), seen.amax(dim=0)
        center, size = (low + high) / 2, (high - low).max()
        relative = ((plane - center) / size) * (confidence > 0)[:, None]
        expected = torch.cat((relative.flatten(), confidence, center, size.log()[None]))
        torch.testing.assert_close(encoding[row], expected, atol=1e-4, rtol=1e-4)


def test_encoding_does_not_depend_on_focal_length_or_resolution(people: PoseSample, make: SimpleNamespace) -> None:
    batch = make.confidence(people)
    zoom = torch.diag(torch.tensor([2.5, 2.5, 1.0]))
    zoom[:2, 2] = torch.tensor([-130.0, 40.0])  # and not on where the picture was cut out
    pixels = batch["joints_2d_px"] @ zoom[:2, :2].mT + zoom[:2, 2]
    other = changed(batch, joints_2d_px=pixels, K=zoom @ batch["K"])
    torch.testing.assert_close(keypoint_encoding(other), keypoint_encoding(batch), atol=1e-4, rtol=1e-4)


def test_unseen_joints_do_not_matter(people: PoseSample, make: SimpleNamespace) -> None:
    batch = make.confidence(people)
    pixels = batch["joints_2d_px"].clone()
    pixels[batch["confidence"] == 0] = 1e6
    pixels[:, 25:] = torch.nan  # and no detector gives these
    confidence = batch["confidence"].clone()
    confidence[:, 25:] = 0.123
    other = changed(batch, joints_2d_px=pixels, confidence=confidence)
    assert torch.equal(keypoint_encoding(other), keypoint_encoding(batch))


@pytest.mark.parametrize("seen", [0, 1])
def test_hardly_anybody_seen_is_finite(people: PoseSample, seen: int) -> None:
    confidence = torch.zeros_like(people["confidence"])
    confidence[:, 3 : 3 + seen] = 0.7
    encoding = keypoint_encoding(changed(people, confidence=confidence))
    assert bool(torch.isfinite(encoding).all())
    assert (encoding[:, 50:75].sum(dim=1) - 0.7 * seen).abs().max() < 1e-6


def holder(regressor: KeypointRegressor) -> nn.Module:
    """A module whose state dict has the names of ScoreHMR's, and more than the regressor."""
    features = KeypointFeatures(feature_dim=regressor.feature_dim, num_blocks=len(regressor.blocks))
    features.regressor = regressor
    return nn.ModuleDict({"features": features, "other": nn.Linear(2, 2)})


@pytest.mark.parametrize(("width", "blocks"), [(12, 2), (7, 0)])
def test_weights_come_back_in_their_own_size(tmp_path: Path, width: int, blocks: int) -> None:
    regressor = KeypointRegressor(width, blocks)
    path = tmp_path / "regressor.safetensors"
    save_weights(path, holder(regressor), "scorehmr", {}, only="features.regressor.")
    found = KeypointRegressor.from_weights(str(path))
    assert (found.feature_dim, len(found.blocks)) == (width, blocks)
    encoding = torch.randn(3, 78)
    for expected, value in zip(regressor(encoding), found(encoding), strict=True):
        assert torch.equal(expected, value)
    again = KeypointFeatures(str(path), width, blocks).regressor
    assert torch.equal(again.pose.weight, regressor.pose.weight)


def test_weights_out_of_a_whole_model_do(tmp_path: Path) -> None:
    regressor = KeypointRegressor(6, 1)
    save_weights(tmp_path / "all.safetensors", holder(regressor), "scorehmr", {})
    found = KeypointRegressor.from_weights(str(tmp_path / "all.safetensors"))
    assert torch.equal(found.betas.bias, regressor.betas.bias)


def test_weights_of_another_size_are_named(tmp_path: Path) -> None:
    path = tmp_path / "regressor.safetensors"
    save_weights(path, holder(KeypointRegressor(6, 1)), "scorehmr", {}, only="features.regressor.")
    with pytest.raises(ValueError, match=r"has features.regressor.input.weight of shape \(6, 78\), .* needs \(8, 78\)"):
        KeypointRegressor(8, 1).load(str(path))
    with pytest.raises(ValueError, match=r"has no features.regressor.blocks.1.0.weight"):
        KeypointRegressor(6, 2).load(str(path))


def test_a_file_without_a_regressor_is_named(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", nn.Linear(2, 2), "scorehmr", {})
    with pytest.raises(ValueError, match=r"w.safetensors has no features.regressor.input.weight"):
        KeypointRegressor.from_weights(str(tmp_path / "w.safetensors"))


def test_unknown_weights_are_named() -> None:
    for load in (KeypointRegressor.from_weights, KeypointRegressor(4, 0).load):
        with pytest.raises(FileNotFoundError, match="weights: 'nobody' is neither a file nor a shipped name"):
            load("nobody")


@pytest.mark.parametrize(("width", "blocks"), [(0, 1), (4, -1)])
def test_sizes_are_checked(width: int, blocks: int) -> None:
    with pytest.raises(
        ValueError, match=f"feature_dim must be positive, num_blocks not negative, got {width}, {blocks}"
    ):
        KeypointRegressor(width, blocks)


def test_the_output_starts_near_the_rest_pose() -> None:
    regressor = KeypointRegressor(8, 1)
    for layer in (regressor.pose, regressor.betas):
        layer.weight.data.zero_()
        layer.bias.data.zero_()
    pose, betas = regressor(torch.randn(2, 78))
    assert torch.equal(pose, torch.tensor([1.0, 0, 0, 0, 1, 0]).expand(2, 24, 6))
    assert not betas.any()
