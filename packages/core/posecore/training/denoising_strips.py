"""What the denoiser makes of a true pose at several noise levels, on the TensorBoard dashboard."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from posecore.body.skeletons import JointSet
from posecore.data.sample import PoseSample
from posecore.diffusion.schedule import NoiseSchedule, PredictionType
from posecore.render.strips import denoising_strip

_LEVELS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


class Denoised(NamedTuple):
    """One clean pose, noisy at several levels, and the clean pose the network sees in each; metres, camera axes."""

    truth: Float[Tensor, "joints 3"]
    noisy: Float[Tensor, "levels joints 3"]
    estimate: Float[Tensor, "levels joints 3"]
    joint_set: JointSet


@runtime_checkable
class Denoises(Protocol):
    """What the strips need of a method."""

    def denoised(self, sample: PoseSample, levels: Sequence[float]) -> Denoised | None:
        """Noises the truth of a batch of one person; None where there is no diffusion model or no truth.

        Args:
            sample: The person.
            levels: Shares of the diffusion's time in (0, 1).
        """


class DenoisingStrips(Callback):
    """Draws ``val/<set>/denoising`` of the first person of every validation set: above x_t, below x_0-hat.

    The noise is the same in every validation, so that strips of different steps can be compared. This looks at the
    network alone, at all its noise levels, whatever part of them a method's inference makes use of.

    Args:
        levels: Shares of the diffusion's time, one column each.

    Raises:
        ValueError: There is no level, or one is outside (0, 1).
    """

    def __init__(self, levels: tuple[float, ...] = _LEVELS) -> None:
        if not levels or not all(0 < level < 1 for level in levels):
            raise ValueError(f"levels must be one or more shares between 0 and 1, got {levels}")
        self.levels = levels

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PoseSample,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws the first person of the first batch."""
        if batch_idx or trainer.sanity_checking or not isinstance(pl_module, Denoises):
            return
        sample: Any = {key: value[:1] for key, value in batch.items()}  # type: ignore[index]
        found = pl_module.denoised(sample, self.levels)  # on every process: a sharded network needs them all
        if found is None or not trainer.is_global_zero:
            return
        tag = f"val/{trainer.datamodule.val_names[dataloader_idx]}"  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                figure = denoising_strip(*found, self.levels, f"{tag}, step {trainer.global_step}")
                logger.experiment.add_figure(f"{tag}/denoising", figure, trainer.global_step)


def denoise_once(
    schedule: NoiseSchedule,
    x_0: Float[Tensor, "1 *sample"],
    levels: Sequence[float],
    network: Callable[[Tensor, Tensor], Tensor],
    joints: Callable[[Tensor], Tensor],
    joint_set: JointSet,
    prediction_type: PredictionType = "epsilon",
) -> Denoised:
    """One step from every noise level, for methods with a discrete schedule.

    Args:
        schedule: The noise schedule.
        x_0: The clean sample.
        levels: Shares of the schedule.
        network: What it predicts of x_t (levels, ..) and t (levels,).
        joints: Joints (levels, joints, 3) of clean or noisy samples.
        joint_set: Their names.
        prediction_type: What is predicted.
    """
    t = torch.tensor([round(level * (schedule.num_train_timesteps - 1)) for level in levels], device=x_0.device)
    clean = x_0.repeat_interleave(len(levels), dim=0)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
    x_t = schedule.q_sample(clean, t, noise)
    estimate = schedule.to_x0(network(x_t, t).to(x_t.dtype), x_t, t, prediction_type)
    return Denoised(joints(x_0)[0], joints(x_t), joints(estimate), joint_set)
