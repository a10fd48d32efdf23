"""ScoreHMR's keypoint fit written down plainly: the whole network and the whole mesh every time, nothing left out.

It follows the paper's equations and the order of the released program's loop: smplx poses all 6890 vertices, 44 joints
are taken from them, of which 19 carry no confidence, and everybody stays in the batch until the end.
"""

import math

import smplx.lbs
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from posecore.body.files import BodyModel
from posecore.body.skeletons import BODY_25, SMPL_24
from scorehmr.network import Denoiser


def alpha_bars(steps: int = 1000) -> list[float]:
    """The cosine schedule, betas clipped to 0.999; alpha-bar of t = 0..T-1."""
    f = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(steps + 1)]
    product, table = 1.0, []
    for t in range(steps):
        product *= 1 - min(1 - f[t + 1] / f[t], 0.999)
        table.append(product)
    return table


def denoise(network: Denoiser, x_t: Float[Tensor, "people 144"], t: int, cond: Tensor) -> Float[Tensor, "people 144"]:
    """The network, layer by layer."""
    half = network.dim // 2
    frequency = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half))
    angle = torch.full((len(x_t), 1), float(t)) * frequency
    time = network.time[2](F.gelu(network.time[0](torch.cat((angle.sin(), angle.cos()), dim=-1))))
    h = network.input(x_t)
    for block in network.blocks:
        scale, shift = block.modulation(F.silu(time)).chunk(2, dim=-1)  # type: ignore[operator]
        h = h * (scale + 1) + shift
        y = block.norm_in(torch.cat((h, cond), dim=-1))  # type: ignore[operator]
        y = block.norm_out(F.gelu(block.linear_in(y)))  # type: ignore[operator]
        h = h + F.gelu(block.linear_out(y))  # type: ignore[operator]
    noise: Tensor = network.output(h)
    return noise


def rotations(rot6d: Float[Tensor, "people 144"]) -> Float[Tensor, "people 24 3 3"]:
    """Gram-Schmidt of two columns."""
    columns = rot6d.reshape(len(rot6d), 24, 2, 3)
    x = F.normalize(columns[:, :, 0], dim=-1)
    y = F.normalize(columns[:, :, 1] - (x * columns[:, :, 1]).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack((x, y, torch.linalg.cross(x, y)), dim=-1)


def joints_44(body: BodyModel, pose: Tensor, betas: Tensor) -> Float[Tensor, "people 44 3"]:
    """OpenPose's 25 joints, and 19 more by a regressor, from the whole mesh."""
    vertices, kinematic = smplx.lbs.lbs(
        betas, pose, body.v_template[None].expand(len(pose), -1, -1), body.shapedirs,
        body.posedirs.flatten(1).reshape(-1, body.posedirs.shape[-1]).T, body.J_regressor, body.parents,
        body.lbs_weights, pose2rot=False,
    )  # fmt: skip
    landmarks = dict(zip(body.landmark_names, body.landmark_vertex_ids.tolist(), strict=True))
    parts = []
    for name in BODY_25.joint_names:
        name = "pelvis" if name == "mid_hip" else name
        parts.append(vertices[:, landmarks[name]] if name in landmarks else kinematic[:, SMPL_24.index(name)])
    assert body.J_regressor_h36m is not None
    regressor = torch.cat((body.J_regressor_h36m, body.J_regressor_h36m[:2]))
    return torch.cat((torch.stack(parts, dim=1), torch.einsum("jv,bvc->bjc", regressor, vertices)), dim=1)


def plain_scorehmr(
    network: Denoiser,
    body: BodyModel,
    cond: Float[Tensor, "people cond"],
    pose_rot6d: Float[Tensor, "people 24 6"],
    betas: Float[Tensor, "people 10"],
    transl: Float[Tensor, "people 3"],
    keypoints_px: Float[Tensor, "people 25 2"],
    confidence: Float[Tensor, "people 25"],
    K: Float[Tensor, "people 3 3"],
    image_size: Float[Tensor, "people 2"],
    tau: int = 50,
    step: int = 2,
    loops: int = 10,
    stop_change: float | None = 1e-5,
) -> tuple[Float[Tensor, "people 24 6"], Float[Tensor, "people 3"]]:
    """Poses and translations after the fit."""
    table = alpha_bars()
    people = len(cond)
    padded_px = torch.cat((keypoints_px, torch.zeros(people, 19, 2)), dim=1)
    padded_confidence = torch.cat((confidence, torch.zeros(people, 19)), dim=1)
    camera = transl.clone().requires_grad_()
    optimizer = torch.optim.Adam([camera], lr=1e-2)
    x = pose_rot6d.flatten(1)
    kept_x, kept_camera = torch.zeros_like(x), torch.zeros_like(transl)
    kept = torch.zeros(people, dtype=torch.bool)
    last: Tensor | None = None
    for _ in range(loops):
        for t in range(0, tau, step):  # Eq. (7)
            with torch.no_grad():
                noise = denoise(network, x, t, cond)
            x_0 = (x - math.sqrt(1 - table[t]) * noise) / math.sqrt(table[t])
            x = math.sqrt(table[t + step]) * x_0 + math.sqrt(1 - table[t + step]) * noise
        for t in range(tau, 0, -step):
            with torch.no_grad():
                noise = denoise(network, x, t, cond)
            x_t = x.detach().requires_grad_()
            x_0 = (x_t - math.sqrt(1 - table[t]) * noise) / math.sqrt(table[t])  # Eq. (4)
            joints = joints_44(body, rotations(x_0), betas) + camera[:, None]
            pixels = torch.einsum("bij,bnj->bni", K, joints / joints[..., 2:])[..., :2]
            squared = (pixels - padded_px) ** 2
            robust = 100.0**2 * squared / (100.0**2 + squared)
            per_joint = (1000 / image_size.max(dim=1, keepdim=True).values) ** 2 * padded_confidence**2
            loss = (per_joint[..., None] * robust).sum(dim=(1, 2))  # Eq. (12)
            now = torch.zeros(people, dtype=torch.bool)
            if stop_change is not None and last is not None:
                change = (last - loss.detach()).abs() / torch.maximum(last, loss.detach()).clamp(min=1.0)
                now = (change < stop_change) & ~kept
            last = loss.detach()
            loss = (loss * ~(now | kept)).sum()
            optimizer.zero_grad()
            loss.backward(retain_graph=True)
            (gradient,) = torch.autograd.grad(0.003 * loss, x_t)
            optimizer.step()
            noise = noise + math.sqrt(1 - table[t]) * gradient  # Eq. (10)
            x_0 = (x - math.sqrt(1 - table[t]) * noise) / math.sqrt(table[t])  # Eq. (9)
            x = math.sqrt(table[t - step]) * x_0 + math.sqrt(1 - table[t - step]) * noise
            kept_x[now], kept_camera[now] = x_0[now].detach(), camera[now].detach()
            kept |= now
    x_0 = torch.where(kept[:, None], kept_x, x_0.detach())
    return x_0.unflatten(-1, (24, 6)), torch.where(kept[:, None], kept_camera, camera.detach())
