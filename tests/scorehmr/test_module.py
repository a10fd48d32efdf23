import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import load_file
from torch import Tensor

from posecore.data import PoseTable
from posecore.data.sample import PoseSample
from posecore.fitting.estimate import SMPLEstimate
from posecore.geometry.rotation import rotmat_to_rot6d
from posecore.training import EMA, WeightsFile
from scorehmr.data import ScoreHMRDataModule
from scorehmr.features import CachedFeatures, KeypointFeatures, TimmFeatures
from scorehmr.fitting import FitSettings, PriorFitSettings
from scorehmr.guidance import TermWeights
from scorehmr.module import ScoreHMR
from scorehmr.sampler import Guidance
from scorehmr.start import KeypointStart

QUICK = Guidance(noise_level=4, step=2, outer_loops=1, stop_change=None)


def small(weights: Path | None = None, **options: Any) -> ScoreHMR:
    """A model of open features, so small that a fit takes a moment; ``weights`` are the regressor's."""
    options = {"fit": FitSettings(guidance=QUICK), "protocol": "open_smpl24_fit", "hidden_dim": 16, **options}
    features = options.pop("features", None) or KeypointFeatures(None if weights is None else str(weights), 8, 1)
    return ScoreHMR(features, num_blocks=1, **options)


class Gradients(Callback):
    """Which parameters got a gradient that is not zero, and which got one at all."""

    def __init__(self) -> None:
        self.moved: set[str] = set()
        self.touched: set[str] = set()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                self.touched.add(name)
                if parameter.grad.any():
                    self.moved.add(name)


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, num_sanity_val_steps=0, callbacks=list(callbacks),
        **options,
    )  # fmt: skip


def data_of(table: PoseTable, batch_size: int = 8) -> ScoreHMRDataModule:
    def make(root: Path) -> PoseTable:
        return table

    sets: dict[str, Any] = {"val": {"people": make}, "test": {"people": make}}
    return ScoreHMRDataModule(train=[make], batch_size=batch_size, **sets)


def with_batch(table: PoseTable, **columns: Any) -> PoseTable:
    return PoseTable(table.joint_set, cast(PoseSample, {**table.samples, **columns}))


