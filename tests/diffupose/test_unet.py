import pytest
import torch
from torch import Tensor

from diffupose.unet import UNetDenoiser
from posecore.body.skeletons import H36M_16, H36M_17, HUMANEVA_15, JointSet

each_set = pytest.mark.parametrize("joint_set", [H36M_16, H36M_17, HUMANEVA_15], ids=lambda joint_set: joint_set.name)


def small(joint_set: str = "h36m16") -> UNetDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNetDenoiser(joint_set, dim=32, time_dim=16).eval()


def draw(joints: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    values = torch.randn(6, joints, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    return values[..., :3], values[..., 3:]


def test_size_of_the_paper() -> None:
    count = sum(parameter.numel() for parameter in UNetDenoiser().parameters())
    assert round(count / 1e6, 2) == 2.99


@each_set
def test_any_joint_set(joint_set: JointSet) -> None:
    network, (x_t, keypoints) = small(joint_set.name), draw(joint_set.num_joints)
    t = torch.tensor([0, 1, 10, 50, 98, 99])
    found = network(x_t, keypoints, t)
    assert found.shape == (6, joint_set.num_joints, 5)
    for row in range(6):  # rows do not see one another
        one = slice(row, row + 1)
        torch.testing.assert_close(network(x_t[one], keypoints[one], t[one]), found[one], atol=1e-5, rtol=1e-5)


def test_timestep_noise_and_keypoints_all_matter() -> None:
    network, (x_t, keypoints), t = small(), draw(16), torch.full((6,), 50)
    found = network(x_t, keypoints, t)
    for other in (network(x_t, keypoints, t - 40), network(x_t + 0.5, keypoints, t), network(x_t, keypoints + 0.5, t)):
        assert (other - found).abs().amax(dim=(1, 2)).min() > 1e-2


def test_every_joint_can_see_every_other() -> None:
    """The lowest level and the group norms reach over the whole sequence."""
    network, (x_t, keypoints) = small("h36m17"), draw(17)
    found = network(x_t, keypoints, torch.full((6,), 50))
    moved = x_t.clone()
    moved[:, 0] += 1
    assert (network(moved, keypoints, torch.full((6,), 50)) - found).abs().amax(dim=(0, 2)).min() > 0


@each_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_prepared_equals_forward(joint_set: JointSet, dtype: torch.dtype) -> None:
    network, levels = small(joint_set.name).to(dtype), torch.tensor([99, 63, 7, 0])
    x_t, keypoints = draw(joint_set.num_joints, dtype)
    with torch.inference_mode():
        denoise = network.prepare(levels)
        for i, level in enumerate(levels):
            found, expected = denoise(x_t, keypoints, i), network(x_t, keypoints, level.expand(6))
            assert found.dtype == dtype
            torch.testing.assert_close(found, expected, atol=1e-5 if dtype == torch.float32 else 1e-12, rtol=0)


def test_gradients_reach_every_parameter() -> None:
    network, (x_t, keypoints) = small("h36m17").train(), draw(17)
    network(x_t, keypoints, torch.arange(6) * 15).square().sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


@pytest.mark.parametrize("dim", [28, 34])
def test_dim_must_fit_the_groups(dim: int) -> None:
    with pytest.raises(ValueError, match=f"dim must be a multiple of 4 and at least 32, got {dim}"):
        UNetDenoiser(dim=dim)
