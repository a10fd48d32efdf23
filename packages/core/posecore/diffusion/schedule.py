"""Discrete noise schedules: beta tables and the closed forms that follow from them.

Symbols: ``alphas_cumprod[t]`` is the papers' alpha-bar_t, ``x_t = sqrt(alpha-bar_t) x_0 + sigma_t noise`` with
``sigma_t = sqrt(1 - alpha-bar_t)`` a standard deviation. Timesteps run ``0..T-1`` (papers: ``1..T``) and ``t = -1`` is
the clean sample, alpha-bar = 1, which makes the last step of every sampler an ordinary one.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

PredictionType = Literal["epsilon", "sample", "v_prediction"]
"""What a denoiser returns: the noise, the clean sample x_0, or the velocity v = sqrt(alpha-bar) noise - sigma x_0."""


def linear_betas(
    num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
) -> Float[Tensor, " steps"]:
    """Evenly spaced betas, float64.

    Args:
        num_train_timesteps: T, at least 1.
        beta_start: First beta; the default is DDPM's.
        beta_end: Last beta; the default is DDPM's.

    Raises:
        ValueError: If T < 1 or not 0 < beta_start <= beta_end < 1.

    References:
        Ho et al., Denoising Diffusion Probabilistic Models, Sec. 4.
    """
    _check_num_train_timesteps(num_train_timesteps)
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(f"need 0 < beta_start <= beta_end < 1, got beta_start={beta_start}, beta_end={beta_end}")
    return torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)


def cosine_betas(num_train_timesteps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> Float[Tensor, " steps"]:
    """Betas whose alpha-bar is a squared cosine, float64.

    Args:
        num_train_timesteps: T, at least 1.
        s: Offset that keeps the first betas from vanishing.
        max_beta: Upper bound of a beta; only the last few reach it.

    Raises:
        ValueError: If T < 1 or ``max_beta`` is outside (0, 1).

    References:
        Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, Eq. (17).
    """
    _check_num_train_timesteps(num_train_timesteps)
    if not 0 < max_beta < 1:
        raise ValueError(f"max_beta must lie in (0, 1), got {max_beta}")
    time = torch.linspace(0, 1, num_train_timesteps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((time + s) / (1 + s) * (math.pi / 2)).square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


def linear_alpha_bar_betas(num_train_timesteps: int = 200, final_alpha_bar: float = 1e-4) -> Float[Tensor, " steps"]:
    """Betas whose alpha-bar itself falls linearly from 1 to ``final_alpha_bar``, float64.

    Args:
        num_train_timesteps: T, at least 1.
        final_alpha_bar: alpha-bar of the noisiest step, in (0, 1).

    Raises:
        ValueError: If T < 1 or ``final_alpha_bar`` is outside (0, 1).
    """
    _check_num_train_timesteps(num_train_timesteps)
    if not 0 < final_alpha_bar < 1:
        raise ValueError(f"final_alpha_bar must lie in (0, 1), got {final_alpha_bar}")
    alpha_bar = torch.linspace(1, final_alpha_bar, num_train_timesteps + 1, dtype=torch.float64)
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


NAMED_BETAS: dict[str, Callable[[], Float[Tensor, " steps"]]] = {
    "linear_1000": lambda: linear_betas(1000, 1e-4, 0.02),  # DDPM, Sec. 4
    "cosine_1000": lambda: cosine_betas(1000),  # ScoreHMR and Diff-HMR
    "cosine_100": lambda: cosine_betas(100),  # DiffuPose
    # DiffuPose's comparison: DDPM's range for 1000 steps, taken ten times faster; unscaled, 0.36 of the variance would
    # still be signal at the last step. The paper does not say which.
    "linear_100": lambda: linear_betas(100, 1e-3, 0.2),
    # HMDiff needs alpha-bar_K ~ 0; DDPM's range over 200 steps would leave 0.13 of the signal, this one leaves 3e-5.
    "linear_200": lambda: linear_betas(200, 5e-4, 0.1),
    "linear_alpha_bar_200": lambda: linear_alpha_bar_betas(200),  # the literal reading of HMDiff's text
}
"""Beta tables by name: family and number of steps."""


class NoiseSchedule(nn.Module):
    """A table of alpha-bar and every conversion that needs it.

    The tables are computed and kept in float64; each result is rounded once, to the sample's own precision (16-bit
    samples are computed in float32). The buffers follow the module's device but not its dtype, and they are no part of
    the state dict: a schedule is configuration, not a weight. No method reads a device value on the host.

    ============================ ==============================================
    code                         paper
    ============================ ==============================================
    ``betas[t]``                 beta_t
    ``alphas_cumprod[t]``        alpha-bar_t = prod_{i<=t} (1 - beta_i)
    ``signal(t, x)``             sqrt(alpha-bar_t)
    ``sigma(t, x)``              sqrt(1 - alpha-bar_t)
    ============================ ==============================================

    Wherever a ``t`` is asked for, it is an int shared by all samples, or an integer tensor over leading dimensions of
    the sample. ``t = -1`` is the clean sample.
    """

    betas: Tensor
    alphas_cumprod: Tensor
    _alpha_bar: Tensor  # alphas_cumprod behind a leading 1, so that t = -1 needs no branch

    def __init__(self, betas: Float[Tensor, " steps"]) -> None:
        """Tabulates a schedule.

        Args:
            betas: beta_t for t = 0..T-1, each in (0, 1).

        Raises:
            ValueError: If ``betas`` is empty or has an entry outside (0, 1).
        """
        super().__init__()
        if betas.numel() == 0 or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(f"betas must be a non-empty table of values in (0, 1), got {betas}")
        betas = betas.detach().to(torch.float64)
        alpha_bar = torch.cat([betas.new_ones(1), torch.cumprod(1 - betas, dim=0)])
        self.register_buffer("betas", betas, persistent=False)
        self.register_buffer("alphas_cumprod", alpha_bar[1:].clone(), persistent=False)
        self.register_buffer("_alpha_bar", alpha_bar, persistent=False)

    @classmethod
    def named(cls, name: str) -> "NoiseSchedule":
        """The schedule of one entry of ``NAMED_BETAS``.

        Raises:
            ValueError: If there is no such name.
        """
        if name not in NAMED_BETAS:
            raise ValueError(f"unknown schedule {name!r}, expected one of {sorted(NAMED_BETAS)}")
        return cls(NAMED_BETAS[name]())

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return self.betas.shape[0]

    def extra_repr(self) -> str:
        """Length of the table."""
        return f"num_train_timesteps={self.num_train_timesteps}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "NoiseSchedule":
        # Follow `fn` to its device only: in half precision the first alpha-bars of a cosine schedule round to 1, and
        # sigma to 0. Apple's GPUs have no float64.
        def move(table: Tensor) -> Tensor:
            device = fn(table.new_empty(0, dtype=torch.float32)).device
            return table.to(device, torch.float32 if device.type == "mps" else table.dtype)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self

    def alpha_bar(self, t: int | Int[Tensor, "*time"], like: Float[Tensor, "*sample"]) -> Tensor:
        """alpha-bar_t, ready to be multiplied with ``like``.

        Args:
            t: Timestep(s), -1..T-1.
            like: A sample whose leading dimensions ``t`` indexes.

        Returns:
            A table-precision tensor that broadcasts against ``like``.

        Raises:
            ValueError: If an int ``t`` is outside -1..T-1 or a tensor ``t`` does not fit ``like``.
            IndexError: If an entry of a tensor ``t`` on the CPU is outside -1..T-1.
        """
        if isinstance(t, int):
            if not -1 <= t < self.num_train_timesteps:
                raise ValueError(f"t must lie in -1..{self.num_train_timesteps - 1}, got {t}")
            return expand_to(self._alpha_bar[t + 1], like)
        # index_select and not [...]: indexing with a 0-dim tensor would read it on the host.
        values = self._alpha_bar.index_select(0, t.reshape(-1) + 1).reshape(t.shape)
        return expand_to(values, like)

    def signal(self, t: int | Int[Tensor, "*time"], like: Float[Tensor, "*sample"]) -> Tensor:
        """sqrt(alpha-bar_t) in the working precision of ``like``, broadcasting against it."""
        return self.alpha_bar(t, like).sqrt().to(working_dtype(like))

    def sigma(self, t: int | Int[Tensor, "*time"], like: Float[Tensor, "*sample"]) -> Tensor:
        """Standard deviation sqrt(1 - alpha-bar_t) in the working precision of ``like``, broadcasting against it."""
        return (1 - self.alpha_bar(t, like)).sqrt().to(working_dtype(like))

    def q_sample(
        self,
        x_0: Float[Tensor, "*sample"],
        t: int | Int[Tensor, "*time"],
        noise: Float[Tensor, "*sample"],
    ) -> Float[Tensor, "*sample"]:
        """Draws x_t ~ q(x_t | x_0) with the given standard normal ``noise`` (DDPM, Eq. (4))."""
        return (self.signal(t, x_0) * x_0 + self.sigma(t, x_0) * noise).to(x_0.dtype)

    def to_x0(
        self,
        model_output: Float[Tensor, "*sample"],
        x_t: Float[Tensor, "*sample"],
        t: int | Int[Tensor, "*time"],
        prediction_type: PredictionType = "epsilon",
    ) -> Float[Tensor, "*sample"]:
        """The clean sample that ``model_output`` implies, in the precision of ``x_t``.

        Raises:
            ValueError: If ``prediction_type`` is unknown.
        """
        _check_prediction_type(prediction_type)
        if prediction_type == "epsilon":
            x_0 = (x_t - self.sigma(t, x_t) * model_output) / self.signal(t, x_t)
        elif prediction_type == "sample":
            x_0 = model_output
        else:
            x_0 = self.signal(t, x_t) * x_t - self.sigma(t, x_t) * model_output
        return x_0.to(x_t.dtype)

    def to_noise(
        self,
        model_output: Float[Tensor, "*sample"],
        x_t: Float[Tensor, "*sample"],
        t: int | Int[Tensor, "*time"],
        prediction_type: PredictionType = "epsilon",
    ) -> Float[Tensor, "*sample"]:
        """The noise that ``model_output`` implies, in the precision of ``x_t``.

        From a predicted sample this divides by sigma_t: not finite at ``t = -1``, where there is no noise to find.

        Raises:
            ValueError: If ``prediction_type`` is unknown.
        """
        _check_prediction_type(prediction_type)
        if prediction_type == "epsilon":
            noise = model_output
        elif prediction_type == "sample":
            noise = (x_t - self.signal(t, x_t) * model_output) / self.sigma(t, x_t)
        else:
            noise = self.signal(t, x_t) * model_output + self.sigma(t, x_t) * x_t
        return noise.to(x_t.dtype)

    def to_v(
        self,
        model_output: Float[Tensor, "*sample"],
        x_t: Float[Tensor, "*sample"],
        t: int | Int[Tensor, "*time"],
        prediction_type: PredictionType = "epsilon",
    ) -> Float[Tensor, "*sample"]:
        """The velocity v = sqrt(alpha-bar_t) noise - sigma_t x_0 that ``model_output`` implies.

        Raises:
            ValueError: If ``prediction_type`` is unknown.

        References:
            Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models, Appendix D.
        """
        _check_prediction_type(prediction_type)
        if prediction_type == "epsilon":
            v = (model_output - self.sigma(t, x_t) * x_t) / self.signal(t, x_t)
        elif prediction_type == "sample":
            v = (self.signal(t, x_t) * x_t - model_output) / self.sigma(t, x_t)
        else:
            v = model_output
        return v.to(x_t.dtype)


def working_dtype(sample: Float[Tensor, "*sample"]) -> torch.dtype:
    """The sample's own dtype, but float32 for 16-bit samples: schedule arithmetic is never done in fewer bits."""
    return torch.promote_types(sample.dtype, torch.float32)


