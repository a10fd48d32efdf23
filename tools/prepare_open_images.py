"""Render the open image sets: photographs of the open body in captured motion, as HDF5 shards with labels.

    python tools/prepare_open_images.py --data FOLDER              # FOLDER holds cmu_mocap/; writes FOLDER/open_images/
    python tools/prepare_open_images.py --data FOLDER --motion synthetic      # needs no motion capture
    python tools/prepare_open_images.py --data FOLDER --crop 224 --workers 16 # for backbones that want 224 px

Every row has a random seed of its own, so pictures do not depend on the number of workers or on which shards are made.
A run that was stopped goes on where it was when it is started again with the same arguments; a shard is written under a
temporary name and moved. At the end a contact sheet of each set shows what was made.
"""

import argparse
import io
import json
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from posecore.body.files import load_body_model
from posecore.body.smpl import SMPLLayer
from posecore.data.base import PoseTable
from posecore.data.cmu_mocap import CMUMocap
from posecore.data.crops import box_of_keypoints
from posecore.data.open_images import FOLDER, SAMPLE, OpenImages, read_settings, shard_path, write_shard
from posecore.data.sample import PoseSample, take
from posecore.data.synthetic import SyntheticMotion
from posecore.export.files import write_bytes
from posecore.geometry.camera import crop_intrinsics, project
from posecore.render.panels import image_png
from posecore.render.photograph import Studio

SHARD_ROWS = 512
SETS: dict[str, dict[str, Any]] = {
    "train_single": {"split": "train"},
    "train_arms": {"split": "train", "recombined": 1, "seed": 1},
    "train_ring": {"split": "train", "cameras": "ring", "views": 4, "stride": 6, "seed": 2},
    "val": {"split": "val", "stride": 3},
    "test_subjects": {"split": "test_subjects"},
    "test_takes": {"split": "test_takes", "stride": 3},
    "test_ring": {"split": "test_subjects", "cameras": "ring", "views": 4, "stride": 12},
    SAMPLE: {"split": "val", "stride": 5},
}
"""What each set is made of: arguments of `posecore.data.CMUMocap`. The sample is what the package ships:
``--sets sample --motion synthetic --crop 96 --limit 64 --output packages/core/posecore/data/assets``."""
_SYNTHETIC = {"train": 0, "val": 1, "test_subjects": 2, "test_takes": 3}  # seeds in place of splits
_JPEG_QUALITY = (60, 95)


@dataclass(frozen=True)
class Order:
    """What is to be rendered; two runs with equal orders make equal shards.

    Attributes:
        name: The set.
        motion: "cmu" or "synthetic".
        crop: Side of a network's crop, pixels.
        crop_margin: Side of a stored picture over that of the box.
        limit: Rows of the set that are made, evenly spread; 0 makes all.
        seed: Changes every draw.
    """

    name: str
    motion: str
    crop: int
    crop_margin: float
    limit: int
    seed: int

    @property
    def raw_size(self) -> int:
        """Side of a stored picture, pixels."""
        return round(self.crop * self.crop_margin)

    def settings(self) -> dict[str, Any]:
        """What a shard says about itself."""
        made = {key: value for key, value in asdict(self).items() if key != "name"}
        return {"set": self.name, "raw_size": self.raw_size, **made}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cmu_mocap/")
    parser.add_argument("--output", type=Path, help="folder of the sets; DATA/open_images where not given")
    parser.add_argument(
        "--sets",
        nargs="+",
        choices=list(SETS),
        default=list(SETS)[:-1],
        help="which; all but the sample where not given",
    )
    parser.add_argument("--motion", choices=("cmu", "synthetic"), default="cmu")
    parser.add_argument("--crop", type=int, default=112, help="side of the crops that networks will see, pixels")
    parser.add_argument("--margin", type=float, default=1.5, help="side of a stored picture over that of the box")
    parser.add_argument("--limit", type=int, default=0, help="rows per set, evenly spread; 0 takes all")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    if args.crop < 16 or not args.margin >= 1 or args.limit < 0 or args.workers < 1:
        parser.error("need crop >= 16, margin >= 1, limit >= 0 and workers >= 1")
    folder = args.output or args.data / FOLDER
    for name in args.sets:
        order = Order(name, args.motion, args.crop, args.margin, args.limit, args.seed)
        try:
            render_set(order, args.data, folder, args.workers)
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0


