"""Estimates of whole test sets, through a real Trainer, and back into a data set as the start of a fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

import diffhmr
from diffhmr.data import DiffHMRDataModule
from diffhmr.module import DiffHMR
from posecore.cli import run
from posecore.data.base import PoseTable
from posecore.data.open_images import OpenImages
from posecore.data.sample import PoseSample
from posecore.data.start_estimates import read_start_estimates
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.training.estimates_file import EstimatesFile

SMOKE = Path(diffhmr.__file__).parent / "configs" / "smoke.yaml"


def estimate(batch: PoseSample) -> dict[str, Tensor]:
    """Different numbers for every row, that anybody can compute again."""
    return {
        "pose_rotmat": axis_angle_to_rotmat(batch["transl"][:, None] * torch.linspace(0, 1, 24)[:, None]),
        "betas": batch["betas"] + 1,
        "transl": batch["transl"] + 2,
    }


class Toy(LightningModule):
    def __init__(self, without: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.without = without

    def test_step(self, batch: PoseSample, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        found = estimate(batch)
        return {"best": 0} | {key: value.double() for key, value in found.items() if key not in self.without}


class ToyData(LightningDataModule):
    def __init__(self, sets: dict[str, PoseTable]) -> None:
        super().__init__()
        self.sets, self.test_names = sets, list(sets)

    def test_dataloader(self) -> list[DataLoader]:
        return [DataLoader(table, batch_size=5, collate_fn=lambda batch: batch) for table in self.sets.values()]


@pytest.fixture(scope="module")
def data() -> ToyData:
    root = Path("nowhere")
    return ToyData(
        {"one": OpenImages(root, ["sample"], images=False), "two": OpenImages(root, ["sample"], 4, images=False)}
    )


def score(folder: Path, data: ToyData, callback: EstimatesFile, **options: Any) -> None:
    Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[callback],
    ).test(Toy(**options), data, verbose=False)  # fmt: skip


def test_every_set_gets_its_file(tmp_path: Path, data: ToyData) -> None:
    score(tmp_path, data, EstimatesFile(tmp_path / "new" / "folder"))
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["one.npz", "two.npz"]
    for name, table in data.sets.items():
        path = tmp_path / "new" / "folder" / f"{name}.npz"
        found = read_start_estimates(path, len(table))
        expected = estimate(table.samples)
        torch.testing.assert_close(found["start_global_orient"], expected["pose_rotmat"][:, 0])
        torch.testing.assert_close(found["start_body_pose"], expected["pose_rotmat"][:, 1:])
        assert torch.equal(found["start_betas"], expected["betas"])
        assert torch.equal(found["start_transl"], expected["transl"])
        with np.load(path, allow_pickle=False) as file:
            assert {key: file[key].dtype for key in file} == dict.fromkeys(
                ("pred_pose", "pred_betas", "pred_cam_t"), np.dtype("float32")
            )
    start = str(tmp_path / "new" / "folder" / "two.npz")
    fit = OpenImages(tmp_path, ["sample"], stride=4, start=start, images=False)
    assert torch.equal(fit.samples["start_betas"], fit.samples["betas"] + 1)


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path, data: ToyData) -> None:
    (tmp_path / "two.npz").write_bytes(b"days of work")
    with pytest.raises(FileExistsError, match=r"two\.npz is there already; overwrite: true replaces it"):
        score(tmp_path, data, EstimatesFile())
    assert [path.name for path in tmp_path.iterdir()] == ["two.npz"]
    assert (tmp_path / "two.npz").read_bytes() == b"days of work"
    # The same callback twice: nothing of the first run is left in the second.
    callback = EstimatesFile(overwrite=True)
    for _ in range(2):
        score(tmp_path, data, callback)
        assert len(read_start_estimates(tmp_path / "two.npz", len(data.sets["two"]))["start_betas"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "two.npz"]


def test_a_method_without_estimates(tmp_path: Path, data: ToyData) -> None:
    with pytest.raises(ValueError, match=r"EstimatesFile: Toy\.test_step returns no pose_rotmat, transl$"):
        score(tmp_path, data, EstimatesFile(), without=("pose_rotmat", "transl"))
    assert list(tmp_path.iterdir()) == []


def test_several_processes_are_refused(tmp_path: Path, data: ToyData) -> None:
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, default_root_dir=tmp_path)
    with pytest.raises(ValueError, match=r"trainer\.devices: EstimatesFile needs one process, got 2"):
        EstimatesFile().on_test_start(trainer, Toy())


def test_a_method_s_estimates_start_a_fit(tmp_path: Path) -> None:
    run(
        DiffHMR, DiffHMRDataModule, SMOKE.parent,
        ["test", "--config", "smoke.yaml", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false",
         "--trainer.default_root_dir", str(tmp_path), "--trainer.callbacks", "posecore.training.EstimatesFile"],
    )  # fmt: skip
    (path,) = tmp_path.rglob("*.npz")
    assert path.name == "synthetic.npz"
    found = read_start_estimates(path, len(OpenImages(tmp_path, ["sample"], stride=4)))
    assert (found["start_transl"][:, 2] > 0).all()
    assert len({pose.numpy().tobytes() for pose in found["start_body_pose"]}) == len(found["start_body_pose"])
