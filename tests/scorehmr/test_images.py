"""From pictures to fitted bodies: crops of a file's boxes, features of a timm backbone, training and a fit."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from lightning import Trainer
from PIL import Image

from posecore.body.skeletons import COCO_17
from posecore.data import SMPLNpz
from posecore.data.predict_input import PredictInput
from posecore.data.sample import PoseSample
from posecore.testing import write_smpl_npz, write_start_cache
from scorehmr.data import ScoreHMRDataModule
from scorehmr.features import TimmFeatures
from scorehmr.fitting import FitSettings
from scorehmr.module import ScoreHMR
from scorehmr.sampler import Guidance

BACKBONE, SIDE, ROWS = "resnet18", 64, 6
QUICK = Guidance(noise_level=4, step=2, outer_loops=1, stop_change=None)


def make_train(root: Path) -> SMPLNpz:
    return SMPLNpz(root, ["train.npz"], image_root=root, require_pose=True, crops=SIDE)


def make_test(root: Path) -> SMPLNpz:
    return SMPLNpz(root, ["train.npz"], start=["start.npz"], image_root=root, truth="smpl", crops=SIDE)


def model_of(features: TimmFeatures) -> ScoreHMR:
    return ScoreHMR(
        features, hidden_dim=16, num_blocks=1, fit=FitSettings(guidance=QUICK), protocol="open_smpl24_fit", lr=1e-2
    )


def trainer(folder: Path, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, num_sanity_val_steps=0, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People with pictures of coarse noise, and a start that is the truth."""
    root = tmp_path_factory.mktemp("pictures")
    people = write_smpl_npz(root, rows=ROWS, unknown=0)
    write_start_cache(root / "start.npz", people)
    (root / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for name, size in dict(zip(people["imgname"], people["image_size"].astype(int), strict=True)).items():
        coarse = Image.fromarray(draw.integers(0, 256, (20, 20, 3), dtype=np.uint8))
        coarse.resize(tuple(size)).save(root / name, compress_level=1)
    return root


@pytest.fixture(scope="module")
def fitted(root: Path) -> SimpleNamespace:
    """A model after one step of training, and its scores."""
    torch.manual_seed(0)
    model = model_of(TimmFeatures(BACKBONE, pretrained=False))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sets: dict[str, Any] = {"val": {"people": make_test}, "test": {"people": make_test}}
    data = ScoreHMRDataModule(root, train=[make_train], batch_size=4, **sets)
    run = trainer(root, max_steps=1, limit_val_batches=0)
    run.fit(model, data)
    (scores,) = trainer(root).test(model, data, verbose=False)
    return SimpleNamespace(model=model.eval(), before=before, scores=scores, loss=run.callback_metrics["train/loss"])


def test_a_step_trains_the_denoiser(fitted: SimpleNamespace) -> None:
    assert 0.1 < fitted.loss < 10
    moved = {name for name, value in fitted.model.state_dict().items() if not torch.equal(value, fitted.before[name])}
    assert any(name.startswith("diffusion.") for name in moved)
    trained = {name for name, parameter in fitted.model.named_parameters() if parameter.requires_grad}
    assert not {name for name in dict(fitted.model.named_parameters()) if name in moved} - trained


def test_a_frozen_backbone_keeps_its_statistics_in_training(fitted: SimpleNamespace, root: Path) -> None:
    moved = {name for name, value in fitted.model.state_dict().items() if not torch.equal(value, fitted.before[name])}
    assert not {name for name in moved if name.startswith("features.")}
    images = make_train(root).__getitems__(range(ROWS))["image"]
    assert images.shape == (ROWS, 3, SIDE, SIDE)
    with torch.no_grad():
        features = fitted.model.features.backbone(images)
    torch.testing.assert_close(fitted.model.standardizer.mean, features.mean(dim=0))
    assert features.std(dim=0).gt(0).any(), "crops differ"


def test_a_fit_starts_at_the_cache_and_is_scored(fitted: SimpleNamespace) -> None:
    names = {f"test/people/{prefix}{name}" for prefix in ("", "start_") for name in ("mpjpe", "pa_mpjpe")}
    assert names == set(fitted.scores)
    assert fitted.scores["test/people/start_mpjpe"] < 0.1, "millimetres; the start is the truth"
    assert fitted.scores["test/people/mpjpe"] > fitted.scores["test/people/start_mpjpe"]


def test_a_fit_depends_on_the_picture(fitted: SimpleNamespace, root: Path) -> None:
    batch = make_test(root).__getitems__([0, 1])
    result = fitted.model(batch)
    assert torch.isfinite(result.fitted.pose_rot6d).all()
    assert torch.equal(fitted.model(batch).fitted.pose_rot6d, result.fitted.pose_rot6d)
    swapped: PoseSample = {**batch, "image": batch["image"].flip(0)}
    assert not torch.equal(fitted.model(swapped).fitted.pose_rot6d, result.fitted.pose_rot6d)


def test_a_saved_backbone_sees_crops_as_before(root: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network: Any = timm.create_model(BACKBONE, num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "backbone.pth")
    features = TimmFeatures(BACKBONE, checkpoint=tmp_path / "backbone.pth").eval()
    batch = make_train(root).__getitems__([0, 3])
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(batch["image"]), pre_logits=True)
    torch.testing.assert_close(features(batch), expected)


def test_predict_reads_crops_of_photographs(fitted: SimpleNamespace, root: Path) -> None:
    keypoints = {name: [600.0 + 3 * joint, 300.0 + 9 * joint, 0.9] for joint, name in enumerate(COCO_17.joint_names)}
    photo = next((root / "pictures").glob("0_*.png"))
    (root / "k.json").write_text(json.dumps({"joint_set": "coco17", "people": [{"keypoints": keypoints}]}))
    data = ScoreHMRDataModule(predict=PredictInput(photo, root / "k.json", crops=SIDE))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["image"].shape == (1, 3, SIDE, SIDE)
    start = make_test(root).__getitems__([0])
    batch |= {key: value for key, value in start.items() if key.startswith("start_")}
    out = fitted.model.predict_step(batch, 0)
    assert torch.isfinite(out["pose_rot6d"]).all()
