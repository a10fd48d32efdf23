"""The pictures of what `predict` is given: a photograph, a folder of them, or a video; those that cannot be read."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from posecore.data.keypoint_rows import frames_of_names
from posecore.data.keypoints import KeypointPeople
from posecore.data.picture_sizes import picture_size
from posecore.data.predict_rows import taken, with_sizes
from posecore.data.video_frames import VIDEO_SUFFIXES

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_NAMED_SUFFIXES = ("", *PHOTO_SUFFIXES, *(suffix.upper() for suffix in PHOTO_SUFFIXES))
_UNREAD_SUFFIXES = (".heic", ".heif")  # What telephones write and Pillow does not read.
_MANY = 100  # Pictures; below, checking them is a matter of a moment.


class Picture(NamedTuple):
    """One picture, and the rows that are in it."""

    name: str
    rows: tuple[int, ...]
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Placed:
    """People, and the photographs that they are in.

    Attributes:
        people: The rows that have a photograph, with its size.
        photos: Of each row; None where there is none.
        skipped: Name of each picture that is left out with its rows, and the reason.
        notes: What was left out, or taken for what, in sentences.
        kept: Which of the rows that were given are there still.
    """

    people: KeypointPeople
    photos: Sequence[Path | None]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    kept: Int[Tensor, " rows"]


def is_video(photo: Path | None) -> bool:
    """Whether a file's name is that of a video."""
    return photo is not None and photo.suffix.lower() in VIDEO_SUFFIXES and not photo.is_dir()


def pictures_of_folder(folder: Path) -> list[str]:
    """Names of the pictures in a folder, sorted.

    Raises:
        ValueError: If there is none.
    """
    known = (*PHOTO_SUFFIXES, *_UNREAD_SUFFIXES)
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in known)
    if not names:
        raise ValueError(f"photo: the folder {folder} holds no picture ({', '.join(PHOTO_SUFFIXES)})")
    return names


def checked_sizes(pictures: Sequence[Path]) -> dict[Path, tuple[int, int] | Exception]:
    """Width and height of each picture that can be read to its end, else what is wrong with it.

    JPEGs are decoded at an eighth of their size, so that a thousand take seconds.
    """
    distinct = list(dict.fromkeys(pictures))
    with ThreadPoolExecutor() as pool:
        found = pool.map(_checked_size, distinct)
        bar = tqdm(found, "checking pictures", len(distinct), leave=False, disable=len(distinct) <= _MANY)
        return dict(zip(distinct, bar, strict=True))


def _checked_size(path: Path) -> tuple[int, int] | Exception:
    try:
        if path.suffix.lower() in _UNREAD_SUFFIXES:
            raise ValueError(f"photo: {path} is no picture that can be read (save it as JPEG or PNG)")
        size = picture_size(path, "photo")
        with Image.open(path) as image:
            image.draft("RGB", (1, 1))
            image.load()
    except (FileNotFoundError, ValueError) as error:
        return error
    # PIL says SyntaxError of some broken files.
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        return ValueError(f"photo: {path} is no picture that can be read ({error})")
    return size


def with_photos(people: KeypointPeople, photo: Path, source: Path) -> Placed:
    """Finds each row's photograph, and leaves out the rows of those that are missing or cannot be read.

    Args:
        people: The rows.
        photo: One photograph, or a folder of those that the rows name, with or without their suffix. Of rows of
            several pictures, those of the one photograph are taken.
        source: What the people were read from, for messages.

    Raises:
        FileNotFoundError: If the one photograph, or every one of them, is missing.
        ValueError: If the one photograph, or every one of them, cannot be read, a size contradicts what the people
            have, or it is not clear which photograph a row is in.
    """
    if photo.is_dir():
        names = people.image_names
        if "" in names:
            raise ValueError(
                f"photo: {source} does not name the pictures of all people, so they cannot be found in {photo}"
            )
        places = {name: _in_folder(photo, name) for name in dict.fromkeys(names)}
        notes: tuple[str, ...] = ()
        chosen = list(range(len(people)))
    else:
        chosen, notes = _rows_of(photo, people.image_names, source)
        names = tuple(people.image_names[row] or photo.name for row in chosen)
        people = replace(taken(people, chosen), image_names=names)
        places = dict.fromkeys(names, photo)
    path_of = {name: place for name, place in places.items() if isinstance(place, Path)}
    sizes = checked_sizes(list(path_of.values()))
    found = {name: sizes[place] if isinstance(place, Path) else place for name, place in places.items()}
    wrong = {name: size for name, size in found.items() if isinstance(size, Exception)}
    if len(wrong) == len(found):
        raise next(iter(wrong.values()))
    keep = [row for row, name in enumerate(names) if name not in wrong]
    if wrong:
        notes += (f"{len(wrong)} pictures and the {len(names) - len(keep)} people in them were left out",)
        people = taken(people, keep)
    people = with_sizes(people, people.keypoints.new_tensor([found[name] for name in people.image_names]), photo)
    skipped = tuple((name, str(error).removeprefix("photo: ")) for name, error in wrong.items())
    photos = [path_of[name] for name in people.image_names]
    return Placed(people, photos, skipped, notes, torch.tensor(chosen)[keep])


