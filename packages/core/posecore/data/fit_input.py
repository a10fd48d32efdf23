"""What a fit to keypoints is given: people, views of one instant or a video, their cameras, and their photographs.

Calibrated cameras come as JSON::

    {"views": [{"name": "cam0",              (optional: the rows' id, image name or a folder in it)
                "K": [[fx, 0, cx], [0, fy, cy], [0, 0, 1]],        (pixels)
                "R": [[...], [...], [...]], "t": [x, y, z],        (x_cam = R x_world + t, metres)
                "image_size": [640, 480]}]}  (optional: width, height in pixels)
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.data.crops import PersonCrops, box_of_keypoints, with_boxes
from posecore.data.keypoint_dataset import KeypointDataset, KeypointInput
from posecore.data.keypoints import KeypointPeople, read_keypoints
from posecore.data.picture_sizes import picture_size
from posecore.data.sample import PoseSample

Group = Literal["people", "views", "video"]

_NOT_A_ROTATION = 1e-3  # Largest entry of R^T R - I that a calibration written with few digits leaves.
_MOST_ROWS = 1_000_000  # Half a day of video; more is a frame number that is none, such as a time stamp.
_PHOTO_SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


@dataclass(frozen=True)
class CalibratedViews:
    """Cameras that were calibrated together.

    Attributes:
        source: The file.
        names: One name per camera; empty where the file has none.
        K: Intrinsics, pixels.
        R_world_to_cam: Rotations.
        t_world_to_cam: Translations, metres.
        image_sizes: Widths and heights, pixels; None where the file does not say.
    """

    source: Path
    names: tuple[str, ...]
    K: Float[Tensor, "views 3 3"]
    R_world_to_cam: Float[Tensor, "views 3 3"]
    t_world_to_cam: Float[Tensor, "views 3"]
    image_sizes: Float[Tensor, "views 2"] | None = None

    def __len__(self) -> int:
        return len(self.K)


class FitDataset(KeypointDataset):
    """People of a keypoint file, grouped as a fit needs them. `FitInput` makes it.

    Keys: those of `KeypointDataset`, ``image_size`` always, ``view``; ``fps`` of a video; ``R_world_to_cam`` and
    ``t_world_to_cam`` with calibrated cameras; ``image`` with ``crops``, read when rows are asked for, and ``box`` with
    ``crop_margin``. Joints that the file's joint set does not have stay without a keypoint.

    Attributes:
        people: The rows' people, in the order of the rows.
        known: Whether a row has a keypoint; where not, its estimate has to come from its neighbours in time.
        photos: Photograph of each row; None where there is none.
        notes: What was left out or filled in, in sentences.
    """

    def __init__(
        self,
        people: KeypointPeople,
        joint_set: str,
        grouping: PoseSample,
        photos: Sequence[Path | None],
        notes: Sequence[str] = (),
        views: CalibratedViews | None = None,
        crops: int | None = None,
        crop_margin: float | None = None,
        **camera: Any,
    ) -> None:
        if views is not None:
            camera["K"] = views.K[0]
        super().__init__(people, joint_set, copies_only=True, **camera)
        samples = cast(PoseSample, {**self.samples, **grouping})
        if views is not None:
            row = samples["view"]
            samples["K"] = views.K[row].to(people.keypoints)
            samples["R_world_to_cam"] = views.R_world_to_cam[row].to(people.keypoints)
            samples["t_world_to_cam"] = views.t_world_to_cam[row].to(people.keypoints)
            self.camera_statement = f"{len(views)} calibrated cameras from {views.source.name}"
        self.samples = samples
        self.known = (samples["confidence"] > 0).any(dim=-1)
        self.photos = tuple(photos)
        self.notes = tuple(notes)
        if crops is not None:
            pictures = self._shown()
            center_px, box_size_px = box_of_keypoints(people.keypoints, people.confidence)
            images = PersonCrops(pictures, center_px, box_size_px, crops, crop_margin)
            self.images, self.samples = images, with_boxes(samples, images)

    def _shown(self) -> list[Path]:
        """Each row's photograph."""
        shown = [photo for photo in self.photos if photo is not None]
        if len(shown) < len(self.photos):
            row, missing = self.photos.index(None), len(self.photos) - len(shown)
            raise ValueError(
                f"crops: {missing} rows have no photograph to be cut from, {self.people.ids[row]!r} in frame "
                f"{self.people.frames[row]} among them; max_gap=0 leaves out the frames of a video without a keypoint"
            )
        return shown


