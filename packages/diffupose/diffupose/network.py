"""The graph-convolution denoiser of DiffuPose: noise in 3D joints, given their 2D keypoints (Secs. 3.2, 3.3).

Inside, features are joint-major, ``(joints, batch, channels)``: the product with the affinity matrix is then one matrix
product for the whole batch.
"""

from collections.abc import Callable
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from posecore.body.skeletons import JointSet, get_joint_set
from posecore.diffusion.embedding import sinusoidal_embedding
from posecore.diffusion.packed_linear import packed_linear

TimeBlocks = Literal["after", "between"]
"""Where the timestep enters: ``after`` all graph convolutions (release), or ``between`` the residual blocks (paper)."""

Prepared = Callable[[Tensor, Tensor, int], Tensor]
"""``(x_t, keypoints, i) -> (batch, joints, 5)``: a denoiser prepared for a list of timesteps, at its i-th one."""
_Part = Callable[[Tensor], Tensor]


def skeleton_affinity(joint_set: JointSet) -> Float[Tensor, "joints joints"]:
    """``A`` of Eq. (6) as the release has it: neighbours share weight 1 in each row, and each joint has 1 for itself.

    Deviation: not symmetric, as the paper's normalised A is; the layers symmetrise the sum of it and their offset.
    """
    affinity = torch.zeros(joint_set.num_joints, joint_set.num_joints)
    for a, b in joint_set.bones:
        affinity[a, b] = affinity[b, a] = 1
    affinity = affinity / affinity.sum(dim=1, keepdim=True).clamp(min=1)
    return affinity + torch.eye(joint_set.num_joints)


class ModulatedGraphConv(nn.Module):
    """Modulated graph convolution, Eq. (7): one weight for a joint itself, one for the others, and per-joint scales.

    ``H' = (A' . I)(M . H W_0) + (A' . (1 - I))(M . H W_1) + b`` with ``A' = sym(A + Q)``.

    =================  =====================================================
    code               paper
    =================  =====================================================
    ``weight``         ``W``, here two of them
    ``modulation``     ``M``: what makes ``W`` the joint-specific ``W'_j``
    ``offset``         ``Q``
    ``affinity``       ``A``
    =================  =====================================================

    Deviation: no multiplicative mask ``P``, as in the release.

    Args:
        in_dim: Channels of the input.
        out_dim: Channels of the output.
        affinity: The skeleton's ``A``.
    """

    skeleton: Tensor

    def __init__(self, in_dim: int, out_dim: int, affinity: Float[Tensor, "joints joints"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, in_dim, out_dim))
        self.modulation = nn.Parameter(torch.ones(len(affinity), out_dim))
        self.offset = nn.Parameter(torch.full_like(affinity, 1e-6))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self.register_buffer("skeleton", affinity, persistent=False)
        nn.init.xavier_uniform_(self.weight[0])
        nn.init.xavier_uniform_(self.weight[1])

    @property
    def affinity(self) -> Float[Tensor, "joints joints"]:
        """``A'``: skeleton plus learned offset, symmetrised."""
        affinity = self.skeleton + self.offset
        return (affinity + affinity.mT) / 2

    def split_affinity(self) -> tuple[Float[Tensor, " joints"], Float[Tensor, "joints joints"]]:
        """``A'`` as its diagonal and the rest."""
        affinity = self.affinity
        own = affinity.diagonal()
        return own, affinity - torch.diag(own)

    def forward(self, h: Float[Tensor, "joints batch in"]) -> Tensor:
        """Returns features ``(joints, batch, out)``."""
        own, others = self.split_affinity()
        scale = self.modulation[:, None]
        neighbours = (h @ self.weight[1]) * scale
        mixed = (others.to(neighbours.dtype) @ neighbours.flatten(1)).view_as(neighbours)
        return (h @ self.weight[0]) * (own[:, None, None] * scale) + mixed + self.bias


class GraphLayer(nn.Module):
    """Graph convolution, batch normalisation over batch and joints, ReLU."""

    def __init__(self, in_dim: int, out_dim: int, affinity: Float[Tensor, "joints joints"]) -> None:
        super().__init__()
        self.conv = ModulatedGraphConv(in_dim, out_dim, affinity)
        self.norm = nn.BatchNorm1d(out_dim)

    def forward(self, h: Float[Tensor, "joints batch in"]) -> Tensor:
        """Returns features ``(joints, batch, out)``."""
        out = self.conv(h)
        return F.relu(self.norm(out.flatten(0, 1)).view_as(out))


