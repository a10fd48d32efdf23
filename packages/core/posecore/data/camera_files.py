"""Where the camera of a photograph or video can come from: a file, the photograph's EXIF, or an assumption.

| source | function | content |
|---|---|---|
| intrinsics file | :func:`read_intrinsics` | JSON, OpenCV's YAML or XML, ROS's YAML, a text file of 3 x 3 numbers |
| EXIF | :func:`camera_from_exif` | ``FocalLengthIn35mmFilm``, or ``FocalLength`` with ``FocalPlaneXResolution`` |
| field of view | :func:`camera_from_field_of_view` | degrees across the width, the height or the diagonal |
| nothing | :func:`assumed_camera` | a focal length, or the picture's diagonal |

JSON is ``{"K": [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]}`` or ``{"fx": ..., "fy": ..., "cx": ..., "cy": ...}``, in pixels,
both with ``"width"`` and ``"height"`` of the picture that they are for, if that is known.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from posecore.data.intrinsics_formats import Stated, read_stated
from posecore.data.picture_sizes import picture_size
from posecore.geometry.camera import intrinsics

_FILM_DIAGONAL = math.hypot(36, 24)  # mm; equivalent focal lengths have the same angle across the diagonal (CIPA)
_MILLIMETRES = {2: 25.4, 3: 10.0, 4: 1.0, 5: 1e-3}  # EXIF's FocalPlaneResolutionUnit
_SAME_SHAPE = 0.01  # Pictures whose width by height differs by less are one picture, resized; rounding makes no more.

# EXIF's tags.
_ORIENTATION, _EXIF = 0x0112, 0x8769
_FOCAL_LENGTH, _FOCAL_LENGTH_35MM = 0x920A, 0xA405
_PIXELS_X, _PIXELS_Y = 0xA002, 0xA003
_RESOLUTION_X, _RESOLUTION_Y, _RESOLUTION_UNIT = 0xA20E, 0xA20F, 0xA210


@dataclass(frozen=True)
class PictureCamera:
    """The camera of a picture.

    Attributes:
        K: Intrinsics, pixels of the upright picture.
        assumed: Whether the focal length is an assumption; results must say so.
        statement: Where it comes from, in words.
    """

    K: Float[Tensor, "3 3"]
    assumed: bool
    statement: str


def read_intrinsics(path: Path, image_size: tuple[int, int] | None = None) -> PictureCamera:
    """The camera of an intrinsics file (see the module's docstring). Lens distortion is stated, not undone.

    Args:
        path: The file.
        image_size: Width and height of the picture it is wanted for. A file that states another size of the same shape
            is scaled to it; without a principal point, the middle of this picture is taken.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, K is no camera matrix, or its picture has another shape.
    """
    if not path.is_file():
        raise FileNotFoundError(f"intrinsics: there is no file {path}")
    stated = read_stated(path)
    fx, fy = stated.focal_length
    size = stated.image_size or image_size
    if stated.center is None and size is None:
        raise ValueError(f"{path}: states no principal point (cx, cy), and the size of the picture is not known")
    cx, cy = stated.center or _middle(size or (0, 0))
    K = torch.tensor([[fx, stated.skew, cx], [0, fy, cy], [0, 0, 1]])
    said = f"intrinsics given by {path.name}: focal length ({fx:g}, {fy:g}) px, center ({cx:g}, {cy:g}) px"
    if stated.center is None:
        said += ", assumed in the middle"
    if stated.image_size not in (None, image_size) and image_size is not None:
        K = _scaled(path, K, stated, image_size)
        said += f", scaled from {_times(stated.image_size or image_size)} to {_times(image_size)} px"
    if stated.is_distorted:
        said += "; the lens distortion that it states is not undone"
    return PictureCamera(K, False, said)


def camera_from_exif(picture: Path) -> PictureCamera | None:
    """The camera as the photograph's EXIF data tell; None where they tell no focal length.

    The principal point is assumed in the middle. A picture that was resized as a whole is seen to; one that was cropped
    has a smaller field of view than its EXIF data say, which is noticed only where they hold the whole picture's size.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no picture.
    """
    size = picture_size(picture, "photo")
    with Image.open(picture) as image:
        exif = image.getexif()
        tags = {**exif, **exif.get_ifd(_EXIF)}
    is_turned = _positive(tags, _ORIENTATION) >= 5
    stored = (size[1], size[0]) if is_turned else size
    whole = (_positive(tags, _PIXELS_X), _positive(tags, _PIXELS_Y))
    if equivalent := _positive(tags, _FOCAL_LENGTH_35MM):
        focal = (equivalent * math.hypot(*size) / _FILM_DIAGONAL,) * 2
        said = f"from EXIF: {equivalent:g} mm on 35 mm film, by the diagonal"
    elif (length := _positive(tags, _FOCAL_LENGTH)) and (resolution := _positive(tags, _RESOLUTION_X)):
        unit = _MILLIMETRES.get(int(_positive(tags, _RESOLUTION_UNIT)) or 2)
        if unit is None:
            return None
        per_mm = [resolution / unit, (_positive(tags, _RESOLUTION_Y) or resolution) / unit]
        along = [
            length * number * (side / all_of_it if all_of_it else 1.0)
            for number, side, all_of_it in zip(per_mm, stored, whole, strict=True)
        ]
        focal = (along[1], along[0]) if is_turned else (along[0], along[1])
        said = f"from EXIF: {length:g} mm on a sensor of {per_mm[0]:g} pixels per mm"
    else:
        return None
    said = f"focal length ({focal[0]:.1f}, {focal[1]:.1f}) px {said}; center assumed in the middle of the image"
    if all(whole) and abs(whole[0] / whole[1] / (stored[0] / stored[1]) - 1) > _SAME_SHAPE:
        said += (
            f"; the picture was cropped (from {whole[0]:g} x {whole[1]:g} px as stored to {_times(stored)}), so the "
            "focal length may be wrong"
        )
    return PictureCamera(_centred(focal, size), False, said)


def camera_from_field_of_view(degrees: float, image_size: tuple[int, int], along: str = "diagonal") -> PictureCamera:
    """A camera with an assumed field of view.

    Args:
        degrees: Angle between the two edges, or corners, of the picture; in (0, 180).
        image_size: Width and height, pixels.
        along: Across what the angle is measured: "horizontal", "vertical" or "diagonal".

    Raises:
        ValueError: If an argument is out of range.
    """
    if not 0 < degrees < 180:
        raise ValueError(f"field_of_view: must lie between 0 and 180 degrees, got {degrees}")
    _check_size(image_size)
    lengths = {"horizontal": image_size[0], "vertical": image_size[1], "diagonal": math.hypot(*image_size)}
    if along not in lengths:
        raise ValueError(f"along: {along!r} is unknown, valid are {', '.join(lengths)}")
    focal = lengths[along] / 2 / math.tan(math.radians(degrees) / 2)
    said = f"focal length assumed: {focal:.1f} px, a {along} field of view of {degrees:g} degrees"
    return PictureCamera(
        _centred((focal, focal), image_size), True, f"{said}; center assumed in the middle of the image"
    )


def assumed_camera(image_size: tuple[int, int], focal_length: float | None = None) -> PictureCamera:
    """A camera of which nothing is known.

    Args:
        image_size: Width and height, pixels.
        focal_length: Pixels; None takes the picture's diagonal (a field of view of 53 degrees along it).

    Raises:
        ValueError: If an argument is not positive.
    """
    _check_size(image_size)
    if focal_length is not None and not 0 < focal_length < math.inf:
        raise ValueError(f"focal_length: must be above 0 px, got {focal_length}")
    focal = focal_length or math.hypot(*image_size)
    said = f"focal length assumed: {focal:.1f} px"
    if focal_length is None:
        said += ", the image's diagonal sqrt(width^2 + height^2)"
    return PictureCamera(
        _centred((focal, focal), image_size), True, f"{said}; center assumed in the middle of the image"
    )


def _check_size(image_size: tuple[int, int]) -> None:
    if min(image_size) <= 0:
        raise ValueError(f"image_size: must be width and height above 0 px, got {image_size}")


def _middle(size: tuple[int, int]) -> tuple[float, float]:
    return size[0] / 2, size[1] / 2


def _centred(focal_length: tuple[float, float], size: tuple[int, int]) -> Tensor:
    return intrinsics(torch.tensor(focal_length), torch.tensor(_middle(size)))


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _scaled(path: Path, K: Tensor, stated: Stated, size: tuple[int, int]) -> Tensor:
    """Intrinsics of the picture in another size."""
    of_file = stated.image_size or size
    across, down = size[0] / of_file[0], size[1] / of_file[1]
    if abs(across / down - 1) > _SAME_SHAPE:
        raise ValueError(
            f"{path}: is for pictures of {_times(of_file)} px, and {_times(size)} px is not the same picture resized"
        )
    return K * torch.tensor([[across], [down], [1.0]])


def _positive(tags: dict[int, Any], tag: int) -> float:
    """A tag's number; 0 where it is not there, or not known, which EXIF says by 0, 0/0 and x/0."""
    try:
        value = float(tags.get(tag, 0))
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return value if 0 < value < math.inf else 0.0
