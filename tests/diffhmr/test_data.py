"""Diff-HMR's data: what a network is given in training, in validation and of a photograph."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import Tensor

from diffhmr.data import DiffHMRDataModule
from posecore.body.skeletons import JOINTS_44
from posecore.data import OpenImages
from posecore.data.augment import CropAugmentation
from posecore.data.base import PoseTable
from posecore.data.crops import IMAGENET_MEAN, IMAGENET_STD
from posecore.data.predict_input import PredictInput
from posecore.data.sample import PoseSample, take

SIZE = 24
BATCH = 16


class Recorder(LightningModule):
    """Keeps the batches that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: dict[str, list[PoseSample]] = {"train": [], "val": []}

    def training_step(self, batch: PoseSample, batch_idx: int) -> Tensor:
        self.batches["train"].append(batch)
        return self.weight * 1.0

    def validation_step(self, batch: PoseSample, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.batches["val"].append(batch)

    def predict_step(self, batch: PoseSample, batch_idx: int) -> PoseSample:
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def numbered(root: Path) -> PoseTable:
    """The shipped sample, with the row's number."""
    data = OpenImages(root, sets=["sample"])
    data.samples["row"] = torch.arange(len(data))
    return data


def one_person(root: Path) -> PoseTable:
    """The same picture in every row."""
    data = numbered(root)
    images = data.images
    assert images is not None
    return PoseTable(JOINTS_44, take(data.samples, [5] * 2 * BATCH), lambda rows: images([5] * len(rows)))


def data_module(root: Path, make: Any = numbered, **options: Any) -> DiffHMRDataModule:
    options = {"augmentation": CropAugmentation(size=SIZE), "batch_size": BATCH, **options}
    return DiffHMRDataModule(root, train=[make], val={"open": make}, **options)


def trainer(root: Path, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {"enable_checkpointing": False, "max_epochs": 1}
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=root,
        num_sanity_val_steps=0, **{**defaults, **options},
    )  # fmt: skip


def recorded(root: Path, make: Any = numbered, epochs: int = 1, **options: Any) -> dict[str, list[PoseSample]]:
    recorder = Recorder()
    trainer(root, max_epochs=epochs).fit(recorder, data_module(root, make, **options))
    return recorder.batches


def test_training_gives_crops_that_fit_their_camera(tmp_path: Path) -> None:
    batches = recorded(tmp_path)["train"]
    rows = torch.cat([batch["row"] for batch in batches])
    assert sorted(rows.tolist()) == list(range(64))
    for batch in batches:
        assert batch["image"].shape == (BATCH, 3, SIZE, SIZE)
        assert batch["image"].dtype == torch.float32
        seen = batch["confidence"] > 0
        at = batch["joints_cam"] / batch["joints_cam"][..., 2:]
        pixels = torch.einsum("bij,bnj->bni", batch["K"], at)[..., :2]
        torch.testing.assert_close(batch["joints_2d_px"][seen], pixels[seen], rtol=1e-4, atol=2e-2)
    plain = numbered(tmp_path).__getitems__(batches[0]["row"].tolist())
    assert (batches[0]["global_orient"] - plain["global_orient"]).flatten(1).abs().amax(dim=1).gt(1e-3).any()
    torch.testing.assert_close(batches[0]["betas"], plain["betas"])


def test_every_view_of_a_person_is_another(tmp_path: Path) -> None:
    first, second, third, fourth = (b["image"] for b in recorded(tmp_path, one_person, epochs=2)["train"])
    assert not torch.allclose(first[0], first[1]), "rows"
    assert not torch.allclose(first, second), "steps"
    assert not torch.allclose(first, third), "epochs"
    assert not torch.allclose(second, fourth), "epochs"
    again, other = (recorded(tmp_path, one_person, seed=seed)["train"][0]["image"] for seed in (0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_a_resumed_run_sees_what_it_would_have_seen(tmp_path: Path) -> None:
    whole = recorded(tmp_path, epochs=2)["train"]
    callback = ModelCheckpoint(dirpath=tmp_path, filename="first")
    trainer(tmp_path, enable_checkpointing=True, callbacks=[callback]).fit(Recorder(), data_module(tmp_path))
    resumed = Recorder()
    trainer(tmp_path, max_epochs=2).fit(
        resumed, data_module(tmp_path), ckpt_path=tmp_path / "first.ckpt", weights_only=False
    )
    assert len(resumed.batches["train"]) == len(whole) // 2 == 4
    for found, wanted in zip(resumed.batches["train"], whole[4:], strict=True):
        assert torch.equal(found["row"], wanted["row"])
        assert torch.equal(found["image"], wanted["image"])
        assert torch.equal(found["K"], wanted["K"])


def test_validation_gives_the_boxes_themselves(tmp_path: Path) -> None:
    data = numbered(tmp_path)
    batches = recorded(tmp_path)["val"]
    assert torch.cat([batch["row"] for batch in batches]).tolist() == list(range(64))
    batch, raw = batches[1], data.__getitems__(range(BATCH, 2 * BATCH))
    zoom = SIZE / raw["box"][:, 2, None, None]
    seen = raw["confidence"] > 0
    pixels = (raw["joints_2d_px"] - raw["box"][:, None, :2]) * zoom + SIZE / 2
    torch.testing.assert_close(batch["joints_2d_px"][seen], pixels[seen], rtol=1e-4, atol=1e-3)
    for key in ("joints_cam", "global_orient", "body_pose", "transl"):
        assert torch.equal(batch[key], raw[key])
    # The box is the middle of the raw crop: their mean colours agree.
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    middle = raw["image"][..., 24:120, 24:120].float().mean(dim=(2, 3)) / 255
    torch.testing.assert_close((batch["image"] * std + mean).mean(dim=(2, 3)), middle, rtol=0, atol=0.01)


def test_starts_of_fits_do_not_stop_training(tmp_path: Path) -> None:
    def with_start(root: Path) -> PoseTable:
        data = numbered(root)
        data.samples["start_betas"] = torch.zeros(len(data), 10)
        return data

    batches = recorded(tmp_path, with_start)
    assert "start_betas" not in batches["train"][0]
    assert "start_betas" in batches["val"][0]


@pytest.mark.parametrize("box", [None, (40.0, 20.0, 100.0, 140.0)])
def test_a_photograph_is_given_without_anything_else(
    box: tuple[float, float, float, float] | None, tmp_path: Path
) -> None:
    Image.new("RGB", (160, 200), (255, 0, 0)).save(tmp_path / "person.png")
    photo = PredictInput(tmp_path / "person.png", box=box, crops=SIZE)
    data = DiffHMRDataModule(tmp_path, predict=photo, augmentation=CropAugmentation(size=SIZE))
    (batch,) = cast(list[PoseSample], trainer(tmp_path).predict(Recorder(), data))
    assert set(batch) == {"image", "box", "K", "joints_2d_px", "confidence", "row", "image_size"}
    assert batch["image"].shape == (1, 3, SIZE, SIZE)
    assert batch["row"].tolist() == [0]
    red = (1 - IMAGENET_MEAN[0]) / IMAGENET_STD[0]
    assert float(batch["image"][0, 0, SIZE // 2, SIZE // 2]) == pytest.approx(red, abs=1e-3)
    assert not batch["confidence"].any()


def test_without_a_trainer_a_batch_is_the_plain_view(tmp_path: Path) -> None:
    data = data_module(tmp_path)
    rows = numbered(tmp_path).__getitems__(range(4))
    found = data.on_after_batch_transfer(rows, 0)
    assert torch.equal(found["image"], CropAugmentation(size=SIZE).evaluate(rows, JOINTS_44)["image"])
    assert DiffHMRDataModule().augmentation == CropAugmentation()