def _in_folder(folder: Path, name: str) -> Path | FileNotFoundError:
    """The picture of this name, which may lack its suffix, or be a path on the machine that found the people."""
    relative = PurePosixPath(name)
    if relative.is_absolute():
        relative = PurePosixPath(relative.name)
    # Files of results have COCO's numbers, its pictures twelve digits.
    for stem in (name, name.zfill(12)) if name.isdecimal() else (str(relative),):
        for suffix in _NAMED_SUFFIXES:
            if ".." not in relative.parts and (photo := folder / f"{stem}{suffix}").is_file():
                return photo
    return FileNotFoundError(
        f"photo: there is no picture {name!r} (nor with {', '.join(PHOTO_SUFFIXES)}) in the folder {folder}"
    )


def _rows_of(photo: Path, image_names: Sequence[str], source: Path) -> tuple[list[int], tuple[str, ...]]:
    """The rows that are in one photograph, and what was taken for what."""
    pictures = sorted({*image_names} - {""})
    rows = [row for row, name in enumerate(image_names) if _names(name, photo)]
    if len(pictures) <= 1:  # People may call their picture as they like.
        is_other = len(pictures) == 1 and not _names(pictures[0], photo)
        note = f"{photo.name} is taken for the picture that {source} calls {pictures[0]}" if is_other else ""
        return list(range(len(image_names))), (note,) if note else ()
    if not rows:
        raise ValueError(
            f"photo: {photo} is one picture, but {source} speaks of {len(pictures)} others, {pictures[0]!r} and "
            f"{pictures[1]!r} among them: give their folder"
        )
    left_out = len(image_names) - len(rows)
    return rows, (f"{left_out} people in other pictures than {photo.name} were left out",) if left_out else ()


def _names(name: str, photo: Path) -> bool:
    """Whether a file's name of a picture is this picture's; a file may leave it out, or have COCO's number alone."""
    last = PurePosixPath(name).name
    return last in ("", photo.name, photo.stem) or (last.isdecimal() and last.zfill(12) == photo.stem)


def with_video(people: KeypointPeople, video: Path, num_frames: int, size: tuple[int, int], source: Path) -> Placed:
    """Finds each row's frame in a video.

    Frames count from 0; where the last one shows that a file counts from 1, that is taken off. Rows whose picture's
    name is a number are in the frame of that number, whatever their place in the file.

    Args:
        people: The rows.
        video: The file.
        num_frames: How many frames it has.
        size: Width and height of its frames.
        source: What the people were read from, for messages.

    Raises:
        ValueError: If the size contradicts what the people have, or a frame is not in the video.
    """
    notes = []
    if all(name.isdecimal() for name in people.image_names):
        people = replace(people, frames=tuple(int(name) for name in people.image_names))
    first, last = min(people.frames), max(people.frames)
    if last == num_frames and first >= 1:
        people = replace(people, frames=tuple(frame - 1 for frame in people.frames))
        notes.append(f"{source} counts frames from 1: its frame 1 is taken for the first of {video.name}")
    elif first < 0 or last >= num_frames:
        raise ValueError(
            f"photo: {video} has {num_frames} frames, but {source} speaks of frame {first if first < 0 else last} "
            "(from 0): are they of another video?"
        )
    sizes = people.keypoints.new_tensor(size).expand(len(people), 2)
    people = with_sizes(replace(people, image_names=(video.name,) * len(people)), sizes, video)
    return Placed(people, [video] * len(people), (), tuple(notes), torch.arange(len(people)))


def frames_of_pictures(image_names: Sequence[str]) -> tuple[int, ...]:
    """Frame numbers as pictures' names end with, or their order where these are no numbers of one sequence."""
    distinct = list(dict.fromkeys(image_names))
    frame_of = dict(zip(distinct, frames_of_names(distinct)[0], strict=True))
    return tuple(frame_of[name] for name in image_names)


def pictures_of_rows(
    photos: Sequence[Path | None],
    frames: Sequence[int] | None,
    read: Callable[[Path, int], np.ndarray],
) -> list[Picture]:
    """The distinct pictures of rows, in the order of the rows; of a video, in that of its frames.

    Args:
        photos: Each row's picture or video; None where there is none.
        frames: Each row's frame of its video; None where rows are in photographs.
        read: Reads a picture, or the frame of a video, when it is asked for.
    """
    rows_of: dict[tuple[Path, int], list[int]] = {}
    for row, photo in enumerate(photos):
        if photo is not None:
            rows_of.setdefault((photo, 0 if frames is None else frames[row]), []).append(row)
    places = sorted(rows_of) if frames is not None else list(rows_of)
    return [
        Picture(
            photo.name if frames is None else f"{photo.stem}_{frame:06d}",
            tuple(rows_of[photo, frame]),
            lambda photo=photo, frame=frame: read(photo, frame),  # type: ignore[misc]
        )
        for photo, frame in places
    ]
