"""Pose panels on the TensorBoard dashboard."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from posecore.data.crops import IMAGENET_MEAN, IMAGENET_STD
from posecore.data.sample import PoseSample
from posecore.render.cells import enlarged
from posecore.render.mesh import overlay
from posecore.render.panels import hypothesis_panel
from posecore.training.step_outputs import StepOutputs


class PosePanels(Callback):
    """Draws ``<stage>/<set>/poses``, the first people of every validation and test set.

    Picture and keypoints, the mesh over the picture where a method has meshes and the data have pictures, the chosen
    hypothesis with the truth, and the spread of all (`posecore.training.step_outputs`). Nothing is drawn where the run
    has no TensorBoard logger.

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
        self._draw(trainer, pl_module, f"val/{names[dataloader_idx]}", outputs, batch, batch_idx)

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
        self._draw(trainer, pl_module, f"test/{names[dataloader_idx]}", outputs, batch, batch_idx)

    def _draw(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        tag: str,
        outputs: StepOutputs | None,
        batch: PoseSample,
        batch_idx: int,
    ) -> None:
        if batch_idx or outputs is None or trainer.sanity_checking or not trainer.is_global_zero:
            return
        rows = slice(0, self.num_people)
        keypoint_set = trainer.datamodule.joint_set  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                images = _pictures(batch["image"][rows]) if "image" in batch else None
                figure = hypothesis_panel(
                    images,
                    batch["joints_2d_px"][rows].cpu(),
                    batch["confidence"][rows].cpu(),
                    outputs["joints_rel"][rows].float().cpu(),
                    outputs["best"][rows].cpu(),
                    outputs.get("joint_set", keypoint_set),
                    f"{tag}, step {trainer.global_step}",
                    keypoint_set=keypoint_set,
                    truth=_known_truth(outputs, rows),
                    overlays=None if images is None else _overlays(pl_module, outputs, batch, images, rows),
                )
                # Half of the resolution of a picture that is kept: there is one for every validation.
                figure.set_dpi(64)
                logger.experiment.add_figure(f"{tag}/poses", figure, trainer.global_step)


def _pictures(image: Tensor) -> list[np.ndarray]:
    """Normalised crops as pictures."""
    mean, std = (torch.tensor(values, device=image.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    pictures = (255 * (image.float() * std + mean)).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return list(pictures.cpu().numpy())


def _overlays(
    pl_module: LightningModule, outputs: StepOutputs, batch: PoseSample, images: list[np.ndarray], rows: slice
) -> list[np.ndarray] | None:
    """The crops with the meshes on them."""
    if "vertices" not in outputs:
        return None
    faces: Any = pl_module.body_model.faces  # type: ignore[union-attr]
    vertices = outputs["vertices"](rows).float().cpu()
    pictures = []
    for image, mesh, K in zip(images, vertices, batch["K"][rows], strict=True):
        large, K_large = enlarged(image, K, (0, 0, image.shape[1], image.shape[0]))
        pictures.append(overlay(large, mesh, faces.cpu(), K_large, antialias=1))
    return pictures


def _known_truth(outputs: StepOutputs, rows: slice) -> Tensor | None:
    if "target" not in outputs:
        return None
    target, known = outputs["target"][rows].float().cpu(), outputs.get("known")
    return target if known is None else torch.where(known[rows].cpu()[..., None], target, torch.nan)
