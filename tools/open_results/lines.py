"""Which runs and rules are compared in each table and curve of the page."""

from collections.abc import Callable

from open_results.results import Line
from open_results.runs import (
    COUNTS,
    ITERATIONS,
    LOOPS,
    NOISES,
    OF_SOLVER,
    SOLVER_STEPS,
    STARTS,
    STEPS_OF_HMDIFF,
    samplings,
)
from open_results.stored import (
    Poses,
    Table,
    answer,
    best_of,
    facing,
    first,
    mean_of,
    mean_start_of_views,
    medoid_of,
    nearest,
    smoothed_start,
    start,
)


def lifting() -> list[Line]:
    """2D keypoints to a 3D pose; columns are the kinds of keypoints."""

    def of(name: str) -> tuple[str, ...]:
        return tuple(f"{name}_{noise}" for noise in NOISES)

    lines = [
        Line("mean pose of the training data (baseline)", answer, of("mean_pose"), free=True),
        Line("nearest of 50 anchors, turned and placed (baseline)", nearest, of("anchors")),
    ]
    lines += [Line(f"ZeDO, S = {n}{', medoid' if n > 1 else ''}", answer, of(f"zedo_s{n}")) for n in COUNTS]
    lines += [
        Line(f"DiffuPose, N = {n}{', mean' if n > 1 else ''}, `fast.yaml`", mean_of(n), of("diffupose_fast"))
        for n in COUNTS
    ]
    lines.append(Line("DiffuPose, N = 10, mean, all 100 steps", answer, of("diffupose")))
    lines += [Line(f"ZeDO, best of {n}", best_of(n), of(f"zedo_s{n}"), truth=True) for n in COUNTS[1:]]
    lines += [Line(f"DiffuPose, best of {n}", best_of(n), of("diffupose_fast"), truth=True) for n in COUNTS[1:]]
    return lines


def images() -> list[Line]:
    """A photograph to a mesh."""
    return [
        Line("a body at rest that faces the camera (baseline)", facing, ("diffhmr",), free=True),
        Line("Diff-HMR, n = 1", first, ("diffhmr",), mesh="min1_pve"),
        Line("Diff-HMR, pick of 25 (medoid)", answer, ("diffhmr",), mesh="pve"),
        Line("Diff-HMR, mean of 25", mean_of(), ("diffhmr",), mesh="mean_pve"),
        Line("HMDiff, N = 25, final mesh", answer, ("hmdiff",), mesh="pve"),
        Line("ScoreHMR from Diff-HMR's pick, with 2D keypoints", answer, ("scorehmr_from_diffhmr",)),
        Line("ScoreHMR's own start, from 2D keypoints alone", start, ("scorehmr_images",), free=True),
        Line("ScoreHMR from its own start", answer, ("scorehmr_images",)),
        *(Line(f"Diff-HMR, best of {n}", best_of(n), ("diffhmr",), True, f"min{n}_pve") for n in (5, 10, 25)),
        Line("HMDiff, best of 25 samples", best_of(), ("hmdiff",), truth=True),
    ]


def fitting() -> list[Line]:
    """A body fitted to keypoints; columns are the starts."""

    def of(name: str) -> tuple[str, ...]:
        return tuple(f"fit_{name}_{begun}" for begun in STARTS)

    return [
        Line("a body at rest that faces the camera (baseline)", facing, of("open"), free=True),
        Line("the start itself (baseline)", start, of("open"), free=True),
        Line("SMPLify", answer, of("smplify")),
        Line("plain fit, Gaussian prior", answer, of("gaussian")),
        Line("plain fit, diffusion prior", answer, of("prior")),
        Line("ScoreHMR, the release's weights of the terms", answer, of("release")),
        Line("ScoreHMR, open terms", answer, of("open")),
        Line("ScoreHMR, open terms, after a warm-up", answer, of("warm")),
    ]


def views() -> list[Line]:
    """Four views of an instant; columns are the starts."""

    def of(name: str) -> tuple[str, ...]:
        return tuple(f"{name}_{begun}" for begun in STARTS)

    return [
        Line("the start itself (baseline)", start, of("calibrated"), free=True),
        Line(
            "mean of the four starts by the known cameras (baseline)", mean_start_of_views, of("calibrated"), free=True
        ),
        Line("ScoreHMR, views agree (the paper's)", answer, of("views")),
        Line("ScoreHMR, views agree, on their keypoints", answer, of("views_keypoints")),
        Line("ScoreHMR, calibrated views", answer, of("calibrated")),
    ]


