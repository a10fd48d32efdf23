import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from posecore.body.skeletons import get_joint_set
from posecore.body.smpl import SMPLLayer
from posecore.export.amass import write_amass
from posecore.export.smpl_predictions import (
    FORMAT,
    SMPLPredictions,
    read_smpl_predictions,
    write_smpl_json,
    write_smpl_npz,
)
from posecore.geometry.rotation import axis_angle_to_rotmat, random_rotmat

# Every kinematic joint of the open body and no vertex.
LAYER = SMPLLayer(vertices=())


def rest_pelvis(betas: torch.Tensor) -> torch.Tensor:
    return LAYER.rest_joints(betas)[:, 0]


def with_hypotheses(made: SMPLPredictions, count: int = 3) -> SMPLPredictions:
    """The same with random hypotheses, of which one is the row's own pose."""
    people = len(made)
    generator = torch.Generator().manual_seed(count)
    root, body = random_rotmat((people, count), generator), random_rotmat((people, count, 23), generator)
    best = torch.randint(count, (people,), generator=generator)
    root[torch.arange(people), best], body[torch.arange(people), best] = made.global_orient, made.body_pose
    pick = "the medoid"
    return dataclasses.replace(made, hypotheses_global_orient=root, hypotheses_body_pose=body, best=best, pick=pick)


def make(people: int = 4, joint_set: str = "body25", start: bool = True, **changes: Any) -> SMPLPredictions:
    """People with one shape, as a fit to a video leaves them, some metres before the camera."""
    generator = torch.Generator().manual_seed(people)
    keypoints = get_joint_set(joint_set).num_joints
    turns = 0.4 * torch.randn(people, 23, 3, generator=generator)
    content: dict[str, Any] = {
        "method": "ScoreHMR",
        "body": "open_body",
        "global_orient": random_rotmat((people,), generator),
        "body_pose": axis_angle_to_rotmat(turns),
        "betas": torch.randn(10, generator=generator).repeat(people, 1),
        "transl": torch.randn(people, 3, generator=generator) + torch.tensor([0.0, 0.0, 6.0]),
    }
    content["joints"] = LAYER(*(content[name] for name in ("betas", "body_pose", "global_orient", "transl"))).joints
    if start:
        content |= {
            "start_global_orient": random_rotmat((people,), generator),
            "start_body_pose": random_rotmat((people, 23), generator),
            "start_betas": torch.randn(people, 10, generator=generator),
            "start_transl": torch.randn(people, 3, generator=generator),
            "start_reprojection_error_px": torch.rand(people, generator=generator) * 20,
        }
    content |= {
        "joint_set": get_joint_set(joint_set),
        "keypoints_2d_px": torch.rand(people, keypoints, 2, generator=generator) * 500,
        "confidence": torch.rand(people, keypoints, generator=generator).round(),
        "reprojection_error_px": torch.rand(people, generator=generator) * 9,
        "K": torch.tensor([[800.0, 0.0, 320.0], [0.0, 810.0, 240.0], [0.0, 0.0, 1.0]]).repeat(people, 1, 1),
        "image_size": torch.tensor([[640.0, 480.0]]).repeat(people, 1),
        "camera_assumed": True,
        "camera_statement": "focal length assumed: 800 px",
        "ids": ("7",) * people,
        "frames": tuple(range(10, 10 + people)),
        "views": (0,) * people,
        "image_names": ("photo ä.jpg",) * people,
        "fps": 25.0,
        "settings": {"steps": 10},
    }
    return SMPLPredictions(**(content | changes))


@pytest.mark.parametrize(
    ("people", "joint_set", "start", "several"),
    [(1, "coco17", False, False), (3, "joints44", True, False), (3, "joints44", False, True)],
)
def test_npz_round_trip(tmp_path: Path, people: int, joint_set: str, start: bool, several: bool) -> None:
    written = make(people, joint_set, start, fps=25.0 if start else None)
    if several:
        written = with_hypotheses(written)
    unseen = written.reprojection_error_px.clone()
    unseen[-1] = torch.nan
    written = dataclasses.replace(written, reprojection_error_px=unseen, camera_assumed=start)
    write_smpl_npz(tmp_path / "bodies.npz", written)
    read = read_smpl_predictions(tmp_path / "bodies.npz")
    assert len(read) == people
    for field in dataclasses.fields(SMPLPredictions):
        before, after = getattr(written, field.name), getattr(read, field.name)
        if isinstance(before, torch.Tensor):
            torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
        else:
            assert after == before
    with np.load(tmp_path / "bodies.npz", allow_pickle=False) as content:
        assert all(content[name].dtype.kind != "O" for name in content.files)
        assert str(content["unit"]) == "metre"


