"""HMDiff written down plainly: one mesh, one step and one pose of U after the other, nothing shared or precomputed.

The equations are the paper's, with the bound and the other choices of `hmdiff.dat`. The image's side of cross-attention
is computed anew for every sample and step, f goes through the full mesh, D_k is a sum over the poses, and its gradient
is computed at all steps.
"""

import math
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Categorical

from hmdiff.dat import Alignment
from hmdiff.mesh import CoarseMesh
from hmdiff.network import STEP_DIM, TOKEN_DIM, CrossAttention, Layer, MeshDenoiser
from hmdiff.pose_distribution import PoseDistribution
from posecore.body.smpl import SMPLLayer
from posecore.data.sample import PoseSample


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax of the scaled products, times the values."""
    return (query @ key.mT / math.sqrt(query.shape[-1])).softmax(dim=-1) @ value


def denoise(
    network: MeshDenoiser,
    h: Float[Tensor, "rows vertices 3"],
    k: Int[Tensor, " rows"],
    f_c: Float[Tensor, "rows dim height width"],
) -> Float[Tensor, "rows vertices 3"]:
    """The network g of rows with an image each: keys and values of the image are made for every row.

    Args:
        network: Sees the image alone, and all vertices see all.
        h: Noisy meshes.
        k: Their steps.
        f_c: Their images' features.
    """
    rows = len(h)
    cells = f_c.flatten(2).mT
    f_i = cells.unflatten(2, (TOKEN_DIM, -1)).mean(dim=-1) if network.project is None else network.project(cells)
    image = network.image_norm(f_i)
    half = STEP_DIM // 2
    angle = k[:, None] * torch.exp(-math.log(10000) / (half - 1) * torch.arange(half))
    step = torch.cat((angle.sin(), angle.cos(), torch.zeros(rows, 1)), dim=1)
    ids = network.id_embedding(torch.arange(network.num_vertices)).expand(rows, -1, -1)
    tokens = torch.cat((ids, step[:, None].expand(-1, network.num_vertices, -1), h), dim=-1)
    for layer in cast(list[Layer], network.layers):
        query, key, value = layer.queries_keys_values(layer.norms[0](tokens)).chunk(3, dim=-1)
        tokens = tokens + layer.self_out(_of_heads(query, key, value, layer.num_heads))
        cross: CrossAttention = layer.cross_attention
        key, value = cross.key_value(image).chunk(2, dim=-1)
        tokens = tokens + cross.out(_of_heads(cross.query(layer.norms[1](tokens)), key, value, cross.num_heads))
        if layer.feed_forward is not None:
            tokens = tokens + layer.feed_forward(layer.norms[2](tokens))
    return cast(Tensor, network.out(network.norm(tokens)))


def _of_heads(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of each head on its share of the channels."""
    shares = zip(*(part.chunk(heads, dim=-1) for part in (query, key, value)), strict=True)
    return torch.cat([attention(*share) for share in shares], dim=-1)


def plain_sample(
    network: MeshDenoiser,
    mesh: CoarseMesh,
    f_c: Float[Tensor, "dim height width"],
    h_K: Float[Tensor, "vertices 3"],
    poses: Float[Tensor, "n joints 3"],
    steps: int,
    clip: float,
    settings: Alignment,
) -> Float[Tensor, "vertices 3"]:
    """Algorithm 1 of one sample, for velocities and the schedule ``linear_200``.

    Args:
        network: The trained g, in eval mode.
        mesh: The coarse mesh.
        f_c: Features of the image.
        h_K: Where the sample begins.
        poses: u_i, metres, relative to the root.
        steps: DDIM's.
        clip: Bound on the estimates' coordinates.
        settings: Of DAT; its gap at the start is that of the noise.
    """
    table = torch.cumprod(1 - torch.linspace(5e-4, 0.1, 200, dtype=torch.float64), dim=0).tolist()
    ks = [round(200 - i * 200 / steps) - 1 for i in range(steps)]
    guided = settings.of != "nothing"
    h, active = h_K, guided
    first_gap = gap_of(full_chain(mesh, h), poses)
    for k, k_prev in zip(ks, [*ks[1:], -1], strict=True):
        alpha, alpha_prev = table[k], table[k_prev] if k_prev >= 0 else 1.0
        with torch.set_grad_enabled(guided):
            h = h.detach().requires_grad_(guided)
            v = denoise(network, h[None], torch.tensor([k]), f_c[None])[0]
            h_0 = (math.sqrt(alpha) * h - math.sqrt(1 - alpha) * v).clamp(-clip, clip)  # Eq. (7)
            gap = gap_of(full_chain(mesh, h_0), poses)
        noise = (h - math.sqrt(alpha) * h_0) / math.sqrt(1 - alpha)
        moved = (math.sqrt(alpha_prev) * h_0 + math.sqrt(1 - alpha_prev) * noise).detach()
        if guided:
            (gradient,) = torch.autograd.grad(gap, h)
            active = active and not (settings.activation and bool(gap < settings.threshold * first_gap))
            if active:
                shift = settings.gamma * gradient
                limit = settings.max_shift * math.sqrt(1 - alpha_prev)
                moved = moved - shift * min(1.0, limit / max(float(shift.square().mean().sqrt()), 1e-12))
        h = moved
    return h.detach()


def full_chain(mesh: CoarseMesh, h: Float[Tensor, "vertices 3"]) -> Float[Tensor, "joints 3"]:
    """The map f as it is defined: J_reg of the full mesh, which two upsamplings make of the coarse one."""
    mid = mesh.pyramid.upsample(h, source=2, target=1)
    return mesh.full_joint_regressor @ mesh.pyramid.upsample(mid, source=1, target=0)


def gap_of(joints: Float[Tensor, "joints 3"], poses: Float[Tensor, "n joints 3"]) -> Float[Tensor, ""]:
    """D_k of Eq. (10), pose by pose."""
    return torch.stack([(joints - pose).square().sum() for pose in poses]).sum()


def plain_true_mesh(body: SMPLLayer, mesh: CoarseMesh, batch: PoseSample) -> Float[Tensor, "rows vertices 3"]:
    """What training learns: the full true mesh, brought down to the coarse one, relative to its root."""
    full = body(batch["betas"], batch["body_pose"], batch["global_orient"], batch["transl"]).vertices
    coarse = mesh.pyramid.downsample(full)
    return torch.stack([one - full_chain(mesh, one)[:1] for one in coarse])


def plain_poses(prior: PoseDistribution, num_samples: int) -> Float[Tensor, "batch n joints 3"]:
    """Draws of U joint by joint: a cell of E_xy, then a depth of its column of E_z, anywhere inside the cells."""
    batch, joints, size = prior.xy.shape[:3]
    out = torch.empty(batch, num_samples, joints, 3)
    for row in range(batch):
        for joint in range(joints):
            cells = Categorical(logits=prior.xy[row, joint].flatten()).sample((num_samples,))
            depths = Categorical(logits=prior.z[row, joint, :, cells % size].T).sample()
            places = torch.stack((cells % size, cells // size, depths), dim=-1)
            out[row, :, joint] = (places + torch.rand(num_samples, 3)) / size
    out[..., 2] = prior.depth_range * (2 * out[..., 2] - 1)
    return out
