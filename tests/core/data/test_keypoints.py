import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.skeletons import BODY_25, COCO_17, H36M_17, HALPE_26, MPII_16, OPENPOSE_18
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


@pytest.mark.parametrize(
    ("version", "key", "num_joints", "joint_set"),
    [
        (1.0, "pose_keypoints", 18, OPENPOSE_18),
        (1.1, "pose_keypoints", 25, BODY_25),
        (1.2, "pose_keypoints_2d", 18, OPENPOSE_18),
        (1.3, "pose_keypoints_2d", 25, BODY_25),
    ],
)
def test_openpose_versions(tmp_path: Path, version: float, key: str, num_joints: int, joint_set: Any) -> None:
    face_only = {"person_id": [4], key: [], "face_keypoints_2d": [1.0, 2.0, 0.5]}
    content = {"version": version, "people": [{"person_id": [3], key: flat(num_joints)}, face_only]}
    people = read_keypoints(write(tmp_path / "a_keypoints.json", content))
    assert (people.joint_set, people.ids, people.num_skipped, people.tracked) == (joint_set, ("3",), 1, True)
    torch.testing.assert_close(people.keypoints[0], torch.tensor(flat(num_joints)).view(-1, 3)[:, :2])
    said = f"a_keypoints.json: OpenPose {version}; joint set {joint_set.name}, recognised by {num_joints} joints"
    assert people.statement.startswith(said)
    assert "fractions of the picture" in people.statement, "all numbers are below 1"


