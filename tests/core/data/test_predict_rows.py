import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from posecore.body.skeletons import COCO_17, JOINTS_44, get_joint_set
from posecore.data.predict_dataset import PredictDataset
from posecore.data.predict_input import PredictInput


def person(number: int, **fields: Any) -> dict[str, Any]:
    """One person of the simple JSON; the nose says which one it is."""
    keypoints = {name: [100.0 + number, 50.0 + joint, 0.9] for joint, name in enumerate(COCO_17.joint_names)}
    return {"keypoints": keypoints, **fields}


def write(path: Path, people: list[dict[str, Any]], **fields: Any) -> Path:
    size = {} if "image_size" in fields else {"image_size": [300, 400]}
    path.write_text(json.dumps({"joint_set": "coco17", "people": people, **size, **fields}))
    return path


def numbers(samples: Any) -> list[int]:
    """Which `person` each row is; -100 where it has no keypoint."""
    return [round(float(x)) - 100 for x in samples["joints_2d_px"][:, JOINTS_44.index("op_nose"), 0]]


def fit(given: PredictInput) -> PredictDataset:
    """What ScoreHMR makes of it."""
    return given.dataset("joints44", True, fill_gaps=True)


def write_photo(path: Path, size: tuple[int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def test_people_come_as_the_file_has_them(tmp_path: Path) -> None:
    file = write(tmp_path / "k.json", [person(0, id="b", frame=3), person(1, id="a", frame=1)])
    dataset = fit(PredictInput(keypoints=file))
    assert isinstance(dataset, PredictDataset)
    samples = dataset.samples
    assert set(samples) == {"joints_2d_px", "confidence", "K", "image_size", "clip", "frame", "view", "row"}
    assert numbers(samples) == [0, 1]
    assert (samples["clip"], samples["frame"].tolist(), samples["view"].tolist()) == (["b", "a"], [3, 1], [0, 0])
    assert samples["K"][0, 0, 0] == 500.0
    assert dataset.camera_assumed
    assert "assumed" in dataset.camera_statement
    assert dataset.photos == (None, None)
    assert dataset.notes == ("k.json: simple JSON; joint set coco17, as the file says",)
    assert dataset.known.tolist() == [True, True]
    assert dataset[1]["image_size"].tolist() == [300.0, 400.0]


def test_openpose_slots_that_coco_lacks_stay_empty(tmp_path: Path) -> None:
    file = write(tmp_path / "k.json", [person(0)])
    confidence = PredictInput(keypoints=file).dataset("body25", True).samples["confidence"][0]
    empty = {
        name for name, value in zip(get_joint_set("body25").joint_names, confidence.tolist(), strict=True) if not value
    }
    feet = {f"{side}_{part}" for side in "lr" for part in ("big_toe", "small_toe", "heel")}
    assert empty == {"neck", "mid_hip"} | feet
    assert PredictInput(keypoints=file).dataset("body25").samples["confidence"][0].count_nonzero() == 19


def test_weak_keypoints_are_not_seen(tmp_path: Path) -> None:
    weak, strong = person(0), person(1)
    for name in COCO_17.joint_names:
        weak["keypoints"][name][2] = 0.39
    strong["keypoints"]["nose"][2] = 0.4
    strong["keypoints"]["left_hip"] = [*strong["keypoints"].pop("l_hip")[:2], 0.399]
    file = write(tmp_path / "k.json", [weak, strong])
    dataset = fit(PredictInput(keypoints=file, min_confidence=0.4))
    assert numbers(dataset.samples) == [1]
    hip, nose = JOINTS_44.index("op_l_hip"), JOINTS_44.index("op_nose")
    assert dataset.samples["confidence"][0, [hip, nose]].tolist() == pytest.approx([0.0, 0.4])
    assert dataset.samples["joints_2d_px"][0, hip].tolist() == [0.0, 0.0]
    assert float(dataset.people.confidence[0, COCO_17.index("l_hip")]) == 0.0
    assert dataset.people.num_skipped == 1
    assert dataset.notes[1:] == ("1 rows without a seen keypoint were left out",)
    assert len(fit(PredictInput(keypoints=file))) == 2
    with pytest.raises(ValueError, match=r"no keypoint of .*k\.json has a confidence of 0\.95"):
        fit(PredictInput(keypoints=file, min_confidence=0.95))


def test_video_is_sorted_and_filled(tmp_path: Path) -> None:
    people = [
        person(0, id="10", frame=5),
        person(1, id="2", frame=8, image="b.jpg"),
        person(2, id="2", frame=4, image="a.jpg"),
        person(3, id="10", frame=4),
        person(4, id="2", frame=7),
    ]
    dataset = PredictInput(keypoints=write(tmp_path / "k.json", people), group="video", fps=24.0).dataset(
        "joints44", True, fill_gaps=True
    )
    samples = dataset.samples
    assert numbers(samples) == [2, -100, -100, 4, 1, 3, 0]
    assert samples["clip"] == ["2"] * 5 + ["10"] * 2
    assert samples["frame"].tolist() == [4, 5, 6, 7, 8, 4, 5]
    assert samples["fps"].tolist() == [24.0] * 7
    assert dataset.known.tolist() == [True, False, False, True, True, True, True]
    assert samples["confidence"][1:3].count_nonzero() == samples["joints_2d_px"][1:3].count_nonzero() == 0
    assert dataset.people.ids == tuple(samples["clip"])
    assert dataset.people.frames == tuple(samples["frame"].tolist())
    assert dataset.people.image_names == ("a.jpg", "", "", "", "b.jpg", "", "")
    assert dataset.notes[1:] == ("2 frames without a keypoint lie within tracks",)
    torch.testing.assert_close(samples["K"], samples["K"][:1].expand(7, 3, 3))


def test_filled_rows_have_the_camera_of_the_row_before(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name, size in (("a.png", (30, 40)), ("b.png", (60, 80))):
        write_photo(photos / name, size)
    people = [person(0, id="1", frame=0, image="a.png"), person(1, id="1", frame=2, image="b")]
    file = write(tmp_path / "k.json", people, image_size=None)
    dataset = fit(PredictInput(photos, file, group="video"))
    assert dataset.samples["image_size"].tolist() == [[30.0, 40.0], [30.0, 40.0], [60.0, 80.0]]
    assert dataset.samples["K"][:, 0, 0].tolist() == [50.0, 50.0, 100.0]
    assert dataset.photos == (photos / "a.png", None, photos / "b.png")


@pytest.mark.parametrize("seed", range(3))
def test_video_holds_every_row_once_and_every_frame_between(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    pairs = sorted({(str(generator.integers(3)), int(generator.integers(30))) for _ in range(25)})
    generator.shuffle(pairs)
    people = [person(number, id=track, frame=int(frame)) for number, (track, frame) in enumerate(pairs)]
    dataset = PredictInput(keypoints=write(tmp_path / "k.json", people), group="video", max_gap=4).dataset(
        "joints44", True, fill_gaps=True
    )
    found = list(zip(dataset.people.ids, dataset.people.frames, dataset.known.tolist(), strict=True))
    seen = {(name.split()[0], frame): number for (name, frame, known), number in
            zip(found, numbers(dataset.samples), strict=True) if known}  # fmt: skip
    assert seen == {(track, int(frame)): number for number, (track, frame) in enumerate(pairs)}
    for name in set(dataset.people.ids):
        of_part = [(frame, known) for track, frame, known in found if track == name]
        frames = [frame for frame, _ in of_part]
        assert frames == list(range(frames[0], frames[-1] + 1))
        pattern = "".join("x" if known else "." for _, known in of_part)
        assert re.fullmatch(r"x(\.{0,4}x)*", pattern)
    assert sum(known for _, _, known in found) == len(pairs)


def test_long_gaps_cut_a_track_and_short_tracks_are_said(tmp_path: Path) -> None:
    frames = {"7": [0, 1, 3, 6, 7, 8], "8": [0, 1]}
    people = [person(0, id=track, frame=frame) for track, of_track in frames.items() for frame in of_track]
    file = write(tmp_path / "k.json", people)
    dataset = PredictInput(keypoints=file, group="video", max_gap=1, min_frames=3).dataset(
        "joints44", True, fill_gaps=True
    )
    assert dataset.samples["clip"] == ["7 part 1"] * 4 + ["7 part 2"] * 3
    assert dataset.notes[1:] == (
        "1 tracks with fewer than 3 frames were left out: 8",
        "1 frames without a keypoint lie within tracks",
        "frames per second assumed: 30",
    )
    assert len(fit(PredictInput(keypoints=file, group="video", max_gap=2))) == 9 + 2
    # A filled frame does not make a track longer: 6 of the 9 frames have keypoints.
    with pytest.raises(ValueError, match="min_frames: none of 2 tracks has 7 frames"):
        fit(PredictInput(keypoints=file, group="video", min_frames=7))


def test_frames_that_are_no_track(tmp_path: Path) -> None:
    file = write(tmp_path / "k.json", [person(0, id="1", frame=frame) for frame in (4, 4)])
    with pytest.raises(ValueError, match="track: '1' is in frame 4 twice, so ids are no tracks"):
        fit(PredictInput(keypoints=file, group="video", track=False))
    write(file, [person(0, id="1", frame=frame) for frame in (0, 10**12)])
    with pytest.raises(ValueError, match=r"max_gap: .* would have 1000000000001 rows"):
        fit(PredictInput(keypoints=file, group="video"))


def test_views_of_an_instant_stand_together(tmp_path: Path) -> None:
    people = [person(number, frame=frame) for number, frame in enumerate([7, 3, 7, 3, 7])]
    dataset = PredictInput(keypoints=write(tmp_path / "k.json", people), group="views").dataset(
        "joints44", True, fill_gaps=True
    )
    assert numbers(dataset.samples) == [1, 3, 0, 2, 4]
    assert dataset.samples["clip"] == ["instant 3"] * 2 + ["instant 7"] * 3
    assert dataset.samples["view"].tolist() == [0, 1, 0, 1, 2]
    assert dataset.people.ids == ("1", "3", "0", "2", "4")
    assert dataset.camera_assumed


def view(number: int, **fields: Any) -> dict[str, Any]:
    """A camera turned by `number` tenths about y, with a focal length that says which one it is."""
    sine, cosine = math.sin(number / 10), math.cos(number / 10)
    R = [[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]]
    return {"K": [[800.0 + number, 0.5, 150], [0, 810.0, 200], [0, 0, 1]], "R": R, "t": [number, 0.0, 4.0], **fields}


def write_views(path: Path, views: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"views": views}))
    return path


@pytest.mark.parametrize(
    ("cameras", "people", "order", "camera"),
    [
        # By their order in the file.
        ([{}, {}], [{}, {}, {"frame": 1}, {"frame": 1}], [0, 1, 2, 3], [0, 1, 0, 1]),
        # By a name that is the person's id, the image's name, its stem or its folder.
        ([{"name": "a"}, {"name": "b"}], [{"id": "b"}, {"id": "a"}], [1, 0], [0, 1]),
        ([{"name": "a.jpg"}, {"name": "b.jpg"}], [{"image": "b.jpg"}, {"image": "a.jpg"}], [1, 0], [0, 1]),
        ([{"name": "a"}, {"name": "b"}], [{"image": "b.jpg"}, {"image": "a.jpg"}], [1, 0], [0, 1]),
        ([{"name": "a"}, {"name": "b"}], [{"image": "b/0.jpg"}, {"image": "a/0.jpg"}], [1, 0], [0, 1]),
        # No row has such a name.
        ([{"name": "a"}, {"name": "b"}], [{"id": "x"}, {"id": "y"}], [0, 1], [0, 1]),
    ],
)
def test_calibrated_views(
    tmp_path: Path, cameras: list[dict[str, Any]], people: list[dict[str, Any]], order: list[int], camera: list[int]
) -> None:
    views = [view(number, **fields) for number, fields in enumerate(cameras)]
    file = write(tmp_path / "k.json", [person(number, **fields) for number, fields in enumerate(people)])
    given = PredictInput(keypoints=file, group="views", cameras=write_views(tmp_path / "cameras.json", views))
    dataset = fit(given)
    samples = dataset.samples
    assert numbers(samples) == order
    assert samples["view"].tolist() == camera
    for key, name in (("K", "K"), ("R_world_to_cam", "R"), ("t_world_to_cam", "t")):
        expected = torch.tensor([views[number][name] for number in camera])
        torch.testing.assert_close(samples[key], expected)  # type: ignore[literal-required]
    assert not dataset.camera_assumed
    assert dataset.camera_statement == "2 calibrated cameras from cameras.json"


def test_image_sizes_of_calibrated_views(tmp_path: Path) -> None:
    sized = [view(0, image_size=[30, 40]), view(1, image_size=[60, 80])]
    cameras = write_views(tmp_path / "cameras.json", sized)
    file = write(tmp_path / "k.json", [person(0), person(1)], image_size=None)
    samples = fit(PredictInput(keypoints=file, group="views", cameras=cameras)).samples
    assert samples["image_size"].tolist() == [[30.0, 40.0], [60.0, 80.0]]
    write(file, [person(0), person(1)], image_size=[30, 40])
    with pytest.raises(ValueError, match=r"cameras\.json: the image of person '1', frame 0, has 60 x 80 pixels, but"):
        fit(PredictInput(keypoints=file, group="views", cameras=cameras))


@pytest.mark.parametrize(
    ("names", "people", "message"),
    [
        (["", ""], [{}, {}, {}], r"has 2 views, but instant 0 has 3 rows"),
        (["", ""], [{}, {}, {"frame": 4}], r"has 2 views, but instant 4 has 1 rows"),
        (["a", "b"], [{"id": "a"}, {"id": "a"}], r"instant 0 has the rows a, a; one of each view a, b is expected"),
        (["a", "b"], [{"id": "a"}, {"image": "c.jpg"}], r"instant 0 has the rows a, c\.jpg; one of each view a, b"),
    ],
)
def test_views_without_their_camera(
    tmp_path: Path, names: list[str], people: list[dict[str, Any]], message: str
) -> None:
    views = [view(number, **({"name": name} if name else {})) for number, name in enumerate(names)]
    file = write(tmp_path / "k.json", [person(number, **fields) for number, fields in enumerate(people)])
    with pytest.raises(ValueError, match=rf"cameras\.json: {message}"):
        PredictInput(keypoints=file, group="views", cameras=write_views(tmp_path / "cameras.json", views)).dataset(
            "joints44", True, fill_gaps=True
        )


def test_sizes_come_from_a_folder_of_photographs(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    first, second = write_photo(photos / "a" / "0.jpg", (30, 40)), write_photo(photos / "b" / "0.jpg", (60, 80))
    people = [person(0, image="b/0"), person(1, image="a/0.jpg")]
    file = write(tmp_path / "k.json", people, image_size=None)
    dataset = fit(PredictInput(photos, file))
    assert dataset.photos == (second, first)
    assert dataset.samples["image_size"].tolist() == [[60.0, 80.0], [30.0, 40.0]]
    assert dataset.samples["K"][:, 0, 2].tolist() == [30.0, 15.0]


def test_one_photograph_is_everybodys(tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "me.png", (30, 40))
    file = write(tmp_path / "k.json", [person(0, image="I.png"), person(1)], image_size=None)
    dataset = fit(PredictInput(photo, file, focal_length=77.0, center=(3.0, 4.0)))
    assert dataset.photos == (photo, photo)
    assert dataset.people.image_names == ("I.png", "me.png")
    assert dataset.samples["image_size"].tolist() == [[30.0, 40.0]] * 2
    assert dataset.samples["K"][1].tolist() == [[77.0, 0.0, 3.0], [0.0, 77.0, 4.0], [0.0, 0.0, 1.0]]
    assert not dataset.camera_assumed


@pytest.mark.parametrize(
    ("people", "fields", "photo", "error", "message"),
    [
        ([{"image": "c.png"}], {}, "photos", FileNotFoundError, r"no picture 'c\.png' .*in the folder .*photos"),
        ([{"image": "../k.png"}], {}, "photos", FileNotFoundError, r"no picture '\.\./k\.png'"),
        ([{}], {}, "photos", ValueError, r"k\.json does not name the pictures of all people"),
        (
            [{"image": "c.png"}, {"image": "b.png"}],
            {},
            "photos/a.png",
            ValueError,
            "is one picture, but .* speaks of 2",
        ),
        ([{}], {}, "photos/none.png", FileNotFoundError, "photo: there is no picture"),
        ([{}], {}, "k.json", ValueError, r"photo: .*k\.json is no picture that can be read"),
        ([{"image": "a.png"}], {"image_size": [31, 40]}, "photos", ValueError, "has 30 x 40 pixels, but .* 31 x 40"),
        ([{}], {}, None, ValueError, "the image size is unknown, .*: give image_size or photo; or"),
    ],
)
def test_photographs_that_do_not_fit(
    tmp_path: Path,
    people: list[dict[str, Any]],
    fields: dict[str, Any],
    photo: str | None,
    error: type[Exception],
    message: str,
) -> None:
    write_photo(tmp_path / "photos" / "a.png", (30, 40))
    write_photo(tmp_path / "k.png", (30, 40))
    file = write(tmp_path / "k.json", [person(0, **entry) for entry in people], **({"image_size": None} | fields))
    with pytest.raises(error, match=message):
        fit(PredictInput(None if photo is None else tmp_path / photo, file))
