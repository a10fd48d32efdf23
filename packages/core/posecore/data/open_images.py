"""Rendered photographs of the open body with labels, in HDF5 shards; `tools/prepare_open_images.py` makes them."""

import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from posecore.body.skeletons import JOINTS_44
from posecore.data.base import PoseTable
from posecore.data.detector_noise import DetectorNoise
from posecore.data.sample import PoseSample, concatenate, take
from posecore.data.start_estimates import CropBoxes, read_start_estimates
from posecore.geometry.camera import project

FORMAT = "humandiff-open-images/1"
FOLDER = "open_images"
SAMPLE = "sample"
"""A set of a few small pictures in synthetic motion that is shipped, so that every program can be tried."""
ASSETS = Path(__file__).parent / "assets"
HOW_TO_OBTAIN = (
    "python tools/prepare_open_images.py renders it from motion capture that is free (see posecore.data.CMUMocap), or "
    "with --motion synthetic from none at all"
)
_TEXTS = ("subject", "clip", "action")
_KEYS = (
    "joints_cam", "joints_smpl24_cam", "smpl24_visible", "K", "box", "image_size", "R_world_to_cam", "t_world_to_cam",
    "global_orient", "body_pose", "betas", "transl", "frame", "view", "fps",
)  # fmt: skip


def write_shard(path: Path, rows: PoseSample, jpegs: Sequence[bytes], settings: dict[str, Any]) -> None:
    """Writes one shard; it appears under its name when it is complete.

    ===================  =============  ===============================================================================
    data set             shape          meaning
    ===================  =============  ===============================================================================
    ``jpeg``             (bytes,)       the pictures' JPEG files one after the other, uncompressed and in one piece
    ``jpeg_end``         (N,)           where each of them ends
    ``subject clip       (N,)           labels
    action``
    others               (N, ...)       keys of `PoseSample`; the picture itself covers ``crop_margin`` times the box
    ===================  =============  ===============================================================================

    Args:
        path: The file.
        rows: Labels, joints of ``joints44``; keys that the format does not have are left out.
        jpegs: The pictures.
        settings: How they were made: ``crop_margin``, ``raw_size`` and what else there is to know (JSON values).

    Raises:
        ValueError: If a key or setting is missing, or there are not as many pictures as rows.
    """
    columns = cast(dict[str, Any], rows)
    if missing := [key for key in ("crop_margin", "raw_size") if key not in settings]:
        raise ValueError(f"settings: lack {', '.join(missing)}")
    if missing := [key for key in (*_KEYS, *_TEXTS) if key not in columns]:
        raise ValueError(f"rows: lack {', '.join(missing)}")
    if len(jpegs) != len(columns["K"]):
        raise ValueError(f"jpegs: {len(jpegs)} pictures for {len(columns['K'])} rows")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    with h5py.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["settings"] = json.dumps(settings, sort_keys=True)
        file.create_dataset("jpeg", data=np.frombuffer(b"".join(jpegs), dtype=np.uint8))
        file.create_dataset("jpeg_end", data=np.cumsum([len(jpeg) for jpeg in jpegs], dtype=np.int64))
        for key in _KEYS:
            file.create_dataset(key, data=columns[key].numpy())
        for key in _TEXTS:
            file.create_dataset(key, data=columns[key], dtype=h5py.string_dtype())
    temporary.rename(path)


def read_settings(path: Path) -> dict[str, Any]:
    """How a shard was made.

    Raises:
        ValueError: If the file is no such shard, or broken.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise ValueError(f"{path}: format is {file.attrs.get('format')!r}, expected {FORMAT!r}")
            settings: dict[str, Any] = json.loads(file.attrs["settings"])
            return settings
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: is no shard of rendered images that can be read ({error})") from error


@dataclass(frozen=True)
class _Pictures:
    """Decodes raw crops by row, straight from the shards; processes share the system's cache of them."""

    files: tuple[Path, ...]
    offsets: tuple[int, ...]
    shard: np.ndarray
    start: np.ndarray
    end: np.ndarray
    raw_size: int
    margin: float

    def __call__(self, rows: Sequence[int]) -> UInt8[Tensor, "crops 3 size size"]:
        out = np.empty((len(rows), self.raw_size, self.raw_size, 3), dtype=np.uint8)
        for place, row in enumerate(rows):
            path = self.files[self.shard[row]]
            length = int(self.end[row] - self.start[row])
            at = self.offsets[self.shard[row]] + int(self.start[row])
            with path.open("rb", buffering=0) as file:
                file.seek(at)
                content = file.read(length)
            try:
                out[place] = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            except (OSError, SyntaxError, ValueError) as error:  # PIL says SyntaxError of some broken files.
                raise ValueError(f"{path}: picture at byte {at} cannot be read ({error})") from error
        return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


