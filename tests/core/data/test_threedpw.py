import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.files import load_body_model
from posecore.body.skeletons import H36M_17, SMPL_24
from posecore.body.smpl import SMPLLayer
from posecore.data.threedpw import ThreeDPW
from posecore.geometry.camera import project
from posecore.safe_pickle import UnsafePickleError
from posecore.testing import write_threedpw

FRAMES = 8
SEQUENCE = "sequenceFiles/test/downtown_walking_01.pkl"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_threedpw(tmp_path_factory.mktemp("data") / "3dpw", frames=FRAMES)


def load(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)  # noqa: S301


def dump(content: Any, path: Path) -> None:
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=2)


def test_own_joints_need_no_body(root: Path, tmp_path: Path) -> None:
    (tmp_path / "sequenceFiles").symlink_to(root / "sequenceFiles")  # no body_models here
    data = ThreeDPW(tmp_path, joint_source="smpl24")
    assert data.joint_set is SMPL_24
    valid = [[0, 1, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4]]
    batch = data.__getitems__(range(len(data)))
    assert batch["frame"].tolist() == valid[0] + valid[1]
    assert batch["clip"] == ["downtown_walking_01_0"] * 7 + ["downtown_walking_01_1"] * 5
    assert set(batch["action"]) == {"downtown_walking"}
    content = load(root / SEQUENCE)
    frames = valid[1]
    world = content["jointPositions"][1].reshape(-1, 24, 3)[frames]
    poses = content["cam_poses"][frames]
    expected = np.einsum("nij,nkj->nki", poses[:, :3, :3], world) + poses[:, None, :3, 3]
    np.testing.assert_allclose(batch["joints_cam"][7:], expected, atol=1e-5)
    uvw = expected @ content["cam_intrinsics"].T
    np.testing.assert_allclose(batch["joints_2d_px"][7:], uvw[..., :2] / uvw[..., 2:], atol=1e-3)
    torch.testing.assert_close(batch["joints_2d_px"], project(batch["joints_cam"], batch["K"]), atol=1e-3, rtol=0)
    assert batch["confidence"].eq(1).all()
    assert batch["image_size"][0].tolist() == [1080, 1920]
    assert batch["fps"].eq(30).all()


