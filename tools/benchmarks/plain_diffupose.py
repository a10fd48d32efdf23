"""DiffuPose's ancestral sampling written down plainly: formula after formula, nothing computed beforehand."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from diffupose.network import GraphDenoiser, GraphLayer, ModulatedGraphConv, TimeBlock


def plain_diffupose(
    network: GraphDenoiser,
    keypoints: Float[Tensor, "rows joints 2"],
    num_steps: int,
    clip_x0: float,
    generator: torch.Generator,
) -> Float[Tensor, "rows joints 3"]:
    """Algorithm 2 with the cosine schedule of ``num_steps`` steps, for time blocks after the graph layers.

    Args:
        network: Trained denoiser, in eval mode.
        keypoints: In the network's coordinates.
        num_steps: T.
        clip_x0: Bound on the predicted joints.
        generator: Source of the noise, drawn for all rows together.
    """
    f = [math.cos((t / num_steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(num_steps + 1)]  # Eq. (11)
    beta = [min(1 - f[t + 1] / f[t], 0.999) for t in range(num_steps)]
    alpha_bar = [1.0]
    for b in beta:
        alpha_bar.append(alpha_bar[-1] * (1 - b))
    with torch.inference_mode():
        x = torch.randn(*keypoints.shape[:2], 3, generator=generator)
        for t in reversed(range(num_steps)):
            now, before = alpha_bar[t + 1], alpha_bar[t]
            noise = denoise(network, x, keypoints, t)[..., :3]
            x_0 = ((x - math.sqrt(1 - now) * noise) / math.sqrt(now)).clamp(-clip_x0, clip_x0)
            mean = math.sqrt(before) * beta[t] / (1 - now) * x_0 + math.sqrt(1 - beta[t]) * (1 - before) / (1 - now) * x
            z = torch.randn(x.shape, generator=generator)
            x = mean + math.sqrt((1 - before) / (1 - now) * beta[t]) * z  # Eqs. (3), (4)
        x[:, 0] = 0
    return x


def denoise(network: GraphDenoiser, x: Tensor, keypoints: Tensor, t: int) -> Float[Tensor, "rows joints 5"]:
    """Fig. 3, pose by pose in the leading dimension."""
    width = network.dim // 8
    frequency = torch.exp(torch.arange(width // 2) * -(math.log(10000) / (width // 2 - 1)))
    angle = torch.full((len(x), 1), float(t)) * frequency
    emb = network.time_embedding[2](network.time_embedding[1](network.time_embedding[0](
        torch.cat([angle.sin(), angle.cos()], dim=-1))))  # fmt: skip
    h = _layer(network.input, torch.cat([x, keypoints], dim=-1))
    for block in network.blocks:
        h = h + _layer(block[1], _layer(block[0], h))  # type: ignore[index]
    h = _time(network.time_blocks[0], h, emb)  # type: ignore[arg-type]
    block = network.non_local
    weight = torch.softmax(block.theta(h) @ block.phi(h).transpose(1, 2), dim=-1)
    h = h + block.norm(block.out(weight @ block.g(h)).transpose(1, 2)).transpose(1, 2)
    h = _time(network.time_blocks[1], h, emb)  # type: ignore[arg-type]
    return _conv(network.output, h)


def _conv(conv: ModulatedGraphConv, h: Tensor) -> Tensor:
    """Eq. (7) with two weights."""
    affinity = conv.skeleton + conv.offset
    affinity = (affinity + affinity.T) / 2
    identity = torch.eye(len(affinity))
    to_self = (affinity * identity) @ (conv.modulation * (h @ conv.weight[0]))
    to_others = (affinity * (1 - identity)) @ (conv.modulation * (h @ conv.weight[1]))
    return to_self + to_others + conv.bias


def _layer(layer: GraphLayer, h: Tensor) -> Tensor:
    normed: Tensor = layer.norm(_conv(layer.conv, h).transpose(1, 2)).transpose(1, 2)
    return torch.relu(normed)


def _time(block: TimeBlock, h: Tensor, emb: Tensor) -> Tensor:
    scale, shift = block.linear(torch.nn.functional.silu(emb))[:, None].chunk(2, dim=-1)
    return torch.nn.functional.silu(h * (scale + 1) + shift)