def test_openpose18_is_coco_with_a_neck() -> None:
    # OpenPose's documentation, "COCO" output; l_eye and r_ear are where they are often mistaken.
    order = [0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    names = [name for name in OPENPOSE_18.joint_names if name != "neck"]
    assert names == [COCO_17.joint_names[index] for index in order]
    assert OPENPOSE_18.index("neck") == 1


def instance(num_joints: int, seed: int = 0, **more: Any) -> dict[str, Any]:
    values = np.array(flat(num_joints, seed)).reshape(-1, 3)
    return {
        "keypoints": (100 * values[:, :2]).tolist(),
        "keypoint_scores": values[:, 2].tolist(),
        "bbox": [[0.0, 0.0, 100.0, 100.0]],
        "bbox_score": 0.9,
    } | more


@pytest.mark.parametrize(
    ("dataset_name", "num_joints", "joint_set"),
    [("coco", 17, COCO_17), ("h36m", 17, H36M_17), ("mpii", 16, MPII_16), ("halpe26", 26, HALPE_26)],
)
def test_mmpose_video(tmp_path: Path, dataset_name: str, num_joints: int, joint_set: Any) -> None:
    info = [
        {"frame_id": 1, "instances": [instance(num_joints, 0), instance(num_joints, 1)]},
        {"frame_id": 2, "instances": []},
        {"frame_id": 3, "instances": [instance(num_joints, 2)]},
    ]
    content = {"meta_info": {"dataset_name": dataset_name, "num_keypoints": num_joints}, "instance_info": info}
    people = read_keypoints(write(tmp_path / "results_clip.json", content))
    assert (people.joint_set, people.frames, people.ids, people.tracked) == (
        joint_set,
        (1, 1, 3),
        ("0", "1", "0"),
        False,
    )
    np.testing.assert_allclose(people.keypoints[2].numpy(), instance(num_joints, 2)["keypoints"], rtol=1e-6)
    np.testing.assert_allclose(people.confidence[2].numpy(), instance(num_joints, 2)["keypoint_scores"], rtol=1e-6)
    assert f"MMPose video, frames 1 to 3, of a network trained for {dataset_name}; joint set" in people.statement


def test_mmpose_without_meta_info(tmp_path: Path) -> None:
    picture = [instance(17, 0), instance(17, 1)]
    of_demo = {"meta_info": {}, "instance_info": picture}
    for name, content in (("a", picture), ("b", of_demo)):
        people = read_keypoints(write(tmp_path / f"{name}.json", content))
        assert (people.joint_set, people.ids, people.frames) == (COCO_17, ("0", "1"), (0, 0))
    video = [{"frame_id": 0, "instances": [instance(17, 0, track_id=7)]}]
    people = read_keypoints(write(tmp_path / "c.json", video))
    assert (people.ids, people.tracked) == (("7",), True)
    with pytest.raises(ValueError, match=r"b\.json: holds no person with a seen joint \(0 without\)"):
        read_keypoints(write(tmp_path / "b.json", of_demo | {"instance_info": []}))


@pytest.mark.parametrize(("num_joints", "joint_set"), [(133, COCO_17), (136, HALPE_26)])
def test_whole_bodies_begin_with_the_body(tmp_path: Path, num_joints: int, joint_set: Any) -> None:
    item = {"image_id": "a.jpg", "keypoints": [100 * value for value in flat(num_joints)], "score": 1.0}
    path = write(tmp_path / "a.json", [item])
    for named in (None, joint_set.name):
        people = read_keypoints(path, named)
        assert people.joint_set is joint_set
        expected = 100 * torch.tensor(flat(num_joints)).view(-1, 3)[: joint_set.num_joints, :2]
        torch.testing.assert_close(people.keypoints[0], expected)
    assert f"recognised by {num_joints} joints, of which it has the first" in read_keypoints(path).statement
    assert f"joint set {joint_set.name}, as named" in read_keypoints(path, joint_set.name).statement
    with pytest.raises(ValueError, match=rf"entry 0 has {num_joints} joints; 25 are expected \(body25\)"):
        read_keypoints(path, "body25")


@pytest.mark.parametrize(
    ("names", "frames", "said"),
    [
        (["0.jpg", "3.jpg", "12.jpg"], (0, 3, 12), "numbered as in the names"),
        (["clip_0010.png", "clip_0011.png", "clip_0020.png"], (10, 11, 20), "numbered as in the names"),
        (["IMG_20.jpg", "DSC_20.jpg", "DSC_30.jpg"], (0, 1, 2), "counted in their order"),
        (["a.jpg", "b.jpg", "c.jpg"], (0, 1, 2), "counted in their order"),
        ([397133, 37777, 252219], (0, 1, 2), "counted in their order"),
    ],
)
def test_frames_of_result_lists(tmp_path: Path, names: list[Any], frames: tuple[int, ...], said: str) -> None:
    items = [{"image_id": name, "keypoints": flat(17, seed), "score": 1.0} for seed, name in enumerate(names)]
    people = read_keypoints(write(tmp_path / "a.json", items))
    assert people.frames == frames
    assert f"COCO results, frames {said}" in people.statement


def test_broken_files_of_a_folder(tmp_path: Path) -> None:
    for frame in range(6):
        write(
            tmp_path / f"clip_{frame:04d}_keypoints.json", {"version": 1.3, "people": [{"pose_keypoints_2d": flat(25)}]}
        )
    (tmp_path / "clip_0002_keypoints.json").write_text('{"version": 1.3, "peo')
    write(tmp_path / "clip_0004_keypoints.json", {"people": [{"pose_keypoints_2d": flat(18)}]})
    people = read_keypoints(tmp_path)
    assert people.frames == (0, 1, 3, 5)
    assert [name for name, _ in people.skipped_files] == ["clip_0002_keypoints.json", "clip_0004_keypoints.json"]
    assert people.skipped_files[0][1].startswith("not a JSON file (Unterminated string")
    assert people.skipped_files[1][1] == "person 0 has 18 joints; 25 are expected (body25)"
    assert "folder of 6 OpenPose 1.3 files, frames numbered as in the names" in people.statement
    assert people.statement.endswith("; 2 files could not be read and were left out")
    with pytest.raises(ValueError, match=r"clip_0002_keypoints\.json: not a JSON file"):
        read_keypoints(tmp_path, skip_broken=False)
    for frame in (0, 1):
        (tmp_path / f"clip_{frame:04d}_keypoints.json").write_text("")
    with pytest.raises(
        ValueError, match=r"clip_0000_keypoints.*not a JSON file.*\(4 of 6 files of .* cannot be read\)"
    ):
        read_keypoints(tmp_path)


def test_a_broken_first_file_does_not_choose_the_joint_set(tmp_path: Path) -> None:
    bad = [*flat(18)[:-1], float("nan")]
    people = [{"pose_keypoints_2d": flat(18)}, {"pose_keypoints_2d": bad}]
    write(tmp_path / "f_0.json", {"people": people})
    for frame in (1, 2):
        write(tmp_path / f"f_{frame}.json", {"people": [{"pose_keypoints_2d": flat(25)}]})
    assert read_keypoints(tmp_path).joint_set is BODY_25


def test_folder_of_mmpose(tmp_path: Path) -> None:
    write(tmp_path / "a.json", [instance(17, 0)])
    write(tmp_path / "b.json", [])
    write(tmp_path / "c.json", {"meta_info": {}, "instance_info": [instance(17, 1), instance(17, 2)]})
    write(tmp_path / "d.json", {"people": [{"pose_keypoints_2d": flat(25)}]})
    people = read_keypoints(tmp_path)
    assert (people.frames, people.image_names, people.tracked) == ((0, 2, 2), ("a", "c", "c"), False)
    assert people.skipped_files == (("d.json", "a file of OpenPose among files of MMPose"),)


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
        (
            coco(num_joints=19),
            r"annotation 7 has 19 joints; expected 17 \(coco17\), 18 \(openpose18\), 25 \(body25\), 26",
        ),
        ([{"keypoints": flat(17)}, {"keypoints": flat(26)}], r"entry 1 has 26 joints; 17 are expected \(coco17\)"),
        ([{"keypoints": flat(17)[:-1]}], "entry 0 has 50 numbers; x, y, confidence"),
        ([{"keypoints": ["a"] * 51}], "entry 0 holds something that is not a number"),
        ([{"keypoints": [float("nan"), *flat(17)[1:]]}], "entry 0 holds NaN or infinity"),
        ({"people": [{"pose_keypoints_2d": flat(15)}]}, r"person 0 has 15 joints; expected 25 \(body25\), 18 \(open"),
        (
            {"people": [{"pose_keypoints": flat(18)}, {"pose_keypoints": flat(25)}]},
            "person 1 has 25 joints; 18 are exp",
        ),
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
        ([instance(17), instance(26)], r"frame 0, instance 1 has 26 joints; 17 are expected \(coco17\)"),
        (
            [instance(17, keypoint_scores=[1.0])],
            r"instance 0 has keypoints of shape \(17, 2\) and keypoint_scores of shape",
        ),
        ([{"frame_id": "1", "instances": []}], "frame_id must be a whole number and instances a list of people"),
        ([{"frame_id": 1, "instances": 5}], r"instances a list of people with keypoints, not 1 and int"),
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
