"""Readers of 2D keypoint files: what detectors and annotation tools write becomes one :class:`KeypointPeople`.

| format | recognised by | joint sets |
|---|---|---|
| COCO annotations | an object with ``annotations`` | by count: coco17, openpose18, body25, halpe26 |
| COCO results, AlphaPose, ViTPose, rtmlib | a list of objects with ``keypoints`` | by count, as above |
| MMPose | ``instance_info``, or a list of objects with ``keypoint_scores`` | by count; h36m17, mpii16 by its data set |
| OpenPose 1.0 to 1.3 | ``people[].pose_keypoints_2d``, until 1.1 ``pose_keypoints`` | by count: body25, openpose18 |
| simple JSON | ``people[].keypoints`` | any, by name |
| CSV | ``.csv`` or ``.tsv`` (see :mod:`posecore.data.keypoints_csv`) | any, by the joints' names |
| VideoPose3D npz | ``.npz`` with ``positions_2d`` | by count: h36m17, h36m16 |

Of COCO-WholeBody's 133 joints the first 17 are taken, of Halpe's 136 the first 26. OpenPose and MMPose may also come as
a folder with one file per picture.

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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.skeletons import JointSet
from posecore.data.keypoint_rows import (
    KNOWN_FORMATS,
    KeypointCamera,
    KeypointFile,
    KeypointRow,
    checked_size,
    is_list_of,
    load_json,
)
from posecore.data.keypoints_coco import read_annotations, read_results
from posecore.data.keypoints_csv import read_csv
from posecore.data.keypoints_folder import read_folder
from posecore.data.keypoints_mmpose import is_mmpose, read_mmpose
from posecore.data.keypoints_openpose import is_openpose, read_openpose
from posecore.data.keypoints_simple import read_simple
from posecore.data.keypoints_videopose3d import read_videopose3d

__all__ = ["KeypointCamera", "KeypointPeople", "read_keypoints"]

_TABLES = {".csv", ".tsv"}


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
        statement: In words, for results: the format, the joint set, how it was found, and what was assumed.
        tracked: Whether the ids follow people through frames, as the file says.
        skipped_files: Name and reason of each file of a folder that could not be read.
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
    statement: str = ""
    tracked: bool = False
    skipped_files: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Width and height that all rows share, in pixels; None where unknown or different."""
        if self.image_sizes is None or bool((self.image_sizes != self.image_sizes[0]).any()):
            return None
        width, height = self.image_sizes[0].tolist()
        return int(width), int(height)


def read_keypoints(
    path: Path | str,
    joint_set: str | None = None,
    image_size: tuple[int, int] | None = None,
    select: str | None = None,
    skip_broken: bool = True,
) -> KeypointPeople:
    """Reads 2D keypoints; the format is recognised from the content (table in the module's docstring).

    Visibility flags and scores become confidences by clipping to [0, 1], so COCO's 0, 1, 2 give 0, 1, 1. People without
    any seen joint are left out and counted.

    Args:
        path: A file, or a folder of OpenPose's or MMPose's files with one per picture, in the order of their names.
        joint_set: Name of the joint set, where the number of joints does not tell it (a list of 17 joints is taken as
            COCO's; a VideoPose3D file's 17 as Human3.6M's).
        image_size: Width and height in pixels, for files that do not state them.
        select: Shell pattern on the rows' ids, such as ``"S9/*"``.
        skip_broken: Leaves out files of a folder that cannot be read, and names them in ``skipped_files``; False raises
            the error of the first, as more than half of such files do in any case.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If a file is not what its format must be, the format is unknown, a person has the wrong number of
            joints, a value is not finite, an image size is not positive or contradicts ``image_size``, or no person is
            left.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no keypoint file or folder at '{path}'")
    if image_size is not None:
        image_size = checked_size(image_size, "argument image_size")
    read = _read(path, joint_set, skip_broken)
    rows: Sequence[KeypointRow] = read.rows
    if select is not None:
        ids = sorted({row.person_id for row in rows})
        rows = [row for row in rows if fnmatch.fnmatchcase(row.person_id, select)]
        if ids and not rows:
            raise ValueError(f"{path}: select={select!r} matches none of the ids {ids[:5]}")
    return _to_people(path, read, rows, image_size)


def _read(path: Path, joint_set: str | None, skip_broken: bool) -> KeypointFile:
    if path.is_dir():
        return read_folder(path, joint_set, skip_broken)
    if path.suffix.lower() == ".npz":
        return read_videopose3d(path, joint_set)
    if path.suffix.lower() in _TABLES:
        return read_csv(path, joint_set)
    content = load_json(path)
    if is_mmpose(content):
        return read_mmpose(path, content, joint_set)
    if is_list_of(content, "keypoints"):
        return read_results(path, content, joint_set)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return read_annotations(path, content, joint_set)
    if isinstance(content, dict) and content.get("people") == []:
        raise ValueError(f"{path}: the list of people is empty; at least one person with keypoints is needed")
    if is_openpose(content):
        return read_openpose(path, content, joint_set)
    if isinstance(content, dict) and is_list_of(content.get("people"), "keypoints"):
        return read_simple(path, content, joint_set)
    raise ValueError(f"{path}: unknown keypoint format; known are {KNOWN_FORMATS}")


def _to_people(
    path: Path, read: KeypointFile, rows: Sequence[KeypointRow], image_size: tuple[int, int] | None
) -> KeypointPeople:
    seen = [row for row in rows if bool((row.values[:, 2] > 0).any())]
    if read.joint_set is None or not seen:
        raise ValueError(f"{path}: holds no person with a seen joint ({len(rows)} without); at least one is needed")
    for row in seen:
        if image_size is not None and row.image_size not in (None, image_size):
            raise ValueError(f"{path}: image size {row.image_size} in the file, but image_size={image_size} was given")
    sizes = [row.image_size or image_size for row in seen]
    values = torch.from_numpy(np.stack([row.values for row in seen])).to(torch.get_default_dtype())
    statement = f"{path.name}: {read.format}; joint set {read.joint_set.name}, {read.reason}"
    if float(values[..., :2].abs().max()) <= 1:
        statement += "; all coordinates lie within 1 pixel: are they fractions of the picture instead of pixels?"
    if read.skipped:
        statement += f"; {len(read.skipped)} files could not be read and were left out"
    return KeypointPeople(
        joint_set=read.joint_set,
        keypoints=values[..., :2].contiguous(),
        confidence=values[..., 2].clamp(0.0, 1.0),
        image_sizes=None if None in sizes else torch.tensor(sizes, dtype=values.dtype),
        ids=tuple(row.person_id for row in seen),
        frames=tuple(row.frame for row in seen),
        image_names=tuple(row.image_name for row in seen),
        camera=read.camera,
        num_skipped=len(rows) - len(seen),
        statement=statement,
        tracked=read.tracked,
        skipped_files=tuple(read.skipped),
    )
