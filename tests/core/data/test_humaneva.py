from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.skeletons import HUMANEVA_15
from posecore.data.humaneva import HumanEva
from posecore.geometry.camera import project, world_to_cam
from posecore.testing import write_humaneva

FRAMES = 7
Cameras = dict[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray]]
POSITIONS, TRUTH = "data_3d_humaneva15.npz", "data_2d_humaneva15_gt.npz"


@pytest.fixture(scope="module")
def cameras(tmp_path_factory: pytest.TempPathFactory) -> Cameras:
    return write_humaneva(tmp_path_factory.getbasetemp() / "humaneva", frames=FRAMES)


@pytest.fixture(scope="module")
def folder(cameras: Cameras, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "humaneva"


def content(path: Path) -> Any:
    with np.load(path, allow_pickle=True) as arrays:
        return arrays["positions_3d" if path.name == POSITIONS else "positions_2d"].item()


def edit(path: Path, change: Callable[[Any], None]) -> None:
    positions = content(path)
    change(positions)
    key = "positions_3d" if path.name == POSITIONS else "positions_2d"
    np.savez(path, **{key: np.array(positions, dtype=object)})


def test_rows_are_the_files(folder: Path) -> None:
    data = HumanEva(folder.parent, ["Train/S1", "Validate/S2"])
    assert data.joint_set is HUMANEVA_15
    assert len(data) == 2 * 3 * 3 * FRAMES  # subjects, chunks of Walk and Jog, cameras
    batch = data.__getitems__(range(len(data)))
    assert batch["confidence"].eq(1).all()
    assert batch["image_size"].unique(dim=0).tolist() == [[640, 480]]
    torch.testing.assert_close(batch["joints_rel"], batch["joints_cam"] - batch["joints_cam"][:, :1])
    assert 2 < batch["joints_cam"][..., 2].min() < batch["joints_cam"][..., 2].max() < 6  # metres

    # Of S2: second chunk, third camera, frame 4.
    row = 3 * 3 * FRAMES + 1 * 3 * FRAMES + 2 * FRAMES + 4
    sample = data[row]
    labels = sample["subject"], sample["clip"], sample["action"], int(sample["frame"]), int(sample["view"])
    assert labels == ("S2", "Validate/S2/Walking 1 chunk2", "Walk", 4, 2)
    assert sample["fps"] == 60
    world = torch.from_numpy(content(folder / POSITIONS)["Validate/S2"]["Walking 1 chunk2"][4])
    seen = content(folder / TRUTH)["Validate/S2"]["Walking 1 chunk2"][2][4]
    np.testing.assert_array_equal(sample["joints_2d_px"], seen)
    joints = world_to_cam(world, sample["R_world_to_cam"], sample["t_world_to_cam"])
    torch.testing.assert_close(joints, sample["joints_cam"], atol=1e-5, rtol=0)
    assert np.abs(project(joints, sample["K"]).numpy() - seen).max() < 0.01


def test_cameras_are_those_that_took_the_pictures(folder: Path, cameras: Cameras) -> None:
    data = HumanEva(folder, ["Validate/S1", "Validate/S2"], stride=FRAMES, actions=["Jog"])
    batch = data.__getitems__(range(len(data)))
    assert len(data) == len(cameras) == 6
    for row in range(6):
        camera = batch["subject"][row], ("C1", "C2", "C3")[batch["view"][row]]
        K, R, t = cameras[camera]
        np.testing.assert_allclose(batch["K"][row], K, atol=0.01)
        np.testing.assert_allclose(batch["R_world_to_cam"][row], R, atol=1e-5)
        np.testing.assert_allclose(batch["t_world_to_cam"][row], t, atol=1e-4)
        assert data.residuals_px[camera] < 1e-3
    assert (batch["joints_2d_px"] - batch["joints_2d_true_px"]).abs().max() < 0.01


def test_cameras_do_not_see_test_frames_unless_there_are_no_others(tmp_path: Path, cameras: Cameras) -> None:
    write_humaneva(tmp_path)

    def move(positions: Any) -> None:
        for clip in positions["Validate/S1"].values():
            clip += np.float32(0.1)

    edit(tmp_path / POSITIONS, move)
    data = HumanEva(tmp_path, ["Validate/S1"])
    np.testing.assert_allclose(data[0]["t_world_to_cam"], cameras["S1", "C1"][2], atol=1e-4)

    def drop(positions: Any) -> None:
        del positions["Train/S1"]

    edit(tmp_path / POSITIONS, drop)
    with pytest.warns(UserWarning, match="has no frames of Train/S1, so its cameras are found from Validate/S1"):
        data = HumanEva(tmp_path, ["Validate/S1"])
    K, R, t = cameras["S1", "C1"]
    np.testing.assert_allclose(data[0]["K"], K, atol=0.01)
    np.testing.assert_allclose(data[0]["t_world_to_cam"], t - R @ np.full(3, 0.1), atol=1e-4)


def test_lens_distortion_leaves_a_residual(tmp_path: Path, cameras: Cameras) -> None:
    write_humaneva(tmp_path, frames=50)

    def bend(positions: Any) -> None:
        for subject, clips in positions.items():
            for views in clips.values():
                for camera, view in zip(("C1", "C2", "C3"), views, strict=True):
                    K = cameras[subject[-2:], camera][0]
                    ray = (view - K[:2, 2]) / np.diag(K)[:2]
                    view += (view - K[:2, 2]) * -0.2 * (ray**2).sum(axis=-1, keepdims=True)

    edit(tmp_path / TRUTH, bend)
    data = HumanEva(tmp_path, ["Validate/S2"])
    for camera in ("C1", "C2", "C3"):
        assert 0.05 < data.residuals_px["S2", camera] < 2
        np.testing.assert_allclose(data[0]["K"][[0, 1], [0, 1]], 770, rtol=0.05)


def test_selection(folder: Path) -> None:
    data = HumanEva(folder, ["Train/S2"], stride=3, actions=["Walk", "Gesture"], cameras=["C3"])
    batch = data.__getitems__(range(len(data)))
    names = ["Walking 1 chunk0", "Walking 1 chunk2", "Gestures 1 chunk0"]
    assert batch["clip"] == [f"Train/S2/{name}" for name in names for _ in range(3)]
    assert batch["action"] == ["Walk"] * 6 + ["Gesture"] * 3
    assert batch["frame"].tolist() == [0, 3, 6] * 3
    assert set(batch["view"].tolist()) == {2}
    full = HumanEva(folder, ["Train/S2"])
    torch.testing.assert_close(full.__getitems__([14, 17, 20])["joints_cam"], batch["joints_cam"][:3])
    assert set(data.residuals_px) == {("S2", "C3")}


@pytest.mark.parametrize(("split", "prefix"), [("train", "Train"), ("validation", "Validate")])
def test_named_splits(tmp_path: Path, split: str, prefix: str) -> None:
    subjects = [f"{half}/S{number}" for half in ("Train", "Validate") for number in (1, 2, 3)]
    write_humaneva(tmp_path, subjects, ["Box 1 chunk0"], frames=2)
    data = HumanEva(tmp_path, split, stride=2, cameras=["C2"])
    batch = data.__getitems__(range(len(data)))
    assert batch["subject"] == ["S1", "S2", "S3"]
    assert batch["clip"] == [f"{prefix}/S{number}/Box 1 chunk0" for number in (1, 2, 3)]


def test_detections_with_confidence(folder: Path) -> None:
    data = HumanEva(folder, ["Validate/S1"], "hr")
    batch = data.__getitems__(range(len(data)))
    assert batch["confidence"].eq(0.5).all()
    shift = (batch["joints_2d_px"] - batch["joints_2d_true_px"]).flatten(0, 1)
    torch.testing.assert_close(shift, torch.tensor([2.0, 0.0]).expand_as(shift), atol=0.01, rtol=0)


def test_failed_motion_capture_is_left_out(tmp_path: Path) -> None:
    write_humaneva(tmp_path, frames=FRAMES)

    def spoil(positions: Any) -> None:
        for subject in ("Train/S1", "Validate/S1"):
            positions[subject]["Walking 1 chunk0"][3, 5] = np.nan
            positions[subject]["Walking 1 chunk2"] = np.zeros((0, 15, 3), np.float32)

    edit(tmp_path / POSITIONS, spoil)
    data = HumanEva(tmp_path, ["Validate/S1"])
    assert set(data.__getitems__(range(len(data)))["action"]) == {"Jog"}
    assert len(data) == 3 * FRAMES
    with pytest.raises(
        ValueError, match=r"actions: .*has no whole chunk of \['Validate/S1'\] with an action in .*Walk"
    ):
        HumanEva(tmp_path, ["Validate/S1"], actions=["Walk"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, r"split: \['test'\] unknown, valid are train, validation"),
        ({"split": ["S1"]}, r"split: \['S1'\] unknown, valid are Train/S1, Train/S2, Validate/S1"),
        ({"split": ["Train/S1"], "actions": ["Walking"]}, r"actions: \['Walking'\] unknown, valid are Walk, Jog"),
        ({"split": ["Train/S1"], "cameras": ["BW1"]}, "cameras: .*valid are C1, C2, C3"),
        ({"split": ["Train/S1"], "stride": 0}, "stride: must be at least 1, got 0"),
        ({"split": ["Train/S1"], "actions": ["Box"]}, "actions: .*has no whole chunk"),
        (
            {"split": ["Train/S1"], "keypoints": "detectron_pt_coco"},
            r"coco.npz: keypoints have shape \(17, 2\), expect",
        ),
    ],
)
def test_bad_arguments(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HumanEva(folder, **arguments)


@pytest.mark.parametrize("name", [POSITIONS, TRUTH, "data_2d_humaneva15_hr.npz"])
def test_missing_or_truncated_file(tmp_path: Path, name: str) -> None:
    write_humaneva(tmp_path, frames=2)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{name}.* is no"):
        HumanEva(tmp_path, ["Train/S1"], "hr")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"no {name} in .*register at humaneva.is.tue.mpg.de"):
        HumanEva(tmp_path, ["Train/S1"], "hr")


