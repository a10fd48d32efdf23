"""The image encoder g: a backbone without pooling, whose feature map z conditions everything else (Sec. 3.2)."""

from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from posecore.training.timm_backbone import build_backbone, cells_along, feature_map


class ImageEncoder(nn.Module):
    """z = g(I): the last stage of a backbone of timm, for ResNet-50 on a crop of 224 pixels 2048 x 7 x 7.

    Args:
        name: timm's name of a backbone whose features are a map; the paper's is ResNet-50.
        pretrained: Whether timm loads the published weights.
        checkpoint: A local file of weights in place of those, ``.safetensors`` or PyTorch's.
        grad_checkpointing: Whether training computes the inside of its blocks twice, for less memory.

    Raises:
        ValueError: timm knows no such backbone, or the checkpoint is of another one.
        FileNotFoundError: There is no such checkpoint.
        OSError: The published weights could not be had.
    """

    def __init__(
        self,
        name: str = "resnet50",
        pretrained: bool = True,
        checkpoint: Path | None = None,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        backbone = build_backbone(name, pretrained, checkpoint, grad_checkpointing=grad_checkpointing)
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.dim = cast(int, backbone.num_features)

    def num_cells(self, image_size: int) -> int:
        """Cells of z's grid, height times width, for a square crop."""
        return cells_along(self.backbone, image_size) ** 2

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim h w"]:
        """z, in float32 under autocast too.

        Args:
            image: Crops, normalised as the backbone wants them.

        Raises:
            ValueError: The backbone's features are no map over the image.
        """
        return feature_map(self.backbone, image)