def test_json_says_what_a_reader_needs(tmp_path: Path) -> None:
    made = make(2, reprojection_error_px=torch.tensor([4.25, float("nan")]))
    write_smpl_json(tmp_path / "bodies.json", made)
    content = json.loads((tmp_path / "bodies.json").read_text(), parse_constant=pytest.fail)
    assert (content["format"], content["unit"], content["fps"]) == (FORMAT, "metre", 25.0)
    assert content["frame"] == "camera: x right, y down, z forward"
    assert (content["method"], content["body"], content["settings"]) == ("ScoreHMR", "open_body", {"steps": 10})
    assert content["parents"] == list(get_joint_set("smpl24").parents)
    first, second = content["people"]
    assert list(first["joints"]) == content["joint_names"] == list(get_joint_set("smpl24").joint_names)
    np.testing.assert_allclose(list(second["joints"].values()), made.joints[1].numpy(), atol=6e-7)
    # The numbers are SMPL's parameters: rotations as scipy reads axis-angles, root first.
    for person, root, body in (
        (second, made.global_orient, made.body_pose),
        (second["start"], made.start_global_orient, made.start_body_pose),
    ):
        rotmat = Rotation.from_rotvec(person["pose"]).as_matrix()
        np.testing.assert_allclose(rotmat, torch.cat((root[1:], body[1])).numpy(), atol=5e-6)
    np.testing.assert_allclose(second["betas"], made.betas[1].numpy(), atol=6e-7)
    np.testing.assert_allclose(second["start"]["transl"], made.start_transl[1].numpy(), atol=6e-7)
    assert (first["reprojection_error_px"], second["reprojection_error_px"]) == (4.25, None)
    assert (second["id"], second["frame"], second["view"], second["image"]) == ("7", 11, 0, "photo ä.jpg")
    assert second["camera"]["assumed"] is True
    assert second["camera"]["statement"] == "focal length assumed: 800 px"
    assert second["image_size"] == [640.0, 480.0]
    np.testing.assert_allclose(second["camera"]["K"], made.K[1].numpy())
    assert list(second["keypoints_2d"]) == list(get_joint_set("body25").joint_names)
    assert second["keypoints_2d"]["nose"][2] == made.confidence[1, 0]
    np.testing.assert_allclose(second["keypoints_2d"]["nose"][:2], made.keypoints_2d_px[1, 0].numpy(), atol=1e-5)


def test_json_without_a_start(tmp_path: Path) -> None:
    write_smpl_json(tmp_path / "bodies.json", make(1, start=False, fps=None))
    content = json.loads((tmp_path / "bodies.json").read_text())
    assert content["fps"] is None
    assert content["people"][0]["start"] is None


def test_json_with_a_start_of_unknown_error(tmp_path: Path) -> None:
    write_smpl_json(tmp_path / "bodies.json", make(1, start_reprojection_error_px=None))
    start = json.loads((tmp_path / "bodies.json").read_text())["people"][0]["start"]
    assert start["reprojection_error_px"] is None
    assert len(start["betas"]) == 10


