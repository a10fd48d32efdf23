import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.skeletons import JOINTS_44, MUCO_21
from posecore.data.muco import MuCo3DHP
from posecore.geometry.camera import project
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.testing import assert_pose_dataset, write_muco

KEYS = (
    "joints_2d_px confidence joints_cam joints_known global_orient body_pose betas has_pose has_betas box K image_size "
    "clip"
)
SAME = {"jaw": "head", "head_top_h36m": "head_top"}


@pytest.fixture
def truth(tmp_path: Path) -> dict[str, np.ndarray]:
    return write_muco(tmp_path)


def edit(root: Path, change: Callable[[dict[str, Any]], object], name: str = "MuCo-3DHP.json") -> None:
    content = json.loads((root / name).read_text())
    change(content)
    (root / name).write_text(json.dumps(content))


def test_rows_are_the_people_of_the_file(tmp_path: Path, truth: dict[str, np.ndarray]) -> None:
    data = MuCo3DHP(tmp_path, people="all")
    rows = [0, 1, 2, 3, 4, 5, 6]  # the eighth lies outside of its picture
    assert data.joint_set is JOINTS_44
    assert len(data) == len(rows)
    batch = data.samples
    assert set(batch) == set(KEYS.split())
    assert_pose_dataset_without_box(data)
    checked = 0
    for joint, name in enumerate(JOINTS_44.joint_names):
        source = SAME.get(name, name)
        if source not in MUCO_21.joint_names:
            assert not batch["joints_known"][:, joint].any()
            assert batch["joints_cam"][:, joint].eq(0).all()
            continue
        column = MUCO_21.index(source)
        np.testing.assert_allclose(batch["joints_cam"][:, joint], truth["joints_mm"][rows, column] / 1000, atol=1e-5)
        np.testing.assert_allclose(batch["joints_2d_px"][:, joint], truth["keypoints_px"][rows, column], atol=1e-3)
        assert batch["joints_known"][:, joint].all()
        assert batch["confidence"][:, joint].eq(1).all()
        checked += 1
    assert checked == 18
    known = batch["joints_known"]
    projected = project(batch["joints_cam"], batch["K"])
    torch.testing.assert_close(projected[known], batch["joints_2d_px"][known], atol=1e-2, rtol=0)
    assert batch["clip"] == [f"{'un' if i % 2 == 0 else ''}augmented_set/{i}/{i}_0.jpg" for i in (0, 0, 1, 1, 2, 2, 3)]
    low, high = truth["keypoints_px"][rows].min(axis=1), truth["keypoints_px"][rows].max(axis=1)
    np.testing.assert_allclose(batch["box"][:, :2], (low + high) / 2, atol=1e-3)
    np.testing.assert_allclose(batch["box"][:, 2], 1.2 * (high - low).max(axis=1), atol=1e-3)


def assert_pose_dataset_without_box(data: MuCo3DHP) -> None:
    from posecore.data.base import PoseTable
    from posecore.data.sample import PoseSample

    samples = {key: value for key, value in data.samples.items() if key != "box"}
    # Joints that are not known lie at the camera itself.
    samples["joints_cam"] = torch.where(
        data.samples["joints_known"][..., None], data.samples["joints_cam"], torch.tensor([0.0, 0, 1])
    )
    assert_pose_dataset(PoseTable(data.joint_set, PoseSample(**samples)))  # type: ignore[typeddict-item]


def test_invisible_joints_have_no_keypoint(tmp_path: Path, truth: dict[str, np.ndarray]) -> None:
    wrist = MUCO_21.index("l_wrist")
    edit(tmp_path, lambda content: [item["keypoints_vis"].__setitem__(wrist, 0) for item in content["annotations"]])
    batch = MuCo3DHP(tmp_path).samples
    column = JOINTS_44.index("l_wrist")
    assert batch["confidence"][:, column].eq(0).all()
    assert batch["joints_2d_px"][:, column].eq(0).all()
    assert batch["joints_known"][:, column].all()


def test_the_closest_person_of_each_picture(tmp_path: Path, truth: dict[str, np.ndarray]) -> None:
    everybody, closest = MuCo3DHP(tmp_path, people="all").samples, MuCo3DHP(tmp_path).samples
    # Of the last picture, the one who is outside of it is not taken in place of the closest, who stands behind him.
    assert torch.equal(closest["joints_cam"], everybody["joints_cam"][[1, 3, 5]])
    edit(tmp_path, lambda content: content["annotations"].reverse())
    assert torch.equal(MuCo3DHP(tmp_path).samples["joints_cam"], closest["joints_cam"])


def test_fits(tmp_path: Path, truth: dict[str, np.ndarray]) -> None:
    batch = MuCo3DHP(tmp_path, people="all").samples
    assert batch["has_pose"].tolist() == [False, False, False, True, False, True, False]
    assert torch.equal(batch["has_pose"], batch["has_betas"])
    for row in range(7):
        if not batch["has_pose"][row]:
            assert torch.equal(batch["body_pose"][row], torch.eye(3).expand(23, 3, 3))
            assert batch["betas"][row].eq(0).all()
            continue
        rotmat = axis_angle_to_rotmat(torch.from_numpy(truth["fits"][row, :72].reshape(24, 3))).float()
        torch.testing.assert_close(batch["global_orient"][row], rotmat[0])
        torch.testing.assert_close(batch["body_pose"][row], rotmat[1:])
        np.testing.assert_allclose(batch["betas"][row], truth["fits"][row, 72:82], atol=1e-6)
    assert not MuCo3DHP(tmp_path, fits=False).samples["has_pose"].any()


