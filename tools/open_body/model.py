"""Puts the open body together: MakeHuman's mesh and shapes in the form of an SMPL file."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from open_body.fitting import fit_regressor, landmark_vertices, shape_space
from open_body.makehuman import (
    PARENTS,
    SMPL_JOINTS,
    BaseMesh,
    data_folder,
    hidden_vertices,
    mirrored_joints,
    read_base_mesh,
    sample_bodies,
)
from open_body.posing import random_poses, skin, t_pose_rotations
from posecore.body.simplify import simplify_mesh

NUM_VERTICES = 6890
JOINT_NAMES = [joint[0] for joint in SMPL_JOINTS]

# Points besides the 24 joints: helper cubes to average, and the joints that carry the point. `neck_nose` and `head_top`
# sit where Human3.6M's skeleton has them (0.12 m of neck, 0.115 m of head), inside the head and not on its skin.
_POINTS: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "pelvis": ({"joint-l-upper-leg": 0.5, "joint-r-upper-leg": 0.5}, {"pelvis": 1}),
    "spine": ({"joint-spine-2": 1}, {"spine2": 1}),
    "thorax": ({"joint-l-clavicle": 0.35, "joint-r-clavicle": 0.35, "joint-neck": 0.3}, {"spine3": 1}),
    "neck_nose": ({"joint-neck": 1 / 3, "joint-mouth": 2 / 3}, {"neck": 1 / 3, "head": 2 / 3}),
    "head_top": ({"joint-head": 0.5, "joint-head-2": 0.5}, {"head": 1}),
    **{
        f"{side[0]}_{part}": ({f"joint-{side[0]}-{cube}": 1}, {f"{side}_{part}": 1})
        for side in ("left", "right")
        for part, cube in (
            ("hip", "upper-leg"),
            ("knee", "knee"),
            ("ankle", "ankle"),
            ("shoulder", "shoulder"),
            ("elbow", "elbow"),
            ("wrist", "hand"),
        )
    },
    "leye": ({"helper-l-eye": 1}, {"head": 1}),
    "LBigToe": ({"joint-l-toe-1-3": 1}, {"left_foot": 1}),
    "LSmallToe": ({"joint-l-toe-5-4": 1}, {"left_foot": 1}),
    "lthumb": ({"joint-l-finger-1-4": 1}, {"left_wrist": 1}),
    "lindex": ({"joint-l-finger-2-4": 1}, {"left_hand": 1}),
    "lmiddle": ({"joint-l-finger-3-4": 1}, {"left_hand": 1}),
    "lring": ({"joint-l-finger-4-4": 1}, {"left_hand": 1}),
    "lpinky": ({"joint-l-finger-5-4": 1}, {"left_hand": 1}),
}
_POINT_NAMES = list(_POINTS)
H36M_NAMES = [
    *("pelvis", "r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle", "spine", "thorax", "neck_nose", "head_top"),
    *("l_shoulder", "l_elbow", "l_wrist", "r_shoulder", "r_elbow", "r_wrist"),
]
_LANDMARK_ANCHORS = ["leye", "LBigToe", "LSmallToe", "lthumb", "lindex", "lmiddle", "lring", "lpinky"]


@dataclass(frozen=True)
class TPosedBodies:
    """Sampled bodies in T-pose, pelvis joint at the origin, made exactly left/right symmetric.

    Attributes:
        vertices: skin, metres.
        joints: SMPL's 24.
        points: those of `_POINTS`.
    """

    vertices: Float[np.ndarray, "bodies vertices 3"]
    joints: Float[np.ndarray, "bodies 24 3"]
    points: Float[np.ndarray, "bodies points 3"]


@dataclass(frozen=True)
class OpenBody:
    """The asset's arrays and what the pyramid is fitted on.

    Attributes:
        arrays: content of `open_body.npz`.
        posed: random bodies in random poses.
        report: measured accuracy, one line each.
    """

    arrays: dict[str, np.ndarray]
    posed: Float[np.ndarray, "bodies 6890 3"]
    report: list[str]


def build_open_body(num_bodies: int = 300, num_poses: int = 120, seed: int = 0) -> OpenBody:
    """Run the whole recipe; the same seed gives the same arrays."""
    base = read_base_mesh(data_folder())
    bodies = _t_posed_bodies(base, num_bodies, seed)
    mesh = simplify_mesh(bodies.vertices.mean(0), base.faces, NUM_VERTICES, base.mirror, hidden_vertices(base))
    mirror = mesh.representative[base.mirror[mesh.kept]]
    weights = base.weights[mesh.kept]
    template, shapes = shape_space(bodies.vertices[:, mesh.kept])
    # Rounded to a micrometre, so that another linear algebra library gives the same file.
    template, shapes = template.round(6), shapes.round(6)

    vertices = bodies.vertices[:, mesh.kept]
    regressor = fit_regressor(_with_mean(vertices), _with_mean(bodies.joints), mirror, mirrored_joints())
    # Posed bodies: the Human3.6M regressor is used on any pose, so it is fitted on many.
    rng = np.random.default_rng(seed + 1)
    who = rng.integers(num_bodies, size=num_poses)
    every = np.concatenate([vertices[who], bodies.points[who]], axis=1)
    carried = np.concatenate([weights, _point_weights()])
    posed, _ = skin(every, bodies.joints[who], random_poses(num_poses, rng), carried)
    h36m = [_POINT_NAMES.index(name) for name in H36M_NAMES]
    used = num_poses * 3 // 4  # the others measure
    h36m_regressor = fit_regressor(
        np.concatenate([_with_mean(vertices)[:101], posed[:used, : len(mesh.kept)]]),
        np.concatenate([_with_mean(bodies.points)[:101], posed[:used, len(mesh.kept) :]])[:, h36m],
        mirror,
        _mirrored_h36m(),
        num_candidates=600,
    )
    anchors = {name: bodies.points.mean(0)[_POINT_NAMES.index(name)] for name in _LANDMARK_ANCHORS}
    landmarks = landmark_vertices(template, weights, anchors, mirror, JOINT_NAMES)
    arrays: dict[str, np.ndarray] = {
        "v_template": template.astype(np.float32),
        "shapedirs": shapes.astype(np.float32),
        "posedirs": np.zeros((NUM_VERTICES, 3, 9 * (len(PARENTS) - 1)), dtype=np.float32),
        "J_regressor": regressor.astype(np.float32),
        "weights": weights.astype(np.float32),
        "kintree_table": np.array([PARENTS, range(len(PARENTS))], dtype=np.int64),
        "f": mesh.faces.astype(np.int32),
        "J": (regressor @ template).astype(np.float32),
        "joint_names": np.array(JOINT_NAMES),
        "J_regressor_h36m": h36m_regressor.astype(np.float32),
        "h36m_names": np.array(H36M_NAMES),
        "landmark_names": np.array(list(landmarks)),
        "landmark_vertex_ids": np.array(list(landmarks.values()), dtype=np.int64),
        "mirror_vertex_ids": mirror.astype(np.int32),
        "source_vertex_index": mesh.kept.astype(np.int32),
    }
    skin_posed, points_posed = posed[:, : len(mesh.kept)], posed[:, len(mesh.kept) :]
    centred = (vertices - template).reshape(num_bodies, -1)
    betas = centred @ np.linalg.pinv(shapes.reshape(-1, shapes.shape[-1])).T
    rebuilt = template + np.einsum("vdk,bk->bvd", shapes, betas)
    height = vertices[..., 1].max(1) - vertices[..., 1].min(1)
    report = [
        f"height of the sampled bodies: {height.min():.2f} to {height.max():.2f} m, mean {height.mean():.2f} m",
        f"variance kept by {shapes.shape[-1]} betas: {1 - ((rebuilt - vertices) ** 2).sum() / (centred**2).sum():.2%}, "
        f"vertex error {_mean_mm(rebuilt, vertices).mean():.2f} mm",
        "J_regressor on the sampled bodies, mm: "
        + ", ".join(
            f"{n} {e:.1f}" for n, e in zip(JOINT_NAMES, _mean_mm(regressor @ vertices, bodies.joints), strict=True)
        ),
        "J_regressor_h36m on held-out poses, mm: "
        + ", ".join(
            f"{n} {e:.1f}"
            for n, e in zip(
                H36M_NAMES, _mean_mm(h36m_regressor @ skin_posed[used:], points_posed[used:, h36m]), strict=True
            )
        ),
    ]
    return OpenBody(arrays, skin_posed, report)


def _t_posed_bodies(base: BaseMesh, num_bodies: int, seed: int) -> TPosedBodies:
    raw = sample_bodies(data_folder(), base, num_bodies, seed)
    joints = np.stack([base.cube(raw, cube) for _, _, cube, _ in SMPL_JOINTS], axis=1)
    points = np.stack(
        [sum(w * base.cube(raw, cube) for cube, w in cubes.items()) for cubes, _ in _POINTS.values()], axis=1
    )
    joints = _smooth_spine3(joints)
    every = np.concatenate([raw[:, : base.num_body], points], axis=1)
    carried = np.concatenate([base.weights, _point_weights()])
    posed, joints = skin(every, joints, t_pose_rotations(joints), carried)
    posed, joints = posed - joints[:, :1], joints - joints[:, :1]
    vertices, points = posed[:, : base.num_body], posed[:, base.num_body :]
    flip = np.array([-1.0, 1.0, 1.0])  # MakeHuman's targets are symmetric to 0.2 mm
    return TPosedBodies(
        0.5 * (vertices + vertices[:, base.mirror] * flip), 0.5 * (joints + joints[:, mirrored_joints()] * flip), points
    )


def _smooth_spine3(joints: Float[np.ndarray, "bodies 24 3"]) -> Float[np.ndarray, "bodies 24 3"]:
    """Put spine3 at the same place between spine2 and neck in every body.

    MakeHuman's helper cube for it wanders by 65 mm between men and women, against its neighbours and the skin, so that
    no regressor could follow it (16 mm error). Its mean place is kept.
    """
    low, spine3, high = (JOINT_NAMES.index(name) for name in ("spine2", "spine3", "neck"))
    span = joints[:, high] - joints[:, low]
    length = np.linalg.norm(span, axis=1, keepdims=True)
    offset = (joints[:, spine3] - joints[:, low]).mean(0)
    share = offset[1] / span[:, 1].mean()
    aside = (offset - share * span.mean(0)) / length.mean()
    moved = joints.copy()
    moved[:, spine3] = joints[:, low] + share * span + aside * length
    return moved


def _point_weights() -> Float[np.ndarray, "points 24"]:
    weights = np.zeros((len(_POINTS), len(JOINT_NAMES)))
    for i, (_, carriers) in enumerate(_POINTS.values()):
        for name, weight in carriers.items():
            weights[i, JOINT_NAMES.index(name)] = weight
    return weights


def _mirrored_h36m() -> list[int]:
    swap = {"l": "r", "r": "l"}
    return [H36M_NAMES.index(swap[n[0]] + n[1:] if n[:2] in ("l_", "r_") else n) for n in H36M_NAMES]


def _with_mean(bodies: Float[np.ndarray, "bodies n 3"]) -> Float[np.ndarray, "bodies_and_mean n 3"]:
    return np.concatenate([bodies.mean(0, keepdims=True), bodies])


def _mean_mm(a: Float[np.ndarray, "bodies n 3"], b: Float[np.ndarray, "bodies n 3"]) -> Float[np.ndarray, " n"]:
    error: Float[np.ndarray, " n"] = 1e3 * np.linalg.norm(a - b, axis=-1).mean(0)
    return error
