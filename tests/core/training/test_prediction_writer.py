"""What `predict` of a method of joints leaves behind, through a real Trainer and a toy method."""

import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor

from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import H36M_17
from posecore.data.datamodule import PoseDataModule
from posecore.data.predict_input import PredictInput
from posecore.data.sample import PoseSample
from posecore.export.predictions import read_predictions
from posecore.export.smpl_predictions import read_smpl_predictions
from posecore.geometry.camera import project
from posecore.training.prediction_writer import PredictionWriter

SIZE = (161, 120)
K = torch.tensor([[200.0, 0, 80.5], [0, 200.0, 60], [0, 0, 1]])


def standing() -> Tensor:
    """An upright body's joints, 4 m before the camera."""
    upright = torch.eye(3).repeat(1, 24, 1, 1)
    upright[:, 0] = torch.diag(torch.tensor([1.0, -1, -1]))
    joints: Tensor = NamedJoints(H36M_17)(torch.zeros(1, 10), upright[:, 1:], upright[:, 0])[0]
    return joints + torch.tensor([0.0, 0.2, 4.0])


class Toy(LightningModule):
    """Two hypotheses: the standing body moved by the row's centimetres, and the same 10 cm farther; draws noise.

    Args:
        fails_at: The batch at which it stops with an error.
    """

    def __init__(self, fails_at: int | None = None, weight: float = 1.0) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(self.layer.weight, weight)
        self.fails_at = fails_at
        self.seen: list[list[int]] = []

    def predict_step(self, batch: PoseSample, batch_idx: int) -> dict[str, Tensor]:
        if batch_idx == self.fails_at:
            raise RuntimeError("the power is gone")
        rows = batch["row"]
        self.seen.append(rows.tolist())
        noise = torch.randn(len(rows), 17, 3, generator=torch.Generator().manual_seed(0))
        joints = standing() + 0.01 * rows[:, None, None] + 1e-3 * noise
        hypotheses = torch.stack((joints + torch.tensor([0, 0, 0.1]), joints), dim=1)
        error = torch.tensor([2.0, 1.0]).expand(len(rows), 2)
        return {"hypotheses": hypotheses, "best": torch.ones_like(rows), "reprojection_error_px": error}


def people(path: Path, labels: Sequence[dict[str, Any]]) -> Path:
    pixels = project(standing(), K).tolist()
    keypoints = {name: [*xy, 0.8] for name, xy in zip(H36M_17.joint_names, pixels, strict=True)}
    content = {
        "joint_set": "h36m17", "image_size": SIZE, "people": [{"keypoints": keypoints, **label} for label in labels],
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return path


def predict(folder: Path, given: PredictInput, method: Toy | None = None, **options: Any) -> Path:
    out = folder / "out"
    Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[PredictionWriter(out, **options)],
    ).predict(method or Toy(), PoseDataModule(predict=given, batch_size=2))  # fmt: skip
    return out


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as content:
        return dict(content)


@pytest.fixture
def five(tmp_path: Path) -> PredictInput:
    return PredictInput(keypoints=people(tmp_path / "k.json", [{"id": str(i)} for i in range(5)]), focal_length=200.0)


def test_joints_of_a_photograph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", SIZE, "gray").save(tmp_path / "p.png")
    file = people(tmp_path / "k.json", [{"id": "a"}, {"id": "b"}])
    out = predict(tmp_path, PredictInput(photo=tmp_path / "p.png", keypoints=file, focal_length=200.0))
    assert names(out) == [
        "overlays/p.png", "panel.png", "people.html", "predictions.json", "predictions.npz", "run.json",
    ]  # fmt: skip
    made = read_predictions(out / "predictions.json")
    assert (made.ids, made.views, made.fps, made.best.tolist()) == (("a", "b"), (0, 0), None, [1, 1])
    assert made.source["keypoints"] == str(file)
    content = json.loads((out / "predictions.json").read_text())
    assert content["notes"] == list(made.notes)
    assert content["people"][1]["joints"]["pelvis"] == pytest.approx(made.best_joints[1, 0].tolist(), abs=1e-6)
    with Image.open(out / "overlays" / "p.png") as overlay:
        assert overlay.size == SIZE
        drawn = np.asarray(overlay.convert("RGB"))
    x, y = project(made.best_joints[0], made.K[0])[H36M_17.index("r_knee")].round().int().tolist()
    assert drawn[y, x].tolist() != [128, 128, 128], "a leg is drawn where it is seen"
    text = capsys.readouterr().out
    assert "2 rows of 2 people x 2 hypotheses; chosen ones 1.0 px from their keypoints\n" in text
    assert f"written: {out}/predictions.json, predictions.npz, people.html, panel.png, overlays/\n" in text


