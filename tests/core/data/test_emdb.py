import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.files import load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import JOINTS_44, SMPL_24
from posecore.data.emdb import EMDB
from posecore.geometry.camera import project, world_to_cam
from posecore.safe_pickle import UnsafePickleError
from posecore.testing import assert_pose_dataset, write_emdb, write_smpl_npz, write_start_cache

FRAMES = 6
GOOD = [0, 1, 3, 4, 5]
SEQUENCE = "P0/00_mvs_a/P0_00_mvs_a_data.pkl"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    root = tmp_path_factory.mktemp("data") / "emdb"
    return root, write_emdb(root, FRAMES)


def broken(written: tuple[Path, Any], root: Path, change: Any) -> Path:
    """A folder whose first sequence was changed, with the bodies of ``written``."""
    root.mkdir(exist_ok=True)
    (root / "body_models").symlink_to(written[0] / "body_models")
    write_emdb(root, 4)
    path = root / SEQUENCE
    content = pickle.loads(path.read_bytes())  # noqa: S301
    change(content)
    path.write_bytes(pickle.dumps(content))
    return root


def test_promises_of_a_data_set(written: tuple[Path, Any]) -> None:
    data = EMDB(written[0])
    data.samples.pop("box")  # which the assertion does not know
    assert_pose_dataset(data)


@pytest.mark.parametrize(
    ("part", "clips"), [(1, ["P0_00_mvs_a", "P3_27_indoor_walk"]), (2, ["P3_27_indoor_walk", "P9_79_outdoor"])]
)
def test_parts_hold_the_good_frames(written: tuple[Path, Any], part: int, clips: list[str]) -> None:
    root, truth = written
    data = EMDB(root.parent, part)
    assert data.joint_set is SMPL_24
    batch = data.samples
    assert batch["clip"] == [clip for clip in clips for _ in GOOD]
    assert batch["frame"].tolist() == GOOD * 2
    assert batch["subject"] == [clip[:2] for clip in clips for _ in GOOD]
    assert set(batch["action"]) == {clip.split("_", 2)[2] for clip in clips}
    assert batch["fps"].eq(30).all()
    expected = np.concatenate([truth[clip]["joints_cam"][GOOD] for clip in clips])
    np.testing.assert_allclose(batch["joints_cam"], expected, atol=1e-5)
    np.testing.assert_allclose(batch["joints_smpl24_cam"], expected, atol=1e-5)
    kp2d = np.concatenate([truth[clip]["kp2d"][GOOD] for clip in clips])
    np.testing.assert_allclose(batch["joints_2d_px"], kp2d, atol=1e-4)
    torch.testing.assert_close(project(batch["joints_cam"], batch["K"]), batch["joints_2d_px"], atol=1e-3, rtol=0)
    assert batch["confidence"].eq(1).all()
    assert batch["image_size"].unique(dim=0).tolist() == [[144, 192]]


def test_parameters_are_of_the_camera_frame_and_the_gendered_body(written: tuple[Path, Any]) -> None:
    root, _ = written
    data = EMDB(root, 1, "joints44")
    assert data.joint_set is JOINTS_44
    for row, gender in ((1, "female"), (6, "male")):
        sample = data[row]
        assert sample["gender"] == gender
        model = load_body_model(root / "body_models", gender)  # type: ignore[arg-type]
        for joint_set, key in ((SMPL_24, "joints_smpl24_cam"), (JOINTS_44, "joints_cam")):
            layer = NamedJoints(joint_set, model)
            found = layer(sample["betas"], sample["body_pose"], sample["global_orient"], sample["transl"])
            torch.testing.assert_close(found, sample[key], atol=1e-4, rtol=0)  # type: ignore[literal-required]
    assert bool(
        data.samples["joints_known"].all() and data.samples["has_pose"].all() and data.samples["has_betas"].all()
    )


def test_world_is_the_same_for_all_frames(written: tuple[Path, Any]) -> None:
    root, _ = written
    content = pickle.loads((root / SEQUENCE).read_bytes())  # noqa: S301
    batch = EMDB(root).__getitems__(range(len(GOOD)))
    pelvis = load_body_model(root / "body_models", "female")
    rest = NamedJoints(SMPL_24, pelvis)(batch["betas"][:1], torch.eye(3).repeat(1, 23, 1, 1), torch.eye(3)[None])[0, 0]
    world = rest + torch.from_numpy(content["smpl"]["trans"][GOOD]).float()
    seen = world_to_cam(world[:, None], batch["R_world_to_cam"], batch["t_world_to_cam"])[:, 0]
    torch.testing.assert_close(seen, batch["joints_cam"][:, 0], atol=1e-5, rtol=0)


def test_boxes_are_square_and_fall_back_to_the_keypoints(written: tuple[Path, Any]) -> None:
    root, truth = written
    batch = EMDB(root).__getitems__(range(len(GOOD)))
    kp2d = truth["P0_00_mvs_a"]["kp2d"][GOOD]  # the valid boxes are around these, too
    low, high = kp2d.min(axis=1), kp2d.max(axis=1)
    expected = np.column_stack(((low + high) / 2, 1.2 * (high - low).max(axis=1)))
    np.testing.assert_allclose(batch["box"], expected, atol=1e-3)


