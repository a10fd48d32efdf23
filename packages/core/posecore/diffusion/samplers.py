"""Single steps of the discrete samplers, and the timesteps to take them at.

A step goes from ``t`` to any other timestep, so every spacing is only a list of timesteps::

    for t, t_prev in itertools.pairwise([*timesteps(1000, 50), -1]):
        x_t, x_0 = ddim_step(schedule, denoiser(x_t, t), x_t, t, t_prev)

``t_prev = -1`` is the clean sample. Steps read no device value on the host, and keep the precision of ``x_t``.
"""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.diffusion.noise import NoiseSource, normal
from posecore.diffusion.schedule import NoiseSchedule, PredictionType, working_dtype

TimestepSpacing = Literal["leading", "trailing", "linspace"]
"""``leading``: .., 2k, k, 0 (never T-1); ``trailing``: T-1, T-1-k, .. (never 0); ``linspace``: T-1 to 0 inclusive."""


class StepOutput(NamedTuple):
    """Result of one sampler step."""

    x_prev: Tensor
    """The sample at the step's target timestep."""
    x_0: Tensor
    """The clean sample as predicted at ``t`` (after clipping, if any)."""


def timesteps(
    num_train_timesteps: int,
    num_inference_steps: int,
    spacing: TimestepSpacing = "trailing",
) -> list[int]:
    """Descending timesteps 0..T-1 for sampling; append -1 to end at the clean sample.

    Args:
        num_train_timesteps: T of the schedule.
        num_inference_steps: How many of them to visit, 1..T.
        spacing: Where they lie.

    Raises:
        ValueError: If ``num_inference_steps`` is outside 1..T or ``spacing`` is unknown.

    References:
        Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed, Table 2.
    """
    if not 1 <= num_inference_steps <= num_train_timesteps:
        raise ValueError(f"num_inference_steps must lie in 1..{num_train_timesteps}, got {num_inference_steps}")
    count = torch.arange(num_inference_steps, dtype=torch.float64)
    if spacing == "leading":
        ascending = count * (num_train_timesteps // num_inference_steps)
    elif spacing == "trailing":
        ascending = (num_train_timesteps - count.flip(0) * (num_train_timesteps / num_inference_steps)).round() - 1
    elif spacing == "linspace":
        ascending = torch.linspace(0, num_train_timesteps - 1, num_inference_steps, dtype=torch.float64)
    else:
        raise ValueError(f"unknown spacing {spacing!r}, expected one of {get_args(TimestepSpacing)}")
    return [int(t) for t in ascending.round().flip(0)]


def ddpm_step(
    schedule: NoiseSchedule,
    model_output: Float[Tensor, "*sample"],
    x_t: Float[Tensor, "*sample"],
    t: int | Int[Tensor, "*time"],
    t_prev: int | Int[Tensor, "*time"] | None = None,
    *,
    prediction_type: PredictionType = "epsilon",
    clip_x0: float | None = None,
    generator: NoiseSource | None = None,
) -> StepOutput:
    """One ancestral step x_t -> x_{t_prev} ~ q(x_{t_prev} | x_t, x_0) at the predicted x_0.

    The variance is the posterior's; a step to ``t_prev = -1`` adds no noise.

    Args:
        schedule: The schedule the denoiser was trained with.
        model_output: The denoiser's output at (x_t, t).
        x_t: The current sample.
        t: Its timestep(s), 0..T-1.
        t_prev: Target timestep(s), below ``t``; ``t - 1`` where not given.
        prediction_type: What ``model_output`` is.
        clip_x0: Clamp the predicted x_0 to [-clip_x0, clip_x0]; not clamped where None.
        generator: Source of the noise.

    Raises:
        ValueError: If ``t_prev`` and ``t`` are ints and ``t_prev`` is not below ``t``.

    References:
        Ho et al., Denoising Diffusion Probabilistic Models, Eqs. (6), (7).
    """
    t_prev = t - 1 if t_prev is None else t_prev
    _check_order("t_prev", t_prev, "t", t)
    x_0 = _clip(schedule.to_x0(model_output, x_t, t, prediction_type), clip_x0)
    alpha_bar, alpha_bar_prev = schedule.alpha_bar(t, x_t), schedule.alpha_bar(t_prev, x_t)
    alpha = alpha_bar / alpha_bar_prev  # of this step, which may span several training steps
    dtype = working_dtype(x_t)
    x_0_weight = (alpha_bar_prev.sqrt() * (1 - alpha) / (1 - alpha_bar)).to(dtype)  # Eq. (7)
    x_t_weight = (alpha.sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar)).to(dtype)  # Eq. (7)
    sigma = ((1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha)).sqrt().to(dtype)
    x_prev = x_0_weight * x_0 + x_t_weight * x_t + sigma * normal(x_t.shape, x_t, generator)
    return StepOutput(x_prev.to(x_t.dtype), x_0)


