"""What the JSON files of predicted joints and of predicted bodies have in common, in the same words and places.

::

    {
      "format": "...", "method": "ZeDO", "unit": "metre", "frame": "camera: x right, y down, z forward",
      "joint_set": "h36m17", "joint_names": [...], "parents": [...],       (of "joints")
      "keypoint_set": "h36m17",                                            (of "keypoints_2d")
      "fps": 30.0,                                   (null where there is no video)
      "pick": "...",                                 (how "best" was chosen; empty where there is nothing to choose)
      "source": {"photo": "skier.jpg", ...},         (what was read)
      "notes": ["...", ...],                         (what was assumed, left out or filled in)
      "settings": {...},                             (what else was set)
      "people": [{
        "id": "0", "frame": 0, "view": 0, "image": "skier.jpg", "image_size": [640, 425],      (size null if unknown)
        "camera": {"K": [[fx, 0, cx], ...], "assumed": true, "statement": "..."},
        "joints": {"pelvis": [x, y, z], ...},
        "reprojection_error_px": 4.2,                (of "joints"; null where no keypoint was seen)
        "best": 3, "hypotheses": [{...}, ...],       (where there are several)
        "keypoints_2d": {"pelvis": [x, y, confidence], ...}
      }]
    }
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.skeletons import JointSet
from posecore.export.files import write_text

UNIT = "metre"
FRAME = "camera: x right, y down, z forward"

_DECIMALS = 6  # micrometres and microradians: finer than any of these methods, and a third of the characters


def write_json(
    path: Path | str,
    made: Any,
    kind: Mapping[str, Any],
    joint_set: JointSet,
    columns: Mapping[str, Sequence[Any]],
) -> None:
    """Writes the JSON (module docstring).

    Args:
        path: The file.
        made: `PosePredictions` or `SMPLPredictions`, which explain what is read of them here.
        kind: What stands at the top beside the common: the format first.
        joint_set: Of the 3D joints.
        columns: What a person has beside the common, a value per row.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If ``source``, ``notes`` or ``settings`` hold something that JSON cannot.
    """
    names = made.joint_set.joint_names
    keypoints = rounded(torch.cat([made.keypoints_2d_px, made.confidence[..., None]], dim=-1))
    intrinsics, sizes = rounded(made.K), rounded(made.image_size)
    people = [
        {
            "id": made.ids[row],
            "frame": made.frames[row],
            "view": made.views[row],
            "image": made.image_names[row],
            "image_size": None if sizes is None else sizes[row],
            "camera": {"K": intrinsics[row], "assumed": made.camera_assumed, "statement": made.camera_statement},
            **{name: values[row] for name, values in columns.items()},
            "keypoints_2d": dict(zip(names, keypoints[row], strict=True)),
        }
        for row in range(len(made.ids))
    ]
    content = {
        **kind,
        "method": made.method,
        "unit": UNIT,
        "frame": FRAME,
        "joint_set": joint_set.name,
        "joint_names": list(joint_set.joint_names),
        "parents": list(joint_set.parents),
        "keypoint_set": made.joint_set.name,
        "fps": made.fps,
        "pick": made.pick,
        "source": made.source,
        "notes": list(made.notes),
        "settings": made.settings,
        "people": people,
    }
    write_text(path, json_text(content) + "\n")


def json_text(content: Any) -> str:
    """The value as JSON.

    Raises:
        ValueError: It holds what JSON cannot: NaN, or an object.
    """
    try:
        return json.dumps(content, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings must hold finite JSON values only: {error}") from error


def rounded(tensor: Tensor | None) -> Any:
    """Nested lists of the numbers, to six decimals; None for None."""
    return None if tensor is None else tensor.detach().double().cpu().numpy().round(_DECIMALS).tolist()


def rounded_or_null(values: Float[Tensor, " rows"]) -> list[float | None]:
    """The same with None for NaN."""
    return [None if value != value else value for value in rounded(values)]
