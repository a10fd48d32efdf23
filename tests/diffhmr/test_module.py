"""Diff-HMR's module: what it computes from a batch, what it trains, what it takes and refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from diffhmr.data import DiffHMRDataModule
from diffhmr.module import DiffHMR, LossWeights
from diffhmr.sampler import Sampling
from posecore.body.skeletons import JOINTS_44
from posecore.body.smpl import SMPLLayer
from posecore.data import OpenImages
from posecore.data.augment import CropAugmentation
from posecore.data.sample import PoseSample
from posecore.geometry.camera import project, project_weak_perspective
from posecore.training.checkpoints import save_weights

SIZE = 64
SMALL: dict[str, Any] = {
    "backbone": "regnetx_002",
    "pretrained": False,
    "image_size": SIZE,
    "dim": 16,
    "cond_channels": 8,
    "hidden_dim": 32,
    "protocol": "open_mesh24",
    "num_hypotheses": 3,
    "counts": (1, 3),
    "sampling": Sampling(sampler="ddim", num_inference_steps=3),
}


def small(**changes: Any) -> DiffHMR:
    torch.manual_seed(0)
    return DiffHMR(**{**SMALL, **changes})


@pytest.fixture(scope="module")
def batch() -> PoseSample:
    dataset = OpenImages(Path("nowhere"), ["sample"])
    rows = dataset.__getitems__(range(0, 16, 2))
    return CropAugmentation(size=SIZE).evaluate(rows, JOINTS_44)


def losses(model: DiffHMR, batch: PoseSample, seed: int = 0) -> dict[str, Tensor]:
    return model._losses(batch, torch.Generator().manual_seed(seed))


def test_bodies_of_a_batch(batch: PoseSample) -> None:
    bodies = small().eval()(batch)
    assert bodies.pose_rotmat.shape == (8, 3, 24, 3, 3)
    identity = torch.eye(3).expand(8, 3, 24, 3, 3)
    torch.testing.assert_close(bodies.pose_rotmat @ bodies.pose_rotmat.mT, identity, rtol=0, atol=1e-3)
    assert (bodies.transl[:, 2] > 0).all()
    assert bodies.pose_rotmat.std(dim=1).mean() > 0.01, "hypotheses differ"


def test_the_same_seed_gives_the_same_bodies_and_another_others(batch: PoseSample) -> None:
    model = small().eval()
    first, again = model(batch), model(batch)
    torch.testing.assert_close(first.pose_rotmat, again.pose_rotmat, rtol=0, atol=0)
    model.seed = 1
    assert not torch.allclose(model(batch).pose_rotmat, first.pose_rotmat)


def test_no_truth_reaches_a_prediction(batch: PoseSample) -> None:
    model = small(pick="keypoints").eval()
    seen = {key: cast(dict[str, Any], batch)[key] for key in ("image", "K", "joints_2d_px", "confidence")}
    alone, full = model(cast(PoseSample, seen)), model(batch)
    torch.testing.assert_close(alone.pose_rotmat, full.pose_rotmat)
    assert torch.equal(alone.best, full.best)


def test_the_encoder_runs_once_for_all_hypotheses_and_draws(batch: PoseSample) -> None:
    model = small(noise_draws=4).eval()
    seen = []
    model.encoder.register_forward_hook(lambda module, args, z: seen.append(len(args[0])))
    model(batch, num_hypotheses=5)
    losses(model, batch)
    assert seen == [8, 8]


def test_translation_agrees_with_the_weak_camera(batch: PoseSample) -> None:
    """At the depth of SMPL's origin, the full camera and the weak one put a point on the same pixel of the crop."""
    model = small().eval()
    bodies = model(batch)
    at_origin = torch.zeros(8, 1, 3)
    weak = (project_weak_perspective(at_origin, bodies.cam_s_tx_ty) + 1) * SIZE / 2
    torch.testing.assert_close(project(bodies.transl[:, None], batch["K"]), weak, rtol=1e-4, atol=1e-2)


def test_true_poses_have_no_loss_but_the_noise(batch: PoseSample) -> None:
    """A denoiser that predicts the noise exactly gives back the clean pose, so pose and 3D terms vanish."""
    model = small(loss_weights=LossWeights(x0="uniform"))
    exact: dict[str, Any] = {}

    def keep(x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        exact["noise"] = noise
        return q_sample(x_0, t, noise)

    q_sample = model.schedule.q_sample
    model.schedule.q_sample = keep  # type: ignore[assignment, method-assign]
    model.denoiser.forward = lambda *args: exact["noise"]  # type: ignore[union-attr, method-assign, assignment]
    regress = model.regressor.forward
    model.regressor.forward = lambda z: replace(regress(z), betas=batch["betas"])  # type: ignore[method-assign, assignment]
    found = losses(model, batch)
    assert float(found["noise"]) == 0
    assert float(found["pose"].detach()) < 1e-6
    assert float(found["joints"].detach()) < 1e-6
    assert float(found["keypoints"].detach()) > 1e-3, "the camera is not known"


def test_gradients_reach_every_parameter(batch: PoseSample) -> None:
    for options in ({}, {"estimator": "regression"}, {"conditioning": "cross_attention"}, {"rotation": "axis_angle"}):
        model = small(**options)
        with torch.no_grad():
            for parameter in model.encoder.parameters():  # timm begins some scales at 0, which stops the gradient
                parameter.add_(0.01 * torch.randn(parameter.shape))
        torch.stack(list(losses(model, batch).values())).sum().backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().any())]
        assert missing == [], options


