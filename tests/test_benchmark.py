"""The benchmark compares like with like, and writes what it found. Times are never asserted."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from hmdiff.dat import Alignment
from zedo.network import ScoreNetwork
from zedo.sampler import InitialPose, Target, initial_poses

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))  # tools are scripts, not an installed package

from benchmark import lines, main  # noqa: E402
from benchmarks.core_cases import alignment_cases, data_cases, smpl_cases  # noqa: E402
from benchmarks.device import choose  # noqa: E402
from benchmarks.diffhmr_cases import diffhmr_cases  # noqa: E402
from benchmarks.export_cases import export_cases  # noqa: E402
from benchmarks.growth import Curve, grow, growth_curves, growth_plot  # noqa: E402
from benchmarks.hmdiff_cases import Hypotheses, heatmaps, hmdiff_cases  # noqa: E402
from benchmarks.plain_hmdiff import plain_poses  # noqa: E402
from benchmarks.plain_zedo import plain_initial_poses  # noqa: E402
from benchmarks.plot import RELEASED, bar_plot, seconds_text  # noqa: E402
from benchmarks.scorehmr_cases import scorehmr_cases  # noqa: E402
from benchmarks.step_cases import step_cases, training_cases  # noqa: E402
from benchmarks.timing import OURS, Case, Variant, measure  # noqa: E402
from benchmarks.zedo_cases import peak_memory, problem, run_ours, run_plain, zedo_cases  # noqa: E402


def random_network(hidden_dim: int, embed_dim: int, dtype: torch.dtype) -> ScoreNetwork:
    """A network of random weights whose output is not small."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = ScoreNetwork(17, hidden_dim, embed_dim).eval().to(dtype)
    with torch.no_grad():
        network.head.weight.mul_(2)
    return network


def cast(target: Target, dtype: torch.dtype) -> Target:
    return Target(target.joints_2d_px.to(dtype), target.confidence.to(dtype), target.K.to(dtype))


