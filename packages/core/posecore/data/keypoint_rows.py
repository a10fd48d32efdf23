"""What the readers of keypoint files have in common: rows, the choice of the joint set, and checks of values."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from posecore.body.skeletons import JOINT_SETS, JointSet, get_joint_set

KNOWN_FORMATS = (
    "COCO annotations {images, annotations}, a COCO or AlphaPose result list [{image_id, keypoints, score}], "
    "OpenPose {people: [{pose_keypoints_2d}]}, MMPose {meta_info, instance_info} or a list of {keypoints, "
    "keypoint_scores}, the simple JSON {joint_set, people: [{keypoints}]}, a CSV with a header, or a VideoPose3D .npz "
    "with positions_2d"
)
DETECTOR_SETS = {17: "coco17", 18: "openpose18", 25: "body25", 26: "halpe26", 133: "coco17", 136: "halpe26"}
"""Joint set by number of joints; COCO-WholeBody's 133 begin with COCO's 17, Halpe's 136 with Halpe's 26."""


@dataclass(frozen=True)
class KeypointCamera:
    """A pinhole camera as a keypoint file states it.

    Attributes:
        focal_length: ``(fx, fy)`` in pixels.
        center: Principal point ``(cx, cy)`` in pixels; None where the file leaves it out.
    """

    focal_length: tuple[float, float]
    center: tuple[float, float] | None = None


@dataclass
class KeypointRow:
    """One person as read: values "joints 3" are x, y, confidence."""

    values: np.ndarray
    person_id: str
    frame: int = 0
    image_name: str = ""
    image_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class KeypointFile:
    """What the reader of one format makes of a file.

    Attributes:
        joint_set: None where the file has no person.
        rows: The people, also those without a seen joint.
        format: Name of the format, and what is to be said of this file.
        reason: How the joint set was found.
        tracked: Whether the rows' ids follow people through frames.
        camera: The camera, where the file states one.
        skipped: Name and reason of each file of a folder that could not be read.
    """

    joint_set: JointSet | None
    rows: Sequence[KeypointRow]
    format: str
    reason: str = ""
    tracked: bool = False
    camera: KeypointCamera | None = None
    skipped: Sequence[tuple[str, str]] = ()


@dataclass
class SetByCount:
    """The joint set that was named, or that the first person's number of joints tells; all others must agree.

    Attributes:
        path: The file, for messages.
        named: Name of the joint set, where it was given.
        by_count: Joint set by number of joints; a joint set that has fewer is the first of them.
        joint_set: What was chosen; None before there was a person.
        reason: How it was chosen.
    """

    path: Path
    named: str | None
    by_count: Mapping[int, str] = field(default_factory=lambda: DETECTOR_SETS)
    joint_set: JointSet | None = None
    reason: str = ""
    _count: int = 0

    def __post_init__(self) -> None:
        if self.named is not None:
            self.joint_set, self.reason = get_joint_set(self.named), "as named"

    def leading(self, label: str, values: Float[np.ndarray, "*rows joints dim"]) -> Float[np.ndarray, "*rows set dim"]:
        """The values of the joint set's joints.

        Raises:
            ValueError: If the number of joints tells no joint set, or not the same as before.
        """
        count = values.shape[-2]
        if self.joint_set is None:
            if count not in self.by_count:
                expected = ", ".join(f"{number} ({name})" for number, name in self.by_count.items())
                raise ValueError(f"{self.path}: {label} has {count} joints; expected {expected}")
            self.joint_set = get_joint_set(self.by_count[count])
            self.reason = f"recognised by {count} joints"
            if count > self.joint_set.num_joints:
                self.reason += f", of which it has the first {self.joint_set.num_joints}"
        chosen = self.joint_set
        is_longer = self.by_count.get(count) == chosen.name
        if (count != chosen.num_joints and not is_longer) or self._count not in (0, count):
            raise ValueError(
                f"{self.path}: {label} has {count} joints; {self._count or chosen.num_joints} are expected "
                f"({chosen.name})"
            )
        self._count = count
        return values[..., : chosen.num_joints, :]

    def flat(self, label: str, numbers: Any) -> Float[np.ndarray, "joints 3"]:
        """The joints of one person whose x, y, confidence come one after the other.

        Raises:
            ValueError: If they are not finite numbers, or not as many as they must be.
        """
        flat = finite_numbers(self.path, label, numbers).reshape(-1)
        if flat.size % 3:
            raise ValueError(f"{self.path}: {label} has {flat.size} numbers; x, y, confidence for each joint expected")
        return self.leading(label, flat.reshape(-1, 3))


def joint_name(name: Any) -> str:
    """A joint's name as :mod:`posecore.body.skeletons` spells it: ``Left Hip`` and ``left_hip`` are ``l_hip``."""
    spelled = re.sub(r"[\s-]+", "_", str(name).strip()).lower()
    return re.sub("^(l)eft_|^(r)ight_", lambda side: f"{side[1] or side[2]}_", spelled)


