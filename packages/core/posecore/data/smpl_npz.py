"""Pictures with SMPL fits and keypoints in the npz layout of ScoreHMR's release, with its caches of features."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.files import load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import JOINTS_44, SMPL_24
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import check_choice, check_shape, find_path, get_key
from posecore.data.crops import PersonCrops, with_boxes
from posecore.data.picture_sizes import picture_sizes
from posecore.data.sample import PoseSample, concatenate, take
from posecore.data.smpl_columns import (
    box_sides,
    flags,
    keypoints,
    known_rows,
    read_features,
    read_genders,
    texts,
)
from posecore.data.start_estimates import FOCAL_LENGTH, CropBoxes, read_start_estimates
from posecore.geometry.camera import intrinsics
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.safe_pickle import load_npz

TRUTHS = ("keypoints", "smpl")
SCALE_UNITS = (1.0, 200.0)
"""Pixels that a ``scale`` of 1 stands for: of ScoreHMR, ProHMR and 4D-Humans, and of SPIN."""
HOW_TO_OBTAIN = (
    "The README of ScoreHMR's release (GitHub: statho/ScoreHMR) says where its annotation files and caches are; the "
    "data sets' licences apply to them. A file of your own in the layout that SMPLNpz describes will do as well"
)
HIPS = (8, 9, 12, 27, 28, 39)
"""Middle, right and left hip of OpenPose, then hips and pelvis of the extra joints."""
_POSES_AT_ONCE = 512  # Bounds the memory of the skinned vertices.


@dataclass(frozen=True)
class RowSource:
    """What rows are made of beside the table itself; see `SMPLNpz` for the fields."""

    with_keypoints: bool = True
    image_root: Path | None = None
    image_size: tuple[int, int] | None = None
    use_hips: bool = True
    truth: str = "keypoints"
    body_models: Path | None = None
    pixels_per_scale: float = 1.0


class SMPLNpz(PoseTable):
    """Pictures with a person's box, and SMPL parameters and keypoints as far as they are known.

    ============  ====================================================================================================
    content       whatever the files hold; the released model's training mix is Human3.6M (MoSh) 0.5, COCO 0.3 and
                  MPI-INF-3DHP 0.2 (both EFT fits)
    joints        joints44: OpenPose's 25, then 19 of LSP, MPII and Human3.6M
    frame         camera axes (x right, y down, z forward), metres
    2D            the files' annotations or detections and their confidence, pixels of the whole picture
    camera        assumed as the release does: focal length 5000 px, principal point in the middle of the picture
    body          ``global_orient`` in the camera frame, ``body_pose``, ``betas``; no translation is known
    files         ``<name>.npz`` with the keys below
    licence       the data sets'; none may be redistributed
    to obtain     see the README of ScoreHMR's release (GitHub: statho/ScoreHMR); Human3.6M's MoSh fits are not public
    ============  ====================================================================================================

    =========================  ===========  ============================================================================
    key of a file              shape        meaning; all but the first three may be missing
    =========================  ===========  ============================================================================
    ``imgname``                (N,)         path of the picture below ``image_root``
    ``center``                 (N, 2)       middle of the person's box, pixels
    ``scale``                  (N,), (N,2)  side of the box (width and height), padding included; ``pixels_per_scale``
    ``body_pose``              (N, 72)      axis-angle of SMPL's 24 rotations, root first
    ``betas``                  (N, 10)      standard deviations
    ``has_body_pose``          (N,)         0 where the pose is not known; so ``has_betas``
    ``body_keypoints_2d``      (N, 25, 3)   x, y in pixels, confidence; ``extra_keypoints_2d`` (N, 19, 3) alike
    ``body_keypoints_3d``      (N, 25, 4)   metres, camera axes, confidence; ``extra_keypoints_3d`` (N, 19, 4) alike
    ``gender``                 (N,)         "m", "f" or 0, 1: whose SMPL the parameters are of
    ``image_size``             (N, 2)       width, height in pixels; also called ``img_size``; not in the release's
    =========================  ===========  ============================================================================

    Rows run over files, then over the rows of each. ``clip`` is ``imgname``. ``has_pose`` and ``has_betas`` say
    what is known of the body; what is not is the identity or 0. ``joints_known`` says where ``joints_cam`` holds
    something. The layout names no origin for 3D joints, and those of ``truth="smpl"`` lie at SMPL's own: compare them
    relative to the pelvis.

    Args:
        root: folder with the files.
        files: their names.
        features: caches of image features, one for each file: npz with ``pose_feats`` (N, 128, 24) of PARE, flattened
            channel by channel to 3072, or ``features`` (N, F) of another network.
        start: caches of predictions, one for each file (`read_start_estimates`).
        with_keypoints: whether rows have 2D keypoints and a camera, for which the pictures' sizes must be known.
        image_root: folder of the pictures; their sizes are read from them where nothing else tells.
        image_size: width and height of all pictures, pixels, where the file has none; spares reading the pictures'.
        require_pose: leaves out the rows without a pose, as training does.
        use_hips: False sets the confidence of hips and pelvis to 0, 2D joints 8, 9, 12, 27, 28 and 39.
        truth: where ``joints_cam`` comes from: "keypoints" of the file, or "smpl", which also gives
            ``joints_smpl24_cam`` and ``gender``, that of the body.
        body_models: folder with SMPL's files for ``truth="smpl"``: the neutral one, and the gendered ones where a file
            has ``gender``. None takes the open body for everybody.
        crops: side in pixels of crops of the files' boxes, which rows then have as ``image``: 224 for PARE and ProHMR,
            256 for HMR2. They are read from ``image_root`` when rows are asked for.
        crop_margin: makes them raw crops of ``crop_margin`` times the boxes for `posecore.data.augment`; rows then have
            ``box`` too.
        pixels_per_scale: pixels that a ``scale`` of 1 stands for: 1 in the files of ScoreHMR and ProHMR and in
            4D-Humans' for evaluation, whose loaders divide by 200 and multiply by 200 again; 200 in files whose
            ``scale`` was kept as SPIN has it.

    Raises:
        FileNotFoundError: if a file or picture is not there.
        ValueError: if an argument is unknown or missing, no row is left, or a file is broken.

    References:
        Stathopoulos, Han and Metaxas, Score-Guided Diffusion for 3D Human Recovery, CVPR 2024.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        features: Sequence[str] = (),
        start: Sequence[str] = (),
        with_keypoints: bool = True,
        image_root: Path | None = None,
        image_size: tuple[int, int] | None = None,
        require_pose: bool = False,
        use_hips: bool = True,
        truth: str = "keypoints",
        body_models: Path | None = None,
        crops: int | None = None,
        crop_margin: float | None = None,
        pixels_per_scale: float = 1.0,
    ) -> None:
        check_choice("truth", [truth], TRUTHS)
        check_choice("pixels_per_scale", [pixels_per_scale], SCALE_UNITS)
        if not files:
            raise ValueError("files: expected at least one name")
        caches = {"features": features, "start": start}
        for key, of in caches.items():
            if of and len(of) != len(files):
                raise ValueError(f"{key}: {len(of)} caches for {len(files)} files, expected one for each file")
        source = RowSource(with_keypoints, image_root, image_size, use_hips, truth, body_models, pixels_per_scale)
        tables, boxes = [], []
        for number, name in enumerate(files):
            path = find_path(Path(root), (), name, HOW_TO_OBTAIN)
            columns = load_npz(path)
            keep = flags(columns, "body_pose", len(texts(columns, "imgname", path)), path) if require_pose else None
            of_file = {key: cache_path(root, of[number] if of else None) for key, of in caches.items()}
            table = released_rows(columns, path, source, **of_file, keep=keep)
            if len(table["clip"]):
                tables.append(table)
                boxes.append(released_boxes(columns, path, keep, pixels_per_scale))
        if not tables:
            raise ValueError(f"files: {', '.join(files)} have no row{' with a pose' if require_pose else ''}")
        samples = tables[0] if len(tables) == 1 else concatenate(tables)
        images = picture_crops(samples, torch.cat(boxes), image_root, crops, crop_margin)
        super().__init__(JOINTS_44, with_boxes(samples, images), images)


