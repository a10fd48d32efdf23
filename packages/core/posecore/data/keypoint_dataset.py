"""2D keypoints of any joint set as pose samples of the joint set that a method works in, with a camera."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from posecore.body.joint_maps import joint_map
from posecore.body.skeletons import JointSet, get_joint_set
from posecore.data.base import PoseTable
from posecore.data.keypoints import KeypointPeople, read_keypoints
from posecore.data.sample import PoseSample
from posecore.geometry.camera import intrinsics


class KeypointDataset(PoseTable):
    """People of a 2D keypoint file, mapped to one joint set; one row per person and frame.

    Keys: ``joints_2d_px confidence K clip frame`` and, where it is known, ``image_size``; ``clip`` is the row's id. A
    joint that the file's joint set cannot give, or that was not seen, has confidence 0 and pixel (0, 0).

    The camera is the first of these that is there: ``K``; ``focal_length``; the file's own camera; an assumed one. The
    principal point is ``center``, else the file's, else the middle of the image. An assumed focal length is
    ``assumed_focal_length`` or else the image's diagonal, sqrt(width^2 + height^2) pixels (a field of view of 53
    degrees along the diagonal). ``camera_assumed`` and ``camera_statement`` say which one it was; results must
    pass them on.

    Args:
        source: A keypoint file or folder (see :func:`posecore.data.keypoints.read_keypoints`), or people read already.
        joint_set: Name of the joint set of the samples.
        K: Known intrinsics in pixels; excludes the other camera arguments.
        focal_length: Known focal length in pixels.
        center: Known principal point (x, y) in pixels.
        assumed_focal_length: Focal length in pixels to assume where none is known.
        image_size: Width and height in pixels, for files that do not state them.
        source_joint_set: Name of the file's joint set, where the number of joints does not tell it.
        select: Shell pattern on the rows' ids.
        copies_only: Leaves joints that would be constructed from others without a keypoint (see
            :func:`posecore.body.joint_maps.joint_map`).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, nothing of it maps to ``joint_set``, the camera arguments contradict
            each other or are not positive, or an image size is needed and unknown.
    """

    def __init__(
        self,
        source: Path | str | KeypointPeople,
        joint_set: str = "h36m17",
        *,
        K: Float[Tensor, "3 3"] | None = None,
        focal_length: float | tuple[float, float] | None = None,
        center: tuple[float, float] | None = None,
        assumed_focal_length: float | None = None,
        image_size: tuple[int, int] | None = None,
        source_joint_set: str | None = None,
        select: str | None = None,
        copies_only: bool = False,
    ) -> None:
        if not isinstance(source, KeypointPeople):
            source = read_keypoints(source, source_joint_set, image_size, select)
        self.people = source
        target = get_joint_set(joint_set)
        keypoints, confidence = _mapped(source, target, copies_only)
        matrix, self.camera_assumed, self.camera_statement = _camera(
            source, K, focal_length, center, assumed_focal_length
        )
        samples: PoseSample = {
            "joints_2d_px": keypoints,
            "confidence": confidence,
            "K": matrix,
            "clip": list(source.ids),
            "frame": torch.tensor(source.frames),
        }
        if source.image_sizes is not None:
            samples["image_size"] = source.image_sizes
        super().__init__(target, samples)


def _mapped(
    people: KeypointPeople, target: JointSet, copies_only: bool
) -> tuple[Float[Tensor, "people joints 2"], Float[Tensor, "people joints"]]:
    mapping = joint_map(people.joint_set, target, copies_only)
    confidence = mapping.apply_confidence(people.confidence)
    # People who were found as boxes have no keypoint at all.
    if bool((people.confidence > 0).any()) and not bool((confidence > 0).any()):
        raise ValueError(f"no joint seen in {people.joint_set.name} keypoints gives a joint of {target.name}")
    return torch.where(confidence[..., None] > 0, mapping.apply(people.keypoints), 0.0), confidence


def _camera(
    people: KeypointPeople,
    K: Tensor | None,
    focal_length: float | tuple[float, float] | None,
    center: tuple[float, float] | None,
    assumed_focal_length: float | None,
) -> tuple[Float[Tensor, "people 3 3"], bool, str]:
    """Intrinsics per row, whether they are assumed, and where they come from in words."""
    num_people = len(people)
    if K is not None:
        if focal_length is not None or center is not None or assumed_focal_length is not None:
            raise ValueError("K already holds the focal length and the center: give K or those, not both")
        if not bool(torch.isfinite(K).all()) or float(K[0, 0]) <= 0 or float(K[1, 1]) <= 0:
            raise ValueError(f"K must be finite with positive focal lengths on its diagonal, not {K.tolist()}")
        return K.to(people.keypoints.dtype).expand(num_people, 3, 3).clone(), False, "intrinsics given as K"
    for name, value in (("focal_length", focal_length), ("assumed_focal_length", assumed_focal_length)):
        numbers = value if isinstance(value, tuple) else (value,)
        if any(number is not None and not (math.isfinite(number) and number > 0) for number in numbers):
            raise ValueError(f"{name} must be positive pixels, not {value}")
    if focal_length is not None and assumed_focal_length is not None:
        raise ValueError("focal_length is known or assumed: give focal_length or assumed_focal_length, not both")

    known = focal_length
    origin = "given"
    if known is None and people.camera is not None:
        known, origin = people.camera.focal_length, "from the keypoint file"
    if center is None and people.camera is not None:
        center = people.camera.center
    like = people.keypoints
    if people.image_sizes is None and (center is None or (known is None and assumed_focal_length is None)):
        raise ValueError(
            "the image size is unknown, so no camera can be assumed: give image_size, or focal_length and center, or K"
        )
    sizes = torch.zeros_like(like[:, 0]) if people.image_sizes is None else people.image_sizes.to(like)
    if center is None:
        centers, where = sizes / 2, "center assumed in the middle of the image"
    else:
        centers = like.new_tensor(center).expand(num_people, 2)
        where = f"center ({center[0]:g}, {center[1]:g}) px"
    if known is not None:
        pair = known if isinstance(known, tuple) else (known, known)
        focal = like.new_tensor(pair)
        statement = f"focal length ({pair[0]:g}, {pair[1]:g}) px {origin}"
    elif assumed_focal_length is not None:
        focal = like.new_tensor([assumed_focal_length])
        statement = f"focal length assumed: {assumed_focal_length:g} px"
    else:
        focal = sizes.norm(dim=-1, keepdim=True)
        shortest, longest = float(focal.min()), float(focal.max())
        span = f"{shortest:.1f}" if shortest == longest else f"{shortest:.1f} to {longest:.1f}"
        statement = f"focal length assumed: image diagonal sqrt(width^2 + height^2) = {span} px"
    return intrinsics(focal, centers), known is None, f"{statement}; {where}"


@dataclass(frozen=True)
class KeypointInput:
    """What `predict` is given: a keypoint file, what is known of the camera, and the photograph if there is one.

    Attributes:
        keypoints: A keypoint file or folder (see :func:`posecore.data.keypoints.read_keypoints`).
        photo: The photograph the keypoints are in; shown in the panel, and its size is used where the file has none.
        focal_length: Known focal length in pixels.
        center: Known principal point (x, y) in pixels; the middle of the image where None.
        assumed_focal_length: Focal length in pixels to assume where none is known; the image's diagonal where None.
        image_size: Width and height in pixels, for files that do not state them.
        joint_set: Name of the file's joint set, where the number of joints does not tell it.
        select: Shell pattern on the rows' ids.
    """

    keypoints: Path
    photo: Path | None = None
    focal_length: float | None = None
    center: tuple[float, float] | None = None
    assumed_focal_length: float | None = None
    image_size: tuple[int, int] | None = None
    joint_set: str | None = None
    select: str | None = None

    def dataset(self, joint_set: str) -> KeypointDataset:
        """The people of the file in the method's joint set.

        Raises:
            FileNotFoundError: If there is no such file or photograph.
            ValueError: As `KeypointDataset`, or the photograph is not an image.
        """
        image_size = self.image_size
        people = read_keypoints(self.keypoints, self.joint_set, image_size, self.select)
        if self.photo is not None:
            size = read_photo_size(self.photo)
            if people.image_size not in (None, size):
                raise ValueError(
                    f"photo: {self.photo} has {size[0]} x {size[1]} pixels, but {self.keypoints} speaks of "
                    f"{people.image_size}: are the keypoints of another picture?"
                )
            if people.image_sizes is None:
                people = read_keypoints(self.keypoints, self.joint_set, size, self.select)
        return KeypointDataset(
            people,
            joint_set,
            focal_length=self.focal_length,
            center=self.center,
            assumed_focal_length=self.assumed_focal_length,
        )


def read_photo_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as it is looked at (EXIF orientation applied).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image.
    """
    if not path.is_file():
        raise FileNotFoundError(f"photo: there is no file {path}")
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Orientations 5 to 8 lie on their side.
            return (height, width) if image.getexif().get(0x0112, 1) >= 5 else (width, height)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"photo: {path} is not an image that can be read ({error})") from error
