"""The open benchmark: its numbers are those of the methods' own `test`, it goes on where it was killed, and it says
what was not run. Runs are quick ones on tiny motion capture and on the pictures that are shipped.
"""

import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from posecore.cli import run as run_cli
from posecore.data.open_images import ASSETS, SAMPLE
from posecore.testing import write_cmu_mocap

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))  # tools are scripts, not an installed package

from open_benchmark import main  # noqa: E402
from open_results import execute as execution  # noqa: E402
from open_results import lines  # noqa: E402
from open_results.execute import METHODS, PACKAGES, Place, arguments, fingerprint, test_sets  # noqa: E402
from open_results.page import page  # noqa: E402
from open_results.recorder import network_calls  # noqa: E402
from open_results.results import NOT_RUN, Results  # noqa: E402
from open_results.runs import RUNS, SECTIONS, WEIGHTS, Run, samplings, steps_of  # noqa: E402
from open_results.stored import (  # noqa: E402
    SETS,
    Table,
    answer,
    best_of,
    first,
    mean_of,
    mean_start_of_views,
    medoid_of,
    smoothed_start,
    start,
)

test_sets.__test__ = False  # type: ignore[attr-defined]
OF_MOTION = ("mean_pose_detector", "zedo_s10_detector", "diffupose_detector", "video_smooth")
OF_IMAGES = ("diffhmr", "hmdiff", "scorehmr_from_diffhmr")
STRIDE = 8

DRIVER = """
import os, signal, sys
sys.path.insert(0, {tools!r})
import open_benchmark
from open_results.recorder import Recorder

kept = Recorder.on_test_batch_end

def keep_or_die(self, *args):
    if "zedo" in self.folder.name:
        os.kill(os.getpid(), signal.SIGKILL)
    kept(self, *args)

Recorder.on_test_batch_end = keep_or_die
sys.exit(open_benchmark.main(sys.argv[1:]))
"""


def options(data: Path, folder: Path, *only: str) -> list[str]:
    where = ["--data", data, "--output", folder / "runs", "--docs", folder / "docs"]
    return [*map(str, where), "--quick", "--stride", str(STRIDE), "--only", *only]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five tiny clips, and the shipped pictures in the place of both test sets."""
    folder = tmp_path_factory.mktemp("data")
    write_cmu_mocap(folder)
    for name in SETS:
        shutil.copytree(ASSETS / SAMPLE, folder / "open_images" / name)
    return folder


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark of a few runs on motion capture."""
    folder = tmp_path_factory.mktemp("made")
    assert main(options(data, folder, *OF_MOTION)) == 3, "other runs are missing"
    return folder


