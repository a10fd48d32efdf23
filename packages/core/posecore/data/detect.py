"""2D keypoints of the people in pictures or in a video, found by rtmlib's networks (ONNX; the extra ``detect``).

A YOLOX network finds people, an RTMPose network their joints. rtmlib gets both from the network at first use and keeps
them in its cache; where that cannot be, weights may be given as files, or keypoints may come from any other program.
"""

import contextlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from posecore.data.crops import read_picture
from posecore.data.keypoint_rows import DETECTOR_SETS, SetByCount
from posecore.data.keypoints import KeypointPeople

MODES = ("lightweight", "balanced", "performance")

_INSTEAD = (
    "give detector_weights and pose_weights (ONNX files), or keypoints from a file: any detector's, see "
    "posecore.data.keypoints"
)


def detect_people(
    frames: Iterable[UInt8[np.ndarray, "height width 3"] | Path],
    mode: str = "balanced",
    detector_weights: Path | None = None,
    pose_weights: Path | None = None,
) -> KeypointPeople:
    """Finds people and their joints, picture by picture, one in memory at a time.

    Rows are those of one picture after another, with the pictures' numbers as frames; ids are numbers within a picture
    and not tracks (:func:`posecore.data.tracking.track_people` makes them). A file that cannot be read is left out and
    named in ``skipped_files``.

    Args:
        frames: Pictures, sRGB, or their files; a :class:`posecore.data.video_frames.VideoFrames` is such pictures.
        mode: Which of rtmlib's networks for Halpe's 26 joints: "lightweight", "balanced" or "performance".
        detector_weights: A YOLOX network that finds people only (ONNX); None takes rtmlib's.
        pose_weights: An RTMPose network (ONNX, SimCC) for 17, 26, 133 or 136 joints; None takes rtmlib's.

    Raises:
        FileNotFoundError: If there is no such file of weights.
        ImportError: If rtmlib or onnxruntime is not installed.
        OSError: If rtmlib cannot get its weights.
        ValueError: If ``mode`` is unknown, weights are not such a network, or nobody is found.
    """
    if mode not in MODES:
        raise ValueError(f"mode: {mode!r} is unknown, valid are {', '.join(MODES)}")
    for name, weights in (("detector_weights", detector_weights), ("pose_weights", pose_weights)):
        if weights is not None and not weights.is_file():
            raise FileNotFoundError(f"{name}: there is no file {weights}")
    find_boxes, find_joints = _networks(mode, detector_weights, pose_weights)
    chosen = SetByCount(pose_weights or Path("rtmlib"), None, DETECTOR_SETS)
    found: list[np.ndarray] = []
    labels: list[tuple[int, int, str, tuple[int, int]]] = []
    skipped: list[tuple[str, str]] = []
    count = 0
    for number, frame in enumerate(frames):
        count += 1
        name = ""
        if isinstance(frame, Path):
            name = frame.name
            try:
                frame = read_picture(frame)
            except (OSError, ValueError) as error:
                skipped.append((name, str(error)))
                continue
        picture = np.ascontiguousarray(frame[..., ::-1])  # rtmlib's networks want blue first.
        boxes = np.asarray(find_boxes(picture)).reshape(-1, 4)
        if not len(boxes):  # rtmlib would take the whole picture for a person.
            continue
        points, scores = find_joints(picture, bboxes=boxes)
        values = chosen.leading(f"picture {number}", np.concatenate([points, scores[..., None]], axis=-1))
        found += [_seen(person) for person in values]
        labels += [(number, person, name, (frame.shape[1], frame.shape[0])) for person in range(len(values))]
    if count and len(skipped) == count:
        raise ValueError(f"none of {count} pictures can be read: {skipped[0][1]}")
    rows = [row for row, person in enumerate(found) if bool((person[:, 2] > 0).any())]
    if chosen.joint_set is None or not rows:
        raise ValueError(f"nobody was found in {count} pictures")
    joints = torch.from_numpy(np.stack([found[row] for row in rows])).to(torch.get_default_dtype())
    of = [labels[row] for row in rows]
    return KeypointPeople(
        joint_set=chosen.joint_set,
        keypoints=joints[..., :2].contiguous(),
        confidence=joints[..., 2].clamp(0.0, 1.0),
        image_sizes=torch.tensor([size for _, _, _, size in of], dtype=joints.dtype),
        ids=tuple(str(person) for _, person, _, _ in of),
        frames=tuple(number for number, _, _, _ in of),
        image_names=tuple(name for _, _, name, _ in of),
        num_skipped=len(found) - len(rows),
        statement=_statement(mode, detector_weights, pose_weights, count, chosen, skipped),
        skipped_files=tuple(skipped),
    )


