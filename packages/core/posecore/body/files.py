"""Body model files: the open body that is shipped, and SMPL, SMPL-H and MANO where a user has them.

SMPL's licence forbids shipping it. :func:`load_body_model` reads the official downloads under their official names and
needs neither chumpy nor scipy for it; the pickles are read by :mod:`posecore.safe_pickle` and so run no code.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.body.skeletons import H36M_17
from posecore.safe_pickle import StandIn, load_npz, load_pickle

__all__ = ["OPEN_BODY", "BodyModel", "Gender", "load_body_model"]

Gender = Literal["neutral", "female", "male"]

OPEN_BODY = Path(__file__).parent / "assets" / "open_body.npz"

# Where in a folder the official archives and smplx put the files.
_FOLDERS = ("", "smpl", "models", "smpl/models")

# Vertices of SMPL's and SMPL-H's mesh at points that 2D detectors find.
_SMPL_LANDMARKS = {
    "nose": 332,
    "r_eye": 6260,
    "l_eye": 2800,
    "r_ear": 4071,
    "l_ear": 583,
    "l_big_toe": 3216,
    "l_small_toe": 3226,
    "l_heel": 3387,
    "r_big_toe": 6617,
    "r_small_toe": 6624,
    "r_heel": 6787,
}
_SMPL_NUM_VERTICES = 6890
_SMPL_NUM_JOINTS = 24

# Vertices of MANO's mesh at the fingertips, as smplx has them; MANO has no joints there.
_MANO_LANDMARKS = {"thumb_tip": 744, "index_tip": 320, "middle_tip": 443, "ring_tip": 554, "pinky_tip": 671}
_MANO_SIZE = (778, 16)  # Vertices and joints.

_H36M_FILE = "J_regressor_h36m.npy"
_EXTRA_FILE = "SMPL_to_J19.pkl"


@dataclass(frozen=True, eq=False)
class BodyModel:
    """The arrays of a body model, in metres, in the rest pose (y up, facing +z).

    Attributes:
        name: Where it came from: ``"open_body"`` or the file's name.
        v_template: Mean body.
        shapedirs: Displacement of each vertex per standard deviation of each shape component.
        posedirs: Displacement of each vertex per entry of (R - I) of each joint but the root, matrices row by row.
        J_regressor: Weights that give the kinematic joints of the unposed body.
        parents: Parent of each joint; -1 for the root.
        lbs_weights: How much each vertex follows each joint; rows sum to 1.
        faces: Triangles.
        J_regressor_h36m: Weights that give Human3.6M's joints of the posed body in the order of ``H36M_17``, where the
            file has them or ``J_regressor_h36m.npy`` lies beside it.
        J_regressor_extra: Weights that give joints 25 to 43 of ``JOINTS_44`` of the posed body, where
            ``SMPL_to_J19.pkl`` lies beside the file.
        landmark_names: Names of vertices at points that 2D detectors find (``"nose"``, ``"l_heel"``, ``"thumb_tip"``).
        landmark_vertex_ids: Those vertices.
        hand_components: MANO's principal components of the pose, one per row, axis-angle.
        hand_mean: MANO's mean pose, axis-angle.
    """

    name: str
    v_template: Float[Tensor, "vertices 3"]
    shapedirs: Float[Tensor, "vertices 3 betas"]
    posedirs: Float[Tensor, "vertices 3 pose_features"]
    J_regressor: Float[Tensor, "joints vertices"]
    parents: Int[Tensor, " joints"]
    lbs_weights: Float[Tensor, "vertices joints"]
    faces: Int[Tensor, "faces 3"]
    J_regressor_h36m: Float[Tensor, "17 vertices"] | None = None
    J_regressor_extra: Float[Tensor, "19 vertices"] | None = None
    landmark_names: tuple[str, ...] = ()
    landmark_vertex_ids: Int[Tensor, " landmarks"] = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    hand_components: Float[Tensor, "components pose"] | None = None
    hand_mean: Float[Tensor, " pose"] | None = None

    def landmark_regressor(self, names: Iterable[str]) -> Float[Tensor, "landmarks vertices"]:
        """A regressor whose rows pick landmark vertices by name.

        Raises:
            ValueError: The body has no landmark of that name.
        """
        known = dict(zip(self.landmark_names, self.landmark_vertex_ids.tolist(), strict=True))
        chosen = list(names)
        if missing := [name for name in chosen if name not in known]:
            raise ValueError(f"body {self.name!r} has no landmarks {missing}; it has {sorted(known)}")
        rows = self.v_template.new_zeros(len(chosen), len(self.v_template))
        rows[range(len(chosen)), [known[name] for name in chosen]] = 1
        return rows


def load_body_model(
    path: Path | str | None = None,
    gender: Gender = "neutral",
    num_betas: int | None = 10,
    dtype: torch.dtype = torch.float32,
) -> BodyModel:
    """Loads a body model.

    Args:
        path: A ``.pkl`` or ``.npz`` of SMPL's format (SMPL 1.0 and 1.1, SMPL-H, MANO); or a folder with SMPL files
            under their official names or smplx's (``basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl``,
            ``SMPL_NEUTRAL.npz``; upper and lower case are the same), also below ``smpl``, ``models`` and
            ``smpl/models``. None is the open body. ``J_regressor_h36m.npy`` is read from beside a body's file or from
            the folder given; either order of its legs that is in use will do. So is ``SMPL_to_J19.pkl``.
        gender: Which file of a folder. A file is taken as it is, and the open body is neutral.
        num_betas: Keeps this many shape components (SMPL 1.1 has 300); None keeps all.
        dtype: Floating-point type of the arrays.

    Raises:
        FileNotFoundError: There is no such file; the message says where to get it and where to put it.
        ValueError: The file is none of a body model, is unsafe or corrupt, or an argument is out of range.
    """
    if gender not in get_args(Gender):
        raise ValueError(f"gender is {gender!r}; valid are {', '.join(map(repr, get_args(Gender)))}")
    if num_betas is not None and num_betas < 1:
        raise ValueError(f"num_betas is {num_betas}; it must be at least 1, or None for all")
    if path is None and gender != "neutral":
        raise ValueError(f"gender is {gender!r}, but the open body is neutral; give the path of a {gender} body model")
    file = OPEN_BODY if path is None else _find(Path(path), gender)
    content = load_npz(file) if file.suffix.lower() == ".npz" else load_pickle(file, ("chumpy.*", "scipy.sparse.*"))
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not the arrays of a body model")
    places = [file.parent] if path is None else [file.parent, Path(path)]

    def beside(name: str) -> Path | None:
        return next((place / name for place in places if (place / name).is_file()), None)

    return _body_model(file, content, beside(_H36M_FILE), beside(_EXTRA_FILE), num_betas, dtype)


def _find(path: Path, gender: Gender) -> Path:
    if path.is_file():
        return path
    official = rf"basicmodel_({gender}|{gender[0]})_lbs_10_207_0_v[\d.]+"
    names = re.compile(rf"({official}|smpl_{gender})\.(pkl|npz)", re.IGNORECASE)
    for folder in (path / name for name in _FOLDERS):
        if folder.is_dir():
            found = [file for file in folder.iterdir() if names.fullmatch(file.name)]
            if found:
                # The newest release where there are several: "smpl_..." carries no version and comes first.
                return max(found, key=lambda file: (file.name.lower().startswith("smpl_"), file.name.lower()))
    name = f"basicmodel_{gender if gender == 'neutral' else gender[0]}_lbs_10_207_0_v1.1.0.pkl"
    raise FileNotFoundError(
        f"no {gender} body model at {path}. SMPL is free for research: register at https://smpl.is.tue.mpg.de, "
        f"download version 1.1.0 for Python users and put {name} into {path.parent if path.suffix else path}; for MANO "
        "register at https://mano.is.tue.mpg.de. Without a path the open body is used, which needs no registration"
    )


def _body_model(
    file: Path,
    content: Mapping[str, Any],
    h36m_file: Path | None,
    extra_file: Path | None,
    num_betas: int | None,
    dtype: torch.dtype,
) -> BodyModel:
    def array(key: str) -> np.ndarray:
        if key not in content:
            raise ValueError(f"{file} is no body model: it has no {key!r}")
        return _dense(file, key, content[key])

    def tensor(value: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float64)).to(dtype)

    v_template, weights = array("v_template"), array("weights")
    vertices, joints = weights.shape if weights.ndim == 2 else (0, 0)
    shapedirs, posedirs, regressor = array("shapedirs"), array("posedirs"), array("J_regressor")
    parents = array("kintree_table").astype(np.int64)[0]
    for key, got, want in (
        ("weights", weights.shape, (len(v_template), len(parents))),
        ("v_template", v_template.shape, (vertices, 3)),
        ("shapedirs", shapedirs.shape[:-1], (vertices, 3)),
        ("posedirs", posedirs.shape, (vertices, 3, 9 * (joints - 1))),
        ("J_regressor", regressor.shape, (joints, vertices)),
    ):
        if got != want:
            raise ValueError(f"{file}: {key} has shape {got}, but {want} fits the other arrays")
    parents[(parents < 0) | (parents >= joints)] = -1  # the root's parent is 2^32 - 1 in official files

    h36m = None
    if "J_regressor_h36m" in content:
        h36m = _h36m_regressor(file, array("J_regressor_h36m"), v_template)
    elif h36m_file is not None and joints >= _SMPL_NUM_JOINTS:  # it is not a hand's
        h36m = _h36m_regressor(h36m_file, _load_npy(h36m_file), v_template)
    extra = None
    if extra_file is not None and joints == _SMPL_NUM_JOINTS:
        extra = _dense(extra_file, "the regressor", load_pickle(extra_file, ("scipy.sparse.*",)))
        if extra.shape != (19, vertices):
            raise ValueError(f"{extra_file}: the regressor has shape {extra.shape}, but (19, {vertices}) fits the body")
    landmarks = _landmarks(content, vertices, joints)
    return BodyModel(
        name=file.stem,
        v_template=tensor(v_template),
        shapedirs=tensor(shapedirs[..., :num_betas]),
        posedirs=tensor(posedirs),
        J_regressor=tensor(regressor),
        parents=torch.from_numpy(parents),
        lbs_weights=tensor(weights),
        faces=torch.from_numpy(array("f").astype(np.int64)),
        J_regressor_h36m=None if h36m is None else tensor(h36m),
        J_regressor_extra=None if extra is None else tensor(extra),
        landmark_names=tuple(landmarks),
        landmark_vertex_ids=torch.tensor(list(landmarks.values()), dtype=torch.long),
        hand_components=tensor(array("hands_components")) if "hands_components" in content else None,
        hand_mean=tensor(array("hands_mean")) if "hands_mean" in content else None,
    )


def _load_npy(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a whole .npy array: {error}") from error
    return array


def _h36m_regressor(file: Path, regressor: np.ndarray, v_template: np.ndarray) -> np.ndarray:
    """Human3.6M's regressor with its rows in the order of ``H36M_17``.

    Two orders are in use: SPIN's file has the left leg in rows 1 to 3, Pose2Mesh's (and ``H36M_17``) the right. The
    rest pose, whose left is +x, tells which it is.
    """
    if regressor.shape != (17, len(v_template)):
        raise ValueError(
            f"{file}: J_regressor_h36m has shape {regressor.shape}, but (17, {len(v_template)}) fits the body"
        )
    x = regressor @ v_template[:, 0]
    if x[H36M_17.index("l_hip")] >= x[H36M_17.index("r_hip")]:
        return regressor
    legs = range(1, 7)
    return regressor[[H36M_17.flip[j] if j in legs else j for j in range(H36M_17.num_joints)]]


def _landmarks(content: Mapping[str, Any], num_vertices: int, num_joints: int) -> dict[str, int]:
    if "landmark_names" in content:
        names = [_snake_case(str(name)) for name in content["landmark_names"]]
        return dict(zip(names, np.asarray(content["landmark_vertex_ids"]).tolist(), strict=True))
    if (num_vertices, num_joints) == _MANO_SIZE:
        return dict(_MANO_LANDMARKS)
    return dict(_SMPL_LANDMARKS) if num_vertices == _SMPL_NUM_VERTICES else {}


def _snake_case(name: str) -> str:
    """``"LBigToe"`` and ``"lear"``, smplx's spellings, as ``"l_big_toe"`` and ``"l_ear"``."""
    part = r"eye|ear|heel|(?:big|small)_?toe|thumb|index|middle|ring|pinky"
    sided = re.fullmatch(rf"([lr])_?({part})", name.lower())
    return f"{sided[1]}_{re.sub('_?toe', '_toe', sided[2])}" if sided else name.lower()


