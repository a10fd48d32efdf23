"""The paper's tables end to end: training on four mixed sets and every test config, on tiny files in SPIN's layout."""

import json
from pathlib import Path

import numpy as np
import pytest

from diffhmr.data import DiffHMRDataModule
from diffhmr.module import DiffHMR
from posecore.cli import run
from posecore.testing import write_gendered_bodies, write_spin_npz
from posecore.training.smpl_writer import SMPLWriter

CONFIGS = Path(__file__).parents[2] / "packages/diffhmr/diffhmr/configs"
PICTURES = ("h36m", "mpi_inf_3dhp", "coco", "mpii", "3dpw")
SMALL = [
    "--model.backbone", "regnetx_002", "--model.pretrained", "false", "--model.image_size", "64", "--model.dim", "8",
    "--model.cond_channels", "8", "--model.hidden_dim", "16", "--model.sampling.num_inference_steps", "2",
    "--data.augmentation.size", "64", "--data.num_workers", "0", "--data.batch_size", "4",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.precision", "32",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data`` with every file that the configs name."""
    folder = tmp_path_factory.mktemp("tables")
    data = folder / "data"
    write_gendered_bodies(data / "body_models")
    for seed, name in enumerate(("h36m_train", "mpi_inf_3dhp_train", "coco_2014_train", "mpii_train")):
        # COCO and MPII have pseudo-ground-truth poses and no 3D joints.
        changes = {"S": None, "openpose": None} if name.startswith(("coco", "mpii")) else {}
        write_spin_npz(data / "spin_npz", f"{name}.npz", rows=6, unknown=1, seed=seed, **changes)
    gender = np.array(list("mfmf"))
    write_spin_npz(data / "spin_npz", "3dpw_test.npz", rows=4, unknown=0, seed=8, gender=gender, part=None, S=None)
    write_spin_npz(data / "spin_npz", "mpi_inf_3dhp_valid.npz", rows=4, unknown=0, seed=9, pose=None, shape=None)
    for name in PICTURES:
        (data / name).symlink_to(data / "spin_npz")
    return folder


def diffhmr(folder: Path, monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HUMANDIFF_TRACEBACK", "1")
    run(DiffHMR, DiffHMRDataModule, CONFIGS, [*args, *SMALL], SMPLWriter)


@pytest.fixture(scope="module", params=["rot6d", "axis_angle"])
def trained(request: pytest.FixtureRequest, folder: Path) -> tuple[str, Path]:
    """Two steps of training: the default on the four sets, and Table 2's other row on COCO."""
    row = [] if request.param == "rot6d" else ["--config", "table2/axis_angle.yaml"]
    with pytest.MonkeyPatch.context() as patch:
        where = f"fit_{request.param}"
        args = [*row, "--trainer.max_steps", "2", "--trainer.default_root_dir", where]
        diffhmr(folder, patch, "fit", "--config", "default.yaml", *args)
    (path,) = (folder / where).rglob("last.ckpt")
    return request.param, path


def scores(folder: Path, monkeypatch: pytest.MonkeyPatch, trained: tuple[str, Path], *rows: str) -> dict[str, float]:
    rotation, checkpoint = trained
    where = folder / f"test_{rotation}_{'_'.join(Path(row).stem for row in rows)}"
    configs = [part for row in ("default.yaml", f"table2/{rotation}.yaml", *rows) for part in ("--config", row)]
    args = ["--ckpt_path", str(checkpoint), "--trainer.default_root_dir", str(where)]
    diffhmr(folder, monkeypatch, "test", *configs, *args)
    (path,) = where.rglob("metrics.json")
    found: dict[str, float] = json.loads(path.read_text())["metrics"]
    assert all(np.isfinite(value) for value in found.values())
    return found


def test_table_1_on_3dpw(folder: Path, monkeypatch: pytest.MonkeyPatch, trained: tuple[str, Path]) -> None:
    found = scores(folder, monkeypatch, trained)
    for n in (1, 5, 10, 25):
        for metric in ("mpjpe", "pa_mpjpe", "pve"):
            assert found[f"test/3dpw/min{n}_{metric}"] <= found[f"test/3dpw/best{n}_{metric}"] + 1e-3
    assert found["test/3dpw/min25_pve"] < found["test/3dpw/min1_pve"]
    if trained[0] == "rot6d":
        alone = scores(folder, monkeypatch, trained, "table1/n5.yaml")
        assert {name for name in alone if "/min" in name} == {
            f"test/3dpw/min5_{m}" for m in ("mpjpe", "pa_mpjpe", "pve")
        }


def test_table_2_on_mpi_inf_3dhp(folder: Path, monkeypatch: pytest.MonkeyPatch, trained: tuple[str, Path]) -> None:
    found = scores(folder, monkeypatch, trained, "table2/mpi_inf_3dhp.yaml")
    assert found["test/mpi_inf_3dhp/min25_pa_mpjpe"] > 0
    assert not any("pve" in name for name in found), "the set knows joints and no bodies"
