from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from scipy.spatial.transform import Rotation

from posecore.body.files import load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import JOINTS_44, SMPL_24
from posecore.data import PoseDataModule, PoseTable, SPINNpz
from posecore.geometry.camera import project, uncrop_keypoints
from posecore.testing import write_gendered_bodies, write_smpl_npz, write_spin_npz

ROWS, UNKNOWN = 10, 2
# SPIN's 24 joints in the order of its constants, by the names of joints44.
SPIN_JOINTS = [
    *("r_ankle", "r_knee", "r_hip", "l_hip", "l_knee", "l_ankle"),
    *("r_wrist", "r_elbow", "r_shoulder", "l_shoulder", "l_elbow", "l_wrist"),
    *("neck", "head_top", "pelvis", "thorax", "spine", "jaw", "head_top_h36m"),
    *("op_nose", "op_l_eye", "op_r_eye", "op_l_ear", "op_r_ear"),
]
PLACES = [JOINTS_44.index(name) for name in SPIN_JOINTS]
FACE = PLACES[19:]
BODY = [joint for joint in range(25) if joint not in FACE]
TRAINING_KEYS = {
    *("joints_2d_px", "confidence", "joints_cam", "joints_known", "K", "image_size", "box", "clip"),
    *("global_orient", "body_pose", "betas", "has_pose", "has_betas"),
}
MIX = """
data:
  root: {root}
  joint_set: joints44
  batch_size: 12
  train_weights: [0.3, 0.6, 0.1]
  train:
  - class_path: posecore.data.SPINNpz
    init_args: {{files: [h36m_train.npz], image_root: {root}, crops: 16}}
  - class_path: posecore.data.SPINNpz
    init_args: {{files: [lsp.npz], image_root: {root}, crops: 16}}
  - class_path: posecore.data.SMPLNpz
    init_args: {{files: [3dhp.npz], image_root: {root}, crops: 16, crop_margin: 1.5, pixels_per_scale: 200}}
"""


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A folder with a file as Human3.6M's and its pictures, and what it was made from."""
    folder = tmp_path_factory.mktemp("spin")
    return {**write_spin_npz(folder, rows=ROWS, unknown=UNKNOWN), "folder": folder}


def read(people: dict[str, Any], folder: Path, **changes: Any) -> Any:
    """All rows of a file with changed columns beside the same pictures."""
    options = {key: changes.pop(key) for key in list(changes) if key in ("ignore_3d", "require_pose", "image_size")}
    columns = {key: people[key] for key in ("imgname", "center", "scale", "part", "openpose", "S", "pose", "shape")}
    columns = {**columns, "has_smpl": people["has_smpl"], **changes}
    np.savez(folder / "a.npz", **{key: value for key, value in columns.items() if value is not None})
    return everything(SPINNpz(folder, ["a.npz"], people["folder"], **options))


def everything(dataset: PoseTable) -> Any:
    return dataset.__getitems__(range(len(dataset)))


def test_annotations_come_under_their_names_in_joints44(people: dict[str, Any]) -> None:
    data = SPINNpz(people["folder"], ["h36m_train.npz"], people["folder"])
    assert data.joint_set is JOINTS_44
    batch = everything(data)
    assert batch["clip"] == people["imgname"].tolist()
    annotated = [place for joint, place in enumerate(PLACES[:19]) if joint not in (13, 15)]
    np.testing.assert_allclose(batch["joints_2d_px"][:, annotated], people["joints_2d_px"][:, annotated], rtol=1e-5)
    assert batch["confidence"][:, annotated].eq(1).all()
    missing = [JOINTS_44.index(name) for name in ("head_top", "thorax", "op_r_elbow")]
    assert batch["confidence"][:, missing].eq(0).all()
    assert batch["joints_2d_px"][:, missing].eq(0).all()
    from_pelvis = people["joints_cam"] - people["joints_cam"][:, [JOINTS_44.index("pelvis")]]
    assert batch["joints_known"].sum(dim=1).eq(17).all()
    assert batch["joints_known"][:, annotated].all()
    np.testing.assert_allclose(batch["joints_cam"][:, annotated], from_pelvis[:, annotated], atol=1e-6)
    assert batch["joints_cam"][~batch["joints_known"]].eq(0).all()
    # With the pelvis back in its place, K leads from the joints to their keypoints.
    pelvis = torch.from_numpy(people["joints_cam"][:, [JOINTS_44.index("pelvis")]]).float()
    exact = project(batch["joints_cam"] + pelvis, batch["K"])
    torch.testing.assert_close(exact[:, annotated], batch["joints_2d_px"][:, annotated], atol=1e-2, rtol=0)


