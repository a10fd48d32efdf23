"""An image backbone of timm without its classifier, with published, local or random weights, as a map of features."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from posecore.training.grad_checkpointing import checkpoint_blocks


def build_backbone(
    name: str,
    pretrained: bool = True,
    checkpoint: Path | None = None,
    output_stride: int | None = None,
    grad_checkpointing: bool = False,
) -> nn.Module:
    """Builds a backbone and loads its weights.

    Args:
        name: timm's name of it.
        pretrained: Whether timm loads the published weights (from its cache, or by a download).
        checkpoint: A local file of weights in place of those, ``.safetensors`` or PyTorch's; what a published file
            holds more than the backbone needs, its classifier, is left out. Weights of a method that has this backbone
            as a part will do too, whatever the part is called there.
        output_stride: Pixels of the image per cell of the last features, where they are to be finer than the network's
            own; its last convolutions are then dilated, which changes no weight.
        grad_checkpointing: Whether training keeps the inputs of the network's blocks alone and computes the rest a
            second time: less memory for more time, and the same numbers.

    Raises:
        ValueError: timm knows no such backbone, it cannot be dilated or has no blocks, or the checkpoint is none or of
            another backbone.
        FileNotFoundError: There is no such checkpoint.
        OSError: The published weights could not be had.
    """
    import timm  # when needed: every command line would wait for it

    if not timm.is_model(name):
        raise ValueError(f"backbone: timm has none called {name!r}; timm.list_models() has their names")
    dilation: dict[str, Any] = {} if output_stride is None else {"output_stride": output_stride}
    if dilation:
        try:
            timm.create_model(name, num_classes=0, **dilation)
        except (TypeError, AssertionError, NotImplementedError, ValueError) as error:
            why = f" ({error})" if str(error) else ""
            raise ValueError(f"output_stride: timm's {name} cannot have {output_stride}{why}") from error
    backbone = _with_weights(name, pretrained, checkpoint, dilation)
    if grad_checkpointing and not checkpoint_blocks(backbone):
        raise ValueError(f"grad_checkpointing: timm's {name} has no blocks that could be computed again")
    return backbone


def feature_map(backbone: nn.Module, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim h w"]:
    """The last features of a backbone, in float32 under autocast too.

    Args:
        backbone: Of `build_backbone`, with its weights in `channels_last`, in which convolutions are faster, on CPUs
            and GPUs.
        image: Crops, normalised as the backbone wants them.

    Raises:
        ValueError: The features are no map over the image.
    """
    dim = cast(int, backbone.num_features)
    found: Tensor = backbone.forward_features(image.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
    if found.ndim != 4 or found.shape[1] != dim:
        raise ValueError(
            f"backbone: features of shape {tuple(found.shape)} are no map of {dim} channels; take a convolutional "
            "network"
        )
    return found.float()


def cells_along(backbone: nn.Module, image_size: int) -> int:
    """Cells of the last features along a side of a square crop of so many pixels."""
    stride = cast(int, cast(list[dict[str, object]], backbone.feature_info)[-1]["reduction"])
    return -(-image_size // stride)


def _with_weights(name: str, pretrained: bool, checkpoint: Path | None, dilation: dict[str, Any]) -> nn.Module:
    import timm

    if checkpoint is not None:
        backbone: nn.Module = timm.create_model(name, num_classes=0, **dilation)
        _load(backbone, checkpoint)
        return backbone
    try:
        backbone = timm.create_model(name, pretrained=pretrained, num_classes=0, **dilation)
    except Exception as error:  # which one depends on how the file is fetched
        if not pretrained:
            raise
        raise OSError(
            f"backbone: timm could not load published weights of {name} ({type(error).__name__}: {error}); name a "
            "local file by checkpoint, or start from random weights with pretrained: false"
        ) from error
    return backbone


def _load(backbone: nn.Module, checkpoint: Path) -> None:
    import timm

    if not checkpoint.is_file():
        raise FileNotFoundError(f"checkpoint: there is no file {checkpoint}")
    try:
        found = timm.models.load_state_dict(str(checkpoint), weights_only=True)
    except Exception as error:  # a broken file: pickle's, zip's or safetensors' own error
        raise ValueError(f"checkpoint: {checkpoint} is no file of weights ({error})") from error
    own = backbone.state_dict()
    prefix = _prefix(own, found)
    found = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    for name, value in own.items():
        if name not in found or found[name].shape != value.shape:
            has = f"of shape {tuple(found[name].shape)}" if name in found else "missing"
            raise ValueError(f"checkpoint: in {checkpoint} {name} is {has}; the backbone needs {tuple(value.shape)}")
    backbone.load_state_dict({name: found[name] for name in own})


def _prefix(own: Iterable[str], found: Iterable[str]) -> str:
    """What all of a backbone's names begin with in a file that holds more than it; nothing where they do not."""
    names, wanted = set(found), list(own)
    prefixes = sorted({name.removesuffix(wanted[0]) for name in names if name.endswith(f".{wanted[0]}")})
    return next((prefix for prefix in prefixes if all(prefix + name in names for name in wanted)), "")
