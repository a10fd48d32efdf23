"""Errors joint by joint over a training, as a heat map on the TensorBoard dashboard."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from posecore.body.skeletons import get_joint_set
from posecore.data.sample import PoseSample, group_names
from posecore.metrics import functional
from posecore.metrics.protocols import Protocol
from posecore.render.joint_plots import joint_heat_map
from posecore.training.joint_means import JointMeans
from posecore.training.step_outputs import StepOutputs

_MOST_COLUMNS = 48


class JointErrors(Callback):
    """Draws ``val/<set>/error_per_joint``: a row per joint, a column per validation so far, mm.

    The pose is the one that is scored without the truth's help, aligned and averaged as the protocol says: the mean of
    a column is ``val/<set>/mpjpe`` (ZeDO: ``chosen_mpjpe``) where all joints are known. The columns are kept in the
    checkpoint, so that a resumed run goes on with its picture; of more than 48 every other one is dropped.
    """

    def __init__(self) -> None:
        self.history: dict[str, dict[str, list[Any]]] = {}
        """Of every set: ``steps``, and ``errors`` of each, joint by joint."""
        self._metrics: dict[str, JointMeans] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the metrics of all sets, on every process."""
        data, protocol = trainer.datamodule, _protocol(pl_module)  # type: ignore[attr-defined]
        self._metrics = {
            name: JointMeans(data.groups(name, protocol.group_keys) or None, num_rows=protocol.num_joints).to(
                pl_module.device
            )
            for name in data.val_names
        }

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
        protocol, name = _protocol(pl_module), trainer.datamodule.val_names[dataloader_idx]  # type: ignore[attr-defined]
        errors, counted = errors_per_joint(outputs, protocol)
        self._metrics[name].update(errors, counted, group_names(batch, protocol.group_keys))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws a heat map of every set."""
        protocol = _protocol(pl_module)
        joint_names = get_joint_set(protocol.joint_set).joint_names
        names = [joint_names[joint] for joint in protocol.scored_joints]
        for name, metric in self._metrics.items():
            if not metric.update_called and trainer.world_size == 1:  # several processes compute together, or hang
                continue
            mean = metric.compute()
            if trainer.sanity_checking or not bool(mean.isfinite().any()):
                continue
            errors = mean.tolist()
            kept = _with_column(self.history.get(name), trainer.global_step, errors)
            self.history[name] = kept
            if not trainer.is_global_zero:
                continue
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    figure = joint_heat_map(torch.tensor(kept["errors"]), kept["steps"], names, f"val/{name}, error")
                    logger.experiment.add_figure(f"val/{name}/error_per_joint", figure, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """The columns so far."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with them."""
        self.history = state_dict["history"]


def errors_per_joint(outputs: StepOutputs, protocol: Protocol) -> tuple[Tensor, Tensor]:
    """Errors (people, joints) of the protocol's joints in mm, and which of them count.

    Args:
        outputs: Of a step.
        protocol: Says what is aligned.
    """
    root, joints = list(protocol.root), list(protocol.scored_joints)
    pred, target = outputs["pose"].float(), outputs["target"].float()
    known = outputs.get("known")
    known = torch.ones_like(target[..., 0], dtype=torch.bool) if known is None else known
    if protocol.center_prediction:
        pred = functional.subtract_root(pred, tuple(root))
    errors = functional.joint_errors(pred, functional.subtract_root(target, tuple(root)), None)
    return errors[:, joints], (known & protocol.is_scored(known)[:, None])[:, joints]


def _protocol(pl_module: LightningModule) -> Protocol:
    protocol = pl_module.protocol
    if not isinstance(protocol, Protocol):
        raise TypeError(f"{type(pl_module).__name__}.protocol must be a Protocol, got {type(protocol).__name__}")
    return protocol


def _with_column(kept: dict[str, list[Any]] | None, step: int, errors: list[float]) -> dict[str, list[Any]]:
    """The columns with one more; one of the same step, of a run that was resumed there, is replaced."""
    columns = [] if kept is None else list(zip(kept["steps"], kept["errors"], strict=True))
    columns = [(s, e) for s, e in columns if s < step]
    if len(columns) >= _MOST_COLUMNS:
        columns = columns[::2]
    columns.append((step, errors))
    return {"steps": [s for s, _ in columns], "errors": [e for _, e in columns]}
