import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

from posecore.body.skeletons import H36M_17, JOINTS_44, MPI_INF_3DHP_17, MPI_INF_3DHP_28
from posecore.data.mpi_inf_3dhp import ACTIVITIES, MPIINF3DHP, REGULAR_CAMERAS
from posecore.geometry.camera import project
from posecore.testing import write_mpi_inf_3dhp

FRAMES = 9
TEST_FILE = "mpi_inf_3dhp_test_set/TS1/annot_data.mat"
# Joints of MPI-INF-3DHP's 17 that stand for Human3.6M's 17.
PICKED = [14, 8, 9, 10, 11, 12, 13, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mpi_inf_3dhp(tmp_path_factory.mktemp("data") / "mpi_inf_3dhp", frames=FRAMES)


@pytest.mark.parametrize(("joint_set", "picked"), [("h36m17", PICKED), ("mpii3d17", list(range(17)))])
def test_test_set(root: Path, joint_set: str, picked: list[int]) -> None:
    data = MPIINF3DHP(root.parent, "test", ["TS1", "TS5"], joint_set)
    valid = [frame for frame in range(FRAMES) if frame % 3 != 2]
    assert len(data) == 2 * len(valid)
    batch = data.__getitems__(range(len(data)))
    assert batch["frame"].tolist() == valid * 2
    assert batch["action"][: len(valid)] == [ACTIVITIES[frame % 7] for frame in valid]
    assert batch["image_size"][[0, -1]].tolist() == [[2048, 2048], [1920, 1080]]
    with h5py.File(root / TEST_FILE, "r") as file:
        joints = np.asarray(file["annot3"])[valid, 0][:, picked] / 1000
        keypoints = np.asarray(file["annot2"])[valid, 0][:, picked]
    np.testing.assert_allclose(batch["joints_cam"][: len(valid)], joints, atol=1e-5)
    np.testing.assert_allclose(batch["joints_2d_px"][: len(valid)], keypoints, atol=1e-3)
    # The fake sequences were taken by this camera; the archive does not hold it.
    K = torch.tensor([[1500.0, 0.0, 1017.0], [0.0, 1501.0, 1043.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(batch["K"], K.expand(len(data), 3, 3), atol=1e-2, rtol=0)
    torch.testing.assert_close(project(batch["joints_cam"], batch["K"]), batch["joints_2d_px"], atol=1e-2, rtol=0)
    root_joint = data.joint_set.index("pelvis")
    torch.testing.assert_close(
        batch["joints_rel"], batch["joints_cam"] - batch["joints_cam"][:, [root_joint]], atol=1e-6, rtol=0
    )


def test_stride_runs_over_valid_frames(root: Path) -> None:
    data = MPIINF3DHP(root, "test", ["TS1"], stride=2)
    assert data.__getitems__(range(len(data)))["frame"].tolist() == [0, 3, 6]  # of 0 1 3 4 6 7


@pytest.mark.parametrize("split", ["train", "test"])
def test_universal_skeleton_has_the_same_picture(root: Path, split: str) -> None:
    subjects = ["S1"] if split == "train" else ["TS1"]
    own, universal = (MPIINF3DHP(root, split, subjects, universal=flag) for flag in (False, True))
    batch, scaled = (data.__getitems__(range(len(data))) for data in (own, universal))
    torch.testing.assert_close(scaled["joints_rel"], batch["joints_rel"] / 1.1, atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled["joints_2d_true_px"], batch["joints_2d_true_px"], atol=1e-2, rtol=0)


def test_training_set(root: Path) -> None:
    data = MPIINF3DHP(root, "train", ["S1"], stride=4)
    assert len(data) == 2 * 8 * 3
    batch = data.__getitems__(range(len(data)))
    assert batch["clip"] == ["S1/Seq1"] * 24 + ["S1/Seq2"] * 24
    assert batch["view"].tolist() == [camera for camera in REGULAR_CAMERAS for _ in range(3)] * 2
    assert batch["frame"][:3].tolist() == [0, 4, 8]
    assert batch["fps"].tolist() == [25.0] * 24 + [50.0] * 24
    torch.testing.assert_close(project(batch["joints_cam"], batch["K"]), batch["joints_2d_px"], atol=1e-2, rtol=0)
    content = loadmat(root / "S1" / "Seq1" / "annot.mat")
    joints = content["annot3"][1, 0].reshape(-1, 28, 3)[4] / 1000  # camera 1, frame 4
    for name in ("pelvis", "l_knee", "r_wrist", "head_top"):
        expected = joints[MPI_INF_3DHP_28.index(name)]
        np.testing.assert_allclose(batch["joints_cam"][4, H36M_17.index(name)], expected, atol=1e-5)
    for name, own in (("thorax", 5), ("neck_nose", 6)):
        np.testing.assert_allclose(batch["joints_cam"][4, H36M_17.index(name)], joints[own], atol=1e-5)
    R = batch["R_world_to_cam"]
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand_as(R), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch["t_world_to_cam"][0], torch.tensor([0.1, -0.1, 4.0]))


def test_training_cameras_and_own_joints(root: Path) -> None:
    data = MPIINF3DHP(root, "train", ["S1"], "mpii3d17", cameras=[13])
    assert len(data) == 2 * FRAMES
    assert data.joint_set is MPI_INF_3DHP_17
    joints = loadmat(root / "S1" / "Seq1" / "annot.mat")["annot3"][13, 0].reshape(-1, 28, 3)[0] / 1000
    order = [MPI_INF_3DHP_28.index(name) for name in MPI_INF_3DHP_17.joint_names]
    np.testing.assert_allclose(data[0]["joints_cam"], joints[order], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, r"split: \['val'\] unknown, valid are train, test"),
        ({"subjects": ["TS1"]}, r"subjects: \['TS1'\] unknown, valid are S1"),
        ({"split": "test", "cameras": [0]}, r"cameras: \[0\] unknown, valid are None for the test set"),
        ({"cameras": [14]}, r"cameras: \[14\] unknown, valid are 0, 1"),
        ({"joint_set": "smpl24"}, "joint_set: .*valid are h36m17, mpii3d17, joints44"),
        ({"stride": 0}, "stride: must be at least 1"),
    ],
)
def test_bad_arguments(root: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MPIINF3DHP(root, **arguments)


def test_missing(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no S1/Seq1/annot.mat in .*register at vcai"):
        MPIINF3DHP(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no TS2/annot_data.mat in .*get_testset.sh"):
        MPIINF3DHP(root, "test", ["TS2"])
    write_mpi_inf_3dhp(tmp_path, test=(), frames=1)
    (tmp_path / "S1" / "Seq1" / "camera.calibration").unlink()
    with pytest.raises(FileNotFoundError, match=r"no camera.calibration in .*belongs beside"):
        MPIINF3DHP(tmp_path, subjects=["S1"])


def test_without_scipy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"annot.mat is a MATLAB v5 file, which takes the package scipy"):
        MPIINF3DHP(root, subjects=["S1"])
    assert len(MPIINF3DHP(root, "test", ["TS1"])) == 6  # The test set needs none.


def test_truncated_and_wrong_version(tmp_path: Path) -> None:
    write_mpi_inf_3dhp(tmp_path, test=("TS1",), frames=3)
    train, test = tmp_path / "S1" / "Seq1" / "annot.mat", tmp_path / TEST_FILE
    whole_train, whole_test = train.read_bytes(), test.read_bytes()
    train.write_bytes(whole_test)
    with pytest.raises(ValueError, match=r"annot.mat: is no whole MATLAB v5 file"):
        MPIINF3DHP(tmp_path, subjects=["S1"])
    test.write_bytes(whole_train)
    with pytest.raises(ValueError, match=r"annot_data.mat: is no whole MATLAB 7.3 \(HDF5\) file"):
        MPIINF3DHP(tmp_path, "test", ["TS1"])
    train.write_bytes(whole_train[: len(whole_train) // 2])
    with pytest.raises(ValueError, match=r"annot.mat: is no whole MATLAB v5 file"):
        MPIINF3DHP(tmp_path, subjects=["S1"])
    test.write_bytes(whole_test[: len(whole_test) // 2])
    with pytest.raises(ValueError, match=r"annot_data.mat: is no whole MATLAB 7.3 \(HDF5\) file"):
        MPIINF3DHP(tmp_path, "test", ["TS1"])

    savemat(train, {"annot2": np.zeros((3, 56)), "annot3": np.zeros((3, 84))})
    with pytest.raises(ValueError, match=r"annot.mat: annot2 has shape \(3, 56\), expected 14 cells"):
        MPIINF3DHP(tmp_path, subjects=["S1"])
    train.write_bytes(whole_train)
    calibration = train.with_name("camera.calibration")
    text = calibration.read_text()
    calibration.write_text(text[: len(text) // 8])
    with pytest.raises(ValueError, match=r"camera.calibration: (camera . is cut off|has no camera)"):
        MPIINF3DHP(tmp_path, subjects=["S1"])
    calibration.write_text("Another file\n")
    with pytest.raises(ValueError, match=r"camera.calibration: does not begin with 'Skeletool"):
        MPIINF3DHP(tmp_path, subjects=["S1"])


def edited(path: Path, key: str, value: np.ndarray) -> None:
    with h5py.File(path, "r+") as file:
        del file[key]
        file[key] = value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("valid_frame", np.zeros((3, 1)), "valid_frame marks none of its 3 frames"),
        ("valid_frame", np.ones((4, 1)), r"activity_annotation has shape 3 x 1, expected 4 x 1"),
        ("activity_annotation", np.full((3, 1), 9.0), r"activity_annotation holds \[9\], valid are 1 to 7"),
        ("annot3", np.zeros((3, 1, 28, 3)), r"annot3 has shape 3 x 1 x 28 x 3, expected 3 x 1 x 17 x 3"),
        ("annot3", np.full((3, 1, 17, 3), -5.0), "annot3 has joints behind the camera"),
        ("annot3", np.full((3, 1, 17, 3), 5.0), "annot2 is no picture of annot3"),
    ],
)
def test_wrong_test_annotations(tmp_path: Path, key: str, value: np.ndarray, message: str) -> None:
    path = write_mpi_inf_3dhp(tmp_path, train=(), test=("TS1",), frames=3) / TEST_FILE
    edited(path, key, value)
    with pytest.raises(ValueError, match=f"annot_data.mat: {message}"):
        MPIINF3DHP(tmp_path, "test", ["TS1"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mpi_inf_3dhp(tmp_path_factory.mktemp("pictures"), ("S2",), ("TS5",), frames=4, pictures=(1,))


def check_greys(data: MPIINF3DHP, rows: list[int]) -> None:
    batch = data.__getitems__(rows)
    assert batch["image"].shape == (len(rows), 3, 24, 24)
    for image, frame in zip(batch["image"], batch["frame"].tolist(), strict=True):
        # Outside of the picture, where the fake people partly are, crops are black.
        assert float(image.max()) == pytest.approx(30 + 10 * frame, abs=4.5)


def test_pictures(pictures: Path, tmp_path: Path) -> None:
    test = MPIINF3DHP(pictures, "test", ["TS5"], crops=16)
    assert [path.name for path in test.images.files] == [f"img_{n:06d}.jpg" for n in (1, 2, 4)]  # type: ignore[union-attr]
    check_greys(test, [2, 0, 1])
    train = MPIINF3DHP(pictures, subjects=["S2"], cameras=[1], stride=3, crops=16)
    check_greys(train, [3, 0, 1])
    assert "box" in MPIINF3DHP(pictures, subjects=["S2"], cameras=[1])[0]
    with pytest.raises(FileNotFoundError, match=r"no imageSequence/video_2\.avi in .*S2/Seq1.*get_dataset"):
        MPIINF3DHP(pictures, subjects=["S2"], cameras=[1, 2], crops=16)

    # Frames that were extracted as SPIN does it are read in place of the videos.
    shutil.copytree(pictures / "S2", tmp_path / "S2")
    for sequence in ("Seq1", "Seq2"):
        shutil.rmtree(tmp_path / "S2" / sequence / "imageSequence")
        place = tmp_path / "S2" / sequence / "imageFrames" / "video_1"
        place.mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (2048, 2048), (30 + 10 * number,) * 3).save(place / f"frame_{number + 1:06d}.jpg")
    check_greys(MPIINF3DHP(tmp_path, subjects=["S2"], cameras=[1], stride=3, crops=16), [3, 0, 1])


@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_for_training_on_pictures(root: Path, split: str) -> None:
    subjects = ["S1"] if split == "train" else ["TS1"]
    data, own = (MPIINF3DHP(root, split, subjects, joint_set) for joint_set in ("joints44", "mpii3d17"))
    batch, full = (table.__getitems__(range(len(table))) for table in (data, own))
    pairs = {name: name for name in ("pelvis", "spine", "neck", "l_hip", "r_knee", "l_wrist", "r_shoulder", "head_top")}
    for name, source in (pairs | {"jaw": "head", "head_top_h36m": "head_top"}).items():
        joint, row = JOINTS_44.index(name), MPI_INF_3DHP_17.index(source)
        torch.testing.assert_close(batch["joints_cam"][:, joint], full["joints_cam"][:, row])
        torch.testing.assert_close(batch["joints_2d_px"][:, joint], full["joints_2d_px"][:, row])
    assert batch["joints_known"].sum(dim=1).tolist() == [18] * len(data)
    assert batch["joints_known"].equal(batch["confidence"] == 1)
    assert not batch["joints_known"][:, JOINTS_44.index("thorax")].any()
    assert not batch["has_pose"].any()
    for key in ("K", "image_size", "box"):
        torch.testing.assert_close(batch[key], full[key])
    low, high = full["joints_2d_px"].amin(dim=1), full["joints_2d_px"].amax(dim=1)
    torch.testing.assert_close(full["box"][:, 2], 1.2 * (high - low).amax(dim=1))
    assert batch["clip"] == full["clip"]
