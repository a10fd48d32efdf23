"""What a fit leaves behind, through a real Trainer and a toy method whose fit is known."""

import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import trimesh
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from posecore.body.files import load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import BODY_25
from posecore.body.smpl import SMPLLayer
from posecore.data.grouping import WholeGroups
from posecore.data.predict_input import PredictInput
from posecore.data.sample import PoseSample
from posecore.export.smpl_predictions import read_smpl_predictions
from posecore.fitting.estimate import PosedPeople, SMPLEstimate
from posecore.geometry.camera import project
from posecore.geometry.rotation import axis_angle_to_rotmat, rotmat_to_rot6d
from posecore.training.smpl_writer import SMPLWriter

SIZE = (160, 120)


class Toy(LightningModule):
    """Puts everybody in the rest pose; the fit moves a person ``row`` centimetres to the side."""

    def __init__(self) -> None:
        super().__init__()
        self.body_model = load_body_model()

    def predict_step(self, batch: PoseSample, batch_idx: int) -> dict[str, Tensor]:
        rows = batch["row"]
        upright = torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(len(rows), 24, 1)
        upright[:, 0] = torch.tensor([1.0, 0, 0, 0, -1, 0])  # the camera's y points down
        out: dict[str, Tensor] = {"row": rows}
        for prefix, step in (("start_", 0.0), ("", 0.01)):
            out[f"{prefix}pose_rot6d"] = upright
            out[f"{prefix}betas"] = torch.zeros(len(rows), 10)
            out[f"{prefix}transl"] = torch.stack((step * rows, 0.2 + 0 * rows, 4.0 + 0 * rows), dim=1)
            out[f"{prefix}reprojection_error_px"] = 10.0 + step * rows
        return out


class Guesser(LightningModule):
    """Three answers per person, who turn by 0, 0.5 and 1 radian about the vertical; picks number row modulo 3."""

    pick_statement = "as the row says"

    def __init__(self) -> None:
        super().__init__()
        self.body_model = load_body_model()

    def predict_step(self, batch: PoseSample, batch_idx: int) -> dict[str, Tensor]:
        rows = batch["row"]
        count, best = len(rows), rows % 3
        angles = torch.tensor([[math.pi, 0.0, 0.0]]), torch.tensor([[0.0, k / 2, 0.0] for k in range(3)])
        turn, upright = (axis_angle_to_rotmat(angle) for angle in angles[::-1])
        pose = torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(count, 3, 24, 1)
        pose[:, :, 0] = rotmat_to_rot6d(upright @ turn)
        seen = (batch["confidence"] > 0).any(dim=-1)
        return {
            "row": rows,
            "pose_rot6d": pose[torch.arange(count), best],
            "betas": torch.zeros(count, 10),
            "transl": torch.tensor([[0.0, 0.2, 4.0]]).repeat(count, 1),
            "reprojection_error_px": torch.where(seen, 5.0, torch.nan),
            "hypotheses_rot6d": pose,
            "best": best,
        }


