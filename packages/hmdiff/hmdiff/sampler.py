"""HMDiff's inference: the reverse process of all samples of all images, aligned to U (Algorithm 1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hmdiff.dat import Alignment, Target, bounded, still_active
from hmdiff.network import Prepared
from hmdiff.pose_distribution import PoseDistribution
from posecore.diffusion.dpm_solver import dpm_solver_step
from posecore.diffusion.noise import NoiseSource, normal, split
from posecore.diffusion.samplers import timesteps
from posecore.diffusion.schedule import NoiseSchedule, PredictionType
from posecore.geometry.precision import full_precision


@runtime_checkable
class Denoiser(Protocol):
    """What the sampler needs of a network, which `hmdiff.network.MeshDenoiser` has."""

    num_vertices: int

    def __call__(self, h: Tensor, k: Tensor, prepared: Prepared, /) -> Tensor:
        """What is predicted of the rows of ``h`` at step ``k`` (0-dim)."""


@dataclass(frozen=True)
class Sampling:
    """Settings of the reverse process.

    Attributes:
        num_inference_steps: Steps; all of the schedule's where None.
        eta: Share of fresh noise; 1 is DDPM's.
        start: What h_K is: Gaussian noise, or ``"pose"``, the noisy H_U of Table 5, samples of U made meshes.
        clip: Bound on the coordinates of an estimate of h_0, metres from the root: no body reaches farther.
        max_rows: Rows (samples of images) that the network sees at once, which bounds memory; the samples are the same
            for any number.
        sampler: ``"ddim"`` (the paper), or ``"dpm_solver"``, of second order (DPM-Solver++(2M)).
            Deviation: the paper has DDIM alone.

    Raises:
        ValueError: An option is unknown or out of range.
    """

    num_inference_steps: int | None = 40
    eta: float = 0.0
    start: Literal["noise", "pose"] = "noise"
    clip: float = 1.5
    max_rows: int = 256
    sampler: Literal["ddim", "dpm_solver"] = "ddim"

    def __post_init__(self) -> None:
        if self.sampler not in ("ddim", "dpm_solver"):
            raise ValueError(f"sampler must be 'ddim' or 'dpm_solver', got {self.sampler!r}")
        if self.num_inference_steps is not None and self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {self.num_inference_steps}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")
        if self.start not in ("noise", "pose"):
            raise ValueError(f"start must be 'noise' or 'pose', got {self.start!r}")
        if self.clip <= 0 or self.max_rows < 1:
            raise ValueError(f"clip must be above 0 and max_rows at least 1, got {self.clip} and {self.max_rows}")


@dataclass(frozen=True)
class Meshes:
    """What is found in a batch of images.

    Attributes:
        final: h_m, metres, camera axes, relative to the root joint.
        samples: Those of H_0, likewise; of an estimator without diffusion, its one answer.
        transl: Where the root joint is, metres, camera frame, so that the final mesh lies on the heatmaps.
        prior: U.
    """

    final: Float[Tensor, "people vertices 3"]
    samples: Float[Tensor, "people n vertices 3"]
    transl: Float[Tensor, "people 3"]
    prior: PoseDistribution


class Record(NamedTuple):
    """What `sample` tells about each step to whoever wants to draw or study it.

    Attributes:
        k: The step, 0..K-1, that h is at.
        h: h_k, metres.
        estimate: The estimate of h_0, metres.
        gap: D_k; None where nothing is aligned any more.
        active: Which samples are moved by DAT in this step.
    """

    k: int
    h: Float[Tensor, "images samples vertices 3"]
    estimate: Float[Tensor, "images samples vertices 3"]
    gap: Float[Tensor, "images samples"] | None
    active: Bool[Tensor, "images samples"]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    prepared: Prepared,
    num_samples: int,
    settings: Sampling,
    alignment: Alignment,
    mesh_to_pose: Float[Tensor, "joints vertices"],
    target: Target | None = None,
    prediction_type: PredictionType = "epsilon",
    generator: NoiseSource | None = None,
    progress: Callable[[int, int], None] | None = None,
    record: Callable[[Record], None] | None = None,
    h_K: Float[Tensor, "images samples vertices 3"] | None = None,
    unit: float = 1.0,
) -> Float[Tensor, "images samples vertices 3"]:
    """N samples of H_0 for each image, each from a noise of its own.

    Not to be called in inference mode, in which nothing has a gradient.

    Args:
        denoiser: The trained g, in eval mode.
        schedule: The one it was trained with.
        prepared: The images, prepared once by g.
        num_samples: N, at least 1.
        settings: Of the reverse process.
        alignment: Of DAT.
        mesh_to_pose: f, the linear map from the coarse mesh to the joints of U.
        target: The poses of U; needed unless ``alignment.of`` is ``"nothing"``.
        prediction_type: What the network predicts.
        generator: Source of all noise, drawn for all rows together; `NoiseStreams` have one stream for each image.
        progress: Called with (done, total) steps.
        record: Called at every step.
        h_K: What to begin with, in standard deviations of noise; drawn where None.
        unit: Metres that are 1 in h, the unit that g was trained in.

    Returns:
        Meshes, metres, camera axes, relative to the root.

    Raises:
        ValueError: ``num_samples`` is below 1, ``h_K`` is of another shape, there are more steps than the schedule has,
            or there is no target to align to.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    if target is None and alignment.of != "nothing":
        raise ValueError(f"target: alignment of {alignment.of!r} needs poses of U")
    device = prepared.keys_values[0].device
    shape = (prepared.num_images, num_samples, denoiser.num_vertices, 3)
    generator = split(generator, num_samples)
    if h_K is None:
        h_K = normal(shape, torch.empty(0, device=device), generator)
    if h_K.shape != shape:
        raise ValueError(f"h_K must have the shape {shape}, got {tuple(h_K.shape)}")
    h = h_K.to(device)
    mesh_to_pose, clip = unit * mesh_to_pose, settings.clip / unit  # f gives metres
    total = schedule.num_train_timesteps
    steps = timesteps(total, settings.num_inference_steps or total, "trailing")
    k_on_device = torch.tensor(steps, device=device)
    parts = list(_parts(prepared, target, num_samples, settings.max_rows))
    active = torch.full(shape[:2], alignment.of != "nothing", device=device)
    first_gap, before = None, None
    if target is not None and alignment.start == "noise":
        first_gap = target.gap(_times(mesh_to_pose, h))
    for i, (k, k_prev) in enumerate(zip(steps, [*steps[1:], -1], strict=True)):
        out, gradient = torch.empty_like(h), torch.zeros_like(h)
        gap = torch.zeros(shape[:2], device=device)
        # One truth value per step comes to the host: without a gradient, a step costs a third.
        aligned = alignment.of != "nothing" and bool(active.any())
        for part in parts:
            step = _Step(denoiser, schedule, k_on_device[i], k, clip, prediction_type, mesh_to_pose)
            out[part.rows], gap[part.rows], gradient[part.rows] = step(h[part.rows], part, alignment, aligned)
        if aligned:
            first_gap = gap if first_gap is None else first_gap
            active = still_active(active, gap, first_gap, alignment)
        # The solver's line goes through two estimates of h_0, each of an h that DAT had moved: it follows the path that
        # h really takes, shifts included.
        moved = dpm_solver_step(
            schedule,
            out,
            h,
            k,
            k_prev,
            before if settings.sampler == "dpm_solver" else None,  # without, it is DDIM with the noise rederived
            prediction_type=prediction_type,
            eta=settings.eta,
            clip_x0=clip,
            generator=generator,
        )
        before = moved.x_0, k
        if record is not None:
            doing = active if aligned else torch.zeros_like(active)
            record(Record(k, unit * h, unit * moved.x_0, gap if aligned else None, doing))
        h = moved.x_prev
        if aligned:
            # Line 9 of Algorithm 1. The last step has no noise left that a shift could be a share of.
            limit = alignment.max_shift * schedule.sigma(k_prev, h).to(h).reshape(())
            h = h - bounded(alignment.gamma * gradient, limit) * active[..., None, None]
        if progress is not None:
            progress(i + 1, len(steps))
    return unit * h


