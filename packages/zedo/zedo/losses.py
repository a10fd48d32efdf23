"""The training loss of ZeDO's pose prior."""

from jaxtyping import Float
from torch import Tensor


def denoising_score_matching_loss(
    noise_pred: Float[Tensor, "batch joints 3"], noise: Float[Tensor, "batch joints 3"]
) -> Float[Tensor, ""]:
    """Eq. (3): ``|| std(t) s_theta(x(t), t) + z ||^2``, with ``s_theta = -noise_pred / std(t)``.

    Deviation: the paper writes an expectation without scale; here half the sum over a pose's coordinates, averaged
    over the batch, so that the gradient clipping at norm 1 acts as in the release.

    Args:
        noise_pred: The network's output.
        noise: The standard normal draw ``z`` inside ``x(t)``.

    Returns:
        Scalar loss; the number of coordinates, halved, for a network that outputs zero.
    """
    return 0.5 * (noise_pred - noise).square().sum(dim=(-2, -1)).mean()