def render_set(order: Order, data: Path, folder: Path, workers: int) -> None:
    """Renders what is missing of a set, and its contact sheet.

    Raises:
        ValueError: If shards of another order are there.
        FileNotFoundError: If there is no motion capture.
    """
    total = -(-len(_rows(order, data)) // SHARD_ROWS)
    paths = [shard_path(folder, order.name, number, total) for number in range(total)]
    for path in (folder / order.name).glob("*-of-*.h5"):
        if path not in paths or read_settings(path) != order.settings():
            raise ValueError(
                f"{path}: was made with other arguments ({json.dumps(read_settings(path))}); choose "
                "another --output or delete the set"
            )
    missing = [(order, data, path, number) for number, path in enumerate(paths) if not path.is_file()]
    with tqdm(total=total, initial=total - len(missing), desc=order.name, unit="shard") as progress:
        for _ in _spread(_render_shard, missing, workers):
            progress.update()
    sheet = folder / f"{order.name}.png"
    shown = OpenImages(folder, [order.name])
    write_bytes(sheet, image_png(contact_sheet(shown)))
    print(f"{order.name}: {len(_rows(order, data))} pictures of {order.raw_size} px; {sheet}")


def contact_sheet(dataset: PoseTable, columns: int = 12, lines: int = 8) -> np.ndarray:
    """Pictures of a set, evenly spread over it; on every second a dot for each joint, green where it is seen."""
    count = min(len(dataset), columns * lines)
    rows = torch.linspace(0, len(dataset) - 1, count).long().tolist()
    batch = dataset.__getitems__(rows)
    size = batch["image"].shape[-1]
    K = crop_intrinsics(batch["K"], batch["box"][:, :2], batch["box"][:, 2] * cast(Any, dataset).crop_margin, size)
    flat = (K[:, None] @ batch["joints_smpl24_cam"][..., None])[..., 0]
    dots = (flat[..., :2] / flat[..., 2:]).round().long()
    tiles = batch["image"].permute(0, 2, 3, 1).clone()
    for tile, points, seen in zip(tiles[1::2], dots[1::2], batch["smpl24_visible"][1::2], strict=True):
        for (x, y), visible in zip(points.tolist(), seen.tolist(), strict=True):
            if 1 <= x < size - 1 and 1 <= y < size - 1:
                tile[y - 1 : y + 2, x - 1 : x + 2] = torch.tensor([0, 255, 0] if visible else [255, 0, 0]).byte()
    blank = torch.full((-len(tiles) % columns, size, size, 3), 255, dtype=torch.uint8)
    grid = torch.cat((tiles, blank)).reshape(-1, columns, size, size, 3)
    sheet: np.ndarray = grid.permute(0, 2, 1, 3, 4).reshape(-1, columns * size, 3).numpy()
    return sheet


@cache
def _rows(order: Order, data: Path) -> PoseTable:
    """Labels of the whole set, in its order."""
    options = {"joint_set": "joints44", **SETS[order.name]}
    options["seed"] = options.get("seed", 0) + 1000 * order.seed
    if order.motion == "cmu":
        table: PoseTable = CMUMocap(data, joints="body", **options)
    else:
        options.pop("recombined", None)
        options["seed"] += 100 * _SYNTHETIC[options.pop("split")]
        table = SyntheticMotion(data, joints="body", **options)
    if order.limit and order.limit < len(table):
        kept = torch.linspace(0, len(table) - 1, order.limit).long()
        table = PoseTable(table.joint_set, take(table.samples, kept))
    return table


@cache
def _studio() -> tuple[Studio, SMPLLayer]:
    model = load_body_model()
    return Studio(model), SMPLLayer(model, joints=())


def _render_shard(task: tuple[Order, Path, Path, int]) -> None:
    order, data, path, number = task
    torch.set_num_threads(1)
    table = _rows(order, data)
    first = number * SHARD_ROWS
    samples = take(table.samples, range(first, min(first + SHARD_ROWS, len(table))))
    boxes = _boxes(samples)
    studio, body = _studio()
    K = crop_intrinsics(samples["K"], boxes[:, :2], boxes[:, 2] * order.crop_margin, order.raw_size)
    jpegs, visible = [], []
    for row in range(len(boxes)):
        rng = np.random.default_rng((zlib.crc32(f"{order.name}/{order.seed}".encode()), first + row))
        parameters = (samples[key][row] for key in ("betas", "body_pose", "global_orient", "transl"))
        vertices = body(*parameters).vertices
        photo = studio.take(vertices, K[row], order.raw_size, samples["joints_smpl24_cam"][row], rng)
        buffer = io.BytesIO()
        Image.fromarray(photo.pixels).save(buffer, "JPEG", quality=int(rng.integers(*_JPEG_QUALITY)))
        jpegs.append(buffer.getvalue())
        offset = (project(samples["joints_smpl24_cam"][row], samples["K"][row]) - boxes[row, :2]).abs()
        visible.append(torch.from_numpy(photo.visible) & (offset <= boxes[row, 2] / 2).all(dim=-1))
    rows = cast(PoseSample, {**samples, "box": boxes, "smpl24_visible": torch.stack(visible)})
    write_shard(path, rows, jpegs, order.settings())


def _boxes(samples: PoseSample) -> torch.Tensor:
    """Middle and side of the square around the joints in the picture, 1.2 times their longer side as SPIN's."""
    pixels = samples["joints_2d_true_px"]
    inside = ((pixels >= 0) & (pixels <= samples["image_size"][:, None])).all(dim=-1)
    center, side = box_of_keypoints(pixels, inside.float())
    return torch.cat((center, side[:, None]), dim=1)


def _spread(work: Callable[[Any], None], tasks: Sequence[Any], workers: int) -> Any:
    if workers == 1 or len(tasks) < 2:
        yield from map(work, tasks)
        return
    with get_context("spawn").Pool(min(workers, len(tasks))) as pool:
        yield from pool.imap_unordered(work, tasks)


if __name__ == "__main__":
    sys.exit(main())
