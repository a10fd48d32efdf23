"""Where a fit starts: SMPL parameters that another program has estimated, read from its cache of predictions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.data.benchmark_files import check_shape, get_key
from posecore.data.smpl_columns import read_columns
from posecore.geometry.camera import weak_to_full_translation

FOCAL_LENGTH = 5000.0
"""Pixels, of the whole picture's camera: what the released regressors and ScoreHMR assume."""
_KEYS = ("pred_pose", "pred_betas", "pred_cam", "pred_cam_t")
_NOT_A_ROTATION = 1e-3  # Largest entry of R^T R - I that rounding to float32 or float16 leaves.


@dataclass(frozen=True)
class CropBoxes:
    """The square crops that a regressor saw, pixels of the whole picture.

    Attributes:
        center: middle of each crop.
        side: side of each crop.
        image_size: width and height of each picture.
    """

    center: Float[Tensor, "rows 2"]
    side: Float[Tensor, " rows"]
    image_size: Float[Tensor, "rows 2"]


def read_start_estimates(path: Path | str, num_rows: int, boxes: CropBoxes | None = None) -> dict[str, Tensor]:
    """Reads a released regressor's cache of predictions.

    ==============  ==============  ================================================================================
    key             shape           meaning
    ==============  ==============  ================================================================================
    ``pred_pose``   (N, 24, 3, 3)   rotations, root in the camera frame first
    ``pred_betas``  (N, 10)         shape, standard deviations
    ``pred_cam_t``  (N, 3)          translation before the whole picture's camera (focal length 5000 px), metres
    ``pred_cam``    (N, 3)          weak camera (s, tx, ty) of the crop; used where ``pred_cam_t`` is missing
    ==============  ==============  ================================================================================

    Some regressors call the translation before the crop's own camera ``pred_cam_t``. Its x and y are those of
    ``pred_cam``, which tells it apart; ``pred_cam`` is then used.

    Args:
        path: ``.npz``, or a pickle of one dict or of a list of dicts whose rows are joined.
        num_rows: rows of the data set that the estimates belong to, in the same order.
        boxes: the crops; needed where the translation comes from ``pred_cam``.

    Returns:
        ``start_global_orient start_body_pose start_betas start_transl``, float32, the keys of `PoseSample`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has another number of rows, lacks a key, is broken, or needs ``boxes``.
    """
    path = Path(path)
    columns = read_columns(path, _KEYS)
    found = len(get_key(columns, "pred_pose", path))
    if found != num_rows:
        raise ValueError(f"{path}: holds {found} estimates, but the data set has {num_rows} rows")
    pose = torch.from_numpy(check_shape("pred_pose", columns["pred_pose"], (num_rows, 24, 3, 3), path)).float()
    off = (pose.mT @ pose - torch.eye(3)).abs().amax(dim=(-1, -2))
    if not bool(((off < _NOT_A_ROTATION) & (torch.linalg.det(pose) > 0)).all()):
        raise ValueError(f"{path}: pred_pose holds matrices that are no rotations (off by {float(off.max()):.3g})")
    betas = check_shape("pred_betas", get_key(columns, "pred_betas", path), (num_rows, 10), path)
    return {
        "start_global_orient": pose[:, 0].clone(),
        "start_body_pose": pose[:, 1:].clone(),
        "start_betas": torch.from_numpy(betas).float(),
        "start_transl": _translation(columns, num_rows, boxes, path).float(),
    }


def _translation(columns: dict[str, Any], rows: int, boxes: CropBoxes | None, path: Path) -> Tensor:
    weak, full = (
        torch.from_numpy(check_shape(key, columns[key], (rows, 3), path)) if key in columns else None
        for key in ("pred_cam", "pred_cam_t")
    )
    if full is not None and (weak is None or not torch.allclose(full[:, :2], weak[:, 1:], rtol=0, atol=1e-5)):
        return full
    if weak is None:
        raise ValueError(f"{path}: has neither pred_cam_t nor pred_cam (it holds {', '.join(map(str, columns))})")
    if boxes is None:
        raise ValueError(
            f"{path}: only pred_cam, the crop's camera, is there; the translation before the whole picture needs the "
            "data set's boxes and image sizes"
        )
    if not bool((weak[:, 0] > 0).all()):
        raise ValueError(f"{path}: pred_cam has a scale of {float(weak[:, 0].min()):g}, expected scales above 0")
    center, side, image_size = (value.double() for value in (boxes.center, boxes.side, boxes.image_size))
    return weak_to_full_translation(weak, center, side, image_size, FOCAL_LENGTH)