@dataclass(frozen=True)
class FitInput(KeypointInput):
    """What `predict` of a fit is given: keypoints, what belongs together, cameras, and photographs if there are any.

    Attributes:
        keypoints: A keypoint file or folder (see :func:`posecore.data.keypoints.read_keypoints`).
        photo: The photograph the keypoints are in, or a folder of photographs that the rows name; they are shown, and
            their sizes are used where the file has none.
        focal_length: Known focal length in pixels.
        center: Known principal point (x, y) in pixels; the middle of the image where None.
        assumed_focal_length: Focal length in pixels to assume where none is known; the image's diagonal where None.
        image_size: Width and height in pixels, for files that do not state them.
        joint_set: Name of the file's joint set, where the number of joints does not tell it.
        select: Shell pattern on the rows' ids.
        group: What rows are: "people" that have nothing to do with each other; "views" of one person, those with the
            same frame number at one instant; "video" frames of people, whose ids are their tracks.
        cameras: Calibrated cameras of "views", a JSON file.
        min_confidence: Keypoints below it are taken as not seen; ScoreHMR's demo has 0.4.
        fps: Frames per second of a "video".
        min_frames: Tracks of a "video" with fewer frames that have a keypoint are left out; ScoreHMR's demo has 41.
        max_gap: A "video" track that is not seen for more frames than this is cut in two; None never cuts.
        crops: Side in pixels of crops of the photographs around people's keypoints, for features that look at them.
        crop_margin: Makes them raw crops of ``crop_margin`` times the boxes for `posecore.data.augment`; rows then have
            ``box`` too.

    Raises:
        ValueError: If a number is out of range, or cameras are given for what is not "views" or with a focal length,
            crops without photographs, or a margin without crops.
    """

    group: Group = "people"
    cameras: Path | None = None
    min_confidence: float = 0.0
    fps: float = 30.0
    min_frames: int = 1
    max_gap: int | None = None
    crops: int | None = None
    crop_margin: float | None = None

    def __post_init__(self) -> None:
        if self.group not in get_args(Group):
            raise ValueError(f"group: {self.group!r} is unknown, valid are {', '.join(get_args(Group))}")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence: must lie in 0..1, not {self.min_confidence}")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps: must be above 0, not {self.fps}")
        if self.min_frames < 1 or (self.max_gap is not None and self.max_gap < 0):
            raise ValueError(
                f"min_frames and max_gap: must be at least 1 and 0, not {self.min_frames} and {self.max_gap}"
            )
        if self.cameras is not None and self.group != "views":
            raise ValueError(f"cameras: calibrated cameras go with group 'views', not with {self.group!r}")
        if self.cameras is not None and (self.focal_length, self.center, self.assumed_focal_length) != (None,) * 3:
            raise ValueError("cameras: hold focal lengths and centers; leave out the other camera arguments")
        if self.crops is not None and (self.crops < 1 or self.photo is None):
            raise ValueError(f"crops: must be at least 1 px and needs photo, got {self.crops} with photo {self.photo}")
        if self.crop_margin is not None and (self.crops is None or not 1 <= self.crop_margin < math.inf):
            raise ValueError(f"crop_margin: must be at least 1 and needs crops, got {self.crop_margin} of {self.crops}")

    def dataset(self, joint_set: str) -> FitDataset:
        """The rows in the method's joint set, in the order that the grouping asks for.

        Raises:
            FileNotFoundError: If there is no such file or photograph.
            ValueError: If a file cannot be read, two of them contradict each other, an image size is unknown, or no
                row is left.
        """
        people = read_keypoints(self.keypoints, self.joint_set, self.image_size, self.select)
        people, notes = self._confident(people)
        photos: list[Path | None] = [None] * len(people)
        if self.photo is not None:
            people, photos[:] = with_photos(people, self.photo, self.keypoints)
        views = None if self.cameras is None else read_cameras(self.cameras)
        rows = _as_they_are(people)
        if self.group == "views":
            rows = _by_instant(people, views)
        if self.group == "video":
            rows = _by_track(people, self.min_frames, self.max_gap)
        people = _arranged(people, rows)
        if views is not None and views.image_sizes is not None:
            people = _with_sizes(people, views.image_sizes[list(rows.view)], views.source)
        if people.image_sizes is None:
            raise ValueError(f"{self.keypoints}: the image size is unknown: give image_size, or photo")
        grouping: PoseSample = {"clip": list(rows.clip), "view": torch.tensor(rows.view)}
        if self.group == "video":
            grouping["fps"] = torch.full((len(people),), self.fps)
        return FitDataset(
            people,
            joint_set,
            grouping,
            [photos[row] if known else None for row, known in zip(rows.source, rows.known, strict=True)],
            (*notes, *rows.notes),
            views,
            self.crops,
            self.crop_margin,
            focal_length=self.focal_length,
            center=self.center,
            assumed_focal_length=self.assumed_focal_length,
        )

    def _confident(self, people: KeypointPeople) -> tuple[KeypointPeople, list[str]]:
        """Keypoints below the least confidence are gone, and with them the rows that have no other."""
        seen = people.confidence >= self.min_confidence
        confidence = torch.where(seen, people.confidence, 0.0)
        keypoints = torch.where(seen[..., None], people.keypoints, 0.0)
        keep = (confidence > 0).any(dim=-1)
        if not bool(keep.any()):
            raise ValueError(
                f"min_confidence: no keypoint of {self.keypoints} has a confidence of {self.min_confidence}"
            )
        skipped = people.num_skipped + int((~keep).sum())
        people = replace(people, keypoints=keypoints, confidence=confidence, num_skipped=skipped)
        people = _arranged(people, _as_they_are(people, keep.nonzero()[:, 0].tolist()))
        return people, [f"{skipped} rows without a seen keypoint were left out"] if skipped else []


