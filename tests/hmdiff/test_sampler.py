"""Algorithm 1 against a program that runs one sample at a time, in float64, with the sum over all poses."""

import copy
import inspect
import math
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from hmdiff.dat import Alignment, Target
from hmdiff.network import MeshDenoiser, Prepared
from hmdiff.sampler import Denoiser, Record, Sampling, sample
from posecore.diffusion.noise import NoiseStreams
from posecore.diffusion.schedule import NoiseSchedule, PredictionType, linear_betas

IMAGES, SAMPLES, V, JOINTS, POSES = 3, 4, 5, 2, 6
SCHEDULE = NoiseSchedule(linear_betas(20, 5e-3, 0.4))
NOTHING = Alignment(of="nothing")
FREE = Alignment(gamma=2e-3, threshold=0.0, max_shift=1e3)
"""DAT whose bound and whose end are never reached."""


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Toy(nn.Module):
    """Curved in h, another at every step and for every image."""

    num_vertices = V

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.7 * draw(V, V, seed=1))
        self.seen: list[tuple[int, bool]] = []

    def of_image(self, h: Tensor, k: float, cond: Tensor) -> Tensor:
        """The noise in rows of one image."""
        return torch.tanh(self.weight.to(h) @ h + cond.to(h) + k / 20) + 0.4 * h

    def forward(self, h: Tensor, k: Tensor, prepared: Prepared) -> Tensor:
        assert len(h) == prepared.num_images * prepared.num_samples
        self.seen.append((len(h), torch.is_grad_enabled()))
        cond = prepared.keys_values[0][0].flatten(1).sum(dim=1).repeat_interleave(prepared.num_samples)
        return self.of_image(h, float(k), cond[:, None, None])


class Problem(NamedTuple):
    toy: Toy
    prepared: Prepared
    start: Tensor
    mesh_to_pose: Tensor
    poses: Tensor

    def sample(self, settings: Sampling, alignment: Alignment = NOTHING, **options: Any) -> Tensor:
        options = {"h_K": self.start, "target": Target.of_poses(self.poses), "denoiser": self.toy, **options}
        return sample(
            schedule=SCHEDULE,
            prepared=self.prepared,
            num_samples=SAMPLES,
            settings=settings,
            alignment=alignment,
            mesh_to_pose=self.mesh_to_pose,
            **options,
        )

    def recorded(self, settings: Sampling, alignment: Alignment = NOTHING, **options: Any) -> list[Record]:
        steps: list[Record] = []
        self.sample(settings, alignment, record=steps.append, **options)
        return steps


@pytest.fixture
def problem() -> Problem:
    prepared = Prepared((draw(2, IMAGES, 1, 2, 3, seed=2),))
    mesh_to_pose = draw(JOINTS, V, seed=3).softmax(dim=1)
    poses = 0.5 * draw(IMAGES, 1, JOINTS, 3, seed=4) + 0.05 * draw(IMAGES, POSES, JOINTS, 3, seed=5)
    return Problem(Toy(), prepared, draw(IMAGES, SAMPLES, V, 3, seed=6), mesh_to_pose, poses)


class Written(NamedTuple):
    h_0: Tensor
    active: Tensor
    """Steps, images, samples."""


