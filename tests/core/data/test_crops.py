import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from posecore.body.skeletons import COCO_17, H36M_16, H36M_17
from posecore.data import PoseTable, SMPLGroups, SMPLNpz
from posecore.data import crops as crops_module
from posecore.data.base import select_joints
from posecore.data.crops import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CroppedPeople,
    PersonCrops,
    box_of_keypoints,
    crop,
    raw_crop,
    read_picture,
)
from posecore.data.mixing import JoinedDataset
from posecore.data.predict_input import PredictInput
from posecore.data.sample import PoseSample
from posecore.geometry.camera import crop_keypoints, uncrop_keypoints
from posecore.testing import write_smpl_groups, write_smpl_npz

BLACK = -torch.tensor(IMAGENET_MEAN) / torch.tensor(IMAGENET_STD)


def colours(image: torch.Tensor) -> torch.Tensor:
    """0..255 before the normalisation."""
    std, mean = (torch.tensor(values)[:, None, None] for values in (IMAGENET_STD, IMAGENET_MEAN))
    return 255 * (image * std + mean)


def slopes(width: int = 200, height: int = 180, blue: int = 0) -> np.ndarray:
    """Red is a pixel's column, green its row."""
    y, x = np.mgrid[:height, :width] * 255 // max(width, height, 255)
    return np.stack((x, y, np.full_like(x, blue)), axis=-1).astype(np.uint8)


def write_picture(path: Path, picture: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)
    return path


@pytest.mark.parametrize(("side", "size"), [(91.3, 90), (61.7, 96), (130.3, 40), (150.0, 7), (20.5, 64)])
def test_every_pixel_comes_from_where_the_camera_says(side: float, size: int) -> None:
    """On a linear slope, the colour tells the place, whatever is smoothed."""
    center = torch.tensor([97.3, 85.8])
    found = colours(crop(slopes(), (97.3, 85.8), side, size))
    middles = 2 * (torch.arange(size) + 0.5) / size - 1
    points = torch.cartesian_prod(middles, middles)  # y, x
    place = uncrop_keypoints(points.flip(-1), center, torch.tensor(side)).reshape(size, size, 2)
    # The colour of a pixel is its number, and its middle lies half a pixel further.
    error = found[:2].permute(1, 2, 0) + 0.5 - place
    assert error.abs().max() < 0.75, "half a step of colour is lost to rounding"
    assert error.mean(dim=(0, 1)).abs().max() < 0.12
    assert found[2].abs().max() < 1e-3


@pytest.mark.parametrize("seed", range(12))
def test_a_dot_lies_where_the_keypoint_does(seed: int) -> None:
    draw = np.random.default_rng(seed)
    size, side = int(draw.integers(32, 200)), draw.uniform(40, 400)
    spread = 2.5 * max(side / size, 1)  # pixels of the picture
    center = draw.uniform(100, 200, 2)
    dot = center + draw.uniform(-0.25, 0.25, 2) * side
    y, x = np.mgrid[:300, :300] + 0.5
    blob = 255 * np.exp(-((x - dot[0]) ** 2 + (y - dot[1]) ** 2) / (2 * spread**2))
    picture = np.repeat(blob.round().astype(np.uint8)[..., None], 3, axis=-1)
    seen = colours(crop(picture, (center[0], center[1]), side, size))[0].double().clamp_min(0)
    seen = torch.where(seen > 60, seen, 0.0)
    at = torch.arange(size) + 0.5
    found = torch.stack((seen.sum(dim=0) @ at.double(), seen.sum(dim=1) @ at.double())) / seen.sum()
    place = crop_keypoints(torch.tensor(dot)[None], torch.tensor(center), torch.tensor(side, dtype=torch.float64))[0]
    torch.testing.assert_close(found, (place + 1) / 2 * size, atol=0.15, rtol=0)


