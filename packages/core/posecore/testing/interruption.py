"""For tests only: runs that end in the middle, as a machine that is switched off ends them."""

import os
import signal

from lightning.pytorch import Callback, LightningModule, Trainer


class KillAt(Callback):
    """Sends the process a signal when a batch of `predict` begins.

    Args:
        batch: Number of the batch.
        name: Of the signal; at SIGKILL nothing is closed, and nobody can catch it.
    """

    def __init__(self, batch: int, name: str = "SIGKILL") -> None:
        self.batch = batch
        self.name = name

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Sends it."""
        if batch_idx == self.batch:
            os.kill(os.getpid(), signal.Signals[self.name])
