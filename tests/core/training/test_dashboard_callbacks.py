import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from posecore.body.skeletons import H36M_17
from posecore.diffusion.schedule import NoiseSchedule
from posecore.metrics.pose import MPJPE
from posecore.metrics.protocols import get_protocol
from posecore.training import (
    DenoisingStrips,
    JointErrors,
    OptimizerMonitor,
    PosePanels,
    SpreadMonitor,
    Throughput,
    throughput,
)
from posecore.training.denoising_strips import denoise_once
from posecore.training.joint_errors import _with_column, errors_per_joint


class Clock:
    """Seconds that pass only where a test says so."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    monkeypatch.setattr(sys.modules[__name__], "time", clock)
    return clock


class Slow(Dataset[dict[str, Tensor]]):
    """Batches of which each takes a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        time.sleep(self.seconds)
        return {"x": torch.ones(5)}


class Line(LightningModule):
    """One weight, whose gradient and steps are known; a step takes a while, too."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.seconds = seconds
        self.seen: list[dict[str, float]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        time.sleep(self.seconds)
        return (self.weight * torch.tensor([3.0, 4.0])).sum()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen.append({key: float(value) for key, value in self.trainer.logged_metrics.items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            [{"params": [self.weight], "lr": 0.1}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.2}]
        )


def trained(tmp_path: Path, read: float, step: float, **options: Any) -> dict[str, float]:
    loader = DataLoader(Slow(read), batch_size=None)
    module = Line(step)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=4, default_root_dir=tmp_path,
        callbacks=[Throughput(), OptimizerMonitor()], **options,
    )  # fmt: skip
    profiler = trainer.profiler
    trainer.fit(module, loader)
    assert "start" not in vars(profiler) or not vars(profiler)["start"].__name__.endswith("listen"), "left as it was"
    return {key: float(value) for key, value in trainer.logged_metrics.items()}


@pytest.mark.parametrize(("read", "step", "share"), [(0.03, 0.01, 0.75), (0.01, 0.03, 0.25)])
def test_throughput_says_where_the_time_goes(tmp_path: Path, read: float, step: float, share: float) -> None:
    found = trained(tmp_path, read, step)
    assert found["train/data_wait"] == pytest.approx(share, abs=0.05)
    assert found["train/samples_per_second"] == pytest.approx(5 / (read + step), rel=0.1)


def test_gradient_norm_is_that_before_clipping(tmp_path: Path) -> None:
    found = trained(tmp_path, 0.0, 0.0, gradient_clip_val=1.0)
    assert found["train/grad_norm"] == pytest.approx(5.0)
    assert (found["train/learning_rate"], found["train/learning_rate_2"]) == pytest.approx((0.1, 0.2))


def test_errors_per_joint_average_to_mpjpe() -> None:
    protocol = get_protocol("open_h36m17")
    generator = torch.Generator().manual_seed(0)
    pose, target = torch.randn(2, 6, 17, 3, generator=generator)
    errors, counted = errors_per_joint({"pose": pose, "target": target}, protocol)
    metric = MPJPE()
    metric.update(pose, target)
    assert counted.all()
    assert float(errors.mean()) == pytest.approx(float(metric.compute()), rel=1e-5)
    known = torch.ones(6, 17, dtype=torch.bool)
    known[0, 0], known[1, 3] = False, False  # a root: nothing of that pose counts; a hand: it alone
    _, counted = errors_per_joint({"pose": pose, "target": target, "known": known}, protocol)
    assert not counted[0].any()
    assert counted[1].sum() == 16


def test_the_heat_map_keeps_a_bounded_number_of_columns() -> None:
    kept = None
    for step in range(200):
        kept = _with_column(kept, step, [float(step)])
    assert kept is not None
    assert len(kept["steps"]) <= 48
    assert (kept["steps"][0], kept["steps"][-1]) == (0, 199)
    assert kept["steps"] == sorted(set(kept["steps"])) == [int(errors[0]) for errors in kept["errors"]]
    assert _with_column(kept, 199, [7.0])["errors"][-1] == [7.0], "a validation that is done again replaces its column"


def test_a_true_noise_prediction_finds_the_clean_pose() -> None:
    schedule = NoiseSchedule.named("cosine_100")
    x_0 = torch.randn(1, 17, 3, generator=torch.Generator().manual_seed(1))
    levels = (0.1, 0.5, 0.9)

    def oracle(x_t: Tensor, t: Tensor) -> Tensor:
        return (x_t - schedule.signal(t, x_t) * x_0) / schedule.sigma(t, x_t)

    found = denoise_once(schedule, x_0, levels, oracle, lambda x: x, H36M_17)
    torch.testing.assert_close(found.estimate, x_0.expand(3, -1, -1), rtol=1e-3, atol=1e-3)
    distance = (found.noisy - x_0).norm(dim=(1, 2))
    assert distance[0] < distance[1] < distance[2]
    again = denoise_once(schedule, x_0, levels, oracle, lambda x: x, H36M_17)
    assert torch.equal(found.noisy, again.noisy), "the same noise in every validation"


@pytest.mark.parametrize("levels", [(), (0.0, 0.5), (0.5, 1.0)])
def test_levels_must_be_shares(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="levels must be one or more shares between 0 and 1"):
        DenoisingStrips(levels)


def test_a_panel_needs_somebody() -> None:
    with pytest.raises(ValueError, match="num_people must be at least 1, got 0"):
        PosePanels(0)


class Posed(LightningModule):
    """Returns the same hypotheses for every batch."""

    def __init__(self, hypotheses: Tensor, target: Tensor) -> None:
        super().__init__()
        self.protocol = get_protocol("open_h36m17")
        self.weight = nn.Parameter(torch.zeros(1))
        self.hypotheses, self.target = hypotheses, target

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        best = torch.zeros(len(self.target), dtype=torch.long)
        return {"joints_rel": self.hypotheses, "best": best, "pose": self.hypotheses[:, 0], "target": self.target}


class Sets(LightningDataModule):
    """One validation set of two batches."""

    joint_set, val_names = H36M_17, ("one",)

    def __init__(self, confidence: Tensor) -> None:
        super().__init__()
        self.batch = {"confidence": confidence}

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader([self.batch, self.batch], batch_size=None)  # type: ignore[arg-type]

    def groups(self, name: str, keys: tuple[str, ...]) -> list[str]:
        return []


def test_spread_apart_for_seen_and_unseen_joints(tmp_path: Path) -> None:
    """Two hypotheses that are d apart in one joint have a standard deviation of d / sqrt(2) there."""
    target = torch.randn(3, 17, 3, generator=torch.Generator().manual_seed(2))
    hypotheses = target[:, None].repeat(1, 2, 1, 1)
    hypotheses[:, 1, 5, 0] += 0.1
    hypotheses[:, 1, 9, 1] += 0.3
    confidence = torch.ones(3, 17)
    confidence[:, 9] = 0
    errors, module = JointErrors(), Posed(hypotheses, target)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path, barebones=False,
        enable_checkpointing=False, enable_model_summary=False, callbacks=[SpreadMonitor(), errors],
    )  # fmt: skip
    (found,) = trainer.validate(module, Sets(confidence), verbose=False)
    root_half = 2**0.5
    assert found["val/one/spread"] == pytest.approx((100 + 300) / root_half / 16, rel=1e-4)
    assert found["val/one/spread_visible"] == pytest.approx(100 / root_half / 15, rel=1e-4)
    assert found["val/one/spread_occluded"] == pytest.approx(300 / root_half, rel=1e-4)
    np.testing.assert_allclose(errors.history["one"]["errors"], np.zeros((1, 17)), atol=1e-3)
