"""Writing results so that nothing is lost: whole files or none, and no existing result overwritten unasked."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: Path | str) -> Iterator[BinaryIO]:
    """Opens a binary file that takes the place of ``path`` only once it is complete.

    The content goes to a temporary name in the same folder and is renamed at the end, so that a reader sees the old
    file or the new one and never a part; after an exception the old file is untouched and the temporary one is gone.

    Raises:
        OSError: If the folder does not exist or cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"'{path}' cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Writes a whole file or none (see :func:`atomic_write`)."""
    with atomic_write(path) as file:
        file.write(content)


def write_text(path: Path | str, content: str) -> None:
    """Writes a whole UTF-8 text file or none (see :func:`atomic_write`)."""
    write_bytes(path, content.encode("utf-8"))


class OutputFolder:
    """A folder for one run's results, made and checked before any work is done.

    Args:
        path: The folder; it and its parents are made where they do not exist.
        overwrite: Whether a folder that holds something already may be used. Its files stay, apart from those that are
            written again.

    Raises:
        FileExistsError: If the folder holds something and ``overwrite`` is False.
        NotADirectoryError: If there is a file at ``path`` or at one of its parents.
        PermissionError: If the folder cannot be made or written.
    """

    def __init__(self, path: Path | str, overwrite: bool = False) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            content = sorted(entry.name for entry in self.path.iterdir())
            probe = self.path / f".{secrets.token_hex(4)}.tmp"
            probe.touch(exist_ok=False)
            probe.unlink()
        except (FileExistsError, NotADirectoryError) as error:
            raise NotADirectoryError(
                f"output folder '{self.path}' cannot be made: there is a file in its place; choose another folder"
            ) from error
        except OSError as error:
            raise PermissionError(
                f"output folder '{self.path}' cannot be written: {error.strerror or error}; choose another folder"
            ) from error
        if content and not overwrite:
            raise FileExistsError(
                f"output folder '{self.path}' already holds {len(content)} entries ({', '.join(content[:3])}, ...); "
                "choose another folder, or allow overwriting (--output.overwrite true of `predict`)"
            )

    def file(self, name: str) -> Path:
        """The path of a file in this folder; folders in ``name`` are made."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
