"""Turn a checkpoint in the layout of ScoreHMR's released program into weights of this project.

    python tools/convert_scorehmr.py model-100.pt pare_feat_stats.npz scorehmr_pare.safetensors
    scorehmr test --config default.yaml --data.root FOLDER --model.weights scorehmr_pare.safetensors

The release has the checkpoint as ``data/model_weights/score_hmr/model-100.pt`` (1,000,000 steps) and the statistics as
``data/stats/pare_feat_stats.npz``, or ``prohmr_feat_stats.npz`` for features of ProHMR. No checksums of them are
published; the sha256 of both files is printed and kept in the output.

The second file holds the mean and standard deviation of the image features, without which the network sees something
else than it was trained on. The averaged (EMA) network is taken where there is one, as the released program does for
its numbers. Nothing of the checkpoint is run: it is read as plain tensors.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from convert_diffupose import read
from torch import Tensor, nn

from posecore.safe_pickle import load_npz
from posecore.training.checkpoints import save_weights
from scorehmr.features import Standardizer
from scorehmr.keypoints import METHOD
from scorehmr.latent import PoseAndShape
from scorehmr.network import POSE_DIM

SOURCES = (("ema", "ema_model.model."), ("model", "model."))
"""Entry of the checkpoint and prefix of the network's tensors in it, best first."""
STATISTICS = (("pose_feats_mean", "pose_feats_std"), ("mean", "std"))
"""Keys of the features' statistics: PARE's and ProHMR's file."""
NUM_BLOCKS = 3


@dataclass
class Conversion:
    """A converted network, and what became of every tensor of the checkpoint.

    Attributes:
        model: ``diffusion`` and ``standardizer``, under the names that `scorehmr` gives them.
        source: prefix of the tensors that were taken.
        step: optimiser steps that the checkpoint names; None where it names none.
        mapped: released name to ours, of the network's tensors.
        other: number of tensors outside the network, by entry of the checkpoint: the other copy of it, schedules.
    """

    model: nn.ModuleDict
    source: str
    step: int | None
    mapped: dict[str, str]
    other: dict[str, int]

    def report(self) -> list[str]:
        """What was done, a line per tensor."""
        own = cast(PoseAndShape, self.model["diffusion"]).pose.state_dict()
        width = max(map(len, self.mapped))
        lines = [
            f"{old:<{width}}  ->  diffusion.pose.{new}  {tuple(own[new].shape)}" for old, new in self.mapped.items()
        ]
        lines += [
            f"{count} tensors of {entry!r} dropped: not the network that was taken"
            for entry, count in self.other.items()
        ]
        features = self.model["standardizer"].get_buffer("mean").numel()
        return [
            *lines,
            f"missing: none; taken from {self.source}*, step {'unknown' if self.step is None else self.step}",
            f"{len(self.mapped)} tensors, {sum(value.numel() for value in own.values())} parameters; features of "
            f"length {features}",
        ]


def names() -> dict[str, str]:
    """Released tensor names to those of `scorehmr.network.Denoiser`."""
    layers = {"init_mlp": "input", "time_mlp.1": "time.0", "time_mlp.3": "time.2", "final_mlp": "output"}
    parts = {"layer_norm1": "norm_in", "linear_layer1": "linear_in", "layer_norm2": "norm_out"}
    parts["linear_layer2"] = "linear_out"
    for block in range(NUM_BLOCKS):
        layers[f"blocks.{block}.mlp.1"] = f"blocks.{block}.modulation"
        layers |= {f"blocks.{block}.block.{old}": f"blocks.{block}.{new}" for old, new in parts.items()}
    return {f"{old}.{tensor}": f"{new}.{tensor}" for old, new in layers.items() for tensor in ("weight", "bias")}


