"""The baseline of Table 2: a U-Net as the denoiser, which knows the joints as a sequence only."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffupose.network import Prepared
from posecore.body.skeletons import get_joint_set
from posecore.diffusion.embedding import sinusoidal_embedding

NUM_GROUPS = 4


class ResidualBlock(nn.Module):
    """Two convolutions over the sequence of joints; the timestep scales and shifts between them."""

    def __init__(self, in_dim: int, out_dim: int, time_dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(NUM_GROUPS, in_dim), nn.GroupNorm(NUM_GROUPS, out_dim)
        self.conv1, self.conv2 = nn.Conv1d(in_dim, out_dim, 3, padding=1), nn.Conv1d(out_dim, out_dim, 3, padding=1)
        self.time = nn.Linear(time_dim, 2 * out_dim)
        self.skip = nn.Conv1d(in_dim, out_dim, 1) if in_dim != out_dim else nn.Identity()

    def forward(self, h: Float[Tensor, "batch in length"], emb: Float[Tensor, "#batch time"]) -> Tensor:
        """Returns ``(batch, out, length)``."""
        scale, shift = self.time(F.silu(emb))[..., None].chunk(2, dim=1)
        inner = self.norm2(self.conv1(F.silu(self.norm1(h)))) * (1 + scale) + shift
        return cast(Tensor, self.skip(h) + self.conv2(F.silu(inner)))


class UNetDenoiser(nn.Module):
    """Five channels in, five out, like ``GraphDenoiser``, over the joints in the order of their list.

    Deviation: the paper gives the number of its parameters, 2.99 M, and no more. This is DDPM's usual U-Net in one
    dimension, of that size: three levels of two residual blocks down and two up, one block between them, skip
    connections, joints padded to a multiple of four.

    Args:
        joint_set: Name of the joints of a pose.
        dim: Channels of the first level; the next have twice and four times as many.
        time_dim: Width of the time embedding; the default brings the count to 2.99 M.
    """

    def __init__(self, joint_set: str = "h36m16", dim: int = 56, time_dim: int = 198) -> None:
        super().__init__()
        if dim < 32 or dim % NUM_GROUPS:
            raise ValueError(f"dim must be a multiple of {NUM_GROUPS} and at least 32, got {dim}")
        self.joint_set = get_joint_set(joint_set)
        self.padding = -self.joint_set.num_joints % 4
        self.dim = dim
        dims = (dim, 2 * dim, 4 * dim)
        self.time_mlp = nn.Sequential(nn.Linear(dim, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim))
        self.input = nn.Conv1d(5, dim, 3, padding=1)
        self.down = nn.ModuleList()
        width = dim
        for level in dims:
            self.down.append(
                nn.ModuleList([ResidualBlock(width, level, time_dim), ResidualBlock(level, level, time_dim)])
            )
            width = level
        self.middle = ResidualBlock(width, width, time_dim)
        self.up = nn.ModuleList()
        for level in reversed(dims):
            self.up.append(
                nn.ModuleList([ResidualBlock(width + level, level, time_dim), ResidualBlock(level, level, time_dim)])
            )
            width = level
        self.norm = nn.GroupNorm(NUM_GROUPS, dim)
        self.output = nn.Conv1d(dim, 5, 3, padding=1)

    def forward(
        self,
        x_t: Float[Tensor, "batch joints 3"],
        keypoints: Float[Tensor, "batch joints 2"],
        t: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch joints 5"]:
        """As ``GraphDenoiser.forward``."""
        return self._denoise(x_t, keypoints, self._embed(t))

    def prepare(self, levels: Int[Tensor, " levels"]) -> Prepared:
        """Embeddings of the timesteps, computed once; unlike the graph network's, no copy of the weights."""
        emb = self._embed(levels)
        return lambda x_t, keypoints, i: self._denoise(x_t, keypoints, emb[i : i + 1])

    def _embed(self, t: Int[Tensor, " levels"]) -> Tensor:
        return cast(Tensor, self.time_mlp(sinusoidal_embedding(t, self.dim).to(self.input.weight.dtype)))

    def _denoise(self, x_t: Tensor, keypoints: Tensor, emb: Tensor) -> Tensor:
        joints = x_t.shape[1]
        h = self.input(F.pad(torch.cat((x_t, keypoints), dim=-1).mT, (0, self.padding)))
        skips = []
        for number, level in enumerate(self.down):
            if number:
                h = F.avg_pool1d(h, 2)
            for block in cast(nn.ModuleList, level):
                h = block(h, emb)
            skips.append(h)
        h = self.middle(h, emb)
        for number, level in enumerate(self.up):
            if number:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")
            h = torch.cat((h, skips.pop()), dim=1)
            for block in cast(nn.ModuleList, level):
                h = block(h, emb)
        h = self.output(F.silu(self.norm(h)))
        return cast(Tensor, h[..., :joints].mT)
