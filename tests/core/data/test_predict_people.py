import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image

from posecore.body.skeletons import COCO_17, JOINTS_44
from posecore.data.box_files import read_boxes
from posecore.data.predict_input import PredictInput

SIZE = (60, 40)


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """Red says how far right a pixel is, green how far down."""
    path.parent.mkdir(exist_ok=True)
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    Image.fromarray(np.stack((4 * x, 4 * y, 0 * x), axis=-1).astype(np.uint8)).save(path)
    return path


def folder(path: Path, *names: str) -> Path:
    for name in names:
        picture(path / name)
    return path


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


COCO = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
    "annotations": [
        {"id": 31, "image_id": 9, "category_id": 1, "bbox": [10, 5, 20, 30]},
        {"id": 32, "image_id": 9, "category_id": 18, "bbox": [0, 0, 5, 5]},
        {"id": 33, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        {"id": 34, "image_id": 7, "bbox": [1, 2, 3, 4]},
    ],
}
RESULTS = [
    {"image_id": "b", "category_id": 1, "bbox": [10, 5, 20, 30], "score": 0.9},
    {"file_name": "a.png", "bbox": [1, 2, 3, 4], "score": 0.4},
]
BY_PICTURE = {"b.png": [[10, 5, 30, 35, 0.9]], "a.png": [[1, 2, 4, 6, 0.4]]}
CSV = "file_name,x0,y0,x1,y1,score\nb.png,10,5,30,35,0.9\na.png, 1, 2, 4, 6, 0.4\n"


@pytest.mark.parametrize(
    ("name", "content", "ids", "frames", "skipped"),
    [
        ("coco.json", COCO, ("31", "34"), (1, 0), 2),
        ("results.json", RESULTS, ("0", "1"), (0, 1), 0),
        ("mine.json", BY_PICTURE, ("0", "0"), (0, 1), 0),
        ("mine.csv", CSV, ("0", "0"), (0, 1), 0),
    ],
)
def test_formats_of_box_files(
    tmp_path: Path, name: str, content: Any, ids: tuple[str, ...], frames: tuple[int, ...], skipped: int
) -> None:
    file = write(tmp_path / name, content)
    read = read_boxes(file)
    assert read.boxes.tolist() == [[10, 5, 30, 35], [1, 2, 4, 6]]
    assert (read.ids, read.frames, read.num_skipped) == (ids, frames, skipped)
    data = PredictInput(folder(tmp_path / "photos", "a.png", "b.png"), boxes=file).dataset("joints44", True, "people")
    assert [photo and photo.name for photo in data.photos] == ["b.png", "a.png"]
    # Squares around the middles, 1.2 times the longer side.
    torch.testing.assert_close(data.samples["box"], torch.tensor([[20.0, 20, 36], [2.5, 4, 4.8]]))
    assert len(data.notes) == (1 if skipped else 0)


def test_categories_of_the_file_say_what_a_person_is(tmp_path: Path) -> None:
    content = {**COCO, "categories": [{"id": 1, "name": "dog"}, {"id": 18, "name": "person"}]}
    assert read_boxes(write(tmp_path / "coco.json", content)).ids == ("32", "34")


def test_boxes_that_are_not_sure_are_left_out(tmp_path: Path) -> None:
    file = write(tmp_path / "r.json", RESULTS)
    data = PredictInput(folder(tmp_path / "p", "a.png", "b.png"), boxes=file, min_confidence=0.5).dataset(
        "joints44", True, "people"
    )
    assert data.people.image_names == ("b",)
    assert data.notes == (f"1 boxes of {file} were left out: of no person, or below min_confidence",)


