"""What `predict` works on: people with keypoints or boxes, their cameras, and the pictures they are in."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.joint_maps import joint_map
from posecore.body.skeletons import JointSet, get_joint_set
from posecore.data.base import PoseTable
from posecore.data.crops import PersonCrops, read_picture, with_boxes
from posecore.data.keypoints import KeypointPeople
from posecore.data.predict_cameras import RowCameras
from posecore.data.predict_pictures import Picture, is_video, pictures_of_rows
from posecore.data.sample import PoseSample
from posecore.data.video_crops import read_frame


class PredictDataset(PoseTable):
    """People, one row per person and picture, grouped as `PredictInput` says, which makes it.

    Keys: ``joints_2d_px confidence K image_size clip frame view row``; ``fps`` of a video; ``R_world_to_cam`` and
    ``t_world_to_cam`` with calibrated cameras; with crops ``image``, read when rows are asked for, and ``box`` where
    they are raw ones. A joint that the people's joint set cannot give, or that was not seen, has confidence 0 and pixel
    (0, 0).

    Attributes:
        people: The rows' people, in the order of the rows; those known by boxes have keypoints of confidence 0.
        known: Whether a row has a keypoint; of a fit's video, the estimate of the others comes from their neighbours.
        photos: Photograph of each row, or the video; None where there is none.
        notes: What was recognised, left out, filled in or assumed, in sentences; to be printed.
        skipped: Name of each picture or file that was left out, and the reason.
        source: What was given and recognised, JSON values; results hold it.
        camera_statement: Where the cameras come from, in words.
        camera_assumed: Whether a focal length is an assumption.
        fps: Frames per second of a video's rows; None where rows are no video.

    Args:
        joint_set: Name of the joint set of the samples.
        people: As the attribute.
        cameras: Of the rows.
        grouping: ``clip``, ``view`` and whatever else samples have beside keypoints and cameras.
        photos: As the attribute.
        notes: As the attribute.
        skipped: As the attribute.
        source: As the attribute.
        fps: As the attribute.
        copies_only: Leaves joints that would be constructed from others without a keypoint (see
            :func:`posecore.body.joint_maps.joint_map`).
        crops: Reads the rows' crops.

    Raises:
        ValueError: If keypoints were seen, but nothing of them maps to ``joint_set``.
    """

    def __init__(
        self,
        joint_set: str,
        people: KeypointPeople,
        cameras: RowCameras,
        grouping: PoseSample,
        photos: Sequence[Path | None],
        notes: Sequence[str] = (),
        skipped: Sequence[tuple[str, str]] = (),
        source: Mapping[str, Any] | None = None,
        fps: float | None = None,
        copies_only: bool = False,
        crops: PersonCrops | None = None,
    ) -> None:
        target = get_joint_set(joint_set)
        keypoints, confidence = _mapped(people, target, copies_only)
        samples: PoseSample = {
            "joints_2d_px": keypoints,
            "confidence": confidence,
            "K": cameras.K,
            "image_size": cameras.image_sizes,
            "frame": torch.tensor(people.frames),
            "row": torch.arange(len(people)),
        }
        if fps is not None:
            samples["fps"] = torch.full((len(people),), fps)
        super().__init__(target, with_boxes(cast(PoseSample, {**samples, **grouping}), crops), crops)
        self.people = people
        self.known = (confidence > 0).any(dim=-1)
        self.photos = tuple(photos)
        self.notes = tuple(notes)
        self.skipped = tuple(skipped)
        self.source = dict(source or {})
        self.camera_statement = cameras.statement
        self.camera_assumed = cameras.assumed
        self.fps = fps

    @property
    def is_video(self) -> bool:
        """Whether the rows are tracks of a video, so that frames follow each other."""
        return self.fps is not None

    def pictures(self) -> Iterator[Picture]:
        """Name, rows and reader of every picture in which somebody is: in the order of rows; frames in their order.

        ``read()`` gives "height width 3" uint8, sRGB. Frames of a video are decoded as they are asked for, one at a
        time; asked for in order, each is decoded once. Rows without a photograph are in no picture.
        """
        of_video = any(is_video(photo) for photo in self.photos)
        frames = self.people.frames if of_video else None
        yield from pictures_of_rows(self.photos, frames, read_frame if of_video else lambda path, _: read_picture(path))


def _mapped(
    people: KeypointPeople, target: JointSet, copies_only: bool
) -> tuple[Float[Tensor, "people joints 2"], Float[Tensor, "people joints"]]:
    mapping = joint_map(people.joint_set, target, copies_only)
    confidence = mapping.apply_confidence(people.confidence)
    # People who were found as boxes have no keypoint at all.
    if bool((people.confidence > 0).any()) and not bool((confidence > 0).any()):
        raise ValueError(f"no joint seen in {people.joint_set.name} keypoints gives a joint of {target.name}")
    return torch.where(confidence[..., None] > 0, mapping.apply(people.keypoints), 0.0), confidence
