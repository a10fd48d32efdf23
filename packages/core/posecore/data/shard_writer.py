"""Writes a table of poses as the HDF5 shards that `posecore.data.shards` reads; a run that was stopped goes on."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import h5py
import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from posecore.data.base import PoseTable
from posecore.data.sample import SAMPLE_KEYS, PoseSample, take
from posecore.data.shards import FORMAT, INDEX, SHARED, VERSION, read_attributes, read_index, shard_path

_CHUNK = 64  # Rows a worker reads at once: rows that share a photograph mostly follow one another.
_Encoded = tuple[list[int], list[bytes], list[tuple[int, str]]]  # Rows, their JPEGs, rows left out and why.


@runtime_checkable
class Pictures(Protocol):
    """What reads the crops of a table that can be written: `PersonCrops`, `VideoCrops`."""

    size: int
    margin: float | None

    @property
    def files(self) -> list[Path]:
        """The files that are read, each once."""
        ...

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """Raw crops of these rows, uint8."""
        ...


def write_shards(
    table: PoseTable,
    folder: Path,
    about: Mapping[str, Any],
    *,
    rows_per_shard: int = 4096,
    quality: int = 95,
    workers: int = 0,
    skip_missing: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a split; shows a bar with the time left.

    A shard appears under its name when it is complete and the index when all of them are, so a run that was stopped
    goes on when it is started again. Shards know what they are made from by a fingerprint of the labels, the settings
    and the names of the pictures (not of their content).

    Args:
        table: The rows; pictures are read by `PersonCrops` or the like as raw crops.
        folder: Of the split, made where it is not there.
        about: What the index says besides (JSON values): data set, split, options, counts, date.
        rows_per_shard: Rows of the table for each shard; about 4096 crops of 336 px have 200 MB.
        quality: Of the JPEGs, 1 to 95.
        workers: Processes that read and encode pictures; 0 does it in this one.
        skip_missing: Leaves out rows whose picture is missing or broken, and lists them in the index.
        overwrite: Replaces a split in the folder that was made of other rows or settings.

    Returns:
        The index.

    Raises:
        ValueError: If an argument is out of range, pictures are no raw crops, a picture is broken, or no row is left.
        FileNotFoundError: If pictures are missing and ``skip_missing`` is False.
        FileExistsError: If the folder holds another split and ``overwrite`` is False.
        OSError: If the folder cannot be written.
    """
    if not (rows_per_shard >= 1 and 1 <= quality <= 95 and workers >= 0):
        raise ValueError(
            "rows_per_shard, quality and workers: must be at least 1, in 1..95 and at least 0, got "
            f"{rows_per_shard}, {quality} and {workers}"
        )
    pictures = _pictures(table)
    settings: dict[str, Any] = {"joint_set": table.joint_set.name, "crops": 0, "crop_margin": 0.0, "quality": 0}
    if pictures is not None:
        settings |= {"crops": pictures.size, "crop_margin": pictures.margin, "quality": quality}
    settings["fingerprint"] = _fingerprint(table, settings, rows_per_shard, pictures, skip_missing)
    shared = {"format": FORMAT, "version": VERSION, **{key: settings[key] for key in SHARED}}
    spans = [range(at, min(at + rows_per_shard, len(table))) for at in range(0, len(table), rows_per_shard)]
    folder.mkdir(parents=True, exist_ok=True)
    done = _done(folder, shared["fingerprint"], len(spans), skip_missing, overwrite)
    missing = [number for number in range(len(spans)) if number not in done]
    with tqdm(total=len(table), initial=sum(len(spans[number]) for number in done), unit="row") as progress:
        progress.set_description("/".join(str(about[key]) for key in ("data_set", "split") if key in about))
        encoded = _encoded(pictures, [spans[number] for number in missing], quality, workers)
        for number in missing:
            rows: list[int] = []
            jpegs: list[bytes] = []
            left_out: list[tuple[int, str]] = []
            while len(rows) + len(left_out) < len(spans[number]):
                parts = next(encoded)
                if parts[2] and not skip_missing:
                    raise ValueError(f"{parts[2][0][1]}; its row can be left out (skip_missing, --skip-missing)")
                rows += parts[0]
                jpegs += parts[1]
                left_out += parts[2]
                progress.update(len(parts[0]) + len(parts[2]))
            attributes = {**shared, "shard": number, "rows": len(rows)}
            samples = take(table.samples, rows)
            _write_shard(shard_path(folder, number), samples, jpegs if pictures else None, left_out, attributes)
    index = {**shared, **about, **_contents(folder, len(spans)), "keys": [k for k in SAMPLE_KEYS if k in table.samples]}
    if not index["rows"]:
        raise ValueError(f"{folder}: no row is left of {len(table)}: none has a picture that can be read")
    with _whole_file(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return index


def _pictures(table: PoseTable) -> Pictures | None:
    pictures = table.images
    if pictures is None:
        return None
    if not isinstance(pictures, Pictures) or pictures.margin is None:
        raise ValueError("table: its pictures are no raw crops of files; build it with crops and crop_margin")
    return pictures


def _fingerprint(
    table: PoseTable,
    settings: Mapping[str, Any],
    rows_per_shard: int,
    pictures: Pictures | None,
    skip_missing: bool,
) -> str:
    """Of everything that shards depend on, but for the pictures' content: which are there counts.

    Raises:
        FileNotFoundError: If pictures are missing and must not be.
    """
    files = [] if pictures is None else pictures.files
    absent = [number for number, file in enumerate(files) if not file.is_file()]
    if absent and not skip_missing:
        first = ", ".join(str(files[number]) for number in absent[:5])
        raise FileNotFoundError(
            f"{len(absent)} of {len(files)} pictures are missing: {first}{', ...' if len(absent) > 5 else ''}. Their "
            "rows can be left out (skip_missing, --skip-missing)"
        )
    names = [file.name for file in files]
    digest = hashlib.sha256(json.dumps([VERSION, settings, rows_per_shard, names, absent]).encode())
    for key in SAMPLE_KEYS:
        if (value := cast(Mapping[str, Any], table.samples).get(key)) is not None:
            is_tensor = isinstance(value, Tensor)
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode() if is_tensor else key.encode())
            digest.update(value.contiguous().numpy().data if is_tensor else json.dumps(value).encode())
    return digest.hexdigest()