@pytest.mark.parametrize(("side", "size"), [(96, 64), (96, 224), (160, 24), (64, 64)])
def test_pixels_are_those_of_torch(side: int, size: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (200, 220, 3), dtype=np.uint8)
    found = colours(crop(picture, (110.0, 100.0), float(side), size))
    cut = picture[100 - side // 2 : 100 + side // 2, 110 - side // 2 : 110 + side // 2]
    channels = torch.from_numpy(cut).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(channels, (size, size), mode="bilinear", antialias=True)[0]
    inside = slice(math.ceil(2 * size / side), -math.ceil(2 * size / side))  # torch does not look beyond the cut
    assert (found - expected)[:, inside, inside].abs().max() < 1.6, "two roundings"
    assert found.dtype == torch.float32


def test_stripes_turn_grey_where_a_crop_shrinks() -> None:
    picture = np.zeros((256, 256, 3), dtype=np.uint8)
    picture[:, ::2] = 255
    shrunk = colours(crop(picture, (128.0, 128.0), 200.0, 20))
    assert (shrunk - 127.5).abs().max() < 3
    assert set(colours(crop(picture, (128.0, 128.0), 200.0, 200))[0].round().unique().tolist()) == {0.0, 255.0}


def test_outside_of_the_picture_is_black() -> None:
    white = np.full((50, 80, 3), 255, dtype=np.uint8)
    image = crop(white, (0.0, 25.0), 40.0, 40)
    assert image.shape == (3, 40, 40)
    torch.testing.assert_close(image[:, :, :19], BLACK[:, None, None].expand(3, 40, 19))
    assert colours(image)[:, :, 21:].min() > 254.9
    right = crop(white, (80.0, 50.0), 400.0, 100)
    assert colours(right)[:, 26:38, :50].amin() < 256, "the bottom and right of the picture lie in the middle"
    torch.testing.assert_close(right[:, 52:, :], BLACK[:, None, None].expand(3, 48, 100))
    torch.testing.assert_close(right[:, :, 52:], BLACK[:, None, None].expand(3, 100, 48))
    for center in ((-500.0, 20.0), (20.0, 900.0), (900.0, -300.0)):
        torch.testing.assert_close(crop(white, center, 40.0, 8), BLACK[:, None, None].expand(3, 8, 8))


@pytest.mark.parametrize(
    ("center", "side", "size", "message"),
    [
        ((5.0, 5.0), 0.0, 8, r"a side in \(0, 16384\] px, got \(5\.0, 5\.0\) and 0\.0"),
        ((5.0, 5.0), 1e6, 8, r"a side in \(0, 16384\] px, got .* and 1000000\.0"),
        ((5.0, 5.0), math.nan, 8, "must be finite .* and nan"),
        ((math.inf, 5.0), 4.0, 8, r"must be finite .*got \(inf, 5\.0\)"),
        ((5.0, 5.0), 4.0, 0, "size: must be at least 1 px, got 0"),
    ],
)
def test_what_is_no_box_is_refused(center: tuple[float, float], side: float, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crop(slopes(), center, side, size)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_a_box_goes_around_what_is_seen(batch: tuple[int, ...]) -> None:
    keypoints = torch.tensor([[10.0, 20.0], [30.0, 80.0], [900.0, 900.0], [math.nan, -5.0], [20.0, 50.0]])
    confidence = torch.tensor([0.3, 1.0, 0.0, 0.0, 0.5])
    center, side = box_of_keypoints(keypoints.expand(*batch, 5, 2), confidence.expand(*batch, 5))
    torch.testing.assert_close(center, torch.tensor([20.0, 50.0]).expand(*batch, 2))
    torch.testing.assert_close(side, torch.full(batch, 72.0))
    assert box_of_keypoints(keypoints, confidence, scale=2.0)[1] == 120.0


def test_a_box_needs_two_places() -> None:
    keypoints = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 5.0], [5.0, 5.0]], [[1.0, 2.0], [3.0, 4.0]]])
    confidence = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"keypoints_px: 2 of 3 people have no two seen .* the first is number 1"):
        box_of_keypoints(keypoints, confidence)
    with pytest.raises(ValueError, match="1 of 1 people have no two seen keypoints at different places"):
        box_of_keypoints(keypoints[0], torch.zeros(2))