def test_json_of_hypotheses(tmp_path: Path) -> None:
    made = with_hypotheses(make(2, start=False), 4)
    made = dataclasses.replace(made, reprojection_error_px=torch.full((2,), torch.nan))
    write_smpl_json(tmp_path / "bodies.json", made)
    content = json.loads((tmp_path / "bodies.json").read_text(), parse_constant=pytest.fail)
    assert content["pick"] == "the medoid"
    assert made.best is not None
    assert made.hypotheses_global_orient is not None
    assert made.hypotheses_body_pose is not None
    for row, person in enumerate(content["people"]):
        assert person["best"] == int(made.best[row])
        assert person["reprojection_error_px"] is None
        assert person["start"] is None
        assert len(person["hypotheses"]) == 4
        for k, hypothesis in enumerate(person["hypotheses"]):
            assert list(hypothesis) == ["pose"]
            expected = torch.cat((made.hypotheses_global_orient[row, k][None], made.hypotheses_body_pose[row, k]))
            found = Rotation.from_rotvec(hypothesis["pose"]).as_matrix()
            np.testing.assert_allclose(found, expected.numpy(), atol=5e-6)
        # The person's own parameters are the pick's.
        np.testing.assert_allclose(person["hypotheses"][person["best"]]["pose"], person["pose"], atol=2e-6)


def test_files_without_hypotheses_do_not_speak_of_any(tmp_path: Path) -> None:
    """Those of a fit are as they were before there were hypotheses, and old ones can be read."""
    write_smpl_json(tmp_path / "bodies.json", make(1))
    content = json.loads((tmp_path / "bodies.json").read_text())
    assert content["pick"] == ""
    assert not {"hypotheses", "best"} & set(content["people"][0])
    write_smpl_npz(tmp_path / "bodies.npz", make(1))
    with np.load(tmp_path / "bodies.npz", allow_pickle=False) as arrays:
        assert not {"best", "hypotheses_body_pose"} & set(arrays.files)
    read = read_smpl_predictions(tmp_path / "bodies.npz")
    assert (read.best, read.hypotheses_body_pose, read.pick) == (None, None, "")


def test_rows_are_taken_with_their_hypotheses() -> None:
    made = with_hypotheses(make(4))
    taken = made.take([2, 0])
    assert made.best is not None
    assert made.hypotheses_body_pose is not None
    assert taken.best is not None
    assert taken.hypotheses_body_pose is not None
    assert taken.best.tolist() == made.best[[2, 0]].tolist()
    assert torch.equal(taken.hypotheses_body_pose, made.hypotheses_body_pose[[2, 0]])
    assert (len(taken), taken.pick) == (2, "the medoid")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best": None}, "the hypotheses lack best; give all of hypotheses_global_orient,"),
        ({"best": torch.tensor([0, 3])}, r"best is \[0, 3\]; valid are 0 to 2"),
        ({"best": torch.tensor([-1, 0])}, r"best is \[-1, 0\]; valid are 0 to 2"),
        ({"body_pose": torch.eye(3).expand(2, 23, 3, 3)}, "best: the hypothesis of that number has another pose"),
        ({"global_orient": torch.eye(3).expand(2, 3, 3)}, "best: the hypothesis of that number has another pose"),
        ({"hypotheses_body_pose": torch.full((2, 3, 23, 3, 3), torch.nan)}, "hypotheses_body_pose holds NaN"),
    ],
)
def test_hypotheses_that_contradict_the_pick_are_refused(changes: dict[str, Any], message: str) -> None:
    made = with_hypotheses(make(2))
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(made, **changes)


def amass_joints(path: Path) -> torch.Tensor:
    """Joints of the body that the file describes, by the rules of AMASS alone."""
    with np.load(path, allow_pickle=False) as content:
        poses, trans, betas = (torch.from_numpy(content[name]) for name in ("poses", "trans", "betas"))
    assert (poses.dtype, poses.shape, betas.shape) == (torch.float32, (len(trans), 72), (10,))
    pose = poses.unflatten(-1, (24, 3))
    return LAYER(betas, pose[:, 1:], pose[:, 0], trans, pose_repr="axis_angle").joints


def to_z_up(points: torch.Tensor) -> torch.Tensor:
    x, y, z = points.unbind(-1)
    return torch.stack((x, z, -y), dim=-1)


@pytest.mark.parametrize("people", [1, 5])
def test_amass_joints_are_the_cameras_joints_turned(tmp_path: Path, people: int) -> None:
    made = make(people)
    write_amass(tmp_path / "7.npz", made, "7", rest_pelvis)
    torch.testing.assert_close(amass_joints(tmp_path / "7.npz"), to_z_up(made.joints), atol=1e-5, rtol=0)