def cache_path(root: Path, name: str | None) -> Path | None:
    """The file ``name`` below ``root``; None where there is no name.

    Raises:
        FileNotFoundError: if it is not there.
    """
    return None if name is None else find_path(Path(root), (), name, HOW_TO_OBTAIN)


def released_rows(
    columns: dict[str, Any],
    path: Path,
    source: RowSource,
    features: Path | None = None,
    start: Path | None = None,
    keep: np.ndarray | None = None,
) -> PoseSample:
    """The rows of one table of the layout.

    Args:
        columns: the table.
        path: its file, named in errors.
        source: what else the rows are made of.
        features: cache of features.
        start: cache of predictions.
        keep: which rows to keep (bool); None keeps all.

    Raises:
        FileNotFoundError: if a file or picture is not there.
        ValueError: if a file is broken or the pictures' sizes are needed and unknown.
    """
    names = texts(columns, "imgname", path)
    rows = len(names)
    box = released_boxes(columns, path, pixels_per_scale=source.pixels_per_scale)
    has_pose, has_betas = flags(columns, "body_pose", rows, path), flags(columns, "betas", rows, path)
    pose = torch.from_numpy(known_rows(columns, "body_pose", has_pose, 72, path)).float()
    rotmat = axis_angle_to_rotmat(pose.unflatten(-1, (24, 3)))
    table: dict[str, Any] = {
        "global_orient": rotmat[:, 0],
        "body_pose": rotmat[:, 1:],
        "betas": torch.from_numpy(known_rows(columns, "betas", has_betas, 10, path)).float(),
        "has_pose": torch.from_numpy(has_pose),
        "has_betas": torch.from_numpy(has_betas),
        "clip": names,
    }
    boxes = None
    if source.with_keypoints:
        if "body_keypoints_2d" not in columns:
            raise ValueError(
                f"{path}: has no 'body_keypoints_2d' (it holds {', '.join(columns)}); with_keypoints=False does without"
            )
        size = torch.from_numpy(_image_sizes(columns, names, source, path))
        boxes = CropBoxes(box[:, :2], box[:, 2], size)
        table |= _keypoint_rows(columns, rows, source.use_hips, path)
        table |= {"image_size": size.float(), "K": intrinsics(FOCAL_LENGTH, size / 2).float()}
    if source.truth == "keypoints":
        joints, known = keypoints(columns, "3d", rows, path)
        table["joints_cam"] = torch.from_numpy(joints).float()
        table["joints_known"] = torch.from_numpy(known > 0)
    if features is not None:
        table["features"] = read_features(features, rows)
    if start is not None:
        table |= read_start_estimates(start, rows, boxes)
    genders = read_genders(columns, rows, path)
    if keep is not None and not keep.all():
        table = cast(dict[str, Any], take(cast(PoseSample, table), np.flatnonzero(keep).tolist()))
        genders = genders[keep]
    if source.truth == "smpl":
        table |= _smpl_truth(cast(PoseSample, table), genders, source.body_models)
    return cast(PoseSample, table)


