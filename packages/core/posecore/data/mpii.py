"""MPII Human Pose: photographs of people's activities with keypoints, and SMPL fits to them."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from posecore.body.skeletons import JOINTS_44, MPII_16
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import check_choice, check_shape, check_stride, find_path, get_key
from posecore.data.crops import PersonCrops
from posecore.data.eft import FOLDERS as EFT_FOLDERS
from posecore.data.eft import HOW_TO_OBTAIN as HOW_TO_OBTAIN_FITS
from posecore.data.eft import EFTFits, read_eft, read_json
from posecore.data.person_rows import person_rows, same_joints
from posecore.data.picture_sizes import picture_sizes

SPLITS = ("train", "valid", "trainval")
FOLDERS = ("mpii", "MPII")
HOW_TO_OBTAIN = (
    "MPII Human Pose: pictures (mpii_human_pose_v1.tar.gz) at human-pose.mpi-inf.mpg.de; annotations as json at "
    "leoxiaobin/deep-high-resolution-net.pytorch on GitHub (Data preparation), so that the folder holds "
    "annot/<split>.json and images/*.jpg"
)
_TO_CONTINUOUS = -0.5  # Pixels are counted from 1, as MATLAB does; the middle of the first one is at 0.5.
_BOX_SCALE, _BOX_SHIFT_PX = 1.25, 15.0  # Of and by ``scale``: the readers make room for the feet.
_PIXELS_PER_SCALE = 200.0
_SAME_BOX_PX = 5.0


class MPII(PoseTable):
    """People with annotated keypoints, and the bodies that EFT fitted to them.

    ============  ====================================================================================================
    content       some 25,000 pictures from videos with over 40,000 people in 410 activities; EFT has fits of some
                  14,000 people of the training set
    joints        joints44, of which MPII names its 16: limbs, pelvis, thorax, and upper neck and top of the head,
                  which are LSP's neck and head_top there
    2D            annotations, pixels of the whole picture; labelled keypoints have confidence 1, visible or hidden
    camera        assumed as SPIN does: focal length 5000 px, principal point in the middle of the picture
    body          with ``fits``, ``global_orient`` in camera axes (x right, y down, z forward), ``body_pose`` and
                  ``betas`` of the neutral SMPL: fits, not measured truth. No 3D joints and no translation are known
    files         ``annot/<split>.json`` of the simple baselines and HRNet: [{"joints" (16, 2), "joints_vis" (16),
                  "image", "center" (2), "scale" (height by 200 px)}]; ``images/015601864.jpg``; EFT's
                  ``MPII_ver01.json`` (`posecore.data.eft.EFT`)
    licence       annotations: simplified BSD licence, for research; EFT CC BY-NC 4.0
    to obtain     human-pose.mpi-inf.mpg.de; GitHub: leoxiaobin/deep-high-resolution-net.pytorch, facebookresearch/eft
    ============  ====================================================================================================

    Rows run over annotations in the file's order and have the keys of `posecore.data.person_rows.person_rows`;
    ``clip`` is the picture below the folder. Who has no place (``center`` -1) is left out. Joints and centres are
    MATLAB's pixels, counted from 1; minus 0.5 they are continuous. The person's box is that of HRNet, SPIN and EFT: a
    side of 200 px times ``scale`` times 1.25, 15 px times ``scale`` below ``center``. The test set has no joints and is
    not read.

    Deviation: EFT's ``annotId`` is COCO's alone, so its fits are joined by the picture's name and the box: the person
    in the picture whose box has its middle nearest, within 5 px; both were made from the same ``center`` and ``scale``.

    Args:
        root: folder with ``annot``, or the one that holds it as ``mpii``.
        split: "train", "valid" or "trainval".
        min_keypoints: leaves out who has fewer of the 16 joints annotated: with fewer than half most of a body is
            guessed. 16 is SPIN's choice; 0 takes everybody.
        fits: name of EFT's json, in ``root`` or in ``eft_fit`` there; None has no bodies.
        require_pose: leaves out who has no fit.
        stride: takes every ``stride``-th person of those.
        crops: side in pixels of the person's box in ``image``, a raw crop for `posecore.data.augment`: uint8, sRGB,
            black outside of the picture. None reads no pictures but for their sizes, which the file does not tell.
        crop_margin: side of ``image`` by that of the box; augmentation turns and shifts the box within it.

    Raises:
        FileNotFoundError: if a file or picture is not there.
        ValueError: if an argument is out of range, nobody is left, a file is broken, or the fits are of other people.

    References:
        Andriluka et al., 2D Human Pose Estimation: New Benchmark and State of the Art Analysis, CVPR 2014.
    """

    def __init__(
        self,
        root: Path,
        split: str = "train",
        min_keypoints: int = 8,
        fits: str | None = None,
        require_pose: bool = False,
        stride: int = 1,
        crops: int | None = None,
        crop_margin: float = 1.5,
    ) -> None:
        check_choice("split", [split], SPLITS)
        check_stride(stride)
        if not 0 <= min_keypoints <= MPII_16.num_joints:
            raise ValueError(f"min_keypoints: must lie in 0..{MPII_16.num_joints}, got {min_keypoints}")
        if require_pose and fits is None:
            raise ValueError("require_pose: leaves nobody without fits, the name of EFT's json")
        path = find_path(Path(root), FOLDERS, f"annot/{split}.json", HOW_TO_OBTAIN)
        folder = path.parent.parent
        people = read_json(path)
        if not isinstance(people, list) or not people:
            raise ValueError(f"{path}: holds no list of people, expected one entry for each person")
        joints, labelled = (
            _column(people, key, shape, path) for key, shape in (("joints", (16, 2)), ("joints_vis", (16,)))
        )
        center, scale = (_column(people, key, shape, path) for key, shape in (("center", (2,)), ("scale", ())))
        clip = [f"images/{get_key(person, 'image', path / f'person {n}')}" for n, person in enumerate(people)]
        keep = (center[:, 0] >= 0) & (scale > 0) & ((labelled > 0).sum(axis=1) >= min_keypoints)
        box = _boxes(center, scale)
        bodies, which = None, np.full(len(people), -1)
        if fits is not None:
            fits_path = find_path(Path(root), (*FOLDERS, *EFT_FOLDERS), fits, HOW_TO_OBTAIN_FITS)
            bodies = read_eft(fits_path)
            which = _join(clip, box, bodies, fits_path, path)
            keep &= (which >= 0) | (not require_pose)
        rows = np.flatnonzero(keep)[::stride]
        if not len(rows):
            raise ValueError(
                f"{path}: none of its {len(people)} people has a place and {min_keypoints} joints annotated"
                + (" and a fit" if require_pose else "")
            )
        clip = [clip[row] for row in rows]
        pictures = tuple(folder / name for name in clip)
        find_path(folder, (), clip[0], HOW_TO_OBTAIN)
        points, known = same_joints(joints[rows] + _TO_CONTINUOUS, labelled[rows] > 0, MPII_16)
        samples = person_rows(
            clip,
            box[rows],
            picture_sizes(pictures),
            joints_2d_px=points,
            confidence=known.astype(float),
            **({} if bodies is None else bodies.of_rows(which[rows])),
        )
        sides = samples["box"]
        images = None if crops is None else PersonCrops(pictures, sides[:, :2], sides[:, 2], crops, crop_margin)
        super().__init__(JOINTS_44, samples, images)


def _column(people: list[Any], key: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    return np.stack(
        [
            check_shape(key, get_key(person, key, path / f"person {n}"), shape, path / f"person {n}")
            for n, person in enumerate(people)
        ]
    )


def _boxes(center: Float[np.ndarray, "rows 2"], scale: Float[np.ndarray, " rows"]) -> Float[np.ndarray, "rows 3"]:
    x, y = (center + _TO_CONTINUOUS).T
    return np.column_stack((x, y + _BOX_SHIFT_PX * scale, _BOX_SCALE * _PIXELS_PER_SCALE * scale))


def _join(
    clip: list[str], box: Float[np.ndarray, "people 3"], fits: EFTFits, fits_path: Path, path: Path
) -> Int[np.ndarray, " people"]:
    """The fit of each person by picture and box; -1 without one."""
    of_picture: dict[str, list[int]] = {}
    for row, name in enumerate(clip):
        of_picture.setdefault(Path(name).name, []).append(row)
    which = np.full(len(clip), -1)
    for fit, name in enumerate(fits.names):
        rows = of_picture.get(name, [])
        distance = np.linalg.norm(box[rows, :2] - fits.box[fit, :2], axis=1)
        if len(rows) and distance.min() <= _SAME_BOX_PX:
            which[rows[int(distance.argmin())]] = fit
    if not (which >= 0).any():
        raise ValueError(f"{fits_path}: none of its {len(fits.names)} fits is of a person in {path}")
    return which
