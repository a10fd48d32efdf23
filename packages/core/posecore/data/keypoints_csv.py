"""2D keypoints of tables (CSV) with a header.

| form | columns |
|---|---|
| long | ``frame, person, joint, x, y, confidence``: one line per joint |
| wide | ``frame, person, nose_x, nose_y, nose_confidence, left_hip_x, ...``: one line per person and frame |

``frame``, ``person``, ``image`` and the confidences may be left out: lines without a frame are frame 0 in the long form
and counted in the wide one, a joint without a confidence has been seen, an empty cell or NaN has not. Cells are split
at the commas, semicolons or tabs of the header; with semicolons, numbers may have a decimal comma.
"""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from posecore.body.skeletons import JointSet
from posecore.data.keypoint_rows import KeypointFile, KeypointRow, joint_name, set_with_joints

_FRAME = ("frame", "frame_id", "frame_index", "frame_number")
_PERSON = ("person", "person_id", "track", "track_id", "id")
_IMAGE = ("image", "image_name", "image_id", "file", "file_name", "filename")
_JOINT = ("joint", "joint_name", "keypoint", "bodypart")
_CONFIDENCE = ("confidence", "conf", "c", "score", "likelihood", "visibility", "v", "s")
_EXPECTED = "frame, person, joint, x, y, confidence or frame, person, nose_x, nose_y, nose_confidence, ..."


def read_csv(path: Path, joint_set: str | None) -> KeypointFile:
    """The people of a table.

    Raises:
        ValueError: If it has no such header, or a line is not what it must be.
    """
    table = _Table(path)
    return _read_long(table, joint_set) if table.find(_JOINT) is not None else _read_wide(table, joint_set)


class _Table:
    """A header, and lines of as many cells."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8-sig")
            head = text.split("\n", 1)[0]
            self.delimiter = max(",;\t", key=head.count)
            lines = list(csv.reader(text.splitlines(), delimiter=self.delimiter))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: not a table of text ({error}); expected columns {_EXPECTED}") from error
        self.header = [joint_name(cell) for cell in lines[0]] if lines else []
        if repeated := [name for name, count in Counter(self.header).items() if count > 1]:
            raise ValueError(f"{path}: column {repeated[0]!r} comes twice")
        self.lines = [(number, cells) for number, cells in enumerate(lines[1:], start=2) if any(map(str.strip, cells))]
        for number, cells in self.lines:
            if len(cells) != len(self.header):
                raise ValueError(f"{path}: line {number} has {len(cells)} cells; the header has {len(self.header)}")

    def find(self, names: Sequence[str]) -> int | None:
        """Number of the first column that has one of the names."""
        return next((self.header.index(name) for name in names if name in self.header), None)

    def numbers(self, column: int) -> np.ndarray:
        """The column's numbers; an empty cell is NaN."""
        values = np.empty(len(self.lines))
        for row, (number, cells) in enumerate(self.lines):
            cell = cells[column].strip()
            try:
                values[row] = float((cell.replace(",", ".") if self.delimiter == ";" else cell) or math.nan)
            except ValueError as error:
                raise ValueError(
                    f"{self.path}: line {number}: {self.header[column]} must be a number, not {cell!r}"
                ) from error
            if math.isinf(values[row]):
                raise ValueError(f"{self.path}: line {number}: {self.header[column]} must be finite, not {cell!r}")
        return values

    def texts(self, names: Sequence[str], default: str) -> list[str]:
        """The cells of a column, or the default where there is none."""
        column = self.find(names)
        return [default if column is None else cells[column].strip() for _, cells in self.lines]

    def frames(self) -> list[int] | None:
        """The frame numbers; None where there is no such column."""
        column = self.find(_FRAME)
        if column is None:
            return None
        values = self.numbers(column)
        if wrong := np.flatnonzero(~(values == np.floor(values))).tolist():
            number, cells = self.lines[wrong[0]]
            raise ValueError(f"{self.path}: line {number}: frame must be a whole number, not {cells[column]!r}")
        return [int(value) for value in values]


