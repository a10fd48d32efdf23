"""Readers of files with boxes of people.

| format | recognised by |
|---|---|
| COCO results, detections | a list of ``{image_id or file_name, bbox: [x, y, width, height], score}`` |
| COCO annotations | an object with ``images`` and ``annotations`` |
| by picture | ``{"picture.jpg": [[left, top, right, bottom], ...]}``, a fifth number is a score |
| CSV | ``.csv`` with the columns ``file_name x0 y0 x1 y1`` and, if wanted, ``score`` |

Pixels, x right and y down, (0, 0) is the upper left corner of the picture. Of COCO's categories "person" is read (1,
unless the file says otherwise), and what stands for a crowd is passed over.
"""

import csv
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_KNOWN_FORMATS = (
    "COCO results [{image_id, bbox, score}], COCO annotations {images, annotations}, "
    '{"picture.jpg": [[x0, y0, x1, y1], ...]}, or a .csv with the columns file_name, x0, y0, x1, y1'
)
_PERSON = 1


@dataclass(frozen=True)
class PersonBoxes:
    """Boxes of people (one row per person and picture).

    Attributes:
        boxes: Left, top, right, bottom, pixels.
        ids: One label per row: COCO's annotation, the place in a list of results, or the number within the picture.
        frames: Number of the row's picture in the file.
        image_names: The pictures' names; empty where the file does not say.
        num_skipped: How many boxes were left out, as they are of no person or not sure enough.
    """

    boxes: Float[Tensor, "people 4"]
    ids: tuple[str, ...]
    frames: tuple[int, ...]
    image_names: tuple[str, ...]
    num_skipped: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: list[int]) -> "PersonBoxes":
        """These rows only."""
        return PersonBoxes(
            self.boxes[rows],
            tuple(self.ids[row] for row in rows),
            tuple(self.frames[row] for row in rows),
            tuple(self.image_names[row] for row in rows),
            self.num_skipped,
        )


@dataclass(frozen=True)
class _Row:
    """One box as read, and what the file says of it."""

    label: str
    box: tuple[float, ...]
    id: str
    frame: int
    image_name: str
    score: float = 1.0
    is_person: bool = True


def read_boxes(path: Path, min_confidence: float = 0.0) -> PersonBoxes:
    """Reads boxes; the format is recognised from the content (table in the module's docstring).

    Args:
        path: The file.
        min_confidence: Boxes with a lower score are left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its format is unknown, a box is not four finite numbers or has no area, or none is left.
    """
    if not path.is_file():
        raise FileNotFoundError(f"boxes: there is no file {path}")
    if path.suffix.lower() == ".csv":
        rows = _read_csv(path)
    else:
        content = _load_json(path)
        entries = content.get("annotations") if isinstance(content, dict) else content
        if isinstance(entries, list) and all(isinstance(entry, dict) and "bbox" in entry for entry in entries):
            rows = _read_coco(path, content, entries)
        elif isinstance(content, dict) and all(isinstance(boxes, list) for boxes in content.values()):
            rows = _read_by_picture(path, content)
        else:
            raise ValueError(f"{path}: unknown format of boxes; known are {_KNOWN_FORMATS}")
    kept = [row for row in rows if row.is_person and row.score >= min_confidence]
    if not kept:
        raise ValueError(
            f"{path}: none of {len(rows)} boxes is one of a person with a score of at least {min_confidence}"
        )
    for row in kept:
        if not (row.box[0] < row.box[2] and row.box[1] < row.box[3]):
            raise ValueError(f"{path}: {row.label} has no area: it goes from {row.box[:2]} to {row.box[2:]} px")
    return PersonBoxes(
        torch.tensor([row.box for row in kept]),
        tuple(row.id for row in kept),
        tuple(row.frame for row in kept),
        tuple(row.image_name for row in kept),
        len(rows) - len(kept),
    )


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error}); known formats are {_KNOWN_FORMATS}") from error


def _read_coco(path: Path, content: Any, entries: list[dict[str, Any]]) -> list[_Row]:
    """Results and annotations."""
    listed = content if isinstance(content, dict) else {}
    images = {image["id"]: image for image in listed.get("images") or [] if isinstance(image, dict) and "id" in image}
    persons = {
        category.get("id")
        for category in listed.get("categories") or []
        if isinstance(category, dict) and category.get("name") == "person"
    } or {_PERSON}
    frames = {key: frame for frame, key in enumerate(images)}
    rows = []
    for index, entry in enumerate(entries):
        key = entry.get("image_id", entry.get("file_name", ""))
        label = f"box {entry.get('id', index)} of {key!r}"
        x, y, width, height = _numbers(path, label, entry["bbox"], "x, y, width, height")
        image = images.get(key, {})
        rows.append(
            _Row(
                label,
                (x, y, x + width, y + height),
                str(entry.get("id", index)),
                frames.setdefault(key, len(frames)),
                str(image.get("file_name", entry.get("file_name", key))),
                _score(path, label, entry.get("score", 1.0)),
                entry.get("category_id") in {None, *persons} and not entry.get("iscrowd"),
            )
        )
    return rows


def _read_by_picture(path: Path, content: dict[str, list[Any]]) -> list[_Row]:
    rows = []
    for frame, (name, boxes) in enumerate(content.items()):
        for number, values in enumerate(boxes):
            label = f"box {number} of {name!r}"
            scored = isinstance(values, list) and len(values) == 5
            box = _numbers(path, label, values[:4] if scored else values, "x0, y0, x1, y1")
            score = _score(path, label, values[4]) if scored else 1.0
            rows.append(_Row(label, box, str(number), frame, name, score))
    return rows


def _read_csv(path: Path) -> list[_Row]:
    columns = ("x0", "y0", "x1", "y1")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file, skipinitialspace=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file ({error}); known formats are {_KNOWN_FORMATS}") from error
    if not lines or not {"file_name", *columns} <= set(lines[0]):
        found = ", ".join(str(name) for name in lines[0]) if lines else "no line"
        raise ValueError(f"{path}: needs the columns file_name, {', '.join(columns)}, and has {found}")
    frames: dict[str, int] = {}
    in_picture: Counter[str] = Counter()
    rows = []
    for line in lines:
        name = line["file_name"]
        label = f"box {in_picture[name]} of {name!r}"
        box = _numbers(path, label, [line[column] for column in columns], ", ".join(columns))
        score = _score(path, label, line.get("score") or 1.0)
        rows.append(_Row(label, box, str(in_picture[name]), frames.setdefault(name, len(frames)), name, score))
        in_picture[name] += 1
    return rows


def _numbers(path: Path, label: str, values: Any, what: str) -> tuple[float, ...]:
    """Four finite numbers."""
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{path}: {label} must be four finite numbers {what}, not {values!r}")
    return numbers


def _score(path: Path, label: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: the score of {label} must be a number, not {value!r}") from error