def written_out(
    problem: Problem,
    steps: list[int],
    clip: float,
    alignment: Alignment = NOTHING,
    eta: float = 0.0,
    noises: list[Tensor] | None = None,
    solver: bool = False,
) -> Written:
    """Algorithm 1 line by line; ``sigma_k`` and ``alpha_k`` as DDIM has them, the shift bounded.

    With ``solver``, a line through the last two estimates stands for the estimate in the step.
    """
    toy = copy.deepcopy(problem.toy).double()
    alpha_bar = torch.cat([(1 - SCHEDULE.betas).cumprod(0), torch.ones(1, dtype=torch.float64)])  # [-1] is clean
    f, h_0 = problem.mesh_to_pose.double(), torch.zeros(IMAGES, SAMPLES, V, 3, dtype=torch.float64)
    was_active = torch.zeros(len(steps), IMAGES, SAMPLES, dtype=torch.bool)
    for image in range(IMAGES):
        cond = problem.prepared.keys_values[0][0, image].double().sum()

        def gap(mesh: Tensor, image: int = image) -> Tensor:
            return torch.stack([(u - f @ mesh).square().sum() for u in problem.poses[image].double()]).sum()

        for row in range(SAMPLES):
            h = problem.start[image, row].double()
            act = alignment.of != "nothing"
            first, line = gap(h) if alignment.start == "noise" else None, None
            for i, (k, k_prev) in enumerate(zip(steps, [*steps[1:], -1], strict=True)):
                a, a_prev = alpha_bar[k], alpha_bar[k_prev]
                h = h.detach().requires_grad_()
                s = toy.of_image(h, k, cond)
                estimate = ((h - (1 - a).sqrt() * s) / a.sqrt()).clamp(-clip, clip)  # line 5
                found = gap(estimate)  # line 6
                (gradient,) = torch.autograd.grad(gap(h) if alignment.of == "sample" else found, h)
                first = found if first is None else first
                if alignment.activation and found / first < alignment.threshold:
                    act = False  # line 11
                was_active[i, image, row] = act
                ahead, half_log_snr = estimate, 0.5 * torch.log(a / (1 - a))
                if solver and line is not None and k_prev >= 0:
                    last_estimate, last_half_log_snr = line
                    slope = (estimate - last_estimate) / (half_log_snr - last_half_log_snr)
                    ahead = estimate + slope * (0.5 * torch.log(a_prev / (1 - a_prev)) - half_log_snr) / 2
                line = estimate, half_log_snr
                s = (h - a.sqrt() * ahead) / (1 - a).sqrt()
                sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
                h = (1 - a_prev - sigma**2).clamp_min(0).sqrt() * s + a_prev.sqrt() * ahead
                if noises is not None:
                    h = h + sigma * noises[i][image, row]
                if act:  # line 9
                    shift = alignment.gamma * gradient
                    limit = alignment.max_shift * float((1 - a_prev).sqrt())
                    size = float(shift.square().mean().sqrt())
                    h = h - shift * (min(1.0, limit / size) if size else 0.0)
            h_0[image, row] = h.detach()
    return Written(h_0, was_active)


def trailing(count: int) -> list[int]:
    return [round(20 - i * 20 / count) - 1 for i in range(count)]


@pytest.mark.parametrize(("count", "clip"), [(20, 100.0), (5, 100.0), (10, 0.6)])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver"])
def test_without_dat_it_is_ddim_or_the_solver(
    problem: Problem, count: int, clip: float, eta: float, sampler: Any
) -> None:
    settings = Sampling(count, eta, clip=clip, sampler=sampler)
    generator = torch.Generator().manual_seed(9)
    noises = [torch.randn(problem.start.shape, generator=generator) for _ in range(count)]
    found = problem.sample(settings, generator=torch.Generator().manual_seed(9), target=None)
    solver = sampler == "dpm_solver"
    wanted = written_out(problem, trailing(count), clip, eta=eta, noises=noises if eta else None, solver=solver)
    torch.testing.assert_close(found.double(), wanted.h_0, atol=3e-4, rtol=1e-4)
    assert found.abs().max() <= clip


ALIGNMENTS = {
    "free": FREE,
    "bounded": Alignment(threshold=0.0),
    "ends": replace(FREE, threshold=4.6, gamma=5e-3),  # a toy's estimates are farther from U than its noise
    "ends, from the estimate": replace(FREE, threshold=0.4, gamma=5e-3, start="estimate"),
    "without activation": replace(FREE, threshold=4.6, gamma=5e-3, activation=False),
    "of h itself": replace(FREE, of="sample", gamma=1e-3),
    "of h itself, bounded, ends": Alignment(of="sample", threshold=5.2),
}