class NonLocalBlock(nn.Module):
    """Self-attention over the joints of a pose, unscaled dot product, added to its input.

    Its output starts at zero: the last normalisation's gain does.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.theta, self.phi, self.g = (nn.Linear(dim, dim // 2) for _ in range(3))
        self.out = nn.Linear(dim // 2, dim)
        self.norm = nn.BatchNorm1d(dim)
        nn.init.zeros_(self.norm.weight)

    def forward(self, h: Float[Tensor, "joints batch dim"]) -> Tensor:
        """Returns features of the same shape."""
        out = self.out(_attention(self.theta(h), self.phi(h), self.g(h)))
        return h + cast(Tensor, self.norm(out.flatten(0, 1))).view_as(h)


class TimeBlock(nn.Module):
    """Scales and shifts every channel by the timestep, then SiLU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim // 2, 2 * dim)

    def scale_shift(self, emb: Float[Tensor, "*levels half"]) -> tuple[Tensor, Tensor]:
        """Factor and summand of every channel, ``(*levels, dim)``."""
        scale, shift = self.linear(F.silu(emb)).chunk(2, dim=-1)
        return 1 + scale, shift

    def forward(self, h: Float[Tensor, "joints batch dim"], emb: Float[Tensor, "batch half"]) -> Tensor:
        """Returns features of the same shape."""
        scale, shift = self.scale_shift(emb)
        return F.silu(h * scale + shift)


class TimeEmbedding(nn.Sequential):
    """Sinusoids of the integer timestep, then two linear layers: d/8, d/2, d/2 wide."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Linear(dim // 8, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim // 2))
        self.dim = dim

    def forward(self, t: Int[Tensor, "*levels"]) -> Tensor:
        """Returns ``(*levels, d/2)``."""
        first = cast(nn.Linear, self[0])
        return cast(Tensor, super().forward(sinusoidal_embedding(t, self.dim // 8).to(first.weight.dtype)))  # type: ignore[no-untyped-call]


class GraphDenoiser(nn.Module):
    """``epsilon_theta(x_t, t, y)`` and the reconstruction of ``y``: five channels in, five out (Fig. 3).

    Graph layer 5 -> d; four residual blocks of two graph layers; time block; non-local block; time block; graph
    convolution d -> 5.

    Deviation: by default the timestep enters after all graph layers, as in the release; the paper's text has the time
    blocks between them (``time_blocks="between"``: one after each residual block). The release builds a third time
    block that it never calls; `unused_parameters` counts it, the paper's 1.45 M and 3.22 M include it.

    Args:
        joint_set: Name of the joints of a pose.
        dim: d_m of Table 4; a multiple of 16.
        num_blocks: Residual blocks.
        time_blocks: Where the timestep enters.

    Raises:
        ValueError: ``dim`` is not a multiple of 16, there is no block, or a name is unknown.
    """

    def __init__(
        self, joint_set: str = "h36m16", dim: int = 256, num_blocks: int = 4, time_blocks: TimeBlocks = "after"
    ) -> None:
        super().__init__()
        if dim < 32 or dim % 16:
            raise ValueError(f"dim must be a multiple of 16 and at least 32, got {dim}")
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
        if time_blocks not in get_args(TimeBlocks):
            raise ValueError(f"unknown time_blocks {time_blocks!r}, expected one of {get_args(TimeBlocks)}")
        self.joint_set = get_joint_set(joint_set)
        self.dim = dim
        self.where = time_blocks
        affinity = skeleton_affinity(self.joint_set)
        self.input = GraphLayer(5, dim, affinity)
        self.blocks = nn.ModuleList(
            nn.Sequential(GraphLayer(dim, dim, affinity), GraphLayer(dim, dim, affinity)) for _ in range(num_blocks)
        )
        self.non_local = NonLocalBlock(dim)
        self.output = ModulatedGraphConv(dim, 5, affinity)
        self.time_embedding = TimeEmbedding(dim)
        self.time_blocks = nn.ModuleList(TimeBlock(dim) for _ in range(num_blocks if time_blocks == "between" else 2))

    @property
    def unused_parameters(self) -> int:
        """Parameters of the release's third time block, which is in the paper's counts and does nothing."""
        return 0 if self.where == "between" else (self.dim // 2 + 1) * 2 * self.dim

    def forward(
        self,
        x_t: Float[Tensor, "batch joints 3"],
        keypoints: Float[Tensor, "batch joints 2"],
        t: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch joints 5"]:
        """Estimates the noise in ``x_t`` (first three channels) and reconstructs the keypoints (last two).

        Args:
            x_t: Noisy joints, metres before the noise, relative to the root.
            keypoints: ``y``, in the network's coordinates.
            t: Timesteps 0..T-1.
        """
        emb = self.time_embedding(t)
        h = torch.cat((x_t, keypoints), dim=-1).transpose(0, 1)
        parts: list[_Part] = [self.input, *(layer for block in self.blocks for layer in cast(nn.Sequential, block))]
        times: list[_Part] = [lambda h, block=block: block(h, emb) for block in self.time_blocks]  # type: ignore[misc]
        return self._trunk(h, parts, times, self.non_local, self.output)

    def prepare(self, levels: Int[Tensor, " levels"]) -> Prepared:
        """The network for inference at a fixed list of timesteps: the same values, faster.

        Scales and shifts of the time blocks are computed once for all timesteps, batch normalisation is folded into
        the graph convolutions, and on a CPU weights are packed for oneDNN. Weights changed afterwards are not seen.

        Args:
            levels: The timesteps.

        Raises:
            RuntimeError: The network is in training mode, where batch normalisation cannot be folded.
        """
        if self.training:
            raise RuntimeError("prepare: the network is in training mode; call eval() first")
        with torch.no_grad():
            emb = self.time_embedding(levels)
            tables = [cast(TimeBlock, block).scale_shift(emb) for block in self.time_blocks]
            layers = [self.input, *(layer for block in self.blocks for layer in cast(nn.Sequential, block))]
            parts = [_folded_layer(cast(GraphLayer, layer)) for layer in layers]
            non_local = _folded_non_local(self.non_local)
            output = _folded_conv(self.output, torch.ones_like(self.output.bias), torch.zeros_like(self.output.bias))

        def denoise(x_t: Tensor, keypoints: Tensor, i: int) -> Tensor:
            h = torch.cat((x_t, keypoints), dim=-1).transpose(0, 1).contiguous()

            def at(scale: Tensor, shift: Tensor) -> _Part:
                return lambda h: F.silu(torch.addcmul(shift[i], h, scale[i]), inplace=True)

            times = [at(*table) for table in tables]
            return self._trunk(h, parts, times, non_local, output)

        return denoise

    def _trunk(
        self, h: Tensor, layers: list[_Part], times: list[_Part], non_local: _Part, output: _Part
    ) -> Float[Tensor, "batch joints 5"]:
        """Fig. 3, whichever way its parts are computed."""
        h = layers[0](h)
        for number, (one, two) in enumerate(zip(layers[1::2], layers[2::2], strict=True)):
            h = h + two(one(h))
            if self.where == "between":
                h = times[number](h)
        h = non_local(h) if self.where == "between" else times[1](non_local(times[0](h)))
        return output(h).transpose(0, 1)


def _attention(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """Joint-major ``(joints, batch, half)`` features after attention over joints; the dot product is not scaled."""
    weight = torch.softmax(theta.transpose(0, 1) @ phi.permute(1, 2, 0), dim=-1)
    return (weight @ g.transpose(0, 1)).transpose(0, 1)


def _norm_factors(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Factor and summand of every channel that batch normalisation in eval mode amounts to."""
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    factor = norm.weight / (var + norm.eps).sqrt()
    return factor, norm.bias - mean * factor


