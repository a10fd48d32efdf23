import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import JOINTS_44, LSP_14
from posecore.data.up3d import UP3D
from posecore.geometry.camera import project
from posecore.safe_pickle import UnsafePickleError, load_pickle
from posecore.testing import write_up3d

PLACES = [JOINTS_44.index(name) for name in LSP_14.joint_names]
REST = [joint for joint in range(44) if joint not in PLACES]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up3d")


@pytest.fixture(scope="module")
def written(root: Path) -> dict[str, dict[str, Any]]:
    return write_up3d(root)


@pytest.fixture
def folder(root: Path, written: dict[str, Any], tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(root, tmp_path / "up3d"))


def everything(data: UP3D) -> Any:
    return data.__getitems__(range(len(data)))


def change_body(folder: Path, **changes: Any) -> None:
    path = folder / "00001_body.pkl"
    content = {**load_pickle(path), **changes}
    path.write_bytes(pickle.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("split", ["train", "val", "trainval", "test"])
def test_rows_are_those_of_the_list(split: str, root: Path, written: dict[str, Any]) -> None:
    people = written[split]
    data = UP3D(root, split)
    assert data.joint_set is JOINTS_44
    batch = everything(data)
    assert batch["clip"] == people["clip"]
    np.testing.assert_allclose(batch["confidence"][:, PLACES], people["confidence"])
    seen = people["confidence"] > 0
    exact = people["joints_2d_px"][:, PLACES]
    np.testing.assert_allclose(batch["joints_2d_px"][:, PLACES].numpy()[seen], exact[seen], rtol=1e-6)
    assert batch["joints_2d_px"][:, PLACES].numpy()[~seen].max() == 0
    assert not batch["confidence"][:, REST].any()
    assert not batch["joints_known"].any()
    np.testing.assert_allclose(batch["image_size"], people["image_size"])
    np.testing.assert_allclose(batch["K"][:, 0, 0], people["focal_length"])
    np.testing.assert_allclose(batch["K"][:, :2, 2], people["image_size"] / 2)


def test_bodies_are_turned_into_the_camera(root: Path, written: dict[str, Any]) -> None:
    """At their places they project through the fit's camera onto the joints."""
    people = written["trainval"]
    batch = everything(UP3D(root, "trainval"))
    assert batch["has_pose"].all()
    assert batch["has_betas"].all()
    np.testing.assert_allclose(batch["global_orient"], people["pose"][:, 0], atol=1e-5)
    np.testing.assert_allclose(batch["body_pose"], people["pose"][:, 1:], atol=1e-5)
    places = torch.from_numpy(people["transl"]).float()
    joints = NamedJoints(JOINTS_44)(batch["betas"], batch["body_pose"], batch["global_orient"], places)
    off = project(joints, batch["K"]) - batch["joints_2d_px"]
    assert off[batch["confidence"] > 0].abs().max() < 0.05


def test_the_file_s_own_camera_gives_the_same_joints(root: Path, written: dict[str, Any]) -> None:
    """What was written is what OpenDR projects: R(rt) of the body in its own frame, plus t."""
    people = written["train"]
    for row, name in enumerate(people["clip"]):
        body = load_pickle(root / name.replace("image.png", "body.pkl"))
        pose, betas, rt = (torch.from_numpy(body[key]) for key in ("pose", "betas", "rt"))
        assert rt.abs().max() > 0.01
        layer = NamedJoints(JOINTS_44).double()
        joints = layer(betas, pose[3:].reshape(23, 3), pose[:3], pose_repr="axis_angle").numpy() + body["trans"]
        angle = float(rt.norm())
        x, y, z = (rt / angle).tolist()
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        np.testing.assert_allclose(joints @ turn.T + body["t"], people["joints_cam"][row], atol=1e-6)


def test_boxes_hold_the_seen_joints(root: Path, written: dict[str, Any]) -> None:
    people = written["train"]
    batch = everything(UP3D(root))
    for row in range(3):
        seen = people["joints_2d_px"][row, PLACES][people["confidence"][row] > 0]
        low, high = seen.min(axis=0), seen.max(axis=0)
        expected = [*((low + high) / 2), 1.2 * (high - low).max()]
        np.testing.assert_allclose(batch["box"][row], expected, rtol=1e-5)


def test_strides_crops_and_a_folder_around(root: Path, written: dict[str, Any], tmp_path: Path) -> None:
    """A picture's red is its column and its green its row, from 0 to 255."""
    (tmp_path / "up-3d").symlink_to(root)
    data = UP3D(tmp_path, "trainval", stride=2, crops=16, crop_margin=1.0)
    assert data.samples["clip"] == written["trainval"]["clip"][::2]
    batch = everything(data)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].shape == (3, 3, 16, 16)
    middle = batch["image"][:, :2, 7:9, 7:9].float().mean(dim=(2, 3))
    expected = 255 * (batch["box"][:, :2] - 0.5) / (batch["image_size"] - 1)
    torch.testing.assert_close(middle, expected, atol=2, rtol=0)
    assert UP3D(root, crops=16)[0]["image"].shape == (3, 24, 24)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pose": None}, r"00001_body\.pkl: has no 'pose'"),
        ({"rt": None}, r"00001_body\.pkl: has no 'rt'"),
        ({"pose": np.zeros(156)}, r"00001_body\.pkl: pose has shape 156, expected 72"),
        ({"betas": np.full(10, np.nan)}, r"00001_body\.pkl: betas holds values that are not finite"),
        ({"f": -1.0}, r"00001_body\.pkl: f is -1, expected a focal length above 0 px"),
    ],
)
def test_a_broken_body_is_named(changes: dict[str, Any], says: str, folder: Path) -> None:
    change_body(folder, **changes)
    with pytest.raises(ValueError, match=says):
        UP3D(folder)


