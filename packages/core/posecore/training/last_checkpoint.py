"""What ``--ckpt_path last`` means: the newest checkpoint of the run that can be read."""

import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

PLACES = ("checkpoints/*.ckpt", "lightning_logs/*/checkpoints/*.ckpt")
"""Where Lightning keeps checkpoints below ``default_root_dir``, without and with a logger."""


def resolve_checkpoint(name: str, default_root_dir: Path, dirpaths: Sequence[Path] = ()) -> Path | None:
    """The newest checkpoint of a folder that a training can go on from.

    Lightning's own ``last`` looks into the folder of the run that is about to start, where there is nothing yet, and
    takes what it finds unread. This looks into the folders of all runs below ``default_root_dir``, newest file first,
    and reads every byte of it once (see `flaw`); a file that is cut off or damaged is passed over, with a message.

    Args:
        name: ``last``.
        default_root_dir: The Trainer's.
        dirpaths: Other folders in which the configuration's ModelCheckpoints save.

    Returns:
        The file; None where there are none at all.

    Raises:
        ValueError: There are some, and none of them can be used.
    """
    if name != "last":
        return Path(name)
    found = {path.resolve() for place in PLACES for path in default_root_dir.glob(place)}
    found |= {path.resolve() for folder in dirpaths for path in folder.glob("*.ckpt")}
    broken: list[str] = []
    # `last.ckpt` is saved after the checkpoint that it equals; the name decides where the clock is too coarse.
    for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.stem.startswith("last")), reverse=True):
        reason = flaw(path)
        if reason is None:
            instead = f" (instead of {'; '.join(broken)})" if broken else ""
            _say(f"ckpt_path last: {path}{instead}")
            return path
        broken.append(f"{path}, which {reason}")
    if broken:
        raise ValueError(f"ckpt_path last: no checkpoint can be used: {'; '.join(broken)}")
    return None


def flaw(path: Path) -> str | None:
    """Why training cannot go on from a file; None where it can.

    Checks the file's structure, the checksum of every part (one pass over the file, no copy in memory), and that it
    holds the state of a training and no objects. Nothing in it is run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return "is damaged"
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (zipfile.BadZipFile, EOFError):
        return "is cut off or no checkpoint"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except Exception:  # torch's reader raises what it stumbles over
        return "is no checkpoint, or holds more than tensors and plain values"
    if not isinstance(content, dict) or not {"loops", "optimizer_states", "state_dict"} <= content.keys():
        return "holds no state of a training"
    return None


def continue_last(options: Any, subcommand: str) -> None:
    """Puts a file in the place of ``ckpt_path: last``, before Lightning gets the options.

    `fit` then goes on in the folder of the run that the file belongs to: the best checkpoints so far stay known (in a
    new folder Lightning forgets them), TensorBoard shows one curve, and a Slurm job that is requeued does the same,
    since Lightning calls its folder by the job's number. What was logged after the checkpoint is hidden: the steps are
    done again. A logger that the options name is left alone. Without any checkpoint `fit` starts from the beginning,
    so one command line starts a run and continues it.

    Args:
        options: Of the subcommand, as parsed.
        subcommand: `fit` or another.

    Raises:
        FileNotFoundError: There is no checkpoint to validate, test or predict with.
        ValueError: There is none that can be read.
    """
    if options.get("ckpt_path") != "last":
        return
    trainer = options["trainer"]
    root = Path(trainer.get("default_root_dir") or ".")
    init_args = [callback.get("init_args") or {} for callback in trainer.get("callbacks") or []]
    dirpaths = [Path(args["dirpath"]) for args in init_args if args.get("dirpath")]
    path = resolve_checkpoint("last", root, dirpaths)
    if path is None and subcommand != "fit":
        raise FileNotFoundError(f"ckpt_path last: there is no checkpoint below {root}")
    options["ckpt_path"] = None if path is None else str(path)
    if path is None:
        _say(f"ckpt_path last: no checkpoint below {root} yet, training starts from the beginning")
    elif subcommand == "fit" and trainer.get("logger") in (None, True):
        run = path.parent.parent
        if run.parent == (root / "lightning_logs").resolve():
            step = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["global_step"]
            make: Any = Namespace  # its library has no types here
            trainer["logger"] = make(
                class_path="lightning.pytorch.loggers.TensorBoardLogger",
                init_args=make(save_dir=str(root), version=run.name),
                dict_kwargs={"purge_step": step},
            )


@rank_zero_only
def _say(text: str) -> None:
    """To stderr: whether Lightning's own messages are seen depends on what a method imports."""
    print(text, file=sys.stderr)  # noqa: T201
