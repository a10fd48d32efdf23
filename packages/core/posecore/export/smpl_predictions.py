"""SMPL bodies as files: JSON to read anywhere, npz with everything and back.

The JSON (format ``humandiff-smpl/2``) is that of :mod:`posecore.export.prediction_json` with ``"body": "..."`` at the
top. A person also has::

    "pose": [[x, y, z], ...24 axis-angles in radians, root first...], "betas": [...10], "transl": [x, y, z],
    "start": {"pose": ..., "betas": ..., "transl": ..., "reprojection_error_px": 9.1}      (or null)

Where a method gives several hypotheses, they are ``"hypotheses": [{"pose": [...]}, ...]``, and ``"best"`` is the number
of the pick, whose pose is that of the person; betas and translation are the same for all.
"""

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.body.skeletons import SMPL_24, JointSet, get_joint_set
from posecore.export.files import atomic_write
from posecore.export.prediction_json import FRAME, UNIT, json_text, rounded, rounded_or_null, write_json
from posecore.geometry.rotation import rotmat_to_axis_angle

FORMAT = "humandiff-smpl/2"

_PARAMETERS = ("global_orient", "body_pose", "betas", "transl")
_ARRAYS = (*_PARAMETERS, "joints", "keypoints_2d_px", "confidence", "reprojection_error_px", "K", "image_size")
_START = tuple(f"start_{name}" for name in _PARAMETERS)
_HYPOTHESES = ("hypotheses_global_orient", "hypotheses_body_pose", "best")
_OPTIONAL_ARRAYS = (*_START, "start_reprojection_error_px", *_HYPOTHESES)
_SAME_POSE = 1e-3  # largest difference of rotation matrices that rounding leaves
_TEXTS = ("method", "body", "camera_statement")
_LABELS = ("ids", "frames", "views", "image_names")
_JSON = ("source", "notes", "settings")


