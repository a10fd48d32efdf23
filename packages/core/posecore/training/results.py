"""The numbers of a test run beside the paper's: printed, and as a file that says what they are."""

import hashlib
import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from posecore.export.files import write_text
from posecore.metrics.protocols import UNITS, Protocol
from posecore.training.checkpoints import resolve_weights

FILE_NAME = "metrics.json"
_STAGE = "test/"
_WIDTH = 100
_METRIC = re.compile(rf"(?:^|_)({'|'.join(sorted(UNITS, key=len, reverse=True))})(?:_|$)")
_OPTION = "--model."


class Results(Callback):
    """After `test`: prints the protocol in full and every metric beside the paper's, and writes ``metrics.json``.

    The command line adds it to every method as the group ``results``; the config of a table's row says what the paper
    printed there.

    Args:
        table: The paper's table, such as "Table 2"; None for a run that is no row of the paper.
        row: The row of it, such as "S = 50".
        paper: The paper's numbers of this row by ``<set>/<metric>``, as logged under ``test/``, in the unit of
            `posecore.metrics.protocols.UNITS`: a PCK of 93.0 % is 0.93. Where no set that they name is tested, as when
            the row's settings are used on other data, nothing is compared.
        path: Where to; ``metrics.json`` in the run's log folder where None.

    Raises:
        ValueError: A row without a table, or a number of the paper whose name is not ``<set>/<metric>``.
    """

    def __init__(
        self,
        table: str | None = None,
        row: str | None = None,
        paper: dict[str, float] | None = None,
        path: Path | None = None,
    ) -> None:
        if (table is None) != (row is None):
            raise ValueError(f"results: a table needs a row and a row its table, got {table!r} and {row!r}")
        for name in paper or {}:
            if name.startswith(_STAGE) or not all(name.split("/")) or "/" not in name:
                raise ValueError(f"results.paper: names are '<set>/<metric>', such as 'h36m/mpjpe', got {name!r}")
        self.table = table
        self.row = row
        self.paper = dict(paper or {})
        self.path = path
        self.configs: list[str] = []
        """Names of the YAML files of this run, set by the command line."""
        self.options: list[str] = []
        """Options of the model that the command line sets on top of them."""
        self._start = 0.0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock.

        Raises:
            ValueError: Some sets of the paper's numbers are tested and others are not.
        """
        tested = set(getattr(_data_of(trainer), "test_names", ()))
        named = {name.split("/")[0] for name in self.paper}
        if named & tested and (missing := sorted(named - tested)):
            raise ValueError(
                f"results.paper: {', '.join(missing)} is no test set, data.test has {', '.join(sorted(tested))}"
            )
        self._start = time.perf_counter()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints and writes.

        Raises:
            ValueError: A number of the paper has no metric beside it; the file is written before.
        """
        metrics = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items()}
        found = {name.removeprefix(_STAGE): value for name, value in metrics.items() if name.startswith(_STAGE)}
        sets = {name.split("/")[0] for name in found}
        compared = {name: value for name, value in self.paper.items() if name.split("/")[0] in sets}
        folder = trainer.log_dir or trainer.default_root_dir  # all ranks must ask: it is broadcast
        if trainer.is_global_zero:
            content = self._content(trainer, pl_module, metrics)
            path = self.path or Path(folder) / FILE_NAME
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(content, indent=2) + "\n")
            print(self._report(content, found, compared, path))  # noqa: T201
        if missing := sorted(compared.keys() - found.keys()):
            raise ValueError(f"results.paper: no metric {', '.join(missing)}; there are {', '.join(sorted(found))}")

    def _content(self, trainer: Trainer, module: LightningModule, metrics: dict[str, float]) -> dict[str, Any]:
        protocol = getattr(module, "protocol", None)
        sets: Mapping[str, Any] = getattr(_data_of(trainer), "test_sets", {})
        weights = _weights_of(trainer, module)
        limit = trainer.limit_test_batches
        return {
            "method": type(module).__name__,
            "table": self.table,
            "row": self.row,
            "paper": self.paper,
            "protocol": protocol.describe() if isinstance(protocol, Protocol) else None,
            "protocol_name": protocol.name if isinstance(protocol, Protocol) else None,
            "metrics": metrics,
            "rows": {name: len(dataset) for name, dataset in sets.items()},
            "partial": not (isinstance(limit, float) and limit == 1),
            "configs": self.configs,
            "options": self.options,
            "weights": None if weights is None else str(weights),
            "weights_sha256": None if weights is None else _sha256(weights),
            "seed": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
            "commit": source_version(),
            "seconds": round(time.perf_counter() - self._start, 2),
            "device": _device_name(module.device),
            "precision": str(trainer.precision),
        }

    def _report(
        self, content: Mapping[str, Any], found: Mapping[str, float], compared: Mapping[str, float], path: Path
    ) -> str:
        lines = [f"{content['method']}{'' if self.table is None else f', {self.table}, {self.row}'}"]
        if content["protocol"] is not None:
            lines += textwrap.wrap(f"protocol {content['protocol']}", _WIDTH, subsequent_indent="  ")
        rows = [("metric", "ours", "paper", "difference", "unit")]
        for name, ours in found.items():
            paper = compared.get(name)
            difference = "" if paper is None else f"{ours - paper:+.{_digits(name)}f}"
            rows.append((name, format_value(name, ours), format_value(name, paper), difference, unit_of(name)))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for name, *numbers, unit in rows:
            cells = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=False)]
            lines.append("  ".join([name.ljust(widths[0]), *cells, unit]).rstrip())
        if self.paper and not compared:
            lines.append(f"the paper's numbers of this row are of other data: {', '.join(sorted(self.paper))}")
        if content["partial"]:
            lines.append("PARTIAL: trainer.limit_test_batches left rows out; no number here is of the whole test set")
        return "\n".join([*lines, f"written: {path}"])


def unit_of(name: str) -> str:
    """Unit of a logged metric, such as ``h36m/true_root_mpjpe/Walking``; empty where it is not known."""
    if name.endswith("_per_second"):
        return "1/s"
    match = _METRIC.search((*name.split("/"), "")[1])
    return UNITS[match.group(1)] if match else ""


def source_version() -> str:
    """The commit of the source tree, with "-dirty" where files differ from it; else the installed version."""
    here = Path(__file__)

    def git(*args: str) -> str:
        command = ["git", "-C", str(here.parent), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # not the repository of some project that installed this one
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return importlib.metadata.version("humandiff")


def model_options(args: Sequence[str]) -> list[str]:
    """``--model.*`` of a command line as ``name=value`` without the prefix."""
    options = []
    for i, arg in enumerate(args):
        if arg.startswith(_OPTION):
            value = "" if "=" in arg or i + 1 == len(args) else f"={args[i + 1]}"
            options.append(arg.removeprefix(_OPTION) + value)
    return options


def _data_of(trainer: Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def _weights_of(trainer: Trainer, module: LightningModule) -> Path | None:
    """The file that the tested weights are of: a checkpoint, or what ``model.weights`` names."""
    if trainer.ckpt_path is not None:
        return Path(trainer.ckpt_path)
    weights = getattr(module, "weights", None)
    return None if weights is None else resolve_weights(weights, Path(inspect.getfile(type(module))).parent)


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _digits(name: str) -> int:
    return 3 if unit_of(name) == "share" else 1


def format_value(name: str, value: float | None) -> str:
    """A metric with the digits that its unit deserves; empty where there is none."""
    return "" if value is None else f"{value:.{_digits(name)}f}"
