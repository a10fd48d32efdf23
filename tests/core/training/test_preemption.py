import copy
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from posecore.training import EMA
from posecore.training.preemption import REQUEUE, Preemption
from posecore.training.resume import Resume


class Interrupted(LightningModule):
    """One weight; while it trains or is validated at some step, a signal arrives."""

    def __init__(self, at: int | None = None, name: str = "SIGUSR1", validation: bool = False) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.at = at
        self.name = name
        self.in_validation = validation
        self.losses: dict[int, float] = {}
        self.validated: list[int] = []

    def arrive(self, validation: bool) -> None:
        if self.global_step == self.at and validation == self.in_validation:
            os.kill(os.getpid(), signal.Signals[self.name])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.arrive(False)
        loss = (self.layer(batch[0]) - 1).square().mean()
        self.losses[self.global_step] = float(loss.detach())
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.arrive(True)
        self.validated.append(self.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.ones(2, 1)))

    val_dataloader = train_dataloader


def trainer(folder: Path, *, keep: bool = True, more: Sequence[Callback] = (), **options: Any) -> Trainer:
    """6 steps in epochs of 2; the only checkpoint is the one of a signal."""
    checkpoint = [ModelCheckpoint(every_n_epochs=1000, save_last=True)] if keep else []
    return Trainer(
        accelerator="cpu", max_steps=6, default_root_dir=folder, logger=False, num_sanity_val_steps=0,
        callbacks=[*copy.deepcopy(more), Preemption(), *checkpoint], enable_checkpointing=keep,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip


def interrupted(folder: Path, module: Interrupted, **options: Any) -> Trainer:
    torch.manual_seed(0)
    module.layer.reset_parameters()
    run = trainer(folder, **options)
    with pytest.raises(SystemExit) as raised:
        run.fit(module)
    assert raised.value.code == REQUEUE == 75
    return run


def saved(folder: Path) -> dict[str, Any]:
    (path,) = folder.rglob("*.ckpt")
    assert path.name == "last.ckpt"
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_the_running_step_ends_is_saved_and_training_goes_on_there(tmp_path: Path, name: str, at: int) -> None:
    whole = Interrupted()
    torch.manual_seed(0)
    whole.layer.reset_parameters()
    trainer(tmp_path / "whole").fit(whole)

    first = Interrupted(at, name)
    interrupted(tmp_path / "run", first)
    assert max(first.losses) == at
    assert saved(tmp_path / "run")["global_step"] == at + 1
    second = Interrupted()
    trainer(tmp_path / "run").fit(second, ckpt_path="last", weights_only=True)
    assert first.losses | second.losses == whole.losses
    assert not first.losses.keys() & second.losses.keys(), "no step is trained twice"
    assert saved(tmp_path / "run")["global_step"] == 6


def test_no_validation_begins_after_a_signal(tmp_path: Path) -> None:
    module = Interrupted(1)
    interrupted(tmp_path, module)
    assert module.validated == []


@pytest.mark.parametrize("at", [2, 4])
@pytest.mark.parametrize("ema", [False, True])
def test_a_signal_in_validation_acts_after_the_batch(tmp_path: Path, at: int, ema: bool) -> None:
    """The state is the one of the step before, also where the average of the weights is validated; nothing is lost."""
    more = {"more": [Resume(), *([EMA(0.5)] if ema else [])]}
    whole = Interrupted()
    torch.manual_seed(0)
    whole.layer.reset_parameters()
    trainer(tmp_path / "whole", **more).fit(whole)
    assert whole.validated == [2, 2, 4, 4, 6, 6]

    first = Interrupted(at, validation=True)
    interrupted(tmp_path / "run", first, **more)
    assert first.validated == whole.validated[: at - 1], "one batch of the two"
    content = saved(tmp_path / "run")
    assert content["global_step"] == at
    second = Interrupted()
    trainer(tmp_path / "run", **more).fit(second, ckpt_path="last", weights_only=True)
    assert second.validated == whole.validated[at - 2 :], "the validation is done from its beginning"
    assert first.losses | second.losses == whole.losses
    assert not first.losses.keys() & second.losses.keys(), "no step is trained twice"
    torch.testing.assert_close(second.state_dict(), whole.state_dict(), rtol=0, atol=0)
    ends = [saved(tmp_path / name) for name in ("run", "whole")]
    assert ends[0]["loops"]["fit_loop"]["epoch_progress"] == ends[1]["loops"]["fit_loop"]["epoch_progress"]


def test_a_plain_validation_is_left_to_itself(tmp_path: Path) -> None:
    """Without a training there is nothing to save: the signal does what it would have done."""
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        module = Interrupted(0, validation=True)
        trainer(tmp_path).validate(module, verbose=False)
        assert module.validated == [0, 0]
        assert heard
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_gradient_is_accumulated_to_its_end_first(tmp_path: Path) -> None:
    interrupted(tmp_path, Interrupted(0), accumulate_grad_batches=2)
    content = saved(tmp_path)
    assert content["global_step"] == 1
    assert content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] == 2


def test_a_signal_in_the_last_step_is_no_interruption(tmp_path: Path) -> None:
    run = trainer(tmp_path, limit_val_batches=0)
    run.fit(Interrupted(5))
    assert run.global_step == 6


def test_without_checkpoints_it_only_stops(tmp_path: Path) -> None:
    run = interrupted(tmp_path, Interrupted(1), keep=False)
    assert run.global_step == 2
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("at", [None, 0])
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_after_training_signals_do_what_they_did_before(tmp_path: Path, name: str, at: int | None) -> None:
    heard: list[int] = []
    before = signal.signal(signal.Signals[name], lambda number, frame: heard.append(number))
    try:
        if at is None:
            trainer(tmp_path).fit(Interrupted())
        else:
            interrupted(tmp_path, Interrupted(at, name))
        assert not heard
        os.kill(os.getpid(), signal.Signals[name])
        assert heard == [signal.Signals[name]]
    finally:
        signal.signal(signal.Signals[name], before)


def test_signals_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no 'SIGNOTHING'"):
        Preemption(["SIGUSR1", "SIGNOTHING"])