class ToyData(LightningDataModule):
    def __init__(self, predict: PredictInput, keys: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.predict, self.keys = predict, keys
        needs: Literal["keypoints", "people"] = "people" if predict.boxes else "keypoints"
        self.predict_set = predict.dataset("joints44", copies_only=True, needs=needs, fill_gaps=True)

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(WholeGroups(self.predict_set, self.keys, 2), batch_size=None)


def keypoint_file(path: Path, labels: list[dict[str, Any]]) -> Path:
    """People who stand where `Toy` puts them, give or take a few pixels; the first has lost a keypoint."""
    body = NamedJoints(BODY_25)
    upright = torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(1, 24, 1)
    upright[:, 0] = torch.tensor([1.0, 0, 0, 0, -1, 0])
    estimate = SMPLEstimate(upright, torch.zeros(1, 10), torch.tensor([[0.0, 0.2, 4.0]]))
    K = torch.tensor([[[200.0, 0, 80], [0, 200, 60], [0, 0, 1]]])
    pixels = project(PosedPeople(estimate, body).joints_cam, K)[0].tolist()
    keypoints = {name: [*xy, 0.8] for name, xy in zip(BODY_25.joint_names, pixels, strict=True)}
    people = [{"keypoints": keypoints, **label} for label in labels]
    people[0] = {**people[0], "keypoints": {n: k for n, k in keypoints.items() if n != "nose"}}
    path.write_text(json.dumps({"joint_set": "body25", "image_size": list(SIZE), "people": people}))
    return path


def predict(folder: Path, data: ToyData, method: LightningModule | None = None, **options: Any) -> Path:
    out = folder / "out"
    Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[SMPLWriter(out, **options)],
    ).predict(method or Toy(), data, return_predictions=False)  # fmt: skip
    return out


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_photographs_get_their_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("one", "two"):
        Image.new("RGB", SIZE, "gray").save(photos / f"{name}.png")
    labels = [{"id": "a", "image": "one"}, {"id": "b/c", "image": "two"}, {"id": "d", "image": "one"}]
    file = keypoint_file(tmp_path / "k.json", labels)
    out = predict(tmp_path, ToyData(PredictInput(keypoints=file, photo=photos, focal_length=200.0)))
    rows = ("one_a_frame0", "one_d_frame0", "two_b_c_frame0")
    assert names(out) == [
        *(f"amass/{row}.npz" for row in rows), *(f"bvh/{row}.bvh" for row in rows), *(f"glb/{row}.glb" for row in rows),
        "overlays/one.png", "overlays/two.png", "panel.png", "people.html", "predictions.json", "predictions.npz",
        "run.json",
    ]  # fmt: skip
    for name in ("one", "two"):
        with Image.open(out / "overlays" / f"{name}.png") as overlay:
            assert overlay.size == SIZE
            assert len(np.unique(np.asarray(overlay.convert("RGB")).reshape(-1, 3), axis=0)) > 10, "a body is on it"
    text = capsys.readouterr().out
    assert "3 rows of 3 people; mean reprojection error 10.0 px before, 10.0 px after" in text
    files = "predictions.json, predictions.npz, amass/, bvh/, people.html, glb/, panel.png, overlays/"
    assert f"written: {out}/{files}" in text


def test_the_numbers_are_the_methods(tmp_path: Path) -> None:
    file = keypoint_file(tmp_path / "k.json", [{"id": str(i), "frame": i} for i in range(5)])
    out = predict(tmp_path, ToyData(PredictInput(keypoints=file, focal_length=200.0)))
    made = read_smpl_predictions(out / "predictions.npz")
    assert (made.method, made.ids, made.frames, made.fps) == ("Toy", tuple("01234"), tuple(range(5)), None)
    expected = torch.tensor([[0.01 * row, 0.2, 4.0] for row in range(5)])
    torch.testing.assert_close(made.transl, expected)
    assert made.start_transl is not None
    assert not made.start_transl[:, 0].any()
    posed = SMPLLayer()(made.betas, made.body_pose, made.global_orient, made.transl)
    torch.testing.assert_close(made.joints, posed.joints, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.reprojection_error_px, 10 + 0.01 * torch.arange(5.0))
    assert made.source["keypoints"] == str(file)
    assert not made.camera_assumed
    content = json.loads((out / "predictions.json").read_text())
    assert [person["transl"] for person in content["people"]] == [pytest.approx(row) for row in expected.tolist()]


def test_rows_of_groups_come_back_in_the_inputs_order(tmp_path: Path) -> None:
    """A video of two tracks: batches are tracks, rows of the file are not sorted, and somebody is lost for a frame."""
    labels = [{"id": track, "frame": frame} for frame in (0, 1, 3) for track in ("x", "y")]
    labels += [{"id": "y", "frame": 2}]
    file = keypoint_file(tmp_path / "k.json", labels)
    data = ToyData(PredictInput(keypoints=file, group="video", fps=25.0, focal_length=200.0), ("clip", "view"))
    out = predict(tmp_path, data)
    assert names(out / "amass") == ["x.npz", "y.npz"]
    made = read_smpl_predictions(out / "predictions.npz")
    assert list(zip(made.ids, made.frames, strict=True)) == [(t, f) for t in "xy" for f in range(4)]
    torch.testing.assert_close(made.transl[:, 0], 0.01 * torch.arange(8.0))
    for track in "xy":
        with np.load(out / "amass" / f"{track}.npz", allow_pickle=False) as motion:
            assert motion["poses"].shape[0] == 4
            assert motion["mocap_frame_rate"] == 25


