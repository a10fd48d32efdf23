"""The real path through rtmlib and onnxruntime, with tiny networks that answer what a test wants."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from posecore.body.skeletons import COCO_17, HALPE_26
from posecore.data.detect import detect_people
from posecore.data.tracking import track_people
from posecore.data.video_frames import VideoFrames
from posecore.testing import write_video

onnx = pytest.importorskip("onnx", reason="makes the networks (pip install onnx)")
pytest.importorskip("rtmlib", reason='pip install "humandiff[detect]"; OpenCV needs libGL', exc_type=ImportError)

HEIGHT, WIDTH = 240, 320
DETECTOR_SIZE, POSE_HEIGHT, POSE_WIDTH = 64, 64, 48


def save(path: Path, nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> Path:
    helper = onnx.helper
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def tensor(name: str, *shape: object):
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def write_detector(path: Path, boxes_px: list[tuple[float, float, float, float]]) -> Path:
    """A YOLOX network with suppression inside: boxes and scores, for the picture shrunk to its input.

    It finds them only where the picture's corner is red and not blue: channels come blue first.
    """
    ratio = min(DETECTOR_SIZE / HEIGHT, DETECTOR_SIZE / WIDTH)
    rows = np.array([[*(ratio * value for value in box), 0.9] for box in boxes_px], np.float32)
    rows = np.concatenate([rows.reshape(-1, 5), np.array([[0, 0, 5, 5, 0.1]], np.float32)])[None]
    make = onnx.helper.make_node
    nodes = [
        make("Slice", ["picture", "from", "to", "axes"], ["corner"]),  # red, 1 pixel
        make("ReduceMax", ["corner"], ["red"], keepdims=0),
        make("Div", ["red", "white"], ["is_red"]),
        make("Mul", ["rows", "columns"], ["scores_only"]),
        make("Mul", ["scores_only", "is_red"], ["scores"]),
        make("Mul", ["rows", "others"], ["boxes"]),
        make("Add", ["boxes", "scores"], ["dets"]),
    ]
    columns = np.array([0, 0, 0, 0, 1], np.float32)
    constants = {
        "from": np.array([2, 0, 0]),
        "to": np.array([3, 1, 1]),
        "axes": np.array([1, 2, 3]),
        "white": np.array(255, np.float32),
        "rows": rows,
        "columns": columns,
        "others": 1 - columns,
    }
    picture = tensor("picture", 1, 3, DETECTOR_SIZE, DETECTOR_SIZE)
    return save(path, nodes, [picture], [tensor("dets", 1, len(rows[0]), 5)], constants)


def write_pose(path: Path, joints: int, unseen: int | None = None) -> tuple[Path, np.ndarray]:
    """A SimCC network that finds each joint at one place of its input; those places, 0..1 across and down."""
    places = np.random.default_rng(joints).integers(10, 80, (joints, 2))
    x, y = (np.zeros((1, joints, 2 * side), np.float32) for side in (POSE_WIDTH, POSE_HEIGHT))
    x[0, np.arange(joints), places[:, 0]] = 0.8
    y[0, np.arange(joints), places[:, 1]] = 0.6
    if unseen is not None:
        x[0, unseen] = y[0, unseen] = 0
    make = onnx.helper.make_node
    nodes = [make("ReduceMax", ["picture"], ["any"], keepdims=0), make("Mul", ["any", "zero"], ["nothing"])]
    nodes += [make("Add", [f"{axis}_places", "nothing"], [axis]) for axis in "xy"]
    constants = {"zero": np.array(0, np.float32), "x_places": x, "y_places": y}
    outputs = [tensor("x", *x.shape), tensor("y", *y.shape)]
    save(path, nodes, [tensor("picture", 1, 3, POSE_HEIGHT, POSE_WIDTH)], outputs, constants)
    return path, places / 2 / (POSE_WIDTH, POSE_HEIGHT)


def red() -> np.ndarray:
    return np.broadcast_to(np.array([255, 20, 10], np.uint8), (HEIGHT, WIDTH, 3)).copy()


def expected(box: tuple[float, float, float, float], places: np.ndarray) -> np.ndarray:
    """Where a network's places lie in the picture: its input shows a box of 1.25 times the size in its own shape."""
    left, top, right, bottom = box
    width, height = 1.25 * (right - left), 1.25 * (bottom - top)
    width, height = max(width, height * POSE_WIDTH / POSE_HEIGHT), max(height, width * POSE_HEIGHT / POSE_WIDTH)
    corner = np.array([(left + right) / 2 - width / 2, (top + bottom) / 2 - height / 2])
    return corner + places * (width, height)


BOXES = [(40.0, 30.0, 110.0, 200.0), (200.0, 60.0, 300.0, 120.0)]


