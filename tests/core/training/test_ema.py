import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from posecore.training.ema import EMA


class Line(LightningModule):
    """A linear fit with a float and an integer buffer that every step changes, and one that setup fills."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.3, -0.2]]))
            self.layer.bias.fill_(0.1)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last_loss", torch.zeros(()))
        self.register_buffer("anchors", torch.zeros(3))
        self.weights: list[Tensor] = []
        self.seen: list[tuple[Tensor, int, float]] = []

    def setup(self, stage: str) -> None:
        self.anchors.copy_(torch.arange(3.0))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = (self.layer(batch[0])[:, 0] - batch[1]).square().mean()
        self.steps += 1
        self.last_loss.copy_(loss.detach())
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        self.weights.append(self.layer.weight.detach().clone())

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.seen.append((self.layer.weight.detach().clone(), int(self.steps), float(self.anchors.sum())))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.seen.append((self.layer.weight.detach().clone(), int(self.steps), float(self.anchors.sum())))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def loader(num_batches: int) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4 * num_batches, 2, generator=generator)
    return DataLoader(TensorDataset(x, x @ torch.tensor([1.0, 2.0]) + 0.5), batch_size=4)


def trainer(folder: Path, callbacks: list[Callback], **settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        default_root_dir=folder,
        callbacks=callbacks,
        num_sanity_val_steps=0,
        **settings,
    )


def expected_average(weights: list[Tensor], decay: float, ramp: bool, every: int = 1) -> Tensor:
    """The recursion by hand. The first update takes the weights as they are."""
    average, updates = weights[0], 1
    for step in range(1, len(weights)):
        if step % every == 0:
            d = min(decay, (1 + updates) / (10 + updates)) if ramp else decay
            average = d * average + (1 - d) * weights[step]
            updates += 1
    return average


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.parametrize(
    ("decay", "ramp", "every"), [(0.9, False, 1), (0.9, True, 1), (0.25, True, 1), (0.0, False, 1), (0.9, False, 3)]
)
def test_average_is_the_recursion(tmp_path: Path, decay: float, ramp: bool, every: int) -> None:
    module = Line()
    trainer(tmp_path, [EMA(decay, ramp, every)], max_epochs=1).fit(module, loader(8))
    assert len(module.weights) == 8
    expected = expected_average(module.weights, decay, ramp, every)
    torch.testing.assert_close(module.layer.weight.detach(), expected)  # the run ends with the average
    assert torch.equal(expected, module.weights[-1]) == (decay == 0)
    # Buffers are those of the last step, whenever the last update was.
    assert module.steps.dtype == torch.int64
    assert module.steps.item() == 8
    assert module.last_loss.item() > 0
    assert module.anchors.tolist() == [0, 1, 2]


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_validation_and_checkpoint_hold_the_average(tmp_path: Path) -> None:
    module = Line()
    checkpoint = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=5)
    run = trainer(tmp_path, [EMA(0.8, ramp=False, every_n_steps=2), checkpoint], max_epochs=2)
    run.fit(module, loader(4), loader(1))
    for epoch, (weight, steps, anchors) in enumerate(module.seen):
        torch.testing.assert_close(weight, expected_average(module.weights[: 4 * epoch + 4], 0.8, False, 2))
        assert (steps, anchors) == (4 * epoch + 4, 3)
    assert len(module.seen) == 2
    # Training went on from the weights, not from the average: without averaging it runs the same.
    plain = Line()
    trainer(tmp_path, [], max_epochs=2).fit(plain, loader(4), loader(1))
    assert all(map(torch.equal, plain.weights, module.weights))
    saved = torch.load(tmp_path / "step=5.ckpt", weights_only=True)
    average = expected_average(module.weights[:5], 0.8, False, 2)
    torch.testing.assert_close(saved["state_dict"]["layer.weight"], average)
    assert torch.equal(saved["current_model_state"]["layer.weight"], module.weights[4])
    assert saved["state_dict"]["steps"].item() == 5
    tested = Line()
    trainer(tmp_path, []).test(tested, loader(1), ckpt_path=tmp_path / "step=5.ckpt", verbose=False)
    torch.testing.assert_close(tested.seen[0][0], average)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.parametrize("every", [1, 2])
def test_resuming_continues_the_same_average(tmp_path: Path, every: int) -> None:
    whole = Line()
    trainer(tmp_path, [EMA(0.9, True, every)], max_epochs=2).fit(whole, loader(5))
    first = Line()
    checkpoint = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}")
    trainer(tmp_path, [EMA(0.9, True, every), checkpoint], max_epochs=1).fit(first, loader(5))
    second = Line()
    run = trainer(tmp_path, [EMA(0.9, True, every)], max_epochs=2)
    run.fit(second, loader(5), ckpt_path=tmp_path / "step=5.ckpt")
    assert all(map(torch.equal, first.weights + second.weights, whole.weights))
    assert torch.equal(second.layer.weight, whole.layer.weight)
    assert second.steps.item() == 10


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_weights_loaded_in_setup_are_what_the_first_validation_sees(tmp_path: Path) -> None:
    class Loaded(Line):
        def setup(self, stage: str) -> None:
            super().setup(stage)
            with torch.no_grad():
                self.layer.weight.fill_(7)

    module = Loaded()
    run = trainer(tmp_path, [EMA()], max_epochs=1)
    run.num_sanity_val_steps = 1
    run.fit(module, loader(1), loader(1))
    assert module.seen[0][0].tolist() == [[7, 7]]  # the sanity check before the first step


def test_buffers_are_not_shared() -> None:
    ema, module = EMA(), Line()
    ema.setup(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), module, "fit")
    before = copy.deepcopy(module.state_dict())
    module.steps += 1
    assert ema._average_model is not None
    assert ema._average_model.module.steps.item() == before["steps"].item()


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_must_be_below_one(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"decay must be in \[0, 1\), got {decay}"):
        EMA(decay)


def test_interval_must_be_positive() -> None:
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        EMA(every_n_steps=0)
