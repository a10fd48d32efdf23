"""Peak memory of a method, measured in a process of its own.

    python -m benchmarks.memory zedo HYPOTHESES FRAMES ITERATIONS
    python -m benchmarks.memory scorehmr PEOPLE LOOPS
    python -m benchmarks.memory diffupose|diffhmr|hmdiff HYPOTHESES PEOPLE STEPS

The peak does not depend on the number of iterations, loops or steps, so a few will do.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def peak_bytes() -> int:
    """Most memory that this process has held at once."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux gives a child its parent's peak as the start of ru_maxrss; this one belongs to the program alone.
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in fields:
            return int(fields["VmHWM"].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured_facts(method: str, *numbers: int) -> dict[str, Any]:
    """Starts a process for one of the commands above, and reads what it printed.

    Raises:
        RuntimeError: The process failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", method, *map(str, numbers)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"peak memory could not be measured:\n{done.stderr}")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def main() -> None:
    """Prints the facts as JSON."""
    method, *numbers = sys.argv[1:]
    programs = {
        "zedo": _zedo,
        "scorehmr": _scorehmr,
        "diffupose": _diffupose,
        "diffhmr": _diffhmr,
        "hmdiff": _hmdiff,
    }
    facts = programs[method](*(int(number) for number in numbers))
    print(json.dumps(facts))


def _scorehmr(people: int, loops: int) -> dict[str, Any]:
    from benchmarks.scorehmr_cases import Problem
    from scorehmr.sampler import Guidance

    guidance = Guidance(outer_loops=loops, stop_change=None)
    Problem(1).ours(guidance)  # libraries and threads start up
    problem = Problem(people)
    before = peak_bytes()
    problem.ours(guidance)
    return _facts(f"scorehmr, keypoint fit, B={people}", before, people=people, loops=loops)


def _facts(name: str, before: int, **sizes: int) -> dict[str, Any]:
    peak = peak_bytes()
    return {"name": name, **sizes, "peak_gb": peak / 1e9, "added_gb": (peak - before) / 1e9}


def _zedo(hypotheses: int, frames: int, iterations: int) -> dict[str, Any]:
    from benchmarks.zedo_cases import problem, run_ours
    from zedo.module import ZeDO

    network = ZeDO.pretrained().network
    anchors, target = problem(frames, hypotheses)
    run_ours(network, anchors[:1], problem(1)[1], 2, 2)  # libraries and threads start up
    before = peak_bytes()
    run_ours(network, anchors, target, iterations, 2)
    name = f"zedo, S={hypotheses} x {frames} frames"
    return _facts(name, before, hypotheses=hypotheses, frames=frames, iterations=iterations)


def _diffupose(hypotheses: int, people: int, steps: int) -> dict[str, Any]:
    import torch

    from benchmarks.diffupose_cases import random_network, run_ours
    from diffupose.sampler import Sampling

    network, settings = random_network(384), Sampling("ddim", steps, flip=False)
    keypoints = 0.3 * torch.randn(people, 16, 2, generator=torch.Generator().manual_seed(1))
    run_ours(network, keypoints[:1], 1, settings)  # libraries and threads start up
    before = peak_bytes()
    run_ours(network, keypoints, hypotheses, settings)
    return _hypotheses_facts("diffupose", before, hypotheses, people, steps)


def _diffhmr(hypotheses: int, people: int, steps: int) -> dict[str, Any]:
    from benchmarks.diffhmr_cases import OPEN, Hypotheses

    Hypotheses(1, 1, 1, **OPEN).ours()  # libraries and threads start up
    problem = Hypotheses(people, hypotheses, steps, **OPEN)
    before = peak_bytes()
    problem.ours()
    return _hypotheses_facts("diffhmr", before, hypotheses, people, steps)


def _hmdiff(hypotheses: int, people: int, steps: int) -> dict[str, Any]:
    from benchmarks.hmdiff_cases import Hypotheses
    from hmdiff.dat import Alignment

    if people != 1:
        raise ValueError(f"PEOPLE: hmdiff's problem has one image, got {people}")
    Hypotheses(1, 1).ours(Alignment(of="nothing"))  # libraries and threads start up
    problem = Hypotheses(hypotheses, steps)
    before = peak_bytes()
    problem.ours(Alignment(activation=False))
    return _hypotheses_facts("hmdiff", before, hypotheses, people, steps)


def _hypotheses_facts(method: str, before: int, hypotheses: int, people: int, steps: int) -> dict[str, Any]:
    name = f"{method}, N={hypotheses} x {people} people"
    return _facts(name, before, hypotheses=hypotheses, people=people, steps=steps)


if __name__ == "__main__":
    main()
