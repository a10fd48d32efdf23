"""Square crops around people, as image backbones want them.

Pixels are those of :mod:`posecore.geometry.camera`: continuous, (0, 0) is the top left corner of the picture. A point
of the picture lies in its crop where :func:`posecore.geometry.camera.crop_keypoints` says, and the crop's camera is
:func:`posecore.geometry.camera.crop_intrinsics`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from posecore.data.base import PoseTable
from posecore.data.sample import PoseSample
from posecore.pictures import upright_rgb

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in [0, 1]; the regressors' backbones and most of timm's take images normalised by these."""
_LARGEST_BOX = 16_384  # Pixels; bounds the memory of a crop to 1 GB, and no picture of a person is as large.


def crop(
    picture: UInt8[np.ndarray, "height width 3"],
    center_px: tuple[float, float],
    box_size_px: float,
    size: int = 224,
) -> Float[Tensor, "3 size size"]:
    """Cuts out a square and resizes it, smoothed where it shrinks; what lies outside the picture is black.

    Args:
        picture: sRGB.
        center_px: middle (x, y) of the square.
        box_size_px: its side.
        size: side of the crop in pixels: 224 for PARE and ProHMR, 256 for HMR2.

    Returns:
        Red, green and blue, normalised by ``IMAGENET_MEAN`` and ``IMAGENET_STD`` after black was filled in.

    Raises:
        ValueError: if the box is not finite, empty or larger than 16384 px, or ``size`` is not positive.
    """
    pixels = raw_crop(picture, center_px, box_size_px, size).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((pixels - mean) / std).contiguous()


