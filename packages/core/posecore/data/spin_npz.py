"""Pictures with keypoints, joints and SMPL fits in the npz layout of SPIN, for training on pictures and for testing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from posecore.body.skeletons import JOINTS_44
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import check_choice, check_shape, find_path
from posecore.data.sample import concatenate
from posecore.data.smpl_columns import joint_column, known_rows, texts
from posecore.data.smpl_npz import TRUTHS, RowSource, picture_crops, released_boxes, released_rows
from posecore.safe_pickle import load_npz

HOW_TO_OBTAIN = (
    "SPIN's README (GitHub: nkolot/SPIN) says where its annotation files are (dataset_extras, by fetch_data.sh) and "
    "how to make them; the pictures come from the data sets themselves, whose licences apply"
)
SPIN_24 = (*JOINTS_44.joint_names[25:], *(f"op_{name}" for name in ("nose", "l_eye", "r_eye", "l_ear", "r_ear")))
"""SPIN's joints of ``part`` and ``S`` by their names in joints44."""
_FACE = [JOINTS_44.index(name) for name in SPIN_24[19:]]
_PIXELS_PER_SCALE = 200.0
_AS_IT_IS = ("imgname", "center", "scale", "gender", "image_size", "img_size")


class SPINNpz(PoseTable):
    """Pictures with a person's box, and 2D keypoints, 3D joints and SMPL parameters as far as they are known.

    ============  ====================================================================================================
    content       whatever the files hold; SPIN trains on Human3.6M 0.3, MPI-INF-3DHP 0.1, and LSP, LSP-extended, MPII
                  and COCO 0.6 (by their sizes), and tests on 3DPW, Human3.6M, MPI-INF-3DHP and LSP
    joints        joints44: OpenPose's 25, then 19 of LSP, MPII and Human3.6M
    frame         camera axes (x right, y down, z forward), metres; the files' 3D joints are relative to the pelvis
    2D            annotations, and OpenPose's detections with their confidence, pixels of the whole picture
    camera        assumed as SPIN does: focal length 5000 px, principal point in the middle of the picture
    body          ``global_orient`` in the camera frame, ``body_pose``, ``betas``; no translation is known
    files         ``<name>.npz`` with the keys below, and the folder of the pictures
    licence       the data sets'; none may be redistributed
    to obtain     SPIN's README (GitHub: nkolot/SPIN), fetch_data.sh; Human3.6M's MoSh fits are not public
    ============  ====================================================================================================

    =============  ============  ===================================================================================
    key of a file  shape         meaning; all but the first three may be missing
    =============  ============  ===================================================================================
    ``imgname``    (N,)          path of the picture below ``image_root``
    ``center``     (N, 2)        middle of the person's box, pixels
    ``scale``      (N,)          side of the box by 200 px, padding included
    ``part``       (N, 24, 3)    annotated keypoints: x, y in pixels, confidence
    ``openpose``   (N, 25, 3)    detected ones alike
    ``S``          (N, 24, 4)    joints: metres, camera axes, confidence
    ``pose``       (N, 72)       axis-angle of SMPL's 24 rotations, root first, camera frame
    ``shape``      (N, 10)       standard deviations
    ``has_smpl``   (N,)          0 where pose and shape are not known; without it, all are
    ``gender``     (N,)          "m" or "f": whose SMPL the parameters are of
    ``image_size`` (N, 2)        width, height in pixels; not in SPIN's
    =============  ============  ===================================================================================

    The 24 joints are the 19 that joints44 has beside OpenPose's, then nose, eyes and ears, which joints44 has among
    OpenPose's: there an annotation takes the place of the detection. Rows run over files, then over the rows of each;
    ``clip`` is ``imgname``. Every row has all of ``joints_2d_px confidence joints_cam joints_known global_orient
    body_pose betas has_pose has_betas box K image_size``, whatever its file knows, so that sets can be mixed: what is
    not known is 0 or the identity, and ``confidence``, ``joints_known``, ``has_pose`` and ``has_betas`` say so.
    `SMPLNpz` with ``crops`` and ``crop_margin`` gives the same keys.

    Args:
        root: folder with the files.
        files: their names.
        image_root: folder that ``imgname`` is relative to: of SPIN's files that of the data set.
        crops: side in pixels of the person's box in ``image``, a raw crop for `posecore.data.augment`: uint8, sRGB,
            black outside of the picture. None reads no pictures but for their sizes.
        crop_margin: side of ``image`` by that of the box; augmentation turns and shifts the box within it.
        image_size: width and height of all pictures, pixels, where the file has none; spares reading the pictures'.
        ignore_3d: takes 3D joints, pose and shape for unknown: training on 2D keypoints alone.
        require_pose: leaves out the rows without a pose.
        truth: where ``joints_cam`` comes from: "keypoints" (``S``), or "smpl", the joints of the person's own body at
            SMPL's origin, which also gives ``joints_smpl24_cam`` and ``gender``: 3DPW is tested so.
        body_models: folder with SMPL's files for ``truth="smpl"``: the neutral one, and the gendered ones where a file
            has ``gender``. None takes the open body for everybody.
        fits: SPIN's static fits below ``root``, one for each file, "" for a file without: ``static_fits/<name>.npy``
            (N, 82), pose then shape of the file's rows. They fill in rows that have no pose and shape of their own, and
            count as known. All do, also those that SPIN's training would turn down for how they project.

    Raises:
        FileNotFoundError: if a file or picture is not there.
        ValueError: if an argument is unknown, arguments contradict one another, no row is left, or a file is broken.

    References:
        Kolotouros et al., Learning to Reconstruct 3D Human Pose and Shape via Model-fitting in the Loop, ICCV 2019.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        image_root: Path,
        crops: int | None = None,
        crop_margin: float = 1.5,
        image_size: tuple[int, int] | None = None,
        ignore_3d: bool = False,
        require_pose: bool = False,
        truth: str = "keypoints",
        body_models: Path | None = None,
        fits: Sequence[str] = (),
    ) -> None:
        check_choice("truth", [truth], TRUTHS)
        if not files:
            raise ValueError("files: expected at least one name")
        if ignore_3d and (require_pose or truth == "smpl"):
            raise ValueError("ignore_3d: leaves no pose, which require_pose=True and truth='smpl' need")
        if fits and ignore_3d:
            raise ValueError("fits: fill in poses, which ignore_3d=True takes for unknown")
        if fits and len(fits) != len(files):
            raise ValueError(f"fits: {len(fits)} for {len(files)} files, expected one for each file, '' for none")
        source = RowSource(
            image_root=image_root,
            image_size=image_size,
            truth=truth,
            body_models=body_models,
            pixels_per_scale=_PIXELS_PER_SCALE,
        )
        tables = []
        for name, fit in zip(files, fits or [""] * len(files), strict=True):
            path = find_path(Path(root), (), name, HOW_TO_OBTAIN)
            raw = load_npz(path)
            if fit:
                raw = with_static_fits(raw, path, find_path(Path(root), (), fit, HOW_TO_OBTAIN))
            columns = released_columns(raw, path, ignore_3d)
            keep = columns["has_body_pose"] if require_pose else None
            table = released_rows(columns, path, source, keep=keep)
            table["box"] = released_boxes(columns, path, keep, _PIXELS_PER_SCALE).float()
            if len(table["clip"]):
                tables.append(table)
        if not tables:
            raise ValueError(f"files: {', '.join(files)} have no row{' with a pose' if require_pose else ''}")
        samples = concatenate(tables)
        images = None if crops is None else picture_crops(samples, samples["box"], image_root, crops, crop_margin)
        super().__init__(JOINTS_44, samples, images)


def released_columns(columns: dict[str, Any], path: Path, ignore_3d: bool = False) -> dict[str, Any]:
    """A table of SPIN's layout in that of `SMPLNpz`; ``scale`` stays in units of 200 px.

    Args:
        columns: the table.
        path: its file, named in errors.
        ignore_3d: takes 3D joints, pose and shape for unknown.

    Raises:
        ValueError: if a column is broken.
    """
    rows = len(texts(columns, "imgname", path))
    if ignore_3d:
        columns = {key: value for key, value in columns.items() if key not in ("S", "pose", "shape")}
    has_smpl = _has_smpl(columns, rows, path)
    part, joints = (joint_column(columns, key, (rows, 24, width), path) for key, width in (("part", 3), ("S", 4)))
    detected = joint_column(columns, "openpose", (rows, 25, 3), path)
    out: dict[str, Any] = {key: columns[key] for key in _AS_IT_IS if key in columns}
    for key, name, width in (("pose", "body_pose", 72), ("shape", "betas", 10)):
        known = has_smpl & (key in columns)
        out[f"has_{name}"] = known
        out[name] = known_rows(columns, key, known, width, path) if key in columns else np.zeros((rows, width))
    out["body_keypoints_2d"] = _with_face(detected, part)
    out["extra_keypoints_2d"] = part[:, :19]
    out["body_keypoints_3d"] = _with_face(np.zeros((rows, 25, 4)), joints)
    out["extra_keypoints_3d"] = joints[:, :19]
    return out


def with_static_fits(columns: dict[str, Any], path: Path, fits_path: Path) -> dict[str, Any]:
    """A table of SPIN's layout whose rows without pose and shape have those of SPIN's static fits.

    Args:
        columns: the table.
        path: its file, named in errors.
        fits_path: (N, 82) of the table's rows: axis-angle of 24 rotations, root in the camera frame first, then betas.

    Raises:
        ValueError: if the fits are broken, or not as many as the table's rows.
    """
    rows = len(texts(columns, "imgname", path))
    try:
        fits = np.load(fits_path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{fits_path}: is no whole .npy array: {error}") from error
    fits = check_shape("fits", fits, (None, 82), fits_path)
    if len(fits) != rows:
        raise ValueError(f"{fits_path}: holds {len(fits)} fits, but {path} has {rows} rows")
    known = _has_smpl(columns, rows, path)
    out = dict(columns)
    for key, part in (("pose", fits[:, :72]), ("shape", fits[:, 72:])):
        own = known & (key in columns)
        out[key] = np.where(own[:, None], known_rows(columns, key, own, part.shape[1], path), part)
    return {**out, "has_smpl": np.ones(rows)}


def _has_smpl(columns: dict[str, Any], rows: int, path: Path) -> Bool[np.ndarray, " rows"]:
    if "has_smpl" not in columns:
        return np.ones(rows, dtype=bool)
    known: np.ndarray = check_shape("has_smpl", columns["has_smpl"], (rows,), path) != 0
    return known


def _with_face(
    body: Float[np.ndarray, "rows 25 width"], spin: Float[np.ndarray, "rows 24 width"]
) -> Float[np.ndarray, "rows 25 width"]:
    """OpenPose's joints with SPIN's nose, eyes and ears where these are known."""
    out = body.copy()
    out[:, _FACE] = np.where(spin[:, 19:, -1:] > 0, spin[:, 19:], body[:, _FACE])
    return out
