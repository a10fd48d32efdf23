"""The pose prior of ZeDO: a fully connected network over a whole pose, conditioned on the noise level only.

The paper gives no layer list; the layout is GFPose's unconditional one, which ZeDO inherits (method card, "Network").
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from posecore.diffusion.embedding import sinusoidal_embedding
from posecore.diffusion.packed_linear import packed_linear

NUM_GROUPS = 32


class TimePath(NamedTuple):
    """What the noise level adds to each of the five hidden layers; it depends on the level alone.

    Attributes:
        biases: One row per noise level: ``(*levels, 5, hidden_dim)``. The layers' own biases are included.
    """

    biases: Float[Tensor, "*levels 5 hidden"]


class ScoreNetwork(nn.Module):
    """Noise estimate for a noisy root-relative pose.

    The network is trained so that its output is the noise ``z`` in ``x(t) = m(t) x(0) + std(t) z``; the score of
    Eq. (2) is ``-output / std(t)``. It never sees 2D keypoints or a camera.

    Five hidden layers, the last four in two residual blocks; each is
    ``Dropout(SiLU(GroupNorm(Linear(h) + Linear(time))))``.

    ============  ==================================
    code          paper
    ============  ==================================
    ``x_t``       ``x(t)``, Eq. (1)
    ``-out/std``  ``s_theta(x(t), t)``, Eq. (2)-(3)
    ============  ==================================

    Args:
        num_joints: Joints of a pose, 17 for Human3.6M's set.
        hidden_dim: Width of the hidden layers.
        embed_dim: Width of the time embedding; even.
        dropout: Dropout after every hidden layer. Deviation: the paper is silent; 0.25 is what was trained.

    Raises:
        ValueError: ``hidden_dim`` is not a multiple of 32 (group normalisation) or ``embed_dim`` is odd.
    """

    def __init__(
        self, num_joints: int = 17, hidden_dim: int = 1024, embed_dim: int = 512, dropout: float = 0.25
    ) -> None:
        super().__init__()
        if hidden_dim % NUM_GROUPS:
            raise ValueError(f"hidden_dim must be a multiple of {NUM_GROUPS} (group normalisation), got {hidden_dim}")
        if embed_dim % 2:
            raise ValueError(f"embed_dim must be even (sine and cosine halves), got {embed_dim}")
        self.num_joints = num_joints
        self.hidden_dim = hidden_dim
        self.embed_dim = embed_dim
        self.time_embed = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.SiLU())
        dims = [num_joints * 3] + [hidden_dim] * 5
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))
        self.time_layers = nn.ModuleList(nn.Linear(embed_dim, hidden_dim) for _ in range(5))
        self.norms = nn.ModuleList(nn.GroupNorm(NUM_GROUPS, hidden_dim) for _ in range(5))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_dim, num_joints * 3)

    def forward(self, x_t: Float[Tensor, "*batch joints 3"], label: Float[Tensor, "*#batch"]) -> Tensor:
        """Estimates the noise in ``x_t``.

        Args:
            x_t: Noisy poses, metres, relative to the pelvis, in a camera's frame.
            label: Noise level as the network was trained with it: ``999 t`` for the continuous SDE, the integer step
                as a float for a discrete schedule. One per pose, or one for all.

        Returns:
            Noise estimate, ``(*batch, joints, 3)``.
        """
        emb = self.time_embed(sinusoidal_embedding(label, self.embed_dim).to(self.head.weight.dtype))
        steps = [
            lambda h, layer=layer, time_layer=time_layer: layer(h) + time_layer(emb)
            for layer, time_layer in zip(self.layers, self.time_layers, strict=True)
        ]
        return self._trunk(x_t, [*steps, self.head])

    def time_path(self, label: Float[Tensor, "*levels"]) -> TimePath:
        """Computes once what a fixed list of noise levels adds to the hidden layers (40 % of the network's work)."""
        emb = self.time_embed(sinusoidal_embedding(label, self.embed_dim).to(self.head.weight.dtype))
        rows = [time_layer(emb) + layer.bias for time_layer, layer in zip(self.time_layers, self.layers, strict=True)]
        return TimePath(torch.stack(rows, dim=-2))

    def frozen(
        self, labels: Float[Tensor, " levels"]
    ) -> Callable[[Float[Tensor, "batch joints 3"], int], Float[Tensor, "batch joints 3"]]:
        """Prepares inference over a fixed list of noise levels: ``denoise(x_t, i)`` equals ``self(x_t, labels[i])``.

        The time path is computed once for all levels; on a CPU the weights are packed for oneDNN, whose float32
        product is more than twice as fast as the default one. Weights changed afterwards are not seen.

        Args:
            labels: The noise levels, as in `forward`.

        Returns:
            A function of the noisy poses (of any precision; the network works in that of ``labels``) and the index of
            the level.
        """
        biases = self.time_path(labels).biases.unbind(-2)
        products = [packed_linear(layer.weight) for layer in (*self.layers, self.head)]

        def denoise(x_t: Float[Tensor, "batch joints 3"], i: int) -> Float[Tensor, "batch joints 3"]:
            steps = [
                lambda h, product=product, bias=bias: product(h, bias[i])
                for product, bias in zip(products[:-1], biases, strict=True)
            ]
            noise = self._trunk(x_t.to(labels.dtype), [*steps, lambda h: products[-1](h, self.head.bias)])
            return noise.to(x_t.dtype)

        return denoise

    def _trunk(self, x_t: Tensor, layers: list[Callable[[Tensor], Tensor]]) -> Tensor:
        """From the flattened pose to the noise estimate; a layer adds what the noise level contributes itself."""

        def hidden(i: int, h: Tensor) -> Tensor:
            norm = cast(nn.GroupNorm, self.norms[i])
            pre = layers[i](h)
            normed = F.group_norm(pre.reshape(-1, self.hidden_dim), NUM_GROUPS, norm.weight, norm.bias).view_as(pre)
            return cast(Tensor, self.dropout(F.silu(normed)))

        h = hidden(0, x_t.flatten(-2))
        h = h + hidden(2, hidden(1, h))
        h = h + hidden(4, hidden(3, h))
        return layers[5](h).reshape(*h.shape[:-1], self.num_joints, 3)