def change_views(view_of: Callable[[np.ndarray], np.ndarray], count: int = 3) -> Callable[[Any], None]:
    def change(positions: Any) -> None:
        for clips in positions.values():
            for clip, views in clips.items():
                clips[clip] = [view_of(view) for view in views[:count]]

    return change


def noise(view: np.ndarray) -> np.ndarray:
    return view + np.random.default_rng(0).normal(0, 10, view.shape)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            change_views(lambda view: view[:3]),
            "Walking 1 chunk0 has keypoints for 3 frames, but 7 frames were recorded",
        ),
        (change_views(lambda view: view, count=2), "Train/S1 Walking 1 chunk0 has 2 cameras, expected 3"),
        (change_views(lambda view: view * np.nan), r"\[Walking 1 chunk0\]\[0\] holds values that are not finite"),
        (change_views(noise), r"camera C1 of S1: no camera sees the motion .*median residual \d+\.\d px, at most 3.0"),
        (change_views(lambda view: view * [-1, 1] + [640, 0]), "camera C1 of S1: .*must not be mirrored"),
        (lambda positions: positions.pop("Train/S1"), "gt.npz: has no 'Train/S1'"),
    ],
)
def test_wrong_versions_of_the_keypoints(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    write_humaneva(tmp_path, frames=FRAMES)
    edit(tmp_path / TRUTH, change)
    with pytest.raises(ValueError, match=message):
        HumanEva(tmp_path, ["Train/S1"])


def test_wrong_versions_of_the_motion(tmp_path: Path) -> None:
    write_humaneva(tmp_path, frames=FRAMES)

    def flatten(positions: Any) -> None:
        for clip in positions["Train/S1"].values():
            clip[..., 1] = 0

    edit(tmp_path / POSITIONS, flatten)
    with pytest.raises(ValueError, match="camera C1 of S1: cannot be found from 420 points that lie in a plane"):
        HumanEva(tmp_path, ["Train/S1"])
    twenty = {"Train/S1": {"Walking 1 chunk0": np.zeros((5, 20, 3))}}
    np.savez(tmp_path / POSITIONS, positions_3d=np.array(twenty, dtype=object))
    with pytest.raises(ValueError, match=r"\[Walking 1 chunk0\] has shape 5 x 20 x 3, expected any x 15 x 3"):
        HumanEva(tmp_path, ["Train/S1"])
    np.savez(tmp_path / POSITIONS, poses=np.zeros((5, 15, 3)))
    with pytest.raises(ValueError, match=f"{POSITIONS}: has no 'positions_3d'"):
        HumanEva(tmp_path, ["Train/S1"])
