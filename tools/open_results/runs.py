"""Every run of the open benchmark: a method, its shipped weights, the configs and options of its own `test`.

A setting more is a line more here; what the page says about it is in `open_results.tables`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SECTIONS = {
    "lifting": "2D keypoints to a 3D pose",
    "images": "A photograph to a mesh",
    "fitting": "A body fitted to 2D keypoints",
    "views": "Several views",
    "video": "Video",
    "steps": "Error against network calls and seconds",
}
WEIGHTS = {"zedo": "cmu", "diffupose": "cmu17", "diffhmr": "open", "hmdiff": "open", "scorehmr": "cmu"}
"""The shipped weights that are measured."""
COUNTS = (1, 5, 10, 50)
"""S of ZeDO and N of DiffuPose."""
NOISES = {"exact": (), "detector": ("data/cmu_noisy.yaml",)}
"""2D keypoints of the lifting methods: the truth's projections, or with a detector's errors."""
STARTS = {"cmu": (), "weak": ("start/weak.yaml",)}
"""Where ScoreHMR starts: its regressor, or the less accurate one."""
ITERATIONS = (100, 250, 500, 1000, 2000)
STEPS_OF_HMDIFF = (5, 10, 20, 40)
SOLVER_STEPS = (5, 10, 20)
"""Of DPM-Solver++, for the methods of `OF_SOLVER`."""
OF_SOLVER = ("diffupose", "diffhmr")
LOOPS = (1, 2, 5, 10)
PACKAGES = Path(__file__).parents[2] / "packages"
_TOO_LONG = ("ddpm_1000",)  # minutes for few people; the method's card has it


@dataclass(frozen=True)
class Run:
    """One call of a method's `test`.

    Attributes:
        name: Of the run's folder.
        section: One of `SECTIONS`.
        method: A package's name.
        configs: Its YAML files, the last with ``data.test`` names the test sets.
        options: Options on top of them.
        thin: Takes every so manieth of the rows that the config takes.
        whole: Whether no row may be left out, as of videos, whose frames belong together.
        seconds: What it takes on two idle cores of CPU, roughly; the estimate at the start and the bar use it.
        start: The run whose estimates the fits start from; without it, a ``start`` of the test sets is left out.
        anchors: ZeDO's S for which no anchors are shipped: K-means of the training poses makes them first.
    """

    name: str
    section: str
    method: str
    configs: tuple[str, ...]
    options: tuple[str, ...] = ()
    thin: int = 1
    whole: bool = False
    seconds: float = 10.0
    start: str | None = None
    anchors: int | None = None


def _options(**values: object) -> tuple[str, ...]:
    """``--model.*`` of keyword arguments, of which a double underscore parts the levels."""
    return tuple(part for name, value in values.items() for part in (f"--model.{name.replace('__', '.')}", str(value)))


def _lifting() -> Iterable[Run]:
    for noise, noisy in NOISES.items():
        configs = ("data/cmu.yaml", *noisy)
        # No iteration of the loop, and nothing turned: the one anchor of S = 1 is the mean of all training poses.
        nothing = _options(loop__num_iterations=0)
        mean_pose = nothing + _options(initial_pose__enabled="false", initial_pose__num_steps=0)
        yield Run(f"mean_pose_{noise}", "lifting", "zedo", configs, mean_pose, thin=2, seconds=3)
        placed = nothing + _options(num_hypotheses=50)
        yield Run(f"anchors_{noise}", "lifting", "zedo", configs, placed, thin=2, seconds=10)
        for count in COUNTS:
            of = Run(f"zedo_s{count}_{noise}", "lifting", "zedo", configs, _options(num_hypotheses=count), thin=2)
            yield _replaced(of, seconds=3 + 4.0 * count, anchors=count if count == 5 else None)
        # N = 1, 5 and 10 are the first of the same hypotheses.
        many = _options(num_hypotheses=max(COUNTS))
        yield Run(f"diffupose_fast_{noise}", "lifting", "diffupose", (*configs, "fast.yaml"), many, thin=2, seconds=30)
        yield Run(f"diffupose_{noise}", "lifting", "diffupose", configs, thin=2, seconds=60)


def _images() -> Iterable[Run]:
    yield Run("diffhmr", "images", "diffhmr", ("data/open.yaml",), thin=2, seconds=100)
    few_steps = _options(sampling__num_inference_steps=10)  # as `predict --config open.yaml`
    yield Run("hmdiff", "images", "hmdiff", ("data/open.yaml",), few_steps, thin=4, seconds=500)
    configs = ("data/cmu.yaml", "data/open_images.yaml", "terms/open.yaml")
    yield Run("scorehmr_from_diffhmr", "images", "scorehmr", configs, thin=2, seconds=30, start="diffhmr")
    yield Run("scorehmr_images", "images", "scorehmr", configs, thin=2, seconds=25)


def _fitting() -> Iterable[Run]:
    fitters = {
        "smplify": ("table2/smplify.yaml",),
        "gaussian": ("table2/gaussian.yaml",),
        "prior": ("table2/prior.yaml",),
    }
    for start, begun in STARTS.items():
        configs = ("data/cmu.yaml", *begun)
        lr = _options(fit__prior__lr="1e-2") if start == "weak" else ()  # chosen on val, as the card says
        yield Run(f"fit_release_{start}", "fitting", "scorehmr", (*configs, "terms/keypoints.yaml"), seconds=12)
        yield Run(f"fit_open_{start}", "fitting", "scorehmr", (*configs, "terms/open.yaml"), seconds=22)
        yield Run(f"fit_warm_{start}", "fitting", "scorehmr", (*configs, "terms/weak_start.yaml"), seconds=30)
        for fitter, files in fitters.items():
            rate = () if fitter == "smplify" else lr
            yield Run(
                f"fit_{fitter}_{start}", "fitting", "scorehmr", (*configs, "terms/open.yaml", *files), rate, seconds=18
            )


def _views() -> Iterable[Run]:
    for start, begun in STARTS.items():
        for terms, seconds in (("views", 5), ("views_keypoints", 20), ("calibrated", 25)):
            configs = ("data/cmu.yaml", "data/cmu_views.yaml", f"terms/{terms}.yaml", *begun)
            yield Run(f"{terms}_{start}", "views", "scorehmr", configs, seconds=seconds)


def _video() -> Iterable[Run]:
    configs = ("data/cmu.yaml", "data/cmu_video.yaml")
    yield Run("video_frames", "video", "scorehmr", (*configs, "terms/keypoints.yaml"), whole=True, seconds=120)
    yield Run("video_smooth", "video", "scorehmr", (*configs, "terms/video.yaml"), whole=True, seconds=150)


def samplings(method: str) -> list[str]:
    """Names of the settings in a method's ``sampling/``, by their number of steps; then ``fast``, if there is one."""
    configs = PACKAGES / method / method / "configs"
    found = [path.stem for path in (configs / "sampling").glob("*.yaml") if path.stem not in _TOO_LONG]
    found.sort(key=lambda name: (steps_of(name), name))
    return [*found, *(["fast"] if (configs / "fast.yaml").is_file() else [])]


