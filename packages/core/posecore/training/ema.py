"""Exponential moving average of the weights, for validation, checkpoints and the final model."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Keeps ``average <- d average + (1 - d) weights`` beside the weights that are trained.

    Validation uses the average; a checkpoint's ``state_dict`` is the average (so `test` and `predict` use it) and holds
    the trained weights beside it, so training resumes exactly. Buffers are never averaged, only copied: averaging
    would corrupt integer ones.

    Args:
        decay: The limit of d.
        ramp: Start with a smaller ``d = (1 + n) / (10 + n)`` after n updates, so that a short run is not dominated by
            its first weights. The first update copies the weights, with and without a ramp.
        every_n_steps: Update every so many optimiser steps.

    Raises:
        ValueError: ``decay`` outside [0, 1) or ``every_n_steps`` below 1.
    """

    def __init__(self, decay: float = 0.9999, ramp: bool = True, every_n_steps: int = 1) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.decay = decay
        self.ramp = ramp
        self.every_n_steps = every_n_steps
        super().__init__(use_buffers=False, multi_avg_fn=self._average)

    @torch.no_grad()
    def _average(self, averaged: Any, current: Any, num_averaged: Tensor | int) -> None:
        n = float(num_averaged)
        decay = min(self.decay, (1 + n) / (10 + n)) if self.ramp else self.decay
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether the average moves after this optimiser step."""
        return step_idx is not None and step_idx % self.every_n_steps == 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follows the module to its device, and takes weights that its setup hook loaded after the average was made."""
        if self._average_model is None:
            return
        self._average_model.to(pl_module.device)
        if not self._average_model.n_averaged:
            for average, current in zip(self._average_model.module.parameters(), pl_module.parameters(), strict=True):
                average.data.copy_(current.data)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the average in place for validation."""
        self._copy_buffers(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the average in the module."""
        self._copy_buffers(pl_module)
        super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Puts the average into ``state_dict``, and the trained weights beside it."""
        self._copy_buffers(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restores the average when training resumes; a test needs nothing, its ``state_dict`` is the average."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _copy_buffers(self, pl_module: LightningModule) -> None:
        """Brings buffers in step, which a setup hook or steps without an update have changed."""
        if self._average_model is not None:
            for average, current in zip(self._average_model.module.buffers(), pl_module.buffers(), strict=True):
                average.copy_(current)
