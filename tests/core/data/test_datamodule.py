import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningModule, Trainer

from posecore.body.skeletons import COCO_17, H36M_16, H36M_17
from posecore.data import CMUMocap, PoseDataModule, PoseDataset, PoseSample, PoseTable, SyntheticMotion
from posecore.data.mixing import EpochSampler, JoinedDataset
from posecore.data.predict_input import PredictInput
from posecore.testing import assert_pose_dataset, write_cmu_mocap


def table(root: Path, rows: int = 10, name: str = "a", extra: bool = False) -> PoseTable:
    samples = PoseSample(joints_rel=torch.randn(rows, 17, 3), clip=[f"{name}{i}" for i in range(rows)])
    if extra:
        samples["betas"] = torch.zeros(rows, 10)
    return PoseTable(H36M_17, samples)


def test_joined_datasets_keep_the_order_and_the_shared_keys() -> None:
    joined = JoinedDataset([table(Path(), 3), table(Path(), 4, "b", extra=True), table(Path(), 2, "c")])
    assert len(joined) == 9
    batch = joined.__getitems__([8, 0, 3, 6, 2])
    assert batch["clip"] == ["c1", "a0", "b0", "b3", "a2"]
    assert set(batch) == {"joints_rel", "clip"}
    assert set(joined.__getitems__([4])) == {"joints_rel", "clip"}
    assert torch.equal(batch["joints_rel"][2], joined.datasets[1][0]["joints_rel"])


def test_datasets_that_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match="datasets: expected at least one"):
        JoinedDataset([])
    other = PoseTable(COCO_17, PoseSample(frame=torch.zeros(2)))
    with pytest.raises(ValueError, match="must share one joint set, got h36m17, coco17"):
        JoinedDataset([table(Path()), other])