def convert(checkpoint: Mapping[str, Any], mean: Tensor, std: Tensor) -> Conversion:
    """Maps a checkpoint of the released layout.

    Args:
        checkpoint: its content: ``model`` and ``ema``; ``step`` and ``opt`` are not needed.
        mean: of each image feature over the training set.
        std: likewise.

    Raises:
        ValueError: if it is none, tensors are missing or unknown, a shape or value is wrong, or the statistics are of
            other features.
    """
    source, tensors = _network(checkpoint)
    table = names()
    if missing := sorted(set(table) - set(tensors)):
        raise ValueError(f"{source}: the network lacks {_listed(missing)}; is it another one?")
    if unknown := sorted(set(tensors) - set(table)):
        raise ValueError(f"{source}: the network has {_listed(unknown)}, which ScoreHMR's does not")
    first = tensors["blocks.0.block.layer_norm1.weight"]
    if first.ndim != 1 or len(first) <= POSE_DIM:
        raise ValueError(
            f"{source}blocks.0.block.layer_norm1.weight: has shape {tuple(first.shape)}, expected (144 + features,)"
        )
    cond_dim = len(first) - POSE_DIM
    diffusion = PoseAndShape(cond_dim)
    own = diffusion.pose.state_dict()
    for old, new in table.items():
        value = tensors[old]
        if value.shape != own[new].shape:
            raise ValueError(
                f"{source}{old}: has shape {tuple(value.shape)}, expected {tuple(own[new].shape)} with features of "
                f"length {cond_dim}"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{source}{old}: holds values that are not finite")
        own[new] = value.to(own[new].dtype)
    diffusion.pose.load_state_dict(own)
    if len(mean) != cond_dim:
        raise ValueError(f"statistics: are of {len(mean)} features, but the network takes {cond_dim}")
    standardizer = Standardizer(cond_dim)
    standardizer.load_state_dict({"mean": mean, "std": std})
    step = checkpoint.get("step")
    return Conversion(
        nn.ModuleDict({"diffusion": diffusion, "standardizer": standardizer}).eval(),
        source,
        int(step) if isinstance(step, int | Tensor) else None,
        table,
        _others(checkpoint, source, len(tensors)),
    )


def read_statistics(path: Path) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the image features, flattened channel by channel like the features.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has neither pair of keys, they differ in shape, or a value is not finite or no deviation.
    """
    content = load_npz(path)
    found = next((keys for keys in STATISTICS if all(key in content for key in keys)), None)
    if found is None:
        wanted = " nor ".join(f"{mean} and {std}" for mean, std in STATISTICS)
        raise ValueError(f"{path}: has neither {wanted}; it holds {', '.join(content)}")
    mean, std = (np.asarray(content[key]) for key in found)
    if mean.shape != std.shape or not all(np.issubdtype(array.dtype, np.floating) for array in (mean, std)):
        raise ValueError(
            f"{path}: {found[0]} is {mean.dtype} {mean.shape} and {found[1]} is {std.dtype} {std.shape}, expected "
            "floats of one shape"
        )
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise ValueError(f"{path}: {found[0]} or {found[1]} is not finite, or a deviation is not above 0")
    flat_mean, flat_std = (torch.from_numpy(array.astype(np.float32).reshape(-1)) for array in (mean, std))
    return flat_mean, flat_std


def main(args: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="file of the released program, with step, model, opt and ema")
    parser.add_argument("statistics", type=Path, help="npz with the image features' mean and standard deviation")
    parser.add_argument("output", type=Path, help="safetensors file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    options = parser.parse_args(args)
    try:
        if options.output.exists() and not options.overwrite:
            raise FileExistsError(f"{options.output}: exists; choose another file or --overwrite")
        conversion = convert(read(options.checkpoint), *read_statistics(options.statistics))
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (options.checkpoint, options.statistics)]
        about = {
            "about": "converted from a checkpoint in the layout of ScoreHMR's released program",
            "network": conversion.source,
            "steps": "unknown" if conversion.step is None else str(conversion.step),
            "sha256 of the checkpoint": digests[0],
            "sha256 of the statistics": digests[1],
        }
        save_weights(options.output, conversion.model, METHOD, about)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sums = [
        f"sha256 of {path}: {digest} (none is published to compare)"
        for path, digest in zip((options.checkpoint, options.statistics), digests, strict=True)
    ]
    print(*conversion.report(), *sums, f"wrote {options.output}", sep="\n")
    return 0


def _network(checkpoint: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """Prefix and tensors of the best copy of the network, by their names without the prefix."""
    for entry, prefix in SOURCES:
        state = checkpoint.get(entry)
        found = {
            key[len(prefix) :]: value
            for key, value in (state.items() if isinstance(state, Mapping) else ())
            if isinstance(key, str) and key.startswith(prefix)
        }
        if found:
            if wrong := sorted(name for name, value in found.items() if not isinstance(value, Tensor)):
                raise ValueError(f"{prefix}: not tensors: {_listed(wrong)}")
            return prefix, found
    expected = " or ".join(f"{prefix}* in {entry!r}" for entry, prefix in SOURCES)
    raise ValueError(
        f"not a checkpoint of ScoreHMR's released program: no {expected}; it has {sorted(map(str, checkpoint))[:8]}"
    )


def _others(checkpoint: Mapping[str, Any], source: str, taken: int) -> dict[str, int]:
    counts = {}
    for entry, prefix in SOURCES:
        state = checkpoint.get(entry)
        if isinstance(state, Mapping):
            counts[entry] = len(state) - (taken if prefix == source else 0)
    return {entry: count for entry, count in counts.items() if count}


def _listed(found: list[str]) -> str:
    return ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")


if __name__ == "__main__":
    sys.exit(main())
