import re
from pathlib import Path

import numpy as np
import pytest
import torch

from posecore.body.skeletons import BODY_25, COCO_17
from posecore.data.keypoint_rows import joint_name
from posecore.data.keypoints import KeypointPeople, read_keypoints

SEEN = {"nose": (10.0, 20.0, 0.9), "l_eye": (12.0, 18.0, 0.8), "r_ankle": (30.5, 40.25, 0.5)}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def long_form(delimiter: str = ",") -> str:
    lines = ["frame,person,joint,x,y,confidence"]
    for frame, person in ((0, "anna"), (0, "bert"), (2, "anna")):
        lines += [
            f"{frame},{person},{joint},{x + frame},{y + 100 * (person == 'bert')},{c}"
            for joint, (x, y, c) in SEEN.items()
        ]
    return "\n".join(lines).replace(",", delimiter) + "\n"


def wide_form(delimiter: str = ",", suffix: str = "confidence") -> str:
    header = ["Frame", "Person"]
    for joint in ("Nose", "left_eye", "Right Ankle"):
        header += [f"{joint}_x", f"{joint}_y", f"{joint}_{suffix}"]
    lines = [header]
    for frame, person in ((0, "anna"), (0, "bert"), (2, "anna")):
        lines.append([str(frame), person])
        for x, y, c in SEEN.values():
            lines[-1] += [str(x + frame), str(y + 100 * (person == "bert")), str(c)]
    return "\n".join(delimiter.join(cells) for cells in lines)


def check(people: KeypointPeople) -> None:
    assert people.joint_set is COCO_17
    assert (people.ids, people.frames, people.tracked) == (("anna", "bert", "anna"), (0, 0, 2), True)
    for joint, (x, y, c) in SEEN.items():
        index = COCO_17.index(joint)
        assert people.keypoints[:, index].tolist() == [[x, y], [x, y + 100], [x + 2, y]]
        torch.testing.assert_close(people.confidence[:, index], torch.full((3,), c))
    assert people.confidence.count_nonzero() == 9


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_forms_and_delimiters(tmp_path: Path, delimiter: str) -> None:
    check(read_keypoints(write(tmp_path / "a.csv", long_form(delimiter))))
    check(read_keypoints(write(tmp_path / "b.tsv", wide_form(delimiter))))
    people = read_keypoints(tmp_path / "a.csv")
    assert (
        people.statement
        == "a.csv: CSV in the long form; joint set coco17, the smallest with the 3 joints that are named"
    )
    assert "CSV in the wide form; joint set coco17" in read_keypoints(tmp_path / "b.tsv").statement


@pytest.mark.parametrize("suffix", ["c", "conf", "Score", "likelihood"])
def test_names_of_the_confidence(tmp_path: Path, suffix: str) -> None:
    check(read_keypoints(write(tmp_path / "a.csv", wide_form(suffix=suffix))))


def test_decimal_commas_and_spreadsheets(tmp_path: Path) -> None:
    text = long_form(";").replace(".", ",").replace("\n", "\r\n")
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + text.encode() + b";;;;;\r\n")
    check(read_keypoints(tmp_path / "a.csv"))


def test_what_may_be_left_out(tmp_path: Path) -> None:
    people = read_keypoints(write(tmp_path / "a.csv", "l_hip_x,l_hip_y,r_hip_x,r_hip_y\n1,2,3,4\n5,6,,\n7,8,nan,9\n"))
    assert (people.frames, people.ids, people.tracked) == ((0, 1, 2), ("0",) * 3, False)
    hips = [people.joint_set.index(name) for name in ("l_hip", "r_hip")]
    assert people.confidence[:, hips].tolist() == [[1, 1], [1, 0], [1, 0]]
    assert people.keypoints[1, hips].tolist() == [[5, 6], [0, 0]]
    assert "without confidences, joints that have a place taken as seen" in people.statement

    people = read_keypoints(
        write(tmp_path / "b.csv", "joint,x,y,image\nneck,1,2,a.jpg\nl_big_toe,3,4,a.jpg\n"), "body25"
    )
    assert (people.joint_set, people.frames, people.image_names) == (BODY_25, (0,), ("a.jpg",))
    people = read_keypoints(write(tmp_path / "c.csv", "id,nose_x,nose_y\nb,1,2\nc,1,2\nb,3,4\n"))
    assert (people.ids, people.frames) == (("b", "c", "b"), (0, 0, 1))


def test_a_round_trip_of_a_whole_joint_set(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(1, 100, (5, 25, 3)).round(2)
    values[..., 2] /= 100
    names = [re.sub("^l_", "left_", re.sub("^r_", "right_", name)) for name in BODY_25.joint_names]
    header = ["frame"] + [f"{name}_{part}" for name in names for part in ("x", "y", "score")]
    lines = [",".join(map(str, [frame, *row.reshape(-1)])) for frame, row in enumerate(values)]
    people = read_keypoints(write(tmp_path / "a.csv", "\n".join([",".join(header), *lines])))
    assert people.joint_set is BODY_25
    np.testing.assert_allclose(people.keypoints.numpy(), values[..., :2], rtol=1e-6)
    np.testing.assert_allclose(people.confidence.numpy(), values[..., 2], rtol=1e-6)


def test_joint_names() -> None:
    spelled = ["left_hip", "Left Hip", "LEFT-HIP", "l_hip", " L_Hip ", "Right_Big_Toe", "nose", "leftover"]
    assert [joint_name(name) for name in spelled] == ["l_hip"] * 5 + ["r_big_toe", "nose", "leftover"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'joint', and none that ends in '_x'"),
        ("frame,person,nose,left_eye\n0,0,1,2\n", "no column 'joint', and none that ends in '_x', among frame, person"),
        ("nose_x,left_eye_x,left_eye_y\n1,2,3\n", "no column 'nose_y' beside 'nose_x'"),
        ("frame,joint,x\n0,nose,2\n", "no column 'y' among frame, joint, x; expected frame, person, joint"),
        ("joint,x,y\ntail,1,2\n", r"no known joint set has all of the joints \['tail'\]; known are smpl24"),
        ("joint,x,y\nnose,1\n", "line 2 has 2 cells; the header has 3"),
        ("joint,x,y,x\nnose,1,2,3\n", "column 'x' comes twice"),
        ("joint,x,y\nnose,1,2\nl_eye,one,2\n", "line 3: x must be a number, not 'one'"),
        ("joint,x,y\nnose,inf,2\n", "line 2: x must be finite, not 'inf'"),
        ("frame,joint,x,y\n0.5,nose,1,2\n", "line 2: frame must be a whole number, not '0.5'"),
        ("frame,joint,x,y\n,nose,1,2\n", "line 2: frame must be a whole number, not ''"),
        ("joint,x,y\nnose,1,2\nNose,1,2\n", "line 3: joint 'Nose' of person '0' comes twice in frame 0"),
        ("frame,nose_x,nose_y\n0,1,2\n0,3,4\n", "line 3: person '0' comes twice in frame 0"),
        ("joint,x,y\n", "holds no person with a seen joint"),
        ("joint,x,y,c\nnose,1,2,0\n", r"holds no person with a seen joint \(1 without\)"),
    ],
)
def test_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_keypoints(write(tmp_path / "people.csv", text))
    assert str(tmp_path / "people.csv") in str(caught.value)


def test_a_named_joint_set_must_have_the_joints(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", long_form())
    with pytest.raises(ValueError, match="joint 'nose' is not in h36m17, which has pelvis"):
        read_keypoints(path, "h36m17")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ValueError, match="not a table of text"):
        read_keypoints(tmp_path / "b.csv")
