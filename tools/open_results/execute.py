"""Runs a method's `test` and keeps what it found; a finished run is not repeated."""

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from diffhmr.data import DiffHMRDataModule
from diffhmr.module import DiffHMR
from diffupose.data import DiffuPoseDataModule
from diffupose.module import DiffuPose
from hmdiff.data import HMDiffDataModule
from hmdiff.module import HMDiff
from open_results.runs import PACKAGES, WEIGHTS, Run
from posecore.cli import run as run_cli
from posecore.export.files import atomic_write, write_text
from scorehmr.data import ScoreHMRDataModule
from scorehmr.module import ScoreHMR
from zedo.anchors import kmeans_poses
from zedo.data import ZeDODataModule
from zedo.module import ZeDO

METHODS: dict[str, tuple[Any, Any]] = {
    "zedo": (ZeDO, ZeDODataModule),
    "diffupose": (DiffuPose, DiffuPoseDataModule),
    "diffhmr": (DiffHMR, DiffHMRDataModule),
    "hmdiff": (HMDiff, HMDiffDataModule),
    "scorehmr": (ScoreHMR, ScoreHMRDataModule),
}
FORMAT = "humandiff-open-benchmark/1"
_RUN = "run.json"
_ESTIMATES = "estimates"
_OF_NUMBERS = ("geometry", "body", "diffusion", "fitting", "metrics", "data")
"""Parts of the core that a number depends on."""
_FEW: dict[str, tuple[str, ...]] = {
    "zedo": ("--model.loop.num_iterations", "5", "--model.initial_pose.num_steps", "20"),
    "diffupose": ("--model.sampling.num_inference_steps", "2"),
    "diffhmr": ("--model.sampling.num_inference_steps", "2"),
    "hmdiff": ("--model.sampling.num_inference_steps", "2"),
    "scorehmr": ("--model.fit.guidance.outer_loops", "1", "--model.fit.prior.steps", "3"),
}
"""What ``--quick`` adds: enough to see that everything runs."""


@dataclass(frozen=True)
class Place:
    """Where runs read and write, and what they are cut down to.

    Attributes:
        data: Folder with ``cmu_mocap/`` and ``open_images/``.
        output: Folder of the runs.
        stride: Every so manieth row of what each run takes.
        quick: Whether methods take a handful of steps.
    """

    data: Path
    output: Path
    stride: int = 1
    quick: bool = False

    def folder(self, run: Run) -> Path:
        """Of a run."""
        return self.output / run.name

    def thin(self, run: Run) -> int:
        """Every so manieth row of the config's is taken."""
        return 1 if run.whole else run.thin * self.stride


def test_sets(run: Run, place: Place) -> dict[str, Any]:
    """The test sets of the run's configs, thinned; with the estimates of another run as the start, or none."""
    sets: dict[str, Any] = {}
    for name in run.configs:
        content = yaml.safe_load(_config(run.method, name).read_text(encoding="utf-8"))
        sets = (content.get("data") or {}).get("test") or sets
    for name, made in sets.items():
        options = made["init_args"]
        if (thin := place.thin(run)) > 1:
            options["stride"] = thin * options.get("stride", 1)
        # None where there is none: what a later config leaves out, the command line takes from an earlier one.
        estimates = None if run.start is None else place.output / run.start / _ESTIMATES / f"{name}.npz"
        if estimates is not None or "start" in options:
            options["start"] = estimates and str(estimates.resolve())
    return sets


def arguments(run: Run, place: Place) -> list[str]:
    """The command line of the method, but for where it writes and the test sets."""
    args = ["test", *(part for name in run.configs for part in ("--config", name))]
    # The configs train in 16 bits; few CPUs compute in them, and others take ten times as long.
    args += ["--trainer.precision", "32-true", "--model.weights", WEIGHTS[run.method], *run.options]
    if place.quick and "num_iterations 0" not in " ".join(run.options):
        args += _FEW[run.method]
        if "terms/weak_start.yaml" in run.configs:
            args += ["--model.fit.warm_up.outer_loops", "1"]
    return args


