"""One step of a sampler against diffusers' schedulers, and one training step of the methods of small networks."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.device import place
from benchmarks.timing import OURS, Case, Variant
from diffupose.losses import joint_weights, keypoint_loss
from diffupose.losses import noise_loss as pose_noise_loss
from diffupose.network import GraphDenoiser
from posecore.body.skeletons import H36M_16
from posecore.diffusion.samplers import ddim_step, ddpm_step
from posecore.diffusion.schedule import NoiseSchedule
from scorehmr.latent import PoseAndShape
from scorehmr.losses import noise_loss
from zedo.losses import denoising_score_matching_loss
from zedo.network import ScoreNetwork
from zedo.prior import make_backbone

# The shape that a method diffuses, for one person.
SHAPES = {"diffupose": (16, 3), "scorehmr": (144,), "diffhmr": (24, 6), "hmdiff": (431, 3)}
T, T_PREV = 500, 480


def step_cases(quick: bool) -> Iterator[Case]:
    """A DDIM and an ancestral step of what each method diffuses; the network is not called."""
    schedule = NoiseSchedule.named("linear_1000")
    for method, shape in SHAPES.items():
        for rows in (4,) if quick else (1, 256):
            generator = torch.Generator().manual_seed(0)
            x_t, output = (place(torch.randn(rows, *shape, generator=generator)) for _ in range(2))
            for sampler in ("DDIM", "DDPM"):
                variants = {
                    OURS: Variant(_our_step(sampler, schedule, output, x_t)),
                    "diffusers": Variant(_their_step(sampler, schedule, output, x_t)),
                }
                yield Case("steps", f"{sampler} step, {method}'s {rows} x {'x'.join(map(str, shape))}", variants)


def _our_step(sampler: str, schedule: NoiseSchedule, output: Tensor, x_t: Tensor) -> Callable[[], Tensor]:
    if sampler == "DDIM":
        return lambda: ddim_step(schedule, output, x_t, T, T_PREV).x_prev
    return lambda: ddpm_step(schedule, output, x_t, T, generator=torch.Generator().manual_seed(0)).x_prev


def _their_step(sampler: str, schedule: NoiseSchedule, output: Tensor, x_t: Tensor) -> Callable[[], Tensor]:
    from diffusers import DDIMScheduler, DDPMScheduler

    alphas_cumprod = torch.cat([torch.ones(1), schedule.alphas_cumprod.float()])
    betas = (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).numpy()
    if sampler == "DDIM":
        ddim = DDIMScheduler(1000, trained_betas=betas, clip_sample=False)
        ddim.set_timesteps(1000 // (T - T_PREV))
        return lambda: ddim.step(output, T, x_t).prev_sample
    ddpm = DDPMScheduler(1000, trained_betas=betas, clip_sample=False)
    return lambda: ddpm.step(output, T, x_t, generator=torch.Generator().manual_seed(0)).prev_sample


def training_cases(quick: bool) -> Iterator[Case]:
    """Loss, gradient and fused Adam on a batch in memory; HMDiff's and Diff-HMR's are among their own cases.

    ``Adam unfused`` is PyTorch's Adam as it comes, ``no optimiser`` the share of loss and gradient.
    """
    for method, make in (("zedo", _zedo), ("diffupose", _diffupose), ("scorehmr", _scorehmr)):
        for rows in (4,) if quick else (64, 512):
            variants = {}
            for name, fused in ((OURS, True), ("Adam unfused", False), ("no optimiser", None)):
                with torch.random.fork_rng():
                    torch.manual_seed(3)
                    network, loss = make(rows, quick)
                variants[name] = Variant(_training_step(network, loss, fused))
            yield Case("training", f"training step of {method}, {rows} rows", variants, "relative")


def _training_step(network: nn.Module, loss: Callable[[], Tensor], fused: bool | None) -> Callable[[], Tensor]:
    # A rate of 0, so that every call costs the same and finds the same.
    optimizer = torch.optim.Adam(network.parameters(), lr=0.0, fused=fused or None)

    def run() -> Tensor:
        value = loss()
        value.backward()
        if fused is not None:
            optimizer.step()
        optimizer.zero_grad()
        return value.detach()[None]

    return run


def _zedo(rows: int, quick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    network = place(ScoreNetwork(17, 32, 16, dropout=0.0) if quick else ScoreNetwork(dropout=0.0))
    perturbed = make_backbone("score").perturb(0.3 * torch.randn(rows, 17, 3), torch.Generator().manual_seed(0))
    x_t, noise, label = (place(value) for value in perturbed)
    return network, lambda: denoising_score_matching_loss(network(x_t, label), noise)


def _diffupose(rows: int, quick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    network, weights = place(GraphDenoiser(dim=32 if quick else 384)), place(joint_weights(H36M_16))
    x_t, noise = (place(torch.randn(rows, 16, 3)) for _ in range(2))
    keypoints, t = place(torch.randn(rows, 16, 2)), place(torch.randint(100, (rows,)))

    def loss() -> Tensor:
        output = network(x_t, keypoints, t)
        return pose_noise_loss(output, noise, weights) + 0.8 * keypoint_loss(output, keypoints, weights)

    return network, loss


def _scorehmr(rows: int, quick: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    cond_dim, hidden_dim = (16, 32) if quick else (3072, 1024)
    network = place(PoseAndShape(cond_dim, hidden_dim))
    x_t, noise = (place(torch.randn(rows, 144)) for _ in range(2))
    cond, t = place(torch.randn(rows, cond_dim)), place(torch.randint(1000, (rows,)))
    return network, lambda: noise_loss(network(x_t, t, cond), noise)
