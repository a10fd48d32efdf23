import os
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from posecore.training.last_checkpoint import continue_last, flaw, resolve_checkpoint


def save(path: Path, age: int, **content: Any) -> Path:
    """A checkpoint of ``age`` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {"state_dict": {"weight": torch.arange(1000.0)}, "loops": {}, "optimizer_states": [], "global_step": 7}
    torch.save({**parts, **content}, path)
    os.utime(path, ns=(0, (2_000_000_000 - age) * 10**9))
    return path


def run_folder(root: Path, version: int) -> Path:
    return root / "lightning_logs" / f"version_{version}" / "checkpoints"


def test_last_is_the_newest_of_all_runs(tmp_path: Path) -> None:
    assert resolve_checkpoint("last", tmp_path) is None
    old = save(run_folder(tmp_path, 0) / "last.ckpt", 50)
    assert resolve_checkpoint("last", tmp_path) == old
    without_logger = save(tmp_path / "checkpoints" / "epoch=1.ckpt", 40)
    assert resolve_checkpoint("last", tmp_path) == without_logger
    save(run_folder(tmp_path, 1) / "epoch=2.ckpt", 30)
    new = save(run_folder(tmp_path, 1) / "last-v1.ckpt", 30)
    assert resolve_checkpoint("last", tmp_path) == new
    elsewhere = save(tmp_path / "mine" / "a.ckpt", 20)
    assert resolve_checkpoint("last", tmp_path) == new
    assert resolve_checkpoint("last", tmp_path, [tmp_path / "mine"]) == elsewhere
    assert resolve_checkpoint("a.ckpt", tmp_path) == Path("a.ckpt")


def test_flaws(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", 0)
    assert flaw(path) is None
    whole = path.read_bytes()
    place = whole.index(torch.tensor([500.0]).numpy().tobytes())
    path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    assert flaw(path) == "is damaged"
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert flaw(path) == "is cut off or no checkpoint"
    save(path, 0, callbacks={"thing": Path("a")})
    assert flaw(path) == "is no checkpoint, or holds more than tensors and plain values"
    torch.save({"state_dict": {}}, path)
    assert flaw(path) == "holds no state of a training"
    assert flaw(tmp_path / "nothing.ckpt") == "cannot be read (No such file or directory)"


def test_broken_ones_are_passed_over_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = save(run_folder(tmp_path, 0) / "epoch=0.ckpt", 50)
    cut = save(run_folder(tmp_path, 0) / "last.ckpt", 40)
    os.truncate(cut, 500)
    os.utime(cut, ns=(0, 2_000_000_000 * 10**9))
    assert resolve_checkpoint("last", tmp_path) == good
    assert f"ckpt_path last: {good} (instead of {cut}, which is cut off or no checkpoint)" in capsys.readouterr().err
    good.write_bytes(b"")
    with pytest.raises(ValueError, match=r"last: no checkpoint can be used: .*last.ckpt, which .*epoch=0.ckpt"):
        resolve_checkpoint("last", tmp_path)


def options(root: Path, **trainer: Any) -> Namespace:
    callbacks = [
        Namespace(class_path="ModelCheckpoint", init_args=Namespace(dirpath=None)),
        Namespace(class_path="EMA"),
    ]
    return Namespace(
        ckpt_path="last", trainer=Namespace(default_root_dir=str(root), logger=None, callbacks=callbacks, **trainer)
    )


def test_fit_continues_in_the_folder_of_the_run(tmp_path: Path) -> None:
    path = save(run_folder(tmp_path, 4) / "last.ckpt", 0)
    found = options(tmp_path)
    continue_last(found, "fit")
    assert found.ckpt_path == str(path)
    assert found.trainer.logger.init_args == Namespace(save_dir=str(tmp_path), version="version_4")
    assert found.trainer.logger.dict_kwargs == {"purge_step": 7}
    chosen = options(tmp_path)
    chosen.trainer.logger = False
    continue_last(chosen, "fit")
    assert (chosen.ckpt_path, chosen.trainer.logger) == (str(path), False)
    tested = options(tmp_path)
    continue_last(tested, "test")
    assert (tested.ckpt_path, tested.trainer.logger) == (str(path), None)
    named = options(tmp_path)
    named.ckpt_path = "best"
    continue_last(named, "fit")
    assert (named.ckpt_path, named.trainer.logger) == ("best", None)


def test_a_folder_of_the_configuration_is_searched(tmp_path: Path) -> None:
    path = save(tmp_path / "mine" / "a.ckpt", 0)
    found = options(tmp_path)
    found.trainer.callbacks[0].init_args.dirpath = str(tmp_path / "mine")
    continue_last(found, "fit")
    assert (found.ckpt_path, found.trainer.logger) == (str(path), None)


def test_without_any_checkpoint(tmp_path: Path) -> None:
    found = options(tmp_path)
    continue_last(found, "fit")
    assert found.ckpt_path is None
    with pytest.raises(FileNotFoundError, match="ckpt_path last: there is no checkpoint below"):
        continue_last(options(tmp_path), "test")