def test_amass_file_holds_one_person_in_the_order_of_time(tmp_path: Path) -> None:
    made = make(6)
    made = dataclasses.replace(made, ids=("7", "8", "7", "8", "7", "8"), frames=(4, 9, 3, 8, 2, 7))
    write_amass(tmp_path / "8.npz", made, "8", rest_pelvis)
    torch.testing.assert_close(amass_joints(tmp_path / "8.npz"), to_z_up(made.joints[[5, 3, 1]]), atol=1e-5, rtol=0)
    with np.load(tmp_path / "8.npz", allow_pickle=False) as content:
        assert float(content["mocap_frame_rate"]) == float(content["mocap_framerate"]) == 25.0
        assert str(content["gender"]) == "neutral"
        assert str(content["humandiff_body"]) == "open_body"
        assert "z up" in str(content["humandiff_frame"])
        assert content["humandiff_frames"].tolist() == [7, 8, 9]


def test_amass_file_of_changing_shape_has_the_mean_and_keeps_the_pelvis(tmp_path: Path) -> None:
    betas = torch.randn(4, 10, generator=torch.Generator().manual_seed(1))
    made = make(4, betas=betas)
    joints = LAYER(betas, made.body_pose, made.global_orient, made.transl).joints
    write_amass(tmp_path / "7.npz", made, "7", rest_pelvis)
    with np.load(tmp_path / "7.npz", allow_pickle=False) as content:
        np.testing.assert_allclose(content["betas"], betas.mean(dim=0).numpy(), atol=1e-6)
        assert str(content["humandiff_betas"]) == "mean over the frames"
    found = amass_joints(tmp_path / "7.npz")
    torch.testing.assert_close(found[:, 0], to_z_up(joints[:, 0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "person_id", "message"),
    [
        ({}, "9", "person_id: '9' is none of 7"),
        ({"fps": None}, "7", "fps: is unknown"),
        ({"frames": (0, 1, 1, 2)}, "7", r"'7' has the frames \[0, 1, 1, 2\]"),
        ({"frames": (0, 1, 3, 4)}, "7", "needs each from first to last once"),
    ],
)
def test_what_amass_cannot_hold(tmp_path: Path, changes: dict[str, Any], person_id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_amass(tmp_path / "7.npz", make(4, **changes), person_id, rest_pelvis)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_smpl_json, write_smpl_npz])
def test_settings_that_json_cannot_hold(tmp_path: Path, write: Any) -> None:
    for value in (float("nan"), object()):
        with pytest.raises(ValueError, match="settings must hold finite JSON values"):
            write(tmp_path / "bodies", make(settings={"eta": value}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joint_set": get_joint_set("coco17")}, "confidence has 25 joints; coco17 has 17"),
        ({"views": (0,)}, "views has 1 entries for 2 people"),
        ({"transl": torch.full((2, 3), float("inf"))}, "transl holds NaN or infinity"),
        ({"start_betas": torch.full((2, 10), float("nan"))}, "start_betas holds NaN or infinity"),
        ({"start_betas": None}, "the start lacks start_betas; give all of"),
        ({"fps": 0.0}, r"fps is 0\.0; it must be above 0"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make(2), **changes)


def test_reading_what_is_not_a_prediction_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no prediction file at"):
        read_smpl_predictions(tmp_path / "none.npz")
    np.savez(tmp_path / "old.npz", format=np.array("humandiff-smpl/99"))
    with pytest.raises(ValueError, match=r"old\.npz: not a .*: format 'humandiff-smpl/99' is unknown"):
        read_smpl_predictions(tmp_path / "old.npz")
    write_smpl_npz(tmp_path / "good.npz", make())
    good = (tmp_path / "good.npz").read_bytes()
    middle = len(good) // 2
    cases = {
        "half.npz": good[:middle],
        "bitten.npz": good[: middle - 200] + bytes(400) + good[middle + 200 :],
        "empty.npz": b"",
        "text.json": b'{"format": "humandiff-smpl/1"}',
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: not a prediction file of format"):
            read_smpl_predictions(tmp_path / name)
    np.savez(tmp_path / "bare.npz", format=np.array(FORMAT))
    with pytest.raises(ValueError, match=r"bare\.npz: not a prediction file"):
        read_smpl_predictions(tmp_path / "bare.npz")