def test_results_are_on_disk_before_the_next_batch(tmp_path: Path, five: PredictInput) -> None:
    with pytest.raises(RuntimeError, match="power"):
        predict(tmp_path, five, Toy(fails_at=2))
    assert names(tmp_path / "out") == ["parts/rows_000000000.npz", "parts/rows_000000002.npz", "run.json"]


def test_a_continued_run_gives_what_one_run_gives(tmp_path: Path, five: PredictInput) -> None:
    with pytest.raises(RuntimeError, match="power"):
        predict(tmp_path, five, Toy(fails_at=1))
    with pytest.raises(FileExistsError, match=r"--output\.resume true continues"):
        predict(tmp_path, five)
    method = Toy()
    out = predict(tmp_path, five, method, resume=True)
    assert method.seen == [[2, 3], [4]], "rows that are done are not predicted again"
    assert not (out / "parts").exists()
    (tmp_path / "whole").mkdir()
    whole = predict(tmp_path / "whole", five)
    found, expected = arrays_of(out / "predictions.npz"), arrays_of(whole / "predictions.npz")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    for name in ("predictions.json", "people.html", "panel.png", "run.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_run_of_which_only_the_files_are_missing_is_finished(
    tmp_path: Path, five: PredictInput, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk was full when the files were made; the batches are not predicted again."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the page has 600 kB
    try:
        with pytest.raises(OSError, match=r"people\.html' cannot be written: File too large; what is done stays"):
            predict(tmp_path, five)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 3
    method = Toy()
    out = predict(tmp_path, five, method, resume=True)
    assert method.seen == []
    assert len(read_predictions(out / "predictions.npz")) == 5
    assert "5 rows of 5 people" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["keypoints", "weights"])
def test_another_run_is_not_continued(tmp_path: Path, five: PredictInput, change: str) -> None:
    with pytest.raises(RuntimeError, match="power"):
        predict(tmp_path, five, Toy(fails_at=1))
    before = arrays_of(tmp_path / "out" / "parts" / "rows_000000000.npz")
    if change == "keypoints":
        text = (tmp_path / "k.json").read_text()
        (tmp_path / "k.json").write_text(text.replace('"1"', '"someone"'))
        with pytest.raises(ValueError, match=r"holds another run: inputs\.labels was \w+ and is"):
            predict(tmp_path, five, resume=True)
    else:
        with pytest.raises(ValueError, match=r"holds another run: weights was \w+ and is"):
            predict(tmp_path, five, Toy(weight=2.0), resume=True)
    after = arrays_of(tmp_path / "out" / "parts" / "rows_000000000.npz")
    np.testing.assert_array_equal(before["hypotheses"], after["hypotheses"])


def test_nothing_is_kept_in_memory(tmp_path: Path, five: PredictInput) -> None:
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, callbacks=[PredictionWriter(tmp_path / "out", pictures=False)],
    )  # fmt: skip
    assert not trainer.predict(Toy(), PoseDataModule(predict=five, batch_size=2))