def test_rows_have_everything_that_a_network_and_a_writer_need(tmp_path: Path) -> None:
    file = write(tmp_path / "b.json", {"a.png": [[0, 0, 20, 30], [20, 10, 40, 30]]})
    given = PredictInput(folder(tmp_path / "p", "a.png"), boxes=file, crops=10, box_scale=1.0)
    data = given.dataset("joints44", True, "people")
    batch = data.__getitems__([1, 0])
    assert batch["row"].tolist() == [1, 0]
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].shape == (2, 3, 15, 15)
    assert batch["box"].tolist() == [[30, 20, 20], [10, 15, 30]]
    assert batch["view"].tolist() == [0, 0]
    assert batch["image_size"].tolist() == [[60, 40]] * 2
    diagonal = pytest.approx(52**0.5 * 10)
    assert batch["K"][0].tolist() == [[diagonal, 0, 30], [0, diagonal, 20], [0, 0, 1]]
    assert (data.camera_assumed, data.known.tolist()) == (True, [False, False])
    assert "image's diagonal" in data.camera_statement
    assert batch["joints_2d_px"].shape == (2, JOINTS_44.num_joints, 2)
    assert not batch["joints_2d_px"].any()
    assert not batch["confidence"].any()
    # The raw crop covers 30 px of the picture, so a pixel is 2: its middle is the box's, and what is outside is black.
    assert batch["image"][0, :2, 7, 7].tolist() == pytest.approx([4 * 29.5, 4 * 19.5], abs=2)
    assert batch["image"][0, :2, 7, 12].tolist() == pytest.approx([4 * 39.5, 4 * 19.5], abs=2)
    assert not batch["image"][1, :, :, :3].any()
    assert data.source == {
        "photo": str(tmp_path / "p"), "boxes": str(file), "box_scale": 1.0, "group": "people",
        "camera": data.camera_statement,
    }  # fmt: skip


def test_one_box_and_the_whole_picture(tmp_path: Path) -> None:
    photo = picture(tmp_path / "me.png")
    one = PredictInput(photo, box=(10.0, 0.0, 30.0, 40.0), focal_length=99.0, center=(3.0, 4.0)).dataset(
        "joints44", True, "people"
    )
    assert one.samples["box"].tolist() == [[20, 20, 48]]
    assert one.samples["K"].tolist() == [[[99, 0, 3], [0, 99, 4], [0, 0, 1]]]
    assert (one.people.image_names, one.photos, one.camera_assumed) == (("me.png",), (photo,), False)
    whole = PredictInput(photo).dataset("joints44", True, "people")
    assert whole.samples["box"].tolist() == [[30, 20, 60]]
    assert whole.__getitems__([0])["image"].shape == (1, 3, 336, 336)
    assert one.source["box"] == [10, 0, 30, 40]


def test_a_folder_alone_is_a_person_per_picture(tmp_path: Path) -> None:
    photos = folder(tmp_path / "p", "b.png", "a.JPG")
    (photos / "notes.txt").write_text("no picture")
    picture(photos / "c.png", (10, 80))
    data = PredictInput(photos).dataset("joints44", True, "people")
    assert data.people.image_names == ("a.JPG", "b.png", "c.png")
    assert data.samples["frame"].tolist() == [0, 1, 2]
    assert data.samples["box"].tolist() == [[30, 20, 60], [30, 20, 60], [5, 40, 80]]


def test_a_picture_takes_its_boxes_out_of_a_file_of_many(tmp_path: Path) -> None:
    content = [{"image_id": 139, "bbox": [0, 0, 10, 20]}, {"image_id": 7, "bbox": [0, 0, 10, 10]}]
    file = write(tmp_path / "r.json", content)
    photos = folder(tmp_path / "p", "000000000139.png", "000000000007.png")
    data = PredictInput(photos / "000000000139.png", boxes=file).dataset("joints44", True, "people")
    assert data.samples["box"].tolist() == [[5, 10, 24]]
    assert data.notes == ("1 people in other pictures than 000000000139.png were left out",)
    whole = PredictInput(photos, boxes=file).dataset("joints44", True, "people")
    assert [path and path.name for path in whole.photos] == ["000000000139.png", "000000000007.png"]


