"""Diff-HMR as a LightningModule: trains encoder, denoiser and regressor together, samples bodies, scores them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from diffhmr.encoder import ImageEncoder
from diffhmr.losses import (
    X0Weighting,
    betas_loss,
    camera_scale_loss,
    joints_loss,
    keypoints_loss,
    noise_loss,
    pose_loss,
    x0_weight,
)
from diffhmr.network import Conditioning, Regressed, Regressor, UNet1D
from diffhmr.representation import PoseRepresentation, Rotation
from diffhmr.sampler import Pick, Sampling, pick_most_plausible, sample
from diffhmr.scores import Scores
from posecore.body.files import load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import JOINTS_44
from posecore.body.smpl import SMPLLayer
from posecore.data.known_bodies import own_joints
from posecore.data.sample import PoseSample, row_numbers
from posecore.diffusion.noise import NoiseSource, NoiseStreams, integers, normal, split_flat
from posecore.diffusion.schedule import NoiseSchedule
from posecore.geometry.camera import project, project_weak_perspective, weak_to_full_translation
from posecore.geometry.rotation import rot6d_to_rotmat, rotmat_to_rot6d
from posecore.metrics.protocols import get_protocol
from posecore.training.checkpoints import check_stamp, load_weights, resolve_weights, stamp
from posecore.training.denoising_strips import Denoised, denoise_once
from posecore.training.optimizers import adam
from posecore.training.progress import progress_bar
from posecore.training.schedules import with_warmup
from posecore.training.step_outputs import StepOutputs

METHOD = "diffhmr"
SHIPPED: dict[str, Any] = {
    "backbone": "resnet10t",
    "image_size": 96,
    "dim": 32,
    "protocol": "open_mesh24",
}
"""Arguments of the shipped weights."""
_HIPS = (JOINTS_44.index("r_hip"), JOINTS_44.index("l_hip"))


@dataclass(frozen=True)
class LossWeights:
    """Weights of the sum of all losses.

    Deviation: the paper gives none. Those of L_hmr are in SPIN's proportions.

    Args:
        noise: Of L_diff.
        pose: Of the rotation matrices.
        keypoints: Of the projected joints.
        joints: Of the 3D joints.
        betas: Of the shape.
        camera: Of the term that keeps the weak camera's scale positive.
        x0: How the terms on the one-step estimate x_0 are weighted by its noise level.
        x0_gate: Least alpha-bar at which they count, for ``gate``.
    """

    noise: float = 1.0
    pose: float = 1.0
    keypoints: float = 5.0
    joints: float = 5.0
    betas: float = 0.001
    camera: float = 1.0
    x0: X0Weighting = "alpha_bar"
    x0_gate: float = 0.5

    def __post_init__(self) -> None:
        terms = {name: getattr(self, name) for name in ("noise", "pose", "keypoints", "joints", "betas", "camera")}
        if min(terms.values()) < 0:
            raise ValueError(f"loss_weights: must not be negative, got {terms}")


@dataclass(frozen=True)
class Bodies:
    """What is found in a batch of images.

    Attributes:
        pose_rotmat: Hypotheses of the 24 rotations, root first, camera frame.
        betas: Shape, of all hypotheses of a person.
        cam_s_tx_ty: Weak-perspective camera of the crop, likewise.
        transl: Translation before the camera ``K``, metres, likewise.
        best: The most plausible hypothesis, chosen without truth.
    """

    pose_rotmat: Float[Tensor, "people hypotheses 24 3 3"]
    betas: Float[Tensor, "people 10"]
    cam_s_tx_ty: Float[Tensor, "people 3"]
    transl: Float[Tensor, "people 3"]
    best: Int[Tensor, " people"]


class DiffHMR(LightningModule):
    """Samples SMPL poses from an image by a denoising diffusion model (Cho and Kim, ICCVW 2023).

    ===============  ==========================  =================
    code             paper                       where
    ===============  ==========================  =================
    ``encoder``      ``g``, z = g(I)             Sec. 3.2
    ``denoiser``     ``f_omega``                 Sec. 3.2
    ``regressor``    ``R``, {beta, pi} = R(z)    Sec. 3.2
    ``schedule``     ``alpha_t``                 Eqs. (1), (2)
    ===============  ==========================  =================

    ``mpjpe`` and its like are logged of the most plausible hypothesis, which no truth chose; ``min<n>_...`` are each
    metric's least value among the first n, as Table 1 reports, and ``best<n>_...`` all of the hypothesis with the least
    MPJPE among them.

    Args:
        backbone: timm's name of the encoder's network.
        pretrained: Whether the backbone begins with timm's published weights.
        checkpoint: A local file of weights of the backbone in place of those.
        init_weights: A run of this method (shipped name or file) whose encoder and regressor this one begins with.
        freeze_encoder: Whether the encoder stays as it is.
        grad_checkpointing: Whether training computes the inside of the encoder's blocks twice, for less memory.
        image_size: Side of the crops, pixels; must be the data's ``augmentation.size``.
        estimator: What gives the pose: the diffusion model, or the regressor (one output; the comparison).
        rotation: What is diffused (Table 2).
        conditioning: How z enters the denoiser.
        dim: Width of the denoiser's first level.
        cond_channels: Width to which denoiser and regressor bring each cell of z.
        hidden_dim: Width of the regressor.
        dropout: Of the regressor, in training.
        schedule: Name of the noise schedule.
        noise_draws: Draws of timestep and noise per image and step; the encoder runs once for all of them.
        loss_weights: Weights of the losses.
        num_hypotheses: Poses sampled per person by `test` and `predict`.
        sampling: How they are sampled.
        pick: How the most plausible one is chosen.
        val_hypotheses: Poses per person in validation.
        val_sampling: How validation samples; fewer steps make it quick.
        counts: The n of min-of-n that `test` reports; those above ``num_hypotheses`` are left out.
        body_model: SMPL's file or folder; the open body where None.
        protocol: How validation and test are scored; a name of `posecore.metrics.protocols`.
        weights: Shipped weights by name, or a safetensors file.
        lr: Adam's learning rate, SPIN's.
        encoder_lr: That of the encoder; ``lr`` where None.
        lr_schedule: Constant as SPIN's, or a cosine.
        warmup_steps: Optimiser steps of linear warm-up.
        seed: Seed of the hypotheses and of the validation loss's draws.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        pretrained: bool = True,
        checkpoint: Path | None = None,
        init_weights: str | None = None,
        freeze_encoder: bool = False,
        grad_checkpointing: bool = False,
        image_size: int = 224,
        estimator: Literal["diffusion", "regression"] = "diffusion",
        rotation: Rotation = "rot6d",
        conditioning: Conditioning = "concat",
        dim: int = 64,
        cond_channels: int = 64,
        hidden_dim: int = 1024,
        dropout: float = 0.0,
        schedule: str = "cosine_1000",
        noise_draws: int = 1,
        loss_weights: LossWeights | None = None,
        num_hypotheses: int = 25,
        sampling: Sampling | None = None,
        pick: Pick = "medoid",
        val_hypotheses: int = 5,
        val_sampling: Sampling | None = None,
        counts: tuple[int, ...] = (1, 5, 10, 25),
        body_model: Path | None = None,
        protocol: str = "spin_3dpw",
        weights: str | None = None,
        lr: float = 5e-5,
        encoder_lr: float | None = None,
        lr_schedule: Literal["constant", "cosine"] = "constant",
        warmup_steps: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if estimator not in ("diffusion", "regression") or lr_schedule not in ("constant", "cosine"):
            raise ValueError(
                "estimator must be 'diffusion' or 'regression', lr_schedule 'constant' or 'cosine', got "
                f"{estimator!r}, {lr_schedule!r}"
            )
        if min(noise_draws, num_hypotheses, val_hypotheses, *counts) < 1:
            raise ValueError(
                "noise_draws, num_hypotheses, val_hypotheses and counts must be at least 1, got "
                f"{noise_draws}, {num_hypotheses}, {val_hypotheses}, {counts}"
            )
        # Weights that are loaded afterwards make the published ones a download for nothing.
        needless = weights is not None or init_weights is not None
        self.encoder = ImageEncoder(backbone, pretrained and not needless, checkpoint, grad_checkpointing)
        grid = self.encoder.num_cells(image_size)
        self.regressor = Regressor(
            self.encoder.dim, grid, hidden_dim, cond_channels, estimator == "regression", dropout
        )
        self.representation = PoseRepresentation(rotation)
        self.denoiser = (
            UNet1D(
                self.encoder.dim,
                grid,
                self.representation.channels,
                dim=dim,
                conditioning=conditioning,
                cond_channels=cond_channels,
            )
            if estimator == "diffusion"
            else None
        )
        self.schedule = NoiseSchedule.named(schedule)
        self.image_size = image_size
        self.freeze_encoder = freeze_encoder
        self.noise_draws = noise_draws
        self.loss_weights = loss_weights or LossWeights()
        if estimator == "regression":  # of which there is one
            num_hypotheses = val_hypotheses = 1
        self.num_hypotheses, self.val_hypotheses = num_hypotheses, val_hypotheses
        self.sampling, self.val_sampling = sampling or Sampling(), val_sampling or Sampling(num_inference_steps=10)
        self.pick = pick
        self.counts = tuple(count for count in counts if count <= num_hypotheses)
        self.protocol = get_protocol(protocol)
        self.weights, self.init_weights = weights, init_weights
        self.lr, self.encoder_lr, self.lr_schedule, self.warmup_steps = lr, encoder_lr, lr_schedule, warmup_steps
        self.seed = seed
        self.body_model = load_body_model(body_model)
        self.keypoint_body = NamedJoints(JOINTS_44, self.body_model)
        self.scores = Scores(self.protocol, self.body_model, body_model, self.counts)
        if freeze_encoder:
            self.encoder.requires_grad_(False)

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

    def forward(self, batch: PoseSample, num_hypotheses: int | None = None, sampling: Sampling | None = None) -> Bodies:
        """Bodies of the people in a batch of crops.

        Args:
            batch: ``image`` and ``K``, those of the network's crops; ``joints_2d_px`` and ``confidence`` where the pick
                looks at keypoints. No truth is read.
            num_hypotheses: The module's where None.
            sampling: The module's where None.
        """
        z = self.encoder(batch["image"])
        found: Regressed = self.regressor(z)
        if found.pose_rot6d is not None:
            pose = rot6d_to_rotmat(found.pose_rot6d)[:, None]
        else:
            network = cast(UNet1D, self.denoiser)
            with progress_bar(self, "sampling") as progress:
                x_0 = sample(
                    network,
                    self.schedule,
                    network.prepare(z),
                    num_hypotheses or self.num_hypotheses,
                    sampling or self.sampling,
                    self.representation.clip,
                    NoiseStreams.of_rows(self.seed, row_numbers(batch)),
                    progress,
                )
            pose = self.representation.decode(x_0.float())
        transl = self._translation(found.cam_s_tx_ty, batch["K"])
        joints = self._joints(pose, found.betas) + transl[:, None, None]
        seen = batch.get("joints_2d_px"), batch.get("confidence"), batch["K"]
        return Bodies(pose, found.betas, found.cam_s_tx_ty, transl, pick_most_plausible(joints, self.pick, *seen))

    @property
    def pick_statement(self) -> str:
        """How the most plausible body was chosen, for readers of predictions."""
        return {
            "medoid": "the hypothesis whose joints are nearest to those of all others",
            "keypoints": "the hypothesis nearest to the keypoints; where there are none, the one nearest to all others",
            "first": "the first hypothesis",
        }[self.pick]

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
        """L_all = L_diff + L_hmr (Sec. 3.2)."""
        losses = self._losses(batch)
        self.log_dict({f"train/loss_{name}": loss for name, loss in losses.items()})
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: PoseSample, batch_idx: int, dataloader_idx: int = 0) -> StepOutputs:
        """The losses on fixed draws, and a few hypotheses with few steps, scored."""
        name = self.trainer.datamodule.val_names[dataloader_idx]  # type: ignore[attr-defined]
        losses = self._losses(batch, NoiseStreams.of_rows(self.seed, row_numbers(batch)))
        values = {f"val/{name}/loss_{term}": loss for term, loss in losses.items()}
        self.log_dict(values, add_dataloader_idx=False, sync_dist=True, batch_size=len(batch["image"]))
        return self._score(batch, f"val/{name}", self.val_hypotheses, self.val_sampling)

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/<set>/<metric>``."""
        self.log_dict(self.scores.compute("val"), add_dataloader_idx=False)

    def test_step(self, batch: PoseSample, batch_idx: int, dataloader_idx: int = 0) -> StepOutputs:
        """All hypotheses, scored by the protocol."""
        name = self.trainer.datamodule.test_names[dataloader_idx]  # type: ignore[attr-defined]
        return self._score(batch, f"test/{name}", self.num_hypotheses, self.sampling)

    def on_test_epoch_end(self) -> None:
        """Logs ``test/<set>/<metric>``."""
        self.log_dict(self.scores.compute("test"), add_dataloader_idx=False)

    def predict_step(self, batch: PoseSample, batch_idx: int) -> dict[str, Tensor]:
        """SMPL parameters of the pick and of all hypotheses, and the pick's error in pixels of the photograph."""
        bodies: Bodies = self(batch)
        rows = torch.arange(len(bodies.best), device=bodies.best.device)
        pose = bodies.pose_rotmat[rows, bodies.best]
        joints = self._joints(pose[:, None], bodies.betas)[:, 0] + bodies.transl[:, None]
        side = self.trainer.datamodule.predict_set.samples["box"][batch["row"].cpu(), 2]  # type: ignore[attr-defined]
        seen = batch["confidence"] > 0
        distance = (project(joints, batch["K"]) - batch["joints_2d_px"]).norm(dim=-1)
        error = torch.where(seen, distance, 0.0).sum(dim=-1) / seen.sum(dim=-1)  # NaN where none is seen
        return {
            "row": batch["row"],
            "pose_rot6d": rotmat_to_rot6d(pose),
            "betas": bodies.betas,
            "transl": bodies.transl,
            "reprojection_error_px": error * side.to(error) / self.image_size,
            "hypotheses_rot6d": rotmat_to_rot6d(bodies.pose_rotmat),
            "best": bodies.best,
        }

    def denoised(self, sample: PoseSample, levels: Sequence[float]) -> Denoised | None:
        """What the denoiser makes of a true pose at several noise levels, for the dashboard."""
        known = "body_pose" in sample and bool(sample.get("has_pose", True))
        if self.denoiser is None or not known:
            return None
        network = self.denoiser
        true_pose = torch.cat((sample["global_orient"][:, None], sample["body_pose"]), dim=1)
        prepared = network.prepare(self.encoder(sample["image"])).repeat(len(levels))

        def joints(x: Tensor) -> Tensor:
            pose = self.representation.decode(x.float())
            return cast(Tensor, self.scores.scorer.joints(sample["betas"].expand(len(x), -1), pose[:, 1:], pose[:, 0]))

        x_0, joint_set = self.representation.encode(true_pose), self.scores.joint_set
        return denoise_once(self.schedule, x_0, levels, lambda x, t: network(x, t, prepared), joints, joint_set)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, as SPIN; the encoder may have a rate of its own."""
        encoder = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        others = [p for name, p in self.named_parameters() if not name.startswith("encoder.") and p.requires_grad]
        groups = [{"params": others, "lr": self.lr}]
        if encoder:
            groups.append({"params": encoder, "lr": self.lr if self.encoder_lr is None else self.encoder_lr})
        optimizer = adam(self, groups)
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
        elif self.init_weights is not None and fresh:
            for part in ("encoder", "regressor"):
                load_weights(resolve_weights(self.init_weights, folder), getattr(self, part), METHOD, f"{part}.")

    def _losses(self, batch: PoseSample, generator: NoiseSource | None = None) -> dict[str, Tensor]:
        weights = self.loss_weights
        true_pose = torch.cat((batch["global_orient"][:, None], batch["body_pose"]), dim=1)
        known = batch.get("has_pose")
        z = self.encoder(batch["image"])
        found: Regressed = self.regressor(z)
        draws, row_weight, losses = 1, None, {}
        if found.pose_rot6d is not None:
            pose = rot6d_to_rotmat(found.pose_rot6d)
        else:
            network = cast(UNet1D, self.denoiser)
            draws = self.noise_draws
            x_0 = self.representation.encode(true_pose).repeat_interleave(draws, dim=0)
            generator = split_flat(generator, draws)
            t = integers(self.schedule.num_train_timesteps, (len(x_0),), x_0, generator)
            noise = normal(x_0.shape, x_0, generator)
            x_t = self.schedule.q_sample(x_0, t, noise)  # Eq. (4)
            predicted = network(x_t, t, network.prepare(z).repeat(draws)).to(noise.dtype)
            of_rows = None if known is None else known.repeat_interleave(draws)
            losses["noise"] = weights.noise * noise_loss(predicted, noise, of_rows)
            # Deviation: the paper prints alpha_t in this formula, where the cumulative alpha-bar_t belongs.
            pose = self.representation.decode(self.schedule.to_x0(predicted, x_t, t, "epsilon"))
            row_weight = x0_weight(
                self.schedule.alpha_bar(t, x_0).reshape(-1).to(x_0.dtype), weights.x0, weights.x0_gate
            )
            if of_rows is not None:  # A noisy pose that nobody knows the clean one of says nothing.
                row_weight = row_weight * of_rows
        betas, camera = (part.repeat_interleave(draws, dim=0) for part in (found.betas, found.cam_s_tx_ty))
        truth = {
            key: cast(dict[str, Tensor], batch)[key].repeat_interleave(draws, dim=0)
            for key in ("joints_cam", "joints_known", "joints_2d_px", "confidence", "has_pose")
            if key in batch
        }
        joints = self.keypoint_body(betas, pose[:, 1:], pose[:, 0])
        keypoints = 2 / self.image_size * truth["joints_2d_px"] - 1
        projected = project_weak_perspective(joints, camera)
        terms = {
            "pose": pose_loss(pose, true_pose.repeat_interleave(draws, 0), truth.get("has_pose"), row_weight),
            "keypoints": keypoints_loss(projected, keypoints, truth["confidence"], row_weight),
            "joints": joints_loss(joints, truth["joints_cam"], _HIPS, truth.get("joints_known"), row_weight),
            "betas": betas_loss(found.betas, batch["betas"], batch.get("has_betas")),
            "camera": camera_scale_loss(found.cam_s_tx_ty[:, 0]),
        }
        return losses | {name: getattr(weights, name) * value for name, value in terms.items()}

    def _joints(
        self, pose_rotmat: Float[Tensor, "people n 24 3 3"], betas: Float[Tensor, "people 10"]
    ) -> Float[Tensor, "people n 44 3"]:
        """Joints of all hypotheses at SMPL's origin."""
        joints: Tensor = self.keypoint_body(betas[:, None], pose_rotmat[:, :, 1:], pose_rotmat[:, :, 0])
        return joints

    def _translation(
        self, camera: Float[Tensor, "people 3"], K: Float[Tensor, "people 3 3"]
    ) -> Float[Tensor, "people 3"]:
        """Where the crop's weak camera puts the people before the picture's camera, whose part the crop's ``K`` is."""
        size = torch.full_like(camera[:, 0], self.image_size)
        middle = size[:, None].expand(-1, 2) / 2
        return weak_to_full_translation(camera.float(), middle, size, 2 * K[:, :2, 2], K[:, 0, 0])

    def _score(self, batch: PoseSample, path: str, num_hypotheses: int, sampling: Sampling) -> StepOutputs:
        bodies = self(batch, num_hypotheses, sampling)
        rows = torch.arange(len(bodies.best), device=bodies.best.device)
        joints = self.scores.update(path, batch, bodies.pose_rotmat, bodies.betas, bodies.best)
        without_bodies = path in self.scores._without_bodies
        target, known = (
            own_joints(batch, self.scores.joint_set) if without_bodies else self.scores._truth(batch, False)[:2]
        )
        pose = bodies.pose_rotmat[rows, bodies.best]

        def vertices(people: slice) -> Tensor:
            layer = SMPLLayer(self.body_model, joints=()).to(self.device)
            made = layer(bodies.betas[people], pose[people, 1:], pose[people, 0], bodies.transl[people])
            return cast(Tensor, made.vertices)

        return {
            "joints_rel": joints - joints[:, :, :1],
            "best": bodies.best,
            "joint_set": self.scores.joint_set,
            "pose": joints[rows, bodies.best],
            "target": target,
            "known": known,
            "vertices": vertices,
            "pose_rotmat": pose,
            "betas": bodies.betas,
            "transl": bodies.transl,
        }