@pytest.fixture(scope="module")
def trained(table: PoseTable, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A regressor trained for three steps, then a denoiser on its features, each with its file of weights."""
    folder = tmp_path_factory.mktemp("scorehmr")
    torch.manual_seed(0)
    found = SimpleNamespace(regressor=small(train="regressor", lr=1e-2), gradients=(Gradients(), Gradients()))
    found.regressor_path, found.path = folder / "regressor.safetensors", folder / "all.safetensors"
    file = WeightsFile(found.regressor_path, only="features.regressor.")
    run = trainer(folder, found.gradients[0], file, max_steps=3, limit_val_batches=1)
    run.fit(found.regressor, data_of(table))
    found.regressor_metrics = dict(run.callback_metrics)
    found.model = small(found.regressor_path)
    run = trainer(folder, EMA(0.5), found.gradients[1], WeightsFile(found.path), max_steps=2, limit_val_batches=1)
    run.fit(found.model, data_of(table))
    found.metrics = dict(run.callback_metrics)
    return found


def test_gradients_reach_all_of_the_trained_part_and_nothing_else(trained: SimpleNamespace) -> None:
    parts = (trained.regressor, "features."), (trained.model, "diffusion.")
    for (model, prefix), gradients in zip(parts, trained.gradients, strict=True):
        expected = {name for name, _ in model.named_parameters() if name.startswith(prefix)}
        assert len(expected) > 10
        assert gradients.moved == expected
        assert gradients.touched == expected


def test_losses_and_scores_are_logged(trained: SimpleNamespace) -> None:
    losses = {"loss_pose", "loss_joints", "loss_betas"}
    scores = {f"val/people/{prefix}{name}" for prefix in ("", "start_") for name in ("mpjpe", "pa_mpjpe")}
    assert {f"train/{name}" for name in losses} <= set(trained.regressor_metrics)
    assert {f"val/people/{name}" for name in losses} | scores <= set(trained.regressor_metrics)
    assert {"train/loss", "train/loss_noise", "val/people/loss_noise"} | scores <= set(trained.metrics)
    for name in scores:
        assert 10 < trained.metrics[name] < 2000, "millimetres"


def test_the_regressors_file_holds_the_regressor_only(trained: SimpleNamespace) -> None:
    tensors = load_file(trained.regressor_path)
    assert {name.startswith("features.regressor.") for name in tensors} == {True}
    own = trained.model.features.regressor.state_dict()
    assert len(tensors) == len(own)
    for name, value in own.items():
        assert torch.equal(tensors[f"features.regressor.{name}"], value), "the denoiser's training left it alone"


def test_statistics_are_those_of_the_training_set(trained: SimpleNamespace, table: PoseTable) -> None:
    """Also where the exponential moving average has the last word on the weights."""
    features = trained.model.features(table.samples)
    torch.testing.assert_close(trained.model.standardizer.mean, features.mean(dim=0))
    spread = features.std(dim=0, correction=0)
    torch.testing.assert_close(trained.model.standardizer.std, torch.where(spread > 1e-6, spread, 1.0))
    assert not trained.regressor.standardizer.mean.any(), "a regressor needs none"


def test_weights_come_back(trained: SimpleNamespace, people: PoseSample) -> None:
    model = ScoreHMR.pretrained(
        str(trained.path), features=KeypointFeatures(None, 8, 1), hidden_dim=16, num_blocks=1,
        fit=FitSettings(guidance=QUICK),
    )  # fmt: skip
    expected, found = trained.model.eval()(people), model(people)
    assert torch.equal(found.fitted.pose_rot6d, expected.fitted.pose_rot6d)
    assert torch.equal(found.fitted.transl, expected.fitted.transl)
    assert model.state_dict().keys() == trained.model.state_dict().keys()


def test_a_start_of_its_own_needs_nothing_of_the_methods_weights(trained: SimpleNamespace, people: PoseSample) -> None:
    start = KeypointStart(str(trained.regressor_path))
    start.regressor.betas.bias.add_(1.0)
    model = small(start=start, weights=None)
    model.weights = str(trained.path)
    model._load()
    other = trained.model.estimate(people)
    torch.testing.assert_close(model.estimate(people).betas, other.betas + 1.0)
    assert model.state_dict().keys() == trained.model.state_dict().keys()
    model.load_state_dict(trained.model.state_dict())


@pytest.mark.parametrize(
    ("terms", "keys"),
    [
        (TermWeights(keypoints=0.0, views=450.0, mean_betas=True), ("clip", "frame")),
        (TermWeights(temporal=30.0, mean_betas=True), ("clip", "view")),
        (TermWeights(calibrated=0.003, temporal=30.0), ("clip",)),
    ],
)
def test_groups_are_fitted_together(
    trained: SimpleNamespace, table: PoseTable, tmp_path: Path, terms: TermWeights, keys: tuple[str, ...]
) -> None:
    model = small(trained.regressor_path, terms=terms)
    model.weights = str(trained.path)
    data = data_of(table, batch_size=3)
    (found,) = trainer(tmp_path).test(model, data, verbose=False)
    assert data.group_keys == keys
    assert set(found) == {f"test/people/{p}{name}" for p in ("", "start_") for name in ("mpjpe", "pa_mpjpe")}
    # All rows at once give the same: batches part no group.
    result = model.eval()(table.samples)
    body = model.scored_body
    for prefix, estimate in (("start_", result.start), ("", result.fitted)):
        joints = body(estimate.betas, estimate.body_pose, estimate.global_orient)
        true = table.samples["joints_smpl24_cam"]
        error = ((joints - joints[:, :1]) - (true - true[:, :1])).norm(dim=-1).mean() * 1000
        assert found[f"test/people/{prefix}mpjpe"] == pytest.approx(error.item(), rel=1e-3)


@pytest.mark.parametrize("terms", [TermWeights(), TermWeights(temporal=1.0), TermWeights(views=1.0)])
def test_acceleration_is_scored_per_video(
    trained: SimpleNamespace, table: PoseTable, tmp_path: Path, terms: TermWeights
) -> None:
    """Rows of two views lie between each other in the table, and batches are smaller than clips."""
    model = small(trained.regressor_path, protocol="open_smpl24_video", fit=FitSettings(fitter="none"), terms=terms)
    (found,) = trainer(tmp_path).test(model, data_of(table, batch_size=2), verbose=False)
    rows, errors = table.samples, []
    estimate = model.eval()(rows).fitted
    joints = model.scored_body(estimate.betas, estimate.body_pose, estimate.global_orient)
    for clip, view in itertools.product(sorted(set(rows["clip"])), (0, 1)):
        video = [i for i in range(len(table)) if rows["clip"][i] == clip and rows["view"][i] == view]
        assert len(video) > 2
        p, q = (x[video] - x[video][:, :1] for x in (joints, rows["joints_smpl24_cam"]))
        difference = (p[2:] - 2 * p[1:-1] + p[:-2]) - (q[2:] - 2 * q[1:-1] + q[:-2])
        errors += (1000 * difference.norm(dim=-1).mean(dim=-1)).tolist()
    assert found["test/people/acceleration"] == pytest.approx(sum(errors) / len(errors), rel=1e-3)
    assert found["test/people/start_acceleration"] == found["test/people/acceleration"]


@pytest.mark.parametrize("terms", [TermWeights(), TermWeights(views=9.0, calibrated=0.003, temporal=3.0)])
@pytest.mark.parametrize("fitter", ["scorehmr", "prior"])
def test_the_truth_is_never_read(trained: SimpleNamespace, people: PoseSample, terms: TermWeights, fitter: Any) -> None:
    model = small(
        trained.regressor_path, terms=terms, fit=FitSettings(fitter, QUICK, prior=PriorFitSettings(steps=3))
    ).eval()
    truth = ("joints_cam", "joints_rel", "joints_2d_true_px", "joints_smpl24_cam", "global_orient", "body_pose")
    lie = {key: torch.full_like(people[key], 7.0) for key in (*truth, "betas", "transl")}  # type: ignore[literal-required]
    found, expected = model(cast(PoseSample, {**people, **lie})), model(people)
    for name in ("pose_rot6d", "betas", "transl"):
        assert torch.equal(getattr(found.fitted, name), getattr(expected.fitted, name))
    given = (
        "joints_2d_px",
        "confidence",
        "K",
        "image_size",
        "clip",
        "frame",
        "view",
        "R_world_to_cam",
        "t_world_to_cam",
    )
    bare = model(cast(PoseSample, {key: people[key] for key in given}))  # type: ignore[literal-required]
    assert torch.equal(bare.fitted.pose_rot6d, expected.fitted.pose_rot6d)


def test_predictions_are_the_fit_in_the_order_of_the_rows(trained: SimpleNamespace, people: PoseSample) -> None:
    model = trained.model.eval()
    batch = cast(PoseSample, {**people, "row": torch.tensor([5, 3, 0, 1, 2, 4])})
    out, result = model.predict_step(batch, 0), model(people)
    for prefix, estimate in (("start_", result.start), ("", result.fitted)):
        for name in ("pose_rot6d", "betas", "transl"):
            assert torch.equal(out[prefix + name], getattr(estimate, name))
        joints = model.keypoint_body(estimate.betas, estimate.body_pose, estimate.global_orient, estimate.transl)
        seen = torch.einsum("bij,bnj->bni", people["K"], joints / joints[..., 2:])[..., :2]
        error = (seen - people["joints_2d_px"][:, :25]).norm(dim=-1).mean(dim=-1)  # all confidences are 1
        torch.testing.assert_close(out[f"{prefix}reprojection_error_px"], error, rtol=1e-3, atol=1e-2)
    assert out["row"].tolist() == [5, 3, 0, 1, 2, 4]


def test_starts_by_precedence(trained: SimpleNamespace, people: PoseSample) -> None:
    """A start module, what the data set brings, the features' regressor."""
    keys = ("global_orient", "body_pose", "betas", "transl")
    cached = cast(PoseSample, {**people, **{f"start_{k}": people[k] for k in keys}})  # type: ignore[literal-required]
    model = small(trained.regressor_path)
    own = model.estimate(people)
    assert not torch.allclose(own.betas, people["betas"])
    assert torch.equal(model.estimate(cached).betas, people["betas"])
    other = small(trained.regressor_path, start=KeypointStart(str(trained.regressor_path)))
    torch.testing.assert_close(other.estimate(cached).betas, own.betas)
    plain = small(features=CachedFeatures(4))
    assert torch.equal(plain.estimate(cached).transl, people["transl"])
    with pytest.raises(ValueError, match=r"start: the data set brings no estimates \(start_body_pose, ...\)"):
        plain.estimate(people)


def test_frames_in_which_nobody_was_found_are_filled_in(trained: SimpleNamespace, table: PoseTable) -> None:
    video = [i for i in range(len(table)) if table.samples["clip"][i] == table.samples["clip"][0]][::2]
    batch = table.__getitems__(video)
    confidence = batch["confidence"].clone()
    confidence[1] = 0
    batch = cast(PoseSample, {**batch, "confidence": confidence})
    found = small(trained.regressor_path, terms=TermWeights(temporal=1.0)).estimate(batch)
    torch.testing.assert_close(found.transl[1], (found.transl[0] + found.transl[2]) / 2)
    alone = small(trained.regressor_path).estimate(batch)
    assert torch.equal(alone.transl[0], found.transl[0])
    assert not torch.allclose(alone.transl[1], found.transl[1])


@pytest.mark.gpu
@pytest.mark.parametrize(
    "terms", [TermWeights(), TermWeights(views=9.0, calibrated=0.003, temporal=3.0, mean_betas=True)]
)
def test_a_fit_on_a_gpu_is_that_of_the_cpu(trained: SimpleNamespace, people: PoseSample, terms: TermWeights) -> None:
    model = small(trained.regressor_path, terms=terms).eval()
    expected = model(people)
    on_gpu: Any = {key: value.cuda() if isinstance(value, Tensor) else value for key, value in people.items()}
    found = model.cuda()(on_gpu)
    torch.testing.assert_close(found.fitted.pose_rot6d.cpu(), expected.fitted.pose_rot6d, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.fitted.transl.cpu(), expected.fitted.transl, atol=1e-3, rtol=0)


def shape_losses(model: ScoreHMR, batch: PoseSample) -> Tensor:
    return model._noise_loss(batch, torch.Generator().manual_seed(1))


def test_the_shape_branch_trains_along(table: PoseTable, people: PoseSample) -> None:
    torch.manual_seed(0)
    model = small(diffuse_shape=True)
    shape_losses(model, people).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.diffusion.parameters())
    known = cast(PoseSample, {**people, "has_pose": torch.ones(6).bool(), "has_betas": torch.zeros(6).bool()})
    assert shape_losses(model, known) == 0
    assert shape_losses(small(), known) > 0, "without the branch only the pose must be known"


