"""Human3.6M's own archive as it is unpacked: CDF files of motion capture and 2D joints, and videos."""

import re
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import torch

from posecore.body.skeletons import H36M_17, JOINTS_44, get_joint_set
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import (
    camera_rows,
    check_choice,
    check_shape,
    check_stride,
    extrinsic_rows,
    find_path,
    label_rows,
)
from posecore.data.crops import box_of_keypoints
from posecore.data.human36m import ACTIONS, CAMERAS, FOLDERS, FPS, FROM_32, SUBJECTS, read_cameras, trim
from posecore.data.person_rows import person_rows, same_joints
from posecore.data.sample import PoseSample, concatenate
from posecore.data.video_crops import VideoCrops

FRONTAL_CAMERA = "60457274"
"""The one that "protocol 2" of mesh methods is tested on."""
HOW_TO_OBTAIN = (
    "Human3.6M is free for academic research: register at vision.imar.ro/human3.6m, download for S1 S5 S6 S7 S8 S9 S11 "
    "Poses_D3_Positions, Poses_D2_Positions (for keypoints='d2') and Videos, and unpack them into one folder. Put "
    "camera-parameters.json from GitHub (karfly/human36m-camera-parameters), or the metadata.xml of Human3.6M's code, "
    "beside S1"
)
_KEYPOINTS = ("exact", "d2")
_JOINT_SETS = ("h36m17", "h36m16", "joints44")
_POSE_FOLDER = "MyPoseFeatures"
# VideoPose3D's names of actions, where a subject's files have others.
_RENAMED_ACTIONS = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}
_BROKEN = ("S11", "Directions")
# SPIN's reading of Human3.6M's joints. Its thorax is where the neck begins, and LSP's top of the head is another.
_RENAMED_JOINTS = {
    "neck": "thorax",
    "jaw": "neck_nose",
    "head_top_h36m": "head_top",
    "thorax": "none",
    "head_top": "none",
}
_CAMERA_NUMBERS = 300  # 6 of each of 11 subjects and 4 cameras, then 9 of each camera.
_NUM_SUBJECTS = 11
_LARGEST_MM = 20_000.0  # Nobody is as far from the middle of the room.
_SMALLEST_MM = 100.0  # A head is higher than that; in metres, none would be.

Cameras = dict[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray]]