def _done(folder: Path, fingerprint: str, total: int, skip_missing: bool, overwrite: bool) -> set[int]:
    """The shards that are there already. What is of another preparation is deleted, or refused."""
    done, others = set(), []
    for path in sorted(folder.glob("shard-*.h5")):
        numbers = [number for number in range(total) if path == shard_path(folder, number)]
        try:
            if numbers and read_attributes(path)["fingerprint"] == fingerprint:
                with h5py.File(path, "r") as file:
                    if skip_missing or "left_out_row" not in file:
                        done.add(numbers[0])
                continue
        except (ValueError, KeyError):
            pass  # Cut off or of another version: not ours to keep.
        others.append(path)
    try:
        if read_index(folder)["fingerprint"] != fingerprint:
            others.append(folder / INDEX)
    except FileNotFoundError:
        pass
    except ValueError:
        others.append(folder / INDEX)
    if others and not overwrite:
        raise FileExistsError(
            f"{folder}: {others[0].name} is broken, or was made of other rows or settings (and so are "
            f"{len(others) - 1} more files); choose another output, or allow overwriting (--overwrite)"
        )
    for path in reversed(others):  # The index first: without it the split is not taken for complete.
        path.unlink()
    return done


class _Encoder(Dataset[_Encoded]):
    """Reads the crops of a chunk of rows and makes JPEGs of them; what cannot be read is told, not raised."""

    def __init__(self, pictures: Pictures | None, chunks: Sequence[range], quality: int) -> None:
        self.pictures, self.chunks, self.quality = pictures, chunks, quality

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> _Encoded:
        rows = list(self.chunks[number])
        if self.pictures is None:
            return rows, [], []
        try:
            return rows, self._jpegs(rows), []
        except (OSError, ValueError):
            pass  # Row by row, to find which.
        kept, jpegs, left_out = [], [], []
        for row in rows:
            try:
                jpegs += self._jpegs([row])
                kept.append(row)
            except (OSError, ValueError) as error:
                left_out.append((row, str(error)))
        return kept, jpegs, left_out

    def _jpegs(self, rows: Sequence[int]) -> list[bytes]:
        assert self.pictures is not None
        crops = self.pictures(rows)
        jpegs = []
        for pixels in crops.permute(0, 2, 3, 1).contiguous().numpy():
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=self.quality)
            jpegs.append(buffer.getvalue())
        return jpegs


def _encoded(pictures: Pictures | None, spans: Sequence[range], quality: int, workers: int) -> Iterator[_Encoded]:
    """The chunks of all spans, in order; none of them crosses from one span to the next."""
    chunks = [span[at : at + _CHUNK] for span in spans for at in range(0, len(span), _CHUNK)]
    return iter(
        DataLoader(
            _Encoder(pictures, chunks, quality),
            batch_size=None,
            num_workers=workers if pictures is not None and chunks else 0,
            collate_fn=_identity,
        )
    )


def _identity(chunk: Any) -> Any:
    return chunk


def _write_shard(
    path: Path,
    rows: PoseSample,
    jpegs: Sequence[bytes] | None,
    left_out: Sequence[tuple[int, str]],
    attributes: Mapping[str, Any],
) -> None:
    with _whole_file(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(attributes)
        for key, value in rows.items():
            if isinstance(value, Tensor):
                file.create_dataset(key, data=value.numpy())
            else:
                _write_texts(file, key, cast(list[str], value))
        if jpegs is not None:
            file.create_dataset("image_bytes", data=np.frombuffer(b"".join(jpegs), dtype=np.uint8))
            file.create_dataset("image_offsets", data=np.cumsum([0, *map(len, jpegs)], dtype=np.int64))
        if left_out:
            file.create_dataset("left_out_row", data=np.array([row for row, _ in left_out], dtype=np.int64))
            _write_texts(file, "left_out_reason", [reason for _, reason in left_out])


def _write_texts(file: h5py.File, key: str, texts: Sequence[str]) -> None:
    file.create_dataset(key, data=np.array(texts, dtype=object), dtype=h5py.string_dtype())


def _contents(folder: Path, total: int) -> dict[str, Any]:
    """Rows of each shard, and all rows that were left out."""
    shards, left_out = [], []
    for path in (shard_path(folder, number) for number in range(total)):
        with h5py.File(path, "r") as file:
            shards.append({"file": path.name, "rows": int(file.attrs["rows"])})
            if "left_out_row" in file:
                reasons = file["left_out_reason"].asstr()[()]
                numbers = file["left_out_row"][()].tolist()
                left_out += [{"row": row, "reason": why} for row, why in zip(numbers, reasons, strict=True)]
    return {"rows": sum(shard["rows"] for shard in shards), "shards": shards, "left_out": left_out}


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A temporary name that takes the place of ``path`` when its content is complete and on the disk."""
    temporary = path.with_name(f".{path.name}.partial")
    yield temporary
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
