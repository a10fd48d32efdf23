"""Prepared data sets in HDF5 shards: labels in memory, crops of photographs read when rows are asked for.

`posecore.data.shard_writer` writes them and `tools/prepare_<dataset>.py` makes them. A split is a folder:

=====================  ==================  ============================================================================
``index.json``                             what the shards hold together; written last, so a split with it is complete
``shard-00000.h5`` ..                      rows in the order of the data set
=====================  ==================  ============================================================================

=====================  ==================  ============================================================================
data set of a shard    shape               meaning
=====================  ==================  ============================================================================
a key of `PoseSample`  (rows, ...)         as it is; labels are UTF-8
``image_bytes``        (bytes,) uint8      JPEG files of the raw crops one after the other, in one piece; only where
                                           the split has pictures
``image_offsets``      (rows + 1,) int64   where each of them begins, and where the last one ends
``left_out_row``       (n,) int64          rows of the data set whose picture could not be read, and why; only where
``left_out_reason``    (n,)                there are any
=====================  ==================  ============================================================================

Attributes of a shard, which are in the index too: ``format version fingerprint joint_set crops crop_margin quality``
(the last three are 0 without pictures), and of its own ``shard`` and ``rows``.
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import h5py
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from posecore.body.skeletons import get_joint_set
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import check_stride
from posecore.data.sample import SAMPLE_KEYS, PoseSample

FORMAT, VERSION = "humandiff-shards", 1
INDEX = "index.json"
SHARED = ("fingerprint", "joint_set", "crops", "crop_margin", "quality")
"""What every shard says of itself as the index does, beside format and version."""
AGAIN = "run tools/prepare_<dataset>.py with the same arguments again"
_KINDS: dict[str, Any] = {
    "fingerprint": str, "joint_set": str, "crops": int, "crop_margin": (int, float), "quality": int, "rows": int,
    "keys": list, "shards": list,
}  # fmt: skip
_MOST_OPEN = 64  # Files a process keeps open; systems allow 256 or more.


def shard_path(folder: Path, number: int) -> Path:
    """The file of one shard of a split."""
    return folder / f"shard-{number:05d}.h5"


class ShardPictures:
    """Decodes raw crops by row, straight from the shards' files.

    Each process opens files of its own when it first needs them, so that it may be copied to, or forked into, the
    workers of a DataLoader.

    Args:
        files: the shards.
        shard: of each row, its place in ``files``.
        start: of each row, the byte of the file where its JPEG begins.
        length: of each row, the bytes of its JPEG.
        size: side of the persons' boxes, pixels.
        margin: side of a crop by that of the box.
    """

    def __init__(
        self, files: Sequence[Path], shard: np.ndarray, start: np.ndarray, length: np.ndarray, size: int, margin: float
    ) -> None:
        self.files = list(files)
        self.size, self.margin = size, margin
        self._shard, self._start, self._length = shard, start, length
        self._open: dict[int, BinaryIO] = {}
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __del__(self) -> None:
        for file in getattr(self, "_open", {}).values():
            file.close()

    def __call__(self, rows: Sequence[int]) -> UInt8[Tensor, "crops 3 raw_size raw_size"]:
        """Crops of these rows, in their order; the files are read one after the other, from front to back.

        Raises:
            FileNotFoundError: if a shard is gone.
            ValueError: if a picture cannot be read.
        """
        numbers = np.asarray(rows, dtype=np.int64)
        raw_size = round(self.size * self.margin)
        out = np.empty((len(numbers), raw_size, raw_size, 3), dtype=np.uint8)
        for place in np.lexsort((self._start[numbers], self._shard[numbers])).tolist():
            row = numbers[place]
            shard, start = int(self._shard[row]), int(self._start[row])
            file = self._file(shard)
            file.seek(start)
            try:
                with Image.open(io.BytesIO(file.read(int(self._length[row])))) as image:
                    if image.size != (raw_size, raw_size):
                        raise ValueError(f"{image.size} pixels, expected a side of {raw_size}")
                    out[place] = np.asarray(image.convert("RGB"))
            except (OSError, SyntaxError, ValueError) as error:  # PIL says SyntaxError of some broken files.
                raise ValueError(f"{self.files[shard]}: picture at byte {start} cannot be read ({error})") from error
        return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()

    def _file(self, shard: int) -> BinaryIO:
        if self._process != os.getpid():  # A forked process shares the positions of its parent's files.
            self._open, self._process = {}, os.getpid()
        if shard not in self._open:
            if len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            self._open[shard] = self.files[shard].open("rb", buffering=0)
        return self._open[shard]


class Shards(PoseTable):
    """A split of a prepared data set: the rows that its loader gave, in its joint set and with its keys.

    Labels are exactly the loader's; ``image``, where there are pictures, is a raw crop (uint8, 3 x S x S with S the
    side of the box times ``crop_margin``) up to JPEG compression, for `posecore.data.augment`.

    Attributes:
        index: what ``index.json`` says: data set, split, options, counts, rows that were left out.

    Args:
        root: folder of the prepared data sets.
        folder: of the split, below ``root``: "freihand/training".
        stride: takes every ``stride``-th row.

    Raises:
        FileNotFoundError: if the split, its index or a shard is not there.
        ValueError: if a shard is cut off, of another version or of another preparation than the index, or ``stride``
            is below 1.
    """

    def __init__(self, root: Path, folder: str, stride: int = 1) -> None:
        check_stride(stride)
        self.index = read_index(Path(root) / folder)
        files = [Path(root) / folder / shard["file"] for shard in self.index["shards"]]
        tables: list[dict[str, Any]] = []
        places: list[np.ndarray] = []
        row = 0
        for number, path in enumerate(files):
            table, pictures = _read_shard(path, number, self.index, slice(-row % stride, None, stride))
            row += self.index["shards"][number]["rows"]
            tables.append(table)
            places.append(pictures)
        samples: dict[str, Any] = {}
        for key in self.index["keys"]:
            parts = [table.pop(key) for table in tables]  # Frees each key's parts before the next is joined.
            is_tensor = isinstance(parts[0], Tensor)
            samples[key] = torch.cat(parts) if is_tensor else [text for part in parts for text in part]
        images = None
        if self.index["crops"]:
            shard = np.repeat(np.arange(len(files)), [len(pictures) for pictures in places])
            start, length = np.concatenate(places).T
            images = ShardPictures(files, shard, start, length, self.index["crops"], self.index["crop_margin"])
        super().__init__(get_joint_set(self.index["joint_set"]), cast(PoseSample, samples), images)


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a split.

    Raises:
        FileNotFoundError: if the folder or the index is not there.
        ValueError: if the index is broken or of another version.
    """
    path = folder / INDEX
    if not folder.is_dir():
        raise FileNotFoundError(f"folder: there is no {folder}; tools/prepare_<dataset>.py makes it")
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: has no {INDEX}, so its preparation was not finished: {AGAIN}")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON, or cut off ({error}); {AGAIN}") from error
    if not isinstance(index, dict):
        raise ValueError(f"{path}: holds a {type(index).__name__}, expected the index of a split")
    _check_version(path, index)
    for key, kind in _KINDS.items():
        if not isinstance(index.get(key), kind):
            raise ValueError(f"{path}: {key} is {index.get(key)!r}, so it is broken; {AGAIN}")
    if unknown := [key for key in index["keys"] if key not in SAMPLE_KEYS]:
        raise ValueError(f"{path}: keys {unknown} unknown, valid are {', '.join(SAMPLE_KEYS)}")
    for number, shard in enumerate(index["shards"]):
        if not isinstance(shard, dict) or shard.get("file") != shard_path(folder, number).name or "rows" not in shard:
            raise ValueError(f"{path}: shard {number} is {shard!r}, so it is broken; {AGAIN}")
    return index