def _seen(person: Float[np.ndarray, "joints 3"]) -> Float[np.ndarray, "joints 3"]:
    """A joint without a score has a place that says nothing."""
    is_seen = np.isfinite(person).all(axis=-1, keepdims=True) & (person[:, 2:] > 0)
    return np.where(is_seen, person, 0.0)


def _statement(
    mode: str,
    detector_weights: Path | None,
    pose_weights: Path | None,
    count: int,
    chosen: SetByCount,
    skipped: list[tuple[str, str]],
) -> str:
    from rtmlib.version import __version__

    networks = [f"rtmlib's {mode}" if weights is None else weights.name for weights in (detector_weights, pose_weights)]
    said = (
        f"2D keypoints found by rtmlib {__version__} in {count} pictures (people by {networks[0]}, joints by "
        f"{networks[1]}); joint set {chosen.joint_set.name if chosen.joint_set else 'none'}, {chosen.reason}"
    )
    return f"{said}; {len(skipped)} files could not be read and were left out" if skipped else said


def _networks(mode: str, detector_weights: Path | None, pose_weights: Path | None) -> tuple[Any, Any]:
    """What finds boxes, and what finds joints in boxes."""
    try:
        import onnxruntime  # noqa: F401  rtmlib imports it when it is too late for a clear message.
        from rtmlib import YOLOX, BodyWithFeet, RTMPose
    except ImportError as error:
        raise ImportError(
            f'finding people needs rtmlib and onnxruntime ({error}): pip install "humandiff[detect]"; {_INSTEAD}'
        ) from error
    known = BodyWithFeet.MODE[mode]
    detector = _network("detector_weights", YOLOX, detector_weights, known["det"], known["det_input_size"])
    pose = _network("pose_weights", RTMPose, pose_weights, known["pose"], known["pose_input_size"])
    if len(pose.session.get_outputs()) != 2:
        raise ValueError(
            f"pose_weights: {pose.onnx_model} has {len(pose.session.get_outputs())} outputs; RTMPose (SimCC) has two, "
            "for x and y"
        )
    height, width = _input_size(detector, known["det_input_size"])
    detector.model_input_size = (height, width)
    height, width = _input_size(pose, known["pose_input_size"][::-1])
    pose.model_input_size = (width, height)
    return detector, pose


def _network(argument: str, kind: Any, weights: Path | None, address: str, size: tuple[int, int]) -> Any:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # It says what it loads.
            return kind(str(weights or address), model_input_size=size, backend="onnxruntime", device="cpu")
    except Exception as error:  # Of many kinds: onnxruntime's are RuntimeErrors and its own.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if weights is not None:
            raise ValueError(f"{argument}: {weights} is no ONNX network that can be read ({reason})") from error
        raise OSError(f"rtmlib's weights {address.rsplit('/', 1)[-1]} cannot be had ({reason}): {_INSTEAD}") from error


def _input_size(network: Any, default: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the pictures that a network wants; the default where it takes any."""
    shape = network.session.get_inputs()[0].shape
    height, width = shape[2:] if len(shape) == 4 else (None, None)
    return (height, width) if isinstance(height, int) and isinstance(width, int) else default
