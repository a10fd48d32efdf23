import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.skeletons import BODY_25, COCO_17, HALPE_26
from posecore.data.keypoints import read_keypoints

DEMO_DATA = Path(__file__).parents[3] / "tools" / "demo_data"


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def flat(num_joints: int, seed: int = 0) -> list[float]:
    """x, y, c of each joint, flattened as detectors write it."""
    return np.random.default_rng(seed).uniform(0.1, 1.0, num_joints * 3).round(3).tolist()


def coco(num_joints: int = 17, visibility: int = 2, **image: Any) -> dict[str, Any]:
    keypoints = [[10 + j, 20 + j, visibility] for j in range(num_joints)]
    keypoints[3] = [0, 0, 0]
    annotation = {"id": 7, "image_id": 5, "category_id": 1, "keypoints": np.ravel(keypoints).tolist()}
    empty = {"id": 8, "image_id": 5, "category_id": 1, "keypoints": [0] * (3 * num_joints), "num_keypoints": 0}
    box = {"id": 9, "image_id": 5, "category_id": 3, "bbox": [0, 0, 5, 5]}
    size = {"width": 640, "height": 425} | image
    return {"images": [{"id": 5, "file_name": "a.jpg", **size}], "annotations": [annotation, empty, box]}


def simple(**changes: Any) -> dict[str, Any]:
    person = {"id": "anna", "frame": 4, "keypoints": {"left_hip": [424, 203], "r_hip": [393, 214, 0.5], "nose": None}}
    return {"joint_set": "coco17", "image_size": [640, 425], "people": [person]} | changes


@pytest.mark.parametrize("visibility", [1, 2])
def test_coco_annotations(tmp_path: Path, visibility: int) -> None:
    people = read_keypoints(write(tmp_path / "a.json", coco(visibility=visibility)))
    assert people.joint_set is COCO_17
    assert (people.ids, people.frames, people.image_names) == (("7",), (0,), ("a.jpg",))
    assert (people.image_size, people.num_skipped, people.camera) == ((640, 425), 1, None)
    assert people.keypoints[0, 16].tolist() == [26.0, 36.0]
    assert people.confidence[0].tolist() == [1.0] * 3 + [0.0] + [1.0] * 13


def test_coco_images_of_different_size(tmp_path: Path) -> None:
    content = coco()
    content["images"].append({"id": 6, "file_name": "b.jpg", "width": 100, "height": 200})
    content["annotations"].append(content["annotations"][0] | {"id": 10, "image_id": 6})
    people = read_keypoints(write(tmp_path / "a.json", content))
    assert people.image_size is None
    assert people.image_sizes is not None
    assert people.image_sizes.tolist() == [[640.0, 425.0], [100.0, 200.0]]
    assert people.frames == (0, 1)


@pytest.mark.parametrize(("num_joints", "joint_set"), [(17, COCO_17), (26, HALPE_26), (25, BODY_25)])
def test_result_lists(tmp_path: Path, num_joints: int, joint_set: Any) -> None:
    items = [
        {"image_id": f"{i}.jpg", "category_id": 1, "keypoints": flat(num_joints, i), "score": 2.5, "idx": [3 + i]}
        for i in range(2)
    ]
    people = read_keypoints(write(tmp_path / "alphapose-results.json", items), image_size=(300, 200))
    assert people.joint_set is joint_set
    assert (people.ids, people.frames, people.image_names) == (("3", "4"), (0, 1), ("0.jpg", "1.jpg"))
    expected = torch.tensor(flat(num_joints, 1)).view(-1, 3)
    torch.testing.assert_close(people.keypoints[1], expected[:, :2])
    torch.testing.assert_close(people.confidence[1], expected[:, 2])
    assert people.image_size == (300, 200)


def test_confidence_is_clipped(tmp_path: Path) -> None:
    keypoints = flat(17)
    keypoints[2], keypoints[5] = 1.02, -0.1
    people = read_keypoints(write(tmp_path / "a.json", [{"image_id": 1, "keypoints": keypoints}]))
    assert people.confidence[0, :2].tolist() == [1.0, 0.0]


def test_openpose_file_and_folder(tmp_path: Path) -> None:
    first = {"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": flat(25, i)} for i in range(2)]}
    nobody = {"version": 1.3, "people": []}
    later = {"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": [0.0, 0.0, 0.0, *flat(25, 5)[3:]]}]}
    for frame, content in ((12, later), (2, first), (3, nobody)):
        write(tmp_path / f"clip_{frame:012d}_keypoints.json", content)
    people = read_keypoints(tmp_path)
    assert people.joint_set is BODY_25
    assert (people.ids, people.frames) == (("0", "1", "0"), (2, 2, 12))
    assert people.image_names[2] == "clip_000000000012"
    assert people.confidence[2, 0] == 0
    single = read_keypoints(tmp_path / "clip_000000000002_keypoints.json")
    torch.testing.assert_close(single.keypoints, people.keypoints[:2])
    assert single.image_size is None