def test_order_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    def order(epoch: int, seed: int = 0) -> list[int]:
        sampler = EpochSampler([5, 20], seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(order(0)) == list(range(25))
    assert order(3) == order(3)
    assert order(3) != order(4)
    assert order(3) != order(3, seed=1)


def test_an_epoch_is_the_same_on_any_number_of_ranks() -> None:
    """Batch by batch, all ranks together; what does not go round is left out."""
    whole = list(EpochSampler([5, 20], seed=3))
    shares = [list(EpochSampler([5, 20], seed=3, num_replicas=3, rank=rank)) for rank in range(3)]
    assert [len(share) for share in shares] == [8, 8, 8]
    for start in range(0, 8, 2):  # 3 ranks with batches of 2 are one with batches of 6
        together = [row for share in shares for row in share[start : start + 2]]
        assert sorted(together) == sorted(whole[3 * start : 3 * start + 6])


def test_an_epoch_continues_where_it_was_left() -> None:
    sampler = EpochSampler([5, 20], seed=3, num_replicas=2, rank=1)
    sampler.set_epoch(4)
    whole = list(sampler)
    resumed = EpochSampler([5, 20], seed=3, num_replicas=2, rank=1)
    resumed.start_at(4, 5)
    resumed.set_epoch(4)  # as Lightning does before every epoch
    assert list(resumed) == whole[5:]
    assert len(resumed) == 12
    resumed.set_epoch(5)
    sampler.set_epoch(5)
    assert list(resumed) == list(sampler)


def test_mixing_weights_set_the_shares() -> None:
    sampler = EpochSampler([100, 10000], weights=[0.75, 0.25])
    rows = torch.tensor(list(sampler))
    assert len(rows) == len(sampler) == 10100
    assert float((rows < 100).float().mean()) == pytest.approx(0.75, abs=0.02)
    assert int(rows.max()) < 10100


def test_loaders_batches_and_names(tmp_path: Path) -> None:
    data = PoseDataModule(
        tmp_path,
        train=[partial(table, rows=10), partial(table, rows=15, name="b")],
        val={"one": partial(table, rows=5), "two": partial(table, rows=7)},
        test={"three": partial(table, rows=9)},
        batch_size=4,
    )
    data.setup("fit")
    assert data.val_names == ["one", "two"]
    assert data.test_names == ["three"]
    batches = list(data.train_dataloader())
    assert [len(b["joints_rel"]) for b in batches] == [4] * 6  # the last one is dropped
    assert [len(b["joints_rel"]) for b in data.val_dataloader()[1]] == [4, 3]
    assert next(iter(data.val_dataloader()[0]))["clip"] == ["a0", "a1", "a2", "a3"]
    assert [batch["row"].tolist() for batch in data.val_dataloader()[1]] == [[0, 1, 2, 3], [4, 5, 6]]
    assert "row" not in batches[0], "training knows no rows"
    data.setup("test")
    assert [len(loader.dataset) for loader in data.test_dataloader()] == [9]


def test_groups_of_a_set(tmp_path: Path) -> None:
    labels = PoseSample(joints_rel=torch.zeros(3, 17, 3), subject=["S2", "S1", "S1"], action=["Walk", "Jog", "Box"])
    data = PoseDataModule(tmp_path, val={"plain": table}, test={"labelled": lambda root: PoseTable(H36M_17, labels)})
    data.setup("validate")
    data.setup("test")
    assert data.groups("labelled", ("subject", "action")) == ["S1 Box", "S1 Jog", "S2 Walk"]
    assert data.groups("labelled", ("action",)) == ["Box", "Jog", "Walk"]
    assert data.groups("plain", ()) == []
    with pytest.raises(ValueError, match="data set 'plain': keys: the samples have no action"):
        data.groups("plain", ("action",))


def test_joints_that_are_too_many_are_left_out(tmp_path: Path) -> None:
    full = table(tmp_path, 3)
    data = PoseDataModule(tmp_path, train=[lambda root: full], batch_size=1, joint_set="h36m16")
    data.setup("fit")
    assert data.train_set is not None
    assert data.train_set.joint_set == H36M_16
    kept = [j for j in range(17) if H36M_17.joint_names[j] != "neck_nose"]
    assert torch.equal(data.train_set.__getitems__([0, 1, 2])["joints_rel"], full.samples["joints_rel"][:, kept])

    with pytest.raises(
        ValueError, match=r"data\.val\.a: has the joints of h36m17, not of coco17: it lacks nose, l_eye"
    ):
        PoseDataModule(tmp_path, val={"a": table}, joint_set="coco17").setup("validate")

    def joined(root: Path) -> PoseDataset:
        return JoinedDataset([table(root)])  # no table

    with pytest.raises(ValueError, match=r"data\.val\.a: has the joints of h36m17, not of h36m16$"):
        PoseDataModule(tmp_path, val={"a": joined}, joint_set="h36m16").setup("validate")


def test_workers_give_the_same_batches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dataset = table(tmp_path, 12)
    loaded = []
    for workers in (0, 1):
        data = PoseDataModule(tmp_path, train=[lambda root: dataset], batch_size=4, num_workers=workers)
        data.setup("fit")
        loaded.append([batch["clip"] for batch in data.train_dataloader()])
    assert loaded[0] == loaded[1]
    assert len(loaded[0]) == 3


class Recorder(LightningModule):
    """Remembers which rows it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[str]] = []
        self.validated: list[tuple[int, int]] = []

    def training_step(self, batch: PoseSample, batch_idx: int) -> torch.Tensor:
        self.seen.append(list(batch["clip"]))
        return self.weight * batch["joints_rel"].mean()

    def validation_step(self, batch: PoseSample, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validated.append((dataloader_idx, len(batch["clip"])))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_trainer_runs_and_a_resumed_run_continues_the_same_order(tmp_path: Path) -> None:
    def fit(max_epochs: int, checkpoint: str | None = None) -> tuple[Trainer, Recorder]:
        data = PoseDataModule(tmp_path, train=[table], val={"x": table, "y": table}, batch_size=5)
        trainer = Trainer(
            max_epochs=max_epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
        )  # fmt: skip
        model = Recorder()
        trainer.fit(model, data, ckpt_path=checkpoint)
        return trainer, model

    _, whole = fit(2)
    trainer, _ = fit(1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed = fit(2, str(tmp_path / "half.ckpt"))
    assert whole.seen[2:] == resumed.seen
    assert whole.seen[:2] != whole.seen[2:]
    assert whole.validated == [(0, 5), (0, 5), (1, 5), (1, 5)] * 2


YAML = """
root: {root}
batch_size: 8
train:
  - class_path: posecore.data.CMUMocap
    init_args: {{split: train, views: 2, noise: {{class_path: posecore.data.DetectorNoise, init_args: {{std: 0.02}}}}}}
  - class_path: posecore.data.SyntheticMotion
    init_args:
      num_clips: 1
      cameras: {{class_path: posecore.data.RingCameras, init_args: {{focal_length: 1100.0}}}}
train_weights: [0.5, 0.5]
val:
  subjects:
    class_path: posecore.data.CMUMocap
    init_args: {{split: val}}
test:
  subjects: {{class_path: posecore.data.CMUMocap, init_args: {{split: test_subjects}}}}
  takes: {{class_path: posecore.data.CMUMocap, init_args: {{split: test_takes, joints: body}}}}
"""


def test_jsonargparse_makes_factories_from_yaml(tmp_path: Path) -> None:
    write_cmu_mocap(tmp_path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PoseDataModule, "data")
    settings = "data:" + YAML.format(root=tmp_path).replace("\n", "\n  ")
    data = parser.instantiate(parser.parse_string(settings)).data
    assert isinstance(data, PoseDataModule)
    data.setup("fit")
    assert data.train_set is not None
    assert [type(d) for d in data.train_set.datasets] == [CMUMocap, SyntheticMotion]
    assert float(data.train_set.datasets[1].samples["K"][:, 0, 0].mean()) == pytest.approx(1100, rel=0.02)
    assert (data.train_set.datasets[0].samples["confidence"] < 1).any()
    assert len(next(iter(data.train_dataloader()))["clip"]) == 8
    assert_pose_dataset(data.val_sets["subjects"])
    data.setup("test")
    assert data.test_names == ["subjects", "takes"]
    assert "betas" in data.test_sets["takes"][0]


def test_missing_data_is_one_clear_error(tmp_path: Path) -> None:
    factory: Callable[[Path], PoseDataset] = CMUMocap
    data = PoseDataModule(tmp_path / "none", val={"cmu": factory})
    with pytest.raises(
        FileNotFoundError,
        match=r"data\.val\.cmu: .*mocap\.cs\.cmu\.edu.*cgspeed.*SyntheticMotion.*Set data\.root \(now ",
    ):
        data.setup("validate")


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be at least 1 and 0, got 0 and 0"):
        PoseDataModule(tmp_path, batch_size=0)
    with pytest.raises(
        ValueError, match=r"one number >= 0 for each of the 1 training sets, not all 0, got \[1.0, 2.0\]"
    ):
        PoseDataModule(tmp_path, train=[table], train_weights=[1.0, 2.0])
    data = PoseDataModule(tmp_path, train=[table], batch_size=11)
    with pytest.raises(ValueError, match="train: no training sets"):
        data.train_dataloader()
    data.setup("fit")
    with pytest.raises(ValueError, match="batch_size: 11 is more than the 10 training samples"):
        data.train_dataloader()


def keypoint_file(path: Path, num_people: int) -> Path:
    keypoints = {name: [10.0 + joint, 20.0] for joint, name in enumerate(COCO_17.joint_names)}
    people = [{"id": str(number), "keypoints": keypoints} for number in range(num_people)]
    path.write_text(json.dumps({"joint_set": "coco17", "image_size": [30, 40], "people": people}))
    return path


@pytest.mark.parametrize(("done", "rows"), [([], [[0, 1], [2, 3], [4]]), ([0, 3], [[1, 2], [4]]), (range(5), [])])
def test_rows_that_are_done_are_not_predicted_again(tmp_path: Path, done: list[int], rows: list[list[int]]) -> None:
    data = PoseDataModule(predict=PredictInput(keypoints=keypoint_file(tmp_path / "k.json", 5)), batch_size=2)
    data.setup("predict")
    data.predict_done = frozenset(done)
    batches = list(data.predict_dataloader())
    assert [batch["row"].tolist() for batch in batches] == rows
    assert [batch["clip"] for batch in batches] == [[str(row) for row in batch] for batch in rows]


def test_predict_needs_an_input() -> None:
    data = PoseDataModule()
    with pytest.raises(ValueError, match="predict: nothing to predict; give a PredictInput"):
        data.predict_dataloader()
    with pytest.raises(ValueError, match=r"data\.predict\.keypoints: `predict` of this method works on 2D keypoints"):
        data.setup("predict")