def test_stride_takes_pictures_and_folders_are_found(tmp_path: Path) -> None:
    write_muco(tmp_path / "MuCo" / "data", images=5, each=3)
    assert [clip.split("/")[1] for clip in MuCo3DHP(tmp_path, people="all", stride=2).samples["clip"]] == list(
        "0002224"
    )
    assert len(MuCo3DHP(tmp_path)) == 4


def test_crops_are_of_the_boxes(tmp_path: Path, truth: dict[str, np.ndarray]) -> None:
    data = MuCo3DHP(tmp_path, people="all", crops=32, crop_margin=1.0)
    batch = data.__getitems__([1, 2])
    assert batch["image"].shape == (2, 3, 32, 32)
    assert batch["image"].dtype == torch.uint8
    for row in range(2):
        x, y, side = batch["box"][row].tolist()
        width, height = batch["image_size"][row].tolist()
        # Colours tell columns and rows of the picture.
        for column in range(32):
            at = x - side / 2 + side * (column + 0.5) / 32
            middle = int(np.clip((height / 2 - y + side / 2) / side * 32, 0, 31))
            if side / 16 < at < width - side / 16:
                assert abs(float(batch["image"][row, 0, middle, column]) - 255 * at / width) < 8
    assert len(data.images.files) == 4  # type: ignore[union-attr]
    assert MuCo3DHP(tmp_path, crops=32)[0]["image"].shape == (3, 48, 48)


def test_arguments(tmp_path: Path, truth: dict[str, np.ndarray]) -> None:
    for arguments, message in (
        ({"people": "first"}, r"people: \['first'\] unknown, valid are closest, all"),
        ({"stride": 0}, "stride: must be at least 1, got 0"),
        ({"crops": 0}, "crops: their side must be at least 1 px, got 0"),
        ({"crops": 32, "crop_margin": 0.5}, "crop_margin: must be at least 1, the box itself, got 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            MuCo3DHP(tmp_path, **arguments)  # type: ignore[arg-type]


def test_missing_files(tmp_path: Path, truth: dict[str, np.ndarray]) -> None:
    (tmp_path / "smpl_param.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no smpl_param.json .*fits=False does without.*I2L-MeshNet_RELEASE"):
        MuCo3DHP(tmp_path)
    (tmp_path / "unaugmented_set/0/0_0.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"no unaugmented_set/0/0_0.jpg .*3DMPPE_POSENET_RELEASE"):
        MuCo3DHP(tmp_path, fits=False, crops=32)
    (tmp_path / "MuCo-3DHP.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no MuCo-3DHP.json .*vcai.mpi-inf.mpg.de"):
        MuCo3DHP(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("images"), r"MuCo-3DHP.json: has no 'images'"),
        (lambda c: c["annotations"].clear(), "has 4 images and 0 annotations"),
        (lambda c: c["annotations"][2].pop("keypoints_cam"), r"annotation number 2 \(from 0\) has no 'keypoints_cam'"),
        (lambda c: c["annotations"][2].pop("keypoints_vis"), r"annotation 2: has no 'keypoints_vis'"),
        (
            lambda c: c["annotations"][1]["keypoints_img"].pop(),
            r"annotation 1: keypoints_img has shape 20 x 2, expected",
        ),
        (lambda c: c["annotations"][1].update(bbox=[1.0, 2.0]), r"annotation 1: bbox has shape 2, expected 4"),
        (
            lambda c: c["annotations"][3].update(image_id=5),
            "1 annotations are of images that it does not list, first 5",
        ),
        (lambda c: c["images"][1].pop("f"), r"MuCo-3DHP.json: has no 'f'"),
        (lambda c: c["images"][1].pop("file_name"), r"MuCo-3DHP.json: has no 'file_name'"),
        (
            lambda c: [i.update(f=[1500.0, 1500.0]) for i in c["images"]],
            r"keypoints_img lie \d+.\d px from where f and c",
        ),
        (lambda c: [a.update(bbox=[-9.0, 0, 5, 5]) for a in c["annotations"]], "none of its 8 people is inside"),
        (
            lambda c: [
                a.update(keypoints_cam=(np.array(a["keypoints_cam"]) / 1000).tolist()) for a in c["annotations"]
            ],
            r"less than \S+ mm from the camera: are keypoints_cam in metres",
        ),
    ],
)
def test_broken_annotations(
    tmp_path: Path, truth: dict[str, np.ndarray], change: Callable[[dict[str, Any]], object], says: str
) -> None:
    edit(tmp_path, change)
    with pytest.raises(ValueError, match=says):
        MuCo3DHP(tmp_path)


def test_broken_files(tmp_path: Path, truth: dict[str, np.ndarray]) -> None:
    fits = tmp_path / "smpl_param.json"
    edit(tmp_path, lambda content: content["3"]["pose"].pop(), fits.name)
    with pytest.raises(ValueError, match=r"smpl_param.json: a fit has pose, shape and trans of \[71, 10, 3\] numbers"):
        MuCo3DHP(tmp_path)
    fits.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"smpl_param.json: is no table of fits"):
        MuCo3DHP(tmp_path)
    for path in (fits, tmp_path / "MuCo-3DHP.json"):
        path.write_text('{"images": [{"id": 1')
        with pytest.raises(ValueError, match=rf"{path.name}: is no JSON file, or cut off"):
            MuCo3DHP(tmp_path)
