"""The camera of every row of what `predict` is given: what is known of it, or what is assumed, in numbers and words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.data.calibrated_views import CalibratedViews
from posecore.data.camera_files import (
    PictureCamera,
    assumed_camera,
    camera_from_exif,
    camera_from_field_of_view,
    read_intrinsics,
)
from posecore.data.keypoints import KeypointCamera, KeypointPeople
from posecore.data.predict_rows import with_sizes
from posecore.geometry.camera import intrinsics

_MIDDLE = "center assumed in the middle of the image"


@dataclass(frozen=True)
class RowCameras:
    """The cameras of rows.

    Attributes:
        K: Intrinsics, pixels.
        image_sizes: Width and height, pixels.
        assumed: Whether the focal length of any is assumed.
        statement: Where they come from, in words.
    """

    K: Float[Tensor, "rows 3 3"]
    image_sizes: Float[Tensor, "rows 2"]
    assumed: bool
    statement: str


@dataclass(frozen=True)
class CameraChoice:
    """What a user knows of the camera, or wants to be assumed.

    The focal length is the first of these that is there: ``intrinsics``, ``focal_length``, ``field_of_view``,
    ``assumed_focal_length``; the keypoint file's own camera; the photograph's EXIF data; the image's diagonal,
    sqrt(width^2 + height^2) pixels. An ``assumed_focal_length`` stands behind the keypoint file's camera. The principal
    point is ``center``, else the keypoint file's, else the middle of the image.

    Attributes:
        intrinsics: An intrinsics file (see :mod:`posecore.data.camera_files`).
        focal_length: Known focal length, pixels.
        field_of_view: Angle across the width of the picture, degrees.
        center: Known principal point (x, y), pixels.
        assumed_focal_length: Focal length to assume where none is known, pixels.

    Raises:
        ValueError: If two of them contradict each other, or a number is out of range.
    """

    intrinsics: Path | None = None
    focal_length: float | None = None
    field_of_view: float | None = None
    center: tuple[float, float] | None = None
    assumed_focal_length: float | None = None

    def __post_init__(self) -> None:
        names = ("intrinsics", "focal_length", "field_of_view", "assumed_focal_length")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: say what the focal length is in one way, not in {len(given)}")
        if self.intrinsics is not None and self.center is not None:
            raise ValueError("intrinsics and center: the file already holds the center; leave one of them out")
        for name in ("focal_length", "assumed_focal_length"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive pixels, not {value}")
        if self.field_of_view is not None and not 0 < self.field_of_view < 180:
            raise ValueError(f"field_of_view: must lie between 0 and 180 degrees, not {self.field_of_view}")
        if self.center is not None and not all(map(math.isfinite, self.center)):
            raise ValueError(f"center: must be finite pixels (x, y), not {self.center}")

    def of_rows(self, people: KeypointPeople, photos: Sequence[Path | None]) -> RowCameras:
        """The camera of every row.

        Args:
            people: The rows, with the size of their images where it is known.
            photos: Each row's photograph; None where there is none, or it is a video.

        Raises:
            FileNotFoundError: If there is no such intrinsics file.
            ValueError: If it cannot be read, or a size of an image is needed and unknown.
        """
        if people.image_sizes is None:
            camera = self._without_size(people)
            size = 2 * camera.K[:2, 2]
            said = f"{camera.statement}; image size unknown, taken as twice the center"
            rows = len(people)
            return RowCameras(camera.K.expand(rows, 3, 3).clone(), size.expand(rows, 2).clone(), camera.assumed, said)
        sizes = [(round(width), round(height)) for width, height in people.image_sizes.tolist()]
        keys = list(zip(sizes, photos, strict=True))
        cameras = {key: self._of_picture(people.camera, *key) for key in dict.fromkeys(keys)}
        K = torch.stack([cameras[key].K for key in keys]).to(people.keypoints)
        found = list(cameras.values())
        return RowCameras(K, people.image_sizes, any(camera.assumed for camera in found), _together(found))

    def _of_picture(self, of_file: KeypointCamera | None, size: tuple[int, int], photo: Path | None) -> PictureCamera:
        if self.intrinsics is not None:
            return read_intrinsics(self.intrinsics, size)
        if self.field_of_view is not None:
            camera = camera_from_field_of_view(self.field_of_view, size, "horizontal")
        elif self.focal_length is not None or of_file is not None:
            camera = self._known(of_file, (size[0] / 2, size[1] / 2))
        elif self.assumed_focal_length is None and photo is not None and (exif := camera_from_exif(photo)):
            camera = exif
        else:
            camera = assumed_camera(size, self.assumed_focal_length)
        center = self.center or (None if of_file is None else of_file.center)
        return camera if center is None else _moved(camera, center)

    def _known(self, of_file: KeypointCamera | None, center: tuple[float, float]) -> PictureCamera:
        """The focal length as given, or the keypoint file's."""
        if self.focal_length is not None:
            focal, origin = (self.focal_length, self.focal_length), "given"
        else:
            assert of_file is not None
            focal, origin = of_file.focal_length, "from the keypoint file"
        said = f"focal length ({focal[0]:g}, {focal[1]:g}) px {origin}; {_MIDDLE}"
        return PictureCamera(intrinsics(torch.tensor(focal), torch.tensor(center)), False, said)

    def _without_size(self, people: KeypointPeople) -> PictureCamera:
        """The camera of images whose size is unknown, which everything else must be known for."""
        if self.intrinsics is not None:
            return read_intrinsics(self.intrinsics)
        center = self.center or (None if people.camera is None else people.camera.center)
        if center and (self.focal_length is not None or people.camera is not None):
            return _moved(self._known(people.camera, center), center)
        if center and self.assumed_focal_length is not None:
            size = (round(2 * center[0]), round(2 * center[1]))
            return _moved(assumed_camera(size, self.assumed_focal_length), center)
        raise ValueError(
            "the image size is unknown, so no camera can be assumed: give image_size or photo; or focal_length and "
            "center; or intrinsics"
        )


