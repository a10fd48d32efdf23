"""Two half batches, accumulated, give the gradient of the whole batch, as far as noise and networks allow.

Noise, timesteps and dropout are drawn for each batch anew, so half batches of a training see others than the whole
batch would; `tests/test_mixed_precision.py` has the Trainer's own accumulation. Here both are given the same. Batch
normalisation (DiffuPose's graph network, image backbones in training) looks at its batch alone, so the gradient of half
batches is another one; the losses after it are still means over rows, which is checked of every method.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diffhmr.losses import betas_loss, joints_loss, keypoints_loss
from diffhmr.losses import noise_loss as diffhmr_noise_loss
from diffhmr.network import UNet1D
from diffupose.losses import joint_weights, keypoint_loss
from diffupose.losses import noise_loss as diffupose_noise_loss
from diffupose.unet import UNetDenoiser
from hmdiff.losses import mean_of_known, vertex_loss
from hmdiff.network import MeshDenoiser
from posecore.body.skeletons import H36M_17
from scorehmr.latent import PoseAndShape
from scorehmr.losses import noise_loss as scorehmr_noise_loss
from zedo.losses import denoising_score_matching_loss
from zedo.network import ScoreNetwork

ROWS = 8
Loss = Callable[[slice], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def zedo() -> tuple[nn.Module, Loss]:
    network, x, noise, label = (
        ScoreNetwork(17, 64, 32, dropout=0.0),
        draw(ROWS, 17, 3),
        draw(ROWS, 17, 3, seed=1),
        draw(ROWS),
    )
    return network, lambda rows: denoising_score_matching_loss(network(x[rows], 500 * label[rows].abs()), noise[rows])


def diffupose() -> tuple[nn.Module, Loss]:
    network, weights = UNetDenoiser("h36m17", dim=32), joint_weights(H36M_17)
    x, y, noise, t = draw(ROWS, 17, 3), draw(ROWS, 17, 2), draw(ROWS, 17, 3, seed=1), torch.arange(ROWS)

    def loss(rows: slice) -> Tensor:
        out = network(x[rows], y[rows], t[rows])
        return diffupose_noise_loss(out, noise[rows], weights) + 0.8 * keypoint_loss(out, y[rows], weights)

    return network, loss


def scorehmr() -> tuple[nn.Module, Loss]:
    network = PoseAndShape(16, 32, shape=True)
    x, noise, cond, t = draw(ROWS, 154), draw(ROWS, 154, seed=1), draw(ROWS, 16), torch.arange(ROWS)
    return network, lambda rows: scorehmr_noise_loss(network(x[rows], t[rows], cond[rows]), noise[rows])


def diffhmr() -> tuple[nn.Module, Loss]:
    network = UNet1D(16, 4, 6, dim=16, cond_channels=8)
    z, x, noise, t = draw(ROWS, 16, 2, 2), draw(ROWS, 24, 6), draw(ROWS, 24, 6, seed=1), torch.arange(ROWS)

    def loss(rows: slice) -> Tensor:
        out = network(x[rows], t[rows], network.prepare(z[rows]))
        joints = joints_loss(out[..., :3], noise[rows, :, :3], (1, 2))
        keypoints = keypoints_loss(out[..., :2], noise[rows, :, :2], noise[rows, :, 0].abs() + 0.1)
        rest = betas_loss(out.flatten(1)[:, :10], noise[rows].flatten(1)[:, :10])
        return diffhmr_noise_loss(out, noise[rows]) + joints + keypoints + rest

    return network, loss


def hmdiff() -> tuple[nn.Module, Loss]:
    network = MeshDenoiser(20, 32, 24, 8, image_feature="projected", num_heads=2, feed_forward=1)
    f_c, h, noise, k = draw(ROWS, 32, 2, 2), draw(ROWS, 20, 3), draw(ROWS, 20, 3, seed=1), torch.arange(ROWS)

    def loss(rows: slice) -> Tensor:
        out = network(h[rows], k[rows], network.prepare(f_c[rows], None))
        return vertex_loss(out, noise[rows]) + mean_of_known((out - noise[rows]).square(), None)

    return network, loss


@pytest.mark.parametrize("make", [zedo, diffupose, scorehmr, diffhmr, hmdiff])
def test_half_batches_add_up(make: Callable[[], tuple[nn.Module, Loss]]) -> None:
    torch.manual_seed(0)
    network, loss = make()

    def gradient(*batches: slice) -> Tensor:
        network.zero_grad()
        for rows in batches:
            (loss(rows) / len(batches)).backward()  # type: ignore[no-untyped-call]
        return torch.cat([p.grad.flatten().clone() for p in network.parameters() if p.grad is not None])

    whole = gradient(slice(None))
    halves = gradient(slice(0, ROWS // 2), slice(ROWS // 2, None))
    torch.testing.assert_close(halves, whole, rtol=1e-4, atol=1e-5 * float(whole.norm()))
    assert not torch.allclose(gradient(slice(0, ROWS // 2)), whole, rtol=0.1), "a half alone is another gradient"
