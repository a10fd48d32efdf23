"""The device that a benchmark runs on: where tensors go, when a time counts, and how much memory was held."""

from typing import TypeVar

import torch
from torch import Tensor, nn

_Placed = TypeVar("_Placed", Tensor, nn.Module)

_chosen = torch.device("cpu")


def choose(name: str) -> torch.device:
    """Sends all later cases to this device.

    Raises:
        OSError: There is no such device.
    """
    global _chosen
    if name == "cuda" and not torch.cuda.is_available():
        raise OSError("--device cuda: PyTorch finds no GPU here; nothing was run")
    _chosen = torch.device(name)
    return _chosen


def place(value: _Placed) -> _Placed:
    """The tensor or module on the chosen device."""
    return value.to(_chosen)


def synchronize() -> None:
    """Waits until a GPU has done what it was given, so that a time counts the work and not its queueing."""
    if _chosen.type == "cuda":
        torch.cuda.synchronize()


def start_peak() -> None:
    """Peak memory counts from here."""
    if _chosen.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int | None:
    """Most memory that tensors have held on a GPU since `start_peak`; on a CPU `benchmarks.memory` tells."""
    return torch.cuda.max_memory_allocated() if _chosen.type == "cuda" else None