def cameras_of_views(people: KeypointPeople, views: CalibratedViews, view: Sequence[int]) -> RowCameras:
    """The calibrated camera of every row.

    Args:
        people: The rows.
        views: The cameras.
        view: Number of each row's camera.

    Raises:
        ValueError: If the images' sizes are unknown, or the cameras' sizes contradict them.
    """
    rows = torch.tensor(view)
    if views.image_sizes is not None:
        people = with_sizes(people, views.image_sizes[rows], views.source)
    if people.image_sizes is None:
        raise ValueError(f"{views.source}: the image size is unknown: give image_size, or photo")
    said = f"{len(views)} calibrated cameras from {views.source.name}"
    return RowCameras(views.K[rows].to(people.keypoints), people.image_sizes, False, said)


def _moved(camera: PictureCamera, center: tuple[float, float]) -> PictureCamera:
    """The camera with another principal point."""
    K = camera.K.clone()
    K[:2, 2] = K.new_tensor(center)
    return replace(
        camera, K=K, statement=camera.statement.replace(_MIDDLE, f"center ({center[0]:g}, {center[1]:g}) px")
    )


def _together(cameras: Sequence[PictureCamera]) -> str:
    """In words, the cameras of several pictures."""
    parts = []
    for assumed in (False, True):
        some = [camera for camera in cameras if camera.assumed == assumed]
        statements = list(dict.fromkeys(camera.statement for camera in some))
        if not statements:
            continue
        said = statements[0]
        if len(statements) > 1:
            focal = [float(camera.K[0, 0]) for camera in some]
            said = f"focal lengths {min(focal):.1f} to {max(focal):.1f} px, the first: {said}"
        parts.append(said if len(some) == len(cameras) else f"{len(some)} of {len(cameras)} pictures: {said}")
    return "; ".join(parts)
