"""Predicted 3D joints as files: JSON to read anywhere and npz with the same arrays, and back.

The JSON (format ``humandiff-joints/2``) is that of :mod:`posecore.export.prediction_json`; a person has
``"hypotheses": [{"joints": [[x, y, z], ...], "reprojection_error_px": 4.2}, ...]``, whose number ``"best"`` are the
person's own ``"joints"``.
"""

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.body.skeletons import JointSet, get_joint_set
from posecore.export.files import atomic_write
from posecore.export.prediction_json import FRAME, UNIT, json_text, rounded, rounded_or_null, write_json

FORMAT = "humandiff-joints/2"


@dataclass(frozen=True)
class PosePredictions:
    """3D poses of people (one row per person and frame), several hypotheses each.

    Attributes:
        method: Name of the method that made them.
        joint_set: The joints' names and order, for 3D and 2D alike.
        hypotheses: Joints in metres in the camera frame (x right, y down, z forward), translation included.
        best: Index of the chosen hypothesis per person.
        reprojection_error_px: Mean pixel distance of each hypothesis to the seen 2D joints; NaN where none was seen.
        keypoints_2d_px: The 2D input in pixels.
        confidence: The 2D input's confidence in [0, 1]; 0 means unseen.
        K: Intrinsics per person.
        camera_assumed: Whether ``K`` was assumed and not given.
        camera_statement: In words, where ``K`` comes from.
        image_size: Width and height in pixels per person, where known.
        ids: One label per person.
        frames: Frame number per person.
        image_names: The image's name per person; empty where unknown.
        settings: What else a reader needs in order to repeat the run (JSON values).

    Raises:
        ValueError: If the number of joints or labels is wrong, a 3D joint, a keypoint or ``K`` is not finite, or
            ``best`` is out of range.
    """

    method: str
    joint_set: JointSet
    hypotheses: Float[Tensor, "people hypotheses joints 3"]
    best: Int[Tensor, "people"]
    reprojection_error_px: Float[Tensor, "people hypotheses"]
    keypoints_2d_px: Float[Tensor, "people joints 2"]
    confidence: Float[Tensor, "people joints"]
    K: Float[Tensor, "people 3 3"]
    camera_assumed: bool
    camera_statement: str
    ids: tuple[str, ...]
    frames: tuple[int, ...]
    image_names: tuple[str, ...]
    image_size: Float[Tensor, "people 2"] | None = None
    views: tuple[int, ...] = ()
    fps: float | None = None
    pick: str = ""
    source: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        people, hypotheses, joints = self.hypotheses.shape[:3]
        if joints != self.joint_set.num_joints:
            raise ValueError(f"hypotheses have {joints} joints; {self.joint_set.name} has {self.joint_set.num_joints}")
        if not self.views:
            object.__setattr__(self, "views", (0,) * people)
        for name in ("ids", "frames", "views", "image_names"):
            if len(getattr(self, name)) != people:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {people} people")
        for name in ("hypotheses", "keypoints_2d_px", "confidence", "K"):
            if not bool(torch.isfinite(getattr(self, name)).all()):
                raise ValueError(f"{name} holds NaN or infinity; predictions must be finite")
        if bool(((self.best < 0) | (self.best >= hypotheses)).any()):
            raise ValueError(f"best holds {self.best.tolist()}; indices of {hypotheses} hypotheses are expected")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def best_joints(self) -> Float[Tensor, "people joints 3"]:
        """The chosen hypothesis of each person, metres, camera frame."""
        return self.hypotheses[torch.arange(len(self), device=self.best.device), self.best]


def write_predictions_json(path: Path | str, predictions: PosePredictions) -> None:
    """Writes JSON (module docstring), rounded to 1e-6; a reprojection error that is NaN becomes null.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If ``settings`` hold something that JSON cannot.
    """
    names, best = predictions.joint_set.joint_names, predictions.best.tolist()
    joints = rounded(predictions.hypotheses)
    errors = [rounded_or_null(row) for row in predictions.reprojection_error_px]
    columns = {
        "joints": [dict(zip(names, row[number], strict=True)) for row, number in zip(joints, best, strict=True)],
        "reprojection_error_px": [row[number] for row, number in zip(errors, best, strict=True)],
        "best": best,
        "hypotheses": [
            [{"joints": one, "reprojection_error_px": error} for one, error in zip(*both, strict=True)]
            for both in zip(joints, errors, strict=True)
        ],
    }
    write_json(path, predictions, {"format": FORMAT}, predictions.joint_set, columns)