def test_an_annotated_face_takes_the_place_of_the_detected_one(people: dict[str, Any]) -> None:
    batch = everything(SPINNpz(people["folder"], ["h36m_train.npz"], people["folder"]))
    pixels = torch.from_numpy(people["joints_2d_px"]).float()
    detected = torch.from_numpy(people["openpose"]).float()
    torch.testing.assert_close(batch["joints_2d_px"][::2, FACE], pixels[::2, FACE])
    assert batch["confidence"][::2, FACE].eq(1).all()
    torch.testing.assert_close(batch["joints_2d_px"][1::2, FACE], detected[1::2, FACE, :2])
    torch.testing.assert_close(batch["joints_2d_px"][:, BODY], detected[:, BODY, :2])
    torch.testing.assert_close(batch["confidence"][1::2, :25], detected[1::2, :, 2])
    off = (batch["joints_2d_px"][:, BODY] - pixels[:, BODY])[detected[:, BODY, 2] > 0]
    torch.testing.assert_close(off, torch.tensor([3.0, 0]).expand_as(off), atol=1e-3, rtol=0)


def test_a_face_known_in_3d_is_openpose_s(people: dict[str, Any], tmp_path: Path) -> None:
    joints = people["S"].copy()
    joints[3, 21] = [0.1, -0.6, 0.2, 1]  # right eye
    batch = read(people, tmp_path, S=joints)
    right_eye = JOINTS_44.index("op_r_eye")
    torch.testing.assert_close(batch["joints_cam"][3, right_eye], torch.tensor([0.1, -0.6, 0.2]))
    assert batch["joints_known"][:, FACE].nonzero().tolist() == [[3, FACE.index(right_eye)]]