def test_simple_by_name(tmp_path: Path) -> None:
    content = simple(camera={"focal_length": 800, "center": [320, 212.5]}, image="photo.png")
    people = read_keypoints(write(tmp_path / "a.json", content))
    assert (people.ids, people.frames, people.image_names) == (("anna",), (4,), ("photo.png",))
    assert people.keypoints[0, COCO_17.index("l_hip")].tolist() == [424.0, 203.0]
    assert people.confidence[0, COCO_17.index("l_hip")] == 1
    assert people.confidence[0, COCO_17.index("r_hip")] == 0.5
    assert people.confidence[0].count_nonzero() == 2
    assert people.camera is not None
    assert (people.camera.focal_length, people.camera.center) == ((800.0, 800.0), (320.0, 212.5))


def test_simple_by_list(tmp_path: Path) -> None:
    whole = {"keypoints": np.array(flat(17)).reshape(17, 3).tolist()}
    people = read_keypoints(write(tmp_path / "a.json", simple(people=[whole], image_size=None)))
    torch.testing.assert_close(people.keypoints[0], torch.tensor(whole["keypoints"])[:, :2])
    assert (people.ids, people.frames, people.image_size) == (("0",), (0,), None)

    some = {"joints": ["left_knee", "neck", "r_big_toe"], "people": [{"keypoints": [[1, 2], None, [3, 4, 0.5]]}]}
    people = read_keypoints(write(tmp_path / "b.json", some))
    assert people.joint_set is BODY_25
    assert people.keypoints[0, BODY_25.index("l_knee")].tolist() == [1.0, 2.0]
    assert people.confidence[0, BODY_25.index("r_big_toe")] == 0.5
    assert people.confidence[0].count_nonzero() == 2


def write_videopose3d(path: Path, num_joints: int = 17) -> dict[str, dict[str, list[np.ndarray]]]:
    rng = np.random.default_rng(0)
    positions = {
        subject: {"Walking 1": [rng.uniform(0, 1000, (3, num_joints, 2)).astype(np.float32) for _ in range(2)]}
        for subject in ("S9", "S11")
    }
    metadata = {"layout_name": "h36m", "num_joints": num_joints, "keypoints_symmetry": [[4, 5, 6], [1, 2, 3]]}
    np.savez_compressed(path, positions_2d=positions, metadata=metadata)
    return positions


@pytest.mark.parametrize(("num_joints", "name"), [(17, "h36m17"), (16, "h36m16")])
def test_videopose3d(tmp_path: Path, num_joints: int, name: str) -> None:
    path = tmp_path / "data_2d_h36m_gt.npz"
    positions = write_videopose3d(path, num_joints)
    people = read_keypoints(path)
    assert people.joint_set.name == name
    assert len(people) == 12
    assert people.ids[:4] == ("S9/Walking 1/0",) * 3 + ("S9/Walking 1/1",)
    chosen = read_keypoints(path, select="S11/*/1")
    assert (chosen.ids, chosen.frames) == (("S11/Walking 1/1",) * 3, (0, 1, 2))
    np.testing.assert_array_equal(chosen.keypoints.numpy(), positions["S11"]["Walking 1"][1])
    assert bool((chosen.confidence == 1).all())


class _Hostile:
    def __reduce__(self) -> Any:
        return print, ("a hostile file ran code",)


