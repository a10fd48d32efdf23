"""The open features: 2D keypoints with confidences as numbers, and a small network that regresses a body from them.

The network takes the place of the released regressors where no images are at hand: its last hidden layer is the image
feature c of the paper, its output the estimate that a fit starts from.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from posecore.data.sample import PoseSample
from posecore.geometry.camera import normalize_points
from posecore.geometry.precision import autocast_off
from posecore.training.checkpoints import load_weights, read_weights, resolve_weights

NUM_KEYPOINTS = 25
"""OpenPose's joints: the first of ``joints44``, the only ones that detectors give."""
ENCODING_DIM = 3 * NUM_KEYPOINTS + 3
METHOD = "scorehmr"
PREFIX = "features.regressor."
"""Where a file of ScoreHMR's weights holds the regressor."""
_MIN_SIZE = 1e-3


def keypoint_encoding(batch: PoseSample) -> Float[Tensor, "batch 78"]:
    """Keypoints as a vector that does not depend on the camera's focal length or on pixels.

    Keypoints are taken to the plane z = 1; the box around the seen ones has a centre and a size there. The vector holds
    each keypoint relative to the box in units of its size (0 where unseen), the confidences, and the box: its centre
    and the logarithm of its size, which tell where off the optical axis and how near the person stands.

    Args:
        batch: ``joints_2d_px``, ``confidence`` (of ``body25`` or ``joints44``) and ``K``. Nothing else is read.
    """
    confidence = batch["confidence"][:, :NUM_KEYPOINTS]
    plane = normalize_points(batch["joints_2d_px"][:, :NUM_KEYPOINTS], batch["K"])
    seen = (confidence > 0)[..., None]
    low = plane.masked_fill(~seen, torch.inf).amin(dim=1)
    high = plane.masked_fill(~seen, -torch.inf).amax(dim=1)
    any_seen = seen.any(dim=1)
    center = torch.where(any_seen, (low + high) / 2, 0.0)
    size = torch.where(any_seen, high - low, 1.0).amax(dim=-1, keepdim=True).clamp_min(_MIN_SIZE)
    relative = ((plane - center[:, None]) / size[:, None]).masked_fill(~seen, 0.0)
    return torch.cat((relative.flatten(1), confidence, center, size.log()), dim=-1)


class KeypointRegressor(nn.Module):
    """SMPL pose and shape from 2D keypoints: a residual MLP on `keypoint_encoding`.

    Args:
        feature_dim: Width, and length of the feature.
        num_blocks: Residual blocks.
    """

    def __init__(self, feature_dim: int = 512, num_blocks: int = 3) -> None:
        super().__init__()
        if feature_dim < 1 or num_blocks < 0:
            raise ValueError(f"feature_dim must be positive, num_blocks not negative, got {feature_dim}, {num_blocks}")
        self.feature_dim = feature_dim
        self.input = nn.Linear(ENCODING_DIM, feature_dim)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(feature_dim),
                nn.Linear(feature_dim, 2 * feature_dim),
                nn.GELU(),
                nn.Linear(2 * feature_dim, feature_dim),
            )
            for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(feature_dim)
        self.pose = nn.Linear(feature_dim, 144)
        self.betas = nn.Linear(feature_dim, 10)

    def load(self, weights: str) -> None:
        """Takes trained weights: a shipped name, or a file that `scorehmr fit` wrote.

        Raises:
            FileNotFoundError: No such weights.
            ValueError: The file is broken or of another size.
        """
        load_weights(resolve_weights(weights, Path(__file__).parent), self, METHOD, PREFIX)

    @classmethod
    def from_weights(cls, weights: str) -> "KeypointRegressor":
        """A regressor of the size that the weights have; arguments as `load`."""
        tensors, _ = read_weights(resolve_weights(weights, Path(__file__).parent), METHOD)
        blocks = {name.split(".")[3] for name in tensors if name.startswith(f"{PREFIX}blocks.")}
        width = tensors.get(f"{PREFIX}input.bias")
        regressor = cls(512 if width is None else len(width), len(blocks))
        regressor.load(weights)
        return regressor

    def features(self, encoding: Float[Tensor, "batch 78"]) -> Float[Tensor, "batch features"]:
        """The last hidden layer."""
        h = self.input(encoding)
        for block in self.blocks:
            h = h + block(h)
        features: Tensor = F.gelu(self.norm(h))
        return features

    def forward(
        self, encoding: Float[Tensor, "batch 78"]
    ) -> tuple[Float[Tensor, "batch 24 6"], Float[Tensor, "batch 10"]]:
        """Pose in 6D (root in the camera frame first) and betas in standard deviations."""
        features = self.features(encoding).to(self.pose.weight.dtype)
        identity = features.new_tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
        with autocast_off():  # 16 bits would turn a joint by a quarter of a degree
            return self.pose(features).unflatten(-1, (24, 6)) + identity, self.betas(features)
