import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from posecore.data.camera_files import (
    PictureCamera,
    assumed_camera,
    camera_from_exif,
    camera_from_field_of_view,
    read_intrinsics,
)

K = [[800.0, 0.0, 330.0], [0.0, 810.0, 235.0], [0.0, 0.0, 1.0]]
SIZE = (640, 480)


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def close(camera: PictureCamera, expected: Any) -> None:
    torch.testing.assert_close(camera.K, torch.tensor(expected), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "content",
    [
        {"K": K},
        {"K": np.ravel(K).tolist()},
        {"camera_matrix": K, "image_width": 640, "image_height": 480},
        {"fx": 800, "fy": 810, "cx": 330, "cy": 235, "width": 640, "height": 480},
        {"intrinsics": K, "image_size": [640, 480]},
        K,
        "800 0 330\n0 810 235\n\n0 0 1\n",
        "800, 0, 330\n0, 810, 235\n0, 0, 1",
        # ROS's camera_info
        "image_width: 640\nimage_height: 480\ncamera_matrix:\n  rows: 3\n  cols: 3\n"
        "  data: [800, 0, 330, 0, 810, 235, 0, 0, 1]\n",
    ],
)
def test_intrinsics_files(tmp_path: Path, content: Any) -> None:
    suffix = "json" if not isinstance(content, str) else "yaml" if ":" in content else "txt"
    camera = read_intrinsics(write(tmp_path / f"camera.{suffix}", content), SIZE)
    close(camera, K)
    assert not camera.assumed
    assert camera.statement == (
        f"intrinsics given by camera.{suffix}: focal length (800, 810) px, center (330, 235) px"
    )


@pytest.mark.parametrize("suffix", ["yaml", "yml", "xml", "json"])
@pytest.mark.parametrize("distortion", [[0.0] * 5, [0.1, 0, 0, 0, 0]])
def test_files_that_opencv_writes(tmp_path: Path, suffix: str, distortion: list[float]) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV (pip install opencv-python)")
    storage = cv2.FileStorage(str(tmp_path / f"camera.{suffix}"), cv2.FILE_STORAGE_WRITE)
    storage.write("image_width", 640)
    storage.write("image_height", 480)
    storage.write("camera_matrix", np.array(K))
    storage.write("distortion_coefficients", np.array([distortion]))
    storage.release()
    camera = read_intrinsics(tmp_path / f"camera.{suffix}", SIZE)
    close(camera, K)
    assert camera.statement.endswith("the lens distortion that it states is not undone") == any(distortion)


def test_a_file_for_another_size_is_scaled(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"K": K, "width": 640, "height": 480})
    camera = read_intrinsics(path, (1280, 960))
    close(camera, [[1600.0, 0, 660], [0, 1620, 470], [0, 0, 1]])
    assert camera.statement.endswith(", scaled from 640 x 480 to 1280 x 960 px")
    close(read_intrinsics(path), K)
    with pytest.raises(ValueError, match=r"a\.json: is for pictures of 640 x 480 px, and 480 x 640 px is not the same"):
        read_intrinsics(path, (480, 640))