def video() -> list[Line]:
    """Whole clips."""
    return [
        Line("the start itself (baseline)", start, ("video_smooth",), free=True),
        Line("the start, moving average over 5 frames (baseline)", smoothed_start, ("video_smooth",), free=True),
        Line("ScoreHMR, frame by frame", answer, ("video_frames",)),
        Line("ScoreHMR, keypoints and smoothness", answer, ("video_smooth",)),
    ]


def steps() -> dict[str, list[Line]]:
    """Settings of every method, from few network calls to many."""

    def sampled(method: str, rule: Callable[[Table], Poses] = answer) -> list[Line]:
        solved = SOLVER_STEPS if method in OF_SOLVER else ()
        return [
            *(Line(f"DPM-Solver++, {n} steps", rule, (f"{method}_solver_{n}",)) for n in solved),
            *(
                Line("`fast.yaml`" if name == "fast" else f"`sampling/{name}.yaml`", rule, (f"{method}_{name}",))
                for name in samplings(method)
            ),
        ]

    return {
        "ZeDO, S = 1, iterations": [
            *(Line(f"{n} iterations", answer, (f"zedo_iterations_{n}",)) for n in ITERATIONS),
            *sampled("zedo"),
        ],
        "DiffuPose, N = 10": [
            *sampled("diffupose"),
            Line("ancestral, 100 steps (the default)", answer, ("diffupose_detector",)),
        ],
        "Diff-HMR, mean of 5": sampled("diffhmr", mean_of()),
        "HMDiff, N = 3": [
            *(Line(f"DDIM, {n} steps", answer, (f"hmdiff_ddim_{n}",)) for n in STEPS_OF_HMDIFF),
            *sampled("hmdiff"),
        ],
        "ScoreHMR, loops": [
            *(Line(f"{n} loops", answer, (f"fit_loops_{n}",)) for n in LOOPS),
            Line("20 loops (`terms/open.yaml`)", answer, ("fit_open_cmu",)),
            *sampled("scorehmr"),
        ],
    }


JOINTS = {
    "2D to 3D (detector-like 2D)": {
        "nearest anchor": Line("", nearest, ("anchors_detector",)),
        "ZeDO, S = 10": Line("", answer, ("zedo_s10_detector",)),
        "DiffuPose, N = 10": Line("", answer, ("diffupose_detector",)),
    },
    "photograph to mesh": {
        "Diff-HMR, mean of 25": Line("", mean_of(), ("diffhmr",)),
        "HMDiff, N = 25": Line("", answer, ("hmdiff",)),
        "ScoreHMR from Diff-HMR": Line("", answer, ("scorehmr_from_diffhmr",)),
    },
    "fit to keypoints": {
        "start": Line("", start, ("fit_open_cmu",), free=True),
        "SMPLify": Line("", answer, ("fit_smplify_cmu",)),
        "ScoreHMR": Line("", answer, ("fit_open_cmu",)),
    },
}
"""Methods whose errors are shown joint by joint and action by action, by task."""

SAMPLERS = {
    "ZeDO, S = 50": ("zedo_s50_detector", "confidence"),
    "DiffuPose, N = 50": ("diffupose_fast_detector", "confidence"),
    "Diff-HMR, n = 25": ("diffhmr", "smpl24_visible"),
    "HMDiff, N = 25": ("hmdiff", "smpl24_visible"),
}
"""Runs with many hypotheses, and what says whether a joint was seen."""


def curve(method: str) -> dict[int, tuple[Line, Line]]:
    """Of n: the answer that no truth chose, and the best of n.

    Raises:
        KeyError: The method has no such curve.
    """
    if method == "ZeDO":  # every S has anchors of its own
        runs = {n: f"zedo_s{n}_detector" for n in COUNTS}
        return {n: (Line("", answer, (run,)), Line("", best_of(n), (run,), True)) for n, run in runs.items()}
    run, counts, rule = {
        "DiffuPose": ("diffupose_fast_detector", (1, 2, 5, 10, 20, 50), mean_of),
        "Diff-HMR": ("diffhmr", (1, 2, 5, 10, 25), medoid_of),
        "HMDiff": ("hmdiff", (1, 2, 5, 10, 25), mean_of),
    }[method]
    return {n: (Line("", rule(n), (run,)), Line("", best_of(n), (run,), True)) for n in counts}
