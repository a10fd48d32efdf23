"""Sinusoidal embedding of a time label."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.diffusion.schedule import working_dtype


def sinusoidal_embedding(
    t: Float[Tensor, "*batch"] | Int[Tensor, "*batch"],
    dim: int,
    max_period: float = 10000.0,
    *,
    order: Literal["sin_cos", "cos_sin"] = "sin_cos",
    divisor: Literal["half", "half_minus_one"] = "half_minus_one",
) -> Float[Tensor, "*batch {dim}"]:
    """Sines and cosines of ``t`` at geometrically spaced frequencies ``max_period ** (-i / divisor)``.

    Args:
        t: Time labels, integer or fractional (a continuous time is usually scaled first, e.g. ``t * 999``).
        dim: Length of the embedding, at least 4; an odd one ends in a zero.
        max_period: Inverse of the lowest frequency, in labels per radian.
        order: Which half comes first.
        divisor: ``half_minus_one`` (tensor2tensor, Ho et al.) reaches the lowest frequency exactly; ``half``
            (Nichol and Dhariwal) stops one step before.

    Returns:
        float32, or float64 for float64 labels: 16 bits cannot tell 999 from 1000.

    Raises:
        ValueError: If ``dim`` is below 4, or ``order`` or ``divisor`` is unknown.

    References:
        Vaswani et al., Attention Is All You Need, Sec. 3.5.
    """
    if dim < 4:
        raise ValueError(f"dim must be at least 4, got {dim}")
    if order not in ("sin_cos", "cos_sin"):
        raise ValueError(f"unknown order {order!r}, expected 'sin_cos' or 'cos_sin'")
    if divisor not in ("half", "half_minus_one"):
        raise ValueError(f"unknown divisor {divisor!r}, expected 'half' or 'half_minus_one'")
    half = dim // 2
    labels = t.to(working_dtype(t)) if t.is_floating_point() else t.to(torch.float32)
    exponent = torch.arange(half, dtype=labels.dtype, device=labels.device) / (half - (divisor == "half_minus_one"))
    angle = labels[..., None] * torch.exp(-math.log(max_period) * exponent)
    parts = [angle.sin(), angle.cos()] if order == "sin_cos" else [angle.cos(), angle.sin()]
    if dim % 2:
        parts.append(torch.zeros_like(angle[..., :1]))
    return torch.cat(parts, dim=-1)
