"""A regressor's estimates of whole data sets as files that a fit can start from."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from posecore.export.files import atomic_write

_KEYS = {"pose_rotmat": "pred_pose", "betas": "pred_betas", "transl": "pred_cam_t"}


class EstimatesFile(Callback):
    """Writes ``<set>.npz`` of every test set: the layout of released regressors' caches of predictions.

    ``pred_pose`` (N, 24, 3, 3), ``pred_betas`` (N, 10) and ``pred_cam_t`` (N, 3), one row for each row of the set, in
    its order; `posecore.data.read_start_estimates` reads them. A method's ``test_step`` returns ``pose_rotmat betas
    transl``.

    Args:
        folder: Where to; the folder of the run's logs where None.
        overwrite: Whether files that are there may be replaced.
    """

    def __init__(self, folder: Path | None = None, overwrite: bool = False) -> None:
        self.folder = folder
        self.overwrite = overwrite
        self._parts: dict[str, list[dict[str, Tensor]]] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks before any work is done whether the files can be written.

        Raises:
            ValueError: If there are several processes, which would each hold a part of the rows.
            FileExistsError: If a file is there.
        """
        if trainer.world_size > 1:
            raise ValueError(f"trainer.devices: EstimatesFile needs one process, got {trainer.world_size}")
        self._parts = {}
        for name in trainer.datamodule.test_names:  # type: ignore[attr-defined]
            if self._path(trainer, name).exists() and not self.overwrite:
                raise FileExistsError(f"{self._path(trainer, name)} is there already; overwrite: true replaces it")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the batch's estimates.

        Raises:
            ValueError: If the method does not give them.
        """
        if lacks := [key for key in _KEYS if key not in (outputs or {})]:
            raise ValueError(f"EstimatesFile: {type(pl_module).__name__}.test_step returns no {', '.join(lacks)}")
        name = trainer.datamodule.test_names[dataloader_idx]  # type: ignore[attr-defined]
        part = {key: outputs[source].detach().float().cpu() for source, key in _KEYS.items()}
        self._parts.setdefault(name, []).append(part)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files."""
        for name, parts in self._parts.items():
            arrays = {key: torch.cat([part[key] for part in parts]).numpy() for key in _KEYS.values()}
            self._path(trainer, name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path(trainer, name)) as temporary:
                np.savez(temporary, allow_pickle=False, **arrays)

    def _path(self, trainer: Trainer, name: str) -> Path:
        return (self.folder or Path(trainer.log_dir or trainer.default_root_dir)) / f"{name}.npz"
