import numpy as np
import pytest
import torch

from posecore.body.skeletons import H36M_17
from posecore.data import SyntheticMotion
from posecore.data.gestures import ANGLE_NAMES, GESTURES, LIMITS, Gesture, local_rotations, within_limits
from posecore.data.synthetic import synthetic_motions
from posecore.data.transforms import flip_body_pose
from posecore.testing import assert_pose_dataset


@pytest.mark.parametrize("action", GESTURES)
@pytest.mark.parametrize("seed", [0, 1])
def test_motion_is_plausible(action: str, seed: int) -> None:
    motion = synthetic_motions(1, seed=seed, actions=(action,))[0]
    joints, name = motion.joints_world, H36M_17.index
    assert motion.action == action
    assert 4 * 30 <= motion.num_frames <= 8 * 30
    speed = joints.diff(dim=0).norm(dim=-1) * motion.fps
    assert float(speed.max()) < 14
    acceleration = joints.diff(n=2, dim=0).norm(dim=-1) * motion.fps**2
    assert float(acceleration.max()) < 400
    lowest = joints[:, [name("l_ankle"), name("r_ankle")], 1].amin(dim=1)
    assert float(lowest.min()) > -0.02
    assert float(lowest.min()) < 0.15
    assert (joints[:, name("head_top"), 1] > joints[:, name("pelvis"), 1] + 0.2).all()
    travelled = float((joints[-1, 0] - joints[0, 0])[[0, 2]].norm())
    pace = float(speed[:, 0].mean())
    if action == "walk":
        assert 0.6 < pace < 1.9
    if action == "run":
        assert 1.9 < pace < 5.0
        assert float(lowest.max()) > 0.08  # flights
    if action in ("squat", "reach", "jump", "sit"):
        assert travelled < 0.6
    if action == "jump":
        assert float(lowest.max()) > 0.15


@pytest.mark.parametrize("action", GESTURES)
def test_angles_stay_within_the_range_of_motion(action: str) -> None:
    gesture = Gesture(np.arange(150) / 30, np.random.default_rng(3))
    GESTURES[action](gesture)
    angles = within_limits(gesture.angles)
    assert set(angles) == set(ANGLE_NAMES)
    for name, curve in angles.items():
        low, high = LIMITS[name.removeprefix("l_").removeprefix("r_")]
        assert low <= curve.min()
        assert curve.max() <= high
        # Amplitudes are anatomical by themselves: clipping is the exception.
        assert np.mean(curve != gesture.angles[name]) < 0.35, name


def test_anatomical_signs() -> None:
    """One angle at a time, checked on the bone that it moves: left = +x, up = +y, ahead = +z."""
    down, ahead, left = torch.tensor([[0.0, -1, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.float64)

    def rotation(joint: int, **angles: float) -> torch.Tensor:
        curves = {name: np.full(1, float(angles.get(name, 0.0))) for name in ANGLE_NAMES}
        return local_rotations(curves)[0, joint]

    assert (rotation(1, l_hip_flexion=40) @ down) @ ahead > 0.6
    assert (rotation(4, l_knee_flexion=40) @ down) @ ahead < -0.6
    assert (rotation(1, l_hip_abduction=30) @ down) @ left > 0.4
    assert (rotation(2, r_hip_abduction=30) @ down) @ left < -0.4
    assert (rotation(7, l_ankle_flexion=30) @ ahead) @ -down > 0.4
    assert (rotation(3, spine_flexion=60) @ -down) @ ahead > 0.3
    torch.testing.assert_close(rotation(16) @ left, down)  # arms hang at 0
    torch.testing.assert_close(rotation(17) @ -left, down)
    assert (rotation(16, l_arm_flexion=80) @ left) @ ahead > 0.9
    assert (rotation(17, r_arm_abduction=80) @ -left) @ -left > 0.9
    for side, shoulder, elbow, out in (("l", 16, 18, left), ("r", 17, 19, -left)):
        bent = {f"{side}_elbow_flexion": 90.0}
        assert (rotation(shoulder, **bent) @ rotation(elbow, **bent) @ out) @ ahead > 0.9
        raised = bent | {f"{side}_arm_abduction": 90.0, f"{side}_arm_rotation": 85.0}
        assert (rotation(shoulder, **raised) @ rotation(elbow, **raised) @ out) @ -down > 0.9


def test_left_and_right_are_mirror_images() -> None:
    rng = np.random.default_rng(0)
    angles = {name: rng.uniform(*LIMITS[name.removeprefix("l_").removeprefix("r_")], 4) for name in ANGLE_NAMES}
    other = {"l": "r", "r": "l"}
    mirrored = {(other[n[0]] + n[1:] if n[:2] in ("l_", "r_") else n): v for n, v in angles.items()}
    for name in ("spine_lean", "spine_turn", "neck_lean", "neck_turn", "pelvis_lean", "pelvis_turn"):
        mirrored[name] = -mirrored[name]
    torch.testing.assert_close(flip_body_pose(local_rotations(angles)[:, 1:]), local_rotations(mirrored)[:, 1:])


def test_splits_seeds_and_clips_differ_and_repeat() -> None:
    def made(num_clips: int = 1, **arguments) -> SyntheticMotion:
        return SyntheticMotion(num_clips=num_clips, fps=10.0, **arguments)  # fewer frames say as much

    many, one = made(3), made()
    assert torch.equal(one.samples["joints_rel"], made().samples["joints_rel"])
    assert not torch.equal(one[0]["joints_rel"], made(split="test")[0]["joints_rel"])
    assert not torch.equal(one[0]["joints_rel"], made(seed=1)[0]["joints_rel"])
    assert torch.equal(many.samples["joints_cam"][: len(one)], one.samples["joints_cam"])
    assert_pose_dataset(many)
    assert len(set(many.samples["action"])) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "holdout"}, "split: 'holdout' is unknown, valid are train, val, test"),
        ({"num_clips": 0}, "num_clips: must be at least 1, got 0"),
        ({"actions": ["fly"]}, r"actions: \['fly'\] are unknown, valid are walk, run"),
        ({"fps": 0.0}, "fps: must be positive, got 0.0"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticMotion(**arguments)
