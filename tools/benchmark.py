"""Speed and memory, side by side with plain programs and other libraries, in one run on this machine.

    python tools/benchmark.py [--only zedo diffupose scorehmr diffhmr hmdiff smpl alignment data export] \
        [--repeats 5] [--output runs/benchmark] [--quick]
    python tools/benchmark.py --only scaling        # training with one process and with two; only where it is named

The variants of a case run in turns and medians are compared. Use an idle machine: the load at the start is written
down. ``--quick`` shrinks everything and tells only that it runs. CMU motion capture is loaded where the environment
variable HUMANDIFF_DATA names a folder that holds ``cmu_mocap/``.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.core_cases import alignment_cases, data_cases, smpl_cases
from benchmarks.diffhmr_cases import diffhmr_cases
from benchmarks.diffupose_cases import diffupose_cases
from benchmarks.export_cases import export_cases
from benchmarks.hmdiff_cases import hmdiff_cases
from benchmarks.plot import bar_plot, seconds_text
from benchmarks.scaling_cases import scaling_facts, scaling_line
from benchmarks.scorehmr_cases import peak_memory as scorehmr_peak
from benchmarks.scorehmr_cases import scorehmr_cases
from benchmarks.timing import OURS, Case, Measured, measure
from benchmarks.zedo_cases import peak_memory as zedo_peak
from benchmarks.zedo_cases import zedo_cases

from posecore.export.files import OutputFolder, write_bytes, write_text
from posecore.render.panels import figure_png

GROUPS: dict[str, Callable[[bool], Iterator[Case]]] = {
    "zedo": zedo_cases,
    "diffupose": diffupose_cases,
    "scorehmr": scorehmr_cases,
    "diffhmr": diffhmr_cases,
    "hmdiff": hmdiff_cases,
    "smpl": smpl_cases,
    "alignment": alignment_cases,
    "data": data_cases,
    "export": export_cases,
}
SCALING = "scaling"
PEAKS: dict[str, Callable[[bool], dict[str, Any]]] = {"zedo": zedo_peak, "scorehmr": scorehmr_peak}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark; by the command line where no arguments are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*GROUPS, SCALING], default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--repeats", type=int, default=5, help="times to take of every variant; the median counts")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that holds something")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, not how fast")
    args = parser.parse_args(arguments)
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    try:
        output = OutputFolder(args.output, args.overwrite)
        machine = machine_facts()
        print(", ".join(f"{name} {value}" for name, value in machine.items()))
        # Memory first: in a process of its own, while nothing else runs.
        memory = [peak(args.quick) for group, peak in PEAKS.items() if group in args.only]
        for facts in memory:
            print(f"{facts['name']}: peak {facts['peak_gb']:.2f} GB, {facts['added_gb']:.2f} GB of it by the run")
        cases, scaling = [], []
        for group in dict.fromkeys(args.only):
            print(f"\n{group}", flush=True)
            if group == SCALING:
                for facts in scaling_facts(args.quick):
                    scaling.append(facts)
                    print(scaling_line(facts), flush=True)
                continue
            for case in GROUPS[group](args.quick):
                cases.append(measure(case, args.repeats, 0.02 if args.quick else 0.2))
                print("\n".join(lines(cases[-1])), flush=True)
        content = {
            "machine": machine,
            "quick": args.quick,
            "repeats": args.repeats,
            "cases": [case.describe() for case in cases],
            "peak_memory": memory,
            "scaling": scaling,
        }
        write_text(output.file("benchmark.json"), json.dumps(content, indent=2) + "\n")
        title = f"humandiff, torch {machine['torch']}, {machine['threads']} threads{', quick' if args.quick else ''}"
        if cases:
            write_bytes(output.file("benchmark.png"), figure_png(bar_plot(cases, title), dpi=110))
    except OSError as error:
        sys.exit(f"error: {error}")
    if any(case.released_s is not None for case in cases):
        print("\nreleased: the authors' program, measured once in another run on an idle machine with two cores")
    print(f"\nWritten to {args.output / 'benchmark.json'}{' and benchmark.png beside it' if cases else ''}")


def machine_facts() -> dict[str, Any]:
    """What the times depend on."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def lines(case: Measured) -> list[str]:
    """The case for the terminal: median, times humandiff's, difference of the results, notes."""
    rows = [f"  {case.name}"]
    for name, timing in case.timings.items():
        if timing.median_s is None:
            rows.append(f"    {name:<12} {timing.note or 'not run'}")
            continue
        parts = [f"    {name:<12} {seconds_text(timing.median_s):>9}"]
        parts.append(f"{case.ratios[name]:6.2f} x" if name in case.ratios else " " * 8)
        if timing.difference is not None:
            parts.append(f"differs by {timing.difference:.1e} {case.unit}")
        rows.append("  ".join([*parts, timing.note]).rstrip())
    if case.released_s is not None and (ours := case.timings[OURS].median_s):
        ratio = case.released_s / ours
        rows.append(f"    {'released':<12} {seconds_text(case.released_s):>9}  {ratio:6.2f} x  another run")
    return rows


if __name__ == "__main__":
    main()