def with_photos(people: KeypointPeople, photo: Path, source: Path) -> tuple[KeypointPeople, list[Path]]:
    """Each row's photograph, whose sizes must be those of the people where they have any.

    Args:
        people: The rows.
        photo: One photograph, or a folder of those that the rows name, with or without .jpg or .png.
        source: What the people were read from, for messages.

    Raises:
        FileNotFoundError: If there is no such photograph.
        ValueError: If it is not an image, is of another size, or it is not clear which photograph a row is in.
    """
    if photo.is_dir():
        photos = [_in_folder(photo, name, source) for name in people.image_names]
    elif len(names := sorted({*people.image_names} - {""})) > 1:
        raise ValueError(
            f"photo: {photo} is one picture, but {source} speaks of {len(names)}, {names[0]!r} and "
            f"{names[1]!r} among them: give their folder"
        )
    else:
        photos = [photo] * len(people)
        people = replace(people, image_names=tuple(name or photo.name for name in people.image_names))
    size_of = {path: picture_size(path, "photo") for path in dict.fromkeys(photos)}
    sizes = people.keypoints.new_tensor([size_of[path] for path in photos])
    return _with_sizes(people, sizes, photo), photos


def _in_folder(folder: Path, name: str, source: Path) -> Path:
    if not name:
        raise ValueError(
            f"photo: {source} does not name the pictures of all people, so they cannot be found in {folder}"
        )
    relative = Path(name)
    if not relative.is_absolute() and ".." not in relative.parts:
        # Files of results have COCO's numbers, its pictures twelve digits.
        for stem in (name, name.zfill(12)) if name.isdecimal() else (name,):
            for suffix in _PHOTO_SUFFIXES:
                if (photo := folder / f"{stem}{suffix}").is_file():
                    return photo
    raise FileNotFoundError(f"photo: there is no picture {name!r} (nor with .jpg or .png) in the folder {folder}")


@dataclass(frozen=True)
class _Rows:
    """Rows of a dataset: which of the people each is, or, where nobody was seen, whose image size it takes."""

    source: Sequence[int]
    known: Sequence[bool]
    ids: Sequence[str]
    frame: Sequence[int]
    clip: Sequence[str]
    view: Sequence[int]
    notes: Sequence[str] = ()


