"""ZeDO as a LightningModule: trains the pose prior, runs the optimiser in the loop."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from posecore.body.skeletons import get_joint_set
from posecore.data.sample import PoseSample, group_names, row_numbers
from posecore.diffusion.noise import NoiseStreams
from posecore.metrics.pose import ProtocolMetric
from posecore.metrics.protocols import get_protocol
from posecore.training.checkpoints import check_stamp, load_weights, resolve_weights, stamp
from posecore.training.denoising_strips import Denoised
from posecore.training.optimizers import adam
from posecore.training.progress import progress_bar
from posecore.training.schedules import with_warmup
from posecore.training.step_outputs import StepOutputs
from zedo.anchors import AnchorSource, kmeans_poses, random_poses, read_poses
from zedo.losses import denoising_score_matching_loss
from zedo.network import ScoreNetwork
from zedo.prior import BackboneName, DiscreteBackbone, ScoreBackbone, generate, make_backbone
from zedo.sampler import InitialPose, Loop, Target, ZeDOResult, optimise

METHOD = "zedo"


class ZeDO(LightningModule):
    """Zero-shot 3D human pose by a diffusion prior over poses and optimisation in the loop (Jiang et al., WACV 2024).

    ===================  ===================================  =====================
    code                 paper                                where
    ===================  ===================================  =====================
    ``network``          ``s_theta``, ``theta_g``             Eqs. (2), (5)
    ``anchors``          ``P_init``                           Secs. 3.2, 5.1
    ``num_hypotheses``   ``S``                                Sec. 4.3
    ``initial_pose``     initial pose optimiser               Sec. 3.2, Table 4 "RO"
    ``loop``             optimiser in the loop                Sec. 3.3, Algorithm 1
    ===================  ===================================  =====================

    Args:
        num_joints: Joints of a pose; joint 0 is the pelvis.
        hidden_dim: Width of the prior.
        embed_dim: Width of its time embedding.
        dropout: Its dropout.
        backbone: ``"score"`` (the paper's main model), ``"ddim"`` or ``"ddpm"`` (Table 5).
        anchors: Where initial poses come from (Table 7).
        num_hypotheses: S. With K-means anchors one of ``anchor_counts``.
        anchor_counts: K-means anchor sets that are computed at the start of training and kept with the weights.
        anchors_file: ``.npy`` with the initial poses (num_hypotheses, num_joints, 3), metres, such as the release's
            ``clusters/h36m_cluster50.npy``; takes the place of the anchors of ``weights`` or checkpoint.
        initial_pose: Settings of the initial pose optimiser.
        loop: Settings of the optimiser in the loop.
        protocol: How validation and test are scored; a name of `posecore.metrics.protocols`.
        weights: Shipped weights by name, or a safetensors file; None for a network to be trained, or a checkpoint.
        lr: Adam's learning rate after the warm-up.
        warmup_steps: Optimiser steps of linear warm-up.
        lr_schedule: After the warm-up. Deviation: the paper says cosine, the release keeps the rate constant.
        seed: Seed of everything drawn at inference (anchors, ancestral noise), and of the validation loss.
    """

    def __init__(
        self,
        num_joints: int = 17,
        hidden_dim: int = 1024,
        embed_dim: int = 512,
        dropout: float = 0.25,
        backbone: BackboneName = "score",
        anchors: AnchorSource = "kmeans",
        num_hypotheses: int = 1,
        anchor_counts: tuple[int, ...] = (1, 10, 50),
        anchors_file: Path | None = None,
        initial_pose: InitialPose | None = None,
        loop: Loop | None = None,
        protocol: str = "zedo_h36m",
        weights: str | None = None,
        lr: float = 2e-4,
        warmup_steps: int = 5000,
        lr_schedule: Literal["cosine", "constant"] = "cosine",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_hypotheses < 1 or any(count < 1 for count in anchor_counts):
            raise ValueError(
                f"num_hypotheses and anchor_counts must be positive, got {num_hypotheses}, {anchor_counts}"
            )
        if anchors_file is not None and anchors != "kmeans":
            raise ValueError(f"anchors_file: takes the place of K-means anchors, but anchors is {anchors!r}")
        if anchors == "kmeans" and anchors_file is None and num_hypotheses not in anchor_counts:
            raise ValueError(
                f"num_hypotheses: K-means anchors come in sets of {anchor_counts} (anchor_counts), got {num_hypotheses}"
            )
        self.network = ScoreNetwork(num_joints, hidden_dim, embed_dim, dropout)
        self.backbone = make_backbone(backbone)
        self.anchor_source = anchors
        self.num_hypotheses = num_hypotheses
        self.anchor_counts = anchor_counts
        self.anchors_file = anchors_file
        for count in anchor_counts:
            self.register_buffer(f"anchors_{count}", torch.zeros(count, num_joints, 3))
        self.initial_pose = initial_pose or InitialPose()
        self.loop = loop or Loop()
        self.protocol = get_protocol(protocol)
        self.weights = weights
        self.lr = lr
        self.warmup_steps = warmup_steps
        self.lr_schedule = lr_schedule
        self.seed = seed
        self.val_metrics = nn.ModuleDict()
        self.test_metrics = nn.ModuleDict()

    @classmethod
    def pretrained(cls, weights: str = "cmu", **kwargs: Any) -> Self:
        """A model with shipped weights (or a safetensors file's), ready to be called, without a Trainer.

        Args:
            weights: As the argument of the class.
            **kwargs: Other arguments of the class.

        Raises:
            FileNotFoundError: No such weights.
            ValueError: The file is broken or does not fit.
        """
        model = cls(weights=weights, **kwargs)
        model._load()
        return model.eval()

    def forward(self, batch: PoseSample) -> ZeDOResult:
        """Algorithm 1 for a batch of 2D poses.

        Args:
            batch: ``joints_2d_px``, ``confidence`` and ``K``. Nothing else is read: no ground truth enters.

        Returns:
            All hypotheses of every pose.
        """
        target = Target(batch["joints_2d_px"], batch["confidence"], batch["K"])
        with progress_bar(self, "optimising") as progress:
            return optimise(
                self.network,
                self.backbone,
                self.initial_anchors(),
                target,
                self.initial_pose,
                self.loop,
                NoiseStreams.of_rows(self.seed, row_numbers(batch)),
                progress,
            )

    def initial_anchors(self) -> Float[Tensor, "hypotheses joints 3"]:
        """``P_init`` of every hypothesis, as ``anchors`` says.

        Raises:
            FileNotFoundError: There is no ``anchors_file``.
            ValueError: K-means anchors were never computed: neither trained nor loaded; or ``anchors_file`` is broken.
        """
        if self.anchors_file is not None:
            return read_poses(self.anchors_file, self.num_hypotheses, self.network.num_joints).to(self.device)
        if self.anchor_source == "generated":
            return generate(self.network, self.backbone, self.num_hypotheses, self._generator())
        if self.anchor_source == "random":
            poses = self.trainer.datamodule.training_poses()  # type: ignore[attr-defined]
            return random_poses(poses, self.num_hypotheses, self._generator()).to(self.device)
        anchors: Tensor = getattr(self, f"anchors_{self.num_hypotheses}")
        if not bool(anchors.any()):
            raise ValueError(
                "weights: the network has no anchors; give model.weights or ckpt_path that have, model.anchors_file, "
                "or run `zedo fit` first"
            )
        return anchors

    def setup(self, stage: str) -> None:
        """Loads the weights, computes K-means anchors for training, makes one metric per validation and test set."""
        self._load()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit":
            poses = data.training_poses()
            for count in self.anchor_counts:
                getattr(self, f"anchors_{count}").copy_(kmeans_poses(poses, count, self._generator()))
        for sets, metrics in ((data.val_sets, self.val_metrics), (data.test_sets, self.test_metrics)):
            for name in sets:
                groups = data.groups(name, self.protocol.group_keys) or None
                metrics[f"{name}/"] = ProtocolMetric(self.protocol, groups)
                # One hypothesis, chosen without the truth.
                chosen = dataclasses.replace(self.protocol, hypotheses="first")
                metrics[f"{name}/chosen_"] = ProtocolMetric(chosen, groups)

    def training_step(self, batch: PoseSample, batch_idx: int) -> Tensor:
        """Eq. (3) on augmented root-relative poses; no 2D keypoint or camera is seen."""
        x_t, noise, label = self.backbone.perturb(batch["joints_rel"])
        loss = denoising_score_matching_loss(self.network(x_t, label).to(noise.dtype), noise)
        self.log("train/loss_score", loss)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: PoseSample, batch_idx: int, dataloader_idx: int = 0) -> StepOutputs:
        """The loss on fixed draws, and the whole of ZeDO."""
        streams = NoiseStreams.of_rows(self.seed, row_numbers(batch))
        x_t, noise, label = self.backbone.perturb(batch["joints_rel"], streams)
        loss = denoising_score_matching_loss(self.network(x_t, label).to(noise.dtype), noise)
        name = self.trainer.datamodule.val_names[dataloader_idx]  # type: ignore[attr-defined]
        self.log(f"val/{name}/loss_score", loss, add_dataloader_idx=False, sync_dist=True, batch_size=len(noise))
        return self._score(batch, self.val_metrics, name)

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/<set>/<metric>``."""
        self._log_scores(self.val_metrics, "val")

    def test_step(self, batch: PoseSample, batch_idx: int, dataloader_idx: int = 0) -> StepOutputs:
        """The whole of ZeDO, scored by the protocol."""
        name = self.trainer.datamodule.test_names[dataloader_idx]  # type: ignore[attr-defined]
        return self._score(batch, self.test_metrics, name)

    def on_test_epoch_end(self) -> None:
        """Logs ``test/<set>/<metric>``."""
        self._log_scores(self.test_metrics, "test")

    def predict_step(self, batch: PoseSample, batch_idx: int) -> dict[str, Tensor]:
        """All hypotheses in camera coordinates, the chosen one, and reprojection errors in pixels."""
        result = self(batch)
        return {
            "hypotheses": result.joints_rel + result.transl[..., None, :],
            "best": result.best,
            "reprojection_error_px": result.reprojection_px,
        }

    def denoised(self, sample: PoseSample, levels: Sequence[float]) -> Denoised | None:
        """What the prior makes of a true pose at several noise levels, for the dashboard."""
        x_0, t = sample["joints_rel"], torch.tensor(levels, dtype=torch.float64)
        if isinstance(self.backbone, DiscreteBackbone):
            table = self.backbone.schedule.alphas_cumprod.cpu().double()
            label = (t * len(table)).floor()
            signal, sigma = table[label.long()].sqrt(), (1 - table[label.long()]).sqrt()
        else:
            (signal, sigma), label = cast(ScoreBackbone, self.backbone).sde.marginal(t), 999 * t
        signal, sigma = (part.to(x_0)[:, None, None] for part in (signal, sigma))
        noise = torch.randn(len(levels), *x_0.shape[1:], generator=self._generator()).to(x_0)
        x_t = signal * x_0 + sigma * noise
        estimate = (x_t - sigma * self.network(x_t, label.to(x_0)).to(noise)) / signal
        return Denoised(x_0[0], x_t, estimate, get_joint_set(self.protocol.joint_set))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with a linear warm-up, then cosine decay to zero over the run (or a constant rate)."""
        optimizer = adam(self, self.parameters(), lr=self.lr)
        total = int(self.trainer.estimated_stepping_batches) if self.lr_schedule == "cosine" else None
        return with_warmup(optimizer, self.warmup_steps, total)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stamps the method's name."""
        stamp(checkpoint, METHOD)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses other methods' checkpoints."""
        check_stamp(checkpoint, METHOD)

    def _load(self) -> None:
        if self.weights is not None:
            load_weights(resolve_weights(self.weights, Path(__file__).parent), self, METHOD)

    def _score(self, batch: PoseSample, metrics: nn.ModuleDict, name: str) -> StepOutputs:
        result = self(batch)
        group = group_names(batch, self.protocol.group_keys)
        chosen = result.joints_rel[torch.arange(len(result.best)), result.best][:, None]
        for rule, pred in (("", result.joints_rel), ("chosen_", chosen)):
            cast(ProtocolMetric, metrics[f"{name}/{rule}"]).update(pred, batch["joints_rel"], group=group)
        return {
            "joints_rel": result.joints_rel,
            "best": result.best,
            "pose": chosen[:, 0],
            "target": batch["joints_rel"],
        }

    def _log_scores(self, metrics: nn.ModuleDict, stage: str) -> None:
        for path, metric in metrics.items():
            scores = cast(ProtocolMetric, metric).compute()
            self.log_dict({f"{stage}/{path}{key}": value for key, value in scores.items()}, add_dataloader_idx=False)
            cast(ProtocolMetric, metric).reset()

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)
