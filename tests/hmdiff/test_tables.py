"""The paper's tables end to end: both stages, bodies on tiny files in SPIN's layout and hands in FreiHAND's."""

import json
from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest

from hmdiff.data import HMDiffDataModule
from hmdiff.module import HMDiff
from hmdiff.writer import HMDiffWriter
from posecore.body.files import load_body_model
from posecore.body.pyramid import OPEN_BODY_PYRAMID, build_pyramid
from posecore.cli import run
from posecore.testing import write_freihand, write_gendered_bodies, write_hand_model, write_spin_npz

CONFIGS = Path(__file__).parents[2] / "packages/hmdiff/hmdiff/configs"
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
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data`` with every file that the configs name; the bodies have the open body's triangles, so its pyramid."""
    folder = tmp_path_factory.mktemp("tables")
    data = folder / "data"
    write_gendered_bodies(data / "body_models")
    copyfile(OPEN_BODY_PYRAMID, data / "body_models" / "smpl_pyramid.npz")
    for seed, name in enumerate(TRAINING):
        write_spin_npz(data / "spin_npz", f"{name}.npz", rows=6, unknown=1, seed=seed)
    gender = np.array(list("mfmf"))
    write_spin_npz(data / "spin_npz", "3dpw_test.npz", rows=4, unknown=0, seed=8, gender=gender, part=None, S=None)
    nothing = {"pose": None, "shape": None, "has_smpl": None, "part": None, "openpose": None}
    write_spin_npz(data / "spin_npz", "h36m_valid_protocol2.npz", rows=4, unknown=0, seed=9, **nothing)
    for name in PICTURES:
        (data / name).symlink_to(data / "spin_npz")
    return folder


def hmdiff(folder: Path, command: str, where: str, *configs: str, **options: str | Path) -> Path:
    """Runs a command in the folder; options are those of ``--model.``. Returns what it wrote into."""
    args = [command, *(part for config in configs for part in ("--config", config)), *SMALL]
    args += ["--trainer.default_root_dir", where]
    if (checkpoint := options.pop("checkpoint", None)) is not None:
        args += ["--ckpt_path", str(checkpoint)]
    args += [part for name, value in options.items() for part in (f"--model.{name}", str(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HUMANDIFF_TRACEBACK", "1")
        run(HMDiff, HMDiffDataModule, CONFIGS, args, HMDiffWriter)
    return folder / where


def one(folder: Path, name: str) -> Path:
    (path,) = folder.rglob(name)
    return path


def metrics(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(one(folder, "metrics.json").read_text())["metrics"]
    assert all(np.isfinite(value) for value in found.values())
    return found


@pytest.fixture(scope="module")
def stages(folder: Path) -> tuple[Path, Path]:
    """Weights of stage 1, and the run of stage 2 that began with them."""
    pose = one(hmdiff(folder, "fit", "pose", "pose.yaml"), "weights.safetensors")
    return pose, hmdiff(folder, "fit", "mesh", "default.yaml", pose_weights=pose)


def test_table_1(folder: Path, stages: tuple[Path, Path]) -> None:
    """3DPW after fine-tuning on it, and Human3.6M, whose files know joints and no bodies."""
    weights = one(stages[1], "weights.safetensors")
    tuned = one(hmdiff(folder, "fit", "tuned", "default.yaml", "data/3dpw.yaml", weights=weights), "last.ckpt")
    found = metrics(hmdiff(folder, "test", "3dpw", "default.yaml", "data/3dpw.yaml", checkpoint=tuned))
    assert {f"test/3dpw/{name}" for name in ("mpjpe", "pa_mpjpe", "pve", "centre_pve", "spread")} <= found.keys()
    assert found["test/3dpw/min_mpjpe"] > 0
    found = metrics(
        hmdiff(folder, "test", "h36m", "default.yaml", "data/h36m.yaml", checkpoint=one(stages[1], "last.ckpt"))
    )
    assert found["test/h36m/pa_mpjpe"] > 0
    assert not any(name.endswith(("pve", "prior_mpjpe")) for name in found), "the set knows joints and no bodies"


def test_table_3_is_trained_by_itself(folder: Path, stages: tuple[Path, Path]) -> None:
    rows = "default.yaml", "table3/a.yaml"
    alone = one(hmdiff(folder, "fit", "a", *rows, pose_weights=stages[0]), "last.ckpt")
    found = metrics(hmdiff(folder, "test", "a_test", *rows, checkpoint=alone))
    assert found["test/3dpw/mpjpe"] > 0
    assert "test/3dpw/min_mpjpe" not in found, "there is one answer"


@pytest.mark.parametrize("row", ["table4/standard", "table5/h_u"])
def test_tables_4_and_5_test_the_trained_model(folder: Path, stages: tuple[Path, Path], row: str) -> None:
    checkpoint = one(stages[1], "last.ckpt")
    path = Path(row).stem
    plain = folder / "plain"
    if not plain.exists():
        hmdiff(folder, "test", "plain", "default.yaml", checkpoint=checkpoint)
    found = metrics(hmdiff(folder, "test", path, "default.yaml", f"{row}.yaml", checkpoint=checkpoint))
    whole = metrics(plain)
    assert found.keys() == whole.keys()
    assert found["test/3dpw/prior_mpjpe"] == pytest.approx(whole["test/3dpw/prior_mpjpe"])
    assert found["test/3dpw/mpjpe"] != pytest.approx(whole["test/3dpw/mpjpe"], rel=1e-6)


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
    where = hmdiff(folder, "test", "hand_test", *configs, body_model=hand, checkpoint=mesh)
    found = metrics(where)
    for name in ("pa_mpjpe", "pa_pve", "f5", "f15", "centre_pa_pve", "min_pa_mpjpe", "prior_mpjpe"):
        assert f"test/freihand/{name}" in found
    assert 0 <= found["test/freihand/f5"] <= found["test/freihand/f15"] <= 1
    assert json.loads(one(where, "metrics.json").read_text())["protocol"].startswith("hmdiff_freihand")