def expand_to(values: Float[Tensor, "*time"], sample: Float[Tensor, "*sample"]) -> Tensor:
    """Appends singleton dimensions to ``values`` so that they broadcast against ``sample``, dimension by dimension.

    A 0-dim value is expanded as well: left alone it would not take part in type promotion, and products with a 16-bit
    sample would be rounded to 16 bits.

    Raises:
        ValueError: If ``values`` does not index leading dimensions of ``sample``.
    """
    fits = values.ndim <= sample.ndim and all(
        n in (1, size) for n, size in zip(values.shape, sample.shape[: values.ndim], strict=True)
    )
    if not fits:
        raise ValueError(
            f"t of shape {tuple(values.shape)} does not index the leading dimensions of a sample of shape "
            f"{tuple(sample.shape)}"
        )
    return values.reshape(values.shape + (1,) * (sample.ndim - values.ndim))


def _check_num_train_timesteps(num_train_timesteps: int) -> None:
    if num_train_timesteps < 1:
        raise ValueError(f"num_train_timesteps must be at least 1, got {num_train_timesteps}")


def _check_prediction_type(prediction_type: str) -> None:
    if prediction_type not in get_args(PredictionType):
        raise ValueError(f"unknown prediction_type {prediction_type!r}, expected one of {get_args(PredictionType)}")
