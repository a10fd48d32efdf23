import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.skeletons import H36M_17
from posecore.data.threedpw import ThreeDPW
from posecore.data.threedpw_motion import ThreeDPWMotion
from posecore.geometry.camera import cam_to_world
from posecore.testing import assert_pose_dataset, write_threedpw

FRAMES = 8
SEQUENCE = "sequenceFiles/test/downtown_walking_00.pkl"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_threedpw(tmp_path_factory.mktemp("data"), splits=("test",), frames=FRAMES)


def test_every_second_pose_is_one_of_a_picture(root: Path) -> None:
    bodies = root / "body_models"
    motion = ThreeDPWMotion(root, "test", bodies, joint_set="smpl24").samples
    assert motion["fps"].eq(60).all()
    assert motion["frame"].tolist() == list(range(2 * FRAMES)) * 2
    assert motion["gender"] == ["male"] * 2 * FRAMES + ["female"] * 2 * FRAMES
    pictures = ThreeDPW(root, joint_source="smpl24").samples
    found, expected = (
        cam_to_world(rows["joints_cam"], rows["R_world_to_cam"], rows["t_world_to_cam"]) for rows in (motion, pictures)
    )
    assert motion["clip"][0] == pictures["clip"][0]
    same = [2 * frame + 2 * FRAMES * (row >= 7) for row, frame in enumerate(pictures["frame"].tolist())]
    torch.testing.assert_close(found[same], expected, atol=1e-4, rtol=0)


def test_open_body_and_promises(root: Path) -> None:
    data = ThreeDPWMotion(root, "test", views=2, stride=3)
    assert data.joint_set is H36M_17
    assert data.samples["betas"].eq(0).all()
    assert set(data.samples["gender"]) == {"neutral"}
    assert_pose_dataset(data)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("poses_60Hz", None, "has no 'poses_60Hz'"),
        ("poses_60Hz", [np.zeros((16, 69))], "poses_60Hz has shape 16 x 69, expected any x 72"),
        ("trans_60Hz", [np.zeros((15, 3))] * 2, "trans_60Hz has shape 15 x 3, expected 16 x 3"),
    ],
)
def test_wrong_sequences(root: Path, tmp_path: Path, key: str, value: Any, message: str) -> None:
    content = pickle.loads((root / SEQUENCE).read_bytes()) | {key: value}  # noqa: S301
    (tmp_path / SEQUENCE).parent.mkdir(parents=True)
    (tmp_path / SEQUENCE).write_bytes(pickle.dumps({k: v for k, v in content.items() if v is not None}))
    with pytest.raises(ValueError, match=f"downtown_walking_00.pkl: {message}"):
        ThreeDPWMotion(tmp_path, "test")


def test_bad_arguments(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split: \['val'\] unknown, valid are train, validation, test"):
        ThreeDPWMotion(root, "val")
    with pytest.raises(ValueError, match="views and stride: must be at least 1, got views=1, stride=0"):
        ThreeDPWMotion(root, "test", stride=0)
    with pytest.raises(FileNotFoundError, match=r"no sequenceFiles/test in .*accept its licence"):
        ThreeDPWMotion(tmp_path, "test")
