"""How the cost grows with batch, hypotheses, vertices and steps."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from benchmarks import diffhmr_cases, diffupose_cases, hmdiff_cases, scorehmr_cases, zedo_cases
from benchmarks.device import place, synchronize
from diffupose.sampler import Sampling
from hmdiff.dat import Alignment
from posecore.body.files import load_body_model
from posecore.body.smpl import SMPLLayer
from posecore.geometry.alignment import align
from posecore.geometry.rotation import random_rotmat
from scorehmr.sampler import Guidance
from zedo.module import ZeDO

Axis = Literal["batch", "hypotheses", "vertices", "steps"]
_MIN_SECONDS = 0.1  # of one time, by several calls


@dataclass(frozen=True)
class Curve:
    """A loop of which one size grows and all else stays.

    Attributes:
        name: What is run, and the sizes that stay.
        axis: What grows.
        sizes: Its sizes.
        make: The run of a size.
    """

    name: str
    axis: Axis
    sizes: Sequence[int]
    make: Callable[[int], Callable[[], Tensor]]


@dataclass(frozen=True)
class Grown:
    """A curve that was run.

    Attributes:
        median_s: Seconds of each size.
        exponent: Of the cost between the two largest sizes: 1 is proportional, 0 is free.
    """

    name: str
    axis: Axis
    sizes: list[int]
    median_s: list[float]
    exponent: float

    def describe(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def growth_curves(quick: bool) -> Iterator[Curve]:
    """The body layer and the alignment, and each method's sampler by people, hypotheses and steps."""
    few, many = ((1, 2), (1, 3)) if quick else ((1, 4, 16, 64), (1, 4, 16, 64, 256))
    steps = (1, 2) if quick else (5, 10, 20, 40)
    body = load_body_model()
    for name, layer in (("SMPL mesh", SMPLLayer(body, joints=())), ("SMPL 24 joints", SMPLLayer(body, vertices=()))):
        yield Curve(name, "batch", many, lambda n, layer=layer: _pose(layer, n))  # type: ignore[misc]
    counts = (10, 100) if quick else (50, 200, 800, 3200, 6890)
    yield Curve("SMPL, B=32", "vertices", counts, lambda n: _pose(SMPLLayer(body, (), torch.arange(n).tolist()), 32))
    yield Curve("alignment, 17 joints", "batch", (10, 100) if quick else (100, 1000, 10_000, 100_000), _align)

    network = ZeDO.pretrained().network
    iterations = steps[-1]

    def zedo(people: int, hypotheses: int, count: int) -> Callable[[], Tensor]:
        anchors, target = zedo_cases.problem(people, hypotheses)
        return lambda: zedo_cases.run_ours(network, anchors, target, count)

    yield Curve(f"zedo, {iterations} iterations", "batch", few, lambda n: zedo(n, 1, iterations))
    yield Curve(f"zedo, B=1, {iterations} iterations", "hypotheses", few, lambda n: zedo(1, n, iterations))
    yield Curve("zedo, B=4", "steps", [2 * n for n in steps], lambda n: zedo(4, 1, 2 * n))

    denoiser = diffupose_cases.random_network(32 if quick else 384)
    keypoints = 0.3 * torch.randn(many[-1], 16, 2, generator=torch.Generator().manual_seed(1))

    def diffupose(people: int, hypotheses: int, count: int) -> Callable[[], Tensor]:
        settings = Sampling("ddim", count, flip=False)
        return lambda: diffupose_cases.run_ours(denoiser, keypoints[:people], hypotheses, settings)

    yield Curve("diffupose, N=1, 5 steps", "batch", few, lambda n: diffupose(n, 1, 5))
    yield Curve("diffupose, B=1, 5 steps", "hypotheses", few, lambda n: diffupose(1, n, 5))
    yield Curve("diffupose, B=1, N=4", "steps", steps, lambda n: diffupose(1, 4, n))

    cond, hidden = (64, 32) if quick else (3072, 1024)

    def scorehmr(people: int, loops: int) -> Callable[[], Tensor]:
        problem = scorehmr_cases.Problem(people, cond, hidden)
        return lambda: problem.ours(Guidance(outer_loops=loops, stop_change=None))

    yield Curve("scorehmr, 1 loop", "batch", few, lambda n: scorehmr(n, 1))
    yield Curve("scorehmr, B=4, loops", "steps", (1, 2) if quick else (1, 2, 4), lambda n: scorehmr(4, n))

    options = diffhmr_cases.QUICK if quick else diffhmr_cases.OPEN

    def diffhmr(people: int, hypotheses: int, count: int) -> Callable[[], Tensor]:
        return diffhmr_cases.Hypotheses(people, hypotheses, count, **options).ours

    yield Curve("diffhmr, N=1, 5 steps", "batch", few, lambda n: diffhmr(n, 1, 5))
    yield Curve("diffhmr, B=1, 5 steps", "hypotheses", few, lambda n: diffhmr(1, n, 5))
    yield Curve("diffhmr, B=1, N=4", "steps", steps, lambda n: diffhmr(1, 4, n))

    def hmdiff(hypotheses: int, count: int) -> Callable[[], Tensor]:
        problem = hmdiff_cases.Hypotheses(hypotheses, count)
        return lambda: problem.ours(Alignment(of="nothing"))

    yield Curve("hmdiff, B=1, 2 steps", "hypotheses", few[:3], lambda n: hmdiff(n, 2))
    yield Curve("hmdiff, B=1, N=4", "steps", steps[:3], lambda n: hmdiff(4, n))


