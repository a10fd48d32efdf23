"""Readers of 2D keypoint files: what detectors and annotation tools write becomes one :class:`KeypointPeople`.

| format | recognised by | joint sets |
|---|---|---|
| COCO annotations | an object with ``annotations`` | coco17, halpe26, body25 by count |
| COCO results, AlphaPose | a list of objects with ``keypoints`` | coco17, halpe26, body25 by count |
| OpenPose | ``people[].pose_keypoints_2d``; one file, or a folder with one file per frame | body25 |
| simple JSON | ``people[].keypoints`` | any, by name |
| VideoPose3D npz | ``.npz`` with ``positions_2d`` | h36m17, h36m16 by count |

The simple JSON is meant to be written by hand or by a few lines of a user's program::

    {
      "joint_set": "coco17",                  (or "joints": ["left_hip", ...], names of one known joint set)
      "image_size": [640, 425],               (optional: width, height in pixels)
      "image": "skier.jpg",                   (optional)
      "camera": {"focal_length": 800.0,       (optional; pixels, one number or [fx, fy])
                 "center": [320.0, 212.5]},   (optional; pixels)
      "people": [
        {"id": "skier",                       (optional)
         "frame": 0,                          (optional)
         "keypoints": {"left_hip": [424, 203], "right_hip": [393, 214, 0.9]}}
      ]
    }

``keypoints`` is either an object from joint name to ``[x, y]`` or ``[x, y, confidence]`` (a joint that is left out,
or is ``null``, gets confidence 0), or a list with one such entry per joint in the order of ``joints`` or of
the joint set. Names are those of :mod:`posecore.body.skeletons`; ``left_`` and ``right_`` may stand for ``l_`` and
``r_``.
"""

import fnmatch
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.skeletons import JOINT_SETS, JointSet, get_joint_set
from posecore.safe_pickle import load_npz

_KNOWN_FORMATS = (
    "COCO annotations {images, annotations}, a COCO/AlphaPose result list [{image_id, keypoints, score}], "
    "OpenPose {people: [{pose_keypoints_2d}]}, the simple JSON {joint_set, people: [{keypoints}]}, "
    "or a VideoPose3D .npz with positions_2d"
)
_DETECTOR_SETS = {17: "coco17", 25: "body25", 26: "halpe26"}
_VIDEOPOSE3D_SETS = {17: "h36m17", 16: "h36m16"}


@dataclass(frozen=True)
class KeypointCamera:
    """A pinhole camera as a keypoint file states it.

    Attributes:
        focal_length: ``(fx, fy)`` in pixels.
        center: Principal point ``(cx, cy)`` in pixels; None where the file leaves it out.
    """

    focal_length: tuple[float, float]
    center: tuple[float, float] | None = None


