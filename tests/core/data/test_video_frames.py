import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from posecore.data.video_crops import read_frame
from posecore.data.video_frames import VideoFrames
from posecore.testing import write_video

FRAMES, HEIGHT, WIDTH = 30, 48, 64


def moving(number: int) -> np.ndarray:
    """Grey that tells the number, with a bright upper left corner that tells what is up."""
    picture = np.full((HEIGHT, WIDTH, 3), 20 + 6 * number, np.uint8)
    picture[:16, :16] = 255
    return picture


def write(path: Path, frames: int = FRAMES, codec: str = "mpeg4", rate: str = "25", **options: str) -> Path:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moving(number), format="rgb24")))
        container.mux(stream.encode())
    return path


def turned(path: Path, quarters: int) -> Path:
    """Writes into an MP4 file that it is to be turned clockwise, as phones do: the matrix of the track's header."""
    cos, sin = (1, 0, -1, 0)[quarters], (0, 1, 0, -1)[quarters]
    matrix = np.array([[cos * 2**16, sin * 2**16, 0], [-sin * 2**16, cos * 2**16, 0], [0, 0, 2**30]], ">i4")
    content = bytearray(path.read_bytes())
    start = content.index(np.diag([2**16, 2**16, 2**30]).astype(">i4").tobytes(), content.index(b"tkhd"))
    content[start : start + 36] = matrix.tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("rate", ["25", "30000/1001", "60"])
def test_what_a_video_says(tmp_path: Path, rate: str) -> None:
    video = VideoFrames(write(tmp_path / "a.mp4", rate=rate))
    assert video.fps == pytest.approx(float(Fraction(rate)), rel=1e-4)
    assert (video.size, len(video), video.notes) == ((WIDTH, HEIGHT), FRAMES, [])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov"])
def test_in_order_and_by_number(tmp_path: Path, name: str) -> None:
    video = VideoFrames(write_video(tmp_path / name, map(moving, range(FRAMES)), bf="2", g="10"))
    assert video.fps == 50
    frames = list(video)
    assert len(frames) == len(video) == FRAMES
    for number, frame in enumerate(frames):
        assert frame.shape == (HEIGHT, WIDTH, 3)
        assert frame.dtype == np.uint8
        assert abs(float(frame[30:, 30:].mean()) - (20 + 6 * number)) < 6
    for number in (12, 13, 5, 29, 0):
        assert np.array_equal(video[number], frames[number])
        assert np.array_equal(read_frame(video.path, number), frames[number])
    assert len(list(video)) == FRAMES, "from the start again"
    for number in (-1, FRAMES):
        with pytest.raises(IndexError, match=f"has 30 frames, numbered from 0, and none has number {number}"):
            video[number]


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_rotation(tmp_path: Path, quarters: int) -> None:
    plain = list(VideoFrames(write(tmp_path / "a.mp4")))
    video = VideoFrames(turned(tmp_path / "a.mp4", quarters))
    frames = list(video)
    assert video.size == ((HEIGHT, WIDTH) if quarters % 2 else (WIDTH, HEIGHT)) == frames[0].shape[1::-1]
    for number in (0, 7):
        assert np.array_equal(frames[number], np.rot90(plain[number], -quarters))
        assert np.array_equal(video[number], frames[number])
    bright = np.unravel_index(
        int(np.argmax(frames[0][4::8, 4::8].sum(axis=-1))), (6, 8) if not quarters % 2 else (8, 6)
    )
    is_low, is_right = bright[0] > 3, bright[1] > 3
    assert (is_low, is_right) == ((False, False), (False, True), (True, True), (True, False))[quarters]


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    write_video(tmp_path / "long.mp4", (np.full((240, 320, 3), n % 200, np.uint8) for n in range(200)))
    video = VideoFrames(tmp_path / "long.mp4")
    tracemalloc.start()
    count = sum(1 for _ in video)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 200
    assert peak < 10 * 240 * 320 * 3, "NumPy's arrays of a few frames, not of 200"


def test_a_cut_off_video_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mp4", movflags="faststart").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 85 // 100])
    video = VideoFrames(tmp_path / "cut.mp4")
    frames = list(video)
    assert 5 < len(frames) <= len(video) < FRAMES - 2
    assert video.notes[0] == f"cut.mp4 is cut off: it has {len(video)} of 30 frames"
    reference = list(VideoFrames(tmp_path / "whole.mp4"))
    for number in range(len(frames) - 1):
        assert np.array_equal(frames[number], reference[number])

    whole = write(tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 7 // 10])
    video = VideoFrames(tmp_path / "cut.mkv")
    assert 5 < len(list(video)) <= len(video) < FRAMES
    assert "cut.mkv is cut off: it has" in video.notes[0]


def test_a_broken_frame_ends_the_video_and_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for start, size in places[20:]:
        content[start : start + size] = bytes(size)
    path.write_bytes(content)
    video = VideoFrames(path)
    frames = list(video)
    list(video)
    assert 15 <= len(frames) < FRAMES
    assert len(video.notes) == 1
    assert str(len(frames)) in video.notes[0]
    assert "a.mp4" in video.notes[0]


def test_what_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no video .*none\.mp4"):
        VideoFrames(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4 is no video that can be read"):
        VideoFrames(tmp_path / "text.mp4")
    whole = write(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # Its index was at the end.
    with pytest.raises(ValueError, match=r"cut\.mp4 is no video that can be read"):
        VideoFrames(tmp_path / "cut.mp4")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(ValueError, match=r"sound\.wav is no video that can be read \(it has no video stream\)"):
        VideoFrames(tmp_path / "sound.wav")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'is a video, which needs the package av: pip install "humandiff\[video\]"'):
        VideoFrames(tmp_path / "a.mp4")
