import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import JOINTS_44, MPII_16
from posecore.data.mpii import MPII
from posecore.geometry.camera import project, uncrop_keypoints
from posecore.testing import write_eft, write_mpii

FITS = "MPII_ver01.json"
ROWS = 6
PLACES = [JOINTS_44.index(name) for name in MPII_16.joint_names]
REST = [joint for joint in range(44) if joint not in PLACES]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mpii")


@pytest.fixture(scope="module")
def people(root: Path) -> dict[str, Any]:
    """A folder of the training set with fits of all but the first person, and what was written."""
    people = write_mpii(root, rows=ROWS)
    write_eft(root / "eft_fit" / FITS, people)
    return people


def everything(data: MPII) -> Any:
    return data.__getitems__(range(len(data)))


def spoilt(root: Path, folder: Path, change: Any) -> Path:
    """The folder's annotations with a change, and its pictures."""
    content = json.loads((root / "annot/train.json").read_text())
    change(content)
    (folder / "annot").mkdir()
    (folder / "annot/train.json").write_text(json.dumps(content))
    (folder / "images").symlink_to(root / "images")
    return folder


def test_the_joint_set_is_mpii_s() -> None:
    mirrored = [MPII_16.joint_names[joint] for joint in MPII_16.flip]
    swap = {"l_": "r_", "r_": "l_"}
    assert mirrored == [swap.get(name[:2], name[:2]) + name[2:] for name in MPII_16.joint_names]
    bones = {(MPII_16.joint_names[child], MPII_16.joint_names[parent]) for parent, child in MPII_16.bones}
    assert {("r_ankle", "r_knee"), ("r_hip", "pelvis"), ("thorax", "pelvis"), ("neck", "thorax")} <= bones
    assert {("head_top", "neck"), ("l_wrist", "l_elbow"), ("l_shoulder", "thorax")} <= bones
    assert len(bones) == 15
    assert MPII_16.joint_names[MPII_16.root[0]] == "pelvis"


def test_labelled_joints_come_under_their_names(root: Path, people: dict[str, Any]) -> None:
    data = MPII(root, min_keypoints=0)
    assert data.joint_set is JOINTS_44
    batch = everything(data)
    assert batch["clip"] == people["clip"]
    assert batch["clip"][0] == "images/015601864.jpg"
    labelled = people["flags"] > 0
    assert not labelled.all()
    np.testing.assert_array_equal(batch["confidence"][:, PLACES] == 1, labelled)
    # The file counts pixels from 1: 0.5 more than the place of a projection.
    exact = people["joints_2d_px"][:, PLACES]
    in_file = np.array([person["joints"] for person in json.loads((root / "annot/train.json").read_text())])[:ROWS]
    np.testing.assert_allclose(in_file[labelled] - exact[labelled], 0.5)
    np.testing.assert_allclose(batch["joints_2d_px"][:, PLACES].numpy()[labelled], exact[labelled], atol=1e-3)
    assert batch["joints_2d_px"][:, PLACES].numpy()[~labelled].max() == 0
    assert not batch["confidence"][:, REST].any()
    for key in ("joints_known", "joints_cam", "has_pose", "has_betas", "betas"):
        assert not batch[key].any(), key
    np.testing.assert_allclose(batch["box"], people["box"], rtol=1e-5)
    np.testing.assert_allclose(batch["image_size"], people["image_size"])
    assert batch["K"][2].tolist() == [[5000, 0, 120], [0, 5000, 180], [0, 0, 1]]


def test_fits_are_joined_by_picture_and_box(root: Path, people: dict[str, Any]) -> None:
    """The file has them in another order, two people in a picture; bodies at their places project onto the joints."""
    batch = everything(MPII(root, min_keypoints=0, fits=FITS))
    assert batch["has_pose"].tolist() == batch["has_betas"].tolist() == [False] + [True] * (ROWS - 1)
    assert torch.equal(batch["body_pose"][0], torch.eye(3).expand(23, 3, 3))
    places = torch.from_numpy(people["transl"][1:]).float()
    joints = NamedJoints(JOINTS_44)(batch["betas"][1:], batch["body_pose"][1:], batch["global_orient"][1:], places)
    torch.testing.assert_close(joints.double(), torch.from_numpy(people["joints_cam"][1:]), atol=1e-4, rtol=0)
    off = project(joints, batch["K"][1:]) - batch["joints_2d_px"][1:]
    seen = batch["confidence"][1:] > 0
    assert seen.sum() > 50
    assert off[seen].abs().max() < 0.05


