"""ScoreHMR as a LightningModule: trains the diffusion model and its open regressor, fits bodies to observations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from posecore.body.files import load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import BODY_25, get_joint_set
from posecore.data.grouping import row_groups
from posecore.data.sample import PoseSample, row_numbers
from posecore.diffusion.noise import NoiseSource, NoiseStreams, integers, normal
from posecore.diffusion.schedule import NoiseSchedule
from posecore.fitting.estimate import PosedPeople, SMPLEstimate
from posecore.fitting.gaps import interpolate_gaps
from posecore.geometry.precision import autocast_off
from posecore.metrics.pose import ProtocolMetric
from posecore.metrics.protocols import get_protocol
from posecore.training.checkpoints import check_stamp, load_weights, resolve_weights, stamp
from posecore.training.denoising_strips import Denoised, denoise_once
from posecore.training.optimizers import adam
from posecore.training.progress import progress_bar
from posecore.training.schedules import with_warmup
from posecore.training.step_outputs import StepOutputs
from scorehmr.features import CachedFeatures, KeypointFeatures, Standardizer
from scorehmr.fitting import FitResult, FitSettings, fit, reprojection_px
from scorehmr.guidance import TermWeights
from scorehmr.keypoints import METHOD, NUM_KEYPOINTS, keypoint_encoding
from scorehmr.latent import PoseAndShape
from scorehmr.losses import noise_loss, regressor_loss
from scorehmr.start import cached_start, regressed_start

_STATISTICS_ROWS = 30_000


class ScoreHMR(LightningModule):
    """Fits SMPL to observations by score-guided DDIM in a loop (Stathopoulos, Han and Metaxas, CVPR 2024).

    =====================  =============================  =======================
    code                   paper                          where
    =====================  =============================  =======================
    ``features``           ``g``, the image's encoder     Sec. 4.2
    ``diffusion``          ``epsilon_phi``                Sec. 4.2
    ``schedule``           ``alpha_t``                    Sec. 3
    ``fit.guidance``       ``tau``, ``rho``, lambda_thr   Sec. 4.1
    ``terms``              ``L_repr, L_MV, L_temp``       Eqs. (12) to (14)
    =====================  =============================  =======================

    Scores are logged under ``<set>/<metric>`` after the fit and ``<set>/start_<metric>`` before it; the truth reaches
    neither.

    Args:
        features: Where the condition comes from; cached PARE features where None.
        start: Gives the estimate a fit starts from. Where None, it is what the data set brings (``start_*``), else the
            regression of the open features.
        hidden_dim: Width inside a block of the denoiser.
        num_blocks: Blocks of the denoiser.
        diffuse_shape: Whether betas are diffused too. Deviation: the release's second network is off by default, here
            too; the paper found no difference.
        schedule: Name of the noise schedule.
        terms: What guides a fit.
        fit: How people are fitted.
        body_model: SMPL's file or folder; the open body where None.
        protocol: How validation and test are scored; a name of `posecore.metrics.protocols`.
        train: Which part `fit` trains: the denoiser, or the regressor of the open features.
        low_noise_share: Share of the training timesteps that is drawn from the first fifth of the schedule, where fits
            take place. Deviation: 0 as in the paper; the shipped weights, whose training is short, took 0.5.
        w_joints: Weight of the regressor's joint loss.
        w_betas: Weight of its shape loss.
        weights: Shipped weights by name, or a safetensors file.
        lr: Adam's learning rate.
        lr_schedule: Constant as in the release, or a cosine.
        warmup_steps: Optimiser steps of linear warm-up.
        seed: Seed of the validation loss's draws; a fit draws nothing.
    """

    def __init__(
        self,
        features: nn.Module | None = None,
        start: nn.Module | None = None,
        hidden_dim: int = 1024,
        num_blocks: int = 3,
        diffuse_shape: bool = False,
        schedule: str = "cosine_1000",
        terms: TermWeights | None = None,
        fit: FitSettings | None = None,
        body_model: Path | None = None,
        protocol: str = "scorehmr_3dpw",
        train: Literal["denoiser", "regressor"] = "denoiser",
        low_noise_share: float = 0.0,
        w_joints: float = 1.0,
        w_betas: float = 0.01,
        weights: str | None = None,
        lr: float = 1e-4,
        lr_schedule: Literal["constant", "cosine"] = "constant",
        warmup_steps: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if train not in ("denoiser", "regressor") or lr_schedule not in ("constant", "cosine"):
            raise ValueError(
                "train must be 'denoiser' or 'regressor', lr_schedule 'constant' or 'cosine', got "
                f"{train!r}, {lr_schedule!r}"
            )
        if not 0 <= low_noise_share <= 1:
            raise ValueError(f"low_noise_share must be a share, got {low_noise_share}")
        if w_joints < 0 or w_betas < 0:
            raise ValueError(f"w_joints and w_betas must not be negative, got {w_joints}, {w_betas}")
        self.features = features or CachedFeatures()
        if train == "regressor" and not isinstance(self.features, KeypointFeatures):
            raise ValueError(f"train: a regressor belongs to KeypointFeatures, not to {type(self.features).__name__}")
        # In a list, it is no submodule: its weights are its own and no part of the method's.
        self._start = [start] if start is not None else []
        cond_dim = cast(int, self.features.dim)
        self.standardizer = Standardizer(cond_dim)
        self.diffusion = PoseAndShape(cond_dim, hidden_dim, num_blocks, diffuse_shape)
        self.schedule = NoiseSchedule.named(schedule)
        self.terms = terms or TermWeights()
        self.settings = fit or FitSettings()
        self.protocol = get_protocol(protocol)
        self.part = train
        self.low_noise_share = low_noise_share
        self.w_joints, self.w_betas = w_joints, w_betas
        self.weights = weights
        self.lr, self.lr_schedule, self.warmup_steps = lr, lr_schedule, warmup_steps
        self.seed = seed
        self.body_model = load_body_model(body_model)
        self.keypoint_body = NamedJoints(BODY_25, self.body_model)
        self.scored_body = NamedJoints(get_joint_set(self.protocol.joint_set), self.body_model)
        (self.diffusion if train == "regressor" else self.features).requires_grad_(False)
        if getattr(self.features, "trainable", False):
            self.features.requires_grad_(True)
        self.val_metrics = nn.ModuleDict()
        self.test_metrics = nn.ModuleDict()

    @classmethod
    def pretrained(cls, weights: str = "cmu", **kwargs: Any) -> Self:
        """A model with open features and shipped weights, ready to be called, without a Trainer.

        Args:
            weights: ``"cmu"``, or a safetensors file of the same architecture.
            **kwargs: Arguments of the class.

        Raises:
            FileNotFoundError: No such weights.
            ValueError: The file is broken or does not fit.
        """
        model = cls(weights=weights, **{"features": KeypointFeatures(), "protocol": "open_smpl24_fit", **kwargs})
        model._load()
        return model.eval()

    def forward(self, batch: PoseSample) -> FitResult:
        """Fits the people of a batch.

        Args:
            batch: What features, start and terms read: keypoints and ``K``, features or images, cached estimates,
                groups. No SMPL parameter of the truth is read.
        """
        with torch.inference_mode(False), torch.no_grad(), progress_bar(self, "fitting") as progress:
            # What a Trainer's test made under inference mode cannot take part in a gradient; copies can.
            batch = cast(PoseSample, {k: v.clone() if isinstance(v, Tensor) else v for k, v in batch.items()})
            cond = self.standardizer(self.features(batch))
            # Inversion and sampling undo each other to what guidance is to add; 3 digits would not.
            with autocast_off():
                return fit(
                    self.diffusion,
                    self.schedule,
                    cond,
                    self.estimate(batch),
                    self.terms.terms(batch, "joints44" if batch["confidence"].shape[1] == 44 else "body25"),
                    self.keypoint_body,
                    self.settings,
                    self.terms.shape_group(batch),
                    progress,
                )

    def estimate(self, batch: PoseSample) -> SMPLEstimate:
        """Where a fit starts.

        Raises:
            ValueError: There is no start module, the data set brings no estimate, and the features have no regressor.
        """
        estimate = cached_start(batch)
        if self._start:
            estimate = self._start[0].to(self.device)(batch, self.keypoint_body)
        elif estimate is None and isinstance(self.features, KeypointFeatures):
            estimate = regressed_start(self.features.regressor, batch, self.keypoint_body)
        if estimate is None:
            raise ValueError(
                "start: the data set brings no estimates (start_body_pose, ...) to start from; give it a cache of "
                "predictions, or set model.start"
            )
        seen = (batch["confidence"][:, :NUM_KEYPOINTS] > 0).any(dim=1)
        if self.terms.temporal and not bool(seen.all()):  # frames of a track in which nobody was found
            track = row_groups(batch, ("clip", "view")).to(seen.device)
            estimate = interpolate_gaps(estimate, seen, track, batch["frame"])
        return estimate

    def setup(self, stage: str) -> None:
        """Loads the weights, makes the metrics of every validation and test set."""
        self._load()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        needs_clips = "acceleration" in self.protocol.metrics and stage != "predict"
        data.group_keys = self.terms.group_keys
        if needs_clips and "view" not in data.group_keys:  # views of an instant keep their videos whole, too
            data.group_keys = ("clip",) if data.group_keys else ("clip", "view")
        for sets, metrics in ((data.val_sets, self.val_metrics), (data.test_sets, self.test_metrics)):
            for name in sets:
                for prefix in ("", "start_"):
                    metrics[f"{name}/{prefix}"] = ProtocolMetric(self.protocol)

    def on_fit_start(self) -> None:
        """Takes statistics over the training set, evenly spread rows of it: of features, and the range of betas."""
        train_set = self.trainer.datamodule.train_set  # type: ignore[attr-defined]
        # Loaded weights bring their statistics; without a training set, the loader says what is missing.
        if self.part == "regressor" or self.weights is not None or train_set is None:
            return
        rows = torch.linspace(0, len(train_set) - 1, min(len(train_set), _STATISTICS_ROWS)).long()
        features, betas = [], []
        for part in rows.split(256):
            batch = self.transfer_batch_to_device(train_set.__getitems__(part.tolist()), self.device, 0)
            with torch.no_grad():
                features.append(self.features(batch))
            betas.append(batch["betas"])
        self.standardizer.fit(torch.cat(features))
        if self.diffusion.shape is not None:
            self.diffusion.fit_range(torch.cat(betas))

    def training_step(self, batch: PoseSample, batch_idx: int) -> Tensor:
        """Eq. (11), or the losses of the regressor."""
        losses = self._regressor_losses(batch) if self.part == "regressor" else {"noise": self._noise_loss(batch)}
        self.log_dict({f"train/loss_{name}": loss for name, loss in losses.items()})
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: PoseSample, batch_idx: int, dataloader_idx: int = 0) -> StepOutputs:
        """The losses (the denoiser's on fixed draws), and the fit with its scores."""
        name = self.trainer.datamodule.val_names[dataloader_idx]  # type: ignore[attr-defined]
        if self.part == "regressor":
            losses = self._regressor_losses(batch)
        else:
            losses = {"noise": self._noise_loss(batch, NoiseStreams.of_rows(self.seed, row_numbers(batch)))}
        values = {f"val/{name}/loss_{term}": loss for term, loss in losses.items()}
        self.log_dict(values, add_dataloader_idx=False, sync_dist=True, batch_size=len(batch["K"]))
        return self._score(batch, self.val_metrics, name)

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/<set>/<metric>`` and ``val/<set>/start_<metric>``."""
        self._log_scores(self.val_metrics, "val")

    def test_step(self, batch: PoseSample, batch_idx: int, dataloader_idx: int = 0) -> StepOutputs:
        """The fit, scored by the protocol."""
        name = self.trainer.datamodule.test_names[dataloader_idx]  # type: ignore[attr-defined]
        return self._score(batch, self.test_metrics, name)

    def on_test_epoch_end(self) -> None:
        """Logs ``test/<set>/<metric>`` and ``test/<set>/start_<metric>``."""
        self._log_scores(self.test_metrics, "test")

    def predict_step(self, batch: PoseSample, batch_idx: int) -> dict[str, Tensor]:
        """SMPL parameters before and after the fit, and their errors in pixels."""
        result: FitResult = self(batch)
        seen = batch["joints_2d_px"][:, :NUM_KEYPOINTS], batch["confidence"][:, :NUM_KEYPOINTS], batch["K"]
        out = {"row": batch["row"]}
        for prefix, estimate in (("start_", result.start), ("", result.fitted)):
            out[f"{prefix}pose_rot6d"] = estimate.pose_rot6d
            out[f"{prefix}betas"] = estimate.betas
            out[f"{prefix}transl"] = estimate.transl
            out[f"{prefix}reprojection_error_px"] = reprojection_px(estimate, self.keypoint_body, *seen)
        return out

    def denoised(self, sample: PoseSample, levels: Sequence[float]) -> Denoised | None:
        """What the denoiser makes of a true body at several noise levels, for the dashboard."""
        if "body_pose" not in sample or not bool(sample.get("has_pose", True)):
            return None
        true = self._true(sample)
        cond = self.standardizer(self.features(sample))

        def predicted(x_t: Tensor, t: Tensor) -> Tensor:
            return cast(Tensor, self.diffusion(x_t, t, cond.expand(len(x_t), -1)))

        def joints(x: Tensor) -> Tensor:
            people = true.take(torch.zeros(len(x), dtype=torch.long))
            return PosedPeople(self.diffusion.decode(x, people), self.scored_body).joints_cam

        x_0, joint_set = self.diffusion.encode(true), self.scored_body.joint_set
        return denoise_once(self.schedule, x_0, levels, predicted, joints, joint_set)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, of the part that is trained."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = adam(self, trained, lr=self.lr, betas=(0.9, 0.99))  # the release's; the paper names none
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

    def _true(self, batch: PoseSample) -> SMPLEstimate:
        pelvis = batch["betas"].new_zeros(len(batch["betas"]), 3)
        return SMPLEstimate.from_rotmat(batch["global_orient"], batch["body_pose"], batch["betas"], pelvis)

    def _noise_loss(self, batch: PoseSample, generator: NoiseSource | None = None) -> Tensor:
        x_0 = self.diffusion.encode(self._true(batch))
        t = integers(self.schedule.num_train_timesteps, (len(x_0),), x_0, generator)
        if self.low_noise_share and generator is None:
            low = torch.rand(t.shape, device=t.device) < self.low_noise_share
            t = torch.where(low, t // 5, t)
        noise = normal(x_0.shape, x_0, generator)
        cond = self.standardizer(self.features(batch))
        output = self.diffusion(self.schedule.q_sample(x_0, t, noise), t, cond).to(noise.dtype)
        known = batch.get("has_pose")
        if self.diffusion.shape is not None and "has_betas" in batch:
            known = batch["has_betas"] if known is None else known & batch["has_betas"]
        return noise_loss(output, noise, known)

    def _regressor_losses(self, batch: PoseSample) -> dict[str, Tensor]:
        regressor = cast(KeypointFeatures, self.features).regressor
        pose, betas = regressor(keypoint_encoding(batch))
        true = self._true(batch)
        found = PosedPeople(SMPLEstimate(pose, betas, torch.zeros_like(true.transl)), self.keypoint_body).joints_cam
        joints = PosedPeople(true, self.keypoint_body).joints_cam
        root = BODY_25.index("mid_hip")
        return regressor_loss(
            pose,
            betas,
            found - found[:, root : root + 1],
            true.pose_rotmat,
            true.betas,
            joints - joints[:, root : root + 1],
            self.w_joints,
            self.w_betas,
            batch.get("has_pose"),
            batch.get("has_betas"),
        )

    def _score(self, batch: PoseSample, metrics: nn.ModuleDict, name: str) -> StepOutputs:
        result: FitResult = self(batch)
        truth = batch["joints_smpl24_cam" if self.protocol.joint_set == "smpl24" else "joints_cam"]
        poses = []
        mask = batch.get("joints_known") if self.protocol.joint_set != "smpl24" else None
        for prefix, estimate in (("start_", result.start), ("", result.fitted)):
            joints = PosedPeople(estimate, self.scored_body).joints_cam
            poses.append(joints - joints[:, :1])
            for rows in self._clips(batch):
                known = None if mask is None else mask[rows]
                cast(ProtocolMetric, metrics[f"{name}/{prefix}"]).update(joints[rows][:, None], truth[rows], known)
        return {
            "joints_rel": torch.stack(poses, dim=1),
            "best": torch.ones(len(truth), dtype=torch.long),
            "joint_set": self.scored_body.joint_set,
            "pose": joints,
            "target": truth,
            "known": mask,
            "samples_rel": poses[-1][:, None],  # a fit has one answer
        }

    def _clips(self, batch: PoseSample) -> Sequence[Tensor]:
        """Rows of the videos in a batch where acceleration is scored; else all rows at once."""
        if "acceleration" not in self.protocol.metrics:
            return [torch.arange(len(batch["K"]))]
        video = row_groups(batch, ("clip", "view"))
        return [(video == number).nonzero().flatten() for number in range(int(video.max()) + 1)]

    def _log_scores(self, metrics: nn.ModuleDict, stage: str) -> None:
        for path, module in metrics.items():
            metric = cast(ProtocolMetric, module)
            scores = {f"{stage}/{path}{key}": value for key, value in metric.compute().items()}
            self.log_dict(scores, add_dataloader_idx=False)
            metric.reset()