# The plain program computes in float64 around the network; in float32 the rays alone are rounded by micrometres.
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize(("hidden_dim", "embed_dim", "num_iterations"), [(128, 32, 60), (1024, 512, 30)])
def test_the_plain_loop_finds_what_humandiff_finds(
    hidden_dim: int, embed_dim: int, num_iterations: int, dtype: torch.dtype, atol: float
) -> None:
    network = random_network(hidden_dim, embed_dim, dtype)
    anchors, target = problem(people=3, hypotheses=2)
    anchors, target = anchors.to(dtype), cast(target, dtype)
    ours = run_ours(network, anchors, target, num_iterations)
    plain = run_plain(network, anchors, target, num_iterations)
    assert ours.shape == (3, 2, 18, 3)
    torch.testing.assert_close(ours.double(), plain, atol=atol, rtol=0)
    # The loop did something, and the two hypotheses are not one.
    start = run_plain(network, anchors, target, num_iterations=0)
    assert (plain - start).abs().amax((-1, -2)).min() > 0.05
    assert (plain[:, 0] - plain[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("num_steps", [0, 1, 40])
def test_the_plain_initial_optimiser_finds_what_humandiff_finds(num_steps: int) -> None:
    anchors, target = problem(people=3)
    anchors, target = anchors.double(), cast(target, torch.float64)
    ours = initial_poses(anchors, target, InitialPose(num_steps=num_steps))
    plain = plain_initial_poses(anchors[0].numpy(), target.joints_2d_px.numpy(), target.K.numpy(), num_steps)
    for value, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(value[:, 0], torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_the_whole_of_both_programs_agrees() -> None:
    network = random_network(128, 32, torch.float64)
    anchors, target = problem(people=2, hypotheses=2)
    args = (network, anchors.double(), cast(target, torch.float64), 20, 20)
    torch.testing.assert_close(run_ours(*args), run_plain(*args), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("cases", "atol"),
    [
        (zedo_cases, 1e-4),
        (smpl_cases, 1e-5),
        (alignment_cases, 1e-4),
        (data_cases, 0),
        (step_cases, 1e-5),
        (training_cases, 0),
        (export_cases, 1e-4),
    ],
)
def test_all_variants_of_a_case_find_the_same(cases, atol: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUMANDIFF_DATA", raising=False)
    compared = 0
    for case in cases(quick=True):
        if case.name.startswith("initial pose"):
            continue  # Adam does not settle; compared step by step above
        measured = measure(case, repeats=1, min_seconds=0)
        for name, timing in measured.timings.items():
            if name != OURS and timing.median_s is not None:
                assert timing.difference <= atol, (case.name, name)
                compared += 1
    assert compared


def test_medians_ratios_and_what_cannot_run() -> None:
    calls: list[str] = []

    def variant(name: str, value: float) -> Variant:
        def run() -> torch.Tensor:
            calls.append(name)
            return torch.tensor([value, value])

        return Variant(run, factor=10 if name == "part" else 1)

    missing = Variant(None, note="not run: no such library")
    case = Case("g", "n", {OURS: variant(OURS, 1.0), "part": variant("part", 1.5), "missing": missing}, "relative", 3.0)
    measured = measure(case, repeats=3, min_seconds=0)
    assert calls == [OURS, "part", "part", OURS, OURS, "part", "part", OURS]
    for name in (OURS, "part"):
        timing = measured.timings[name]
        assert len(timing.times_s) == 3
        assert timing.calls_per_time == 1
        assert timing.median_s == sorted(timing.times_s)[1]
    assert measured.ratios == {"part": measured.timings["part"].median_s / measured.timings[OURS].median_s}
    assert measured.timings["part"].difference == 0.5
    assert measured.timings["missing"].median_s is None
    figure = bar_plot([measured], "title")
    printed = "\n".join(lines(measured))
    assert "released           3 s" in printed
    assert "missing      not run: no such library" in printed
    assert {text.get_text() for text in figure.axes[0].get_legend().get_texts()} == {OURS, "part", RELEASED}
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        measure(case, repeats=0)


@pytest.mark.parametrize(("seconds", "text"), [(87.04, "87 s"), (1.5, "1.5 s"), (0.0123, "12.3 ms")])
def test_seconds_are_readable(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_the_plain_keypoint_fit_finds_what_humandiff_finds() -> None:
    cases = [measure(case, repeats=1, min_seconds=0) for case in scorehmr_cases(quick=True)]
    assert len(cases) == 3
    for case in cases:
        difference = case.timings["plain"].difference
        assert difference is not None
        assert difference < 1e-5, case.name


def test_the_plain_programs_of_diffhmr_find_what_humandiff_finds() -> None:
    """Crops apart: PIL rounds to 8 bits, of which the largest number is several."""
    cases = [measure(case, repeats=1, min_seconds=0) for case in diffhmr_cases(quick=True)]
    assert len(cases) == 5
    assert len(bar_plot(cases, "title").axes) == 1
    for case in cases:
        bound = 0.01 if "crops" in case.name else 1e-3 if "DDIM" in case.name else 1e-5
        for name, timing in case.timings.items():
            if name != OURS:
                assert timing.difference is not None
                assert timing.difference < bound, (case.name, name)


def test_the_plain_programs_of_hmdiff_find_what_humandiff_finds() -> None:
    """Poses apart, which come of other draws: of heatmaps of one cell they lie in that cell, 36 mm deep."""
    cases = [measure(case, repeats=1, min_seconds=0) for case in hmdiff_cases(quick=True)]
    assert len(cases) == 8
    for case in cases:
        bound = 0.036 if "poses" in case.name else 1e-4
        for name, timing in case.timings.items():
            if name != OURS:
                assert timing.difference is not None
                assert timing.difference < bound, (case.name, name)


def test_dat_of_the_benchmark_does_something_and_ends() -> None:
    problem = Hypotheses(hypotheses=2, steps=4)
    early, active = problem.ending_early(), []
    runs = {
        "nothing": problem.ours(Alignment(of="nothing")),
        "throughout": problem.ours(Alignment(activation=False)),
        "early": problem.ours(early, lambda step: active.append(bool(step.active.any()))),
    }
    assert (runs["nothing"] - runs["throughout"]).abs().max() > 0.05
    assert (runs["early"] - runs["throughout"]).abs().max() > 0.05
    assert active[-1] is False


def test_plain_poses_have_the_distribution_of_ours() -> None:
    prior = heatmaps(images=1, width=4.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = plain_poses(prior, 4000)
    torch.testing.assert_close(plain.mean(dim=1), prior.mean(), atol=0.02, rtol=0)
    ours = prior.sample(4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain.std(dim=1), ours.std(dim=1), atol=0.02, rtol=0)


def test_peak_memory_counts_what_the_run_adds() -> None:
    facts = peak_memory(quick=True)
    assert (facts["hypotheses"], facts["frames"]) == (2, 50)
    assert 0 <= facts["added_gb"] < facts["peak_gb"] < 4


def test_growth_is_measured_and_drawn() -> None:
    """Sleeping costs what it says, so that the exponent is known; every curve of the benchmark runs once."""
    slept = Curve("sleep", "batch", (1, 2, 8), lambda n: lambda: time.sleep(0.02 * n) or torch.zeros(1))
    grown = grow(slept, repeats=1, min_seconds=0)
    assert grown.sizes == [1, 2, 8]
    assert grown.exponent == pytest.approx(1, abs=0.25)
    curves = list(growth_curves(quick=True))
    assert {curve.axis for curve in curves} == {"batch", "hypotheses", "vertices", "steps"}
    for curve in curves:
        assert torch.isfinite(curve.make(curve.sizes[0])()).all(), curve.name
    panels = {ax.get_xlabel(): len(ax.lines) for ax in growth_plot([grown], "title").axes}
    assert panels == {"batch": 1, "hypotheses": 0, "vertices": 0, "steps": 0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--device cuda: PyTorch finds no GPU here; nothing was run"):
        main(["--device", "cuda", "--output", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


@pytest.mark.gpu
def test_cases_run_on_a_gpu() -> None:
    choose("cuda")
    try:
        for cases in (smpl_cases, alignment_cases, step_cases, training_cases):
            for case in cases(quick=True):
                measured = measure(case, repeats=1, min_seconds=0)
                assert measured.timings[OURS].peak_bytes, case.name
    finally:
        choose("cpu")


def test_end_to_end(tmp_path: Path) -> None:
    output = tmp_path / "benchmark"
    args = ["--quick", "--only", "alignment", "--repeats", "2", "--output", str(output)]
    command = [sys.executable, str(TOOLS / "benchmark.py"), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "extrapolated from 200 of 2000 poses" in done.stdout
    content = json.loads((output / "benchmark.json").read_text())
    assert {"cpus", "threads", "torch"} <= content["machine"].keys()
    (case,) = content["cases"]
    assert case["timings"].keys() == {OURS, "torch SVD", "roma", "numpy loop"}
    assert all(timing["median_s"] > 0 and len(timing["times_s"]) == 2 for timing in case["timings"].values())
    assert case["ratios"]["roma"] == case["timings"]["roma"]["median_s"] / case["timings"][OURS]["median_s"]
    with Image.open(output / "benchmark.png") as image:
        assert image.width > 500
    table = (output / "benchmark.md").read_text().splitlines()
    (line,) = [line for line in table if line.startswith(f"| {case['name']} | ")]
    assert f"({case['ratios']['roma']:.2f}x)" in line
    assert {path.name for path in output.iterdir()} == {"benchmark.json", "benchmark.md", "benchmark.png"}

    with pytest.raises(SystemExit, match="already holds 3 entries"):
        main(args)


@pytest.mark.parametrize(
    ("args", "error"),
    [(["--repeats", "0"], "repeats must be at least 1, got 0"), (["--only", "x"], "invalid choice")],
)
def test_bad_arguments(tmp_path: Path, args: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*args, "--output", str(tmp_path / "new")])
    assert stop.value.code == 2
    assert error in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_scaling_is_measured_where_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One process and two train for a few steps; how fast is not asserted."""
    main(["--only", "scaling", "--quick", "--output", str(tmp_path / "out")])
    (facts,) = json.loads((tmp_path / "out/benchmark.json").read_text())["scaling"]
    assert facts["name"] == "zedo, smoke.yaml, 6 steps"
    assert list(facts["processes"]) == ["1", "2"]
    for found in facts["processes"].values():
        assert found["samples_per_second"] > 0
        assert 0 <= found["data_wait"] <= 1
    assert "2 processes" in capsys.readouterr().out
    assert not (tmp_path / "out/benchmark.png").exists(), "there are no cases to be plotted"
