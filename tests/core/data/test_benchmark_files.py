from pathlib import Path

import numpy as np
import pytest
import torch

from posecore.body.skeletons import COCO_17, H36M_17
from posecore.data.benchmark_files import camera_rows, check_shape, find_path, get_key
from posecore.data.sample import sample_length

K = np.array([[1000.0, 0.0, 500.0], [0.0, 1100.0, 400.0], [0.0, 0.0, 1.0]])


def joints(rows: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, 17, 3)) + np.array([0, 0, 6])


def test_one_camera_is_repeated_and_nothing_is_shared() -> None:
    given = joints()
    one = camera_rows(H36M_17, given, K, (1000, 800))
    each = camera_rows(H36M_17, given, np.stack([K] * 3), np.array([[1000.0, 800.0]] * 3))
    assert sample_length(one) == 3
    for key in ("K", "image_size", "joints_2d_px", "confidence"):
        torch.testing.assert_close(one[key], each[key])
    before = given.copy()
    for tensor in (one["joints_cam"], one["joints_2d_px"], one["K"]):
        tensor.zero_()
    np.testing.assert_array_equal(given, before)
    assert one["joints_2d_true_px"].abs().min() > 0


def test_projection_is_computed_in_float64() -> None:
    given = joints()
    rows = camera_rows(H36M_17, given, K, (1000, 800))
    uvw = given @ K.T
    np.testing.assert_allclose(rows["joints_2d_true_px"], (uvw[..., :2] / uvw[..., 2:]).astype(np.float32), rtol=1e-6)


def test_root_is_the_mean_of_the_sets_root_joints() -> None:
    given = joints()
    rows = camera_rows(COCO_17, given, K, (1000, 800))
    hips = given[:, [COCO_17.index("l_hip"), COCO_17.index("r_hip")]].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(rows["joints_rel"], given - hips, atol=1e-5)


@pytest.mark.parametrize("folder", ["", "b", "c/d"])
def test_find_path(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "file").touch()
    assert find_path(tmp_path, ("b", "c/d"), "file", "") == tmp_path / folder / "file"
    with pytest.raises(FileNotFoundError, match=r"no other in .*, nor in its folders b, c/d. Ask for it"):
        find_path(tmp_path, ("b", "c/d"), "other", "Ask for it")


def test_bad_content() -> None:
    path = Path("some.npz")
    assert get_key({"a": np.array({"b": 1}, dtype=object)}, "a", path) == {"b": 1}
    with pytest.raises(ValueError, match=r"some.npz: has no 'c' \(it holds a, b\)"):
        get_key({"a": 1, "b": 2}, "c", path)
    with pytest.raises(ValueError, match=r"some.npz: has no 'c' \(it holds a list\)"):
        get_key([1], "c", path)
    with pytest.raises(ValueError, match=r"some.npz: x has shape 2 x 3, expected any x 4"):
        check_shape("x", np.zeros((2, 3)), (None, 4), path)
    with pytest.raises(ValueError, match=r"some.npz: x is no array of numbers"):
        check_shape("x", [[1], [2, 3]], (None, 4), path)
    with pytest.raises(ValueError, match=r"some.npz: x holds values that are not finite"):
        check_shape("x", [np.nan], (1,), path)
