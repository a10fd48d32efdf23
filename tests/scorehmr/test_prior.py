from types import SimpleNamespace

import torch
from torch import Tensor

from posecore.body.named_joints import NamedJoints
from posecore.data.sample import PoseSample
from posecore.diffusion.noise import NoiseStreams
from posecore.diffusion.schedule import NoiseSchedule
from posecore.fitting.estimate import PosedPeople, SMPLEstimate
from scorehmr.prior import DiffusionPrior

COSINE = NoiseSchedule.named("cosine_1000")


def seeded() -> NoiseStreams:
    return NoiseStreams.of_rows(7, torch.tensor([0]))


def test_the_gradient_is_the_residual(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    start, cond, model = make.start(people), make.cond(6), make.model(output=1.0)
    prior = DiffusionPrior(model.prepared(cond, [50]), COSINE, model, 50, 2.0, seeded())
    noise = seeded().normal((1, 144))  # the same for everybody
    pose = start.pose_rot6d.clone().requires_grad_()
    value = prior(PosedPeople(SMPLEstimate(pose, start.betas, start.transl), body))
    assert value.shape == (6,)
    (gradient,) = torch.autograd.grad(value.sum(), pose)
    alpha_bar = COSINE.alphas_cumprod[50].float()
    x_t = alpha_bar.sqrt() * start.pose_rot6d.flatten(1) + (1 - alpha_bar).sqrt() * noise
    expected = model(x_t, torch.full((6,), 50), cond) - noise
    torch.testing.assert_close(gradient.flatten(1), expected, atol=1e-5, rtol=1e-5)
    assert prior.weight == 2.0
    assert not prior.couples_people
    assert not prior.moves_camera


def test_descent_leads_to_where_the_network_finds_its_noise(
    body: NamedJoints, people: PoseSample, make: SimpleNamespace
) -> None:
    """A denoiser that knows one clean pose: noise it finds in x_t leads the prior to that pose."""
    target = make.start(people).pose_rot6d.flatten(1)
    signal, sigma = COSINE.alphas_cumprod[50].sqrt().float(), (1 - COSINE.alphas_cumprod[50]).sqrt().float()

    class Knows:
        def __call__(self, x_t: Tensor, t: int) -> Tensor:
            return (x_t - signal * target) / sigma

        def keep(self, rows: Tensor) -> None:
            raise AssertionError("nobody leaves")

    prior = DiffusionPrior(Knows(), COSINE, make.model(), 50, 1.0, seeded())
    start = make.start(people, angle=0.3, seed=1)
    pose = start.pose_rot6d
    for _ in range(100):
        pose = pose.detach().requires_grad_()
        value = prior(PosedPeople(SMPLEstimate(pose, start.betas, start.transl), body)).sum()
        pose = pose - 0.01 * torch.autograd.grad(value, pose)[0]
    torch.testing.assert_close(pose.flatten(1), target, atol=1e-3, rtol=0)


def test_take_leaves_the_others(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    start, cond, model = make.start(people), make.cond(6), make.model()
    whole = DiffusionPrior(model.prepared(cond, [50]), COSINE, model, 50, 1.0, seeded())
    expected = whole(PosedPeople(start, body))
    rows = torch.tensor([4, 1])
    part = DiffusionPrior(model.prepared(cond, [50]), COSINE, model, 50, 1.0, seeded()).take(rows)
    torch.testing.assert_close(part(PosedPeople(start.take(rows), body)), expected[rows], atol=1e-4, rtol=1e-4)


def test_noise_depends_on_the_call_alone(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    """Two parts of the people, asked one after the other, get what they get together; so do those who stay."""
    start, cond, model = make.start(people), make.cond(6), make.model()

    def prior(rows: Tensor) -> DiffusionPrior:
        return DiffusionPrior(model.prepared(cond[rows], [50]), COSINE, model, 50, 1.0, seeded())

    everybody, some = torch.arange(6), torch.tensor([0, 3])
    whole = prior(everybody)
    wanted = [whole(PosedPeople(start, body)) for _ in range(2)]
    staying = prior(everybody)
    staying(PosedPeople(start, body))
    staying = staying.take(some)
    posed = PosedPeople(start.take(some), body)
    torch.testing.assert_close(staying(posed), wanted[1][some], atol=1e-4, rtol=1e-4)
    pieces = prior(everybody)
    first, second = (pieces.take(torch.arange(6)) for _ in range(2))
    for piece in (first, second):
        torch.testing.assert_close(piece(PosedPeople(start, body)), wanted[0], atol=1e-4, rtol=1e-4)


def test_every_call_draws_new_noise(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    posed, model = PosedPeople(make.start(people), body), make.model()

    def values() -> list[Tensor]:
        prior = DiffusionPrior(model.prepared(make.cond(6), [50]), COSINE, model, 50, 1.0, seeded())
        return [prior(posed) for _ in range(2)]

    first, again = values(), values()
    assert all(map(torch.equal, first, again))
    assert not torch.equal(*first)
