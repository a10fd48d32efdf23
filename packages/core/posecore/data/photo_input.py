"""What a method that looks at photographs is given: pictures, and keypoints or boxes of the people in them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.skeletons import get_joint_set
from posecore.data.box_files import PersonBoxes, read_boxes
from posecore.data.crops import PersonCrops, box_of_keypoints, with_boxes
from posecore.data.fit_input import FitDataset, FitInput, with_photos
from posecore.data.keypoints import KeypointPeople
from posecore.data.picture_sizes import picture_size
from posecore.data.sample import PoseSample

_PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class PhotoInput:
    """What `predict` of a method with an image encoder is given.

    People are those of ``keypoints``, of ``boxes`` or the one in ``box``; where none of the three is given, every
    picture shows one person, who fills it.

    Attributes:
        photo: A photograph, or a folder of them; files name those of a folder with or without .jpg or .png. Of a file
            with boxes of several pictures, those of the one photograph are taken.
        keypoints: A keypoint file or folder (see :func:`posecore.data.keypoints.read_keypoints`).
        boxes: A file of boxes (see :mod:`posecore.data.box_files`).
        box: Left, top, right, bottom of the person in the one photograph, pixels.
        box_scale: Side of the square box of the crop by the longer side of the person's box or of the box around the
            seen keypoints; 1.2 is SPIN's. A whole picture is taken with 1: there is room around its person already.
        focal_length: Known focal length in pixels.
        center: Known principal point (x, y) in pixels; the middle of the image where None.
        assumed_focal_length: Focal length in pixels to assume where none is known; the image's diagonal where None.
        min_confidence: Keypoints are taken as not seen, and boxes are left out, below it.
        joint_set: Name of the keypoint file's joint set, where the number of joints does not tell it.
        select: Shell pattern on the ids of the keypoint file's rows.
        crops: Side in pixels that the square box has in its raw crop.
        crop_margin: Side of the raw crop by that of the box.

    Raises:
        ValueError: If more than one of ``keypoints boxes box`` is given, a number is out of range, or ``joint_set`` or
            ``select`` are given without keypoints.
    """

    photo: Path
    keypoints: Path | None = None
    boxes: Path | None = None
    box: tuple[float, float, float, float] | None = None
    box_scale: float = 1.2
    focal_length: float | None = None
    center: tuple[float, float] | None = None
    assumed_focal_length: float | None = None
    min_confidence: float = 0.0
    joint_set: str | None = None
    select: str | None = None
    crops: int = 224
    crop_margin: float = 1.5

    def __post_init__(self) -> None:
        given = [name for name in ("keypoints", "boxes", "box") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: say where the people are in one way, not in {len(given)}")
        if not (math.isfinite(self.box_scale) and self.box_scale > 0):
            raise ValueError(f"box_scale: must be above 0, not {self.box_scale}")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence: must lie in 0..1, not {self.min_confidence}")
        if self.keypoints is None and (self.joint_set, self.select) != (None, None):
            raise ValueError("joint_set and select: say what to read of keypoints, and there are none")

    def dataset(self, joint_set: str) -> FitDataset:
        """The people with raw crops around them (``image``, uint8), in the order of the file.

        Further keys: ``box row view`` and those of `KeypointDataset`; ``joints_2d_px`` and ``confidence`` are 0 where
        there are boxes only.

        Args:
            joint_set: Name of the method's joint set.

        Raises:
            FileNotFoundError: If there is no such file or photograph.
            ValueError: If a file cannot be read, two of them contradict each other, a box has no area or lies outside
                of its picture, or nobody is left.
        """
        camera: dict[str, Any] = {
            "focal_length": self.focal_length,
            "center": self.center,
            "assumed_focal_length": self.assumed_focal_length,
        }
        if self.keypoints is not None:
            read = FitInput(
                self.keypoints,
                self.photo,
                joint_set=self.joint_set,
                select=self.select,
                min_confidence=self.min_confidence,
                **camera,
            )
            data = read.dataset(joint_set)
            middle, side = box_of_keypoints(data.people.keypoints, data.people.confidence, self.box_scale)
        else:
            boxes, notes = self._boxes()
            people, photos = with_photos(_without_keypoints(boxes, joint_set), self.photo, self.boxes or self.photo)
            _check_inside(boxes, people)
            grouping: PoseSample = {"clip": list(boxes.ids), "view": torch.zeros(len(boxes), dtype=torch.int64)}
            data = FitDataset(people, joint_set, grouping, photos, notes, **camera)
            whole = self.boxes is None and self.box is None
            middle, side = _square(boxes.boxes, 1.0 if whole else self.box_scale)
        crops = PersonCrops(
            [photo for photo in data.photos if photo is not None], middle, side, self.crops, self.crop_margin
        )
        rows = torch.arange(len(data))
        data.samples = with_boxes(cast(PoseSample, {**data.samples, "row": rows}), crops)
        data.images = crops
        return data

    @property
    def source(self) -> dict[str, Any]:
        """Where people and crops come from, in words that a results file can hold."""
        given: dict[str, Any] = {"photo": str(self.photo)}
        given |= {name: str(path) for name in ("keypoints", "boxes") if (path := getattr(self, name)) is not None}
        return given | ({} if self.box is None else {"box": list(self.box)}) | {"box_scale": self.box_scale}

    def _boxes(self) -> tuple[PersonBoxes, list[str]]:
        """Boxes of the photographs, and what was left out."""
        if self.boxes is not None:
            boxes = read_boxes(self.boxes, self.min_confidence)
            notes = [f"{boxes.num_skipped} boxes of {self.boxes} were left out: of no person, or below min_confidence"]
            notes = notes if boxes.num_skipped else []
            if self.photo.is_dir():
                return boxes, notes
            of_photo = [row for row, name in enumerate(boxes.image_names) if _names(name, self.photo)]
            if not of_photo:
                others = ", ".join(list(dict.fromkeys(boxes.image_names))[:5])
                raise ValueError(f"boxes: {self.boxes} has no box in {self.photo.name}; it speaks of {others}")
            if left_out := len(boxes) - len(of_photo):
                notes.append(f"{left_out} boxes of other pictures than {self.photo.name} were left out")
            return boxes.take(of_photo), notes
        if self.photo.is_dir():
            if self.box is not None:
                raise ValueError(f"box: is one of a single picture, and {self.photo} is a folder: give boxes")
            names = sorted(path.name for path in self.photo.iterdir() if path.suffix.lower() in _PHOTO_SUFFIXES)
            if not names:
                raise ValueError(f"photo: the folder {self.photo} holds no picture (.jpg, .jpeg, .png)")
            sizes = [picture_size(self.photo / name, "photo") for name in names]
        else:
            names, sizes = [self.photo.name], [picture_size(self.photo, "photo")]
        corners = [self.box or (0.0, 0.0, float(width), float(height)) for width, height in sizes]
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError(f"box: must be left, top, right, bottom of some area, not {list(self.box)}")
        return PersonBoxes(torch.tensor(corners), ("0",) * len(names), tuple(range(len(names))), tuple(names)), []


def _names(name: str, photo: Path) -> bool:
    """Whether a file's name of a picture is this picture's; a file may leave it out, or have COCO's number alone."""
    last = Path(name).name
    return last in ("", photo.name, photo.stem) or (last.isdecimal() and last.zfill(12) == photo.stem)