def test_a_valid_box_is_the_files(written: tuple[Path, Any], tmp_path: Path) -> None:
    def change(content: Any) -> None:
        content["bboxes"]["bboxes"][[0, 1]] = [[10, 20, 30, 60], [30, 20, 10, 60]]  # the second is none

    batch = EMDB(broken(written, tmp_path, change)).samples
    np.testing.assert_allclose(batch["box"][0], [20, 40, 48], atol=1e-4)
    assert batch["box"][1, 2] != 48


def test_stride_and_pictures(written: tuple[Path, Any]) -> None:
    data = EMDB(written[0], stride=2, crops=8)
    assert data.samples["frame"].tolist() == [0, 3, 5] * 2
    image = data.__getitems__([2])["image"]
    assert image.shape == (1, 3, 12, 12)
    assert image.dtype == torch.uint8
    middle = image[0, :, 6, 6].tolist()  # of picture 5
    np.testing.assert_allclose(middle, [150, 200, 60], atol=4)
    assert EMDB(written[0], crops=8, crop_margin=None)[0]["image"].dtype == torch.float32


def test_caches_of_released_regressors(written: tuple[Path, Any], tmp_path: Path) -> None:
    root, _ = written
    rows = 2 * len(GOOD)
    people = write_smpl_npz(tmp_path, rows=rows, unknown=0)
    write_start_cache(root / "start.npz", people)
    np.savez(root / "features.npz", features=np.arange(4.0 * rows, dtype=np.float32).reshape(rows, 4))
    data = EMDB(root, joint_source="joints44", camera="assumed", features="features.npz", start="start.npz")
    batch = data.samples
    np.testing.assert_allclose(batch["start_transl"], people["transl"], atol=1e-5)
    assert batch["features"][3].tolist() == [12, 13, 14, 15]
    assert batch["K"][0].tolist() == [[5000, 0, 72], [0, 5000, 96], [0, 0, 1]]
    assert not {"transl", "R_world_to_cam", "t_world_to_cam", "joints_2d_true_px"} & set(batch)
    wanted = (
        "global_orient body_pose betas has_pose has_betas gender joints_smpl24_cam joints_known joints_2d_px confidence"
    )
    assert {*wanted.split(), "clip", "frame", "view", "image_size", "K", "box"} <= set(batch)
    with pytest.raises(ValueError, match=r"features.npz: holds features of 10 rows, but the data set has 3"):
        EMDB(
            broken(written, tmp_path / "few", lambda content: content.update(emdb1=False)),
            features=str(root / "features.npz"),
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"part": 3}, r"part: \[3\] unknown, valid are 1, 2"),
        ({"joint_source": "h36m17"}, "joint_source: .*valid are smpl24, joints44"),
        ({"camera": "weak"}, "camera: .*valid are calibrated, assumed"),
        ({"stride": 0}, "stride: must be at least 1"),
        ({"stride": 2, "features": "x.npz"}, "stride: caches .* hold every row, so it must be 1, got 2"),
        ({"start": "x.npz"}, "camera: start estimates .* must be 'assumed', got 'calibrated'"),
    ],
)
def test_bad_arguments(written: tuple[Path, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EMDB(written[0], **arguments)


def test_missing(written: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no P\*/<sequence>/\*_data.pkl in .*emdb.ait.ethz.ch"):
        EMDB(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no nothing.npz in"):
        EMDB(written[0], features="nothing.npz")
    with pytest.raises(FileNotFoundError, match=r"register at https://smpl.is.tue.mpg.de"):
        EMDB(written[0], body_models=tmp_path)
    write_emdb(tmp_path, 4, sequences=[("P1", "05_a", (False, True))])
    with pytest.raises(ValueError, match=r"part: none of the 1 sequences below .* is in EMDB 1"):
        EMDB(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("emdb1"), "has no 'emdb1'"),
        (lambda c: c.update(gender="x"), "gender 'x' is unknown, valid are female, male, neutral"),
        (lambda c: c.update(good_frames_mask=np.ones(3)), "good_frames_mask has shape 3, expected 4"),
        (lambda c: c["smpl"].update(poses_body=np.zeros((4, 63))), "poses_body has shape 4 x 63, expected 4 x 69"),
        (lambda c: c["smpl"].update(betas=np.zeros(16)), "betas has shape 16, expected 10"),
        (lambda c: c["smpl"].update(trans=np.full((4, 3), np.nan)), "trans holds values that are not finite"),
        (lambda c: c["camera"].update(extrinsics=np.eye(4)), "extrinsics has shape 4 x 4, expected 4 x 4 x 4"),
        (lambda c: c["bboxes"].update(bboxes=np.zeros((3, 4))), "bboxes has shape 3 x 4, expected 4 x 4"),
        (lambda c: c.update(kp2d=np.zeros((4, 17, 2))), "kp2d has shape 4 x 17 x 2, expected 4 x 24 x 2"),
    ],
)
def test_wrong_sequences(written: tuple[Path, Any], tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"P0_00_mvs_a_data.pkl: {message}"):
        EMDB(broken(written, tmp_path, change))


def test_truncated_and_hostile(written: tuple[Path, Any], tmp_path: Path) -> None:
    path = broken(written, tmp_path, lambda content: content.update(gender=Path("x"))) / SEQUENCE
    with pytest.raises(UnsafePickleError, match=r"P0_00_mvs_a_data.pkl asks for 'pathlib.*nothing was run"):
        EMDB(tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"P0_00_mvs_a_data.pkl is not a whole pickle"):
        EMDB(tmp_path)
