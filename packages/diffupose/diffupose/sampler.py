"""DiffuPose's inference (Algorithm 2): many poses from noise for each set of keypoints, and one pose out of many."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffupose.network import Prepared
from posecore.body.skeletons import JointSet
from posecore.data.transforms import flip_joints
from posecore.diffusion.dpm_solver import dpm_solver_step
from posecore.diffusion.noise import NoiseSource, NoiseStreams, normal, of_part
from posecore.diffusion.samplers import StepOutput, ddim_step, ddpm_step, timesteps
from posecore.diffusion.schedule import NoiseSchedule
from posecore.geometry.hypotheses import medoid, nearest, pick
from posecore.geometry.precision import full_precision

Aggregation = Literal["mean", "medoid", "reprojection"]
"""One pose out of N: their ``mean`` (paper), the ``medoid``, or the one of least ``reprojection`` error."""


@runtime_checkable
class Denoiser(Protocol):
    """What the sampler needs of a network: the paper's graph network and the U-Net baseline both have it."""

    def prepare(self, levels: Tensor) -> Prepared:
        """The network for inference at a list of timesteps."""


@dataclass(frozen=True)
class Sampling:
    """Settings of the reverse process.

    Attributes:
        sampler: ``"ddpm"`` is ancestral (the paper), ``"ddim"`` takes fewer steps, ``"dpm_solver"`` is of second order
            (DPM-Solver++(2M)). Deviation: the paper samples by DDPM alone.
        num_inference_steps: Steps; all of the schedule's where None.
        eta: Share of fresh noise of the last two: 0 makes a sample a function of its first noise.
        clip_x0: Bound on the predicted joints' coordinates, metres. Deviation: the paper is silent; 1 as in the
            release, which cuts hands raised above a tall person's head. None for no bound.
        flip: Samples the mirrored keypoints too and averages both samples (Sec. 4.2): less chance in each hypothesis,
            so less spread among them, at twice the cost.
        chunk: Rows (hypotheses of people) worked on at once; their features stay in the processor's cache.
    """

    sampler: Literal["ddpm", "ddim", "dpm_solver"] = "ddpm"
    num_inference_steps: int | None = None
    eta: float = 0.0
    clip_x0: float | None = 1.0
    flip: bool = True
    chunk: int = 256

    def __post_init__(self) -> None:
        if self.sampler not in ("ddpm", "ddim", "dpm_solver"):
            raise ValueError(f"sampler must be 'ddpm', 'ddim' or 'dpm_solver', got {self.sampler!r}")
        if self.num_inference_steps is not None and self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {self.num_inference_steps}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")
        if self.clip_x0 is not None and self.clip_x0 <= 0:
            raise ValueError(f"clip_x0 must be positive metres or None, got {self.clip_x0}")
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")


class DiffuPoseResult(NamedTuple):
    """All hypotheses of every person, and the one pose made of them."""

    joints_rel: Float[Tensor, "people hypotheses joints 3"]
    """Relative to the root, camera axes, metres."""
    transl: Float[Tensor, "people hypotheses 3"]
    """Add to ``joints_rel`` for camera coordinates: estimated from the keypoints, never the true root."""
    reprojection_px: Float[Tensor, "people hypotheses"]
    """Confidence-weighted mean distance of the projected joints from the keypoints."""
    pose: Float[Tensor, "people joints 3"]
    """The hypotheses aggregated, relative to the root."""

    @property
    def best(self) -> Int[Tensor, " people"]:
        """The hypothesis closest to ``pose``; needs no ground truth."""
        return nearest(self.joints_rel, self.pose)


