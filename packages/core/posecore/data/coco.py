"""COCO: everyday photographs with people's keypoints, and SMPL fits to them."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from posecore.body.skeletons import COCO_17, JOINTS_44
from posecore.data.base import PoseTable
from posecore.data.benchmark_files import check_choice, check_shape, check_stride, find_path, get_key
from posecore.data.crops import PersonCrops
from posecore.data.eft import FOLDERS as EFT_FOLDERS
from posecore.data.eft import HOW_TO_OBTAIN as HOW_TO_OBTAIN_FITS
from posecore.data.eft import EFTFits, read_eft, read_json
from posecore.data.person_rows import person_rows, same_joints

SPLITS = ("train2014", "val2014", "train2017", "val2017")
FOLDERS = ("coco", "COCO")
HOW_TO_OBTAIN = (
    "COCO is at cocodataset.org: unpack annotations_trainval<year>.zip and <split>.zip into one folder, so that it "
    "holds annotations/person_keypoints_<split>.json and <split>/*.jpg"
)
LIMBS = [row for row, name in enumerate(COCO_17.joint_names) if not name.endswith(("nose", "eye", "ear"))]
"""The 12 joints below the head, shoulders to ankles."""
BOX_SCALE = 1.2
_TO_CONTINUOUS = 0.5  # A keypoint names a pixel, counted from 0; the middle of pixel 0 is at 0.5.
_DIGITS_OF_IMAGE = 12


class COCO(PoseTable):
    """People with annotated keypoints, and the bodies that EFT fitted to them.

    ============  ====================================================================================================
    content       photographs of everyday scenes; EFT has fits of 79,051 people of train2014. Its authors chose from
                  2014; the 2017 splits share out the same pictures and keep the numbers of the annotations
    joints        joints44, of which COCO names 17: shoulders to ankles, and nose, eyes and ears among OpenPose's
    2D            annotations, pixels of the whole picture. Labelled keypoints have confidence 1, whether visible
                  (flag 2) or hidden (1), as for SPIN, EFT and ProHMR; others (0) have 0
    camera        assumed as SPIN does: focal length 5000 px, principal point in the middle of the picture
    body          with ``fits``, ``global_orient`` in camera axes (x right, y down, z forward), ``body_pose`` and
                  ``betas`` of the neutral SMPL: fits, not measured truth. No 3D joints and no translation are known
    files         ``annotations/person_keypoints_<split>.json``, ``<split>/*.jpg`` (COCO_train2014_000000000009.jpg, or
                  000000000009.jpg in 2017), EFT's ``COCO2014-All-ver01.json`` (`posecore.data.eft.EFT`)
    licence       annotations CC BY 4.0; the photographs have their authors' licences (Flickr); EFT CC BY-NC 4.0
    to obtain     cocodataset.org; GitHub: facebookresearch/eft
    ============  ====================================================================================================

    Rows run over annotations in the file's order and have the keys of `posecore.data.person_rows.person_rows`;
    ``clip`` is the picture below the folder. Crowds (``iscrowd``) and boxes without an area are left out. The person's
    box is the annotation's, made square around its middle, its longer side times 1.2, as SPIN takes it. Annotated
    keypoints are pixels counted from 0; half a pixel leads to their middles in the continuous frame of `crops`.

    Args:
        root: folder with ``annotations``, or the one that holds it as ``coco``.
        split: "train2014", "val2014", "train2017" or "val2017".
        min_keypoints: leaves out who has fewer of the 12 joints below the head annotated: with fewer than half, as of
            the many people cut off at the chest, most of a body is guessed, and EFT sets the same number. 12 is
            SPIN's choice; 0 takes everybody.
        fits: name of EFT's json, in ``root`` or in ``eft_fit`` there; None has no bodies.
        require_pose: leaves out who has no fit.
        stride: takes every ``stride``-th person of those.
        crops: side in pixels of the person's box in ``image``, a raw crop for `posecore.data.augment`: uint8, sRGB,
            black outside of the picture. None reads no pictures.
        crop_margin: side of ``image`` by that of the box; augmentation turns and shifts the box within it.

    Raises:
        FileNotFoundError: if a file or picture is not there.
        ValueError: if an argument is out of range, nobody is left, a file is broken, or the fits are of other people.

    References:
        Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014.
    """

    def __init__(
        self,
        root: Path,
        split: str = "train2014",
        min_keypoints: int = 6,
        fits: str | None = None,
        require_pose: bool = False,
        stride: int = 1,
        crops: int | None = None,
        crop_margin: float = 1.5,
    ) -> None:
        check_choice("split", [split], SPLITS)
        check_stride(stride)
        if not 0 <= min_keypoints <= len(LIMBS):
            raise ValueError(f"min_keypoints: must lie in 0..{len(LIMBS)}, the joints below the head; {min_keypoints}")
        if require_pose and fits is None:
            raise ValueError("require_pose: leaves nobody without fits, the name of EFT's json")
        path = find_path(Path(root), FOLDERS, f"annotations/person_keypoints_{split}.json", HOW_TO_OBTAIN)
        folder = path.parent.parent
        content = read_json(path)
        pictures = {get_key(image, "id", path): image for image in get_key(content, "images", path)}
        annotations = get_key(content, "annotations", path)
        people = [person for n, person in enumerate(annotations) if _is_person(person, path / f"annotation {n}")]
        keypoints = np.stack([_keypoints(person, path) for person in people]) if people else np.zeros((0, 17, 3))
        labelled: Bool[np.ndarray, "rows 17"] = keypoints[..., 2] > 0
        keep = labelled[:, LIMBS].sum(axis=1) >= min_keypoints
        bodies, which = None, np.full(len(people), -1)
        if fits is not None:
            fits_path = find_path(Path(root), (*FOLDERS, *EFT_FOLDERS), fits, HOW_TO_OBTAIN_FITS)
            bodies = read_eft(fits_path)
            which = _join(people, bodies, fits_path, path)
            keep &= (which >= 0) | (not require_pose)
        rows = np.flatnonzero(keep)[::stride]
        if not len(rows):
            raise ValueError(
                f"{path}: none of its {len(people)} people has {min_keypoints} joints below the head annotated"
                + (" and a fit" if require_pose else "")
            )
        images = [_image_of(people[row], pictures, path) for row in rows]
        clip = [f"{split}/{get_key(image, 'file_name', path)}" for image in images]
        size = check_shape(
            "width and height", [[image.get("width"), image.get("height")] for image in images], (None, 2), path
        )
        points, known = same_joints(keypoints[rows, :, :2] + _TO_CONTINUOUS, labelled[rows], COCO_17)
        samples = person_rows(
            clip,
            _boxes([people[row]["bbox"] for row in rows]),
            size,
            joints_2d_px=points,
            confidence=known.astype(float),
            **({} if bodies is None else bodies.of_rows(which[rows])),
        )
        crop = None
        if crops is not None:
            find_path(folder, (), clip[0], HOW_TO_OBTAIN)
            box = samples["box"]
            crop = PersonCrops(tuple(folder / name for name in clip), box[:, :2], box[:, 2], crops, crop_margin)
        super().__init__(JOINTS_44, samples, crop)


def _is_person(annotation: Any, path: Path) -> bool:
    """Whether this is one person with a box that has an area, and not a crowd."""
    box = check_shape("bbox", get_key(annotation, "bbox", path), (4,), path)
    return not get_key(annotation, "iscrowd", path) and bool((box[2:] > 0).all())


def _keypoints(person: Any, path: Path) -> Float[np.ndarray, "17 3"]:
    where = path / f"person {get_key(person, 'id', path)}"
    values = check_shape("keypoints", get_key(person, "keypoints", where), (3 * COCO_17.num_joints,), where)
    return values.reshape(-1, 3)


def _boxes(left_top_size: list[Any]) -> Float[np.ndarray, "rows 3"]:
    corner, size = np.split(np.array(left_top_size, dtype=np.float64), 2, axis=1)
    return np.column_stack((corner + size / 2, BOX_SCALE * size.max(axis=1)))


def _image_of(person: Any, pictures: dict[Any, Any], path: Path) -> Any:
    number = get_key(person, "image_id", path)
    if number not in pictures:
        raise ValueError(f"{path}: person {person.get('id')} is in picture {number}, which 'images' does not list")
    return pictures[number]


def _join(people: list[Any], fits: EFTFits, fits_path: Path, path: Path) -> Int[np.ndarray, " people"]:
    """The fit of each person by the number of the annotation; -1 without one."""
    place = {int(number): fit for fit, number in enumerate(fits.annotation) if number >= 0}
    which = np.array([place.get(get_key(person, "id", path), -1) for person in people], dtype=np.int64)
    if not (which >= 0).any():
        raise ValueError(f"{fits_path}: none of its {len(fits.names)} fits is of a person in {path}")
    for person, fit in zip(people, which, strict=True):
        image = int(get_key(person, "image_id", path))
        if fit >= 0 and not Path(fits.names[fit]).stem.endswith(f"{image:0{_DIGITS_OF_IMAGE}d}"):
            raise ValueError(
                f"{fits_path}: fit {fit} has the number of person {person['id']} in {path}, who is in picture {image}, "
                f"but says {fits.names[fit]}: the fits are of another data set"
            )
    return which
