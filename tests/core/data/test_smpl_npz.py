import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from posecore.body.files import load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import JOINTS_44, SMPL_24
from posecore.data.base import PoseTable
from posecore.data.smpl_groups import SMPLGroups
from posecore.data.smpl_npz import SMPLNpz
from posecore.data.transforms import flip_sample
from posecore.geometry.camera import project
from posecore.safe_pickle import UnsafePickleError
from posecore.testing import write_gendered_bodies, write_smpl_groups, write_smpl_npz, write_start_cache

ROWS, UNKNOWN = 10, 2


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A folder with one file, and what it was made from."""
    root = tmp_path_factory.mktemp("released")
    made = write_smpl_npz(root, rows=ROWS, unknown=UNKNOWN)
    return {**made, "root": root}


def with_sizes(people: dict[str, Any], root: Path, **changes: Any) -> Path:
    """A folder whose file tells the pictures' sizes."""
    write_smpl_npz(root, rows=ROWS, unknown=UNKNOWN, image_size=people["image_size"], **changes)
    return root


def everything(dataset: PoseTable) -> Any:
    return dataset.__getitems__(range(len(dataset)))


def test_joints_keypoints_and_camera_fit_one_another(people: dict[str, Any], tmp_path: Path) -> None:
    data = SMPLNpz(with_sizes(people, tmp_path), ["train.npz"])
    assert data.joint_set is JOINTS_44
    batch = everything(data)
    assert batch["clip"] == people["imgname"].tolist()
    np.testing.assert_allclose(batch["joints_cam"][:, :43], people["joints_cam"][:, :43], atol=1e-5)
    assert batch["joints_known"].all(dim=0).tolist() == [True] * 43 + [False]
    assert batch["joints_cam"][:, 43].eq(0).all()
    seen = batch["confidence"] > 0
    assert seen.all(dim=0).tolist() == [joint not in (3, 29) for joint in range(44)]
    assert batch["joints_2d_px"][~seen].eq(0).all()
    both = seen & batch["joints_known"]
    exact = project(batch["joints_cam"], batch["K"])
    torch.testing.assert_close(batch["joints_2d_px"][both], exact[both], atol=1e-2, rtol=0)
    stored = np.concatenate((people["body_keypoints_2d"], people["extra_keypoints_2d"]), axis=1)[..., 2]
    np.testing.assert_allclose(batch["confidence"], stored, atol=1e-6)
    np.testing.assert_allclose(batch["image_size"], people["image_size"])
    assert batch["K"][1].tolist() == [[5000, 0, 540], [0, 5000, 960], [0, 0, 1]]


def test_smpl_parameters_are_rotations_and_flags_are_honoured(people: dict[str, Any], tmp_path: Path) -> None:
    garbage = {key: people[key].copy() for key in ("body_pose", "betas")}
    garbage["body_pose"][-UNKNOWN:], garbage["betas"][-1] = np.nan, 7
    batch = everything(SMPLNpz(with_sizes(people, tmp_path, **garbage), ["train.npz"], with_keypoints=False))
    known = ROWS - UNKNOWN
    assert batch["has_pose"].tolist() == [True] * known + [False] * UNKNOWN
    assert batch["has_betas"].tolist() == [True] * known + [False] * UNKNOWN
    expected = Rotation.from_rotvec(people["body_pose"][:known].reshape(-1, 3)).as_matrix().reshape(known, 24, 3, 3)
    np.testing.assert_allclose(batch["global_orient"][:known], expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(batch["body_pose"][:known], expected[:, 1:], atol=1e-5)
    np.testing.assert_allclose(batch["betas"][:known], people["betas"][:known], atol=1e-6)
    assert torch.equal(batch["global_orient"][known:], torch.eye(3).expand(UNKNOWN, 3, 3))
    assert torch.equal(batch["body_pose"][known:], torch.eye(3).expand(UNKNOWN, 23, 3, 3))
    assert batch["betas"][known:].eq(0).all()
    assert not {"K", "joints_2d_px", "confidence", "image_size"} & set(batch)


def test_training_leaves_out_what_has_no_pose(people: dict[str, Any], tmp_path: Path) -> None:
    flags = np.array([1, 0, 1, 1, 0, 1, 1, 1, 1, 1.0])
    root = with_sizes(people, tmp_path, has_body_pose=flags, has_betas=np.arange(ROWS) != 2)
    np.savez(root / "feats.npz", features=np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3))
    cache = write_start_cache(root / "start.npz", people)
    data = SMPLNpz(root, ["train.npz"], ["feats.npz"], ["start.npz"], require_pose=True)
    kept = [0, 2, 3, 5, 6, 7, 8, 9]
    batch = everything(data)
    assert batch["clip"] == people["imgname"][kept].tolist()
    assert batch["features"][:, 0].tolist() == [3 * row for row in kept]
    assert batch["has_pose"].all()
    assert batch["has_betas"].tolist() == [row != 2 for row in kept]  # row 2 has a pose, but no shape
    np.testing.assert_allclose(batch["start_transl"], cache["pred_cam_t"][kept])
    np.testing.assert_allclose(batch["joints_cam"][:, 0], people["joints_cam"][kept, 0], atol=1e-5)


