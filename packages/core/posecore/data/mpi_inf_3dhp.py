"""MPI-INF-3DHP as it is distributed: MATLAB annotations of the training and test sequences."""

from pathlib import Path

import numpy as np
import torch

from posecore.body.joint_maps import joint_map
from posecore.body.skeletons import MPI_INF_3DHP_17, MPI_INF_3DHP_28, JointSet, get_joint_set
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import (
    camera_rows,
    check_choice,
    check_stride,
    extrinsic_rows,
    find_path,
    label_rows,
)
from posecore.data.crops import PersonCrops, box_of_keypoints
from posecore.data.mpi_inf_3dhp_files import HOW_TO_OBTAIN, NUM_CAMERAS, Annotations, read_test, read_train
from posecore.data.person_rows import person_rows, same_joints
from posecore.data.sample import PoseSample, concatenate
from posecore.data.video_crops import VideoCrops

SUBJECTS = {
    "train": tuple(f"S{number}" for number in range(1, 9)),
    "test": tuple(f"TS{number}" for number in range(1, 7)),
}
ACTIVITIES = ("StandWalk", "Exercise", "SitOnChair", "CrouchReach", "OnFloor", "Sports", "Misc")
"""Names of the test set's ``activity_annotation`` 1 to 7."""
REGULAR_CAMERAS = (0, 1, 2, 4, 5, 6, 7, 8)
"""The eight of the 14 cameras that methods train on; the others look down from high on the walls or the ceiling."""
_FOLDERS = ("mpi_inf_3dhp", "3dhp")
_JOINT_SETS = ("h36m17", "mpii3d17", "joints44")
_TRAIN_SIZE = (2048, 2048)
_AT_50_FPS = ("S1/Seq2", "S3/Seq1", "S3/Seq2", "S5/Seq1", "S5/Seq2")  # All other training sequences are at 25.
# SPIN gives the head and the top of the head the names that Human3.6M has for them.
_RENAMED_JOINTS = {"jaw": "head", "head_top_h36m": "head_top"}


