"""Tables in the layouts of ScoreHMR's release: a column per key, in one npz or pkl, or in a pickled list of groups.

The release's files of annotations and its caches of predictions and features all come in these layouts.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.files import Gender
from posecore.data.benchmark_files import check_shape, get_key
from posecore.safe_pickle import load_npz, load_pickle

_PARTS = (("body", 25), ("extra", 19))  # The joints of joints44: OpenPose's, then others; the files hold them apart.
_SMALLEST_BOX = 8  # Pixels; in units of 200 px a box would have to be 1600 px wide to be taken for one in pixels.
_FEATURE_KEYS = ("pose_feats", "features")
_GENDERS: dict[str, Gender] = {
    **dict.fromkeys(("m", "male", "0"), "male"),
    **dict.fromkeys(("f", "female", "1"), "female"),
    **dict.fromkeys(("n", "neutral", "-1"), "neutral"),
}


def read_columns(path: Path, keys: Collection[str]) -> dict[str, Any]:
    """A table of columns: an npz, a pickled dict, or a pickled list of dicts, whose rows are joined in order.

    Args:
        path: the file; all but ``.npz`` is read as a pickle.
        keys: which columns of a list are joined.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none of these, or is unsafe, corrupt or cut off.
    """
    content = load_npz(path) if path.suffix.lower() == ".npz" else load_pickle(path)
    if isinstance(content, dict):
        return content
    return _join(content, keys, path)[0]


def read_groups(path: Path, keys: Collection[str]) -> tuple[dict[str, Any], list[int]]:
    """The joined columns of a pickled list of groups, and the number of rows of each group.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such list, groups have different columns, or is unsafe, corrupt or cut off.
    """
    return _join(load_pickle(path), keys, path)


def flags(columns: dict[str, Any], key: str, rows: int, path: Path) -> np.ndarray:
    """Which rows know ``key``: what ``has_<key>`` says; all where it is missing, none where ``key`` is missing.

    Raises:
        ValueError: if the flags are no numbers, or not one for each row.
    """
    if key not in columns:
        return np.zeros(rows, dtype=bool)
    flag = f"has_{key}"
    if flag not in columns:
        return np.ones(rows, dtype=bool)
    known: np.ndarray = check_shape(flag, columns[flag], (rows,), path) != 0
    return known


def known_rows(columns: dict[str, Any], key: str, known: np.ndarray, width: int, path: Path) -> np.ndarray:
    """Column ``key`` (rows, ``width``) with 0 in the rows that are not known, whatever the file has there.

    Raises:
        ValueError: if the shape is wrong or a known row is not finite.
    """
    if key not in columns:
        return np.zeros((len(known), width))
    values = np.asarray(columns[key])
    if values.shape == (len(known), width):
        values = np.where(known[:, None], values, 0)
    return check_shape(key, values, (len(known), width), path)


def keypoints(
    columns: dict[str, Any], kind: str, rows: int, path: Path
) -> tuple[Float[np.ndarray, "rows 44 coordinates"], Float[np.ndarray, "rows 44"]]:
    """Coordinates and confidence of all 44 joints; 0 and 0 where a joint or a whole column is not there.

    Args:
        columns: the table.
        kind: "2d" or "3d".
        rows: number of rows.
        path: named in errors.

    Raises:
        ValueError: if a shape is wrong or a known joint is not finite.
    """
    width = {"2d": 3, "3d": 4}[kind]
    parts = [joint_column(columns, f"{part}_keypoints_{kind}", (rows, joints, width), path) for part, joints in _PARTS]
    joined = np.concatenate(parts, axis=1)
    return joined[..., :-1], joined[..., -1].clip(0, 1)


def joint_column(
    columns: dict[str, Any], key: str, shape: tuple[int, int, int], path: Path
) -> Float[np.ndarray, "rows joints width"]:
    """A column of joints whose last number is a confidence; 0 where that is 0, or where there is no such column.

    Raises:
        ValueError: if the shape is wrong or a known joint is not finite.
    """
    values = np.asarray(columns.get(key, np.zeros(shape)))
    if values.shape == shape:  # What stands in place of an unknown joint does not matter, even if it is NaN.
        values = np.where(values[..., -1:] == 0, 0, values)
    return check_shape(key, values, shape, path)


def box_sides(scale: Any, rows: int, path: Path, pixels_per_scale: float = 1.0) -> Float[np.ndarray, " rows"]:
    """Sides of square crops, pixels, from the column ``scale``: (N,), or (N, 2), where the longer side counts.

    The loaders of ScoreHMR, ProHMR and 4D-Humans for single pictures divide ``scale`` by 200 and multiply by 200 again,
    ScoreHMR's for groups takes it as it is: in these layouts it is in pixels. SPIN's files hold the side by 200 px.

    Args:
        scale: the column.
        rows: number of rows.
        path: named in errors.
        pixels_per_scale: pixels that a ``scale`` of 1 stands for: 1, or 200 as in SPIN's files.

    Raises:
        ValueError: if it has another shape, a side is not above 0, or most sides are less than 8 px.
    """
    is_flat = np.ndim(scale) == 1
    sides = check_shape("scale", scale, (rows,) if is_flat else (rows, 2), path)
    longest: np.ndarray = pixels_per_scale * (sides if is_flat else sides.max(axis=1))
    if rows and longest.min() <= 0:
        raise ValueError(f"{path}: scale has a side of {longest.min():g}, expected sides above 0 px")
    if rows and np.median(longest) < _SMALLEST_BOX:
        raise ValueError(
            f"{path}: half of the boxes of scale are at most {np.median(longest):.3g} px wide, too small for people: "
            "is it in units of 200 px, which pixels_per_scale=200 of SMPLNpz reads?"
        )
    return longest


def texts(columns: dict[str, Any], key: str, path: Path) -> list[str]:
    """A column of texts or whole numbers as text.

    Raises:
        ValueError: if it is not there, or no flat column.
    """
    values = np.asarray(get_key(columns, key, path))
    if values.ndim != 1:
        raise ValueError(f"{path}: {key} has shape {values.shape}, expected one text or number for each row")
    if np.issubdtype(values.dtype, np.number):
        return [f"{value:g}" for value in values]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def read_features(path: Path, rows: int) -> Float[Tensor, "rows features"]:
    """A cache of image features: ``pose_feats`` (N, C, J) flattened channel by channel, or ``features`` (N, F).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has neither, another number of rows, or is broken.
    """
    columns = read_columns(path, _FEATURE_KEYS)
    key = next((key for key in _FEATURE_KEYS if key in columns), None)
    if key is None:
        raise ValueError(f"{path}: has none of {', '.join(_FEATURE_KEYS)} (it holds {', '.join(columns)})")
    # Not by way of float64: features take gigabytes.
    values = np.asarray(columns[key])
    if values.ndim != (3 if key == "pose_feats" else 2) or not np.issubdtype(values.dtype, np.floating):
        wanted = "(rows, channels, joints)" if key == "pose_feats" else "(rows, features)"
        raise ValueError(f"{path}: {key} has shape {values.shape} and type {values.dtype}, expected floats {wanted}")
    if len(values) != rows:
        raise ValueError(f"{path}: holds features of {len(values)} rows, but the data set has {rows} rows")
    features = torch.from_numpy(values.reshape(rows, int(np.prod(values.shape[1:]))).astype(np.float32, copy=False))
    if not bool(torch.isfinite(features).all()):
        raise ValueError(f"{path}: {key} holds values that are not finite numbers")
    return features


def read_genders(columns: dict[str, Any], rows: int, path: Path) -> np.ndarray:
    """Whose SMPL the parameters of each row are of: "male", "female" or "neutral", which is also what is not said.

    Raises:
        ValueError: if a gender is unknown, or the rows are not as many.
    """
    if "gender" not in columns:
        return np.full(rows, "neutral")
    found = texts(columns, "gender", path)
    if len(found) != rows:
        raise ValueError(f"{path}: gender is of {len(found)} rows, but there are {rows}")
    if unknown := sorted(set(found) - set(_GENDERS)):
        raise ValueError(f"{path}: gender {', '.join(unknown)} unknown, valid are {', '.join(_GENDERS)}")
    return np.array([_GENDERS[gender] for gender in found], dtype="<U7")


def _join(groups: Any, keys: Collection[str], path: Path) -> tuple[dict[str, Any], list[int]]:
    if not isinstance(groups, list) or not groups or not all(isinstance(group, dict) for group in groups):
        raise ValueError(f"{path}: holds a {type(groups).__name__}, expected a list of dicts, one for each group")
    shared = [key for key in groups[0] if key in keys]
    if not shared:
        raise ValueError(f"{path}: has none of {', '.join(keys)}; its groups hold {', '.join(map(str, groups[0]))}")
    counts = [_group_rows(group, shared, number, path) for number, group in enumerate(groups)]
    columns = {}
    for key in shared:
        try:
            columns[key] = np.concatenate([np.asarray(group[key]) for group in groups])
        except ValueError as error:
            raise ValueError(f"{path}: {key} differs in shape between groups: {error}") from error
    return columns, counts


def _group_rows(group: dict[str, Any], keys: Sequence[str], number: int, path: Path) -> int:
    where = path / f"group {number}"
    lengths = {key: np.shape(get_key(group, key, where))[:1] for key in keys}
    if len(set(lengths.values())) != 1 or () in lengths.values():
        found = ", ".join(f"{key} {length[0] if length else 'no'} rows" for key, length in lengths.items())
        raise ValueError(f"{where}: its columns need the same number of rows, got {found}")
    return int(next(iter(lengths.values()))[0])
