"""The paper's tables end to end: each network's training and every row on tiny files in the release's layouts."""

import json
import pickle
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from posecore.cli import run
from posecore.data import PoseTable
from posecore.data.emdb import EMDB
from posecore.data.threedpw import ThreeDPW
from posecore.testing import (
    write_emdb,
    write_gendered_bodies,
    write_smpl_groups,
    write_smpl_npz,
    write_start_cache,
    write_threedpw,
)
from posecore.training.smpl_writer import SMPLWriter
from scorehmr.data import ScoreHMRDataModule
from scorehmr.module import ScoreHMR

CONFIGS = Path(__file__).parents[2] / "packages/scorehmr/scorehmr/configs"
ROWS = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("table*/*.yaml"))
NOT_IN_THE_PAPER = {"table2/gaussian.yaml", "table2/prior.yaml"}
NETWORKS = ("default.yaml", "train/pare_spin.yaml", "train/prohmr_eft.yaml", "train/prohmr_spin.yaml")
PROTOCOLS = {
    "table1/3dpw": "scorehmr_3dpw",
    "table1/emdb": "scorehmr_emdb",
    "table2/smplify_emdb": "scorehmr_emdb",
    "table2/": "scorehmr_3dpw",
    "table3/": "scorehmr_multiview",
    "table4/3dpw": "scorehmr_video",
    "table4/emdb": "scorehmr_emdb_video",
}
FITS = ("coco_train_eft", "coco_train_spin", "mpi_inf_3dhp_train_eft", "mpi_inf_3dhp_train_spin", "mpii_train_spin")
CACHES = ("pare_features", "prohmr_features")
STARTS = ("hmr2b", "prohmr")
SMALL = [
    "--model.hidden_dim", "16", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
    "--trainer.logger", "false",  # which would draw panels
]  # fmt: skip
SHORT = [
    "--model.fit.guidance.outer_loops", "1", "--model.fit.smplify.camera_steps", "2",
    "--model.fit.smplify.body_steps", "2", "--model.fit.prior.steps", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data`` with every file that the configs name."""
    folder = tmp_path_factory.mktemp("tables")
    data = folder / "data"
    for cache_folder in (*CACHES, *STARTS):
        (data / cache_folder).mkdir(parents=True)
    write_gendered_bodies(data / "body_models")
    for seed, name in enumerate(("h36m_train_mosh", *FITS)):
        write_smpl_npz(data, f"{name}.npz", rows=6, seed=seed)
        write_features(data, f"{name}.npz", rows=6)
    for name, pictures in (("3dpw_test", "3dpw"), ("emdb1", "emdb")):
        people = write_smpl_npz(data, f"{name}.npz", rows=6, unknown=0, gender=np.array(list("mfmfmf")))
        write_features(data, f"{name}.npz", rows=6)
        write_starts(data, f"{name}.npz", people)
        write_pictures(data / pictures, people)
    groups = {"h36m_multiview": "", "mannequin": "mannequin", "3dpw_test_video": "3dpw", "emdb1_video": "emdb"}
    for name, pictures in groups.items():
        people = write_smpl_groups(data, f"{name}.pkl", counts=(4, 3))
        write_features(data, f"{name}.pkl", rows=7)
        write_starts(data, f"{name}.pkl", people)
        if pictures:
            write_pictures(data / pictures, people)
    return folder


def write_features(data: Path, name: str, rows: int) -> None:
    """PARE's, 128 x 24, and ProHMR's, 2048."""
    random = np.random.default_rng(rows)
    pare = {"pose_feats": random.standard_normal((rows, 128, 24)).astype(np.float32)}
    prohmr = {"features": random.standard_normal((rows, 2048)).astype(np.float32)}
    for cache_folder, content in zip(CACHES, (pare, prohmr), strict=True):
        with (data / cache_folder / name).open("wb") as file:
            np.savez(file, **content) if name.endswith(".npz") else pickle.dump(content, file)  # type: ignore[arg-type]


def write_starts(data: Path, name: str, people: dict[str, np.ndarray]) -> None:
    """HMR 2.0b's are the truth, ProHMR's have a mean shape, so that they can be told apart."""
    write_start_cache(data / STARTS[0] / name, people)
    write_start_cache(data / STARTS[1] / name, people, pred_betas=np.zeros_like(people["betas"], dtype=np.float32))


def write_pictures(folder: Path, people: dict[str, np.ndarray]) -> None:
    for name, size in dict(zip(people["imgname"], people["image_size"].astype(int).tolist(), strict=True)).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", tuple(size)).save(folder / name)


def scorehmr(folder: Path, command: str, where: Path, *args: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HUMANDIFF_TRACEBACK", "1")
        args = (command, "--config", "default.yaml", *args, *SMALL, "--trainer.default_root_dir", str(where))
        run(ScoreHMR, ScoreHMRDataModule, CONFIGS, args, SMPLWriter)


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Callable[[str], Path]:
    """Gives the checkpoint of a network, which is trained for two steps on its mixed sets when first asked for."""

    @cache
    def of(config: str) -> Path:
        where = folder / "fit" / config
        on_top = [] if config == "default.yaml" else ["--config", config]
        scorehmr(folder, "fit", where, *on_top, "--data.batch_size", "4", "--trainer.max_steps", "2")
        (path,) = where.rglob("last.ckpt")
        return path

    return of


@pytest.mark.parametrize("row", ROWS)
def test_a_row_runs_on_files_of_the_releases_layout(
    folder: Path, checkpoint: Callable[[str], Path], row: str, tmp_path: Path
) -> None:
    header = "".join(line for line in (CONFIGS / row).open() if line.startswith("#"))
    # A row says whose checkpoint it wants; SMPLify and the start itself need none.
    network = re.search(r"CHECKPOINT is of (\S+\.yaml)", header)
    weights = ["--ckpt_path", str(checkpoint(network.group(1)))] if network else []
    scorehmr(folder, "test", tmp_path, "--config", row, *weights, *SHORT)
    (path,) = tmp_path.rglob("metrics.json")
    content = json.loads(path.read_text())
    metrics: dict[str, float] = content["metrics"]
    assert all(np.isfinite(value) for value in metrics.values())
    assert content["protocol_name"] == next(name for start, name in PROTOCOLS.items() if row.startswith(start))
    (start,) = (value for name, value in metrics.items() if name.endswith("start_pa_mpjpe"))
    assert 1 < start < 20 if "from ProHMR" in header else start < 1, "the header names another start than is read"
    check_paper(row, header, content)


def check_paper(row: str, header: str, content: dict[str, Any]) -> None:
    """The paper's numbers have a metric beside them, and are those of the header."""
    paper: dict[str, float] = content["paper"]
    if row in NOT_IN_THE_PAPER:
        assert not paper
        return
    assert row[len("table")] in content["table"]
    assert {f"test/{name}" for name in paper} <= content["metrics"].keys()
    assert any("/start_" in name for name in paper)
    for value in paper.values():
        assert f" {value}" in header or f"({value}" in header


def test_every_network_is_used() -> None:
    """By the rows of Table 1, which are all that the paper prints."""
    rows = [row for row in ROWS if row.startswith("table1/")]
    headers = [(CONFIGS / row).read_text() for row in rows]
    for network in NETWORKS:
        of_network = [row for row, header in zip(rows, headers, strict=True) if f"is of {network}" in header]
        assert {row.split("_")[0] + row.split("_")[1] for row in of_network} == {
            f"table1/{where}{start}" for where in ("3dpw", "emdb") for start in ("hmr2", "prohmr")
        }


def test_rows_on_the_files_of_3dpw_and_emdb(folder: Path, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """As they are distributed. EMDB has no detections, so no number of the paper stands beside ours."""
    files = tmp_path / "files"
    write_threedpw(files / "3dpw", splits=("test",), frames=4, open_body=True)
    write_emdb(files / "emdb", frames=4)
    tables: dict[str, PoseTable] = {
        "3dpw": ThreeDPW(files, joint_source="joints44", camera="assumed", body_models=folder / "data/body_models"),
        "emdb": EMDB(files, joint_source="joints44", camera="assumed", body_models=folder / "data/body_models"),
    }
    for where, table in tables.items():
        for cache_folder in (*CACHES, *STARTS):
            (files / cache_folder).mkdir(exist_ok=True)
        write_features(files, f"{where}_files.npz", len(table))
        rows = table.samples
        pose = np.concatenate((rows["global_orient"][:, None].numpy(), rows["body_pose"].numpy()), axis=1)
        start: dict[str, Any] = {
            "pred_betas": rows["betas"].numpy(),
            "pred_pose": pose,
            "pred_cam_t": np.tile([0, 0, 20.0], (len(table), 1)),
        }
        np.savez(files / "hmr2b" / f"{where}_files.npz", **start)
        on_top = ["--config", f"table1/{where}_hmr2_pare_eft.yaml", "--config", f"data/{where}_files.yaml"]
        weights = ["--ckpt_path", str(checkpoint("default.yaml")), "--data.root", str(files)]
        scorehmr(folder, "test", tmp_path / where, *on_top, *weights, *SHORT)
        (path,) = (tmp_path / where).rglob("metrics.json")
        content = json.loads(path.read_text())
        name = {"3dpw": "3dpw", "emdb": "emdb1_true_keypoints"}[where]
        assert content["rows"] == {name: len(table)}
        assert content["metrics"][f"test/{name}/start_pa_mpjpe"] < 5
        assert content["metrics"][f"test/{name}/pa_mpjpe"] > 0
        beside = {f"test/{number}" for number in content["paper"]} & content["metrics"].keys()
        assert bool(beside) == (where == "3dpw")
