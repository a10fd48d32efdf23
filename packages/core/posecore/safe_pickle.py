"""Reads pickles of arrays and containers without running any code that they name.

Body models, 3DPW, EMDB and VideoPose3D come as pickles, and a pickle is a program: ``pickle.load`` calls whatever the
file asks for. Here a pickle may build builtin containers and NumPy arrays, nothing else. Arrays are decoded from their
raw bytes, not by NumPy's own unpickling. Classes that a caller names become inert :class:`StandIn` records, so that a
file can be read without the package that wrote it. Everything else is refused.

This keeps a file from running code. It does not keep a crafted file from asking for more memory than there is.
"""

import collections
import math
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

__all__ = ["StandIn", "UnsafePickleError", "load_npz", "load_pickle"]

_CORRUPT = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)

# Plain numbers, booleans, strings and objects; no records, dates or bare memory.
_DTYPE_CODE = re.compile(r"[?biufcSUO]\d*")


class UnsafePickleError(ValueError):
    """A pickle asks for something that plain data does not need."""


class StandIn:
    """What a pickle holds of an object whose class was allowed by name: arguments and state, no behaviour.

    Attributes:
        qualified_name: Module and class in the file, for example ``"scipy.sparse.csc.csc_matrix"``.
        args: Arguments the object was made with.
        state: What its ``__setstate__`` would have been given, usually its ``__dict__``.
    """

    qualified_name: str = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Self:
        """Keeps the arguments."""
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __init__(self, *args: Any) -> None:
        """Takes what ``__new__`` has kept."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


def load_pickle(path: Path | str, allow: Collection[str] = ()) -> Any:
    """Loads a pickle that holds containers and arrays.

    Args:
        path: The file. Pickles of Python 2 are read as latin-1.
        allow: Qualified names of classes to read as :class:`StandIn`; ``"chumpy.*"`` allows all below that package.

    Returns:
        What the file holds. Arrays are writable and own their memory.

    Raises:
        FileNotFoundError: There is no such file.
        UnsafePickleError: The file asks for anything but plain data. Nothing was run.
        ValueError: The file is no pickle, or is corrupt or cut off.
    """
    path = Path(path)
    with path.open("rb") as file:
        return _load(file, str(path), allow)


def load_npz(path: Path | str, allow: Collection[str] = ()) -> dict[str, Any]:
    """Loads every array of an ``.npz``; arrays of objects through the same restrictions as :func:`load_pickle`.

    Args:
        path: The file.
        allow: As in :func:`load_pickle`.

    Returns:
        Arrays by name, in the file's order.

    Raises:
        FileNotFoundError: There is no such file.
        UnsafePickleError: An array of objects asks for anything but plain data. Nothing was run.
        ValueError: The file is no ``.npz``, or is corrupt or cut off.
    """
    path = Path(path)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    arrays[member.removesuffix(".npy")] = _read_npy(file, f"{path} [{member}]", allow)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} is not a whole .npz file: {error}") from error
    return arrays


def _read_npy(file: IO[bytes], label: str, allow: Collection[str]) -> Any:
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        dtype = read_header(file)[2]
        if not dtype.hasobject:
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, MemoryError) as error:
        raise ValueError(f"{label} is not a whole .npy array: {error}") from error
    return _load(file, label, allow)  # the header of an array of objects is followed by its pickle


def _load(file: IO[bytes], label: str, allow: Collection[str]) -> Any:
    try:
        return _with_arrays(_Unpickler(file, label, allow).load(), {})
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{label} {error}; nothing was run") from error
    except _CORRUPT as error:
        raise ValueError(f"{label} is not a whole pickle of plain data: {error or type(error).__name__}") from error


class _Unpickler(pickle.Unpickler):
    """Finds only what plain data needs."""

    def __init__(self, file: IO[bytes], label: str, allow: Collection[str]) -> None:
        super().__init__(file, fix_imports=False, encoding="latin1")
        self.label = label
        self.allow = allow
        self.stand_ins: dict[str, type[StandIn]] = {}

    def find_class(self, module: str, name: str) -> Any:
        qualified = f"{module}.{name}"
        if qualified in _PLAIN:
            return _PLAIN[qualified]
        if any(qualified == a or (a.endswith(".*") and qualified.startswith(a[:-1])) for a in self.allow):
            return self.stand_ins.setdefault(qualified, type("StandIn", (StandIn,), {"qualified_name": qualified}))
        also = f" and {', '.join(sorted(self.allow))}" if self.allow else ""
        raise UnsafePickleError(f"asks for {qualified!r}, but only containers and NumPy arrays{also} are read")

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError(f"asks for {pid!r}, an object outside the file")


class _Call:
    """A function that a pickle may call and, unlike a bare function, not alter."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickleError(f"alters {self._function.__name__!r}")


