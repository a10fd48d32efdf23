import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import COCO_17, JOINTS_44
from posecore.data.coco import COCO, LIMBS
from posecore.geometry.camera import project, uncrop_keypoints
from posecore.testing import assert_pose_dataset, write_coco, write_eft

FITS = "COCO2014-All-ver01.json"
ROWS = 6
PLACES = [JOINTS_44.index(name if name in JOINTS_44.joint_names else f"op_{name}") for name in COCO_17.joint_names]
REST = [joint for joint in range(44) if joint not in PLACES]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coco")


@pytest.fixture(scope="module")
def people(root: Path) -> dict[str, Any]:
    """A folder of train2014 with fits of all but the first person, and what was written."""
    people = write_coco(root, rows=ROWS)
    write_eft(root / "eft_fit" / FITS, people)
    return people


def everything(data: COCO) -> Any:
    return data.__getitems__(range(len(data)))


def spoilt(root: Path, folder: Path, change: Any) -> Path:
    """The folder's annotations with a change."""
    content = json.loads((root / "annotations/person_keypoints_train2014.json").read_text())
    change(content)
    (folder / "annotations").mkdir()
    (folder / "annotations/person_keypoints_train2014.json").write_text(json.dumps(content))
    return folder


def test_labelled_keypoints_come_under_their_names(root: Path, people: dict[str, Any]) -> None:
    data = COCO(root, min_keypoints=0)
    assert_pose_dataset_without_box(data)
    batch = everything(data)
    assert batch["clip"] == people["clip"]
    assert batch["clip"][0] == "train2014/COCO_train2014_000000000009.jpg"
    labelled = people["flags"] > 0
    assert {0, 1, 2} <= set(people["flags"].flat)
    np.testing.assert_array_equal(batch["confidence"][:, PLACES] == 1, labelled)
    # What is labelled is a projection of the body, half a pixel from the number of its pixel.
    exact = people["joints_2d_px"][:, PLACES]
    np.testing.assert_allclose(batch["joints_2d_px"][:, PLACES].numpy()[labelled], exact[labelled], atol=1e-3)
    assert batch["joints_2d_px"][:, PLACES].numpy()[~labelled].max() == 0
    assert not batch["confidence"][:, REST].any()
    for key in ("joints_known", "joints_cam", "has_pose", "has_betas", "betas"):
        assert not batch[key].any(), key
    np.testing.assert_allclose(batch["box"], people["box"], rtol=1e-5)
    np.testing.assert_allclose(batch["image_size"], people["image_size"])
    assert batch["K"][2].tolist() == [[5000, 0, 120], [0, 5000, 180], [0, 0, 1]]


def assert_pose_dataset_without_box(data: COCO) -> None:
    box = data.samples.pop("box")  # ``assert_pose_dataset`` does not know it.
    assert_pose_dataset(data)
    data.samples["box"] = box


def test_fits_are_joined_by_the_number_of_the_annotation(root: Path, people: dict[str, Any]) -> None:
    """The file has them in another order; bodies at their places project onto the keypoints."""
    batch = everything(COCO(root, min_keypoints=0, fits=FITS))
    assert batch["has_pose"].tolist() == batch["has_betas"].tolist() == [False] + [True] * (ROWS - 1)
    assert torch.equal(batch["body_pose"][0], torch.eye(3).expand(23, 3, 3))
    assert batch["betas"][0].eq(0).all()
    joints = NamedJoints(JOINTS_44)(
        batch["betas"][1:],
        batch["body_pose"][1:],
        batch["global_orient"][1:],
        torch.tensor(people["transl"][1:]).float(),
    )
    torch.testing.assert_close(joints.double(), torch.from_numpy(people["joints_cam"][1:]), atol=1e-4, rtol=0)
    off = project(joints, batch["K"][1:]) - batch["joints_2d_px"][1:]
    seen = batch["confidence"][1:] > 0
    assert seen.sum() > 50
    assert off[seen].abs().max() < 0.05


def test_who_is_left_out(root: Path, people: dict[str, Any]) -> None:
    labelled = (people["flags"] > 0)[:, LIMBS].sum(axis=1)
    assert labelled[-1] < 6 <= labelled[:-1].min()
    assert len(LIMBS) == 12
    assert COCO(root).samples["clip"] == people["clip"][:-1]
    most = int(labelled.max())
    some = COCO(root, min_keypoints=most)
    np.testing.assert_allclose(some.samples["box"], people["box"][labelled == most], rtol=1e-5)
    fitted = COCO(root, fits=FITS, require_pose=True)
    assert fitted.samples["has_pose"].all()
    np.testing.assert_allclose(fitted.samples["box"], people["box"][1:-1], rtol=1e-5)
    np.testing.assert_allclose(COCO(root, stride=2).samples["box"], people["box"][:-1:2], rtol=1e-5)
    with pytest.raises(ValueError, match=r"none of its 6 people has 12 joints below the head annotated and a fit"):
        COCO(root, min_keypoints=12, fits=FITS, require_pose=True)


