import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.data.base import PoseTable
from posecore.data.zedo_files import ZeDO3DPWTest, ZeDOHuman36MTest, ZeDOMPIINF3DHPTest
from posecore.geometry.camera import project
from posecore.testing import write_zedo_files

ROWS = 72


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def truth(root: Path) -> dict[str, np.ndarray]:
    return write_zedo_files(root, ROWS)


def check(data: PoseTable, truth: dict[str, np.ndarray], rows: list[int], shift: float = 0.0) -> None:
    assert len(data) == len(rows)
    batch = data.__getitems__(range(len(data)))
    np.testing.assert_allclose(batch["joints_cam"], truth["joints_cam"][rows], atol=1e-5)
    np.testing.assert_allclose(batch["K"], truth["K"][rows], rtol=1e-6)
    torch.testing.assert_close(batch["joints_rel"], batch["joints_cam"] - batch["joints_cam"][:, :1], atol=1e-6, rtol=0)
    exact = project(batch["joints_cam"], batch["K"])
    torch.testing.assert_close(batch["joints_2d_true_px"], exact, atol=2e-3, rtol=0)
    detected = exact + torch.tensor([shift, 0.0])
    torch.testing.assert_close(batch["joints_2d_px"], detected, atol=2e-3, rtol=0)


def test_human36m(root: Path, truth: dict[str, np.ndarray]) -> None:
    rows = list(range(0, ROWS, 10))
    gt = ZeDOHuman36MTest(root, "gt", stride=10)
    check(gt, truth, rows)
    batch = gt.__getitems__([0, 1])
    assert batch["confidence"].eq(1).all()
    assert (batch["subject"], batch["frame"].tolist()) == (["S9", "S9"], [1, 11])
    assert batch["action"] == ["Directions", "Photo"]  # Numbers 2 and 12.
    assert batch["clip"][0] == "s_09_act_02_subact_01_ca_01"
    assert batch["image_size"].tolist() == [[1000, 1002], [1000, 1000]]  # Cameras 54138969 and 58860488.

    sh = ZeDOHuman36MTest(root, stride=10)
    check(sh, truth, rows, shift=2.0)
    written = np.linspace(0, 1.02, ROWS * 17).reshape(ROWS, 17)[rows].clip(max=1)
    np.testing.assert_allclose(sh.__getitems__(range(len(rows)))["confidence"], written, atol=1e-6)


def test_the_default_strides_are_the_releases(root: Path, truth: dict[str, np.ndarray]) -> None:
    check(ZeDOHuman36MTest(root), truth, [0], shift=2.0)  # 640
    check(ZeDO3DPWTest(root), truth, [0, 35, 70])
    valid = [row for row in range(ROWS) if row % 5]
    check(ZeDOMPIINF3DHPTest(root), truth, valid[::3])


def test_mpi_inf_3dhp(root: Path, truth: dict[str, np.ndarray]) -> None:
    data = ZeDOMPIINF3DHPTest(root, stride=1)
    check(data, truth, [row for row in range(ROWS) if row % 5])
    sample = data[0]  # Row 1 of the file.
    assert (sample["subject"], sample["clip"], int(sample["frame"])) == ("TS2", "TS2", 2)
    assert sample["action"] == "Exercise"
    assert sample["image_size"].tolist() == [2048, 2048]


def test_3dpw_order(root: Path, truth: dict[str, np.ndarray]) -> None:
    data = ZeDO3DPWTest(root, stride=1)
    check(data, truth, list(range(ROWS)))
    assert data[3]["image_size"].tolist() == [1080, 1920]
    assert (data[3]["clip"], int(data[3]["frame"])) == ("downtown_walking_00", 3)
    assert "action" not in data[3]


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        (ZeDOHuman36MTest, "h36m/h36m_test.pkl"),
        (ZeDOHuman36MTest, "h36m/h36m_sh_dt_ft.pkl"),
        (ZeDOMPIINF3DHPTest, "3dhp/mpii3d_test.pkl"),
        (ZeDO3DPWTest, "3dpw/pw3d_test.npz"),
    ],
)
def test_missing_and_truncated(tmp_path: Path, dataset: Any, name: str) -> None:
    write_zedo_files(tmp_path, 6)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{path.name} is (no|not a) whole"):
        dataset(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"no {path.name} in .*ipl-uw/ZeDO-Release.*register"):
        dataset(tmp_path)


