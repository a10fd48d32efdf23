"""For tests only: trainings that end in the middle, as a machine that is switched off or wanted back ends them."""

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


class SignalInValidation(Callback):
    """Sends one rank a signal when it begins a batch of the validation; the others are left alone.

    Args:
        batch: Number of the batch.
        rank: Which rank.
        name: Of the signal.
    """

    def __init__(self, batch: int, rank: int = 0, name: str = "SIGUSR1") -> None:
        self.batch = batch
        self.rank = rank
        self.name = name

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Sends it."""
        if not trainer.sanity_checking and batch_idx == self.batch and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.Signals[self.name])
