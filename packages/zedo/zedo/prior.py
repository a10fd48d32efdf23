"""theta_g(P, t) of Eq. (5): the diffusion backbones of Table 5, and what one denoising step of each does to a pose.

All three steps are affine in the pose and in the network's noise estimate, ``P <- keep P - remove noise + random z``.
So a run over many steps needs three numbers a step, computed once in float64.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.diffusion.noise import NoiseSource, integers, normal, uniform
from posecore.diffusion.samplers import ddim_step
from posecore.diffusion.schedule import NoiseSchedule
from posecore.diffusion.sde import SubVPSDE
from zedo.network import ScoreNetwork

BackboneName = Literal["score", "ddim", "ddpm"]


class DenoisingSteps(NamedTuple):
    """A fixed list of denoising steps, ``P <- keep P - remove noise(P, label) + random z``."""

    labels: Float[Tensor, " steps"]
    """What the network takes as noise level, float64."""
    keep: list[float]
    remove: list[float]
    random: list[float]


class Perturbed(NamedTuple):
    """A training batch: ``x_t`` holds ``noise`` at the level ``label``."""

    x_t: Float[Tensor, "batch joints 3"]
    noise: Float[Tensor, "batch joints 3"]
    label: Float[Tensor, " batch"]


class Backbone(ABC):
    """How poses are perturbed for training, and how a noise estimate moves a pose towards the data."""

    @abstractmethod
    def perturb(self, x_0: Float[Tensor, "batch joints 3"], generator: NoiseSource | None = None) -> Perturbed:
        """Draws a noise level and a noisy pose for every clean one."""

    @abstractmethod
    def steps(
        self, times: Float[Tensor, " steps"], dt: float, score_factor: float = 1.0, stochastic: bool | None = None
    ) -> DenoisingSteps:
        """One step of length ``dt`` at each of the ``times``, a fraction of the full diffusion time.

        Args:
            times: Times in (0, 1].
            dt: Length of a step, in the same unit.
            score_factor: Weight of the score term; only the continuous backbone has one.
            stochastic: Whether a step adds fresh noise; None is the backbone's own habit inside ZeDO's loop.
        """


class ScoreBackbone(Backbone):
    """Score matching under the sub-VP SDE, the paper's main model (Eqs. (1)-(3)).

    Deviation: Eq. (1) squares ``1 - exp(-int beta)`` as a variance and the text calls the unsquared term a variance;
    it is the standard deviation, of the sub-VP SDE.

    Args:
        sde: The forward process.
        min_time: Training times are uniform in (min_time, 1).
    """

    def __init__(self, sde: SubVPSDE | None = None, min_time: float = 1e-5) -> None:
        self.sde = sde or SubVPSDE()
        self.min_time = min_time

    def perturb(self, x_0: Float[Tensor, "batch joints 3"], generator: NoiseSource | None = None) -> Perturbed:
        """x(t) of Eq. (1) at a uniform time, labelled ``999 t``."""
        t = uniform(x_0.shape[:1], x_0, generator) * (1 - self.min_time) + self.min_time
        noise = normal(x_0.shape, x_0, generator)
        return Perturbed(self.sde.perturb(x_0, t, noise), noise, t * 999)

    def steps(
        self, times: Float[Tensor, " steps"], dt: float, score_factor: float = 1.0, stochastic: bool | None = None
    ) -> DenoisingSteps:
        """Euler steps; without noise unless asked for.

        Deviation: the loop's step is called a probability flow by the release but has the score at full weight (1.0,
        theory: 0.5); the mean of the reverse SDE's step. ``score_factor=0.5`` is the theory.
        """
        t = times.double()
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        keep = self.sde.probability_flow_step(one, t, dt, zero, score_factor)
        remove = -self.sde.probability_flow_step(zero, t, dt, self.sde.score_from_noise(one, t), score_factor)
        random = self.sde.diffusion(t) * dt**0.5 if stochastic else zero
        return DenoisingSteps(t * 999, keep.tolist(), remove.tolist(), random.tolist())


class DiscreteBackbone(Backbone):
    """DDIM or DDPM over 1000 discrete steps, the other rows of Table 5.

    The paper gives neither schedule nor step rule for them: the schedule is DDPM's linear one, and a step at time t
    goes from step ``round(1000 t) - 1`` down by ``1000 dt`` steps, as the score backbone's does.

    Args:
        sampler: ``"ddim"`` (no noise) or ``"ddpm"`` (ancestral noise).
        schedule: The noise schedule; DDPM's linear one where None.

    Raises:
        ValueError: Unknown ``sampler``.
    """

    def __init__(self, sampler: Literal["ddim", "ddpm"], schedule: NoiseSchedule | None = None) -> None:
        if sampler not in ("ddim", "ddpm"):
            raise ValueError(f"sampler must be 'ddim' or 'ddpm', got {sampler!r}")
        self.sampler = sampler
        self.schedule = schedule or NoiseSchedule.named("linear_1000")

    def perturb(self, x_0: Float[Tensor, "batch joints 3"], generator: NoiseSource | None = None) -> Perturbed:
        """x_t at a uniform integer step, which is also the label."""
        schedule = self.schedule.to(x_0.device)
        t = integers(schedule.num_train_timesteps, x_0.shape[:1], x_0, generator)
        noise = normal(x_0.shape, x_0, generator)
        return Perturbed(schedule.q_sample(x_0, t, noise), noise, t.to(x_0.dtype))

    def steps(
        self, times: Float[Tensor, " steps"], dt: float, score_factor: float = 1.0, stochastic: bool | None = None
    ) -> DenoisingSteps:
        """DDIM or ancestral steps; ``score_factor`` has no meaning here.

        Raises:
            ValueError: ``score_factor`` is not 1.
        """
        if score_factor != 1.0:
            raise ValueError(
                f"score_factor belongs to the score backbone; {self.sampler} takes 1.0, got {score_factor}"
            )
        schedule = self.schedule.to(times.device)
        num = schedule.num_train_timesteps
        t = (times.double() * num).round().long().clamp(1, num) - 1
        t_prev = (t - max(1, round(dt * num))).clamp(min=-1)
        if self.sampler == "ddim":
            one, zero = torch.ones_like(times, dtype=torch.float64), torch.zeros_like(times, dtype=torch.float64)
            keep = ddim_step(schedule, zero, one, t, t_prev).x_prev
            remove = -ddim_step(schedule, one, zero, t, t_prev).x_prev
            random = zero
        else:
            before, after = schedule.alphas_cumprod[t], schedule.alpha_bar(t_prev, times)
            alpha = before / after
            keep, remove = alpha.rsqrt(), (1 - alpha) * (alpha * (1 - before)).rsqrt()  # DDPM, Eq. (11)
            random = ((1 - after) / (1 - before) * (1 - alpha)).sqrt()  # DDPM, Eq. (7)
        random = torch.zeros_like(random) if stochastic is False else random
        return DenoisingSteps(t.double(), keep.tolist(), remove.tolist(), random.tolist())


def make_backbone(name: BackboneName) -> Backbone:
    """The backbone of a name: ``"score"``, ``"ddim"`` or ``"ddpm"`` (Table 5).

    Raises:
        ValueError: Unknown name.
    """
    if name == "score":
        return ScoreBackbone()
    if name in ("ddim", "ddpm"):
        return DiscreteBackbone(name)
    raise ValueError(f"backbone must be 'score', 'ddim' or 'ddpm', got {name!r}")


def generate(
    network: ScoreNetwork,
    backbone: Backbone,
    num_poses: int,
    generator: NoiseSource | None = None,
    num_steps: int = 1000,
) -> Float[Tensor, "num_poses joints 3"]:
    """Draws poses from the prior alone, from pure noise (Table 7, "Random Generation").

    Args:
        network: The trained prior; its device and precision are the result's.
        backbone: The diffusion it was trained with.
        num_poses: How many.
        generator: Source of the noise.
        num_steps: Steps from t = 1 to 0.

    Returns:
        Root-relative poses, metres, camera frame.
    """
    weight = network.head.weight
    times = torch.arange(num_steps, 0, -1, device=weight.device, dtype=torch.float64) / num_steps
    steps = backbone.steps(times, dt=1 / num_steps, stochastic=isinstance(backbone, ScoreBackbone) or None)
    poses = normal((num_poses, network.num_joints, 3), weight, generator)
    with torch.inference_mode(), torch.autocast(weight.device.type, enabled=False):
        denoise = network.frozen(steps.labels.to(weight.dtype))
        for i in range(num_steps):
            poses = denoising_step(denoise, steps, poses, i, generator)
    return poses.clone()


def denoising_step(
    denoise: Callable[[Tensor, int], Tensor],
    steps: DenoisingSteps,
    poses: Float[Tensor, "batch joints 3"],
    i: int,
    generator: NoiseSource | None = None,
) -> Float[Tensor, "batch joints 3"]:
    """``P_{i+1} = theta_g(P_i, t(i))``, Eq. (5)."""
    moved = torch.sub(steps.keep[i] * poses, denoise(poses, i), alpha=steps.remove[i])
    if steps.random[i]:
        moved = moved + steps.random[i] * normal(poses.shape, poses, generator)
    return moved
