"""For tests and tools only: tiny folders in the layouts of COCO, MPII, UP-3D and EFT's fits.

The people are the open body with known parameters, so keypoints, bodies and cameras agree.
"""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from posecore.body.files import load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import COCO_17, JOINTS_44, LSP_14
from posecore.geometry.rotation import axis_angle_to_rotmat, rotmat_to_axis_angle

_FOCAL_LENGTH = 5000.0
_WIDTH_HEIGHT = ((320, 240), (240, 360))
_MPII_16 = (
    *("r_ankle", "r_knee", "r_hip", "l_hip", "l_knee", "l_ankle", "pelvis", "thorax", "neck", "head_top"),
    *("r_wrist", "r_elbow", "r_shoulder", "l_shoulder", "l_elbow", "l_wrist"),
)
_HEAD = 7  # COCO's joints down to the shoulders.


def write_coco(root: Path, split: str = "train2014", rows: int = 6, seed: int = 0) -> dict[str, Any]:
    """Writes ``annotations/person_keypoints_<split>.json`` and ``<split>/*.jpg``, two people in each picture.

    Of person i the keypoints j with (i + 2 j) % 7 = 0 are not labelled, every third of the others is hidden. The last
    person is labelled down to the shoulders alone. After the people comes a crowd. A picture's red is its column, its
    green its row, both from 0 to 255, and its blue 128.

    Args:
        root: folder to write into, made where it is not there.
        split: "train2014", "val2014", "train2017" or "val2017".
        rows: people.
        seed: of the draw.

    Returns:
        What was written: ``pose`` (rows, 24, 3, 3), ``betas``, ``transl`` and ``joints_cam`` (rows, 44, 3), metres,
        camera axes; ``joints_2d_px`` (rows, 44, 2) and ``image_size`` (rows, 2), pixels; ``clip``, ``flags``
        (rows, 17), ``annotation`` (numbers) and ``box`` (rows, 3): middle and side, pixels.
    """
    people = _people(rows, seed)
    prefix = f"COCO_{split}_" if split.endswith("2014") else ""
    numbers = 9 + 16 * (np.arange(rows) // 2)
    clip = [f"{split}/{prefix}{number:012d}.jpg" for number in numbers]
    place = np.arange(rows)[:, None] + 2 * np.arange(17)
    flags = np.where(place % 7 == 0, 0, np.where(place % 3 == 0, 1, 2))
    flags[-1, _HEAD:] = 0
    points = people["joints_2d_px"][:, _places(COCO_17.joint_names)] - 0.5
    low, size = _extent(people["joints_2d_px"])
    keypoints = np.where(flags[..., None] > 0, np.concatenate((points, flags[..., None]), axis=2), 0)
    annotations: list[dict[str, Any]] = [
        {
            "id": 1200 + row,
            "image_id": int(numbers[row]),
            "category_id": 1,
            "iscrowd": 0,
            "num_keypoints": int((flags[row] > 0).sum()),
            "bbox": [*low[row].tolist(), *size[row].tolist()],
            "keypoints": keypoints[row].ravel().tolist(),
        }
        for row in range(rows)
    ]
    annotations.append({**annotations[0], "id": 900100, "iscrowd": 1, "num_keypoints": 0, "keypoints": [0] * 51})
    images = [
        {"id": int(number), "file_name": Path(name).name, "width": int(width), "height": int(height)}
        for number, name, (width, height) in zip(numbers[::2], clip[::2], people["image_size"][::2], strict=True)
    ]
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    content = json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]})
    (root / "annotations" / f"person_keypoints_{split}.json").write_text(content, encoding="utf-8")
    _write_pictures(root, clip, people["image_size"])
    box = np.column_stack((low + size / 2, 1.2 * size.max(axis=1)))
    return {**people, "clip": clip, "flags": flags, "annotation": 1200 + np.arange(rows), "box": box}