class MPIINF3DHP(PoseTable):
    """MPI-INF-3DHP: markerless motion capture in a green-screen studio; test scenes also without it and outdoors.

    ============  ====================================================================================================
    content       train: 8 actors, 2 sequences each, 14 cameras, over 1.3 million frames (2048 x 2048). Test: 6
                  sequences, 7 activities, 2,929 valid frames (TS1 to TS4 2048 x 2048, TS5 and TS6 1920 x 1080)
    joints        28 (train) or 17 (test), given as h36m17, as MPI-INF-3DHP's own 17 (mpii3d17), or, for training on
                  pictures, as joints44: joints of the same name alone, its head as Human3.6M's jaw and its top of the
                  head as Human3.6M's, as SPIN does
    frame         camera (x right, y down, z forward), metres (files: mm)
    2D            the file's annotated keypoints, confidence 1
    camera        train: camera.calibration, world in the studio. Test: the annotations hold no camera, so K is fitted
                  to each sequence's pairs of 2D and 3D joints (least squares, no distortion); no world frame
    box           square around the 17 keypoints, 1.2 times as long as their longer side, as SPIN's
    files         S*/Seq*/annot.mat and camera.calibration; mpi_inf_3dhp_test_set/TS*/annot_data.mat. Pictures, for
                  ``crops``: S*/Seq*/imageSequence/video_<camera>.avi, or, where all of them are there,
                  S*/Seq*/imageFrames/video_<camera>/frame_000001.jpg and on, as SPIN's preprocessing extracts them;
                  mpi_inf_3dhp_test_set/TS*/imageSequence/img_000001.jpg and on
    licence       research only, no redistribution
    to obtain     register at vcai.mpi-inf.mpg.de/3dhp-dataset; its scripts get_dataset.sh and get_testset.sh
    protocol      3DPCK at 150 mm, AUC, MPJPE, root-relative to the pelvis (joint 14 of the 17), on valid test frames.
                  SPIN and those who take its files leave out frames with a keypoint outside of the picture; here they
                  are kept
    ============  ====================================================================================================

    Rows run over sequences, cameras, then frames. ``frame`` counts from 0 in the video; images are numbered from 1.
    ``action`` (test only) is the activity; ``fps`` (train only) is 25 or 50 by sequence.

    Args:
        root: folder with the files, or the folder that holds it as ``mpi_inf_3dhp`` or ``3dhp``.
        split: "train" (needs the package scipy: its files are MATLAB v5) or "test".
        subjects: only these, "S1" to "S8" or "TS1" to "TS6".
        joint_set: "h36m17", "mpii3d17" or "joints44" (rows as of `posecore.data.person_rows`).
        stride: takes every ``stride``-th frame of every sequence and camera, of the valid ones in the test set.
        cameras: training cameras, 0 to 13; None takes `REGULAR_CAMERAS`.
        universal: takes the skeleton scaled to one height (``univ_annot3``), which the dataset's own evaluation
            uses. It is scaled about the camera, so that it has the same picture.
        crops: side in pixels of the person's box in ``image``, a raw crop for `posecore.data.augment`: uint8, sRGB,
            black outside of the picture. None reads no pictures.
        crop_margin: side of ``image`` by that of the box.

    Raises:
        FileNotFoundError: if a file is not there; the message says where to get it.
        ImportError: if scipy, or av for videos, is needed and not installed.
        ValueError: if an argument names something unknown or a file is broken.

    References:
        Mehta et al., Monocular 3D Human Pose Estimation In The Wild Using Improved CNN Supervision, 3DV 2017.
    """

    def __init__(
        self,
        root: Path,
        split: str = "train",
        subjects: list[str] | None = None,
        joint_set: str = "h36m17",
        stride: int = 1,
        cameras: list[int] | None = None,
        universal: bool = False,
        crops: int | None = None,
        crop_margin: float = 1.5,
    ) -> None:
        check_choice("split", [split], SUBJECTS)
        check_choice("subjects", subjects or [], SUBJECTS[split])
        check_choice("joint_set", [joint_set], _JOINT_SETS)
        check_choice("cameras", cameras or [], range(NUM_CAMERAS) if split == "train" else ["None for the test set"])
        check_stride(stride)
        target = get_joint_set(joint_set)
        tables: list[PoseSample] = []
        folders: list[Path] = []
        for subject in SUBJECTS[split] if subjects is None else subjects:
            if split == "test":
                path = find_path(Path(root), _test_folders(), f"{subject}/annot_data.mat", HOW_TO_OBTAIN)
                tables.append(_test_rows(read_test(path, universal), subject, target, stride))
                folders.append(path.parent)
                continue
            for sequence in ("Seq1", "Seq2"):
                clip = f"{subject}/{sequence}"
                path = find_path(Path(root), _FOLDERS, f"{clip}/annot.mat", HOW_TO_OBTAIN)
                for seen in read_train(path, REGULAR_CAMERAS if cameras is None else cameras, universal):
                    tables.append(_train_rows(seen, clip, target, stride))
                    folders.append(path.parent)
        samples = concatenate(tables)
        images = None
        if crops is not None:
            of_table = _test_pictures if split == "test" else _train_pictures
            images = of_table(tables, folders, samples["box"], crops, crop_margin)
        super().__init__(target, samples, images)


def _test_folders() -> tuple[str, ...]:
    inner = "mpi_inf_3dhp_test_set"
    return (inner, *(f"{folder}/{inner}" for folder in _FOLDERS), *_FOLDERS)


def _train_rows(seen: Annotations, clip: str, target: JointSet, stride: int) -> PoseSample:
    rows = _rows(seen, MPI_INF_3DHP_28, target, _TRAIN_SIZE, stride)
    fps = 50.0 if clip in _AT_50_FPS else 25.0
    return label_rows(rows, clip.split("/")[0], clip, None, seen.frame[::stride], seen.camera, fps)