def test_several_files_are_joined_in_order(people: dict[str, Any], tmp_path: Path) -> None:
    first = write_smpl_npz(tmp_path, "a.npz", rows=3, unknown=0, seed=1)
    second = write_smpl_npz(
        tmp_path,
        "b.npz",
        rows=4,
        unknown=4,
        seed=2,
        **dict.fromkeys(("body_pose", "betas", "body_keypoints_3d", "extra_keypoints_3d", "extra_keypoints_2d")),
    )
    for name, rows in (("fa.npz", 3), ("fb.npz", 4)):
        np.savez(tmp_path / name, pose_feats=np.full((rows, 128, 24), rows, dtype=np.float16))
    data = SMPLNpz(tmp_path, ["a.npz", "b.npz"], ["fa.npz", "fb.npz"], image_size=(1000, 500))
    batch = everything(data)
    assert batch["features"].shape == (7, 3072)
    assert batch["features"][:, 5].tolist() == [3, 3, 3, 4, 4, 4, 4]
    assert batch["has_pose"].tolist() == batch["has_betas"].tolist() == [True] * 3 + [False] * 4
    assert batch["joints_known"].any(dim=1).tolist() == [True] * 3 + [False] * 4
    assert batch["joints_cam"][3:].eq(0).all()
    assert batch["confidence"][3:, 25:].eq(0).all()
    np.testing.assert_allclose(batch["joints_2d_px"][3:, 0], second["body_keypoints_2d"][:, 0, :2], rtol=1e-5)
    np.testing.assert_allclose(batch["betas"][:3], first["betas"], atol=1e-6)
    assert batch["K"][:, :2, 2].eq(torch.tensor([500.0, 250.0])).all()
    alone = SMPLNpz(tmp_path, ["a.npz", "b.npz"], with_keypoints=False, require_pose=True)
    assert len(alone) == 3


def test_pare_features_are_flattened_channel_by_channel(people: dict[str, Any]) -> None:
    root = people["root"]
    row, channel, joint = np.ogrid[:ROWS, :128, :24]
    feats = (10_000 * row + 24 * channel + joint).astype(np.float32)
    np.savez(root / "pare.npz", pose_feats=feats, cam_shape_feats=np.zeros((ROWS, 64, 24)), pred_cam=np.zeros(3))
    data = SMPLNpz(root, ["train.npz"], ["pare.npz"], with_keypoints=False)
    batch = everything(data)
    assert batch["features"].dtype == torch.float32
    assert batch["features"][2].tolist() == [20_000 + i for i in range(3072)]


def test_features_of_groups_may_come_as_groups(tmp_path: Path) -> None:
    write_smpl_groups(tmp_path, counts=(4, 3))
    groups = [{"features": np.full((count, 6), count, dtype=np.float32)} for count in (4, 3)]
    (tmp_path / "feats.pkl").write_bytes(pickle.dumps(groups))
    batch = everything(SMPLGroups(tmp_path, "test.pkl", features="feats.pkl", with_keypoints=False))
    assert batch["features"][:, 0].tolist() == [4, 4, 4, 4, 3, 3, 3]


