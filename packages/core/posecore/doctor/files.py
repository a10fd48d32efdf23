"""Body models, shipped weights and data."""

from functools import partial
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

from posecore.doctor.data_sets import DATA_SETS, DataSet
from posecore.doctor.finding import Finding, one_line, probe

_GENDERS = ("neutral", "female", "male")
_SMPL = "register at smpl.is.tue.mpg.de, put the .pkl files of 1.1.0 there"
_MANO = "register at mano.is.tue.mpg.de, put MANO_RIGHT.pkl there"
_REGRESSORS = (  # Files beside SMPL's, what they are for, and who has them.
    ("J_regressor_h36m.npy", "Human3.6M's joints of SMPL bodies", "fetch_data.sh of SPIN (GitHub: nkolot/SPIN)"),
    ("SMPL_to_J19.pkl", "joints44 of SMPL bodies", "the data that the README of ScoreHMR's release links"),
)


def body_findings(folder: Path) -> list[Finding]:
    """The open body, and the licensed body models in a folder; their files are really read.

    Args:
        folder: Where SMPL's and MANO's files would be.
    """
    smpl = {gender: probe(gender, partial(_body, folder, gender), "warning") for gender in _GENDERS}
    return [
        probe("open body", _open_body, get="install humandiff again"),
        _smpl(folder, smpl),
        *(_regressor(folder, *file) for file in _REGRESSORS),
        _mano(folder),
    ]


def weight_findings() -> list[Finding]:
    """The weights that each installed method ships; methods are found by their commands and not imported."""
    methods = sorted(
        point.value.partition(".")[0]
        for point in metadata.entry_points(group="console_scripts")
        if point.dist is not None and point.dist.name == "humandiff" and not point.value.startswith("posecore.")
    )
    if not methods:
        get = "pip install -e . -c constraints.txt"
        return [Finding("methods", "missing", "no command of humandiff is installed", "predicting and training", get)]
    # A checkout that is on the path twice is found twice.
    return [probe(name, partial(_weights, name), get="install humandiff again") for name in dict.fromkeys(methods)]


def data_findings(root: Path) -> list[Finding]:
    """Which data sets have files below ``root``; only names are looked at."""
    return [probe(data_set.name, partial(_data_set, root, data_set), "warning") for data_set in DATA_SETS]


def _open_body() -> str:
    model = import_module("posecore.body.files").load_body_model()
    return f"{len(model.v_template)} vertices, {len(model.parents)} joints"


def _body(place: Path, gender: str = "neutral") -> str | Finding:
    try:
        model = import_module("posecore.body.files").load_body_model(place, gender)
    except FileNotFoundError:
        return Finding(gender, "missing", "not found")
    return str(model.name)


def _smpl(folder: Path, found: dict[str, Finding]) -> Finding:
    enables = "SMPL instead of the open body, and 3DPW's and EMDB's truth"
    unread = [f"{gender}: {each.text}" for gender, each in found.items() if each.state == "warning"]
    if unread:
        return Finding("SMPL", "warning", f"cannot be read: {'; '.join(unread)}", enables, _SMPL)
    there = [f"{gender} ({each.text})" for gender, each in found.items() if each.state == "ok"]
    absent = [gender for gender, each in found.items() if each.state == "missing"]
    if not absent:
        return Finding("SMPL", "ok", f"{', '.join(there)} in {folder}")
    text = f"{', '.join(there)}, but not {', '.join(absent)}, in {folder}" if there else f"none in {folder}"
    return Finding("SMPL", "missing", text, enables, _SMPL)


def _regressor(folder: Path, name: str, enables: str, source: str) -> Finding:
    places = [folder / inner / name for inner in ("", "smpl", "models", "smpl/models")]
    if any(place.is_file() for place in places):
        return Finding(name, "ok", f"in {folder}")
    return Finding(name, "missing", f"not in {folder}", enables, f"from {source}")


def _mano(folder: Path) -> Finding:
    enables = "meshes of hands (FreiHAND)"
    names = [f"{inner}MANO_RIGHT.{ending}" for inner in ("", "mano/", "models/") for ending in ("pkl", "npz")]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return Finding("MANO", "missing", f"none in {folder}", enables, _MANO)
    return probe("MANO", partial(_body, path), "warning", enables, _MANO)


def _weights(method: str) -> str | Finding:
    spec = util.find_spec(method)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"its command is installed, but not the package {method}")
    # A folder of the method's name where the program stands comes first; the installed package is among the others.
    places = [Path(place) for place in spec.submodule_search_locations]
    files = sorted(file for place in places for file in place.glob("weights/*.safetensors"))
    if not files:
        return Finding(
            method, "missing", "no weights are shipped", "predicting without training", "train, see its card"
        )
    safe_open = import_module("safetensors").safe_open
    return ", ".join(f"{path.stem} ({_num_tensors(safe_open, path)} tensors)" for path in files)


def _num_tensors(safe_open: Any, path: Path) -> int:
    """The number of tensors; the reader compares the index with the file's length and reads no more."""
    try:
        with safe_open(path, framework="numpy") as file:
            return len(file.keys())
    except Exception as error:  # safetensors' own error derives from Exception alone
        raise RuntimeError(f"{path.name} cannot be read: {one_line(error)}") from error


def _data_set(root: Path, data_set: DataSet) -> Finding:
    found = {name: data_set.find(root, name) for name in data_set.files}
    there = [path for path in found.values() if path is not None]
    absent = [name.split("|")[0] for name, path in found.items() if path is None]
    if not there:
        return Finding(data_set.name, "missing", "not found", data_set.enables, data_set.get)
    text = f"{there[0].relative_to(root)}{' and more' if len(found) > 1 else ''}"
    if absent:
        text = f"{there[0].relative_to(root)}, but no {' nor '.join(absent)}"
        return Finding(data_set.name, "warning", text, data_set.enables, data_set.get)
    return Finding(data_set.name, "ok", text)