def steps_of(name: str) -> int:
    """``ddim_25`` has 25; 10 where the name does not say."""
    numbers = re.findall(r"\d+$", name)
    return int(numbers[0]) if numbers else 10


def _steps() -> Iterable[Run]:
    """Of the lifting methods with a detector's keypoints; few hypotheses, so that many settings are affordable.

    A new file in a method's ``sampling/``, or its ``fast.yaml``, is a run more.
    """
    cmu, noisy = ("data/cmu.yaml",), ("data/cmu.yaml", "data/cmu_noisy.yaml")
    for count in ITERATIONS:
        configs = (*noisy, f"figure5/iterations_{count}.yaml")
        yield Run(f"zedo_iterations_{count}", "steps", "zedo", configs, seconds=3 + 8 * count / 1000)
    for loops in LOOPS:
        options = _options(fit__guidance__outer_loops=loops)
        yield Run(
            f"fit_loops_{loops}", "steps", "scorehmr", (*cmu, "terms/open.yaml"), options, seconds=4 + 1.2 * loops
        )
    for steps in STEPS_OF_HMDIFF:
        options = _options(num_hypotheses=3, sampling__num_inference_steps=steps)
        yield Run(
            f"hmdiff_ddim_{steps}", "steps", "hmdiff", ("data/open.yaml",), options, thin=8, seconds=5 + 3 * steps
        )
    few = {"diffhmr": _options(num_hypotheses=5), "hmdiff": _options(num_hypotheses=3)}
    thin = {"diffupose": 2, "diffhmr": 4, "hmdiff": 8}
    base = {"zedo": noisy, "diffupose": noisy, "diffhmr": ("data/open.yaml",), "hmdiff": ("data/open.yaml",)}
    base["scorehmr"] = (*cmu, "terms/open.yaml")
    cost = {"zedo": 0.1, "diffupose": 1.0, "diffhmr": 0.5, "hmdiff": 1.0, "scorehmr": 1.0}  # seconds a step
    for method, before in base.items():
        for name in samplings(method):
            configs = (*before, "fast.yaml" if name == "fast" else f"sampling/{name}.yaml")
            options, seconds = few.get(method, ()), 4 + cost[method] * steps_of(name)
            yield Run(f"{method}_{name}", "steps", method, configs, options, thin.get(method, 1), seconds=seconds)
        for steps in SOLVER_STEPS if method in OF_SOLVER else ():
            options = _options(sampling__sampler="dpm_solver", sampling__num_inference_steps=steps)
            run = Run(f"{method}_solver_{steps}", "steps", method, before, (*few.get(method, ()), *options))
            yield _replaced(run, thin=thin.get(method, 1), seconds=4 + cost[method] * steps)


def _replaced(run: Run, **values: object) -> Run:
    return Run(**{**run.__dict__, **values})  # type: ignore[arg-type]


RUNS: dict[str, Run] = {
    run.name: run for part in (_lifting(), _images(), _fitting(), _views(), _video(), _steps()) for run in part
}
