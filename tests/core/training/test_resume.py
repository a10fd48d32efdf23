import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from posecore.body.skeletons import H36M_17
from posecore.data.base import PoseTable
from posecore.data.datamodule import PoseDataModule
from posecore.data.sample import PoseSample
from posecore.training import EMA, StepSeed
from posecore.training.resume import BATCHES, GRADIENTS, Resume, changed_batches, tidy

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")

Event = tuple[Any, ...]
"""A batch that was trained or validated: when, which rows, and the loss."""


def table(root: Path, rows: int) -> PoseTable:
    joints = torch.randn(rows, 17, 3, generator=torch.Generator().manual_seed(0))
    return PoseTable(H36M_17, PoseSample(joints_rel=joints, frame=torch.arange(rows)))


class Tiny(LightningModule):
    """Has all that remembers: averages of batches, dropout, drawn noise, Adam, a schedule."""

    def __init__(self, events: list[Event]) -> None:
        super().__init__()
        nn = torch.nn
        self.network = nn.Sequential(nn.Linear(51, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 51))
        self.events = events

    def training_step(self, batch: PoseSample, batch_idx: int) -> Tensor:
        x = batch["joints_rel"].flatten(1)
        loss: Tensor = (self.network(x) - x - torch.randn_like(x)).square().mean()
        self._note("train", batch, batch_idx, loss)
        return loss

    def validation_step(self, batch: PoseSample, batch_idx: int) -> None:
        x = batch["joints_rel"].flatten(1)
        self._note("val", batch, batch_idx, (self.network(x) - x).square().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _note(self, stage: str, batch: PoseSample, batch_idx: int, loss: Tensor) -> None:
        step = self.trainer.fit_loop.epoch_loop._batches_that_stepped  # what loggers call the step
        rows = tuple(batch["frame"].tolist())
        self.events.append((stage, self.trainer.current_epoch, batch_idx, step, self.global_step, rows, loss.item()))


def fit(
    folder: Path, checkpoint: Path | None = None, workers: int = 0, batch_size: int = 4, **options: Any
) -> tuple[list[Event], Any]:
    """A training of 5 batches an epoch, saved after steps, validations and epochs; its events and final weights."""
    data = PoseDataModule(
        train=[partial(table, rows=22)], val={"a": partial(table, rows=6)}, batch_size=batch_size, num_workers=workers
    )
    kinds: dict[str, dict[str, Any]] = {
        "step": {"every_n_train_steps": 1},
        "validation": {"every_n_epochs": 1, "save_on_train_epoch_end": False},
        "epoch": {"every_n_epochs": 1, "save_on_train_epoch_end": True, "mode": "max"},
    }
    savers = [
        ModelCheckpoint(folder, filename=f"{name}_{{step}}", auto_insert_metric_name=False, save_top_k=-1, **kind)
        for name, kind in kinds.items()
    ]
    torch.manual_seed(0 if checkpoint is None else 1)
    events: list[Event] = []
    module = Tiny(events)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[StepSeed(), EMA(0.9), Resume(), *savers], **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    return events, copy.deepcopy(module.state_dict())


def remaining(whole: list[Event], checkpoint: Path) -> list[Event]:
    """Events of the whole run that the checkpoint does not know yet."""
    content = torch.load(checkpoint, weights_only=True)
    batches = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"]
    trained = [i for i, event in enumerate(whole) if event[0] == "train"]
    rest = whole[trained[batches - 1] + 1 :]
    if not checkpoint.name.startswith("step"):  # saved after the validation, where there was one
        while rest and rest[0][0] == "val":
            rest = rest[1:]
    return rest


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        # Inside an epoch; at its end inside the last step, after the validation, and after the epoch.
        ({"max_epochs": 3}, ["step_3", "step_5", "validation_5", "epoch_5"], "step_8"),
        ({"max_steps": 13}, ["step_3", "step_5", "validation_5", "epoch_5"], "step_8"),
        ({"max_steps": 13, "val_check_interval": 2}, ["step_4", "step_5", "validation_4", "validation_7"], "step_9"),
        ({"max_steps": 13, "val_check_interval": 3, "check_val_every_n_epoch": None}, ["step_6", "step_7"], "step_9"),
        ({"max_epochs": 4, "check_val_every_n_epoch": 2}, ["step_5", "step_10", "epoch_5"], "step_12"),
        # The second checkpoint lies between two batches of one step.
        ({"max_epochs": 4, "accumulate_grad_batches": 2}, ["step_1", "step_3", "epoch_3"], "step_4"),
        ({"max_steps": 7, "accumulate_grad_batches": 3, "val_check_interval": 2}, ["validation_2"], "step_4"),
        ({"max_epochs": 3, "limit_train_batches": 3}, ["step_3", "step_4"], "step_5"),
    ],
)  # fmt: skip
def test_a_resumed_run_is_the_uninterrupted_one(
    options: dict[str, Any], first: list[str], second: str, tmp_path: Path
) -> None:
    whole, weights = fit(tmp_path / "whole", **options)
    paths = [tmp_path / "whole" / f"{name}.ckpt" for name in first]
    paths.append(tmp_path / first[0] / f"{second}.ckpt")  # of the first resumed run: interrupted twice
    for path in paths:
        events, found = fit(
            tmp_path / path.stem if path.parent.name == "whole" else tmp_path / "again", path, **options
        )
        assert events == remaining(whole, path), path
        torch.testing.assert_close(found, weights, rtol=0, atol=0)