def ddim_step(
    schedule: NoiseSchedule,
    model_output: Float[Tensor, "*sample"],
    x_t: Float[Tensor, "*sample"],
    t: int | Int[Tensor, "*time"],
    t_prev: int | Int[Tensor, "*time"],
    *,
    prediction_type: PredictionType = "epsilon",
    eta: float = 0.0,
    clip_x0: float | None = None,
    rederive_noise: bool = False,
    generator: NoiseSource | None = None,
) -> StepOutput:
    """One DDIM step x_t -> x_{t_prev}.

    Args:
        schedule: The schedule the denoiser was trained with.
        model_output: The denoiser's output at (x_t, t).
        x_t: The current sample.
        t: Its timestep(s), 0..T-1.
        t_prev: Target timestep(s), below ``t``; -1 is the clean sample.
        prediction_type: What ``model_output`` is.
        eta: Share of the ancestral noise: 0 deterministic, 1 equal to ``ddpm_step`` in distribution.
        clip_x0: Clamp the predicted x_0 to [-clip_x0, clip_x0]; not clamped where None.
        rederive_noise: Take the noise from the clipped x_0 instead of the denoiser, so that both agree.
        generator: Source of the noise for ``eta > 0``.

    Raises:
        ValueError: If ``eta`` is outside [0, 1], or ``t_prev`` and ``t`` are ints and ``t_prev`` is not below ``t``.

    References:
        Song et al., Denoising Diffusion Implicit Models, Eqs. (12), (16).
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    _check_order("t_prev", t_prev, "t", t)
    x_0 = _clip(schedule.to_x0(model_output, x_t, t, prediction_type), clip_x0)
    if rederive_noise:
        noise = schedule.to_noise(x_0, x_t, t, "sample")
    else:
        noise = schedule.to_noise(model_output, x_t, t, prediction_type)
    if eta == 0:
        return StepOutput(schedule.q_sample(x_0, t_prev, noise), x_0)
    alpha_bar, alpha_bar_prev = schedule.alpha_bar(t, x_t), schedule.alpha_bar(t_prev, x_t)
    variance = eta**2 * (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)  # Eq. (16)
    dtype = working_dtype(x_t)
    direction = (1 - alpha_bar_prev - variance).clamp(min=0).sqrt().to(dtype) * noise
    x_prev = schedule.signal(t_prev, x_t) * x_0 + direction  # Eq. (12)
    x_prev = x_prev + variance.sqrt().to(dtype) * normal(x_t.shape, x_t, generator)
    return StepOutput(x_prev.to(x_t.dtype), x_0)


def ddim_invert_step(
    schedule: NoiseSchedule,
    model_output: Float[Tensor, "*sample"],
    x_t: Float[Tensor, "*sample"],
    t: int | Int[Tensor, "*time"],
    t_next: int | Int[Tensor, "*time"],
    *,
    prediction_type: PredictionType = "epsilon",
    clip_x0: float | None = None,
) -> StepOutput:
    """One deterministic DDIM step towards more noise, x_t -> x_{t_next} with ``t_next`` above ``t``.

    It undoes ``ddim_step`` exactly where the denoiser returns the same noise at both ends, and approximately (to the
    order of the step) where it does not.

    Args:
        schedule: The schedule the denoiser was trained with.
        model_output: The denoiser's output for ``x_t``; evaluate it at ``t``, or at ``t_next`` where ``t`` is -1.
        x_t: The current sample.
        t: Its timestep(s), -1..T-2; -1 is the clean sample and then ``prediction_type`` must be ``"epsilon"``.
        t_next: Target timestep(s).
        prediction_type: What ``model_output`` is.
        clip_x0: Clamp the predicted x_0 to [-clip_x0, clip_x0]; not clamped where None.

    Returns:
        ``x_prev`` is the sample at ``t_next``: the step's target, as in the other samplers.

    Raises:
        ValueError: If ``t`` and ``t_next`` are ints and ``t`` is not below ``t_next``.

    References:
        Song et al., Denoising Diffusion Implicit Models, Sec. 4.3.
    """
    _check_order("t", t, "t_next", t_next)
    x_0 = _clip(schedule.to_x0(model_output, x_t, t, prediction_type), clip_x0)
    noise = schedule.to_noise(model_output, x_t, t, prediction_type)
    return StepOutput(schedule.q_sample(x_0, t_next, noise), x_0)


def _check_order(low_name: str, low: int | Tensor, high_name: str, high: int | Tensor) -> None:
    # Tensors are not compared: that would read them on the host.
    if isinstance(low, int) and isinstance(high, int) and not low < high:
        raise ValueError(f"{low_name} must be below {high_name}, got {low_name}={low} and {high_name}={high}")


def _clip(x_0: Tensor, bound: float | None) -> Tensor:
    return x_0 if bound is None else x_0.clamp(-bound, bound)