def test_bodies_are_fitted_to_the_joints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", SIZE, "gray").save(tmp_path / "p.png")
    file = people(tmp_path / "k.json", [{"id": "a"}, {"id": "b"}])
    given = PredictInput(photo=tmp_path / "p.png", keypoints=file, focal_length=200.0)
    out = predict(tmp_path, given, body=True, formats=["amass", "ply"])
    rows = ("p_a_frame0", "p_b_frame0")
    assert names(out) == [
        *(f"body/amass/{row}.npz" for row in rows), "body/overlays/p.png", "body/panel.png",
        *(f"body/ply/{row}.ply" for row in rows), "body/predictions.json", "body/predictions.npz", "overlays/p.png",
        "panel.png", "predictions.json", "predictions.npz", "run.json",
    ]  # fmt: skip
    bodies, joints = read_smpl_predictions(out / "body" / "predictions.npz"), read_predictions(out / "predictions.npz")
    posed = NamedJoints(H36M_17)(bodies.betas, bodies.body_pose, bodies.global_orient, bodies.transl)
    away = (posed - joints.best_joints).norm(dim=-1).mean(dim=-1)
    assert float(away.max()) < 0.025
    torch.testing.assert_close(torch.tensor(bodies.settings["fit_residual_mm"]), 1000 * away, rtol=1e-2, atol=0.02)
    distance = (project(posed, bodies.K) - bodies.keypoints_2d_px).norm(dim=-1).mean(dim=-1)
    torch.testing.assert_close(bodies.reprojection_error_px, distance, rtol=1e-3, atol=1e-2)
    assert f"bodies {1000 * float(away.mean()):.1f} mm from the joints" in capsys.readouterr().out


def test_what_was_left_out_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", SIZE, "gray").save(folder / "p.png")
    labels = [{"id": "a", "image": "p.png"}]
    for number in range(12):
        (folder / f"broken{number:02d}.png").write_bytes(b"no picture")
        labels.append({"id": "x", "image": f"broken{number:02d}.png"})
    given = PredictInput(photo=folder, keypoints=people(tmp_path / "k.json", labels), focal_length=200.0)
    out = predict(tmp_path, given, formats=[])
    assert names(out) == [
        "overlays/p.png", "panel.png", "predictions.json", "predictions.npz", "run.json", "skipped.json",
    ]  # fmt: skip
    entries = json.loads((out / "skipped.json").read_text())
    assert [entry["name"] for entry in entries] == [f"broken{number:02d}.png" for number in range(12)]
    assert all("no picture" in entry["reason"] for entry in entries)
    text = capsys.readouterr().out
    assert "12 skipped (all in skipped.json):\n  broken00.png: " in text
    assert text.rstrip().endswith("and 2 more")
    for path in folder.glob("broken*"):
        path.unlink()
    given = PredictInput(photo=folder, keypoints=people(tmp_path / "k.json", labels[:1]), focal_length=200.0)
    assert "skipped.json" not in names(predict(tmp_path, given, formats=[], overwrite=True)), "an old report is gone"


def test_a_video_has_an_overlay_of_its_own_length(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    folder = tmp_path / "frames"
    folder.mkdir()
    for frame in range(6):
        Image.new("RGB", SIZE, (40 * frame, 90, 90)).save(folder / f"{frame:03d}.png")
    labels = [{"id": "x", "frame": frame, "image": f"{frame:03d}.png"} for frame in (0, 1, 2, 4, 5)]
    given = PredictInput(
        photo=folder, keypoints=people(tmp_path / "k.json", labels), group="video", fps=25.0, track=False,
        focal_length=200.0,
    )  # fmt: skip
    out = predict(tmp_path, given)
    assert names(out) == ["overlay.mp4", "panel.png", "people.html", "predictions.json", "predictions.npz", "run.json"]
    with av.open(str(out / "overlay.mp4")) as video:
        assert video.streams.video[0].average_rate == 25
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 6
    reds = [int(frame[:5, :5, 0].mean()) for frame in frames]
    assert reds == pytest.approx([0, 40, 80, 80, 160, 200], abs=12), "frame 3, where nobody is, stands still"


def test_formats_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="formats: 'fbx' unknown; valid are amass, smpl, glb, bvh"):
        PredictionWriter(tmp_path, formats=["glb", "fbx"])  # type: ignore[list-item]
