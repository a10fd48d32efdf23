"""For tests only: runs that end in the middle, as a machine that is switched off ends them."""

import os
import signal

from lightning.pytorch import Callback, LightningModule, Trainer


class KillAt(Callback):
    """Kills the process when a batch of `predict` begins; nothing is closed, and nobody can catch it.

    Args:
        batch: Number of the batch.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Kills."""
        if batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)