@pytest.fixture(scope="module")
def pictured(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark of the runs on pictures."""
    folder = tmp_path_factory.mktemp("pictured")
    assert main(options(data, folder, *OF_IMAGES)) == 3, "other runs are missing"
    return folder


def place_of(data: Path, folder: Path) -> Place:
    return Place(data, folder / "runs", STRIDE, quick=True)


def stamps(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/run.json")}


def test_every_run_has_a_place_on_the_page() -> None:
    shown = [*lines.lifting(), *lines.images(), *lines.fitting(), *lines.views(), *lines.video()]
    shown += [line for several in lines.steps().values() for line in several]
    named = {name for line in shown for name in line.runs}
    assert named == set(RUNS)
    assert {run.section for run in RUNS.values()} == set(SECTIONS)
    for run in RUNS.values():
        folder = PACKAGES / run.method / run.method
        assert all((folder / "configs" / name).is_file() for name in run.configs), run.name
        assert (folder / "weights" / f"{WEIGHTS[run.method]}.safetensors").is_file()
        assert run.start is None or list(RUNS).index(run.start) < list(RUNS).index(run.name), (
            "what it starts from is first"
        )


def test_the_page_has_numbers_and_pictures(made: Path) -> None:
    text = (made / "docs" / "results.md").read_text()
    assert text.startswith("# Results on open data")
    assert "QUICK" in text
    assert f"one in {STRIDE} of the rows" in text
    for section in SECTIONS.values():
        assert f"\n## {section}\n" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| DiffuPose, N = 10, mean, all 100 steps")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:4] == [NOT_RUN] * 2, "exact 2D was not asked for"
    assert [float(number) for cell in cells[4:6] for number in cell.split(" / ")]
    assert "open_h36m17" in text
    assert "17 joints of h36m17" in text
    for picture in (made / "docs").glob("results_*.png"):
        assert f"]({picture.name})" in text
        assert 5_000 < picture.stat().st_size < 300_000, picture
    assert len(list((made / "docs").glob("results_*.png"))) == 4


def check_numbers(results: Results, rules: dict[tuple[str, str], Callable[[Table], Tensor]]) -> None:
    """Errors by the benchmark's rules are what the method's own `test` logged under the same name."""
    for (name, prefix), rule in rules.items():
        for test_set in SETS:
            found = results.mean_errors(name, test_set, rule)
            assert {"mpjpe", "pa_mpjpe"} <= set(found)
            for metric, value in found.items():
                wanted = results.runs[name].metric(test_set, f"{prefix}{metric}")
                assert wanted is not None or metric not in ("mpjpe", "pa_mpjpe"), (name, prefix, metric)
                if wanted is None:  # DiffuPose logs the two alone of the rules at the side
                    continue
                np.testing.assert_allclose(value, wanted, atol=2e-3, err_msg=f"{name} {test_set} {prefix}{metric}")


def test_numbers_are_those_of_the_methods_own_test(data: Path, made: Path) -> None:
    results = Results.read(place_of(data, made), {})
    assert set(results.runs) == set(OF_MOTION)
    check_numbers(
        results,
        {
            ("mean_pose_detector", "chosen_"): answer,
            ("zedo_s10_detector", "chosen_"): answer,
            ("zedo_s10_detector", ""): best_of(),
            ("diffupose_detector", ""): answer,
            ("diffupose_detector", "mean_"): mean_of(),
            ("diffupose_detector", "medoid_"): medoid_of(),
            ("diffupose_detector", "min_"): best_of(),
            ("video_smooth", ""): answer,
            ("video_smooth", "start_"): start,
        },
    )


@pytest.mark.slow
def test_numbers_of_pictures_are_those_of_the_methods_own_test(data: Path, pictured: Path) -> None:
    results = Results.read(place_of(data, pictured), {})
    assert set(results.runs) == set(OF_IMAGES)
    check_numbers(
        results,
        {
            ("diffhmr", ""): answer,
            ("diffhmr", "mean_"): mean_of(),
            ("diffhmr", "min5_"): best_of(5),
            ("diffhmr", "min1_"): first,
            ("hmdiff", ""): answer,
            ("hmdiff", "min_"): best_of(),
            ("scorehmr_from_diffhmr", ""): answer,
        },
    )
    for test_set in SETS:  # the fit starts from the other method's picks
        picks = results.mean_errors("diffhmr", test_set, answer)
        starts = results.mean_errors("scorehmr_from_diffhmr", test_set, start)
        assert starts["pa_mpjpe"] == pytest.approx(picks["pa_mpjpe"], abs=1e-2)
    text = (pictured / "docs" / "results.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| Diff-HMR, mean of 25 | no")][:1]
    assert len(line.split("|")[3].split("/")) == 3, "the mesh is scored"


def test_the_printed_command_gives_the_same_numbers(data: Path, made: Path, tmp_path: Path) -> None:
    """By the method's command line alone, with nothing of the benchmark in between."""
    about = json.loads((made / "runs" / "zedo_s10_detector" / "run.json").read_text())
    method, *args = shlex.split(about["command"].replace("FOLDER", str(data)))
    args += ["--config", str(made / "runs" / "zedo_s10_detector" / "test_sets.yaml")]
    args += ["--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path)]
    module, datamodule = METHODS[method]
    run_cli(module, datamodule, PACKAGES / method / method / "configs", args)
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"] == about["metrics"]


def test_nothing_is_repeated(data: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = stamps(made)
    text = (made / "docs" / "results.md").read_text()
    assert main(options(data, made, *OF_MOTION)) == 3
    assert stamps(made) == before
    assert (made / "docs" / "results.md").read_text() == text
    assert f"{len(before)} of them there already" in capsys.readouterr().out


def test_a_page_of_runs_of_other_code(data: Path, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "runs", tmp_path / "runs")
    for path in tmp_path.glob("runs/*/run.json"):
        path.write_text(path.read_text().replace('"fingerprint": "', '"fingerprint": "other'))
    place = place_of(data, tmp_path)
    assert not Results.read(place, {}).runs, "they would be made again"
    assert set(Results.read(place, {}, any_code=True).runs) == set(OF_MOTION)
    assert not Results.read(Place(data, place.output, STRIDE + 1, quick=True), {}, any_code=True).runs.keys() - {
        "video_smooth"
    }, "other rows"
    assert not Results.read(Place(data, place.output, STRIDE), {}, any_code=True).runs, "other steps"


def test_what_a_run_depends_on_makes_another_run(data: Path, made: Path, tmp_path: Path) -> None:
    run, place = RUNS["zedo_s10_detector"], place_of(data, made)
    known = fingerprint(run, place, RUNS)
    assert known == fingerprint(run, Place(place.data, tmp_path, STRIDE, True), RUNS), "the folder does not matter"
    others = [
        fingerprint(run, Place(place.data, place.output, STRIDE + 1, True), RUNS),
        fingerprint(run, Place(place.data, place.output, STRIDE, False), RUNS),
        fingerprint(run, Place(tmp_path, place.output, STRIDE, True), RUNS),
        fingerprint(Run(**{**run.__dict__, "options": ("--model.num_hypotheses", "1")}), place, RUNS),
    ]
    assert len({known, *others}) == 5
    started = RUNS["scorehmr_from_diffhmr"]
    changed = {**RUNS, "diffhmr": Run(**{**RUNS["diffhmr"].__dict__, "options": ("--model.seed", "1")})}
    assert fingerprint(started, place, RUNS) != fingerprint(started, place, changed)


def test_killed_and_started_again(data: Path, tmp_path: Path) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(tools=str(TOOLS)))
    args = options(data, tmp_path, "mean_pose_detector", "zedo_s1_detector")
    killed = subprocess.run(
        [sys.executable, str(driver), *args], capture_output=True, text=True, timeout=300, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    before = stamps(tmp_path)
    assert set(before) == {"mean_pose_detector"}
    assert (tmp_path / "runs" / "zedo_s1_detector.partial").is_dir()
    assert main(args) == 3
    after = stamps(tmp_path)
    assert set(after) == {"mean_pose_detector", "zedo_s1_detector"}
    assert after["mean_pose_detector"] == before["mean_pose_detector"]
    assert not list((tmp_path / "runs").glob("*.partial"))


def test_missing_data_is_said_and_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(options(tmp_path / "empty", tmp_path, "zedo_s10_detector", "scorehmr_from_diffhmr", "diffhmr")) == 3
    said = capsys.readouterr().err
    assert "CMU motion capture is free" in said
    assert "prepare_open_images.py" in said
    assert "starts from the estimates of diffhmr, which was not run" in said
    text = (tmp_path / "docs" / "results.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| ZeDO, S = 10, medoid")]
    assert line.count(NOT_RUN) == 4
    assert "CMU motion capture is free" in text, "the page says why"
    assert not list((tmp_path / "docs").glob("*.png"))


def test_missing_weights_are_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(execution.WEIGHTS, "zedo", "nobody")
    assert main(options(data, tmp_path, "zedo_s10_detector")) == 3
    assert "'nobody' is neither a file nor a shipped name" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["--stride", "0"], ["--only", "nothing"]])