def _folded_conv(conv: ModulatedGraphConv, factor: Tensor, summand: Tensor) -> _Part:
    """``factor * conv(h) + summand``: the factor commutes with the mixing of joints, so it goes into the modulation."""
    own, others = conv.split_affinity()
    modulation = (conv.modulation * factor)[:, None]
    own_modulation = own[:, None, None] * modulation
    bias = (conv.bias * factor + summand).detach()
    to_self, to_others = (packed_linear(conv.weight[i].mT.contiguous()) for i in range(2))

    def run(h: Tensor) -> Tensor:
        neighbours = to_others(h, None).mul_(modulation)
        mine = torch.addcmul(bias, to_self(h, None), own_modulation)
        return torch.addmm(mine.flatten(1), others, neighbours.flatten(1)).view_as(mine)

    return run


def _folded_layer(layer: GraphLayer) -> _Part:
    conv = _folded_conv(layer.conv, *_norm_factors(layer.norm))
    return lambda h: conv(h).relu_()


def _folded_non_local(block: NonLocalBlock) -> _Part:
    factor, summand = _norm_factors(block.norm)
    project_in = packed_linear(torch.cat([linear.weight for linear in (block.theta, block.phi, block.g)]))
    bias_in = torch.cat([linear.bias for linear in (block.theta, block.phi, block.g)])
    project_out = packed_linear(block.out.weight * factor[:, None])
    bias_out = block.out.bias * factor + summand

    def run(h: Tensor) -> Tensor:
        attended = _attention(*project_in(h, bias_in).chunk(3, dim=-1))
        return h + project_out(attended.contiguous(), bias_out)

    return run
