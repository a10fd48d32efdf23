from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from posecore.body.skeletons import COCO_17, JOINTS_44
from posecore.data import PoseTable
from posecore.data.sample import PoseSample
from posecore.data.transforms import flip_sample
from scorehmr.data import ScoreHMRDataModule


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

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="module")
def numbered(table: PoseTable) -> PoseTable:
    """The table, with the row's number as its first beta, which no augmentation changes."""
    betas = table.samples["betas"].clone()
    betas[:, 0] = torch.arange(len(table))
    return PoseTable(JOINTS_44, cast(PoseSample, {**table.samples, "betas": betas}))


def batches(tmp_path: Path, table: PoseTable, group_keys: tuple[str, ...] = (), **options: Any) -> Any:
    """What one epoch of training and validation gives."""
    recorder = Recorder()
    options = {"batch_size": len(table), **options}
    data = ScoreHMRDataModule(tmp_path, train=[lambda root: table], val={"v": lambda root: table}, **options)
    data.group_keys = group_keys
    Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1,
        enable_checkpointing=False, default_root_dir=tmp_path, num_sanity_val_steps=0,
    ).fit(recorder, data)  # fmt: skip
    return recorder.batches


def originals(table: PoseTable, batch: PoseSample) -> PoseSample:
    return table.__getitems__(batch["betas"][:, 0].long().tolist())


def test_training_is_not_changed_without_probabilities(tmp_path: Path, numbered: PoseTable) -> None:
    (batch,) = batches(tmp_path, numbered)["train"]
    expected = originals(numbered, batch)
    assert torch.equal(batch["joints_2d_px"], expected["joints_2d_px"])
    assert torch.equal(batch["confidence"], expected["confidence"])


def test_mirrored_people_are_mirrored_in_everything(tmp_path: Path, numbered: PoseTable) -> None:
    (batch,) = batches(tmp_path, numbered, flip_prob=1.0)["train"]
    expected = flip_sample(originals(numbered, batch), JOINTS_44)
    for key in ("joints_2d_px", "confidence", "K", "global_orient", "body_pose", "betas"):
        torch.testing.assert_close(batch[key], expected[key])  # type: ignore[literal-required]
    assert "joints_cam" not in batch, "what was not mirrored must not be used"


def test_half_of_the_people_are_mirrored_and_draws_repeat(tmp_path: Path, numbered: PoseTable) -> None:
    first, again, other = (
        batches(tmp_path, numbered, flip_prob=0.5, drop_prob=0.2, seed=seed)["train"][0] for seed in (0, 0, 1)
    )
    assert torch.equal(first["joints_2d_px"], again["joints_2d_px"])
    assert torch.equal(first["confidence"], again["confidence"])
    assert not torch.equal(first["confidence"], other["confidence"])
    kept = (first["body_pose"] == originals(numbered, first)["body_pose"]).flatten(1).all(dim=1)
    assert 0 < kept.sum() < len(kept)
    assert 0.7 < (first["confidence"] > 0).float().mean() < 0.9


def test_coco_leaves_what_cocos_joints_have(tmp_path: Path, numbered: PoseTable) -> None:
    (batch,) = batches(tmp_path, numbered, coco_prob=1.0)["train"]
    known = [JOINTS_44.joint_names[j] for j in batch["confidence"].all(dim=0).nonzero()[:, 0].tolist()]
    lost = [JOINTS_44.joint_names[j] for j in (batch["confidence"] == 0).all(dim=0).nonzero()[:, 0].tolist()]
    assert len(known) + len(lost) == 44
    assert [name for name in known if name.startswith("op_")] == [
        f"op_{name}"
        for name in (n.removeprefix("op_") for n in JOINTS_44.joint_names[:25])
        if name in COCO_17.joint_names
    ]
    assert {"op_neck", "op_mid_hip", "op_l_heel"} <= set(lost)


def test_truncation_takes_keypoints_of_one_side(tmp_path: Path, numbered: PoseTable) -> None:
    (batch,) = batches(tmp_path, numbered, truncate_prob=1.0)["train"]
    lost = batch["confidence"] == 0
    assert bool(lost.any(dim=1).float().mean() > 0.5)
    assert not bool(lost.all(dim=1).any())
    assert torch.equal(batch["joints_2d_px"], originals(numbered, batch)["joints_2d_px"])


def test_validation_is_never_changed(tmp_path: Path, numbered: PoseTable) -> None:
    (batch,) = batches(tmp_path, numbered, flip_prob=1.0, drop_prob=1.0, coco_prob=1.0, truncate_prob=1.0)["val"]
    assert torch.equal(batch["confidence"], numbered.samples["confidence"])
    assert torch.equal(batch["joints_2d_px"], numbered.samples["joints_2d_px"])
    assert "joints_cam" in batch


def test_groups_stay_whole_in_validation_but_not_in_training(tmp_path: Path, numbered: PoseTable) -> None:
    found = batches(tmp_path, numbered, ("clip", "view"), batch_size=4)
    groups = [list(zip(batch["clip"], batch["view"].tolist(), strict=True)) for batch in found["val"]]
    owners = [group for batch in groups for group in set(batch)]
    assert len(owners) == len(set(owners)) == 4, "no video is in two batches"
    rows = torch.cat([batch["row"] for batch in found["val"]])
    assert sorted(rows.tolist()) == list(range(len(numbered)))
    assert all(len(batch["K"]) == 4 and "row" not in batch for batch in found["train"])
    assert len(batches(tmp_path, numbered, batch_size=4)["val"][0]["K"]) == 4


@pytest.mark.parametrize("name", ["flip_prob", "truncate_prob", "coco_prob", "drop_prob"])
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_probabilities_are_checked(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a probability, got {value}"):
        ScoreHMRDataModule(**{name: value})


def test_predict_needs_an_input() -> None:
    data = ScoreHMRDataModule()
    with pytest.raises(ValueError, match="predict: nothing to predict; give a PredictInput"):
        data.predict_dataloader()
    with pytest.raises(ValueError, match=r"data\.predict\.keypoints: `predict` of this method works on 2D keypoints"):
        data.setup("predict")
