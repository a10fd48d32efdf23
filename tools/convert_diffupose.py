"""Turn a checkpoint in the layout of DiffuPose's released program into weights of this project.

    python tools/convert_diffupose.py model.pt diffupose_h36m16.safetensors
    diffupose test --config default.yaml --data.root FOLDER --model.weights diffupose_h36m16.safetensors

The file that the release names is not known here; it is a checkpoint of its training, with the entries ``step``,
``model``, ``ema`` and ``scaler``. No checksum is published; its sha256 is printed and kept in the output.

Width and joints are read from the tensors. The averaged (EMA) network is taken where there is one, as the released
program does for its numbers. Nothing of the checkpoint is run: it is read as plain tensors. The released networks see
the picture's coordinates and metres, which is what `default.yaml` says.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffupose.module import METHOD, DiffuPose
from posecore.training.checkpoints import save_weights

SOURCES = (("ema", "ema_model.module.denoise_fn."), ("model", "module.denoise_fn."))
"""Entry of the checkpoint and prefix of the network's tensors in it, best first."""
JOINT_SETS = {15: "humaneva15", 16: "h36m16", 17: "h36m17"}
NUM_BLOCKS = 4
UNUSED = ("block3.mlp.1.weight", "block3.mlp.1.bias")
"""The third time block: the released network has it and never calls it."""
_CONV = {"W": "weight", "M": "modulation", "adj2": "offset", "bias": "bias"}
_NORM = {name: name for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
_LINEAR = {"weight": "weight", "bias": "bias"}


@dataclass
class Conversion:
    """A converted network, and what became of every tensor of the checkpoint.

    Attributes:
        model: Holds the weights.
        source: Prefix of the tensors that were taken.
        step: Optimiser steps that the checkpoint names; None where it names none.
        mapped: Released name to ours, of the network's tensors.
        unused: Tensors of the network that do nothing.
        other: Number of tensors outside the network, by entry of the checkpoint: the other copy of it, schedules.
    """

    model: DiffuPose
    source: str
    step: int | None
    mapped: dict[str, str]
    unused: list[str] = field(default_factory=list)
    other: dict[str, int] = field(default_factory=dict)

    def report(self) -> list[str]:
        """What was done, a line per tensor."""
        own = self.model.network.state_dict()
        width = max(map(len, self.mapped))
        lines = [f"{old:<{width}}  ->  {new}  {tuple(own[new].shape)}" for old, new in self.mapped.items()]
        lines += [f"{name:<{width}}  dropped: the released program never uses it" for name in self.unused]
        lines += [
            f"{count} tensors of {entry!r} dropped: not the network that was taken"
            for entry, count in self.other.items()
        ]
        return [
            *lines,
            f"missing: none; taken from {self.source}*, step {'unknown' if self.step is None else self.step}",
            f"{len(self.mapped)} tensors: {self.model.joint_set.name}, --model.dim {own['input.conv.bias'].numel()}",
        ]


def names() -> dict[str, str]:
    """Released tensor names to those of `diffupose.network.GraphDenoiser`."""
    layers = {"gconv_input.0": "input"}
    for block in range(NUM_BLOCKS):
        layers |= {f"gconv_layers.{block}.gconv{i}": f"blocks.{block}.{i - 1}" for i in (1, 2)}
    parts: dict[str, tuple[str, dict[str, str]]] = {}
    for old, new in layers.items():
        parts |= {f"{old}.gconv": (f"{new}.conv", _CONV), f"{old}.bn": (f"{new}.norm", _NORM)}
    parts["gconv_output"] = ("output", _CONV)
    parts |= {f"non_local.{name}": (f"non_local.{name}", _LINEAR) for name in ("g", "theta", "phi")}
    parts |= {"non_local.W.0": ("non_local.out", _LINEAR), "non_local.W.1": ("non_local.norm", _NORM)}
    parts |= {f"time_mlp.{i}": (f"time_embedding.{i - 1}", _LINEAR) for i in (1, 3)}  # time_mlp.0 has no weights
    parts |= {f"block{i}.mlp.1": (f"time_blocks.{i - 1}.linear", _LINEAR) for i in (1, 2)}
    return {f"{old}.{a}": f"{new}.{b}" for old, (new, tensors) in parts.items() for a, b in tensors.items()}


def convert(checkpoint: Mapping[str, Any]) -> Conversion:
    """Maps a checkpoint of the released layout.

    Args:
        checkpoint: Its content: ``model`` and, of one that was trained to the end, ``ema``; ``step`` and ``scaler``
            are not needed.

    Raises:
        ValueError: It is none, tensors are missing or unknown, or a shape, a number of joints or a value is wrong.
    """
    source, tensors = _network(checkpoint)
    table = names()
    if missing := sorted(set(table) - set(tensors)):
        raise ValueError(f"{source}: the network lacks {_listed(missing)}; is it another one?")
    if unknown := sorted(set(tensors) - set(table) - set(UNUSED)):
        raise ValueError(f"{source}: the network has {_listed(unknown)}, which DiffuPose's does not")
    modulation, weight = tensors["gconv_input.0.gconv.M"], tensors["gconv_input.0.gconv.W"]
    if modulation.ndim != 2 or weight.ndim != 3 or weight.shape[:2] != (2, 5):
        raise ValueError(
            f"{source}gconv_input.0.gconv: W {tuple(weight.shape)} and M {tuple(modulation.shape)} should be "
            "(2, 5, width) and (joints, width)"
        )
    joints, dim = modulation.shape[0], weight.shape[2]
    if joints not in JOINT_SETS:
        raise ValueError(f"{source}: has {joints} joints, expected one of {JOINT_SETS}")
    model = DiffuPose(joint_set=JOINT_SETS[joints], dim=dim)
    own = model.network.state_dict()
    for old, new in table.items():
        value = _as_linear(tensors[old]) if new.startswith("non_local") else tensors[old]
        if value.shape != own[new].shape:
            raise ValueError(
                f"{source}{old}: has shape {tuple(tensors[old].shape)}, expected {tuple(own[new].shape)} at "
                f"{joints} joints and width {dim}"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{source}{old}: holds values that are not finite")
        own[new] = value.to(own[new].dtype)
    model.network.load_state_dict(own)
    step = checkpoint.get("step")
    return Conversion(
        model.eval(),
        source,
        int(step) if isinstance(step, int | Tensor) else None,
        table,
        sorted(set(tensors) & set(UNUSED)),
        _others(checkpoint, source, len(tensors)),
    )


def read(path: Path) -> Mapping[str, Any]:
    """The content of a torch file, without running code of it.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not one, or holds more than tensors, numbers and containers of them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises whatever it stumbles over: on a text file even IndexError
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: is not a checkpoint that can be read safely ({reason})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a checkpoint with the entries model and ema")
    return content


def main(args: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="file of the released program, with step, model, ema and scaler")
    parser.add_argument("output", type=Path, help="safetensors file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    options = parser.parse_args(args)
    try:
        if options.output.exists() and not options.overwrite:
            raise FileExistsError(f"{options.output}: exists; choose another file or --overwrite")
        conversion = convert(read(options.checkpoint))
        digest = hashlib.sha256(options.checkpoint.read_bytes()).hexdigest()
        about = {
            "about": "converted from a checkpoint in the layout of DiffuPose's released program",
            "network": conversion.source,
            "steps": "unknown" if conversion.step is None else str(conversion.step),
            "sha256 of the checkpoint": digest,
        }
        save_weights(options.output, conversion.model, METHOD, about)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        *conversion.report(),
        f"sha256 of {options.checkpoint}: {digest} (none is published to compare)",
        f"wrote {options.output}",
        sep="\n",
    )
    return 0


def _network(checkpoint: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """Prefix and tensors of the best copy of the network, by their names without the prefix."""
    for entry, prefix in SOURCES:
        state = checkpoint.get(entry)
        if isinstance(state, Mapping):
            found = {
                key[len(prefix) :]: value
                for key, value in state.items()
                if isinstance(key, str) and key.startswith(prefix)
            }
            if found:
                if wrong := sorted(name for name, value in found.items() if not isinstance(value, Tensor)):
                    raise ValueError(f"{prefix}: not tensors: {_listed(wrong)}")
                return prefix, found
    expected = " or ".join(f"{prefix}* in {entry!r}" for entry, prefix in SOURCES)
    raise ValueError(
        f"not a checkpoint of DiffuPose's released program: no {expected}; it has {sorted(checkpoint)[:8]}"
    )


def _others(checkpoint: Mapping[str, Any], source: str, taken: int) -> dict[str, int]:
    counts = {}
    for entry, prefix in SOURCES:
        state = checkpoint.get(entry)
        if isinstance(state, Mapping):
            counts[entry] = len(state) - (taken if prefix == source else 0)
    return {entry: count for entry, count in counts.items() if count}


def _as_linear(value: Tensor) -> Tensor:
    """A 1 x 1 convolution's weight as that of a linear layer."""
    return value[:, :, 0, 0] if value.ndim == 4 and value.shape[2:] == (1, 1) else value


def _listed(found: list[str]) -> str:
    return ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")


if __name__ == "__main__":
    sys.exit(main())
