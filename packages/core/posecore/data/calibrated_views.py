"""Cameras that were calibrated together, as JSON::

{"views": [{"name": "cam0",              (optional: the rows' id, image name or a folder in it)
            "K": [[fx, 0, cx], [0, fy, cy], [0, 0, 1]],        (pixels)
            "R": [[...], [...], [...]], "t": [x, y, z],        (x_cam = R x_world + t, metres)
            "image_size": [640, 480]}]}  (optional: width, height in pixels)
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_NOT_A_ROTATION = 1e-3  # Largest entry of R^T R - I that a calibration written with few digits leaves.


@dataclass(frozen=True)
class CalibratedViews:
    """Cameras that were calibrated together.

    Attributes:
        source: The file.
        names: One name per camera; empty where the file has none.
        K: Intrinsics, pixels.
        R_world_to_cam: Rotations.
        t_world_to_cam: Translations, metres.
        image_sizes: Widths and heights, pixels; None where the file does not say.
    """

    source: Path
    names: tuple[str, ...]
    K: Float[Tensor, "views 3 3"]
    R_world_to_cam: Float[Tensor, "views 3 3"]
    t_world_to_cam: Float[Tensor, "views 3"]
    image_sizes: Float[Tensor, "views 2"] | None = None

    def __len__(self) -> int:
        return len(self.K)


def read_cameras(path: Path) -> CalibratedViews:
    """Reads calibrated cameras (JSON, see the module's docstring).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, a matrix is not what it must be, or only some views have a name or size.
    """
    if not path.is_file():
        raise FileNotFoundError(f"cameras: there is no file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error
    entries = content.get("views") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f'{path}: expected {{"views": [{{"K": ..., "R": ..., "t": ...}}, ...]}}')
    for key in ("name", "image_size"):
        if len({entry.get(key) is None for entry in entries}) > 1:
            raise ValueError(f"{path}: only some of the {len(entries)} views have {key}; give it for all or none")
    names = tuple(str(entry["name"]) for entry in entries if entry.get("name") is not None)
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: names of views must differ, got {', '.join(names)}")
    columns: dict[str, list[np.ndarray]] = {"K": [], "R": [], "t": [], "image_size": []}
    for number, entry in enumerate(entries):
        label = f"{path}: views[{number}]" + (f" ({names[number]})" if names else "")
        for key, shape in (("K", (3, 3)), ("R", (3, 3)), ("t", (3,)), ("image_size", (2,))):
            if key != "image_size" or entry.get(key) is not None:
                columns[key].append(_matrix(label, key, entry.get(key), shape))
    K, R, t = (torch.from_numpy(np.stack(columns[key])) for key in ("K", "R", "t"))
    sizes = torch.from_numpy(np.stack(columns["image_size"])) if columns["image_size"] else None
    return CalibratedViews(path, names, K, R, t, sizes)


def _matrix(label: str, key: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        matrix = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.shape != shape or not np.isfinite(matrix).all():
        raise ValueError(f"{label}: {key} must be {' x '.join(map(str, shape))} finite numbers, not {value!r}")
    if key == "K" and (min(matrix[0, 0], matrix[1, 1]) <= 0 or matrix[1, 0] or matrix[2].tolist() != [0, 0, 1]):
        raise ValueError(f"{label}: K must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx, fy above 0, not {value}")
    if key == "R" and (np.abs(matrix.T @ matrix - np.eye(3)).max() > _NOT_A_ROTATION or np.linalg.det(matrix) < 0):
        raise ValueError(f"{label}: R must be a rotation (orthonormal, determinant +1), not {value}")
    if key == "image_size" and matrix.min() <= 0:
        raise ValueError(f"{label}: image_size must be width and height above 0 px, not {value}")
    return matrix