def raw_crop(
    picture: UInt8[np.ndarray, "height width 3"],
    center_px: tuple[float, float],
    box_size_px: float,
    size: int = 224,
) -> UInt8[Tensor, "3 size size"]:
    """As :func:`crop`, but sRGB as it is in the picture.

    Raises:
        ValueError: as for :func:`crop`.
    """
    if size < 1:
        raise ValueError(f"size: must be at least 1 px, got {size}")
    if not (all(map(math.isfinite, center_px)) and 0 < box_size_px <= _LARGEST_BOX):
        raise ValueError(
            f"center_px and box_size_px: must be finite and a side in (0, {_LARGEST_BOX}] px, got {center_px} and "
            f"{box_size_px}"
        )
    # The filter reads one pixel of the crop, at least one of the picture, beyond the edges of the box.
    margin = max(box_size_px / size, 1.0) + 1
    side = math.ceil(box_size_px + 2 * margin) + 1
    left, top = (math.floor(middle - box_size_px / 2 - margin) for middle in center_px)
    (x0, x1), (y0, y1) = (
        np.clip((start, start + side), 0, length)
        for start, length in zip((left, top), picture.shape[1::-1], strict=True)
    )
    canvas = np.zeros((side, side, 3), dtype=np.uint8)
    canvas[y0 - top : y1 - top, x0 - left : x1 - left] = picture[y0:y1, x0:x1]
    x, y = center_px[0] - box_size_px / 2 - left, center_px[1] - box_size_px / 2 - top
    box = (x, y, x + box_size_px, y + box_size_px)
    resized = Image.fromarray(canvas).resize((size, size), Image.Resampling.BILINEAR, box)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def box_of_keypoints(
    keypoints_px: Float[Tensor, "*batch joints 2"], confidence: Float[Tensor, "*batch joints"], scale: float = 1.2
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch"]]:
    """The square around the seen keypoints of each person, pixels.

    Args:
        keypoints_px: What is not seen may hold anything.
        confidence: 0 = not seen.
        scale: Side of the square by the longer side of the keypoints' box; 1.2 is what 3DPW's boxes have in ProHMR's
            scripts.

    Returns:
        Middle (x, y) and side.

    Raises:
        ValueError: If a person has no two seen keypoints at different places.
    """
    unseen = ~(confidence > 0)[..., None]
    low = keypoints_px.masked_fill(unseen, math.inf).amin(dim=-2)
    high = keypoints_px.masked_fill(unseen, -math.inf).amax(dim=-2)
    longest = (high - low).amax(dim=-1)
    without = ~(longest.isfinite() & (longest > 0)).flatten()
    if bool(without.any()):
        raise ValueError(
            f"keypoints_px: {int(without.sum())} of {len(without)} people have no two seen keypoints at different "
            f"places, so no box goes around them; the first is number {int(without.nonzero()[0, 0])} (from 0)"
        )
    return (low + high) / 2, scale * longest


def read_picture(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Reads a picture upright (EXIF orientation applied), sRGB, on white where it is transparent.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no picture that can be read, or is cut off.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no picture {path}")
    try:
        with Image.open(path) as image:
            return upright_rgb(image)
    # PIL says SyntaxError or ValueError of some broken files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no picture that can be read ({error})") from error


@dataclass(frozen=True)
class PersonCrops:
    """Reads crops of the rows of a table from its pictures, when they are asked for.

    Attributes:
        pictures: The picture of each row.
        center_px: Middle (x, y) of each person's box, pixels of the upright picture.
        box_size_px: Side of each box, pixels.
        size: Side of the crops, pixels.
        margin: None gives crops of the boxes, normalised as a network wants them. A number gives raw crops for
            `posecore.data.augment`: ``margin`` times as large as the box, in as many more pixels, uint8.

    Raises:
        ValueError: If there are not as many pictures as boxes, ``size`` is not positive or ``margin`` is below 1.
    """

    pictures: Sequence[Path]
    center_px: Float[Tensor, "rows 2"]
    box_size_px: Float[Tensor, " rows"]
    size: int = 224
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"crops: their side must be at least 1 px, got {self.size}")
        if self.margin is not None and not 1 <= self.margin < math.inf:
            raise ValueError(f"crop_margin: must be at least 1, the box itself, got {self.margin}")
        if not len(self.pictures) == len(self.center_px) == len(self.box_size_px):
            raise ValueError(
                f"pictures: {len(self.pictures)} for {len(self.center_px)} middles and {len(self.box_size_px)} sides "
                "of boxes, expected one of each for every row"
            )

    @property
    def files(self) -> list[Path]:
        """The files that are read, each once, in the order of the rows."""
        return list(dict.fromkeys(self.pictures))

    def __call__(
        self, rows: Sequence[int]
    ) -> Float[Tensor, "crops 3 size size"] | UInt8[Tensor, "crops 3 raw_size raw_size"]:
        """Crops of these rows, in their order; a picture that several of them share is read once.

        Raises:
            FileNotFoundError: If a picture is not there.
            ValueError: If a picture cannot be read, or a box is no box.
        """
        places: dict[Path, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(self.pictures[row], []).append(place)
        margin, cut, dtype = (1.0, crop, torch.float32) if self.margin is None else (self.margin, raw_crop, torch.uint8)
        size = round(self.size * margin)
        crops = torch.empty(len(rows), 3, size, size, dtype=dtype)
        for path, of_picture in places.items():
            picture = read_picture(path)
            for place in of_picture:
                x, y = self.center_px[rows[place]].tolist()
                try:
                    crops[place] = cut(picture, (x, y), margin * float(self.box_size_px[rows[place]]), size)
                except ValueError as error:
                    raise ValueError(f"{path}: row {rows[place]}: {error}") from error
        return crops


def with_boxes(samples: PoseSample, crops: PersonCrops | None) -> PoseSample:
    """The samples, with ``box`` where they have raw crops: middle (x, y) and side, pixels."""
    if crops is None or crops.margin is None:
        return samples
    box = torch.cat((crops.center_px, crops.box_size_px[:, None]), dim=1).float()
    return cast(PoseSample, {**samples, "box": box})


class CroppedPeople(PoseTable):
    """The rows of a table with ``image``, a crop around the person, which is read when rows are asked for.

    Args:
        table: people with or without keypoints.
        pictures: the picture of each row.
        center_px: middle (x, y) of each person's box, pixels of the upright picture (EXIF orientation applied).
        box_size_px: side of each box, pixels; `box_of_keypoints` makes boxes.
        size: side of the crops, pixels.
        margin: None gives crops as a network wants them, a number raw crops (`PersonCrops`); rows then have ``box``.

    Raises:
        ValueError: if there are not as many pictures and boxes as rows, ``size`` is not positive or ``margin`` below 1.
    """

    def __init__(
        self,
        table: PoseTable,
        pictures: Sequence[Path],
        center_px: Float[Tensor, "rows 2"],
        box_size_px: Float[Tensor, " rows"],
        size: int = 224,
        margin: float | None = None,
    ) -> None:
        if len(pictures) != len(table):
            raise ValueError(f"pictures: {len(pictures)} for a table of {len(table)} rows, expected one for every row")
        crops = PersonCrops(tuple(pictures), center_px, box_size_px, size, margin)
        super().__init__(table.joint_set, with_boxes(table.samples, crops), crops)
