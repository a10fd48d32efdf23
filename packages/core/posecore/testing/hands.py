"""For tests and tools only: an open stand-in for MANO's hand, and tiny folders of it in FreiHAND's layout.

MANO may not be passed on, so what is written for hands could not be tried without it. The stand-in has MANO's layout
and numbers of vertices, faces, joints and fingertips, and nothing else of it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image

from posecore.body.files import load_body_model
from posecore.body.joint_maps import joint_map
from posecore.body.skeletons import FREIHAND_21, MANO_21
from posecore.body.smpl import SMPLLayer
from posecore.geometry.rotation import axis_angle_to_rotmat, random_rotmat
from posecore.render.mesh import render_mesh

# What the shape components change one by one: mean and standard deviation; metres, radians and factors.
_MEASURES = {
    "arch": (0.12, 0.05), "palm_length": (0.09, 0.005), "palm_width": (0.042, 0.002), "palm_thickness": (0.014, 0.001),
    "finger_length": (1.0, 0.05), "finger_radius": (0.009, 0.0007), "taper": (0.75, 0.05),
    "thumb_length": (0.08, 0.005), "spread": (0.1, 0.03), "pinky_length": (1.0, 0.05),
}  # fmt: skip
_FINGERS = ("index", "middle", "ring", "pinky", "thumb")
_LENGTHS = (0.072, 0.08, 0.074, 0.058)  # Metres, from the gap between two fingers to the tip.
_RINGS = (13, 13, 12, 12, 12)  # Of ten vertices each, beside the ring that a finger shares with the palm.
_ROWS = (
    0.0,
    0.1,
    0.42,
    0.54,
    0.65,
    0.75,
    0.84,
    0.92,
    1.0,
)  # Of 16 vertices, by the palm's length; the thumb at 1 to 2.
_KNUCKLE_ROW, _JOINT_RINGS = 6, (5, 9)
_TIPS = {"index": 320, "middle": 443, "ring": 554, "pinky": 671, "thumb": 744}  # As smplx has them.
_THUMB_TURN, _THUMB_DROP = np.deg2rad(50), 0.25
_FLEXION_DEGREES = {"thumb": (25, 30, 50)}
_IMAGE_SIDE = 224
_SKIN = ("#c68863", "#e0ac8a", "#8d5a3c", "#f1c9ae")
_GREEN = (60, 160, 70)

_Grid = dict[tuple[int, int, int], int]


def write_hand_model(path: Path) -> Path:
    """Writes an open right hand as npz in the layout of MANO's files: a stand-in, not a hand model for results.

    It exercises the path where MANO is missing: 778 vertices, 1538 faces, 16 joints, 10 shape components, an opening of
    16 edges at the wrist, fingertips at MANO's vertices. A palm and five fingers are swept from a grid and measured by
    eye; there are no pose blend shapes, and ``hands_components`` are the principal components of invented poses. Rest
    pose as MANO's: wrist at the origin, fingers along -x, thumb towards +z, palm down.

    Returns:
        ``path``.
    """
    grid, chains = _numbering()
    mean = np.array([measure[0] for measure in _MEASURES.values()])
    order = _order(chains)
    template = _vertices(grid, chains, mean)
    changed = [_vertices(grid, chains, mean + step) for step in np.diag([measure[1] for measure in _MEASURES.values()])]
    poses = _finger_poses(2000, np.random.default_rng(0)).reshape(2000, 45)
    arrays = {
        "v_template": template[order],
        "shapedirs": np.stack([shape - template for shape in changed], axis=-1)[order],
        "posedirs": np.zeros((len(order), 3, 135)),
        "J_regressor": _joint_regressor(grid, chains, len(order))[:, order],
        "weights": _skinning(grid, chains, len(order))[order],
        "kintree_table": np.array([[2**32 - 1, *MANO_21.parents[1:16]], range(16)]),
        "f": np.argsort(order)[_faces(grid, chains)],
        "hands_components": np.linalg.svd(poses - poses.mean(axis=0))[2],
        "hands_mean": poses.mean(axis=0),
    }
    np.savez_compressed(path, allow_pickle=False, **arrays)
    return path


def write_freihand(
    root: Path, hand: Path, training: int = 6, evaluation: int = 3, versions: int = 4, seed: int = 0
) -> Path:
    """Writes a folder in FreiHAND's layout: rendered hands in random poses and views, before random backgrounds.

    Args:
        root: Folder to write into, made where it is not there.
        hand: File of the hand model, MANO's right hand or that of `write_hand_model`.
        training: Hands of the training set.
        evaluation: Hands of the evaluation set.
        versions: Pictures of each training hand with other backgrounds, the first green; the data set has 4.
        seed: Changes shapes, poses, cameras and backgrounds.

    Returns:
        ``root``.
    """
    model = load_body_model(hand)
    layer = SMPLLayer(model, regressor=model.landmark_regressor(MANO_21.joint_names[16:]))
    to_freihand = joint_map(MANO_21, FREIHAND_21)
    for number, (split, count, of_each) in enumerate((("training", training, versions), ("evaluation", evaluation, 1))):
        rng = np.random.default_rng((seed, number))
        posed = layer(
            betas=torch.from_numpy(rng.normal(size=(count, 10))).float(),
            body_pose=axis_angle_to_rotmat(torch.from_numpy(_finger_poses(count, rng)).float()),
            global_orient=random_rotmat((count,), generator=torch.Generator().manual_seed(int(rng.integers(2**31)))),
        )
        K = np.tile(np.diag([1.0, 1.0, 1.0]), (count, 1, 1))
        K[:, 0, 0] = K[:, 1, 1] = rng.uniform(450, 550, count)
        K[:, :2, 2] = _IMAGE_SIDE / 2
        place = np.column_stack((rng.uniform(-0.01, 0.01, (count, 2)), rng.uniform(0.45, 0.6, count)))
        shift = torch.from_numpy(place).float()[:, None] - posed.vertices.mean(dim=1, keepdim=True)
        vertices, joints = posed.vertices + shift, to_freihand.apply(posed.joints + shift)
        folder = root / split / "rgb"
        folder.mkdir(parents=True, exist_ok=True)
        columns = {
            "K": K,
            "xyz": joints.double().numpy(),
            "verts": vertices.double().numpy(),
            "scale": (joints[:, 10] - joints[:, 9]).norm(dim=-1).double().numpy(),
        }
        for name, values in columns.items():
            (root / f"{split}_{name}.json").write_text(json.dumps(values.round(7).tolist()), encoding="utf-8")
        for row in range(count):
            skin = str(rng.choice(_SKIN))
            for version in range(of_each):
                picture = render_mesh(
                    vertices[row], model.faces, torch.from_numpy(K[row]), (_IMAGE_SIDE, _IMAGE_SIDE), skin,
                    _background(rng, green=version == 0 and split == "training"),
                )  # fmt: skip
                Image.fromarray(picture).save(folder / f"{row + count * version:08d}.jpg", quality=92)
    return root


def _background(rng: np.random.Generator, green: bool) -> np.ndarray:
    size = (_IMAGE_SIDE, _IMAGE_SIDE)
    if green:
        return np.array(Image.new("RGB", size, _GREEN))
    spots = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(spots).resize(size, Image.Resampling.BICUBIC))


def _finger_poses(count: int, rng: np.random.Generator) -> Float[np.ndarray, "count 15 3"]:
    """Random axis-angle rotations of MANO's joints but the wrist: fingers curl, together and alone, and spread."""
    poses = np.zeros((count, 15, 3))
    together = rng.uniform(0, 1, count)
    for joint, name in enumerate(MANO_21.joint_names[1:16]):
        finger, knuckle = name[:-1], int(name[-1]) - 1
        if knuckle == 0:
            curl = np.clip(together + rng.normal(0, 0.3, count), 0, 1)
        turn = _THUMB_TURN if finger == "thumb" else 0.0
        flexion = np.deg2rad(_FLEXION_DEGREES.get(finger, (70, 90, 50))[knuckle] * curl + rng.normal(0, 4, count))
        poses[:, joint] = flexion[:, None] * [np.sin(turn), 0, np.cos(turn)]
        if knuckle == 0:
            poses[:, joint, 1] += np.deg2rad(rng.normal(0, 6, count))
    return poses


