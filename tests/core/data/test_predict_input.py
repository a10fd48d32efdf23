import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image

from posecore.body.skeletons import COCO_17
from posecore.data.predict_input import PredictInput

PHOTO, KEYPOINTS, VIDEO = Path("p.png"), Path("k.json"), Path("v.mp4")


def keypoints(path: Path, places: list[tuple[str, int, float]], **fields: Any) -> Path:
    """People of (id, frame, place across the picture)."""
    people = [
        {
            **({"id": name} if name else {}),
            "frame": frame,
            "keypoints": {joint: [x + k, 10.0 + 3 * k, 0.9] for k, joint in enumerate(COCO_17.joint_names)},
        }
        for name, frame, x in places
    ]
    path.write_text(json.dumps({"joint_set": "coco17", "people": people, "image_size": [300, 400], **fields}))
    return path


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "photo and keypoints: give at least one of them"),
        ({"photo": PHOTO, "keypoints": KEYPOINTS, "boxes": Path("b")}, "keypoints and boxes: say where the people are"),
        ({"photo": PHOTO, "boxes": Path("b"), "box": (0.0, 0.0, 1.0, 1.0)}, "boxes and box: say where the people are"),
        ({"photo": PHOTO, "keypoints": KEYPOINTS, "detector": "rtmlib"}, "keypoints and detector: say .* one way"),
        ({"boxes": Path("b")}, "boxes: needs photo"),
        ({"box": (0.0, 0.0, 1.0, 1.0)}, "box: needs photo"),
        ({"detector": "rtmlib"}, "detector: needs photo"),
        ({"keypoints": KEYPOINTS, "crops": 32}, "crops: needs photo"),
        ({"keypoints": KEYPOINTS, "crop_margin": 1.5}, "crop_margin: needs photo"),
        ({"photo": PHOTO, "joint_set": "coco17"}, "joint_set: says what to read of keypoints, and there are none"),
        ({"photo": PHOTO, "select": "a"}, "select: says what to read of keypoints, and there are none"),
        ({"photo": PHOTO, "pose_weights": Path("w")}, "pose_weights: needs detector"),
        ({"photo": PHOTO, "detector_weights": Path("w")}, "detector_weights: needs detector"),
        ({"photo": VIDEO, "box": (0.0, 0.0, 1.0, 1.0)}, r"box: is one of a single picture, and v\.mp4 is a video"),
        ({"photo": PHOTO, "box": (9.0, 0.0, 9.0, 9.0)}, r"box: must be left, top, right, bottom .* not \[9\.0, 0\.0"),
        ({"photo": PHOTO, "box_scale": 0.0}, r"box_scale: must be above 0, not 0\.0"),
        ({"keypoints": KEYPOINTS, "min_confidence": 1.5}, r"min_confidence: must lie in 0\.\.1, not 1\.5"),
        (
            {"keypoints": KEYPOINTS, "image_size": (0, 4)},
            r"image_size: must be width and height above 0 px, not \(0, 4",
        ),
        ({"photo": PHOTO, "crops": 0}, "crops: must be at least 1 px, got 0"),
        ({"photo": PHOTO, "crop_margin": 0.5}, r"crop_margin: must be at least 1, the box itself, got 0\.5"),
        ({"keypoints": KEYPOINTS, "group": "videos"}, "group: 'videos' is unknown, valid are people, views, video"),
        ({"keypoints": KEYPOINTS, "group": "video", "fps": 0.0}, r"fps: must be above 0, not 0\.0"),
        ({"keypoints": KEYPOINTS, "group": "video", "min_frames": 0}, "min_frames and max_gap: .* not 0 and None"),
        ({"keypoints": KEYPOINTS, "group": "video", "max_gap": -1}, "min_frames and max_gap: .* not 1 and -1"),
        ({"keypoints": KEYPOINTS, "fps": 25.0, "track": True}, "fps and track: of group 'video', not of 'people'"),
        ({"keypoints": KEYPOINTS, "group": "views", "max_gap": 3}, "max_gap: of group 'video', not of 'views'"),
        ({"photo": VIDEO, "keypoints": KEYPOINTS, "group": "views"}, r"group: the frames of one video, v\.mp4, are no"),
        ({"keypoints": KEYPOINTS, "cameras": Path("c"), "group": "video"}, "go with group 'views', not with 'video'"),
        (
            {"keypoints": KEYPOINTS, "cameras": Path("c"), "group": "views", "focal_length": 5.0},
            "leave out the other camera arguments",
        ),
        ({"keypoints": KEYPOINTS, "intrinsics": Path("c"), "field_of_view": 5.0}, "intrinsics and field_of_view: say"),
    ],
)
def test_arguments_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        # The tests' type checker would refuse the group first.
        inspect.unwrap(PredictInput.__init__)(object.__new__(PredictInput), **given)