def keypoints(path: Path, **fields: Any) -> Path:
    points = {name: [20.0 + joint, 5.0 + joint, 0.9] for joint, name in enumerate(COCO_17.joint_names)}
    people = [{"id": "x", "frame": 3, "keypoints": points, **fields}]
    return write(path, {"joint_set": "coco17", "people": people})


def test_keypoints_make_boxes(tmp_path: Path) -> None:
    photo = picture(tmp_path / "me.png")
    data = PredictInput(photo, keypoints=keypoints(tmp_path / "k.json"), crops=20, assumed_focal_length=70.0).dataset(
        "joints44", True, "people"
    )
    torch.testing.assert_close(data.samples["box"], torch.tensor([[28.0, 13, 16 * 1.2]]))
    assert (data.people.ids, data.people.frames, data.people.joint_set) == (("x",), (3,), COCO_17)
    nose = JOINTS_44.index("op_nose")
    assert data.samples["joints_2d_px"][0, nose].tolist() == [20, 5]
    assert data.samples["confidence"][0, nose] == pytest.approx(0.9)
    assert data.samples["K"][0, 0, 0] == 70
    batch = data.__getitems__([0])
    assert (batch["image"].dtype, batch["image"].shape, batch["row"].tolist()) == (torch.uint8, (1, 3, 30, 30), [0])
    assert data.camera_statement.startswith("focal length assumed: 70.0 px")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoints": Path("k"), "boxes": Path("b")}, "keypoints and boxes: say where the people are in one way"),
        ({"boxes": Path("b"), "box": (0.0, 0.0, 1.0, 1.0)}, "boxes and box: say where"),
        ({"box_scale": 0.0}, r"box_scale: must be above 0, not 0\.0"),
        ({"min_confidence": 2.0}, r"min_confidence: must lie in 0\.\.1, not 2\.0"),
        ({"joint_set": "coco17"}, "joint_set: says what to read of keypoints"),
        ({"select": "x"}, "select: says what to read of keypoints"),
    ],
)
def test_arguments_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PredictInput(Path("p.png"), **changes)