def write_predictions_npz(path: Path | str, predictions: PosePredictions) -> None:
    """Writes the same content as arrays, at full precision and without pickled objects.

    Raises:
        OSError: If the file cannot be written.
    """
    arrays = {name: getattr(predictions, name).detach().cpu().numpy() for name in _ARRAYS}
    if predictions.image_size is not None:
        arrays["image_size"] = predictions.image_size.detach().cpu().numpy()
    arrays |= {
        "format": np.array(FORMAT),
        "method": np.array(predictions.method),
        "unit": np.array(UNIT),
        "frame": np.array(FRAME),
        "joint_set": np.array(predictions.joint_set.name),
        "joint_names": np.array(predictions.joint_set.joint_names),
        "joints": predictions.best_joints.detach().cpu().numpy(),
        "camera_assumed": np.array(predictions.camera_assumed),
        "camera_statement": np.array(predictions.camera_statement),
        "ids": np.array(predictions.ids),
        "frames": np.array(predictions.frames, dtype=np.int64),
        "views": np.array(predictions.views, dtype=np.int64),
        "image_names": np.array(predictions.image_names),
        "fps": np.array(np.nan if predictions.fps is None else predictions.fps),
        "pick": np.array(predictions.pick),
        **{name: np.array(json_text(getattr(predictions, name))) for name in _JSON},
    }
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


_JSON = ("source", "notes", "settings")
_ARRAYS = ("hypotheses", "best", "reprojection_error_px", "keypoints_2d_px", "confidence", "K")


def read_predictions(path: Path | str) -> PosePredictions:
    """Reads what :func:`write_predictions_json` or :func:`write_predictions_npz` wrote.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file is not one of these, or of a version that this program does not know.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no prediction file at '{path}'")
    try:
        return _read_npz(path) if path.suffix == ".npz" else _read_json(path)
    except (LookupError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a prediction file of format {FORMAT} ({error})") from error


def _check_format(found: Any) -> None:
    if found != FORMAT:
        raise ValueError(f"format {found!r} is unknown")


def _read_json(path: Path) -> PosePredictions:
    content = json.loads(path.read_text(encoding="utf-8"))
    _check_format(content.get("format") if isinstance(content, dict) else None)
    joint_set = get_joint_set(content["joint_set"])
    people = content["people"]
    keypoints = torch.tensor([[person["keypoints_2d"][n] for n in joint_set.joint_names] for person in people])
    given = [person["hypotheses"] for person in people]
    errors = [[one["reprojection_error_px"] for one in row] for row in given]
    sizes = [person["image_size"] for person in people]
    return PosePredictions(
        method=content["method"],
        joint_set=joint_set,
        hypotheses=torch.tensor([[one["joints"] for one in row] for row in given]),
        best=torch.tensor([person["best"] for person in people]),
        reprojection_error_px=torch.tensor([[float("nan") if e is None else e for e in row] for row in errors]),
        keypoints_2d_px=keypoints[..., :2],
        confidence=keypoints[..., 2],
        K=torch.tensor([person["camera"]["K"] for person in people]),
        camera_assumed=people[0]["camera"]["assumed"],
        camera_statement=people[0]["camera"]["statement"],
        ids=tuple(person["id"] for person in people),
        frames=tuple(person["frame"] for person in people),
        image_names=tuple(person["image"] for person in people),
        image_size=None if None in sizes else torch.tensor(sizes, dtype=keypoints.dtype),
        views=tuple(person["view"] for person in people),
        fps=content["fps"],
        pick=content["pick"],
        source=content["source"],
        notes=tuple(content["notes"]),
        settings=content["settings"],
    )


def _read_npz(path: Path) -> PosePredictions:
    with np.load(path, allow_pickle=False) as content:
        _check_format(str(content["format"]))
        return PosePredictions(
            method=str(content["method"]),
            joint_set=get_joint_set(str(content["joint_set"])),
            camera_assumed=bool(content["camera_assumed"]),
            camera_statement=str(content["camera_statement"]),
            ids=tuple(content["ids"].tolist()),
            frames=tuple(content["frames"].tolist()),
            image_names=tuple(content["image_names"].tolist()),
            image_size=torch.from_numpy(content["image_size"]) if "image_size" in content else None,
            views=tuple(content["views"].tolist()),
            fps=None if np.isnan(content["fps"]) else float(content["fps"]),
            pick=str(content["pick"]),
            source=json.loads(str(content["source"])),
            notes=tuple(json.loads(str(content["notes"]))),
            settings=json.loads(str(content["settings"])),
            **{name: torch.from_numpy(content[name]) for name in _ARRAYS},
        )
