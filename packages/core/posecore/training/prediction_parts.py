"""Results of `predict` as they come: a file for each batch, so that nothing is held and an interrupted run goes on."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from posecore.export.files import OutputFolder, atomic_write, write_text

_PARTS, _RUN = "parts", "run.json"
_PART = re.compile(r"rows_\d+\.npz")
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # of a write that was killed (posecore.export.files)
_SHOWN = 5


class PredictionParts:
    """The folder ``parts/`` of a run that is not finished, and ``run.json``, which says of what run.

    Args:
        path: The run's folder; made here.
        overwrite: Whether a folder that holds something may be written into; ``parts/`` of another run are deleted.
        resume: Whether a folder with ``parts/`` is continued.

    Attributes:
        output: The run's folder.
        done: Rows whose results are there.

    Raises:
        FileExistsError: The folder holds something, and neither argument allows for it.
        NotADirectoryError: There is a file in its place.
        PermissionError: It cannot be written.
    """

    def __init__(self, path: Path, overwrite: bool = False, resume: bool = False) -> None:
        self._folder = path / _PARTS
        unfinished = self._folder.is_dir()
        if unfinished and not (overwrite or resume):
            raise FileExistsError(
                f"output folder '{path}' already holds an interrupted run ({_PARTS}/): --output.resume true continues "
                "it, --output.overwrite true begins again"
            )
        if resume and not unfinished and not overwrite and (path / "run.json").is_file():
            raise FileExistsError(f"output folder '{path}' holds a finished run: there is nothing to continue")
        self.output = OutputFolder(path, overwrite or (resume and unfinished))
        self._go_on = resume and unfinished
        for file in path.rglob(".*.tmp") if unfinished else ():
            if _LEFTOVER.fullmatch(file.name):
                file.unlink(missing_ok=True)
        if not self._go_on:
            self.remove()
        self._folder.mkdir(exist_ok=True)
        self._place = self._found()
        self.done = frozenset(self._place)

    def begin(self, run: Mapping[str, Any]) -> None:
        """Writes ``run.json``, or checks that what is continued is the same run.

        Args:
            run: All that results depend on, JSON values.

        Raises:
            ValueError: Another run is in the folder, or its ``run.json`` is broken.
        """
        path = self.output.path / _RUN
        run = json.loads(json.dumps(run))
        if not (self._go_on and (self.done or path.is_file())):
            write_text(path, json.dumps(run, indent=2) + "\n")
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"--output.resume: {path} cannot be read ({error}); begin again with overwrite") from error
        old, new = _flat(before), _flat(run)
        changes = [
            f"{name} was {old.get(name, 'not set')} and is {new.get(name, 'not set')}"
            for name in dict.fromkeys((*old, *new))
            if old.get(name, _PARTS) != new.get(name, _PARTS)
        ]
        if changes:
            more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
            raise ValueError(
                f"--output.resume: '{self.output.path}' holds another run: {'; '.join(changes[:_SHOWN])}{more}. Give "
                "what it was begun with, or choose another folder"
            )

    def add(self, rows: Sequence[int], results: Mapping[str, Tensor]) -> None:
        """Writes a batch's results.

        Args:
            rows: Numbers of its rows.
            results: Arrays with a row for each.

        Raises:
            OSError: The file cannot be written; those before it are there.
        """
        arrays = {name: _array(value) for name, value in results.items()}
        with atomic_write(self._folder / f"rows_{min(rows):09d}.npz") as file:
            np.savez(file, rows=np.array(rows, dtype=np.int64), **arrays)  # type: ignore[arg-type]

    def refresh(self) -> None:
        """Finds what all processes have written."""
        self._place = self._found()
        self.done = frozenset(self._place)

    @property
    def rows(self) -> list[int]:
        """Rows whose results are there, rising."""
        return sorted(self._place)

    @property
    def names(self) -> list[str]:
        """What is known of every row."""
        place = next(iter(self._place.values()), None)
        if place is None:
            return []
        with np.load(place[0], allow_pickle=False) as part:
            return [name for name in part.files if name != "rows"]

    def read(self, name: str, rows: Sequence[int] | None = None) -> Tensor:
        """One array of some rows (of all, rising, where None); parts are read one after the other."""
        return torch.from_numpy(np.stack(list(self.stream(name, rows))))

    def stream(self, name: str, rows: Sequence[int] | None = None) -> Iterator[np.ndarray]:
        """The same row by row, with one part in memory at a time."""

        @lru_cache(maxsize=1)
        def of_part(path: Path) -> np.ndarray:
            with np.load(path, allow_pickle=False) as part:
                array: np.ndarray = part[name]
                return array

        for row in self.rows if rows is None else rows:
            path, index = self._place[row]
            yield of_part(path)[index]

    def remove(self) -> None:
        """Deletes the parts."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _found(self) -> dict[int, tuple[Path, int]]:
        """Where each row is."""
        place: dict[int, tuple[Path, int]] = {}
        for path in sorted(self._folder.iterdir()):
            if _PART.fullmatch(path.name):
                with np.load(path, allow_pickle=False) as part:
                    rows: Int[np.ndarray, " rows"] = part["rows"]
                # Padding repeats rows across processes; one of each is kept.
                place |= {row: (path, index) for index, row in enumerate(rows.tolist())}
        return place


def _array(value: Tensor) -> np.ndarray:
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _flat(values: Any, name: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one dict of dotted names."""
    entries: dict[str, Any] = {}
    if isinstance(values, dict):
        entries = {str(key): value for key, value in values.items()}
    elif isinstance(values, list):
        entries = {str(number): value for number, value in enumerate(values)}
    if not entries:
        return {name: values}
    flat: dict[str, Any] = {}
    for key, value in entries.items():
        flat |= _flat(value, f"{name}.{key}" if name else key)
    return flat
