"""Linear blend skinning in numpy: the T-pose that every body is brought to, and random poses to fit maps on.

Kept apart from the package's torch layer, so that the asset depends on nothing that reads it.
"""

import itertools

import numpy as np
from jaxtyping import Float

from open_body.makehuman import PARENTS, SMPL_JOINTS

_CLAVICLE_LIFT = np.deg2rad(18)  # of a shoulder girdle whose arm is raised by the 45 degrees from A-pose to T-pose
_NAMES = [joint[0] for joint in SMPL_JOINTS]

# Standard deviations in degrees of each joint's axis-angle x, y, z, and the mean about x: everyday postures, loosely.
_POSE_SPREAD: dict[str, tuple[float, float, float]] = {
    "hip": (35, 15, 12),
    "knee": (40, 5, 3),
    "ankle": (15, 8, 8),
    "foot": (10, 3, 3),
    "spine1": (12, 8, 6),
    "spine2": (10, 8, 6),
    "spine3": (8, 8, 5),
    "neck": (12, 15, 8),
    "head": (12, 15, 8),
    "collar": (5, 8, 8),
    "shoulder": (30, 30, 40),
    "elbow": (10, 45, 15),
    "wrist": (20, 10, 20),
    "hand": (8, 8, 15),
}


def skin(
    vertices: Float[np.ndarray, "bodies vertices 3"],
    joints: Float[np.ndarray, "bodies 24 3"],
    rotations: Float[np.ndarray, "bodies 24 3 3"],
    weights: Float[np.ndarray, "vertices 24"],
) -> tuple[Float[np.ndarray, "bodies vertices 3"], Float[np.ndarray, "bodies 24 3"]]:
    """Posed vertices and joints; `rotations` are relative to the parent, the root joint stays where it is."""
    world, place = rotations.copy(), joints.copy()
    for j, parent in enumerate(PARENTS[1:], start=1):
        world[:, j] = world[:, parent] @ rotations[:, j]
        bone = joints[:, j] - joints[:, parent]
        place[:, j] = place[:, parent] + np.einsum("bij,bj->bi", world[:, parent], bone)
    shift = place - np.einsum("bkij,bkj->bki", world, joints)
    transform = np.concatenate([world, shift[..., None]], axis=-1)
    posed = np.empty_like(vertices)
    for b in range(len(vertices)):  # one body at a time: 13,380 blended matrices each
        blended = (weights @ transform[b].reshape(len(PARENTS), 12)).reshape(-1, 3, 4)
        posed[b] = np.einsum("vij,vj->vi", blended[..., :3], vertices[b]) + blended[..., 3]
    return posed, place


def t_pose_rotations(joints: Float[np.ndarray, "bodies 24 3"]) -> Float[np.ndarray, "bodies 24 3 3"]:
    """Rotations from MakeHuman's A-pose to the T-pose: clavicles up by 18 degrees, then the arm straight along x."""
    rotations = np.tile(np.eye(3), (*joints.shape[:2], 1, 1))
    for side, sign in (("left", 1.0), ("right", -1.0)):
        chain = [_NAMES.index(f"{side}_{part}") for part in ("collar", "shoulder", "elbow", "wrist", "hand")]
        lift = axis_angle(np.array([0, 0, sign * _CLAVICLE_LIFT]))
        rotations[:, chain[0]] = lift
        world = np.tile(lift, (len(joints), 1, 1))
        for j, child in itertools.pairwise(chain[1:]):
            bone = np.einsum("bij,bj->bi", world, joints[:, child] - joints[:, j])
            turn = _shortest_rotation(bone, np.array([sign, 0, 0]))
            rotations[:, j] = np.swapaxes(world, 1, 2) @ turn @ world
            world = turn @ world
    return rotations


def random_poses(num_poses: int, rng: np.random.Generator) -> Float[np.ndarray, "poses 24 3 3"]:
    """Random postures around a relaxed one: arms hanging half way, knees and elbows bending the way they do."""
    angles = np.zeros((num_poses, len(_NAMES), 3))
    for j, name in enumerate(_NAMES[1:], start=1):
        side, _, part = name.rpartition("_")
        spread = np.deg2rad(_POSE_SPREAD[part])
        angles[:, j] = rng.normal(size=(num_poses, 3)) * spread
        sign = -1.0 if side == "right" else 1.0
        if part == "knee":
            angles[:, j, 0] = np.abs(angles[:, j, 0])
        elif part == "hip":
            angles[:, j, 0] -= np.deg2rad(15)
        elif part == "elbow":
            angles[:, j, 1] = -sign * np.abs(angles[:, j, 1])
        elif part == "shoulder":
            angles[:, j, 2] -= sign * np.deg2rad(40)
    return axis_angle(angles)


def axis_angle(vector: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Rodrigues' formula; radians."""
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vector / np.maximum(angle[..., 0], 1e-12), -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*x.shape, 3, 3)
    rotation: Float[np.ndarray, "*batch 3 3"] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return rotation


def _shortest_rotation(source: Float[np.ndarray, "bodies 3"], target: Float[np.ndarray, "3"]) -> np.ndarray:
    """Smallest rotation that turns each `source` into the direction `target` (a unit vector)."""
    unit = source / np.linalg.norm(source, axis=1, keepdims=True)
    axis = np.cross(unit, target)
    sine = np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.arctan2(sine, (unit @ target)[:, None])
    return axis_angle(axis / np.maximum(sine, 1e-12) * angle)