@pytest.mark.parametrize(("joints", "joint_set"), [(17, COCO_17), (26, HALPE_26), (133, COCO_17)])
def test_places_come_out_where_they_are(tmp_path: Path, joints: int, joint_set) -> None:
    detector = write_detector(tmp_path / "people.onnx", BOXES)
    pose, places = write_pose(tmp_path / "joints.onnx", joints, unseen=2)
    people = detect_people([red(), red()], "balanced", detector, pose)
    assert people.joint_set is joint_set
    assert (people.ids, people.frames, people.image_size) == (("0", "1") * 2, (0, 0, 1, 1), (WIDTH, HEIGHT))
    assert not people.tracked
    count = joint_set.num_joints
    seen = [joint for joint in range(count) if joint != 2]
    for row, box in enumerate(BOXES * 2):
        np.testing.assert_allclose(people.keypoints[row, seen].numpy(), expected(box, places[:count])[seen], atol=0.05)
    assert people.keypoints[0, 2].tolist() == [0, 0]
    assert people.confidence[0, 2] == 0
    torch.testing.assert_close(people.confidence[:, seen], torch.full((4, count - 1), 0.7))
    assert "in 2 pictures (people by people.onnx, joints by joints.onnx); joint set" in people.statement
    assert f"recognised by {joints} joints" in people.statement


def test_colours_reach_the_networks_blue_first_and_no_box_is_nobody(tmp_path: Path) -> None:
    detector = write_detector(tmp_path / "people.onnx", BOXES[:1])
    pose, _ = write_pose(tmp_path / "joints.onnx", 17)
    blue = red()[..., ::-1].copy()
    people = detect_people([blue, red(), blue], "balanced", detector, pose)
    assert people.frames == (1,)
    with pytest.raises(ValueError, match="nobody was found in 2 pictures"):
        detect_people([blue, blue], "balanced", detector, pose)
    with pytest.raises(ValueError, match="nobody was found in 0 pictures"):
        detect_people([], "balanced", detector, pose)


def test_files_and_a_broken_one_among_them(tmp_path: Path) -> None:
    detector = write_detector(tmp_path / "people.onnx", BOXES[:1])
    pose, _ = write_pose(tmp_path / "joints.onnx", 17)
    for name in ("a.png", "c.png"):
        Image.fromarray(red()).save(tmp_path / name)
    (tmp_path / "b.png").write_text("no picture")
    people = detect_people([tmp_path / name for name in ("a.png", "b.png", "c.png")], "balanced", detector, pose)
    assert (people.frames, people.image_names) == ((0, 2), ("a.png", "c.png"))
    assert [name for name, _ in people.skipped_files] == ["b.png"]
    assert "b.png is no picture that can be read" in people.skipped_files[0][1]
    assert people.statement.endswith("; 1 files could not be read and were left out")
    with pytest.raises(ValueError, match=r"none of 1 pictures can be read: .*b\.png is no picture"):
        detect_people([tmp_path / "b.png"], "balanced", detector, pose)


def test_a_video_to_tracks(tmp_path: Path) -> None:
    detector = write_detector(tmp_path / "people.onnx", BOXES)
    pose, _ = write_pose(tmp_path / "joints.onnx", 17)
    video = VideoFrames(write_video(tmp_path / "a.mp4", [red()] * 6))
    tracked = track_people(detect_people(video, "balanced", detector, pose))
    assert tracked.ids == ("track0", "track1") * 6
    assert tracked.frames == tuple(number for number in range(6) for _ in range(2))


def test_arguments(tmp_path: Path) -> None:
    detector = write_detector(tmp_path / "people.onnx", BOXES)
    pose, _ = write_pose(tmp_path / "joints.onnx", 15)
    with pytest.raises(ValueError, match=r"joints\.onnx: picture 0 has 15 joints; expected 17 \(coco17\)"):
        detect_people([red()], "balanced", detector, pose)
    with pytest.raises(ValueError, match="mode: 'fast' is unknown, valid are lightweight, balanced, performance"):
        detect_people([red()], "fast", detector, pose)
    with pytest.raises(FileNotFoundError, match=r"detector_weights: there is no file .*none\.onnx"):
        detect_people([red()], "balanced", tmp_path / "none.onnx", pose)
    with pytest.raises(FileNotFoundError, match=r"pose_weights: there is no file .*none\.onnx"):
        detect_people([red()], "balanced", detector, tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ValueError, match=r"pose_weights: .*text\.onnx is no ONNX network that can be read"):
        detect_people([red()], "balanced", detector, tmp_path / "text.onnx")
    with pytest.raises(ValueError, match=r"pose_weights: .*people\.onnx has 1 outputs; RTMPose \(SimCC\) has two"):
        detect_people([red()], "balanced", detector, detector)


def test_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rtmlib import BodyWithFeet

    nowhere = {**BodyWithFeet.MODE["balanced"], "det": "http://127.0.0.1:9/yolox_of_nobody.zip"}
    monkeypatch.setitem(BodyWithFeet.MODE, "balanced", nowhere)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    message = (
        r"rtmlib's weights yolox_of_nobody\.zip cannot be had .*give detector_weights and pose_weights \(ONNX files\)"
    )
    with pytest.raises(OSError, match=message):
        detect_people([red()])


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    message = r'pip install "humandiff\[detect\]"; give detector_weights and pose_weights'
    with pytest.raises(ImportError, match=message):
        detect_people([np.zeros((9, 9, 3), np.uint8)])