def _numbering() -> tuple[_Grid, list[Int[np.ndarray, "rings 10"]]]:
    """Vertices of the palm by row and place in a square of 5 x 5, and the rings of each finger from its root on.

    Column 0 is the thumb's side, layer 4 the back of the hand. The palm's rows have the rim of the square only, the
    last one also its inside, where the fingers part.
    """
    rim = _cell_rim(0, 4)
    last = len(_ROWS) - 1
    places = [(row, *place) for row in range(len(_ROWS)) for place in rim]
    places += [(last, i, j) for i in (1, 2, 3) for j in (1, 2, 3)]
    grid = {place: number for number, place in enumerate(places)}
    roots = [[grid[last, *place] for place in _cell_rim(cell, cell + 1)] for cell in range(4)]
    roots.append([*(grid[1, 0, j] for j in range(5)), *(grid[2, 0, j] for j in range(4, -1, -1))])
    chains, used = [], len(grid)
    for root, rings in zip(roots, _RINGS, strict=True):
        own = np.arange(used, used + 10 * rings).reshape(rings, 10)
        chains.append(np.concatenate(([root], own)))
        used += 10 * rings + 1  # and the tip, the number after those of the last ring
    return grid, chains


def _cell_rim(first: int, last: int) -> list[tuple[int, int]]:
    """Column and layer around the columns ``first`` to ``last``, in the sense of all rings."""
    up = [(first, j) for j in range(5)] + [(i, 4) for i in range(first + 1, last)]
    return up + [(last, j) for j in range(4, -1, -1)] + [(i, 0) for i in range(last - 1, first, -1)]