def test_unknown_poses_train_nothing_of_the_denoiser(batch: PoseSample) -> None:
    model = small()
    unknown = cast(PoseSample, {**batch, "has_pose": torch.zeros(8, dtype=torch.bool)})
    found = losses(model, unknown)
    assert all(float(found[name].detach()) == 0 for name in ("noise", "pose", "joints", "keypoints"))
    regression = small(estimator="regression")
    assert float(losses(regression, unknown)["keypoints"].detach()) > 0, "one output is supervised by 2D alone"


def test_a_row_without_truth_changes_no_loss(batch: PoseSample) -> None:
    """What stands in the place of unknown labels does not matter, NaN included."""
    model = small(estimator="regression").eval()
    known = torch.arange(8) < 5
    flags = {"has_pose": known, "has_betas": known, "joints_known": known[:, None].expand(-1, 44).clone()}
    broken = {**batch, **flags, "confidence": batch["confidence"] * known[:, None]}
    for key in ("global_orient", "body_pose", "betas", "joints_cam"):
        value = cast(dict[str, Tensor], batch)[key].clone()
        value[~known] = torch.nan
        broken[key] = value
    part = {key: value[known] for key, value in batch.items() if isinstance(value, Tensor)}
    expected, found = losses(model, cast(PoseSample, part)), losses(model, cast(PoseSample, broken))
    for name in ("pose", "joints", "betas", "keypoints"):
        torch.testing.assert_close(found[name], expected[name], msg=name)


def test_a_frozen_encoder_stays(batch: PoseSample) -> None:
    model = small(freeze_encoder=True)
    torch.stack(list(losses(model, batch).values())).sum().backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())


def test_encoder_and_regressor_of_another_run_begin_this_one(tmp_path: Path) -> None:
    source = small(estimator="regression")
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1.0)
    save_weights(tmp_path / "regressor.safetensors", source, "diffhmr", {})
    model = small(init_weights=str(tmp_path / "regressor.safetensors"))
    model._load(fresh=True)
    theirs = source.state_dict()
    for name, ours in model.state_dict().items():
        if name.startswith(("encoder.", "regressor.")):
            assert torch.equal(ours, theirs[name]), name
    resumed = small(init_weights=str(tmp_path / "regressor.safetensors"))
    resumed._load()  # a test takes its checkpoint's weights, not these
    assert not torch.equal(resumed.regressor.camera.weight, source.regressor.camera.weight)


def test_one_batch_is_learnt_by_heart(batch: PoseSample) -> None:
    model = small(estimator="regression")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    first = last = 0.0
    for step in range(40):
        total = torch.stack(list(losses(model, batch).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        first, last = (float(total.detach()) if step == 0 else first), float(total.detach())
    assert last < 0.3 * first


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"estimator": "magic"}, "estimator must be"),
        ({"lr_schedule": "linear"}, "lr_schedule"),
        ({"noise_draws": 0}, "noise_draws"),
        ({"num_hypotheses": 0}, "num_hypotheses"),
        ({"protocol": "nobody"}, "nobody"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        small(**changes)


def test_bad_loss_weights() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        LossWeights(pose=-1)


def test_sizes_must_agree(tmp_path: Path) -> None:
    data = DiffHMRDataModule(augmentation=CropAugmentation(size=96))
    trainer = Trainer(logger=False, enable_checkpointing=False, default_root_dir=tmp_path, accelerator="cpu")
    with pytest.raises(ValueError, match=r"image_size is 64 but data.augmentation.size is 96"):
        trainer.test(small(), datamodule=data, verbose=False)


def test_shipped_weights_pose_people_in_rendered_pictures() -> None:
    """On the shipped pictures, far better than a body that faces the camera and than the bodies of other pictures."""
    model = DiffHMR.pretrained(num_hypotheses=5, sampling=Sampling(sampler="ddim", num_inference_steps=10))
    rows = OpenImages(Path("nowhere"), ["sample"]).__getitems__(range(0, 64, 2))
    with torch.inference_mode():
        found = model(CropAugmentation(size=model.image_size).evaluate(rows, JOINTS_44))
    body = SMPLLayer(vertices=())
    pose = found.pose_rotmat[torch.arange(len(found.best)), found.best]
    facing = torch.eye(3).expand(pose.shape).clone()
    facing[:, 0] = torch.diag(torch.tensor([1.0, -1, -1]))
    true = rows["joints_smpl24_cam"]

    def error(rotmat: Tensor) -> float:
        joints = body(found.betas, rotmat[:, 1:], rotmat[:, 0]).joints
        return float(((joints - joints[:, :1]) - (true - true[:, :1])).norm(dim=-1).mean())

    assert error(pose) < 0.22
    assert error(pose) < 0.8 * min(error(facing), error(pose.roll(1, dims=0)))