def _as_they_are(people: KeypointPeople, rows: Sequence[int] | None = None) -> _Rows:
    rows = range(len(people)) if rows is None else rows
    ids = [people.ids[row] for row in rows]
    return _Rows(rows, [True] * len(rows), ids, [people.frames[row] for row in rows], ids, [0] * len(rows))


def _by_instant(people: KeypointPeople, views: CalibratedViews | None) -> _Rows:
    """Rows of the same frame together; with cameras, a row's view is the number of its camera."""
    instants: dict[int, list[int]] = {}
    for row in sorted(range(len(people)), key=lambda row: people.frames[row]):
        instants.setdefault(people.frames[row], []).append(row)
    if views is not None:
        _sort_by_camera(people, instants, views)
    plain = _as_they_are(people, [row for rows in instants.values() for row in rows])
    return replace(
        plain,
        clip=[f"instant {frame}" for frame in plain.frame],
        view=[view for rows in instants.values() for view in range(len(rows))],
    )


def _sort_by_camera(people: KeypointPeople, instants: dict[int, list[int]], views: CalibratedViews) -> None:
    """Sorts every instant's rows by camera: by name where any row has a camera's name, else as they are."""
    cameras_of = []
    for person, image in zip(people.ids, people.image_names, strict=True):
        labels = {person, image, PurePosixPath(image).stem, *PurePosixPath(image).parts}
        cameras_of.append([number for number, name in enumerate(views.names) if name in labels])
    named = any(cameras_of)
    for frame, rows in instants.items():
        if len(rows) != len(views):
            raise ValueError(
                f"{views.source}: has {len(views)} views, but instant {frame} has {len(rows)} rows with a seen keypoint"
            )
        if named:
            if sorted(number for row in rows for number in cameras_of[row]) != list(range(len(views))):
                labels_of = [people.image_names[row] or people.ids[row] for row in rows]
                raise ValueError(
                    f"{views.source}: instant {frame} has the rows {', '.join(labels_of)}; one of each view "
                    f"{', '.join(views.names)} is expected"
                )
            rows.sort(key=lambda row: cameras_of[row])


def _by_track(people: KeypointPeople, min_frames: int, max_gap: int | None) -> _Rows:
    """Rows sorted by track and frame, with a row for every frame in which a track is not seen."""
    tracks: dict[str, list[int]] = {}
    for row in sorted(range(len(people)), key=lambda row: people.frames[row]):
        tracks.setdefault(people.ids[row], []).append(row)
    kept: list[tuple[str, Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]] = []
    left_out = []
    for track in sorted(tracks, key=lambda name: (int(name) if name.isdecimal() else math.inf, name)):
        rows = np.array(tracks[track])
        frames = np.array([people.frames[row] for row in rows])
        step = np.diff(frames)
        if not step.all():
            raise ValueError(f"group: track {track!r} has frame {frames[:-1][step == 0][0]} twice; ids must be tracks")
        cuts: list[int] = [] if max_gap is None else (np.flatnonzero(step - 1 > max_gap) + 1).tolist()
        for number, part in enumerate(np.split(np.arange(len(rows)), cuts), start=1):
            name = f"{track} part {number}" if len(cuts) else track
            if len(part) < min_frames:
                left_out.append(name)
            else:
                kept.append((name, rows[part], frames[part]))
    if not kept:
        raise ValueError(f"min_frames: none of {len(left_out)} tracks has {min_frames} frames with a seen keypoint")
    count = sum(int(frames[-1] - frames[0]) + 1 for _, _, frames in kept)
    if count > _MOST_ROWS:
        raise ValueError(f"max_gap: with the frames between, tracks would have {count} rows; cut them at long gaps")

    source, known, frame, ids = [], [], [], []
    for name, rows, frames in kept:
        all_frames = np.arange(frames[0], frames[-1] + 1)
        latest = np.searchsorted(frames, all_frames, side="right") - 1
        source += rows[latest].tolist()
        known += (frames[latest] == all_frames).tolist()
        frame += all_frames.tolist()
        ids += [name] * len(all_frames)
    notes = []
    if left_out:
        shown = ", ".join(left_out[:5]) + (" and others" if len(left_out) > 5 else "")
        notes.append(f"{len(left_out)} tracks with fewer than {min_frames} frames were left out: {shown}")
    if missing := len(known) - sum(known):
        notes.append(f"{missing} frames without a keypoint lie within tracks")
    return _Rows(source, known, ids, frame, ids, [0] * len(ids), notes)


