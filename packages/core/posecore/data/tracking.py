"""People of a video without track ids as tracks: who in one frame is who in the next.

From frame to frame, every track is moved on with its speed, and tracks and people are paired so that the sum of their
distances is least. A distance is that of the keypoints by the person's size, plus how little the boxes overlap. Motion
and pose tell apart two people who cross; clothes and faces, which would tell more, are not looked at.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from posecore.data.keypoints import KeypointPeople

_BOX_WEIGHT = 0.5  # Of boxes that do not overlap at all against a distance of one size of the person.
_SPEED_RATE = 0.25  # Share of the newest step in a track's speed, once there are more than a few.
_FARTHEST = 2.0  # Sizes of the person; a joint that is farther off counts no more, since one may be found wrongly.
_FORBIDDEN = 1e6  # Cost of pairs that cannot be the same person.


def track_people(
    people: KeypointPeople, max_gap: int = 15, min_frames: int = 5, max_distance: float = 0.5
) -> KeypointPeople:
    """The same people with tracks as ids: ``track0``, ``track1``, ... in the order in which they are first seen.

    Args:
        people: People of one video; their ids are not looked at.
        max_gap: Frames in which a track may be unseen and still go on.
        min_frames: Tracks that are seen in fewer frames are left out, as detections of nobody are.
        max_distance: Mean distance of the keypoints to where a track is expected in the next frame, by the person's
            size (the square root of the box's area), beyond which it is someone else; it grows with the square root of
            the frames since the track was seen.

    Returns:
        The rows of the tracks that are kept, in their order, with ``tracked`` set.

    Raises:
        ValueError: If an argument is out of range, or no track is long enough.
    """
    if max_gap < 0 or min_frames < 1 or not max_distance > 0:
        raise ValueError(
            f"max_gap, min_frames and max_distance: must be at least 0, at least 1 and above 0, got {max_gap}, "
            f"{min_frames} and {max_distance}"
        )
    points = people.keypoints.double().numpy()
    seen = people.confidence.numpy() > 0
    frames = np.array(people.frames)
    tracks = _Tracks(points.shape[1])
    track_of = np.full(len(people), -1)
    order = np.argsort(frames, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(frames[order])) + 1):
        track_of[rows] = tracks.step(int(frames[rows[0]]), points[rows], seen[rows], max_gap, max_distance)

    lengths = np.bincount(track_of)
    kept = np.flatnonzero(lengths >= min_frames)
    if not len(kept):
        raise ValueError(
            f"min_frames: none of {len(lengths)} tracks is seen in {min_frames} frames; the longest in {lengths.max()}"
        )
    rank = np.full(len(lengths), -1)
    rank[kept] = np.arange(len(kept))
    rows = np.flatnonzero(rank[track_of] >= 0)
    said = f"ids by tracking: {len(kept)} tracks"
    if dropped := len(lengths) - len(kept):
        said += (
            f"; {dropped} others of fewer than {min_frames} frames ({len(people) - len(rows)} detections) were left out"
        )
    return replace(
        people,
        keypoints=people.keypoints[rows],
        confidence=people.confidence[rows],
        image_sizes=None if people.image_sizes is None else people.image_sizes[rows],
        ids=tuple(f"track{rank[track_of[row]]}" for row in rows),
        frames=tuple(people.frames[row] for row in rows),
        image_names=tuple(people.image_names[row] for row in rows),
        statement=f"{people.statement}; {said}" if people.statement else said,
        tracked=True,
    )


@dataclass
class _Tracks:
    """The tracks that may go on: where each joint was last seen and has moved since, and the speed of the whole."""

    num_joints: int

    def __post_init__(self) -> None:
        self.count = 0
        self.number = np.zeros(0, dtype=np.int64)
        self.points = np.zeros((0, self.num_joints, 2))
        self.known = np.zeros((0, self.num_joints), dtype=bool)
        self.speed = np.zeros((0, 2))
        self.steps = np.zeros(0, dtype=np.int64)
        self.last = np.zeros(0, dtype=np.int64)

    def step(
        self,
        frame: int,
        points: Float[np.ndarray, "people joints 2"],
        seen: Bool[np.ndarray, "people joints"],
        max_gap: int,
        max_distance: float,
    ) -> Int[np.ndarray, " people"]:
        """The track of each person of the next frame in which there is any."""
        self._keep(frame - self.last - 1 <= max_gap)
        since = frame - self.last
        expected = self.points + (self.speed * since[:, None])[:, None]
        distance, overlap = _distances(expected, self.known, points, seen)
        allowed = distance <= max_distance * np.sqrt(since)[:, None]
        cost = np.where(allowed, distance + _BOX_WEIGHT * (1 - overlap), _FORBIDDEN)
        pairs = [(track, person) for track, person in zip(*assign(cost), strict=True) if allowed[track, person]]
        found = np.full(len(points), -1)
        if pairs:
            tracks, chosen = np.array(pairs).T
            found[chosen] = self.number[tracks]
            self._move(tracks, points[chosen], seen[chosen], expected[tracks], since[tracks], frame)
        found[found < 0] = self._begin(frame, points[found < 0], seen[found < 0])
        return found

    def _keep(self, which: Bool[np.ndarray, " tracks"]) -> None:
        for name in ("number", "points", "known", "speed", "steps", "last"):
            setattr(self, name, getattr(self, name)[which])

    def _move(
        self,
        tracks: Int[np.ndarray, " pairs"],
        points: Float[np.ndarray, "pairs joints 2"],
        seen: Bool[np.ndarray, "pairs joints"],
        expected: Float[np.ndarray, "pairs joints 2"],
        since: Int[np.ndarray, " pairs"],
        frame: int,
    ) -> None:
        """Takes over what was seen; joints that were not go on with the rest."""
        both = (seen & self.known[tracks])[..., None]
        many = np.maximum(both.sum(axis=1), 1)
        step = ((points - self.points[tracks]) * both).sum(axis=1) / many / since[:, None]
        step = np.where(both.any(axis=1), step, self.speed[tracks])
        rate = np.maximum(_SPEED_RATE, 1 / (self.steps[tracks] + 1))[:, None]
        self.speed[tracks] += rate * (step - self.speed[tracks])
        self.points[tracks] = np.where(seen[..., None], points, expected)
        self.known[tracks] |= seen
        self.steps[tracks] += 1
        self.last[tracks] = frame

    def _begin(
        self, frame: int, points: Float[np.ndarray, "people joints 2"], seen: Bool[np.ndarray, "people joints"]
    ) -> Int[np.ndarray, " people"]:
        """New tracks that stand still; their numbers."""
        many = len(points)
        numbers = np.arange(self.count, self.count + many)
        self.count += many
        self.number = np.concatenate([self.number, numbers])
        self.points = np.concatenate([self.points, points])
        self.known = np.concatenate([self.known, seen])
        self.speed = np.concatenate([self.speed, np.zeros((many, 2))])
        self.steps = np.concatenate([self.steps, np.zeros(many, dtype=np.int64)])
        self.last = np.concatenate([self.last, np.full(many, frame)])
        return numbers


def _distances(
    tracks: Float[np.ndarray, "tracks joints 2"],
    known: Bool[np.ndarray, "tracks joints"],
    points: Float[np.ndarray, "people joints 2"],
    seen: Bool[np.ndarray, "people joints"],
) -> tuple[Float[np.ndarray, "tracks people"], Float[np.ndarray, "tracks people"]]:
    """Mean distance of the joints that both have by the size of the larger, and overlap of the boxes (IoU).

    Where they have no joint in common, the distance is that of the boxes' middles.
    """
    boxes, others = _boxes(tracks, known), _boxes(points, seen)
    area, other_area = (np.maximum((box[:, 2:] - box[:, :2]).prod(axis=-1), 1.0) for box in (boxes, others))
    size = np.sqrt(np.maximum(area[:, None], other_area[None]))
    both = known[:, None] & seen[None]
    apart = np.linalg.norm(tracks[:, None] - points[None], axis=-1) / size[..., None]
    mean = (np.minimum(apart, _FARTHEST) * both).sum(axis=-1) / np.maximum(both.sum(axis=-1), 1)
    middles = (boxes[:, None, :2] + boxes[:, None, 2:] - others[None, :, :2] - others[None, :, 2:]) / 2
    distance = np.where(both.any(axis=-1), mean, np.linalg.norm(middles, axis=-1) / size)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=-1)
    return distance, common / (area[:, None] + other_area[None] - common)


def _boxes(
    points: Float[np.ndarray, "people joints 2"], seen: Bool[np.ndarray, "people joints"]
) -> Float[np.ndarray, "people 4"]:
    """Left, top, right, bottom of the seen joints."""
    low = np.where(seen[..., None], points, np.inf).min(axis=1)
    high = np.where(seen[..., None], points, -np.inf).max(axis=1)
    return np.concatenate([low, high], axis=-1)


def assign(
    cost: Float[np.ndarray, "rows columns"],
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Pairs rows with columns, each at most once and as many as there can be, at the least sum of costs.

    The Hungarian method by shortest augmenting paths; of equal sums, always the same.

    Returns:
        Rows, ascending, and the column of each.

    References:
        Jonker and Volgenant 1987, "A shortest augmenting path algorithm for dense and sparse linear
        assignment problems".
    """
    if cost.shape[0] > cost.shape[1]:
        columns, rows = assign(cost.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    num_rows, num_columns = cost.shape
    row_price, column_price = np.zeros(num_rows), np.zeros(num_columns)
    row_of = np.full(num_columns, -1)
    for start in range(num_rows):
        # Dijkstra from this row, over columns whose rows it would push on, to a column that is free.
        shortest, before = np.full(num_columns, np.inf), np.full(num_columns, -1)
        done = np.zeros(num_columns, dtype=bool)
        row, length, column = start, 0.0, -1
        while row >= 0:
            reduced = length + cost[row] - row_price[row] - column_price
            nearer = ~done & (reduced < shortest)
            shortest[nearer], before[nearer] = reduced[nearer], row
            column = int(np.argmin(np.where(done, np.inf, shortest)))
            length = float(shortest[column])
            done[column] = True
            row = int(row_of[column])
        passed = done & (row_of >= 0)
        row_price[start] += length
        row_price[row_of[passed]] += length - shortest[passed]
        column_price[done] -= length - shortest[done]
        while column >= 0:
            row = int(before[column])
            row_of[column] = row
            previous = np.flatnonzero((row_of == row) & (np.arange(num_columns) != column))
            column = int(previous[0]) if row != start and len(previous) else -1
    columns = np.flatnonzero(row_of >= 0)
    order = np.argsort(row_of[columns])
    return row_of[columns][order], columns[order]
