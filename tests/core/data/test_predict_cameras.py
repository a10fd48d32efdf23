import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from posecore.body.skeletons import COCO_17, JointSet
from posecore.data.keypoints import KeypointCamera, KeypointPeople
from posecore.data.predict_cameras import CameraChoice


def make_people(
    joint_set: JointSet = COCO_17, image_sizes: list[list[float]] | None = None, camera: KeypointCamera | None = None
) -> KeypointPeople:
    generator = torch.Generator().manual_seed(0)
    num_people = 2 if image_sizes is None else len(image_sizes)
    return KeypointPeople(
        joint_set=joint_set,
        keypoints=torch.rand(num_people, joint_set.num_joints, 2, generator=generator) * 400,
        confidence=torch.ones(num_people, joint_set.num_joints),
        image_sizes=None if image_sizes is None else torch.tensor(image_sizes),
        ids=tuple(str(i) for i in range(num_people)),
        frames=tuple(range(num_people)),
        image_names=("",) * num_people,
        camera=camera,
    )


DIAGONAL = r"assumed: 500\.0 px, the image's diagonal .*; center assumed in the middle"


@pytest.mark.parametrize(
    ("arguments", "camera", "focal", "center", "assumed", "statement"),
    [
        ({}, None, (500.0, 500.0), (150.0, 200.0), True, DIAGONAL),
        ({"assumed_focal_length": 900.0}, None, (900.0, 900.0), (150.0, 200.0), True, r"assumed: 900\.0 px"),
        (
            {"focal_length": 900.0},
            None,
            (900.0, 900.0),
            (150.0, 200.0),
            False,
            r"\(900, 900\) px given; center assumed",
        ),
        (
            {"focal_length": 9.0, "center": (1.0, 2.0)},
            None,
            (9.0, 9.0),
            (1.0, 2.0),
            False,
            r"given; center \(1, 2\) px",
        ),
        ({"center": (1.0, 2.0)}, None, (500.0, 500.0), (1.0, 2.0), True, r"diagonal .*; center \(1, 2\) px"),
        ({"field_of_view": 90.0}, None, (150.0, 150.0), (150.0, 200.0), True, "horizontal field of view of 90 degrees"),
        ({}, KeypointCamera((700.0, 800.0), (3.0, 4.0)), (700.0, 800.0), (3.0, 4.0), False, "from the keypoint file"),
        ({"center": (1.0, 2.0)}, KeypointCamera((7.0, 8.0), None), (7.0, 8.0), (1.0, 2.0), False, "keypoint file"),
        ({"focal_length": 5.0}, KeypointCamera((7.0, 8.0), (3.0, 4.0)), (5.0, 5.0), (3.0, 4.0), False, "given"),
        ({"assumed_focal_length": 5.0}, KeypointCamera((7.0, 8.0)), (7.0, 8.0), (150.0, 200.0), False, "keypoint file"),
    ],
)
def test_where_the_camera_comes_from(
    arguments: dict[str, Any],
    camera: KeypointCamera | None,
    focal: tuple[float, float],
    center: tuple[float, float],
    assumed: bool,
    statement: str,
) -> None:
    people = make_people(image_sizes=[[300.0, 400.0]] * 2, camera=camera)
    found = CameraChoice(**arguments).of_rows(people, [None, None])
    expected = torch.tensor([[focal[0], 0.0, center[0]], [0.0, focal[1], center[1]], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(found.K, expected.expand(2, 3, 3))
    assert found.image_sizes.tolist() == [[300, 400]] * 2
    assert found.assumed is assumed
    assert re.search(statement, found.statement)


def test_an_intrinsics_file(tmp_path: Path) -> None:
    file = tmp_path / "camera.json"
    file.write_text('{"fx": 800, "fy": 810, "cx": 320, "cy": 240, "width": 600, "height": 800}')
    found = CameraChoice(intrinsics=file).of_rows(make_people(image_sizes=[[300.0, 400.0]]), [None])
    torch.testing.assert_close(found.K[0], torch.tensor([[400.0, 0, 160], [0, 405, 120], [0, 0, 1]]))
    assert (found.assumed, found.statement.startswith("intrinsics given by camera.json")) == (False, True)
    file.write_text('{"fx": 800, "fy": 810, "cx": 320, "cy": 240}')
    found = CameraChoice(intrinsics=file).of_rows(make_people(), [None, None])
    assert found.image_sizes.tolist() == [[640, 480]] * 2
    with pytest.raises(FileNotFoundError, match=r"intrinsics: there is no file .*none\.json"):
        CameraChoice(intrinsics=tmp_path / "none.json").of_rows(make_people(image_sizes=[[3.0, 4.0]]), [None])


def test_exif_of_photographs_where_nothing_else_is_known(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26  # mm on 35 mm film
    Image.new("RGB", (300, 400)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (300, 400)).save(tmp_path / "b.jpg")
    people = make_people(image_sizes=[[300.0, 400.0]] * 2)
    photos = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    focal = 26 * 500 / math.hypot(36, 24)
    found = CameraChoice().of_rows(people, photos)
    assert found.K[:, 0, 0].tolist() == pytest.approx([focal, 500.0])
    assert found.assumed
    assert re.match(
        "1 of 2 pictures: focal length .* from EXIF: 26 mm .*; 1 of 2 pictures: .* assumed", found.statement
    )
    alone = CameraChoice().of_rows(people, [photos[0]] * 2)
    assert (alone.assumed, alone.statement[:13]) == (False, "focal length ")
    for known in (CameraChoice(focal_length=9.0), CameraChoice(assumed_focal_length=9.0)):
        assert known.of_rows(people, photos).K[:, 0, 0].tolist() == [9, 9]


def test_assumed_focal_length_follows_each_image() -> None:
    found = CameraChoice().of_rows(make_people(image_sizes=[[300.0, 400.0], [600.0, 800.0]]), [None, None])
    assert found.K[:, 0, 0].tolist() == [500.0, 1000.0]
    assert found.statement.startswith("focal lengths 500.0 to 1000.0 px, the first: focal length assumed: 500.0 px")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"focal_length": -1.0}, r"focal_length must be positive pixels, not -1\.0"),
        ({"assumed_focal_length": math.nan}, "assumed_focal_length must be positive pixels, not nan"),
        ({"field_of_view": 180.0}, r"field_of_view: must lie between 0 and 180 degrees, not 180\.0"),
        ({"center": (1.0, math.inf)}, r"center: must be finite pixels \(x, y\), not \(1\.0, inf\)"),
        (
            {"focal_length": 1.0, "assumed_focal_length": 1.0},
            "focal_length and assumed_focal_length: say what the focal",
        ),
        (
            {"focal_length": 1.0, "field_of_view": 1.0},
            "focal_length and field_of_view: say what the focal length is in",
        ),
        ({"intrinsics": Path("k"), "focal_length": 1.0}, "intrinsics and focal_length: say .* in one way, not in 2"),
        ({"intrinsics": Path("k"), "center": (1.0, 1.0)}, "intrinsics and center: the file already holds the center"),
    ],
)
def test_choices_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CameraChoice(**arguments)


@pytest.mark.parametrize("arguments", [{}, {"focal_length": 800.0}, {"center": (1.0, 2.0)}, {"field_of_view": 50.0}])
def test_what_needs_the_size_of_the_image(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the image size is unknown, so no camera can be assumed: give image_size or"):
        CameraChoice(**arguments).of_rows(make_people(), [None, None])


@pytest.mark.parametrize("name", ["focal_length", "assumed_focal_length"])
def test_a_center_stands_for_the_size_of_the_image(name: str) -> None:
    given: dict[str, Any] = {name: 800.0, "center": (30.0, 40.0)}
    found = CameraChoice(**given).of_rows(make_people(), [None, None])
    assert found.K[0].tolist() == [[800, 0, 30], [0, 800, 40], [0, 0, 1]]
    assert found.image_sizes.tolist() == [[60, 80]] * 2
    assert found.statement.endswith("; image size unknown, taken as twice the center")
