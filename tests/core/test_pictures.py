"""Pictures of every kind, as both readers give them: what a network is shown and what a panel shows are the same."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from posecore.data.crops import read_picture
from posecore.data.picture_sizes import picture_size
from posecore.pictures import upright_rgb
from posecore.render.panels import read_photo

ORIENTATION = 0x0112
HEIGHT, WIDTH = 24, 40


def smooth() -> np.ndarray:
    """Colours that lossy formats keep: red grows to the right, green downwards."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack((40 + 4 * x, 30 + 6 * y, np.full_like(x, 120)), axis=-1).astype(np.uint8)


def read(path: Path) -> np.ndarray:
    picture = read_picture(path)
    assert np.array_equal(picture, read_photo(path))
    assert picture_size(path) == picture.shape[1::-1]
    assert picture.dtype == np.uint8
    return picture


def close(picture: np.ndarray, expected: np.ndarray, tolerance: int) -> None:
    assert picture.shape == expected.shape
    assert int(np.abs(picture.astype(int) - expected).max()) <= tolerance


# The eight ways in which a camera may have been held: what has to be done to the stored picture to look at it.
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: np.rot90,
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_orientation(tmp_path: Path, suffix: str, turn: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    path = tmp_path / f"a.{suffix}"
    lossless = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(smooth()).save(path, exif=exif, **lossless)
    close(read(path), TURNS[turn](smooth()), 6 if suffix == "jpg" else 0)


def test_webp(tmp_path: Path) -> None:
    assert features.check("webp")
    Image.fromarray(smooth()).save(tmp_path / "lossy.webp", quality=95)
    close(read(tmp_path / "lossy.webp"), smooth(), 12)
    half = np.concatenate([smooth(), np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=-1)
    half[:, : WIDTH // 2, 3] = 0
    Image.fromarray(half).save(tmp_path / "alpha.webp", lossless=True)
    picture = read(tmp_path / "alpha.webp")
    assert (picture[:, : WIDTH // 2] == 255).all()
    close(picture[:, WIDTH // 2 :], smooth()[:, WIDTH // 2 :], 0)


def test_transparency_shows_white(tmp_path: Path) -> None:
    values = np.concatenate([smooth(), np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=-1)
    values[:, :5, 3], values[:, 5:10, 3] = 0, 128
    Image.fromarray(values).save(tmp_path / "rgba.png")
    expected = smooth()
    expected[:, :5] = 255
    expected[:, 5:10] = np.round((128 * smooth()[:, 5:10].astype(float) + 127 * 255) / 255)
    close(read(tmp_path / "rgba.png"), expected, 1)

    palette = Image.new("P", (WIDTH, HEIGHT), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.paste(0, (0, 0, 5, HEIGHT))
    palette.save(tmp_path / "palette.png", transparency=0)
    picture = read(tmp_path / "palette.png")
    assert (picture[:, :5] == 255).all()
    assert (picture[:, 5:] == (40, 50, 60)).all()

    grey = np.stack([smooth()[..., 0], values[..., 3]], axis=-1)
    Image.fromarray(grey, "LA").save(tmp_path / "grey.png")
    close(read(tmp_path / "grey.png"), expected[..., :1].repeat(3, axis=-1), 1)


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    deep = np.linspace(0, 65_535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as image:
        assert image.mode.startswith("I"), "this is what the test is about"
    close(read(tmp_path / "deep.png"), np.round(deep / 257)[..., None].repeat(3, axis=-1).astype(int), 0)


def test_16_bit_colours(tmp_path: Path) -> None:
    why = "PIL writes no 16-bit colours; cv2 (pip install opencv-python, with libGL) does"
    cv2 = pytest.importorskip("cv2", reason=why, exc_type=ImportError)
    cv2.imwrite(str(tmp_path / "deep.png"), smooth()[..., ::-1].astype(np.uint16) * 257)
    close(read(tmp_path / "deep.png"), smooth(), 1)


def test_grey_and_cmyk_jpeg(tmp_path: Path) -> None:
    Image.fromarray(smooth()[..., 0]).save(tmp_path / "grey.jpg", quality=95)
    close(read(tmp_path / "grey.jpg"), smooth()[..., :1].repeat(3, axis=-1), 4)
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    with Image.open(tmp_path / "cmyk.jpg") as image:
        assert image.mode == "CMYK"
    close(read(tmp_path / "cmyk.jpg"), smooth(), 8)


@pytest.mark.parametrize("mode", ["1", "P"])
def test_few_colours(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.where(smooth()[..., :1] > 100, 255, 0).astype(np.uint8).repeat(3, axis=-1)).convert(mode)
    image.save(tmp_path / "a.png")
    close(read(tmp_path / "a.png"), np.where(smooth()[..., :1] > 100, 255, 0).repeat(3, axis=-1), 0)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((HEIGHT, WIDTH, 3), grey, np.uint8)) for grey in (50, 200)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert (read(tmp_path / "a.webp") == 50).all()


def test_floating_point_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((HEIGHT, WIDTH), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"a\.tiff is no picture that can be read \(its values are floating-point"):
        read_picture(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"a\.tiff: not an image that can be read \(its values are floating-point"):
        read_photo(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match="its values are floating-point numbers"):
        upright_rgb(Image.new("F", (2, 2)))
