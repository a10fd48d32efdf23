"""How fast a training goes, how much of the time it waits for data, and how much of a GPU's memory it takes."""

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from posecore.data.sample import PoseSample

_FETCH = "train_dataloader_next"  # Lightning's profilers are told of this action around every fetch


class Throughput(Callback):
    """Logs ``train/samples_per_second`` and ``train/data_wait`` over the steps since they were last logged.

    Seconds of validation do not count. ``data_wait`` is the share of the remaining time in which the loop waited for
    the loader: near 0 a faster loader (more workers) gains nothing, near 1 the network is idle. Moving a batch to the
    device, and augmentation there, are not waiting. Of several processes, samples are those of all and the wait is the
    first one's.

    On a CUDA device also ``train/peak_memory_gb``: the most memory that tensors took at once since it was last logged,
    validation included, of the first process.
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._samples = 0
        self._fetching = 0.0  # seconds, since ``_began``, as the next
        self._paused = 0.0
        self._since = 0.0
        self._restore: Callable[[], None] = lambda: None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens to the profiler, which is told when a fetch starts and ends."""
        profiler: Any = trainer.profiler  # type: ignore[attr-defined]
        start, stop = profiler.start, profiler.stop

        def start_and_listen(action: str) -> None:
            start(action)
            if action.endswith(_FETCH):
                self._since = time.perf_counter()

        def stop_and_listen(action: str) -> None:
            if action.endswith(_FETCH):
                self._fetching += time.perf_counter() - self._since
            stop(action)

        def restore() -> None:
            profiler.start, profiler.stop = start, stop

        profiler.start, profiler.stop = start_and_listen, stop_and_listen
        self._restore = restore
        self._began = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: PoseSample, batch_idx: int
    ) -> None:
        """Starts the clock at the first batch."""
        if self._began is None:
            self._restart()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self._paused -= time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets it go on."""
        self._paused += time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PoseSample, batch_idx: int
    ) -> None:
        """Logs, where this is a step that is logged."""
        self._samples += len(next(iter(batch.values())))  # type: ignore[arg-type]
        if self._began is None or not trainer._logger_connector.should_update_logs:
            return
        seconds = max(time.perf_counter() - self._began - self._paused, 1e-9)
        values = {
            "train/samples_per_second": self._samples * trainer.world_size / seconds,
            "train/data_wait": min(self._fetching / seconds, 1.0),
        }
        if pl_module.device.type == "cuda":
            values["train/peak_memory_gb"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        pl_module.log_dict(values)
        self._restart()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the profiler as it was."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self._restore()

    def _restart(self) -> None:
        self._began, self._samples, self._fetching, self._paused = time.perf_counter(), 0, 0.0, 0.0
