from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.files import load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import H36M_17, JOINTS_44, SMPL_24
from posecore.data.amass import AMASS, SUBSETS, amass_files, read_amass
from posecore.geometry.camera import cam_to_world
from posecore.testing import assert_pose_dataset, write_amass, write_gendered_bodies

FRAMES = 41
CLIPS = {
    "ACCAD": "ACCAD/Female1Walking_c3d/B1_stand_poses",
    "BMLrub": "BMLrub/rub001/0000_treadmill_stageii",
    "HumanEva": "HumanEva/S1/Box_1_poses",
    "SSM_synced": "SSM_synced/20160330_03333/chicken_wings_poses",
    "DanceDB": "DanceDB/Andria/Happy_v1_poses",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    root = tmp_path_factory.mktemp("data") / "amass"
    return root, write_amass(root, FRAMES)


def spoiled(root: Path, **changes: Any) -> Path:
    """A folder of one file, some of whose arrays are other ones; None takes an array out."""
    path = root / "CMU" / "01" / "01_01_poses.npz"
    path.parent.mkdir(parents=True)
    arrays: dict[str, Any] = {
        "poses": np.zeros((9, 156)),
        "trans": np.zeros((9, 3)),
        "betas": np.zeros(16),
        "mocap_framerate": 60.0,
    }
    np.savez(path, **{key: value for key, value in (arrays | changes).items() if value is not None})
    return path


def test_splits_are_by_sub_data_set(written: tuple[Path, Any]) -> None:
    root, _ = written

    def clips(**arguments: Any) -> list[str]:
        return [str(path.relative_to(root).with_suffix("")) for path in amass_files(root, **arguments)]

    assert clips() == [CLIPS["ACCAD"], CLIPS["BMLrub"]]
    assert clips(split="validation") == [CLIPS["HumanEva"]]
    assert clips(split="test") == [CLIPS["SSM_synced"]]
    assert clips(split=None) == sorted(CLIPS.values())
    assert clips(split=None, subsets=["DanceDB"]) == [CLIPS["DanceDB"]]
    assert clips(subsets=["BMLrub"]) == [CLIPS["BMLrub"]]
    names = [name for of_split in SUBSETS.values() for name in of_split]
    assert len(names) == len(set(names)), "no folder is in two splits"


@pytest.mark.parametrize("joint_set", ["h36m17", "joints44", "smpl24"])
def test_promises_of_a_data_set(written: tuple[Path, Any], joint_set: str) -> None:
    data = AMASS(written[0].parent, joint_set=joint_set, views=2, stride=4)
    assert data.joint_set.name == joint_set
    assert_pose_dataset(data)


@pytest.mark.parametrize("name", ["ACCAD", "HumanEva"])
def test_world_is_turned_to_y_up(written: tuple[Path, Any], name: str) -> None:
    root, truth = written
    data = AMASS(root, split=None, subsets=[name], fps=120.0, trim=0.0, joint_set="smpl24", cameras="track")
    batch = data.samples
    world = cam_to_world(batch["joints_cam"], batch["R_world_to_cam"], batch["t_world_to_cam"])
    expected = truth[CLIPS[name]]["joints_world"][..., [0, 2, 1]] * [1, 1, -1]
    shift = world.numpy() - expected
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:1, :1], shift.shape), atol=1e-4)
    head, foot = (SMPL_24.index(joint) for joint in ("head", "l_foot"))
    assert (world[:, head, 1] > world[:, foot, 1] + 1).all()


@pytest.mark.parametrize(
    ("name", "fps", "step", "rate"),
    [("ACCAD", 30.0, 4, 30.0), ("BMLrub", 30.0, 3, 100 / 3), ("HumanEva", 30.0, 2, 30.0), ("HumanEva", 90.0, 1, 60.0)],
)
def test_frames_are_taken(written: tuple[Path, Any], name: str, fps: float, step: int, rate: float) -> None:
    root, truth = written
    data = AMASS(root, split=None, subsets=[name], fps=fps, trim=0.1, stride=2)
    kept = list(range(4, 37, step))  # of 41 frames a tenth, 4, goes at either end
    batch = data.samples
    assert batch["frame"].tolist() == list(range(0, len(kept), 2))
    torch.testing.assert_close(batch["fps"], torch.full((len(data),), rate))
    poses = truth[CLIPS[name]]["poses"][kept][::2]
    motion = read_amass(root / f"{CLIPS[name]}.npz", fps, 0.1)
    angle = np.linalg.norm(poses[:, 3:66].reshape(-1, 21, 3), axis=-1)
    trace = batch["body_pose"][:, :21].diagonal(dim1=-2, dim2=-1).sum(-1)
    np.testing.assert_allclose(trace, 1 + 2 * np.cos(angle), atol=1e-4)
    assert len(motion.pose) == len(kept)


