"""`torch.compile` for the networks of a training."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn


class Compile(Callback):
    """Compiles networks of a method in place, before the first batch of a run.

    In place: names of weights, checkpoints, the average of the weights and files of weights are those of the network
    that is not compiled. Numbers differ by rounding. The first batch of each shape waits for the compiler, which needs
    a C++ compiler on a CPU.

    Args:
        parts: Names of the networks as attributes of the method, ``denoiser`` or ``network`` for example.
        mode: `torch.compile`'s. ``reduce-overhead`` records CUDA graphs, which small networks on a GPU gain from.

    Raises:
        ValueError: There is no part, or a mode is unknown.
    """

    def __init__(self, parts: list[str], mode: str = "default") -> None:
        if not parts:
            raise ValueError("parts: name at least one network to compile")
        modes = ["default", *torch._inductor.list_mode_options()]
        if mode not in modes:
            raise ValueError(f"mode must be one of {modes}, got {mode!r}")
        self.parts, self.mode = parts, mode

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compiles.

        Raises:
            ValueError: The method has no network of a name.
        """
        for name in self.parts:
            network: Any = getattr(pl_module, name, None)
            if not isinstance(network, nn.Module):
                has = [name for name, _ in pl_module.named_children()]
                raise ValueError(f"parts: {type(pl_module).__name__} has no network called {name!r}; it has {has}")
            network.compile(mode=self.mode)
