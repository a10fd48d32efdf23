"""DPM-Solver++(2M): a second-order sampler that costs one call of the denoiser per step, as DDIM does.

DDIM takes the predicted clean sample as constant over a step. This solver takes it as linear in
``lambda = log(sqrt(alpha-bar) / sigma)``, through its values at the last two steps::

    before = None
    for t, t_prev in itertools.pairwise([*timesteps(1000, 10), -1]):
        x_t, x_0 = dpm_solver_step(schedule, denoiser(x_t, t), x_t, t, t_prev, before)
        before = x_0, t

The caller keeps the history, so a step is a pure function, and whoever moves samples between steps (guidance) loses
nothing: the two predictions are then of the path that the sample really took.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.diffusion.noise import NoiseSource
from posecore.diffusion.samplers import StepOutput, ddim_step
from posecore.diffusion.schedule import NoiseSchedule, PredictionType, working_dtype


def dpm_solver_step(
    schedule: NoiseSchedule,
    model_output: Float[Tensor, "*sample"],
    x_t: Float[Tensor, "*sample"],
    t: int | Int[Tensor, "*time"],
    t_prev: int | Int[Tensor, "*time"],
    before: tuple[Float[Tensor, "*sample"], int | Int[Tensor, "*time"]] | None = None,
    *,
    prediction_type: PredictionType = "epsilon",
    eta: float = 0.0,
    clip_x0: float | None = None,
    generator: NoiseSource | None = None,
) -> StepOutput:
    """One step x_t -> x_{t_prev} of DPM-Solver++(2M): the DDIM step at an extrapolated clean sample.

    Where there is no step before, and in a step to the clean sample (``t_prev = -1``, lambda infinite), it is of first
    order and equal to ``ddim_step`` with ``rederive_noise``.

    Args:
        schedule: The schedule the denoiser was trained with.
        model_output: The denoiser's output at (x_t, t).
        x_t: The current sample.
        t: Its timestep(s), 0..T-1.
        t_prev: Target timestep(s), below ``t``; -1 is the clean sample.
        before: ``x_0`` of the step before, and the timestep(s) that it was predicted at, above ``t``.
        prediction_type: What ``model_output`` is.
        eta: Share of the ancestral noise, as in ``ddim_step``: 0 is DPM-Solver++(2M), 1 is SDE-DPM-Solver++(2M).
        clip_x0: Clamp the predicted x_0 to [-clip_x0, clip_x0]; not clamped where None. The extrapolation is not
            clamped again.
        generator: Source of the noise for ``eta > 0``.

    Returns:
        ``x_0`` is the prediction at ``t``, not extrapolated: the next step's ``before``.

    Raises:
        ValueError: If ``eta`` is outside [0, 1], or timesteps are ints and not ``t_prev < t < before[1]``.

    References:
        Lu et al., DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models, Algorithm 2 (eta 0)
        and Appendix on SDE solvers (eta 1).
    """
    x_0 = schedule.to_x0(model_output, x_t, t, prediction_type)
    x_0 = x_0 if clip_x0 is None else x_0.clamp(-clip_x0, clip_x0)
    ahead = x_0
    if before is not None:
        x_0_before, t_before = before
        if isinstance(t, int) and isinstance(t_before, int) and not t < t_before:
            raise ValueError(f"t must be below the timestep before, got t={t} and {t_before}")
        start, end = _log_snr(schedule, t, x_t), _log_snr(schedule, t_prev, x_t)
        half = (end - start) / (2 * (start - _log_snr(schedule, t_before, x_t)))  # 1 / (2 r) of Algorithm 2
        half = torch.where(end.isfinite(), half, 0.0).to(working_dtype(x_t))
        ahead = (x_0 + half * (x_0 - x_0_before)).to(x_t.dtype)
    step = ddim_step(schedule, ahead, x_t, t, t_prev, prediction_type="sample", eta=eta, generator=generator)
    return StepOutput(step.x_prev, x_0)


def _log_snr(schedule: NoiseSchedule, t: int | Tensor, like: Tensor) -> Tensor:
    """lambda_t in the table's precision; infinite at t = -1."""
    alpha_bar = schedule.alpha_bar(t, like)
    return 0.5 * (alpha_bar.log() - (1 - alpha_bar).log())
