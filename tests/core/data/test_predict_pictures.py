import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from posecore.body.skeletons import COCO_17
from posecore.data.predict_dataset import PredictDataset
from posecore.data.predict_input import PredictInput
from posecore.data.predict_pictures import checked_sizes, frames_of_pictures, is_video
from posecore.testing.videos import write_video

SIZE = (64, 48)


def photo(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def truncated(path: Path, size: tuple[int, int] = SIZE) -> Path:
    content = photo(path, size).read_bytes()
    path.write_bytes(content[: 2 * len(content) // 3])
    return path


def keypoints(path: Path, people: list[dict[str, Any]], **fields: Any) -> Path:
    """People in a row; how far right they are says which."""
    points = [{joint: [10.0 + n, 5.0 + k, 0.9] for k, joint in enumerate(COCO_17.joint_names)} for n in range(99)]
    content = [{"keypoints": points[number], **person} for number, person in enumerate(people)]
    path.write_text(json.dumps({"joint_set": "coco17", "people": content, **fields}))
    return path


def clip(path: Path, num_frames: int = 6) -> Path:
    pytest.importorskip("av")
    return write_video(path, [np.full((SIZE[1], SIZE[0], 3), 20 * n, np.uint8) for n in range(num_frames)])


def people(given: PredictInput) -> PredictDataset:
    return given.dataset("joints44", True, "people")


def test_bad_pictures_of_a_folder_are_left_out_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    photo(folder / "a.jpg")
    photo(folder / "d.webp")
    truncated(folder / "b.jpg", (320, 240))
    (folder / "c.png").write_text("no picture")
    (folder / "e.heic").write_bytes(b"0")
    names = ["d", "b.jpg", "a.jpg", "c.png", "x.jpg", "../q.jpg"]
    file = keypoints(tmp_path / "k.json", [{"image": name} for name in names])
    data = PredictInput(folder, file).dataset("h36m17")
    assert [shown and shown.name for shown in data.photos] == ["d.webp", "a.jpg"]
    assert data.people.ids == ("0", "2")
    assert data.notes[1:] == ("4 pictures and the 4 people in them were left out",)
    reasons = dict(data.skipped)
    assert list(reasons) == ["b.jpg", "c.png", "x.jpg", "../q.jpg"]
    assert "truncated" in reasons["b.jpg"]
    assert "no picture that can be read" in reasons["c.png"]
    assert reasons["x.jpg"].startswith("there is no picture 'x.jpg' (nor with .jpg")
    alone = people(PredictInput(folder))
    assert alone.people.image_names == ("a.jpg", "d.webp")
    assert [name for name, _ in alone.skipped] == ["b.jpg", "c.png", "e.heic"]
    assert "save it as JPEG or PNG" in dict(alone.skipped)["e.heic"]
    assert alone.samples["box"][:, 2].tolist() == [64, 64]
    boxes = tmp_path / "b.json"
    boxes.write_text(json.dumps({"b.jpg": [[0, 0, 9, 9]], "a": [[2, 2, 6, 6]]}))
    boxed = people(PredictInput(folder, boxes=boxes, box_scale=1.0))
    assert boxed.samples["box"].tolist() == [[4, 4, 4]]
    assert [name for name, _ in boxed.skipped] == ["b.jpg"]


@pytest.mark.parametrize("make", [truncated, lambda path: path])
def test_a_single_bad_picture_is_an_error(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "a.jpg")
    file = keypoints(tmp_path / "k.json", [{}])
    with pytest.raises((ValueError, FileNotFoundError), match=r"photo: .*a\.jpg"):
        PredictInput(path, file).dataset("h36m17")
    folder = tmp_path / "p"
    truncated(folder / "a.jpg")
    keypoints(file, [{"image": "a.jpg"}])
    with pytest.raises(ValueError, match=r"photo: .*p/a\.jpg is no picture that can be read"):
        PredictInput(folder, file).dataset("h36m17")


def test_one_bad_file_of_a_folder_of_keypoints(tmp_path: Path) -> None:
    folder = tmp_path / "k"
    folder.mkdir()
    flat = [value for joint in range(25) for value in (10.0 + joint, 20.0, 0.9)]
    for number in range(3):
        content = {"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": flat}]}
        (folder / f"c_{number:012d}_keypoints.json").write_text(json.dumps(content))
    (folder / "c_000000000001_keypoints.json").write_text("{")
    data = PredictInput(keypoints=folder, image_size=(64, 48)).dataset("h36m17")
    assert data.people.frames == (0, 2)
    assert [name for name, _ in data.skipped] == ["c_000000000001_keypoints.json"]


def test_checking_reads_to_the_end_at_reduced_size(tmp_path: Path) -> None:
    large = photo(tmp_path / "large.jpg", (2000, 1500))
    checked_sizes([large])
    start = time.perf_counter()
    assert checked_sizes([large, large]) == {large: (2000, 1500)}
    reduced = time.perf_counter() - start
    start = time.perf_counter()
    with Image.open(large) as image:
        image.load()
    assert reduced < 2 * (time.perf_counter() - start)
    assert isinstance(checked_sizes([truncated(large, (2000, 1500))])[large], ValueError)


def test_turned_photographs_have_their_upright_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(tmp_path / "a.jpg", exif=exif)
    data = people(PredictInput(tmp_path / "a.jpg"))
    assert data.samples["image_size"].tolist() == [[48, 64]]
    (picture,) = data.pictures()
    assert picture.read().shape == (64, 48, 3)


def test_the_people_in_one_photograph_of_a_file_of_many(tmp_path: Path) -> None:
    path = photo(tmp_path / "000000000139.jpg")
    file = tmp_path / "k.json"
    flat = [value for joint in range(17) for value in (10.0 + joint, 20.0, 0.9)]
    file.write_text(json.dumps([{"image_id": n, "keypoints": flat, "score": 1} for n in (7, 139, 139)]))
    data = PredictInput(path, file).dataset("h36m17")
    assert data.people.ids == ("1", "2")
    assert data.notes[1:] == ("1 people in other pictures than 000000000139.jpg were left out",)
    absolute = keypoints(file, [{"image": "/home/me/000000000139.jpg"}])
    assert PredictInput(tmp_path, absolute).dataset("h36m17").photos == (path,)


def test_frames_of_a_video(tmp_path: Path) -> None:
    video = clip(tmp_path / "clip.mp4")
    assert is_video(video)
    file = keypoints(tmp_path / "k.json", [{"id": "a", "frame": 4}, {"id": "a", "frame": 1}])
    data = PredictInput(video, file).dataset("h36m17")
    assert (data.is_video, data.fps, data.samples["fps"].tolist()) == (True, 50.0, [50.0, 50.0])
    assert data.people.frames == (1, 4)
    assert data.samples["image_size"].tolist() == [[64, 48]] * 2
    assert [(name, rows) for name, rows, _ in data.pictures()] == [("clip_000001", (0,)), ("clip_000004", (1,))]
    assert data.notes[1:] == ("2 frames without a keypoint within tracks were left out",)
    assert data.source["group"] == "video"
    filled = PredictInput(video, file, group="video", fps=10.0).dataset("joints44", True, fill_gaps=True)
    assert filled.samples["frame"].tolist() == [1, 2, 3, 4]
    assert (filled.known.tolist(), filled.fps) == ([True, False, False, True], 10.0)
    assert filled.photos == (video,) * 4, "who is not seen is in the picture all the same"
    apart = PredictInput(video, file, group="people").dataset("h36m17")
    assert (apart.people.frames, apart.is_video) == ((4, 1), False)


def test_crops_of_a_video_by_keypoints_and_by_boxes(tmp_path: Path) -> None:
    video = clip(tmp_path / "clip.mp4")
    file = keypoints(tmp_path / "k.json", [{"id": "a", "frame": frame} for frame in (4, 1)])
    data = people(PredictInput(video, file, crops=16))
    batch = data.__getitems__([0, 1])
    assert batch["image"].shape == (2, 3, 24, 24)
    assert batch["image"][:, :, 12, 12].float().mean(dim=1).tolist() == pytest.approx([20, 80], abs=6)
    boxes = tmp_path / "b.json"
    boxes.write_text(json.dumps({f"f_{n}.jpg": [[8, 8, 24, 40], [40 + n, 8, 56 + n, 40]] for n in (2, 3, 5)}))
    data = people(PredictInput(video, boxes=boxes, crops=16))
    assert data.people.ids == ("track0",) * 3 + ("track1",) * 3
    assert data.people.frames == (2, 3, 5) * 2
    assert data.samples["box"][:, 0].tolist() == pytest.approx([16, 16, 16, 50, 51, 53])
    assert data.__getitems__([2])["image"][0, :, 12, 12].float().mean() == pytest.approx(100, abs=6)
    assert "followed from frame to frame: 2 tracks" in data.notes[0]
    whole = people(PredictInput(video))
    assert (whole.people.frames, set(whole.people.ids)) == (tuple(range(6)), {"0"})
    assert whole.samples["box"].tolist() == [[32, 24, 64]] * 6


@pytest.mark.parametrize(
    ("frames", "note"),
    [([1, 3, 6], "counts frames from 1"), ([0, 3, 6], None), ([-1], None)],
)
def test_frames_that_count_from_one_or_are_not_there(tmp_path: Path, frames: list[int], note: str | None) -> None:
    video = clip(tmp_path / "clip.mp4")
    file = keypoints(tmp_path / "k.json", [{"id": "a", "frame": frame} for frame in frames])
    if note is None:
        with pytest.raises(ValueError, match=r"photo: .*clip\.mp4 has 6 frames, but .*k\.json speaks of frame (6|-1) "):
            PredictInput(video, file).dataset("h36m17")
        return
    data = PredictInput(video, file).dataset("h36m17")
    assert data.people.frames == (0, 2, 5)
    assert note in data.notes[1]


def test_a_video_of_another_size(tmp_path: Path) -> None:
    file = keypoints(tmp_path / "k.json", [{}], image_size=[30, 40])
    with pytest.raises(ValueError, match=r"clip\.mp4: the image of person '0', frame 0, has 64 x 48 pixels, but"):
        PredictInput(clip(tmp_path / "clip.mp4"), file).dataset("h36m17")


def test_numbers_as_names_are_frames_of_a_video(tmp_path: Path) -> None:
    file = tmp_path / "k.json"
    flat = [value for joint in range(17) for value in (10.0 + joint, 20.0, 0.9)]
    file.write_text(json.dumps([{"image_id": n, "keypoints": flat, "score": 1} for n in (1, 3, 4)]))
    data = PredictInput(clip(tmp_path / "clip.mp4"), file).dataset("h36m17")
    assert data.people.frames == (1, 3, 4)


def test_frames_of_pictures_names() -> None:
    assert frames_of_pictures(["f_007.jpg", "f_003.jpg", "f_007.jpg"]) == (7, 3, 7)
    assert frames_of_pictures(["b.jpg", "a.jpg", "b.jpg"]) == (0, 1, 0)


def test_rows_are_taken_with_their_pictures(tmp_path: Path) -> None:
    """Boxes stay with their people where others are left out."""
    photo(tmp_path / "p" / "a.png")
    photo(tmp_path / "p" / "b.png")
    boxes = tmp_path / "b.json"
    boxes.write_text(json.dumps({"x.png": [[0, 0, 4, 4]], "b.png": [[2, 2, 6, 6]], "a.png": [[8, 8, 16, 16]]}))
    data = people(PredictInput(tmp_path / "p", boxes=boxes, box_scale=1.0))
    torch.testing.assert_close(data.samples["box"], torch.tensor([[4.0, 4, 4], [12, 12, 8]]))
    assert data.people.image_names == ("b.png", "a.png")
