"""Speed and memory, side by side with plain programs and other libraries, in one run on this machine.

    python tools/benchmark.py [--only zedo diffupose scorehmr diffhmr hmdiff smpl alignment steps training data \
        growth export] [--repeats 5] [--device cpu|cuda] [--output runs/benchmark] [--quick]
    python tools/benchmark.py --only scaling        # training with one process and with two; only where it is named

Tables are in ``benchmark.md``, all times in ``benchmark.json``; ``growth`` is how the cost grows with batch,
hypotheses, vertices and steps (``growth.png``). The variants of a case run in turns and medians are compared. Use an
idle machine: the load at the start is written down. On a GPU the body layer, the alignment, sampler steps and training
steps run; peak memory is then each variant's. ``--quick`` shrinks everything and tells only that it runs. CMU motion
capture is loaded where the environment variable HUMANDIFF_DATA names a folder that holds ``cmu_mocap/``.
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
from benchmarks.device import choose
from benchmarks.diffhmr_cases import diffhmr_cases
from benchmarks.diffupose_cases import diffupose_cases
from benchmarks.export_cases import export_cases
from benchmarks.growth import Grown, grow, growth_curves, growth_plot
from benchmarks.hmdiff_cases import hmdiff_cases
from benchmarks.memory import measured_facts
from benchmarks.plot import bar_plot, seconds_text
from benchmarks.scaling_cases import scaling_facts, scaling_line
from benchmarks.scorehmr_cases import peak_memory as scorehmr_peak
from benchmarks.scorehmr_cases import scorehmr_cases
from benchmarks.step_cases import step_cases, training_cases
from benchmarks.table import markdown
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
    "steps": step_cases,
    "training": training_cases,
    "data": data_cases,
    "export": export_cases,
}
SCALING = "scaling"
GROWTH = "growth"
ON_GPU = ("smpl", "alignment", "steps", "training")
PEAKS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "zedo": zedo_peak,
    "scorehmr": scorehmr_peak,
    "diffupose": lambda quick: measured_facts("diffupose", *((2, 2, 2) if quick else (10, 256, 2))),
    "diffhmr": lambda quick: measured_facts("diffhmr", *((2, 2, 2) if quick else (25, 32, 2))),
    "hmdiff": lambda quick: measured_facts("hmdiff", *((2, 1, 2) if quick else (25, 1, 2))),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark; by the command line where no arguments are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=[*GROUPS, GROWTH, SCALING], default=[*GROUPS, GROWTH], metavar="GROUP"
    )
    parser.add_argument("--repeats", type=int, default=5, help="times to take of every variant; the median counts")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that holds something")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, not how fast")
    args = parser.parse_args(arguments)
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    try:
        device = choose(args.device)
        output = OutputFolder(args.output, args.overwrite)
        machine = machine_facts() | {"device": args.device}
        if device.type == "cuda":
            machine["gpu"] = torch.cuda.get_device_name(device)
            for group in set(args.only) - set(ON_GPU):
                print(f"{group}: not run on a GPU")
            args.only = [group for group in args.only if group in ON_GPU]
        print(", ".join(f"{name} {value}" for name, value in machine.items()))
        # Memory first: in a process of its own, while nothing else runs.
        memory = [peak(args.quick) for group, peak in PEAKS.items() if group in args.only]
        for facts in memory:
            print(f"{facts['name']}: peak {facts['peak_gb']:.2f} GB, {facts['added_gb']:.2f} GB of it by the run")
        cases: list[Measured] = []
        for group in (group for group in GROUPS if group in args.only):
            print(f"\n{group}", flush=True)
            for case in GROUPS[group](args.quick):
                cases.append(measure(case, args.repeats, 0.02 if args.quick else 0.2))
                print("\n".join(lines(cases[-1])), flush=True)
        curves = []
        if GROWTH in args.only:
            print(f"\n{GROWTH}", flush=True)
            for curve in growth_curves(args.quick):
                curves.append(grow(curve, min(args.repeats, 3), 0.0 if args.quick else 0.1))
                print(growth_line(curves[-1]), flush=True)
        scaling = []
        if SCALING in args.only:
            print(f"\n{SCALING}", flush=True)
            for facts in scaling_facts(args.quick):
                scaling.append(facts)
                print(scaling_line(facts), flush=True)
        content = {
            "machine": machine,
            "quick": args.quick,
            "repeats": args.repeats,
            "cases": [case.describe() for case in cases],
            "growth": [curve.describe() for curve in curves],
            "peak_memory": memory,
            "scaling": scaling,
        }
        write_text(output.file("benchmark.json"), json.dumps(content, indent=2) + "\n")
        write_text(output.file("benchmark.md"), markdown(machine, cases, curves, memory, scaling))
        title = f"humandiff, torch {machine['torch']}, {machine['threads']} threads{', quick' if args.quick else ''}"
        if cases:
            write_bytes(output.file("benchmark.png"), figure_png(bar_plot(cases, title), dpi=110))
        if curves:
            write_bytes(output.file("growth.png"), figure_png(growth_plot(curves, title), dpi=110))
    except OSError as error:
        sys.exit(f"error: {error}")
    if any(case.released_s is not None for case in cases):
        print("\nreleased: the authors' program, measured once in another run on an idle machine with two cores")
    print(f"\nWritten to {args.output}")


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


def growth_line(curve: Grown) -> str:
    """The curve for the terminal."""
    points = ", ".join(f"{size}: {seconds_text(s)}" for size, s in zip(curve.sizes, curve.median_s, strict=True))
    return f"  {curve.name} by {curve.axis}: {points}; exponent {curve.exponent:.2f}"


def lines(case: Measured) -> list[str]:
    """The case for the terminal: median, times humandiff's, difference of the results, notes."""
    rows = [f"  {case.name}"]
    for name, timing in case.timings.items():
        if timing.median_s is None:
            rows.append(f"    {name:<12} {timing.note or 'not run'}")
            continue
        parts = [f"    {name:<12} {seconds_text(timing.median_s):>9}"]
        parts.append(f"{case.ratios[name]:6.2f} x" if name in case.ratios else " " * 8)
        if timing.peak_bytes is not None:
            parts.append(f"peak {timing.peak_bytes / 1e6:.0f} MB")
        if timing.difference is not None:
            parts.append(f"differs by {timing.difference:.1e} {case.unit}")
        rows.append("  ".join([*parts, timing.note]).rstrip())
    if case.released_s is not None and (ours := case.timings[OURS].median_s):
        ratio = case.released_s / ours
        rows.append(f"    {'released':<12} {seconds_text(case.released_s):>9}  {ratio:6.2f} x  another run")
    return rows


if __name__ == "__main__":
    main()
