import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from posecore.body.skeletons import H36M_17
from posecore.data.base import PoseTable
from posecore.data.sample import PoseSample
from posecore.data.ski_pose import SkiPose
from posecore.testing import assert_pose_dataset, write_ski_pose

Truth = dict[str, dict[str, np.ndarray]]


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return write_ski_pose(tmp_path)


def rewrite(root: Path, **changes: Any) -> None:
    """Replaces columns of the test set's labels; None takes one out."""
    with h5py.File(root / "test/labels.h5", "a") as file:
        for key, values in changes.items():
            del file[key]
            if values is not None:
                file[key] = values


def test_rows_stand_where_the_people_stood(tmp_path: Path, truth: Truth) -> None:
    for split, number in (("train", 0), ("test", 1)):
        data = SkiPose(tmp_path, split)
        assert data.joint_set is H36M_17
        batch = data.samples
        for key, wanted in (
            ("joints_cam", truth[split]["joints_cam"]),
            ("K", truth[split]["K"]),
            ("joints_2d_px", truth[split]["keypoints_px"]),
        ):
            np.testing.assert_allclose(batch[key], wanted, atol=2e-3 if key == "joints_cam" else 1e-2)  # type: ignore[literal-required]
        torch.testing.assert_close(batch["joints_2d_px"], batch["joints_2d_true_px"], atol=1e-2, rtol=0)
        assert batch["joints_rel"][:, 0].eq(0).all()
        assert batch["subject"] == [str(number + 1)] * 6
        assert batch["clip"] == [f"seq_{number:03d}"] * 6
        assert batch["frame"].tolist() == [1, 1, 2, 2, 3, 3]
        assert batch["view"].tolist() == [0, 1] * 3
        assert batch["box"].tolist() == [[128, 128, 256]] * 6
        assert batch["image_size"].eq(256).all()
        rows = {key: value for key, value in batch.items() if key != "box"}
        assert_pose_dataset(PoseTable(data.joint_set, PoseSample(**rows)))  # type: ignore[typeddict-item]


def test_joints_are_the_file_s_and_keypoints_stay_as_stated(tmp_path: Path) -> None:
    truth = write_ski_pose(tmp_path, noise_px=1.0)["test"]
    batch = SkiPose(tmp_path).samples
    relative = truth["joints_cam"] - truth["joints_cam"][:, :1]
    np.testing.assert_allclose(batch["joints_rel"], relative, atol=1e-5)
    np.testing.assert_allclose(batch["joints_2d_px"], truth["keypoints_px"], atol=1e-3)
    # Noise of the keypoints moves people in depth, but they are still seen where they are.
    error = (batch["joints_2d_true_px"] - batch["joints_2d_px"]).norm(dim=-1)
    assert 0.5 < error.mean() < 2
    # A file of absolute joints has the same rows.
    rewrite(tmp_path, **{"3D": truth["joints_cam"].reshape(6, 51)})
    torch.testing.assert_close(SkiPose(tmp_path).samples["joints_cam"], batch["joints_cam"], atol=1e-4, rtol=0)


def test_stride_and_pictures(tmp_path: Path, truth: Truth) -> None:
    root = tmp_path / "moved"
    shutil.copytree(tmp_path / "test", root / "Ski-PosePTZ-CameraDataset-png/test")
    data = SkiPose(root, stride=3, crops=16)
    batch = data.__getitems__([0, 1])
    assert batch["image"].shape == (2, 3, 16, 16)
    assert batch["image"][:, :2, 8, 8].tolist() == [[10, 0], [20, 10]]  # frame 1 of camera 0, frame 2 of camera 1
    wide = SkiPose(root, crops=16, crop_margin=1.5)[0]["image"]
    assert wide.shape == (3, 24, 24)
    assert wide[:, 0, 0].eq(0).all()


