"""Rows of what `predict` is given, in the order that their grouping asks for: people, views of one instant, a video."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.data.calibrated_views import CalibratedViews
from posecore.data.keypoints import KeypointPeople

Group = Literal["people", "views", "video"]

_MOST_ROWS = 1_000_000  # Half a day of video; more is a frame number that is none, such as a time stamp.


@dataclass(frozen=True)
class Rows:
    """Rows of a dataset: which of the people each is, or, where nobody was seen, whose image size it takes.

    Attributes:
        source: Number of the row among the people.
        known: Whether it is that row; where not, it only lies next to it in time.
        ids: Each row's person.
        frame: Each row's frame.
        clip: What belongs together.
        view: Number of the row's camera.
        notes: What was left out or filled in, in sentences.
    """

    source: Sequence[int]
    known: Sequence[bool]
    ids: Sequence[str]
    frame: Sequence[int]
    clip: Sequence[str]
    view: Sequence[int]
    notes: Sequence[str] = ()


def rows_as_they_are(people: KeypointPeople, rows: Sequence[int] | None = None) -> Rows:
    """The people, or some of them, as rows that have nothing to do with each other."""
    rows = range(len(people)) if rows is None else rows
    ids = [people.ids[row] for row in rows]
    return Rows(rows, [True] * len(rows), ids, [people.frames[row] for row in rows], ids, [0] * len(rows))


def rows_by_instant(people: KeypointPeople, views: CalibratedViews | None) -> Rows:
    """Rows of the same frame together; with cameras, a row's view is the number of its camera.

    Raises:
        ValueError: With cameras, if an instant has not one row of each.
    """
    instants: dict[int, list[int]] = {}
    for row in sorted(range(len(people)), key=lambda row: people.frames[row]):
        instants.setdefault(people.frames[row], []).append(row)
    if views is not None:
        _sort_by_camera(people, instants, views)
    plain = rows_as_they_are(people, [row for rows in instants.values() for row in rows])
    return replace(
        plain,
        clip=[f"instant {frame}" for frame in plain.frame],
        view=[view for rows in instants.values() for view in range(len(rows))],
    )


def _sort_by_camera(people: KeypointPeople, instants: dict[int, list[int]], views: CalibratedViews) -> None:
    """Sorts every instant's rows by camera: by name where any row has a camera's name, else as they are."""
    cameras_of = []
    for person, image in zip(people.ids, people.image_names, strict=True):
        labels = {person, image, PurePosixPath(image).stem, *PurePosixPath(image).parts}
        cameras_of.append([number for number, name in enumerate(views.names) if name in labels])
    named = any(cameras_of)
    for frame, rows in instants.items():
        if len(rows) != len(views):
            raise ValueError(
                f"{views.source}: has {len(views)} views, but instant {frame} has {len(rows)} rows with a seen keypoint"
            )
        if named:
            if sorted(number for row in rows for number in cameras_of[row]) != list(range(len(views))):
                labels_of = [people.image_names[row] or people.ids[row] for row in rows]
                raise ValueError(
                    f"{views.source}: instant {frame} has the rows {', '.join(labels_of)}; one of each view "
                    f"{', '.join(views.names)} is expected"
                )
            rows.sort(key=lambda row: cameras_of[row])


def rows_by_track(people: KeypointPeople, min_frames: int, max_gap: int | None, fill: bool) -> Rows:
    """Rows sorted by track, which is the person's id, and frame.

    Args:
        people: The rows.
        min_frames: Shorter tracks are left out.
        max_gap: A track that is not seen for more frames than this is cut in two; None never cuts.
        fill: Whether there is a row for every frame in which a track is not seen.

    Raises:
        ValueError: If a track has a frame twice, none is left, or there would be a million rows.
    """
    tracks: dict[str, list[int]] = {}
    for row in sorted(range(len(people)), key=lambda row: people.frames[row]):
        tracks.setdefault(people.ids[row], []).append(row)
    kept: list[tuple[str, Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]] = []
    left_out = []
    for track in sorted(tracks, key=lambda name: (int(name) if name.isdecimal() else math.inf, name)):
        rows = np.array(tracks[track])
        frames = np.array([people.frames[row] for row in rows])
        step = np.diff(frames)
        if not step.all():
            raise ValueError(
                f"track: {track!r} is in frame {frames[:-1][step == 0][0]} twice, so ids are no tracks; leave out "
                "track=false to have them made"
            )
        cuts: list[int] = [] if max_gap is None else (np.flatnonzero(step - 1 > max_gap) + 1).tolist()
        for number, part in enumerate(np.split(np.arange(len(rows)), cuts), start=1):
            name = f"{track} part {number}" if len(cuts) else track
            if len(part) < min_frames:
                left_out.append(name)
            else:
                kept.append((name, rows[part], frames[part]))
    if not kept:
        raise ValueError(f"min_frames: none of {len(left_out)} tracks has {min_frames} frames with a seen keypoint")
    count = sum(int(frames[-1] - frames[0]) + 1 for _, _, frames in kept)
    if fill and count > _MOST_ROWS:
        raise ValueError(f"max_gap: with the frames between, tracks would have {count} rows; cut them at long gaps")

    source, known, frame, ids = [], [], [], []
    for name, rows, frames in kept:
        all_frames = np.arange(frames[0], frames[-1] + 1) if fill else frames
        latest = np.searchsorted(frames, all_frames, side="right") - 1
        source += rows[latest].tolist()
        known += (frames[latest] == all_frames).tolist()
        frame += all_frames.tolist()
        ids += [name] * len(all_frames)
    notes = []
    if left_out:
        shown = ", ".join(left_out[:5]) + (" and others" if len(left_out) > 5 else "")
        notes.append(f"{len(left_out)} tracks with fewer than {min_frames} frames were left out: {shown}")
    if missing := count - sum(known):
        done = "lie within tracks" if fill else "within tracks were left out"
        notes.append(f"{missing} frames without a keypoint {done}")
    return Rows(source, known, ids, frame, ids, [0] * len(ids), notes)


def arranged(people: KeypointPeople, rows: Rows) -> KeypointPeople:
    """The people in this order; a row that is not known has no keypoint and no image name."""
    source, known = torch.tensor(rows.source), torch.tensor(rows.known)
    return replace(
        people,
        keypoints=torch.where(known[:, None, None], people.keypoints[source], 0.0),
        confidence=torch.where(known[:, None], people.confidence[source], 0.0),
        image_sizes=None if people.image_sizes is None else people.image_sizes[source],
        ids=tuple(rows.ids),
        frames=tuple(rows.frame),
        image_names=tuple(
            people.image_names[row] if seen else "" for row, seen in zip(rows.source, rows.known, strict=True)
        ),
    )


def taken(people: KeypointPeople, rows: Sequence[int]) -> KeypointPeople:
    """These of the people."""
    return arranged(people, rows_as_they_are(people, rows))


def with_sizes(people: KeypointPeople, sizes: Float[Tensor, "people 2"], source: Path) -> KeypointPeople:
    """The people with image sizes from another file.

    Raises:
        ValueError: If they contradict those that the people have.
    """
    sizes = sizes.to(people.keypoints)
    if people.image_sizes is not None and bool((wrong := (people.image_sizes != sizes).any(dim=-1)).any()):
        row = int(wrong.nonzero()[0, 0])
        found, stated = ([int(side) for side in size[row].tolist()] for size in (sizes, people.image_sizes))
        raise ValueError(
            f"{source}: the image of person {people.ids[row]!r}, frame {people.frames[row]}, has {found[0]} x "
            f"{found[1]} pixels, but the keypoints speak of {stated[0]} x {stated[1]}: are they of another picture?"
        )
    return replace(people, image_sizes=sizes)
