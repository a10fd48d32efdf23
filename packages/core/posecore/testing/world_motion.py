"""For tests and tools only: tiny folders of EMDB and AMASS, in their real on-disk layouts, of the open body."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from posecore.body.files import load_body_model
from posecore.body.smpl import SMPLLayer
from posecore.testing.smpl_files import write_gendered_bodies

_WIDTH_HEIGHT = (144, 192)
_EMDB_SEQUENCES = (
    ("P0", "00_mvs_a", (True, False)),
    ("P3", "27_indoor_walk", (True, True)),
    ("P9", "79_outdoor", (False, True)),
)
_AMASS_FILES = (
    ("ACCAD", "Female1Walking_c3d", "B1_stand_poses", 156, 16, 120.0, "mocap_framerate"),
    ("BMLrub", "rub001", "0000_treadmill_stageii", 165, 16, 100.0, "mocap_frame_rate"),
    ("HumanEva", "S1", "Box_1_poses", 72, 10, 60.0, "mocap_framerate"),
    ("SSM_synced", "20160330_03333", "chicken_wings_poses", 156, 16, 60.0, "mocap_framerate"),
    ("DanceDB", "Andria", "Happy_v1_poses", 156, 16, 60.0, "mocap_framerate"),
)


def write_emdb(
    root: Path, frames: int = 6, sequences: Sequence[tuple[str, str, tuple[bool, bool]]] = _EMDB_SEQUENCES
) -> dict[str, dict[str, np.ndarray]]:
    """Writes P*/<sequence>/{P*_<sequence>_data.pkl,images/*.jpg} and, where there are none, SMPL files in body_models.

    Frame 2 is no good frame and holds NaN. The box of frame 3 is invalid; the others are the joints' boxes. People
    walk through a world that is y up, before a camera that moves.

    Args:
        root: folder, made where it is not there.
        frames: of each sequence; at least 4.
        sequences: participant, name, and whether it is in EMDB 1 and 2.

    Returns:
        For each sequence ("P0_00_mvs_a"): ``joints_cam`` (frames, 24, 3), metres, and ``kp2d`` (frames, 24, 2).
    """
    if not (root / "body_models").exists():
        write_gendered_bodies(root / "body_models")
    truth = {}
    for seed, (subject, name, (emdb1, emdb2)) in enumerate(sequences):
        generator = np.random.default_rng(seed)
        gender = ("female", "male", "neutral")[seed % 3]
        pose, betas, transl = _person(generator, frames)
        model = load_body_model(root / "body_models", gender, dtype=torch.float64)  # type: ignore[arg-type]
        joints = _posed(model, pose, betas, transl)
        extrinsics = np.stack([_camera(0.1 * frame + seed) for frame in range(frames)])
        K = np.array([[160.0, 0.0, 71.5], [0.0, 161.0, 97.0], [0.0, 0.0, 1.0]])
        joints_cam = joints @ extrinsics[:, :3, :3].transpose(0, 2, 1) + extrinsics[:, None, :3, 3]
        uvw = joints_cam @ K.T
        kp2d = uvw[..., :2] / uvw[..., 2:]
        boxes = np.concatenate((kp2d.min(axis=1), kp2d.max(axis=1)), axis=1)
        boxes[3] = 0
        good = np.arange(frames) != 2
        smpl = {"poses_root": pose[:, :3], "poses_body": pose[:, 3:], "trans": transl}
        for array in (*smpl.values(), extrinsics, kp2d, boxes):
            array[2] = np.nan
        content = {
            "gender": gender,
            "name": f"{subject}_{name}",
            "emdb1": emdb1,
            "emdb2": emdb2,
            "n_frames": frames,
            "good_frames_mask": good,
            "camera": {
                "intrinsics": K,
                "extrinsics": extrinsics,
                "width": _WIDTH_HEIGHT[0],
                "height": _WIDTH_HEIGHT[1],
            },
            "smpl": {**smpl, "betas": betas},
            "kp2d": kp2d,
            "bboxes": {"bboxes": boxes, "invalid_idxs": np.array([2, 3])},
        }
        folder = root / subject / name
        (folder / "images").mkdir(parents=True, exist_ok=True)
        with (folder / f"{subject}_{name}_data.pkl").open("wb") as file:
            pickle.dump(content, file)
        for frame in range(frames):
            Image.new("RGB", _WIDTH_HEIGHT, (30 * frame, 200, 60)).save(folder / "images" / f"{frame:05d}.jpg")
        truth[f"{subject}_{name}"] = {"joints_cam": joints_cam, "kp2d": kp2d}
    return truth


def write_amass(root: Path, frames: int = 41) -> dict[str, dict[str, Any]]:
    """Writes <sub data set>/<subject>/*.npz: five files of the three kinds, and files beside them that hold no motion.

    Returns:
        The arrays of each file, by "<sub data set>/<subject>/<name>", and ``joints_world`` (frames, 24, 3), metres, z
        up, of the open body in its mean shape, SMPL's joints only.
    """
    truth = {}
    for seed, (subset, subject, name, width, num_betas, rate, key) in enumerate(_AMASS_FILES):
        generator = np.random.default_rng(seed)
        pose, _, transl = _person(generator, frames)
        pose[:, :3] = [np.pi / 2, 0, 0] + 0.1 * generator.standard_normal((frames, 3))  # upright, z up
        if width != 72:
            pose[:, 66:] = 0
        poses = 0.1 * generator.standard_normal((frames, width))
        poses[:, : 72 if width == 72 else 66] = pose[:, : 72 if width == 72 else 66]
        arrays: dict[str, Any] = {
            "poses": poses,
            "trans": transl,
            "betas": generator.standard_normal(num_betas),
            "gender": np.array("female"),
            key: np.array(rate),
        }
        folder = root / subset / subject
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"{name}.npz", **arrays)
        np.savez(folder / "shape.npz", betas=arrays["betas"])
        np.savez(folder / "neutral_stagei.npz", betas=arrays["betas"])
        joints = _posed(load_body_model(dtype=torch.float64), pose, np.zeros(10), transl)
        truth[f"{subset}/{subject}/{name}"] = {**arrays, "joints_world": joints}
    return truth


def _person(generator: np.random.Generator, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pose (frames, 72), shape (10) and translation (frames, 3) of somebody upright in a world that is y up."""
    pose = 0.2 * generator.standard_normal((frames, 72))
    return pose, generator.standard_normal(10), 0.2 * generator.standard_normal((frames, 3))


def _posed(model: Any, pose: np.ndarray, betas: np.ndarray, transl: np.ndarray) -> np.ndarray:
    frames = len(pose)
    layer = SMPLLayer(model, vertices=())
    posed = layer(
        torch.from_numpy(betas),
        torch.from_numpy(pose[:, 3:].reshape(frames, 23, 3)),
        torch.from_numpy(pose[:, :3]),
        torch.from_numpy(transl),
        pose_repr="axis_angle",
    )
    return np.asarray(posed.joints.numpy())


def _camera(azimuth: float) -> np.ndarray:
    """World to camera (4, 4), 4 metres from the origin, y of the world up."""
    forward = np.array([np.cos(azimuth), -0.1, np.sin(azimuth)])
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    out = np.eye(4)
    out[:3, :3] = np.stack((right, np.cross(forward, right), forward))
    out[:3, 3] = [0.1, -0.05, 4.0]
    return out