@dataclass(frozen=True)
class KeypointPeople:
    """People (one row per person and frame) with 2D keypoints in pixels.

    Attributes:
        joint_set: The joints' names and order.
        keypoints: Pixels, x right and y down, origin at the image's upper left corner; finite everywhere.
        confidence: In [0, 1]; 0 means the joint was not seen and its pixel says nothing.
        image_sizes: Width and height in pixels of each row's image; None where the file does not say.
        ids: One label per row: the person's, or ``subject/action/camera`` for VideoPose3D files.
        frames: Frame number per row; 0 for single images.
        image_names: Name of each row's image; empty where the file does not say.
        camera: The camera, where the file states one.
        num_skipped: How many people of the file had no seen joint and were left out.
    """

    joint_set: JointSet
    keypoints: Float[Tensor, "people joints 2"]
    confidence: Float[Tensor, "people joints"]
    image_sizes: Float[Tensor, "people 2"] | None
    ids: tuple[str, ...]
    frames: tuple[int, ...]
    image_names: tuple[str, ...]
    camera: KeypointCamera | None = None
    num_skipped: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Width and height that all rows share, in pixels; None where unknown or different."""
        if self.image_sizes is None or bool((self.image_sizes != self.image_sizes[0]).any()):
            return None
        width, height = self.image_sizes[0].tolist()
        return int(width), int(height)


@dataclass
class _Row:
    """One person as read: values "joints 3" are x, y, confidence."""

    values: np.ndarray
    person_id: str
    frame: int = 0
    image_name: str = ""
    image_size: tuple[int, int] | None = None


def read_keypoints(
    path: Path | str,
    joint_set: str | None = None,
    image_size: tuple[int, int] | None = None,
    select: str | None = None,
) -> KeypointPeople:
    """Reads 2D keypoints; the format is recognised from the content (table in the module's docstring).

    Visibility flags and scores become confidences by clipping to [0, 1], so COCO's 0, 1, 2 give 0, 1, 1. People without
    any seen joint are left out and counted.

    Args:
        path: A file, or a folder of OpenPose files with one file per frame, taken in the order of their names.
        joint_set: Name of the joint set, where the number of joints does not tell it (a list of 17 joints is taken as
            COCO's; a VideoPose3D file's 17 as Human3.6M's).
        image_size: Width and height in pixels, for files that do not state them.
        select: Shell pattern on the rows' ids, such as ``"S9/*"``.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If the file is not JSON, its format is unknown, a person has the wrong number of joints, a value is
            not finite, an image size is not positive or contradicts ``image_size``, or no person is left.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no keypoint file or folder at '{path}'")
    if image_size is not None:
        image_size = _checked_size(image_size, "argument image_size")
    chosen: JointSet | None
    camera = None
    if path.is_dir():
        chosen, rows = _read_openpose_folder(path, joint_set)
    elif path.suffix == ".npz":
        chosen, rows = _read_videopose3d(path, joint_set)
    else:
        chosen, rows, camera = _read_json(path, joint_set)
    if select is not None:
        ids = sorted({row.person_id for row in rows})
        rows = [row for row in rows if fnmatch.fnmatchcase(row.person_id, select)]
        if ids and not rows:
            raise ValueError(f"{path}: select={select!r} matches none of the ids {ids[:5]}")
    return _to_people(path, chosen, rows, image_size, camera)


def _read_json(path: Path, joint_set: str | None) -> tuple[JointSet | None, list[_Row], KeypointCamera | None]:
    content = _load_json(path)
    if isinstance(content, list) and all(isinstance(item, dict) and "keypoints" in item for item in content):
        return *_read_results(path, content, joint_set), None
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return *_read_coco(path, content, joint_set), None
    if isinstance(content, dict) and isinstance(content.get("people"), list):
        people = content["people"]
        if not people:
            raise ValueError(f"{path}: the list of people is empty; at least one person with keypoints is needed")
        if all(isinstance(person, dict) and "pose_keypoints_2d" in person for person in people):
            chosen = get_joint_set(joint_set or "body25")
            return chosen, list(_openpose_rows(path, content, chosen, frame=0, image_name="")), None
        if all(isinstance(person, dict) and "keypoints" in person for person in people):
            return _read_simple(path, content, joint_set)
    raise ValueError(f"{path}: unknown keypoint format; known are {_KNOWN_FORMATS}")


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error}); known formats are {_KNOWN_FORMATS}") from error


def _read_results(path: Path, items: list[dict[str, Any]], joint_set: str | None) -> tuple[JointSet | None, list[_Row]]:
    """COCO results and AlphaPose: a list of people, each with the image it belongs to."""
    rows = []
    chosen = get_joint_set(joint_set) if joint_set else None
    images = list(dict.fromkeys(str(item.get("image_id", "")) for item in items))
    frame_of = {image: frame for frame, image in enumerate(images)}
    for index, item in enumerate(items):
        image = str(item.get("image_id", ""))
        chosen, values = _flat_values(path, f"entry {index}", item["keypoints"], chosen)
        rows.append(_Row(values, str(_scalar(item.get("idx", index))), frame_of[image], image))
    return chosen, rows


def _read_coco(path: Path, content: dict[str, Any], joint_set: str | None) -> tuple[JointSet | None, list[_Row]]:
    """COCO annotation file; annotations without keypoints (boxes, masks) are passed over."""
    images = {image["id"]: image for image in content.get("images") or [] if isinstance(image, dict) and "id" in image}
    frame_of = {key: frame for frame, key in enumerate(images)}
    rows = []
    chosen = get_joint_set(joint_set) if joint_set else None
    annotations = [item for item in content["annotations"] if isinstance(item, dict) and "keypoints" in item]
    for index, item in enumerate(annotations):
        name = str(item.get("id", index))
        chosen, values = _flat_values(path, f"annotation {name}", item["keypoints"], chosen)
        image = images.get(item.get("image_id"), {})
        size = None
        if "width" in image or "height" in image:
            size = _checked_size([image.get("width"), image.get("height")], f"{path}: image {image['id']}")
        frame = frame_of.get(item.get("image_id"), 0)
        rows.append(_Row(values, name, frame, str(image.get("file_name", item.get("image_id", ""))), size))
    return chosen, rows


def _openpose_rows(
    path: Path, content: dict[str, Any], joint_set: JointSet, frame: int, image_name: str
) -> Iterator[_Row]:
    for index, person in enumerate(content["people"]):
        _, values = _flat_values(path, f"person {index}", person["pose_keypoints_2d"], joint_set)
        tracked = _scalar(person.get("person_id", -1))
        yield _Row(values, str(index if tracked == -1 else tracked), frame, image_name)


