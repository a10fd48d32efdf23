"""The one command line: ``<method> fit | validate | test | predict --config ...``."""

import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from posecore.launchers import with_launcher_options
from posecore.training.last_checkpoint import continue_last
from posecore.training.prediction_writer import PredictionWriter
from posecore.training.preemption import Preemption
from posecore.training.results import Results, model_options
from posecore.training.resume import Resume
from posecore.training.uneven_ranks import UnevenRanks

TRACEBACK = "HUMANDIFF_TRACEBACK"
SKIPPED = 3
"""Exit code of a `predict` that left something out."""

# Of the data: what `predict` does not read, and what may be another in a continuation, such as a batch that did not fit
# into memory (noise belongs to the row).
_NOT_OF_PREDICT = ("train", "val", "test", "batch_size", "num_workers")


def run(
    module: type[LightningModule],
    datamodule: type[LightningDataModule],
    configs: Path,
    args: Sequence[str] | None = None,
    writer: type[PredictionWriter] = PredictionWriter,
) -> LightningCLI:
    """Builds the method's Trainer, module and data from the command line and YAML files, and runs the subcommand.

    A ``--config`` that is no file is looked up among the method's own configs, so ``--config default.yaml`` works from
    anywhere. Expected errors (a missing file, a value that does not fit) end the program with one line and exit code 2;
    with the environment variable HUMANDIFF_TRACEBACK set, they are raised. A `predict` that had to leave out something
    that it was given ends with exit code 3, after everything else is written.

    Args:
        module: The method.
        datamodule: Its data.
        configs: Folder of the method's YAML files.
        args: The command line without the program's name; `sys.argv` where None.
        writer: What writes the predictions.

    Returns:
        The finished CLI, with ``trainer``, ``model`` and ``datamodule``.
    """
    # Lightning 2.6 calls a deprecated function of PyTorch at every start; nothing a user could act on.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    # Batches of whole groups have no indices that Lightning could know; they say themselves which rows they hold.
    warnings.filterwarnings("ignore", message="Couldn't infer the batch indices")
    try:
        found = with_launcher_options(find_configs(list(sys.argv[1:] if args is None else args), configs))
        check_checkpoint(found)
        if args is None:
            sys.argv[1:] = found
        kind = type("CLI", (_CLI,), {"writer": writer, "folder": configs, "options": model_options(found)})
        cli: _CLI = kind(
            module,
            datamodule,
            args=None if args is None else found,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"callbacks": [UnevenRanks(), Resume()]},
        )
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get(TRACEBACK):
            raise
        print(f"error: {error}\n(set {TRACEBACK}=1 to see where it was raised)", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    if cli.output.skipped:
        sys.exit(SKIPPED)
    return cli


class _CLI(LightningCLI):
    """Adds ``--output.*``, where `predict` writes; ``--results.*``, what `test` compares with; ``--preemption.*``."""

    writer: type[PredictionWriter]
    folder: Path
    options: list[str]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the writer of predictions, the report of results, the way out of a cluster that wants its nodes back."""
        parser.add_lightning_class_args(self.writer, "output")
        parser.add_lightning_class_args(Results, "results")
        parser.add_lightning_class_args(Preemption, "preemption")

    def _parse_ckpt_path(self) -> None:
        """Lightning would load the whole checkpoint here, for arguments that are never saved in it."""

    def before_instantiate_classes(self) -> None:
        """Finds the checkpoint that ``--ckpt_path last`` means."""
        if self.subcommand is not None:
            continue_last(self.config[self.subcommand], self.subcommand)

    def after_instantiate_classes(self) -> None:
        """Tells the report which YAML files and options the run was made with, and the writer all options."""
        results: Results = self._get(self.config_init, "results")
        files = [str(getattr(path, "relative", path)) for path in self._get(self.config, "config") or []]
        results.configs = [_name(path, self.folder) for path in files]
        results.options = self.options
        if self.subcommand == "predict":
            options = json.loads(self.parser.dump(self.config, skip_none=False, format="json"))["predict"]
            data = {name: value for name, value in options["data"].items() if name not in _NOT_OF_PREDICT}
            seed = options["seed_everything"]
            self.output.settings = {"seed_everything": seed, "model": options["model"], "data": data}

    @property
    def output(self) -> PredictionWriter:
        """What writes the predictions."""
        writer: PredictionWriter = self._get(self.config_init, "output")
        return writer


def check_checkpoint(args: list[str]) -> None:
    """Reads the index of the checkpoint that ``--ckpt_path`` names, before any work is done.

    Names such as "last" and files that are not there are left to Lightning.

    Raises:
        ValueError: The file is cut off, or no checkpoint.
    """
    for i, arg in enumerate(args):
        name = arg.removeprefix("--ckpt_path=") if arg.startswith("--ckpt_path=") else arg
        if (name != arg or args[i - 1 : i] == ["--ckpt_path"]) and Path(name).is_file():
            try:
                torch.load(name, map_location="cpu", mmap=True, weights_only=True)
            except Exception as error:  # torch's reader raises what it stumbles over: on a text file even IndexError
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise ValueError(f"ckpt_path: {name} is not a checkpoint that can be read ({reason})") from error


def find_configs(args: list[str], configs: Path) -> list[str]:
    """Replaces every ``--config NAME`` (or ``-c NAME``) that is no file by the method's own ``configs/NAME``.

    Raises:
        FileNotFoundError: There is no such file here or there; the message lists the method's own.
    """
    found = []
    for i, arg in enumerate(args):
        if arg.startswith("--config="):
            found.append("--config=" + _find(arg.removeprefix("--config="), configs))
        elif i and args[i - 1] in ("--config", "-c"):
            found.append(_find(arg, configs))
        else:
            found.append(arg)
    return found


def _name(path: str, configs: Path) -> str:
    """The name under which ``--config`` finds a file among the method's own, else what was given."""
    found = Path(path).resolve()
    return str(found.relative_to(configs.resolve())) if found.is_relative_to(configs.resolve()) else path


def _find(name: str, configs: Path) -> str:
    if "\n" in name or Path(name).is_file():
        return name
    for candidate in (configs / name, configs / f"{name}.yaml"):
        if candidate.is_file():
            return str(candidate)
    own = sorted(str(path.relative_to(configs)) for path in configs.rglob("*.yaml"))
    raise FileNotFoundError(f"--config: {name!r} is neither a file nor one of this method's configs: {', '.join(own)}")
