import numpy as np
import pytest
import torch

from diffupose.losses import joint_weights, keypoint_loss, noise_loss
from posecore.body.skeletons import H36M_16, H36M_17, HUMANEVA_15, JointSet


@pytest.mark.parametrize(
    ("joint_set", "expected"),
    [
        (H36M_16, [1, 1, 2, 4, 1, 2, 4, 1, 1, 1, 1, 2, 4, 1, 2, 4]),
        (H36M_17, [1, 1, 2, 4, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 1, 2, 4]),
        (HUMANEVA_15, [1, 1, 1, 2, 4, 1, 2, 4, 1, 2, 4, 1, 2, 4, 1]),
    ],
    ids=lambda value: value.name if isinstance(value, JointSet) else "",
)
def test_joint_weights(joint_set: JointSet, expected: list[int]) -> None:
    assert joint_weights(joint_set).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_losses_add_up_to_a_weighted_mean_over_five_channels(seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(4, 16, 5, generator=generator, dtype=dtype, requires_grad=True)
    target = torch.randn(4, 16, 5, generator=generator, dtype=dtype)
    weights = joint_weights(H36M_16).to(dtype)
    distance = np.abs(output.detach().double().numpy() - target.double().numpy())
    factor = weights.double().numpy()[None, :, None] * np.array([1, 1, 1, 0.8, 0.8])
    loss = noise_loss(output, target[..., :3], weights) + 0.8 * keypoint_loss(output, target[..., 3:], weights)
    assert loss.item() == pytest.approx((distance * factor).mean(), rel=1e-5 if dtype == torch.float32 else 1e-12)
    loss.backward()
    expected = np.sign(output.detach().double().numpy() - target.double().numpy()) * factor / distance.size
    np.testing.assert_allclose(output.grad.numpy(), expected, rtol=1e-5)


def test_each_loss_reads_its_own_channels() -> None:
    output, weights = torch.zeros(2, 16, 5), joint_weights(H36M_16)
    output[..., 3:] = 7
    assert noise_loss(output, torch.zeros(2, 16, 3), weights) == 0
    assert keypoint_loss(output, torch.full((2, 16, 2), 7.0), weights) == 0
    assert keypoint_loss(output, torch.full((2, 16, 2), 6.0), weights) > 0
