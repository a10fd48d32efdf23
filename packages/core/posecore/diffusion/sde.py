"""Continuous diffusion: the VP, sub-VP and VE stochastic differential equations.

Time runs from 0 (data) to 1 (noise): ``dx = f(x, t) dt + g(t) dw``. The marginal of x(t) given x(0) is normal with mean
``mean_coeff(t) x(0)`` and standard deviation ``std(t)``. A ``t`` is a float shared by all samples, or a tensor over the
leading dimensions of the sample; floats are evaluated in float64.

References:
    Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, Secs. 3.3, 3.4, 4.3,
    Appendix B.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.diffusion.noise import NoiseSource, normal
from posecore.diffusion.schedule import expand_to, working_dtype


class SDE(ABC):
    """A forward SDE with a known normal marginal, and the steps that run it backwards."""

    @abstractmethod
    def marginal(self, t: float | Float[Tensor, "*time"]) -> tuple[Float[Tensor, "*time"], Float[Tensor, "*time"]]:
        """Mean coefficient and standard deviation of x(t) given x(0), both of the shape of ``t``."""

    @abstractmethod
    def drift(self, x: Float[Tensor, "*sample"], t: float | Float[Tensor, "*time"]) -> Float[Tensor, "*sample"]:
        """f(x, t)."""

    @abstractmethod
    def diffusion(self, t: float | Float[Tensor, "*time"]) -> Float[Tensor, "*time"]:
        """g(t), of the shape of ``t``."""

    @property
    @abstractmethod
    def prior_std(self) -> float:
        """Standard deviation of the normal distribution that x(1) is drawn from to start sampling."""

    def perturb(
        self,
        x_0: Float[Tensor, "*sample"],
        t: float | Float[Tensor, "*time"],
        noise: Float[Tensor, "*sample"],
    ) -> Float[Tensor, "*sample"]:
        """Draws x(t) given x(0) with the given standard normal ``noise``."""
        mean_coeff, std = self.marginal(t)
        return (_fit(mean_coeff, x_0) * _widen(x_0) + _fit(std, x_0) * _widen(noise)).to(x_0.dtype)

    def score_from_noise(
        self, noise: Float[Tensor, "*sample"], t: float | Float[Tensor, "*time"]
    ) -> Float[Tensor, "*sample"]:
        """Score of the marginal, ``-noise / std(t)``, from the noise in a sample; not finite where std is 0."""
        return (-_widen(noise) / _fit(self.marginal(t)[1], noise)).to(noise.dtype)

    def noise_from_score(
        self, score: Float[Tensor, "*sample"], t: float | Float[Tensor, "*time"]
    ) -> Float[Tensor, "*sample"]:
        """Inverse of ``score_from_noise``: ``-std(t) score``."""
        return (-_fit(self.marginal(t)[1], score) * _widen(score)).to(score.dtype)

    def probability_flow_step(
        self,
        x: Float[Tensor, "*sample"],
        t: float | Float[Tensor, "*time"],
        dt: float,
        score: Float[Tensor, "*sample"],
        score_factor: float = 0.5,
    ) -> Float[Tensor, "*sample"]:
        """One noise-free Euler step back in time, ``x - (f - score_factor g^2 score) dt``.

        Args:
            x: The sample at ``t``.
            t: Its time(s).
            dt: Length of the step, positive; the sample moves to ``t - dt``.
            score: Score of the marginal at (x, t).
            score_factor: 0.5 is the probability-flow ODE (Eq. (13)). 1.0 is the mean of ``reverse_step``; ZeDO's
                released program uses it under the name of the probability flow.
        """
        g_squared = _fit(self.diffusion(t).square(), x)
        return (_widen(x) - (self.drift(_widen(x), t) - score_factor * g_squared * _widen(score)) * dt).to(x.dtype)

    def reverse_step(
        self,
        x: Float[Tensor, "*sample"],
        t: float | Float[Tensor, "*time"],
        dt: float,
        score: Float[Tensor, "*sample"],
        generator: NoiseSource | None = None,
    ) -> Float[Tensor, "*sample"]:
        """One Euler-Maruyama step of the reverse-time SDE (Eq. (6)).

        Args:
            x: The sample at ``t``.
            t: Its time(s).
            dt: Length of the step, positive; the sample moves to ``t - dt``.
            score: Score of the marginal at (x, t).
            generator: Source of the noise.
        """
        noise = normal(x.shape, x, generator)
        mean = self.probability_flow_step(_widen(x), t, dt, _widen(score), score_factor=1.0)
        return (mean + _fit(self.diffusion(t), x) * math.sqrt(dt) * noise).to(x.dtype)


@dataclass(frozen=True)
class _LinearBetaSDE(SDE):
    """Shared part of the VP and sub-VP SDEs: the same drift and mean, beta(t) linear in t.

    Args:
        beta_min: beta(0).
        beta_max: beta(1).

    Raises:
        ValueError: If not 0 < beta_min <= beta_max.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(f"need 0 < beta_min <= beta_max, got beta_min={self.beta_min}, beta_max={self.beta_max}")

    @property
    def prior_std(self) -> float:
        """Standard normal."""
        return 1.0

    def beta(self, t: float | Float[Tensor, "*time"]) -> Float[Tensor, "*time"]:
        """Noise rate, linear in time, of the shape of ``t``."""
        return self.beta_min + (self.beta_max - self.beta_min) * _time(t)

    def integrated_beta(self, t: float | Float[Tensor, "*time"]) -> Float[Tensor, "*time"]:
        """B(t), the integral of beta from 0 to t."""
        time = _time(t)
        return (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * time) * time

    def drift(self, x: Float[Tensor, "*sample"], t: float | Float[Tensor, "*time"]) -> Float[Tensor, "*sample"]:
        """f(x, t) = -beta(t) x / 2."""
        return (-0.5 * _fit(self.beta(t), x) * _widen(x)).to(x.dtype)


