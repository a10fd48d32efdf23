"""Every method, killed in the middle of an epoch and started again with the same command, ends where it would have."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from posecore.testing.forked import run_module

CLOCKS = {"train/samples_per_second", "train/data_wait"}
# Two epochs of 4 batches and one batch of a third; checkpoints after 3, 6 and 9 of them, a validation after 8.
RUN = [
    "--trainer.max_steps", "9", "--trainer.limit_train_batches", "4", "--trainer.check_val_every_n_epoch", "2",
    "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=3",
    "--trainer.callbacks.save_top_k=-1", "--trainer.callbacks.save_last=true", "--data.batch_size", "8",
    "--trainer.limit_val_batches", "1",
]  # fmt: skip
KILL = ["--trainer.callbacks+=posecore.testing.killed_training.KillTraining", "--trainer.callbacks.batch=7"]


def fit(method: str, folder: Path, *args: str, code: int = 0, fresh: bool = False) -> str:
    """Runs ``<method> fit`` in a process of its own, forked or anew; returns what it wrote to stderr."""
    options = [
        "fit", "--config", "smoke.yaml", "--trainer.default_root_dir", str(folder), *RUN, "--ckpt_path", "last", *args,
    ]  # fmt: skip
    if fresh:
        whole = [sys.executable, "-m", method, *options]
        done = subprocess.run(whole, capture_output=True, text=True, timeout=300, check=False)
    else:
        done = run_module(method, options)
    assert done.returncode == code, done.stderr[-3000:]
    return done.stderr


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Everything that a run logged, as TensorBoard shows it."""
    (run,) = folder.glob("lightning_logs/*")
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    names = set(events.Tags()["scalars"]) - CLOCKS
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


def end(folder: Path) -> dict[str, Any]:
    """The checkpoint after the last step."""
    (path,) = folder.rglob("*step=9.ckpt")
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def assert_same_run(whole: Path, resumed: Path) -> None:
    """The same curves, and the same weights, averages and states of the optimiser and the schedule, bit for bit."""
    assert curves(resumed) == curves(whole)
    assert len(curves(whole)["train/loss"]) == 9
    expected, found = end(whole), end(resumed)
    for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("diffhmr", ["--data.num_workers", "1"]),
        ("diffupose", ["--data.num_workers", "2"]),
        ("hmdiff", []),
        ("scorehmr", []),
        ("zedo", ["--trainer.devices", "2", "--trainer.strategy", "ddp"]),
    ],
    ids=["diffhmr", "diffupose", "hmdiff", "scorehmr", "zedo-two-processes"],
)
def test_a_killed_training_continues_with_the_same_curve(method: str, args: list[str], tmp_path: Path) -> None:
    said = fit(method, tmp_path / "whole", *args, fresh=method == "zedo")
    assert "training starts from the beginning" in said
    fit(method, tmp_path / "killed", *args, *KILL, code=-signal.SIGKILL)
    assert not list((tmp_path / "killed").rglob("*step=9.ckpt"))
    said = fit(method, tmp_path / "killed", *args)
    assert "last.ckpt" in said
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_signal_during_validation_loses_nothing(tmp_path: Path) -> None:
    """Two processes with different numbers of batches; the second one alone has the signal. Both stop, none waits."""
    # Of the 14 rows, the processes have 8 and 6: three batches and two.
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.limit_val_batches", "1.0"]
    told = ["--trainer.callbacks+=posecore.testing.killed_training.SignalInValidation", "--trainer.callbacks.batch=0"]
    fit("zedo", tmp_path / "whole", *two)
    said = fit("zedo", tmp_path / "told", *two, *told, "--trainer.callbacks.rank=1", code=75)
    assert "Stopped by a signal in the validation after step 8" in said
    fit("zedo", tmp_path / "told", *two)
    assert_same_run(tmp_path / "whole", tmp_path / "told")


def test_ranks_with_checkpoints_of_different_steps_end_with_one_error(tmp_path: Path) -> None:
    """Two nodes with disks of their own: of other steps, and with a checkpoint on one of them only."""
    fit("zedo", tmp_path / "whole")
    (early,), (late,) = (list((tmp_path / "whole").rglob(f"*step={step}.ckpt")) for step in (3, 6))
    for name, second in (("steps", late), ("one", None)):
        nodes = []
        for number, path in enumerate((early, second)):
            root = tmp_path / name / str(number)
            (root / "checkpoints").mkdir(parents=True)
            if path is not None:
                shutil.copy(path, root / "checkpoints" / "last.ckpt")
            with socket.socket() as found:
                found.bind(("127.0.0.1", 0))
                port = found.getsockname()[1] if not nodes else port
            there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(number), "LOCAL_RANK": "0"}
            nodes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "zedo", "fit", "--config", "smoke.yaml", *RUN, "--ckpt_path", "last",
                     "--trainer.default_root_dir", root, "--trainer.num_nodes", "2", "--trainer.devices", "1"],
                    env=os.environ | there, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                )
            )  # fmt: skip
        try:
            said = [node.communicate(timeout=300)[1] for node in nodes]
        finally:
            for node in nodes:
                node.kill()
        assert [node.returncode for node in nodes] == [2, 2], "".join(said)[-3000:]
        for number, text in enumerate(said):
            step = (3, 6 if second else 0)[number]
            assert f"the first process has a checkpoint of step 3, and another has not (this one: step {step})" in text
            assert "default_root_dir must be a folder that all nodes share" in text
            assert "Traceback" not in text


def test_broken_checkpoints_are_passed_over(tmp_path: Path) -> None:
    """The newest files are cut off: the one before is used, and all are named. ZeDO with one process."""
    fit("zedo", tmp_path / "whole")
    fit("zedo", tmp_path / "killed", *KILL, code=-signal.SIGKILL)
    paths = sorted((tmp_path / "killed").rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    assert [path.stem for path in paths] == ["epoch=0-step=3", "epoch=1-step=6", "last"]
    for path in paths[1:]:
        os.truncate(path, path.stat().st_size // 2)
    said = fit("zedo", tmp_path / "killed")
    assert "last.ckpt, which is cut off or no checkpoint" in said
    assert f"ckpt_path last: {paths[0].resolve()} (instead of" in said
    found, expected = (
        torch.load(next((tmp_path / "killed").rglob("*step=9.ckpt")), weights_only=True),
        end(tmp_path / "whole"),
    )
    torch.testing.assert_close(found["state_dict"], expected["state_dict"], rtol=0, atol=0)
    for path in (tmp_path / "killed").rglob("*.ckpt"):
        path.write_bytes(b"")
    said = fit("zedo", tmp_path / "killed", code=2)
    assert "error: ckpt_path last: no checkpoint can be used" in said
    assert "Traceback" not in said
