"""The frames of a video as pictures: in order with constant memory, or by number."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from posecore.data.video_crops import read_frame, upright_frame

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv")
"""Of files that are taken for videos where a picture could be meant, too."""
_TOO_FEW = 2  # Frames that may be missing against the stated length before a video is said to be cut off.


class VideoFrames:
    """A video whose frames are read when they are asked for, upright as its rotation says, sRGB.

    Iterating decodes once from the start and holds one frame at a time; of a video that is cut off or broken it gives
    what can be decoded, and adds to ``notes``. A number gives one frame; the next number is read on from there.

    Attributes:
        path: The file.
        fps: Frames per second; their mean where they do not come evenly.
        size: Width and height of the upright frames, pixels.
        notes: What is wrong with the file, in sentences.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the package av is not installed.
        ValueError: If it is no video, or not one frame can be decoded.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no video {self.path}")
        av = _import_av(self.path)
        self._broken = (av.FFmpegError, EOFError, IndexError, ValueError)
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise ValueError("it has no video stream")
                stream = container.streams.video[0]
                first = next(container.decode(stream), None)
                if first is None:
                    raise ValueError("not one frame can be decoded")
                self.size = (first.height, first.width) if first.rotation % 180 else (first.width, first.height)
                rate = stream.average_rate or stream.guessed_rate
                self.fps = float(rate) if rate else 0.0
                stated = int(stream.frames)
                if not stated and container.duration and len(container.streams) == 1:  # Sound may be longer.
                    stated = round(container.duration / av.time_base * self.fps)
            # The packets are counted anew from the start: what was decoded is behind.
            with av.open(str(self.path)) as container:
                packets = container.demux(container.streams.video[0])
                self._count = sum(1 for packet in packets if packet.size and not packet.is_discard)
        except self._broken as error:
            raise ValueError(f"{self.path} is no video that can be read ({error})") from error
        if not self.fps > 0:
            raise ValueError(f"{self.path} is no video that can be read (it states no frame rate)")
        self.notes: list[str] = []
        if self._count + _TOO_FEW < stated:
            self.notes.append(f"{self.path.name} is cut off: it has {self._count} of {stated} frames")

    def __len__(self) -> int:
        """The number of frames that the file holds; of a broken one, not all need to be decoded."""
        return self._count

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        av = _import_av(self.path)
        number = 0
        with av.open(str(self.path)) as container:
            stream: Any = container.streams.video[0]
            stream.codec_context.thread_count = 1  # Threads of a decoder do not outlive a fork.
            frames = container.decode(stream)
            while True:
                try:
                    frame = next(frames, None)
                except self._broken as error:
                    self._note(f"{self.path.name} cannot be decoded beyond frame {number} of {len(self)} ({error})")
                    return
                if frame is None:
                    break
                yield upright_frame(frame)
                number += 1
        if number < len(self):
            self._note(f"{self.path.name} is cut off or broken: {number} of {len(self)} frames can be decoded")

    def __getitem__(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        """Frame ``number``, from 0.

        Raises:
            IndexError: If the video has no such frame.
            ValueError: If it cannot be decoded.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"{self.path} has {len(self)} frames, numbered from 0, and none has number {number}")
        return read_frame(self.path, number)

    def _note(self, note: str) -> None:
        """Says it once, however often the video is read."""
        if note not in self.notes:
            self.notes.append(note)


def _import_av(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(f'{path} is a video, which needs the package av: pip install "humandiff[video]"') from error
    return av