def dump(content: Any, path: Path) -> None:
    with path.open("wb") as file:
        pickle.dump(content, file)


def load(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)  # noqa: S301


def test_wrong_versions(tmp_path: Path) -> None:
    write_zedo_files(tmp_path, 6)
    labels = tmp_path / "h36m" / "h36m_test.pkl"
    detected = labels.with_name("h36m_sh_dt_ft.pkl")
    dump({"test": {"joint3d_image": np.zeros((5, 17, 2)), "confidence": np.ones((5, 17, 1))}}, detected)
    with pytest.raises(ValueError, match=r"ft.pkl: joint3d_image has shape 5 x 17 x 2, expected 6 x 17 x any"):
        ZeDOHuman36MTest(tmp_path)
    items = load(labels)
    dump([{**item, "action": 1} for item in items], labels)
    with pytest.raises(ValueError, match=r"h36m_test.pkl: action numbers \[1\] are unknown, valid are 2 to 16"):
        ZeDOHuman36MTest(tmp_path, "gt")
    dump([{key: item[key] for key in item if key != "camera_param"} for item in items], labels)
    with pytest.raises(ValueError, match=r"h36m_test.pkl: has no 'camera_param'"):
        ZeDOHuman36MTest(tmp_path, "gt")
    dump([{**item, "camera_param": {"fx": [1, 2], "fy": 1, "cx": 1, "cy": 1}} for item in items], labels)
    with pytest.raises(ValueError, match=r"h36m_test.pkl: fx is .*expected one number"):
        ZeDOHuman36MTest(tmp_path, "gt")
    dump({"joints": np.zeros(3)}, labels)
    with pytest.raises(ValueError, match=r"h36m_test.pkl: holds a dict, expected a list of dicts"):
        ZeDOHuman36MTest(tmp_path, "gt")

    path = tmp_path / "3dhp" / "mpii3d_test.pkl"
    dump([{**item, "valid_i": 0} for item in load(path)], path)
    with pytest.raises(ValueError, match=r"mpii3d_test.pkl: none of its 6 rows"):
        ZeDOMPIINF3DHPTest(tmp_path)
    np.savez(tmp_path / "3dpw" / "pw3d_test.npz", keypoints3d17_relative=np.zeros((6, 24, 4)))
    with pytest.raises(ValueError, match=r"pw3d_test.npz: keypoints3d17_relative has shape"):
        ZeDO3DPWTest(tmp_path)
    write_zedo_files(tmp_path, 6)
    with np.load(tmp_path / "3dpw" / "pw3d_test.npz", allow_pickle=True) as content:
        arrays = dict(content)
    np.savez(tmp_path / "3dpw" / "pw3d_test.npz", **arrays | {"image_path": arrays["image_path"][:4]})
    with pytest.raises(ValueError, match=r"pw3d_test.npz: image_path names 4 images, but there are 6 poses"):
        ZeDO3DPWTest(tmp_path)


@pytest.mark.parametrize("dataset", [ZeDOHuman36MTest, ZeDOMPIINF3DHPTest, ZeDO3DPWTest])
def test_bad_arguments(root: Path, truth: dict[str, np.ndarray], dataset: Any) -> None:
    with pytest.raises(ValueError, match=r"stride: must be at least 1, got 0"):
        dataset(root, stride=0)
    with pytest.raises(ValueError, match=r"keypoints: \['cpn'\] unknown, valid are sh, gt"):
        ZeDOHuman36MTest(root, "cpn")
