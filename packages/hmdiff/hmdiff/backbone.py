"""The CNN backbone phi_I: an image network of timm without pooling, whose feature map is f_c (Sec. 4.3)."""

from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from posecore.training.timm_backbone import build_backbone, cells_along, feature_map


class Backbone(nn.Module):
    """f_c = phi_I(I): for HRNet-W64 on a crop of 224 pixels 2048 x 7 x 7.

    Args:
        name: timm's name of a network whose last features are a map; the paper's is an HRNet, METRO's the W64.
        pretrained: Whether timm loads the published weights.
        checkpoint: A local file of weights in place of those.
        output_stride: Pixels per cell of the map, where it is to be finer than the network's own (dilation): 16 makes
            7 x 7 cells of a crop of 112 pixels.
        grad_checkpointing: Whether training computes the inside of its blocks twice, for less memory.

    Raises:
        ValueError: timm knows no such network, it cannot be dilated, or the checkpoint is of another one.
        FileNotFoundError: There is no such checkpoint.
        OSError: The published weights could not be had.
    """

    def __init__(
        self,
        name: str = "hrnet_w64",
        pretrained: bool = True,
        checkpoint: Path | None = None,
        output_stride: int | None = None,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        network = build_backbone(name, pretrained, checkpoint, output_stride, grad_checkpointing)
        self.network = network.to(memory_format=torch.channels_last)
        self.dim = cast(int, network.num_features)

    def side(self, image_size: int) -> int:
        """Cells of f_c along a side of a square crop."""
        return cells_along(self.network, image_size)

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim h w"]:
        """f_c, in float32 under autocast too.

        Args:
            image: Crops, normalised as the network wants them.

        Raises:
            ValueError: The network's features are no map over the image.
        """
        return feature_map(self.network, image)