@dataclass(frozen=True)
class _Part:
    """Some rows, what they are conditioned on and what they are aligned to."""

    rows: tuple[slice, slice]
    prepared: Prepared
    target: Target | None


@dataclass(frozen=True)
class _Step:
    """What g says about some rows at one step, and which way U lies."""

    denoiser: Denoiser
    schedule: NoiseSchedule
    k_on_device: Tensor
    k: int
    clip: float
    prediction_type: PredictionType
    mesh_to_pose: Tensor

    def __call__(
        self, h: Tensor, part: _Part, alignment: Alignment, aligned: bool
    ) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """Prediction, gap and its gradient at h; the last two are 0 where nothing is aligned."""
        if not aligned or part.target is None:
            return self._predict(h, part), 0.0, 0.0
        if alignment.of == "sample":
            out = self._predict(h, part)
            gap = part.target.gap(_times(self.mesh_to_pose, self._estimate(out, h)))
            apart = _times(self.mesh_to_pose, h) - part.target.mean[:, None]
            return out, gap, 2 * part.target.count * _times(self.mesh_to_pose.T, apart)
        with torch.enable_grad():
            h = h.detach().requires_grad_()
            out = self._predict(h, part)
            gap = part.target.gap(_times(self.mesh_to_pose, self._estimate(out, h)))
            (gradient,) = torch.autograd.grad(gap.sum(), h)
        return out.detach(), gap.detach(), gradient

    def _predict(self, h: Tensor, part: _Part) -> Tensor:
        out: Tensor = self.denoiser(h.flatten(0, 1), self.k_on_device, part.prepared).unflatten(0, h.shape[:2])
        return out.float()

    def _estimate(self, out: Tensor, h: Tensor) -> Tensor:
        """The estimate of h_0, Eq. (7)."""
        return self.schedule.to_x0(out, h, self.k, self.prediction_type).clamp(-self.clip, self.clip)


@full_precision  # a gap of millimetres between joints that are a metre from the root
def _times(matrix: Tensor, points: Tensor) -> Tensor:
    return matrix @ points


def _parts(prepared: Prepared, target: Target | None, samples: int, max_rows: int) -> list[_Part]:
    """Blocks of images times samples with at most so many rows: whole images where they fit."""
    tall, wide = max(max_rows // samples, 1), min(max_rows, samples)
    images = [slice(start, min(start + tall, prepared.num_images)) for start in range(0, prepared.num_images, tall)]
    columns = [slice(start, min(start + wide, samples)) for start in range(0, samples, wide)]
    return [
        _Part(
            (rows, block),
            prepared.take(rows).repeat(block.stop - block.start),
            None if target is None else target.take(rows),
        )
        for rows in images
        for block in columns
    ]
