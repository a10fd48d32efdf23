"""The simple JSON of 2D keypoints, which is meant to be written by hand or by a few lines of a user's program.

:mod:`posecore.data.keypoints` describes it.
"""

from pathlib import Path
from typing import Any

import numpy as np

from posecore.body.skeletons import JOINT_SETS, get_joint_set
from posecore.data.keypoint_rows import (
    KeypointCamera,
    KeypointFile,
    KeypointRow,
    checked_size,
    finite_numbers,
    joint_name,
    set_with_joints,
)


def read_simple(path: Path, content: dict[str, Any], joint_set: str | None) -> KeypointFile:
    """The people of the file.

    Raises:
        ValueError: If something in it is not what it must be.
    """
    listed = content.get("joints")
    name = joint_set or content.get("joint_set")
    if name is not None:
        if name not in JOINT_SETS:
            raise ValueError(f"{path}: joint_set {name!r} is unknown; known are {', '.join(JOINT_SETS)}")
        chosen, reason = get_joint_set(name), "as named" if joint_set else "as the file says"
    elif isinstance(listed, list) and listed:
        chosen, reason = set_with_joints(path, listed)
    else:
        raise ValueError(f"{path}: needs joint_set (one of {', '.join(JOINT_SETS)}) or joints (a list of names)")
    order = chosen.joint_names if listed is None else tuple(joint_name(joint) for joint in listed)
    size = None
    if content.get("image_size") is not None:
        size = checked_size(content["image_size"], f"{path}: image_size")
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
            joint = joint_name(spelled)
            if joint not in chosen.joint_names:
                raise ValueError(
                    f"{path}: {label}: joint {joint!r} is not in {chosen.name}: {', '.join(chosen.joint_names)}"
                )
            if entry is not None:
                numbers = finite_numbers(path, f"{label}, joint {joint!r}", entry)
                if numbers.shape not in ((2,), (3,)):
                    raise ValueError(f"{path}: {label}: joint {joint!r} must be [x, y] or [x, y, confidence]")
                values[chosen.index(joint)] = [*numbers, 1.0][:3]
        image = str(person.get("image", content.get("image", "")))
        frame = person.get("frame", 0)
        if not isinstance(frame, int):
            raise ValueError(f"{path}: {label}: frame must be a whole number, not {frame!r}")
        rows.append(KeypointRow(values, str(person.get("id", index)), frame, image, size))
    tracked = all("id" in person for person in content["people"])
    camera = _read_camera(path, content.get("camera"))
    return KeypointFile(chosen, rows, "simple JSON", reason, tracked, camera)


def _read_camera(path: Path, content: Any) -> KeypointCamera | None:
    if content is None:
        return None
    if not isinstance(content, dict) or "focal_length" not in content:
        raise ValueError(f"{path}: camera must be an object with focal_length (and optionally center), in pixels")
    focal = finite_numbers(path, "camera.focal_length", content["focal_length"]).reshape(-1)
    if focal.size not in (1, 2) or bool((focal <= 0).any()):
        raise ValueError(f"{path}: camera.focal_length must be one or two positive numbers, not {focal.tolist()}")
    center = None
    if content.get("center") is not None:
        numbers = finite_numbers(path, "camera.center", content["center"])
        if numbers.shape != (2,):
            raise ValueError(f"{path}: camera.center must be [x, y] in pixels, not {content['center']!r}")
        center = (float(numbers[0]), float(numbers[1]))
    return KeypointCamera((float(focal[0]), float(focal[-1])), center)