def _seen(x: np.ndarray, y: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """x, y, confidence in the last dimension; what is not there gets confidence 0."""
    values = np.stack([x, y, confidence], axis=-1)
    return np.where(np.isnan(values).any(axis=-1, keepdims=True), 0.0, values)


def _read_long(table: _Table, joint_set: str | None) -> KeypointFile:
    column_of = {name: table.find(names) for name, names in (("x", ("x",)), ("y", ("y",)), ("joint", _JOINT))}
    if missing := [name for name, column in column_of.items() if column is None]:
        raise ValueError(
            f"{table.path}: no column {missing[0]!r} among {', '.join(table.header)}; expected {_EXPECTED}"
        )
    joints = table.texts(_JOINT, "")
    chosen, reason = set_with_joints(table.path, list(dict.fromkeys(joints)), joint_set)
    confidence_column = table.find(_CONFIDENCE)
    confidence = np.ones(len(table.lines)) if confidence_column is None else table.numbers(confidence_column)
    x, y = (table.numbers(table.header.index(name)) for name in "xy")
    values = _seen(x, y, confidence)
    frames = table.frames() or [0] * len(table.lines)
    people, images = table.texts(_PERSON, "0"), table.texts(_IMAGE, "")
    index_of = {joint: chosen.index(joint_name(joint)) for joint in set(joints)}
    rows: dict[tuple[int, str, str], KeypointRow] = {}
    filled: set[tuple[int, str, str, int]] = set()
    for line, key in enumerate(zip(frames, people, images, strict=True)):
        row = rows.setdefault(key, KeypointRow(np.zeros((chosen.num_joints, 3)), key[1], key[0], key[2]))
        joint = index_of[joints[line]]
        if (*key, joint) in filled:
            raise ValueError(
                f"{table.path}: line {table.lines[line][0]}: joint {joints[line]!r} of person {key[1]!r} comes twice "
                f"in frame {key[0]}"
            )
        filled.add((*key, joint))
        row.values[joint] = values[line]
    return _file(table, list(rows.values()), chosen, reason, "long", confidence_column is not None)


def _read_wide(table: _Table, joint_set: str | None) -> KeypointFile:
    joints = [name.removesuffix("_x") for name in table.header if name.endswith("_x")]
    if not joints:
        raise ValueError(
            f"{table.path}: no column 'joint', and none that ends in '_x', among {', '.join(table.header)}; expected "
            f"{_EXPECTED}"
        )
    if missing := [joint for joint in joints if f"{joint}_y" not in table.header]:
        raise ValueError(f"{table.path}: no column '{missing[0]}_y' beside '{missing[0]}_x'")
    chosen, reason = set_with_joints(table.path, joints, joint_set)
    values = np.zeros((len(table.lines), chosen.num_joints, 3))
    with_confidence = False
    for joint in joints:
        column = table.find([f"{joint}_{name}" for name in _CONFIDENCE])
        with_confidence |= column is not None
        confidence = np.ones(len(table.lines)) if column is None else table.numbers(column)
        x, y = (table.numbers(table.header.index(f"{joint}_{axis}")) for axis in "xy")
        values[:, chosen.index(joint)] = _seen(x, y, confidence)
    people, images = table.texts(_PERSON, "0"), table.texts(_IMAGE, "")
    frames = table.frames()
    if frames is None:
        counts: Counter[str] = Counter()
        frames = []
        for person in people:
            frames.append(counts[person])
            counts[person] += 1
    seen: set[tuple[int, str, str]] = set()
    rows = []
    for line, (frame, person, image) in enumerate(zip(frames, people, images, strict=True)):
        if (frame, person, image) in seen:
            raise ValueError(
                f"{table.path}: line {table.lines[line][0]}: person {person!r} comes twice in frame {frame}"
            )
        seen.add((frame, person, image))
        rows.append(KeypointRow(values[line], person, frame, image))
    return _file(table, rows, chosen, reason, "wide", with_confidence)


def _file(
    table: _Table, rows: list[KeypointRow], chosen: JointSet, reason: str, form: str, with_confidence: bool
) -> KeypointFile:
    said = f"CSV in the {form} form"
    if not with_confidence:
        said += " without confidences, joints that have a place taken as seen"
    return KeypointFile(chosen, rows, said, reason, table.find(_PERSON) is not None)