def fingerprint(run: Run, place: Place, runs: dict[str, Run]) -> str:
    """A hash of all that the run's numbers depend on."""
    depends = {
        "format": FORMAT,
        "arguments": arguments(run, place),
        "sets": {} if run.start is not None else test_sets(run, place),
        "thin": place.thin(run),
        "start": run.start and fingerprint(runs[run.start], place, runs),
        "method": _digest_of_code(PACKAGES / run.method / run.method),
        "core": [_digest_of_code(PACKAGES / "core" / "posecore" / part) for part in _OF_NUMBERS],
        "data": _digest_of_data(place.data.resolve(), "images" if "images" in _kinds(run, place) else "motion"),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy", "lightning")},
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


def finished(run: Run, place: Place, runs: dict[str, Run]) -> bool:
    """Whether the run is there, made with what is there now."""
    path = place.folder(run) / _RUN
    if not path.is_file():
        return False
    return bool(json.loads(path.read_text(encoding="utf-8"))["fingerprint"] == fingerprint(run, place, runs))


def kept(run: Run, place: Place) -> bool:
    """Whether the run is there with these rows and steps, whatever code it was made with; its commit says that."""
    path = place.folder(run) / _RUN
    if not path.is_file():
        return False
    about = json.loads(path.read_text(encoding="utf-8"))
    return bool((about["thin"], about["quick"]) == (place.thin(run), place.quick))


def execute(run: Run, place: Place, runs: dict[str, Run]) -> None:
    """Runs the method's `test` in a folder of another name, which takes the run's when everything is written.

    Raises:
        FileNotFoundError: Data, weights or the run that this one starts from are missing.
        ValueError: Something is broken.
    """
    if run.start is not None and not finished(runs[run.start], place, runs):
        raise FileNotFoundError(f"starts from the estimates of {run.start}, which was not run")
    folder, partial = place.folder(run), place.output / f"{run.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    began = time.perf_counter()
    options = arguments(run, place)
    if run.anchors is not None:
        write_anchors(run, place, partial / "anchors.npy")
        options += ["--model.anchors_file", str(partial / "anchors.npy")]
    sets = partial / "test_sets.yaml"
    write_text(sets, yaml.safe_dump({"data": {"test": test_sets(run, place)}}))
    module, datamodule = METHODS[run.method]
    options += ["--config", str(sets), "--data.root", str(place.data), "--results.path", str(partial / "metrics.json")]
    options += ["--trainer.logger", "false", "--trainer.default_root_dir", str(partial)]
    options += ["--trainer.enable_progress_bar", "false"]
    options += ["--trainer.callbacks+=open_results.recorder.Recorder", "--trainer.callbacks.folder", str(partial)]
    if run.method == "diffhmr":
        options += ["--trainer.callbacks+=posecore.training.EstimatesFile"]
        options += ["--trainer.callbacks.folder", str(partial / _ESTIMATES)]
    with (partial / "log.txt").open("w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        run_cli(module, datamodule, PACKAGES / run.method / run.method / "configs", options)
    found = json.loads((partial / "metrics.json").read_text(encoding="utf-8"))
    content = {
        "format": FORMAT,
        "run": run.name,
        "method": run.method,
        "fingerprint": fingerprint(run, place, runs),
        "command": " ".join([run.method, *arguments(run, place), "--data.root", "FOLDER"]),
        "thin": place.thin(run),
        "quick": place.quick,
        **{key: found[key] for key in ("protocol_name", "protocol", "seed", "commit", "precision", "rows", "metrics")},
        "hours": round((time.perf_counter() - began) / 3600, 5),
        "threads": torch.get_num_threads(),
    }
    write_text(partial / _RUN, json.dumps(content, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def write_anchors(run: Run, place: Place, path: Path) -> None:
    """K-means of the training poses, by the procedure that made the shipped sets of anchors."""
    content = yaml.safe_load(_config("zedo", "data/cmu.yaml").read_text(encoding="utf-8"))
    poses = []
    for made in content["data"]["train"]:
        module, _, name = made["class_path"].rpartition(".")
        dataset = getattr(importlib.import_module(module), name)(place.data, **made["init_args"])
        poses.append(dataset.samples["joints_rel"])
    generator = torch.Generator().manual_seed(0)
    anchors = kmeans_poses(torch.cat(poses), run.anchors or 1, generator)
    with atomic_write(path) as file:
        np.save(file, anchors.numpy(), allow_pickle=False)


def _config(method: str, name: str) -> Path:
    return PACKAGES / method / method / "configs" / name


@functools.cache
def _digest_of_code(folder: Path) -> str:
    """Of sources, configs and weights."""
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".yaml", ".safetensors", ".npz", ".json"):
            sha.update(str(path.relative_to(folder)).encode() + hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()[:16]


def _kinds(run: Run, place: Place) -> set[str]:
    """What the run reads: rendered images or motion capture."""
    return {
        "images" if made["class_path"].endswith("OpenImages") else "motion" for made in test_sets(run, place).values()
    }


@functools.cache
def _digest_of_data(folder: Path, kind: str) -> str:
    """Of the names and sizes of a data set's files."""
    parts = ("cmu_mocap",) if kind == "motion" else ("open_images/test_subjects", "open_images/test_takes")
    files = [
        f"{path.relative_to(folder)} {path.stat().st_size}"
        for part in parts
        for path in sorted((folder / part).rglob("*"))
        if path.suffix in (".bvh", ".csv", ".h5")
    ]
    return hashlib.sha256("\n".join(files).encode()).hexdigest()[:16]
