from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from diffupose.data import DiffuPoseDataModule
from diffupose.keypoints import condition
from diffupose.module import DiffuPose
from diffupose.network import ModulatedGraphConv, Prepared
from diffupose.sampler import Sampling, mirror_keypoints
from diffupose.scoring import RULES, poses_by_rule
from posecore.body.skeletons import H36M_17, HUMANEVA_15, get_joint_set
from posecore.data import PoseSample, PoseTable
from posecore.data.transforms import flip_joints
from posecore.diffusion.schedule import NoiseSchedule
from posecore.geometry.placement import reprojection_error, solve_translation
from posecore.metrics.protocols import evaluate, get_protocol

Make = Callable[..., PoseSample]
FAST = Sampling("ddim", 5)
TRUTH = ("joints_cam", "joints_rel", "joints_2d_true_px")


def tiny(**changes: object) -> DiffuPose:
    """A model that samples in no time, with fixed random weights and small outputs, so that not all is clipped."""
    arguments = {
        "joint_set": "h36m17",
        "dim": 32,
        "num_hypotheses": 3,
        "sampling": FAST,
        "protocol": "open_h36m17",
        "coordinates": "person",
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DiffuPose(**(arguments | changes)).eval()
    model.network.output.weight.data.mul_(0.05)
    return model


def trainer(folder: Path, **changes: object) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(**quiet, accelerator="cpu", enable_checkpointing=False, default_root_dir=folder, **changes)


def data_of(samples: PoseSample, joint_set: str = "h36m17", **changes: object) -> DiffuPoseDataModule:
    """The people as training, validation and test set, in one batch."""

    def table(root: Path) -> PoseTable:
        return PoseTable(get_joint_set(joint_set), samples)

    people = len(samples["confidence"])
    sets = {"train": [table], "val": {"people": table}, "test": {"people": table}}
    return DiffuPoseDataModule(**(sets | {"joint_set": joint_set, "batch_size": people, "flip_prob": 0.5} | changes))


class Oracle(nn.Module):
    """A denoiser that knows the pose of every set of keypoints, in the frame and to the scale of the module."""

    def __init__(self, model: DiffuPose, batch: PoseSample) -> None:
        super().__init__()
        keypoints, rotmat = condition(batch, model.joint_set, model.coordinates)
        x_0 = batch["joints_rel"] @ rotmat.mT * model.pose_scale
        mirrored = mirror_keypoints(keypoints, model.joint_set), flip_joints(x_0, model.joint_set)
        self.keypoints, self.x_0 = torch.cat((keypoints, mirrored[0])), torch.cat((x_0, mirrored[1]))
        self.schedule: NoiseSchedule = model.schedule

    def forward(self, x_t: Tensor, keypoints: Tensor, t: Tensor) -> Tensor:
        nearest = torch.cdist(keypoints.flatten(1), self.keypoints.flatten(1)).argmin(dim=1)
        return torch.cat((self.schedule.to_noise(self.x_0[nearest], x_t, t, "sample"), keypoints), dim=-1)

    def prepare(self, levels: Tensor) -> Prepared:
        return lambda x_t, keypoints, i: self(x_t, keypoints, levels[i].expand(len(x_t)))


@pytest.mark.parametrize("coordinates", ["image", "person"])
@pytest.mark.parametrize("flip", [False, True])
def test_what_is_trained_is_what_is_sampled(make_sample: Make, tmp_path: Path, coordinates: str, flip: bool) -> None:
    """With a perfect denoiser everything is perfect: the losses, the poses, and where they stand."""
    batch = make_sample(H36M_17, dtype=torch.float32)
    sampling = Sampling("ddpm", 10, clip_x0=3.0, flip=flip)
    model = tiny(coordinates=coordinates, pose_scale=2.5, sampling=sampling)
    model.network = Oracle(model, batch)
    result = model(batch)
    torch.testing.assert_close(result.joints_rel, batch["joints_rel"][:, None].expand(-1, 3, -1, -1), atol=1e-3, rtol=0)
    torch.testing.assert_close(result.transl, batch["joints_cam"][:, :1].expand(-1, 3, -1), atol=2e-2, rtol=0)
    torch.testing.assert_close(result.pose, batch["joints_rel"], atol=1e-3, rtol=0)
    assert result.reprojection_px.max() < 0.5
    (found,) = trainer(tmp_path).validate(model, data_of(batch), verbose=False)
    assert found["val/people/loss_noise"] < 1e-4
    assert found["val/people/loss_keypoints"] == 0
    for rule in RULES:
        assert found[f"val/people/{rule}mpjpe"] < 1


@pytest.mark.parametrize("coordinates", ["image", "person"])
def test_no_truth_reaches_a_prediction(make_sample: Make, coordinates: str) -> None:
    batch = make_sample(H36M_17, dtype=torch.float32)
    model = tiny(coordinates=coordinates)
    expected = model(batch)
    garbage, rest = PoseSample(**batch), PoseSample(**batch)
    for key in TRUTH:
        garbage[key] = torch.full_like(batch[key], torch.nan)
        del rest[key]
    for other in (garbage, rest):
        for found, part in zip(model(other), expected, strict=True):
            assert torch.equal(found, part)
    predicted = model.predict_step(rest, 0)
    assert torch.equal(predicted["hypotheses"], expected.joints_rel + expected.transl[:, :, None])
    assert torch.equal(predicted["best"], expected.best)
    assert torch.equal(predicted["reprojection_error_px"], expected.reprojection_px)
    # Keypoints do reach it.
    batch["joints_2d_px"] = batch["joints_2d_px"] * torch.tensor([1.1, 1.0])
    assert not torch.allclose(model(batch).joints_rel, expected.joints_rel)


@pytest.mark.parametrize("denoiser", ["graph", "unet"])
@pytest.mark.parametrize("aggregation", ["mean", "medoid", "reprojection"])
def test_a_result_is_consistent_and_repeats(make_sample: Make, denoiser: str, aggregation: str) -> None:
    batch = make_sample(H36M_17, dtype=torch.float32)
    model = tiny(denoiser=denoiser, aggregation=aggregation)
    result = model(batch)
    seen = batch["joints_2d_px"], batch["confidence"], batch["K"]
    assert result.joints_rel.shape == (4, 3, 17, 3)
    assert torch.equal(result.joints_rel[:, :, 0], torch.zeros(4, 3, 3))
    assert torch.equal(result.transl, solve_translation(result.joints_rel, *seen))
    assert torch.equal(result.reprojection_px, reprojection_error(result.joints_rel, result.transl, *seen))
    if aggregation != "mean":
        assert torch.equal(result.pose, result.joints_rel[torch.arange(4), result.best])
    if aggregation == "reprojection":
        assert torch.equal(result.best, result.reprojection_px.argmin(dim=1))
    for found, part in zip(model(batch), result, strict=True):
        assert torch.equal(found, part)
    assert not torch.allclose(tiny(denoiser=denoiser, seed=1)(batch).joints_rel, result.joints_rel)


def test_scores_are_the_protocol_s_over_the_rules_poses(make_sample: Make, tmp_path: Path) -> None:
    batch = make_sample(H36M_17, people=6, dtype=torch.float32)
    model = tiny(aggregation="reprojection")
    (found,) = trainer(tmp_path).test(model, data_of(batch), verbose=False)
    with torch.no_grad():
        poses = poses_by_rule(model.eval()(batch), batch)
    protocol = get_protocol("open_h36m17")
    assert protocol.hypotheses == "min"
    assert set(poses) == set(RULES)
    # Every metric for the poses as sampled, errors alone for the other rules.
    expected = {
        f"test/people/{rule}{metric}": values.mean().item()
        for rule, pose in poses.items()
        for metric, values in evaluate(protocol, pose, batch["joints_rel"]).items()
        if rule == "" or metric in ("mpjpe", "pa_mpjpe")
    }
    assert found == pytest.approx(expected, rel=1e-4)
    assert found["test/people/min_mpjpe"] < found["test/people/mpjpe"]


def test_validation_losses_are_the_same_every_time(make_sample: Make, tmp_path: Path) -> None:
    model, data = tiny(), data_of(make_sample(H36M_17, dtype=torch.float32))
    first, second = (trainer(tmp_path).validate(model, data, verbose=False)[0] for _ in range(2))
    assert first == second
    assert first["val/people/loss_noise"] > 0
    assert first["val/people/loss_keypoints"] > 0


class Rates(Callback):
    """The learning rate of every optimiser step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.found.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lr_schedule": "exponential", "lr_decay": 0.5}, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        ({"lr_schedule": "exponential", "lr_decay": 0.5, "warmup_steps": 4}, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        ({"lr_schedule": "constant"}, [1] * 6),
        ({"lr_schedule": "constant", "warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 1]),
        ({"lr_schedule": "cosine", "warmup_steps": 2}, [0.5, 1, 1, 0.853553, 0.5, 0.146447]),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_learning_rates(make_sample: Make, tmp_path: Path, settings: dict[str, object], expected: list[float]) -> None:
    rates, model = Rates(), tiny(lr=1e-3, **settings).train()
    data = data_of(make_sample(H36M_17, people=8, dtype=torch.float32), batch_size=4, val={}, test={})
    trainer(tmp_path, max_epochs=3, callbacks=[rates]).fit(model, data)
    assert rates.found == pytest.approx([1e-3 * factor for factor in expected], rel=1e-4)


def test_a_training_step_is_equation_10(make_sample: Make, tmp_path: Path) -> None:
    """The logged sum, and that lambda weighs the keypoints."""
    data = data_of(make_sample(H36M_17, people=8, dtype=torch.float32), val={}, test={})
    for w_keypoints in (0.8, 0.0):
        model, run = tiny(w_keypoints=w_keypoints).train(), trainer(tmp_path, max_steps=1)
        run.fit(model, data)
        logged = {key: value.item() for key, value in run.callback_metrics.items()}
        expected = logged["train/loss_noise"] + w_keypoints * logged["train/loss_keypoints"]
        assert logged["train/loss"] == pytest.approx(expected, rel=1e-5)
        assert logged["train/loss_keypoints"] > 0


@pytest.mark.slow
def test_overfits_a_handful_of_people(make_sample: Make, tmp_path: Path) -> None:
    batch = make_sample(H36M_17, people=4, dtype=torch.float32)
    sampling = Sampling("ddim", 25, clip_x0=None)
    model = tiny(dim=64, lr=2e-3, lr_schedule="cosine", pose_scale=3.0, sampling=sampling)
    run = trainer(tmp_path, max_steps=600)
    (before,) = run.test(model, data_of(batch), verbose=False)
    many = PoseSample(**{key: value.repeat(32, *[1] * (value.ndim - 1)) for key, value in batch.items()})
    run.fit(model.train(), data_of(many, val={}))
    (after,) = run.test(model, data_of(batch), verbose=False)
    assert after["test/people/mpjpe"] < 0.2 * before["test/people/mpjpe"]


@pytest.mark.parametrize("stage", ["validate", "test", "fit"])
def test_data_with_other_joints(make_sample: Make, tmp_path: Path, stage: str) -> None:
    data = data_of(make_sample(HUMANEVA_15, dtype=torch.float32), "humaneva15")
    match = "model.joint_set is 'h36m17' but data.joint_set is 'humaneva15': set both to the same"
    with pytest.raises(ValueError, match=match):
        getattr(trainer(tmp_path, max_steps=1), stage)(tiny().train(), data)


def test_affinity_figure() -> None:
    model = tiny()
    with torch.no_grad():
        for number, conv in enumerate(part for part in model.modules() if isinstance(part, ModulatedGraphConv)):
            conv.offset.add_(0.1 * number)
    panels = [ax for ax in model.affinity_figure().axes if ax.images]
    assert [ax.get_title(loc="left") for ax in panels] == ["skeleton", "learned, mean of 10 layers"]
    skeleton, learned = (torch.as_tensor(ax.images[0].get_array().data) for ax in panels)
    torch.testing.assert_close(learned, (skeleton + skeleton.mT) / 2 + 0.45, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="denoiser: only the graph network has affinities, this model has a U-Net"):
        tiny(denoiser="unet").affinity_figure()


@pytest.mark.parametrize("weights", ["cmu16", "cmu17"])
def test_shipped_weights(make_sample: Make, weights: str) -> None:
    model = DiffuPose.pretrained(weights, sampling=Sampling("ddim", 5), num_hypotheses=2)
    assert not model.training
    assert model.joint_set.name == f"h36m{weights[3:]}"
    batch = make_sample(model.joint_set, people=2, dtype=torch.float32)
    assert model(batch).joints_rel.shape == (2, 2, model.joint_set.num_joints, 3)


def test_weights_that_do_not_fit() -> None:
    with pytest.raises(FileNotFoundError, match="weights: 'none' is neither a file nor a shipped name"):
        DiffuPose.pretrained("none")
    with pytest.raises(ValueError, match="this configuration of diffupose needs"):
        DiffuPose.pretrained("cmu17", dim=32)


def test_checkpoints_of_other_methods() -> None:
    checkpoint: dict[str, object] = {}
    tiny().on_save_checkpoint(checkpoint)
    tiny().on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="this is a checkpoint of zedo; diffupose needs one"):
        tiny().on_load_checkpoint({"humandiff_method": "zedo"})


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_hypotheses": 0}, "num_hypotheses must be at least 1, got 0"),
        ({"w_keypoints": -1.0}, "w_keypoints must not be negative"),
        ({"pose_scale": 0.0}, "pose_scale positive"),
        ({"lr_decay": 0.0}, r"lr_decay in \(0, 1\]"),
        ({"lr_decay": 1.5}, r"lr_decay in \(0, 1\], got 0.8, 1.0, 1.5"),
        ({"dim": 20}, "dim must be a multiple of 16"),
        ({"joint_set": "h36m"}, "no joint set is named 'h36m'"),
        ({"schedule": "cosine"}, "unknown schedule 'cosine'"),
        ({"protocol": "h36m"}, "h36m"),
        ({"denoiser": "transformer"}, "denoiser must be 'graph' or 'unet'.*'transformer'"),
        ({"lr_schedule": "linear"}, "lr_schedule 'exponential', 'cosine' or 'constant'.*'linear'"),
    ],
)
def test_refuses(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        DiffuPose(**settings)
