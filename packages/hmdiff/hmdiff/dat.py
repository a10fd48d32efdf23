"""The Distribution Alignment Technique: how far a mesh is from the prior U, and when and how it is moved (Sec. 4.2)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Alignment:
    """Settings of DAT, of the variants that Tables 4 and 5 compare it with, and of what the paper leaves open.

    Attributes:
        of: What is drawn to U: ``"estimate"`` the estimate h_0 of step k, through which the gradient goes back to h_k
            (DAT); ``"sample"`` h_k itself ("Disrupted"); ``"nothing"``, the standard diffusion process.
        gamma: The gradient's coefficient.
        threshold: r: below this share of the gap at the start, DAT is over for a sample.
        activation: Whether it ever is ("w/o AS" has it on throughout).
        poses: What U is compared by: N samples, or the one pose u_c that is detected in the heatmaps.
        num_poses: N.
        start: What the gap D_K at the start is measured of. Sec. 4.2 says "between U and h_K": ``"noise"``. Algorithm 1
            computes it of the first estimate: ``"estimate"``, which a good model begins so close to U that it hardly
            shrinks any more, and a bad one so far from it that DAT is over at once.
        max_shift: Bound on what the gradient moves h_{k-1} by, as a root mean square over its coordinates, by the
            standard deviation of the noise that h_{k-1} has.
            Deviation: the paper has no bound. Through 1/sqrt(alpha_k), some 180 at k = K, an error of g makes the
            gradient there as large as it likes. A sample moved by a small share of its own noise still belongs to
            H_{k-1}, which is what the paper asks of DAT.

    Raises:
        ValueError: An option is unknown or out of range.
    """

    of: Literal["estimate", "sample", "nothing"] = "estimate"
    gamma: float = 0.2
    threshold: float = 0.05
    activation: bool = True
    poses: Literal["samples", "mode"] = "samples"
    num_poses: int = 25
    start: Literal["noise", "estimate"] = "noise"
    max_shift: float = 0.1

    def __post_init__(self) -> None:
        for name, choices in (
            ("of", ("estimate", "sample", "nothing")),
            ("poses", ("samples", "mode")),
            ("start", ("noise", "estimate")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"alignment.{name} must be one of {choices}, got {getattr(self, name)!r}")
        for name in ("gamma", "threshold", "max_shift"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"alignment.{name} must be finite and not negative, got {getattr(self, name)}")
        if self.num_poses < 1:
            raise ValueError(f"alignment.num_poses must be at least 1, got {self.num_poses}")


@dataclass(frozen=True)
class Target:
    """N poses of U for each image, as far as the gap needs them: their mean, and their spread about it.

    The sum of Eq. (10) over N poses is N times the squared distance to their mean, plus what they differ from it; its
    gradient knows the mean alone.

    Attributes:
        mean: Metres, camera axes, relative to the root.
        spread: Sum of the squared distances of the poses to the mean, square metres.
        count: N.
    """

    mean: Float[Tensor, "images joints 3"]
    spread: Float[Tensor, " images"]
    count: int

    @classmethod
    def of_poses(cls, poses: Float[Tensor, "images n joints 3"], count: int | None = None) -> "Target":
        """From the poses u_i.

        Args:
            poses: Metres, camera axes, relative to the root.
            count: How often a single pose counts, so that gamma means the same as for N of them; their number where
                None.
        """
        mean = poses.mean(dim=1)
        return cls(mean, (poses - mean[:, None]).square().sum(dim=(1, 2, 3)), count or poses.shape[1])

    def take(self, images: slice) -> "Target":
        """Some of the images."""
        return Target(self.mean[images], self.spread[images], self.count)

    def gap(self, joints: Float[Tensor, "images samples joints 3"]) -> Float[Tensor, "images samples"]:
        """D_k of Eq. (10), square metres."""
        squared: Tensor = (joints - self.mean[:, None]).square().sum(dim=(-2, -1))
        return self.count * squared + self.spread[:, None]


def bounded(
    shift: Float[Tensor, "images samples vertices 3"], limit: Float[Tensor, ""] | float
) -> Float[Tensor, "images samples vertices 3"]:
    """The shift, made smaller where its root mean square is above the limit; what is no number moves nothing."""
    shift = torch.nan_to_num(shift, nan=0.0, posinf=0.0, neginf=0.0)
    size = shift.square().mean(dim=(-2, -1), keepdim=True).sqrt()
    return shift * (limit / size.clamp_min(1e-12)).clamp_max(1.0)


def still_active(
    active: Bool[Tensor, "images samples"],
    gap: Float[Tensor, "images samples"],
    first_gap: Float[Tensor, "images samples"],
    settings: Alignment,
) -> Bool[Tensor, "images samples"]:
    """The activation strategy: a sample whose relative gap R_k = D_k / D_K was below r once is left alone for good."""
    if not settings.activation:
        return active
    return active & (gap >= settings.threshold * first_gap)
