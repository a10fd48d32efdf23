"""HMDiff as a LightningModule: trains backbone and pose head, then the diffusion model; samples meshes, scores them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from hmdiff.backbone import Backbone
from hmdiff.dat import Alignment, Target
from hmdiff.losses import LossWeights, geometry_losses, joint_loss, mean_of_known, prediction_target, vertex_loss
from hmdiff.mesh import CoarseMesh, LearnedUpsampler, load_pyramid
from hmdiff.network import Conditioning, FinalMLP, ImageFeature, MeshDenoiser, Prepared
from hmdiff.pose_distribution import PoseDistribution
from hmdiff.pose_head import PoseHead
from hmdiff.sampler import Meshes, Record, Sampling, sample
from hmdiff.scores import Scores
from hmdiff.true_meshes import TrueMeshes
from posecore.body.files import load_body_model
from posecore.body.skeletons import get_joint_set
from posecore.data.known_bodies import known_bodies
from posecore.data.sample import PoseSample, row_numbers
from posecore.diffusion.noise import NoiseSource, NoiseStreams, integers, normal, of_part, split, split_flat
from posecore.diffusion.schedule import NoiseSchedule, PredictionType
from posecore.geometry.camera import project
from posecore.geometry.placement import solve_translation
from posecore.metrics.protocols import get_protocol
from posecore.training.checkpoints import check_stamp, load_weights, resolve_weights, stamp
from posecore.training.denoising_strips import Denoised, denoise_once
from posecore.training.optimizers import adam
from posecore.training.progress import progress_bar
from posecore.training.schedules import share_of_training, with_warmup
from posecore.training.step_outputs import StepOutputs

METHOD = "hmdiff"
SHIPPED: dict[str, Any] = {
    "backbone": "resnet10t",
    "output_stride": 16,
    "image_size": 112,
    "head_channels": 64,
    "image_feature": "projected",
    "num_heads": 2,
    "prediction_type": "v_prediction",
    "unit": 0.25,
    "protocol": "open_mesh24",
}
"""Arguments of the shipped weights."""


class HMDiff(LightningModule):
    """Samples coarse meshes from an image by a diffusion model aligned to a pose prior (Foo et al., ICCV 2023).

    ===============  ==========================  =================
    code             paper                       where
    ===============  ==========================  =================
    ``backbone``     ``phi_I``                   Sec. 4.3
    ``pose_head``    ``phi_P``, gives U          Sec. 4.3
    ``denoiser``     ``g``                       Sec. 4.3
    ``final``        MLP of the centre, h_m      Fig. 1
    ``mesh``         ``f``, the linear map       Sec. 4.2
    ``schedule``     ``alpha_k``                 Eqs. (2) - (4)
    ===============  ==========================  =================

    Meshes are in metres, in the camera's axes, relative to the root joint.

    Args:
        stage: What is trained: ``"pose"`` backbone and pose head, or ``"mesh"`` the diffusion model with both frozen.
        backbone: timm's name of the image network.
        pretrained: Whether it begins with timm's published weights.
        checkpoint: A local file of its weights in place of those.
        output_stride: Pixels per cell of f_c, where finer than the network's own.
        grad_checkpointing: Whether stage ``"pose"`` computes the backbone's blocks twice, for less memory.
        pose_weights: A run of stage ``"pose"`` (shipped name or file) whose backbone and head stage ``"mesh"`` takes.
        image_size: Side of the crops, pixels; must be the data's ``augmentation.size``.
        head_channels: Of the pose head's deconvolutions.
        depth_range: Half the extent of E_z, metres.
        estimator: How a mesh is made: by diffusion, or in one step by the same network (Baselines A, B of Table 3).
        conditioning: What g attends to (Table 4).
        image_feature: How f_c becomes f_I.
        num_layers: Of g; 1 is the paper's, Baseline B has more.
        num_heads: Of its attentions.
        feed_forward: Width of its feed-forward network by the token's; 0 for none.
        adjacency_mask: Whether a vertex sees only its neighbours in self-attention.
        final_dim: Width of the final MLP; 0 for none.
        upsampler: Whether the map from 431 to 1723 vertices is the pyramid's or learnt from it.
        schedule: Name of the noise schedule.
        prediction_type: What g predicts of a noisy mesh; the paper's is the noise.
        unit: Metres that are 1 in the diffusion's numbers; the paper does not say what its unit noise is added to.
        noise_draws: Draws of step and noise per image; the image's side runs once for all of them.
        loss_weights: Weights of the losses.
        num_hypotheses: N, meshes sampled per image by `test` and `predict`.
        sampling: How they are sampled.
        alignment: Of DAT.
        val_hypotheses: N in validation.
        val_sampling: How validation samples.
        final_images: Images of each training batch of which samples are drawn to train the final MLP.
        final_samples: How many of each.
        final_steps: In how many steps, without DAT.
        joint_set: Joints of U: smpl24, h36m17, or mano21 for hands.
        keypoints: Joints of the data's keypoints; None for hands.
        body_model: SMPL's or MANO's file, or SMPL's folder; the open body where None.
        pyramid: Coarse meshes of that body (``tools/build_open_body.py --pyramid-for``); the open body's where None.
        protocol: How validation and test are scored; a name of `posecore.metrics.protocols`.
        weights: Shipped weights by name, or a safetensors file, of everything.
        lr: Adam's learning rate.
        lr_schedule: Constant, or a cosine.
        warmup_steps: Optimiser steps of linear warm-up.
        seed: Seed of the samples and of the validation loss's draws.
    """

    def __init__(
        self,
        stage: Literal["pose", "mesh"] = "mesh",
        backbone: str = "hrnet_w64",
        pretrained: bool = True,
        checkpoint: Path | None = None,
        output_stride: int | None = None,
        grad_checkpointing: bool = False,
        pose_weights: str | None = None,
        image_size: int = 224,
        head_channels: int = 256,
        depth_range: float = 1.0,
        estimator: Literal["diffusion", "single_step"] = "diffusion",
        conditioning: Conditioning = "image",
        image_feature: ImageFeature = "pooled",
        num_layers: int = 1,
        num_heads: int = 4,
        feed_forward: int = 4,
        adjacency_mask: bool = False,
        final_dim: int = 1024,
        upsampler: Literal["fixed", "learned"] = "fixed",
        schedule: str = "linear_200",
        prediction_type: PredictionType = "epsilon",
        unit: float = 1.0,
        noise_draws: int = 1,
        loss_weights: LossWeights | None = None,
        num_hypotheses: int = 25,
        sampling: Sampling | None = None,
        alignment: Alignment | None = None,
        val_hypotheses: int = 3,
        val_sampling: Sampling | None = None,
        final_images: int = 4,
        final_samples: int = 3,
        final_steps: int = 5,
        joint_set: str = "smpl24",
        keypoints: str | None = "joints44",
        body_model: Path | None = None,
        pyramid: Path | None = None,
        protocol: str = "hmdiff_3dpw",
        weights: str | None = None,
        lr: float = 1e-4,
        lr_schedule: Literal["constant", "cosine"] = "constant",
        warmup_steps: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("stage", stage, ("pose", "mesh")),
            ("estimator", estimator, ("diffusion", "single_step")),
            ("upsampler", upsampler, ("fixed", "learned")),
            ("lr_schedule", lr_schedule, ("constant", "cosine")),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {value!r}")
        counts = (noise_draws, num_hypotheses, val_hypotheses, final_images, final_samples, final_steps)
        if min(counts) < 1:
            raise ValueError(
                "noise_draws, num_hypotheses, val_hypotheses, final_images, final_samples and final_steps must be at "
                f"least 1, got {counts}"
            )
        if unit <= 0:
            raise ValueError(f"unit must be above 0 m, got {unit}")
        self.stage, self.estimator = stage, estimator
        pretrained = pretrained and weights is None and pose_weights is None  # loaded afterwards, in their place
        self.backbone = Backbone(backbone, pretrained, checkpoint, output_stride, grad_checkpointing)
        self.body_model = load_body_model(body_model)
        joints = self.sampled_joints = get_joint_set(joint_set)
        self.mesh = CoarseMesh(
            self.body_model, load_pyramid(pyramid, body_model is not None, len(self.body_model.v_template)), joints
        )
        self.pose_head = PoseHead(self.backbone.dim, joints.num_joints, head_channels, depth_range)
        self.denoiser, self.final, self.upsampler = None, None, None
        if stage != "pose":
            self.denoiser = MeshDenoiser(
                self.mesh.num_vertices,
                self.backbone.dim,
                joints.num_joints,
                heatmap_size=8 * self.backbone.side(image_size),
                conditioning=conditioning,
                image_feature=image_feature,
                num_layers=num_layers,
                num_heads=num_heads,
                feed_forward=feed_forward,
                adjacency=self.mesh.adjacency.clone() if adjacency_mask else None,
            )
            self.final = FinalMLP(self.mesh.num_vertices, final_dim) if final_dim else None
            self.upsampler = LearnedUpsampler(self.mesh) if upsampler == "learned" else None
            self.backbone.requires_grad_(False)
            self.pose_head.requires_grad_(False)
        self.schedule = NoiseSchedule.named(schedule)
        self.prediction_type: PredictionType = prediction_type
        self.image_size = image_size
        self.unit = unit
        self.noise_draws = noise_draws
        self.loss_weights = loss_weights or LossWeights()
        self.num_hypotheses, self.val_hypotheses = num_hypotheses, val_hypotheses
        if estimator == "single_step":  # of which there is one
            self.num_hypotheses = self.val_hypotheses = 1
        self.sampling, self.val_sampling = sampling or Sampling(), val_sampling or Sampling(num_inference_steps=10)
        self.final_images, self.final_samples = final_images, final_samples
        self.final_sampling = Sampling(num_inference_steps=final_steps)
        self.alignment = alignment or Alignment()
        self.protocol = get_protocol(protocol)
        self.weights, self.pose_weights = weights, pose_weights
        self.lr, self.lr_schedule, self.warmup_steps = lr, lr_schedule, warmup_steps
        self.seed = seed
        known_joints = None if keypoints is None else get_joint_set(keypoints)
        self.truth = TrueMeshes(
            self.mesh, self.body_model, known_joints, body_model, level=1 if upsampler == "learned" else -1
        )
        self.scores = Scores(self.protocol, self.truth, self.upsample, self.body_model)
        # The rest pose before the camera: upright, facing it.
        self.register_buffer("_rest", self.mesh.rest * torch.tensor([1.0, -1.0, -1.0]), persistent=False)

    @classmethod
    def pretrained(cls, weights: str = "open", **kwargs: Any) -> Self:
        """A model with shipped weights, ready to be called, without a Trainer.

        Args:
            weights: ``"open"``, or a safetensors file of the same architecture.
            **kwargs: Arguments of the class.

        Raises:
            FileNotFoundError: No such weights.
            ValueError: The file is broken or does not fit.
        """
        model = cls(weights=weights, **{**SHIPPED, **kwargs})
        model._load()
        return model.eval()

    def train(self, mode: bool = True) -> Self:
        """Training mode of what is trained: frozen parts keep their running statistics."""
        super().train(mode)
        if self.stage != "pose":
            self.backbone.eval()
            self.pose_head.eval()
        return self

    def forward(
        self,
        batch: PoseSample,
        num_hypotheses: int | None = None,
        sampling: Sampling | None = None,
        alignment: Alignment | None = None,
        record: Callable[[Record], None] | None = None,
    ) -> Meshes:
        """Meshes of the people in a batch of crops.

        Args:
            batch: ``image`` and ``K``, those of the network's crops. No truth is read.
            num_hypotheses: N; the module's where None, as are the next two.
            sampling: Of the reverse process.
            alignment: Of DAT.
            record: Called at every step of it.

        Raises:
            ValueError: The module is of stage ``"pose"``, which makes no meshes.
        """
        if self.denoiser is None:
            raise ValueError("stage: 'pose' has no diffusion model; take stage 'mesh'")
        # DAT needs gradients, for which no tensor may come from inference mode.
        with torch.inference_mode(False), torch.no_grad(), progress_bar(self, "sampling") as progress:
            image, K = batch["image"].clone(), batch["K"].clone()
            f_c = self.backbone(image)
            prior: PoseDistribution = self.pose_head(f_c)
            samples = self._samples(
                f_c,
                prior,
                K,
                num_hypotheses or self.num_hypotheses,
                sampling or self.sampling,
                alignment or self.alignment,
                NoiseStreams.of_rows(self.seed, row_numbers(batch)),
                progress,
                record,
            )
            final = self._final(samples.mean(dim=1))
            joints = self.mesh.joints(final)[:, None]
            seen = prior.mean()[..., :2] * self.image_size
            transl = solve_translation(joints, seen, torch.ones_like(seen[..., 0]), K)[:, 0]
        return Meshes(final, samples, transl, prior)

    def upsample(self, coarse: Float[Tensor, "*batch vertices 3"]) -> Float[Tensor, "*batch full_vertices 3"]:
        """The full mesh of a coarse one."""
        if self.upsampler is None:
            return self.mesh.upsample(coarse)
        return self.mesh.upsample(self.upsampler(coarse), source=1)

    def setup(self, stage: str) -> None:
        """Loads the weights, makes the metrics of every validation and test set.

        Raises:
            ValueError: The data's crops have another size.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.augmentation.size != self.image_size:
            raise ValueError(
                f"model.image_size is {self.image_size} but data.augmentation.size is {data.augmentation.size}: set "
                "both to the same"
            )
        self._load(fresh=stage == "fit")
        self.scores.make(data.val_sets, data.test_sets)

    def training_step(self, batch: PoseSample, batch_idx: int) -> Tensor:
        """L_total (Sec. 4.4), or the pose head's losses."""
        losses = self._losses(batch)
        self.log_dict({f"train/loss_{name}": loss for name, loss in losses.items()})
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: PoseSample, batch_idx: int, dataloader_idx: int = 0) -> StepOutputs | None:
        """The losses on fixed draws, the prior's error, and a few samples with few steps, scored."""
        name = self.trainer.datamodule.val_names[dataloader_idx]  # type: ignore[attr-defined]
        losses = self._losses(batch, NoiseStreams.of_rows(self.seed, row_numbers(batch)))
        values = {f"val/{name}/loss_{term}": loss for term, loss in losses.items()}
        self.log_dict(values, add_dataloader_idx=False, sync_dist=True, batch_size=len(batch["image"]))
        return self._score(batch, "val", name, self.val_hypotheses, self.val_sampling)

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/<set>/<metric>``."""
        self.log_dict(self.scores.compute("val"), add_dataloader_idx=False)

    def test_step(self, batch: PoseSample, batch_idx: int, dataloader_idx: int = 0) -> StepOutputs | None:
        """All samples and the final mesh, scored by the protocol."""
        name = self.trainer.datamodule.test_names[dataloader_idx]  # type: ignore[attr-defined]
        return self._score(batch, "test", name, self.num_hypotheses, self.sampling)

    def on_test_epoch_end(self) -> None:
        """Logs ``test/<set>/<metric>``."""
        self.log_dict(self.scores.compute("test"), add_dataloader_idx=False)

    def predict_step(self, batch: PoseSample, batch_idx: int) -> dict[str, Tensor]:
        """Full final mesh in the camera frame, coarse samples about the root joint, and where that is."""
        meshes: Meshes = self(batch)
        return {
            "row": batch["row"],
            "vertices_cam": self.upsample(meshes.final) + meshes.transl[:, None],
            "samples_rel": meshes.samples,
            "transl": meshes.transl,
        }

    def denoised(self, sample: PoseSample, levels: Sequence[float]) -> Denoised | None:
        """What g makes of a true mesh at several noise levels, for the dashboard."""
        network, known = self.denoiser, known_bodies(sample)
        if network is None or self.estimator == "single_step" or not (known is None or bool(known)):
            return None
        coarse, f_c = self.truth.coarse_of_level(self.truth.level_vertices(sample)), self.backbone(sample["image"])
        prepared = network.prepare(f_c, self.pose_head(f_c)).repeat(len(levels))
        h_0 = (coarse - self.mesh.joints(coarse)[:, :1]) / self.unit
        of = self.schedule, h_0, levels, lambda h, k: network(h, k, prepared), lambda h: self.mesh.joints(self.unit * h)
        return denoise_once(*of, self.sampled_joints, self.prediction_type)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam (Sec. 5)."""
        optimizer = adam(self, [p for p in self.parameters() if p.requires_grad], lr=self.lr)
        total = int(self.trainer.estimated_stepping_batches) if self.lr_schedule == "cosine" else None
        return with_warmup(optimizer, self.warmup_steps, total)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stamps the method's name."""
        stamp(checkpoint, METHOD)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses other methods' checkpoints."""
        check_stamp(checkpoint, METHOD)

    def _load(self, fresh: bool = False) -> None:
        folder = Path(__file__).parent
        if self.weights is not None:
            load_weights(resolve_weights(self.weights, folder), self, METHOD)
        elif self.pose_weights is not None and fresh:
            for part in ("backbone", "pose_head"):
                load_weights(resolve_weights(self.pose_weights, folder), getattr(self, part), METHOD, f"{part}.")

    def _samples(
        self,
        f_c: Tensor,
        prior: PoseDistribution,
        K: Tensor,
        num_samples: int,
        sampling: Sampling,
        alignment: Alignment,
        generator: NoiseSource | None,
        progress: Callable[[int, int], None] | None = None,
        record: Callable[[Record], None] | None = None,
    ) -> Float[Tensor, "people n vertices 3"]:
        """Samples of H_0, or the one answer of a single step."""
        network = cast(MeshDenoiser, self.denoiser)
        prepared = network.prepare(f_c, prior)
        if self.estimator == "single_step":
            return self._single_step(network, prepared)[:, None].float()
        target, h_K = None, None
        if alignment.of != "nothing":
            poses = prior.sample(alignment.num_poses, generator) if alignment.poses == "samples" else prior.mode()
            target = Target.of_poses(prior.in_metres(poses, K, self.image_size), alignment.num_poses)
        if sampling.start == "pose":
            of_samples = split(generator, num_samples)
            poses = prior.in_metres(prior.sample(num_samples, of_samples), K, self.image_size)
            noise = normal((*poses.shape[:2], self.mesh.num_vertices, 3), poses, of_samples)
            sigma = self.schedule.sigma(self.schedule.num_train_timesteps - 1, noise)
            h_K = self.mesh.lift(poses) / self.unit + sigma * noise
        of_g = network, self.schedule, prepared, num_samples, sampling, alignment
        f = self.mesh.joint_regressor
        return sample(*of_g, f, target, self.prediction_type, generator, progress, record, h_K, self.unit)

    def _single_step(self, network: MeshDenoiser, prepared: Prepared) -> Tensor:
        """The mesh in one pass: from the rest pose, at step 0."""
        rest = cast(Tensor, self._rest).expand(prepared.num_images, -1, -1)
        mesh: Tensor = network(rest, torch.zeros((), dtype=torch.int64, device=rest.device), prepared)
        return mesh

    def _final(self, centre: Float[Tensor, "people vertices 3"]) -> Float[Tensor, "people vertices 3"]:
        final: Tensor = centre if self.final is None else self.final(centre).float()
        return final

    def _losses(self, batch: PoseSample, generator: NoiseSource | None = None) -> dict[str, Tensor]:
        true = self.truth.level_vertices(batch)
        coarse = self.truth.coarse_of_level(true)
        joints_cam = self.mesh.joints(coarse)
        known = known_bodies(batch)
        if self.stage == "pose":
            prior: PoseDistribution = self.pose_head(self.backbone(batch["image"]))
            places = project(joints_cam, batch["K"]) / self.image_size
            found = prior.losses(joints_cam, places, batch["K"], self.image_size, known)
            return {name: getattr(self.loss_weights, name) * value for name, value in found.items()}
        root = joints_cam[:, :1]
        return self._mesh_losses(batch, coarse - root, true - root, known, generator)

    def _mesh_losses(
        self,
        batch: PoseSample,
        h_0: Float[Tensor, "rows vertices 3"],
        fine: Float[Tensor, "rows fine 3"],
        known: Tensor | None,
        generator: NoiseSource | None,
    ) -> dict[str, Tensor]:
        """Those of g and of what comes after it."""
        network = cast(MeshDenoiser, self.denoiser)
        with torch.no_grad():
            f_c = self.backbone(batch["image"])
            prior: PoseDistribution = self.pose_head(f_c)
        prepared = network.prepare(f_c, prior)
        if self.estimator == "single_step":
            centre, images = self._single_step(network, prepared).float(), slice(None)
            share = share_of_training(self.trainer)
            losses = geometry_losses(self.mesh, self.loss_weights, share, centre, h_0, known)
        else:
            losses = self._diffusion_losses(network, prepared, h_0, known, generator)
            images = slice(self.final_images)
            centre = self._training_centre(f_c, prior, batch["K"], images, generator)
        return losses | self._final_losses(
            centre.detach(), h_0[images], fine[images], None if known is None else known[images]
        )

    def _diffusion_losses(
        self,
        network: MeshDenoiser,
        prepared: Prepared,
        h_0: Float[Tensor, "rows vertices 3"],
        known: Tensor | None,
        generator: NoiseSource | None,
    ) -> dict[str, Tensor]:
        """L_Diff, and the geometry of the estimates of h_0."""
        weights, draws = self.loss_weights, self.noise_draws
        repeated = h_0.repeat_interleave(draws, dim=0) / self.unit
        of_rows = None if known is None else known.repeat_interleave(draws)
        generator = split_flat(generator, draws)
        k = integers(self.schedule.num_train_timesteps, (len(repeated),), h_0, generator)
        noise = normal(repeated.shape, h_0, generator)
        h_k = self.schedule.q_sample(repeated, k, noise)  # Eq. (4)
        out = network(h_k, k, prepared.repeat(draws)).float()
        # Deviation: L_Diff as printed asks g for the step h_{k-1} - h_k; Eqs. (6), (7) and Algorithm 1 use it as the
        # noise, and one step per sample stands for the sum over all.
        wanted = prediction_target(self.schedule, self.prediction_type, repeated, noise, h_k, k)
        estimate = self.unit * self.schedule.to_x0(out, h_k, k, self.prediction_type)  # Eq. (7)
        alpha = self.schedule.alpha_bar(k, h_0).reshape(-1).to(h_0.dtype)
        row_weight = alpha if weights.x0 == "alpha" else None
        share = share_of_training(self.trainer)
        geometry = geometry_losses(self.mesh, weights, share, estimate, self.unit * repeated, of_rows, row_weight)
        return {"diffusion": weights.diffusion * mean_of_known((out - wanted).square(), of_rows)} | geometry

    def _final_losses(
        self,
        centre: Float[Tensor, "rows vertices 3"],
        h_0: Float[Tensor, "rows vertices 3"],
        fine: Float[Tensor, "rows fine 3"],
        known: Tensor | None,
    ) -> dict[str, Tensor]:
        """Of the final MLP, and of the upsampler where it is learnt."""
        weights, losses = self.loss_weights, {}
        final = self._final(centre)
        if self.final is not None:
            of_vertices = weights.vertex * vertex_loss(final, h_0, known)
            of_joints = weights.joint * joint_loss(self.mesh.joints(final), self.mesh.joints(h_0), known)
            losses["final"] = weights.final * (of_vertices + of_joints)
        if self.upsampler is not None:
            raised = self.upsampler(final.detach())
            losses["upsampled"] = weights.final * vertex_loss(raised, fine, known)
        return losses

    def _training_centre(
        self, f_c: Tensor, prior: PoseDistribution, K: Tensor, images: slice, generator: NoiseSource | None
    ) -> Float[Tensor, "images vertices 3"]:
        """The centre of a few samples of some images: what the final MLP will be given, made by g as it is now."""
        with torch.no_grad():
            few = f_c[images], prior.take(images), K[images], self.final_samples, self.final_sampling
            return self._samples(*few, Alignment(of="nothing"), of_part(generator, images)).mean(dim=1)

    def _score(
        self, batch: PoseSample, stage: str, name: str, num_samples: int, sampling: Sampling
    ) -> StepOutputs | None:
        """Adds prior and meshes to the metrics; None where there are no meshes yet."""
        path = f"{stage}/{name}"
        meshes: Meshes | None = None
        if self.denoiser is not None:
            with self.scores.timed(path, batch["image"]):
                meshes = self(batch, num_samples, sampling)
        prior = self.pose_head(self.backbone(batch["image"])) if meshes is None else meshes.prior
        pose = prior.in_metres(prior.mean()[:, None], batch["K"], self.image_size)[:, 0]
        self.scores.update_prior(path, batch, pose)
        if meshes is None:
            return None
        joints, sampled = self.scores.update(path, batch, meshes.final, meshes.samples)
        best = torch.zeros(len(joints), dtype=torch.int64, device=joints.device)  # there is one final mesh
        target, known, _ = self.scores._true(path, batch)
        return {
            "joints_rel": joints - joints[:, :, :1],
            "best": best,
            "joint_set": self.scores.joint_set,
            "pose": joints[:, 0],
            "target": target,
            "known": known,
            "samples_rel": self.mesh.joints(meshes.samples) if sampled is None else sampled,
            "vertices": lambda rows: self.upsample(meshes.final[rows]) + meshes.transl[rows, None],
        }
