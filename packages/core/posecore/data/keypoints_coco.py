"""2D keypoints of COCO annotations, and of the result lists of COCO, AlphaPose, ViTPose and rtmlib."""

from pathlib import Path
from typing import Any

from posecore.data.keypoint_rows import KeypointFile, KeypointRow, SetByCount, bare, checked_size, frames_of_names


def read_results(path: Path, items: list[dict[str, Any]], joint_set: str | None) -> KeypointFile:
    """COCO results and AlphaPose: a list of people, each with the image it belongs to.

    Raises:
        ValueError: If a person's keypoints are not what they must be.
    """
    chosen = SetByCount(path, joint_set)
    images = list(dict.fromkeys(str(item.get("image_id", "")) for item in items))
    # COCO numbers its pictures without any order in time; a name is text.
    named = all(isinstance(item.get("image_id"), str) for item in items)
    frames, numbering = frames_of_names(images) if named else (range(len(images)), "frames counted in their order")
    frame_of = dict(zip(images, frames, strict=True))
    rows = []
    for index, item in enumerate(items):
        image = str(item.get("image_id", ""))
        values = chosen.flat(f"entry {index}", item["keypoints"])
        rows.append(KeypointRow(values, str(bare(item.get("idx", index))), frame_of[image], image))
    tracked = bool(items) and all("idx" in item for item in items)
    kind = "AlphaPose results" if any("idx" in item or "box" in item for item in items) else "COCO results"
    return KeypointFile(chosen.joint_set, rows, f"{kind}, {numbering}", chosen.reason, tracked)


def read_annotations(path: Path, content: dict[str, Any], joint_set: str | None) -> KeypointFile:
    """COCO annotations; those without keypoints (boxes, masks) are passed over.

    Raises:
        ValueError: If a person's keypoints, or the size of an image, are not what they must be.
    """
    images = {image["id"]: image for image in content.get("images") or [] if isinstance(image, dict) and "id" in image}
    frame_of = {key: frame for frame, key in enumerate(images)}
    chosen = SetByCount(path, joint_set)
    rows = []
    annotations = [item for item in content["annotations"] if isinstance(item, dict) and "keypoints" in item]
    tracked = bool(annotations) and all("track_id" in item for item in annotations)  # PoseTrack has them
    for index, item in enumerate(annotations):
        name = str(item.get("id", index))
        values = chosen.flat(f"annotation {name}", item["keypoints"])
        image = images.get(item.get("image_id"), {})
        size = None
        if "width" in image or "height" in image:
            size = checked_size([image.get("width"), image.get("height")], f"{path}: image {image['id']}")
        frame = frame_of.get(item.get("image_id"), 0)
        image_name = str(image.get("file_name", item.get("image_id", "")))
        rows.append(KeypointRow(values, str(item["track_id"]) if tracked else name, frame, image_name, size))
    said = "COCO annotations, frames counted in the order of the images, visibility 1 and 2 taken as seen"
    return KeypointFile(chosen.joint_set, rows, said, chosen.reason, tracked)
