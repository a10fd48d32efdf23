"""What the results of a `predict` depend on, so that an interrupted run is continued with the same only."""

import hashlib
import importlib.metadata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from posecore.data.predict_dataset import PredictDataset

FORMAT = "humandiff-run/1"

_SHOWN = 12  # digits of a hash; chance does not meet so many twice
_HEAD = 2**16  # bytes of a picture that are read


def run_fingerprint(
    trainer: Trainer, module: LightningModule, data: PredictDataset, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Method, settings, inputs, weights and versions as JSON values; large things as hashes.

    Args:
        trainer: Says on what it runs. The number of processes may change: noise belongs to the row.
        module: With the weights that it runs with.
        data: The rows, with the pictures they are in.
        settings: Options of the command line.
    """
    people = data.people
    labels = [list(people.ids), list(people.frames), list(people.image_names)]
    samples: Mapping[str, Any] = data.samples
    return {
        "format": FORMAT,
        "method": type(module).__name__,
        "settings": dict(settings),
        "inputs": {
            "rows": len(data),
            "labels": _digest([repr(labels).encode()]),
            **{name: _digest([_bytes(value)]) for name, value in samples.items() if isinstance(value, torch.Tensor)},
            "pictures": _digest(_head(photo) for photo in dict.fromkeys(data.photos) if photo is not None),
        },
        "weights": _digest(_state(module)),
        "device": {
            "accelerator": type(trainer.accelerator).__name__,
            "precision": str(trainer.precision),
        },
        "versions": {name: importlib.metadata.version(name) for name in ("humandiff", "torch")},
    }


def _digest(parts: Iterable[bytes]) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()[:_SHOWN]


def _state(module: LightningModule) -> Iterable[bytes]:
    """Names and bytes of all weights."""
    for name, value in module.state_dict().items():
        yield name.encode()
        yield _bytes(value)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, torch.Tensor):
        return repr(value).encode()
    content: bytes = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return content


def _head(path: Path) -> bytes:
    """A picture's name, size and beginning."""
    with path.open("rb") as file:
        return f"{path.name} {path.stat().st_size}".encode() + file.read(_HEAD)