@pytest.mark.parametrize("name", ALIGNMENTS)
@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver"])
def test_dat_is_algorithm_1(problem: Problem, name: str, sampler: Any) -> None:
    """The solver's line goes through estimates of the h that DAT has moved."""
    alignment, settings = ALIGNMENTS[name], Sampling(10, clip=3.0, sampler=sampler)
    wanted = written_out(problem, trailing(10), 3.0, alignment, solver=sampler == "dpm_solver")
    active: list[Tensor] = []
    found = problem.sample(settings, alignment, record=lambda step: active.append(step.active))
    torch.testing.assert_close(found.double(), wanted.h_0, atol=2e-4, rtol=1e-4)
    assert torch.equal(torch.stack(active), wanted.active)
    plain = problem.sample(settings)
    assert (found - plain).abs().max() > 0.01, "the gradient moved something"
    if "ends" in name:
        lengths = wanted.active.sum(dim=0)
        assert len(lengths.unique()) > 2, "each sample on its own"
        assert 0 < lengths.float().mean() < 10
        assert (wanted.active[:-1] >= wanted.active[1:]).all(), "over is over"
    else:
        assert wanted.active.all()


def test_the_gradient_goes_back_through_g_to_h(problem: Problem) -> None:
    """Line 9, by finite differences of Eq. (10) in every coordinate of h_K."""
    settings = Sampling(4, clip=50.0)
    shift = problem.recorded(settings)[1].h - problem.recorded(settings, FREE)[1].h
    toy = copy.deepcopy(problem.toy).double()
    k, a = 19, float((1 - SCHEDULE.betas).prod())
    f, h = problem.mesh_to_pose.double(), problem.start.double()
    cond = problem.prepared.keys_values[0][0].double().flatten(1).sum(dim=1)[:, None, None, None]

    def gaps(h: Tensor) -> Tensor:
        with torch.no_grad():
            estimate = (h - math.sqrt(1 - a) * toy.of_image(h, k, cond)) / math.sqrt(a)
            apart = problem.poses.double()[:, None] - (f @ estimate)[:, :, None]
            return apart.square().sum(dim=(2, 3, 4))

    for v in range(V):
        for axis in range(3):
            nudge = torch.zeros_like(h)
            nudge[..., v, axis] = 1e-5
            slope = (gaps(h + nudge) - gaps(h - nudge)) / 2e-5
            torch.testing.assert_close(shift[..., v, axis].double(), FREE.gamma * slope, atol=1e-4, rtol=1e-3)
    assert shift.abs().max() > 0.05