def set_with_joints(path: Path, names: Sequence[Any], named: str | None = None) -> tuple[JointSet, str]:
    """The joint set that was named, or the smallest known one that has all the names; and how it was found.

    Raises:
        ValueError: If the named set lacks a joint, or none has all.
    """
    wanted = {joint_name(name): name for name in names}
    if named is not None:
        chosen = get_joint_set(named)
        for joint, spelled in wanted.items():
            if joint not in chosen.joint_names:
                raise ValueError(
                    f"{path}: joint {spelled!r} is not in {chosen.name}, which has {', '.join(chosen.joint_names)}"
                )
        return chosen, "as named"
    fitting = [known for known in JOINT_SETS.values() if wanted.keys() <= set(known.joint_names)]
    if not fitting:
        raise ValueError(
            f"{path}: no known joint set has all of the joints {list(names)}; known are {', '.join(JOINT_SETS)}"
        )
    chosen = min(fitting, key=lambda known: known.num_joints)
    return chosen, f"the smallest with the {len(wanted)} joints that are named"


def load_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: If it is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error}); known formats are {KNOWN_FORMATS}") from error


def is_list_of(content: Any, *keys: str) -> bool:
    """Whether it is a list of objects that all have these keys."""
    return isinstance(content, list) and all(
        isinstance(item, dict) and all(key in item for key in keys) for item in content
    )


def finite_numbers(path: Path, label: str, value: Any) -> np.ndarray:
    """An array of float64.

    Raises:
        ValueError: If something is not a number, or not finite.
    """
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {label} holds something that is not a number") from error
    if not np.isfinite(numbers).all():
        raise ValueError(f"{path}: {label} holds NaN or infinity; an unseen joint must be finite with confidence 0")
    return numbers


def bare(value: Any) -> Any:
    """A person's id, which comes bare or wrapped in a list (OpenPose, AlphaPose's tracker)."""
    return value[0] if isinstance(value, list) and value else value


def checked_size(size: Any, label: str) -> tuple[int, int]:
    """Width and height in pixels.

    Raises:
        ValueError: If they are not two numbers above 0.
    """
    valid = (
        isinstance(size, (list, tuple))
        and len(size) == 2
        and all(isinstance(side, (int, float)) and math.isfinite(side) and side > 0 for side in size)
    )
    if not valid:
        raise ValueError(f"{label} must be a positive width and height in pixels, not {size!r}")
    return int(size[0]), int(size[1])


def frames_of_names(names: Sequence[str]) -> tuple[list[int], str]:
    """Frame number of each picture or file: the number that its name ends with, where all are of one sequence.

    Names of one sequence differ in that number only: ``clip_0001``, ``clip_0003``. Otherwise they are counted as they
    come.

    Returns:
        The numbers, and in words where they come from.
    """
    parts = [re.fullmatch(r"(.*?)(\d+)", re.sub(r"\.[A-Za-z]\w{1,4}$", "", name)) for name in names]
    found = [part for part in parts if part is not None]
    numbers = [int(part[2]) for part in found]
    is_sequence = len(found) == len(names) and len({part[1] for part in found}) <= 1
    if len(names) > 1 and is_sequence and len(set(numbers)) == len(numbers):
        return numbers, "frames numbered as in the names"
    return list(range(len(names))), "frames counted in their order"