def write_mpii(root: Path, split: str = "train", rows: int = 6, seed: int = 0) -> dict[str, Any]:
    """Writes ``annot/<split>.json`` of the simple baselines and ``images/*.jpg``, two people in each picture.

    Of person i the joints j with (i + 2 j) % 7 = 0 are not labelled; of the last person, the limbs below the hips and
    all arms. After the people comes one whose place is not known. Pictures as `write_coco`'s.

    Args:
        root: folder to write into, made where it is not there.
        split: "train", "valid" or "trainval".
        rows: people whose place is known.
        seed: of the draw.

    Returns:
        As `write_coco`, with ``flags`` (rows, 16) and without ``annotation``.
    """
    people = _people(rows, seed)
    clip = [f"images/{15601864 + row // 2:09d}.jpg" for row in range(rows)]
    flags = ((np.arange(rows)[:, None] + 2 * np.arange(16)) % 7 != 0).astype(int)
    flags[-1, [0, 1, 4, 5, 10, 11, 12, 13, 14, 15]] = 0
    points = np.where(flags[..., None] > 0, people["joints_2d_px"][:, _places(_MPII_16)] + 0.5, -1.0)
    low, size = _extent(people["joints_2d_px"])
    center, scale = (low + size / 2).round(), size[:, 1] / 200
    entries = [
        {
            "joints": points[row].tolist(),
            "joints_vis": flags[row].tolist(),
            "image": Path(clip[row]).name,
            "center": center[row].tolist(),
            "scale": float(scale[row]),
        }
        for row in range(rows)
    ]
    entries.append({**entries[0], "center": [-1.0, -1.0], "scale": -1.0})
    (root / "annot").mkdir(parents=True, exist_ok=True)
    (root / "annot" / f"{split}.json").write_text(json.dumps(entries), encoding="utf-8")
    _write_pictures(root, clip, people["image_size"])
    x, y = (center - 0.5).T
    return {**people, "clip": clip, "flags": flags, "box": np.column_stack((x, y + 15 * scale, 250 * scale))}


def write_eft(path: Path, people: Mapping[str, Any], without: int = 1, box_shift_px: float = 0.5) -> Path:
    """Writes EFT's json of fits that are the people themselves, last person first.

    Args:
        path: the file; its folder is made where it is not there.
        people: what `write_coco` or `write_mpii` returned.
        without: how many of the first people have no fit.
        box_shift_px: how far to the right of the annotation's the boxes are: MPII's count pixels from 1.

    Returns:
        ``path``.
    """
    annotation = people.get("annotation", np.zeros(len(people["clip"]), dtype=int))
    data = [
        {
            "parm_pose": people["pose"][row].tolist(),
            "parm_shape": people["betas"][row].tolist(),
            "parm_cam": [0.9, 0.0, 0.0],
            "bbox_scale": float(people["box"][row, 2] / 200),
            "bbox_center": [float(people["box"][row, 0] + box_shift_px), float(people["box"][row, 1])],
            "joint_validity_openpose18": [True] * 18,
            "smpltype": "smpl",
            "annotId": int(annotation[row]),
            "imageName": Path(people["clip"][row]).name,
        }
        for row in reversed(range(without, len(people["clip"])))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"ver": 0.1, "data": data}), encoding="utf-8")
    return path


