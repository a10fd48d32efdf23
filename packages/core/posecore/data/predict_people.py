"""The people of what `predict` is given, before it is known which pictures they are in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posecore.body.skeletons import get_joint_set
from posecore.data.box_files import PersonBoxes, read_boxes
from posecore.data.keypoints import KeypointPeople
from posecore.data.predict_rows import taken


@dataclass(frozen=True)
class FoundPeople:
    """People with keypoints or boxes.

    Attributes:
        people: The rows; where boxes are known only, with keypoints of confidence 0.
        boxes: Left, top, right, bottom, pixels; None where people have keypoints, NaN of a person who fills a picture.
        notes: What was recognised and left out, in sentences.
    """

    people: KeypointPeople
    boxes: Float[Tensor, "people 4"] | None
    notes: tuple[str, ...] = ()


def confident_people(
    people: KeypointPeople, source: str, min_confidence: float, needs_box: bool
) -> tuple[KeypointPeople, tuple[str, ...]]:
    """The people with a keypoint of at least this confidence; weaker keypoints are gone.

    Args:
        people: The rows.
        source: What they were read from, for messages.
        min_confidence: The least confidence of a keypoint.
        needs_box: Whether people are left out, too, whose keypoints make no box: fewer than two places.

    Returns:
        The people, and what was left out.

    Raises:
        ValueError: If nobody is left.
    """
    seen = people.confidence >= min_confidence
    confidence = torch.where(seen, people.confidence, 0.0)
    keypoints = torch.where(seen[..., None], people.keypoints, 0.0)
    keep = seen_rows(replace(people, confidence=confidence))
    if not bool(keep.any()):
        raise ValueError(f"min_confidence: no keypoint of {source} has a confidence of {min_confidence}")
    skipped = people.num_skipped + int((~keep).sum())
    notes = [f"{skipped} rows without a seen keypoint were left out"] if skipped else []
    if needs_box:
        unseen = ~(confidence > 0)[..., None]
        low = keypoints.masked_fill(unseen, math.inf).amin(dim=1)
        high = keypoints.masked_fill(unseen, -math.inf).amax(dim=1)
        points = keep & ~(high > low).any(dim=1)
        keep &= ~points
        if bool(points.any()):
            notes.append(f"{int(points.sum())} rows with keypoints at fewer than two places were left out")
        if not bool(keep.any()):
            raise ValueError(f"keypoints: nobody of {source} has two seen keypoints at different places, for a box")
    people = replace(people, keypoints=keypoints, confidence=confidence, num_skipped=skipped)
    return taken(people, keep.nonzero()[:, 0].tolist()), tuple(notes)


def people_of_boxes(path: Path, min_confidence: float, joint_set: str) -> FoundPeople:
    """The people of a file of boxes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As `posecore.data.box_files.read_boxes`.
    """
    boxes = read_boxes(path, min_confidence)
    notes = (f"{boxes.num_skipped} boxes of {path} were left out: of no person, or below min_confidence",)
    return FoundPeople(_without_keypoints(boxes, joint_set), boxes.boxes, notes if boxes.num_skipped else ())


def person_of_picture(
    names: Sequence[str],
    frames: Sequence[int],
    box: tuple[float, float, float, float] | None,
    joint_set: str,
) -> FoundPeople:
    """One person in every picture, in a box or filling it."""
    corners = torch.tensor([box or (math.nan,) * 4] * len(names))
    boxes = PersonBoxes(corners, ("0",) * len(names), tuple(frames), tuple(names))
    return FoundPeople(replace(_without_keypoints(boxes, joint_set), tracked=True), corners)


def _without_keypoints(boxes: PersonBoxes, joint_set: str) -> KeypointPeople:
    """The people of whom boxes are known only."""
    joints = get_joint_set(joint_set)
    keypoints = torch.zeros(len(boxes), joints.num_joints, 2)
    return KeypointPeople(joints, keypoints, keypoints[..., 0], None, boxes.ids, boxes.frames, boxes.image_names)


def boxes_inside(boxes: Float[Tensor, "people 4"], people: KeypointPeople) -> Float[Tensor, "people 4"]:
    """The boxes, those of people who fill their pictures filled in.

    Raises:
        ValueError: If a box shares nothing with its picture.
    """
    assert people.image_sizes is not None
    whole = torch.cat((torch.zeros_like(people.image_sizes), people.image_sizes), dim=1)
    boxes = torch.where(boxes.isnan().all(dim=1, keepdim=True), whole, boxes)
    outside = ~((boxes[:, :2] < people.image_sizes) & (boxes[:, 2:] > 0)).all(dim=1)  # So that NaN is refused.
    if bool(outside.any()):
        row = int(outside.nonzero()[0, 0])
        box, (width, height) = boxes[row].tolist(), people.image_sizes[row].tolist()
        raise ValueError(
            f"box: that of person {people.ids[row]!r} goes from {box[:2]} to {box[2:]} px, outside of "
            f"{people.image_names[row]} with {width:g} x {height:g} px"
        )
    return boxes


def square(
    boxes: Float[Tensor, "people 4"], scale: float
) -> tuple[Float[Tensor, "people 2"], Float[Tensor, " people"]]:
    """Middle and side of the squares around boxes."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return (low + high) / 2, scale * (high - low).amax(dim=-1)


def seen_rows(people: KeypointPeople) -> Bool[Tensor, " people"]:
    """Which rows have a keypoint."""
    return (people.confidence > 0).any(dim=-1)