class _DType:
    """Stands for ``numpy.dtype`` while a pickle is read; only the byte order is taken from its state."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _DTYPE_CODE.fullmatch(code):
            raise UnsafePickleError(f"holds an array of type {code!r}, which is no plain data")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, *nested = state[1:5]
        if any(part is not None for part in nested):
            raise UnsafePickleError("holds an array of records, which is no plain data")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for a ``numpy.ndarray`` while a pickle is read; becomes the array once the whole file is there."""

    array: np.ndarray

    def __init__(self, *_: Any) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, raw = state
        self.array = _array(raw, kind, shape, "F" if is_fortran else "C")


def _array(raw: Any, kind: _DType, shape: Any, order: str) -> np.ndarray:
    """An array from its raw bytes, or from a list if it holds objects."""
    dtype = kind.dtype
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if dtype.hasobject:
        if not isinstance(raw, list) or len(raw) != math.prod(shape):
            raise ValueError(f"an array of objects of shape {shape} does not come with as many objects")
        objects = np.empty(len(raw), dtype=object)
        objects[:] = raw
        return objects.reshape(shape)
    data = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
    if min(shape, default=0) < 0 or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of shape {shape} and type {dtype} does not come with as many bytes ({len(data)})")
    if not data:
        return np.empty(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C").copy(order="K")


def _scalar(kind: _DType, raw: Any = b"") -> Any:
    if kind.dtype.hasobject:
        raise UnsafePickleError("holds a NumPy scalar that is an object")
    return _array(raw, kind, (), "C")[()]


def _from_buffer(raw: Any, kind: _DType, shape: Any, order: str, *_: Any) -> np.ndarray:
    if kind.dtype.hasobject:
        raise UnsafePickleError("holds objects in a raw buffer")
    return _array(raw, kind, shape, order)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes ``bytes`` with pickle protocols that do not have them."""
    if encoding.lower().replace("-", "") not in ("latin1", "utf8", "ascii"):
        raise UnsafePickleError(f"holds bytes in the encoding {encoding!r}")
    return text.encode(encoding)


def _bytearray(data: str | bytes = b"", encoding: str = "latin1") -> bytearray:
    return bytearray(_encode(data, encoding) if isinstance(data, str) else data if isinstance(data, bytes) else b"")


def _reconstruct(cls: Any, base: Any, state: Any) -> StandIn:
    """How Python 2 writes an object of a class."""
    if base is not object or state is not None:
        raise UnsafePickleError("holds an object that derives from a builtin")
    return _new_object(cls)


def _new_object(cls: Any, *args: Any) -> StandIn:
    if not (isinstance(cls, type) and issubclass(cls, StandIn)):
        raise UnsafePickleError(f"makes an object of {cls!r}")
    return cls(*args)


_PLAIN: dict[str, Any] = {
    "_codecs.encode": _Call(_encode),
    "collections.OrderedDict": collections.OrderedDict,
    "copy_reg._reconstructor": _Call(_reconstruct),
    "copyreg._reconstructor": _Call(_reconstruct),
    "copyreg.__newobj__": _Call(_new_object),
    "numpy.dtype": _DType,
    "numpy.ndarray": _Array,
}
for _module in ("builtins", "__builtin__"):
    _PLAIN |= {f"{_module}.{kind.__name__}": kind for kind in (complex, frozenset, object, set)}
    _PLAIN |= {f"{_module}.bytearray": _Call(_bytearray), f"{_module}.bytes": _Call(lambda: b"")}
for _module in ("numpy.core", "numpy._core"):
    _PLAIN |= {f"{_module}.multiarray._reconstruct": _Array, f"{_module}.multiarray.scalar": _Call(_scalar)}
    _PLAIN |= {f"{_module}.numeric._frombuffer": _Call(_from_buffer)}


def _with_arrays(value: Any, seen: dict[int, Any]) -> Any:
    """Puts the arrays in place of their stand-ins, everywhere below `value`."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, _Array):
        # Entered before its objects are looked at: an array of objects may hold itself.
        seen[id(value)] = value.array
        if value.array.dtype.hasobject:
            flat = value.array.reshape(-1)
            for i, item in enumerate(flat):
                flat[i] = _with_arrays(item, seen)
        return value.array
    seen[id(value)] = value
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = _with_arrays(item, seen)
    elif isinstance(value, list):
        value[:] = [_with_arrays(item, seen) for item in value]
    elif isinstance(value, tuple):
        seen[id(value)] = value = tuple(_with_arrays(item, seen) for item in value)
    elif isinstance(value, StandIn):
        value.args, value.state = _with_arrays(value.args, seen), _with_arrays(value.state, seen)
    elif isinstance(value, _DType):
        return value.dtype
    return value
