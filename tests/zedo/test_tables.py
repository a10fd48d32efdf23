"""The paper's tables end to end: training and every table config, on tiny files in the layouts that users download."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import zedo
from posecore.cli import run
from posecore.metrics.protocols import PROTOCOLS
from posecore.testing import write_human36m, write_mpi_inf_3dhp, write_zedo_files
from zedo.data import ZeDODataModule
from zedo.module import ZeDO
from zedo.prior import generate

CONFIGS = Path(zedo.__file__).parent / "configs"
TABLES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("table*/*.yaml"))
PROTOCOL_OF = {"h36m": "zedo_h36m", "3dhp": "zedo_3dhp", "3dpw": "zedo_3dpw_17"}
STRIDES = {"h36m": 640, "3dhp": 3, "3dpw": 35}
TRAIN = ("S1", "S5", "S6", "S7", "S8")
FILE_ROWS = 72
SMALL = [
    "--model.hidden_dim=64", "--model.embed_dim=16", "--model.initial_pose.num_steps=2",
    "--model.loop.num_iterations=4", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data`` with every file that the configs name."""
    folder = tmp_path_factory.mktemp("tables")
    data = folder / "data"
    write_zedo_files(data, rows=FILE_ROWS)
    write_human36m(data / "human36m", subjects=TRAIN, frames=3)
    write_mpi_inf_3dhp(data / "mpi_inf_3dhp", train=[f"S{i}" for i in range(1, 9)], test=(), frames=2)
    return folder


def command(folder: Path, *args: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HUMANDIFF_TRACEBACK", "1")
        patch.setattr("zedo.module.generate", partial(generate, num_steps=20))  # no option: a thousand by the paper
        return run(ZeDO, ZeDODataModule, CONFIGS, [*args, *SMALL])


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    """One step of training on Human3.6M, with the anchors of every S."""
    args = ["--data.batch_size=64", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    command(folder, "fit", "--config=default.yaml", *args, "--trainer.default_root_dir=fit")
    (path,) = (folder / "fit").rglob("last.ckpt")
    return path


def configs_of(row: str) -> list[str]:
    """The configs of the command that the row's header states."""
    (line,) = (line for line in (CONFIGS / row).read_text().splitlines() if line.startswith("# Command: zedo test"))
    return re.findall(r"--config (\S+)", line)


def test_every_table_of_the_paper_has_rows() -> None:
    assert {row.split("/")[0] for row in TABLES} == {f"table{number}" for number in range(1, 8)}


@pytest.mark.parametrize("row", TABLES)
def test_a_row_runs_and_is_compared(
    folder: Path, checkpoint: Path, row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [f"--config={name}" for name in configs_of(row)]
    # Without a logger no panels are drawn, whose axes are as large as the poses of an untrained prior.
    args += [f"--ckpt_path={checkpoint}", f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=false"]
    command(folder, "test", *args)
    (path,) = tmp_path.rglob("metrics.json")
    content = json.loads(path.read_text())
    said = yaml.safe_load((CONFIGS / row).read_text())["results"]
    assert {name: content[name] for name in ("table", "row", "paper")} == said
    assert content["configs"] == configs_of(row)
    assert content["paper"]
    for name in content["paper"]:
        assert np.isfinite(content["metrics"][f"test/{name}"]), name
    (dataset,) = {name.split("/")[0] for name in content["paper"]}
    expected = "zedo_3dpw_14" if row == "table1/j14.yaml" else PROTOCOL_OF[dataset]
    assert content["protocol_name"] == expected
    assert content["protocol"] == PROTOCOLS[expected].describe()
    rows = sum(i % 5 != 0 for i in range(FILE_ROWS)) if dataset == "3dhp" else FILE_ROWS
    assert content["rows"] == {dataset: -(-rows // STRIDES[dataset])}, "the set is subsampled as the protocol says"
    assert not content["partial"]
    assert f"ZeDO, {said['table']}, {said['row']}\n" in capsys.readouterr().out


def test_protocols_are_the_release_s() -> None:
    """Joints, strides, mirroring, and the least error over hypotheses; relative to the true pelvis alone."""
    for name, joints, stride in (
        ("zedo_h36m", 17, 640), ("zedo_3dhp", 17, 3), ("zedo_3dpw_17", 17, 35), ("zedo_3dpw_14", 14, 35)
    ):  # fmt: skip
        protocol = PROTOCOLS[name]
        assert (protocol.num_joints, protocol.stride, protocol.hypotheses) == (joints, stride, "min")
        assert protocol.reflection
        assert not protocol.center_prediction
        assert protocol.averaging == ("frame" if "3dpw" in name else "action")


@pytest.mark.parametrize(
    ("row", "datasets"),
    [("table3/in_domain_s1", ["MPIINF3DHP"]), ("table6/3dhp_from_mixed", ["Human36M", "MPIINF3DHP"])],
)
def test_other_priors_are_trained_by_their_rows(folder: Path, row: str, datasets: list[str], tmp_path: Path) -> None:
    args = ["--config=default.yaml", f"--config={row}.yaml", "--data.batch_size=64", "--trainer.max_epochs=1"]
    args += ["--trainer.limit_train_batches=1", f"--trainer.default_root_dir={tmp_path}"]
    cli = command(folder, "fit", *args)
    assert [type(dataset).__name__ for dataset in cli.datamodule.train_set.datasets] == datasets
    assert cli.trainer.global_step == 1
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss_score"])
