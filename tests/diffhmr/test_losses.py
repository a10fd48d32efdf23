import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from diffhmr.losses import (
    betas_loss,
    camera_scale_loss,
    joints_loss,
    keypoints_loss,
    noise_loss,
    pose_loss,
    x0_weight,
)

ROOT = (2, 3)
KNOWN = torch.tensor([True, False, True, True])
WEIGHT = torch.tensor([0.1, 5.0, 1.0, 0.0])
PER_ROW: list[tuple[Callable[..., Tensor], tuple[int, ...]]] = [
    (noise_loss, (24, 6)),
    (pose_loss, (24, 3, 3)),
    (betas_loss, (10,)),
]
per_row = pytest.mark.parametrize(("loss", "shape"), PER_ROW, ids=lambda value: getattr(value, "__name__", ""))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@per_row
def test_mean_over_known_rows(loss: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    found, true = draw(4, *shape), draw(4, *shape, seed=1)
    error = ((found - true) ** 2).numpy()
    np.testing.assert_allclose(loss(found, true), error.mean(), rtol=1e-5)
    np.testing.assert_allclose(loss(found, true, KNOWN), error[[0, 2, 3]].mean(), rtol=1e-5)
    expected = (0.1 * error[0].mean() + error[2].mean()) / 3
    np.testing.assert_allclose(loss(found, true, KNOWN, WEIGHT), expected, rtol=1e-5)


@per_row
def test_unknown_rows_may_hold_anything(loss: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    found, true = draw(4, *shape).requires_grad_(), draw(4, *shape, seed=1)
    true[1] = torch.nan
    value = loss(found, true, KNOWN, WEIGHT)
    value.backward()
    assert found.grad is not None
    assert value.isfinite()
    assert not found.grad[1].any()
    assert found.grad[0].all()
    assert loss(found, true, torch.zeros(4, dtype=torch.bool)) == 0


def test_joints_relative_to_the_root() -> None:
    found, true = draw(4, 6, 3), draw(4, 6, 3, seed=1)
    centred = [points.numpy() - points[:, 2:4].numpy().mean(axis=1, keepdims=True) for points in (found, true)]
    error = (centred[0] - centred[1]) ** 2
    np.testing.assert_allclose(joints_loss(found, true, ROOT), error.mean(), rtol=1e-5)
    moved = true + draw(4, 1, 3, seed=2)
    torch.testing.assert_close(joints_loss(found, moved, ROOT), joints_loss(found, true, ROOT))


def test_known_joints_count_alike() -> None:
    found, true = draw(4, 6, 3).requires_grad_(), draw(4, 6, 3, seed=1)
    known = torch.ones(4, 6, dtype=torch.bool)
    known[0, 0] = False
    known[1, 4:] = False
    known[2, 3] = False  # of the root: the row cannot be centred
    true[~known] = torch.nan
    value = joints_loss(found, true, ROOT, known, torch.tensor([1.0, 1, 1, 0.5]))
    value.backward()
    total, detached = 0.0, found.detach()
    for row, joints, weight in ((0, range(1, 6), 1.0), (1, range(4), 1.0), (3, range(6), 0.5)):
        root, true_root = detached[row, 2:4].mean(dim=0), true[row, 2:4].mean(dim=0)
        for joint in joints:
            total += weight * float((detached[row, joint] - root - true[row, joint] + true_root).square().sum())
    assert value.item() == pytest.approx(total / (3 * (5 + 4 + 6)), rel=1e-5)
    assert found.grad is not None
    assert found.grad.isfinite().all()
    assert not found.grad[2].any()


def test_keypoints_count_by_their_confidence() -> None:
    found, true = draw(2, 3, 2).requires_grad_(), draw(2, 3, 2, seed=1)
    confidence = torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.25, 0.0]])
    expected = float((confidence[..., None] * (found.detach() - true).square()).sum()) / (3 * 2)  # three have any
    assert keypoints_loss(found, true, confidence).item() == pytest.approx(expected, rel=1e-5)
    true[confidence == 0] = torch.nan
    value = keypoints_loss(found, true, confidence, torch.tensor([2.0, 2.0]))
    assert value.item() == pytest.approx(2 * expected, rel=1e-5)
    value.backward()
    assert found.grad is not None
    assert (found.grad.any(dim=-1) == (confidence > 0)).all()
    assert keypoints_loss(found, true, torch.zeros(2, 3)) == 0


def test_camera_scale_is_kept_off_zero() -> None:
    scale = torch.tensor([0.0, 0.1, 0.9])
    expected = (1 + np.exp(-1.0) ** 2 + np.exp(-9.0) ** 2) / 3
    assert camera_scale_loss(scale).item() == pytest.approx(expected, rel=1e-5)
    assert camera_scale_loss(scale, torch.tensor([0.0, 3, 3])).item() == pytest.approx(3 * expected - 1, rel=1e-4)


def test_weights_of_the_one_step_estimate() -> None:
    alpha_bar = torch.tensor([0.9, 0.5, 0.49, 0.0])
    assert x0_weight(alpha_bar, "uniform").tolist() == [1, 1, 1, 1]
    assert torch.equal(x0_weight(alpha_bar, "alpha_bar"), alpha_bar)
    assert x0_weight(alpha_bar, "gate").tolist() == [1, 1, 0, 0]
    assert x0_weight(alpha_bar, "gate", 0.6).tolist() == [1, 0, 0, 0]
    # Past the signature's check of types, which refuses first in tests.
    with pytest.raises(ValueError, match=r"x_0 weighting must be one of .*, got 'snr'"):
        inspect.unwrap(x0_weight)(alpha_bar, "snr")