def test_pictures_are_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    lying = slopes(60, 40)
    path = write_picture(tmp_path / "a.png", lying, exif=exif)
    assert np.array_equal(read_picture(path), np.rot90(lying, -1))
    grey = write_picture(tmp_path / "grey.png", lying[..., 0])
    assert np.array_equal(read_picture(grey), lying[..., :1].repeat(3, axis=-1))


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no picture .*none\.png"):
        read_picture(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png is no picture that can be read"):
        read_picture(tmp_path / "text.png")
    whole = write_picture(tmp_path / "whole.jpg", slopes()).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.jpg is no picture that can be read"):
        read_picture(tmp_path / "cut.jpg")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    return [write_picture(tmp_path / f"{number}.png", slopes(blue=number)) for number in range(3)]


OF_ROW = (0, 1, 0, 2, 0)
CENTERS = torch.tensor([[50.0, 60.0], [70.0, 80.0], [90.0, 50.0], [60.0, 60.0], [100.0, 100.0]])
SIDES = torch.tensor([40.0, 50.0, 60.0, 70.0, 300.0])


def table() -> PoseTable:
    samples: PoseSample = {"joints_cam": torch.arange(5.0 * 17 * 3).reshape(5, 17, 3), "clip": list("abcde")}
    return PoseTable(H36M_17, samples)


def cropped(pictures: list[Path], size: int = 16) -> CroppedPeople:
    return CroppedPeople(table(), [pictures[number] for number in OF_ROW], CENTERS, SIDES, size)


def expected(row: int, size: int = 16) -> torch.Tensor:
    x, y = CENTERS[row].tolist()
    return crop(slopes(blue=OF_ROW[row]), (x, y), float(SIDES[row]), size)


def test_rows_have_their_crops(pictures: list[Path]) -> None:
    people = cropped(pictures)
    batch = people.__getitems__([4, 1, 1, 0])
    assert batch["clip"] == ["e", "b", "b", "a"]
    assert torch.equal(batch["image"], torch.stack([expected(row) for row in (4, 1, 1, 0)]))
    assert torch.equal(people[-2]["image"], expected(3))
    assert people.__getitems__([])["image"].shape == (0, 3, 16, 16)
    assert "image" not in people.samples
    assert "image" not in table().__getitems__([0])


def test_crops_outlive_a_choice_of_joints_and_a_join(pictures: list[Path]) -> None:
    people = cropped(pictures)
    sixteen = select_joints(people, H36M_16)
    assert sixteen[2]["joints_cam"].shape == (16, 3)
    assert torch.equal(sixteen[2]["image"], expected(2))
    joined = JoinedDataset([people, cropped(pictures)]).__getitems__([7, 1])
    assert torch.equal(joined["image"], torch.stack((expected(2), expected(1))))
    assert "image" not in JoinedDataset([people, table()]).__getitems__([0])


def test_a_picture_is_read_once_for_a_batch(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def noted(path: Path) -> np.ndarray:
        read.append(path)
        return read_picture(path)

    monkeypatch.setattr(crops_module, "read_picture", noted)
    people = cropped(pictures)
    assert not read
    people.__getitems__([0, 1, 2, 4, 0])
    assert read == pictures[:2]


def test_crops_that_cannot_be_made_are_refused(pictures: list[Path]) -> None:
    with pytest.raises(ValueError, match="pictures: 3 for a table of 5 rows"):
        CroppedPeople(table(), pictures, CENTERS, SIDES)
    with pytest.raises(ValueError, match="pictures: 3 for 5 middles and 5 sides"):
        PersonCrops(pictures, CENTERS, SIDES)
    with pytest.raises(ValueError, match="crops: their side must be at least 1 px, got 0"):
        cropped(pictures, size=0)
    with pytest.raises(ValueError, match=r"1\.png: row 1: center_px and box_size_px: .* -3\.0"):
        PersonCrops(pictures, CENTERS[:3], torch.tensor([1.0, -3.0, 1.0]))([0, 1])
    pictures[2].unlink()
    people = cropped(pictures)
    assert people.__getitems__([0, 1, 2, 4])["image"].shape == (4, 3, 16, 16), "what is not asked for is not missed"
    with pytest.raises(FileNotFoundError, match=r"there is no picture .*2\.png"):
        people.__getitems__([0, 3])


def write_pictures(root: Path, people: dict[str, np.ndarray]) -> None:
    sizes = dict(zip(people["imgname"], people["image_size"].astype(int), strict=True))
    for number, (name, (width, height)) in enumerate(sizes.items()):
        write_picture(root / name, slopes(width, height, blue=20 * number), compress_level=1)


def crops_of(root: Path, people: dict[str, np.ndarray], rows: list[int], size: int) -> torch.Tensor:
    found = []
    for row in rows:
        x, y = people["center"][row].tolist()
        found.append(crop(read_picture(root / people["imgname"][row]), (x, y), float(people["scale"][row]), size))
    return torch.stack(found)


def test_released_files_give_crops(tmp_path: Path) -> None:
    first = write_smpl_npz(tmp_path, "a.npz", rows=6)
    known = np.array([1, 0, 1, 1, 0.0])
    second = write_smpl_npz(tmp_path, "b.npz", rows=5, seed=1, has_body_pose=known)
    write_pictures(tmp_path, first)
    data = SMPLNpz(tmp_path, ["a.npz", "b.npz"], image_root=tmp_path, require_pose=True, crops=24)
    batch = data.__getitems__(range(len(data)))
    expected = (crops_of(tmp_path, first, [0, 1, 2, 3], 24), crops_of(tmp_path, second, [0, 2, 3], 24))
    assert torch.equal(batch["image"], torch.cat(expected))
    assert "image" not in SMPLNpz(tmp_path, ["a.npz"], image_root=tmp_path)[0]
    bare = SMPLNpz(tmp_path, ["a.npz"], image_root=tmp_path, with_keypoints=False, crops=24)
    assert torch.equal(bare[5]["image"], crops_of(tmp_path, first, [5], 24)[0])
    with pytest.raises(ValueError, match="crops: need image_root, the folder of the pictures"):
        SMPLNpz(tmp_path, ["a.npz"], image_size=(9, 9), crops=24)
    with pytest.raises(ValueError, match="crops: their side must be at least 1 px, got -1"):
        SMPLNpz(tmp_path, ["a.npz"], image_root=tmp_path, crops=-1)


def test_released_groups_give_crops(tmp_path: Path) -> None:
    people = write_smpl_groups(tmp_path, "test.pkl", counts=(2, 3))
    write_pictures(tmp_path, people)
    data = SMPLGroups(tmp_path, "test.pkl", image_root=tmp_path, crops=24)
    assert data.samples["clip"] == ["0000"] * 2 + ["0001"] * 3
    assert torch.equal(data.__getitems__([4, 0])["image"], crops_of(tmp_path, people, [4, 0], 24))


def test_camera_and_crop_are_of_the_same_upright_picture(tmp_path: Path) -> None:
    people = write_smpl_npz(tmp_path, rows=1, unknown=0)
    width, height = people["image_size"][0].astype(int).tolist()
    exif = Image.Exif()
    exif[0x0112] = 8  # to be turned by 90 degrees counterclockwise
    lying = np.rot90(slopes(width, height), -1)
    write_picture(tmp_path / people["imgname"][0], lying, exif=exif, compress_level=1)
    row = SMPLNpz(tmp_path, ["train.npz"], image_root=tmp_path, crops=24)[0]
    assert row["image_size"].tolist() == [width, height]
    x, y = people["center"][0].tolist()
    assert torch.equal(row["image"], crop(slopes(width, height), (x, y), float(people["scale"][0]), 24))


def keypoint_file(folder: Path, frames: list[int], **fields: Any) -> Path:
    """People of COCO's joints on a line: x = 50 + frame, y = 40 to 72."""
    names = COCO_17.joint_names
    people = [
        {
            "id": "7",
            "frame": frame,
            "image": f"{frame % 3}.png",
            "keypoints": {name: [50.0 + frame, 40.0 + 2 * joint, 0.9] for joint, name in enumerate(names)},
        }
        for frame in frames
    ]
    path = folder / "k.json"
    path.write_text(json.dumps({"joint_set": "coco17", "people": people, **fields}))
    return path


def test_photographs_are_cropped_around_keypoints(pictures: list[Path]) -> None:
    folder = pictures[0].parent
    given = PredictInput(folder, keypoint_file(folder, [4, 2]), group="video", crops=32)
    data = given.dataset("joints44", True, fill_gaps=True)
    batch = data.__getitems__([1, 0])
    places = {frame: crop(slopes(blue=frame % 3), (50.0 + frame, 56.0), 1.2 * 32, 32) for frame in (2, 4)}
    frames = batch["frame"].tolist()
    assert sorted(frames) == [2, 4]
    torch.testing.assert_close(batch["image"], torch.stack([places[frame] for frame in frames]), atol=0.02, rtol=0)
    assert data.notes[1] == "1 frames without a keypoint within tracks were left out"
    assert "image" not in PredictInput(folder, keypoint_file(folder, [4])).dataset("joints44")[0]


@pytest.mark.parametrize(("size", "margin", "raw"), [(16, 1.5, 24), (20, 1.0, 20), (15, 1.5, 22), (112, 1.5, 168)])
def test_raw_crops_cover_a_margin(pictures: list[Path], size: int, margin: float, raw: int) -> None:
    people = CroppedPeople(table(), [pictures[number] for number in OF_ROW], CENTERS, SIDES, size, margin)
    batch = people.__getitems__([4, 1, 0])
    assert batch["image"].shape == (3, 3, raw, raw)
    assert batch["image"].dtype == torch.uint8
    for place, row in enumerate((4, 1, 0)):
        x, y = CENTERS[row].tolist()
        whole = colours(crop(slopes(blue=OF_ROW[row]), (x, y), margin * float(SIDES[row]), raw))
        torch.testing.assert_close(batch["image"][place].float(), whole, atol=1e-3, rtol=0)
    assert torch.equal(batch["box"], torch.cat((CENTERS, SIDES[:, None]), dim=1)[[4, 1, 0]])
    assert "box" not in cropped(pictures)[0]
    assert people.__getitems__([])["image"].shape == (0, 3, raw, raw)


def test_the_middle_of_a_raw_crop_is_the_crop() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    inner = colours(crop(picture, (140.4, 150.7), 88.3, 64))
    raw = raw_crop(picture, (140.4, 150.7), 1.5 * 88.3, 96)
    assert (raw[:, 16:80, 16:80] - inner).abs().max() < 1.01, "a step of rounding"
    outside = raw_crop(picture, (0.0, 0.0), 100.0, 50)
    assert outside[:, :24].max() == 0
    assert outside[:, 26:, 26:].max() > 0


def test_a_margin_below_the_box_is_refused(pictures: list[Path], tmp_path: Path) -> None:
    for margin in (0.9, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"crop_margin: must be at least 1, the box itself, got {margin}"):
            PersonCrops([pictures[0]] * 5, CENTERS, SIDES, 16, margin)
    write_smpl_npz(tmp_path, "a.npz", rows=3)
    with pytest.raises(ValueError, match=r"crop_margin: 1\.5 needs crops, the side of what it enlarges"):
        SMPLNpz(tmp_path, ["a.npz"], image_size=(9, 9), crop_margin=1.5)


def test_released_files_and_groups_give_raw_crops_and_boxes(tmp_path: Path) -> None:
    first = write_smpl_npz(tmp_path, "a.npz", rows=4)
    second = write_smpl_npz(tmp_path, "b.npz", rows=3, seed=1, has_body_pose=np.array([1, 0, 1.0]))
    write_pictures(tmp_path, first)
    write_pictures(tmp_path, second)
    data = SMPLNpz(tmp_path, ["a.npz", "b.npz"], image_root=tmp_path, require_pose=True, crops=16, crop_margin=1.5)
    people = [(first, row) for row in np.flatnonzero(data_has_pose(first))] + [(second, 0), (second, 2)]
    check_raw(data, people, tmp_path)
    grouped = write_smpl_groups(tmp_path, "test.pkl", counts=(2, 3))
    write_pictures(tmp_path, grouped)
    groups = SMPLGroups(tmp_path, "test.pkl", image_root=tmp_path, crops=16, crop_margin=1.5)
    check_raw(groups, [(grouped, row) for row in range(5)], tmp_path)
    assert "box" not in SMPLGroups(tmp_path, "test.pkl", image_root=tmp_path, crops=16)[0]


def data_has_pose(people: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(people["has_body_pose"]) > 0


def check_raw(data: PoseTable, people: list[tuple[dict[str, np.ndarray], int]], root: Path) -> None:
    """The rows' boxes, and their raw crops of 1.5 boxes in 24 pixels, are those of the files."""
    batch = data.__getitems__(range(len(data)))
    assert len(batch["clip"]) == len(people)
    for place, (columns, row) in enumerate(people):
        box = (*columns["center"][row].tolist(), float(columns["scale"][row]))
        assert batch["box"][place].tolist() == pytest.approx(box, abs=1e-3)
        picture = read_picture(root / columns["imgname"][row])
        assert torch.equal(batch["image"][place], raw_crop(picture, box[:2], 1.5 * box[2], 24))


def test_photographs_give_raw_crops_and_boxes(pictures: list[Path]) -> None:
    folder = pictures[0].parent
    file = keypoint_file(folder, [4, 2])
    given = PredictInput(folder, file, group="video", crops=20, crop_margin=1.5)
    data = given.dataset("joints44", True)
    batch = data.__getitems__([0, 1])
    for row, frame in enumerate(batch["frame"].tolist()):
        torch.testing.assert_close(batch["box"][row], torch.tensor([50.0 + frame, 56.0, 1.2 * 32]))
        expected = raw_crop(slopes(blue=frame % 3), (50.0 + frame, 56.0), 1.5 * 1.2 * 32, 30)
        assert (batch["image"][row].int() - expected.int()).abs().max() <= 1
    assert "box" not in PredictInput(folder, file, crops=20).dataset("joints44")[0]
    with pytest.raises(ValueError, match=r"crop_margin: needs crops, got 1\.5 of None"):
        PredictInput(folder, file, crop_margin=1.5).dataset("joints44")
