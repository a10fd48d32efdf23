"""Pose panels on the TensorBoard dashboard."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from posecore.data.sample import PoseSample
from posecore.render.panels import hypothesis_panel


class PosePanels(Callback):
    """Draws the first poses of every validation and test set: keypoints, chosen hypothesis, spread of all.

    A method's ``validation_step`` and ``test_step`` return ``joints_rel`` (people hypotheses joints 3, metres, camera
    frame) and ``best``, and ``joint_set`` where these joints are not those of the keypoints. Nothing is drawn where the
    run has no TensorBoard logger.

    Args:
        num_people: Rows of a panel.

    Raises:
        ValueError: ``num_people`` is below 1.
    """

    def __init__(self, num_people: int = 4) -> None:
        if num_people < 1:
            raise ValueError(f"num_people must be at least 1, got {num_people}")
        self.num_people = num_people

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PoseSample,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws the first batch's first poses."""
        names = trainer.datamodule.val_names  # type: ignore[attr-defined]
        self._draw(trainer, f"val/{names[dataloader_idx]}", outputs, batch, batch_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PoseSample,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws the first batch's first poses."""
        names = trainer.datamodule.test_names  # type: ignore[attr-defined]
        self._draw(trainer, f"test/{names[dataloader_idx]}", outputs, batch, batch_idx)

    def _draw(self, trainer: Trainer, tag: str, outputs: Any, batch: PoseSample, batch_idx: int) -> None:
        if batch_idx or not trainer.is_global_zero:
            return
        rows = slice(0, self.num_people)
        keypoint_set = trainer.datamodule.joint_set  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                figure = hypothesis_panel(
                    None,
                    batch["joints_2d_px"][rows].cpu(),
                    batch["confidence"][rows].cpu(),
                    outputs["joints_rel"][rows].float().cpu(),
                    outputs["best"][rows].cpu(),
                    outputs.get("joint_set", keypoint_set),
                    f"{tag}, step {trainer.global_step}",
                    keypoint_set=keypoint_set,
                )
                logger.experiment.add_figure(f"{tag}/poses", figure, trainer.global_step)
