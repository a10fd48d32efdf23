"""How checkpoints get to the disk and back: whole files or none, and nothing in them that could run code."""

import logging
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io import CheckpointIO

from posecore.export.files import atomic_write

_log = logging.getLogger(__name__)

LEFTOVERS = ".*.ckpt.*.tmp"
"""Names under which `atomic_write` writes checkpoints."""


class SafeCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically, outlives a full disk, and reads tensors and plain values only.

    A checkpoint goes to a temporary name in its folder, to the disk (fsync), and only then to its own name: a reader
    sees the old file or the new one. Temporary files that a killed run left in the folder are removed at the first
    save. That needs room for one checkpoint more than are kept.

    A save that fails for want of space, or for another reason that may pass, must not cost the training: the run says
    so and goes on, the next save may succeed. Until one does, no older checkpoint is removed. A run whose first save
    fails ends there: it has nothing to lose yet, and the folder may be one that can never be written.

    Attributes:
        failure: What became of the last save, None where all is well.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self._saved = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Raises:
            OSError: The run's first checkpoint cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._saved:
                for leftover in path.parent.glob(LEFTOVERS):
                    leftover.unlink(missing_ok=True)
            with atomic_write(path) as file:
                _save(checkpoint, file)
        except OSError as error:
            self.failure = str(error)
            if not self._saved:
                raise
            # No warning: Python would show a second one, with the same words, no more.
            _log.warning("Checkpoint not saved: %s. Training goes on; older checkpoints stay until one is saved", error)
            return
        self.failure, self._saved = None, True

    def load_checkpoint(
        self, path: Path | str, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint, always with ``weights_only``: a checkpoint is data, and may be somebody else's.

        Args:
            path: The file.
            map_location: Not used: tensors are read to the CPU.
            weights_only: Not used: True.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Not a checkpoint, or one that holds other objects than tensors and plain values.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"ckpt_path: there is no file {path}")
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            raise ValueError(
                f"ckpt_path: {path} holds more than tensors and plain values, and reading that could run a stranger's "
                "code; it is not read"
            ) from error
        except (RuntimeError, EOFError, IndexError, KeyError) as error:
            raise ValueError(f"ckpt_path: {path} is not a checkpoint that can be read") from error
        return checkpoint

    def remove_checkpoint(self, path: Path | str) -> None:
        """Removes a checkpoint, unless the one that should take its place could not be saved."""
        if self.failure is None:
            Path(path).unlink(missing_ok=True)


def _save(checkpoint: dict[str, Any], file: Any) -> None:
    """``torch.save``, whose writer answers a full disk with a RuntimeError of its own."""
    written: Any = _Errors(file)
    try:
        torch.save(checkpoint, written)
    except RuntimeError:
        if written.error is None:
            raise
        raise written.error from None
    if written.error is not None:
        raise written.error


class _Errors:
    """A file that remembers why writing failed."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is not None:
            return 0
        try:
            return int(self._file.write(data))
        except OSError as error:
            self.error = error
            return 0

    def flush(self) -> None:
        self._file.flush()
