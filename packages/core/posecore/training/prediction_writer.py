"""What `predict` leaves behind: JSON and npz of every hypothesis, and a panel to look at."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from posecore.data.keypoint_dataset import KeypointDataset, KeypointInput
from posecore.export.files import OutputFolder, write_bytes
from posecore.export.predictions import PosePredictions, write_predictions_json, write_predictions_npz
from posecore.geometry.camera import project
from posecore.render.panels import figure_png, hypothesis_panel, read_photo


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions.json``, ``predictions.npz`` and ``panel.png``.

    A method's ``predict_step`` returns ``hypotheses`` (camera frame, metres), ``best`` and ``reprojection_error_px``.

    Args:
        folder: Where to; made and checked before any work is done. The default is ``runs/<method>/predictions``.
        overwrite: Whether a folder that holds something may be written into.
    """

    def __init__(self, folder: Path | None = None, overwrite: bool = False) -> None:
        super().__init__(write_interval="epoch")
        self.folder = folder
        self.overwrite = overwrite
        self._output: OutputFolder | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folder.

        Raises:
            FileExistsError: It holds something and ``overwrite`` is off.
            PermissionError: It cannot be written.
        """
        if trainer.is_global_zero:
            folder = self.folder or Path("runs") / type(pl_module).__name__.lower() / "predictions"
            self._output = OutputFolder(folder, self.overwrite)

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Gathers the batches of all processes in the order of the input, and writes."""
        parts = [(predictions, batch_indices)]
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, parts[0])
            parts = gathered
        if self._output is None:
            return
        rows: dict[int, dict[str, torch.Tensor]] = {}
        for outputs, indices in parts:
            # Batches of whole groups say themselves which rows they hold.
            known = [output["row"].tolist() for output in outputs if "row" in output] or indices[0]
            for output, index in zip(outputs, known, strict=True):
                for k, row in enumerate(index):  # padding repeats rows across processes; one of each is kept
                    rows[row] = {name: value[k].cpu() for name, value in output.items()}
        stacked = {name: torch.stack([rows[row][name] for row in sorted(rows)]) for name in rows[0]}
        self.write(trainer, pl_module, stacked, self._output)

    def write(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, torch.Tensor], folder: OutputFolder
    ) -> None:
        """Writes the files.

        Args:
            trainer: Its data module has what was read.
            pl_module: The method.
            outputs: What ``predict_step`` returned, one row per row of the input.
            folder: Where to.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        made = _assemble(type(pl_module).__name__, data.predict_set, data.predict, outputs)
        write_predictions_json(folder.file("predictions.json"), made)
        write_predictions_npz(folder.file("predictions.npz"), made)
        write_bytes(folder.file("panel.png"), _panel(made, data.predict_set, data.predict))
        print(_summary(made, folder.path))  # noqa: T201


def _assemble(
    method: str, dataset: KeypointDataset, source: KeypointInput, outputs: dict[str, torch.Tensor]
) -> PosePredictions:
    people, samples = dataset.people, dataset.samples
    names = people.image_names
    if source.photo is not None:
        names = tuple(name or source.photo.name for name in names)
    return PosePredictions(
        method=method,
        joint_set=dataset.joint_set,
        hypotheses=outputs["hypotheses"],
        best=outputs["best"],
        reprojection_error_px=outputs["reprojection_error_px"],
        keypoints_2d_px=samples["joints_2d_px"],
        confidence=samples["confidence"],
        K=samples["K"],
        camera_assumed=dataset.camera_assumed,
        camera_statement=dataset.camera_statement,
        ids=people.ids,
        frames=people.frames,
        image_names=names,
        image_size=samples.get("image_size"),
        settings={"keypoints": str(source.keypoints)},
    )


def _panel(made: PosePredictions, dataset: KeypointDataset, source: KeypointInput) -> bytes:
    best = made.best_joints
    figure = hypothesis_panel(
        None if source.photo is None else read_photo(source.photo),
        dataset.people.keypoints,
        dataset.people.confidence,
        made.hypotheses,
        made.best,
        made.joint_set,
        f"{made.method}, {made.hypotheses.shape[1]} hypotheses",
        f"Camera: {made.camera_statement}",
        keypoint_set=dataset.people.joint_set,
        reprojected_px=project(best, made.K),
        labels=[f"{who} frame {frame}" for who, frame in zip(made.ids, made.frames, strict=True)],
    )
    return figure_png(figure)


def _summary(made: PosePredictions, folder: Path) -> str:
    error = made.reprojection_error_px[torch.arange(len(made)), made.best]
    seen = error[error.isfinite()]
    mean = float(seen.mean()) if len(seen) else math.nan
    return (
        f"{len(made)} people x {made.hypotheses.shape[1]} hypotheses; chosen ones {mean:.1f} px from their keypoints\n"
        f"camera: {made.camera_statement}\n"
        f"written: {folder}/predictions.json, predictions.npz, panel.png"
    )
