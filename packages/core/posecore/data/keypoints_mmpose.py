"""2D keypoints of MMPose: of its demos (``results_*.json``) and of ``MMPoseInferencer``.

| content | what it is |
|---|---|
| ``{meta_info, instance_info: [{frame_id, instances}]}`` | a demo's video |
| ``{meta_info, instance_info: [instance, ...]}`` | a demo's picture |
| ``[{frame_id, instances}]`` | the inferencer's video |
| ``[instance, ...]`` | the inferencer's picture, one file each |

An instance is ``{keypoints: [[x, y], ...], keypoint_scores: [c, ...]}``, and may have ``track_id``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from posecore.data.keypoint_rows import (
    DETECTOR_SETS,
    KeypointFile,
    KeypointRow,
    SetByCount,
    bare,
    finite_numbers,
    is_list_of,
)

# Where the number of joints does not tell, or would mislead; meta_info says which data set the network was trained for.
_SETS_OF_DATASETS = {"h36m": {17: "h36m17"}, "mpii": {16: "mpii16"}}


def is_mmpose(content: Any) -> bool:
    """Whether this JSON is MMPose's."""
    if isinstance(content, dict):
        content = content.get("instance_info")
    elif content == []:
        return False
    return is_list_of(content, "keypoints", "keypoint_scores") or is_list_of(content, "frame_id", "instances")


def read_mmpose(path: Path, content: Any, joint_set: str | None) -> KeypointFile:
    """People of a picture or a video.

    Raises:
        ValueError: If a person's keypoints are not what they must be.
    """
    trained_for = ""
    if isinstance(content, dict):
        meta = content.get("meta_info")
        trained_for = str(meta.get("dataset_name", "")) if isinstance(meta, dict) else ""
        content = content["instance_info"]
    chosen = SetByCount(path, joint_set, _SETS_OF_DATASETS.get(trained_for, DETECTOR_SETS))
    said = "MMPose picture"
    rows: list[KeypointRow] = []
    if is_video := bool(content) and is_list_of(content, "frame_id", "instances"):
        said = f"MMPose video, frames {content[0]['frame_id']} to {content[-1]['frame_id']}"
        for entry in content:
            frame, instances = entry["frame_id"], entry["instances"]
            if not isinstance(frame, int) or not is_list_of(instances, "keypoints"):
                raise ValueError(
                    f"{path}: frame_id must be a whole number and instances a list of people with keypoints, not "
                    f"{frame!r} and {type(instances).__name__}"
                )
            rows.extend(instance_rows(instances, chosen, frame, ""))
    else:
        rows.extend(instance_rows(content, chosen, 0, ""))
    if trained_for:
        said += f", of a network trained for {trained_for}"
    tracked = is_video and all("track_id" in person for entry in content for person in entry["instances"])
    return KeypointFile(chosen.joint_set, rows, said, chosen.reason, tracked)


def instance_rows(
    instances: list[dict[str, Any]], chosen: SetByCount, frame: int, image_name: str
) -> Iterator[KeypointRow]:
    """The people of one picture.

    Raises:
        ValueError: If a person's keypoints are not what they must be.
    """
    for index, person in enumerate(instances):
        label = f"frame {frame}, instance {index}"
        points = finite_numbers(chosen.path, label, person["keypoints"])
        scores = finite_numbers(chosen.path, label, person.get("keypoint_scores"))
        if points.ndim != 2 or points.shape[1] != 2 or scores.shape != points.shape[:1]:
            raise ValueError(
                f"{chosen.path}: {label} has keypoints of shape {points.shape} and keypoint_scores of shape "
                f"{scores.shape}; (joints, 2) and (joints,) are expected"
            )
        values = chosen.leading(label, np.concatenate([points, scores[:, None]], axis=1))
        yield KeypointRow(values, str(bare(person.get("track_id", index))), frame, image_name)
