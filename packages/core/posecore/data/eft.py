"""EFT: SMPL fits to the people of COCO, MPII and LSP-extended."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from posecore.body.skeletons import JOINTS_44
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import check_shape, check_stride, find_path, get_key
from posecore.data.crops import PersonCrops
from posecore.data.person_rows import person_rows
from posecore.data.picture_sizes import picture_sizes

HOW_TO_OBTAIN = (
    "EFT's fits are free for non-commercial use: facebookresearch/eft on GitHub, scripts/download_eft.sh; the pictures "
    "come from COCO, MPII and LSP-extended themselves"
)
FOLDERS = ("eft_fit", "eft")
PIXELS_PER_SCALE = 200.0
_NOT_A_ROTATION = 1e-3  # Largest entry of R^T R - I that rounding to float32 or float16 leaves.


class EFT(PoseTable):
    """People in photographs with an SMPL body that was fitted to their 2D keypoints; nothing but the fits is needed.

    ============  ====================================================================================================
    content       one file for each data set. COCO2014-All-ver01.json: 79,051 people of COCO's train2014 with 6
                  annotated keypoints or more; COCO2014-Part-ver01.json: the 28,344 whose 12 limb joints are all
                  annotated; MPII_ver01.json and LSPet_ver01.json: some 14,000 and 7,000
    joints        joints44, none known: `posecore.data.coco.COCO` and `posecore.data.mpii.MPII` add their annotations
    frame         ``global_orient`` in camera axes (x right, y down, z forward)
    camera        assumed as SPIN does: focal length 5000 px, principal point in the middle of the picture. The files'
                  weak cameras of the crops (``parm_cam``) are not read: rows have no translation
    body          ``global_orient``, ``body_pose``, ``betas`` of the neutral SMPL: fits, not measured truth
    files         ``<name>.json``: {"ver", "data": [{"parm_pose" (24, 3, 3), "parm_shape" (10), "bbox_center" (2),
                  "bbox_scale" (side by 200 px), "imageName", "annotId" (of COCO alone), ...}]}, and the pictures
    licence       CC BY-NC 4.0, and the terms of the data sets
    to obtain     GitHub: facebookresearch/eft
    ============  ====================================================================================================

    Rows have the keys of `posecore.data.person_rows.person_rows`; ``clip`` is the picture's name below ``image_root``.
    The person's box is the file's, the one that the fit saw. 2D keypoints that some versions of the files hold are
    not read, as the format's description does not name them.

    Args:
        root: folder with the file, or the one that holds it as ``eft_fit``.
        file: its name.
        image_root: folder of the pictures; their sizes are read even without ``crops``.
        stride: takes every ``stride``-th person.
        crops: side in pixels of the person's box in ``image``, a raw crop for `posecore.data.augment`: uint8, sRGB,
            black outside of the picture. None reads no pictures but for their sizes.
        crop_margin: side of ``image`` by that of the box; augmentation turns and shifts the box within it.

    Raises:
        FileNotFoundError: if a file or picture is not there.
        ValueError: if an argument is out of range or the file is broken.

    References:
        Joo, Neverova and Vedaldi, Exemplar Fine-Tuning for 3D Human Model Fitting Towards In-the-Wild 3D Human Pose
        Estimation, 3DV 2021.
    """

    def __init__(
        self,
        root: Path,
        file: str,
        image_root: Path,
        stride: int = 1,
        crops: int | None = None,
        crop_margin: float = 1.5,
    ) -> None:
        check_stride(stride)
        fits = read_eft(find_path(Path(root), FOLDERS, file, HOW_TO_OBTAIN))
        rows = np.arange(0, len(fits.names), stride)
        clip = [fits.names[row] for row in rows]
        pictures = tuple(Path(image_root) / name for name in clip)
        samples = person_rows(
            clip, fits.box[rows], picture_sizes(pictures), pose=fits.pose[rows], betas=fits.betas[rows]
        )
        box = samples["box"]
        images = None if crops is None else PersonCrops(pictures, box[:, :2], box[:, 2], crops, crop_margin)
        super().__init__(JOINTS_44, samples, images)


@dataclass(frozen=True, eq=False)
class EFTFits:
    """The fits of one file.

    Attributes:
        names: name of each picture, without folder.
        annotation: number of the person among COCO's annotations; -1 where the file has none.
        box: middle (x, y) and side of the box that the fit saw, pixels.
        pose: rotations of SMPL's 24 joints, root first, camera axes.
        betas: shape, standard deviations.
    """

    names: list[str]
    annotation: Int[np.ndarray, " fits"]
    box: Float[np.ndarray, "fits 3"]
    pose: Float[Tensor, "fits 24 3 3"]
    betas: Float[np.ndarray, "fits 10"]

    def of_rows(self, which: Int[np.ndarray, " rows"]) -> dict[str, Any]:
        """``pose betas has_pose has_betas`` of `person_rows`: fit ``which[row]`` of each row, -1 where it has none."""
        known: Bool[np.ndarray, " rows"] = which >= 0
        place = which.clip(min=0)
        return {"pose": self.pose[place], "betas": self.betas[place], "has_pose": known, "has_betas": known}


def read_eft(path: Path) -> EFTFits:
    """Reads EFT's json.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, is cut off, has no fit, or holds matrices that are no rotations.
    """
    data = get_key(read_json(path), "data", path)
    if not isinstance(data, list) or not data:
        raise ValueError(f"{path}: 'data' holds no list of fits, expected one entry for each person")
    pose = torch.from_numpy(_column(data, "parm_pose", (24, 3, 3), path)).float()
    off = (pose.mT @ pose - torch.eye(3)).abs().amax(dim=(-1, -2, -3))
    bad = ~((off < _NOT_A_ROTATION) & (torch.linalg.det(pose) > 0).all(dim=-1))
    if bool(bad.any()):
        first = int(bad.nonzero()[0, 0])
        raise ValueError(f"{path}: parm_pose of fit {first} holds matrices that are no rotations")
    scale = _column(data, "bbox_scale", (1,), path)
    if scale.min() <= 0:
        raise ValueError(f"{path}: bbox_scale of fit {int(scale.argmin())} is {scale.min():g}, expected sides above 0")
    return EFTFits(
        names=[PurePosixPath(str(get_key(fit, "imageName", path / f"fit {n}"))).name for n, fit in enumerate(data)],
        annotation=np.array([number if isinstance(number := fit.get("annotId"), int) else -1 for fit in data]),
        box=np.concatenate((_column(data, "bbox_center", (2,), path), PIXELS_PER_SCALE * scale), axis=1),
        pose=pose,
        betas=_column(data, "parm_shape", (10,), path),
    )


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no JSON, or cut off.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no JSON file, or cut off: {error}") from error


def _column(data: list[Any], key: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """One array of all fits; axes of length 1 more or less do not matter, as to EFT's own readers."""
    rows = []
    for number, fit in enumerate(data):
        where = path / f"fit {number}"
        values = get_key(fit, key, where)
        if np.size(values) == np.prod(shape):
            values = np.reshape(values, shape)
        rows.append(check_shape(key, values, shape, where))
    return np.stack(rows)
