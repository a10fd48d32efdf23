"""Diff-HMR's networks: the 1D U-Net that predicts the noise, and the regressor of shape and camera (Sec. 3.2).

References:
    Cho and Kim, Generative Approach for Probabilistic Human Mesh Recovery using Diffusion Models, ICCVW 2023.
    Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffhmr.blocks import CrossAttention, Level, ResidualBlock, SequenceConv
from posecore.diffusion.embedding import sinusoidal_embedding
from posecore.geometry.precision import full_precision

Conditioning = Literal["concat", "cross_attention"]
"""How z enters: joined to the pose and to the timestep, or attended to at every level."""


@dataclass(frozen=True)
class Prepared:
    """What the U-Net needs of the images, computed once for all timesteps and hypotheses.

    Rows of the U-Net are ordered by image: the first ``num_hypotheses`` belong to the first image.

    Attributes:
        stem: The images' share of the first convolution's output, by ``concat``.
        modulation: Their share of the scale and shift of all blocks, by ``concat``.
        keys_values: Keys and values of the grid's cells for each cross-attention, by ``cross_attention``.
        num_hypotheses: Rows of each image.
    """

    stem: Float[Tensor, "images length dim"] | None = None
    modulation: Float[Tensor, "images modulation"] | None = None
    keys_values: tuple[Float[Tensor, "images cells inner"], ...] = ()
    num_hypotheses: int = 1

    @property
    def num_images(self) -> int:
        """How many images there are."""
        return (self.keys_values[0] if self.stem is None else self.stem).shape[0]  # len() would fix it in an export

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return (self.keys_values[0] if self.stem is None else self.stem).device

    def __len__(self) -> int:
        """Rows, of all images together."""
        return self.num_images * self.num_hypotheses

    def repeat(self, num_hypotheses: int) -> "Prepared":
        """The same images with this many rows each; nothing is copied."""
        return replace(self, num_hypotheses=num_hypotheses)

    def take(self, images: slice | Int[Tensor, " taken"]) -> "Prepared":
        """Some of the images."""
        return replace(
            self,
            stem=None if self.stem is None else self.stem[images],
            modulation=None if self.modulation is None else self.modulation[images],
            keys_values=tuple(share[images] for share in self.keys_values),
        )


class UNet1D(nn.Module):
    """f_omega(theta_t, t, z): the noise in a pose, whose joints are a sequence and whose numbers are channels.

    Per level two residual blocks and linear attention, down and up; the sequence is halved between levels
    (24, 12, 6, 3); full attention in the middle. With the default widths 14,864,646 parameters, those of the condition
    apart.

    Deviation: the paper says "1D U-Net" that knows t and z, and no more. This is the usual one of its time. By
    ``concat``, a vector for each joint, made from the whole grid, joins the joint's numbers at the stem, and the pooled
    features join the timestep's embedding; the layers that see both are sums, of which ``prepare`` computes the image's
    share once. By ``cross_attention``, the tokens of every level attend to the cells.

    The last layer starts as any other and not at zero: every parameter has a gradient from the first step on.

    ==================  =========================  ==================================
    code                paper                      default
    ==================  =========================  ==================================
    ``x``, ``t``        theta^(t), t               24 joints of 6 numbers, 0..T-1
    ``z``               z                          2048 channels of 7 x 7 cells
    ``dim``             (not in the paper)         64
    ``mults``           (not in the paper)         64 at the stem, then 64, 128, 256, 512
    ==================  =========================  ==================================

    Args:
        cond_dim: Channels of z.
        cond_grid: Cells of z, height times width.
        channels: Numbers per joint.
        length: Joints; a multiple of 2 for every halving.
        dim: Width of the stem, a multiple of 8.
        mults: Widths to which the levels lead, in units of ``dim``.
        conditioning: How z enters.
        cond_channels: Width to which z's channels, and then its cells, are brought.
    """

    def __init__(
        self,
        cond_dim: int = 2048,
        cond_grid: int = 49,
        channels: int = 6,
        length: int = 24,
        dim: int = 64,
        mults: Sequence[int] = (1, 2, 4, 8),
        conditioning: Conditioning = "concat",
        cond_channels: int = 64,
    ) -> None:
        super().__init__()
        if dim < 8 or dim % 8:
            raise ValueError(f"dim must be a positive multiple of 8, got {dim}")
        if not mults or min(mults) < 1:
            raise ValueError(f"mults must be positive numbers, at least one, got {mults}")
        if length < 1 or length % 2 ** (len(mults) - 1):
            raise ValueError(
                f"length must be a multiple of {2 ** (len(mults) - 1)}, to be halved between {len(mults)} levels, "
                f"got {length}"
            )
        if conditioning not in get_args(Conditioning):
            raise ValueError(f"conditioning must be one of {get_args(Conditioning)}, got {conditioning!r}")
        self.dim, self.length, self.channels = dim, length, channels
        self.cond_dim, self.cond_grid, self.conditioning = cond_dim, cond_grid, conditioning
        time_dim = 4 * dim
        self.time = nn.Sequential(nn.Linear(dim, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim))
        self.stem = SequenceConv(channels, dim, taps=7)

        steps = list(pairwise([dim, *(dim * mult for mult in mults)]))
        widest = steps[-1][1]
        self.down = nn.ModuleList(Level(narrow) for narrow, _ in steps)
        self.shrink = nn.ModuleList(SequenceConv(*step, taps=4, stride=2) for step in steps[:-1])
        self.shrink.append(SequenceConv(*steps[-1]))
        self.middle = Level(widest, linear=False)
        self.up = nn.ModuleList(Level(wide, skip_dim=narrow) for narrow, wide in reversed(steps))
        self.grow = nn.ModuleList(SequenceConv(wide, narrow) for narrow, wide in reversed(steps))
        self.last = ResidualBlock(2 * dim, dim)
        self.output = nn.Linear(dim, channels)
        levels = cast(list[Level], [*self.down, self.middle, *self.up])
        blocks = [block for level in levels for block in (level.first, level.second)] + [self.last]
        self._modulation_dims = [2 * block.out_dim for block in blocks]
        self.modulation = nn.Linear(time_dim, sum(self._modulation_dims))

        self.cond_cells = nn.Conv2d(cond_dim, cond_channels, 1)
        if conditioning == "concat":
            self.cond_joints = nn.Linear(cond_channels * cond_grid, length * cond_channels)
            self.cond_stem = SequenceConv(cond_channels, dim, taps=7, bias=False)
            self.cond_pooled = nn.Linear(cond_dim, time_dim)
            self.cond_modulation = nn.Linear(time_dim, sum(self._modulation_dims), bias=False)
        else:
            self.cond_position = nn.Parameter(torch.randn(cond_grid, cond_channels))
            self.cond_attention = nn.ModuleList(CrossAttention(level.dim, cond_channels) for level in levels)

    def prepare(self, z: Float[Tensor, "images cond h w"]) -> Prepared:
        """The images' part of the work, which neither the pose nor the timestep takes part in.

        Raises:
            ValueError: z is not of the size that the network was built for.
        """
        if z.shape[1] != self.cond_dim or z.shape[2] * z.shape[3] != self.cond_grid:
            raise ValueError(
                f"z has {z.shape[1]} channels of {z.shape[2]} x {z.shape[3]} cells, but the network was built for "
                f"{self.cond_dim} channels of {self.cond_grid} cells: another backbone or crop size?"
            )
        cells = F.gelu(self.cond_cells(z)).flatten(2)
        if self.conditioning == "cross_attention":
            tokens = cells.mT + self.cond_position
            return Prepared(keys_values=tuple(site.keys_values(tokens) for site in self.cond_attention))  # type: ignore[operator]
        joints = self.cond_joints(cells.flatten(1)).unflatten(1, (self.length, -1))
        pooled = self.cond_pooled(z.mean(dim=(2, 3)))
        return Prepared(stem=self.cond_stem(joints), modulation=self.cond_modulation(F.silu(pooled)))

    def forward(
        self,
        x: Float[Tensor, "rows length channels"],
        t: Int[Tensor, "*rows"],
        prepared: Prepared,
    ) -> Float[Tensor, "rows length channels"]:
        """The predicted noise, in the precision of ``x``.

        Args:
            x: Noisy poses, ordered by image.
            t: A timestep for each row, or one for all (0-dim), whose share is then computed once.
            prepared: The images, of as many rows.

        Raises:
            ValueError: There are more or fewer rows in ``x`` than in ``prepared``.
        """
        if x.shape[0] != prepared.num_images * prepared.num_hypotheses:
            raise ValueError(
                f"x has {len(x)} rows, but prepared stands for {prepared.num_images} images with "
                f"{prepared.num_hypotheses} rows each"
            )
        modulations = iter(self._modulations(t, prepared))
        sites = zip(self.cond_attention, prepared.keys_values, strict=True) if prepared.keys_values else iter(())
        h = self.stem(x)
        if prepared.stem is not None:
            h = (h.unflatten(0, (prepared.num_images, -1)) + prepared.stem[:, None]).flatten(0, 1)
        skips = [h]
        for level, shrink in zip(cast(list[Level], self.down), self.shrink, strict=True):
            h = level.first(h, next(modulations))
            skips.append(h)
            h = _attend(level.attention(level.second(h, next(modulations))), sites)
            skips.append(h)
            h = shrink(h)
        h = _attend(self.middle.attention(self.middle.first(h, next(modulations))), sites)
        h = self.middle.second(h, next(modulations))
        for level, grow in zip(cast(list[Level], self.up), self.grow, strict=True):
            h = level.first(torch.cat((h, skips.pop()), dim=-1), next(modulations))
            h = level.second(torch.cat((h, skips.pop()), dim=-1), next(modulations))
            h = _attend(level.attention(h), sites)
            if h.shape[1] < self.length:
                h = h.repeat_interleave(2, dim=1)
            h = grow(h)
        h = self.last(torch.cat((h, skips.pop()), dim=-1), next(modulations))
        return cast(Tensor, self.output(h).to(x.dtype))

    def _modulations(self, t: Tensor, prepared: Prepared) -> Sequence[Tensor]:
        """Scale and shift of each block, ``(images or 1, hypotheses or 1, 2 dim)``."""
        embedding = self.time(sinusoidal_embedding(t.reshape(-1), self.dim).to(self.output.weight.dtype))
        both = self.modulation(F.silu(embedding))
        both = both[None] if t.ndim == 0 else both.unflatten(0, (prepared.num_images, -1))
        if prepared.modulation is not None:
            both = both + prepared.modulation[:, None]
        return cast(Sequence[Tensor], both.split(self._modulation_dims, dim=-1))


def _attend(h: Tensor, sites: Iterator[tuple[nn.Module, Tensor]]) -> Tensor:
    """The next cross-attention, where there are any."""
    site = next(sites, None)
    return h if site is None else cast(Tensor, site[0](h, site[1]))


@dataclass(frozen=True)
class Regressed:
    """What is regressed from an image, one value each.

    Attributes:
        betas: Shape.
        cam_s_tx_ty: Weak-perspective camera of the crop; the scale is positive.
        pose_rot6d: Pose, in the comparison without diffusion.
    """

    betas: Float[Tensor, "images 10"]
    cam_s_tx_ty: Float[Tensor, "images 3"]
    pose_rot6d: Float[Tensor, "images 24 6"] | None = None


class Regressor(nn.Module):
    """R(z): shape and camera, which the paper leaves deterministic; for the comparison also one pose.

    Deviation: the paper says "MLP-based" and that z is not pooled. The grid's cells, brought to a smaller width, and
    their mean go through two hidden layers: the cells say where things are, which the mean, SPIN's input, does not.

    Args:
        dim: Channels of z.
        grid: Cells of z, height times width.
        hidden_dim: Width.
        cell_dim: Width to which each cell is brought.
        with_pose: Whether a pose is regressed too.
        dropout: Share of hidden numbers that training leaves out; SPIN's is 0.5.
    """

    def __init__(
        self,
        dim: int = 2048,
        grid: int = 49,
        hidden_dim: int = 1024,
        cell_dim: int = 64,
        with_pose: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.cells = nn.Conv2d(dim, cell_dim, 1)
        self.hidden = nn.Sequential(
            *(nn.Linear(dim + cell_dim * grid, hidden_dim), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(hidden_dim, hidden_dim), nn.ReLU(), nn.Dropout(dropout)),
        )
        self.betas, self.camera = nn.Linear(hidden_dim, 10), nn.Linear(hidden_dim, 3)
        self.pose = nn.Linear(hidden_dim, 24 * 6) if with_pose else None
        for head in (self.betas, self.camera, self.pose):
            if head is not None:
                nn.init.xavier_uniform_(head.weight, gain=0.01)
                nn.init.zeros_(head.bias)
        with torch.no_grad():
            self.camera.bias[0] = math.log(math.expm1(0.9))  # of which the softplus is 0.9, SPIN's mean scale
            if self.pose is not None:
                self.pose.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(24))  # identities

    @full_precision  # 16 bits would move a person 5 m away by centimetres
    def forward(self, z: Float[Tensor, "images dim h w"]) -> Regressed:
        """From all cells of z."""
        cells = F.gelu(self.cells(z)).flatten(1)
        hidden = self.hidden(torch.cat((z.mean(dim=(2, 3)), cells), dim=1))
        raw = self.camera(hidden)
        camera = torch.cat((F.softplus(raw[:, :1]), raw[:, 1:]), dim=-1)
        pose = None if self.pose is None else self.pose(hidden).unflatten(-1, (24, 6))
        return Regressed(self.betas(hidden), camera, pose)
