"""Diffusion mathematics: discrete schedules, continuous SDEs, single sampler steps and time embeddings.

``sigma`` and ``std`` are standard deviations everywhere, never variances.
"""

from posecore.diffusion.dpm_solver import dpm_solver_step
from posecore.diffusion.embedding import sinusoidal_embedding
from posecore.diffusion.noise import NoiseSource, NoiseStreams
from posecore.diffusion.samplers import StepOutput, ddim_invert_step, ddim_step, ddpm_step, timesteps
from posecore.diffusion.schedule import (
    NAMED_BETAS,
    NoiseSchedule,
    PredictionType,
    cosine_betas,
    linear_alpha_bar_betas,
    linear_betas,
)
from posecore.diffusion.sde import SDE, VESDE, VPSDE, SubVPSDE

__all__ = [
    "NAMED_BETAS",
    "SDE",
    "VESDE",
    "VPSDE",
    "NoiseSchedule",
    "NoiseSource",
    "NoiseStreams",
    "PredictionType",
    "StepOutput",
    "SubVPSDE",
    "cosine_betas",
    "ddim_invert_step",
    "ddim_step",
    "ddpm_step",
    "dpm_solver_step",
    "linear_alpha_bar_betas",
    "linear_betas",
    "sinusoidal_embedding",
    "timesteps",
]
