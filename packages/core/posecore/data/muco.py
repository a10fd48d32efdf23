"""MuCo-3DHP: pictures of several people, put together from MPI-INF-3DHP's green-screen actors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from posecore.body.skeletons import JOINTS_44, MUCO_21
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import check_choice, check_shape, check_stride, find_path, get_key
from posecore.data.crops import PersonCrops
from posecore.data.person_rows import person_rows, same_joints
from posecore.geometry.rotation import axis_angle_to_rotmat

HOW_TO_OBTAIN = (
    "MuCo-3DHP is made from MPI-INF-3DHP, whose terms apply: register at vcai.mpi-inf.mpg.de/3dhp-dataset first. The "
    "composed pictures and MuCo-3DHP.json are linked in the README of 3DMPPE_POSENET_RELEASE, the SMPL fits in that of "
    "I2L-MeshNet_RELEASE (both GitHub: mks0601)"
)
_FOLDERS = ("MuCo/data", "MuCo", "muco", "data")
_PEOPLE = ("closest", "all")
_FIT = (("pose", 72), ("shape", 10), ("trans", 3))
# SPIN gives 3DHP's head and top of the head the names that Human3.6M has for them.
_RENAMED = {"jaw": "head", "head_top_h36m": "head_top"}
_BOX_SCALE = 1.2
_LARGEST_ERROR_PX = 5.0  # Median over people; the stated camera is exact but for rounding.
_NEAREST_MM = 200.0  # No pelvis is as near to a camera; in metres, every one would be.


class MuCo3DHP(PoseTable):
    """One to four actors of MPI-INF-3DHP before one camera, cut out and composed at their true distances.

    ============  ====================================================================================================
    content       composed pictures with and without another background (``augmented_set``, ``unaugmented_set``)
    joints        muco21 (MPI-INF-3DHP's 17, hands and toes), given as joints44: joints of the same name alone, its
                  head as Human3.6M's jaw and its top of the head as Human3.6M's, as SPIN does
    frame         camera (x right, y down, z forward), metres (file: mm)
    2D            the file's keypoints, pixels; confidence 0 where ``keypoints_vis`` is
    camera        ``f`` and ``c`` of each picture; that they map the joints to the keypoints is checked
    body          SMPL (neutral) fits of the I2L-MeshNet line for some people: ``global_orient body_pose betas``. They
                  are taken as they are: that line also drops fits whose joints lie more than 25 mm off
    files         ``MuCo-3DHP.json``: images {id, width, height, file_name, f, c}, annotations {id, image_id, bbox,
                  keypoints_img (21, 2), keypoints_cam (21, 3), keypoints_vis (21)}; the pictures that it names, beside
                  it; ``smpl_param.json``: {annotation id: {pose (72), shape (10), trans (3)}}
    licence       research only, no redistribution (MPI-INF-3DHP's)
    to obtain     README of 3DMPPE_POSENET_RELEASE and, for the fits, of I2L-MeshNet_RELEASE (GitHub: mks0601)
    protocol      none: a training set
    ============  ====================================================================================================

    Rows run over pictures in the order of the file, then over people. The box is square, 1.2 times as long as the
    longer side of ``bbox``; people whose ``bbox`` lies outside of the picture are left out. ``clip`` is the picture.

    Args:
        root: folder with the files, or the folder that holds it as ``MuCo/data``, ``MuCo``, ``muco`` or ``data``.
        people: "closest", the person of each picture whose pelvis is nearest to the camera, as the methods that use
            these files take it; or "all".
        fits: reads ``smpl_param.json``; False gives rows without SMPL parameters.
        stride: takes every ``stride``-th picture.
        crops: side in pixels of the person's box in ``image``, a raw crop for `posecore.data.augment`: uint8, sRGB,
            black outside of the picture. None reads no pictures.
        crop_margin: side of ``image`` by that of the box.

    Raises:
        FileNotFoundError: if a file is not there; the message says where to get it.
        ValueError: if an argument is out of range, no person is left, or a file is broken or of another version.

    References:
        Mehta et al., Single-Shot Multi-Person 3D Pose Estimation From Monocular RGB, 3DV 2018.
    """

    def __init__(
        self,
        root: Path,
        people: str = "closest",
        fits: bool = True,
        stride: int = 1,
        crops: int | None = None,
        crop_margin: float = 1.5,
    ) -> None:
        check_choice("people", [people], _PEOPLE)
        check_stride(stride)
        path = find_path(Path(root), _FOLDERS, "MuCo-3DHP.json", HOW_TO_OBTAIN)
        images, ids, of_image, numbers = _read_annotations(path)
        cameras = _read_cameras(images, path)
        pelvis_depth = numbers["keypoints_cam"][:, MUCO_21.index("pelvis"), 2]
        if np.median(pelvis_depth) < _NEAREST_MM:
            raise ValueError(
                f"{path}: half of the people are less than {np.median(pelvis_depth):.3g} mm from the camera: are "
                "keypoints_cam in metres? Expected mm"
            )
        rows = np.flatnonzero(of_image % stride == 0)
        if people == "closest":
            nearest_first = rows[np.lexsort((pelvis_depth[rows], of_image[rows]))]
            rows = nearest_first[np.unique(of_image[nearest_first], return_index=True)[1]]
        else:
            rows = rows[np.argsort(of_image[rows], kind="stable")]
        inside = _touches(numbers["bbox"][rows], cameras["size"][of_image[rows]])
        rows = rows[inside]
        if not len(rows):
            raise ValueError(f"{path}: none of its {len(ids)} people is inside of a picture")
        x, y, width, height = numbers["bbox"][rows].T
        box = np.column_stack((x + width / 2, y + height / 2, _BOX_SCALE * np.maximum(width, height)))
        camera = of_image[rows]
        K = np.zeros((len(rows), 3, 3))
        K[:, [0, 1], [0, 1]], K[:, :2, 2], K[:, 2, 2] = cameras["f"][camera], cameras["c"][camera], 1
        joints_mm, seen = numbers["keypoints_cam"][rows], numbers["keypoints_img"][rows]
        _check_projection(joints_mm, seen, K, path)
        everywhere = np.ones(seen.shape[:2], dtype=bool)
        joints, known = same_joints(joints_mm / 1000, everywhere, MUCO_21, renamed=_RENAMED)
        keypoints, annotated = same_joints(seen, numbers["keypoints_vis"][rows] > 0, MUCO_21, renamed=_RENAMED)
        pose, betas, has_fit = None, None, None
        if fits:
            how = f"It belongs beside {path}; fits=False does without. {HOW_TO_OBTAIN}"
            fitted = _read_fits(find_path(path.parent, (), "smpl_param.json", how), ids[rows])
            has_fit = np.isfinite(fitted).all(axis=1)
            pose = axis_angle_to_rotmat(torch.from_numpy(fitted[:, :72]).unflatten(1, (24, 3)))
            betas = fitted[:, 72:82]
        clips = [images[i]["file_name"] for i in camera.tolist()]
        samples = person_rows(
            clips, box, cameras["size"][camera], K, keypoints, annotated.astype(np.float64), joints, known,
            pose, betas, has_fit, has_fit,
        )  # fmt: skip
        pictures = None
        if crops is not None:
            find_path(path.parent, (), clips[0], HOW_TO_OBTAIN)
            files = tuple(path.parent / clip for clip in clips)
            pictures = PersonCrops(files, samples["box"][:, :2], samples["box"][:, 2], crops, crop_margin)
        super().__init__(JOINTS_44, samples, pictures)


_OF_IMAGE = ("width", "height", "f", "c", "file_name")
_COLUMNS: dict[str, tuple[int, ...]] = {
    "bbox": (4,),
    "keypoints_img": (MUCO_21.num_joints, 2),
    "keypoints_cam": (MUCO_21.num_joints, 3),
    "keypoints_vis": (MUCO_21.num_joints,),
}


def _read_annotations(path: Path) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """The pictures; of every annotation its id, its picture's place in that list, and its numbers by key."""

    def compact(item: dict[str, Any]) -> Any:
        # Arrays as soon as an annotation is read: the file's lists of numbers would take ten times their memory.
        if "keypoints_cam" not in item:
            return item
        where = path / f"annotation {item.get('id', '?')}"
        numbers = tuple(
            check_shape(key, get_key(item, key, where), shape, where).astype(np.float32)
            for key, shape in _COLUMNS.items()
        )
        return get_key(item, "id", where), get_key(item, "image_id", where), numbers

    content = _load_json(path, compact)
    images, annotations = get_key(content, "images", path), get_key(content, "annotations", path)
    if not images or not annotations:
        raise ValueError(f"{path}: has {len(images)} images and {len(annotations)} annotations, expected some of both")
    if wrong := [row for row, item in enumerate(annotations) if not isinstance(item, tuple)]:
        raise ValueError(f"{path}: annotation number {wrong[0]} (from 0) has no 'keypoints_cam'; of another version")
    places = {get_key(image, "id", path): place for place, image in enumerate(images)}
    if missing := [image_id for _, image_id, _ in annotations if image_id not in places]:
        raise ValueError(f"{path}: {len(missing)} annotations are of images that it does not list, first {missing[0]}")
    ids, of_image = (np.array(column) for column in zip(*((a, places[i]) for a, i, _ in annotations), strict=True))
    numbers = {
        key: np.stack([item[2][column] for item in annotations]).astype(np.float64)
        for column, key in enumerate(_COLUMNS)
    }
    return images, ids, of_image, numbers


def _read_cameras(images: list[dict[str, Any]], path: Path) -> dict[str, np.ndarray]:
    """Width and height, focal length and principal point of each picture, pixels."""
    columns = {key: [get_key(image, key, path) for image in images] for key in _OF_IMAGE}
    count = len(images)
    return {
        "size": check_shape("width and height", np.array([columns["width"], columns["height"]]).T, (count, 2), path),
        "f": check_shape("f", columns["f"], (count, 2), path),
        "c": check_shape("c", columns["c"], (count, 2), path),
    }


def _read_fits(path: Path, ids: np.ndarray) -> np.ndarray:
    """Pose, shape and translation of each annotation, (rows, 85); NaN where there is no fit."""

    def compact(item: dict[str, Any]) -> Any:
        if not any(key in item for key, _ in _FIT):
            return item
        parts = [np.ravel(np.asarray(get_key(item, key, path), dtype=np.float64)) for key, _ in _FIT]
        if (lengths := [len(part) for part in parts]) != [length for _, length in _FIT]:
            raise ValueError(f"{path}: a fit has pose, shape and trans of {lengths} numbers, expected 72, 10 and 3")
        return np.concatenate(parts)

    fits = _load_json(path, compact)
    if not isinstance(fits, dict) or not all(isinstance(fit, np.ndarray) for fit in fits.values()):
        raise ValueError(f"{path}: is no table of fits, expected {{annotation id: {{pose, shape, trans}}}}")
    nothing = np.full(85, np.nan)
    return np.stack([fits.get(str(number), nothing) for number in ids.tolist()])


def _load_json(path: Path, hook: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_hook=hook)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON file, or cut off: {error}") from error


def _touches(bbox: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Whether boxes (left, top, width, height) have a part of the picture in them."""
    low, side = bbox[:, :2], bbox[:, 2:]
    return np.asarray(((side > 0) & (low < size) & (low + side > 0)).all(axis=1))


def _check_projection(joints: np.ndarray, keypoints: np.ndarray, K: np.ndarray, path: Path) -> None:
    """Raises ValueError where the stated camera does not show the joints where the keypoints are."""
    uvw = joints @ K.transpose(0, 2, 1)
    error = np.median(np.linalg.norm(uvw[..., :2] / uvw[..., 2:] - keypoints, axis=-1).mean(axis=1))
    if not error <= _LARGEST_ERROR_PX:
        raise ValueError(
            f"{path}: keypoints_img lie {error:.1f} px from where f and c show keypoints_cam (median), expected at "
            f"most {_LARGEST_ERROR_PX:g}: of another version"
        )
