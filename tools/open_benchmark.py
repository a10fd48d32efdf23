"""The open benchmark: every method with its shipped weights on the open test sets, and a page of what was found.

    python tools/open_benchmark.py --data FOLDER                   # or HUMANDIFF_DATA; writes docs/results.md
    python tools/open_benchmark.py --data FOLDER --only lifting    # a section; the others' finished runs stay
    python tools/open_benchmark.py --data FOLDER --stride 4 --docs runs/draft     # a quarter of the rows

FOLDER holds ``cmu_mocap/`` (`posecore.data.CMUMocap` says how to get it) and ``open_images/test_subjects`` and
``test_takes`` (``python tools/prepare_open_images.py --data FOLDER --sets test_subjects test_takes``).

A run is one call of a method's own `test`; it is kept below ``--output`` and not repeated while the code, the settings
and the data that it depends on stay as they are. A program that was stopped goes on with the run it was at. What is
missing is written as "not run", and the exit status is 3; 0 says that every number is there.
"""

import argparse
import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from open_results.execute import Place, execute, finished
from open_results.page import write_page
from open_results.recorder import Recorder
from open_results.runs import RUNS, SECTIONS, Run
from tqdm import tqdm

from posecore.cli import SKIPPED, TRACEBACK
from posecore.export.files import write_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the data; HUMANDIFF_DATA where not given")
    parser.add_argument("--output", type=Path, default=Path("runs/open_benchmark"), help="where runs are kept")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the page and its pictures go")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*SECTIONS, *RUNS],
        default=list(SECTIONS),
        metavar="NAME",
        help=f"sections ({', '.join(SECTIONS)}) or single runs; finished runs of others are shown as they are",
    )
    parser.add_argument("--stride", type=int, default=1, help="takes every so manieth row of what each run takes")
    parser.add_argument("--quick", action="store_true", help="a few steps of each method: shows that it runs")
    parser.add_argument("--no-runs", action="store_true", help="writes the page of what is there, by whatever commit")
    args = parser.parse_args(arguments)
    data = args.data or Path(os.environ.get("HUMANDIFF_DATA") or "data")
    if args.stride < 1:
        parser.error(f"--stride must be at least 1, got {args.stride}")
    sys.argv[1:] = []  # the methods' command line is not this program's
    place = Place(data, args.output, args.stride, args.quick)
    try:
        place.output.mkdir(parents=True, exist_ok=True)
        args.docs.mkdir(parents=True, exist_ok=True)
        wanted = [run for run in RUNS.values() if {run.section, run.name} & set(args.only)]
        missing = {} if args.no_runs else run_all(wanted, place)
        summary = write_page(args.docs, place, missing, any_code=args.no_runs)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{summary.done} of {len(RUNS)} runs are there; {args.docs / 'results.md'}")
    for reason, names in summary.missing.items():
        print(f"not run: {', '.join(names)}: {reason}", file=sys.stderr)
    return SKIPPED if summary.missing else 0


def run_all(runs: Sequence[Run], place: Place) -> dict[str, str]:
    """Runs what is not there.

    Returns:
        Why runs could not be made, by their names.
    """
    waiting = [run for run in runs if not finished(run, place, RUNS)]
    cost = {run.name: run.seconds * run.thin / place.thin(run) + 3 for run in waiting}
    print(
        f"{len(runs)} runs, {len(runs) - len(waiting)} of them there already; the others take about "
        f"{sum(cost.values()) / 60:.0f} minutes on two idle cores"
    )
    missing: dict[str, str] = {}
    with _quiet(), tqdm(total=sum(cost.values()), bar_format=_BAR, disable=not waiting) as bar:
        before = 0.0
        for run in waiting:
            bar.set_description_str(run.name)

            def moved(share: float, done: float = before, whole: float = cost[run.name]) -> None:
                bar.update(done + share * whole - bar.n)

            Recorder.on_batch = moved
            began = time.perf_counter()
            try:
                execute(run, place, RUNS)
            except Exception as error:  # one broken run must not lose the others; the page says what happened
                expected = isinstance(error, (ValueError, OSError, ImportError))
                kind = "" if expected and str(error) else f"{type(error).__name__}: "
                missing[run.name] = kind + " ".join(str(error).split())
                write_text(place.output / f"{run.name}.failed.txt", missing[run.name] + "\n")
            else:
                (place.output / f"{run.name}.failed.txt").unlink(missing_ok=True)
                tqdm.write(f"{run.name}: {time.perf_counter() - began:.0f} s")
            before += cost[run.name]
            moved(0.0, before)
            bar.refresh()
    return missing


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The methods' command lines raise their errors, which come here and end no program; only errors are told."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels, before = [logger.level for logger in loggers], os.environ.get(TRACEBACK, "")
    os.environ[TRACEBACK] = "1"
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ[TRACEBACK] = before
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_BAR = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"

if __name__ == "__main__":
    sys.exit(main())
