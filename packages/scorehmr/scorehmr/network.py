"""ScoreHMR's denoiser: a residual MLP over SMPL parameters, conditioned on the timestep and one feature vector.

References:
    Stathopoulos, Han and Metaxas, Score-Guided Diffusion for 3D Human Recovery, CVPR 2024, Sec. 4.2.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from posecore.diffusion.embedding import sinusoidal_embedding

POSE_DIM = 144
"""24 rotations, root first, in 6D: the two columns of each matrix one after the other."""


class ResidualBlock(nn.Module):
    """One block: modulation by the timestep, then a hidden layer over [h, c] added to what was modulated.

    Args:
        dim: Length of h.
        cond_dim: Length of the condition c.
        time_dim: Length of the timestep's embedding.
        hidden_dim: Width between the two linear layers.
    """

    def __init__(self, dim: int, cond_dim: int, time_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(time_dim, 2 * dim)
        self.norm_in = nn.LayerNorm(dim + cond_dim)
        self.linear_in = nn.Linear(dim + cond_dim, hidden_dim)
        self.norm_out = nn.LayerNorm(hidden_dim)
        self.linear_out = nn.Linear(hidden_dim, dim)

    def forward(
        self, h: Float[Tensor, "*batch dim"], time: Float[Tensor, "*batch time"], cond: Float[Tensor, "*batch cond"]
    ) -> Float[Tensor, "*batch dim"]:
        """h_t = t_s h + t_b (Sec. 4.2), then h_t + MLP([h_t, c])."""
        # Deviation: the scale is 1 + t_s, as in the release; the paper prints t_s.
        scale, shift = self.modulation(F.silu(time)).chunk(2, dim=-1)
        h = h * (1 + scale) + shift
        hidden = F.gelu(self.linear_in(self.norm_in(torch.cat((h, cond), dim=-1))))
        # The last layer is followed by a GELU too, and the residual is the modulated h: the release's.
        out: Tensor = h + F.gelu(self.linear_out(self.norm_out(hidden)))
        return out


class Denoiser(nn.Module):
    """epsilon_phi(x_t, t, c): the noise in a vector of SMPL parameters.

    ==============  ========================  ==================================
    code            paper                     pose / shape branch
    ==============  ========================  ==================================
    ``dim``         length of theta           144 / 10
    ``num_blocks``  "3 MLP blocks"            3 / 2
    ``hidden_dim``  (not in the paper)        1024 / 1024
    ``time_dim``    (not in the paper)        576 / 40, four times ``dim``
    ``cond_dim``    length of c               3072 with PARE's features / 1536
    ==============  ========================  ==================================

    Args:
        dim: Length of x_t.
        cond_dim: Length of c.
        num_blocks: Number of blocks.
        hidden_dim: Width inside a block.
    """

    def __init__(self, dim: int = POSE_DIM, cond_dim: int = 3072, num_blocks: int = 3, hidden_dim: int = 1024) -> None:
        super().__init__()
        if min(dim, cond_dim, num_blocks, hidden_dim) < 1:
            raise ValueError(
                f"dim, cond_dim, num_blocks and hidden_dim must be positive, got {dim}, {cond_dim}, {num_blocks}, "
                f"{hidden_dim}"
            )
        self.dim = dim
        time_dim = 4 * dim
        self.input = nn.Linear(dim, dim)
        self.time = nn.Sequential(nn.Linear(dim, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim))
        self.blocks = nn.ModuleList(ResidualBlock(dim, cond_dim, time_dim, hidden_dim) for _ in range(num_blocks))
        self.output = nn.Linear(dim, dim)

    def forward(
        self,
        x_t: Float[Tensor, "batch dim"],
        t: Int[Tensor, " batch"],
        cond: Float[Tensor, "batch cond"],
    ) -> Float[Tensor, "batch dim"]:
        """The predicted noise.

        Args:
            x_t: Noisy parameters.
            t: Timesteps, 0..T-1.
            cond: Standardised features.
        """
        time = self.time(sinusoidal_embedding(t, self.dim).to(x_t.dtype))
        h = self.input(x_t)
        for block in self.blocks:
            h = block(h, time, cond)
        noise: Tensor = self.output(h)
        return noise
