"""The paper's tables end to end: training on four mixed sets and every row, on tiny files in SPIN's layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffhmr.data import DiffHMRDataModule
from diffhmr.module import DiffHMR
from posecore.cli import run
from posecore.testing import write_gendered_bodies, write_spin_npz, write_threedpw
from posecore.training.smpl_writer import SMPLWriter

CONFIGS = Path(__file__).parents[2] / "packages/diffhmr/diffhmr/configs"
ROWS = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("table*/*.yaml"))
PICTURES = ("h36m", "mpi_inf_3dhp", "coco", "mpii", "3dpw")
SMALL = [
    "--model.backbone", "regnetx_002", "--model.pretrained", "false", "--model.image_size", "64", "--model.dim", "8",
    "--model.cond_channels", "8", "--model.hidden_dim", "16", "--model.sampling.num_inference_steps", "2",
    "--data.augmentation.size", "64", "--data.num_workers", "0", "--data.batch_size", "4",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.precision", "32",
    "--trainer.logger", "false",  # which would draw panels
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data`` with every file that the configs name."""
    folder = tmp_path_factory.mktemp("tables")
    data = folder / "data"
    write_gendered_bodies(data / "body_models")
    for seed, name in enumerate(("h36m_train", "mpi_inf_3dhp_train", "coco_2014_train", "mpii_train")):
        # COCO and MPII have no 3D, and poses only in SPIN's static fits.
        changes = (
            dict.fromkeys(("S", "openpose", "pose", "shape", "has_smpl")) if name.startswith(("coco", "mpii")) else {}
        )
        people = write_spin_npz(data / "spin_npz", f"{name}.npz", rows=6, unknown=1, seed=seed, **changes)
        if changes:
            (data / "spin_npz/static_fits").mkdir(exist_ok=True)
            fits = data / f"spin_npz/static_fits/{name.split('_')[0]}_fits.npy"
            np.save(fits, np.concatenate((people["pose"], people["shape"]), axis=1))
    gender = np.array(list("mfmf"))
    write_spin_npz(data / "spin_npz", "3dpw_test.npz", rows=4, unknown=0, seed=8, gender=gender, part=None, S=None)
    write_spin_npz(data / "spin_npz", "mpi_inf_3dhp_valid.npz", rows=4, unknown=0, seed=9, pose=None, shape=None)
    for name in PICTURES:
        (data / name).symlink_to(data / "spin_npz")
    return folder


def diffhmr(folder: Path, command: str, where: str, *configs: str, **options: str) -> Path:
    """Runs a command in the folder; options are more of the command line. Returns what it wrote into."""
    args = [command, *(part for config in configs for part in ("--config", config)), *SMALL]
    args += [part for name, value in options.items() for part in (f"--{name}", value)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HUMANDIFF_TRACEBACK", "1")
        args += ["--trainer.default_root_dir", where]
        run(DiffHMR, DiffHMRDataModule, CONFIGS, args, SMPLWriter)
    return folder / where


@pytest.fixture(scope="module")
def checkpoints(folder: Path) -> dict[str, str]:
    """Two steps of training of three networks: on the four sets, and Table 2's on COCO."""
    found = {}
    for name, rows in {
        "table1": (),
        "table2/rot6d": ("table2/rot6d.yaml",),
        "table2/axis_angle": ("table2/axis_angle.yaml",),
    }.items():
        where = diffhmr(folder, "fit", f"fit/{name}", "default.yaml", *rows, **{"trainer.max_steps": "2"})
        (path,) = where.rglob("last.ckpt")
        found[name] = str(path)
    return found


def scores_of(folder: Path, where: str, checkpoint: str, *configs: str, **options: str) -> dict[str, Any]:
    (path,) = diffhmr(folder, "test", where, *configs, ckpt_path=checkpoint, **options).rglob("metrics.json")
    content: dict[str, Any] = json.loads(path.read_text())
    assert all(np.isfinite(value) for value in content["metrics"].values())
    return content


@pytest.mark.parametrize("row", ROWS)
def test_a_row_runs_on_files_of_spins_layout(folder: Path, checkpoints: dict[str, str], row: str) -> None:
    (checkpoint,) = (path for name, path in checkpoints.items() if row.startswith(name))
    on_3dhp = "mpi_inf_3dhp" in row
    data = ["data/mpi_inf_3dhp.yaml"] if on_3dhp else []
    content = scores_of(folder, f"test/{row}", checkpoint, "default.yaml", *data, row)
    metrics, paper = content["metrics"], content["paper"]
    header = "".join(line for line in (CONFIGS / row).open() if line.startswith("#"))
    assert row[: len("table1")] == content["table"].lower().replace(" ", "")
    assert content["protocol_name"] == ("spin_mpi_inf_3dhp" if on_3dhp else "spin_3dpw")
    assert {f"test/{name}" for name in paper} <= metrics.keys()
    assert len(paper) == (3 if row.startswith("table1") else 2)
    assert all(f" {value}" in header for value in paper.values())
    if row.startswith("table1"):
        assert {name for name in metrics if "/min" in name} == {f"test/{name}" for name in paper}
    assert any("pve" in name for name in metrics) != on_3dhp, "MPI-INF-3DHP knows joints and no bodies"


def test_the_default_has_all_of_table_1(folder: Path, checkpoints: dict[str, str]) -> None:
    found = scores_of(folder, "test/default", checkpoints["table1"], "default.yaml")["metrics"]
    for n in (1, 5, 10, 25):
        for metric in ("mpjpe", "pa_mpjpe", "pve"):
            assert found[f"test/3dpw/min{n}_{metric}"] <= found[f"test/3dpw/best{n}_{metric}"] + 1e-3
    assert found["test/3dpw/min25_pve"] < found["test/3dpw/min1_pve"]


def test_a_row_runs_on_the_files_of_3dpw(folder: Path, checkpoints: dict[str, str]) -> None:
    """As they are distributed, without SPIN's npz."""
    write_threedpw(folder / "files" / "3dpw", splits=("test",), frames=4, open_body=True)
    configs = "default.yaml", "table1/n5.yaml", "data/3dpw_files.yaml"
    content = scores_of(folder, "test/files", checkpoints["table1"], *configs, **{"data.root": "files"})
    assert content["rows"] == {"3dpw": 7}
    assert {f"test/{name}" for name in content["paper"]} <= content["metrics"].keys()