def write_up3d(
    root: Path, counts: Mapping[str, int] = {"train": 3, "val": 2, "test": 2}, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Writes UP-3D's lists, pictures, pickled bodies and joints.

    The cameras are turned (``rt``) and every second focal length is 4000 px. Joint i % 14 of person i is not seen, the
    next one has a confidence of 0.5. Pictures as `write_coco`'s.

    Args:
        root: folder to write into, made where it is not there.
        counts: people of the lists "train", "val" and "test".
        seed: of the draw.

    Returns:
        For each of "train", "val", "trainval" and "test" what was written, as `write_coco`, with ``confidence``
        (rows, 14) and ``focal_length`` (rows,), without ``flags``, ``annotation`` and ``box``.
    """
    rows = sum(counts.values())
    focal = np.where(np.arange(rows) % 2 == 1, 4000.0, 5000.0)
    people = _people(rows, seed, focal)
    confidence = np.ones((rows, 14))
    confidence[np.arange(rows), np.arange(rows) % 14] = 0
    confidence[np.arange(rows), (np.arange(rows) + 1) % 14] = 0.5
    people |= {"clip": [f"{row:05d}_image.png" for row in range(rows)], "confidence": confidence, "focal_length": focal}
    root.mkdir(parents=True, exist_ok=True)
    _write_pictures(root, people["clip"], people["image_size"])
    rt = 0.3 * np.random.default_rng(seed).standard_normal((rows, 3))
    turn = axis_angle_to_rotmat(torch.from_numpy(rt)).numpy()
    own = people["pose"].copy()
    own[:, 0] = turn.transpose(0, 2, 1) @ own[:, 0]
    pose = rotmat_to_axis_angle(torch.from_numpy(own)).reshape(rows, 72).numpy()
    for row in range(rows):
        pelvis = people["rest_pelvis"][row]
        body = {
            "pose": pose[row],
            "betas": people["betas"][row],
            "trans": np.zeros(3),
            "rt": rt[row],
            "t": pelvis + people["transl"][row] - turn[row] @ pelvis,
            "f": float(focal[row]),
        }
        (root / f"{row:05d}_body.pkl").write_bytes(pickle.dumps(body, protocol=2))
        points = people["joints_2d_px"][row, _places(LSP_14.joint_names)]
        np.save(root / f"{row:05d}_joints.npy", np.column_stack((points, confidence[row])).T)
    ends = dict(zip(counts, np.cumsum(list(counts.values())).tolist(), strict=True))
    parts = {split: list(range(end - counts[split], end)) for split, end in ends.items()}
    parts["trainval"] = [*parts.get("train", []), *parts.get("val", [])]
    for split, part in parts.items():
        lines = "".join(f"/{people['clip'][row]}\n" for row in part)
        (root / f"{split}.txt").write_text(lines, encoding="utf-8")
    return {split: {key: _rows_of(value, part) for key, value in people.items()} for split, part in parts.items()}


def _rows_of(values: Any, rows: list[int]) -> Any:
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]


def _people(rows: int, seed: int, focal_length: np.ndarray | float = _FOCAL_LENGTH) -> dict[str, Any]:
    """Open bodies, two in each picture, with their joints44 in the camera and in pixels."""
    generator = np.random.default_rng(seed)
    axis_angle = 0.2 * generator.standard_normal((rows, 24, 3))
    axis_angle[:, 0] += [np.pi, 0, 0]  # upright before a camera with y down
    pose = axis_angle_to_rotmat(torch.from_numpy(axis_angle))
    betas = torch.from_numpy(generator.standard_normal((rows, 10)))
    side = np.where(np.arange(rows) % 2 == 0, -0.7, 0.7)
    transl = np.column_stack((side, generator.uniform(-0.2, 0.2, rows), generator.uniform(60, 75, rows)))
    layer = NamedJoints(JOINTS_44, load_body_model(dtype=torch.float64))
    joints = layer(betas, pose[:, 1:], pose[:, 0], torch.from_numpy(transl)).numpy()
    rest = torch.eye(3, dtype=torch.float64).expand(rows, 24, 3, 3)
    mid_hip = JOINTS_44.index("op_mid_hip")  # SMPL's pelvis, about which the root turns.
    image_size = np.array([_WIDTH_HEIGHT[row // 2 % 2] for row in range(rows)], dtype=np.float64)
    focal = np.broadcast_to(focal_length, rows)[:, None, None]
    return {
        "pose": pose.numpy(),
        "betas": betas.numpy(),
        "transl": transl,
        "rest_pelvis": layer(betas, rest[:, 1:], rest[:, 0]).numpy()[:, mid_hip],
        "joints_cam": joints,
        "joints_2d_px": focal * joints[..., :2] / joints[..., 2:] + image_size[:, None] / 2,
        "image_size": image_size,
    }


def _places(names: Sequence[str]) -> list[int]:
    """The joints of these names in joints44, the face among OpenPose's."""
    return [JOINTS_44.index(name if name in JOINTS_44.joint_names else f"op_{name}") for name in names]


def _extent(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = points.min(axis=1), points.max(axis=1)
    return low, high - low


def _write_pictures(root: Path, names: Sequence[str], image_size: np.ndarray) -> None:
    for name, (width, height) in dict(zip(names, image_size.astype(int).tolist(), strict=True)).items():
        red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
        colours = np.stack((red, green, np.full_like(red, 128)), axis=-1).round().astype(np.uint8)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours).save(root / name, quality=95)
