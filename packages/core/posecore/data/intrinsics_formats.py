"""Formats of intrinsics files: JSON, OpenCV's YAML and XML, ROS's YAML, plain text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml

_MATRICES = ("K", "camera_matrix", "cameraMatrix", "Camera_Matrix", "intrinsic_matrix", "intrinsics")
_DISTORTIONS = ("distortion_coefficients", "dist_coeffs", "distCoeffs", "Distortion_Coefficients", "distortion")
_WIDTHS, _HEIGHTS = ("width", "image_width", "image_Width"), ("height", "image_height", "image_Height")
_EXPECTED = (
    'JSON {"K": 3 x 3} or {"fx", "fy", "cx", "cy"}, OpenCV\'s YAML or XML with camera_matrix, or a text file of 3 x 3 '
    "numbers"
)


@dataclass(frozen=True)
class Stated:
    """What a file states, pixels.

    Attributes:
        focal_length: (fx, fy).
        center: (cx, cy); None where it is left out.
        skew: K[0, 1].
        image_size: Width and height of the picture that it is for; None where it is left out.
        is_distorted: Whether it has distortion coefficients that are not 0.
    """

    focal_length: tuple[float, float]
    center: tuple[float, float] | None = None
    skew: float = 0.0
    image_size: tuple[int, int] | None = None
    is_distorted: bool = False


def read_stated(path: Path) -> Stated:
    """Reads an intrinsics file, told apart by its suffix and its first characters.

    Raises:
        ValueError: If it is none, or K is no camera matrix.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = _parsed(path, text)
    except (ValueError, RecursionError, yaml.YAMLError, ElementTree.ParseError) as error:
        raise ValueError(f"{path}: cannot be read ({str(error).splitlines()[0]}); expected {_EXPECTED}") from error
    if not isinstance(content, dict):
        content = {"K": content}
    size = (_first(content, _WIDTHS), _first(content, _HEIGHTS))
    image_size = None
    if size != (None, None):
        image_size = _size(path, size)
    elif content.get("image_size") is not None:
        image_size = _size(path, content["image_size"])
    coefficients = _array(_first(content, _DISTORTIONS))
    is_distorted = coefficients is not None and bool((coefficients != 0).any())
    matrix = _first(content, _MATRICES)
    if matrix is None and "fx" in content:
        numbers = {
            key: _array(content.get(key, content["fx"] if key == "fy" else None)) for key in ("fx", "fy", "cx", "cy")
        }
        fx, fy, cx, cy = (None if value is None or value.shape else float(value) for value in numbers.values())
        if fx is None or fy is None or min(fx, fy) <= 0 or (cx is None) != (cy is None):
            raise ValueError(f"{path}: fx and fy must be above 0 px, and cx and cy numbers or left out")
        center = None if cx is None or cy is None else (cx, cy)
        return Stated((fx, fy), center, 0.0, image_size, is_distorted)
    K = _array(matrix)
    if matrix is None or K is None or K.size != 9:
        raise ValueError(f"{path}: holds no 3 x 3 matrix of numbers as K; expected {_EXPECTED}")
    K = K.reshape(3, 3)
    if min(K[0, 0], K[1, 1]) <= 0 or K[1, 0] or K[2].tolist() != [0, 0, 1]:
        raise ValueError(f"{path}: K must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]], fx, fy above 0, not {K.tolist()}")
    (fx, skew, cx), (_, fy, cy), _ = K.tolist()
    return Stated((fx, fy), (cx, cy), skew, image_size, is_distorted)


def _parsed(path: Path, text: str) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".json" or text.lstrip().startswith(("{", "[[")):
        return json.loads(text)
    if suffix == ".xml" or text.lstrip().startswith("<"):
        return _parsed_xml(text)
    if suffix in (".yaml", ".yml") or text.startswith("%YAML"):
        # YAML 1.0's colon in the directive, which is OpenCV's, is none that today's YAML knows.
        return yaml.load("\n".join(line for line in text.split("\n") if not line.startswith("%")), _OpenCVLoader)
    return [[float(cell) for cell in line.replace(",", " ").split()] for line in text.splitlines() if line.strip()]


def _parsed_xml(text: str) -> dict[str, Any]:
    if "<!" in text.replace("<!--", ""):
        raise ValueError("it declares entities, which no intrinsics file needs")
    content: dict[str, Any] = {}
    for node in ElementTree.fromstring(text):
        data = node.find("data")
        words = (node.text if data is None else data.text) or ""
        numbers = (
            [float(word) for word in words.split()] if data is not None or node.tag in _WIDTHS + _HEIGHTS else None
        )
        content[node.tag] = numbers[0] if data is None and numbers else numbers
    return content


class _OpenCVLoader(yaml.SafeLoader):
    """A safe loader that knows OpenCV's matrices."""


def _matrix(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Any:
    return loader.construct_mapping(node, deep=True)


_OpenCVLoader.add_constructor("tag:yaml.org,2002:opencv-matrix", _matrix)


def _first(content: dict[str, Any], names: tuple[str, ...]) -> Any:
    value = next((content[name] for name in names if content.get(name) is not None), None)
    return value.get("data") if isinstance(value, dict) else value


def _array(value: Any) -> np.ndarray | None:
    """Finite numbers, or None."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return array if np.isfinite(array).all() else None


def _size(path: Path, size: Any) -> tuple[int, int]:
    sides = _array(size)
    if sides is None or sides.shape != (2,) or bool((sides <= 0).any()):
        raise ValueError(f"{path}: width and height must both be above 0 px, not {size!r}")
    return int(sides[0]), int(sides[1])