def _dense(file: Path, key: str, value: Any) -> np.ndarray:
    """An array from an array, a scipy sparse matrix or a chumpy expression."""
    if not isinstance(value, StandIn):
        return np.asarray(value)
    state, kind = value.state, value.qualified_name.rsplit(".", 1)[-1]
    try:
        if value.qualified_name.startswith("scipy."):
            return _dense_from_sparse(kind.split("_")[0], state)
        if kind == "Ch":
            return _dense(file, key, state["x"])
        inner = _dense(file, key, state["a"])
        if kind == "Select":
            selected = inner.ravel()[_dense(file, key, state["idxs"])]
            return np.reshape(selected, state.get("preferred_shape", selected.shape))
        if kind == "Reshape":
            return np.reshape(inner, state["newshape"])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{file}: {key} is a broken {value.qualified_name}: {error!r}") from error
    raise ValueError(f"{file}: {key} is a {value.qualified_name}, which no SMPL file is known to use")


def _dense_from_sparse(layout: str, state: Mapping[str, Any]) -> np.ndarray:
    shape = state["_shape"] if "_shape" in state else state["shape"]
    matrix = np.zeros(shape, dtype=np.float64)
    if layout == "coo":
        rows, columns = state["coords"] if "coords" in state else (state["row"], state["col"])
    else:
        counts = np.diff(state["indptr"])
        major, minor = np.repeat(np.arange(len(counts)), counts), state["indices"]
        rows, columns = (minor, major) if layout == "csc" else (major, minor)
    np.add.at(matrix, (rows, columns), state["data"])
    return matrix
