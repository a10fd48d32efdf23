"""For tests only: a training that ends in the middle, as a machine that is switched off ends it."""

import os
import signal

from lightning.pytorch import Callback, LightningModule, Trainer


class KillTraining(Callback):
    """Kills the process when a training batch begins; nothing is closed, and nobody can catch it.

    Every rank kills itself, at the same batch.

    Args:
        batch: Number of the batch, counted over all epochs; of a resumed run, from the beginning of the first.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Kills."""
        if trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)
