"""Learning-rate schedules that more than one method uses."""

import math

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_schedule(optimizer: Optimizer, warmup_steps: int, total_steps: int | None = None) -> LambdaLR:
    """Linear warm-up, then constant, or a half cosine down to zero at ``total_steps``.

    Args:
        optimizer: Whose rate.
        warmup_steps: Steps until the full rate is reached; 0 for none.
        total_steps: Length of the whole run in steps; None (or -1, a run without end) keeps the rate constant.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if total_steps is None or total_steps < 0 or math.isinf(total_steps):
            return 1.0
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return LambdaLR(optimizer, factor)


def with_warmup(optimizer: Optimizer, warmup_steps: int, total_steps: int | None = None) -> OptimizerLRScheduler:
    """What `configure_optimizers` returns: the optimiser, and `warmup_schedule`, which moves after every step."""
    schedule = warmup_schedule(optimizer, warmup_steps, total_steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def share_of_training(trainer: Trainer) -> float:
    """How much of the optimiser's steps is done: 0 of a training without end, all where nothing is trained."""
    if trainer.state.fn != TrainerFn.FITTING:
        return 1.0
    total = trainer.estimated_stepping_batches
    return trainer.global_step / total if total not in (-1, float("inf")) and total else 0.0
