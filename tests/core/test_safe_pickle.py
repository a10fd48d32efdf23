import collections
import contextlib
import io
import os
import pickle
import struct
import zipfile
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from posecore.safe_pickle import StandIn, UnsafePickleError, load_npz, load_pickle


def write(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def assert_same(loaded, value):
    assert type(loaded) is type(value)
    if isinstance(value, dict):
        assert list(loaded) == list(value)
        for key in value:
            assert_same(loaded[key], value[key])
    elif isinstance(value, (list, tuple)):
        assert len(loaded) == len(value)
        for item, expected in zip(loaded, value, strict=True):
            assert_same(item, expected)
    elif isinstance(value, np.ndarray):
        assert loaded.dtype == value.dtype
        assert loaded.shape == value.shape
        if value.dtype.hasobject:
            for item, expected in zip(loaded.ravel(), value.ravel(), strict=True):
                assert_same(item, expected)
        else:
            np.testing.assert_array_equal(loaded, value)
    else:
        assert loaded == value


CONTENT = {
    "containers": [
        1,
        2.5,
        None,
        True,
        "é",
        b"\x00\xff",
        bytearray(b"ab"),
        (1, (2, [3])),
        {4},
        frozenset({5}),
        1 + 2j,
        2**80,
    ],
    "ordered": collections.OrderedDict(b=1, a=np.arange(3)),
    "floats": np.random.default_rng(0).normal(size=(3, 4)),
    "fortran": np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
    "strided": np.arange(20).reshape(4, 5)[::2, 1::2],
    "big endian": np.arange(4, dtype=">i2"),
    "half": np.arange(4, dtype=np.float16),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j], dtype=np.complex64),
    "empty": np.zeros((0, 3), dtype=np.int32),
    "zero-dimensional": np.array(3.5),
    "unicode": np.array(["left", "é"]),
    "bytes": np.array([b"ab", b"c"]),
    "objects": np.array([np.arange(2), {"x": np.ones(1)}, None], dtype=object),
    "scalars": [np.float64(1.5), np.int32(-3), np.bool_(True)],
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_back_as_it_was(tmp_path, protocol):
    loaded = load_pickle(write(tmp_path / "data.pkl", CONTENT, protocol))
    assert_same(loaded, CONTENT)
    loaded["floats"][0, 0] = 7  # writable, and no view of the array beside it
    assert loaded["fortran"].flags.writeable


def test_shared_and_self_containing_objects_stay_so(tmp_path):
    array = np.arange(3.0)
    shared = {"a": array, "b": [array]}
    shared["self"] = shared
    loaded = load_pickle(write(tmp_path / "data.pkl", shared))
    assert loaded["a"] is loaded["b"][0]
    assert loaded["self"] is loaded


def test_reads_python_2_arrays_whose_bytes_are_latin1_strings(tmp_path):
    values = np.array([1.5, -2.0])
    text = values.tobytes()
    # The opcodes Python 2 writes for a float64 array with protocol 2.
    program = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\n"
        b"U\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + struct.pack("B", len(text))
        + text
        + b"tb."
    )
    path = tmp_path / "python2.pkl"
    path.write_bytes(program)
    np.testing.assert_array_equal(load_pickle(path), values)


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def hostile(folder):
    target = folder / "touched"
    code = f"open({str(target)!r}, 'w')"
    return {
        "os.system": Calls(os.system, f"touch {target}"),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "numpy load of a pickle": Calls(np.load, str(folder / "inner.npy"), None, True),
        "getattr": Calls(getattr, (), "__class__"),
        "open": Calls(open, str(target), "w"),
        "import": Calls(__import__, "os"),
        "path": target,
        "function": os.getcwd,
        "class": io.BytesIO,
        "inside an array of objects": np.array([Calls(eval, code), None], dtype=object),
        "structured array": np.zeros(2, dtype=[("a", "f8")]),
        "dates": np.zeros(2, dtype="M8[s]"),
        "raw memory": np.zeros(2, dtype="V8"),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", hostile(folder=Path("/")))
def test_refuses_all_else_and_runs_nothing(tmp_path, name, protocol):
    with (tmp_path / "inner.npy").open("wb") as file:
        np.save(file, np.array([Calls(eval, f"open({str(tmp_path / 'touched')!r}, 'w')")], dtype=object))
    path = write(tmp_path / "hostile.pkl", [1, {"x": hostile(tmp_path)[name]}], protocol)
    with pytest.raises(UnsafePickleError, match=r"hostile\.pkl .*nothing was run"):
        load_pickle(path)
    assert not (tmp_path / "touched").exists()


def test_the_error_names_file_and_what_it_asks_for(tmp_path):
    path = write(tmp_path / "bad.pkl", Calls(os.system, "true"))
    with pytest.raises(
        UnsafePickleError, match=rf"{path} asks for '{os.system.__module__}\.system', but only containers"
    ):
        load_pickle(path)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x04\x8c\x05build\x8c\x03abcQ.", "object outside the file"),
        (b"Pname\n.", "object outside the file"),
        # BUILD on a function that may be called would alter it for every later file.
        (b"c_codecs\nencode\n(N}\x8c\x0c__defaults__\x8c\x04utf7\x85stb.", "alters"),
        # Python 2's way to make an object of a class, with classes that were not allowed.
        (b"ccopy_reg\n_reconstructor\n(cnumpy\ndtype\nc__builtin__\nobject\nNtR.", "makes an object of"),
        (b"ccopy_reg\n_reconstructor\n(c__builtin__\nset\nc__builtin__\nset\n]tR.", "derives from a builtin"),
        (b"ccopyreg\n__newobj__\n(c__builtin__\nset\ntR.", "makes an object of"),
        (b"c_codecs\nencode\n(\x8c\x01a\x8c\x05rot13tR.", "encoding 'rot13'"),
        (
            b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n\x8c\x02O8\x85RC\x08AAAAAAAAtR.",
            "scalar that is an object",
        ),
        (
            b"cnumpy.core.numeric\n_frombuffer\n(C\x08AAAAAAAAcnumpy\ndtype\n\x8c\x02O8\x85RK\x01\x85\x8c\x01CtR.",
            "objects in a raw buffer",
        ),
        (b"cnumpy\ndtype\n\x8c\x02O8\x85R(K\x03\x8c\x01|\x8c\x01xNNK\x08K\x08K\x00tb.", "array of records"),
    ],
)
def test_refuses_programs_that_no_honest_writer_makes(tmp_path, program, message):
    path = tmp_path / "crafted.pkl"
    path.write_bytes(program)
    with pytest.raises(UnsafePickleError, match=message):
        load_pickle(path)