class Human36MArchive(PoseTable):
    """Human3.6M as distributed: motion capture, the 2D joints of each camera, and the videos.

    ============  ====================================================================================================
    content       15 everyday actions, each twice, by 7 actors with published labels, seen by 4 fixed cameras; 50
                  frames per second: 1,559,752 frames of S1 S5 S6 S7 S8 and 543,344 of S9 S11 over all cameras
                  (VideoPose3D), in 150 and 59 clips
    joints        h36m17, the 17 of H36M-17 out of the recording's 32; h36m16, without neck/nose; joints44, for
                  training on pictures: those of the same name, and as SPIN reads them Human3.6M's thorax as neck, its
                  neck/nose as jaw and its head as Human3.6M's head
    frame         camera (x right, y down, z forward), metres (files: world, mm); the world frame has z up
    2D            ``exact``: the projection by ``K``, without lens distortion; ``d2``: the archive's own, with it, as
                  the videos have it (a few pixels at the edge). Confidence 1
    camera        camera-parameters.json, or ``w0`` of metadata.xml: R of three angles, place in mm, focal lengths,
                  principal point. ``K`` has no lens distortion
    box           square around the keypoints, 1.2 times as long as their longer side. (The archive's silhouettes,
                  which ProHMR takes its boxes from, are not read.)
    files         ``S1/MyPoseFeatures/D3_Positions/<clip>.cdf``, variable Pose (1, frames, 96);
                  ``S1/MyPoseFeatures/D2_Positions/<clip>.<camera>.cdf`` (1, frames, 64), pixels, for ``d2``;
                  ``S1/Videos/<clip>.<camera>.mp4`` for ``crops``; camera-parameters.json or metadata.xml
    licence       academic research only, no redistribution
    to obtain     register at vision.imar.ro/human3.6m
    protocol      train on S1 S5 S6 S7 S8, test on S9 S11; mesh methods' "protocol 2" tests on camera 60457274 alone
                  (`FRONTAL_CAMERA`). S9's Greeting, SittingDown and Waiting, whose joints lie beside the person in a
                  part of a clip, are kept as in most papers
    ============  ====================================================================================================

    Clips have VideoPose3D's names, so TakingPhoto is Photo and WalkingDog is WalkDog. Files named ``_ALL`` are no clips
    and are passed over. S11's clip Directions is left out in all cameras, as VideoPose3D does: its video of camera
    54138969 is broken. Rows run over subjects, clips, cameras, then frames; ``clip`` is "S9/Walking 1".

    Args:
        root: folder that holds S1, S5 and so on, or the folder that holds it as ``human36m`` or ``h36m``.
        subjects: "train", "test", or names like "S9".
        joint_set: "h36m17", "h36m16" or "joints44" (rows as of `posecore.data.person_rows`).
        keypoints: "exact" or "d2".
        stride: takes every ``stride``-th frame of every clip and camera.
        actions: only these, by name without number.
        cameras: only these, by name.
        crops: side in pixels of the person's box in ``image``, a raw crop for `posecore.data.augment`: uint8, sRGB,
            black outside of the picture. None reads no videos.
        crop_margin: side of ``image`` by that of the box.

    Raises:
        FileNotFoundError: if a file is not there; the message says where to get it.
        ImportError: if the package cdflib is not installed, or av for ``crops``.
        ValueError: if an argument names something unknown, nothing is selected, or a file is broken.

    References:
        Ionescu et al., Human3.6M, TPAMI 2014.
    """

    def __init__(
        self,
        root: Path,
        subjects: list[str] | str = "train",
        joint_set: str = "h36m17",
        keypoints: str = "exact",
        stride: int = 1,
        actions: list[str] | None = None,
        cameras: list[str] | None = None,
        crops: int | None = None,
        crop_margin: float = 1.5,
    ) -> None:
        check_choice("joint_set", [joint_set], _JOINT_SETS)
        check_choice("keypoints", [keypoints], _KEYPOINTS)
        check_choice("actions", actions or [], ACTIONS)
        check_choice("cameras", cameras or [], CAMERAS)
        check_stride(stride)
        if isinstance(subjects, str):
            check_choice("subjects", [subjects], [*SUBJECTS, "a list like [S9, S11]"])
            subjects = list(SUBJECTS[subjects])
        check_choice("subjects", subjects, [name for split in SUBJECTS.values() for name in split])
        parameters = _find_cameras(Path(root), subjects)
        tables: list[PoseSample] = []
        videos: list[Path] = []
        for subject in subjects:
            folder = find_path(Path(root), FOLDERS, f"{subject}/{_POSE_FOLDER}/D3_Positions", HOW_TO_OBTAIN)
            for path, clip in _clips(folder, subject):
                action = re.sub(r" \d+$", "", clip)
                if actions is not None and action not in actions:
                    continue
                joints_world = _read_joints(path, 3) / 1000
                for view, camera in enumerate(CAMERAS):
                    if cameras is not None and camera not in cameras:
                        continue
                    file = f"{path.stem}.{camera}"
                    joints, seen = joints_world, None
                    if keypoints == "d2":
                        place = find_path(
                            folder.parents[1], (), f"{_POSE_FOLDER}/D2_Positions/{file}.cdf", HOW_TO_OBTAIN
                        )
                        seen = _read_joints(place, 2)
                        joints, seen, _ = trim(joints, seen, np.ones(seen.shape[:2]), f"{subject} {clip}", place)
                        seen = seen[::stride]
                    frame = np.arange(len(joints))[::stride]
                    rows = _rows(joints[::stride], seen, parameters[subject, camera], camera, joint_set)
                    tables.append(label_rows(rows, subject, f"{subject}/{clip}", action, frame, view, FPS))
                    if crops is not None:
                        video = find_path(folder.parents[1], (), f"Videos/{file}.mp4", HOW_TO_OBTAIN)
                        videos += [video] * len(frame)
        if not tables:
            raise ValueError(f"actions: the archive in {root} has no clip of {subjects} with an action in {actions}")
        samples = concatenate(tables)
        images = None
        if crops is not None:
            box = samples["box"]
            images = VideoCrops(
                tuple(videos), box[:, :2], box[:, 2], crops, crop_margin, frames=tuple(samples["frame"].tolist())
            )
        super().__init__(get_joint_set(joint_set), samples, images)


def _clips(folder: Path, subject: str) -> list[tuple[Path, str]]:
    """Files of motion capture and the names of their clips."""
    clips = []
    for path in sorted(folder.glob("*.cdf")):
        action, *number = path.stem.split(" ")
        clip = " ".join((_RENAMED_ACTIONS.get(action, action), *number))
        if action.startswith("_ALL") or (subject, clip) == _BROKEN:
            continue
        if clip.split(" ")[0] not in ACTIONS:
            raise ValueError(f"{path}: {action!r} is no action of Human3.6M, those are {', '.join(ACTIONS)}")
        clips.append((path, clip))
    if not clips:
        raise FileNotFoundError(f"root: {folder} holds no .cdf files. {HOW_TO_OBTAIN}")
    return clips


