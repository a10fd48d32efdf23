"""Ablations that need no training: rows of the papers' tables by the shipped weights, and whether a difference is one.

    python tools/ablations.py --data FOLDER --output runs/ablations [--only zedo/table4 ...]
    python tools/ablations.py --output runs/ablations --table

Every row is run on the same pictures as the row it is compared with, and its errors are kept picture by picture in
``runs/ablations/<group>.json``; rows that are there are not run again. ``--table`` prints what is there as Markdown:
the means, the difference from the row's reference, and the 95 % interval of the difference by a paired bootstrap over
clips (pictures of one clip are no independent draws). docs/ablations.md is written from it.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ablation_rows import GROUPS, Group

from posecore.export.files import write_text

DRAWS = 2000
"""Of the bootstrap."""


@dataclass(frozen=True)
class Difference:
    """How a row differs from its reference on one set of pictures.

    Attributes:
        mean: Mean over pictures of the row's error less the reference's, mm.
        low: Lower end of the 95 % interval.
        high: Upper end of it.
    """

    mean: float
    low: float
    high: float

    @property
    def word(self) -> str:
        """``"better"`` or ``"worse"`` where the interval has zero outside, else ``"no effect"``."""
        return "better" if self.high < 0 else "worse" if self.low > 0 else "no effect"


def difference(row: Sequence[float], reference: Sequence[float], clips: Sequence[str], seed: int = 0) -> Difference:
    """The paired difference of two rows, its interval from clips drawn with replacement.

    Args:
        row: Errors, one a picture, mm.
        reference: Of the same pictures in the same order.
        clips: The clip that each picture is from.
        seed: Of the draws.

    Raises:
        ValueError: The three have not one length, or are empty.
    """
    if not len(row) == len(reference) == len(clips) or not len(row):
        raise ValueError(f"row, reference and clips have {len(row)}, {len(reference)} and {len(clips)} pictures")
    apart = np.asarray(row, dtype=float) - np.asarray(reference, dtype=float)
    _, clip = np.unique(np.asarray(clips), return_inverse=True)
    sums, counts = np.bincount(clip, apart), np.bincount(clip)
    drawn = np.random.default_rng(seed).integers(len(counts), size=(DRAWS, len(counts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Difference(float(apart.mean()), float(low), float(high))


def run(group: Group, data: Path, path: Path, thin: int = 1) -> None:
    """Runs the rows of a group that its file does not hold yet, and adds them to it, row by row.

    Args:
        group: The rows.
        data: The data folder.
        path: The group's file.
        thin: Takes every so many pictures; rows of one file must share it.

    Raises:
        FileNotFoundError: The data are missing.
    """
    kept = json.loads(path.read_text()) if path.is_file() else {}
    left = [row for row in group.rows if row.name not in kept]
    if not left:
        return
    batches = {name: dataset.__getitems__(range(0, len(dataset), thin)) for name, dataset in group.sets(data).items()}
    for row in left:
        start = time.perf_counter()
        kept[row.name] = {}
        for name, batch in batches.items():
            scores = {metric: values.double().tolist() for metric, values in row.run(batch).items()}
            kept[row.name][name] = {"clips": list(batch["clip"]), **scores}
        seconds = time.perf_counter() - start
        write_text(path, json.dumps(kept))
        print(f"{path.stem}: {row.name}: {seconds:.0f} s", flush=True)


def table(group: Group, kept: Mapping[str, Mapping[str, Mapping[str, list[float]]]]) -> str:
    """The rows that are there as a Markdown table."""
    lines = ["| row | set | pictures (clips) | " + " / ".join(group.metrics) + " | against | difference | |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in group.rows:
        for name, scores in kept.get(row.name, {}).items():
            means = " / ".join(f"{np.mean(scores[metric]):.1f}" for metric in group.metrics)
            clips = [str(clip) for clip in scores["clips"]]
            cells = [row.name, name, f"{len(clips)} ({len(set(clips))})", means]
            if row.against and row.against in kept:
                found = [difference(scores[metric], kept[row.against][name][metric], clips) for metric in group.metrics]
                cells += [
                    row.against,
                    "; ".join(f"{d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]" for d in found),
                    ", ".join(d.word for d in found),
                ]
            else:
                cells += ["", "", ""]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs rows, or prints those that are there; 2 where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="holds cmu_mocap/ and open_images/")
    parser.add_argument("--output", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--only", nargs="+", metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--thin", type=int, default=1, help="every so many pictures; a folder of its own for each")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.only or ()) - set(GROUPS))
    if unknown:
        parser.error(f"--only: no group {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    for name in args.only or GROUPS:
        path = args.output / f"{name.replace('/', '_')}.json"
        if args.table:
            print(f"\n### {name}\n")
            print(table(GROUPS[name], json.loads(path.read_text())) if path.is_file() else "not run")
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            run(GROUPS[name], args.data, path, args.thin)
        except (OSError, ValueError) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