def test_hips_can_be_left_out(people: dict[str, Any], tmp_path: Path) -> None:
    root = with_sizes(people, tmp_path)
    used, unused = (everything(SMPLNpz(root, ["train.npz"], use_hips=flag)) for flag in (True, False))
    hips = [JOINTS_44.index(f"op_{name}") for name in ("mid_hip", "r_hip", "l_hip")]
    hips += [JOINTS_44.index(name) for name in ("r_hip", "l_hip", "pelvis")]
    assert used["confidence"][:, hips].min() > 0
    assert unused["confidence"][:, hips].eq(0).all()
    assert unused["joints_2d_px"][:, hips].eq(0).all()
    others = [joint for joint in range(44) if joint not in hips]
    assert torch.equal(used["confidence"][:, others], unused["confidence"][:, others])
    assert torch.equal(used["joints_cam"], unused["joints_cam"])


def test_unknown_joints_may_hold_anything(people: dict[str, Any], tmp_path: Path) -> None:
    dirty = {}
    for kind in ("2d", "3d"):
        values = people[f"body_keypoints_{kind}"].copy()
        values[4, 6] = [np.nan] * (values.shape[-1] - 1) + [0]
        dirty[f"body_keypoints_{kind}"] = values
    batch = everything(SMPLNpz(with_sizes(people, tmp_path, **dirty), ["train.npz"]))
    assert batch["confidence"][4, 6] == 0
    assert batch["joints_2d_px"][4, 6].eq(0).all()
    assert batch["joints_cam"][4, 6].eq(0).all()
    assert not batch["joints_known"][4, 6]
    flipped = flip_sample(batch, JOINTS_44)
    left = JOINTS_44.flip[6]
    assert not flipped["joints_known"][4, left]
    assert flipped["joints_known"][4, 6]


def test_smpl_truth_of_the_open_body_is_what_the_file_was_made_from(people: dict[str, Any], tmp_path: Path) -> None:
    root = with_sizes(people, tmp_path, gender=np.array(["m", "f"] * 5))
    batch = everything(SMPLNpz(root, ["train.npz"], truth="smpl"))
    assert batch["gender"] == ["neutral"] * ROWS  # the open body has one
    assert "gender" not in everything(SMPLNpz(root, ["train.npz"]))
    known = ROWS - UNKNOWN
    at_origin = people["joints_cam"] - people["transl"][:, None]
    np.testing.assert_allclose(batch["joints_cam"][:known], at_origin[:known], atol=1e-5)
    pelvis, head = (SMPL_24.index(name) for name in ("pelvis", "head"))
    body25_pelvis = batch["joints_cam"][:known, JOINTS_44.index("op_mid_hip")]
    torch.testing.assert_close(batch["joints_smpl24_cam"][:known, pelvis], body25_pelvis, atol=1e-6, rtol=0)
    assert (batch["joints_smpl24_cam"][:known, head, 1] < batch["joints_smpl24_cam"][:known, pelvis, 1]).all()  # y down
    assert batch["joints_cam"][known:].eq(0).all()
    assert batch["joints_smpl24_cam"][known:].eq(0).all()
    assert batch["joints_known"].all(dim=1).tolist() == (batch["has_pose"] & batch["has_betas"]).tolist()


@pytest.mark.parametrize(
    ("gender", "sizes"),
    [
        (["m", "f"], [1.1, 0.95]),
        ([b"male", b"female"], [1.1, 0.95]),
        ([0, 1], [1.1, 0.95]),
        ([1.0, -1.0], [0.95, 1.0]),
        (None, [1.0, 1.0]),
    ],
)
def test_smpl_truth_is_of_the_person_s_own_body(gender: list[Any] | None, sizes: list[float], tmp_path: Path) -> None:
    made = write_smpl_npz(tmp_path, rows=2, unknown=0, gender=None if gender is None else np.array(gender))
    bodies = write_gendered_bodies(tmp_path / "bodies")
    data = SMPLNpz(tmp_path, ["train.npz"], with_keypoints=False, truth="smpl", body_models=bodies)
    batch = everything(data)
    expected = []
    for row, size in enumerate(sizes):
        name = {1.1: "MALE", 0.95: "FEMALE", 1.0: "NEUTRAL"}[size]
        layer = NamedJoints(SMPL_24, load_body_model(bodies / f"SMPL_{name}.npz"))
        pose = torch.from_numpy(made["body_pose"][row].reshape(24, 3)).float()
        betas = torch.from_numpy(made["betas"][row]).float()
        expected.append(layer(betas, pose[1:], pose[0], pose_repr="axis_angle"))
    torch.testing.assert_close(batch["joints_smpl24_cam"], torch.stack(expected), atol=1e-5, rtol=0)
    assert batch["gender"] == [{1.1: "male", 0.95: "female", 1.0: "neutral"}[size] for size in sizes]
    bone = batch["joints_smpl24_cam"][:, 4] - batch["joints_smpl24_cam"][:, 1]
    assert bone.norm(dim=1).min() > 0.25  # a thigh, in metres


