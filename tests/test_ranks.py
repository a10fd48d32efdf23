"""Two processes give what one gives: every number, every hypothesis; and no run waits for ever."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from posecore.testing.forked import run_module, run_ranks

METHODS = ["diffhmr", "diffupose", "hmdiff", "scorehmr", "zedo"]
PHOTO = Path(__file__).parents[1] / "tools" / "demo_data" / "photographer"
SECONDS = 240
"""Time for one command: what hangs fails."""
ONE, TWO = (["--trainer.devices", str(ranks), "--trainer.accelerator", "cpu"] for ranks in (1, 2))


def command(method: str, *args: str | int | Path, ranks: Sequence[str] = (), code: int = 0) -> None:
    """Runs a method; with ``ranks=TWO`` in two processes that are started here, as a cluster's launcher does."""
    processes = 2 if ranks is TWO else 1
    for done in run_ranks(method, [*map(str, args), *ranks], processes, SECONDS):
        assert done.returncode == code, done.stderr[-3000:]


@pytest.fixture(scope="module", params=METHODS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A method, the folder of its smoke run on two processes, and its last checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    args = ["fit", "--config", "smoke.yaml", "--trainer.default_root_dir", folder]
    if request.param == "zedo":  # Lightning starts the second process
        done = run_module("zedo", [*args, *TWO, "--trainer.strategy", "ddp"], timeout=SECONDS)
        assert done.returncode == 0, done.stderr[-3000:]
    else:
        command(request.param, *args, ranks=TWO)
    (checkpoint,) = folder.rglob("last.ckpt")
    return request.param, folder, checkpoint


def test_numbers_are_those_of_one_process(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    """On a number of batches that two processes cannot share evenly: nothing is scored twice, nothing is left out."""
    method, _, checkpoint = trained
    found = {}
    for name, ranks, batch_size in (("one", ONE, 7), ("two", TWO, 5)):
        command(
            method, "test", "--config", "smoke.yaml", "--ckpt_path", checkpoint, "--data.batch_size", batch_size,
            "--trainer.default_root_dir", tmp_path / name, ranks=ranks,
        )  # fmt: skip
        (path,) = (tmp_path / name).rglob("metrics.json")
        found[name] = json.loads(path.read_text())["metrics"]
    assert found["one"].keys() == found["two"].keys()
    for metric, value in found["one"].items():
        if not metric.endswith("per_second"):
            assert found["two"][metric] == pytest.approx(value, rel=1e-5, abs=1e-4), metric


def test_hypotheses_are_those_of_one_process(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    """With other batches, and with fewer batches than processes: what is drawn for a person is that person's."""
    method, _, checkpoint = trained
    people = json.loads(PHOTO.with_suffix(".json").read_text())
    people["people"] = [{**people["people"][0], "id": f"person {number}"} for number in range(5)]
    (tmp_path / "people.json").write_text(json.dumps(people))
    results = []
    # The others go on iterating from what they sample (fits, loops), where the rounding of another batch shape grows:
    # they have the same batches here, and tests of their samplers have others.
    sizes = (3, 1, 8) if method in ("diffhmr", "diffupose") else (2, 2, 8)
    args: list[str | Path] = [
        "predict", "--config", "smoke.yaml", "--ckpt_path", checkpoint, "--output.formats", "[]",
        "--data.predict.keypoints", tmp_path / "people.json", "--data.predict.photo", PHOTO.with_suffix(".png"),
        "--output.pictures", "false",
    ]  # fmt: skip
    if method == "diffupose":  # two processes go on where a single one was killed
        kill = ["--trainer.callbacks+=posecore.testing.interruption.KillAt", "--trainer.callbacks.batch=1"]
        there = ["--output.folder", tmp_path / "two", "--data.batch_size", 2]
        command(method, *args, *there, *kill, ranks=ONE, code=-signal.SIGKILL)
        assert [path.name for path in (tmp_path / "two" / "parts").glob("rows_*")] == ["rows_000000000.npz"]
    for name, ranks, batch_size in zip(("one", "two", "few"), (ONE, TWO, TWO), sizes, strict=True):
        resume = (tmp_path / name).exists()
        command(
            method, *args, "--output.folder", tmp_path / name, "--output.resume", str(resume).lower(),
            "--data.batch_size", batch_size, ranks=ranks,
        )  # fmt: skip
        with np.load(tmp_path / name / "predictions.npz", allow_pickle=False) as arrays:
            results.append({key: arrays[key] for key in arrays.files if arrays[key].dtype.kind == "f"})
    assert results[0].keys() == results[1].keys() == results[2].keys()
    assert len(results[0]["joints" if "joints" in results[0] else "hypotheses"]) == 5
    for key, value in results[0].items():
        for name, other in (("two", results[1]), ("few", results[2])):
            np.testing.assert_allclose(other[key], value, rtol=1e-5, atol=1e-5, err_msg=f"{key} of {name}")
