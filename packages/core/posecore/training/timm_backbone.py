"""An image backbone of timm without its classifier, with published, local or random weights."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn


def build_backbone(
    name: str, pretrained: bool = True, checkpoint: Path | None = None, output_stride: int | None = None
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

    Raises:
        ValueError: timm knows no such backbone, it cannot be dilated, or the checkpoint is none or of another backbone.
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
