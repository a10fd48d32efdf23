"""DiffuPose as a LightningModule: trains the conditional denoiser, samples many 3D poses per set of keypoints."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from matplotlib.figure import Figure
from torch import Tensor, nn

from diffupose.keypoints import Coordinates, condition
from diffupose.losses import joint_weights, keypoint_loss, noise_loss
from diffupose.network import GraphDenoiser, ModulatedGraphConv, TimeBlocks
from diffupose.sampler import Aggregation, DiffuPoseResult, Sampling, aggregate, sample
from diffupose.scoring import RULES, poses_by_rule
from diffupose.unet import UNetDenoiser
from posecore.body.skeletons import get_joint_set
from posecore.data.sample import PoseSample, group_names, row_numbers
from posecore.data.transforms import rotate_joints
from posecore.diffusion.noise import NoiseSource, NoiseStreams, integers, normal
from posecore.diffusion.schedule import NoiseSchedule
from posecore.geometry.placement import reprojection_error, solve_translation
from posecore.metrics.pose import ProtocolMetric
from posecore.metrics.protocols import get_protocol
from posecore.render.panels import affinity_plot
from posecore.training.checkpoints import check_stamp, load_weights, resolve_weights, stamp
from posecore.training.denoising_strips import Denoised, denoise_once
from posecore.training.optimizers import adam
from posecore.training.progress import progress_bar
from posecore.training.schedules import with_warmup
from posecore.training.step_outputs import StepOutputs

METHOD = "diffupose"
SHIPPED: dict[str, Any] = {"dim": 256, "pose_scale": 3.0, "coordinates": "person", "sampling": Sampling(clip_x0=1.5)}
"""What the shipped weights were trained with."""


class DiffuPose(LightningModule):
    """Many 3D poses from one set of 2D keypoints by a conditional DDPM (Choi, Shim and Kim, IROS 2023).

    ===================  ======================  =============================
    code                 paper                   where
    ===================  ======================  =============================
    ``network``          ``epsilon_theta``       Fig. 3, Eqs. (7), (8)
    ``schedule``         ``alpha-bar_t``         Eq. (11)
    ``w_keypoints``      ``lambda``              Eq. (10)
    ``num_hypotheses``   ``N``                   Sec. 4.3
    ``dim``              ``d_m``                 Table 4
    ===================  ======================  =============================

    Scores are logged under ``<set>/<rule><metric>``; `diffupose.scoring` says which rules use the truth. The plain
    ``<set>/<metric>`` does not.

    Args:
        joint_set: Joints of a pose; joint 0 is the root.
        denoiser: ``"graph"``, or ``"unet"`` for the baseline of Table 2.
        dim: Width of the graph network.
        time_blocks: Where the timestep enters the graph network.
        schedule: Name of the noise schedule (``posecore.diffusion.schedule.NAMED_BETAS``).
        coordinates: How the network sees keypoints.
        pose_scale: Factor on the metres that are diffused. Deviation: 1 as in the release leaves poses of standard
            deviation 0.28 beside noise of 1; 3 brings both to about one size (the shipped weights).
        num_hypotheses: N.
        aggregation: How they become one pose.
        sampling: Settings of the reverse process.
        w_keypoints: lambda. Deviation: the paper has no value; 0.8 as in the release.
        protocol: How validation and test are scored; a name of `posecore.metrics.protocols`.
        weights: Shipped weights by name, or a safetensors file; None for a network to be trained, or a checkpoint.
        lr: Adam's learning rate.
        lr_schedule: ``"exponential"`` multiplies it by ``lr_decay`` every epoch.
        lr_decay: "Shrink factor" of Sec. 4.2. Deviation: the release never applies its own.
        warmup_steps: Optimiser steps of linear warm-up of the other two schedules.
        seed: Seed of everything drawn at inference, and of the validation loss.
    """

    joint_weights: Tensor

    def __init__(
        self,
        joint_set: str = "h36m16",
        denoiser: Literal["graph", "unet"] = "graph",
        dim: int = 384,
        time_blocks: TimeBlocks = "after",
        schedule: str = "cosine_100",
        coordinates: Coordinates = "image",
        pose_scale: float = 1.0,
        num_hypotheses: int = 10,
        aggregation: Aggregation = "mean",
        sampling: Sampling | None = None,
        w_keypoints: float = 0.8,
        protocol: str = "diffupose_h36m",
        weights: str | None = None,
        lr: float = 4e-5,
        lr_schedule: Literal["exponential", "cosine", "constant"] = "exponential",
        lr_decay: float = 0.995,
        warmup_steps: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_hypotheses < 1:
            raise ValueError(f"num_hypotheses must be at least 1, got {num_hypotheses}")
        if w_keypoints < 0 or pose_scale <= 0 or not 0 < lr_decay <= 1:
            raise ValueError(
                "w_keypoints must not be negative, pose_scale positive and lr_decay in (0, 1], got "
                f"{w_keypoints}, {pose_scale}, {lr_decay}"
            )
        if denoiser not in ("graph", "unet") or lr_schedule not in ("exponential", "cosine", "constant"):
            raise ValueError(
                "denoiser must be 'graph' or 'unet', lr_schedule 'exponential', 'cosine' or 'constant', got "
                f"{denoiser!r}, {lr_schedule!r}"
            )
        self.joint_set = get_joint_set(joint_set)
        self.network: GraphDenoiser | UNetDenoiser = (
            GraphDenoiser(joint_set, dim, time_blocks=time_blocks) if denoiser == "graph" else UNetDenoiser(joint_set)
        )
        self.schedule = NoiseSchedule.named(schedule)
        self.coordinates = coordinates
        self.pose_scale = pose_scale
        self.num_hypotheses = num_hypotheses
        self.aggregation = aggregation
        self.sampling = sampling or Sampling()
        self.w_keypoints = w_keypoints
        self.protocol = get_protocol(protocol)
        self.weights = weights
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.lr_decay = lr_decay
        self.warmup_steps = warmup_steps
        self.seed = seed
        self.register_buffer("joint_weights", joint_weights(self.joint_set), persistent=False)
        self.val_metrics = nn.ModuleDict()
        self.test_metrics = nn.ModuleDict()

    @classmethod
    def pretrained(cls, weights: str = "cmu17", **kwargs: Any) -> Self:
        """A model with shipped weights, ready to be called, without a Trainer.

        Args:
            weights: ``"cmu17"``, ``"cmu16"`` (by number of joints), or a safetensors file.
            **kwargs: Arguments of the class, in place of those the shipped weights were trained with.

        Raises:
            FileNotFoundError: No such weights.
            ValueError: The file is broken or does not fit.
        """
        shipped = dict(SHIPPED)
        if weights in ("cmu16", "cmu17"):
            shipped |= {"joint_set": f"h36m{weights[3:]}", "protocol": f"open_h36m{weights[3:]}"}
        model = cls(weights=weights, **{**shipped, **kwargs})
        model._load()
        return model.eval()

    def forward(self, batch: PoseSample) -> DiffuPoseResult:
        """Algorithm 2 for a batch of keypoints.

        Args:
            batch: ``joints_2d_px``, ``confidence``, ``K``, and ``image_size`` for coordinates of the image. Nothing
                else is read: no ground truth enters.
        """
        keypoints, rotmat = condition(batch, self.joint_set, self.coordinates)
        with progress_bar(self, "sampling") as progress:
            samples = sample(
                self.network,
                self.schedule,
                keypoints,
                self.joint_set,
                self.num_hypotheses,
                self.sampling,
                self.pose_scale,
                NoiseStreams.of_rows(self.seed, row_numbers(batch)),
                progress,
            )
        joints_rel = rotate_joints(samples, rotmat.mT[:, None])
        seen = batch["joints_2d_px"], batch["confidence"], batch["K"]
        transl = solve_translation(joints_rel, *seen)
        error = reprojection_error(joints_rel, transl, *seen)
        return DiffuPoseResult(joints_rel, transl, error, aggregate(joints_rel, error, self.aggregation))

    def setup(self, stage: str) -> None:
        """Loads the weights, makes the metrics of every validation and test set.

        Raises:
            ValueError: The data have other joints.
        """
        self._load()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not data.joint_set.name == self.joint_set.name:
            raise ValueError(
                f"model.joint_set is {self.joint_set.name!r} but data.joint_set is {data.joint_set.name!r}: "
                "set both to the same"
            )
        # One pose is scored, so the protocol's own rule over hypotheses has nothing left to say, but for "min_".
        first = dataclasses.replace(self.protocol, hypotheses="first")
        errors = tuple(metric for metric in self.protocol.metrics if metric in ("mpjpe", "pa_mpjpe"))
        brief = {
            rule: dataclasses.replace(first, metrics=errors, hypotheses="min" if rule == "min_" else "first")
            for rule in RULES[1:]
        }
        for sets, metrics in ((data.val_sets, self.val_metrics), (data.test_sets, self.test_metrics)):
            for name in sets:
                groups = data.groups(name, self.protocol.group_keys) or None
                for rule, protocol in {"": first, **brief}.items():
                    metrics[f"{name}/{rule}"] = ProtocolMetric(protocol, groups)

    def training_step(self, batch: PoseSample, batch_idx: int) -> Tensor:
        """Eq. (10)."""
        noise, keypoints = self._losses(batch)
        loss = noise + self.w_keypoints * keypoints
        self.log_dict({"train/loss_noise": noise, "train/loss_keypoints": keypoints})
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: PoseSample, batch_idx: int, dataloader_idx: int = 0) -> StepOutputs:
        """The losses on fixed draws, and the whole of DiffuPose."""
        name = self.trainer.datamodule.val_names[dataloader_idx]  # type: ignore[attr-defined]
        noise, keypoints = self._losses(batch, NoiseStreams.of_rows(self.seed, row_numbers(batch)))
        losses = {f"val/{name}/loss_noise": noise, f"val/{name}/loss_keypoints": keypoints}
        self.log_dict(losses, add_dataloader_idx=False, sync_dist=True, batch_size=len(batch["joints_rel"]))
        return self._score(batch, self.val_metrics, name)

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/<set>/<rule><metric>`` and the affinity picture."""
        self._log_scores(self.val_metrics, "val")
        if isinstance(self.network, GraphDenoiser) and self.trainer.is_global_zero:
            for logger in self.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_figure("affinity", self.affinity_figure(), self.global_step)

    def test_step(self, batch: PoseSample, batch_idx: int, dataloader_idx: int = 0) -> StepOutputs:
        """The whole of DiffuPose, scored by the protocol."""
        name = self.trainer.datamodule.test_names[dataloader_idx]  # type: ignore[attr-defined]
        return self._score(batch, self.test_metrics, name)

    def on_test_epoch_end(self) -> None:
        """Logs ``test/<set>/<rule><metric>``, and ``test/<set>/<metric>/<action>`` where the protocol has actions."""
        self._log_scores(self.test_metrics, "test")

    def predict_step(self, batch: PoseSample, batch_idx: int) -> dict[str, Tensor]:
        """All hypotheses in camera coordinates, the one nearest to the aggregated pose, and errors in pixels."""
        result = self(batch)
        return {
            "hypotheses": result.joints_rel + result.transl[..., None, :],
            "best": result.best,
            "reprojection_error_px": result.reprojection_px,
        }

    def denoised(self, sample: PoseSample, levels: Sequence[float]) -> Denoised | None:
        """What the network makes of a true pose at several noise levels, for the dashboard."""
        keypoints, rotmat = condition(sample, self.joint_set, self.coordinates)

        def predicted(x_t: Tensor, t: Tensor) -> Tensor:
            return cast(Tensor, self.network(x_t, keypoints.expand(len(x_t), -1, -1), t)[..., :3])

        x_0 = rotate_joints(sample["joints_rel"], rotmat) * self.pose_scale
        return denoise_once(
            self.schedule,
            x_0,
            levels,
            predicted,
            lambda x: rotate_joints(x / self.pose_scale, rotmat.mT),
            self.joint_set,
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, and the learning rate's schedule."""
        optimizer = adam(self, self.parameters(), lr=self.lr)
        if self.lr_schedule == "exponential":
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, self.lr_decay)},
            }
        total = int(self.trainer.estimated_stepping_batches) if self.lr_schedule == "cosine" else None
        return with_warmup(optimizer, self.warmup_steps, total)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stamps the method's name."""
        stamp(checkpoint, METHOD)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses other methods' checkpoints."""
        check_stamp(checkpoint, METHOD)

    def affinity_figure(self) -> Figure:
        """Figure 4: the skeleton's affinity beside the learned one, mean over the graph layers.

        Raises:
            ValueError: The denoiser is the U-Net, which has none.
        """
        if not isinstance(self.network, GraphDenoiser):
            raise ValueError("denoiser: only the graph network has affinities, this model has a U-Net")
        convs = [module for module in self.network.modules() if isinstance(module, ModulatedGraphConv)]
        learned = torch.stack([conv.affinity.detach() for conv in convs]).mean(dim=0)
        matrices = {"skeleton": convs[0].skeleton, f"learned, mean of {len(convs)} layers": learned}
        return affinity_plot(matrices, self.joint_set, "Affinity of joints")

    def _load(self) -> None:
        if self.weights is not None:
            load_weights(resolve_weights(self.weights, Path(__file__).parent), self, METHOD)

    def _losses(self, batch: PoseSample, generator: NoiseSource | None = None) -> tuple[Tensor, Tensor]:
        keypoints, rotmat = condition(batch, self.joint_set, self.coordinates)
        x_0 = rotate_joints(batch["joints_rel"], rotmat) * self.pose_scale
        t = integers(self.schedule.num_train_timesteps, (len(x_0),), x_0, generator)
        noise = normal(x_0.shape, x_0, generator)
        output = self.network(self.schedule.q_sample(x_0, t, noise), keypoints, t).to(noise.dtype)  # Eq. (2)
        return noise_loss(output, noise, self.joint_weights), keypoint_loss(output, keypoints, self.joint_weights)

    def _score(self, batch: PoseSample, metrics: nn.ModuleDict, name: str) -> StepOutputs:
        result: DiffuPoseResult = self(batch)
        group = group_names(batch, self.protocol.group_keys)
        for rule, pred in poses_by_rule(result, batch).items():
            cast(ProtocolMetric, metrics[f"{name}/{rule}"]).update(pred, batch["joints_rel"], group=group)
        return {
            "joints_rel": result.joints_rel,
            "best": result.best,
            "pose": result.pose,
            "target": batch["joints_rel"],
        }

    def _log_scores(self, metrics: nn.ModuleDict, stage: str) -> None:
        for path, module in metrics.items():
            metric = cast(ProtocolMetric, module)
            scores = {f"{stage}/{path}{key}": value for key, value in metric.compute().items()}
            if stage == "test" and metric.groups is not None:
                for group, values in metric.compute_groups().items():
                    for key, value in zip(metric.protocol.metrics, values.reshape(-1), strict=True):
                        scores[f"{stage}/{path}{key}/{group}"] = value
            self.log_dict(scores, add_dataloader_idx=False)
            metric.reset()