@pytest.mark.parametrize(("shift", "joined"), [(4.4, True), (5.6, False)])
def test_boxes_that_are_too_far_away_are_of_others(
    shift: float, joined: bool, root: Path, people: dict[str, Any], tmp_path: Path
) -> None:
    folder = spoilt(root, tmp_path, lambda content: None)
    write_eft(folder / FITS, people, box_shift_px=shift)
    if joined:
        assert MPII(folder, min_keypoints=0, fits=FITS).samples["has_pose"].sum() == ROWS - 1
    else:
        with pytest.raises(ValueError, match=r"ver01\.json: none of its 5 fits is of a person in .*annot/train\.json"):
            MPII(folder, min_keypoints=0, fits=FITS)


def test_who_is_left_out(root: Path, people: dict[str, Any]) -> None:
    labelled = (people["flags"] > 0).sum(axis=1)
    assert labelled[-1] < 8 <= labelled[:-1].min()
    assert MPII(root).samples["clip"] == people["clip"][:-1]
    most = int(labelled.max())
    np.testing.assert_allclose(
        MPII(root, min_keypoints=most).samples["box"], people["box"][labelled == most], rtol=1e-5
    )
    fitted = MPII(root, fits=FITS, require_pose=True).samples
    assert fitted["has_pose"].all()
    np.testing.assert_allclose(fitted["box"], people["box"][1:-1], rtol=1e-5)
    np.testing.assert_allclose(MPII(root, stride=2).samples["box"], people["box"][:-1:2], rtol=1e-5)
    with pytest.raises(ValueError, match=r"none of its 7 people has a place and 16 joints annotated and a fit"):
        MPII(root, min_keypoints=16, fits=FITS, require_pose=True)


def test_raw_crops_show_the_box_and_its_margin(root: Path, people: dict[str, Any]) -> None:
    """A picture's red is its column and its green its row, from 0 to 255."""
    size = 48
    batch = everything(MPII(root, crops=32, crop_margin=1.5))
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].shape == (ROWS - 1, 3, size, size)
    middles = 2 * (torch.arange(size) + 0.5) / size - 1
    grid = torch.cartesian_prod(middles, middles).flip(-1)
    for row in range(ROWS - 1):
        box, picture = batch["box"][row], batch["image_size"][row]
        place = uncrop_keypoints(grid, box[:2], 1.5 * box[2]).reshape(size, size, 2)
        inside = ((place > 12) & (place < picture - 12)).all(dim=-1)
        off = batch["image"][row, :2].permute(1, 2, 0).float() - 255 * (place - 0.5) / (picture - 1)
        assert off[inside].abs().max() < 6  # JPEG


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda people: people[1].pop("joints"), r"person 1: has no 'joints'"),
        (lambda people: people[1].update(joints=[[1, 2]] * 14), r"person 1: joints has shape 14 x 2, expected 16 x 2"),
        (lambda people: people[1].pop("joints_vis"), r"person 1: has no 'joints_vis'"),
        (lambda people: people[1].update(center=None), r"person 1: center has shape"),
        (lambda people: people[1].update(scale=[1]), r"person 1: scale has shape 1, expected"),
        (lambda people: people[1].pop("image"), r"person 1: has no 'image'"),
        (lambda people: people.clear(), r"train\.json: holds no list of people"),
    ],
)
def test_broken_annotations_are_named(
    change: Any, says: str, root: Path, people: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        MPII(spoilt(root, tmp_path, change))


def test_missing_files_and_bad_arguments(root: Path, people: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no annot/valid\.json in .*human-pose\.mpi-inf\.mpg\.de"):
        MPII(root, "valid")
    with pytest.raises(FileNotFoundError, match=r"no b\.json in .*facebookresearch/eft"):
        MPII(root, fits="b.json")
    (tmp_path / "annot").mkdir()
    (tmp_path / "annot/train.json").write_text((root / "annot/train.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"no images/015601864\.jpg in .*human-pose"):
        MPII(tmp_path)
    (tmp_path / "annot/train.json").write_text('[{"joints": [')
    with pytest.raises(ValueError, match=r"train\.json: is no JSON file, or cut off"):
        MPII(tmp_path)
    (tmp_path / "annot/train.json").write_text('{"joints": []}')
    with pytest.raises(ValueError, match=r"train\.json: holds no list of people"):
        MPII(tmp_path)
    with pytest.raises(ValueError, match=r"split: \['test'\] unknown, valid are train, valid, trainval"):
        MPII(root, "test")
    with pytest.raises(ValueError, match=r"min_keypoints: must lie in 0\.\.16, got -1"):
        MPII(root, min_keypoints=-1)
    with pytest.raises(ValueError, match="require_pose: leaves nobody without fits"):
        MPII(root, require_pose=True)
    with pytest.raises(ValueError, match="stride: must be at least 1, got 0"):
        MPII(root, stride=0)
