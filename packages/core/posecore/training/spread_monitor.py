"""How far a method's hypotheses are apart, on the TensorBoard dashboard."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from posecore.body.skeletons import JointSet, get_joint_set
from posecore.data.sample import PoseSample
from posecore.metrics.functional import free_joints, hypothesis_spread
from posecore.render.joint_plots import joint_bars
from posecore.training.joint_means import JointMeans
from posecore.training.step_outputs import StepOutputs

_SIDES = ("all", "visible", "occluded")


class SpreadMonitor(Callback):
    """Logs ``val/<set>/spread`` (mm), ``spread_visible`` and ``spread_occluded``, and draws ``spread_per_joint``.

    The spread of a joint is its standard deviation over the hypotheses (`functional.hypothesis_spread`), after root
    alignment; a single root joint has none. Visible and occluded apart are known where the data say what the picture
    shows (``smpl24_visible``), or where the keypoints are the hypotheses' own joints: a joint without a keypoint counts
    as occluded. What was never seen is not logged, nor is anything of a method with one answer (ScoreHMR).
    """

    def __init__(self) -> None:
        self._metrics: dict[str, JointMeans] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the metrics of all sets, on every process."""
        rows = len(_SIDES) * sampled_joints(pl_module).num_joints
        names = trainer.datamodule.val_names  # type: ignore[attr-defined]
        self._metrics = {name: JointMeans(num_rows=rows).to(pl_module.device) for name in names}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PoseSample,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds a batch."""
        if outputs is None:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        made: StepOutputs = outputs
        samples = made.get("samples_rel", made["joints_rel"]).float()
        if samples.shape[1] < 2:  # one answer has no spread
            return
        joints = sampled_joints(pl_module)
        spread = hypothesis_spread(samples, tuple(joints.root))
        free = free_joints(torch.ones_like(spread, dtype=torch.bool), tuple(joints.root))
        visible = _visible(batch, joints, data.joint_set)
        unknown = torch.zeros_like(free)
        sides = (free, unknown, unknown) if visible is None else (free, free & visible, free & ~visible)
        self._metrics[data.val_names[dataloader_idx]].update(spread.repeat(1, len(_SIDES)), torch.cat(sides, dim=1))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the means over joints, draws the joints."""
        joints = sampled_joints(pl_module)
        for name, metric in self._metrics.items():
            if not metric.update_called and trainer.world_size == 1:  # several processes compute together, or hang
                continue
            everywhere, *apart = sides = metric.compute().cpu().unflatten(0, (len(_SIDES), joints.num_joints))
            for side, label in zip(sides, ("spread", "spread_visible", "spread_occluded"), strict=True):
                if bool(side.isfinite().any()):
                    pl_module.log(f"val/{name}/{label}", side.nanmean(), add_dataloader_idx=False)
            drawn = bool(everywhere.isfinite().any()) and not trainer.sanity_checking
            if not drawn or not trainer.is_global_zero:
                continue
            both = all(bool(side.isfinite().any()) for side in apart)
            bars = dict(zip(_SIDES[1:], apart, strict=True)) if both else {"all": everywhere}
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    figure = joint_bars(bars, joints.joint_names, f"val/{name}, spread of the hypotheses")
                    logger.experiment.add_figure(f"val/{name}/spread_per_joint", figure, trainer.global_step)


def sampled_joints(pl_module: LightningModule) -> JointSet:
    """Joints of a method's hypotheses: those it is scored by, unless it says otherwise."""
    protocol = pl_module.protocol
    other = getattr(pl_module, "sampled_joints", None)
    joints: JointSet = get_joint_set(protocol.joint_set) if other is None else other  # type: ignore[union-attr,arg-type]
    return joints


def _visible(batch: PoseSample, joints: JointSet, keypoint_set: JointSet) -> Tensor | None:
    """Which joints the picture shows, where that is known."""
    if joints.name == "smpl24" and "smpl24_visible" in batch:
        return batch["smpl24_visible"]
    if joints == keypoint_set and "confidence" in batch:
        return batch["confidence"] > 0
    return None
