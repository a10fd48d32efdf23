import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from posecore.data.start_estimates import CropBoxes, read_start_estimates
from posecore.testing import write_smpl_npz, write_start_cache

ROWS = 6


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return write_smpl_npz(tmp_path_factory.mktemp("released"), rows=ROWS, unknown=0)


@pytest.fixture
def boxes(people: dict[str, np.ndarray]) -> CropBoxes:
    return CropBoxes(*(torch.from_numpy(people[key]) for key in ("center", "scale", "image_size")))


@pytest.mark.parametrize("name", ["start.npz", "start.pkl"])
def test_estimates_are_read_as_they_are(name: str, people: dict[str, np.ndarray], tmp_path: Path) -> None:
    write_start_cache(tmp_path / name, people)
    found = read_start_estimates(tmp_path / name, ROWS)
    expected = Rotation.from_rotvec(people["body_pose"].reshape(-1, 3)).as_matrix().reshape(ROWS, 24, 3, 3)
    np.testing.assert_allclose(found["start_global_orient"], expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(found["start_body_pose"], expected[:, 1:], atol=1e-5)
    np.testing.assert_allclose(found["start_betas"], people["betas"], atol=1e-6)
    np.testing.assert_allclose(found["start_transl"], people["transl"], atol=1e-5)
    assert all(value.dtype == torch.float32 for value in found.values())


def test_groups_are_joined(people: dict[str, np.ndarray], tmp_path: Path) -> None:
    write_start_cache(tmp_path / "start.npz", people)
    with np.load(tmp_path / "start.npz") as file:
        table = dict(file)
    groups = [{key: value[rows] for key, value in table.items()} for rows in (slice(0, 4), slice(4, 6))]
    (tmp_path / "start.pkl").write_bytes(pickle.dumps(groups))
    joined, flat = (read_start_estimates(tmp_path / name, ROWS) for name in ("start.pkl", "start.npz"))
    assert all(torch.equal(joined[key], flat[key]) for key in flat)


def test_the_crop_s_camera_leads_to_the_same_place(
    people: dict[str, np.ndarray], boxes: CropBoxes, tmp_path: Path
) -> None:
    path = tmp_path / "start.npz"
    columns = write_start_cache(path, people, ["pred_cam"])
    found = read_start_estimates(path, ROWS, boxes)
    np.testing.assert_allclose(found["start_transl"], people["transl"], atol=1e-3)

    # Both: the whole picture's translation is taken as it is.
    moved = columns["pred_cam_t"] + np.float32(0.25)
    write_start_cache(path, people, ["pred_cam", "pred_cam_t"], pred_cam_t=moved)
    np.testing.assert_allclose(read_start_estimates(path, ROWS, boxes)["start_transl"], moved)

    # The translation before the crop's own camera of 224 pixels, which is not the whole picture's.
    weak = columns["pred_cam"]
    crop = np.column_stack((weak[:, 1:], 2 * 5000 / (224 * weak[:, 0])))
    write_start_cache(path, people, ["pred_cam", "pred_cam_t"], pred_cam_t=crop)
    found = read_start_estimates(path, ROWS, boxes)
    np.testing.assert_allclose(found["start_transl"], people["transl"], atol=1e-3)
    with pytest.raises(ValueError, match=r"start\.npz: only pred_cam.*needs the data set's boxes and image sizes"):
        read_start_estimates(path, ROWS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pred_pose": None}, r"start\.npz: has no 'pred_pose' \(it holds pred_betas, pred_cam"),
        ({"pred_betas": None}, "has no 'pred_betas'"),
        ({"pred_betas": np.zeros((ROWS, 11))}, "pred_betas has shape 6 x 11, expected 6 x 10"),
        ({"pred_pose": np.zeros((ROWS, 72))}, "pred_pose has shape 6 x 72, expected 6 x 24 x 3 x 3"),
        ({"pred_pose": np.zeros((ROWS, 24, 3, 3))}, r"matrices that are no rotations \(off by 1\)"),
        ({"pred_pose": np.tile(-np.eye(3), (ROWS, 24, 1, 1))}, "matrices that are no rotations"),
        ({"pred_cam": None}, "has neither pred_cam_t nor pred_cam"),
        ({"pred_cam": np.zeros((ROWS, 2))}, "pred_cam has shape 6 x 2, expected 6 x 3"),
        ({"pred_cam": np.zeros((ROWS, 3))}, "pred_cam has a scale of 0, expected scales above 0"),
        ({"pred_cam_t": np.full((ROWS, 3), np.nan)}, "pred_cam_t holds values that are not finite"),
    ],
)
def test_a_broken_cache_is_one_clear_error(
    change: dict[str, Any], says: str, people: dict[str, np.ndarray], boxes: CropBoxes, tmp_path: Path
) -> None:
    write_start_cache(tmp_path / "start.npz", people, ["pred_cam"], **change)
    with pytest.raises(ValueError, match=says):
        read_start_estimates(tmp_path / "start.npz", ROWS, boxes)


def test_another_number_of_rows_names_both(people: dict[str, np.ndarray], tmp_path: Path) -> None:
    write_start_cache(tmp_path / "start.npz", people)
    with pytest.raises(ValueError, match=r"start\.npz: holds 6 estimates, but the data set has 7 rows"):
        read_start_estimates(tmp_path / "start.npz", 7)
    with pytest.raises(FileNotFoundError, match=r"other\.npz"):
        read_start_estimates(tmp_path / "other.npz", ROWS)
    (tmp_path / "start.npz").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"start\.npz is not a whole \.npz file"):
        read_start_estimates(tmp_path / "start.npz", ROWS)
