import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.body.skeletons import get_joint_set
from posecore.export.predictions import (
    FORMAT,
    PosePredictions,
    read_predictions,
    write_predictions_json,
    write_predictions_npz,
)

WRITERS = {"json": write_predictions_json, "npz": write_predictions_npz}


def make(people: int = 2, hypotheses: int = 3, joint_set: str = "h36m17", **changes: Any) -> PosePredictions:
    generator = torch.Generator().manual_seed(people)
    joints = get_joint_set(joint_set).num_joints
    content: dict[str, Any] = {
        "method": "ZeDO",
        "joint_set": get_joint_set(joint_set),
        "hypotheses": torch.randn(people, hypotheses, joints, 3, generator=generator) + torch.tensor([0.0, 0.0, 4.0]),
        "best": torch.arange(people) % hypotheses,
        "reprojection_error_px": torch.rand(people, hypotheses, generator=generator),
        "keypoints_2d_px": torch.rand(people, joints, 2, generator=generator) * 500,
        "confidence": torch.rand(people, joints, generator=generator).round(),
        "K": torch.tensor([[800.0, 0.0, 320.0], [0.0, 810.0, 240.0], [0.0, 0.0, 1.0]]).repeat(people, 1, 1),
        "camera_assumed": True,
        "camera_statement": "focal length assumed: 800 px",
        "ids": tuple(f"person {i}" for i in range(people)),
        "frames": tuple(range(10, 10 + people)),
        "image_names": ("photo ä.jpg",) * people,
        "image_size": torch.tensor([[640.0, 480.0]]).repeat(people, 1),
        "settings": {"num_hypotheses": hypotheses, "seed": 0},
    }
    return PosePredictions(**(content | changes))


@pytest.mark.parametrize("suffix", ["json", "npz"])
@pytest.mark.parametrize(("people", "hypotheses", "joint_set"), [(1, 1, "h36m17"), (3, 5, "h36m17"), (2, 2, "smpl24")])
def test_round_trip(tmp_path: Path, suffix: str, people: int, hypotheses: int, joint_set: str) -> None:
    written = make(people, hypotheses, joint_set)
    path = tmp_path / f"joints.{suffix}"
    WRITERS[suffix](path, written)
    read = read_predictions(path)
    for field in dataclasses.fields(PosePredictions):
        before, after = getattr(written, field.name), getattr(read, field.name)
        if isinstance(before, torch.Tensor):
            # JSON is rounded to 1e-6; float32 pixels near 500 have steps of 3e-5.
            torch.testing.assert_close(after, before, rtol=0, atol=0 if suffix == "npz" else 4e-5)
        else:
            assert after == before
    torch.testing.assert_close(read.best_joints[-1], read.hypotheses[-1, (people - 1) % hypotheses])


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_unknown_size_and_unseen_person(tmp_path: Path, suffix: str) -> None:
    errors = torch.tensor([[float("nan")], [1.5]])
    written = make(2, 1, image_size=None, reprojection_error_px=errors)
    path = tmp_path / f"joints.{suffix}"
    WRITERS[suffix](path, written)
    read = read_predictions(path)
    assert read.image_size is None
    torch.testing.assert_close(read.reprojection_error_px, errors, equal_nan=True)


def test_json_says_what_a_reader_needs(tmp_path: Path) -> None:
    predictions = make()
    write_predictions_json(tmp_path / "joints.json", predictions)
    content = json.loads((tmp_path / "joints.json").read_text(), parse_constant=pytest.fail)
    assert (content["format"], content["unit"]) == (FORMAT, "metre")
    assert content["frame"] == "camera: x right, y down, z forward"
    person = content["people"][1]
    assert person["camera"]["assumed"] is True
    assert person["camera"]["statement"] == "focal length assumed: 800 px"
    assert list(person["joints"]) == content["joint_names"] == list(predictions.joint_set.joint_names)
    assert person["best"] == 1
    assert person["joints"]["l_wrist"] == person["hypotheses"][1]["joints"][predictions.joint_set.index("l_wrist")]
    np.testing.assert_allclose(
        list(person["joints"].values()), predictions.hypotheses[1, 1].numpy(), atol=6e-7, rtol=1e-6
    )


def test_npz_holds_no_pickled_objects(tmp_path: Path) -> None:
    write_predictions_npz(tmp_path / "joints.npz", make())
    with np.load(tmp_path / "joints.npz", allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    assert all(array.dtype.kind != "O" for array in arrays.values())
    assert str(arrays["unit"]) == "metre"
    assert arrays["joints"].shape == (2, 17, 3)


def test_settings_that_json_cannot_hold(tmp_path: Path) -> None:
    for value in (float("nan"), object()):
        with pytest.raises(ValueError, match="settings must hold finite JSON values"):
            write_predictions_json(tmp_path / "joints.json", make(settings={"eta": value}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hypotheses": torch.full((2, 3, 17, 3), float("nan"))}, "hypotheses holds NaN or infinity"),
        ({"joint_set": get_joint_set("smpl24")}, "hypotheses have 17 joints; smpl24 has 24"),
        ({"best": torch.tensor([0, 3])}, r"best holds \[0, 3\]; indices of 3 hypotheses"),
        ({"ids": ("one",)}, "ids has 1 entries for 2 people"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make(), **changes)


def test_reading_what_is_not_a_prediction_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no prediction file at"):
        read_predictions(tmp_path / "none.json")
    write_predictions_json(tmp_path / "old.json", make())
    text = (tmp_path / "old.json").read_text()
    (tmp_path / "old.json").write_text(text.replace(FORMAT, "humandiff-joints/99"))
    with pytest.raises(ValueError, match=r"old\.json: not a .* \(format 'humandiff-joints/99' is unknown\)"):
        read_predictions(tmp_path / "old.json")
    half = text[: len(text) // 2].encode()
    cases = {
        "half.json": half,
        "list.json": b"[]",
        "rubbish.npz": b"PK\x03\x04rubbish",
        "empty.npz": b"",
        "t.npz": b"text",
    }
    cases["nobody.json"] = json.dumps(json.loads(text.replace("humandiff-joints/99", FORMAT)) | {"people": []}).encode()
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: not a prediction file of format"):
            read_predictions(tmp_path / name)
