"""2D keypoints of OpenPose, versions 1.0 to 1.3: BODY_25, or COCO's 18 joints as in version 1.0."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from posecore.data.keypoint_rows import KeypointFile, KeypointRow, SetByCount, bare

_KEYS = ("pose_keypoints_2d", "pose_keypoints")  # The second until version 1.1.
_SETS = {25: "body25", 18: "openpose18"}


def is_openpose(content: Any) -> bool:
    """Whether this JSON is OpenPose's; a frame without people is, too."""
    people = content.get("people") if isinstance(content, dict) else None
    return isinstance(people, list) and all(
        isinstance(person, dict) and any(key in person for key in _KEYS) for person in people
    )


def choice(path: Path, joint_set: str | None) -> SetByCount:
    """OpenPose's joint sets by number of joints."""
    return SetByCount(path, joint_set, _SETS)


def openpose_rows(content: dict[str, Any], chosen: SetByCount, frame: int, image_name: str) -> Iterator[KeypointRow]:
    """The people of one file.

    Raises:
        ValueError: If a person's keypoints are not what they must be.
    """
    for index, person in enumerate(content["people"]):
        numbers = person[next(key for key in _KEYS if key in person)]
        # Of whom only a hand or the face was found has an empty list.
        values = chosen.flat(f"person {index}", numbers) if numbers != [] else np.zeros((0, 3))
        tracked = bare(person.get("person_id", -1))
        yield KeypointRow(values, str(index if tracked == -1 else tracked), frame, image_name)


def is_tracked(content: dict[str, Any]) -> bool:
    """Whether the people of a file have the ids of a tracker; -1 is what OpenPose writes without one."""
    return all(bare(person.get("person_id", -1)) != -1 for person in content["people"])


def read_openpose(path: Path, content: dict[str, Any], joint_set: str | None) -> KeypointFile:
    """The people of one picture.

    Raises:
        ValueError: If a person's keypoints are not what they must be.
    """
    chosen = choice(path, joint_set)
    rows = list(openpose_rows(content, chosen, 0, ""))
    return KeypointFile(chosen.joint_set, rows, version(content), chosen.reason, is_tracked(content))


def version(content: dict[str, Any]) -> str:
    """The format's name with what the file says of its version."""
    return f"OpenPose {content['version']}" if content.get("version") else "OpenPose"
