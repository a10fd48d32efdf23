"""Peak memory of a method, measured in a process of its own.

    python -m benchmarks.memory zedo HYPOTHESES FRAMES ITERATIONS
    python -m benchmarks.memory scorehmr PEOPLE LOOPS

The peak does not depend on the number of iterations or loops, so a few will do.
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
    facts = {"zedo": _zedo, "scorehmr": _scorehmr}[method](*(int(number) for number in numbers))
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


if __name__ == "__main__":
    main()
