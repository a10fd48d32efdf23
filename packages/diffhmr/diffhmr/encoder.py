"""The image encoder g: a backbone without pooling, whose feature map z conditions everything else (Sec. 3.2)."""

from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from posecore.training.timm_backbone import build_backbone


class ImageEncoder(nn.Module):
    """z = g(I): the last stage of a backbone of timm, for ResNet-50 on a crop of 224 pixels 2048 x 7 x 7.

    Args:
        name: timm's name of a backbone whose features are a map; the paper's is ResNet-50.
        pretrained: Whether timm loads the published weights.
        checkpoint: A local file of weights in place of those, ``.safetensors`` or PyTorch's.

    Raises:
        ValueError: timm knows no such backbone, or the checkpoint is of another one.
        FileNotFoundError: There is no such checkpoint.
        OSError: The published weights could not be had.
    """

    def __init__(self, name: str = "resnet50", pretrained: bool = True, checkpoint: Path | None = None) -> None:
        super().__init__()
        backbone = build_backbone(name, pretrained, checkpoint)
        # Convolutions are faster with the channels last, on CPUs and GPUs.
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.dim = cast(int, backbone.num_features)
        self._stride = cast(int, cast(list[dict[str, object]], backbone.feature_info)[-1]["reduction"])

    def num_cells(self, image_size: int) -> int:
        """Cells of z's grid, height times width, for a square crop."""
        side = -(-image_size // self._stride)
        return side * side

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim h w"]:
        """z, in float32 under autocast too.

        Args:
            image: Crops, normalised as the backbone wants them.

        Raises:
            ValueError: The backbone's features are no map over the image.
        """
        z: Tensor = self.backbone.forward_features(image.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
        if z.ndim != 4 or z.shape[1] != self.dim:
            raise ValueError(
                f"backbone: features of shape {tuple(z.shape)} are no map of {self.dim} channels; take a convolutional "
                "network"
            )
        return z.float()
