"""Crops around people in the frames of videos: what `PersonCrops` is for pictures."""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from posecore.data.crops import PersonCrops, crop, raw_crop

_opened = threading.local()  # The last video of this thread, so that reading on does not begin anew.


@dataclass(frozen=True)
class VideoCrops(PersonCrops):
    """Reads crops of the rows of a table from videos, when they are asked for.

    The rows of one call are read video by video, each decoded forward once. The last video stays open, so rows that are
    asked for in order are decoded in one go. Reading in random order decodes from the key frame before each row.

    Attributes:
        pictures: The video of each row.
        center_px: Middle (x, y) of each person's box, pixels.
        box_size_px: Side of each box, pixels.
        size: Side of the crops, pixels.
        margin: As for `PersonCrops`.
        frames: The frame of each row: 0 is the first that is shown, n the n-th after it.

    Raises:
        ValueError: As for `PersonCrops`; if there are not as many frames as rows, or one is below 0.
    """

    frames: Sequence[int] = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.frames) != len(self.pictures):
            raise ValueError(f"frames: {len(self.frames)} for {len(self.pictures)} rows, expected one for every row")
        if len(self.frames) and min(self.frames) < 0:
            raise ValueError(f"frames: must count from 0, got {min(self.frames)}")

    def __call__(
        self, rows: Sequence[int]
    ) -> Float[Tensor, "crops 3 size size"] | UInt8[Tensor, "crops 3 raw_size raw_size"]:
        """Crops of these rows, in their order; a frame that several of them share is decoded once.

        Raises:
            FileNotFoundError: If a video is not there.
            ImportError: If the package av is not installed.
            ValueError: If a video cannot be read or has too few frames, or a box is no box.
        """
        margin, cut, dtype = (1.0, crop, torch.float32) if self.margin is None else (self.margin, raw_crop, torch.uint8)
        size = round(self.size * margin)
        crops = torch.empty(len(rows), 3, size, size, dtype=dtype)
        for place in sorted(range(len(rows)), key=lambda place: (self.pictures[rows[place]], self.frames[rows[place]])):
            row = rows[place]
            path = self.pictures[row]
            picture = read_frame(path, int(self.frames[row]))
            x, y = self.center_px[row].tolist()
            try:
                crops[place] = cut(picture, (x, y), margin * float(self.box_size_px[row]), size)
            except ValueError as error:
                raise ValueError(f"{path}: row {row}: {error}") from error
        return crops


def read_frame(path: Path, number: int) -> UInt8[np.ndarray, "height width 3"]:
    """Frame ``number`` of a video as a full decode shows it, from 0, upright, sRGB. The video stays open for the next.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the package av is not installed.
        ValueError: If it is no video that can be read, or has too few frames.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no video {path}")
    state = path.stat()
    # A forked process must not read on in the file of its parent: they share the place in it.
    key = (os.getpid(), path, state.st_mtime_ns, state.st_size)
    if (last := getattr(_opened, "key", None)) != key:
        if last and last[0] != key[0]:
            _opened.inherited = _opened.video  # Closing what the parent opened could wait for threads that it has.
        _opened.key = None
        _opened.video = _Video(path)
        _opened.key = key
    picture: np.ndarray = _opened.video.read(number)
    return picture


def upright_frame(frame: Any) -> UInt8[np.ndarray, "height width 3"]:
    """A decoded frame of av as it is looked at, turned as the video's rotation says, sRGB."""
    # One thread: a fork waits for ever for those of a conversion that its parent made.
    picture: np.ndarray = frame.to_ndarray(format="rgb24", threads=1)
    return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))


