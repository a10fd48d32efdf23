"""A video that is written picture by picture, with the memory of a few pictures."""

import secrets
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

__all__ = ["VideoFile"]

_CODECS = {"libx264": {"crf": "20", "preset": "fast"}, "mpeg4": {"qscale": "3"}}
_LARGEST_DENOMINATOR = 1001  # of a frame rate such as 30000/1001


class VideoFile:
    """An MP4 file that is there once it is complete; H.264 where PyAV was built with it, else MPEG-4.

    Use it as a context manager: after an exception there is no file. A side of an odd number of pixels gets one more,
    since both codecs store colours for squares of four.

    Args:
        path: The file.
        fps: Pictures per second.
        size: Width and height of the pictures.

    Raises:
        ImportError: PyAV is not installed.
        OSError: The file cannot be written; the first picture may be what shows it.
        ValueError: ``fps`` is not positive.
    """

    def __init__(self, path: Path | str, fps: float, size: tuple[int, int]) -> None:
        try:
            import av  # an optional dependency
        except ImportError as error:
            raise ImportError('a video is written with PyAV: pip install "humandiff[video]"') from error
        if not 0 < fps < float("inf"):
            raise ValueError(f"fps: is {fps}; it must be positive")
        self.path, self.size = Path(path), size
        self._temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        self._av: Any = av
        try:
            self._container: Any = av.open(str(self._temporary), "w", format="mp4")
        except OSError as error:
            raise self._failed(error) from error
        codec = next(name for name in _CODECS if name in av.codecs_available)
        rate = Fraction(fps).limit_denominator(_LARGEST_DENOMINATOR)
        stream: Any = self._container.add_stream(codec, rate=rate, options=_CODECS[codec])
        stream.width, stream.height = (side + side % 2 for side in size)
        stream.pix_fmt = "yuv420p"
        self._stream = stream

    def write(self, picture: np.ndarray) -> None:
        """Adds a picture, "height width 3" uint8 RGB.

        Raises:
            OSError: The file cannot be written.
            ValueError: The picture has another size or type.
        """
        width, height = self.size
        if picture.shape != (height, width, 3) or picture.dtype != np.uint8:
            raise ValueError(
                f"picture: is {picture.dtype} of shape {picture.shape}; the video has {(height, width, 3)}"
            )
        even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._encode(self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24"))

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            try:
                if kind is None:
                    self._container.mux(self._stream.encode(None))
            finally:
                self._container.close()
            if kind is None:
                self._temporary.replace(self.path)
        except OSError as broken:
            if kind is None:
                raise self._failed(broken) from broken
        finally:
            self._temporary.unlink(missing_ok=True)

    def _encode(self, frame: Any) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> OSError:
        return OSError(f"'{self.path}' cannot be written: {error.strerror or error}")