def test_notes_are_printed_on_lines_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = keypoint_file(tmp_path / "k.json", [{"id": "x", "frame": 0}, {"id": "x", "frame": 2}])
    data = ToyData(PredictInput(keypoints=file, group="video", focal_length=200.0), ("clip", "view"))
    assert data.predict_set.notes
    predict(tmp_path, data)
    lines = capsys.readouterr().out.splitlines()
    assert set(data.predict_set.notes) < set(lines)
    assert any(line.startswith("3 rows of 1 people; ") for line in lines)


def test_pictures_can_be_left_out_and_a_full_folder_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", SIZE, "gray").save(tmp_path / "p.png")
    file = keypoint_file(tmp_path / "k.json", [{"id": "x"}])
    data = ToyData(PredictInput(keypoints=file, photo=tmp_path / "p.png", focal_length=200.0))
    out = predict(tmp_path, data, pictures=False)
    assert "predictions.npz" in names(out)
    assert not list(out.rglob("*.png"))
    with pytest.raises(FileExistsError, match="already holds"):
        predict(tmp_path, data)
    assert (predict(tmp_path, data, overwrite=True) / "overlays" / "p.png").is_file()


def test_hypotheses_of_people_in_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("one", "two"):
        Image.new("RGB", SIZE, "gray").save(photos / f"{name}.png")
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"one.png": [[50, 20, 110, 110], [0, 0, 40, 90]], "two.png": [[50, 20, 110, 110]]}))
    given = PredictInput(photos, boxes=boxes, focal_length=200.0, crops=32)
    out = predict(tmp_path, ToyData(given), Guesser(), formats=["amass", "obj"], hypotheses=True)
    rows = ("one_0_frame0", "one_1_frame0", "two_0_frame1")
    assert names(out) == [
        *(f"amass/{row}.npz" for row in rows),
        *(f"obj/{row}{which}.obj" for row in rows for which in ("", "_hyp0", "_hyp1", "_hyp2")),
        "overlays/one.png", "overlays/two.png", "panel.png", "predictions.json", "predictions.npz", "run.json",
    ]  # fmt: skip
    made = read_smpl_predictions(out / "predictions.npz")
    assert made.best is not None
    assert made.hypotheses_global_orient is not None
    assert made.best.tolist() == [0, 1, 2]
    assert (made.pick, made.start_betas) == ("as the row says", None)
    assert bool(made.reprojection_error_px.isnan().all())
    upright = axis_angle_to_rotmat(torch.tensor([math.pi, 0.0, 0.0]))
    expected = torch.stack([upright @ axis_angle_to_rotmat(torch.tensor([0.0, k / 2, 0.0])) for k in range(3)])
    torch.testing.assert_close(made.global_orient, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.hypotheses_global_orient[1], expected, atol=1e-5, rtol=0)
    assert made.source["boxes"] == str(boxes)
    people = json.loads((out / "predictions.json").read_text())["people"]
    assert [person["best"] for person in people] == [0, 1, 2]
    assert people[0]["reprojection_error_px"] is None
    # The mesh is the hypothesis, upright: y up, in front of a camera that looks along -z.
    layer = SMPLLayer(load_body_model(), joints=())
    vertices = layer(made.betas[1], made.body_pose[1], expected[2], made.transl[1]).vertices
    mesh = trimesh.load(out / "obj" / "one_1_frame0_hyp2.obj", process=False, force="mesh")
    assert isinstance(mesh, trimesh.Trimesh)
    np.testing.assert_allclose(mesh.vertices, vertices.numpy() * [1, -1, -1], atol=1e-4)
    text = capsys.readouterr().out
    assert "3 rows of 2 people, 3 hypotheses each\n" in text
    assert "amass/, obj/, panel.png, overlays/" in text


def test_hypotheses_of_people_with_keypoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", SIZE, "gray").save(tmp_path / "p.png")
    file = keypoint_file(tmp_path / "k.json", [{"id": "x"}])
    given = PredictInput(tmp_path / "p.png", keypoints=file, focal_length=200.0, crops=32)
    out = predict(tmp_path, ToyData(given), Guesser(), formats=[])
    assert names(out) == ["overlays/p.png", "panel.png", "predictions.json", "predictions.npz", "run.json"]
    assert "1 rows of 1 people, 3 hypotheses each; mean reprojection error 5.0 px\n" in capsys.readouterr().out
    content = json.loads((out / "predictions.json").read_text())
    assert content["source"]["keypoints"] == str(file)
    assert content["people"][0]["keypoints_2d"]["op_neck"][2] == pytest.approx(0.8)