def test_bad_arguments(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(args)
    assert error.value.code == 2
    assert args[0].removeprefix("--") in capsys.readouterr().err


def test_the_truth_cannot_be_a_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--output", str(tmp_path / "file"), "--docs", str(tmp_path)]) == 2
    assert "error:" in capsys.readouterr().err


def test_test_sets_are_thinned_and_start_where_they_should(data: Path, tmp_path: Path) -> None:
    place = Place(data, tmp_path, stride=3)
    thinned = test_sets(RUNS["zedo_s10_detector"], place)
    assert [made["init_args"]["stride"] for made in thinned.values()] == [10 * 2 * 3, 24 * 2 * 3]
    assert all(made["init_args"]["noise"] == {"std": 0.01} for made in thinned.values()), "of the later config"
    fitted = test_sets(RUNS["scorehmr_from_diffhmr"], place)
    assert fitted["test_takes"]["init_args"]["start"] == str(tmp_path / "diffhmr" / "estimates" / "test_takes.npz")
    assert test_sets(RUNS["scorehmr_images"], place)["test_takes"]["init_args"]["start"] is None


def test_settings_of_few_steps_are_found_by_their_files() -> None:
    *found, last = samplings("diffupose")
    assert {"ddim_5", "ddim_10", "ddim_25", "ddim_50"} <= set(found)
    assert [steps_of(name) for name in found] == sorted(steps_of(name) for name in found)
    assert last == "fast"
    assert "ddpm_1000" not in samplings("diffhmr"), "takes too long"
    assert [steps_of(name) for name in ("ddim_5", "dpm_2m_20", "fast")] == [5, 20, 10]


class _Counting(torch.nn.Module):
    """A denoiser that counts how often it is called."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name in ("inner", "_modules") else getattr(self.inner, name)

    def forward(self, *args: Any) -> Any:
        self.calls += 1
        return self.inner(*args)


def test_network_calls_are_those_that_are_made(data: Path) -> None:
    from diffhmr.module import DiffHMR
    from diffhmr.sampler import Sampling
    from posecore.body.skeletons import JOINTS_44
    from posecore.data.augment import CropAugmentation
    from posecore.data.open_images import OpenImages

    model = DiffHMR.pretrained(num_hypotheses=2, sampling=Sampling(num_inference_steps=7))
    counting = _Counting(model.denoiser)  # type: ignore[arg-type]
    model.denoiser = counting  # type: ignore[assignment]
    batch = CropAugmentation(size=model.image_size).evaluate(OpenImages(data, [SETS[0]]).__getitems__([0]), JOINTS_44)
    found = model(batch)
    assert counting.calls == 7
    assert float(network_calls(model, found)) == 7
    with pytest.raises(ValueError, match="Linear is none of the five methods"):
        network_calls(torch.nn.Linear(1, 1), None)


def table(joints: Tensor, clips: list[str], **columns: Any) -> Table:
    views = columns.pop("view", torch.zeros(len(joints), dtype=torch.int64))
    return Table({"joints_rel": joints[:, None], "pose": joints, "clip": clips, "view": views, **columns})


def test_the_moving_average_stays_inside_a_video() -> None:
    steady = torch.arange(6.0)[:, None, None].expand(6, 2, 3).clone()
    rows = table(torch.cat((steady, steady + 100)), ["a"] * 6 + ["b"] * 6)
    found = smoothed_start(rows)[:, 0, 0, 0]
    torch.testing.assert_close(found[2:4], torch.tensor([2.0, 3.0]), msg="a steady motion stays as it is")
    torch.testing.assert_close(found[6:], found[:6] + 100)
    assert found[0] == pytest.approx((0 + 0 + 0 + 1 + 2) / 5)


def test_the_mean_over_views_is_the_pose_where_all_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    world = torch.randn(2, 5, 3, generator=generator).repeat_interleave(3, dim=0)
    R = torch.linalg.qr(torch.randn(6, 3, 3, generator=generator)).Q
    seen = world @ R.mT
    instants = {"R_world_to_cam": R, "frame": torch.tensor([0, 0, 0, 1, 1, 1])}
    torch.testing.assert_close(mean_start_of_views(table(seen, ["a"] * 6, **instants))[:, 0], seen)
    # Errors of opposite signs in two of three views go away.
    bent = world.clone()
    bent[0], bent[1] = bent[0] + 0.1, bent[1] - 0.1
    torch.testing.assert_close(mean_start_of_views(table(bent @ R.mT, ["a"] * 6, **instants))[:, 0], seen)


def test_an_empty_benchmark_has_a_page(data: Path, tmp_path: Path) -> None:
    place = Place(data, tmp_path)
    results = Results.read(place, {})
    assert not results.runs
    assert len(results.missing) == len(RUNS)
    text = page(results, place)
    assert f"{len(RUNS)} of {len(RUNS)} runs are missing" in text
    assert "](results_" not in text
    assert not [part for part in arguments(RUNS["zedo_s1_exact"], place) if str(tmp_path) in part]
