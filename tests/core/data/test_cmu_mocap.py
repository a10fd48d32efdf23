import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from posecore.body.files import load_body_model
from posecore.body.skeletons import H36M_17
from posecore.data import CMUMocap
from posecore.data.bvh import read_bvh
from posecore.data.cmu_mocap import SPLITS, convert_clip, default_split, glitches, list_clips, load_cmu_motions
from posecore.testing import CMU_CLIPS, assert_pose_dataset, write_cmu_mocap


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_cmu_mocap(root)
    return root


@pytest.mark.parametrize("split", [*SPLITS, None])
def test_every_split_keeps_the_promises_of_a_dataset(fake: Path, split: str | None) -> None:
    dataset = CMUMocap(fake, split=split)
    assert_pose_dataset(dataset)
    assert set(dataset.samples["clip"]) == {clip for clip, s, *_ in CMU_CLIPS if split in (s, None)}
    assert set(dataset.samples["action"]) == {"sway, and walk"}
    assert (dataset.samples["confidence"] == 1).all()
    assert torch.equal(dataset.samples["joints_2d_px"], dataset.samples["joints_2d_true_px"])


def test_trim_and_frame_rate_of_the_manifest(fake: Path) -> None:
    frames = {m.clip: m.num_frames for m in load_cmu_motions(fake, None)}
    # 60 frames: 52 after the trim at 120 fps; 48 at a true 60 fps; 60 with nothing to trim.
    assert frames == {"05_01": 13, "05_05": 13, "10_04": 13, "60_01": 24, "131_01": 15}


def test_folder_without_manifest_is_recognised_and_split_by_the_same_rule(tmp_path: Path, fake: Path) -> None:
    folder = write_cmu_mocap(tmp_path, manifest=False)
    for clip, split, _, _ in CMU_CLIPS:
        assert default_split(clip) == split
        assert clip in {info.clip for info in list_clips(folder) if info.split == split}
    with_manifest, without = CMUMocap(fake, "val"), CMUMocap(folder, "val")
    assert torch.equal(with_manifest.samples["joints_cam"], without.samples["joints_cam"])


def test_rigs_and_clips_select(fake: Path) -> None:
    assert set(CMUMocap(fake, rigs=["cgspeed-daz-43"]).samples["clip"]) == {"60_01"}
    assert set(CMUMocap(fake, split=None, clips=["10_04", "131_01"]).samples["subject"]) == {"10", "131"}


def test_limbs_of_all_rigs_keep_their_length_and_sides(fake: Path) -> None:
    left = [H36M_17.index(name) for name in ("l_shoulder", "l_hip")]
    right = [H36M_17.index(name) for name in ("r_shoulder", "r_hip")]
    for motion in load_cmu_motions(fake, None):
        joints = motion.joints_world
        for a, b in [("l_hip", "l_knee"), ("l_knee", "l_ankle"), ("r_shoulder", "r_elbow"), ("r_elbow", "r_wrist")]:
            length = (joints[:, H36M_17.index(a)] - joints[:, H36M_17.index(b)]).norm(dim=-1)
            assert float(length.std()) < 1e-4
            assert 0.15 < float(length.mean()) < 0.5
        # The fake people face +z and walk towards it: their left is at +x.
        assert (joints[:, left, 0] > joints[:, right, 0]).all()
        assert joints[-1, 0, 2] > joints[0, 0, 2]
        assert (joints[:, H36M_17.index("head_top"), 1] > joints[:, H36M_17.index("thorax"), 1] + 0.1).all()


def test_a_clip_gives_the_same_samples_whatever_else_is_loaded(fake: Path) -> None:
    alone = CMUMocap(fake, split=None, clips=["131_01"])
    everything = CMUMocap(fake, split=None)
    start = everything.samples["clip"].index("131_01")
    rows = list(range(start, start + len(alone)))
    assert torch.equal(everything.__getitems__(rows)["joints_2d_px"], alone.samples["joints_2d_px"])
    other = CMUMocap(fake, split=None, clips=["131_01"], seed=1)
    assert not torch.equal(other.samples["joints_2d_px"], alone.samples["joints_2d_px"])


def test_frame_rate_that_needs_interpolation(fake: Path) -> None:
    fine = load_cmu_motions(fake, "val", fps=120.0)[0]
    between = load_cmu_motions(fake, "val", fps=50.0)[0]
    assert between.num_frames == 22
    position = 5 * 2.4  # frame 5 at 50 fps is frame 12 at 120 fps
    torch.testing.assert_close(between.joints_world[5], fine.joints_world[int(position)], atol=1e-5, rtol=0)
    torch.testing.assert_close(between.body_pose[5], fine.body_pose[int(position)], atol=1e-5, rtol=0)
    mean = 0.6 * fine.joints_world[2] + 0.4 * fine.joints_world[3]  # frame 1 at 50 fps is frame 2.4
    torch.testing.assert_close(between.joints_world[1], mean, atol=1e-5, rtol=0)


