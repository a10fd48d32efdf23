"""Peak memory of ZeDO, to be run in a process of its own: ``python -m benchmarks.memory HYPOTHESES FRAMES ITERATIONS``.

The peak does not depend on the number of iterations, so a few will do.
"""

import json
import sys
from pathlib import Path

from benchmarks.zedo_cases import problem, run_ours
from zedo.module import ZeDO


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


def main() -> None:
    """Prints the facts as JSON."""
    hypotheses, frames, iterations = (int(value) for value in sys.argv[1:])
    network = ZeDO.pretrained().network
    anchors, target = problem(frames, hypotheses)
    run_ours(network, anchors[:1], problem(1)[1], 2, 2)  # libraries and threads start up
    before = peak_bytes()
    run_ours(network, anchors, target, iterations, 2)
    peak = peak_bytes()
    facts = {
        "name": f"zedo, S={hypotheses} x {frames} frames",
        "hypotheses": hypotheses,
        "frames": frames,
        "iterations": iterations,
        "peak_gb": peak / 1e9,
        "added_gb": (peak - before) / 1e9,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
