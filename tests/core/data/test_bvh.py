import re
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from posecore.data.bvh import BVH, read_bvh
from posecore.data.cmu_rigs import RIGS, recognise_rig
from posecore.testing import bvh_text

SMALL = """HIERARCHY
ROOT a
{
  OFFSET 1 2 3
  CHANNELS 6 Yrotation Xposition Zrotation Zposition Xrotation Yposition
  JOINT b
  {
    OFFSET 0 1 0
    CHANNELS 3 Xrotation Zrotation Yrotation
    End Site
    {
      OFFSET 0 0 2
    }
  }
  JOINT c
  {
    OFFSET 1 0 0
    CHANNELS 4 Zrotation Xposition Yrotation Yposition
    End Site
    {
      OFFSET 0 1 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.025
10 1 20 3 30 2   40 50 60   70 5 80 6
-5 4 15 6 25 5   35 45 55   65 -5 -75 6
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "clip.bvh"
    path.write_text(text)
    return path


def reference_kinematics(bvh: BVH) -> tuple[np.ndarray, np.ndarray]:
    """One frame and joint after the other, with scipy's Euler angles."""
    rotations = np.zeros((bvh.num_frames, len(bvh.joint_names), 3, 3))
    positions = np.zeros((bvh.num_frames, len(bvh.joint_names), 3))
    for frame in range(bvh.num_frames):
        numbers = iter(bvh.motion[frame])
        for j, parent in enumerate(bvh.parents):
            translation = bvh.offsets[j].copy()
            axes, angles = "", []
            for channel in bvh.channels[j]:
                if channel.endswith("position"):
                    translation["XYZ".index(channel[0])] = next(numbers)
                else:
                    axes += channel[0]
                    angles.append(next(numbers))
            local = Rotation.from_euler(axes, angles, degrees=True).as_matrix() if axes else np.eye(3)
            above = rotations[frame, parent] if parent >= 0 else np.eye(3)
            start = positions[frame, parent] if parent >= 0 else np.zeros(3)
            rotations[frame, j] = above @ local
            positions[frame, j] = start + above @ translation
    return rotations, positions


def test_forward_kinematics_agrees_with_scipy_for_channels_in_any_order(tmp_path: Path) -> None:
    bvh = read_bvh(write(tmp_path, SMALL))
    assert bvh.joint_names == ("a", "b", "b_end", "c", "c_end")
    assert bvh.parents == (-1, 0, 1, 0, 3)
    assert bvh.fps == pytest.approx(40)
    for actual, expected in zip(bvh.forward_kinematics(), reference_kinematics(bvh), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-12)


@pytest.mark.parametrize("rig", RIGS)
def test_rigs_are_recognised_and_agree_with_scipy(tmp_path: Path, rig: str) -> None:
    bvh = read_bvh(write(tmp_path, bvh_text(rig, 15)))
    assert recognise_rig(bvh).name == rig
    for actual, expected in zip(bvh.forward_kinematics(start=11), reference_kinematics(bvh), strict=True):
        np.testing.assert_allclose(actual, expected[11:], atol=1e-10)


def test_line_endings_and_other_offsets(tmp_path: Path) -> None:
    bvh = read_bvh(write(tmp_path, SMALL.replace("\n", "\r\n")))
    rotations, positions = bvh.forward_kinematics(offsets=bvh.offsets * 2)
    original_rotations, original = bvh.forward_kinematics()
    np.testing.assert_array_equal(rotations, original_rotations)
    end, b = bvh.index("b_end"), bvh.index("b")
    np.testing.assert_allclose(positions[:, end] - positions[:, b], 2 * (original[:, end] - original[:, b]), atol=1e-12)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.bvh: no such BVH file"):
        read_bvh(tmp_path / "nothing.bvh")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: "hello", "not a BVH file"),
        (lambda s: s.split("MOTION")[0], "not a BVH file"),
        (lambda s: s.replace("}\nMOTION", "MOTION"), "unbalanced braces"),
        (lambda s: s.replace("JOINT c", "JOINT b"), "a joint name appears twice"),
        (lambda s: s.replace("OFFSET 0 1 0", "OFFSET 0 1"), "broken HIERARCHY section: could not convert"),
        (lambda s: s.replace("Xrotation Zrotation Yrotation", "Wrotation Zrotation Yrotation"), "unknown channels"),
        (lambda s: s.replace("JOINT c", "LINK c"), "unexpected word 'LINK'"),
        (lambda s: "HIERARCHY\nMOTION\nFrames: 1\nFrame Time: 1\n1\n", "no joints"),
        (lambda s: s.replace("Frames: 2", "Frame: 2"), "needs 'Frames: <n>'"),
        (lambda s: s.replace("Frames: 2", "Frames: 0"), "no motion, the header says 0 frames"),
        (lambda s: s.replace("CHANNELS 4 Zrotation", "CHANNELS 3"), "the channels ask for 12 numbers a frame, got 13"),
        (lambda s: s[: s.rindex(" 65")], "truncated or overlong motion, 2 frames of 13 .* got 1.7 frames"),
        (lambda s: s.replace("Frames: 2", "Frames: 1"), "overlong motion"),
        (lambda s: s[: s.index("10 1 20")], "got 0.0 frames"),
        (lambda s: s.replace("35 45 55", "35 xx 55"), "something that is no number"),
        (lambda s: s.replace("35 45 55", "35 nan 55"), "not finite"),
    ],
)
def test_broken_files_give_one_error_that_names_the_file(tmp_path: Path, change, message: str) -> None:
    path = write(tmp_path, change(SMALL))
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message):
        read_bvh(path)


def test_unknown_rig_and_joint(tmp_path: Path) -> None:
    bvh = read_bvh(write(tmp_path, SMALL))
    with pytest.raises(ValueError, match=r"clip\.bvh: unknown rig with joints a, b, .*known are cgspeed-motionbuilder"):
        recognise_rig(bvh)
    with pytest.raises(KeyError, match="no joint 'z'"):
        bvh.index("z")