def test_frames_around_a_glitch_are_dropped(fake: Path) -> None:
    joints = np.zeros((100, 17, 3))
    assert not glitches(joints, 120.0).any()
    joints[50:, 3, 0] = 0.5  # an ankle that jumps by half a metre
    assert np.flatnonzero(glitches(joints, 120.0)).tolist() == list(range(37, 63))
    info = next(info for info in list_clips(fake) if info.clip == "10_04")
    bvh = read_bvh(info.path)
    bvh.motion[40:, 0] += 10  # 56 cm sideways
    rest = load_body_model()
    motion = convert_clip(info, bvh, rest.J_regressor @ rest.v_template)
    assert motion.frame_index.tolist() == [0, 1, 2, 3, 4, 12]


def test_missing_data_says_how_to_get_it(tmp_path: Path) -> None:
    for folder, message in ((tmp_path / "nothing", "is not a folder"), (tmp_path, "has no BVH files")):
        with pytest.raises(FileNotFoundError, match=rf"{message}.*mocap\.cs\.cmu\.edu.*cgspeed.*SyntheticMotion"):
            CMUMocap(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "testing"}, "split: 'testing' is unknown, valid are train, val, test_subjects, test_takes"),
        ({"rigs": ["biped"]}, r"rigs: \['biped'\] are unknown, valid are cgspeed-motionbuilder-31"),
        ({"clips": ["99_99"]}, r"clips: \['99_99'\] are not in split 'train'"),
        ({"split": "val", "rigs": ["cgspeed-daz-43"]}, "no clip below .* is in split 'val'"),
        ({"joints": "skin"}, "joints: 'skin' is unknown, valid are mocap, body"),
        ({"betas": "tall"}, "betas: 'tall' is unknown, valid are frame, clip, mean"),
        ({"cameras": "drone"}, "cameras: 'drone' is unknown"),
        ({"views": 0}, "must be at least 1, got views=0, stride=1"),
        ({"stride": 0}, "must be at least 1, got views=1, stride=0"),
        ({"fps": 0.0}, "rates must be positive"),
    ],
)
def test_wrong_arguments(fake: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CMUMocap(fake, **arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (("05_01,", "05_09,"), FileNotFoundError, "line 2 lists 05_09, but there is no 05_09.bvh"),
        (("05_01,", ","), ValueError, "line 2 has no value in a column named 'clip'"),
        ((",120,", ",fast,"), ValueError, r"line 2 \(05_01\): could not convert string to float: 'fast'"),
        ((",train,", ",training,"), ValueError, "split 'training', valid are train"),
        ((",8,0.056444", ",60,0.056444"), ValueError, r"05_01\.bvh: 60 frames, of which the first 60 are trimmed"),
    ],
)
def test_broken_manifest(tmp_path: Path, change: tuple[str, str], error: type[Exception], message: str) -> None:
    folder = write_cmu_mocap(tmp_path)
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace(*change, 1))
    with pytest.raises(error, match=message):
        CMUMocap(tmp_path)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    folder = write_cmu_mocap(tmp_path)
    path = folder / "10" / "10_04.bvh"
    path.write_text(path.read_text()[:-200])
    with pytest.raises(ValueError, match=r"10_04\.bvh: truncated"):
        CMUMocap(tmp_path, split="val")


@pytest.mark.real_data
def test_split_rule_is_the_manifests(data_root: Path) -> None:
    with (data_root / "cmu_mocap" / "manifest.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) > 50
    assert {row["clip"]: row["split"] for row in rows} == {row["clip"]: default_split(row["clip"]) for row in rows}


@pytest.mark.real_data
def test_real_clips_are_sane_after_the_repair(data_root: Path) -> None:
    clips = ["07_01", "08_01", "16_16", "35_01", "49_01", "131_01", "60_12"]
    for motion in load_cmu_motions(data_root, None, clips):
        joints, name = motion.joints_world, H36M_17.index
        leg = sum(
            (joints[:, name(a)] - joints[:, name(b)]).norm(dim=-1)
            for a, b in [("l_hip", "l_knee"), ("l_knee", "l_ankle")]
        )
        assert 0.76 < float(leg.mean()) < 0.89, motion.clip
        assert float(leg.std()) < 1e-4, motion.clip
        floor = joints[:, [name("l_ankle"), name("r_ankle")], 1].amin()
        assert 1.38 < float((joints[:, name("head_top"), 1] - floor).median()) < 1.75, motion.clip
        if motion.action == "walk" and motion.clip != "49_01":
            speed = (joints[-1, 0] - joints[0, 0]).norm() / (motion.num_frames - 1) * motion.fps
            assert 0.9 < float(speed) < 1.65, motion.clip
        assert (joints.diff(dim=0).norm(dim=-1) * motion.fps < 20).all()


@pytest.mark.real_data
def test_glitches_of_the_dances_are_left_out(data_root: Path) -> None:
    motion = load_cmu_motions(data_root, None, ["05_06"])[0]
    assert motion.num_frames < int(motion.frame_index[-1]) + 1  # a knee jumps from frame to frame there
    steady = motion.frame_index.diff() == 1
    assert (motion.joints_world.diff(dim=0)[steady].norm(dim=-1) * motion.fps < 20).all()