def test_other_batches_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tmp_path, max_steps=2)
    path = tmp_path / "step_1.ckpt"
    assert torch.load(path, weights_only=True)[BATCHES] == {"processes": 1, "batch_size": 4}
    fit(tmp_path / "same", path, max_steps=3)
    fit(tmp_path / "other", path, batch_size=2, max_steps=3)
    (said,) = [record.message for record in caplog.records if record.name == "posecore.training.resume"]
    assert said.startswith("ckpt_path: processes and batches were and are 1 x 4 rows and 1 x 2 rows: of the running")


def test_steps_of_the_same_rows_are_told_apart() -> None:
    one, two = ({"processes": count, "batch_size": 8 // count} for count in (1, 2))
    assert changed_batches(one, one) == ""
    assert "1 x 8 rows and 2 x 4 rows: steps see the rows they would have seen" in changed_batches(one, two)


@pytest.mark.parametrize("checkpoint", ["step_7", "epoch_5"])
def test_with_loader_processes(checkpoint: str, tmp_path: Path) -> None:
    """They fetch ahead, before Lightning says which epoch it is."""
    whole, weights = fit(tmp_path / "whole", max_steps=11)
    path = tmp_path / "whole" / f"{checkpoint}.ckpt"
    events, found = fit(tmp_path / "resumed", path, workers=2, max_steps=11)
    assert events == remaining(whole, path)
    torch.testing.assert_close(found, weights, rtol=0, atol=0)


def test_gradients_between_accumulated_batches_are_saved(tmp_path: Path) -> None:
    options = {"max_steps": 5, "accumulate_grad_batches": 3}
    fit(tmp_path / "whole", val_check_interval=2, **options)
    content = torch.load(tmp_path / "whole" / "validation_1.ckpt", weights_only=True)
    assert set(content[GRADIENTS]) == {
        "network.0.weight", "network.0.bias", "network.1.weight", "network.1.bias", "network.3.weight", "network.3.bias"
    }  # fmt: skip
    assert GRADIENTS not in torch.load(tmp_path / "whole" / "step_1.ckpt", weights_only=True)


def counts(ready: int, processed: int, completed: int) -> dict[str, dict[str, int]]:
    part = {"ready": ready, "started": ready, "processed": processed, "completed": completed}
    return {"total": dict(part), "current": dict(part)}


def test_tidy() -> None:
    inside = {"epoch_loop.batch_progress": counts(4, 4, 3), "epoch_progress": counts(1, 0, 0)}
    assert tidy(inside)
    assert inside == {"epoch_loop.batch_progress": counts(4, 4, 4), "epoch_progress": counts(1, 0, 0)}
    assert not tidy(inside)
    epoch_end = {"epoch_loop.batch_progress": counts(5, 5, 5), "epoch_progress": counts(2, 2, 1)}
    assert not tidy(epoch_end)
    assert epoch_end["epoch_progress"] == counts(2, 2, 2)