def test_smpl_parameters_and_their_flags(people: dict[str, Any], tmp_path: Path) -> None:
    dirty = people["pose"].copy()
    dirty[-1] = np.nan
    batch = read(people, tmp_path, pose=dirty)
    known = ROWS - UNKNOWN
    assert batch["has_pose"].tolist() == batch["has_betas"].tolist() == [True] * known + [False] * UNKNOWN
    expected = Rotation.from_rotvec(people["pose"][:known].reshape(-1, 3)).as_matrix().reshape(known, 24, 3, 3)
    np.testing.assert_allclose(batch["global_orient"][:known], expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(batch["body_pose"][:known], expected[:, 1:], atol=1e-5)
    np.testing.assert_allclose(batch["betas"][:known], people["shape"][:known], atol=1e-6)
    assert torch.equal(batch["body_pose"][known:], torch.eye(3).expand(UNKNOWN, 23, 3, 3))
    assert batch["betas"][known:].eq(0).all()
    without = read(people, tmp_path, has_smpl=None)
    assert without["has_pose"].all()
    assert without["has_betas"].all()


def test_boxes_and_camera_are_those_of_the_whole_picture(people: dict[str, Any]) -> None:
    batch = everything(SPINNpz(people["folder"], ["h36m_train.npz"], people["folder"]))
    np.testing.assert_allclose(batch["box"][:, :2], people["center"], rtol=1e-6)
    np.testing.assert_allclose(batch["box"][:, 2], 200 * people["scale"], rtol=1e-6)
    np.testing.assert_allclose(batch["image_size"], people["image_size"])
    assert batch["K"][0].tolist() == [[5000, 0, 160], [0, 5000, 120], [0, 0, 1]]
    # The boxes hold the keypoints: 1.2 times their longer side.
    lowest, highest = (batch["box"][:, None, :2] + sign * batch["box"][:, None, 2:] / 2 for sign in (-1, 1))
    seen = batch["confidence"] == 1
    inside = ((batch["joints_2d_px"] > lowest) & (batch["joints_2d_px"] < highest)).all(dim=-1)
    assert inside[seen].all()


def test_a_set_with_keypoints_alone_has_the_same_keys(people: dict[str, Any], tmp_path: Path) -> None:
    whole = everything(SPINNpz(people["folder"], ["h36m_train.npz"], people["folder"]))
    assert set(whole) == TRAINING_KEYS
    lsp = read(people, tmp_path, S=None, pose=None, shape=None, has_smpl=None, openpose=None)
    ignored = read(people, tmp_path, ignore_3d=True)
    for batch in (lsp, ignored):
        assert set(batch) == TRAINING_KEYS
        for key in ("has_pose", "has_betas", "joints_known", "joints_cam", "betas"):
            assert not batch[key].any(), key
        assert torch.equal(batch["global_orient"], torch.eye(3).expand(ROWS, 3, 3))
        assert torch.equal(batch["confidence"][:, 25:], whole["confidence"][:, 25:])
    assert lsp["confidence"][:, BODY].eq(0).all()
    assert torch.equal(ignored["joints_2d_px"], whole["joints_2d_px"])
    for key, value in whole.items():
        if key != "clip":
            assert lsp[key].dtype == value.dtype, key


def test_static_fits_fill_in_what_is_not_known(people: dict[str, Any], tmp_path: Path) -> None:
    lsp = write_spin_npz(tmp_path, "lsp.npz", 3, 0, 1, **dict.fromkeys(("S", "pose", "shape", "has_smpl")))
    coco = write_spin_npz(tmp_path, "coco.npz", 4, 2, 2)
    h36m = write_spin_npz(tmp_path, "h36m.npz", 3, 1, 3)
    fits = 0.3 * np.random.default_rng(5).standard_normal((7, 82))
    np.save(tmp_path / "lsp_fits.npy", fits[:3])
    (tmp_path / "static_fits").mkdir()
    np.save(tmp_path / "static_fits/coco_fits.npy", fits[3:])
    names = ["lsp_fits.npy", "static_fits/coco_fits.npy", ""]
    batch = everything(SPINNpz(tmp_path, ["lsp.npz", "coco.npz", "h36m.npz"], tmp_path, fits=names))
    assert batch["clip"] == [*lsp["imgname"], *coco["imgname"], *h36m["imgname"]]
    assert batch["has_pose"].tolist() == batch["has_betas"].tolist() == [True] * 9 + [False]
    pose = np.concatenate((fits[:3, :72], coco["pose"][:2], fits[5:, :72], h36m["pose"][:2]))
    betas = np.concatenate((fits[:3, 72:], coco["shape"][:2], fits[5:, 72:], h36m["shape"][:2]))
    expected = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().reshape(9, 24, 3, 3)
    np.testing.assert_allclose(batch["global_orient"][:9], expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(batch["body_pose"][:9], expected[:, 1:], atol=1e-5)
    np.testing.assert_allclose(batch["betas"][:9], betas, atol=1e-6)
    assert len(SPINNpz(tmp_path, ["lsp.npz"], tmp_path, fits=["lsp_fits.npy"], require_pose=True)) == 3


def test_wrong_static_fits_are_named(people: dict[str, Any], tmp_path: Path) -> None:
    write_spin_npz(tmp_path, "lsp.npz", 3)
    for fits, says in (
        (np.zeros((4, 82)), r"a\.npy: holds 4 fits, but .*lsp\.npz has 3 rows"),
        (np.zeros((3, 72)), r"a\.npy: fits has shape 3 x 72, expected any x 82"),
        (np.full((3, 82), np.nan), r"a\.npy: fits holds values that are not finite"),
        (np.array([{}]), r"a\.npy: is no whole \.npy array"),
    ):
        np.save(tmp_path / "a.npy", fits)
        with pytest.raises(ValueError, match=says):
            SPINNpz(tmp_path, ["lsp.npz"], tmp_path, fits=["a.npy"])
    with pytest.raises(FileNotFoundError, match=r"no b\.npy in "):
        SPINNpz(tmp_path, ["lsp.npz"], tmp_path, fits=["b.npy"])
    with pytest.raises(ValueError, match="fits: 2 for 1 files, expected one for each file"):
        SPINNpz(tmp_path, ["lsp.npz"], tmp_path, fits=["a.npy", "a.npy"])
    with pytest.raises(ValueError, match="fits: fill in poses, which ignore_3d=True takes for unknown"):
        SPINNpz(tmp_path, ["lsp.npz"], tmp_path, fits=["a.npy"], ignore_3d=True)


def test_several_files_are_joined_and_rows_without_a_pose_left_out(people: dict[str, Any], tmp_path: Path) -> None:
    lsp = write_spin_npz(tmp_path, "lsp.npz", 3, 0, 1, **dict.fromkeys(("S", "pose", "shape", "has_smpl")))
    coco = write_spin_npz(tmp_path, "coco.npz", 4, 1, 2, S=None, openpose=None)
    files = ["lsp.npz", "coco.npz"]
    batch = everything(SPINNpz(tmp_path, files, tmp_path))
    assert batch["clip"] == [*lsp["imgname"], *coco["imgname"]]
    assert batch["has_pose"].tolist() == [False] * 3 + [True] * 3 + [False]
    np.testing.assert_allclose(batch["betas"][3:6], coco["shape"][:3], atol=1e-6)
    fitted = everything(SPINNpz(tmp_path, files, tmp_path, require_pose=True))
    assert fitted["clip"] == coco["imgname"][:3].tolist()
    np.testing.assert_allclose(fitted["box"][:, 2], 200 * coco["scale"][:3], rtol=1e-6)
    with pytest.raises(ValueError, match=r"files: lsp\.npz have no row with a pose"):
        SPINNpz(tmp_path, ["lsp.npz"], tmp_path, require_pose=True)


def test_3dpw_is_tested_with_the_person_s_own_body(tmp_path: Path) -> None:
    """As SPIN's 3dpw_test.npz: no keypoints, but pose, shape and gender."""
    gone: dict[str, Any] = dict.fromkeys(("part", "openpose", "S", "has_smpl"))
    made = write_spin_npz(tmp_path, "3dpw_test.npz", 3, 0, 0, gender=np.array(["m", "f", "m"]), **gone)
    bodies = write_gendered_bodies(tmp_path / "bodies")
    data = SPINNpz(tmp_path, ["3dpw_test.npz"], tmp_path, truth="smpl", body_models=bodies)
    batch = everything(data)
    assert set(batch) == TRAINING_KEYS | {"joints_smpl24_cam", "gender"}
    assert batch["gender"] == ["male", "female", "male"]
    for row, name in enumerate(("MALE", "FEMALE", "MALE")):
        model = load_body_model(bodies / f"SMPL_{name}.npz")
        pose = torch.from_numpy(made["pose"][row].reshape(24, 3)).float()
        betas = torch.from_numpy(made["shape"][row]).float()
        for key, joint_set in (("joints_cam", JOINTS_44), ("joints_smpl24_cam", SMPL_24)):
            expected = NamedJoints(joint_set, model)(betas, pose[1:], pose[0], pose_repr="axis_angle")
            torch.testing.assert_close(batch[key][row], expected, atol=1e-5, rtol=0)
    assert batch["joints_known"].all()
    assert not batch["confidence"].any()


def test_sizes_need_not_be_read_from_the_pictures(people: dict[str, Any], tmp_path: Path) -> None:
    nowhere = {**people, "folder": tmp_path / "no pictures"}
    assert read(nowhere, tmp_path, image_size=(640, 480))["image_size"].unique(dim=0).tolist() == [[640, 480]]
    stored = read(nowhere, tmp_path, image_size=(640, 480), img_size=people["image_size"])
    np.testing.assert_allclose(stored["image_size"], people["image_size"])
    with pytest.raises(FileNotFoundError, match=r"image_root: there is no picture .*0_000000\.jpg"):
        read(nowhere, tmp_path)


@pytest.mark.parametrize("margin", [1.0, 1.5])
def test_raw_crops_show_the_box_and_its_margin(margin: float, people: dict[str, Any]) -> None:
    """A picture's red is its column and its green its row, from 0 to 255."""
    size = 48
    data = SPINNpz(people["folder"], ["h36m_train.npz"], people["folder"], crops=size, crop_margin=margin)
    batch = everything(data)
    assert set(batch) == TRAINING_KEYS | {"image"}
    assert batch["image"].dtype == torch.uint8
    size = round(size * margin)
    assert batch["image"].shape == (ROWS, 3, size, size)
    middles = 2 * (torch.arange(size) + 0.5) / size - 1
    grid = torch.cartesian_prod(middles, middles).flip(-1)
    outside = 0
    for row in range(ROWS):
        box, picture_size = batch["box"][row], batch["image_size"][row]
        place = uncrop_keypoints(grid, box[:2], margin * box[2]).reshape(size, size, 2)
        expected = 255 * (place - 0.5) / (picture_size - 1)
        inside = ((place > 6) & (place < picture_size - 6)).all(dim=-1)
        off = batch["image"][row, :2].permute(1, 2, 0).float() - expected
        assert off[inside].abs().max() < 6  # JPEG
        beyond = ((place < -6) | (place > picture_size + 6)).any(dim=-1)
        assert batch["image"][row][:, beyond].eq(0).all()
        outside += int(beyond.sum())
    assert (outside > 0) == (margin > 1)


def test_sets_that_know_different_things_are_mixed_by_their_shares(tmp_path: Path) -> None:
    """SPIN's mix: Human3.6M 0.3, in the wild (keypoints alone) 0.6, and the third set 0.1, from another layout."""
    write_spin_npz(tmp_path, "h36m_train.npz", 40)
    write_spin_npz(tmp_path, "lsp.npz", 20, 0, 1, **dict.fromkeys(("S", "pose", "shape", "has_smpl", "openpose")))
    made = write_smpl_npz(tmp_path, "3dhp.npz", 60, unknown=10, seed=2, scale=np.full(60, 1.5))
    (tmp_path / "pictures").mkdir()
    for name, (width, height) in zip(made["imgname"], made["image_size"].astype(int).tolist(), strict=True):
        Image.new("RGB", (width // 8, height // 8)).save(tmp_path / name)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PoseDataModule, "data")
    data = parser.instantiate(parser.parse_string(MIX.format(root=tmp_path))).data
    data.setup("fit")
    drawn: list[str] = []
    for epoch in range(4):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert set(batch) == TRAINING_KEYS | {"image"}
            assert batch["image"].shape == (12, 3, 24, 24)
            assert batch["image"].dtype == torch.uint8
            from_set = [str(Path(name).parent) for name in batch["clip"]]
            is_wild = torch.tensor([name == "lsp" for name in from_set])
            assert not batch["has_pose"][is_wild].any()
            assert not batch["joints_known"][is_wild].any()
            assert batch["joints_known"][~is_wild].any(dim=1).all()
            assert (batch["confidence"] > 0).any(dim=1).all()
            drawn += from_set
    shares = [drawn.count(name) / len(drawn) for name in ("h36m_train", "lsp", "pictures")]
    np.testing.assert_allclose(shares, [0.3, 0.6, 0.1], atol=0.07)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"imgname": None}, r"a\.npz: has no 'imgname'"),
        ({"center": np.zeros((ROWS, 3))}, "center has shape 10 x 3, expected 10 x 2"),
        ({"scale": None}, "has no 'scale'"),
        ({"scale": np.zeros(ROWS)}, "scale has a side of 0, expected sides above 0 px"),
        ({"part": np.ones((ROWS, 25, 3))}, "part has shape 10 x 25 x 3, expected 10 x 24 x 3"),
        ({"part": np.full((ROWS, 24, 3), np.nan)}, "part holds values that are not finite"),
        ({"openpose": np.ones((ROWS, 18, 3))}, "openpose has shape 10 x 18 x 3, expected 10 x 25 x 3"),
        ({"S": np.ones((ROWS, 24, 3))}, "S has shape 10 x 24 x 3, expected 10 x 24 x 4"),
        ({"pose": np.ones((ROWS, 69))}, "pose has shape 10 x 69, expected 10 x 72"),
        ({"shape": np.ones((ROWS, 10)) * np.inf}, "shape holds values that are not finite"),
        ({"has_smpl": np.ones(3)}, "has_smpl has shape 3, expected 10"),
        ({"gender": np.array(["x"] * ROWS)}, "gender x unknown"),
    ],
)
def test_a_broken_table_is_one_clear_error(
    change: dict[str, Any], says: str, people: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        read(people, tmp_path, **change)


def test_unknown_joints_may_hold_anything(people: dict[str, Any], tmp_path: Path) -> None:
    part = people["part"].copy()
    part[1, 19, :2] = part[1, 13, :2] = np.nan  # their confidence is 0
    torch.testing.assert_close(
        read(people, tmp_path, part=part)["joints_2d_px"], read(people, tmp_path)["joints_2d_px"]
    )


def test_arguments_that_do_not_fit_are_refused(people: dict[str, Any], tmp_path: Path) -> None:
    folder = people["folder"]
    with pytest.raises(ValueError, match="files: expected at least one name"):
        SPINNpz(folder, [], folder)
    with pytest.raises(FileNotFoundError, match=r"there is no h36m_train\.npz in .*SPIN's README"):
        SPINNpz(tmp_path, ["h36m_train.npz"], folder)
    with pytest.raises(ValueError, match=r"truth: \['mesh'\] unknown, valid are keypoints, smpl"):
        SPINNpz(folder, ["h36m_train.npz"], folder, truth="mesh")
    with pytest.raises(ValueError, match=r"ignore_3d: leaves no pose, which require_pose=True and truth='smpl' need"):
        SPINNpz(folder, ["h36m_train.npz"], folder, ignore_3d=True, require_pose=True)
    with pytest.raises(ValueError, match="ignore_3d: leaves no pose"):
        SPINNpz(folder, ["h36m_train.npz"], folder, ignore_3d=True, truth="smpl")
    with pytest.raises(ValueError, match="crops: their side must be at least 1 px, got 0"):
        SPINNpz(folder, ["h36m_train.npz"], folder, crops=0)