@torch.no_grad()
def _posed(layer: SMPLLayer, betas: Tensor, rotmat: Tensor) -> Tensor:
    return layer(betas, rotmat[:, 1:], rotmat[:, 0]).joints


def _pose(layer: SMPLLayer, people: int) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    betas, rotmat = torch.randn(people, 10, generator=generator), random_rotmat((people, 24), generator)
    betas, rotmat, layer = place(betas), place(rotmat), place(layer)
    return lambda: _posed(layer, betas, rotmat)


def _align(poses: int) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    source, target = (place(torch.randn(poses, 17, 3, generator=generator)) for _ in range(2))
    return lambda: align(source, target)


def grow(curve: Curve, repeats: int, min_seconds: float = _MIN_SECONDS) -> Grown:
    """Times every size in turns; the median counts."""
    runs = [curve.make(size) for size in curve.sizes]
    calls = []
    for run in runs:
        run()
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        calls.append(max(1, math.ceil(min_seconds / (time.perf_counter() - start))))
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, count, taken in zip(runs, calls, times, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                run()
            synchronize()
            taken.append((time.perf_counter() - start) / count)
    medians = [statistics.median(taken) for taken in times]
    sizes = list(curve.sizes)
    exponent = math.log(medians[-1] / medians[-2]) / math.log(sizes[-1] / sizes[-2])
    return Grown(curve.name, curve.axis, sizes, medians, exponent)


def growth_plot(curves: Sequence[Grown], title: str) -> Figure:
    """A panel per axis, both scales logarithmic."""
    figure = Figure(figsize=(12, 9), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, weight="bold")
    axes = dict(zip(("batch", "hypotheses", "vertices", "steps"), figure.subplots(2, 2).flat, strict=True))
    for curve in curves:
        label = f"{curve.name} (exponent {curve.exponent:.2f})"
        axes[curve.axis].plot(curve.sizes, curve.median_s, marker="o", markersize=3, label=label)
    for axis, ax in axes.items():
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel(axis, fontsize=9)
        ax.set_ylabel("seconds", fontsize=9)
        sizes = sorted({size for curve in curves if curve.axis == axis for size in curve.sizes})
        ax.set_xticks(sizes, [str(size) for size in sizes], rotation=45)
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.grid(alpha=0.3, linewidth=0.5)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
        if sizes:
            ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)  # above the lines
    return figure
