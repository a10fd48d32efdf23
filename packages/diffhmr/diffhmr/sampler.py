"""Diff-HMR's inference: the reverse process of Sec. 3.1 for all hypotheses of all images, and a pick among them.

The paper starts from as many noises as it wants hypotheses and takes the best of them by the truth; the rules here that
pick one need no truth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffhmr.network import Prepared
from posecore.diffusion.dpm_solver import dpm_solver_step
from posecore.diffusion.noise import NoiseSource, normal, split
from posecore.diffusion.samplers import ddim_step, ddpm_step, timesteps
from posecore.diffusion.schedule import NoiseSchedule
from posecore.geometry.camera import project
from posecore.geometry.hypotheses import medoid

Pick = Literal["medoid", "keypoints", "first"]
"""One hypothesis of many: the one closest to the others, the one closest to the keypoints, or simply the first."""


@runtime_checkable
class Denoiser(Protocol):
    """What the sampler needs of a network, which `diffhmr.network.UNet1D` has."""

    length: int
    channels: int

    def __call__(self, x: Tensor, t: Tensor, prepared: Prepared, /) -> Tensor:
        """The noise predicted in ``x`` at one timestep (0-dim)."""


@dataclass(frozen=True)
class Sampling:
    """Settings of the reverse process, on which the paper is silent.

    Attributes:
        sampler: ``"ddpm"`` takes ancestral steps, ``"ddim"`` needs fewer, ``"dpm_solver"`` is of second order
            (DPM-Solver++(2M)); None is DDPM with all of the schedule's steps and DDIM with fewer.
        num_inference_steps: Steps; all of the schedule's where None.
        eta: Share of fresh noise of DDIM and of the solver: 0 makes a sample a function of its first noise.
        max_rows: Rows (hypotheses of images) that the network sees at once, which bounds memory; the samples are the
            same for any number.
    """

    sampler: Literal["ddpm", "ddim", "dpm_solver"] | None = None
    num_inference_steps: int | None = None
    eta: float = 0.0
    max_rows: int = 1024

    def __post_init__(self) -> None:
        if self.sampler not in (None, "ddpm", "ddim", "dpm_solver"):
            raise ValueError(f"sampler must be 'ddpm', 'ddim', 'dpm_solver' or None, got {self.sampler!r}")
        if self.num_inference_steps is not None and self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {self.num_inference_steps}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")
        if self.max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {self.max_rows}")


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    prepared: Prepared,
    num_hypotheses: int,
    settings: Sampling,
    clip_x0: float | None = None,
    generator: NoiseSource | None = None,
    progress: Callable[[int, int], None] | None = None,
    x_T: Float[Tensor, "images hypotheses joints channels"] | None = None,
) -> Float[Tensor, "images hypotheses joints channels"]:
    """Hypotheses of clean samples, each from a noise of its own.

    Args:
        denoiser: The trained network, in eval mode.
        schedule: The one it was trained with.
        prepared: The images, prepared once by the network.
        num_hypotheses: n, at least 1.
        settings: Of the reverse process.
        clip_x0: Bound on the numbers of a predicted clean sample (`PoseRepresentation.clip`); none where None.
        generator: Source of all noise, drawn for all rows together; `NoiseStreams` have one stream for each image.
        progress: Called with (done, total) steps.
        x_T: The noise to begin with; drawn where None.

    Returns:
        x_0, the numbers of `PoseRepresentation`.

    Raises:
        ValueError: ``num_hypotheses`` is below 1, ``x_T`` is of another shape, or there are more steps than the
            schedule has.
    """
    if num_hypotheses < 1:
        raise ValueError(f"num_hypotheses must be at least 1, got {num_hypotheses}")
    shape = (prepared.num_images, num_hypotheses, denoiser.length, denoiser.channels)
    generator = split(generator, num_hypotheses)
    if x_T is None:
        x_T = normal(shape, torch.empty(0, device=prepared.device), generator)
    if x_T.shape != shape:
        raise ValueError(f"x_T must have the shape {shape}, got {tuple(x_T.shape)}")
    total = schedule.num_train_timesteps
    steps = timesteps(total, settings.num_inference_steps or total, "trailing")
    ancestral = settings.sampler == "ddpm" or (settings.sampler is None and len(steps) == total)
    t_on_device = torch.tensor(steps, device=x_T.device)
    parts = [
        (images, hypotheses, prepared.take(images).repeat(x_T[images, hypotheses].shape[1]))
        for images, hypotheses in _parts(shape[0], num_hypotheses, settings.max_rows)
    ]
    x_t, before = x_T, None
    for i, (t, t_prev) in enumerate(zip(steps, [*steps[1:], -1], strict=True)):
        noise = torch.empty_like(x_t)
        for images, hypotheses, features in parts:
            x = x_t[images, hypotheses]
            noise[images, hypotheses] = denoiser(x.flatten(0, 1), t_on_device[i], features).unflatten(0, x.shape[:2])
        if ancestral:
            step = ddpm_step(schedule, noise, x_t, t, t_prev, clip_x0=clip_x0, generator=generator)
        elif settings.sampler == "dpm_solver":
            step = dpm_solver_step(
                schedule, noise, x_t, t, t_prev, before, eta=settings.eta, clip_x0=clip_x0, generator=generator
            )
        else:
            # The noise follows a clipped x_0: at the first steps, almost without signal, x_0 is out of all bounds.
            step = ddim_step(
                schedule,
                noise,
                x_t,
                t,
                t_prev,
                eta=settings.eta,
                clip_x0=clip_x0,
                rederive_noise=clip_x0 is not None,
                generator=generator,
            )
        x_t, before = step.x_prev, (step.x_0, t)
        if progress is not None:
            progress(i + 1, len(steps))
    return x_t


def _parts(images: int, hypotheses: int, max_rows: int) -> list[tuple[slice, slice]]:
    """Blocks of images times hypotheses with at most so many rows: whole images where they fit."""
    tall, wide = max(max_rows // hypotheses, 1), min(max_rows, hypotheses)
    return [
        (slice(image, image + tall), slice(hypothesis, hypothesis + wide))
        for image in range(0, images, tall)
        for hypothesis in range(0, hypotheses, wide)
    ]


def pick_most_plausible(
    joints_cam: Float[Tensor, "images hypotheses joints 3"],
    rule: Pick,
    keypoints_px: Float[Tensor, "images joints 2"] | None = None,
    confidence: Float[Tensor, "images joints"] | None = None,
    K: Float[Tensor, "images 3 3"] | None = None,
) -> Int[Tensor, " images"]:
    """The most plausible hypothesis of each image, without the truth.

    Args:
        joints_cam: Of every hypothesis, metres, camera frame.
        rule: ``medoid``: least mean distance to the others, relative to joint 0. ``keypoints``: least mean distance of
            the projected joints to the keypoints, weighted by confidence; the medoid for an image without any.
            ``first``: a random one, as the hypotheses are.
        keypoints_px: Pixels; for ``keypoints``, as are the following.
        confidence: Of each keypoint, 0 where there is none.
        K: Intrinsics of the picture of the keypoints.

    Raises:
        ValueError: ``rule`` is unknown.
    """
    if rule not in get_args(Pick):
        raise ValueError(f"pick must be one of {get_args(Pick)}, got {rule!r}")
    if rule == "first":
        return torch.zeros(len(joints_cam), dtype=torch.int64, device=joints_cam.device)
    central = medoid(joints_cam)
    if rule == "medoid" or keypoints_px is None or confidence is None or K is None:
        return central
    seen = (confidence > 0)[:, None]
    distance = (project(joints_cam, K[:, None]) - keypoints_px[:, None]).norm(dim=-1)
    error = torch.where(seen, distance * confidence[:, None], 0.0).sum(dim=-1)
    closest: Tensor = error.argmin(dim=-1)
    return torch.where(seen.any(dim=-1)[:, 0], closest, central)