def _arranged(people: KeypointPeople, rows: _Rows) -> KeypointPeople:
    """The people in this order; a row that is not known has no keypoint and no image name."""
    source, known = torch.tensor(rows.source), torch.tensor(rows.known)
    return replace(
        people,
        keypoints=torch.where(known[:, None, None], people.keypoints[source], 0.0),
        confidence=torch.where(known[:, None], people.confidence[source], 0.0),
        image_sizes=None if people.image_sizes is None else people.image_sizes[source],
        ids=tuple(rows.ids),
        frames=tuple(rows.frame),
        image_names=tuple(
            people.image_names[row] if seen else "" for row, seen in zip(rows.source, rows.known, strict=True)
        ),
    )


def _with_sizes(people: KeypointPeople, sizes: Float[Tensor, "people 2"], source: Path) -> KeypointPeople:
    """The people with image sizes from another file, which must not contradict those they have."""
    sizes = sizes.to(people.keypoints)
    if people.image_sizes is not None and bool((wrong := (people.image_sizes != sizes).any(dim=-1)).any()):
        row = int(wrong.nonzero()[0, 0])
        found, stated = ([int(side) for side in size[row].tolist()] for size in (sizes, people.image_sizes))
        raise ValueError(
            f"{source}: the image of person {people.ids[row]!r}, frame {people.frames[row]}, has {found[0]} x "
            f"{found[1]} pixels, but the keypoints speak of {stated[0]} x {stated[1]}: are they of another picture?"
        )
    return replace(people, image_sizes=sizes)


def read_cameras(path: Path) -> CalibratedViews:
    """Reads calibrated cameras (JSON, see the module's docstring).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, a matrix is not what it must be, or only some views have a name or size.
    """
    if not path.is_file():
        raise FileNotFoundError(f"cameras: there is no file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error
    entries = content.get("views") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f'{path}: expected {{"views": [{{"K": ..., "R": ..., "t": ...}}, ...]}}')
    for key in ("name", "image_size"):
        if len({entry.get(key) is None for entry in entries}) > 1:
            raise ValueError(f"{path}: only some of the {len(entries)} views have {key}; give it for all or none")
    names = tuple(str(entry["name"]) for entry in entries if entry.get("name") is not None)
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: names of views must differ, got {', '.join(names)}")
    columns: dict[str, list[np.ndarray]] = {"K": [], "R": [], "t": [], "image_size": []}
    for number, entry in enumerate(entries):
        label = f"{path}: views[{number}]" + (f" ({names[number]})" if names else "")
        for key, shape in (("K", (3, 3)), ("R", (3, 3)), ("t", (3,)), ("image_size", (2,))):
            if key != "image_size" or entry.get(key) is not None:
                columns[key].append(_matrix(label, key, entry.get(key), shape))
    K, R, t = (torch.from_numpy(np.stack(columns[key])) for key in ("K", "R", "t"))
    sizes = torch.from_numpy(np.stack(columns["image_size"])) if columns["image_size"] else None
    return CalibratedViews(path, names, K, R, t, sizes)


def _matrix(label: str, key: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        matrix = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.shape != shape or not np.isfinite(matrix).all():
        raise ValueError(f"{label}: {key} must be {' x '.join(map(str, shape))} finite numbers, not {value!r}")
    if key == "K" and (min(matrix[0, 0], matrix[1, 1]) <= 0 or matrix[1, 0] or matrix[2].tolist() != [0, 0, 1]):
        raise ValueError(f"{label}: K must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx, fy above 0, not {value}")
    if key == "R" and (np.abs(matrix.T @ matrix - np.eye(3)).max() > _NOT_A_ROTATION or np.linalg.det(matrix) < 0):
        raise ValueError(f"{label}: R must be a rotation (orthonormal, determinant +1), not {value}")
    if key == "image_size" and matrix.min() <= 0:
        raise ValueError(f"{label}: image_size must be width and height above 0 px, not {value}")
    return matrix