def test_sizes_are_read_from_the_pictures(people: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name, size in zip(people["imgname"], people["image_size"].astype(int).tolist(), strict=True):
        Image.new("L", tuple(size)).save(tmp_path / name)
    batch = everything(SMPLNpz(people["root"], ["train.npz"], image_root=tmp_path))
    np.testing.assert_allclose(batch["image_size"], people["image_size"])
    given = everything(SMPLNpz(people["root"], ["train.npz"], image_root=tmp_path, image_size=(640, 480)))
    assert given["image_size"].unique(dim=0).tolist() == [[640, 480]]  # what is said is not read
    (tmp_path / people["imgname"][1]).write_text("no picture")
    with pytest.raises(ValueError, match=r"image_root: .*1_000\.png is no picture that can be read"):
        SMPLNpz(people["root"], ["train.npz"], image_root=tmp_path)
    (tmp_path / people["imgname"][1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"image_root: there is no picture .*1_000\.png"):
        SMPLNpz(people["root"], ["train.npz"], image_root=tmp_path)
    with pytest.raises(ValueError, match=r"train\.npz: has no image_size, which .* give image_root"):
        SMPLNpz(people["root"], ["train.npz"])


def test_the_weak_camera_of_a_cache_starts_at_the_truth(people: dict[str, Any], tmp_path: Path) -> None:
    """Boxes and picture sizes of the table reach the cache, for scales of one and of two numbers."""
    write_start_cache(tmp_path / "start.npz", people, ["pred_cam"])
    for scale in (people["scale"], np.column_stack((people["scale"] / 2, people["scale"]))):
        root = with_sizes(people, tmp_path, scale=scale)
        batch = everything(SMPLNpz(root, ["train.npz"], start=["start.npz"]))
        np.testing.assert_allclose(batch["start_transl"], people["transl"], atol=1e-3)
    with pytest.raises(ValueError, match=r"start\.npz: only pred_cam.*needs the data set's boxes"):
        SMPLNpz(tmp_path, ["train.npz"], start=["start.npz"], with_keypoints=False)


def test_scale_may_be_in_units_of_200_pixels(people: dict[str, Any], tmp_path: Path) -> None:
    """The start, whose weak camera needs the box, is the truth for both units, and for scales of one or two numbers."""
    write_start_cache(tmp_path / "start.npz", people, ["pred_cam"])
    for scale in (people["scale"] / 200, np.column_stack((people["scale"] / 400, people["scale"] / 200))):
        root = with_sizes(people, tmp_path, scale=scale)
        batch = everything(SMPLNpz(root, ["train.npz"], start=["start.npz"], pixels_per_scale=200.0))
        np.testing.assert_allclose(batch["start_transl"], people["transl"], atol=1e-3)
        with pytest.raises(
            ValueError, match=r"half of the boxes of scale are at most 2\.\d+ px wide.*pixels_per_scale=200"
        ):
            SMPLNpz(root, ["train.npz"])
    with pytest.raises(ValueError, match=r"pixels_per_scale: \[100\.0\] unknown, valid are 1\.0, 200\.0"):
        SMPLNpz(root, ["train.npz"], pixels_per_scale=100.0)


@pytest.mark.parametrize("kind", ["video", "views"])
def test_groups_are_labelled(kind: str, tmp_path: Path) -> None:
    made = write_smpl_groups(tmp_path, counts=(4, 3), image_size=np.tile([[1280, 720]], (7, 1)))
    start = write_start_cache(tmp_path / "start.pkl", made)
    batch = everything(SMPLGroups(tmp_path, "test.pkl", kind, start="start.pkl"))
    within, zero = [0, 1, 2, 3, 0, 1, 2], [0] * 7
    assert batch["clip"] == ["0000"] * 4 + ["0001"] * 3
    assert (batch["frame"].tolist(), batch["view"].tolist()) == ((within, zero) if kind == "video" else (zero, within))
    np.testing.assert_allclose(batch["joints_cam"][:, 0], made["joints_cam"][:, 0], atol=1e-5)
    np.testing.assert_allclose(batch["betas"], made["betas"], atol=1e-6)
    np.testing.assert_allclose(batch["start_transl"], start["pred_cam_t"])


def test_a_group_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "test.pkl"
    with pytest.raises(FileNotFoundError, match=r"there is no test\.pkl in .*ScoreHMR's release"):
        SMPLGroups(tmp_path, "test.pkl")
    write_smpl_groups(tmp_path)
    with pytest.raises(ValueError, match=r"kind: \['pictures'\] unknown, valid are video, views"):
        SMPLGroups(tmp_path, "test.pkl", "pictures")
    with pytest.raises(ValueError, match=r"truth: \['mesh'\] unknown"):
        SMPLGroups(tmp_path, "test.pkl", truth="mesh")
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match=r"test\.pkl is not a whole pickle"):
        SMPLGroups(tmp_path, "test.pkl")
    path.write_bytes(pickle.dumps([{"imgname": Path("code")}]))
    with pytest.raises(UnsafePickleError, match="only containers and NumPy arrays are read"):
        SMPLGroups(tmp_path, "test.pkl")
    one = {"imgname": np.array(["a", "b"]), "center": np.zeros((2, 2))}
    for content, says in (
        ({"imgname": []}, "holds a dict, expected a list of dicts, one for each group"),
        ([], "holds a list, expected a list of dicts"),
        ([{"picture": ["a"]}], "has none of imgname, .*; its groups hold picture"),
        ([one, {"imgname": np.array(["c"])}], "group 1: has no 'center'"),
        ([one | {"center": np.zeros((3, 2))}], "group 0: .*same number of rows, got imgname 2 rows, center 3 rows"),
        ([one | {"gender": "m"}], "got imgname 2 rows, center 2 rows, gender no rows"),
        ([one, one | {"center": np.zeros((2, 3))}], "center differs in shape between groups"),
        ([{"imgname": np.array([], dtype=str)}], "its 1 groups have no row"),
        ([one], "has no 'scale'"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=says):
            SMPLGroups(tmp_path, "test.pkl", with_keypoints=False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"imgname": None}, r"train\.npz: has no 'imgname' \(it holds center"),
        ({"imgname": np.array([["a"]])}, r"imgname has shape \(1, 1\), expected one text or number for each row"),
        ({"center": None}, "has no 'center'"),
        ({"center": np.zeros((ROWS, 3))}, "center has shape 10 x 3, expected 10 x 2"),
        ({"scale": None}, "has no 'scale'"),
        ({"scale": np.zeros((ROWS, 3))}, "scale has shape 10 x 3, expected 10 x 2"),
        ({"scale": np.zeros(ROWS)}, "scale has a side of 0, expected sides above 0 px"),
        ({"body_pose": np.zeros((ROWS, 69))}, "body_pose has shape 10 x 69, expected 10 x 72"),
        ({"body_pose": np.full((ROWS, 72), np.inf)}, "body_pose holds values that are not finite"),
        ({"has_body_pose": np.ones(3)}, "has_body_pose has shape 3, expected 10"),
        ({"betas": np.zeros((4, 10))}, "betas has shape 4 x 10, expected 10 x 10"),
        ({"body_keypoints_2d": None}, r"has no 'body_keypoints_2d' \(it holds .*with_keypoints=False does without"),
        (
            {"body_keypoints_2d": np.ones((ROWS, 24, 3))},
            "body_keypoints_2d has shape 10 x 24 x 3, expected 10 x 25 x 3",
        ),
        ({"extra_keypoints_2d": np.full((ROWS, 19, 3), np.nan)}, "extra_keypoints_2d holds values that are not finite"),
        ({"extra_keypoints_3d": np.ones((ROWS, 19, 3))}, "extra_keypoints_3d has shape 10 x 19 x 3, expected"),
        ({"extra_keypoints_3d": np.array(["a"])}, "extra_keypoints_3d is no array of numbers"),
        ({"image_size": np.zeros((ROWS, 2))}, "image_size is 0, expected width and height above 0 px"),
        ({"gender": np.array(["m", "x"] * 5)}, "gender x unknown, valid are m, male, 0, f"),
        ({"gender": np.array(["m"])}, "gender is of 1 rows, but there are 10"),
    ],
)
def test_a_broken_table_is_one_clear_error(
    change: dict[str, Any], says: str, people: dict[str, Any], tmp_path: Path
) -> None:
    write_smpl_npz(tmp_path, rows=ROWS, unknown=UNKNOWN, **{"image_size": people["image_size"], **change})
    with pytest.raises(ValueError, match=says):
        SMPLNpz(tmp_path, ["train.npz"])


