"""`tools/slurm/train.sbatch` under a real Slurm: several nodes, preemption, requeue, and the same curve as without."""

import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[2]
SBATCH = ROOT / "tools" / "slurm" / "train.sbatch"

pytestmark = pytest.mark.cluster


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a user would edit in the file, given as variables; results go to the test's own folder."""
    values = {"METHOD": "zedo", "CONFIG": "smoke.yaml", "ROOT": str(tmp_path), "VENV": str(Path(sys.prefix))}
    # Names of nodes mean nothing to this machine's resolver; a cluster's do.
    values |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return tmp_path


def curve(folder: Path, number: str, tag: str = "train/loss_score") -> dict[int, list[float]]:
    """The logged losses of every step; a step that was logged twice has two."""
    events = EventAccumulator(str(folder / number / "lightning_logs" / f"version_{number}"), {"scalars": 0}).Reload()
    found: dict[int, list[float]] = {}
    for name in events.Tags()["scalars"]:
        if name == tag:
            for event in events.Scalars(name):
                found.setdefault(event.step, []).append(event.value)
    return found


def last(folder: Path, number: str) -> dict[str, Any]:
    (path,) = (folder / number).rglob("last.ckpt")
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


@pytest.mark.parametrize(("nodes", "tasks"), [(2, 1), (1, 2)])
def test_a_job_trains_on_all_its_ranks(slurm: Any, settings: Path, nodes: int, tasks: int) -> None:
    log = settings / "job.log"
    number = slurm.submit(f"--nodes={nodes}", f"--ntasks-per-node={tasks}", f"--output={log}", SBATCH)
    slurm.wait(number, "COMPLETED")
    text = log.read_text()
    assert "GLOBAL_RANK: 0, MEMBER: 1/2" in text
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in text
    assert last(settings, number)["global_step"] == 4
    assert sorted(curve(settings, number)) == [0, 1, 2, 3]
    assert len(list((settings / number).rglob("events.*"))) == 1, "one set of logs"


def configuration(folder: Path, batch_size: int, max_steps: int) -> Path:
    """The smoke settings for a training that takes a while and keeps no checkpoint before its end."""
    content = yaml.safe_load((ROOT / "packages" / "zedo" / "zedo" / "configs" / "smoke.yaml").read_text())
    content["data"]["batch_size"] = batch_size
    content["trainer"] |= {"max_steps": max_steps, "limit_val_batches": 0, "enable_progress_bar": False}
    content["trainer"]["callbacks"][-1]["init_args"]["every_n_epochs"] = 10**6
    path = folder / "long.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def wait_for_step(folder: Path, number: str, step: int, seconds: float = 120) -> None:
    """Waits until a running job has logged a step."""
    end = time.monotonic() + seconds
    while not list((folder / number).rglob("events.*")) or max(curve(folder, number), default=-1) < step:
        assert time.monotonic() < end, f"job {number} does not reach step {step}"
        time.sleep(0.5)


def assert_same_curve(found: dict[int, list[float]], expected: dict[int, list[float]]) -> None:
    assert sorted(found) == sorted(expected)
    for step, values in found.items():
        assert len(values) == 1, f"step {step} was trained {len(values)} times"
        assert math.isclose(values[0], expected[step][0], rel_tol=1e-4), (step, values, expected[step])


@pytest.mark.parametrize("batch_size", [64, 16], ids=["end_of_epoch", "mid_epoch"])
def test_a_preempted_job_goes_on_where_it_was(
    slurm: Any, settings: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    """A job with more right to the nodes drives it out; it comes back and ends as if nothing had been."""
    steps = 600
    monkeypatch.setenv("CONFIG", str(configuration(settings, batch_size, steps)))
    log = settings / "job.log"
    args = ["--nodes=2", "--ntasks-per-node=1", "--exclusive", f"--output={log}", SBATCH]
    undisturbed = slurm.submit(*args)
    slurm.wait(undisturbed, "COMPLETED")
    expected = curve(settings, undisturbed)

    number = slurm.submit(*args)
    wait_for_step(settings, number, 50)
    owner = slurm.submit("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    slurm.wait(owner, "COMPLETED")
    stopped = last(settings, number)["global_step"]
    assert 50 < stopped < steps
    job = slurm.wait(number, "COMPLETED")
    assert job["Restarts"] == "1"
    text = log.read_text()
    assert f"Stopped by a signal after step {stopped}" in text
    assert "interrupted, requeued" in text
    assert "Restored all states from the checkpoint" in text
    assert last(settings, number)["global_step"] == steps
    assert_same_curve(curve(settings, number), expected)


def test_signals_requeue_and_cancel(slurm: Any, settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGUSR1 puts the job back, an administrator's requeue too, and a user's scancel ends it for good."""
    monkeypatch.setenv("CONFIG", str(configuration(settings, 64, 10**6)))
    log = settings / "job.log"
    number = slurm.submit("--nodes=2", "--ntasks-per-node=1", f"--output={log}", SBATCH)
    wait_for_step(settings, number, 20)
    slurm.call("scancel", "--signal=USR1", number)
    wait_for_restart(slurm, number, 1)
    stopped = last(settings, number)["global_step"]
    wait_for_step(settings, number, stopped + 20)

    slurm.call("scontrol", "requeue", number)
    wait_for_restart(slurm, number, 2)
    reached = max(curve(settings, number))
    resumed = last(settings, number)["global_step"]
    wait_for_step(settings, number, reached + 20)
    assert resumed >= stopped

    slurm.call("scancel", number)
    slurm.wait(number, "CANCELLED")
    assert slurm.job(number)["Restarts"] == "2"
    assert log.read_text().count("Stopped by a signal after step") == 3
    assert log.read_text().count("interrupted, requeued") == 1, "twice it was not for the job to do"
    found = curve(settings, number)
    assert sorted(found) == list(range(max(found) + 1)), "no step is left out"


def wait_for_restart(slurm: Any, number: str, restarts: int, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while (job := slurm.job(number))["Restarts"] != str(restarts) or job["JobState"] != "RUNNING":
        assert job["JobState"] in {"RUNNING", "COMPLETING", "PENDING", "REQUEUED"}, job
        assert time.monotonic() < end, job
        time.sleep(0.5)