def released_boxes(
    columns: dict[str, Any], path: Path, keep: np.ndarray | None = None, pixels_per_scale: float = 1.0
) -> Float[Tensor, "rows 3"]:
    """Middle (x, y) and side of each person's square box, pixels.

    Args:
        columns: the table.
        path: its file, named in errors.
        keep: which rows to keep (bool); None keeps all.
        pixels_per_scale: pixels that a ``scale`` of 1 stands for.

    Raises:
        ValueError: if boxes are missing or broken.
    """
    rows = len(texts(columns, "imgname", path))
    center = check_shape("center", get_key(columns, "center", path), (rows, 2), path)
    boxes = np.column_stack((center, box_sides(get_key(columns, "scale", path), rows, path, pixels_per_scale)))
    return torch.from_numpy(boxes if keep is None else boxes[keep])


def picture_crops(
    samples: PoseSample,
    boxes: Float[Tensor, "rows 3"],
    image_root: Path | None,
    size: int | None,
    margin: float | None = None,
) -> PersonCrops | None:
    """What reads the crops of rows whose ``clip`` is the picture's name; None where there is no size.

    Raises:
        ValueError: if the folder of the pictures is missing, ``size`` is not positive, or ``margin`` is below 1 or
            without a size.
    """
    if size is None:
        if margin is not None:
            raise ValueError(f"crop_margin: {margin} needs crops, the side of what it enlarges")
        return None
    if image_root is None:
        raise ValueError("crops: need image_root, the folder of the pictures")
    pictures = tuple(Path(image_root) / name for name in samples["clip"])
    return PersonCrops(pictures, boxes[:, :2], boxes[:, 2], size, margin)


