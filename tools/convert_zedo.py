"""Turn a checkpoint in the layout of ZeDO's released program into weights of this project.

    python tools/convert_zedo.py checkpoint_1500.pth zedo_mixed.safetensors
    zedo test --config default.yaml --data.root FOLDER --model.weights zedo_mixed.safetensors
              --model.anchors_file clusters/h36m_cluster1.npy

The release's default checkpoint is ``concatebb/checkpoint_1500.pth``, trained on Human3.6M and MPI-INF-3DHP together;
its initial poses are ``clusters/{h36m,3dhp}_cluster{1,50}.npy``, which its checkpoint does not hold (S = 50:
``--model.num_hypotheses 50 --model.anchors_file clusters/h36m_cluster50.npy``). No checksums of these files are
published; the sha256 of what was read is printed and kept in the output.

The raw weights are taken, with which the release evaluates: it loads its averaged (EMA) weights and never uses them.
``--ema`` takes the averaged ones. Nothing of the checkpoint is run: it is read as plain tensors.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from convert_diffupose import read
from torch import Tensor

from posecore.training.checkpoints import save_weights
from zedo.module import METHOD, ZeDO
from zedo.network import NUM_GROUPS

ENTRY, PREFIX = "model_state_dict", "module."
UNUSED = "sigmas"
"""A buffer of noise levels: the released network has it and never reads it."""
_LAYERS = ("pre", "b1", "b1", "b2", "b2")


@dataclass
class Conversion:
    """A converted network, and what became of every tensor of the checkpoint.

    Attributes:
        model: holds the weights; its anchors are 0, which is none.
        averaged: whether the averaged (EMA) weights were taken.
        step: optimiser steps that the checkpoint names; None where it names none.
        mapped: released name to ours.
        dropped: what the checkpoint holds beside that.
    """

    model: ZeDO
    averaged: bool
    step: int | None
    mapped: dict[str, str]
    dropped: list[str]

    def report(self) -> list[str]:
        """What was done, a line per tensor."""
        own = self.model.network.state_dict()
        width = max(map(len, self.mapped))
        weights = "averaged (EMA), which the release does not use" if self.averaged else "raw, as the release evaluates"
        network = self.model.network
        return [
            *(f"{old:<{width}}  ->  network.{new}  {tuple(own[new].shape)}" for old, new in self.mapped.items()),
            *(f"{name} dropped" for name in self.dropped),
            f"missing: none; weights: {weights}; step {'unknown' if self.step is None else self.step}",
            f"{len(self.mapped)} tensors, {sum(value.numel() for value in own.values())} parameters: "
            f"--model.hidden_dim {network.hidden_dim} --model.embed_dim {network.embed_dim}",
            "anchors: none in the checkpoint; give --model.anchors_file",
        ]


def names() -> dict[str, str]:
    """Released tensor names to those of `zedo.network.ScoreNetwork`."""
    modules = {"shared_time_embed.0": "time_embed.0", "post_dense": "head"}
    for i, part in enumerate(_LAYERS):
        number = "" if part == "pre" else str(2 - i % 2)
        modules |= {
            f"{part}_dense{number}": f"layers.{i}",
            f"{part}_dense{number}_t": f"time_layers.{i}",
            f"{part}_gnorm{number}": f"norms.{i}",
        }
    return {f"{old}.{tensor}": f"{new}.{tensor}" for old, new in modules.items() for tensor in ("weight", "bias")}


def convert(checkpoint: Mapping[str, Any], averaged: bool = False) -> Conversion:
    """Maps a checkpoint of the released layout.

    Args:
        checkpoint: its content: ``model_state_dict`` and, for ``averaged``, ``ema``; ``epoch``, ``step`` and
            ``optimizer_state_dict`` are not needed.
        averaged: takes ``ema`` ``shadow_params``, a list in the order of the parameters, which is that of
            ``model_state_dict`` without its buffer.

    Raises:
        ValueError: if it is none, tensors are missing or unknown, or a shape or value is wrong.
    """
    state = checkpoint.get(ENTRY)
    if not isinstance(state, Mapping) or not any(str(name).startswith(PREFIX) for name in state):
        raise ValueError(
            f"not a checkpoint of ZeDO's released program: no {PREFIX}* in {ENTRY!r}; it has "
            f"{sorted(map(str, checkpoint))[:8]}"
        )
    tensors = {str(name).removeprefix(PREFIX): value for name, value in state.items()}
    parameters = [name for name in tensors if name != UNUSED]
    table = names()
    if missing := sorted(set(table) - set(parameters)):
        raise ValueError(f"{ENTRY}: the network lacks {_listed(missing)}; is it another one?")
    if unknown := sorted(set(parameters) - set(table)):
        raise ValueError(f"{ENTRY}: the network has {_listed(unknown)}, which ZeDO's does not")
    chosen, source = tensors, ENTRY
    if averaged:
        chosen, source = dict(zip(parameters, _shadow(checkpoint, len(parameters)), strict=True)), "ema shadow_params"
    for where, found in ((ENTRY, tensors), (source, chosen)):
        if wrong := sorted(name for name in parameters if not isinstance(found[name], Tensor)):
            raise ValueError(f"{where}: not tensors: {_listed(wrong)}")
    model = _model(tensors["pre_dense.weight"], tensors["pre_dense_t.weight"])
    own = model.network.state_dict()
    for old, new in table.items():
        value = chosen[old]
        if value.shape != own[new].shape:
            raise ValueError(f"{source}: {old} has shape {tuple(value.shape)}, expected {tuple(own[new].shape)}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{source}: {old} holds values that are not finite")
        own[new] = value.detach().to(own[new].dtype)
    model.network.load_state_dict(own)
    other = "raw weights" if averaged else "averaged weights (ema)"
    dropped = [f"{UNUSED}, a buffer that the released program never reads,"] if UNUSED in tensors else []
    dropped += [other] if averaged or "ema" in checkpoint else []
    step = checkpoint.get("step")
    return Conversion(model.eval(), averaged, int(step) if isinstance(step, int | Tensor) else None, table, dropped)


def main(args: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="file of the released program, with model_state_dict and ema")
    parser.add_argument("output", type=Path, help="safetensors file to write")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights; the release evaluates the raw")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    options = parser.parse_args(args)
    try:
        if options.output.exists() and not options.overwrite:
            raise FileExistsError(f"{options.output}: exists; choose another file or --overwrite")
        conversion = convert(read(options.checkpoint), options.ema)
        digest = hashlib.sha256(options.checkpoint.read_bytes()).hexdigest()
        about = {
            "about": "converted from a checkpoint in the layout of ZeDO's released program; no anchors",
            "weights": "averaged (EMA)" if conversion.averaged else "raw",
            "steps": "unknown" if conversion.step is None else str(conversion.step),
            "sha256 of the checkpoint": digest,
        }
        save_weights(options.output, conversion.model, METHOD, about)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*conversion.report(), f"sha256 of {options.checkpoint}: {digest} (none is published to compare)", sep="\n")
    print(f"wrote {options.output}")
    return 0


def _model(first: Tensor, first_t: Tensor) -> ZeDO:
    """A model of the size that the first layer's weights have."""
    if (
        first.ndim != 2
        or first_t.ndim != 2
        or first.shape[0] != first_t.shape[0]
        or first.shape[0] % NUM_GROUPS
        or first.shape[1] % 3
        or first_t.shape[1] % 2
    ):
        raise ValueError(
            f"{ENTRY}: pre_dense and pre_dense_t have weights {tuple(first.shape)} and {tuple(first_t.shape)}, "
            f"expected (width, 3 x joints) and (width, embedding), the width a multiple of {NUM_GROUPS}"
        )
    return ZeDO(num_joints=first.shape[1] // 3, hidden_dim=first.shape[0], embed_dim=first_t.shape[1])


def _shadow(checkpoint: Mapping[str, Any], count: int) -> list[Any]:
    ema = checkpoint.get("ema")
    shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(shadow, list) or len(shadow) != count:
        found = f"{len(shadow)} of them" if isinstance(shadow, list) else "none"
        raise ValueError(f"ema: expected shadow_params, a list of {count} averaged parameters, found {found}")
    return shadow


def _listed(found: list[str]) -> str:
    return ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")


if __name__ == "__main__":
    sys.exit(main())
