import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from posecore.training.checkpoint_io import SafeCheckpointIO
from posecore.training.resume import Resume


def checkpoint(value: float, numbers: int = 1000) -> dict[str, Any]:
    return {"state_dict": {"weight": torch.full((numbers,), value)}, "epoch": 3}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    io = SafeCheckpointIO()
    io.save_checkpoint(checkpoint(0.5), tmp_path / "new" / "last.ckpt")
    found = io.load_checkpoint(tmp_path / "new" / "last.ckpt")
    torch.testing.assert_close(found["state_dict"]["weight"], torch.full((1000,), 0.5))
    assert found["epoch"] == 3
    assert names(tmp_path / "new") == ["last.ckpt"]
    io.remove_checkpoint(tmp_path / "new" / "last.ckpt")
    assert names(tmp_path / "new") == []


def test_a_full_disk_leaves_the_last_good_one(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    io = SafeCheckpointIO()
    io.save_checkpoint(checkpoint(1.0, 300_000), small_disk / "last.ckpt")
    for _ in range(2):  # said every time
        caplog.clear()
        io.save_checkpoint(checkpoint(2.0, 800_000), small_disk / "next.ckpt")
        assert "next.ckpt' cannot be written: No space left on device. Training goes on" in caplog.text
    assert names(small_disk) == ["last.ckpt"]
    io.remove_checkpoint(small_disk / "last.ckpt")  # what ModelCheckpoint does after a save
    assert float(io.load_checkpoint(small_disk / "last.ckpt")["state_dict"]["weight"][0]) == 1.0
    io.save_checkpoint(checkpoint(3.0, 300_000), small_disk / "next.ckpt")
    assert io.failure is None
    io.remove_checkpoint(small_disk / "last.ckpt")
    assert names(small_disk) == ["next.ckpt"]


def test_a_first_checkpoint_that_cannot_be_written_is_an_error(small_disk: Path) -> None:
    with pytest.raises(OSError, match=r"last.ckpt' cannot be written: No space left on device"):
        SafeCheckpointIO().save_checkpoint(checkpoint(1.0, 2_000_000), small_disk / "last.ckpt")
    assert names(small_disk) == []


class Growing(LightningModule):
    """Its checkpoints are larger by so many numbers from the second epoch on."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.numbers = numbers

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.current_epoch:
            checkpoint["ballast"] = torch.zeros(self.numbers)


def trainer(folder: Path, **options: Any) -> Trainer:
    callbacks = [Resume(), ModelCheckpoint(folder, filename="{epoch}")]
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
        max_epochs=3, **options,
    )  # fmt: skip


DATA = DataLoader(TensorDataset(torch.ones(2, 2)))


def test_a_training_outlives_a_full_disk_and_ends_with_an_error(small_disk: Path) -> None:
    module = Growing(2_000_000)
    run = trainer(small_disk)
    with pytest.raises(OSError, match=r"the training is done, but its last checkpoint was not saved: .*epoch=2.ckpt"):
        run.fit(module, DATA)
    assert run.global_step == 6
    assert names(small_disk) == ["epoch=0.ckpt"]


def test_killed_while_writing(tmp_path: Path) -> None:
    """The previous checkpoint is whole, and what the killed one left behind goes at the next start's first save."""
    program = f"""
import torch
from pathlib import Path
from posecore.training.checkpoint_io import SafeCheckpointIO
io = SafeCheckpointIO()
path = Path({str(tmp_path)!r}) / "last.ckpt"
io.save_checkpoint({{"weight": torch.zeros(10)}}, path)
print("saved", flush=True)
while True:
    io.save_checkpoint({{"weight": torch.ones(50_000_000)}}, path)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "saved\n"
        for _ in range(10_000):
            if any(path.suffix == ".tmp" and path.stat().st_size for path in tmp_path.iterdir()):
                break
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    left = [name for name in names(tmp_path) if name.endswith(".tmp")]
    assert len(left) == 1
    io = SafeCheckpointIO()
    weight = io.load_checkpoint(tmp_path / "last.ckpt")["weight"]
    assert torch.equal(weight, torch.zeros(10))
    io.save_checkpoint(checkpoint(1.0), tmp_path / "next.ckpt")
    assert names(tmp_path) == ["last.ckpt", "next.ckpt"]


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("plain", [False, True])
def test_a_checkpoint_runs_no_code(plain: bool, tmp_path: Path) -> None:
    path, traces = tmp_path / "evil.ckpt", tmp_path / "traces"
    if plain:
        path.write_bytes(pickle.dumps(Evil(traces), protocol=2))
    else:
        torch.save({**checkpoint(1.0), "callbacks": Evil(traces)}, path)
    with pytest.raises(ValueError, match=r"ckpt_path: .*evil.ckpt holds more than tensors and plain values"):
        SafeCheckpointIO().load_checkpoint(path, weights_only=False)
    with pytest.raises(ValueError, match=r"ckpt_path: .*evil.ckpt holds more than tensors"):
        trainer(tmp_path / "run").fit(Growing(0), DATA, ckpt_path=path, weights_only=False)
    assert not traces.exists()
    with contextlib.suppress(RuntimeError):  # a plain pickle is no checkpoint, but it has been read by then
        torch.load(path, weights_only=False)
    assert traces.exists(), "this is what would have happened"


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    io, path = SafeCheckpointIO(), tmp_path / "last.ckpt"
    with pytest.raises(FileNotFoundError, match=r"ckpt_path: there is no file .*last.ckpt"):
        io.load_checkpoint(path)
    io.save_checkpoint(checkpoint(1.0), path)
    os.truncate(path, 1000)
    with pytest.raises(ValueError, match=r"ckpt_path: .*last.ckpt is not a checkpoint that can be read"):
        io.load_checkpoint(path)
