"""Predicted 3D joints as files: JSON to read anywhere and npz with the same arrays, and back.

The JSON (format ``humandiff-joints/1``)::

    {
      "format": "humandiff-joints/1", "method": "...", "unit": "metre",
      "frame": "camera: x right, y down, z forward", "joint_set": "h36m17", "joint_names": [...], "parents": [...],
      "people": [{
        "id": "0", "frame": 0, "image": "skier.jpg", "image_size": [640, 425],
        "camera": {"K": [[fx, 0, cx], ...], "assumed": true, "statement": "..."},
        "best_hypothesis": 3, "joints": {"pelvis": [x, y, z], ...},
        "reprojection_error_px": [...one per hypothesis], "hypotheses": [[[x, y, z], ...], ...],
        "keypoints_2d": {"pelvis": [x, y, confidence], ...}
      }]
    }
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
from posecore.export.files import atomic_write, write_text

FORMAT = "humandiff-joints/1"
UNIT = "metre"
FRAME = "camera: x right, y down, z forward"
_DECIMALS = 6  # micrometres: finer than any of these methods, and a third of the characters


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
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        people, hypotheses, joints = self.hypotheses.shape[:3]
        if joints != self.joint_set.num_joints:
            raise ValueError(f"hypotheses have {joints} joints; {self.joint_set.name} has {self.joint_set.num_joints}")
        for name in ("ids", "frames", "image_names"):
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
    names = predictions.joint_set.joint_names
    best = predictions.best.tolist()
    hypotheses = _rounded(predictions.hypotheses)
    errors = _rounded(predictions.reprojection_error_px)
    keypoints = _rounded(torch.cat([predictions.keypoints_2d_px, predictions.confidence[..., None]], dim=-1))
    intrinsics = _rounded(predictions.K)
    people = []
    for row in range(len(predictions)):
        people.append(
            {
                "id": predictions.ids[row],
                "frame": predictions.frames[row],
                "image": predictions.image_names[row],
                "image_size": None if predictions.image_size is None else predictions.image_size[row].tolist(),
                "camera": {
                    "K": intrinsics[row],
                    "assumed": predictions.camera_assumed,
                    "statement": predictions.camera_statement,
                },
                "best_hypothesis": best[row],
                "joints": dict(zip(names, hypotheses[row][best[row]], strict=True)),
                "reprojection_error_px": [None if error != error else error for error in errors[row]],
                "hypotheses": hypotheses[row],
                "keypoints_2d": dict(zip(names, keypoints[row], strict=True)),
            }
        )
    content = {
        "format": FORMAT,
        "method": predictions.method,
        "unit": UNIT,
        "frame": FRAME,
        "joint_set": predictions.joint_set.name,
        "joint_names": list(names),
        "parents": list(predictions.joint_set.parents),
        "settings": predictions.settings,
        "people": people,
    }
    try:
        text = json.dumps(content, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings must hold finite JSON values only: {error}") from error
    write_text(path, text + "\n")


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
        "image_names": np.array(predictions.image_names),
        "settings": np.array(json.dumps(predictions.settings)),
    }
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


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
    errors = [[float("nan") if e is None else e for e in person["reprojection_error_px"]] for person in people]
    sizes = [person["image_size"] for person in people]
    return PosePredictions(
        method=content["method"],
        joint_set=joint_set,
        hypotheses=torch.tensor([person["hypotheses"] for person in people]),
        best=torch.tensor([person["best_hypothesis"] for person in people]),
        reprojection_error_px=torch.tensor(errors),
        keypoints_2d_px=keypoints[..., :2],
        confidence=keypoints[..., 2],
        K=torch.tensor([person["camera"]["K"] for person in people]),
        camera_assumed=people[0]["camera"]["assumed"],
        camera_statement=people[0]["camera"]["statement"],
        ids=tuple(person["id"] for person in people),
        frames=tuple(person["frame"] for person in people),
        image_names=tuple(person["image"] for person in people),
        image_size=None if None in sizes else torch.tensor(sizes, dtype=keypoints.dtype),
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
            settings=json.loads(str(content["settings"])),
            **{name: torch.from_numpy(content[name]) for name in _ARRAYS},
        )


def _rounded(tensor: Tensor) -> Any:
    return tensor.detach().double().cpu().numpy().round(_DECIMALS).tolist()