def test_the_noise_loss_is_equation_11(people: PoseSample) -> None:
    model = small().eval()
    known = torch.tensor([True, True, False, True, False, True])
    found = model._noise_loss(cast(PoseSample, {**people, "has_pose": known}), torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    t = torch.randint(1000, (6,), generator=generator)
    noise = torch.randn(6, 144, generator=generator)
    rotmat = torch.cat((people["global_orient"][:, None], people["body_pose"]), dim=1)
    alpha_bar = model.schedule.alphas_cumprod[t].float()[:, None]
    x_t = alpha_bar.sqrt() * rotmat_to_rot6d(rotmat).flatten(1) + (1 - alpha_bar).sqrt() * noise
    output = model.diffusion(x_t, t, model.standardizer(model.features(people)))
    torch.testing.assert_close(found, (output - noise)[known].square().mean())


def test_cached_features_and_starts_train_and_test(table: PoseTable, tmp_path: Path) -> None:
    """The paper's way: features and estimates of other programs, read by the data set."""
    features = torch.randn(len(table), 12, generator=torch.Generator().manual_seed(0)) + 3
    keys = ("global_orient", "body_pose", "betas", "transl")
    start = {f"start_{key}": table.samples[key].clone() for key in keys}  # type: ignore[literal-required]
    data = data_of(with_batch(table, features=features, **start))
    gradients = Gradients()
    model = small(features=CachedFeatures(12), protocol="scorehmr_3dpw", fit=FitSettings("none"))
    trainer(tmp_path, gradients, max_steps=1, limit_val_batches=0).fit(model, data)
    torch.testing.assert_close(model.standardizer.mean, features.mean(dim=0))
    assert gradients.moved == {name for name, _ in model.named_parameters()}
    (found,) = trainer(tmp_path).test(model, data, verbose=False)
    assert found["test/people/mpjpe"] < 0.1, "the truth itself was the start"


def test_a_trainable_backbone_trains_along(table: PoseTable, tmp_path: Path) -> None:
    images = torch.randn(len(table), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    gradients = {}
    for trainable in (False, True):
        features = TimmFeatures("test_resnet", pretrained=False, trainable=trainable)
        model = small(features=features)
        gradients[trainable] = Gradients()
        run = trainer(tmp_path, gradients[trainable], max_steps=1, limit_val_batches=0)
        run.fit(model, data_of(with_batch(table, image=images)))
    assert {name.partition(".")[0] for name in gradients[False].touched} == {"diffusion"}
    assert {name.partition(".")[0] for name in gradients[True].moved} == {"diffusion", "features"}


def test_training_without_data_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train: no training sets"):
        trainer(tmp_path, max_steps=1).fit(small(), ScoreHMRDataModule())


def test_checkpoints_of_others_are_refused() -> None:
    with pytest.raises(ValueError, match="this is a checkpoint of zedo; scorehmr needs one"):
        small().on_load_checkpoint({"humandiff_method": "zedo", "state_dict": {}})
    checkpoint: dict[str, Any] = {}
    small().on_save_checkpoint(checkpoint)
    assert checkpoint == {"humandiff_method": "scorehmr"}


ERRORS: list[tuple[Callable[[], object], str]] = [
    (lambda: small(train="both"), "train must be 'denoiser' or 'regressor', .* got 'both', 'constant'"),
    (lambda: small(lr_schedule="step"), "lr_schedule 'constant' or 'cosine', got 'denoiser', 'step'"),
    (
        lambda: small(features=CachedFeatures(4), train="regressor"),
        "belongs to KeypointFeatures, not to CachedFeatures",
    ),
    (lambda: small(w_joints=-1.0), "w_joints and w_betas must not be negative, got -1.0, 0.01"),
    (lambda: small(low_noise_share=1.5), "low_noise_share must be a share, got 1.5"),
    (lambda: small(protocol="nobody"), "nobody"),
    (lambda: small(schedule="nobody"), "unknown schedule 'nobody'"),
]


@pytest.mark.parametrize(("make_it", "says"), ERRORS, ids=[says[:30] for _, says in ERRORS])
def test_arguments_are_checked(make_it: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_it()


def test_missing_weights_are_named() -> None:
    with pytest.raises(FileNotFoundError, match="weights: 'nobody' is neither a file nor a shipped name"):
        ScoreHMR.pretrained("nobody")


def test_the_result_is_an_estimate_of_each_person(trained: SimpleNamespace, people: PoseSample) -> None:
    result = trained.model.eval()(people)
    assert isinstance(result.fitted, SMPLEstimate)
    assert len(result.fitted) == len(result.start) == len(result.loops) == 6
    assert bool((result.fitted.transl[:, 2] > 0).all())
