"""What a cluster's warning does to a training run: a checkpoint at the end of the step, and a way out."""

import copy
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info

REQUEUE = 75
"""Exit code of a run that was stopped and can go on (EX_TEMPFAIL); `tools/slurm/train.sbatch` waits for it."""


class Preemption(Callback):
    """On SIGUSR1 or SIGTERM, saves ``last.ckpt`` at the end of the running step and exits with code 75.

    Slurm sends the first before the time limit and at preemption (``--signal=USR1@120``), other schedulers and
    ``torchrun`` the second. The signal reaches the ranks in different steps, and perhaps some of them only. So it is
    only noted; after every step the ranks agree whether one of them has it, and all stop after the same step. This
    takes the place of Lightning's handlers, which save and talk to the other ranks from inside the handler: in the
    middle of a step, with ranks in different steps, where they can wait for each other for ever.

    A signal during validation acts after the running batch of it; the checkpoint is the one of the step before, and
    the resumed run begins with the whole validation (`posecore.training.resume`). Ranks may have different numbers of
    batches, so they agree only after batches that all of them have; a signal that comes later acts after the next step.
    After the last step of a run nothing is left to resume: that validation is not done again.

    The callback must come after those that change something after a step, such as the average of the weights, so that
    its checkpoint holds the change.

    Args:
        signals: Names of the signals.

    Raises:
        ValueError: No such signal.
    """

    def __init__(self, signals: Sequence[str] = ("SIGUSR1", "SIGTERM")) -> None:
        unknown = [name for name in signals if name not in signal.Signals.__members__]
        if unknown:
            raise ValueError(f"signals: there is no {unknown[0]!r}; names are such as 'SIGUSR1' and 'SIGTERM'")
        self.signals = [signal.Signals[name] for name in signals]
        self._before: dict[int, Any] = {}
        self._training = False
        self._received = False
        self._stopping = False
        self._shared: list[int] = []
        """Batches of each validation set that all ranks have; none outside of a training's validation."""
        self._counters: dict[str, Any] | None = None
        """Where the training is, as of the step before the running validation."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the signals before worker processes are started: they would end at one that nobody handles."""
        if stage == "fit":
            self._before = {int(number): signal.getsignal(number) for number in self.signals}
            self._training = True
            self._take()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the signals back from Lightning, which has put its own handlers around these."""
        self._take()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves, on all ranks after the same step. Lightning has yet to log this step, so the way out is the next hook.

        Batches that only add to an accumulated gradient are no end of a step.
        """
        if trainer.fit_loop._should_accumulate() or self._stopping:
            return
        self._stopping = trainer.strategy.reduce_boolean_decision(self._received, all=False)
        if self._stopping:
            path = save_last(trainer)
            where = "no ModelCheckpoint, so nothing is saved" if path is None else f"saved {path}"
            rank_zero_info(f"Stopped by a signal after step {trainer.global_step}: {where}")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Leaves, where the step before was the last one.

        Raises:
            SystemExit: A rank has received a signal; with the code 75.
        """
        if self._stopping:
            raise SystemExit(REQUEUE)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves, instead of a validation for which there may be no time.

        Raises:
            SystemExit: A rank has received a signal; with the code 75.
        """
        if self._stopping:
            raise SystemExit(REQUEUE)
        if not self._training or trainer.sanity_checking:
            return
        self._counters = counters_inside_step(trainer)
        counts = [count if isinstance(count, int) else 0 for count in trainer.num_val_batches]  # infinite: no number
        of_ranks = trainer.strategy.all_gather(torch.tensor(counts, device=pl_module.device))
        self._shared = of_ranks.reshape(-1, len(counts)).amin(dim=0).tolist()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Saves the state of the step before and leaves, on all ranks after the same batch.

        Raises:
            SystemExit: A rank has received a signal; with the code 75.
        """
        if not self._shared or batch_idx >= self._shared[dataloader_idx]:
            return
        if not trainer.strategy.reduce_boolean_decision(self._received, all=False):
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):  # has put the average in the place of the trained weights
                callback.on_validation_epoch_end(trainer, pl_module)
        path = save_last(trainer)
        where = "no ModelCheckpoint, so nothing is saved" if path is None else f"saved {path}"
        rank_zero_info(f"Stopped by a signal in the validation after step {trainer.global_step}: {where}")
        raise SystemExit(REQUEUE)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on, signals act after a step again."""
        self._shared, self._counters = [], None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Says of a checkpoint that is saved in the middle of a validation that the validation is still to come."""
        if self._counters is not None:
            checkpoint["loops"]["fit_loop"] = self._counters

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """As `teardown`, which Lightning does not call after an error."""
        self._training = False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """From here on a signal does what it did before. (Lightning is about to bring the handler below back.)"""
        self._training = False

    def _take(self) -> None:
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._training:
            self._received = True
        else:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)


def counters_inside_step(trainer: Trainer) -> dict[str, Any]:
    """State of the fit loop as it was in the last hook of the step, before the validation that is about to begin."""
    counters = copy.deepcopy(trainer.fit_loop.state_dict())
    for count in (counters["epoch_loop.batch_progress"][part] for part in ("total", "current")):
        count["completed"] = count["processed"] - 1
    return counters


def save_last(trainer: Trainer) -> Path | None:
    """Saves the state as the ``last.ckpt`` that ``--ckpt_path last`` continues from; to be called by all ranks.

    Returns:
        The file, or None where the run keeps no checkpoints.
    """
    found = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    if not found or found[0].dirpath is None:
        return None
    keeper = next((callback for callback in found if callback.save_last), found[0])
    path = Path(str(keeper.dirpath)) / f"{keeper.CHECKPOINT_NAME_LAST}{keeper.FILE_EXTENSION}"
    keeper.last_model_path = str(path)  # or it would take the file for another run's, and write last-v1.ckpt beside it
    trainer.save_checkpoint(path)
    return path
