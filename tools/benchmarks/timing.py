"""Times several ways to do one thing side by side: interleaved, so that a busy machine is busy for all of them."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

from benchmarks.device import peak_bytes, start_peak, synchronize

OURS = "humandiff"
_LONG = 5.0  # seconds of a first call in which the warm-up is lost, so that it may count


@dataclass(frozen=True)
class Variant:
    """One way to do it.

    Attributes:
        run: Does it once and returns what it found; None where this machine cannot.
        factor: What the time is multiplied by, for a variant that does a known part of the work.
        note: What a reader must know of it, such as why it cannot run.
    """

    run: Callable[[], Tensor] | None
    factor: float = 1.0
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One thing to do, and the ways to do it.

    Attributes:
        group: What ``--only`` names.
        name: What is done, and how much of it.
        variants: By name; ``"humandiff"`` is among them.
        unit: Of the difference of two variants' results: metres, or a share of the largest value.
        released_s: Seconds of the authors' released program, from another run on another day.
    """

    group: str
    name: str
    variants: Mapping[str, Variant]
    unit: Literal["m", "relative"] = "m"
    released_s: float | None = None


@dataclass
class Timing:
    """One variant's times, seconds of one call each, and how far its result is from humandiff's.

    ``peak_bytes`` is a GPU's.
    """

    median_s: float | None = None
    times_s: list[float] = field(default_factory=list)
    calls_per_time: int = 0
    difference: float | None = None
    peak_bytes: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """A case that was run.

    Attributes:
        timings: By variant.
        ratios: Median of each other variant over humandiff's: how many times faster humandiff is.
    """

    group: str
    name: str
    unit: str
    timings: dict[str, Timing]
    ratios: dict[str, float]
    released_s: float | None

    def describe(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure(case: Case, repeats: int, min_seconds: float = 0.2) -> Measured:
    """Runs the variants of a case in turns, the order reversed every other round.

    Every variant runs once to warm up and to be compared; short ones are then called as often per time as it takes to
    fill ``min_seconds``. Where the first call of any of them takes five seconds or more, the first round counts too.

    Args:
        case: What to run.
        repeats: Times to take of every variant; the median counts.
        min_seconds: A time spans at least about this long.

    Raises:
        ValueError: ``repeats`` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    timings = {name: Timing(note=variant.note) for name, variant in case.variants.items()}
    runs = {name: variant.run for name, variant in case.variants.items() if variant.run is not None}
    results, first = {}, {}
    for name, run in runs.items():
        synchronize()
        start_peak()
        start = time.perf_counter()
        results[name] = run().detach()
        synchronize()
        first[name] = time.perf_counter() - start
        timings[name].peak_bytes = peak_bytes()
    for name, result in results.items():
        if name != OURS and OURS in results:
            timings[name].difference = _difference(result, results[OURS], case.unit)
    results.clear()

    first_counts = max(first.values(), default=0) >= _LONG
    for name in runs:
        timings[name].calls_per_time = 1 if first_counts else max(1, math.ceil(min_seconds / first[name]))
        timings[name].times_s += [first[name] * case.variants[name].factor] if first_counts else []
    for turn in range(repeats - first_counts):
        for name in list(runs)[:: 1 if turn % 2 else -1]:
            calls = timings[name].calls_per_time
            start = time.perf_counter()
            for _ in range(calls):
                runs[name]()
            synchronize()
            timings[name].times_s.append((time.perf_counter() - start) / calls * case.variants[name].factor)
    for name in runs:
        timings[name].median_s = statistics.median(timings[name].times_s)

    ours = timings[OURS].median_s
    medians = {name: timing.median_s for name, timing in timings.items() if name != OURS}
    ratios = {name: median / ours for name, median in medians.items() if median is not None and ours}
    return Measured(case.group, case.name, case.unit, timings, ratios, case.released_s)


def _difference(result: Tensor, ours: Tensor, unit: str) -> float:
    """Largest difference; a variant that does a part of the work is compared on that part, the first rows."""
    rows = min(len(result), len(ours))
    largest = (result[:rows].double() - ours[:rows].double()).abs().max()
    return float(largest / ours[:rows].abs().max() if unit == "relative" else largest)
