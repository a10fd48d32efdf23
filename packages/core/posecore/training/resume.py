"""What a training run that was killed needs beyond Lightning to go on as if nothing had happened."""

import logging
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.evaluation_loop import RestartStage as EvaluationStage
from lightning.pytorch.loops.fit_loop import RestartStage
from torch import Tensor

from posecore.training.checkpoint_io import SafeCheckpointIO

_log = logging.getLogger(__name__)

GRADIENTS = "accumulated_gradients"
BATCHES = "batches"


class Resume(Callback):
    """Makes a resumed run the uninterrupted one's equal, batch by batch, and its checkpoints safe.

    Every run of the command line has it. Lightning 2.6 restores weights, optimiser, schedule and counters; this adds:

    - Checkpoints are written and read by `SafeCheckpointIO`.
    - Lightning counts wrong from some checkpoints. Saved inside a step's last hook, at the end of an epoch, a run
      whose length is given in steps goes on one epoch too late, one of given epochs starts the epoch of a second
      resume from its first batch, and the validation that was due is left out. `tidy` brings the counters of a
      checkpoint into the one form that Lightning continues rightly from, and a validation that was due is run.
    - A message where the run goes on with other processes or batches, which cannot be exact.
    - Gradients, where the checkpoint falls between batches that are accumulated. Of several processes they are averaged
      as they would be at the end, equal but for rounding.

    The order of the batches (`posecore.data.mixing.EpochSampler`), augmentation and noise (`StepSeed`) depend on the
    place in the run alone.
    """

    def __init__(self) -> None:
        self._inside_step = False
        self._loaded_step = 0
        self._batches: dict[str, int] = {}
        self._gradients: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes over reading and writing of checkpoints, unless another plugin was asked for."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = SafeCheckpointIO()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds how rows were shared out, and gradients that no step has used yet."""
        checkpoint[BATCHES] = batches_of(trainer)
        if trainer.fit_loop._should_accumulate():
            checkpoint[GRADIENTS] = {
                name: trainer.strategy.reduce(parameter.grad.clone(), reduce_op="mean")
                for name, parameter in pl_module.named_parameters()
                if parameter.grad is not None
            }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tidies the counters before Lightning reads them."""
        self._inside_step = tidy(checkpoint["loops"]["fit_loop"])
        self._loaded_step = checkpoint["global_step"]
        self._gradients = checkpoint.get(GRADIENTS, {})
        self._batches = checkpoint.get(BATCHES, {})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sees that all processes go on from the same place; they would wait for each other for ever if not.

        Raises:
            ValueError: They do not: nodes see different files.
        """
        first = trainer.strategy.broadcast(self._loaded_step)
        if not trainer.strategy.reduce_boolean_decision(first == self._loaded_step):
            raise ValueError(
                f"ckpt_path: the first process has a checkpoint of step {first}, and another has not (this "
                f"one: step {self._loaded_step}); default_root_dir must be a folder that all nodes share"
            )
        if self._batches and trainer.is_global_zero and (said := changed_batches(self._batches, batches_of(trainer))):
            _log.warning("ckpt_path: %s", said)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts gradients back, and decides what comes before the next batch."""
        for name, parameter in pl_module.named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients[name].to(parameter)
        self._gradients = {}
        if self._inside_step:
            self._end_step(trainer)
        progress: Any = trainer.fit_loop.epoch_progress.current
        if progress.ready == progress.processed:
            trainer.fit_loop.epoch_loop.restarting = False  # a new epoch, whatever the counters of the one before

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends a run whose last state is not on the disk as a failed one.

        Raises:
            OSError: The last checkpoint could not be saved.
        """
        failure = getattr(trainer.strategy.checkpoint_io, "failure", None)
        if failure is not None:
            raise OSError(f"the training is done, but its last checkpoint was not saved: {failure}")

    def _end_step(self, trainer: Trainer) -> None:
        """What Lightning does after a step's last hook, in which the checkpoint was saved."""
        self._inside_step = False
        fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
        assert fit._data_fetcher is not None
        if epoch._should_check_val_fx(fit._data_fetcher):
            epoch.val_loop._restart_stage = EvaluationStage.RESTARTED_MID_EVALUATION
            epoch.val_loop.batch_progress.reset()
            return
        if not epoch._should_accumulate():
            epoch._batches_that_stepped += 1
        if epoch._num_ready_batches_reached():
            for count in (fit.epoch_progress.current, fit.epoch_progress.total):
                _end(count)
            fit._restart_stage = RestartStage.NONE


def batches_of(trainer: Trainer) -> dict[str, int]:
    """Number of processes, and the rows that each has in a batch (0 where the data does not say)."""
    data = getattr(trainer, "datamodule", None)
    return {"processes": trainer.world_size, "batch_size": getattr(data, "batch_size", None) or 0}


def changed_batches(before: dict[str, int], now: dict[str, int]) -> str:
    """What is not exact in a run that goes on with other batches; empty where they are the same.

    Args:
        before: What `batches_of` said when the checkpoint was saved.
        now: What it says of the run that goes on.
    """
    if before == now:
        return ""
    said = " and ".join(f"{counts['processes']} x {counts['batch_size']} rows" for counts in (before, now))
    if before["processes"] * before["batch_size"] == now["processes"] * now["batch_size"]:
        return f"processes and batches were and are {said}: steps see the rows they would have seen, with other noise"
    return (
        f"processes and batches were and are {said}: of the running epoch some rows come twice or not at all, and "
        "steps have another number of rows at the same learning rate (docs/clusters.md)"
    )


def tidy(loops: dict[str, Any]) -> bool:
    """Brings the counters of a checkpoint into the form that they have between two batches.

    Args:
        loops: State of the fit loop; changed in place.

    Returns:
        Whether the checkpoint was saved in the last hook of a step (``on_train_batch_end``), after which a validation
        may be due.
    """
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    inside_step = bool(batches["total"]["completed"] < batches["total"]["processed"])
    if inside_step:
        for count in (batches["total"], batches["current"]):
            count["completed"] = count["processed"]
    if epochs["current"]["processed"] == epochs["current"]["ready"]:  # saved in the last hook of an epoch
        for count in (epochs["total"], epochs["current"]):
            count["completed"] = count["processed"]
    return inside_step


def _end(count: Any) -> None:
    """Counts the running epoch as over."""
    count.processed = count.completed = count.ready
