"""For tests only: tiny folders in the layouts of MuCo-3DHP and Ski-PosePTZ; nothing of the data sets is in here."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from posecore.body.skeletons import H36M_17, MUCO_21
from posecore.testing.benchmarks import people

_SIZES = ((320, 240), (240, 320))
_SKI_SIDE = 256


def write_muco(root: Path, images: int = 4, each: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Writes MuCo-3DHP.json, smpl_param.json and the pictures, half of them in augmented_set.

    Person 0 of a picture stands behind the others; the last picture's person 1 lies outside of it. Joint 20 of every
    person is not visible. Person 0 has no fit, and the fit of annotation 1 holds NaN. A picture's red is its column,
    its green its row, both from 0 to 255.

    Returns:
        ``joints_mm`` (people, 21, 3) and ``keypoints_px`` (people, 21, 2) in the order of the annotations, ``f``,
        ``c``, ``size`` (images, 2), and ``fits`` (people, 85), NaN where there is none.
    """
    generator = np.random.default_rng(seed)
    shared = [name for name in MUCO_21.joint_names if name in H36M_17.joint_names]
    count = images * each
    f = 300 + 10.0 * np.arange(images)[:, None] + [[0.0, 2.0]]
    c = np.array([_SIZES[i % 2] for i in range(images)]) / 2 + 3
    size = np.array([_SIZES[i % 2] for i in range(images)], dtype=np.float64)
    body = people(count, seed) * [1, -1, -1]
    joints = body[:, :1] + 0.3 * generator.standard_normal((count, MUCO_21.num_joints, 3))
    joints[:, [MUCO_21.index(name) for name in shared]] = body[:, [H36M_17.index(name) for name in shared]]
    joints -= joints[:, [MUCO_21.index("pelvis")]]
    person = np.arange(count) % each
    joints += np.column_stack((0.4 * (person - 0.5), np.zeros(count), np.where(person == 0, 5.0, 4 + 0.1 * person)))[
        :, None
    ]
    joints[count - each + 1 :] += [20.0, 0, 0]
    of_image = np.arange(count) // each
    pixels = f[of_image, None] * joints[..., :2] / joints[..., 2:] + c[of_image, None]
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    fits = np.concatenate((0.2 * generator.standard_normal((count, 82)), joints[:, 14]), axis=1)
    fits[person == 0], fits[1, :3] = np.nan, np.nan
    vis = np.ones((count, MUCO_21.num_joints), dtype=int)
    vis[:, 20] = 0
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    for i, (width, height) in enumerate(size.astype(int).tolist()):
        name = f"{'augmented_set' if i % 2 else 'unaugmented_set'}/{i}/{i}_0.jpg"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
        Image.fromarray(np.stack((red, green, 0 * red), axis=-1).round().astype(np.uint8)).save(root / name, quality=95)
        camera = {"f": f[i].tolist(), "c": c[i].tolist()}
        content["images"].append({"id": 100 + i, "width": width, "height": height, "file_name": name, **camera})
    for row in range(count):
        content["annotations"].append(
            {
                "id": row,
                "image_id": 100 + int(of_image[row]),
                "bbox": [*low[row].tolist(), *(high - low)[row].tolist()],
                "keypoints_img": pixels[row].tolist(),
                "keypoints_cam": (1000 * joints[row]).tolist(),
                "keypoints_vis": vis[row].tolist(),
            }
        )
    (root / "MuCo-3DHP.json").write_text(json.dumps(content), encoding="utf-8")
    table = {
        str(row): {"pose": fit[:72].tolist(), "shape": fit[72:82].tolist(), "trans": fit[82:].tolist()}
        for row, fit in enumerate(fits)
        if row % each
    }
    (root / "smpl_param.json").write_text(json.dumps(table), encoding="utf-8")
    return {"joints_mm": 1000 * joints, "keypoints_px": pixels, "f": f, "c": c, "size": size, "fits": fits}


def write_ski_pose(
    root: Path, rows: int = 6, splits: tuple[str, ...] = ("train", "test"), noise_px: float = 0.0, seed: int = 0
) -> dict[str, dict[str, np.ndarray]]:
    """Writes <split>/labels.h5 and its pictures: two cameras, pictures in turn, sequence and person by split.

    A picture is of one colour, whose red is 10 times its frame's number and whose green is 10 times its camera's.

    Returns:
        For each split ``joints_cam`` (rows, 17, 3) in metres, ``K`` (rows, 3, 3) and ``keypoints_px`` (rows, 17, 2).
    """
    generator = np.random.default_rng(seed)
    truth = {}
    for number, split in enumerate(splits):
        joints = people(rows, seed + number) * [1, -1, -1]
        joints = joints - joints[:, :1] + np.array([0.3, -0.2, 20.0]) + generator.uniform(-0.1, 0.1, (rows, 1, 3))
        K = np.tile(np.eye(3), (rows, 1, 1))
        K[:, 0, 0] = K[:, 1, 1] = 8 + 0.1 * np.arange(rows)  # Parts of the picture's side.
        K[:, :2, 2] = 0.5
        uvw = joints @ K.transpose(0, 2, 1)
        seen = uvw[..., :2] / uvw[..., 2:] + noise_px / _SKI_SIDE * generator.standard_normal((rows, 17, 2))
        labels = {
            "seq": np.full(rows, number),
            "cam": np.arange(rows) % 2,
            "frame": 1 + np.arange(rows) // 2,
            "subj": np.full(rows, number + 1),
        }
        (root / split).mkdir(parents=True, exist_ok=True)
        with h5py.File(root / split / "labels.h5", "w") as file:
            file["3D"] = (joints - joints[:, :1]).reshape(rows, -1)
            file["2D"] = seen.reshape(rows, -1)
            file["cam_intrinsic"] = K
            file["cam_position"], file["R_cam_2_world"] = np.zeros((rows, 3)), np.tile(np.eye(3), (rows, 1, 1))
            for key, values in labels.items():
                file[key] = values[:, None].astype(np.float64)
        for cam, frame in zip(labels["cam"].tolist(), labels["frame"].tolist(), strict=True):
            picture = root / split / f"seq_{number:03d}" / f"cam_{cam:02d}" / f"image_{frame:06d}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (_SKI_SIDE, _SKI_SIDE), (10 * frame, 10 * cam, 0)).save(picture)
        truth[split] = {
            "joints_cam": joints,
            "K": K * [[_SKI_SIDE], [_SKI_SIDE], [1]],
            "keypoints_px": _SKI_SIDE * seen,
        }
    return truth