@dataclass(frozen=True)
class VPSDE(_LinearBetaSDE):
    """Variance-preserving SDE, the continuous DDPM: g^2 = beta, std = sqrt(1 - exp(-B)) (Eqs. (11), (29))."""

    def marginal(self, t: float | Float[Tensor, "*time"]) -> tuple[Float[Tensor, "*time"], Float[Tensor, "*time"]]:
        """Mean coefficient exp(-B/2) and standard deviation sqrt(1 - exp(-B))."""
        integral = self.integrated_beta(t)
        return torch.exp(-0.5 * integral), torch.sqrt(-torch.expm1(-integral))

    def diffusion(self, t: float | Float[Tensor, "*time"]) -> Float[Tensor, "*time"]:
        """g(t) = sqrt(beta)."""
        return self.beta(t).sqrt()


@dataclass(frozen=True)
class SubVPSDE(_LinearBetaSDE):
    """Sub-variance-preserving SDE: g^2 = beta (1 - exp(-2B)), std = 1 - exp(-B) (Eqs. (12), (29)).

    Its std is the square of the VP SDE's: 0.104 instead of 0.322 at t = 0.1. The two are not interchangeable.
    """

    def marginal(self, t: float | Float[Tensor, "*time"]) -> tuple[Float[Tensor, "*time"], Float[Tensor, "*time"]]:
        """Mean coefficient exp(-B/2) and standard deviation 1 - exp(-B)."""
        integral = self.integrated_beta(t)
        return torch.exp(-0.5 * integral), -torch.expm1(-integral)

    def diffusion(self, t: float | Float[Tensor, "*time"]) -> Float[Tensor, "*time"]:
        """g(t) = sqrt(beta (1 - exp(-2B)))."""
        return (-self.beta(t) * torch.expm1(-2 * self.integrated_beta(t))).sqrt()


@dataclass(frozen=True)
class VESDE(SDE):
    """Variance-exploding SDE: no drift, std = sigma_min (sigma_max / sigma_min)^t (Eqs. (9), (29)).

    As in the paper the std at t = 0 is sigma_min, not 0: the data are taken to carry that much noise already.

    Args:
        sigma_min: std at t = 0.
        sigma_max: std at t = 1, of the order of the largest distance between two samples.

    Raises:
        ValueError: If not 0 < sigma_min < sigma_max.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"need 0 < sigma_min < sigma_max, got sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
            )

    @property
    def prior_std(self) -> float:
        """sigma_max."""
        return self.sigma_max

    def marginal(self, t: float | Float[Tensor, "*time"]) -> tuple[Float[Tensor, "*time"], Float[Tensor, "*time"]]:
        """Mean coefficient 1 and standard deviation sigma_min (sigma_max / sigma_min)^t."""
        time = _time(t)
        return torch.ones_like(time), self.sigma_min * torch.exp(math.log(self.sigma_max / self.sigma_min) * time)

    def drift(self, x: Float[Tensor, "*sample"], t: float | Float[Tensor, "*time"]) -> Float[Tensor, "*sample"]:
        """f(x, t) = 0."""
        return torch.zeros_like(x)

    def diffusion(self, t: float | Float[Tensor, "*time"]) -> Float[Tensor, "*time"]:
        """g(t) = std(t) sqrt(2 log(sigma_max / sigma_min))."""
        return self.marginal(t)[1] * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))


def _time(t: float | Tensor) -> Tensor:
    """A float becomes a float64 scalar on the CPU, which combines with samples of any device without a transfer."""
    if isinstance(t, Tensor):
        return t.to(working_dtype(t))
    return torch.tensor(t, dtype=torch.float64)


def _fit(values: Tensor, sample: Tensor) -> Tensor:
    if values.ndim == 0:
        return values  # stays a CPU scalar, see _time
    return expand_to(values, sample).to(working_dtype(sample))


def _widen(sample: Tensor) -> Tensor:
    return sample.to(working_dtype(sample))
