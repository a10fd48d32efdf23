"""What ``hmdiff predict`` leaves behind, through the command line and a real Trainer with tiny untrained models."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from lightning.pytorch import Trainer
from PIL import Image

from hmdiff.__main__ import main
from hmdiff.dat import Alignment
from hmdiff.data import HMDiffDataModule
from hmdiff.module import HMDiff
from hmdiff.sampler import Sampling
from hmdiff.writer import HMDiffWriter
from posecore.body.files import BodyModel, load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.pyramid import build_pyramid
from posecore.body.skeletons import FREIHAND_21, JOINTS_44, MANO_21
from posecore.body.smpl import SMPLLayer
from posecore.data.augment import CropAugmentation
from posecore.data.predict_input import PredictInput
from posecore.export.predictions import read_predictions
from posecore.export.smpl_predictions import read_smpl_predictions
from posecore.geometry.camera import project
from posecore.testing import write_hand_model

SIZE = (120, 90)
CROP = 64
SMALL: dict[str, Any] = {
    "backbone": "regnetx_002",
    "pretrained": False,
    "image_size": CROP,
    "head_channels": 8,
    "image_feature": "projected",
    "num_heads": 2,
    "feed_forward": 1,
    "final_dim": 16,
    "num_hypotheses": 2,
    "sampling": Sampling(num_inference_steps=2),
    "alignment": Alignment(num_poses=3),
}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def predict(model: HMDiff, given: PredictInput, out: Path, joint_set: str = "joints44", **options: Any) -> Path:
    data = HMDiffDataModule(predict=given, augmentation=CropAugmentation(size=CROP), joint_set=joint_set)
    Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=out.parent, callbacks=[HMDiffWriter(out, **options)],
    ).predict(model, data, return_predictions=False)  # fmt: skip
    return out


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def in_camera(path: Path) -> trimesh.Trimesh:
    """A mesh file back in the camera frame."""
    mesh = trimesh.load(path, process=False, force="mesh")
    assert isinstance(mesh, trimesh.Trimesh)
    mesh.vertices = mesh.vertices * [1, -1, -1]
    return mesh


def test_bodies_in_boxes_through_the_command_line(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"p.png": [[30, 10, 60, 80], [70, 10, 100, 80]]}))
    out = tmp_path / "out"
    arguments = {
        "model.backbone": "regnetx_002", "model.pretrained": "false", "model.image_size": CROP,
        "model.head_channels": 8, "model.image_feature": "projected", "model.num_heads": 2, "model.final_dim": 16,
        "model.num_hypotheses": 2, "model.sampling.num_inference_steps": 2, "model.alignment.num_poses": 3,
        "data.augmentation.size": CROP, "data.predict.photo": photo, "data.predict.boxes": boxes,
        "data.predict.focal_length": 100, "output.folder": out, "output.formats": "[amass, ply]",
        "output.samples": "true", "trainer.default_root_dir": tmp_path,
        "trainer.accelerator": "cpu", "trainer.logger": "false", "trainer.enable_progress_bar": "false",
    }  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["hmdiff", "predict", *(f"--{name}={value}" for name, value in arguments.items())])
    main()
    rows = ("p_0_frame0", "p_1_frame0")
    assert names(out) == [
        *(f"amass/{row}.npz" for row in rows),
        "overlays/p.png", "panel.png",
        *(f"ply/{row}{which}.ply" for row in rows for which in ("", "_sample0", "_sample1")),
        "predictions.json", "predictions.npz", "run.json", "samples.npz",
    ]  # fmt: skip

    model, made = load_body_model(), read_smpl_predictions(out / "predictions.npz")
    with np.load(out / "samples.npz", allow_pickle=False) as file:
        found = dict(file)
    assert found["vertices"].shape == (2, 6890, 3)
    assert found["samples"].shape == (2, 2, 431, 3)
    assert found["coarse_faces"].max() == 430
    assert found["ids"].tolist() == ["0", "1"]
    np.testing.assert_array_equal(found["faces"], model.faces.numpy())

    # The files are the final mesh itself, and the parameters are near it, as near as they say.
    posed = SMPLLayer(model)(made.betas, made.body_pose, made.global_orient, made.transl).vertices
    away = (posed - torch.from_numpy(found["vertices"])).norm(dim=-1).mean(dim=-1)
    torch.testing.assert_close(
        torch.tensor(made.settings["fit_residual_mm"]), 1000 * away, check_dtype=False, rtol=1e-3, atol=0.02
    )
    for row, name in enumerate(rows):
        mesh = in_camera(out / "ply" / f"{name}.ply")
        np.testing.assert_allclose(mesh.vertices, found["vertices"][row], atol=1e-5)
        np.testing.assert_array_equal(mesh.faces, found["faces"])
        kept = HMDiff(**SMALL).mesh.vertex_ids
        sample = in_camera(out / "ply" / f"{name}_sample1.ply").vertices[kept]
        np.testing.assert_allclose(sample, found["samples"][row, 1] + found["transl"][row], atol=1e-5)
    assert bool(made.reprojection_error_px.isnan().all())
    assert (made.settings["num_samples"], made.source["boxes"]) == (2, str(boxes))
    with Image.open(out / "overlays" / "p.png") as overlay, Image.open(photo) as plain:
        assert overlay.size == SIZE
        assert np.any(np.asarray(overlay) != np.asarray(plain)), "a mesh is on it"
    text = capsys.readouterr().out
    assert f"2 rows of 2 people, 2 samples each; SMPL fit {1000 * float(away.mean()):.1f} mm from the meshes\n" in text
    assert "amass/, samples.npz, ply/, panel.png, overlays/" in text

    monkeypatch.setenv("HUMANDIFF_TRACEBACK", "1")
    with pytest.raises(FileExistsError, match="already holds"):
        main()


def test_a_body_with_keypoints(tmp_path: Path, photo: Path) -> None:
    """What is written is what the model says of the person's crop, and the error is the fit's in the photograph."""
    torch.manual_seed(0)
    model = HMDiff(**SMALL)
    file = tmp_path / "k.json"
    keypoints = {"op_nose": [50, 20, 0.9], "op_r_knee": [40, 60, 0.8], "op_l_ankle": [55, 78, 0.7]}
    people = [{"keypoints": {name: keypoints.get(name, [0, 0, 0]) for name in JOINTS_44.joint_names}}]
    file.write_text(json.dumps({"joint_set": "joints44", "image_size": list(SIZE), "people": people}))
    given = PredictInput(photo=photo, keypoints=file, focal_length=100.0)
    out = predict(model, given, tmp_path / "out", formats=["glb", "amass"], pictures=False)
    assert names(out) == [
        "amass/p_0_frame0.npz", "glb/p_0_frame0.glb", "predictions.json", "predictions.npz", "run.json", "samples.npz",
    ]  # fmt: skip

    data = given.dataset("joints44", needs="people")
    meshes = model.eval()(CropAugmentation(size=CROP).evaluate(data.__getitems__([0]), JOINTS_44))
    expected = model.upsample(meshes.final) + meshes.transl[:, None]
    with np.load(out / "samples.npz", allow_pickle=False) as found:
        np.testing.assert_allclose(found["vertices"], expected.numpy(), atol=1e-4)
        np.testing.assert_allclose(found["samples"], meshes.samples.numpy(), atol=1e-4)
    np.testing.assert_allclose(in_camera(out / "glb" / "p_0_frame0.glb").vertices, expected[0].numpy(), atol=1e-4)

    made = read_smpl_predictions(out / "predictions.npz")
    joints = NamedJoints(JOINTS_44)(made.betas, made.body_pose, made.global_orient, made.transl)[0]
    pixels = project(joints, data.samples["K"][0])
    distances = [(pixels[JOINTS_44.index(name)] - torch.tensor([x, y])).norm() for name, (x, y, _) in keypoints.items()]
    torch.testing.assert_close(made.reprojection_error_px[0], torch.stack(distances).mean(), rtol=1e-3, atol=1e-2)


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, BodyModel]:
    folder = tmp_path_factory.mktemp("hand")
    model = load_body_model(write_hand_model(folder / "hand.npz"))
    build_pyramid(model.v_template.numpy(), model.faces.numpy(), [195]).save(folder / "pyramid.npz")
    return folder / "hand.npz", folder / "pyramid.npz", model


def test_hands_have_joints_and_meshes_and_no_body(
    tmp_path: Path, photo: Path, hand: tuple[Path, Path, BodyModel], capsys: pytest.CaptureFixture[str]
) -> None:
    body_model, pyramid, model = hand
    torch.manual_seed(0)
    network = HMDiff(
        **SMALL, body_model=body_model, pyramid=pyramid, joint_set="mano21", keypoints=None, protocol="hmdiff_freihand"
    )
    file = tmp_path / "k.json"
    keypoints = {name: [30 + 2 * i, 20 + 2 * i, 0.5] for i, name in enumerate(FREIHAND_21.joint_names)}
    file.write_text(
        json.dumps({"joint_set": "freihand21", "image_size": list(SIZE), "people": [{"keypoints": keypoints}]})
    )
    given = PredictInput(photo=photo, keypoints=file, focal_length=100.0)
    out = predict(network, given, tmp_path / "out", joint_set="freihand21", formats=["obj", "html", "bvh"])
    assert names(out) == [
        "obj/p_0_frame0.obj", "overlays/p.png", "panel.png", "people.html", "predictions.json", "predictions.npz",
        "run.json", "samples.npz",
    ]  # fmt: skip
    made = read_predictions(out / "predictions.npz")
    assert (made.method, made.joint_set) == ("HMDiff", MANO_21)
    mesh = in_camera(out / "obj" / "p_0_frame0.obj")
    assert mesh.vertices.shape == (778, 3)
    np.testing.assert_allclose(made.best_joints[0, :16], model.J_regressor.numpy() @ mesh.vertices, atol=1e-4)
    # Keypoints are those of the file under MANO's order, and the error is between them and the joints.
    wrist = MANO_21.index("wrist")
    assert made.keypoints_2d_px[0, wrist].tolist() == keypoints["wrist"][:2]
    distance = (project(made.best_joints, made.K) - made.keypoints_2d_px).norm(dim=-1)
    torch.testing.assert_close(made.reprojection_error_px[:, 0], distance.mean(dim=-1), rtol=1e-4, atol=1e-3)
    assert read_predictions(out / "predictions.json").settings["num_samples"] == 2
    text = capsys.readouterr().out
    assert f"1 rows of 1 people, 2 samples each; mean reprojection error {float(distance.mean()):.1f} px\n" in text
    assert (
        f"written: {out}/predictions.json, predictions.npz, people.html, samples.npz, obj/, panel.png, overlays/\n"
        in text
    )


def test_formats_that_are_not_written_are_refused() -> None:
    with pytest.raises(ValueError, match="formats: 'stl' unknown"):
        HMDiffWriter(formats=["stl"])  # type: ignore[list-item]
