"""2D keypoints of a folder with one file per picture, of OpenPose or MMPose."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from posecore.data.keypoint_rows import KeypointFile, KeypointRow, SetByCount, frames_of_names, is_list_of, load_json
from posecore.data.keypoints_mmpose import instance_rows
from posecore.data.keypoints_openpose import choice, is_openpose, is_tracked, openpose_rows, version

_WANTED = "not an OpenPose file; a folder must hold files of OpenPose, or of MMPose, one per picture"


def read_folder(folder: Path, joint_set: str | None, skip_broken: bool) -> KeypointFile:
    """The people of all files, in the order of the files' names.

    Args:
        folder: The folder.
        joint_set: Name of the joint set, where the number of joints does not tell it.
        skip_broken: Leaves out files that cannot be read, as long as they are no more than half.

    Raises:
        ValueError: If the folder has no such files, or one cannot be read, or more than half where these are skipped.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(f"{folder}: the folder holds no .json file; expected OpenPose files, one per frame")
    names = [path.stem.removesuffix("_keypoints") for path in files]
    frames, numbering = frames_of_names(names)
    read = _Folder(folder, joint_set)
    skipped: list[tuple[str, str]] = []
    first_error: ValueError | None = None
    for path, name, frame in zip(files, names, frames, strict=True):
        try:
            read.add(path, frame, name)
        except ValueError as error:
            first_error = first_error or error
            if not skip_broken:
                raise
            skipped.append((path.name, str(error).removeprefix(f"{path}: ")))
    if first_error is not None and len(skipped) > len(files) / 2:
        raise ValueError(f"{first_error} ({len(skipped)} of {len(files)} files of {folder} cannot be read)")
    said = f"folder of {len(files)} {read.format or 'OpenPose'} files, {numbering}"
    found, reason = (None, "") if read.chosen is None else (read.chosen.joint_set, read.chosen.reason)
    return KeypointFile(found, read.rows, said, reason, read.tracked and bool(read.rows), skipped=skipped)


class _Folder:
    """What was read of a folder; a file that cannot be read leaves no trace."""

    def __init__(self, folder: Path, joint_set: str | None) -> None:
        self.folder, self.joint_set = folder, joint_set
        self.format = ""
        self.chosen: SetByCount | None = None
        self.rows: list[KeypointRow] = []
        self.tracked = True

    def add(self, path: Path, frame: int, name: str) -> None:
        content = load_json(path)
        rows_of: Callable[[Any, SetByCount, int, str], Iterator[KeypointRow]]
        if is_openpose(content):
            kind, rows_of, tracked = version(content), openpose_rows, is_tracked(content)
            chosen = choice(path, self.joint_set)
        else:
            content = content.get("instance_info") if isinstance(content, dict) else content
            if not is_list_of(content, "keypoints", "keypoint_scores"):
                raise ValueError(f"{path}: {_WANTED}")
            kind, rows_of, tracked = "MMPose", instance_rows, False
            chosen = SetByCount(path, self.joint_set)
        if self.format and kind.split()[0] != self.format.split()[0]:
            raise ValueError(f"{path}: a file of {kind} among files of {self.format}")
        if self.chosen is not None:
            chosen = replace(self.chosen, path=path)
        rows = list(rows_of(content, chosen, frame, name))
        if rows:  # Of an empty list it is not known what wrote it.
            self.format, self.chosen = self.format or kind, chosen
            self.tracked &= tracked
            self.rows += rows
