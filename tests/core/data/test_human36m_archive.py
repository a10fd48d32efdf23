import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.skeletons import H36M_17, JOINTS_44
from posecore.data.human36m import CAMERAS, Human36M
from posecore.data.human36m_archive import FRONTAL_CAMERA, Human36MArchive, read_metadata_cameras
from posecore.geometry.camera import project
from posecore.testing import grey_of_frame, write_cdf, write_human36m_archive

FRAMES = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "human36m"
    return write_human36m_archive(root, ("S9", "S11"), ("Directions", "Photo 1", "Walking"), FRAMES)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_human36m_archive(tmp_path, ("S9",), ("Walking",), 2)


def rows_of(data: Any) -> dict[tuple[str, int, int], int]:
    samples = data.samples
    return {
        key: row
        for row, key in enumerate(
            zip(samples["clip"], samples["view"].tolist(), samples["frame"].tolist(), strict=True)
        )
    }


@pytest.mark.parametrize(("keypoints", "other"), [("exact", "exact"), ("d2", "gt")])
@pytest.mark.parametrize("joint_set", ["h36m17", "h36m16"])
def test_rows_are_those_of_videopose3d_without_the_broken_clip(
    folder: Path, keypoints: str, other: str, joint_set: str
) -> None:
    data = Human36MArchive(folder.parent, "test", joint_set, keypoints)
    expected = Human36M(folder, "test", other, joint_set)
    ours, theirs = rows_of(data), rows_of(expected)
    assert set(theirs) - set(ours) == {("S11/Directions", view, frame) for view in range(4) for frame in range(FRAMES)}
    assert set(ours) < set(theirs), "names are VideoPose3D's: Photo, and no _ALL"
    batch = data.__getitems__(list(ours.values()))
    truth = expected.__getitems__([theirs[key] for key in ours])
    for key in ("joints_cam", "joints_2d_px", "joints_2d_true_px", "K", "R_world_to_cam", "t_world_to_cam"):
        torch.testing.assert_close(batch[key], truth[key], atol=2e-3, rtol=0)
    assert batch["action"] == truth["action"]
    assert set(batch["action"]) == {"Directions", "Photo", "Walking"}
    assert batch["image_size"].equal(truth["image_size"])
    if keypoints == "exact":
        torch.testing.assert_close(project(batch["joints_cam"], batch["K"]), batch["joints_2d_px"], atol=2e-3, rtol=0)
    low, high = batch["joints_2d_px"].amin(dim=1), batch["joints_2d_px"].amax(dim=1)
    box = torch.cat(((low + high) / 2, 1.2 * (high - low).amax(dim=1, keepdim=True)), dim=1)
    torch.testing.assert_close(batch["box"], box, atol=1e-3, rtol=0)


def test_metadata_holds_the_same_cameras(folder: Path, small: Path) -> None:
    path = folder / "metadata.xml"
    content = json.loads((folder / "camera-parameters.json").read_text())
    for (subject, camera), (K, R, t) in read_metadata_cameras(path, ["S9", "S11"]).items():
        np.testing.assert_allclose(K, content["intrinsics"][camera]["calibration_matrix"])
        place = content["extrinsics"][subject][camera]
        np.testing.assert_allclose(R, place["R"], atol=1e-12)
        np.testing.assert_allclose(t, np.array(place["t"])[:, 0] / 1000, atol=1e-12)
    by_json = Human36MArchive(small, ["S9"])
    (small / "camera-parameters.json").unlink()
    by_xml = Human36MArchive(small, ["S9"])
    torch.testing.assert_close(by_xml.samples["joints_cam"], by_json.samples["joints_cam"], atol=1e-5, rtol=0)


