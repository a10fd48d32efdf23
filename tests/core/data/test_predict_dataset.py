from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from posecore.body.skeletons import COCO_17, H36M_17, JointSet
from posecore.data.keypoints import KeypointPeople
from posecore.data.predict_cameras import CameraChoice
from posecore.data.predict_dataset import PredictDataset
from posecore.data.predict_input import PredictInput
from posecore.data.sample import PoseSample
from posecore.testing.videos import write_video

DEMO_DATA = Path(__file__).parents[3] / "tools" / "demo_data"


def make_people(joint_set: JointSet = COCO_17, num_people: int = 2) -> KeypointPeople:
    generator = torch.Generator().manual_seed(0)
    return KeypointPeople(
        joint_set=joint_set,
        keypoints=torch.rand(num_people, joint_set.num_joints, 2, generator=generator) * 400,
        confidence=torch.ones(num_people, joint_set.num_joints),
        image_sizes=torch.tensor([[640.0, 480.0]] * num_people),
        ids=tuple(str(i) for i in range(num_people)),
        frames=tuple(range(num_people)),
        image_names=("",) * num_people,
    )


def dataset(people: KeypointPeople, photos: list[Path | None] | None = None) -> PredictDataset:
    photos = photos or [None] * len(people)
    grouping: PoseSample = {"clip": list(people.ids), "view": torch.zeros(len(people), dtype=torch.int64)}
    return PredictDataset("h36m17", people, CameraChoice().of_rows(people, [None] * len(people)), grouping, photos)


def test_same_joint_set_passes_through() -> None:
    people = make_people(H36M_17, 3)
    data = dataset(people)
    batch = data[1], data.__getitems__([2, 0])
    torch.testing.assert_close(batch[0]["joints_2d_px"], people.keypoints[1])
    torch.testing.assert_close(batch[1]["joints_2d_px"], people.keypoints[[2, 0]])
    assert batch[1]["clip"] == ["2", "0"]
    assert (batch[1]["frame"].tolist(), batch[1]["row"].tolist()) == ([2, 0], [2, 0])
    assert batch[1]["image_size"].tolist() == [[640.0, 480.0]] * 2
    assert (data.is_video, data.fps, list(data.pictures()), data.skipped, data.source) == (False, None, [], (), {})


def test_coco_to_human36m() -> None:
    people = make_people(num_people=1)
    people.confidence[0, COCO_17.index("l_hip")] = 0.25
    people.confidence[0, COCO_17.index("r_wrist")] = 0.0
    sample = dataset(people)[0]
    hips = people.keypoints[0, [COCO_17.index("l_hip"), COCO_17.index("r_hip")]]
    torch.testing.assert_close(sample["joints_2d_px"][H36M_17.index("pelvis")], hips.mean(dim=0))
    assert sample["confidence"][H36M_17.index("pelvis")] == 0.25
    # COCO has no top of the head, and the wrist was not seen: left to the prior.
    for joint in ("head_top", "r_wrist"):
        assert sample["confidence"][H36M_17.index(joint)] == 0
        assert sample["joints_2d_px"][H36M_17.index(joint)].tolist() == [0.0, 0.0]


def test_nothing_to_map() -> None:
    people = make_people()
    people.confidence[:] = 0
    people.confidence[:, COCO_17.index("l_eye")] = 1
    with pytest.raises(ValueError, match="no joint seen in coco17 keypoints gives a joint of h36m17"):
        dataset(people)


def test_from_a_file() -> None:
    data = PredictInput(keypoints=DEMO_DATA / "photographer.json").dataset("h36m17")
    sample = data[0]
    assert sample["clip"] == "photographer"
    assert "724.1 px" in data.camera_statement
    # The photographer leans to the right of the picture: his shoulders lie right of his pelvis and above it.
    thorax, pelvis = (sample["joints_2d_px"][H36M_17.index(joint)] for joint in ("thorax", "pelvis"))
    assert thorax[0] > pelvis[0] + 50
    assert thorax[1] < pelvis[1] - 100
    # One of his ears is hidden, and with it the middle of the head.
    assert sample["confidence"][H36M_17.index("neck_nose")] == 0


def test_pictures_come_once_with_their_rows(tmp_path: Path) -> None:
    photos: list[Path | None] = []
    for grey in (10, 200):
        photos.append(tmp_path / f"{grey}.png")
        Image.new("RGB", (6, 4), (grey,) * 3).save(tmp_path / f"{grey}.png")
    pictures = list(dataset(make_people(num_people=4), [photos[1], photos[0], None, photos[1]]).pictures())
    assert [(name, rows) for name, rows, _ in pictures] == [("200.png", (0, 3)), ("10.png", (1,))]
    for (_, _, read), grey in zip(pictures, (200, 10), strict=True):
        assert np.array_equal(read(), np.full((4, 6, 3), grey, np.uint8))


def test_frames_of_a_video_come_in_their_order(tmp_path: Path) -> None:
    pytest.importorskip("av")
    greys = [20 * number for number in range(8)]
    video = write_video(tmp_path / "clip.mp4", [np.full((32, 48, 3), grey, np.uint8) for grey in greys])
    people = make_people(num_people=4)
    people = KeypointPeople(**{**vars(people), "frames": (6, 2, 2, 5)})
    pictures = list(dataset(people, [video] * 4).pictures())
    assert [(name, rows) for name, rows, _ in pictures] == [
        ("clip_000002", (1, 2)), ("clip_000005", (3,)), ("clip_000006", (0,)),
    ]  # fmt: skip
    for (_, _, read), frame in zip(pictures, (2, 5, 6), strict=True):
        assert read().shape == (32, 48, 3)
        assert abs(float(read().mean()) - greys[frame]) < 4