def _rows(
    joints_world: np.ndarray,
    seen: np.ndarray | None,
    parameters: tuple[np.ndarray, np.ndarray, np.ndarray],
    camera: str,
    joint_set: str,
) -> PoseSample:
    """Rows of one clip in one camera, with boxes and without labels; joints are H36M-17's."""
    K, R, t = parameters
    if joint_set != "joints44":
        target = get_joint_set(joint_set)
        picked = [H36M_17.index(name) for name in target.joint_names]
        seen = None if seen is None else seen[:, picked]
        rows = camera_rows(target, joints_world[:, picked] @ R.T + t, K, CAMERAS[camera], seen)
        rows["box"] = _boxes(rows["joints_2d_px"])
        return extrinsic_rows(rows, R, t)
    full = camera_rows(H36M_17, joints_world @ R.T + t, K, CAMERAS[camera], seen)
    everywhere = np.ones(joints_world.shape[:2], dtype=bool)
    joints, known = same_joints(full["joints_cam"].numpy(), everywhere, H36M_17, JOINTS_44, _RENAMED_JOINTS)
    points, annotated = same_joints(full["joints_2d_px"].numpy(), everywhere, H36M_17, JOINTS_44, _RENAMED_JOINTS)
    rows = person_rows(
        [""] * len(joints),
        _boxes(full["joints_2d_px"]).numpy(),
        full["image_size"].numpy(),
        full["K"].numpy(),
        points,
        annotated.astype(np.float64),
        joints,
        known,
    )
    return extrinsic_rows(rows, R, t)


def _boxes(keypoints_px: torch.Tensor) -> torch.Tensor:
    center, side = box_of_keypoints(keypoints_px, torch.ones(keypoints_px.shape[:2]))
    return torch.cat((center, side[:, None]), dim=1)


def _read_joints(path: Path, columns: int) -> np.ndarray:
    """The 17 joints of a CDF file, (frames, 17, columns), in its unit."""
    try:
        import cdflib  # Not a dependency: only the archive's files need it.
    except ImportError as error:
        raise ImportError(f'{path} is a CDF file, which takes cdflib: pip install "humandiff[benchmarks]"') from error
    try:
        recorded: Any = cdflib.CDF(path)["Pose"]
    except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError) as error:
        raise ValueError(f"{path}: is no whole CDF file with a variable 'Pose': {error}") from error
    flat = check_shape("Pose", recorded, (1, None, 32 * columns), path)[0]
    if not len(flat):
        raise ValueError(f"{path}: Pose has no frames; it is cut off")
    joints: np.ndarray = flat.reshape(len(flat), 32, columns)[:, FROM_32]
    largest = np.abs(joints).max()
    if columns == 3 and not _SMALLEST_MM < largest < _LARGEST_MM:
        raise ValueError(f"{path}: joints lie up to {largest:.3g} mm from the middle of the room; is it in mm?")
    return joints


def _find_cameras(root: Path, subjects: list[str]) -> Cameras:
    """Of camera-parameters.json, or of metadata.xml where that is not there."""
    for folder in ("", *FOLDERS):
        if (path := root / folder / "metadata.xml").is_file() and not path.with_name("camera-parameters.json").exists():
            return read_metadata_cameras(path, subjects)
    return read_cameras(find_path(root, FOLDERS, "camera-parameters.json", HOW_TO_OBTAIN), subjects)


def read_metadata_cameras(path: Path, subjects: list[str]) -> Cameras:
    """K (pixels), R and t (metres, x_cam = R x_world + t) of every subject's cameras, from metadata.xml.

    Its ``w0`` holds 300 numbers. Camera by camera and in each subject by subject, S1 to S11: three angles a, b, c with
    R = Rx(a) Ry(b) Rz(c), and the camera's place in the world, mm. Then, camera by camera: focal lengths, principal
    point, and five of the lens distortion, which are not used.

    Raises:
        ValueError: if the file is broken.
    """
    try:
        # Safe for files of others: expat loads nothing from elsewhere and bounds what entities grow to.
        text = xml.etree.ElementTree.parse(path).getroot().findtext("w0")
        numbers = np.array((text or "").strip().strip("[]").replace(",", " ").split(), dtype=np.float64)
    except (xml.etree.ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path}: is no whole XML file with numbers in w0: {error}") from error
    numbers = check_shape("w0", numbers, (_CAMERA_NUMBERS,), path)
    lenses = numbers[-9 * len(CAMERAS) :].reshape(len(CAMERAS), 9)
    places = numbers[: -9 * len(CAMERAS)].reshape(len(CAMERAS), _NUM_SUBJECTS, 6)
    cameras = {}
    for view, camera in enumerate(CAMERAS):
        fx, fy, cx, cy = lenses[view, :4]
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        for subject in subjects:
            angles, place_mm = np.split(places[view, int(subject[1:]) - 1], 2)
            x, y, z = (_turn(axis, angle) for axis, angle in enumerate(angles))
            R = x @ y @ z
            cameras[subject, camera] = (K, R, -R @ place_mm / 1000)
    return cameras


def _turn(axis: int, angle: float) -> np.ndarray:
    """Rotation about a coordinate axis, radians."""
    after, before = (axis + 1) % 3, (axis + 2) % 3
    R = np.eye(3)
    R[[after, before], [after, before]] = np.cos(angle)
    R[before, after] = np.sin(angle)
    R[after, before] = -np.sin(angle)
    return R
