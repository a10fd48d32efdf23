"""Pictures of any kind as upright sRGB: where a file's mode, bit depth, alpha and orientation are seen to.

It knows nothing of the rest, so that what reads data and what renders can both use it.
"""

import numpy as np
from PIL import Image, ImageOps

_LARGEST_16_BIT = 65_535


def upright_rgb(image: Image.Image) -> np.ndarray:
    """A picture as it is looked at, "height width 3" uint8: EXIF orientation applied, on white where it is transparent.

    16-bit grey is scaled to 8 bits; of an animation, the first frame is taken. Colour profiles are not applied.

    Raises:
        ValueError: If its values are floating-point numbers, of which it is not said what is white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its values are floating-point numbers, not sRGB")
    if image.mode.startswith("I"):  # PIL would clip to 8 bits.
        grey = np.clip(np.asarray(image).astype(np.int64), 0, _LARGEST_16_BIT)
        return np.repeat(
            ((grey * 255 + _LARGEST_16_BIT // 2) // _LARGEST_16_BIT).astype(np.uint8)[..., None], 3, axis=-1
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))
