from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from posecore.body.skeletons import H36M_17
from posecore.data.cmu_mocap import load_cmu_motions
from posecore.data.keypoints import KeypointPeople
from posecore.data.tracking import assign, track_people

CLIPS = ("35_01", "07_01")  # two people's walks
FRAMES = 70
SHAPE = np.random.default_rng(0).uniform([-30, -90], [30, 90], (17, 2))  # a person of 60 x 180 pixels


def people_of(
    points: np.ndarray, present: np.ndarray | None = None, seed: int = 0
) -> tuple[KeypointPeople, np.ndarray]:
    """Rows of "frames people joints 2" in mixed order within each frame; and who each of them is."""
    rng = np.random.default_rng(seed)
    present = np.ones(points.shape[:2], bool) if present is None else present
    rows = [
        (frame, who) for frame in range(len(points)) for who in rng.permutation(points.shape[1]) if present[frame, who]
    ]
    keypoints = torch.tensor(np.array([points[row] for row in rows]), dtype=torch.float32)
    names = tuple(f"f{frame}" for frame, _ in rows)
    ids = tuple(map(str, range(len(rows))))
    confidence = torch.full(keypoints.shape[:2], 0.9)
    people = KeypointPeople(H36M_17, keypoints, confidence, None, ids, tuple(frame for frame, _ in rows), names)
    return people, np.array([who for _, who in rows])


def switches(people: KeypointPeople, who: np.ndarray) -> int:
    """How often a person's track changes from one frame in which he is seen to the next."""
    count = 0
    for person in set(who.tolist()):
        ids = np.array(people.ids)[who == person]
        count += int((ids[1:] != ids[:-1]).sum())
    return count


def walk(start: float, speed: float, y: float, frames: int = 60, swing: float = 8.0) -> np.ndarray:
    """A shape that crosses the picture; its joints swing, each in its own time."""
    time = np.arange(frames)
    phase = np.random.default_rng(int(start)).uniform(0, 6, 17)
    points = SHAPE + np.stack([start + speed * time, np.full(frames, y)], axis=-1)[:, None]
    points[..., 0] += swing * np.sin(0.3 * time[:, None] + phase)
    return points


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (3, 7), (8, 2), (0, 3), (3, 0), (12, 12)])
def test_assignment_is_the_cheapest(shape: tuple[int, int]) -> None:
    for seed in range(20):
        cost = np.random.default_rng(seed).uniform(-1, 1, shape)
        cost[cost > 0.8] = 1e6
        rows, columns = assign(cost)
        best_rows, best_columns = linear_sum_assignment(cost)
        assert rows.tolist() == best_rows.tolist()
        assert len(set(columns.tolist())) == len(columns) == min(shape)
        assert cost[rows, columns].sum() == pytest.approx(cost[best_rows, best_columns].sum())


def test_assignment_of_ties_is_always_the_same() -> None:
    rows, columns = assign(np.zeros((3, 3)))
    assert sorted(columns.tolist()) == rows.tolist() == [0, 1, 2]
    assert all(np.array_equal(assign(np.zeros((3, 3)))[1], columns) for _ in range(3))


@pytest.mark.parametrize("noise", [0.0, 3.0])
@pytest.mark.parametrize("speeds", [(6.0, -6.0), (8.0, -3.0), (7.0, 2.0)])
def test_two_people_who_cross(noise: float, speeds: tuple[float, float]) -> None:
    meeting = [320 - 30 * speed for speed in speeds]  # both are at 320 in frame 30
    points = np.stack([walk(meeting[0], speeds[0], 200), walk(meeting[1], speeds[1], 205)], axis=1)
    points += np.random.default_rng(1).normal(0, noise, points.shape) if noise else 0
    people, who = people_of(points)
    tracked = track_people(people)
    assert set(tracked.ids) == {"track0", "track1"}
    assert switches(tracked, who) == 0
    assert tracked.tracked
    assert tracked.statement == "ids by tracking: 2 tracks"
    assert torch.equal(tracked.keypoints, people.keypoints), "the order of the rows is kept"
    assert tracked.frames == people.frames


def test_one_hides_the_other_while_they_cross() -> None:
    points = np.stack([walk(140, 6, 200), walk(500, -6, 205)], axis=1)
    present = np.ones((60, 2), bool)
    present[25:36, 1] = False
    people, who = people_of(points, present)
    tracked = track_people(people)
    assert switches(tracked, who) == 0
    assert set(tracked.ids) == {"track0", "track1"}


def test_gaps() -> None:
    present = np.ones((60, 1), bool)
    present[20:30] = False
    people, who = people_of(walk(100, 5, 200)[:, None], present)
    assert set(track_people(people, max_gap=10).ids) == {"track0"}
    cut = track_people(people, max_gap=9)
    assert switches(cut, who) == 1
    assert set(cut.ids) == {"track0", "track1"}
    assert track_people(people, max_gap=0).ids == cut.ids


