"""Building blocks of the 1D U-Net, over tokens: ``(rows, length, dim)``, the sequence before the channels.

Sequences of 24 tokens and less are too short for ``nn.Conv1d`` to be fast; a convolution is one matrix product here.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

NUM_GROUPS = 8
NUM_HEADS, HEAD_DIM = 4, 32
INNER_DIM = NUM_HEADS * HEAD_DIM


class SequenceConv(nn.Module):
    """``nn.Conv1d`` over tokens, with zeros around the sequence.

    Args:
        in_dim: Channels in.
        out_dim: Channels out.
        taps: Size of the kernel.
        stride: Tokens from one window to the next.
        bias: Whether a constant is added.
    """

    def __init__(self, in_dim: int, out_dim: int, taps: int = 3, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.taps, self.stride = taps, stride
        self.linear = nn.Linear(taps * in_dim, out_dim, bias)

    def forward(self, h: Float[Tensor, "rows length in"]) -> Float[Tensor, "rows shorter out"]:
        """As many tokens as ``length // stride``."""
        around = (self.taps - 1) // 2
        padded, span = F.pad(h, (0, 0, around, around)), h.shape[1] // self.stride * self.stride
        windows = torch.cat([padded[:, tap : tap + span : self.stride] for tap in range(self.taps)], dim=-1)
        return cast(Tensor, self.linear(windows))


class TokenGroupNorm(nn.GroupNorm):
    """Group norm over tokens and the channels of a group."""

    def forward(self, h: Float[Tensor, "rows length dim"]) -> Float[Tensor, "rows length dim"]:
        """Normalised; PyTorch reads the tokens as a picture with its channels last, without a copy."""
        return super().forward(h.mT[..., None])[..., 0].mT


class ResidualBlock(nn.Module):
    """Two convolutions, each followed by group norm and SiLU; scale and shift act after the first norm.

    Args:
        in_dim: Channels in.
        out_dim: Channels out, a multiple of 8.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.conv1, self.norm1 = SequenceConv(in_dim, out_dim), TokenGroupNorm(NUM_GROUPS, out_dim)
        self.conv2, self.norm2 = SequenceConv(out_dim, out_dim), TokenGroupNorm(NUM_GROUPS, out_dim)
        self.skip = nn.Linear(in_dim, out_dim) if in_dim != out_dim else nn.Identity()

    def forward(
        self, h: Float[Tensor, "rows length in"], modulation: Float[Tensor, "images hypotheses out2"]
    ) -> Float[Tensor, "rows length out"]:
        """Rows of one image have one modulation each, or one for all of them."""
        scale, shift = modulation[:, :, None].chunk(2, dim=-1)
        inner = self.norm1(self.conv1(h)).unflatten(0, (modulation.shape[0], -1))
        inner = F.silu(torch.addcmul(shift, inner, 1 + scale)).flatten(0, 1)
        return cast(Tensor, self.skip(h) + F.silu(self.norm2(self.conv2(inner))))


class SelfAttention(nn.Module):
    """Attention among the tokens of a sequence, added to it; every token is normalised first.

    Args:
        dim: Channels.
        linear: Whether keys are summarised for all queries at once (Shen et al., Efficient Attention, WACV 2021).
    """

    def __init__(self, dim: int, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.norm = nn.LayerNorm(dim)
        self.queries_keys_values = nn.Linear(dim, 3 * INNER_DIM, bias=False)
        self.output = nn.Linear(INNER_DIM, dim)

    def forward(self, h: Float[Tensor, "rows length dim"]) -> Float[Tensor, "rows length dim"]:
        """``h`` plus what was attended to."""
        joined = self.queries_keys_values(self.norm(h)).unflatten(-1, (3, NUM_HEADS, HEAD_DIM))
        queries, keys, values = joined.permute(2, 0, 3, 1, 4)
        if self.linear:
            summary = keys.softmax(dim=-2).mT @ values
            found = queries.softmax(dim=-1) @ summary
        else:
            found = F.scaled_dot_product_attention(queries, keys, values)
        return cast(Tensor, h + self.output(found.transpose(1, 2).flatten(2)))


class CrossAttention(nn.Module):
    """Attention of the tokens of a sequence to the cells of an image, added to it.

    Args:
        dim: Channels of the sequence.
        cond_dim: Channels of the cells.
    """

    def __init__(self, dim: int, cond_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.queries = nn.Linear(dim, INNER_DIM, bias=False)
        self.keys_values = nn.Linear(cond_dim, 2 * INNER_DIM, bias=False)
        self.output = nn.Linear(INNER_DIM, dim)

    def forward(
        self, h: Float[Tensor, "rows length dim"], keys_values: Float[Tensor, "images cells inner2"]
    ) -> Float[Tensor, "rows length dim"]:
        """``h`` plus what was attended to; the tokens of all rows of an image ask together."""
        queries = self.queries(self.norm(h)).reshape(keys_values.shape[0], -1, NUM_HEADS, HEAD_DIM).transpose(1, 2)
        keys, values = keys_values.unflatten(-1, (2, NUM_HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4).to(queries.dtype)
        found = F.scaled_dot_product_attention(queries, keys, values)
        return cast(Tensor, h + self.output(found.transpose(1, 2).reshape(*h.shape[:2], INNER_DIM)))


class Level(nn.Module):
    """The layers of one resolution; the U-Net says in which order they act.

    Args:
        dim: Channels.
        skip_dim: Channels that are joined to the input of each block.
        linear: Whether attention is linear.
    """

    def __init__(self, dim: int, skip_dim: int = 0, linear: bool = True) -> None:
        super().__init__()
        self.dim = dim
        self.first = ResidualBlock(dim + skip_dim, dim)
        self.second = ResidualBlock(dim + skip_dim, dim)
        self.attention = SelfAttention(dim, linear)