def test_methods_are_told_what_they_need(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    with pytest.raises(ValueError, match=r"data\.predict\.keypoints: .* works on 2D keypoints: .*detector rtmlib"):
        PredictInput(tmp_path / "p.png").dataset("h36m17")
    with pytest.raises(ValueError, match=r"data\.predict\.photo: .* looks at pictures: give a photograph, a folder or"):
        PredictInput(keypoints=keypoints(tmp_path / "k.json", [("", 0, 50.0)])).dataset("joints44", True, "people")


def test_what_was_given_and_recognised_is_said(tmp_path: Path) -> None:
    Image.new("RGB", (300, 400)).save(tmp_path / "p.png")
    file = keypoints(tmp_path / "k.json", [("", 0, 50.0)])
    data = PredictInput(tmp_path / "p.png", file, field_of_view=60.0).dataset("h36m17")
    assert json.loads(json.dumps(data.source)) == data.source == {
        "photo": str(tmp_path / "p.png"), "keypoints": str(file), "box_scale": 1.2, "group": "people",
        "recognised": "k.json: simple JSON; joint set coco17, as the file says", "joint_set": "coco17",
        "min_confidence": 0.0, "camera": data.camera_statement,
    }  # fmt: skip
    assert "horizontal field of view of 60 degrees" in data.camera_statement
    assert data.source["recognised"] in data.notes
    video = PredictInput(keypoints=file, group="video", fps=12.0).dataset("h36m17")
    assert (video.source["fps"], video.source["group"]) == (12.0, "video")


def test_people_without_track_ids_are_followed(tmp_path: Path) -> None:
    """Two people who walk apart, in another order in every frame."""
    places = [("", frame, x) for frame in range(6) for x in ((40.0 - frame, 200.0 + frame)[:: 1 - 2 * (frame % 2)])]
    file = keypoints(tmp_path / "k.json", places)
    data = PredictInput(keypoints=file, group="video").dataset("joints44", True)
    assert data.people.ids == ("track0",) * 6 + ("track1",) * 6
    assert data.people.frames == tuple(range(6)) * 2
    assert data.people.keypoints[:, 0, 0].tolist() == [*range(40, 34, -1), *range(200, 206)]
    assert data.notes[1:] == (
        "people of k.json followed from frame to frame: 2 tracks", "frames per second assumed: 30",
    )  # fmt: skip
    same = [("1", frame, x) for _, frame, x in places]
    assert len(set(PredictInput(keypoints=keypoints(file, same), group="video").dataset("h36m17").people.ids)) == 2
    tracked = [(str(int(x > 100)), frame, x) for _, frame, x in places]
    keypoints(file, tracked)
    assert set(PredictInput(keypoints=file, group="video").dataset("h36m17").people.ids) == {"0", "1"}
    again = PredictInput(keypoints=file, group="video", track=True).dataset("h36m17")
    assert set(again.people.ids) == {"track0", "track1"}


def test_people_whose_keypoints_make_no_box_are_left_out(tmp_path: Path) -> None:
    Image.new("RGB", (300, 400)).save(tmp_path / "p.png")
    file = keypoints(tmp_path / "k.json", [("a", 0, 50.0), ("b", 0, 90.0)])
    content = json.loads(file.read_text())
    for joint in COCO_17.joint_names[1:]:
        content["people"][0]["keypoints"][joint][2] = 0.1
    file.write_text(json.dumps(content))
    data = PredictInput(tmp_path / "p.png", file, min_confidence=0.5).dataset("joints44", True, "people")
    assert data.people.ids == ("b",)
    assert data.notes[1:] == ("1 rows with keypoints at fewer than two places were left out",)
    assert len(PredictInput(tmp_path / "p.png", file, min_confidence=0.5).dataset("h36m17")) == 2
    content["people"].pop()
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"nobody of .*k\.json has two seen keypoints at different places, for a box"):
        PredictInput(tmp_path / "p.png", file, min_confidence=0.5).dataset("joints44", True, "people")


def test_a_detector_without_its_weights_is_one_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("rtmlib", reason="OpenCV needs libGL", exc_type=ImportError)
    Image.new("RGB", (300, 400)).save(tmp_path / "p.png")
    given = PredictInput(tmp_path / "p.png", detector="rtmlib", detector_weights=tmp_path / "none.onnx")
    with pytest.raises(FileNotFoundError, match=r"detector_weights: there is no file .*none\.onnx"):
        given.dataset("h36m17")
    with pytest.raises(FileNotFoundError, match=r"photo: there is no picture .*none\.png"):
        PredictInput(tmp_path / "none.png", detector="rtmlib").dataset("h36m17")


def test_command_line_fills_it_in(tmp_path: Path) -> None:
    file = keypoints(tmp_path / "k.json", [("a", 2, 50.0)])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--predict", type=PredictInput | None)
    arguments = ["--predict.keypoints", str(file), "--predict.group", "video", "--predict.max_gap", "3"]
    arguments += ["--predict.center", "[3, 4]", "--predict.track", "false"]
    given = parser.instantiate(parser.parse_args(arguments)).predict
    assert given == PredictInput(keypoints=file, group="video", max_gap=3, center=(3.0, 4.0), track=False)
    data = given.dataset("joints44")
    assert data.samples["frame"].tolist() == [2]
    torch.testing.assert_close(data.samples["K"][0, :2, 2], torch.tensor([3.0, 4.0]))