def _test_rows(seen: Annotations, subject: str, target: JointSet, stride: int) -> PoseSample:
    size = (2048, 2048) if subject in ("TS1", "TS2", "TS3", "TS4") else (1920, 1080)
    rows = _rows(seen, MPI_INF_3DHP_17, target, size, stride)
    label_rows(rows, subject, subject, None, seen.frame[::stride], 0, None)
    rows["action"] = [ACTIVITIES[number - 1] for number in seen.activity[::stride]]
    return rows


def _rows(seen: Annotations, source: JointSet, target: JointSet, size: tuple[int, int], stride: int) -> PoseSample:
    """Rows with boxes and without labels."""
    joints, keypoints = seen.joints_mm[::stride] / 1000, seen.keypoints[::stride]
    count = len(joints)
    around = torch.from_numpy(_mapped(keypoints, source, MPI_INF_3DHP_17)).float()
    center, side = box_of_keypoints(around, torch.ones(around.shape[:2]))
    box = torch.cat((center, side[:, None]), dim=1)
    if target.name == "joints44":
        everywhere = np.ones(joints.shape[:2], dtype=bool)
        points, known = same_joints(joints, everywhere, source, target, _RENAMED_JOINTS)
        points_2d, annotated = same_joints(keypoints, everywhere, source, target, _RENAMED_JOINTS)
        K, sizes = np.tile(seen.K, (count, 1, 1)), np.tile(np.array(size, dtype=np.float64), (count, 1))
        confidence = annotated.astype(np.float64)
        rows = person_rows([""] * count, box.numpy(), sizes, K, points_2d, confidence, points, known)
    else:
        points, points_2d = (_mapped(values, source, target) for values in (joints, keypoints))
        rows = camera_rows(target, points, seen.K, size, points_2d)
        rows["box"] = box
    return rows if seen.extrinsic is None else extrinsic_rows(rows, *seen.extrinsic)


def _mapped(points: np.ndarray, source: JointSet, target: JointSet) -> np.ndarray:
    """3D joints or 2D keypoints in another set. All joints are copies, so 2D keypoints map as exactly as 3D joints."""
    return joint_map(source, target).apply(torch.from_numpy(points)).numpy()


def _train_pictures(
    tables: list[PoseSample], folders: list[Path], box: torch.Tensor, crops: int, margin: float
) -> PersonCrops:
    """Of extracted frames where there are some of every sequence and camera, else of the videos."""
    cameras = [int(table["view"][0]) for table in tables]
    extracted = [folder / f"imageFrames/video_{camera}" for folder, camera in zip(folders, cameras, strict=True)]
    frames = [table["frame"].tolist() for table in tables]
    if all(place.is_dir() for place in extracted):
        pictures = [
            place / f"frame_{n + 1:06d}.jpg" for place, numbers in zip(extracted, frames, strict=True) for n in numbers
        ]
        return PersonCrops(tuple(pictures), box[:, :2], box[:, 2], crops, margin)
    videos: list[Path] = []
    for folder, camera, numbers in zip(folders, cameras, frames, strict=True):
        videos += [find_path(folder, (), f"imageSequence/video_{camera}.avi", HOW_TO_OBTAIN)] * len(numbers)
    every = tuple(number for numbers in frames for number in numbers)
    return VideoCrops(tuple(videos), box[:, :2], box[:, 2], crops, margin, frames=every)


def _test_pictures(
    tables: list[PoseSample], folders: list[Path], box: torch.Tensor, crops: int, margin: float
) -> PersonCrops:
    pictures: list[Path] = []
    for table, folder in zip(tables, folders, strict=True):
        place = find_path(folder, (), "imageSequence", HOW_TO_OBTAIN)
        pictures += [place / f"img_{number + 1:06d}.jpg" for number in table["frame"].tolist()]
    return PersonCrops(tuple(pictures), box[:, :2], box[:, 2], crops, margin)
