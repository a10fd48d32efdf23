"""What `predict` of every method is given: photographs or a video, keypoints or boxes, cameras and grouping."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from posecore.data.calibrated_views import read_cameras
from posecore.data.crops import PersonCrops, box_of_keypoints
from posecore.data.detect import detect_people
from posecore.data.keypoints import KeypointPeople, read_keypoints
from posecore.data.predict_cameras import CameraChoice, RowCameras, cameras_of_views
from posecore.data.predict_dataset import PredictDataset
from posecore.data.predict_people import (
    FoundPeople,
    boxes_inside,
    confident_people,
    people_of_boxes,
    person_of_picture,
    square,
)
from posecore.data.predict_pictures import (
    Placed,
    frames_of_pictures,
    is_video,
    pictures_of_folder,
    with_photos,
    with_video,
)
from posecore.data.predict_rows import Group, arranged, rows_as_they_are, rows_by_instant, rows_by_track
from posecore.data.sample import PoseSample
from posecore.data.tracking import track_people
from posecore.data.video_crops import VideoCrops
from posecore.data.video_frames import VideoFrames

NO_KEYPOINTS = (
    "data.predict.keypoints: `predict` of this method works on 2D keypoints: give a file of them, or "
    "data.predict.photo with data.predict.detector rtmlib"
)
NO_PHOTO = "data.predict.photo: `predict` of this method looks at pictures: give a photograph, a folder or a video"
"""What is said where a method is not given what it needs."""

Needs = Literal["keypoints", "people"]
Detector = Literal["rtmlib"]

_FPS = 30.0  # Where nobody says.
_TRACK_GAP = 15  # Frames after which somebody is somebody else, where nothing else is asked for.
CROP_MARGIN = 1.5
"""Side of raw crops by that of the box, where nothing else is asked for."""
_CROP = 224  # Pixels of the box.
_OF_VIDEO = {"fps": None, "min_frames": 1, "max_gap": None, "track": None}
_PATHS = ("photo", "keypoints", "boxes", "cameras", "intrinsics", "detector_weights", "pose_weights")


@dataclass(frozen=True)
class PredictInput:
    """What `predict` is given; every method reads it in the same way.

    People are those of ``keypoints`` or ``boxes``, the one in ``box``, or those that ``detector`` finds. For a method
    that looks at pictures, none of these is needed: then every picture shows one person, who fills it.

    Attributes:
        photo: A photograph, a folder of them, or a video. Files name the pictures of a folder with or without suffix;
            of a file that speaks of several pictures, the people in the one photograph are taken. Pictures of a folder
            that are missing or broken are left out and reported.
        keypoints: A keypoint file or folder (see :func:`posecore.data.keypoints.read_keypoints`).
        boxes: A file of boxes (see :mod:`posecore.data.box_files`).
        box: Left, top, right, bottom of the person in the one photograph, pixels.
        box_scale: Side of the square box of a crop by the longer side of the person's box or of the box around the seen
            keypoints; 1.2 is SPIN's. A whole picture is taken with 1: there is room around its person already.
        detector: Finds people and keypoints in the pictures: rtmlib (an extra, with weights of its own).
        detector_weights: The detector's weights, ONNX; what the package comes by itself where None.
        pose_weights: Likewise of its keypoint network.
        intrinsics: A file with the camera (see :mod:`posecore.data.camera_files`).
        focal_length: Known focal length in pixels.
        field_of_view: Angle across the width of the picture, degrees, to assume.
        center: Known principal point (x, y) in pixels; the middle of the image where None.
        assumed_focal_length: Focal length in pixels to assume where none is known; where None, what the photograph's
            EXIF data say, or else the image's diagonal.
        image_size: Width and height in pixels, where neither keypoints nor photographs have them.
        joint_set: Name of the keypoint file's joint set, where the number of joints does not tell it.
        select: Shell pattern on the ids of the keypoint file's rows.
        min_confidence: Keypoints are taken as not seen, and boxes are left out, below it; ScoreHMR's demo has 0.4.
        group: What rows are: "people" that have nothing to do with each other; "views" of one person, those with the
            same frame number at one instant; "video" frames of people. None is "video" of a video file, else "people".
        cameras: Calibrated cameras of "views", a JSON file (see :mod:`posecore.data.calibrated_views`).
        fps: Frames per second of a "video"; the file's own, or 30, where None.
        min_frames: Tracks of a "video" with fewer frames in which they are seen are left out; ScoreHMR's demo has 41.
        max_gap: A "video" track that is not seen for more frames than this is cut in two; None never cuts.
        track: Whether people of a "video" are followed from frame to frame by where they are; False takes their ids as
            tracks, None does so where the file has track ids.
        crops: Side in pixels of crops of the pictures around people; 224 where a method needs them.
        crop_margin: Makes them raw crops of ``crop_margin`` times the boxes for `posecore.data.augment`; 1.5 where a
            method needs them.

    Raises:
        ValueError: If arguments contradict each other, one needs another that is not there, or a number is out of
            range.
    """

    photo: Path | None = None
    keypoints: Path | None = None
    boxes: Path | None = None
    box: tuple[float, float, float, float] | None = None
    box_scale: float = 1.2
    detector: Detector | None = None
    detector_weights: Path | None = None
    pose_weights: Path | None = None
    intrinsics: Path | None = None
    focal_length: float | None = None
    field_of_view: float | None = None
    center: tuple[float, float] | None = None
    assumed_focal_length: float | None = None
    image_size: tuple[int, int] | None = None
    joint_set: str | None = None
    select: str | None = None
    min_confidence: float = 0.0
    group: Group | None = None
    cameras: Path | None = None
    fps: float | None = None
    min_frames: int = 1
    max_gap: int | None = None
    track: bool | None = None
    crops: int | None = None
    crop_margin: float | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        given = [name for name in ("keypoints", "boxes", "box", "detector") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: say where the people are in one way, not in {len(given)}")
        if self.photo is None and not given:
            raise ValueError("photo and keypoints: give at least one of them")
        for name in ("boxes", "box", "detector", "crops", "crop_margin"):
            if getattr(self, name) is not None and self.photo is None:
                raise ValueError(f"{name}: needs photo")
        for name in ("joint_set", "select"):
            if getattr(self, name) is not None and self.keypoints is None:
                raise ValueError(f"{name}: says what to read of keypoints, and there are none")
        for name in ("detector_weights", "pose_weights"):
            if getattr(self, name) is not None and self.detector is None:
                raise ValueError(f"{name}: needs detector")
        if self.box is not None and is_video(self.photo):
            raise ValueError(f"box: is one of a single picture, and {self.photo} is a video: give boxes")
        self._check_group()
        self._camera  # noqa: B018  checks what is said of the camera

    def _check_numbers(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence: must lie in 0..1, not {self.min_confidence}")
        if not 0 < self.box_scale < math.inf:
            raise ValueError(f"box_scale: must be above 0, not {self.box_scale}")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError(f"box: must be left, top, right, bottom of some area, not {list(self.box)}")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"fps: must be above 0, not {self.fps}")
        if self.min_frames < 1 or (self.max_gap is not None and self.max_gap < 0):
            raise ValueError(
                f"min_frames and max_gap: must be at least 1 and 0, not {self.min_frames} and {self.max_gap}"
            )
        if self.crops is not None and self.crops < 1:
            raise ValueError(f"crops: must be at least 1 px, got {self.crops}")
        if self.crop_margin is not None and not 1 <= self.crop_margin < math.inf:
            raise ValueError(f"crop_margin: must be at least 1, the box itself, got {self.crop_margin}")
        if self.image_size is not None and min(self.image_size) <= 0:
            raise ValueError(f"image_size: must be width and height above 0 px, not {self.image_size}")

    def _check_group(self) -> None:
        if self.group not in (None, *get_args(Group)):
            raise ValueError(f"group: {self.group!r} is unknown, valid are {', '.join(get_args(Group))}")
        group = self._group
        if group != "video" and (wrong := [name for name, plain in _OF_VIDEO.items() if getattr(self, name) != plain]):
            raise ValueError(f"{' and '.join(wrong)}: of group 'video', not of {group!r}")
        if group == "views" and is_video(self.photo):
            raise ValueError(f"group: the frames of one video, {self.photo}, are no views of one instant")
        if self.cameras is not None and group != "views":
            raise ValueError(f"cameras: calibrated cameras go with group 'views', not with {group!r}")
        if self.cameras is not None and self._camera != CameraChoice():
            raise ValueError("cameras: hold focal lengths and centers; leave out the other camera arguments")

    @property
    def _group(self) -> Group:
        return self.group or ("video" if is_video(self.photo) else "people")

    @property
    def _camera(self) -> CameraChoice:
        return CameraChoice(
            self.intrinsics, self.focal_length, self.field_of_view, self.center, self.assumed_focal_length
        )

    def dataset(
        self, joint_set: str, copies_only: bool = False, needs: Needs = "keypoints", fill_gaps: bool = False
    ) -> PredictDataset:
        """The people in the method's joint set, in the order that the grouping asks for.

        Args:
            joint_set: Name of the method's joint set.
            copies_only: Leaves joints that would be constructed from others without a keypoint.
            needs: "keypoints" of people; or "people" in pictures, with raw crops around them, whether keypoints are
                known or not.
            fill_gaps: Gives a track of a "video" that was asked for by ``group`` a row for every frame in which it is
                not seen.

        Raises:
            FileNotFoundError: If there is no such file or photograph.
            ImportError: If a package for a video or the detector is not there.
            ValueError: If what the method needs is not given, a file cannot be read, two of them contradict each other,
                an image size is unknown, or nobody is left.
        """
        self._check_needs(needs)
        has_crops = needs == "people" or self.crops is not None
        video = VideoFrames(self.photo) if self.photo is not None and is_video(self.photo) else None
        found = self._found(joint_set, has_crops, video)
        placed = self._placed(found.people, video)
        people, boxes = placed.people, found.boxes
        if boxes is not None:
            boxes = boxes_inside(boxes[placed.kept], people)
        people, notes = self._tracked(people, boxes)
        views = None if self.cameras is None else read_cameras(self.cameras)
        rows = rows_as_they_are(people)
        if self._group == "views":
            rows = rows_by_instant(people, views)
        if self._group == "video":
            fill = fill_gaps and not has_crops and self.group is not None
            rows = rows_by_track(people, self.min_frames, self.max_gap, fill)
        source = torch.tensor(rows.source)
        # Somebody who is not seen in a frame of a video is in its picture all the same.
        photos = [
            placed.photos[row] if known or video is not None else None
            for row, known in zip(rows.source, rows.known, strict=True)
        ]
        if views is None:
            cameras = self._camera.of_rows(people, placed.photos if video is None else [None] * len(people))
            cameras = replace(cameras, K=cameras.K[source], image_sizes=cameras.image_sizes[source])
            people = arranged(people, rows)
        else:
            people = arranged(people, rows)
            cameras = cameras_of_views(people, views, rows.view)
        people = replace(people, image_sizes=cameras.image_sizes)
        grouping: PoseSample = {"clip": list(rows.clip), "view": torch.tensor(rows.view)}
        if views is not None:
            grouping["R_world_to_cam"] = views.R_world_to_cam[list(rows.view)].to(people.keypoints)
            grouping["t_world_to_cam"] = views.t_world_to_cam[list(rows.view)].to(people.keypoints)
        fps, fps_notes = self._frame_rate(video)
        return PredictDataset(
            joint_set,
            people,
            cameras,
            grouping,
            photos,
            (*found.notes, *placed.notes, *(video.notes if video else ()), *notes, *rows.notes, *fps_notes),
            (*people.skipped_files, *placed.skipped),
            self._source(people, cameras, fps),
            fps,
            copies_only,
            self._crops(people, None if boxes is None else boxes[source], photos, needs) if has_crops else None,
        )

    def _check_needs(self, needs: Needs) -> None:
        """Raises where the method cannot work with what is given."""
        if needs == "people" and self.photo is None:
            raise ValueError(NO_PHOTO)
        if needs == "keypoints" and self.keypoints is None and self.detector is None:
            raise ValueError(NO_KEYPOINTS)
        if needs == "keypoints" and self.crop_margin is not None and self.crops is None:
            raise ValueError(f"crop_margin: needs crops, got {self.crop_margin} of None")

    def _found(self, joint_set: str, has_crops: bool, video: VideoFrames | None) -> FoundPeople:
        """The people as they are given, and boxes where these are what is given."""
        if self.boxes is not None:
            return people_of_boxes(self.boxes, self.min_confidence, joint_set)
        if self.keypoints is None and self.detector is None:
            return self._one_in_every_picture(joint_set, video)
        if self.keypoints is not None:
            people = read_keypoints(self.keypoints, self.joint_set, self.image_size, self.select)
        else:
            people = self._detected(video)
        people, notes = confident_people(people, str(self._origin), self.min_confidence, has_crops)
        return FoundPeople(people, None, (people.statement, *notes))

    def _one_in_every_picture(self, joint_set: str, video: VideoFrames | None) -> FoundPeople:
        assert self.photo is not None
        if video is not None:
            return person_of_picture([self.photo.name] * len(video), range(len(video)), None, joint_set)
        if self.photo.is_dir() and self.box is not None:
            raise ValueError(f"box: is one of a single picture, and {self.photo} is a folder: give boxes")
        names = pictures_of_folder(self.photo) if self.photo.is_dir() else [self.photo.name]
        return person_of_picture(names, frames_of_pictures(names), self.box, joint_set)

    def _detected(self, video: VideoFrames | None) -> KeypointPeople:
        """The people that the detector finds."""
        assert self.photo is not None
        pictures: Any = [self.photo]
        if video is not None:
            pictures = video
        elif self.photo.is_dir():
            pictures = [self.photo / name for name in pictures_of_folder(self.photo)]
        elif not self.photo.is_file():
            raise FileNotFoundError(f"photo: there is no picture {self.photo}")
        shown = tqdm(pictures, "finding people", len(pictures), leave=False, disable=len(pictures) == 1)
        return detect_people(shown, detector_weights=self.detector_weights, pose_weights=self.pose_weights)

    @property
    def _origin(self) -> Path:
        """Where the people come from, for messages."""
        origin = self.keypoints or self.boxes or self.photo
        assert origin is not None
        return origin

    def _placed(self, people: KeypointPeople, video: VideoFrames | None) -> Placed:
        """The people in their pictures."""
        if self._group == "video" and (self.boxes or self.detector) and all(people.image_names):
            people = replace(people, frames=frames_of_pictures(people.image_names))
        if self.photo is None:
            return Placed(people, [None] * len(people), (), (), torch.arange(len(people)))
        if video is not None:
            return with_video(people, video.path, len(video), video.size, self._origin)
        return with_photos(people, self.photo, self._origin)

    def _tracked(self, people: KeypointPeople, boxes: Tensor | None) -> tuple[KeypointPeople, tuple[str, ...]]:
        """The people of a "video" with ids that are tracks, and whether these were made."""
        places = set(zip(people.ids, people.frames, strict=True))
        are_tracks = people.tracked and len(places) == len(people)
        if self._group != "video" or (are_tracks if self.track is None else not self.track):
            return people, ()
        shown = people
        if boxes is not None:  # Two corners of a box say where somebody is as keypoints do.
            shown = replace(people, keypoints=boxes.reshape(-1, 2, 2), confidence=torch.ones(len(people), 2))
        tracked = track_people(shown, _TRACK_GAP if self.max_gap is None else self.max_gap, min_frames=1)
        count = len(set(tracked.ids))
        people = replace(people, ids=tracked.ids, tracked=True)
        return people, (f"people of {self._origin.name} followed from frame to frame: {count} tracks",)

    def _frame_rate(self, video: VideoFrames | None) -> tuple[float | None, tuple[str, ...]]:
        """Frames per second of a "video", and whether they are assumed."""
        if self._group != "video":
            return None, ()
        known = self.fps or (video.fps if video is not None else None)
        return known or _FPS, () if known else (f"frames per second assumed: {_FPS:g}",)

    def _crops(
        self, people: KeypointPeople, boxes: Float[Tensor, "rows 4"] | None, photos: Sequence[Path | None], needs: Needs
    ) -> PersonCrops:
        """What reads the rows' crops."""
        if boxes is None:
            middle, side = box_of_keypoints(people.keypoints, people.confidence, self.box_scale)
        else:
            middle, side = square(boxes, self.box_scale if self.boxes or self.box else 1.0)
        pictures = [photo for photo in photos if photo is not None]
        size = self.crops or _CROP
        margin = self.crop_margin or (CROP_MARGIN if needs == "people" else None)
        if is_video(self.photo):
            return VideoCrops(pictures, middle, side, size, margin, frames=people.frames)
        return PersonCrops(pictures, middle, side, size, margin)

    def _source(self, people: KeypointPeople, cameras: RowCameras, fps: float | None) -> dict[str, Any]:
        """What was given and recognised, JSON values."""
        given: dict[str, Any] = {name: str(path) for name in _PATHS if (path := getattr(self, name)) is not None}
        if self.box is not None:
            given["box"] = list(self.box)
        if self.detector is not None:
            given["detector"] = self.detector
        if self.keypoints is not None or self.detector is not None:
            given |= {"recognised": people.statement, "joint_set": people.joint_set.name}
            given["min_confidence"] = self.min_confidence
        given |= {"box_scale": self.box_scale, "group": self._group, "camera": cameras.statement}
        return given if fps is None else given | {"fps": fps}
