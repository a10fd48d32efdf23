import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.files import load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import H36M_17, JOINTS_44, SMPL_24
from posecore.body.smpl import SMPLLayer
from posecore.data.spin_npz import SPINNpz
from posecore.data.threedpw import ThreeDPW
from posecore.geometry.camera import project
from posecore.safe_pickle import UnsafePickleError
from posecore.testing import assert_pose_dataset, write_smpl_npz, write_spin_npz, write_start_cache, write_threedpw

FRAMES = 8
LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
SEQUENCE = "sequenceFiles/test/downtown_walking_01.pkl"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_threedpw(tmp_path_factory.mktemp("data") / "3dpw", frames=FRAMES)


@pytest.fixture(scope="module")
def open_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of bodies that have landmarks, which joints44 needs."""
    return write_threedpw(tmp_path_factory.mktemp("data"), splits=("test",), frames=FRAMES, open_body=True)


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


def test_mesh_recovery_is_tested_on_the_persons_own_body(open_root: Path, tmp_path: Path) -> None:
    data = ThreeDPW(open_root, joint_source="joints44")
    assert data.joint_set is JOINTS_44
    batch = data.samples
    assert batch["gender"] == ["male"] * 7 + ["female"] * 5
    for rows, gender in ((slice(0, 7), "male"), (slice(7, 12), "female")):
        model = load_body_model(open_root / "body_models", gender)  # type: ignore[arg-type]
        for joint_set, key in ((SMPL_24, "joints_smpl24_cam"), (JOINTS_44, "joints_cam")):
            body = [batch[name][rows] for name in ("betas", "body_pose", "global_orient", "transl")]
            torch.testing.assert_close(NamedJoints(joint_set, model)(*body), batch[key][rows], atol=1e-4, rtol=0)  # type: ignore[literal-required]
    write_spin_npz(tmp_path, rows=2, unknown=0)
    spin = SPINNpz(tmp_path, ["h36m_train.npz"], tmp_path, truth="smpl")
    for key, value in spin.samples.items():
        assert isinstance(value, list) or value.shape[1:] == batch[key].shape[1:], key  # type: ignore[literal-required,attr-defined]
    batch.pop("box")  # which the assertion does not know
    assert_pose_dataset(data)


def test_detected_keypoints(root: Path, open_root: Path) -> None:
    for where, source, prefix in ((root, "smpl24", ""), (root, "h36m17", ""), (open_root, "joints44", "op_")):
        exact, seen = (ThreeDPW(where, joint_source=source, keypoints=kind) for kind in ("exact", "detected"))
        limbs = [f"{prefix}{side}_{part}" for side in "lr" for part in LIMBS]
        known = [name in (*limbs, "op_neck") for name in seen.joint_set.joint_names]
        confidence = seen.samples["confidence"]
        expected = 0.5 * torch.tensor(known).float().repeat(12, 1)
        expected[1] = 0  # frame 1 of person 0
        assert torch.equal(confidence, expected)
        assert seen.samples["joints_2d_px"][confidence == 0].eq(0).all()
        wrist = seen.joint_set.index(f"{prefix}r_wrist")
        if source != "h36m17":  # whose regressor is not SMPL's
            moved = (seen.samples["joints_2d_px"] - exact.samples["joints_2d_px"])[2:, wrist]
            torch.testing.assert_close(moved, torch.tensor([2.0, 0.0]).expand_as(moved), atol=1e-2, rtol=0)


def test_boxes(root: Path) -> None:
    projected, detected = (
        ThreeDPW(root, joint_source="smpl24", boxes=kind).samples for kind in ("projected", "detected")
    )
    pixels = projected["joints_2d_px"]
    low, high = pixels.amin(dim=1), pixels.amax(dim=1)
    around = torch.cat(((low + high) / 2, 1.2 * (high - low).amax(dim=1, keepdim=True)), dim=1)
    torch.testing.assert_close(projected["box"], around, atol=1e-2, rtol=0)
    torch.testing.assert_close(detected["box"][1], around[1], atol=1e-2, rtol=0)  # nothing was detected there
    limbs = [SMPL_24.index(f"{s}_{part}") for s in "lr" for part in LIMBS]
    seen = pixels[2:, [*limbs, SMPL_24.index("neck")]] + torch.tensor([2.0, 0.0])
    low, high = seen.amin(dim=1), seen.amax(dim=1)
    torch.testing.assert_close(detected["box"][2:, :2], (low + high) / 2, atol=1e-2, rtol=0)
    torch.testing.assert_close(detected["box"][2:, 2], 1.2 * (high - low).amax(dim=1), atol=1e-2, rtol=0)


def test_pictures(root: Path) -> None:
    data = ThreeDPW(root, joint_source="smpl24", crops=8)
    image = data.__getitems__([2, 7])["image"]  # pictures 3 and 0
    assert image.shape == (2, 3, 12, 12)
    assert image.dtype == torch.uint8
    np.testing.assert_allclose(image[:, :, 6, 6], [[60, 195, 60], [0, 255, 60]], atol=4)
    assert ThreeDPW(root, joint_source="smpl24", crops=8, crop_margin=None)[0]["image"].dtype == torch.float32


def test_caches_of_released_regressors(root: Path, tmp_path: Path) -> None:
    people = write_smpl_npz(tmp_path, rows=12, unknown=0)
    write_start_cache(tmp_path / "start.npz", people)
    np.savez(tmp_path / "features.npz", features=np.arange(24, dtype=np.float32).reshape(12, 2))
    for name in ("sequenceFiles", "body_models"):
        (tmp_path / name).symlink_to(root / name)
    data = ThreeDPW(tmp_path, joint_source="smpl24", camera="assumed", features="features.npz", start="start.npz")
    batch = data.samples
    np.testing.assert_allclose(batch["start_transl"], people["transl"], atol=1e-5)
    assert batch["features"][3].tolist() == [6, 7]
    assert batch["K"][0].tolist() == [[5000, 0, 540], [0, 5000, 960], [0, 0, 1]]
    assert not {"transl", "R_world_to_cam", "t_world_to_cam", "joints_2d_true_px"} & set(batch)
    content = load(root / SEQUENCE)
    content["campose_valid"][0][:] = 0
    (tmp_path / "sequenceFiles").unlink()
    (tmp_path / "sequenceFiles/test").mkdir(parents=True)
    dump(content, tmp_path / SEQUENCE)
    with pytest.raises(ValueError, match=r"features.npz: holds features of 12 rows, but the data set has 5 rows"):
        ThreeDPW(tmp_path, joint_source="smpl24", features="features.npz")


def test_splits_and_stride(root: Path) -> None:
    train = ThreeDPW(root, "train", "smpl24", stride=3)
    assert train.__getitems__(range(len(train)))["frame"].tolist() == [0, 4, 7, 0, 3]
    assert set(train.__getitems__(range(len(train)))["clip"]) == {"downtown_walking_00_0", "downtown_walking_00_1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, r"split: \['val'\] unknown, valid are train, validation, test"),
        ({"joint_source": "coco17"}, "joint_source: .*valid are h36m17, smpl24, joints44"),
        ({"stride": 0}, "stride: must be at least 1"),
        ({"keypoints": "noisy"}, "keypoints: .*valid are exact, detected"),
        ({"boxes": "file"}, "boxes: .*valid are detected, projected"),
        ({"camera": "weak"}, "camera: .*valid are calibrated, assumed"),
        ({"stride": 2, "features": "x.npz"}, "stride: caches .* hold every row, so it must be 1, got 2"),
        ({"start": "x.npz"}, "camera: start estimates .* must be 'assumed', got 'calibrated'"),
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
    (tmp_path / "imageFiles").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no imageFiles in .*and imageFiles.zip for the pictures"):
        ThreeDPW(tmp_path, joint_source="smpl24", crops=8)
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
        ("betas", [np.zeros(5)], "betas has shape 5, expected 10"),
        ("poses2d", [np.zeros((8, 18, 3))], "poses2d has shape 8 x 18 x 3, expected 8 x 3 x 18"),
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
