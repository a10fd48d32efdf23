import pytest
import torch

from posecore.body.skeletons import H36M_17
from posecore.data.base import PoseDataset, PoseTable
from posecore.data.sample import PoseSample, concatenate, group_names, row_numbers, sample_length, take, unbatch


def table(rows: int = 4) -> PoseSample:
    joints = torch.arange(rows * 51, dtype=torch.float32).reshape(rows, 17, 3)
    return PoseSample(joints_cam=joints, clip=[f"clip{i}" for i in range(rows)], frame=torch.arange(rows))


def test_take_unbatch_and_concatenate() -> None:
    rows = take(table(), [3, 1])
    assert rows["clip"] == ["clip3", "clip1"]
    assert rows["frame"].tolist() == [3, 1]
    single = unbatch(rows, 0)
    assert single["clip"] == "clip3"
    assert single["joints_cam"].shape == (17, 3)
    joined = concatenate([table(2), PoseSample(joints_cam=torch.zeros(1, 17, 3), clip=["x"])])
    assert set(joined) == {"joints_cam", "clip"}
    assert joined["clip"] == ["clip0", "clip1", "x"]
    assert sample_length(joined) == 3


def test_rows_are_copies() -> None:
    dataset = PoseTable(H36M_17, table())
    before = dataset.samples["joints_cam"].clone()
    dataset.__getitems__([0, 1])["joints_cam"].zero_()
    dataset[2]["joints_cam"].zero_()
    assert torch.equal(dataset.samples["joints_cam"], before)


def test_group_names() -> None:
    samples = PoseSample(subject=["S1", "S2"], action=["Walk", "Box"], frame=torch.arange(2))
    assert group_names(samples, ()) is None
    assert group_names(samples, ("action",)) == ["Walk", "Box"]
    assert group_names(samples, ("subject", "action")) == ["S1 Walk", "S2 Box"]
    with pytest.raises(
        ValueError, match="keys: the samples have no action to be grouped by, only joints_cam, clip, fr"
    ):
        group_names(table(), ("action",))


def test_table_indexing() -> None:
    dataset = PoseTable(H36M_17, table())
    assert len(dataset) == 4
    assert dataset[-1]["clip"] == "clip3"
    with pytest.raises(IndexError, match="index: 4 is outside a dataset of 4"):
        dataset[4]
    with pytest.raises(IndexError, match=r"indices: must lie in 0\.\.3, got 0\.\.7"):
        dataset.__getitems__([0, 7])


def test_wrong_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="has no keys"):
        sample_length(PoseSample())
    with pytest.raises(ValueError, match=r"unknown keys \['joint'\]"):
        sample_length({"joint": torch.zeros(1)})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(ValueError, match="the same number of rows"):
        sample_length(PoseSample(frame=torch.zeros(2), view=torch.zeros(3)))
    with pytest.raises(ValueError, match="at least one batched sample"):
        concatenate([])
    with pytest.raises(TypeError, match="PoseDataset must define __len__"):
        len(PoseDataset())
    with pytest.raises(TypeError, match="PoseDataset must define __getitems__"):
        PoseDataset().__getitems__([0])


def test_rows_have_numbers() -> None:
    samples = PoseSample(clip=["a", "b"], K=torch.eye(3).expand(2, 3, 3))
    assert row_numbers(samples).tolist() == [0, 1], "places in the batch, where nobody numbered them"
    assert row_numbers(PoseSample(**samples, row=torch.tensor([7, 5]))).tolist() == [7, 5]
