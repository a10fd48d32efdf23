"""Ski-PosePTZ: alpine skiers before six cameras that pan, tilt and zoom."""

from pathlib import Path

import h5py
import numpy as np
import torch

from posecore.body.skeletons import H36M_17
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import camera_rows, check_choice, check_shape, check_stride, find_path, get_key
from posecore.data.crops import PersonCrops
from posecore.geometry.camera import project
from posecore.geometry.placement import solve_translation

HOW_TO_OBTAIN = (
    "Ask for Ski-PosePTZ-CameraDataset-png.zip, whose license.txt has the terms, at "
    "https://www.epfl.ch/labs/cvlab/data/ski-poseptz-dataset/ (gives train/labels.h5, test/labels.h5, pictures); "
    "ZeDO's release distributes the labels of the test set as ski_test.h5"
)
IMAGE_SIDE = 256
SPLITS = ("train", "test")
_FOLDERS = ("Ski-PosePTZ-CameraDataset-png", "ski_pose", "skipose", "ski")
_LARGEST_ERROR_PX = 5.0  # Median over rows: a tenth of what wrong axes give.
_REACH = (0.4, 2.0)  # Metres from the pelvis to the farthest joint; median over rows.


class SkiPose(PoseTable):
    """Competitive skiers in giant slalom, each in the middle of a picture of 256 x 256 pixels.

    ============  ====================================================================================================
    content       six cameras; train 8,481 and test 1,716 pictures
    joints        H36M-17 in its order; its spine lies between pelvis and thorax
    frame         camera axes (x right, y down, z forward), metres. The file has joints relative to the pelvis; where
                  the person stands follows from the file's 2D and camera by least squares
    2D            the file's keypoints (there 0 to 1), pixels of the picture, confidence 1
    camera        the picture's own: ``cam_intrinsic`` times 256. That it maps the joints to the keypoints is checked.
                  ``cam_position`` and ``R_cam_2_world`` are not read: where people stand in the world is in another
                  file (ski_centers.csv)
    files         ``<split>/labels.h5``: 3D (N, 51), 2D (N, 34), cam_intrinsic (N, 3, 3), seq, cam, frame, subj (N);
                  ``<split>/seq_%03d/cam_%02d/image_%06d.png``. ZeDO's ``ski_test.h5`` is the test set's labels
    licence       license.txt in the archive; no redistribution
    to obtain     https://www.epfl.ch/labs/cvlab/data/ski-poseptz-dataset/
    protocol      no table of ZeDO's paper has it; its release takes all 1,716 rows, 17 joints and the mean over rows,
                  as ``zedo_3dpw_17`` does
    ============  ====================================================================================================

    Rows are those of the file. They have ``joints_cam joints_rel joints_2d_px joints_2d_true_px confidence K image_size
    box subject clip frame view``. The person's box is the whole picture.

    Args:
        root: folder that holds the splits, or the folder that holds it as ``Ski-PosePTZ-CameraDataset-png``,
            ``ski_pose``, ``skipose`` or ``ski``; there, ``ski_test.h5`` will do for the test set.
        split: "train" or "test".
        stride: takes every ``stride``-th row.
        crops: side in pixels of the person's box in ``image``, a raw crop for `posecore.data.augment`: uint8, sRGB,
            black outside of the picture. None reads no pictures.
        crop_margin: side of ``image`` by that of the box; there is nothing outside the box to be seen.

    Raises:
        FileNotFoundError: if a file is not there; the message says where to get it.
        ValueError: if an argument is out of range, or the file is broken or of another version.

    References:
        Rhodin et al., Learning Monocular 3D Human Pose Estimation from Multi-view Images, CVPR 2018.
        Sporri, Research dedicated to sports injury prevention: the sequence of prevention on the example of alpine ski
        racing, habilitation, University of Salzburg, 2016.
    """

    def __init__(
        self, root: Path, split: str = "test", stride: int = 1, crops: int | None = None, crop_margin: float = 1.0
    ) -> None:
        check_choice("split", [split], SPLITS)
        check_stride(stride)
        path = _find_labels(Path(root), split)
        content = _read_labels(path)
        rows = len(content["3D"])
        labels = {key: _whole_numbers(content, key, rows, path)[::stride] for key in ("seq", "cam", "frame", "subj")}
        joints, keypoints = (
            check_shape(key, content[key], (rows, H36M_17.num_joints * columns), path)[::stride].reshape(
                -1, H36M_17.num_joints, columns
            )
            for key, columns in (("3D", 3), ("2D", 2))
        )
        K = check_shape("cam_intrinsic", _flat(content["cam_intrinsic"]), (rows, 9), path)[::stride]
        K = K.reshape(-1, 3, 3) * [[IMAGE_SIDE], [IMAGE_SIDE], [1]]
        _check_units(joints, keypoints, path)
        joints_cam = _placed(joints, IMAGE_SIDE * keypoints, K, path)
        samples = camera_rows(H36M_17, joints_cam, K, (IMAGE_SIDE, IMAGE_SIDE), IMAGE_SIDE * keypoints)
        samples["box"] = torch.tensor([IMAGE_SIDE / 2, IMAGE_SIDE / 2, float(IMAGE_SIDE)]).repeat(len(joints), 1)
        samples["subject"] = [str(number) for number in labels["subj"].tolist()]
        samples["clip"] = [f"seq_{number:03d}" for number in labels["seq"].tolist()]
        samples["frame"], samples["view"] = (torch.from_numpy(labels[key]) for key in ("frame", "cam"))
        images = None
        if crops is not None:
            places = zip(*(labels[key].tolist() for key in ("seq", "cam", "frame")), strict=True)
            names = [f"{split}/seq_{seq:03d}/cam_{cam:02d}/image_{frame:06d}.png" for seq, cam, frame in places]
            folder = path.parent if path.name == "ski_test.h5" else path.parent.parent
            find_path(folder, (), names[0], HOW_TO_OBTAIN)
            pictures = tuple(folder / name for name in names)
            images = PersonCrops(pictures, samples["box"][:, :2], samples["box"][:, 2], crops, crop_margin)
        super().__init__(H36M_17, samples, images)