def _order(chains: Sequence[np.ndarray]) -> Int[np.ndarray, " vertices"]:
    """Which vertex comes at each place of the file, so that the tips are where MANO's are."""
    tips = {_TIPS[finger]: int(chain[-1, -1]) + 1 for finger, chain in zip(_FINGERS, chains, strict=True)}
    order = [number for number in range(max(tips.values()) + 1) if number not in tips.values()]
    for place in sorted(tips):
        order.insert(place, tips[place])
    return np.array(order)


def _faces(grid: _Grid, chains: Sequence[np.ndarray]) -> Int[np.ndarray, "faces 3"]:
    rim = _cell_rim(0, 4)
    palm = np.array([[grid[row, *place] for place in rim] for row in range(len(_ROWS))])
    faces = []
    for rings in (palm, *chains):
        low, high = rings[:-1], rings[1:]
        after, above = np.roll(low, -1, axis=1), np.roll(high, -1, axis=1)
        quads = np.stack((low, after, above, high), axis=-1)
        is_kept = np.ones(quads.shape[:2], dtype=bool)
        if rings is palm:
            is_kept[1, :4] = False  # the thumb's root
        else:
            ring = rings[-1]
            faces.append(np.stack((ring, np.roll(ring, -1), np.full(10, ring[-1] + 1)), axis=-1))
        quads = quads[is_kept]
        faces += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
    return np.concatenate(faces)


def _vertices(
    grid: _Grid, chains: Sequence[np.ndarray], measures: Float[np.ndarray, " measures"]
) -> Float[np.ndarray, "vertices 3"]:
    arch, length, width, thickness, finger_length, radius, taper, thumb_length, spread, pinky_length = measures.tolist()
    # Here along the hand, towards the thumb, towards the back of the hand; MANO's axes come last.
    points = np.zeros((int(chains[-1][-1, -1]) + 2, 3))
    for (row, i, j), number in grid.items():
        along, u, v = _ROWS[row], i / 2 - 1, j / 2 - 1
        points[number] = (
            along * length * (1 - arch * along * (u + 0.25) ** 2),
            -width * (0.7 + 0.3 * np.sin(np.pi / 2 * along)) * u * np.sqrt(1 - 0.35 * v**2),
            thickness * (1.15 - 0.25 * along) * v * np.sqrt(1 - 0.35 * u**2),
        )
    angle = np.deg2rad(36) * (np.arange(5) - 2)
    circle = np.column_stack((np.r_[-np.cos(angle), np.cos(angle)], np.r_[np.sin(angle), np.sin(angle[::-1])]))
    for finger, rings in enumerate(chains):
        is_thumb = finger == 4
        turn = _THUMB_TURN if is_thumb else spread * (1.2 - finger)
        reach = thumb_length if is_thumb else finger_length * _LENGTHS[finger] * (pinky_length if finger == 3 else 1)
        direction = np.array([np.cos(turn), np.sin(turn), -_THUMB_DROP if is_thumb else 0.0])
        direction /= np.linalg.norm(direction)
        # From one side of a finger to the other as its ring runs: away from the thumb, for the thumb to the fingers.
        across = np.array([np.sin(turn), -np.cos(turn), 0.0])
        up = np.cross(direction, across)
        up *= np.sign(up[2])
        thick = radius * (1.2 if is_thumb else 0.85 if finger == 3 else 1.0)
        root = points[rings[0]]
        middle = root.mean(axis=0)
        for ring in range(1, len(rings)):
            share = ring / (len(rings) - 0.5)
            blend = np.clip(share / 0.2, 0, 1) ** 2 * (3 - 2 * np.clip(share / 0.2, 0, 1))
            rounding = np.sqrt(1 - (max(share - 0.88, 0) / 0.12) ** 2)
            disc = thick * (1 - (1 - taper) * share) * rounding * circle @ np.stack((across, up))
            points[rings[ring]] = middle + share * reach * direction + blend * disc + (1 - blend) * (root - middle)
        points[rings[-1, -1] + 1] = middle + reach * direction
    return np.column_stack((-points[:, 0], points[:, 2], points[:, 1]))


