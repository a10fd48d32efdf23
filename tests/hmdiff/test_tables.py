"""The paper's tables end to end: both stages, bodies on tiny files in SPIN's layout and hands in FreiHAND's."""

import json
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest

from hmdiff.data import HMDiffDataModule
from hmdiff.module import HMDiff
from hmdiff.writer import HMDiffWriter
from posecore.body.files import load_body_model
from posecore.body.pyramid import OPEN_BODY_PYRAMID, build_pyramid
from posecore.cli import run
from posecore.testing import write_freihand, write_gendered_bodies, write_hand_model, write_spin_npz, write_threedpw

CONFIGS = Path(__file__).parents[2] / "packages/hmdiff/hmdiff/configs"
ROWS = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("table*/*.yaml"))
DATA = {
    "table1/3dpw.yaml": "data/3dpw.yaml",
    "table1/h36m.yaml": "data/h36m.yaml",
    "table2/freihand.yaml": "data/freihand.yaml",
    "table6/h36m.yaml": "data/h36m.yaml",
}
ARCHITECTURE = ("table3/a.yaml", "table3/b.yaml", "table4/pose.yaml", "table4/both.yaml")
"""Rows that are trained by themselves."""
TRAINING = ("h36m_train", "up3d_train", "muco_train", "coco_2014_train", "mpii_train", "3dpw_train")
PICTURES = ("h36m", "up3d", "muco", "coco", "mpii", "3dpw")
SMALL = [
    "--model.backbone", "regnetx_002", "--model.pretrained", "false", "--model.image_size", "64",
    "--model.head_channels", "8", "--model.image_feature", "projected", "--model.num_heads", "2",
    "--model.feed_forward", "1", "--model.final_dim", "16", "--model.num_hypotheses", "2",
    "--model.sampling.num_inference_steps", "2", "--model.alignment.num_poses", "3", "--model.final_images", "2",
    "--model.final_samples", "2", "--model.final_steps", "2",
    "--data.augmentation.size", "64", "--data.num_workers", "0", "--data.batch_size", "4",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.precision", "32",
    "--trainer.max_steps", "2",
    "--trainer.logger", "false",  # which would draw panels
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data`` with every file that the configs name; the bodies have the open body's triangles, so its pyramid."""
    folder = tmp_path_factory.mktemp("tables")
    data = folder / "data"
    write_gendered_bodies(data / "body_models")
    copyfile(OPEN_BODY_PYRAMID, data / "body_models" / "smpl_pyramid.npz")
    for seed, name in enumerate(TRAINING):
        people = write_spin_npz(data / "spin_npz", f"{name}.npz", rows=6, unknown=1, seed=seed)
        (data / "spin_npz/static_fits").mkdir(exist_ok=True)
        fits = data / f"spin_npz/static_fits/{name.split('_')[0]}_fits.npy"
        np.save(fits, np.concatenate((people["pose"], people["shape"]), axis=1))
    gender = np.array(list("mfmf"))
    write_spin_npz(data / "spin_npz", "3dpw_test.npz", rows=4, unknown=0, seed=8, gender=gender, part=None, S=None)
    nothing = {"pose": None, "shape": None, "has_smpl": None, "part": None, "openpose": None}
    write_spin_npz(data / "spin_npz", "h36m_valid_protocol2.npz", rows=4, unknown=0, seed=9, **nothing)
    for name in PICTURES:
        (data / name).symlink_to(data / "spin_npz")
    return folder


def hmdiff(folder: Path, command: str, where: str, *configs: str, **options: str | Path) -> Path:
    """Runs a command in the folder; options are those of ``--model.``, checkpoint and root. Returns its folder."""
    args = [command, *(part for config in configs for part in ("--config", config)), *SMALL]
    args += ["--trainer.default_root_dir", where]
    for name, option in (("checkpoint", "--ckpt_path"), ("root", "--data.root")):
        if (value := options.pop(name, None)) is not None:
            args += [option, str(value)]
    args += [part for name, value in options.items() for part in (f"--model.{name}", str(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HUMANDIFF_TRACEBACK", "1")
        run(HMDiff, HMDiffDataModule, CONFIGS, args, HMDiffWriter)
    return folder / where


def one(folder: Path, name: str) -> Path:
    (path,) = folder.rglob(name)
    return path


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(one(folder, "metrics.json").read_text())
    assert all(np.isfinite(value) for value in found["metrics"].values())
    return found


def check_paper(row: str, found: dict[str, Any]) -> None:
    """The paper's numbers have a metric beside them, and are those of the header."""
    assert row[: len("table1")] == found["table"].lower().replace(" ", "")
    assert found["paper"]
    assert {f"test/{name}" for name in found["paper"]} <= found["metrics"].keys()
    header = "".join(line for line in (CONFIGS / row).open() if line.startswith("#"))
    assert all(f" {value:g}" in header for value in found["paper"].values())


@pytest.fixture(scope="module")
def stages(folder: Path) -> tuple[Path, Path]:
    """Weights of stage 1, and the run of stage 2 that began with them."""
    pose = one(hmdiff(folder, "fit", "pose", "pose.yaml"), "weights.safetensors")
    return pose, hmdiff(folder, "fit", "mesh", "default.yaml", pose_weights=pose)


@pytest.fixture(scope="module")
def plain(folder: Path, stages: tuple[Path, Path]) -> dict[str, float]:
    """Metrics of the default, with DAT."""
    found = results(hmdiff(folder, "test", "plain", "default.yaml", checkpoint=one(stages[1], "last.ckpt")))
    metrics: dict[str, float] = found["metrics"]
    return metrics


@pytest.mark.parametrize("row", [row for row in ROWS if row not in DATA and row not in ARCHITECTURE])
def test_a_row_of_the_trained_model(folder: Path, stages: tuple[Path, Path], plain: dict[str, float], row: str) -> None:
    """Tables 4 and 5: the same weights, sampled otherwise."""
    found = results(hmdiff(folder, "test", f"test/{row}", "default.yaml", row, checkpoint=one(stages[1], "last.ckpt")))
    check_paper(row, found)
    assert found["protocol_name"] == "hmdiff_3dpw"
    metrics = found["metrics"]
    assert metrics.keys() == plain.keys()
    assert metrics["test/3dpw/prior_mpjpe"] == pytest.approx(plain["test/3dpw/prior_mpjpe"])
    # Two steps of training make heatmaps so wide that DAT is never switched off.
    same = row == "table5/no_activation.yaml"
    assert (metrics["test/3dpw/mpjpe"] == pytest.approx(plain["test/3dpw/mpjpe"], rel=1e-6)) == same


@pytest.mark.parametrize("row", ARCHITECTURE)
def test_a_row_that_is_trained_by_itself(folder: Path, stages: tuple[Path, Path], row: str) -> None:
    """Tables 3 and 4; the stacked network has 40 layers here, too."""
    rows = "default.yaml", row
    trained = one(hmdiff(folder, "fit", f"fit/{row}", *rows, pose_weights=stages[0]), "last.ckpt")
    found = results(hmdiff(folder, "test", f"test/{row}", *rows, checkpoint=trained))
    check_paper(row, found)
    assert ("test/3dpw/min_mpjpe" in found["metrics"]) == row.startswith("table4"), "a single step has one answer"


def test_table_1_on_3dpw(folder: Path, stages: tuple[Path, Path]) -> None:
    """After fine-tuning on it."""
    weights = one(stages[1], "weights.safetensors")
    tuned = one(hmdiff(folder, "fit", "tuned", "default.yaml", "data/3dpw.yaml", weights=weights), "last.ckpt")
    configs = "default.yaml", "data/3dpw.yaml", "table1/3dpw.yaml"
    found = results(hmdiff(folder, "test", "3dpw", *configs, checkpoint=tuned))
    check_paper("table1/3dpw.yaml", found)
    assert {f"test/3dpw/{name}" for name in ("centre_pve", "spread", "min_mpjpe")} <= found["metrics"].keys()


def test_table_1_on_the_files_of_3dpw(folder: Path, stages: tuple[Path, Path]) -> None:
    """As they are distributed, without SPIN's npz."""
    write_threedpw(folder / "files" / "3dpw", splits=("test",), frames=3, open_body=True)
    configs = "default.yaml", "table1/3dpw.yaml", "data/3dpw_files.yaml"
    checkpoint = one(stages[1], "last.ckpt")
    found = results(hmdiff(folder, "test", "3dpw_files", *configs, checkpoint=checkpoint, root="files"))
    check_paper("table1/3dpw.yaml", found)
    assert found["rows"] == {"3dpw": 5}


@pytest.mark.parametrize("row", ["table1/h36m.yaml", "table6/h36m.yaml"])
def test_tables_1_and_6_on_human36m(folder: Path, stages: tuple[Path, Path], row: str) -> None:
    """Whose files know joints and no bodies; Table 6 has the speed."""
    configs = "default.yaml", "data/h36m.yaml", row
    found = results(hmdiff(folder, "test", f"test/{row}", *configs, checkpoint=one(stages[1], "last.ckpt")))
    check_paper(row, found)
    assert found["protocol_name"] == "hmdiff_h36m"
    assert not any(name.endswith(("pve", "prior_mpjpe")) for name in found["metrics"])
    # Four pictures cannot have taken longer than the whole test.
    assert found["metrics"]["test/h36m/images_per_second"] > 4 / found["seconds"]


def test_table_2_on_hands(folder: Path) -> None:
    """With the open stand-in of MANO in its place."""
    bodies = folder / "data" / "body_models"
    hand = write_hand_model(bodies / "hand.npz")
    model = load_body_model(hand)
    build_pyramid(model.v_template.numpy(), model.faces.numpy(), [195]).save(bodies / "mano_pyramid.npz")
    write_freihand(folder / "data" / "freihand", hand, training=2, evaluation=2)
    configs = "default.yaml", "data/freihand.yaml"
    pose = hmdiff(folder, "fit", "hand_pose", *configs, "data/freihand_pose.yaml", body_model=hand)
    weights = one(pose, "weights.safetensors")
    mesh = one(hmdiff(folder, "fit", "hand", *configs, body_model=hand, pose_weights=weights), "last.ckpt")
    row = "table2/freihand.yaml"
    found = results(hmdiff(folder, "test", "hand_test", *configs, row, body_model=hand, checkpoint=mesh))
    check_paper(row, found)
    assert found["protocol_name"] == "hmdiff_freihand"
    metrics = found["metrics"]
    assert {f"test/freihand/{name}" for name in ("centre_pa_pve", "min_pa_mpjpe", "prior_mpjpe")} <= metrics.keys()
    assert 0 <= metrics["test/freihand/f5"] <= metrics["test/freihand/f15"] <= 1