def _without_keypoints(boxes: PersonBoxes, joint_set: str) -> KeypointPeople:
    """The people of whom boxes are known only."""
    joints = get_joint_set(joint_set)
    keypoints = torch.zeros(len(boxes), joints.num_joints, 2)
    return KeypointPeople(joints, keypoints, keypoints[..., 0], None, boxes.ids, boxes.frames, boxes.image_names)


def _check_inside(boxes: PersonBoxes, people: KeypointPeople) -> None:
    """Raises where a box shares nothing with its picture."""
    assert people.image_sizes is not None
    for box, size, person, name in zip(
        boxes.boxes.tolist(), people.image_sizes.tolist(), people.ids, people.image_names, strict=True
    ):
        # Written so that NaN is refused.
        if not (box[0] < size[0] and box[1] < size[1] and box[2] > 0 and box[3] > 0):
            raise ValueError(
                f"box: that of person {person!r} goes from {box[:2]} to {box[2:]} px, outside of {name} with "
                f"{size[0]:g} x {size[1]:g} px"
            )


def _square(
    boxes: Float[Tensor, "people 4"], scale: float
) -> tuple[Float[Tensor, "people 2"], Float[Tensor, " people"]]:
    """Middle and side of the squares around boxes."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return (low + high) / 2, scale * (high - low).amax(dim=-1)