@pytest.mark.parametrize(
    ("photo", "changes", "error", "message"),
    [
        ("none.png", {}, FileNotFoundError, "photo: there is no picture .*none"),
        ("text.png", {}, ValueError, r"photo: .*text\.png is no picture that can be read"),
        ("empty", {}, ValueError, "photo: the folder .*empty holds no picture"),
        ("p", {"box": (0.0, 0.0, 9.0, 9.0)}, ValueError, "box: is one of a single picture, and .*p is a folder"),
        ("p/a.png", {"box": (9.0, 0.0, 9.0, 9.0)}, ValueError, r"box: must be left, .* not \[9\.0, 0\.0"),
        ("p/a.png", {"box": (70.0, 0.0, 90.0, 9.0)}, ValueError, r"person '0' goes .* outside of a\.png with 60 x 40"),
        ("p/a.png", {"box": (float("nan"), 0.0, 9.0, 9.0)}, ValueError, "box: must be left, top"),
        ("p/a.png", {"focal_length": -1.0}, ValueError, r"focal_length must be positive pixels, not -1\.0"),
        ("p/a.png", {"crops": 0}, ValueError, "crops: must be at least 1 px, got 0"),
        ("p/a.png", {"crop_margin": 0.5}, ValueError, r"crop_margin: must be at least 1, the box itself, got 0\.5"),
    ],
)
def test_photographs_that_do_not_fit(
    tmp_path: Path, photo: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    folder(tmp_path / "p", "a.png")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "text.png", "text")
    with pytest.raises(error, match=message):
        PredictInput(tmp_path / photo, **changes).dataset("joints44", True, "people")


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("none.json", None, FileNotFoundError, r"boxes: there is no file .*none\.json"),
        ("b.json", "{", ValueError, r"b\.json: not a JSON file"),
        ("b.json", "3", ValueError, r"b\.json: unknown format of boxes; known are COCO results"),
        ("b.json", [{"keypoints": []}], ValueError, "unknown format of boxes"),
        ("b.json", {"annotations": {}}, ValueError, "unknown format of boxes"),
        ("b.json", [], ValueError, "none of 0 boxes is one of a person"),
        ("b.json", [{"bbox": [0, 0, 1, 1], "category_id": 2}], ValueError, "none of 1 boxes is one of a person"),
        ("b.json", [{"image_id": 4, "bbox": [0, 0, 1]}], ValueError, "box 0 of 4 must be four finite numbers x, y"),
        ("b.json", {"a.png": [[0, 0, 1, "x"]]}, ValueError, "box 0 of 'a.png' must be four finite numbers x0"),
        ("b.json", {"a.png": [3]}, ValueError, "box 0 of 'a.png' must be four finite numbers x0"),
        ("b.json", '{"a.png": [[0, 0, 1, NaN]]}', ValueError, "must be four finite numbers"),
        ("b.json", {"a.png": [[0, 0, 1, 1, "x"]]}, ValueError, "score of box 0 of 'a.png' must be a number, not 'x'"),
        ("b.json", {"a.png": [[0, 5, 9, 5]]}, ValueError, r"box 0 of 'a.png' has no area: it goes from \(0.0, 5.0\)"),
        ("b.json", {"a.png": [[0, 45, 9, 50]]}, ValueError, "outside of a.png with 60 x 40 px"),
        ("b.json", {"c.png": [[0, 0, 9, 9]]}, FileNotFoundError, r"no picture 'c\.png' .*in the folder"),
        ("b.json", [{"bbox": [0, 0, 9, 9]}], ValueError, r"b\.json does not name the pictures of all people"),
        ("b.csv", "a,b\n1,2\n", ValueError, r"b\.csv: needs the columns file_name, x0, .* and has a, b"),
        ("b.csv", "", ValueError, "needs the columns .* and has no line"),
        ("b.csv", "file_name,x0,y0,x1,y1\na.png,1,2,3\n", ValueError, "box 0 of 'a.png' must be four finite numbers"),
    ],
)
def test_files_of_boxes_that_do_not_fit(
    tmp_path: Path, name: str, content: Any, error: type[Exception], message: str
) -> None:
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(error, match=message):
        PredictInput(folder(tmp_path / "p", "a.png"), boxes=tmp_path / name).dataset("joints44", True, "people")


def test_a_csv_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"b\.csv: not a CSV file"):
        read_boxes(tmp_path / "b.csv")


def test_boxes_of_other_pictures_only(tmp_path: Path) -> None:
    photo = picture(tmp_path / "a.png")
    file = write(tmp_path / "b.json", {"c.png": [[0, 0, 9, 9]], "d.png": [[0, 0, 9, 9]]})
    with pytest.raises(ValueError, match=r"a\.png is one picture, but .*b\.json speaks of 2 others, 'c\.png' and"):
        PredictInput(photo, boxes=file).dataset("joints44", True, "people")
    write(file, {"c.png": [[0, 0, 9, 9]]})
    data = PredictInput(photo, boxes=file).dataset("joints44", True, "people")
    assert data.notes == (f"a.png is taken for the picture that {file} calls c.png",)


def test_command_line_fills_it_in(tmp_path: Path) -> None:
    photo = picture(tmp_path / "a.png")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--predict", type=PredictInput | None)
    given = parser.instantiate(
        parser.parse_args(["--predict.photo", str(photo), "--predict.box", "[10, 0, 30, 40]", "--predict.crops", "64"])
    ).predict
    assert given == PredictInput(photo, box=(10.0, 0.0, 30.0, 40.0), crops=64)
    assert given.dataset("joints44", True, "people").samples["box"].tolist() == [[20, 20, 48]]
