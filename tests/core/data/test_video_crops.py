import os
import pickle
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from posecore.body.skeletons import H36M_17
from posecore.data import video_crops
from posecore.data.base import PoseTable
from posecore.data.crops import raw_crop
from posecore.data.video_crops import VideoCrops, read_frame
from posecore.testing import write_video

FRAMES = 31
# Every way in which frames are stored: none, some and many of them between others, key frames that others look across.
STORED = {
    "plain.mp4": ("mpeg4", {"g": "10"}),
    "b_frames.mp4": ("libx264", {"bf": "3", "g": "10"}),
    "open.mp4": ("libx264", {"x264-params": "open-gop=1:keyint=10:bframes=3:scenecut=0"}),
    "without_times.avi": ("libx264", {"bf": "3", "g": "10"}),
    "b_frames.avi": ("mpeg4", {"bf": "2", "g": "10"}),
    "without_index.mpg": ("mpeg2video", {"bf": "2", "g": "10"}),
}


def moving(number: int) -> np.ndarray:
    picture = np.full((48, 64, 3), 40 + 5 * number, np.uint8)
    picture[:, 2 * number : 2 * number + 3] = 255
    return picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, (codec, options) in STORED.items():
        if codec in av.codecs_available:
            write_video(folder / name, map(moving, range(FRAMES)), codec, **options)
    return folder


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", STORED)
def test_frames_are_those_of_a_full_decode(folder: Path, name: str) -> None:
    if not (folder / name).exists():
        pytest.skip(f"this build of av has no encoder {STORED[name][0]}")
    full = decoded(folder / name)
    assert len(full) == FRAMES
    orders = ([*range(FRAMES)], [30, 0, 11, 11, 10, 9, 29, 1, 21, 12], np.random.default_rng(0).permutation(FRAMES))
    for order in orders:
        for number in order:
            assert np.array_equal(read_frame(folder / name, int(number)), full[number]), f"frame {number}"


def crops_of(folder: Path, names: list[str], frames: list[int], margin: float | None = 1.5) -> VideoCrops:
    rows = len(names)
    centers = torch.tensor([[30.0 + row, 24.0] for row in range(rows)])
    return VideoCrops([folder / name for name in names], centers, torch.full((rows,), 20.0), 16, margin, frames=frames)


def test_crops_come_in_the_order_of_the_rows(folder: Path) -> None:
    names = ["plain.mp4", "b_frames.avi", "plain.mp4", "b_frames.avi", "plain.mp4"]
    frames = [12, 3, 5, 3, 12]
    crops = crops_of(folder, names, frames)
    full = {name: decoded(folder / name) for name in set(names)}
    rows = [4, 1, 0, 2, 3, 1]
    expected = [raw_crop(full[names[row]][frames[row]], (30.0 + row, 24.0), 30.0, 24) for row in rows]
    assert torch.equal(crops(rows), torch.stack(expected))
    assert crops.files == [folder / "plain.mp4", folder / "b_frames.avi"]
    assert torch.equal(pickle.loads(pickle.dumps(crops))(rows), crops(rows))  # noqa: S301  our own
    assert crops([]).shape == (0, 3, 24, 24)
    assert crops_of(folder, names, frames, margin=None)([0]).dtype == torch.float32


def test_forked_workers_read_what_the_parent_reads(folder: Path) -> None:
    """The parent's decoder and its threads are open when the workers are made."""
    crops = crops_of(folder, ["plain.mp4", "b_frames.avi"] * 8, [*range(16)])
    table = PoseTable(H36M_17, {"frame": torch.arange(16)}, crops)
    here = table.__getitems__(range(16))["image"]
    loader = DataLoader(table, batch_size=4, num_workers=2, collate_fn=lambda batch: batch, timeout=60)
    assert torch.equal(torch.cat([batch["image"] for batch in loader]), here)


def test_reading_on_does_not_open_or_seek_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []
    start = video_crops._Video._start

    def noted(video: video_crops._Video, key_frame: int) -> None:
        starts.append(key_frame)
        start(video, key_frame)

    monkeypatch.setattr(video_crops._Video, "_start", noted)
    read_frame(folder / "b_frames.avi", 0)  # another video, so that the next is opened
    starts.clear()
    crops = crops_of(folder, ["plain.mp4"] * FRAMES, list(range(FRAMES)))
    crops([2, 1, 0])
    crops([3, 5])
    crops([6, 5, 7])
    assert starts == [0], "opened, and read on from there"
    crops([4, 8])
    assert len(starts) == 2, "once back"


def test_a_forked_process_reads_on_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "plain.mp4"
    full = decoded(path)
    read_frame(path, 12)
    of_parent = video_crops._opened.video
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert np.array_equal(read_frame(path, 13), full[13])
    assert video_crops._opened.video is not of_parent
    assert of_parent.last[0] == 12, "as the parent left it"
    assert video_crops._opened.inherited is of_parent, "not closed"


def test_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no video .*none\.mp4"):
        crops_of(folder, ["none.mp4"], [0])([0])
    with pytest.raises(ValueError, match=r"plain\.mp4: has 31 frames, but frame 31 \(from 0\) is labelled"):
        crops_of(folder, ["plain.mp4"], [31])([0])
    with pytest.raises(ValueError, match="frames: 1 for 2 rows"):
        crops_of(folder, ["plain.mp4"] * 2, [0])
    with pytest.raises(ValueError, match="frames: must count from 0, got -1"):
        crops_of(folder, ["plain.mp4"], [-1])
    with pytest.raises(ValueError, match=r"plain\.mp4: row 0: center_px and box_size_px"):
        VideoCrops([folder / "plain.mp4"], torch.zeros(1, 2), torch.zeros(1), 16, 1.5, frames=[0])([0])
    broken = tmp_path / "broken.mp4"
    whole = (folder / "plain.mp4").read_bytes()
    for content in (b"", b"no video", whole[: len(whole) // 2]):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.mp4 is no video that can be read"):
            crops_of(tmp_path, ["broken.mp4"], [20])([0])
    whole = (folder / "without_index.mpg").read_bytes()
    (tmp_path / "half.mpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.mpg: has \d+ frames, but frame 30 .* is labelled: the video is cut"):
        crops_of(tmp_path, ["half.mpg"], [30])([0])


def test_without_av(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "copy.mp4"
    path.write_bytes((folder / "plain.mp4").read_bytes())
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'copy\.mp4 is a video: pip install "humandiff\[benchmarks\]"'):
        read_frame(path, 0)