def _read_openpose_folder(folder: Path, joint_set: str | None) -> tuple[JointSet, list[_Row]]:
    """One OpenPose file per frame; ``name_000000000012_keypoints.json`` is frame 12."""
    chosen = get_joint_set(joint_set or "body25")
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(f"{folder}: the folder holds no .json file; expected OpenPose files, one per frame")
    rows: list[_Row] = []
    for order, path in enumerate(files):
        content = _load_json(path)
        people = content.get("people") if isinstance(content, dict) else None
        if not isinstance(people, list) or not all(isinstance(p, dict) and "pose_keypoints_2d" in p for p in people):
            raise ValueError(f"{path}: not an OpenPose file; a folder must hold OpenPose files, one per frame")
        number = re.search(r"(\d+)(_keypoints)?$", path.stem)
        frame = int(number.group(1)) if number else order
        rows.extend(_openpose_rows(path, content, chosen, frame, path.stem.removesuffix("_keypoints")))
    return chosen, rows


def _read_simple(
    path: Path, content: dict[str, Any], joint_set: str | None
) -> tuple[JointSet, list[_Row], KeypointCamera | None]:
    listed = content.get("joints")
    name = joint_set or content.get("joint_set")
    if name is not None:
        if name not in JOINT_SETS:
            raise ValueError(f"{path}: joint_set {name!r} is unknown; known are {', '.join(JOINT_SETS)}")
        chosen = get_joint_set(name)
    elif isinstance(listed, list) and listed:
        chosen = _set_with_joints(path, listed)
    else:
        raise ValueError(f"{path}: needs joint_set (one of {', '.join(JOINT_SETS)}) or joints (a list of names)")
    order = chosen.joint_names if listed is None else tuple(_joint_name(joint) for joint in listed)
    size = None
    if content.get("image_size") is not None:
        size = _checked_size(content["image_size"], f"{path}: image_size")
    rows = []
    for index, person in enumerate(content["people"]):
        label = f"person {index}"
        named = person["keypoints"]
        if isinstance(named, list):
            if len(named) != len(order):
                raise ValueError(f"{path}: {label} has {len(named)} joints; {len(order)} are expected ({chosen.name})")
            named = dict(zip(order, named, strict=True))
        if not isinstance(named, dict):
            raise ValueError(f"{path}: {label}: keypoints must be a list or an object of joint names")
        values = np.zeros((chosen.num_joints, 3))
        for spelled, entry in named.items():
            joint = _joint_name(spelled)
            if joint not in chosen.joint_names:
                raise ValueError(
                    f"{path}: {label}: joint {joint!r} is not in {chosen.name}: {', '.join(chosen.joint_names)}"
                )
            if entry is not None:
                numbers = _numbers(path, f"{label}, joint {joint!r}", entry)
                if numbers.shape not in ((2,), (3,)):
                    raise ValueError(f"{path}: {label}: joint {joint!r} must be [x, y] or [x, y, confidence]")
                values[chosen.index(joint)] = [*numbers, 1.0][:3]
        image = str(person.get("image", content.get("image", "")))
        frame = person.get("frame", 0)
        if not isinstance(frame, int):
            raise ValueError(f"{path}: {label}: frame must be a whole number, not {frame!r}")
        rows.append(_Row(values, str(person.get("id", index)), frame, image, size))
    return chosen, rows, _read_camera(path, content.get("camera"))


def _set_with_joints(path: Path, names: Sequence[Any]) -> JointSet:
    """The smallest known joint set that has all the names."""
    wanted = {_joint_name(name) for name in names}
    fitting = [known for known in JOINT_SETS.values() if wanted <= set(known.joint_names)]
    if not fitting:
        raise ValueError(f"{path}: no known joint set has all of the joints {names}; known are {', '.join(JOINT_SETS)}")
    return min(fitting, key=lambda known: known.num_joints)


def _joint_name(name: Any) -> str:
    return re.sub("^(l)eft_|^(r)ight_", lambda side: f"{side[1] or side[2]}_", str(name))


def _read_camera(path: Path, content: Any) -> KeypointCamera | None:
    if content is None:
        return None
    if not isinstance(content, dict) or "focal_length" not in content:
        raise ValueError(f"{path}: camera must be an object with focal_length (and optionally center), in pixels")
    focal = _numbers(path, "camera.focal_length", content["focal_length"]).reshape(-1)
    if focal.size not in (1, 2) or bool((focal <= 0).any()):
        raise ValueError(f"{path}: camera.focal_length must be one or two positive numbers, not {focal.tolist()}")
    center = None
    if content.get("center") is not None:
        numbers = _numbers(path, "camera.center", content["center"])
        if numbers.shape != (2,):
            raise ValueError(f"{path}: camera.center must be [x, y] in pixels, not {content['center']!r}")
        center = (float(numbers[0]), float(numbers[1]))
    return KeypointCamera((float(focal[0]), float(focal[-1])), center)