def test_hands_are_known_of_smpl_alone(written: tuple[Path, Any]) -> None:
    root, _ = written
    eye = torch.eye(3).repeat(2, 1, 1)
    for name, is_smpl in (("ACCAD", False), ("BMLrub", False), ("HumanEva", True)):
        hands = read_amass(root / f"{CLIPS[name]}.npz").pose[:, 22:]
        assert torch.equal(hands, eye.expand_as(hands)) != is_smpl


def test_rows_agree_with_their_body(written: tuple[Path, Any], tmp_path: Path) -> None:
    root, truth = written
    write_gendered_bodies(tmp_path)
    for models, own in ((None, False), (tmp_path, True)):
        data = AMASS(root, "test", body_models=models, joint_set="joints44", views=2)
        batch = data.samples
        expected = truth[CLIPS["SSM_synced"]]["betas"][:10] if own else np.zeros(10)
        np.testing.assert_allclose(batch["betas"], np.tile(expected, (len(data), 1)), atol=1e-6)
        for joint_set, key in ((JOINTS_44, "joints_cam"), (SMPL_24, "joints_smpl24_cam")):
            layer = NamedJoints(joint_set, load_body_model(models))
            found = layer(batch["betas"], batch["body_pose"], batch["global_orient"], batch["transl"])
            torch.testing.assert_close(found, batch[key], atol=1e-4, rtol=0)  # type: ignore[literal-required]
        assert bool(batch["has_pose"].all() and batch["has_betas"].all() and batch["joints_known"].all())
        assert set(batch["gender"]) == {"neutral"}
        assert batch["view"].tolist() == [0, 1] * (len(data) // 2)


def test_seed_changes_the_cameras(written: tuple[Path, Any]) -> None:
    first, same, other = (AMASS(written[0], "test", seed=seed).samples["K"] for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert AMASS(written[0], "test").joint_set is H36M_17


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, r"split: \['val'\] unknown, valid are train, validation, test"),
        ({"subsets": ["HumanEva"]}, r"subsets: \['HumanEva'\] unknown, valid are ACCAD"),
        ({"fps": 0.0}, "fps: must be above 0, got 0.0"),
        ({"trim": 0.5}, r"trim: must be a share in \[0, 0.5\) of each end, got 0.5"),
        ({"stride": 0}, "stride: must be at least 1"),
        ({"views": 0}, "views and stride: must be at least 1, got views=0"),
        ({"joint_set": "coco99"}, "coco99"),
    ],
)
def test_bad_arguments(written: tuple[Path, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AMASS(written[0], **arguments)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no ACCAD or .*_poses.npz. .*register at amass.is.tue.mpg.de"):
        AMASS(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no <sub data set>/<subject>"):
        AMASS(tmp_path, split=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"poses": None}, "has no 'poses'"),
        ({"poses": np.zeros((9, 63))}, r"poses has 63 numbers per frame, expected one of \(72, 156, 165\)"),
        ({"trans": np.zeros((8, 3))}, "trans has shape 8 x 3, expected 9 x 3"),
        ({"betas": np.zeros(8)}, "betas has 8 numbers, expected at least 10"),
        ({"poses": np.full((9, 156), np.nan)}, "poses holds values that are not finite"),
        ({"mocap_framerate": None}, "has none of mocap_framerate, mocap_frame_rate"),
        ({"mocap_framerate": -1.0}, "mocap_framerate is -1, expected frames per second above 0"),
    ],
)
def test_wrong_files(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    spoiled(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"01_01_poses.npz: {message}"):
        AMASS(tmp_path)


def test_empty_and_truncated_files(tmp_path: Path) -> None:
    path = spoiled(tmp_path, poses=np.zeros((0, 156)), trans=np.zeros((0, 3)))
    with pytest.raises(ValueError, match="trim: nothing is left of the 1 files"):
        AMASS(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"01_01_poses.npz is not a whole .npz"):
        AMASS(tmp_path)