@full_precision  # 16 bits would round joints to centimetres over a hundred steps
def sample(
    network: Denoiser,
    schedule: NoiseSchedule,
    keypoints: Float[Tensor, "people joints 2"],
    joint_set: JointSet,
    num_hypotheses: int,
    settings: Sampling,
    pose_scale: float = 1.0,
    generator: NoiseSource | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "people hypotheses joints 3"]:
    """Algorithm 2 for all hypotheses of all people together.

    Args:
        network: The trained denoiser, in eval mode.
        schedule: The one it was trained with.
        keypoints: In the network's coordinates (`diffupose.keypoints`).
        joint_set: Their joints.
        num_hypotheses: N, at least 1.
        settings: Of the reverse process.
        pose_scale: Factor on metres that the network was trained with.
        generator: Source of all noise; `NoiseStreams` have one stream for each person.
        progress: Called with (done, total) row-steps.

    Returns:
        Joints in the network's axes, metres, relative to the root; joint 0, which the network knows to be the root, is
        set to 0 as in the release.

    Raises:
        ValueError: ``num_hypotheses`` is below 1, or there are more steps than the schedule has.
    """
    if num_hypotheses < 1:
        raise ValueError(f"num_hypotheses must be at least 1, got {num_hypotheses}")
    people, joints = keypoints.shape[:2]
    steps = timesteps(
        schedule.num_train_timesteps, settings.num_inference_steps or schedule.num_train_timesteps, "trailing"
    )
    views = [keypoints]
    if settings.flip:
        views.append(mirror_keypoints(keypoints, joint_set))
    rows = torch.stack(views, dim=1)[:, :, None].expand(-1, -1, num_hypotheses, -1, -1).flatten(0, 2)
    if isinstance(generator, NoiseStreams):
        of_views = generator.split(num_hypotheses).split(len(views))
        generator = NoiseStreams(of_views.keys.transpose(1, 2).flatten())
    out = torch.empty(len(rows), joints, 3, dtype=keypoints.dtype, device=keypoints.device)
    clip = None if settings.clip_x0 is None else settings.clip_x0 * pose_scale
    with torch.inference_mode():
        denoise = network.prepare(torch.tensor(steps, device=keypoints.device))
        for start in range(0, len(rows), settings.chunk):
            part = slice(start, start + settings.chunk)
            y = rows[part]
            source = of_part(generator, part)
            x_t = normal((len(y), joints, 3), y, source)
            before = None
            for i, (t, t_prev) in enumerate(zip(steps, [*steps[1:], -1], strict=True)):
                noise = denoise(x_t, y, i)[..., :3]
                x_t, x_0 = _step(schedule, noise, x_t, t, t_prev, before, settings, clip, source)
                before = x_0, t
                if progress is not None:
                    progress(start * len(steps) + (i + 1) * len(y), len(rows) * len(steps))
            out[part] = x_t
    samples = (out / pose_scale).unflatten(0, (people, len(views), num_hypotheses))
    if settings.flip:
        samples[:, 1] = flip_joints(samples[:, 1], joint_set)
    poses: Tensor = samples.mean(dim=1)
    poses[..., 0, :] = 0
    return poses


def _step(
    schedule: NoiseSchedule,
    noise: Tensor,
    x_t: Tensor,
    t: int,
    t_prev: int,
    before: tuple[Tensor, int] | None,
    settings: Sampling,
    clip: float | None,
    generator: NoiseSource | None,
) -> StepOutput:
    if settings.sampler == "ddpm":
        # Eqs. (3), (4). Deviation: line 7 of Algorithm 2 has alpha-bar where DDPM has alpha.
        return ddpm_step(schedule, noise, x_t, t, t_prev, clip_x0=clip, generator=generator)
    eta = settings.eta
    if settings.sampler == "dpm_solver":
        return dpm_solver_step(schedule, noise, x_t, t, t_prev, before, eta=eta, clip_x0=clip, generator=generator)
    return ddim_step(schedule, noise, x_t, t, t_prev, eta=eta, clip_x0=clip, generator=generator)


def mirror_keypoints(
    keypoints: Float[Tensor, "people joints 2"], joint_set: JointSet
) -> Float[Tensor, "people joints 2"]:
    """Keypoints of the mirrored person, in the network's coordinates (0 in the middle)."""
    flipped = keypoints[:, list(joint_set.flip)]
    return torch.cat((-flipped[..., :1], flipped[..., 1:]), dim=-1)


def aggregate(
    joints: Float[Tensor, "people hypotheses joints 3"],
    reprojection_px: Float[Tensor, "people hypotheses"],
    rule: Aggregation,
) -> Float[Tensor, "people joints 3"]:
    """One pose per person, without ground truth.

    Args:
        joints: The hypotheses, relative to the root.
        reprojection_px: Their distances from the keypoints.
        rule: How.

    Raises:
        ValueError: ``rule`` is unknown.
    """
    if rule not in get_args(Aggregation):
        raise ValueError(f"unknown aggregation {rule!r}, expected one of {get_args(Aggregation)}")
    if rule == "mean":
        return joints.mean(dim=1)
    return pick(joints, medoid(joints) if rule == "medoid" else reprojection_px.argmin(dim=1))