class OpenImages(PoseTable):
    """Rendered photographs of people, with everything known about them.

    ============  ====================================================================================================
    content       CMU motion (or synthetic motion) on the open body: random shape, skin, hair, clothes, light,
                  surroundings and occluders; a picture of its own camera per frame, or four of a ring
    joints        joints44 (OpenPose's 25, then 19 of LSP, MPII and Human3.6M), metres, camera frame
    2D            exact projections, or with a detector's ``noise``; pixels of the whole picture
    image         raw crops (uint8) of ``crop_margin`` times the box, for `posecore.data.augment`
    body          SMPL parameters of the open body, exact
    sets          ``train_single train_arms train_ring val test_subjects test_takes test_ring``; the splits are those
                  of `posecore.data.CMUMocap`; ``sample`` is shipped
    licence       rendered from CC0 and CMU data (free for all uses; acknowledge mocap.cs.cmu.edu, NSF EIA-0196217)
    to obtain     ``python tools/prepare_open_images.py``
    ============  ====================================================================================================

    Args:
        root: Folder with ``open_images/<set>/``, or that folder itself.
        sets: Which.
        stride: Takes every ``stride``-th row.
        noise: 2D noise; None gives exact 2D. Confidence is 0 outside of the picture, else 1.
        seed: Changes the noise.
        start: Cache of estimates (`read_start_estimates`) of the rows that are taken, in order: where a fit starts.
        images: Whether rows have ``image``.

    Raises:
        FileNotFoundError: If a set or one of its shards is not there.
        ValueError: If a shard is broken, sets differ in size or margin of their pictures, or an argument does not fit.
    """

    def __init__(
        self,
        root: Path,
        sets: Sequence[str] = ("train_single", "train_arms", "train_ring"),
        stride: int = 1,
        noise: DetectorNoise | None = None,
        seed: int = 0,
        start: str | None = None,
        images: bool = True,
    ) -> None:
        if not sets or stride < 1:
            raise ValueError(f"sets and stride: expected at least one set and 1, got {list(sets)} and {stride}")
        folder = root / FOLDER if (root / FOLDER).is_dir() else root
        files = [path for name in sets for path in _shards(folder, name)]
        settings = [read_settings(path) for path in files]
        shape = {(made["raw_size"], made["crop_margin"]) for made in settings}
        if len(shape) != 1:
            found = ", ".join(f"{size} px of {margin} boxes" for size, margin in sorted(shape))
            raise ValueError(f"sets: their pictures differ in size and margin: {found}")
        ((raw_size, self.crop_margin),) = shape
        tables, offsets, ends = [], [], []
        for path in files:
            table, offset, end = _read_labels(path)
            tables.append(table)
            offsets.append(offset)
            ends.append(end)
        samples = concatenate(tables)
        samples["joints_rel"] = samples["joints_cam"] - samples["joints_cam"][:, list(JOINTS_44.root)].mean(1, True)
        samples["joints_known"] = torch.ones(samples["joints_cam"].shape[:2], dtype=torch.bool)
        _add_keypoints(samples, noise, seed)
        shard = np.repeat(np.arange(len(files)), [len(end) for end in ends])
        begins = [np.concatenate(([0], end[:-1])) for end in ends]
        kept = np.arange(0, len(shard), stride)
        pictures = _Pictures(
            tuple(files),
            tuple(offsets),
            shard[kept],
            np.concatenate(begins)[kept],
            np.concatenate(ends)[kept],
            raw_size,
            self.crop_margin,
        )
        samples = take(samples, kept.tolist())
        if start is not None:
            boxes = CropBoxes(samples["box"][:, :2], samples["box"][:, 2], samples["image_size"])
            samples = cast(PoseSample, {**samples, **read_start_estimates(root / start, len(kept), boxes)})
        super().__init__(JOINTS_44, samples, pictures if images else None)


def shard_path(folder: Path, name: str, number: int, total: int) -> Path:
    """The file of one shard of a set."""
    return folder / name / f"{number:04d}-of-{total:04d}.h5"


def _shards(folder: Path, name: str) -> list[Path]:
    """All shards of a set, in order."""
    if name == SAMPLE and not (folder / SAMPLE).is_dir():
        folder = ASSETS
    found = sorted((folder / name).glob("*-of-*.h5"))
    if not found:
        raise FileNotFoundError(f"there is no set {name!r} of rendered images below {folder}: {HOW_TO_OBTAIN}")
    total = int(found[0].stem.partition("-of-")[2])
    wanted = [shard_path(folder, name, number, total) for number in range(total)]
    if not set(found) <= set(wanted):
        raise ValueError(f"{folder / name}: holds shards of several renderings; delete all but one")
    if missing := [path.name for path in wanted if not path.is_file()]:
        raise FileNotFoundError(
            f"{folder / name}: {len(missing)} of {total} shards are missing, {missing[0]} the first: run "
            "tools/prepare_open_images.py with the same arguments again, it goes on where it stopped"
        )
    return wanted


def _read_labels(path: Path) -> tuple[PoseSample, int, np.ndarray]:
    """Labels of a shard, where its pictures begin in the file, and where each of them ends."""
    try:
        with h5py.File(path, "r") as file:
            table: dict[str, Any] = {key: torch.from_numpy(file[key][()]) for key in _KEYS}
            table |= {key: [text.decode() for text in file[key][()]] for key in _TEXTS}
            offset, ends = file["jpeg"].id.get_offset(), file["jpeg_end"][()]
    except (OSError, KeyError) as error:
        raise ValueError(f"{path}: is no shard of rendered images that can be read ({error})") from error
    if offset is None:
        raise ValueError(f"{path}: its pictures are not stored in one piece")
    if lengths := {key: len(values) for key, values in table.items() if len(values) != len(ends)}:
        raise ValueError(f"{path}: has {len(ends)} pictures but other numbers of labels: {lengths}")
    return cast(PoseSample, table), int(offset), ends


def _add_keypoints(samples: PoseSample, noise: DetectorNoise | None, seed: int) -> None:
    true = project(samples["joints_cam"], samples["K"])
    size = samples["image_size"]
    samples["joints_2d_true_px"] = true
    if noise is None:
        inside = ((true >= 0) & (true <= size[:, None])).all(dim=-1)
        samples["confidence"] = inside.float()
        samples["joints_2d_px"] = torch.where(inside[..., None], true, 0)
        return
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/open_images".encode()))
    samples["joints_2d_px"], samples["confidence"] = noise(true, size, JOINTS_44, generator)
