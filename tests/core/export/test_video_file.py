"""Videos, read again with PyAV."""

import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from posecore.export.video_file import VideoFile

av = pytest.importorskip("av")


def pictures(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Grey ramps that get brighter."""
    ramp = np.linspace(0, 60, size[0], dtype=np.uint8)
    return [np.stack([np.tile(ramp + 30 * k, (size[1], 1))] * 3, axis=-1) for k in range(count)]


@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
def test_pictures_come_back(tmp_path: Path, size: tuple[int, int]) -> None:
    given = pictures(6, size)
    with VideoFile(tmp_path / "v.mp4", 30000 / 1001, size) as video:
        for picture in given:
            video.write(picture)
        assert not (tmp_path / "v.mp4").exists(), "it is there once it is complete"
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(29.97, abs=1e-3)
        assert (stream.width, stream.height) == (64, 48)
        found = [frame.to_ndarray(format="rgb24")[: size[1], : size[0]] for frame in container.decode(stream)]
    assert len(found) == 6
    for one, other in zip(found, given, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).mean() < 4
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


def write(path: Path, given: Iterable[np.ndarray], size: tuple[int, int]) -> None:
    with VideoFile(path, 25.0, size) as video:
        for picture in given:
            video.write(picture)


def broken_pictures() -> Iterator[np.ndarray]:
    yield pictures(1, (64, 48))[0]
    raise KeyError("something else")


def test_after_an_error_the_old_file_is_there_and_no_part_of_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"old")
    with pytest.raises(KeyError, match="something else"):
        write(tmp_path / "v.mp4", broken_pictures(), (64, 48))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("v.mp4", b"old")]


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 240, 320, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"v\.mp4' cannot be written: .*File too large"):
            write(tmp_path / "v.mp4", noise, (320, 240))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fps: is 0.0; it must be positive"):
        VideoFile(tmp_path / "v.mp4", 0.0, (64, 48))
    with pytest.raises(OSError, match=r"v\.mp4' cannot be written: No such file or directory"):
        write(tmp_path / "nowhere" / "v.mp4", pictures(1, (64, 48)), (64, 48))
    with pytest.raises(ValueError, match=r"picture: is uint8 of shape \(48, 62, 3\); the video has \(48, 64, 3\)"):
        write(tmp_path / "v.mp4", [np.zeros((48, 62, 3), np.uint8)], (64, 48))
