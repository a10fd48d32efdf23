"""For tests only: tiny files in the layouts of ScoreHMR's release and SPIN, of the open body with known parameters."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from posecore.body.files import OPEN_BODY, load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import JOINTS_44
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.safe_pickle import load_npz

_FOCAL_LENGTH = 5000.0
_GENDERED_SIZE = {"NEUTRAL": 1.0, "FEMALE": 0.95, "MALE": 1.1}
_WIDTH_HEIGHT = ((1280, 720), (1080, 1920))
_SMALL_WIDTH_HEIGHT = ((320, 240), (240, 360))
_SPIN_24 = [*range(25, 44), 0, 16, 15, 18, 17]  # SPIN's joints in joints44; the last are nose, eyes and ears.
_NOT_H36M = [13, 15]  # Of SPIN's, those that Human3.6M has not, beside the face.


def write_smpl_npz(
    root: Path, name: str = "train.npz", rows: int = 10, unknown: int = 2, seed: int = 0, **changes: Any
) -> dict[str, np.ndarray]:
    """Writes an npz of annotations.

    The last ``unknown`` rows have no pose and no shape. OpenPose's joint 3 and the extra joint 4 are not annotated in
    2D, the extra joint 18 not in 3D; every other confidence is above 0. People alternate between two sizes of picture.

    Args:
        root: folder, made where it is not there.
        name: of the file.
        rows: people.
        unknown: how many of them have no SMPL parameters.
        seed: of the draw.
        changes: columns to add or replace; None takes a column out.

    Returns:
        The columns before the changes, and what they were made from: ``transl`` (rows, 3), ``joints_cam``
        (rows, 44, 3), metres, and ``image_size`` (rows, 2), pixels.
    """
    columns, made_from = _people(rows, unknown, seed)
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / name, **_changed(columns, changes))
    return {**columns, **made_from}


def write_smpl_groups(
    root: Path, name: str = "test.pkl", counts: Sequence[int] = (4, 3), seed: int = 0, **changes: Any
) -> dict[str, np.ndarray]:
    """Writes a pickled list of groups of ``counts`` rows; arguments and result as `write_smpl_npz`, rows joined."""
    columns, made_from = _people(sum(counts), 0, seed)
    root.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum(counts)
    table = _changed(columns, changes)
    groups = [
        {key: values[end - count : end] for key, values in table.items()}
        for count, end in zip(counts, ends, strict=True)
    ]
    with (root / name).open("wb") as file:
        pickle.dump(groups, file)
    return {**columns, **made_from}


def write_start_cache(
    path: Path, people: dict[str, np.ndarray], cameras: Sequence[str] = ("pred_cam_t",), **changes: Any
) -> dict[str, np.ndarray]:
    """Writes a cache of predictions that are the truth itself.

    Args:
        path: ``.npz``, or ``.pkl`` for a pickled dict.
        people: what `write_smpl_npz` returned.
        cameras: columns of cameras: "pred_cam_t", before the whole picture; "pred_cam", of the crop.
        changes: columns to add or replace; None takes a column out.

    Returns:
        The columns before the changes, with both cameras.
    """
    rows = len(people["transl"])
    rotmat = axis_angle_to_rotmat(torch.from_numpy(people["body_pose"]).unflatten(-1, (24, 3))).numpy()
    depth = people["transl"][:, 2:]
    crop_scale = 2 * _FOCAL_LENGTH / (people["scale"][:, None] * depth)
    # What lies in the middle of the box has no offset before the crop's camera.
    at_center = (people["center"] - people["image_size"] / 2) * depth / _FOCAL_LENGTH
    columns = {
        "pred_betas": people["betas"].astype(np.float32),
        "pred_pose": rotmat.reshape(rows, 24, 3, 3).astype(np.float32),
        "pred_cam": np.concatenate((crop_scale, people["transl"][:, :2] - at_center), axis=1).astype(np.float32),
        "pred_cam_t": people["transl"].astype(np.float32),
    }
    kept = {key: value for key, value in columns.items() if key in ("pred_betas", "pred_pose", *cameras)}
    table = _changed(kept, changes)
    if path.suffix == ".npz":
        np.savez(path, **table)
    else:
        with path.open("wb") as file:
            pickle.dump(table, file)
    return columns


def write_spin_npz(
    folder: Path, name: str = "h36m_train.npz", rows: int = 10, unknown: int = 2, seed: int = 0, **changes: Any
) -> dict[str, np.ndarray]:
    """Writes an npz of SPIN's layout and its pictures, ``<stem of name>/*.jpg``.

    The last ``unknown`` rows have no SMPL parameters. SPIN's joints 13 and 15 are not annotated, nose, eyes and ears
    (19 to 23) only in even rows and never in 3D. OpenPose's joint 3 is not detected; the others are, 3 px to the right
    of where they are. A picture's red is its column, its green its row, both from 0 to 255, and its blue 128.

    Args:
        folder: of file and pictures, made where it is not there.
        name: of the file.
        rows: people.
        unknown: how many of them have no SMPL parameters.
        seed: of the draw.
        changes: columns to add or replace; None takes a column out.

    Returns:
        The columns before the changes, and what they were made from: ``transl`` (rows, 3), ``joints_cam``
        (rows, 44, 3), metres, ``joints_2d_px`` (rows, 44, 2) and ``image_size`` (rows, 2), pixels.
    """
    people, made_from = _people(rows, unknown, seed, _SMALL_WIDTH_HEIGHT, (60, 75))
    joints, sizes = made_from["joints_cam"], made_from["image_size"]
    pixels = _FOCAL_LENGTH * joints[..., :2] / joints[..., 2:] + sizes[:, None] / 2
    part = np.concatenate((pixels[:, _SPIN_24], np.ones((rows, 24, 1))), axis=2)
    part[1::2, 19:] = part[:, _NOT_H36M] = 0
    located = np.concatenate((joints[:, _SPIN_24] - joints[:, [39]], np.ones((rows, 24, 1))), axis=2)
    located[:, [*_NOT_H36M, *range(19, 24)]] = 0
    detected = people["body_keypoints_2d"].copy()
    detected[..., 0] += 3 * (detected[..., 2] > 0)
    columns = {
        "imgname": np.array([f"{Path(name).stem}/{row % 2}_{row // 4:06d}.jpg" for row in range(rows)]),
        "center": people["center"],
        "scale": people["scale"] / 200,
        "part": part,
        "openpose": detected,
        "S": located,
        "pose": people["body_pose"],
        "shape": people["betas"],
        "has_smpl": people["has_body_pose"],
    }
    (folder / Path(name).stem).mkdir(parents=True, exist_ok=True)
    for picture, (width, height) in zip(columns["imgname"].tolist(), sizes.astype(int).tolist(), strict=True):
        red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
        colours = np.stack((red, green, np.full_like(red, 128)), axis=-1).round().astype(np.uint8)
        Image.fromarray(colours).save(folder / picture, quality=95)
    np.savez(folder / name, **_changed(columns, changes))
    return {**columns, **made_from, "joints_2d_px": pixels}


def write_gendered_bodies(folder: Path) -> Path:
    """Writes SMPL_{NEUTRAL,FEMALE,MALE}.npz: the open body at three sizes (1, 0.95, 1.1)."""
    folder.mkdir(parents=True, exist_ok=True)
    content = load_npz(OPEN_BODY)
    for name, size in _GENDERED_SIZE.items():
        np.savez_compressed(folder / f"SMPL_{name}.npz", **{**content, "v_template": content["v_template"] * size})
    return folder


def _people(
    rows: int,
    unknown: int,
    seed: int,
    sizes: Sequence[tuple[int, int]] = _WIDTH_HEIGHT,
    depths: tuple[float, float] = (14, 20),
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    pose = 0.2 * generator.standard_normal((rows, 72))
    pose[:, :3] = [np.pi, 0, 0] + 0.1 * generator.standard_normal((rows, 3))  # upright before a camera with y down
    betas = generator.standard_normal((rows, 10))
    transl = np.column_stack(
        (generator.uniform(-0.5, 0.5, rows), generator.uniform(-0.2, 0.2, rows), generator.uniform(*depths, rows))
    )
    rotmat = axis_angle_to_rotmat(torch.from_numpy(pose).unflatten(-1, (24, 3)))
    layer = NamedJoints(JOINTS_44, load_body_model(dtype=torch.float64))
    joints = layer(torch.from_numpy(betas), rotmat[:, 1:], rotmat[:, 0], torch.from_numpy(transl)).numpy()
    image_size = np.array([sizes[row % 2] for row in range(rows)], dtype=np.float64)
    pixels = _FOCAL_LENGTH * joints[..., :2] / joints[..., 2:] + image_size[:, None] / 2
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    confidence = generator.uniform(0.2, 1, (rows, 44))
    seen = np.concatenate((pixels, confidence[..., None]), axis=2)
    seen[:, [3, 29]] = 0
    located = np.concatenate((joints, np.ones((rows, 44, 1))), axis=2)
    located[:, 43] = 0
    known = np.arange(rows) < rows - unknown
    columns = {
        "imgname": np.array([f"pictures/{row % 2}_{row // 4:03d}.png" for row in range(rows)]),
        "center": (low + high) / 2,
        "scale": 1.2 * (high - low).max(axis=1),
        "body_pose": np.where(known[:, None], pose, 0),
        "has_body_pose": known.astype(np.float64),
        "betas": np.where(known[:, None], betas, 0),
        "has_betas": known.astype(np.float64),
        "body_keypoints_2d": seen[:, :25],
        "extra_keypoints_2d": seen[:, 25:],
        "body_keypoints_3d": located[:, :25],
        "extra_keypoints_3d": located[:, 25:],
    }
    return columns, {"transl": transl, "joints_cam": joints, "image_size": image_size}


def _changed(columns: dict[str, np.ndarray], changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**columns, **changes}.items() if value is not None}
