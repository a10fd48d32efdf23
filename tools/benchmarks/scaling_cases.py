"""Training with one process and with two: samples per second, and how long the loop waits for data."""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

METHODS = ("diffhmr", "diffupose", "hmdiff", "scorehmr", "zedo")
PROCESSES = (1, 2)


def scaling_facts(quick: bool, config: str = "smoke.yaml") -> Iterator[dict[str, Any]]:
    """Trains each method's config with one process and with two, which have the same batch size each.

    Every process computes in one thread, so that two have twice the means of one on a machine with two cores. What
    Lightning, the loader and the averaging of gradients take is in the numbers; the first third of the steps, in which
    everything is slower, is not. The networks of the smoke configs are small: gradients are a larger part of the work
    than in a real training.

    Args:
        quick: A few steps of one method.
        config: One of the methods' own.

    Yields:
        For each method its name and, by number of processes, the median of ``samples_per_second`` and ``data_wait``;
        ``speed_up`` is the ratio of the former.
    """
    steps = 6 if quick else 60
    for method in METHODS[-1:] if quick else METHODS:
        facts: dict[str, Any] = {"name": f"{method}, {config}, {steps} steps", "processes": {}}
        for processes in PROCESSES:
            facts["processes"][processes] = _train(method, config, processes, steps)
        one, two = (facts["processes"][count]["samples_per_second"] for count in PROCESSES)
        yield facts | {"speed_up": two / one}


def scaling_line(facts: dict[str, Any]) -> str:
    """One method's numbers for the terminal."""
    parts = [
        f"{count} process{'es' if count > 1 else ''} {found['samples_per_second']:.0f} samples/s "
        f"(waits for data {found['data_wait']:.1%})"
        for count, found in facts["processes"].items()
    ]
    return f"  {facts['name']}: {', '.join(parts)}, {facts['speed_up']:.2f} x"


def _train(method: str, config: str, processes: int, steps: int) -> dict[str, float]:
    # Lightning starts the other process with this one's environment, from which torch has its number of threads.
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", method, "fit", "--config", config, "--trainer.default_root_dir", folder,
            "--trainer.accelerator", "cpu", "--trainer.devices", str(processes), "--trainer.max_steps", str(steps),
            "--trainer.limit_val_batches", "0", "--trainer.log_every_n_steps", "1",
            "--trainer.enable_progress_bar", "false", "--trainer.enable_checkpointing", "false",
            "--trainer.callbacks", "[{class_path: posecore.training.Throughput}]",
        ]  # fmt: skip
        done = subprocess.run(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise OSError(f"{method} fit with {processes} processes: {done.stderr[-1000:]}")
        (run,) = Path(folder).glob("lightning_logs/*")
        events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
        names = ("samples_per_second", "data_wait")
        values = {name: [event.value for event in events.Scalars(f"train/{name}")][steps // 3 :] for name in names}
    return {name: statistics.median(value) for name, value in values.items()}
