from types import SimpleNamespace

import pytest
import torch

from posecore.data.sample import PoseSample
from posecore.fitting.estimate import SMPLEstimate
from scorehmr.latent import PoseAndShape


@pytest.mark.parametrize(("shape", "dim"), [(False, 144), (True, 154)])
def test_encode_and_decode_are_inverse(people: PoseSample, make: SimpleNamespace, shape: bool, dim: int) -> None:
    model, start = make.model(shape), make.start(people)
    x_0 = model.encode(start)
    assert x_0.shape == (len(start), dim)
    assert model.dim == dim
    found = model.decode(x_0, start)
    assert torch.equal(found.pose_rot6d, start.pose_rot6d)
    assert torch.equal(found.transl, start.transl)
    torch.testing.assert_close(found.betas, start.betas, atol=1e-5, rtol=0)


def test_the_pose_is_six_numbers_of_each_rotation_root_first(make: SimpleNamespace) -> None:
    pose = torch.arange(144.0).reshape(1, 24, 6)
    estimate = SMPLEstimate(pose, torch.zeros(1, 10), torch.zeros(1, 3))
    assert make.model().encode(estimate)[0].tolist() == list(range(144))


def test_betas_come_from_the_latent_where_shape_is_diffused(people: PoseSample, make: SimpleNamespace) -> None:
    start = make.start(people)
    model = make.model(shape=True)
    model.betas_min.copy_(torch.linspace(-4, -2, 10))
    model.betas_max.copy_(torch.linspace(1, 5, 10))
    low = SMPLEstimate(start.pose_rot6d, model.betas_min.expand(len(start), 10), start.transl)
    high = SMPLEstimate(start.pose_rot6d, model.betas_max.expand(len(start), 10), start.transl)
    torch.testing.assert_close(model.encode(low)[:, 144:], -torch.ones(len(start), 10))
    torch.testing.assert_close(model.encode(high)[:, 144:], torch.ones(len(start), 10))
    moved = model.decode(model.encode(high), start)
    torch.testing.assert_close(moved.betas, high.betas)
    assert torch.equal(make.model().decode(model.encode(high)[:, :144], start).betas, start.betas)


def test_the_branches_know_nothing_of_each_other(make: SimpleNamespace) -> None:
    model, cond = make.model(shape=True), make.cond(2)
    x_t = torch.randn(2, 154, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([5, 900])
    noise = model(x_t, t, cond)
    torch.testing.assert_close(noise[:, :144], model.pose(x_t[:, :144], t, cond))
    torch.testing.assert_close(noise[:, 144:], model.shape(x_t[:, 144:], t, cond))
    assert len(model.pose.blocks) == 3
    assert len(model.shape.blocks) == 2


@pytest.mark.parametrize("shape", [False, True])
def test_both_ways_to_predict_noise_are_one(make: SimpleNamespace, shape: bool) -> None:
    model, cond = make.model(shape), make.cond(4)
    x_t = torch.randn(4, model.dim, generator=torch.Generator().manual_seed(0))
    prepared, plain = model.prepared(cond, [0, 50]), model.differentiable(cond)
    torch.testing.assert_close(prepared(x_t, 50), plain(x_t, 50), atol=1e-5, rtol=0)
    torch.testing.assert_close(plain(x_t, 50), model(x_t, torch.full((4,), 50), cond))
    rows = torch.tensor([3, 1])
    prepared.keep(rows)
    plain.keep(rows)
    torch.testing.assert_close(prepared(x_t[rows], 50), plain(x_t[rows], 50), atol=1e-5, rtol=0)
    x_t.requires_grad_()
    assert plain(x_t[rows], 0).requires_grad
    assert not prepared(x_t[rows], 0).requires_grad


def test_without_shape_there_is_no_second_network() -> None:
    assert PoseAndShape(8, 16).shape is None


def test_the_range_of_betas_is_that_of_the_training_set(make: SimpleNamespace) -> None:
    model = make.model(shape=True)
    betas = torch.randn(50, 10, generator=torch.Generator().manual_seed(0)) * 4
    betas[:, 3] = 0.5
    model.fit_range(betas)
    estimate = SMPLEstimate(torch.zeros(50, 24, 6), betas, torch.zeros(50, 3))
    scaled = model.encode(estimate)[:, 144:]
    changing = [i for i in range(10) if i != 3]
    torch.testing.assert_close(scaled[:, changing].amin(dim=0), -torch.ones(9))
    torch.testing.assert_close(scaled[:, changing].amax(dim=0), torch.ones(9))
    assert scaled[:, 3].isfinite().all(), "a number that never changes does not divide by zero"