def test_disrupted_moves_h_itself(problem: Problem) -> None:
    """2 N f^T (f h - mean), whatever g says."""
    settings, alignment = Sampling(4), replace(FREE, of="sample")
    shift = problem.recorded(settings)[1].h - problem.recorded(settings, alignment)[1].h
    apart = problem.mesh_to_pose @ problem.start - problem.poses.mean(dim=1)[:, None]
    wanted = alignment.gamma * 2 * POSES * problem.mesh_to_pose.T @ apart
    torch.testing.assert_close(shift, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("of", ["estimate", "sample"])
def test_a_shift_is_a_share_of_the_noise_that_is_left(problem: Problem, of: Any) -> None:
    alignment = Alignment(of=of, gamma=100.0, max_shift=0.07, activation=False)
    steps = problem.recorded(Sampling(10, clip=50.0), alignment)
    h_0 = problem.sample(Sampling(10, clip=50.0), alignment)
    alpha_bar = torch.cat([(1 - SCHEDULE.betas).cumprod(0), torch.ones(1)]).float()
    for step, after, k_prev in zip(steps, [*(s.h for s in steps[1:]), h_0], [*trailing(10)[1:], -1], strict=True):
        a, a_prev = alpha_bar[step.k], alpha_bar[k_prev]
        noise = (step.h - a.sqrt() * step.estimate) / (1 - a).sqrt()
        unmoved = a_prev.sqrt() * step.estimate + (1 - a_prev).sqrt() * noise
        shift = (after - unmoved).square().mean(dim=(-2, -1)).sqrt()
        limit = 0.07 * (1 - a_prev).sqrt()
        torch.testing.assert_close(shift, limit.expand(IMAGES, SAMPLES), atol=1e-5, rtol=1e-3)
    assert torch.equal(h_0, steps[-1].estimate), "the last step has no noise and is no longer moved"


class Broken(Toy):
    """As the toy, but for a gradient that is no number."""

    def __init__(self, gradient: float) -> None:
        super().__init__()
        self.gradient = gradient

    def forward(self, h: Tensor, k: Tensor, prepared: Prepared) -> Tensor:
        if h.requires_grad:
            h.register_hook(lambda found: torch.full_like(found, self.gradient))
        return super().forward(h, k, prepared)


@pytest.mark.parametrize("gradient", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_no_number_moves_nothing(problem: Problem, gradient: float) -> None:
    found = problem.sample(Sampling(10), Alignment(activation=False), denoiser=Broken(gradient))
    torch.testing.assert_close(found, problem.sample(Sampling(10)))
    moved = problem.sample(Sampling(10), Alignment(activation=False), denoiser=Broken(1.0))
    assert (moved - found).abs().max() > 0.01, "the hook is where the gradient comes by"


@pytest.mark.parametrize("max_rows", [1, 2, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("name", ["free", "ends", "of h itself"])
def test_samples_are_the_same_for_any_number_of_rows(problem: Problem, max_rows: int, name: str) -> None:
    found, wanted = (
        problem.sample(
            Sampling(6, eta=0.5, max_rows=rows), ALIGNMENTS[name], h_K=None, generator=torch.Generator().manual_seed(3)
        )
        for rows in (max_rows, 256)
    )
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    rows = [count for count, _ in problem.toy.seen]
    assert max(rows[:-6]) <= max_rows
    assert sum(rows) == 2 * 6 * IMAGES * SAMPLES
    assert rows[-6:] == [IMAGES * SAMPLES] * 6


def test_samples_depend_on_nobody_else(problem: Problem) -> None:
    """Not on batch, block of rows or the number of samples: each has a stream of noise of its own."""
    rows = torch.tensor([7, 3, 5])

    def found(part: slice, num_samples: int, max_rows: int = 256) -> Tensor:
        return sample(
            problem.toy,
            SCHEDULE,
            Prepared((problem.prepared.keys_values[0][:, part],)),
            num_samples,
            Sampling(6, eta=0.5, max_rows=max_rows),
            Alignment(),
            problem.mesh_to_pose,
            Target.of_poses(problem.poses[part]),
            generator=NoiseStreams.of_rows(1, rows[part]),
        )

    wanted = found(slice(None), 4)
    torch.testing.assert_close(found(slice(1, 3), 4, 3), wanted[1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found(slice(0, 1), 2), wanted[:1, :2], atol=1e-5, rtol=1e-4)
    assert torch.pdist(wanted.flatten(2).flatten(0, 1)).min() > 1e-3


def test_the_network_itself(problem: Problem) -> None:
    """What the toy stands for: blocks of its rows are the same, and every sample differs."""
    torch.manual_seed(0)
    network = MeshDenoiser(V, 128, JOINTS).eval()
    assert isinstance(network, Denoiser)
    prepared = network.prepare(draw(IMAGES, 128, 2, 2), None)
    found, wanted = (
        problem._replace(prepared=prepared).sample(Sampling(5, max_rows=rows), Alignment(), denoiser=network)
        for rows in (3, 256)
    )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)
    assert torch.pdist(wanted.flatten(2).flatten(0, 1)).min() > 1e-3


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_what_is_predicted_does_not_matter(problem: Problem, prediction_type: PredictionType) -> None:
    class Converted(Toy):
        def forward(self, h: Tensor, k: Tensor, prepared: Prepared) -> Tensor:
            noise, a = super().forward(h, k, prepared), SCHEDULE.alphas_cumprod[k].float()
            estimate = (h - (1 - a).sqrt() * noise) / a.sqrt()
            return estimate if prediction_type == "sample" else a.sqrt() * noise - (1 - a).sqrt() * estimate

    found = problem.sample(Sampling(6), FREE, denoiser=Converted(), prediction_type=prediction_type)
    torch.testing.assert_close(found, problem.sample(Sampling(6), FREE), atol=1e-3, rtol=1e-3)


def test_draws_repeat_with_their_generator(problem: Problem) -> None:
    first, again, other = (
        problem.sample(Sampling(6, eta=0.5), FREE, h_K=None, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    start = torch.randn(problem.start.shape, generator=torch.Generator().manual_seed(1))
    steps = problem.recorded(Sampling(6), h_K=None, generator=torch.Generator().manual_seed(1))
    assert torch.equal(steps[0].h, start), "h_K is the first thing that is drawn"
    torch.manual_seed(5)
    unseeded = problem.sample(Sampling(6, eta=0.5), h_K=None)
    torch.manual_seed(5)
    assert torch.equal(problem.sample(Sampling(6, eta=0.5), h_K=None), unseeded)


def test_gradients_neither_need_nor_leave_anything(problem: Problem) -> None:
    outside = problem.sample(Sampling(6), FREE)
    assert not outside.requires_grad
    assert problem.toy.weight.grad is None
    problem.toy.weight.grad = torch.ones(V, V)
    with torch.no_grad():
        assert torch.equal(problem.sample(Sampling(6), FREE), outside)
        assert not torch.is_grad_enabled()
    assert torch.equal(problem.toy.weight.grad, torch.ones(V, V))
    assert problem.toy.weight.requires_grad
    assert torch.equal(problem.start, draw(IMAGES, SAMPLES, V, 3, seed=6)), "h_K is left as it was"


def test_what_is_recorded(problem: Problem) -> None:
    done: list[tuple[int, int]] = []
    alignment = Alignment(threshold=1e9)
    steps = problem.recorded(Sampling(5, clip=0.5), alignment, progress=lambda i, n: done.append((i, n)))
    assert done == [(i, 5) for i in range(1, 6)]
    assert [step.k for step in steps] == trailing(5) == [19, 15, 11, 7, 3]
    assert torch.equal(steps[0].h, problem.start)
    assert max(step.estimate.abs().max() for step in steps) <= 0.5
    assert steps[0].gap is not None
    apart = problem.poses[:, None] - (problem.mesh_to_pose @ steps[0].estimate)[:, :, None]
    torch.testing.assert_close(steps[0].gap, apart.square().sum(dim=(2, 3, 4)))
    assert all(step.gap is None for step in steps[1:]), "DAT was over for all at once"
    assert not any(step.active.any() for step in steps)
    assert [grad for _, grad in problem.toy.seen] == [True, False, False, False, False], "and costs nothing any more"


def test_all_steps_of_the_schedule_where_none_are_given(problem: Problem) -> None:
    steps = problem.recorded(Sampling(None))
    assert [step.k for step in steps] == list(range(19, -1, -1))


class Trained(nn.Module):
    """The best denoiser there is for meshes that are normal about a mean one."""

    num_vertices = V

    def __init__(self, schedule: NoiseSchedule, mean: Tensor, std: float) -> None:
        super().__init__()
        self.schedule, self.mean, self.std = schedule, mean, std

    def forward(self, h: Tensor, k: Tensor, prepared: Prepared) -> Tensor:
        a = self.schedule.alphas_cumprod[k].float()
        gain = a.sqrt() * self.std**2 / (a * self.std**2 + 1 - a)
        estimate = self.mean + gain * (h - a.sqrt() * self.mean)
        return (h - a.sqrt() * estimate) / (1 - a).sqrt()


@pytest.mark.parametrize(("start", "share"), [("noise", 0.8), ("estimate", 0.5)])
def test_dat_pulls_a_good_model_towards_the_poses(problem: Problem, start: Any, share: float) -> None:
    """By the paper's numbers, and the meshes stay those that the model knows."""
    schedule, mean = NoiseSchedule.named("linear_200"), 0.3 * draw(V, 3, seed=8)
    count, trained = 25, Trained(schedule, mean, std=0.15)
    f = problem.mesh_to_pose
    poses = (f @ mean + 0.12)[None, None] + 0.02 * draw(IMAGES, 25, JOINTS, 3, seed=5)

    def distance(alignment: Alignment) -> tuple[float, Tensor]:
        generator, target = torch.Generator().manual_seed(0), Target.of_poses(poses)
        settings = Sampling(40)
        found = sample(trained, schedule, problem.prepared, count, settings, alignment, f, target, generator=generator)
        return float((f @ found - poses.mean(dim=1)[:, None]).norm(dim=-1).mean()), found

    (plain, meshes), (aligned, moved) = distance(NOTHING), distance(Alignment(start=start))
    torch.testing.assert_close(meshes.mean(dim=(0, 1)), mean, atol=0.08, rtol=0)
    assert meshes.std(dim=(0, 1)).mean() == pytest.approx(0.15, rel=0.3)
    assert aligned < share * plain
    assert (moved - mean).abs().max() < 6 * 0.15


def test_what_cannot_be_sampled(problem: Problem) -> None:
    with pytest.raises(ValueError, match="target: alignment of 'estimate' needs poses of U"):
        problem.sample(Sampling(4), FREE, target=None)
    with pytest.raises(ValueError, match="target: alignment of 'sample' needs poses of U"):
        problem.sample(Sampling(4), replace(FREE, of="sample"), target=None)
    message = r"h_K must have the shape \(3, 4, 5, 3\), got \(3, 7, 5, 3\)"
    with pytest.raises(ValueError, match=message):
        problem.sample(Sampling(4), h_K=torch.zeros(IMAGES, 7, V, 3))
    with pytest.raises(ValueError, match=r"num_inference_steps must lie in 1..20, got 21"):
        problem.sample(Sampling(21))
    toy, prepared, _, f, _ = problem
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        sample(toy, SCHEDULE, prepared, 0, Sampling(4), NOTHING, f)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1, got 0"),
        ({"eta": 1.5}, r"eta must lie in \[0, 1\], got 1.5"),
        ({"eta": -0.5}, r"eta must lie in \[0, 1\], got -0.5"),
        ({"clip": 0.0}, "clip must be above 0 and max_rows at least 1, got 0.0 and 256"),
        ({"max_rows": 0}, "clip must be above 0 and max_rows at least 1, got 1.5 and 0"),
    ],
)
def test_settings_are_checked(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**option)


def test_the_start_is_checked() -> None:
    # Past the signature's check of types, which refuses first in tests.
    settings = Sampling.__new__(Sampling)
    settings.__dict__.update({**vars(Sampling()), "start": "mesh"})
    with pytest.raises(ValueError, match="start must be 'noise' or 'pose', got 'mesh'"):
        settings.__post_init__()


def test_the_sampler_is_checked() -> None:
    settings = Sampling.__new__(Sampling)
    settings.__dict__.update({**vars(Sampling()), "sampler": "dpm"})
    with pytest.raises(ValueError, match="sampler must be 'ddim' or 'dpm_solver', got 'dpm'"):
        settings.__post_init__()


def test_defaults_are_the_papers() -> None:
    settings = Sampling()
    assert (settings.sampler, settings.num_inference_steps) == ("ddim", 40)
    assert (settings.eta, settings.start) == (0.0, "noise")
    assert inspect.signature(sample).parameters["prediction_type"].default == "epsilon"