def test_angles_of_metadata_turn_about_x_then_y_then_z_of_the_camera(tmp_path: Path) -> None:
    numbers = np.zeros(300)
    start = 6 * (2 * 11 + 4)  # third camera, S5
    numbers[start : start + 6] = 0.3, -0.2, 0.5, 1000, 2000, 3000
    numbers[264 + 18 : 264 + 22] = 1145, 1144, 512, 515
    path = tmp_path / "metadata.xml"
    path.write_text(f"<all><w0>[{' '.join(map(str, numbers))}]</w0></all>")
    K, R, t = read_metadata_cameras(path, ["S5"])["S5", list(CAMERAS)[2]]
    (cx, cy, cz), (sx, sy, sz) = np.cos([0.3, -0.2, 0.5]), np.sin([0.3, -0.2, 0.5])
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    np.testing.assert_allclose(R, x @ y @ z)
    np.testing.assert_allclose(R @ [1, 2, 3] + t, 0, atol=1e-12)  # the camera is at its own origin
    np.testing.assert_allclose(K, [[1145, 0, 512], [0, 1144, 515], [0, 0, 1]])


def test_rows_for_training_on_pictures(folder: Path) -> None:
    data = Human36MArchive(folder, ["S9"], "joints44", stride=3)
    plain = Human36MArchive(folder, ["S9"], stride=3)
    batch, full = (table.__getitems__(range(len(table))) for table in (data, plain))
    assert data.joint_set is JOINTS_44
    pairs = {name: name for name in ("pelvis", "spine", "l_hip", "r_knee", "l_ankle", "r_shoulder", "l_wrist")}
    pairs |= {"neck": "thorax", "jaw": "neck_nose", "head_top_h36m": "head_top"}
    for name, source in pairs.items():
        joint, row = JOINTS_44.index(name), H36M_17.index(source)
        assert batch["joints_cam"][:, joint].equal(full["joints_cam"][:, row])
        assert batch["joints_2d_px"][:, joint].equal(full["joints_2d_px"][:, row])
    assert batch["joints_known"].sum(dim=1).tolist() == [17] * len(data)
    assert batch["joints_known"].equal(batch["confidence"] == 1)
    for name in ("thorax", "head_top", "op_nose", "op_r_ankle"):
        assert not batch["joints_known"][:, JOINTS_44.index(name)].any()
    assert not batch["has_pose"].any()
    assert batch["box"].equal(full["box"])
    assert batch["K"].equal(full["K"])
    assert batch["clip"] == full["clip"]
    assert batch["frame"].equal(full["frame"])


def test_selection(folder: Path) -> None:
    data = Human36MArchive(folder, "test", stride=4, actions=["Photo"], cameras=[FRONTAL_CAMERA])
    assert data.samples["clip"] == ["S9/Photo 1"] * 2 + ["S11/Photo 1"] * 2
    assert data.samples["frame"].tolist() == [0, 4] * 2
    assert set(data.samples["view"].tolist()) == {3}
    assert set(data.samples["fps"].tolist()) == {50.0}