@dataclass(frozen=True)
class SMPLPredictions:
    """SMPL bodies of people (one row per person, frame and view) in their cameras' frames.

    Attributes:
        method: Name of the method that made them.
        body: Name of the body model that the parameters are of.
        global_orient: Rotation of the root in the camera frame (x right, y down, z forward).
        body_pose: Rotations of the other joints relative to their parents.
        betas: Shape, standard deviations.
        transl: Translation in the camera frame, metres.
        joints: The body's 24 kinematic joints in the camera frame, metres.
        joint_set: The 2D input's joints.
        keypoints_2d_px: The 2D input in pixels.
        confidence: The 2D input's confidence in [0, 1]; 0 means unseen.
        reprojection_error_px: Mean pixel distance of the body's joints to the seen keypoints; NaN where none was seen.
        K: Intrinsics per row.
        image_size: Width and height in pixels per row.
        camera_assumed: Whether ``K`` was assumed and not given.
        camera_statement: In words, where ``K`` comes from.
        ids: One label per row: the person's, in a video the track's.
        frames: Frame number per row.
        views: Number of the camera per row.
        image_names: The image's name per row; empty where unknown.
        fps: Frames per second, of a video.
        start_global_orient: The estimate that the fit started from, where it is known; so the other three.
        start_body_pose: See ``start_global_orient``.
        start_betas: See ``start_global_orient``.
        start_transl: See ``start_global_orient``.
        start_reprojection_error_px: Its error, as ``reprojection_error_px``.
        hypotheses_global_orient: As ``global_orient``, of every hypothesis, where a method gives several; they share
            betas and translation.
        hypotheses_body_pose: As ``body_pose``, of every hypothesis.
        best: Number of the hypothesis whose pose is the row's own.
        pick: In words, how it was chosen; no truth is used.
        source: What was read (JSON values).
        notes: What was assumed, left out or filled in, in sentences.
        settings: What else a reader needs in order to repeat the run (JSON values).

    Raises:
        ValueError: If the number of keypoints or labels is wrong, a number that must be finite is not, ``fps`` is not
            positive, the start or the hypotheses are there in part only, or ``best`` is not the hypothesis of the row.
    """

    method: str
    body: str
    global_orient: Float[Tensor, "people 3 3"]
    body_pose: Float[Tensor, "people 23 3 3"]
    betas: Float[Tensor, "people 10"]
    transl: Float[Tensor, "people 3"]
    joints: Float[Tensor, "people 24 3"]
    joint_set: JointSet
    keypoints_2d_px: Float[Tensor, "people keypoints 2"]
    confidence: Float[Tensor, "people keypoints"]
    reprojection_error_px: Float[Tensor, " people"]
    K: Float[Tensor, "people 3 3"]
    image_size: Float[Tensor, "people 2"]
    camera_assumed: bool
    camera_statement: str
    ids: tuple[str, ...]
    frames: tuple[int, ...]
    views: tuple[int, ...]
    image_names: tuple[str, ...]
    fps: float | None = None
    start_global_orient: Float[Tensor, "people 3 3"] | None = None
    start_body_pose: Float[Tensor, "people 23 3 3"] | None = None
    start_betas: Float[Tensor, "people 10"] | None = None
    start_transl: Float[Tensor, "people 3"] | None = None
    start_reprojection_error_px: Float[Tensor, " people"] | None = None
    hypotheses_global_orient: Float[Tensor, "people hypotheses 3 3"] | None = None
    hypotheses_body_pose: Float[Tensor, "people hypotheses 23 3 3"] | None = None
    best: Int[Tensor, " people"] | None = None
    pick: str = ""
    source: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        people, keypoints = self.confidence.shape
        if keypoints != self.joint_set.num_joints:
            raise ValueError(
                f"confidence has {keypoints} joints; {self.joint_set.name} has {self.joint_set.num_joints}"
            )
        for name in _LABELS:
            if len(getattr(self, name)) != people:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {people} people")
        for what, names in (("start lacks", _START), ("hypotheses lack", _HYPOTHESES)):
            missing = [name for name in names if getattr(self, name) is None]
            if 0 < len(missing) < len(names):
                raise ValueError(f"the {what} {', '.join(missing)}; give all of {', '.join(names)} or none")
        finite = (*_PARAMETERS, *_START, *_HYPOTHESES, "joints", "keypoints_2d_px", "confidence", "K", "image_size")
        for name in finite:
            value = getattr(self, name)
            if value is not None and not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} holds NaN or infinity; predictions must be finite")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps is {self.fps}; it must be above 0, or None where there is no video")
        self._check_best()

    def _check_best(self) -> None:
        """The pick is one of the hypotheses, and the row's own pose."""
        if self.best is None or self.hypotheses_global_orient is None or self.hypotheses_body_pose is None:
            return
        count = self.hypotheses_body_pose.shape[1]
        if not bool(((self.best >= 0) & (self.best < count)).all()):
            raise ValueError(f"best is {self.best.tolist()}; valid are 0 to {count - 1}")
        row = torch.arange(len(self))
        for mine, theirs in (
            (self.global_orient, self.hypotheses_global_orient[row, self.best]),
            (self.body_pose, self.hypotheses_body_pose[row, self.best]),
        ):
            if not torch.allclose(mine, theirs, rtol=0, atol=_SAME_POSE):
                raise ValueError("best: the hypothesis of that number has another pose than the row itself")

    def take(self, rows: Sequence[int]) -> "SMPLPredictions":
        """These rows only."""
        changed: dict[str, Any] = {}
        for name in (entry.name for entry in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                changed[name] = value[list(rows)]
            elif name in _LABELS:
                changed[name] = tuple(value[row] for row in rows)
        return replace(self, **changed)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pose_axis_angle(self) -> Float[Tensor, "people 24 3"]:
        """All 24 rotations, root first, radians."""
        return _axis_angle(self.global_orient, self.body_pose)

    @property
    def hypotheses_axis_angle(self) -> Float[Tensor, "people hypotheses 24 3"] | None:
        """The same of every hypothesis, where there are several."""
        if self.hypotheses_global_orient is None or self.hypotheses_body_pose is None:
            return None
        return _axis_angle(self.hypotheses_global_orient, self.hypotheses_body_pose)

    @property
    def start_pose_axis_angle(self) -> Float[Tensor, "people 24 3"] | None:
        """The same of the start, where it is known."""
        if self.start_global_orient is None or self.start_body_pose is None:
            return None
        return _axis_angle(self.start_global_orient, self.start_body_pose)


def write_smpl_json(path: Path | str, predictions: SMPLPredictions) -> None:
    """Writes JSON (module docstring), rounded to 1e-6; a reprojection error that is NaN becomes null.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If ``settings`` hold something that JSON cannot.
    """
    joints = rounded(predictions.joints)
    columns: dict[str, list[Any]] = {
        "joints": [dict(zip(SMPL_24.joint_names, row, strict=True)) for row in joints],
        "reprojection_error_px": rounded_or_null(predictions.reprojection_error_px),
        "pose": rounded(predictions.pose_axis_angle),
        "betas": rounded(predictions.betas),
        "transl": rounded(predictions.transl),
        "start": [None] * len(predictions),
    }
    if (pose := predictions.start_pose_axis_angle) is not None:
        unknown = torch.full_like(predictions.reprojection_error_px, torch.nan)
        error = predictions.start_reprojection_error_px
        start = {
            "pose": rounded(pose),
            "betas": rounded(predictions.start_betas),
            "transl": rounded(predictions.start_transl),
            "reprojection_error_px": rounded_or_null(unknown if error is None else error),
        }
        columns["start"] = [dict(zip(start, values, strict=True)) for values in zip(*start.values(), strict=True)]
    if (poses := predictions.hypotheses_axis_angle) is not None and predictions.best is not None:
        columns["best"] = predictions.best.tolist()
        columns["hypotheses"] = [[{"pose": pose} for pose in row] for row in rounded(poses)]
    write_json(path, predictions, {"format": FORMAT, "body": predictions.body}, SMPL_24, columns)


def write_smpl_npz(path: Path | str, predictions: SMPLPredictions) -> None:
    """Writes the same content as arrays (rotations as matrices), at full precision and without pickled objects.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If ``settings`` hold something that JSON cannot.
    """
    values = {name: getattr(predictions, name) for name in (*_ARRAYS, *_OPTIONAL_ARRAYS)}
    arrays = {name: value.detach().cpu().numpy() for name, value in values.items() if value is not None}
    arrays |= {name: np.array(getattr(predictions, name)) for name in (*_TEXTS, *_LABELS, "camera_assumed")}
    arrays |= {
        "format": np.array(FORMAT),
        "unit": np.array(UNIT),
        "frame": np.array(FRAME),
        "joint_names": np.array(SMPL_24.joint_names),
        "joint_set": np.array(predictions.joint_set.name),
        "keypoint_names": np.array(predictions.joint_set.joint_names),
        "fps": np.array(np.nan if predictions.fps is None else predictions.fps),
    }
    arrays["pick"] = np.array(predictions.pick)
    arrays |= {name: np.array(json_text(getattr(predictions, name))) for name in _JSON}
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def read_smpl_predictions(path: Path | str) -> SMPLPredictions:
    """Reads what :func:`write_smpl_npz` wrote.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file is not one of these, or of a version that this program does not know.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no prediction file at '{path}'")
    try:
        with np.load(path, allow_pickle=False) as content:
            if str(content["format"]) != FORMAT:
                raise ValueError(f"format {str(content['format'])!r} is unknown")
            fps = float(content["fps"])
            columns: dict[str, Any] = {name: str(content[name]) for name in _TEXTS}
            columns |= {name: tuple(content[name].tolist()) for name in _LABELS}
            columns |= {name: torch.from_numpy(content[name]) for name in _ARRAYS}
            columns |= {name: torch.from_numpy(content[name]) for name in _OPTIONAL_ARRAYS if name in content}
            return SMPLPredictions(
                joint_set=get_joint_set(str(content["joint_set"])),
                camera_assumed=bool(content["camera_assumed"]),
                fps=None if np.isnan(fps) else fps,
                pick=str(content["pick"]),
                source=json.loads(str(content["source"])),
                notes=tuple(json.loads(str(content["notes"]))),
                settings=json.loads(str(content["settings"])),
                **columns,
            )
    except (LookupError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a prediction file of format {FORMAT} (.npz): {error}") from error


def _axis_angle(
    global_orient: Float[Tensor, "*people 3 3"], body_pose: Float[Tensor, "*people 23 3 3"]
) -> Float[Tensor, "*people 24 3"]:
    return rotmat_to_axis_angle(torch.cat((global_orient.unsqueeze(-3), body_pose), dim=-3))