def _keypoint_rows(columns: dict[str, Any], rows: int, use_hips: bool, path: Path) -> dict[str, Tensor]:
    pixels, confidence = keypoints(columns, "2d", rows, path)
    if not use_hips:
        confidence[:, HIPS] = 0
    pixels = np.where(confidence[..., None] > 0, pixels, 0)
    return {"joints_2d_px": torch.from_numpy(pixels).float(), "confidence": torch.from_numpy(confidence).float()}


def _image_sizes(
    columns: dict[str, Any], names: Sequence[str], source: RowSource, path: Path
) -> Float[np.ndarray, "rows 2"]:
    """Width and height of each row's picture, pixels."""
    rows = len(names)
    key = next((key for key in ("image_size", "img_size") if key in columns), None)
    if key is not None:
        sizes = check_shape(key, columns[key], (rows, 2), path)
    elif source.image_size is not None:
        key, sizes = "image_size", np.tile(source.image_size, (rows, 1))
    elif source.image_root is not None:
        sizes = picture_sizes([Path(source.image_root) / name for name in names], "image_root")
    else:
        raise ValueError(
            f"{path}: has no image_size, which the camera and 2D keypoints need: give image_root, the folder of the "
            "pictures, or image_size, or do without by with_keypoints=False"
        )
    if rows and sizes.min() <= 0:
        raise ValueError(f"{path}: {key} is {sizes.min():g}, expected width and height above 0 px")
    return sizes.astype(np.float64)


def _smpl_truth(table: PoseSample, genders: np.ndarray, body_models: Path | None) -> dict[str, Any]:
    """Joints of each person's own body, at SMPL's origin, and its gender; 0 where pose or shape is not known."""
    has_smpl = table["has_pose"] & table["has_betas"]
    out = {"joints_cam": torch.zeros(len(has_smpl), 44, 3), "joints_smpl24_cam": torch.zeros(len(has_smpl), 24, 3)}
    of_body = np.full(len(genders), "neutral") if body_models is None else genders
    for gender in np.unique(of_body[has_smpl.numpy()]).tolist():
        model = load_body_model(body_models, gender)
        rows = (torch.from_numpy(of_body == gender) & has_smpl).nonzero()[:, 0]
        for key, joint_set in (("joints_cam", JOINTS_44), ("joints_smpl24_cam", SMPL_24)):
            layer = NamedJoints(joint_set, model)
            for part in rows.split(_POSES_AT_ONCE):
                out[key][part] = layer(table["betas"][part], table["body_pose"][part], table["global_orient"][part])
    return {**out, "joints_known": has_smpl[:, None].expand(-1, 44).clone(), "gender": of_body.tolist()}