def test_crops_are_of_the_rows_frames(tmp_path: Path) -> None:
    write_human36m_archive(tmp_path, ("S9",), ("Photo 1",), 5, videos=True)
    data = Human36MArchive(tmp_path, ["S9"], keypoints="d2", stride=2, crops=16, crop_margin=1.25)
    batch = data.__getitems__([5, 0, 1, 11])
    assert batch["image"].shape == (4, 3, 20, 20)
    for image, view, frame in zip(batch["image"], batch["view"].tolist(), batch["frame"].tolist(), strict=True):
        grey = float(image[:, 9:11, 9:11].float().mean())  # the box's middle is in the picture
        assert grey == pytest.approx(grey_of_frame(frame, view), abs=2.4)
    assert len(data.images.files) == 4  # type: ignore[union-attr]
    (tmp_path / "S9" / "Videos" / "TakingPhoto 1.55011271.mp4").unlink()
    with pytest.raises(FileNotFoundError, match=r"no Videos/TakingPhoto 1\.55011271\.mp4 in .*register at"):
        Human36MArchive(tmp_path, ["S9"], crops=16)
    Human36MArchive(tmp_path, ["S9"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subjects": "val"}, "subjects: .*'val'.* valid are train, test"),
        ({"subjects": ["S2"]}, r"subjects: \['S2'\] unknown, valid are S1, S5"),
        ({"joint_set": "coco17"}, "joint_set: .*valid are h36m17, h36m16, joints44"),
        ({"keypoints": "hr"}, "keypoints: .*valid are exact, d2"),
        ({"actions": ["TakingPhoto"]}, "actions: .*valid are Directions"),
        ({"cameras": ["1"]}, "cameras: .*valid are 54138969"),
        ({"stride": 0}, "stride: must be at least 1, got 0"),
        ({"subjects": ["S9"], "actions": ["Eating"]}, "actions: the archive in .* has no clip"),
    ],
)
def test_bad_arguments(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Human36MArchive(folder, **arguments)


def test_missing_files(small: Path) -> None:
    with pytest.raises(ValueError, match=r"camera-parameters\.json: has no 'S11'"):
        Human36MArchive(small, ["S11"])
    (small / "S9/MyPoseFeatures/D2_Positions/Walking.58860488.cdf").unlink()
    with pytest.raises(FileNotFoundError, match=r"no MyPoseFeatures/D2_Positions/Walking\.58860488\.cdf in .*register"):
        Human36MArchive(small, ["S9"], keypoints="d2")
    (small / "metadata.xml").unlink()
    (small / "camera-parameters.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no camera-parameters\.json in .*karfly"):
        Human36MArchive(small, ["S9"])
    write_human36m_archive(small, ("S9",), ("Walking",), 2)
    shutil.rmtree(small / "S9/MyPoseFeatures/D3_Positions")
    (small / "S9/MyPoseFeatures/D3_Positions").mkdir()
    with pytest.raises(FileNotFoundError, match=r"root: .*D3_Positions holds no \.cdf files"):
        Human36MArchive(small, ["S9"])
    shutil.rmtree(small / "S9")
    with pytest.raises(FileNotFoundError, match=r"no S9/MyPoseFeatures/D3_Positions in .*register at"):
        Human36MArchive(small, ["S9"])


def test_without_cdflib(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cdflib", None)
    with pytest.raises(ImportError, match=r'Walking\.cdf is a CDF file.*pip install "humandiff\[benchmarks\]"'):
        Human36MArchive(small, ["S9"])


def test_broken_files(small: Path) -> None:
    path = small / "S9/MyPoseFeatures/D3_Positions/Walking.cdf"
    whole = path.read_bytes()
    for content in (b"", b"no CDF file" * 50, whole[: len(whole) // 2], whole[:100]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"Walking\.cdf: is no whole CDF file with a variable 'Pose'"):
            Human36MArchive(small, ["S9"])
    pose = np.ones((1, 2, 96))
    for wrong, message in (
        (pose[..., :64], "Pose has shape 1 x 2 x 64, expected 1 x any x 96"),
        (np.full_like(pose, np.nan), "Pose holds values that are not finite"),
        (pose, r"joints lie up to 1 mm from the middle of the room; is it in mm\?"),
    ):
        write_cdf(path, wrong)
        with pytest.raises(ValueError, match=rf"Walking\.cdf: {message}"):
            Human36MArchive(small, ["S9"])
    write_cdf(path, pose, "Angles")
    with pytest.raises(ValueError, match=r"Walking\.cdf: is no whole CDF file with a variable 'Pose'"):
        Human36MArchive(small, ["S9"])
    write_cdf(path, np.full((1, 20, 96), 900.0))
    with pytest.raises(ValueError, match=r"Walking\..*cdf: S9 Walking has keypoints for 2 frames, but 20 frames"):
        Human36MArchive(small, ["S9"], keypoints="d2")
    write_cdf(path.with_name("Dancing.cdf"), pose)
    with pytest.raises(ValueError, match=r"Dancing\.cdf: 'Dancing' is no action of Human3\.6M"):
        Human36MArchive(small, ["S9"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<all><w0>[1 2", "is no whole XML file with numbers in w0"),
        ("<all><w0>[1 two]</w0></all>", "is no whole XML file with numbers in w0"),
        ("<all><w0>[1 2]</w0></all>", "w0 has shape 2, expected 300"),
        ("<all></all>", "w0 has shape 0, expected 300"),
    ],
)
def test_broken_metadata(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "metadata.xml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"metadata\.xml: {message}"):
        read_metadata_cameras(path, ["S1"])