def test_a_pickle_runs_nothing(folder: Path) -> None:
    (folder / "00001_body.pkl").write_bytes(pickle.dumps({"pose": os.getcwd}))
    with pytest.raises(UnsafePickleError, match=r"00001_body\.pkl asks for .*getcwd.*nothing was run"):
        UP3D(folder)


@pytest.mark.parametrize(
    ("joints", "says"),
    [
        (np.zeros((2, 14)), r"00001_joints\.npy: joints has shape 2 x 14, expected 3 x 14"),
        (np.ones((3, 14)), r"00001_joints\.npy: has no two seen joints at different places"),
        (np.arange(42).reshape(3, 14) * [[1], [1], [0]], r"00001_joints\.npy: has no two seen joints"),
        (np.array([{}]), r"00001_joints\.npy: is no whole \.npy array"),
    ],
)
def test_broken_joints_are_named(joints: np.ndarray, says: str, folder: Path) -> None:
    np.save(folder / "00001_joints.npy", joints)
    with pytest.raises(ValueError, match=says):
        UP3D(folder)


def test_missing_and_cut_off_files_and_bad_arguments(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"split: \['valid'\] unknown, valid are train, val, trainval, test"):
        UP3D(folder, "valid")
    with pytest.raises(ValueError, match="stride: must be at least 1, got 0"):
        UP3D(folder, stride=0)
    for text, says in (
        ("\n", "lists no picture"),
        ("/00001.png\n", r"lists '00001\.png', expected lines such as /000"),
    ):
        (folder / "val.txt").write_text(text)
        with pytest.raises(ValueError, match=rf"val\.txt: {says}"):
            UP3D(folder, "val")
    joints = folder / "00001_joints.npy"
    joints.write_bytes(joints.read_bytes()[:150])
    with pytest.raises(ValueError, match=r"00001_joints\.npy: is no whole \.npy array"):
        UP3D(folder)
    for name in ("00001_joints.npy", "00001_image.png", "train.txt"):
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=rf"no {name} in .*files\.is\.tuebingen\.mpg\.de"):
            UP3D(folder)
