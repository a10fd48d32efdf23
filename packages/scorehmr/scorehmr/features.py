"""Where the denoiser's condition c comes from: features computed earlier, an image backbone, or 2D keypoints."""

from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from posecore.data.sample import PoseSample
from posecore.training.timm_backbone import build_backbone
from scorehmr.keypoints import ENCODING_DIM, KeypointRegressor, keypoint_encoding


class CachedFeatures(nn.Module):
    """Features that a released network computed, read by the dataset (``features`` of a sample).

    Args:
        dim: Their length: PARE's pose features 128 x 24 = 3072, ProHMR's 2048.
    """

    def __init__(self, dim: int = 3072) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be positive, got {dim}")
        self.dim = dim

    def forward(self, batch: PoseSample) -> Float[Tensor, "batch dim"]:
        """Reads them.

        Raises:
            ValueError: The batch has none, or they have another length.
        """
        if "features" not in batch:
            raise ValueError("features: the data set has none; give it a cache, or the model other features")
        if batch["features"].shape[-1] != self.dim:
            raise ValueError(
                f"features: the data set's have length {batch['features'].shape[-1]}, but the model expects {self.dim}"
            )
        return batch["features"]


class TimmFeatures(nn.Module):
    """Pooled features of a timm backbone on the crop (``image`` of a sample, normalised as the backbone wants it).

    Args:
        name: timm's name of the backbone.
        pretrained: Whether timm loads the backbone's published weights.
        checkpoint: A local file of weights in place of those.
        trainable: Whether the backbone trains along; "we did not observe any improvement" (Sec. 4.2).

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is of another backbone, or timm knows none of this name.
        OSError: The published weights could not be had.
    """

    def __init__(
        self,
        name: str = "resnet50",
        pretrained: bool = True,
        checkpoint: Path | None = None,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = build_backbone(name, pretrained, checkpoint)
        self.dim = cast(int, self.backbone.num_features)
        self.trainable = trainable
        self.backbone.requires_grad_(trainable)
        self.train()  # Lightning keeps the modes it finds

    def train(self, mode: bool = True) -> "TimmFeatures":
        """A frozen backbone stays in evaluation mode, so that its batch statistics do not move."""
        return super().train(mode and self.trainable)

    def forward(self, batch: PoseSample) -> Float[Tensor, "batch dim"]:
        """Features of the batch's crops.

        Raises:
            ValueError: The batch has no images.
        """
        if "image" not in batch:
            raise ValueError("features: the data set has no images for the backbone")
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            features: Tensor = self.backbone(batch["image"])
        return features


class KeypointFeatures(nn.Module):
    """The open features, which need no image: the last hidden layer of the keypoint regressor, and its input.

    The regressor is trained first (``model.train: regressor``) and stays frozen while the denoiser trains, as the
    paper's backbones do (Sec. 4.2).

    Args:
        weights: The regressor's: a shipped name or a file; None where training or a checkpoint brings them.
        feature_dim: The regressor's width.
        num_blocks: Its blocks.
    """

    def __init__(self, weights: str | None = None, feature_dim: int = 512, num_blocks: int = 3) -> None:
        super().__init__()
        self.regressor = KeypointRegressor(feature_dim, num_blocks)
        self.dim = feature_dim + ENCODING_DIM
        if weights is not None:
            self.regressor.load(weights)

    @torch.no_grad()
    def forward(self, batch: PoseSample) -> Float[Tensor, "batch dim"]:
        """Features of the batch's keypoints."""
        encoding = keypoint_encoding(batch)
        return torch.cat((self.regressor.features(encoding), encoding), dim=-1)


class Standardizer(nn.Module):
    """(c - mean) / std per dimension, by statistics of the training set; without it quality is lost silently.

    Args:
        dim: Length of the features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def fit(self, features: Float[Tensor, "rows dim"]) -> None:
        """Takes the statistics of these features; a dimension that never changes keeps std 1."""
        self.mean.copy_(features.mean(dim=0))
        std = features.std(dim=0, correction=0)
        self.std.copy_(torch.where(std > 1e-6, std, 1.0))

    def forward(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Standardised features."""
        return (features - self.mean) / self.std
