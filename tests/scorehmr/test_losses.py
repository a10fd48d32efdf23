import pytest
import torch
from torch import Tensor

from posecore.geometry.rotation import random_rotmat, rotmat_to_rot6d
from scorehmr.losses import noise_loss, regressor_loss


def test_noise_loss_is_the_mean_squared_error() -> None:
    output, noise = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)).unbind()
    torch.testing.assert_close(noise_loss(output, noise), torch.nn.functional.mse_loss(output, noise))
    known = torch.tensor([True, False, True, True, False])
    expected = torch.nn.functional.mse_loss(output[known], noise[known])
    torch.testing.assert_close(noise_loss(output, noise, known), expected)


def test_a_batch_without_a_known_pose_gives_zero_and_no_gradient() -> None:
    output = torch.randn(3, 7, requires_grad=True)
    loss = noise_loss(output, torch.zeros(3, 7), torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not output.grad.any()


@pytest.fixture
def case() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    true = random_rotmat((4, 24), generator)
    return {
        "pose_rot6d": rotmat_to_rot6d(random_rotmat((4, 24), generator)) * 1.7,
        "betas": torch.randn(4, 10, generator=generator),
        "joints": torch.randn(4, 25, 3, generator=generator),
        "true_pose_rotmat": true,
        "true_betas": torch.randn(4, 10, generator=generator),
        "true_joints": torch.randn(4, 25, 3, generator=generator),
    }


def expected_losses(case: dict[str, Tensor], pose: list[int], betas: list[int]) -> dict[str, float]:
    """One number at a time."""
    columns = case["pose_rot6d"].reshape(4, 24, 2, 3)
    first = columns[:, :, 0] / 1.7
    rotmat = torch.stack((first, columns[:, :, 1] / 1.7, torch.linalg.cross(first, columns[:, :, 1] / 1.7)), dim=-1)
    both = [row for row in pose if row in betas]
    distances = [(case["joints"][row, j] - case["true_joints"][row, j]).norm() for row in both for j in range(25)]
    return {
        "pose": ((rotmat - case["true_pose_rotmat"])[pose] ** 2).mean().item(),
        "joints": 2.0 * torch.stack(distances).mean().item(),
        "betas": 0.3 * ((case["betas"] - case["true_betas"])[betas] ** 2).mean().item(),
    }


@pytest.mark.parametrize(("pose", "betas"), [(None, None), ([0, 1, 3], None), (None, [1, 2]), ([0, 1, 3], [1, 2, 3])])
def test_regressor_loss_counts_what_is_known(
    case: dict[str, Tensor], pose: list[int] | None, betas: list[int] | None
) -> None:
    def flags(rows: list[int] | None) -> Tensor | None:
        return None if rows is None else torch.tensor([row in rows for row in range(4)])

    losses = regressor_loss(**case, w_joints=2.0, w_betas=0.3, has_pose=flags(pose), has_betas=flags(betas))
    every = list(range(4))
    expected = expected_losses(case, every if pose is None else pose, every if betas is None else betas)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-4)


def test_the_truth_has_no_loss(case: dict[str, Tensor]) -> None:
    case |= {"betas": case["true_betas"], "joints": case["true_joints"]}
    case["pose_rot6d"] = 0.5 * rotmat_to_rot6d(case["true_pose_rotmat"])
    losses = regressor_loss(**case, w_joints=1.0, w_betas=1.0)
    assert max(loss.item() for loss in losses.values()) < 1e-9