def test_an_array_cannot_claim_other_memory_than_its_bytes(tmp_path):
    genuine = pickle.dumps(np.arange(4, dtype=np.int64), protocol=2)
    path = tmp_path / "claims.pkl"
    path.write_bytes(genuine.replace(b"K\x04\x85", b"K\x05\x85", 1))
    with pytest.raises(ValueError, match="does not come with as many bytes"):
        load_pickle(path)
    objects = pickle.dumps(np.array([None, 1], dtype=object), protocol=2)
    path.write_bytes(objects.replace(b"K\x02\x85", b"K\x09\x85", 1))
    with pytest.raises(ValueError, match="does not come with as many objects"):
        load_pickle(path)


def test_corrupt_and_cut_off_files(tmp_path):
    whole = pickle.dumps(CONTENT, protocol=4)
    path = tmp_path / "broken.pkl"
    for content in (b"", b"not a pickle", b"\x93NUMPY", whole[:1], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.pkl is not a whole pickle"):
            load_pickle(path)
    rng = np.random.default_rng(0)
    for _ in range(300):  # damage anywhere gives data or a ValueError, never another error
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            load_pickle(path)


def test_absurd_sizes_and_depths(tmp_path):
    path = tmp_path / "huge.pkl"
    for program in (b"\x8e" + struct.pack("<Q", 2**62) + b"abc", b"]" * 100_000 + b"a" * 99_999 + b"."):
        path.write_bytes(program)
        with pytest.raises(ValueError, match=r"huge\.pkl is not a whole pickle"):
            load_pickle(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pkl"):
        load_pickle(tmp_path / "absent.pkl")


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "allow",
    [["fractions.Fraction", "decimal.Decimal", "types.SimpleNamespace"], ["fractions.*", "decimal.*", "types.*"]],
)
def test_allowed_classes_become_inert_records(tmp_path, protocol, allow):
    value = {"d": Decimal("1.5"), "n": SimpleNamespace(a=np.arange(3))}
    path = write(tmp_path / "data.pkl", value, protocol)
    with pytest.raises(UnsafePickleError, match=r"decimal\.Decimal"):
        load_pickle(path)
    loaded = load_pickle(path, allow)
    assert isinstance(loaded["d"], StandIn)
    assert loaded["d"].qualified_name == "decimal.Decimal"
    assert loaded["d"].args == ("1.5",)
    assert loaded["n"].qualified_name == "types.SimpleNamespace"
    np.testing.assert_array_equal(loaded["n"].state["a"], np.arange(3))


def test_an_allowed_package_does_not_allow_its_namesakes(tmp_path):
    path = write(tmp_path / "data.pkl", Calls(os.system, "true"))
    with pytest.raises(UnsafePickleError, match="asks for"):
        load_pickle(path, ["po.*", "posi.*", "n.*", "system"])


def test_npz_with_arrays_of_objects(tmp_path):
    positions = {"S1": {"Walking": [np.ones((2, 17, 2), dtype=np.float32)]}}
    path = tmp_path / "data.npz"
    np.savez_compressed(path, positions_2d=positions, plain=np.arange(3), names=np.array(["a", "b"]))
    loaded = load_npz(path)
    assert list(loaded) == ["positions_2d", "plain", "names"]
    assert_same(loaded["positions_2d"].item(), positions)
    np.testing.assert_array_equal(loaded["plain"], np.arange(3))
    assert loaded["names"].tolist() == ["a", "b"]


def test_npz_refuses_hostile_objects(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, fine=np.arange(3), bad=np.array([Calls(open, str(tmp_path / "touched"), "w")], dtype=object))
    with pytest.raises(UnsafePickleError, match=r"data\.npz \[bad\.npy\] asks for '_?io\.open'"):
        load_npz(path)
    assert not (tmp_path / "touched").exists()


def test_npz_corrupt(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, a=np.arange(100))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"data\.npz is not a whole \.npz file"):
        load_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"nonsense")
    with pytest.raises(ValueError, match=r"\[a\.npy\] is not a whole \.npy array"):
        load_npz(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        load_npz(tmp_path / "absent.npz")
