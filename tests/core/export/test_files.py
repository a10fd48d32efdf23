import os
import re
from pathlib import Path

import pytest

from posecore.export.files import OutputFolder, atomic_write, write_bytes, write_text


def test_writes_the_whole_file_and_leaves_no_other(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "ä\n")
    write_bytes(tmp_path / "b.bin", b"\x00\x01")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "ä\n"
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\x01"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.txt", "b.bin"]


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")

    def fail_half_way() -> None:
        with atomic_write(path) as file:
            file.write(b"new, but only the first half")
            raise KeyError("half way")

    with pytest.raises(KeyError, match="half way"):
        fail_half_way()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_the_old_file_is_there_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_write_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"no_such/a\.txt' cannot be written"):
        write_text(tmp_path / "no_such" / "a.txt", "x")


def test_write_over_a_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken' cannot be written"):
        write_text(tmp_path / "taken", "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_new_and_empty_folders_are_taken(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "runs" / "demo")
    assert folder.path.is_dir()
    assert list(folder.path.iterdir()) == []
    again = OutputFolder(tmp_path / "runs" / "demo")
    assert again.file("pictures/a.png") == folder.path / "pictures" / "a.png"
    assert (folder.path / "pictures").is_dir()


def test_full_folder_needs_permission_and_loses_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "result.json", "precious")
    with pytest.raises(FileExistsError, match=r"already holds 1 entries \(result\.json"):
        OutputFolder(tmp_path)
    OutputFolder(tmp_path, overwrite=True)
    assert (tmp_path / "result.json").read_text() == "precious"


@pytest.mark.parametrize("name", ["file.txt", "file.txt/below"])
def test_a_file_in_the_way(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / "file.txt", "x")
    with pytest.raises(NotADirectoryError, match=re.escape("there is a file in its place")):
        OutputFolder(tmp_path / name, overwrite=True)
    assert (tmp_path / "file.txt").read_text() == "x"


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    # A name longer than file systems allow: fails for every user, root too.
    with pytest.raises(PermissionError, match=r"cannot be written: .*choose another folder"):
        OutputFolder(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot be written"):
        OutputFolder(tmp_path)
    with pytest.raises(PermissionError, match="cannot be written"):
        OutputFolder(tmp_path / "below")
