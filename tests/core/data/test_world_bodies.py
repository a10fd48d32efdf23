from pathlib import Path

import numpy as np
import pytest
import torch

from posecore.body.skeletons import H36M_17, SMPL_24
from posecore.data.benchmark_files import camera_rows, extrinsic_rows
from posecore.data.world_bodies import (
    GenderedBodies,
    assumed_camera,
    body_rows,
    check_caches,
    find_bodies,
    truth_rows,
    with_caches,
)
from posecore.geometry.rotation import random_rotmat
from posecore.testing import write_gendered_bodies

FRAMES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gendered_bodies(tmp_path_factory.mktemp("data") / "3dpw" / "body_models")


def test_body_in_the_camera_is_the_body_in_the_world_moved(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pose = random_rotmat((FRAMES, 24), generator, dtype=torch.float64)
    R = random_rotmat((FRAMES,), generator, dtype=torch.float64).numpy()
    t, transl, betas = (torch.randn(shape, generator=generator).double() for shape in ((FRAMES, 3), (FRAMES, 3), (10,)))
    bodies = GenderedBodies(folder)
    for gender in ("female", "male"):
        world = bodies.joints(SMPL_24, gender, betas, pose, transl).numpy()
        expected = world @ R.transpose(0, 2, 1) + t.numpy()[:, None]
        rows = camera_rows(SMPL_24, expected, np.eye(3), (2, 2))
        body_rows(rows, R, t.numpy(), pose, betas.numpy(), transl.numpy(), bodies.pelvis(gender, betas).numpy())
        turned = torch.cat((rows["global_orient"][:, None], rows["body_pose"]), dim=1).double()
        found = bodies.joints(SMPL_24, gender, betas, turned, rows["transl"].double())
        np.testing.assert_allclose(found, expected, atol=1e-5)
        truth_rows(rows, gender, expected)
        assert rows["gender"] == [gender] * FRAMES
        np.testing.assert_allclose(rows["joints_smpl24_cam"], rows["joints_cam"])
    assert bodies.joints(H36M_17, "neutral", betas, pose, transl).shape == (FRAMES, 17, 3)


def test_bodies_are_found(folder: Path, tmp_path: Path) -> None:
    data = folder.parent
    assert find_bodies(data, ("3dpw",), None).folder == folder
    assert find_bodies(data.parent, ("3DPW", "3dpw"), None).folder == folder
    assert find_bodies(tmp_path, ("3dpw",), folder).folder == folder
    with pytest.raises(FileNotFoundError, match=r"no female body model .*register at https://smpl.is.tue.mpg.de"):
        find_bodies(tmp_path, (), None).pelvis("female", torch.zeros(10))


def test_assumed_camera_keeps_keypoints_and_joints() -> None:
    joints = np.random.default_rng(0).standard_normal((2, 24, 3)) + np.array([0, 0, 5])
    rows = camera_rows(SMPL_24, joints, np.diag([900.0, 900.0, 1.0]), (640, 480))
    extrinsic_rows(rows, np.eye(3), np.zeros(3))
    found = assumed_camera(rows)
    assert set(rows) - set(found) == {"joints_2d_true_px", "R_world_to_cam", "t_world_to_cam"}
    assert found["K"].tolist() == [[[5000, 0, 320], [0, 5000, 240], [0, 0, 1]]] * 2
    assert torch.equal(found["joints_2d_px"], rows["joints_2d_px"])
    assert torch.equal(found["joints_cam"], rows["joints_cam"])


def test_caches(tmp_path: Path) -> None:
    np.savez(tmp_path / "features.npz", pose_feats=np.arange(12, dtype=np.float32).reshape(2, 2, 3))
    rows = camera_rows(SMPL_24, np.ones((2, 24, 3)), np.eye(3), (2, 2))
    rows["box"] = torch.ones(2, 3)
    assert with_caches(rows, tmp_path, "features.npz", None)["features"][1].tolist() == [6, 7, 8, 9, 10, 11]
    assert set(with_caches(rows, tmp_path, None, None)) == set(rows)
    with pytest.raises(FileNotFoundError, match=r"there is no start.npz in"):
        with_caches(rows, tmp_path, None, "start.npz")
    check_caches(None, None, 5, "calibrated")
    with pytest.raises(ValueError, match="must be 1, got 5"):
        check_caches("features.npz", None, 5, "calibrated")
    with pytest.raises(ValueError, match="must be 'assumed', got 'calibrated'"):
        check_caches(None, "start.npz", 1, "calibrated")
