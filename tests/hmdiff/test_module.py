"""HMDiff's module: what it computes from a batch, what it trains, what it takes and refuses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn, TrainerState
from torch import Tensor

from hmdiff.dat import Alignment
from hmdiff.data import HMDiffDataModule
from hmdiff.losses import LossWeights
from hmdiff.module import HMDiff
from hmdiff.network import MeshDenoiser
from hmdiff.sampler import Record, Sampling
from posecore.body.skeletons import JOINTS_44
from posecore.body.smpl import SMPLLayer
from posecore.data import OpenImages
from posecore.data.augment import CropAugmentation
from posecore.data.sample import PoseSample
from posecore.geometry.camera import project
from posecore.training.checkpoints import save_weights

SIZE = 64
SMALL: dict[str, Any] = {
    "backbone": "regnetx_002",
    "pretrained": False,
    "image_size": SIZE,
    "head_channels": 8,
    "image_feature": "projected",
    "num_heads": 2,
    "feed_forward": 1,
    "final_dim": 16,
    "protocol": "open_mesh24",
    "num_hypotheses": 3,
    "sampling": Sampling(num_inference_steps=3),
    "alignment": Alignment(num_poses=4),
    "final_images": 2,
    "final_samples": 2,
    "final_steps": 2,
}


def small(**changes: Any) -> HMDiff:
    torch.manual_seed(0)
    return HMDiff(**{**SMALL, **changes})


class Progress:
    """What the losses ask of a Trainer: how far the training is."""

    def __init__(self, done: int, total: int) -> None:
        self.global_step, self.estimated_stepping_batches = done, total
        self.state = TrainerState(fn=TrainerFn.FITTING)


def losses(model: HMDiff, batch: PoseSample, seed: int = 0, done: int = 0) -> dict[str, Tensor]:
    model._trainer = cast(Any, Progress(done, 10))
    found = model._losses(batch, torch.Generator().manual_seed(seed))
    model._trainer = None
    return found


@pytest.fixture(scope="module")
def batch() -> PoseSample:
    dataset = OpenImages(Path("nowhere"), ["sample"])
    rows = dataset.__getitems__(range(0, 16, 4))
    return CropAugmentation(size=SIZE).evaluate(rows, JOINTS_44)


def test_meshes_of_a_batch(batch: PoseSample) -> None:
    model = small().eval()
    meshes = model(batch)
    assert meshes.samples.shape == (4, 3, 431, 3)
    assert meshes.final.shape == (4, 431, 3)
    # The final MLP begins as the identity.
    torch.testing.assert_close(meshes.final, meshes.samples.mean(dim=1))
    assert model.upsample(meshes.final).shape == (4, 6890, 3)
    assert (meshes.transl[:, 2] > 0).all()
    assert meshes.samples.std(dim=1).mean() > 0.01, "samples differ"


def test_the_mesh_stands_where_the_heatmaps_say(batch: PoseSample) -> None:
    """A translation that no other beats: moved by a centimetre, the joints lie farther from the rays."""
    model = small().eval()
    meshes = model(batch)
    seen = meshes.prior.mean()[..., :2] * SIZE

    def distance(shift: Tensor) -> Tensor:
        joints = model.mesh.joints(meshes.final) + (meshes.transl + shift)[:, None]
        depth = joints[..., 2:]
        return ((project(joints, batch["K"]) - seen) / batch["K"][:, :1, :1] * depth).square().sum(dim=(1, 2))

    best = distance(torch.zeros(3))
    for axis in range(3):
        for step in (-0.01, 0.01):
            assert (distance(step * torch.eye(3)[axis]) >= best - 1e-6).all()


def test_the_same_seed_gives_the_same_meshes_and_another_others(batch: PoseSample) -> None:
    model = small().eval()
    first, again = model(batch), model(batch)
    torch.testing.assert_close(first.samples, again.samples, rtol=0, atol=0)
    model.seed = 1
    assert not torch.allclose(model(batch).samples, first.samples)


def test_no_truth_reaches_a_prediction(batch: PoseSample) -> None:
    model = small().eval()
    alone = model(cast(PoseSample, {"image": batch["image"], "K": batch["K"]}))
    torch.testing.assert_close(alone.final, model(batch).final)


def test_inference_mode_changes_nothing(batch: PoseSample) -> None:
    """Lightning tests in inference mode, in which DAT must still have its gradient."""
    model = small(alignment=Alignment(num_poses=4, gamma=5.0, max_shift=1.0)).eval()
    with torch.inference_mode():
        inside = model({key: value.clone() for key, value in batch.items() if isinstance(value, Tensor)})
    torch.testing.assert_close(inside.final.clone(), model(batch).final)
    assert not torch.allclose(model(batch, alignment=Alignment(of="nothing")).final, model(batch).final)


def test_backbone_and_heatmaps_run_once_for_all_samples(batch: PoseSample) -> None:
    model = small().eval()
    calls = {"backbone": 0, "prepare": 0, "denoiser": 0}

    def count(name: str) -> Callable[..., None]:
        def add(*_: Any) -> None:
            calls[name] += 1

        return add

    model.backbone.register_forward_hook(count("backbone"))
    network = cast(MeshDenoiser, model.denoiser)
    network.register_forward_hook(count("denoiser"))
    network.image_norm.register_forward_hook(count("prepare"))
    model(batch)
    assert calls == {"backbone": 1, "prepare": 1, "denoiser": 3}


@pytest.mark.parametrize("conditioning", ["image", "pose", "both"])
def test_gradients_reach_every_trained_parameter(batch: PoseSample, conditioning: Any) -> None:
    model = small(conditioning=conditioning, upsampler="learned", loss_weights=LossWeights(edge_from=0.0))
    torch.stack(list(losses(model, batch).values())).sum().backward()
    silent = {name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    # The final MLP's first layer waits for the second, which begins at 0.
    assert silent == {"final.layers.0.weight", "final.layers.0.bias"}
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"backbone", "pose_head"}


def test_frozen_parts_keep_their_statistics(batch: PoseSample) -> None:
    model = small().train()
    assert not model.backbone.training
    assert not model.pose_head.training
    assert cast(MeshDenoiser, model.denoiser).training
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    losses(model, batch)
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())


def test_stage_pose_trains_backbone_and_head(batch: PoseSample) -> None:
    model = small(stage="pose").train()
    found = losses(model, batch)
    assert set(found) == {"xy", "z", "side"}
    torch.stack(list(found.values())).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.backbone.training
    with pytest.raises(ValueError, match="stage: 'pose' has no diffusion model"):
        model(batch)


def test_stage_pose_learns_one_batch_by_heart(batch: PoseSample) -> None:
    model = small(stage="pose", head_channels=32).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = None
    for _ in range(120):
        loss = torch.stack(list(losses(model, batch).values())).sum()
        first = float(loss) if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    prior = model.pose_head(model.backbone(batch["image"]))
    pose = prior.in_metres(prior.mean()[:, None], batch["K"], SIZE)[:, 0]
    true = model.mesh.joints(model.truth.level_vertices(batch))
    error = (pose - true + true[:, :1]).norm(dim=-1)
    seen = ((project(true, batch["K"]) / SIZE - 0.5).abs() < 0.5).all(dim=-1)  # E_xy ends where the crop does
    assert error[seen].mean() < 0.2, "20 cm, from half a metre; a cell of so small a picture is 12 cm deep"
    assert float(loss) < 0.75 * cast(float, first)


class Oracle(torch.nn.Module):
    """Knows the noise of each mesh, as a perfect g would of one image."""

    def __init__(self, model: HMDiff, h_0: Tensor) -> None:
        super().__init__()
        self.inner, self.h_0, self.schedule = cast(MeshDenoiser, model.denoiser), h_0, model.schedule
        self.num_vertices = 431

    def prepare(self, *args: Any) -> Any:
        return self.inner.prepare(*args)

    def forward(self, h: Tensor, k: Tensor, prepared: Any) -> Tensor:
        return self.schedule.to_noise(
            self.h_0.repeat_interleave(len(h) // len(self.h_0), dim=0)[: len(h)], h, k, "sample"
        )


def test_a_perfect_g_has_no_loss_and_gives_the_true_mesh(batch: PoseSample) -> None:
    model = small(loss_weights=LossWeights(edge_from=0.0), final_images=4).eval()
    vertices = model.truth.level_vertices(batch)
    h_0 = vertices - model.mesh.joints(vertices)[:, :1]
    model.denoiser = cast(Any, Oracle(model, h_0))
    for name, loss in losses(model, batch).items():
        # |cosine| of true edges with true normals is 0 but for the two edges of a face that the normal is made of.
        assert loss < 1e-3, name
    meshes = model(batch)
    torch.testing.assert_close(meshes.samples, h_0[:, None].expand_as(meshes.samples), rtol=0, atol=2e-3)


def test_edges_are_learnt_from_their_time_on(batch: PoseSample) -> None:
    model = small()
    assert "edge" not in losses(model, batch, done=4)
    assert "edge" in losses(model, batch, done=5)


def test_weights_scale_the_terms(batch: PoseSample) -> None:
    names = ("diffusion", "vertex", "joint", "normal")
    plain = losses(small(loss_weights=LossWeights(x0="uniform")), batch)
    for name in names:
        changed = losses(small(loss_weights=replace(LossWeights(x0="uniform"), **{name: 7.0})), batch)
        torch.testing.assert_close(changed[name], plain[name] * 7 / getattr(LossWeights(), name))
    gated = losses(small(), batch)
    assert gated["vertex"] < plain["vertex"], "weighted by alpha_k, which is below 1"


def test_a_row_without_truth_changes_no_loss(batch: PoseSample) -> None:
    model = small().eval()
    wrong = {key: value.clone() for key, value in batch.items() if isinstance(value, Tensor)}
    wrong["has_pose"] = wrong["has_betas"] = torch.tensor([True, True, True, False])
    plain = losses(model, cast(PoseSample, wrong))
    for key in ("betas", "body_pose"):
        wrong[key][3] = wrong[key][3] + 1
    for name, value in losses(model, cast(PoseSample, wrong)).items():
        torch.testing.assert_close(value, plain[name])


def test_a_single_step_is_a_function_of_the_image(batch: PoseSample) -> None:
    model = small(estimator="single_step", num_layers=2).eval()
    meshes = model(batch)
    assert meshes.samples.shape == (4, 1, 431, 3)
    model.seed = 3
    torch.testing.assert_close(model(batch).final, meshes.final)
    assert set(losses(model, batch, done=9)) == {"vertex", "joint", "normal", "edge", "final"}


def test_h_u_begins_at_the_pose(batch: PoseSample) -> None:
    """With the same noise, h_K differs from standard noise by the lifted poses of U."""
    starts: list[Tensor] = []

    def keep(record: Record) -> None:
        if record.k == 199:
            starts.append(record.h)

    model = small().eval()
    model(batch, sampling=Sampling(num_inference_steps=3, start="pose"), record=keep)
    mean = model.mesh.joints(starts[0].mean(dim=1))
    expected = model(batch).prior
    pose = expected.in_metres(expected.mean()[:, None], batch["K"], SIZE)[:, 0]
    assert starts[0].shape == (4, 3, 431, 3)
    # Untrained heatmaps are flat: their poses fill the picture, so only the order of magnitude can be compared.
    assert (mean - pose).abs().mean() < 1.0
    assert 0.9 < float(starts[0].std()) < 3


def test_the_learned_upsampler_begins_as_the_fixed_one(batch: PoseSample) -> None:
    fixed, learned = small().eval(), small(upsampler="learned").eval()
    vertices = fixed.truth.level_vertices(batch)
    torch.testing.assert_close(learned.upsample(vertices), fixed.upsample(vertices), rtol=0, atol=1e-5)
    assert learned.truth.level_vertices(batch).shape == (4, 1723, 3)
    torch.testing.assert_close(learned.truth.coarse_of_level(learned.truth.level_vertices(batch)), vertices)


def test_true_meshes_are_those_of_the_body(batch: PoseSample) -> None:
    model = small()
    full = SMPLLayer(model.body_model)(
        batch["betas"], batch["body_pose"], batch["global_orient"], batch["transl"]
    ).vertices
    torch.testing.assert_close(model.truth.level_vertices(batch), full[:, model.mesh.vertex_ids])


def test_pose_weights_of_stage_1_begin_stage_2(tmp_path: Path) -> None:
    first = small(stage="pose")
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1)
    path = tmp_path / "pose.safetensors"
    save_weights(path, first, "hmdiff", {})
    second = small(pose_weights=str(path))
    second._load(fresh=True)
    for part in ("backbone", "pose_head"):
        for name, value in getattr(first, part).state_dict().items():
            assert torch.equal(value, getattr(second, part).state_dict()[name]), name
    save_weights(tmp_path / "other.safetensors", first, "diffhmr", {})
    with pytest.raises(ValueError, match="belongs to diffhmr"):
        small(pose_weights=str(tmp_path / "other.safetensors"))._load(fresh=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stage": "both"}, "stage must be one of"),
        ({"estimator": "gan"}, "estimator must be one of"),
        ({"upsampler": "spline"}, "upsampler must be one of"),
        ({"lr_schedule": "step"}, "lr_schedule must be one of"),
        ({"num_hypotheses": 0}, "must be at least 1"),
        ({"final_steps": 0}, "must be at least 1"),
        ({"joint_set": "coco17"}, "expected smpl24, h36m17 or mano21"),
        ({"image_feature": "pooled", "backbone": "regnetx_002"}, "cannot be averaged to 128"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        small(**changes)


def test_bad_loss_weights() -> None:
    with pytest.raises(ValueError, match="loss_weights: must not be negative"):
        LossWeights(vertex=-1.0)
    with pytest.raises(ValueError, match="edge_from lie in"):
        LossWeights(edge_from=2.0)


def test_a_body_of_ones_own_needs_its_own_coarse_mesh(tmp_path: Path) -> None:
    from posecore.body.files import OPEN_BODY

    with pytest.raises(ValueError, match=r"pyramid: the body of 6890 vertices needs its own.*--pyramid-for"):
        small(body_model=OPEN_BODY)


def test_sizes_must_agree(tmp_path: Path) -> None:
    data = HMDiffDataModule(augmentation=CropAugmentation(size=SIZE + 1))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    with pytest.raises(ValueError, match=r"model.image_size is 64 but data.augmentation.size is 65"):
        trainer.test(small(), datamodule=data)