def _joint_regressor(grid: _Grid, chains: Sequence[np.ndarray], count: int) -> Float[np.ndarray, "16 vertices"]:
    """Joints as means: of the wrist's rim, of four vertices around a knuckle, of rings."""
    rows = {"wrist": [grid[0, *place] for place in _cell_rim(0, 4)]}
    for finger, (name, rings) in enumerate(zip(_FINGERS, chains, strict=True)):
        knuckle = [grid[_KNUCKLE_ROW, i, j] for i in (finger, finger + 1) for j in (0, 4)] if name != "thumb" else None
        rows[f"{name}1"] = knuckle or rings[0].tolist()
        for number, ring in enumerate(_JOINT_RINGS, start=2):
            rows[f"{name}{number}"] = rings[ring].tolist()
    regressor = np.zeros((16, count))
    for joint, name in enumerate(MANO_21.joint_names[:16]):
        regressor[joint, rows[name]] = 1 / len(rows[name])
    return regressor


def _skinning(grid: _Grid, chains: Sequence[np.ndarray], count: int) -> Float[np.ndarray, "vertices 16"]:
    """Weights that pass from bone to bone over a ring or two around each joint."""
    weights = np.zeros((count, 16))
    last = len(_ROWS) - 1
    for (row, i, _), number in grid.items():  # A column between two fingers follows both.
        for cell in {max(i - 1, 0), min(i, 3)}:
            share = 1 if i in (0, 4) else 0.5
            _add_chain(weights, [number], cell, row - last, _KNUCKLE_ROW - last, share)
    for i, amount in ((0, 0.5), (1, 0.2)):
        near = [number for (row, column, _), number in grid.items() if row in (1, 2) and column == i]
        weights[near, MANO_21.index("thumb1")] = amount
    for finger, rings in enumerate(chains):
        first = 0 if finger == 4 else _KNUCKLE_ROW - last
        for ring in range(1, len(rings)):
            _add_chain(weights, rings[ring].tolist(), finger, ring, first)
        _add_chain(weights, [int(rings[-1, -1]) + 1], finger, len(rings), first)
    weights[:, 0] = 1 - weights[:, 1:].sum(axis=1)
    return weights


def _add_chain(
    weights: Float[np.ndarray, "vertices 16"],
    numbers: list[int],
    finger: int,
    ring: int,
    first: int,
    share: float = 1.0,
) -> None:
    """Adds what vertices at a ring of a finger (below 0: rows of the palm) follow its three joints by."""
    joint = MANO_21.index(f"{_FINGERS[finger]}1")
    passed = [
        np.clip((ring - at) / (2 * half) + 0.5, 0, 1)
        for at, half in ((first, 2), (_JOINT_RINGS[0], 1), (_JOINT_RINGS[1], 1))
    ]
    for number in range(3):
        weights[numbers, joint + number] += share * (passed[number] - (passed[number + 1] if number < 2 else 0))
