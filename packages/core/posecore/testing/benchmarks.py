"""For tests only: tiny fake folders of the licensed benchmarks, in the real on-disk layouts.

The people are the open body's Human3.6M joints, turned and jittered; nothing of the datasets is in here.
"""

import json
import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image

from posecore.body.files import load_body_model
from posecore.body.skeletons import H36M_17, HUMANEVA_15, MPI_INF_3DHP_17, MPI_INF_3DHP_28, SMPL_24, JointSet
from posecore.body.smpl import SMPLLayer
from posecore.testing.smpl_files import write_gendered_bodies
from posecore.testing.videos import write_video

_CAMERAS = ("54138969", "55011271", "58860488", "60457274")
_FROM_32 = [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]
_HUMANEVA_CAMERAS = ("C1", "C2", "C3")
_HUMANEVA_FROM_H36M = {"head": "head_top"}
_SHIFT_PX = np.array([2.0, 0.0])  # The error of all detections.
_K_3DPW = np.array([[1961.9, 0.0, 540.0], [0.0, 1969.2, 960.0], [0.0, 0.0, 1.0]])
_DETECTED_3DPW = {
    **{1: "neck", 2: "r_shoulder", 3: "r_elbow", 4: "r_wrist", 5: "l_shoulder", 6: "l_elbow", 7: "l_wrist"},
    **{8: "r_hip", 9: "r_knee", 10: "r_ankle", 11: "l_hip", 12: "l_knee", 13: "l_ankle"},
}
_ORDER_3DPW = [5, 2, 6, 3, 11, 14, 12, 15, 13, 16, 1, 4, 8, 10, 0, 7, 9]  # Joint i of the file is H36M-17's.


def people(count: int, seed: int = 0) -> np.ndarray:
    """``count`` poses (count, 17, 3) of H36M-17, metres, y up, pelvis near the origin."""
    generator = np.random.default_rng(seed)
    turned = _rest_joints() @ _turns(generator.uniform(-np.pi, np.pi, count)).transpose(0, 2, 1)
    jitter = 0.03 * generator.standard_normal((count, 17, 3))
    return np.asarray(turned + jitter + 0.3 * generator.standard_normal((count, 1, 3)))


def write_human36m(
    root: Path,
    subjects: Sequence[str] = ("S1", "S9"),
    clips: Sequence[str] = ("Directions", "Walking 1", "Walking"),
    frames: int = 7,
    extra_frames: int = 3,
) -> Path:
    """Writes data_3d_h36m.npz, data_2d_h36m_{gt,hr,cpn_ft_h36m_dbb}.npz and camera-parameters.json.

    Detections run ``extra_frames`` longer than the motion and are exact but for a shift of 2 pixels in x; ``gt`` is as
    long as the motion and bent by the lens.
    """
    generator = np.random.default_rng(1)
    root.mkdir(parents=True, exist_ok=True)
    intrinsics: dict[str, Any] = {}
    extrinsics: dict[str, dict[str, Any]] = {subject: {} for subject in subjects}
    for number, camera in enumerate(_CAMERAS):
        K = [[1145.0 + number, 0.0, 512.5 - number], [0.0, 1143.0 - number, 515.4 + number], [0.0, 0.0, 1.0]]
        intrinsics[camera] = {"calibration_matrix": K, "distortion": [-0.2, 0.24, -0.001, -0.001, -0.003]}
        for subject in subjects:
            R, t = _camera_towards_origin(number * np.pi / 2 + 0.4, 5.0)
            extrinsics[subject][camera] = {"R": R.tolist(), "t": (1000 * t[:, None]).tolist()}
    content = {"intrinsics": intrinsics, "extrinsics": extrinsics}
    (root / "camera-parameters.json").write_text(json.dumps(content), encoding="utf-8")

    positions: dict[str, dict[str, np.ndarray]] = {subject: {} for subject in subjects}
    detected: dict[str, dict[str, list[np.ndarray]]] = {subject: {} for subject in subjects}
    truth: dict[str, dict[str, list[np.ndarray]]] = {subject: {} for subject in subjects}
    for number, subject in enumerate(subjects):
        for offset, clip in enumerate(clips):
            world = _z_up(people(frames + extra_frames, seed=10 * number + offset))
            full = generator.standard_normal((frames, 32, 3)).astype(np.float32)
            full[:, _FROM_32] = world[:frames]
            positions[subject][clip] = full
            detected[subject][clip], truth[subject][clip] = [], []
            for camera in _CAMERAS:
                place = extrinsics[subject][camera]
                cam = world @ np.array(place["R"]).T + np.array(place["t"])[:, 0] / 1000
                matrix = np.array(intrinsics[camera]["calibration_matrix"])
                detected[subject][clip].append((_project(cam, matrix) + _SHIFT_PX).astype(np.float32))
                truth[subject][clip].append(_project(_bend(cam[:frames]), matrix).astype(np.float32))
    np.savez_compressed(root / "data_3d_h36m.npz", positions_3d=np.array(positions, dtype=object))
    without_nose = [j for j in range(17) if j != H36M_17.index("neck_nose")]
    every = list(range(17))
    for name, given, joints in (
        ("gt", truth, every),
        ("cpn_ft_h36m_dbb", detected, every),
        ("hr", detected, without_nose),
    ):
        kept = {s: {c: [v[:, joints] for v in views] for c, views in of.items()} for s, of in given.items()}
        _write_keypoints(root / f"data_2d_h36m_{name}.npz", kept, "h36m", len(joints))
    return root