def _read_videopose3d(path: Path, joint_set: str | None) -> tuple[JointSet | None, list[_Row]]:
    """``positions_2d[subject][action][camera]`` of shape (frames, joints, 2): no confidence, so 1 for every joint."""
    content = load_npz(path)
    positions = content.get("positions_2d")
    if isinstance(positions, np.ndarray) and positions.shape == ():
        positions = positions.item()
    if not isinstance(positions, dict):
        raise ValueError(f"{path}: unknown keypoint format: the .npz has no positions_2d[subject][action][camera]")
    chosen = get_joint_set(joint_set) if joint_set else None
    rows: list[_Row] = []
    for subject, actions in positions.items():
        for action, cameras in actions.items():
            for camera, clip in enumerate(cameras):
                label = f"{subject}/{action}/{camera}"
                points = _numbers(path, label, clip)
                if points.ndim != 3 or points.shape[-1] != 2:
                    raise ValueError(f"{path}: {label} has shape {points.shape}; (frames, joints, 2) is expected")
                chosen = _set_by_count(path, label, points.shape[1], chosen, _VIDEOPOSE3D_SETS)
                values = np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)
                rows.extend(_Row(row, label, frame) for frame, row in enumerate(values))
    return chosen, rows


def _flat_values(path: Path, label: str, numbers: Any, joint_set: JointSet | None) -> tuple[JointSet, np.ndarray]:
    """Flattened x, y, c of one person as "joints 3"; the first person's count chooses the joint set."""
    flat = _numbers(path, label, numbers).reshape(-1)
    if flat.size % 3:
        raise ValueError(f"{path}: {label} has {flat.size} numbers; x, y, confidence for each joint are expected")
    joint_set = _set_by_count(path, label, flat.size // 3, joint_set, _DETECTOR_SETS)
    return joint_set, flat.reshape(-1, 3)


def _set_by_count(path: Path, label: str, count: int, known: JointSet | None, by_count: dict[int, str]) -> JointSet:
    if known is None:
        if count not in by_count:
            expected = ", ".join(f"{number} ({name})" for number, name in by_count.items())
            raise ValueError(f"{path}: {label} has {count} joints; expected {expected}")
        return get_joint_set(by_count[count])
    if count != known.num_joints:
        raise ValueError(f"{path}: {label} has {count} joints; {known.num_joints} are expected ({known.name})")
    return known


def _numbers(path: Path, label: str, value: Any) -> np.ndarray:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {label} holds something that is not a number") from error
    if not np.isfinite(numbers).all():
        raise ValueError(f"{path}: {label} holds NaN or infinity; an unseen joint must be finite with confidence 0")
    return numbers


def _scalar(value: Any) -> Any:
    """Person ids come bare or wrapped in a list (OpenPose, AlphaPose's tracker)."""
    return value[0] if isinstance(value, list) and value else value


def _checked_size(size: Any, label: str) -> tuple[int, int]:
    valid = (
        isinstance(size, (list, tuple))
        and len(size) == 2
        and all(isinstance(side, (int, float)) and math.isfinite(side) and side > 0 for side in size)
    )
    if not valid:
        raise ValueError(f"{label} must be a positive width and height in pixels, not {size!r}")
    return int(size[0]), int(size[1])


def _to_people(
    path: Path,
    joint_set: JointSet | None,
    rows: list[_Row],
    image_size: tuple[int, int] | None,
    camera: KeypointCamera | None,
) -> KeypointPeople:
    seen = [row for row in rows if bool((row.values[:, 2] > 0).any())]
    if joint_set is None or not seen:
        raise ValueError(f"{path}: holds no person with a seen joint ({len(rows)} without); at least one is needed")
    for row in seen:
        if image_size is not None and row.image_size not in (None, image_size):
            raise ValueError(f"{path}: image size {row.image_size} in the file, but image_size={image_size} was given")
    sizes = [row.image_size or image_size for row in seen]
    values = torch.from_numpy(np.stack([row.values for row in seen])).to(torch.get_default_dtype())
    return KeypointPeople(
        joint_set=joint_set,
        keypoints=values[..., :2].contiguous(),
        confidence=values[..., 2].clamp(0.0, 1.0),
        image_sizes=None if None in sizes else torch.tensor(sizes, dtype=values.dtype),
        ids=tuple(row.person_id for row in seen),
        frames=tuple(row.frame for row in seen),
        image_names=tuple(row.image_name for row in seen),
        camera=camera,
        num_skipped=len(rows) - len(seen),
    )
