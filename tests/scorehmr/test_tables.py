"""The paper's tables end to end: training and every test config on tiny files in the release's layouts."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posecore.cli import run
from posecore.testing import write_gendered_bodies, write_smpl_groups, write_smpl_npz, write_start_cache
from posecore.training.smpl_writer import SMPLWriter
from scorehmr.data import ScoreHMRDataModule
from scorehmr.module import ScoreHMR

CONFIGS = Path(__file__).parents[2] / "packages/scorehmr/scorehmr/configs"
TRAIN = ("h36m_train_mosh", "coco_train_eft", "mpi_inf_3dhp_train_eft")
SMALL = ["--model.hidden_dim", "16", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


def features(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, 128, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data`` with every file that the configs name."""
    folder = tmp_path_factory.mktemp("tables")
    data = folder / "data"
    for cache in ("pare_features", "hmr2b"):
        (data / cache).mkdir(parents=True)
    write_gendered_bodies(data / "body_models")
    for seed, name in enumerate(TRAIN):
        write_smpl_npz(data, f"{name}.npz", rows=6, seed=seed)
        np.savez(data / "pare_features" / f"{name}.npz", pose_feats=features(6))
    for name, pictures in (("3dpw_test", "3dpw"), ("emdb1", "emdb")):
        people = write_smpl_npz(data, f"{name}.npz", rows=6, unknown=0, gender=np.array(list("mfmfmf")))
        np.savez(data / "pare_features" / f"{name}.npz", pose_feats=features(6))
        write_start_cache(data / "hmr2b" / f"{name}.npz", people)
        write_pictures(data / pictures, people)
    groups = {"h36m_multiview": "", "mannequin": "mannequin", "3dpw_test_video": "3dpw", "emdb1_video": "emdb"}
    for name, pictures in groups.items():
        people = write_smpl_groups(data, f"{name}.pkl", counts=(4, 3))
        with (data / "pare_features" / f"{name}.pkl").open("wb") as file:
            pickle.dump({"pose_feats": features(7)}, file)
        write_start_cache(data / "hmr2b" / f"{name}.pkl", people)
        if pictures:
            write_pictures(data / pictures, people)
    return folder


def write_pictures(folder: Path, people: dict[str, np.ndarray]) -> None:
    for name, size in dict(zip(people["imgname"], people["image_size"].astype(int).tolist(), strict=True)).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", tuple(size)).save(folder / name)


def scorehmr(folder: Path, monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HUMANDIFF_TRACEBACK", "1")
    run(ScoreHMR, ScoreHMRDataModule, CONFIGS, [*args, *SMALL], SMPLWriter)


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    """Two steps of training on the three mixed sets."""
    with pytest.MonkeyPatch.context() as patch:
        args = ["--data.batch_size", "4", "--trainer.max_steps", "2", "--trainer.default_root_dir", "fit"]
        scorehmr(folder, patch, "fit", "--config", "default.yaml", *args)
    (path,) = (folder / "fit").rglob("last.ckpt")
    return path


@pytest.mark.parametrize(
    ("config", "name", "metrics"),
    [
        ("default", "3dpw", {"mpjpe", "pa_mpjpe"}),
        ("table2/emdb", "emdb1", {"pa_mpjpe"}),
        ("table2/smplify", "3dpw", {"mpjpe", "pa_mpjpe"}),
        ("table3/h36m", "h36m", {"mpjpe", "pa_mpjpe"}),
        ("table3/mannequin", "mannequin", {"mpjpe", "pa_mpjpe"}),
        ("table4/3dpw", "3dpw", {"pa_mpjpe", "acceleration"}),
        ("table4/emdb", "emdb1", {"pa_mpjpe", "acceleration"}),
    ],
)
def test_a_table_runs_on_files_of_the_releases_layout(
    folder: Path,
    checkpoint: Path,
    config: str,
    name: str,
    metrics: set[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    on_top = [] if config == "default" else ["--config", f"{config}.yaml"]
    args = ["--ckpt_path", str(checkpoint), "--trainer.default_root_dir", str(tmp_path)]
    short = ["--model.fit.guidance.outer_loops", "1", "--model.fit.smplify.body_steps", "2"]
    scorehmr(folder, monkeypatch, "test", "--config", "default.yaml", *on_top, *args, *short)
    (path,) = tmp_path.rglob("metrics.json")
    content = json.loads(path.read_text())
    assert "joints of" in content["protocol"]
    expected = {f"test/{name}/{prefix}{metric}" for metric in metrics for prefix in ("", "start_")}
    assert set(content["metrics"]) == expected
    # The start is the truth on the neutral body; where the truth is gendered, only size tells them apart.
    assert content["metrics"][f"test/{name}/start_pa_mpjpe"] < 15
    assert all(np.isfinite(value) for value in content["metrics"].values())