def test_hostile_npz_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data_2d.npz"
    np.savez(path, positions_2d=np.array(_Hostile(), dtype=object))
    with pytest.raises((ValueError, pickle.UnpicklingError), match="print"):
        read_keypoints(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco(num_joints=19), r"annotation 7 has 19 joints; expected 17 \(coco17\), 25 \(body25\), 26 \(halpe26\)"),
        ([{"keypoints": flat(17)}, {"keypoints": flat(26)}], r"entry 1 has 26 joints; 17 are expected \(coco17\)"),
        ([{"keypoints": flat(17)[:-1]}], "entry 0 has 50 numbers; x, y, confidence"),
        ([{"keypoints": ["a"] * 51}], "entry 0 holds something that is not a number"),
        ([{"keypoints": [float("nan"), *flat(17)[1:]]}], "entry 0 holds NaN or infinity"),
        ({"people": [{"pose_keypoints_2d": flat(18)}]}, r"person 0 has 18 joints; 25 are expected \(body25\)"),
        ({"people": []}, "the list of people is empty"),
        ([], "holds no person with a seen joint"),
        ([{"keypoints": [0] * 51}], r"holds no person with a seen joint \(1 without\)"),
        (coco(width=-640), r"image 5 must be a positive width and height in pixels, not \[-640, 425\]"),
        ({"bodies": []}, "unknown keypoint format; known are COCO annotations"),
        ([1, 2, 3], "unknown keypoint format"),
        ("text", "unknown keypoint format"),
        (simple(image_size=[640, -1]), r"image_size must be a positive width and height in pixels, not \[640, -1\]"),
        (simple(image_size="640x425"), "image_size must be a positive width and height"),
        (simple(joint_set="coco"), "joint_set 'coco' is unknown; known are smpl24"),
        (simple(joint_set=None), r"needs joint_set .* or joints"),
        (simple(joint_set=None, joints=["tail"]), r"no known joint set has all of the joints \['tail'\]"),
        (simple(people=[{"keypoints": {"tail": [1, 2]}}]), "joint 'tail' is not in coco17: nose"),
        (simple(people=[{"keypoints": [[1, 2]] * 16}]), r"person 0 has 16 joints; 17 are expected \(coco17\)"),
        (simple(people=[{"keypoints": {"nose": [1, 2, 3, 4]}}]), r"joint 'nose' must be \[x, y\]"),
        (simple(people=[{"keypoints": {"nose": [1, float("nan")]}}]), "joint 'nose' holds NaN or infinity"),
        (simple(people=[{"keypoints": 3}]), "keypoints must be a list or an object"),
        (simple(people=[{"keypoints": {"nose": [1, 2]}, "frame": "x"}]), "frame must be a whole number, not 'x'"),
        (simple(camera=800), "camera must be an object with focal_length"),
        (simple(camera={"focal_length": -1}), "focal_length must be one or two positive numbers"),
        (simple(camera={"focal_length": 1, "center": [1]}), r"camera.center must be \[x, y\]"),
    ],
)
def test_one_clear_error(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "people.json", content)
    with pytest.raises(ValueError, match=message) as caught:
        read_keypoints(path)
    assert str(path) in str(caught.value)


def test_not_json(tmp_path: Path) -> None:
    path = tmp_path / "people.json"
    for content in (b"\xff\xd8\xff\xe0 a photograph", b"{'people': 1}", b"", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a JSON file"):
            read_keypoints(path)


def test_paths_and_arguments(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no keypoint file or folder at"):
        read_keypoints(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"the folder holds no \.json file"):
        read_keypoints(tmp_path)
    path = write(tmp_path / "a.json", simple())
    with pytest.raises(ValueError, match="not an OpenPose file"):
        read_keypoints(tmp_path)
    with pytest.raises(ValueError, match=r"argument image_size must be a positive width and height .* \(0, 5\)"):
        read_keypoints(path, image_size=(0, 5))
    with pytest.raises(ValueError, match=r"image size \(640, 425\) in the file, but image_size=\(100, 100\)"):
        read_keypoints(path, image_size=(100, 100))
    with pytest.raises(ValueError, match=r"select='x\*' matches none of the ids \['anna'\]"):
        read_keypoints(path, select="x*")


def test_npz_without_keypoints(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(ValueError, match=r"the \.npz has no positions_2d"):
        read_keypoints(tmp_path / "other.npz")
    np.savez(tmp_path / "flat.npz", positions_2d={"S1": {"Walking": [np.zeros((3, 34))]}})
    with pytest.raises(ValueError, match=r"S1/Walking/0 has shape \(3, 34\)"):
        read_keypoints(tmp_path / "flat.npz")
    np.savez(tmp_path / "joints.npz", positions_2d={"S1": {"Walking": [np.zeros((3, 15, 2))]}})
    with pytest.raises(ValueError, match=r"S1/Walking/0 has 15 joints; expected 17 \(h36m17\), 16 \(h36m16\)"):
        read_keypoints(tmp_path / "joints.npz")


@pytest.mark.parametrize(("name", "seen"), [("photographer", 11), ("astronaut", 9)])
def test_demo_photographs(name: str, seen: int) -> None:
    people = read_keypoints(DEMO_DATA / f"{name}.json")
    assert (people.joint_set, people.image_size) == (COCO_17, (512, 512))
    assert int((people.confidence > 0).sum()) == seen
    assert bool((people.keypoints >= 0).all())
    assert bool((people.keypoints < 512).all())