@pytest.mark.parametrize("person", [0, 1])
def test_smpl_parameters_are_of_the_camera_frame(root: Path, person: int) -> None:
    data = ThreeDPW(root.parent, joint_source="smpl24")
    rows = range(7) if person == 0 else range(7, 12)
    batch = data.__getitems__(rows)
    layer = SMPLLayer(load_body_model(root / "body_models", gender=("male", "female")[person]))
    posed = layer(batch["betas"], batch["body_pose"], batch["global_orient"], batch["transl"])
    torch.testing.assert_close(posed.joints, batch["joints_cam"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("left_first", [True, False])
def test_h36m_joints_from_either_regressor(tmp_path: Path, left_first: bool) -> None:
    root = write_threedpw(tmp_path, splits=("test",), frames=3, num_betas=300, left_first=left_first)
    h36m, smpl = (ThreeDPW(root, joint_source=source) for source in ("h36m17", "smpl24"))
    assert h36m.joint_set is H36M_17
    assert h36m[0]["betas"].shape == (10,)
    regressed, own = (data.__getitems__(range(len(data)))["joints_cam"] for data in (h36m, smpl))
    shared = ["pelvis", "r_hip", "r_knee", "r_ankle", "l_hip", "l_ankle", "l_elbow", "r_wrist"]
    a, b = (source[:, [s.index(n) for n in shared]] for source, s in ((regressed, H36M_17), (own, SMPL_24)))
    # The fake regressor picks the vertices around SMPL's joints, which pose correctives move a little.
    assert (a - b).norm(dim=-1).max() < 0.03
    batch = h36m.__getitems__([0, 1])
    torch.testing.assert_close(batch["joints_2d_px"], project(batch["joints_cam"], batch["K"]), atol=1e-3, rtol=0)


def test_bodies_are_found_beside_the_sequences(root: Path) -> None:
    expected = ThreeDPW(root, body_models=root / "body_models")[0]["joints_cam"]
    torch.testing.assert_close(ThreeDPW(root.parent)[0]["joints_cam"], expected)


def test_regressor_of_the_body_file_is_taken(tmp_path: Path) -> None:
    write_threedpw(tmp_path, splits=("test",))
    beside = tmp_path / "body_models" / "J_regressor_h36m.npy"
    regressor = np.load(beside)
    beside.unlink()
    for gender in ("FEMALE", "MALE"):
        path = tmp_path / "body_models" / f"SMPL_{gender}.npz"
        with np.load(path) as content:
            arrays = dict(content)
        np.savez(path, **arrays, J_regressor_h36m=regressor)
    expected = ThreeDPW(tmp_path, body_models=tmp_path / "body_models")[0]["joints_cam"]
    np.save(beside, regressor)
    torch.testing.assert_close(ThreeDPW(tmp_path)[0]["joints_cam"], expected)


def test_splits_and_stride(root: Path) -> None:
    train = ThreeDPW(root, "train", "smpl24", stride=3)
    assert train.__getitems__(range(len(train)))["frame"].tolist() == [0, 4, 7, 0, 3]
    assert set(train.__getitems__(range(len(train)))["clip"]) == {"downtown_walking_00_0", "downtown_walking_00_1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, r"split: \['val'\] unknown, valid are train, validation, test"),
        ({"joint_source": "coco17"}, "joint_source: .*valid are h36m17, smpl24"),
        ({"stride": 0}, "stride: must be at least 1"),
    ],
)
def test_bad_arguments(root: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThreeDPW(root, **arguments)


def test_missing(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no sequenceFiles/validation in .*accept its licence"):
        ThreeDPW(root, "validation")
    (tmp_path / "sequenceFiles" / "validation").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"validation holds no .pkl files"):
        ThreeDPW(tmp_path, "validation")
    write_threedpw(tmp_path, splits=("test",), frames=1)
    (tmp_path / "body_models" / "J_regressor_h36m.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"no J_regressor_h36m.npy in .*smpl24"):
        ThreeDPW(tmp_path)
    (tmp_path / "body_models" / "SMPL_MALE.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no male body model .*register at https://smpl.is.tue.mpg.de"):
        ThreeDPW(tmp_path)


def test_broken_regressor(tmp_path: Path) -> None:
    path = write_threedpw(tmp_path, splits=("test",), frames=1) / "body_models" / "J_regressor_h36m.npy"
    np.save(path, np.ones((17, 50)))
    with pytest.raises(ValueError, match=r"h36m.npy: J_regressor_h36m has shape \(17, 50\), but \(17, 96\) fits"):
        ThreeDPW(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"h36m.npy is not a whole .npy array"):
        ThreeDPW(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("cam_poses", np.zeros((5, 4, 4)), r"campose_valid has shape 8, expected 5"),
        ("genders", ["x", "f"], "gender 'x' of person 0 is unknown, valid are m, f"),
        ("genders", [], "genders is of 0 people, but poses of at least 1"),
        ("poses", [np.zeros((8, 156))], r"poses has shape 8 x 156, expected 8 x 72"),
        ("trans", [np.full((8, 3), np.inf)], "trans holds values that are not finite"),
        ("betas", ["a"], "betas is no array of numbers"),
        ("jointPositions", None, "has no 'jointPositions'"),
    ],
)
def test_wrong_sequences(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = write_threedpw(tmp_path, splits=("train", "test"), frames=FRAMES) / SEQUENCE
    content = load(path) | {key: value}
    dump({k: v for k, v in content.items() if v is not None}, path)
    with pytest.raises(ValueError, match=f"downtown_walking_01.pkl: {message}"):
        ThreeDPW(tmp_path, joint_source="smpl24")


def test_truncated_hostile_and_all_invalid(tmp_path: Path) -> None:
    path = write_threedpw(tmp_path, splits=("train", "test"), frames=2) / SEQUENCE
    content = load(path)
    dump(content | {"campose_valid": [np.zeros(2)] * 2}, path)
    with pytest.raises(ValueError, match=r"split: no frame below .* has a valid camera"):
        ThreeDPW(tmp_path, joint_source="smpl24")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"downtown_walking_01.pkl is not a whole pickle"):
        ThreeDPW(tmp_path, joint_source="smpl24")
    dump(content | {"poses": Path("x")}, path)
    with pytest.raises(UnsafePickleError, match=r"downtown_walking_01.pkl asks for 'pathlib.*nothing was run"):
        ThreeDPW(tmp_path, joint_source="smpl24")
