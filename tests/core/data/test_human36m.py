import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.skeletons import H36M_17
from posecore.data.human36m import CAMERAS, Human36M
from posecore.geometry.camera import project, world_to_cam
from posecore.testing import write_human36m

FRAMES = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_human36m(tmp_path_factory.mktemp("data") / "human36m", frames=FRAMES)


def recorded(folder: Path, subject: str, clip: str) -> np.ndarray:
    with np.load(folder / "data_3d_h36m.npz", allow_pickle=True) as content:
        return content["positions_3d"].item()[subject][clip]


def test_exact_keypoints_are_the_recording_seen_by_the_cameras(folder: Path) -> None:
    data = Human36M(folder.parent, subjects=["S9"])
    assert data.joint_set is H36M_17
    assert len(data) == 3 * 4 * FRAMES  # 3 clips, 4 cameras
    batch = data.__getitems__(range(len(data)))
    assert batch["confidence"].eq(1).all()
    torch.testing.assert_close(batch["joints_2d_px"], batch["joints_2d_true_px"])
    torch.testing.assert_close(project(batch["joints_cam"], batch["K"]), batch["joints_2d_px"], atol=2e-3, rtol=0)
    torch.testing.assert_close(batch["joints_rel"], batch["joints_cam"] - batch["joints_cam"][:, :1])
    assert batch["joints_cam"][..., 2].min() > 3  # metres, in front of the camera

    # Row by row with NumPy: clip "Walking 1", second camera, frame 4.
    row = 1 * 4 * FRAMES + 1 * FRAMES + 4
    sample = data[row]
    labels = sample["subject"], sample["clip"], sample["action"], int(sample["frame"]), int(sample["view"])
    assert labels == ("S9", "S9/Walking 1", "Walking", 4, 1)
    assert sample["fps"] == 50
    content = json.loads((folder / "camera-parameters.json").read_text())
    place = content["extrinsics"]["S9"]["55011271"]
    kept = [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]
    world = recorded(folder, "S9", "Walking 1")[4, kept]
    expected = np.array(place["R"]) @ world.T + np.array(place["t"]) / 1000
    np.testing.assert_allclose(sample["joints_cam"], expected.T, atol=1e-5)
    uvw = np.array(content["intrinsics"]["55011271"]["calibration_matrix"]) @ expected
    np.testing.assert_allclose(sample["joints_2d_px"], (uvw[:2] / uvw[2]).T, atol=1e-3)
    moved = world_to_cam(torch.from_numpy(world), sample["R_world_to_cam"], sample["t_world_to_cam"])
    torch.testing.assert_close(moved, sample["joints_cam"], atol=1e-4, rtol=0)


def test_ground_truth_file_is_read_and_has_lens_distortion(folder: Path) -> None:
    data = Human36M(folder, ["S9"], "gt")
    batch = data.__getitems__(range(len(data)))
    with np.load(folder / "data_2d_h36m_gt.npz", allow_pickle=True) as content:
        views = content["positions_2d"].item()["S9"]["Walking 1"]
    row = 1 * 4 * FRAMES + 2 * FRAMES + 4
    np.testing.assert_array_equal(batch["joints_2d_px"][row], views[2][4])
    bent = (batch["joints_2d_px"] - batch["joints_2d_true_px"]).norm(dim=-1)
    assert 0.1 < bent.max() < 20
    assert bent.min() < 0.1
    sixteen = Human36M(folder, ["S9"], "gt", "h36m16")
    picked = [j for j in range(17) if j != H36M_17.index("neck_nose")]
    torch.testing.assert_close(sixteen[row]["joints_2d_px"], batch["joints_2d_px"][row, picked])


def test_image_sizes_are_the_cameras(folder: Path) -> None:
    batch = Human36M(folder, subjects=["S1"]).__getitems__(range(0, 4 * FRAMES, FRAMES))
    assert batch["view"].tolist() == [0, 1, 2, 3]
    assert [tuple(size) for size in batch["image_size"].long().tolist()] == list(CAMERAS.values())


@pytest.mark.parametrize(
    ("keypoints", "joint_set"), [("hr", "h36m16"), ("cpn_ft_h36m_dbb", "h36m17"), ("cpn_ft_h36m_dbb", "h36m16")]
)
def test_detections_are_trimmed_and_match(folder: Path, keypoints: str, joint_set: str) -> None:
    data = Human36M(folder, ["S1", "S9"], keypoints, joint_set)
    batch = data.__getitems__(range(len(data)))
    assert len(data) == 2 * 3 * 4 * FRAMES
    assert batch["joints_cam"].shape[1] == int(joint_set[-2:]) == data.joint_set.num_joints
    shift = (batch["joints_2d_px"] - batch["joints_2d_true_px"]).flatten(0, 1)
    torch.testing.assert_close(shift, torch.tensor([2.0, 0.0]).expand_as(shift), atol=2e-3, rtol=0)


def test_third_column_is_confidence_and_a_short_video_trims_the_motion(folder: Path, tmp_path: Path) -> None:
    copy = write_human36m(tmp_path, subjects=("S1",), clips=("Posing",), frames=FRAMES)

    def with_confidence(views: list[np.ndarray]) -> list[np.ndarray]:
        return [np.concatenate((v, np.full((*v.shape[:2], 1), 0.5)), axis=2)[: FRAMES - 2] for v in views]

    edit_detections(copy, "hr", with_confidence)
    data = Human36M(copy, ["S1"], "hr", "h36m16")
    assert len(data) == 4 * (FRAMES - 2)
    assert data[0]["confidence"].eq(0.5).all()


