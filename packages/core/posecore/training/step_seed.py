"""Randomness of training that depends on where the run is, not on how it got there."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch import seed_everything as lightning_seed


def step_seed(trainer: Trainer, batch_idx: int, seed: int = 0) -> int:
    """A seed for one training batch: a function of run seed, epoch, batch and rank."""
    mixed = 0
    for part in (seed, trainer.current_epoch, batch_idx, trainer.global_rank):
        mixed = (mixed * 1_000_003 + part + 1) % (2**32 - 5)
    return mixed


class StepSeed(Callback):
    """Seeds all generators before every training batch, from run seed, epoch, batch and rank.

    A run that is resumed at the end of an epoch then draws the noise and dropout that it would have drawn without the
    interruption, and ranks draw different ones.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Seeds."""
        lightning_seed(step_seed(trainer, batch_idx, self.seed), verbose=False)