def _find_labels(root: Path, split: str) -> Path:
    """The split's labels; of the test set, ZeDO's file where the data set's own is not there."""
    own = f"{split}/labels.h5"
    if split == "test":
        for name in (own, "ski_test.h5"):
            for folder in ("", *_FOLDERS):
                if (path := root / folder / name).is_file():
                    return path
    return find_path(root, _FOLDERS, own, HOW_TO_OBTAIN)


def _read_labels(path: Path) -> dict[str, np.ndarray]:
    try:
        with h5py.File(path, "r") as file:
            content = {key: np.asarray(file[key]) for key in file if isinstance(file[key], h5py.Dataset)}
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: is no whole HDF5 file: {error}") from error
    for key in ("3D", "2D", "cam_intrinsic", "seq", "cam", "frame", "subj"):
        if not len(np.atleast_1d(get_key(content, key, path))):
            raise ValueError(f"{path}: {key} has no row")
    return content


def _whole_numbers(content: dict[str, np.ndarray], key: str, rows: int, path: Path) -> np.ndarray:
    """A column of whole numbers, which the file has flat or as a column."""
    return check_shape(key, content[key].reshape(-1), (rows,), path).astype(np.int64)


def _flat(matrices: np.ndarray) -> np.ndarray:
    """A row of numbers for each matrix, as which files may have them already."""
    return matrices.reshape(len(matrices), -1)


def _check_units(joints: np.ndarray, keypoints: np.ndarray, path: Path) -> None:
    """Raises ValueError where the joints are not in metres or the keypoints not in parts of the picture's side."""
    reach = float(np.median(np.linalg.norm(joints - joints[:, :1], axis=-1).max(axis=1)))
    if not _REACH[0] < reach < _REACH[1]:
        raise ValueError(f"{path}: 3D reaches {reach:.3g} from the pelvis (median), expected {_REACH} metres")
    if (farthest := float(np.median(np.abs(keypoints)))) > 1:
        raise ValueError(f"{path}: 2D has a median of {farthest:.3g}, expected parts of the picture's side, 0 to 1")


def _placed(joints: np.ndarray, keypoints_px: np.ndarray, K: np.ndarray, path: Path) -> np.ndarray:
    """The joints where the camera sees them nearest to the keypoints: one translation a row."""
    if (np.abs(np.linalg.det(K)) < 1e-6).any():
        raise ValueError(f"{path}: cam_intrinsic has a matrix that cannot be inverted, so is no camera")
    relative, pixels, intrinsics = (torch.from_numpy(a) for a in (joints - joints[:, :1], keypoints_px, K))
    place = solve_translation(relative[:, None], pixels, torch.ones_like(pixels[..., 0]), intrinsics)
    joints_cam = relative + place
    error = float((project(joints_cam, intrinsics) - pixels).norm(dim=-1).mean(dim=1).median())
    behind = int((joints_cam[..., 2] <= 0).any(dim=1).sum())
    if not error <= _LARGEST_ERROR_PX or behind:
        raise ValueError(
            f"{path}: 3D, moved to where it fits best, lies {error:.1f} px from 2D (median), {behind} people are "
            f"partly behind the camera; expected at most {_LARGEST_ERROR_PX:g} px and none: cam_intrinsic or the axes "
            "of 3D are of another version"
        )
    return joints_cam.numpy()