def test_crowds_and_empty_boxes_are_left_out(root: Path, people: dict[str, Any], tmp_path: Path) -> None:
    def change(content: Any) -> None:
        content["annotations"][2]["bbox"][3] = 0

    data = COCO(spoilt(root, tmp_path, change), min_keypoints=0)
    assert data.samples["clip"] == [name for row, name in enumerate(people["clip"]) if row != 2]


def test_the_other_years_and_places(tmp_path: Path) -> None:
    people = write_coco(tmp_path / "coco", "val2017", rows=3)
    write_eft(tmp_path / "eft_fit" / FITS, {**people, "clip": [f"COCO_train2014_{n[8:]}" for n in people["clip"]]})
    data = COCO(tmp_path, "val2017", min_keypoints=0, fits=FITS, crops=8)
    assert data.samples["clip"][0] == "val2017/000000000009.jpg"
    assert data.samples["has_pose"].tolist() == [False, True, True]
    assert data[2]["image"].shape == (3, 12, 12)


def test_raw_crops_show_the_box_and_its_margin(root: Path, people: dict[str, Any]) -> None:
    """A picture's red is its column and its green its row, from 0 to 255."""
    size = 48
    batch = everything(COCO(root, crops=32, crop_margin=1.5))
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].shape == (ROWS - 1, 3, size, size)
    middles = 2 * (torch.arange(size) + 0.5) / size - 1
    grid = torch.cartesian_prod(middles, middles).flip(-1)
    for row in range(ROWS - 1):
        box, picture = batch["box"][row], batch["image_size"][row]
        place = uncrop_keypoints(grid, box[:2], 1.5 * box[2]).reshape(size, size, 2)
        inside = ((place > 10) & (place < picture - 10)).all(dim=-1)
        off = batch["image"][row, :2].permute(1, 2, 0).float() - 255 * (place - 0.5) / (picture - 1)
        assert off[inside].abs().max() < 6  # JPEG


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("annotations"), r"train2014\.json: has no 'annotations'"),
        (lambda c: c.pop("images"), r"train2014\.json: has no 'images'"),
        (lambda c: c["annotations"][1].pop("bbox"), r"annotation 1: has no 'bbox'"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, 3]), r"annotation 1: bbox has shape 3, expected 4"),
        (lambda c: c["annotations"][1].pop("iscrowd"), r"annotation 1: has no 'iscrowd'"),
        (lambda c: c["annotations"][1].pop("keypoints"), r"person 1201: has no 'keypoints'"),
        (lambda c: c["annotations"][1].update(keypoints=[0] * 69), r"person 1201: keypoints has shape 69, expected 51"),
        (
            lambda c: c["annotations"][1].update(image_id=5),
            r"person 1201 is in picture 5, which 'images' does not list",
        ),
        (lambda c: c["images"][0].pop("width"), "width and height holds values that are not finite"),
        (lambda c: c.update(annotations=[]), "none of its 0 people has 6 joints below the head annotated"),
    ],
)
def test_broken_annotations_are_named(
    change: Any, says: str, root: Path, people: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        COCO(spoilt(root, tmp_path, change))


def test_fits_of_other_people_are_named(root: Path, people: dict[str, Any], tmp_path: Path) -> None:
    folder = spoilt(root, tmp_path, lambda content: None)
    write_eft(folder / "a.json", {**people, "annotation": people["annotation"] + 5000})
    with pytest.raises(ValueError, match=r"a\.json: none of its 5 fits is of a person in .*train2014\.json"):
        COCO(folder, fits="a.json")
    write_eft(folder / "b.json", {**people, "clip": people["clip"][::-1]})
    says = r"b\.json: fit 4 has the number of person 1201 .*picture 9, but says COCO_train2014_000000000041\.jpg"
    with pytest.raises(ValueError, match=says):
        COCO(folder, min_keypoints=0, fits="b.json")


def test_missing_files_and_bad_arguments(root: Path, people: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no annotations/person_keypoints_val2014\.json in .*cocodataset\.org"):
        COCO(root, "val2014")
    with pytest.raises(FileNotFoundError, match=r"no b\.json in .*facebookresearch/eft"):
        COCO(root, fits="b.json")
    with pytest.raises(FileNotFoundError, match=r"no train2014/COCO_train2014_000000000009\.jpg in .*cocodataset"):
        COCO(spoilt(root, tmp_path, lambda content: None), crops=8)
    (tmp_path / "annotations/person_keypoints_train2014.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"train2014\.json: is no JSON file, or cut off"):
        COCO(tmp_path)
    with pytest.raises(ValueError, match=r"split: \['test2014'\] unknown, valid are train2014, val2014, train2017"):
        COCO(root, "test2014")
    with pytest.raises(ValueError, match=r"min_keypoints: must lie in 0\.\.12, .*13"):
        COCO(root, min_keypoints=13)
    with pytest.raises(ValueError, match="require_pose: leaves nobody without fits"):
        COCO(root, require_pose=True)
    with pytest.raises(ValueError, match="stride: must be at least 1, got 0"):
        COCO(root, stride=0)