def test_a_file_that_is_cut_off_or_missing_is_named(people: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no train\.npz in .*ScoreHMR's release"):
        SMPLNpz(tmp_path, ["train.npz"])
    content = (people["root"] / "train.npz").read_bytes()
    (tmp_path / "train.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"train\.npz is not a whole \.npz file"):
        SMPLNpz(tmp_path, ["train.npz"])


def test_arguments_that_do_not_fit_are_refused(people: dict[str, Any], tmp_path: Path) -> None:
    root = people["root"]
    with pytest.raises(ValueError, match="files: expected at least one name"):
        SMPLNpz(root, [])
    with pytest.raises(ValueError, match="features: 2 caches for 1 files, expected one for each file"):
        SMPLNpz(root, ["train.npz"], ["a.npz", "b.npz"])
    with pytest.raises(ValueError, match="start: 2 caches for 1 files"):
        SMPLNpz(root, ["train.npz"], start=["a.npz", "b.npz"])
    with pytest.raises(ValueError, match=r"truth: \['mesh'\] unknown, valid are keypoints, smpl"):
        SMPLNpz(root, ["train.npz"], truth="mesh")
    with pytest.raises(FileNotFoundError, match=r"there is no feats\.npz"):
        SMPLNpz(root, ["train.npz"], ["feats.npz"])
    with pytest.raises(ValueError, match="image_size is -1, expected width and height above 0"):
        SMPLNpz(root, ["train.npz"], image_size=(-1, 720))
    write_smpl_npz(tmp_path, rows=3, unknown=3)
    with pytest.raises(ValueError, match=r"files: train\.npz have no row with a pose"):
        SMPLNpz(tmp_path, ["train.npz"], with_keypoints=False, require_pose=True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"feats": np.zeros((ROWS, 4))}, r"feats\.npz: has none of pose_feats, features \(it holds feats\)"),
        (
            {"pose_feats": np.zeros((ROWS, 3072))},
            r"pose_feats has shape \(10, 3072\) .* floats \(rows, channels, joints",
        ),
        ({"features": np.zeros((ROWS, 8, 3))}, r"expected floats \(rows, features\)"),
        ({"features": np.zeros((ROWS, 8), dtype=int)}, "type int64, expected floats"),
        ({"features": np.zeros((ROWS - 1, 8))}, "holds features of 9 rows, but the data set has 10 rows"),
        ({"features": np.full((ROWS, 8), np.nan)}, "features holds values that are not finite"),
    ],
)
def test_a_cache_of_features_that_does_not_fit_is_refused(
    content: dict[str, Any], says: str, people: dict[str, Any]
) -> None:
    np.savez(people["root"] / "feats.npz", **content)
    try:
        with pytest.raises(ValueError, match=says):
            SMPLNpz(people["root"], ["train.npz"], ["feats.npz"], with_keypoints=False)
    finally:
        (people["root"] / "feats.npz").unlink()