def read_attributes(path: Path) -> dict[str, Any]:
    """The attributes of a shard.

    Raises:
        ValueError: if the file is no shard, broken or of another version.
    """
    try:
        with h5py.File(path, "r") as file:
            found = {key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items()}
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path}: is no shard, or cut off ({error}); delete it, and {AGAIN}") from error
    _check_version(path, found)
    return found


def _check_version(path: Path, found: Mapping[str, Any]) -> None:
    if found.get("format") != FORMAT:
        raise ValueError(f"{path}: format is {found.get('format')!r}, expected {FORMAT!r}: not of a prepared data set")
    if found.get("version") != VERSION:
        raise ValueError(
            f"{path}: is of version {found.get('version')}, this program reads {VERSION}: prepare the data set again"
        )


def _read_shard(path: Path, number: int, index: Mapping[str, Any], kept: slice) -> tuple[dict[str, Any], np.ndarray]:
    """Labels of the rows that are kept, and where their pictures begin in the file and how long they are, bytes."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: shard {number} of {len(index['shards'])} is missing: {AGAIN}")
    attributes = read_attributes(path)
    wanted = {**{key: index[key] for key in SHARED}, "shard": number, "rows": index["shards"][number]["rows"]}
    for key, value in wanted.items():
        if attributes.get(key) != value:
            raise ValueError(
                f"{path}: {key} is {attributes.get(key)!r}, but {INDEX} says {value!r}: they are not of one "
                f"preparation; {AGAIN} and --overwrite"
            )
    rows, start, offsets = wanted["rows"], 0, np.zeros(wanted["rows"] + 1, dtype=np.int64)
    table: dict[str, Any] = {}
    try:
        with h5py.File(path, "r") as file:
            for key in index["keys"]:
                values = file[key].asstr()[()] if h5py.check_string_dtype(file[key].dtype) else file[key][()]
                if len(values) != rows:
                    raise KeyError(f"{key} has {len(values)} rows instead of {rows}")
                chosen = values[kept]
                table[key] = list(chosen) if values.dtype == object else torch.from_numpy(chosen.copy())
            if index["crops"] and rows:
                offsets, start = file["image_offsets"][()], file["image_bytes"].id.get_offset()
                if len(offsets) != rows + 1 or offsets[-1] != len(file["image_bytes"]) or start is None:
                    raise KeyError(f"image_offsets does not fit {rows} rows and {len(file['image_bytes'])} bytes")
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path}: is cut off or broken ({error}); delete it, and {AGAIN}") from error
    return table, np.stack((start + offsets[:-1], np.diff(offsets)), axis=1)[kept]
