"""How large pictures are, from the heads of their files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError

_ORIENTATION = 0x0112  # EXIF's tag; 5 to 8 lie on their side.


def picture_size(path: Path, argument: str = "") -> tuple[int, int]:
    """Width and height in pixels of the picture as it is looked at (EXIF orientation applied).

    Args:
        path: the file.
        argument: what it was given as, named in errors.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no picture.
    """
    of_argument = f"{argument}: " if argument else ""
    if not path.is_file():
        raise FileNotFoundError(f"{of_argument}there is no picture {path}")
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(_ORIENTATION, 1) >= 5 else (width, height)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{of_argument}{path} is no picture that can be read ({error})") from error


def picture_sizes(pictures: Sequence[Path], argument: str = "") -> Float[np.ndarray, "pictures 2"]:
    """The same of many; a file that comes several times is opened once.

    Raises:
        FileNotFoundError: if a picture is not there.
        ValueError: if a file is no picture.
    """
    known = {path: picture_size(path, argument) for path in dict.fromkeys(pictures)}
    return np.array([known[path] for path in pictures], dtype=np.float64).reshape(-1, 2)
