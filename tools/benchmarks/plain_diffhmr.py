"""Diff-HMR written down plainly: every image, hypothesis and step on its own, nothing shared.

The equations are the paper's. The encoder sees the image again at every step of every hypothesis, people are cropped,
turned and mirrored one by one as SPIN's loader does it, pictures are read one by one, and every body is scored alone.
"""

import io
import math
from pathlib import Path
from typing import cast

import h5py
import numpy as np
import smplx.lbs
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from benchmarks.plain_scorehmr import alpha_bars
from diffhmr.blocks import Level, ResidualBlock, SelfAttention, SequenceConv
from diffhmr.encoder import ImageEncoder
from diffhmr.network import UNet1D
from posecore.body.files import BodyModel
from posecore.body.skeletons import JOINTS_44, SMPL_24
from posecore.data.crops import IMAGENET_MEAN, IMAGENET_STD
from posecore.data.sample import PoseSample


def conv(h: Float[Tensor, "1 channels length"], layer: SequenceConv) -> Float[Tensor, "1 out shorter"]:
    """An ordinary 1D convolution with the layer's weights."""
    weight = layer.linear.weight.unflatten(1, (layer.taps, -1)).transpose(1, 2)
    return F.conv1d(h, weight, layer.linear.bias, layer.stride, (layer.taps - 1) // 2)


def residual(h: Tensor, block: ResidualBlock, time: Tensor) -> Tensor:
    """Two convolutions; ``time`` is the block's part of scale and shift."""
    scale, shift = time[..., None].chunk(2, dim=1)
    inner = F.group_norm(conv(h, block.conv1), 8, block.norm1.weight, block.norm1.bias)
    inner = F.silu(inner * (1 + scale) + shift)
    inner = F.silu(F.group_norm(conv(inner, block.conv2), 8, block.norm2.weight, block.norm2.bias))
    return cast(Tensor, block.skip(h.mT)).mT + inner


def attention(h: Tensor, layer: SelfAttention) -> Tensor:
    """Attention among the joints, linear or full."""
    heads = layer.queries_keys_values(layer.norm(h.mT)).unflatten(-1, (3, 4, 32)).permute(2, 0, 3, 1, 4)
    q, k, v = heads
    if layer.linear:
        found = q.softmax(dim=-1) @ (k.softmax(dim=-2).mT @ v)
    else:
        found = (q @ k.mT / math.sqrt(32)).softmax(dim=-1) @ v
    return h + cast(Tensor, layer.output(found.transpose(1, 2).flatten(2))).mT


def denoise(
    network: UNet1D, x: Float[Tensor, "1 24 6"], t: int, z: Float[Tensor, "1 dim h w"]
) -> Float[Tensor, "1 24 6"]:
    """The U-Net with its condition joined to the pose and to the timestep."""
    half = network.dim // 2
    angle = float(t) * torch.exp(-math.log(10000) / (half - 1) * torch.arange(half))
    time = F.silu(network.time(torch.cat((angle.sin(), angle.cos()))[None]))
    pooled = F.silu(network.cond_pooled(z.mean(dim=(2, 3))))
    times = iter((network.modulation(time) + network.cond_modulation(pooled)).split(network._modulation_dims, dim=1))
    cells = F.gelu(network.cond_cells(z)).flatten(1)
    joints = network.cond_joints(cells).unflatten(1, (24, -1))
    h = conv(x.mT, network.stem) + conv(joints.mT, network.cond_stem)
    skips = [h]
    for level, shrink in zip(cast(list[Level], network.down), cast(list[SequenceConv], network.shrink), strict=True):
        h = residual(h, level.first, next(times))
        skips.append(h)
        h = attention(residual(h, level.second, next(times)), level.attention)
        skips.append(h)
        h = conv(h, shrink)
    h = residual(h, network.middle.first, next(times))
    h = residual(attention(h, network.middle.attention), network.middle.second, next(times))
    for level, grow in zip(cast(list[Level], network.up), cast(list[SequenceConv], network.grow), strict=True):
        h = residual(torch.cat((h, skips.pop()), dim=1), level.first, next(times))
        h = residual(torch.cat((h, skips.pop()), dim=1), level.second, next(times))
        h = attention(h, level.attention)
        h = conv(F.interpolate(h, scale_factor=2, mode="nearest") if h.shape[2] < 24 else h, grow)
    h = residual(torch.cat((h, skips.pop()), dim=1), network.last, next(times))
    return cast(Tensor, network.output(h.mT))


@torch.no_grad()
def plain_sample(
    encoder: ImageEncoder,
    network: UNet1D,
    image: Float[Tensor, "3 size size"],
    x_T: Float[Tensor, "24 6"],
    steps: int,
    encode_once: bool = False,
) -> Float[Tensor, "24 6"]:
    """One hypothesis of one image by DDIM without noise; x_0 is clipped to [-1, 1] and the noise follows it."""
    table, x = alpha_bars(), x_T[None]
    times = [round(1000 * (steps - i) / steps) - 1 for i in range(steps)]
    z = encoder(image[None])
    for t, t_prev in zip(times, [*times[1:], -1], strict=True):
        z = z if encode_once else encoder(image[None])
        noise = denoise(network, x, t, z)
        x_0 = ((x - math.sqrt(1 - table[t]) * noise) / math.sqrt(table[t])).clamp(-1, 1)
        noise = (x - math.sqrt(table[t]) * x_0) / math.sqrt(1 - table[t])
        alpha = table[t_prev] if t_prev >= 0 else 1.0
        x = math.sqrt(alpha) * x_0 + math.sqrt(1 - alpha) * noise
    return x[0]


def plain_crops(batch: PoseSample, size: int, margin: float, seed: int) -> Float[Tensor, "rows numbers"]:
    """Random views as SPIN makes them, person by person: image, keypoints, joints and pose in one row of numbers.

    The numbers are drawn in the order of `posecore.data.augment.CropAugmentation` with its defaults.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = len(batch["image"])
    uniform = torch.rand(rows, 19, generator=generator).numpy()
    normal = torch.randn(rows, 4, generator=generator).numpy()
    mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    out = []
    for row in range(rows):
        u, n = uniform[row], normal[row]
        angle = np.deg2rad(30 * np.clip(n[0], -2, 2)) if u[0] < 0.4 else 0.0
        scale, mirrored = 1 + np.clip(0.25 * n[1], -0.25, 0.25), u[1] < 0.5
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        # A ring of black around the raw crop, towards which bilinear sampling fades out.
        raw = np.pad(batch["image"][row].permute(1, 2, 0).numpy(), ((1, 1), (1, 1), (0, 0)))
        side = raw.shape[0] - 2
        to_raw = turn.T * scale * side / (margin * size)
        offset = side / 2 + 1 - to_raw @ np.array([size / 2, size / 2])
        coefficients = (*to_raw[0], offset[0], *to_raw[1], offset[1])
        turned = Image.fromarray(raw).transform(
            (size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
        )
        pixels = np.asarray(turned, dtype=np.float32).transpose(2, 0, 1) / 255
        pixels = pixels[..., ::-1] if mirrored else pixels
        pixels = np.clip(pixels * (1 + 0.4 * (2 * u[16:19] - 1))[:, None, None], 0, 1)

        box, confidence = batch["box"][row].numpy(), batch["confidence"][row].numpy()
        keypoints = (batch["joints_2d_px"][row].numpy() - box[:2]) @ turn.T * size / (box[2] * scale) + size / 2
        turn_3d = np.eye(3)
        turn_3d[:2, :2] = turn
        joints = batch["joints_cam"][row].numpy() @ turn_3d.T
        pose = np.concatenate((batch["global_orient"][row, None].numpy(), batch["body_pose"][row].numpy()))
        pose[0] = turn_3d @ pose[0]
        if mirrored:
            keypoints[:, 0] = size - keypoints[:, 0]
            joints, mirror = joints * np.array([-1, 1, 1]), np.diag([-1, 1, 1])
            swap = list(JOINTS_44.flip)
            keypoints, joints, confidence = keypoints[swap], joints[swap], confidence[swap]
            pose = mirror @ pose[list(SMPL_24.flip)] @ mirror
        keypoints = keypoints / size * (confidence > 0)[:, None]
        out.append(np.concatenate([part.ravel() for part in ((pixels - mean) / std, keypoints, joints, pose)]))
    return torch.from_numpy(np.stack(out))


def plain_pictures(path: Path, rows: int) -> UInt8[Tensor, "rows 3 raw raw"]:
    """The first pictures of a shard, each found and decoded on its own by h5py."""
    out = []
    for row in range(rows):
        with h5py.File(path, "r") as file:
            ends = file["jpeg_end"]
            content = file["jpeg"][(ends[row - 1] if row else 0) : ends[row]]
        with Image.open(io.BytesIO(content.tobytes())) as picture:
            out.append(torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1))
    return torch.stack(out)


def plain_scores(
    body: BodyModel,
    pose: Float[Tensor, "people n 24 3 3"],
    betas: Float[Tensor, "people 10"],
    true_pose: Float[Tensor, "people 24 3 3"],
    true_betas: Float[Tensor, "people 10"],
    best: Tensor,
) -> dict[str, float]:
    """MPJPE, PA-MPJPE and PVE of the pick, of the mean and of the best of n, mm, body by body."""
    found: dict[str, list[float]] = {}
    for row, picked in enumerate(best.tolist()):
        true = _posed(body, true_pose[row], true_betas[row])
        bodies = [_posed(body, hypothesis, betas[row]) for hypothesis in pose[row]]
        errors = [_errors(b, true) for b in bodies]
        nearest = min(errors, key=lambda each: each["mpjpe"])
        of_mean = _errors(tuple(np.mean(part, axis=0) for part in zip(*bodies, strict=True)), true)
        for name in ("mpjpe", "pa_mpjpe", "pve"):
            found.setdefault(name, []).append(errors[picked][name])
            found.setdefault(f"mean_{name}", []).append(of_mean[name])
            found.setdefault(f"min{len(errors)}_{name}", []).append(min(each[name] for each in errors))
            found.setdefault(f"best{len(errors)}_{name}", []).append(nearest[name])
    return {name: float(np.mean(values)) for name, values in found.items()}


def _posed(body: BodyModel, pose: Tensor, betas: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Joints and vertices relative to the pelvis, m."""
    vertices, joints = smplx.lbs.lbs(
        betas[None], pose[None], body.v_template[None], body.shapedirs,
        body.posedirs.flatten(1).reshape(-1, body.posedirs.shape[-1]).T, body.J_regressor, body.parents,
        body.lbs_weights, pose2rot=False,
    )  # fmt: skip
    return (joints - joints[:, :1])[0].double().numpy(), (vertices - joints[:, :1])[0].double().numpy()


def _errors(found: tuple[np.ndarray, np.ndarray], true: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    source, target = found[0] - found[0].mean(0), true[0] - true[0].mean(0)
    U, sizes, Vh = np.linalg.svd(target.T @ source)
    signs = np.array([1, 1, np.linalg.det(U) * np.linalg.det(Vh)])
    aligned = (sizes * signs).sum() / (source**2).sum() * source @ (U * signs @ Vh).T
    pairs = {"mpjpe": (found[0], true[0]), "pa_mpjpe": (aligned, target), "pve": (found[1], true[1])}
    return {name: float(1000 * np.linalg.norm(a - b, axis=-1).mean()) for name, (a, b) in pairs.items()}