def edit_detections(folder: Path, keypoints: str, edit: Any) -> None:
    path = folder / f"data_2d_h36m_{keypoints}.npz"
    with np.load(path, allow_pickle=True) as content:
        positions = content["positions_2d"].item()
    edited = {s: {c: edit(views) for c, views in clips.items()} for s, clips in positions.items()}
    np.savez(path, positions_2d=np.array(edited, dtype=object))


def test_selection(folder: Path) -> None:
    data = Human36M(folder, ["S1", "S9"], stride=3, actions=["Walking"], cameras=["60457274"])
    batch = data.__getitems__(range(len(data)))
    assert batch["subject"] == ["S1"] * 6 + ["S9"] * 6
    assert batch["clip"][:6] == ["S1/Walking 1"] * 3 + ["S1/Walking"] * 3
    assert batch["frame"].tolist() == [0, 3, 6] * 4
    assert set(batch["view"].tolist()) == {3}
    full = Human36M(folder, ["S1"], actions=["Walking"], cameras=["60457274"])
    torch.testing.assert_close(full.__getitems__([0, 3, 6])["joints_cam"], batch["joints_cam"][:3])


def test_named_splits(tmp_path: Path) -> None:
    write_human36m(tmp_path, subjects=("S1", "S5", "S6", "S7", "S8", "S9", "S11"), clips=("Eating",), frames=1)
    for split, subjects in (("train", ["S1", "S5", "S6", "S7", "S8"]), ("test", ["S9", "S11"])):
        data = Human36M(tmp_path, split)
        assert data.__getitems__(range(0, len(data), 4))["subject"] == subjects


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subjects": "validation"}, "subjects: .*'validation'.* valid are train, test"),
        ({"subjects": ["S4"]}, r"subjects: \['S4'\] unknown, valid are S1, S9"),
        ({"subjects": ["S1"], "joint_set": "coco17"}, "joint_set: .*valid are h36m17, h36m16"),
        ({"subjects": ["S1"], "actions": ["Walking 1"]}, r"actions: \['Walking 1'\] unknown, valid are Directions"),
        ({"subjects": ["S1"], "cameras": ["1"]}, "cameras: .*valid are 54138969"),
        ({"subjects": ["S1"], "stride": 0}, "stride: must be at least 1, got 0"),
        ({"subjects": ["S1"], "actions": ["Eating"]}, "actions: .*has no clip"),
        ({"subjects": ["S1"], "keypoints": "hr"}, "joint_set: .* has 16 keypoints .*use 'h36m16'"),
    ],
)
def test_bad_arguments(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Human36M(folder, **arguments)


@pytest.mark.parametrize("name", ["data_3d_h36m.npz", "camera-parameters.json", "data_2d_h36m_hr.npz"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    folder = write_human36m(tmp_path, frames=1)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {name} in .*register at vision.imar.ro"):
        Human36M(folder, ["S1"], "hr", "h36m16")


@pytest.mark.parametrize("name", ["data_3d_h36m.npz", "camera-parameters.json", "data_2d_h36m_hr.npz"])
def test_truncated_file(tmp_path: Path, name: str) -> None:
    path = write_human36m(tmp_path, frames=1) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{name}.* is no"):
        Human36M(tmp_path, ["S1"], "hr", "h36m16")


def test_wrong_versions(tmp_path: Path) -> None:
    folder = write_human36m(tmp_path, subjects=("S1",), clips=("Posing",), frames=20)
    edit_detections(folder, "hr", lambda views: [v[:5] for v in views])
    with pytest.raises(ValueError, match=r"hr.npz: S1 Posing has keypoints for 5 frames, but 20"):
        Human36M(folder, ["S1"], "hr", "h36m16")
    edit_detections(folder, "hr", lambda views: views[:3])
    with pytest.raises(ValueError, match=r"hr.npz: S1 Posing has 3 cameras, expected 4"):
        Human36M(folder, ["S1"], "hr", "h36m16")
    edit_detections(folder, "cpn_ft_h36m_dbb", lambda views: [v[:, :14] for v in views])
    with pytest.raises(ValueError, match=r"dbb.npz: keypoints have shape .14, 2., expected 16 or 17"):
        Human36M(folder, ["S1"], "cpn_ft_h36m_dbb")
    edit_detections(folder, "cpn_ft_h36m_dbb", lambda views: [v * np.nan for v in views])
    with pytest.raises(ValueError, match=r"positions_2d\[S1\]\[Posing\]\[0\] holds values that are not finite"):
        Human36M(folder, ["S1"], "cpn_ft_h36m_dbb")

    np.savez(folder / "data_3d_h36m.npz", positions_3d=np.array({"S1": {"Posing": np.zeros((5, 17, 3))}}, dtype=object))
    with pytest.raises(ValueError, match=r"positions_3d\[S1\]\[Posing\] has shape 5 x 17 x 3, expected any x 32 x 3"):
        Human36M(folder, ["S1"])
    np.savez(folder / "data_3d_h36m.npz", poses=np.zeros((5, 17, 3)))
    with pytest.raises(ValueError, match=r"data_3d_h36m.npz: has no 'positions_3d'"):
        Human36M(folder, ["S1"])
