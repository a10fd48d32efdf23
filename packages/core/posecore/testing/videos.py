"""For tests only: tiny videos."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def write_video(path: Path, pictures: Iterable[np.ndarray], codec: str = "mpeg4", **options: str) -> Path:
    """Writes pictures (height, width, 3) as a video of 50 frames per second (needs av)."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=50, options=options)
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