def test_what_may_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"fx": 500})
    camera = read_intrinsics(path, SIZE)
    close(camera, [[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    assert camera.statement.endswith("center (320, 240) px, assumed in the middle")
    with pytest.raises(ValueError, match=r"a\.json: states no principal point \(cx, cy\), and the size"):
        read_intrinsics(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "cannot be read .*; expected JSON"),
        ("a.json", {"focal": 3}, "holds no 3 x 3 matrix of numbers as K; expected JSON"),
        ("a.json", {"K": [[1, 2], [3, 4]]}, "holds no 3 x 3 matrix"),
        ("a.json", {"K": "text"}, "holds no 3 x 3 matrix"),
        ("a.json", {"K": [[-800, 0, 1], [0, 1, 1], [0, 0, 1]]}, r"K must be \[\[fx, s, cx\].* above 0, not \[\[-800"),
        ("a.json", {"K": [[800, 0, 1], [0, 1, 1], [0, 0, 2]]}, r"K must be \[\[fx, s, cx\]"),
        ("a.json", {"fx": 0}, "fx and fy must be above 0 px"),
        ("a.json", {"fx": 100, "cx": 5}, "cx and cy numbers or left out"),
        ("a.json", {"K": K, "width": 640}, r"width and height must both be above 0 px, not \(640, None\)"),
        ("a.json", {"K": K, "image_size": [0, 3]}, r"width and height must both be above 0 px, not \[0, 3\]"),
        ("a.txt", "800 0 330\n0 810 x\n0 0 1", "cannot be read .*could not convert string to float: 'x'"),
        ("a.txt", "", "holds no 3 x 3 matrix"),
        ("a.yaml", "camera_matrix: [1, 2", "cannot be read"),
        (
            "a.yaml",
            "camera_matrix: !!python/object/apply:print ['ran']",
            "cannot be read .*could not determine a constr",
        ),
        ("a.xml", "<opencv_storage>", "cannot be read"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "it declares entities"),
    ],
)
def test_broken_intrinsics(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_intrinsics(path, SIZE)
    assert str(path) in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"intrinsics: there is no file .*none\.json"):
        read_intrinsics(tmp_path / "none.json")


def photograph(path: Path, size: tuple[int, int] = SIZE, turn: int = 1, **tags: Any) -> Path:
    """A picture with these EXIF tags, as cameras write them."""
    numbers = {
        "focal": 0x920A,
        "film": 0xA405,
        "x": 0xA002,
        "y": 0xA003,
        "resolution": 0xA20E,
        "resolution_y": 0xA20F,
        "unit": 0xA210,
    }
    exif = Image.Exif()
    exif[0x0112] = turn
    exif.get_ifd(0x8769).update({numbers[name]: value for name, value in tags.items()})
    Image.new("RGB", size).save(path, exif=exif)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("turn", [1, 6])
def test_equivalent_focal_length(tmp_path: Path, suffix: str, turn: int) -> None:
    camera = camera_from_exif(photograph(tmp_path / f"a.{suffix}", (400, 300), turn, film=26, focal=4.25))
    assert camera is not None
    focal = 26 * 500 / 43.2666153
    middle = (150, 200) if turn == 6 else (200, 150)
    close(camera, [[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1]])
    assert not camera.assumed
    assert "from EXIF: 26 mm on 35 mm film, by the diagonal; center assumed in the middle" in camera.statement
    same_angle = 2 * math.atan(math.hypot(36, 24) / 2 / 26)
    assert 2 * math.atan(250 / focal) == pytest.approx(same_angle)


def test_focal_length_and_pixels_of_the_sensor(tmp_path: Path) -> None:
    # A sensor of 36 x 24 mm with 6000 x 4000 pixels: 6000 / 36 per mm, 50 mm are 8333 px; then resized to a tenth.
    per_inch = 6000 / 36 * 25.4
    whole = {"focal": 50.0, "resolution": per_inch, "resolution_y": per_inch, "unit": 2}
    camera = camera_from_exif(photograph(tmp_path / "a.jpg", (600, 400), x=6000, y=4000, **whole))
    assert camera is not None
    close(camera, [[833.33, 0, 300], [0, 833.33, 200], [0, 0, 1]])
    assert "50 mm on a sensor of 166.667 pixels per mm" in camera.statement
    assert "cropped" not in camera.statement
    per_cm = {"focal": 50.0, "resolution": per_inch / 2.54, "unit": 3}
    camera = camera_from_exif(photograph(tmp_path / "b.jpg", (600, 400), **per_cm))
    assert camera is not None
    close(camera, [[8333.33, 0, 300], [0, 8333.33, 200], [0, 0, 1]])
    # Pixels that are not square, in a picture that lies on its side.
    uneven = {"focal": 10.0, "resolution": 2540.0, "resolution_y": 5080.0, "unit": 2}
    camera = camera_from_exif(photograph(tmp_path / "c.jpg", (600, 400), turn=6, **uneven))
    assert camera is not None
    close(camera, [[2000.0, 0, 200], [0, 1000, 300], [0, 0, 1]])


def test_a_cropped_picture_is_noticed(tmp_path: Path) -> None:
    camera = camera_from_exif(photograph(tmp_path / "a.jpg", (400, 400), film=26, x=4000, y=3000))
    assert camera is not None
    assert (
        "the picture was cropped (from 4000 x 3000 px as stored to 400 x 400), so the focal length may"
        in camera.statement
    )


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"film": 0},
        {"focal": 4.0},
        {"focal": 0.0, "resolution": 100.0},
        {"focal": 4.0, "resolution": 9.0, "unit": 1},
    ],
)
def test_exif_that_tells_no_focal_length(tmp_path: Path, tags: dict[str, Any]) -> None:
    assert camera_from_exif(photograph(tmp_path / "a.jpg", **tags)) is None


def test_exif_of_what_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="photo: there is no picture"):
        camera_from_exif(tmp_path / "none.jpg")
    with pytest.raises(ValueError, match=r"photo: .*a\.jpg is no picture that can be read"):
        camera_from_exif(write(tmp_path / "a.jpg", "text"))


@pytest.mark.parametrize(("along", "length"), [("horizontal", 400), ("vertical", 300), ("diagonal", 500)])
def test_field_of_view(along: Any, length: float) -> None:
    camera = camera_from_field_of_view(60.0, (400, 300), along)
    focal = length / 2 / math.tan(math.pi / 6)
    close(camera, [[focal, 0, 200], [0, focal, 150], [0, 0, 1]])
    assert camera.assumed
    assert f"focal length assumed: {focal:.1f} px, a {along} field of view of 60 degrees" in camera.statement


def test_nothing_known() -> None:
    camera = assumed_camera((400, 300))
    close(camera, [[500.0, 0, 200], [0, 500, 150], [0, 0, 1]])
    assert camera.assumed
    assert camera.statement.startswith("focal length assumed: 500.0 px, the image's diagonal")
    camera = assumed_camera((400, 300), 700.0)
    close(camera, [[700.0, 0, 200], [0, 700, 150], [0, 0, 1]])
    assert camera.statement == "focal length assumed: 700.0 px; center assumed in the middle of the image"


def test_arguments() -> None:
    for degrees in (0.0, 180.0, math.nan):
        with pytest.raises(ValueError, match="field_of_view: must lie between 0 and 180 degrees"):
            camera_from_field_of_view(degrees, SIZE)
    with pytest.raises(ValueError, match="along: 'width' is unknown, valid are horizontal, vertical, diagonal"):
        camera_from_field_of_view(60.0, SIZE, "width")
    for make in (assumed_camera, lambda size: camera_from_field_of_view(60.0, size)):
        with pytest.raises(ValueError, match=r"image_size: must be width and height above 0 px, got \(0, 5\)"):
            make((0, 5))
    for focal in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="focal_length: must be above 0 px"):
            assumed_camera(SIZE, focal)
