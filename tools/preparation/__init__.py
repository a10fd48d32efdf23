"""What the programs `tools/prepare_<dataset>.py` share: licensed files as they are distributed in, HDF5 shards out.

A program names its splits, how each is read and what is published about it, and calls `main`.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from posecore.data.base import PoseTable
from posecore.data.shard_writer import write_shards

_LABELS = {"clips": "clip", "subjects": "subject", "actions": "action"}
COUNTS = ("rows", *_LABELS, "pictures")
"""What can be counted of a table, and compared with what is published."""


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        root: Folder with the data set's files.
        stride: Takes every ``stride``-th frame, as the loader has it.
        crops: Side of the person's box in the pictures, pixels; None prepares labels alone.
        crop_margin: Side of the stored picture by that of the box.
        body_models: Folder with SMPL's files, where the labels need them.
    """

    root: Path
    stride: int = 1
    crops: int | None = None
    crop_margin: float = 1.5
    body_models: Path | None = None


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        make: Reads it.
        published: What it is said to have, by the names of `COUNTS`, at stride 1.
        source: Who says so.
    """

    make: Callable[[Options], PoseTable]
    published: Mapping[str, int] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.published) - set(COUNTS)):
            raise ValueError(f"published: {unknown} cannot be counted, valid are {', '.join(COUNTS)}")


def main(name: str, doc: str | None, splits: Mapping[str, Split], argv: Sequence[str] | None = None) -> int:
    """Prepares splits of a data set, one after the other; what a split lacks does not keep the others from it.

    Args:
        name: Of the data set; shards go to ``<output>/<name>/<split>/``.
        doc: What ``--help`` shows.
        splits: By name.
        argv: Arguments; those of the command line where None.

    Returns:
        The exit status: 0 when all splits are there and have the published counts, else 1.
    """
    args = _arguments(doc, splits, argv)
    options = Options(args.root, args.stride, args.crops or None, args.crop_margin, args.body_models)
    outcomes: dict[str, str] = {}
    all_well = True
    for split in args.splits:
        print(f"{name}/{split}", flush=True)
        try:
            table = splits[split].make(options)
            counted = counts(table)
            compared = compare(counted, splits[split], options.stride)
            print("\n".join(_lines(compared, splits[split].source)), flush=True)
            about = {
                "data_set": name,
                "split": split,
                "options": {key: str(v) if isinstance(v, Path) else v for key, v in asdict(options).items()},
                "counts": compared,
                "counts_source": splits[split].source,
                "created": time.strftime("%Y-%m-%d"),
            }
            index = write_shards(
                table,
                args.output / name / split,
                about,
                quality=args.quality,
                workers=args.workers,
                skip_missing=args.skip_missing,
                overwrite=args.overwrite,
            )
        except (FileNotFoundError, ImportError) as error:
            outcomes[split] = f"missing: {error}"
        except (OSError, ValueError) as error:
            outcomes[split] = f"not prepared: {error}"
        else:
            outcomes[split] = _outcome(index, compared)
            all_well &= all(count["equal"] is not False for count in compared.values())
            continue
        all_well = False
    print(f"\n{name} in {args.output / name}")
    for split, outcome in outcomes.items():
        print(f"  {split}: {outcome}")
    return 0 if all_well else 1


def counts(table: PoseTable) -> dict[str, int]:
    """What can be counted of a table: rows, different labels of those that it has, picture files."""
    samples = cast(Mapping[str, Any], table.samples)
    found = {"rows": len(table)}
    found |= {name: len(set(samples[key])) for name, key in _LABELS.items() if key in samples}
    if table.images is not None:
        found["pictures"] = len(cast(Any, table.images).files)
    return found


def compare(counted: Mapping[str, int], split: Split, stride: int) -> dict[str, dict[str, Any]]:
    """Counted beside published, and whether they are equal; None where either is not known or a stride was taken."""
    compared = {}
    for name in COUNTS:
        ours, theirs = counted.get(name), split.published.get(name)
        if ours is not None or theirs is not None:
            known = ours is not None and theirs is not None and stride == 1
            compared[name] = {"counted": ours, "published": theirs, "equal": ours == theirs if known else None}
    return compared


def _lines(compared: Mapping[str, Mapping[str, Any]], source: str) -> list[str]:
    """The comparison as a table."""
    lines = [f"  {'':<10}{'counted':>10}{'published':>12}"]
    for name, count in compared.items():
        ours, theirs = ("-" if count[key] is None else count[key] for key in ("counted", "published"))
        said = {True: "equal", False: "DIFFERENT", None: "" if count["published"] is None else "not compared"}
        lines.append(f"  {name:<10}{ours:>10}{theirs:>12}  {said[count['equal']]}".rstrip())
    return [*lines, f"  published: {source}"] if source else lines


def _outcome(index: Mapping[str, Any], compared: Mapping[str, Mapping[str, Any]]) -> str:
    text = f"there, {index['rows']} rows in {len(index['shards'])} shards"
    if index["left_out"]:
        text += f"; {len(index['left_out'])} rows without a readable picture left out (index.json lists them)"
    if different := [name for name, count in compared.items() if count["equal"] is False]:
        text += f"; warning: not as many {', '.join(different)} as published"
    return text


def _arguments(doc: str | None, splits: Mapping[str, Split], argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with the data set's files")
    parser.add_argument("--output", type=Path, required=True, help="folder of the prepared data sets")
    parser.add_argument("--splits", nargs="+", choices=list(splits), default=list(splits), help="all if not given")
    parser.add_argument("--stride", type=int, default=1, help="takes every stride-th frame")
    parser.add_argument("--crops", type=int, default=224, help="side of the person's box, pixels; 0: labels alone")
    parser.add_argument("--crop-margin", type=float, default=1.5, help="side of a stored picture by that of the box")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEGs, 1 to 95")
    parser.add_argument("--body-models", type=Path, help="folder with SMPL's files, where the labels need them")
    parser.add_argument("--workers", type=int, default=4, help="processes that read and encode pictures")
    parser.add_argument("--overwrite", action="store_true", help="replace splits that were made otherwise")
    parser.add_argument("--skip-missing", action="store_true", help="leave out rows with missing or broken pictures")
    args = parser.parse_args(argv)
    if (
        args.stride < 1
        or args.crops < 0
        or not args.crop_margin >= 1
        or args.workers < 0
        or not 1 <= args.quality <= 95
    ):
        parser.error("need stride >= 1, crops >= 0, crop margin >= 1, workers >= 0 and quality in 1..95")
    return args