class _Video:
    """A video that is open for reading, and where in it the decoder is.

    Frames are told apart by their time. All times are read beforehand, from the packets, without decoding; sorted, they
    are the order in which frames are shown, also where B-frames are stored in another.
    """

    def __init__(self, path: Path) -> None:
        try:
            import av  # Not a dependency: only data sets that come as video need it.
        except ImportError as error:
            raise ImportError(f'{path} is a video: pip install "humandiff[benchmarks]"') from error
        self.path, self.broken = path, (av.FFmpegError, EOFError, IndexError, ValueError)
        try:
            self.container: Any = av.open(str(path))
            self.stream: Any = self.container.streams.video[0]
            self.stream.codec_context.thread_count = 1  # Threads of a decoder do not outlive a fork.
            packets: list[tuple[Any, Any, bool]] = [
                (packet.pts, packet.dts, packet.is_keyframe)
                for packet in self.container.demux(self.stream)
                if packet.size and not packet.is_discard
            ]
        except self.broken as error:
            raise ValueError(f"{path} is no video that can be read ({error})") from error
        times = [shown for shown, _, _ in packets]
        reordered = times != sorted(time for time in times if time is not None)
        # Old containers such as AVI hold no times of showing. They are then made up, in the order of storage, which is
        # another where there are B-frames: such frames are counted from the start.
        self.counted = len(set(times)) < len(times) or None in times
        self.counted |= bool(self.stream.codec_context.has_b_frames) and not reordered
        self.times = list(range(len(times))) if self.counted else sorted(times)
        self.number_at = {time: number for number, time in enumerate(self.times)}
        # Seeking goes by the time of decoding.
        self.key_frames: dict[int, Any] = {
            self.number_at[shown]: shown if stored is None else stored
            for shown, stored, is_key in packets
            if is_key and not self.counted
        }
        self.last = (-1, np.empty((0, 0, 3), dtype=np.uint8))
        self.following: Iterator[tuple[int, Any]] = iter(())
        self._start(0)

    def read(self, number: int) -> np.ndarray:
        """Frame ``number`` as red, green and blue."""
        if self.last[0] == number:
            return self.last[1]
        if number >= len(self.times):
            raise ValueError(
                f"{self.path}: has {len(self.times)} frames, but frame {number} (from 0) is labelled: the video is cut "
                "off, or of another version than the labels"
            )
        before = max((key for key in self.key_frames if key <= number), default=0)
        if number <= self.last[0] or before > self.last[0] + 1:
            self._start(before)
        picture = self._find(number)
        if picture is None:  # The seek did not lead to where it should; a decode from the start leads everywhere.
            self._start(0)
            picture = self._find(number)
        if picture is None:
            raise ValueError(f"{self.path}: frame {number} (from 0) cannot be decoded: the video is broken")
        self.last = (number, picture)
        return picture

    def _find(self, number: int) -> np.ndarray | None:
        try:
            for found, frame in self.following:
                if found == number:
                    return upright_frame(frame)
                if found > number:
                    break
        except self.broken as error:
            raise ValueError(f"{self.path}: cannot be decoded up to frame {number} (from 0): {error}") from error
        return None

    def _start(self, key_frame: int) -> None:
        """Goes to a key frame, or to the start: 0."""
        self.last = (key_frame - 1, self.last[1])
        self.container.seek(self.key_frames[key_frame] if key_frame else 0, stream=self.stream, backward=True)
        self.stream.codec_context.flush_buffers()
        self.following = self._numbered(key_frame)

    def _numbered(self, key_frame: int) -> Iterator[tuple[int, Any]]:
        """Frames from a key frame on; those before it in time may refer to what was not decoded.

        Nothing where the seek has led elsewhere, as in containers without an index.
        """
        packets = self.container.demux(self.stream)
        if key_frame:
            first = next(packets)
            if not first.is_keyframe or self.number_at.get(first.pts, len(self.times)) > key_frame:
                return
            packets = chain([first], packets)
        for count, frame in enumerate(frame for packet in packets for frame in packet.decode()):
            number = count if self.counted else self.number_at.get(frame.pts, -1)
            if number >= key_frame:
                yield number, frame