def write_humaneva(
    root: Path,
    subjects: Sequence[str] = ("Train/S1", "Train/S2", "Validate/S1", "Validate/S2"),
    clips: Sequence[str] = ("Walking 1 chunk0", "Walking 1 chunk2", "Jog 1 chunk0", "Gestures 1 chunk0"),
    frames: int = 7,
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Writes data_3d_humaneva15.npz and data_2d_humaneva15_{gt,hr,detectron_pt_coco}.npz.

    ``gt`` is exact. ``hr`` is shifted by 2 pixels in x and has confidences of 0.5 in a third column; the file of
    detectron_pt_coco has COCO's 17 joints and an unlabelled clip, as VideoPose3D's.

    Returns:
        K, R and t (metres) of each camera, by person and camera ("S1", "C1").
    """
    root.mkdir(parents=True, exist_ok=True)
    cameras = {}
    for number, camera in enumerate(_HUMANEVA_CAMERAS):
        K = np.array([[770.0 + number, 0.0, 325.0 - number], [0.0, 768.0 - number, 235.0 + number], [0.0, 0.0, 1.0]])
        for person in sorted({subject.split("/")[1] for subject in subjects}):
            azimuth = 0.4 + 1.6 * number + 0.1 * int(person[1:])  # calibrated anew for each person
            cameras[person, camera] = (K, *_camera_towards_origin(azimuth, 4.0))
    joints = [H36M_17.index(_HUMANEVA_FROM_H36M.get(name, name)) for name in HUMANEVA_15.joint_names]
    positions: dict[str, dict[str, np.ndarray]] = {subject: {} for subject in subjects}
    truth: dict[str, dict[str, list[np.ndarray]]] = {subject: {} for subject in subjects}
    for number, subject in enumerate(subjects):
        for offset, clip in enumerate(clips):
            world = _z_up(people(frames, seed=100 + 10 * number + offset))[:, joints].astype(np.float32)
            places = [cameras[subject.split("/")[1], camera] for camera in _HUMANEVA_CAMERAS]
            positions[subject][clip] = world
            truth[subject][clip] = [_project(world @ R.T + t, K).astype(np.float32) for K, R, t in places]
    np.savez_compressed(root / "data_3d_humaneva15.npz", positions_3d=np.array(positions, dtype=object))
    _write_keypoints(root / "data_2d_humaneva15_gt.npz", truth, "humaneva15", 15)
    noisy = {s: {c: [_shift_with_confidence(v) for v in views] for c, views in of.items()} for s, of in truth.items()}
    _write_keypoints(root / "data_2d_humaneva15_hr.npz", noisy, "humaneva15", 15)
    coco = {
        s: {c: [np.resize(v, (len(v), 17, 2)) for v in views] for c, views in of.items()} for s, of in truth.items()
    }
    coco["Unlabeled/S4"] = {"Box 1": coco[subjects[0]][clips[0]]}
    _write_keypoints(root / "data_2d_humaneva15_detectron_pt_coco.npz", coco, "coco", 17)
    return cameras


def write_zedo_files(root: Path, rows: int = 72) -> dict[str, np.ndarray]:
    """Writes ZeDO's h36m/{h36m_test,h36m_sh_dt_ft}.pkl, 3dhp/mpii3d_test.pkl and 3dpw/pw3d_test.npz.

    Every fifth row of mpii3d_test.pkl is invalid.

    Returns:
        ``joints_cam`` (rows, 17, 3) in metres and ``K`` (rows, 3, 3), the same in all three.
    """
    for folder in ("h36m", "3dhp", "3dpw"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    joints = people(rows) * [1, -1, -1] + [0, 0, 4]
    K = np.repeat(np.array([[1145.0, 0.0, 512.0], [0.0, 1143.0, 515.0], [0.0, 0.0, 1.0]])[None], rows, axis=0)
    K[:, 0, 0] += np.arange(rows)
    image = _project(joints, K)

    h36m: list[dict[str, Any]] = []
    mpii3d: list[dict[str, Any]] = []
    for i in range(rows):
        camera = {"fx": K[i, 0, 0], "fy": K[i, 1, 1], "cx": K[i, 0, 2], "cy": K[i, 1, 2]}
        clip = f"s_{9 + 2 * (i % 2):02d}_act_{2 + i % 15:02d}_subact_01_ca_01"
        h36m.append(
            {
                "joint_3d_camera": 1000 * joints[i],
                "joint_3d_image": np.concatenate((image[i], 1000 * joints[i, :, 2:]), axis=1),
                "camera_param": {key: np.array([value]) for key, value in camera.items()} | {"name": _CAMERAS[i % 4]},
                "image_path": f"{clip}/{clip}_{i + 1:06d}.jpg",
                "action": 2 + i % 15,
            }
        )
        mpii3d.append(
            {
                "joint_3d_camera": 1000 * joints[i],
                "joint_2d": np.concatenate((image[i], np.ones((17, 1))), axis=1),
                "camera_param": camera,
                "w": 2048,
                "h": 2048,
                "imageid": f"TS{1 + i % 6}/img_{i + 1:06d}.jpg",
                "valid_i": np.array([i % 5 != 0], dtype=np.uint8),
                "action": 1 + i % 7,
            }
        )
    detected = {"joint3d_image": image + _SHIFT_PX, "confidence": np.linspace(0, 1.02, rows * 17).reshape(rows, 17, 1)}
    _dump(h36m, root / "h36m" / "h36m_test.pkl")
    _dump({"train": {}, "test": detected}, root / "h36m" / "h36m_sh_dt_ft.pkl")
    _dump(mpii3d, root / "3dhp" / "mpii3d_test.pkl")

    # Joint i of the file is joint _ORDER_3DPW[i] of H36M-17; a fourth column is confidence.
    relative = joints - joints[:, :1]
    np.savez_compressed(
        root / "3dpw" / "pw3d_test.npz",
        keypoints3d17_relative=np.concatenate((relative, np.ones((rows, 17, 1))), axis=2)[:, _ORDER_3DPW],
        root_cam=joints[:, 0],
        cam_param=np.array({"f": K[:, [0, 1], [0, 1]], "c": K[:, :2, 2]}, dtype=object),
        image_width=np.full(rows, 1080),
        image_height=np.full(rows, 1920),
        image_path=np.array([f"imageFiles/downtown_walking_00/image_{i:05d}.jpg" for i in range(rows)]),
    )
    return {"joints_cam": joints, "K": K}


def write_mpi_inf_3dhp(
    root: Path,
    train: Sequence[str] = ("S1",),
    test: Sequence[str] = ("TS1", "TS5"),
    frames: int = 9,
    pictures: Sequence[int] = (),
) -> Path:
    """Writes S*/Seq{1,2}/{annot.mat,camera.calibration} (needs scipy) and mpi_inf_3dhp_test_set/TS*/annot_data.mat.

    With training cameras in ``pictures``, also their imageSequence/video_*.avi (needs av), and the test frames
    imageSequence/img_*.jpg. All pixels of a picture have one grey, 30 + 10 times its number from 0. The universal
    skeleton is the own one divided by 1.1 about its root. Of the test frames, every third is invalid and holds NaN.
    """
    K = np.array([[1500.0, 0.0, 1017.0], [0.0, 1501.0, 1043.0], [0.0, 0.0, 1.0]])
    for seed, subject in enumerate(train):
        from scipy.io import savemat

        for sequence in ("Seq1", "Seq2"):
            folder = root / subject / sequence
            folder.mkdir(parents=True, exist_ok=True)
            cells = {key: np.empty((14, 1), dtype=object) for key in ("annot2", "annot3", "univ_annot3")}
            lines = ["Skeletool Camera Calibration File V1.0"]
            for camera in range(14):
                own = _mpi_joints(MPI_INF_3DHP_28, frames, seed + camera)
                cells["annot2"][camera, 0] = _project(own, K).reshape(frames, -1)
                cells["annot3"][camera, 0] = own.reshape(frames, -1)
                cells["univ_annot3"][camera, 0] = _about_root(own, 4).reshape(frames, -1)
                R, t = _camera_towards_origin(camera / 2, 4.0)
                lines += [
                    f"name          {camera}",
                    "  sensor      10 10",
                    "  size        2048 2048",
                    "  animated    0",
                    "  intrinsic   " + _numbers(_homogeneous(K, np.zeros(3))),
                    "  extrinsic   " + _numbers(_homogeneous(R, 1000 * t)),
                    "  radial      0",
                ]
            frame_numbers = np.arange(frames, dtype=np.float64)[:, None]
            savemat(folder / "annot.mat", {**cells, "cameras": np.arange(14)[None], "frames": frame_numbers})
            (folder / "camera.calibration").write_text("\n".join(lines) + "\n", encoding="utf-8")
            for camera in pictures:
                shown = (np.full((2048, 2048, 3), 30 + 10 * number, np.uint8) for number in range(frames))
                write_video(folder / "imageSequence" / f"video_{camera}.avi", shown)
    for seed, subject in enumerate(test):
        folder = root / "mpi_inf_3dhp_test_set" / subject
        folder.mkdir(parents=True, exist_ok=True)
        own = _mpi_joints(MPI_INF_3DHP_17, frames, 50 + seed)
        valid = np.arange(frames) % 3 != 2
        arrays = {"annot2": _project(own, K), "annot3": own, "univ_annot3": _about_root(own, 14)}
        with h5py.File(folder / "annot_data.mat", "w") as file:
            for key, array in arrays.items():
                file[key] = np.where(valid[:, None, None], array, np.nan)[:, None]
            file["valid_frame"] = valid.astype(np.float64)[:, None]
            file["activity_annotation"] = (1.0 + np.arange(frames) % 7)[:, None]
        size = (2048, 2048) if subject in ("TS1", "TS2", "TS3", "TS4") else (1920, 1080)
        for number in range(frames if pictures else 0):
            path = folder / "imageSequence" / f"img_{number + 1:06d}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", size, (30 + 10 * number,) * 3).save(path)
    return root


def write_threedpw(
    root: Path,
    splits: Sequence[str] = ("train", "test"),
    frames: int = 8,
    num_betas: int = 10,
    left_first: bool = True,
    open_body: bool = False,
) -> Path:
    """Writes sequenceFiles/<split>/*.pkl (two people each), imageFiles and, in body_models, fake SMPL files.

    Frame 2 of person 0 and all frames from 5 of person 1 have no valid camera. OpenPose's joints are the exact ones of
    SMPL, 2 pixels to the right, with a confidence of 0.5; nose, eyes and ears are not detected, nor anything in frame 1
    of person 0. Every second pose at 60 Hz is one of those at 30 Hz.

    Args:
        root: folder, made where it is not there.
        splits: one sequence each.
        frames: pictures of a sequence.
        num_betas: of the shapes.
        left_first: writes the regressor with the left leg before the right, as one of the two files in use has it.
        open_body: takes `write_gendered_bodies`, which have landmarks, for small bodies.
    """
    if open_body:
        write_gendered_bodies(root / "body_models")
    else:
        _write_bodies(root / "body_models", left_first)
    for seed, split in enumerate(splits):
        generator = np.random.default_rng(seed)
        folder = root / "sequenceFiles" / split
        folder.mkdir(parents=True, exist_ok=True)
        genders, valid = ["m", "f"], np.ones((2, frames), dtype=np.uint8)
        valid[0, 2:3], valid[1, 5:] = 0, 0
        poses = 0.3 * generator.standard_normal((2, frames, 72))
        trans = 0.2 * generator.standard_normal((2, frames, 3))
        betas = generator.standard_normal((2, num_betas))
        joints = []
        for person, gender in enumerate(("male", "female")):
            model = load_body_model(root / "body_models", gender=gender, dtype=torch.float64)  # type: ignore[arg-type]
            posed = SMPLLayer(model)(
                torch.from_numpy(betas[person, :10]),
                torch.from_numpy(poses[person, :, 3:].reshape(frames, 23, 3)),
                torch.from_numpy(poses[person, :, :3]),
                torch.from_numpy(trans[person]),
                pose_repr="axis_angle",
            )
            joints.append(posed.joints.numpy().reshape(frames, 72))
        cameras = np.stack([_homogeneous(*_camera_towards_origin(0.05 * i, 4.0, up=1)) for i in range(frames)])
        content = {
            "sequence": f"downtown_walking_{seed:02d}",
            "poses": list(poses),
            "trans": list(trans),
            "betas": list(betas),
            "genders": genders,
            "poses2d": [
                _detections(person.reshape(frames, 24, 3), cameras, _K_3DPW, missed=slice(1, 2 - number))
                for number, person in enumerate(joints)
            ],
            "poses_60Hz": [_at_60_hz(person) for person in poses],
            "trans_60Hz": [_at_60_hz(person) for person in trans],
            "cam_poses": cameras,
            "cam_intrinsics": _K_3DPW,
            "campose_valid": list(valid),
            "jointPositions": joints,
            "img_frame_ids": np.arange(frames) * 2,
        }
        _dump(content, folder / f"downtown_walking_{seed:02d}.pkl")
        pictures = root / "imageFiles" / f"downtown_walking_{seed:02d}"
        pictures.mkdir(parents=True, exist_ok=True)
        for frame in range(frames):
            colour = (20 * frame, 255 - 20 * frame, 60)
            Image.new("RGB", (1080, 1920), colour).save(pictures / f"image_{frame:05d}.jpg")
    return root


def _detections(joints_world: np.ndarray, cameras: np.ndarray, K: np.ndarray, missed: slice) -> np.ndarray:
    """poses2d (frames, 3, 18) of SMPL's joints."""
    joints = joints_world @ cameras[:, :3, :3].transpose(0, 2, 1) + cameras[:, None, :3, 3]
    seen = np.zeros((len(joints), 18, 3))
    for place, name in _DETECTED_3DPW.items():
        pixels = _project(joints[:, SMPL_24.index(name)], K) + _SHIFT_PX
        seen[:, place] = np.concatenate((pixels, np.full((len(joints), 1), 0.5)), axis=1)
    seen[missed] = 0
    return seen.transpose(0, 2, 1)


def _at_60_hz(values: np.ndarray) -> np.ndarray:
    """The values of the pictures with the mean of two neighbours between them."""
    out = np.repeat(values, 2, axis=0)
    out[1:-1:2] = (values[1:] + values[:-1]) / 2
    return out


def _write_keypoints(path: Path, positions_2d: dict[str, Any], layout_name: str, num_joints: int) -> None:
    metadata = {"layout_name": layout_name, "num_joints": num_joints, "keypoints_symmetry": [[4, 5], [1, 2]]}
    np.savez_compressed(
        path, positions_2d=np.array(positions_2d, dtype=object), metadata=np.array(metadata, dtype=object)
    )


def _shift_with_confidence(keypoints: np.ndarray) -> np.ndarray:
    return np.concatenate((keypoints + _SHIFT_PX, np.full((*keypoints.shape[:2], 1), 0.5)), axis=2).astype(np.float32)


def _z_up(y_up: np.ndarray) -> np.ndarray:
    return np.stack((y_up[..., 0], -y_up[..., 2], y_up[..., 1]), axis=-1)


def _bend(joints_cam: np.ndarray) -> np.ndarray:
    """Points that a pinhole sees where a lens with one radial term sees the given ones."""
    r2 = (joints_cam[..., :2] ** 2).sum(axis=-1, keepdims=True) / joints_cam[..., 2:] ** 2
    return np.concatenate((joints_cam[..., :2] * (1 - 0.2 * r2), joints_cam[..., 2:]), axis=-1)


def _write_bodies(folder: Path, left_first: bool) -> None:
    """Small bodies: four vertices around each joint of the open body's rest pose."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(7)
    model = load_body_model()
    joints = (model.J_regressor @ model.v_template).double().numpy()
    parents = model.parents.numpy()
    tetrahedron = 0.05 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    template = (joints[:, None] + tetrahedron).reshape(-1, 3)
    near = np.repeat(np.eye(24), 4, axis=0)
    # Human3.6M's joints from SMPL's of about the same place.
    same = ["pelvis", "r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle", "spine2", "neck", "head", "head"]
    same += ["l_shoulder", "l_elbow", "l_wrist", "r_shoulder", "r_elbow", "r_wrist"]
    rows = [SMPL_24.index(name) for name in same]
    if left_first:
        rows[1:7] = rows[4:7] + rows[1:4]
    np.save(folder / "J_regressor_h36m.npy", near.T[rows] / 4)
    for number, gender in enumerate(("NEUTRAL", "FEMALE", "MALE")):
        np.savez(
            folder / f"SMPL_{gender}.npz",
            v_template=template * (1 + 0.05 * number),
            shapedirs=0.01 * generator.standard_normal((96, 3, 10)),
            posedirs=0.001 * generator.standard_normal((96, 3, 207)),
            J_regressor=near.T / 4,
            weights=near,
            kintree_table=np.stack((np.where(parents < 0, 2**32 - 1, parents), np.arange(24))),
            f=np.arange(96).reshape(-1, 3),
        )


@cache
def _rest_joints() -> np.ndarray:
    model = load_body_model()
    assert model.J_regressor_h36m is not None
    rest = (model.J_regressor_h36m @ model.v_template).double().numpy()
    return np.asarray(rest - rest[0])


def _mpi_joints(joint_set: JointSet, frames: int, seed: int) -> np.ndarray:
    """Joints in a camera, mm; those that Human3.6M has under the same name are a person's."""
    generator = np.random.default_rng(seed)
    h36m = people(frames, seed) * [1, -1, -1] + [0, 0, 4]
    joints = h36m[:, :1] + 0.4 * generator.standard_normal((frames, joint_set.num_joints, 3))
    shared = [name for name in joint_set.joint_names if name in H36M_17.joint_names]
    joints[:, [joint_set.index(name) for name in shared]] = h36m[:, [H36M_17.index(name) for name in shared]]
    return np.asarray(1000 * joints)


def _about_root(joints: np.ndarray, root: int) -> np.ndarray:
    center = joints[:, root : root + 1]
    return np.asarray(center + (joints - center) / 1.1)


def _turns(angles: np.ndarray) -> np.ndarray:
    """Rotations about y."""
    R = np.zeros((len(angles), 3, 3))
    R[:, 0, 0], R[:, 0, 2], R[:, 2, 0], R[:, 2, 2] = np.cos(angles), np.sin(angles), -np.sin(angles), np.cos(angles)
    R[:, 1, 1] = 1
    return R


def _camera_towards_origin(azimuth: float, distance: float, up: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """R and t (metres) of a camera that looks at the origin of a world whose axis ``up`` points upwards."""
    forward = np.array([np.cos(azimuth), np.sin(azimuth), -0.2])
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    R = np.stack((right, np.cross(forward, right), forward))
    if up == 1:
        R = R @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # y up to z up
    return R, np.array([0.1, -0.1, distance])


def _project(joints_cam: np.ndarray, K: np.ndarray) -> np.ndarray:
    uvw = joints_cam @ np.swapaxes(K, -1, -2)
    return np.asarray(uvw[..., :2] / uvw[..., 2:])


def _homogeneous(matrix: np.ndarray, translation: np.ndarray) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = matrix, translation
    return out


def _numbers(matrix: np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in matrix.ravel()) + " "


def _dump(content: Any, path: Path) -> None:
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=2)
