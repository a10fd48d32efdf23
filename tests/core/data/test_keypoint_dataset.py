import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from posecore.body.skeletons import COCO_17, H36M_17, JointSet
from posecore.data.keypoint_dataset import KeypointDataset
from posecore.data.keypoints import KeypointCamera, KeypointPeople

DEMO_DATA = Path(__file__).parents[3] / "tools" / "demo_data"


def make_people(
    joint_set: JointSet = COCO_17, image_sizes: list[list[float]] | None = None, camera: KeypointCamera | None = None
) -> KeypointPeople:
    generator = torch.Generator().manual_seed(0)
    num_people = 2 if image_sizes is None else len(image_sizes)
    return KeypointPeople(
        joint_set=joint_set,
        keypoints=torch.rand(num_people, joint_set.num_joints, 2, generator=generator) * 400,
        confidence=torch.ones(num_people, joint_set.num_joints),
        image_sizes=None if image_sizes is None else torch.tensor(image_sizes),
        ids=tuple(str(i) for i in range(num_people)),
        frames=tuple(range(num_people)),
        image_names=("",) * num_people,
        camera=camera,
    )


def test_same_joint_set_passes_through() -> None:
    people = make_people(H36M_17, [[640.0, 480.0]] * 3)
    batch = KeypointDataset(people)[1], KeypointDataset(people).__getitems__([2, 0])
    torch.testing.assert_close(batch[0]["joints_2d_px"], people.keypoints[1])
    torch.testing.assert_close(batch[1]["joints_2d_px"], people.keypoints[[2, 0]])
    assert batch[1]["clip"] == ["2", "0"]
    assert batch[1]["frame"].tolist() == [2, 0]
    assert batch[1]["image_size"].tolist() == [[640.0, 480.0]] * 2


def test_coco_to_human36m() -> None:
    people = make_people(COCO_17, [[640.0, 480.0]])
    people.confidence[0, COCO_17.index("l_hip")] = 0.25
    people.confidence[0, COCO_17.index("r_wrist")] = 0.0
    sample = KeypointDataset(people, "h36m17")[0]
    hips = people.keypoints[0, [COCO_17.index("l_hip"), COCO_17.index("r_hip")]]
    torch.testing.assert_close(sample["joints_2d_px"][H36M_17.index("pelvis")], hips.mean(dim=0))
    assert sample["confidence"][H36M_17.index("pelvis")] == 0.25
    # COCO has no top of the head, and the wrist was not seen: left to the prior.
    for joint in ("head_top", "r_wrist"):
        assert sample["confidence"][H36M_17.index(joint)] == 0
        assert sample["joints_2d_px"][H36M_17.index(joint)].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "camera", "focal", "center", "assumed", "statement"),
    [
        ({}, None, (500.0, 500.0), (150.0, 200.0), True, "image diagonal .* = 500.0 px; center assumed in the middle"),
        ({"assumed_focal_length": 900.0}, None, (900.0, 900.0), (150.0, 200.0), True, "assumed: 900 px"),
        ({"focal_length": 900.0}, None, (900.0, 900.0), (150.0, 200.0), False, r"\(900, 900\) px given"),
        ({"focal_length": (9.0, 8.0), "center": (1.0, 2.0)}, None, (9.0, 8.0), (1.0, 2.0), False, r"center \(1, 2\)"),
        ({}, KeypointCamera((700.0, 800.0), (3.0, 4.0)), (700.0, 800.0), (3.0, 4.0), False, "from the keypoint file"),
        ({"center": (1.0, 2.0)}, KeypointCamera((7.0, 8.0), None), (7.0, 8.0), (1.0, 2.0), False, "keypoint file"),
        ({"focal_length": 5.0}, KeypointCamera((7.0, 8.0), (3.0, 4.0)), (5.0, 5.0), (3.0, 4.0), False, "given"),
    ],
)
def test_where_the_camera_comes_from(
    arguments: dict[str, Any],
    camera: KeypointCamera | None,
    focal: tuple[float, float],
    center: tuple[float, float],
    assumed: bool,
    statement: str,
) -> None:
    dataset = KeypointDataset(make_people(image_sizes=[[300.0, 400.0]] * 2, camera=camera), **arguments)
    expected = torch.tensor([[focal[0], 0.0, center[0]], [0.0, focal[1], center[1]], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(dataset.__getitems__([0, 1])["K"], expected.expand(2, 3, 3))
    assert dataset.camera_assumed is assumed
    assert re.search(statement, dataset.camera_statement)


def test_known_matrix_needs_no_image_size() -> None:
    K = torch.tensor([[800.0, 0.0, 320.0], [0.0, 810.0, 240.0], [0.0, 0.0, 1.0]])
    dataset = KeypointDataset(make_people(), K=K)
    sample = dataset[0]
    torch.testing.assert_close(sample["K"], K)
    assert "image_size" not in sample
    assert not dataset.camera_assumed


def test_assumed_focal_length_follows_each_image() -> None:
    dataset = KeypointDataset(make_people(image_sizes=[[300.0, 400.0], [600.0, 800.0]]))
    assert dataset.samples["K"][:, 0, 0].tolist() == [500.0, 1000.0]
    assert "500.0 to 1000.0 px" in dataset.camera_statement


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "the image size is unknown, so no camera can be assumed"),
        ({"focal_length": 800.0}, "the image size is unknown"),
        ({"center": (1.0, 2.0)}, "the image size is unknown"),
        ({"focal_length": -1.0, "center": (1.0, 2.0)}, "focal_length must be positive pixels, not -1.0"),
        ({"assumed_focal_length": math.nan, "center": (1.0, 2.0)}, "assumed_focal_length must be positive"),
        ({"focal_length": 1.0, "assumed_focal_length": 1.0}, "give focal_length or assumed_focal_length, not both"),
        ({"K": torch.eye(3), "focal_length": 1.0}, "K already holds the focal length"),
        ({"K": -torch.eye(3)}, "K must be finite with positive focal lengths"),
    ],
)
def test_cameras_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeypointDataset(make_people(), **arguments)


def test_nothing_to_map() -> None:
    people = make_people(image_sizes=[[300.0, 400.0]])
    people.confidence[:] = 0
    people.confidence[:, COCO_17.index("l_eye")] = 1
    with pytest.raises(ValueError, match="no joint seen in coco17 keypoints gives a joint of h36m17"):
        KeypointDataset(people)


def test_from_a_file() -> None:
    dataset = KeypointDataset(DEMO_DATA / "photographer.json")
    sample = dataset[0]
    assert sample["clip"] == "photographer"
    assert "724.1 px" in dataset.camera_statement
    # The photographer leans to the right of the picture: his shoulders lie right of his pelvis and above it.
    thorax, pelvis = (sample["joints_2d_px"][H36M_17.index(joint)] for joint in ("thorax", "pelvis"))
    assert thorax[0] > pelvis[0] + 50
    assert thorax[1] < pelvis[1] - 100
    # One of his ears is hidden, and with it the middle of the head.
    assert sample["confidence"][H36M_17.index("neck_nose")] == 0