def test_zedo_s_file_is_the_test_set(tmp_path: Path, truth: Truth) -> None:
    wanted = SkiPose(tmp_path, crops=8)[3]
    (tmp_path / "test/labels.h5").rename(tmp_path / "ski_test.h5")
    found = SkiPose(tmp_path, crops=8)[3]
    assert torch.equal(found["joints_cam"], wanted["joints_cam"])
    assert torch.equal(found["image"], wanted["image"])
    assert len(SkiPose(tmp_path, "train")) == 6
    (tmp_path / "train/labels.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"no train/labels.h5 .*ski-poseptz-dataset"):
        SkiPose(tmp_path, "train")


def test_flat_matrices_and_labels_are_read(tmp_path: Path, truth: Truth) -> None:
    wanted = SkiPose(tmp_path).samples
    K = truth["test"]["K"] / [[256], [256], [1]]
    rewrite(tmp_path, cam_intrinsic=K.reshape(6, 9), cam=np.arange(6) % 2)
    found = SkiPose(tmp_path).samples
    assert torch.equal(found["joints_cam"], wanted["joints_cam"])
    assert torch.equal(found["view"], wanted["view"])


def test_arguments_and_missing_files(tmp_path: Path, truth: Truth) -> None:
    for arguments, message in (
        ({"split": "val"}, r"split: \['val'\] unknown, valid are train, test"),
        ({"stride": 0}, "stride: must be at least 1, got 0"),
        ({"crops": 0}, "crops: their side must be at least 1 px, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            SkiPose(tmp_path, **arguments)  # type: ignore[arg-type]
    shutil.rmtree(tmp_path / "test/seq_001")
    with pytest.raises(FileNotFoundError, match=r"no test/seq_001/cam_00/image_000001.png .*epfl.ch"):
        SkiPose(tmp_path, crops=8)
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(FileNotFoundError, match=r"no test/labels.h5 .*ski_test.h5"):
        SkiPose(tmp_path)


def test_broken_files(tmp_path: Path, truth: Truth) -> None:
    joints, K = truth["test"]["joints_cam"], truth["test"]["K"] / [[256], [256], [1]]
    relative = (joints - joints[:, :1]).reshape(6, 51)
    keypoints = truth["test"]["keypoints_px"].reshape(6, 34) / 256
    whole = (tmp_path / "test/labels.h5").read_bytes()
    for changes, message in (
        ({"3D": 1000 * relative}, r"3D reaches \S+ from the pelvis \(median\), expected .* metres"),
        ({"2D": 256 * keypoints}, r"2D has a median of \S+, expected parts of the picture's side"),
        ({"3D": (relative.reshape(6, 17, 3) * [1, -1, -1]).reshape(6, 51)}, r"labels.h5: 3D, moved .* lies \d+.\d px"),
        ({"cam_intrinsic": K @ np.diag([1.0, 3.0, 1.0])}, r"3D, moved to where it fits best, lies \d+.\d px from 2D"),
        ({"cam_intrinsic": 0 * K}, "cam_intrinsic has a matrix that cannot be inverted"),
        ({"cam_intrinsic": K[:5]}, "cam_intrinsic has shape 5 x 9, expected 6 x 9"),
        ({"3D": relative[:, :48]}, "3D has shape 6 x 48, expected 6 x 51: cut off"),
        ({"2D": keypoints[:4]}, "2D has shape 4 x 34, expected 6 x 34"),
        ({"3D": np.where(np.arange(51) == 5, np.nan, relative)}, "3D holds values that are not finite"),
        ({"seq": np.arange(3)}, "seq has shape 3, expected 6"),
        ({"subj": None}, r"labels.h5: has no 'subj'"),
        ({"3D": np.zeros((0, 51))}, "3D has no row"),
    ):
        (tmp_path / "test/labels.h5").write_bytes(whole)
        rewrite(tmp_path, **changes)
        with pytest.raises(ValueError, match=message):
            SkiPose(tmp_path)
    (tmp_path / "test/labels.h5").write_bytes(whole[:700])
    with pytest.raises(ValueError, match=r"test/labels.h5: is no whole HDF5 file"):
        SkiPose(tmp_path)