def test_dropouts_of_people_and_joints() -> None:
    rng = np.random.default_rng(3)
    points = np.stack([walk(60 + 150 * n, (-1) ** n * 2.0, 200 + 8 * n) for n in range(4)], axis=1)
    points += rng.normal(0, 2, points.shape)
    present = rng.uniform(size=(60, 4)) > 0.2
    people, who = people_of(points, present)
    hidden = torch.tensor(rng.uniform(size=(len(people), 17)) < 0.4)
    hidden[:, 0] = False
    confidence = people.confidence.masked_fill(hidden, 0.0)
    keypoints = people.keypoints.masked_fill(hidden[..., None], 0.0)
    people = KeypointPeople(H36M_17, keypoints, confidence, None, people.ids, people.frames, people.image_names)
    tracked = track_people(people)
    assert switches(tracked, who) == 0
    assert len(set(tracked.ids)) == 4


def test_short_tracks_are_left_out() -> None:
    points = np.stack([walk(100, 5, 200), walk(600, 0, 900)], axis=1)
    present = np.ones((60, 2), bool)
    present[:, 1] = False
    present[10:14, 1] = True
    people, who = people_of(points, present)
    tracked = track_people(people)
    assert set(tracked.ids) == {"track0"}
    assert len(tracked) == int((who == 0).sum())
    assert "1 tracks; 1 others of fewer than 5 frames (4 detections) were left out" in tracked.statement
    assert set(track_people(people, min_frames=4).ids) == {"track0", "track1"}
    with pytest.raises(ValueError, match="min_frames: none of 2 tracks is seen in 61 frames; the longest in 60"):
        track_people(people, min_frames=61)


def test_a_jump_is_someone_else() -> None:
    points = walk(100, 2, 200)
    points[30:] += [150, 0]
    people, who = people_of(points[:, None])
    assert switches(track_people(people), who) == 1
    assert switches(track_people(people, max_distance=3.0), who) == 0


def test_deterministic_whatever_the_order_of_the_rows() -> None:
    points = np.stack([walk(140, 6, 200), walk(500, -6, 205), walk(320, 0, 210)], axis=1)
    people, who = people_of(points)
    assert track_people(people).ids == track_people(people).ids
    other, other_who = people_of(points, seed=5)
    assert switches(track_people(other), other_who) == switches(track_people(people), who) == 0


@pytest.mark.parametrize(
    "argument", [{"max_gap": -1}, {"min_frames": 0}, {"max_distance": 0.0}, {"max_distance": float("nan")}]
)
def test_arguments(argument: dict[str, float]) -> None:
    people, _ = people_of(walk(100, 5, 200)[:, None])
    with pytest.raises(
        ValueError, match="max_gap, min_frames and max_distance: must be at least 0, at least 1 and above"
    ):
        track_people(people, **argument)


def walkers(root: Path, depth: float, noise: float, seed: int) -> np.ndarray:
    """Two recorded walks that cross before a camera, the second ``depth`` metres farther; pixels."""
    points = []
    for clip, side, z in zip(CLIPS, (1, -1), (5.0, 5.0 + depth), strict=True):
        joints = load_cmu_motions(root, split=None, clips=[clip])[0].joints_world.double().numpy()
        way = joints[-1, 0] - joints[0, 0]
        turn = np.arctan2(way[2], way[0]) + (0 if side > 0 else np.pi)
        across = joints[..., 0] * np.cos(turn) + joints[..., 2] * np.sin(turn)
        along = joints[..., 2] * np.cos(turn) - joints[..., 0] * np.sin(turn)
        middle = len(joints) // 2
        x, forward = across - across[middle, 0], along - along[middle, 0] + z
        down = joints[middle, 0, 1] - joints[..., 1]
        points.append(1000 * np.stack([x, down], axis=-1) / forward[..., None] + 500)
        points[-1] = points[-1][middle - FRAMES // 2 : middle + FRAMES // 2]
    return np.stack(points, axis=1) + np.random.default_rng(seed).normal(0, noise, (FRAMES, 2, 17, 2))


@pytest.mark.real_data
@pytest.mark.parametrize("depth", [0.0, 0.5])
def test_two_real_walkers_who_cross(data_root: Path, depth: float) -> None:
    points = walkers(data_root, depth, 3.0, 0)
    middles = points.mean(axis=2)[..., 0]
    assert middles[0, 0] < middles[0, 1] - 300
    assert middles[-1, 0] > middles[-1, 1] + 300
    rows, who = people_of(points)
    assert switches(track_people(rows), who) == 0
    # The farther one is hidden while they overlap, and one in ten is not found anyway.
    present = np.random.default_rng(1).uniform(size=points.shape[:2]) > 0.1
    present[FRAMES // 2 - 4 : FRAMES // 2 + 4, 1] = False
    rows, who = people_of(points, present)
    tracked = track_people(rows)
    assert switches(tracked, who) == 0
    assert set(tracked.ids) == {"track0", "track1"}
