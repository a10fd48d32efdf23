import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from posecore.body.named_joints import NamedJoints
from posecore.data.sample import PoseSample
from posecore.diffusion.schedule import NoiseSchedule
from posecore.fitting.estimate import PosedPeople, SMPLEstimate
from posecore.fitting.terms import KeypointReprojection, TemporalSmoothness, Term
from scorehmr import sampler
from scorehmr.sampler import Guidance, RefineResult, refine

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))  # tools are scripts, not an installed package

from benchmarks.plain_scorehmr import plain_scorehmr

COSINE = NoiseSchedule.named("cosine_1000")


def keypoint_term(batch: PoseSample) -> KeypointReprojection:
    return KeypointReprojection(
        batch["joints_2d_px"][:, :25], batch["confidence"][:, :25], batch["K"], batch["image_size"]
    )


def run(
    model: Any, cond: Tensor, start: SMPLEstimate, terms: list[Term], body: NamedJoints, guidance: Guidance
) -> RefineResult:
    through = guidance.through_network
    denoiser = model.differentiable(cond) if through else model.prepared(cond, guidance.timesteps)
    return refine(denoiser, COSINE, start, model, terms, body, guidance)


@pytest.mark.parametrize("stop_change", [None, 1e-5, 1e-2])
def test_equals_the_plain_program(
    body: NamedJoints, people: PoseSample, make: SimpleNamespace, stop_change: float | None
) -> None:
    """Whole mesh, whole network, torch.optim.Adam, and nobody leaves the batch: the same numbers."""
    batch = make.confidence(people)
    batch["confidence"][4] = 0  # whose loss is 0 from the beginning
    start, cond, model = make.start(batch), make.cond(6), make.model(output=1.0)
    guidance = Guidance(noise_level=6, step=2, outer_loops=4, stop_change=stop_change)
    found, loops = run(model, cond, start, [keypoint_term(batch)], body, guidance)
    pose, transl = plain_scorehmr(
        model.pose, body.layer.model, cond, start.pose_rot6d, start.betas, start.transl,
        batch["joints_2d_px"][:, :25], batch["confidence"][:, :25], batch["K"], batch["image_size"],
        tau=6, step=2, loops=4, stop_change=stop_change,
    )  # fmt: skip
    torch.testing.assert_close(found.pose_rot6d, pose, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.transl, transl, atol=1e-4, rtol=0)
    assert torch.equal(found.betas, start.betas)
    assert (found.transl - start.transl).abs().max() > 0.02
    assert (found.pose_rot6d - start.pose_rot6d).abs().max() > 1e-3
    if stop_change is None:
        assert loops.tolist() == [4] * 6
    else:
        assert loops[4] == 1, "a person without keypoints has nothing to wait for"
        assert len(set(loops.tolist())) > 1, "people leave at different times"


@pytest.mark.parametrize("shape", [False, True])
def test_without_terms_the_start_comes_back(
    body: NamedJoints, people: PoseSample, make: SimpleNamespace, shape: bool
) -> None:
    start, model = make.start(people), make.model(shape, output=0.02)
    found, loops = run(model, make.cond(6), start, [], body, Guidance(outer_loops=2))
    assert (found.pose_rot6d - start.pose_rot6d).abs().max() < 1e-3
    assert (found.betas - start.betas).abs().max() < (3e-3 if shape else 1e-9)  # betas are scaled by 3
    assert torch.equal(found.transl, start.transl)
    assert loops.tolist() == [2] * 6


def test_people_do_not_depend_on_who_else_is_there(
    body: NamedJoints, people: PoseSample, make: SimpleNamespace
) -> None:
    batch = make.confidence(people)
    batch["confidence"][0] = 0
    start, cond, model, term = make.start(batch), make.cond(6), make.model(), keypoint_term(batch)
    guidance = Guidance(noise_level=6, step=2, outer_loops=3, stop_change=1e-2)
    together, loops = run(model, cond, start, [term], body, guidance)
    for row in (0, 3, 5):
        only = torch.tensor([row])
        alone, own_loops = run(model, cond[only], start.take(only), [term.take(only)], body, guidance)
        torch.testing.assert_close(alone.pose_rot6d, together.pose_rot6d[only], atol=2e-5, rtol=0)
        torch.testing.assert_close(alone.transl, together.transl[only], atol=2e-5, rtol=0)
        assert own_loops.item() == loops[row]


def test_is_deterministic_and_leaves_its_inputs_alone(
    body: NamedJoints, people: PoseSample, make: SimpleNamespace
) -> None:
    start, cond, model, term = make.start(people), make.cond(6), make.model(), keypoint_term(people)
    before = [value.clone() for value in (start.pose_rot6d, start.betas, start.transl, term.confidence)]
    guidance = Guidance(noise_level=4, step=2, outer_loops=2, stop_change=1e-2)
    first, second = (run(model, cond, start, [term], body, guidance).estimate for _ in range(2))
    assert torch.equal(first.pose_rot6d, second.pose_rot6d)
    assert torch.equal(first.transl, second.transl)
    after = [start.pose_rot6d, start.betas, start.transl, term.confidence]
    assert all(map(torch.equal, before, after))


@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize("shape", [False, True])
def test_one_step_is_equation_10(
    body: NamedJoints, people: PoseSample, make: SimpleNamespace, through: bool, shape: bool
) -> None:
    """Inversion 0 -> 20 and one guided step back, written out, with two weighted terms of which one couples people."""
    start, cond, model = make.start(people), make.cond(6), make.model(shape, output=1.0)
    keypoints, smooth = keypoint_term(people), TemporalSmoothness(torch.tensor([0, 0, 0, 1, 1, 1]), 5.0)
    guidance = Guidance(
        noise_level=20, step=20, outer_loops=1, gradient_scale=0.7, stop_change=None, through_network=through
    )
    found, _ = run(model, cond, start, [keypoints, smooth], body, guidance)

    alpha_bar = COSINE.alphas_cumprod.float()
    (signal_0, sigma_0), (signal, sigma) = ((alpha_bar[t].sqrt(), (1 - alpha_bar[t]).sqrt()) for t in (0, 20))

    def noise_in(x: Tensor, t: int) -> Tensor:
        return model(x, torch.full((6,), t), cond)

    clean = model.encode(start)
    noise = noise_in(clean, 0)
    x = signal * (clean - sigma_0 * noise) / signal_0 + sigma * noise
    x.requires_grad_()
    transl = start.transl.clone().requires_grad_()
    noise = noise_in(x, 20)
    x_0 = (x - sigma * (noise if through else noise.detach())) / signal
    posed = PosedPeople(dataclasses.replace(model.decode(x_0, start), transl=transl), body)
    data = keypoints(posed).sum()
    gradient, transl_gradient = torch.autograd.grad(0.003 * data + 5.0 * smooth(posed).sum(), (x, transl))
    guided = noise + sigma * 0.7 * gradient
    expected = model.decode((x - sigma * guided) / signal, start)
    torch.testing.assert_close(found.pose_rot6d, expected.pose_rot6d, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.betas, expected.betas, atol=1e-5, rtol=1e-4)
    # Adam's first step is as long as its rate, against the sign of the gradient.
    torch.testing.assert_close(found.transl, start.transl - 0.01 * transl_gradient.sign(), atol=1e-5, rtol=0)
    plain = model.decode((x - sigma * noise) / signal, start)
    assert (plain.pose_rot6d - expected.pose_rot6d).abs().max() > 1e-3, "the gradient moved something"


def test_the_full_jacobian_changes_the_result(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    start, cond, model, term = make.start(people), make.cond(6), make.model(output=1.0), keypoint_term(people)
    results = []
    for through in (False, True):
        guidance = Guidance(noise_level=20, step=10, outer_loops=1, stop_change=None, through_network=through)
        results.append(run(model, cond, start, [term], body, guidance).estimate)
    assert (results[0].pose_rot6d - results[1].pose_rot6d).abs().max() > 1e-4
    assert not results[1].pose_rot6d.requires_grad


def test_a_still_camera_stays(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    start = make.start(people)
    guidance = Guidance(noise_level=4, step=2, outer_loops=1, camera_lr=0.0)
    found, _ = run(make.model(), make.cond(6), start, [keypoint_term(people)], body, guidance)
    assert torch.equal(found.transl, start.transl)
    assert not torch.equal(found.pose_rot6d, start.pose_rot6d)


def test_progress_counts_to_the_total(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    start, model, calls = make.start(people), make.model(), []
    guidance = Guidance(noise_level=6, step=2, outer_loops=3, stop_change=None)
    denoiser = model.prepared(make.cond(6), guidance.timesteps)
    progress = lambda done, total: calls.append((done, total))  # noqa: E731
    refine(denoiser, COSINE, start, model, [keypoint_term(people)], body, guidance, progress)
    assert calls == [(6, 18), (12, 18), (18, 18)]


def test_when_all_have_finished_no_loop_is_left(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    start, model, calls = make.start(people), make.model(), []
    guidance = Guidance(noise_level=6, step=2, outer_loops=50, stop_change=10.0)
    denoiser = model.prepared(make.cond(6), guidance.timesteps)
    progress = lambda done, total: calls.append((done, total))  # noqa: E731
    _, loops = refine(denoiser, COSINE, start, model, [keypoint_term(people)], body, guidance, progress)
    assert len(calls) == 1
    assert loops.tolist() == [1] * 6


@pytest.mark.parametrize("shape", [False, True])
def test_a_long_video_is_fitted_in_pieces_with_the_same_result(
    body: NamedJoints, people: PoseSample, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, shape: bool
) -> None:
    """Joints are computed for some rows at a time; the term over time still sees all of them."""
    start, cond, model = make.start(people), make.cond(6), make.model(shape, output=1.0)
    terms = [keypoint_term(people), TemporalSmoothness(torch.tensor([0, 0, 0, 0, 1, 1]), 5.0)]
    guidance = Guidance(noise_level=6, step=2, outer_loops=2, stop_change=None)
    whole, _ = run(model, cond, start, terms, body, guidance)
    monkeypatch.setattr(sampler, "_ROWS_AT_ONCE", 4)
    found, _ = run(model, cond, start, terms, body, guidance)
    for name in ("pose_rot6d", "betas", "transl"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), atol=1e-5, rtol=1e-5)
    assert (found.transl - start.transl).abs().max() > 0.01
    alone, _ = run(model, cond, start, terms[:1], body, guidance)
    assert (found.pose_rot6d - alone.pose_rot6d).abs().max() > 1e-4, "time couples them"


def test_coupled_people_cannot_stop_one_by_one(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    term = TemporalSmoothness(torch.zeros(6, dtype=torch.long))
    with pytest.raises(ValueError, match="stop_change: people who belong together cannot stop one by one"):
        run(make.model(), make.cond(6), make.start(people), [term], body, Guidance())


def test_the_noise_level_is_one_of_the_schedule(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    guidance = Guidance(noise_level=1000, step=100)
    with pytest.raises(ValueError, match="noise_level must be below the schedule's 1000 timesteps, got 1000"):
        run(make.model(), make.cond(6), make.start(people), [], body, guidance)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"noise_level": 50, "step": 7}, "noise_level must be a positive multiple of step, got 50 and 7"),
        ({"noise_level": 0}, "noise_level must be a positive multiple of step, got 0 and 2"),
        ({"step": 0}, "noise_level must be a positive multiple of step, got 50 and 0"),
        ({"outer_loops": 0}, "outer_loops must be at least 1, got 0"),
        ({"camera_lr": -1.0}, "camera_lr must not be negative, got -1.0"),
        ({"gradient_scale": -2.0}, "gradient_scale must not be negative, got -2.0"),
        ({"w_prior": -3.0}, "w_prior must not be negative, got -3.0"),
        ({"prior_t": -4}, "prior_t must not be negative, got -4"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Guidance(**settings)


def test_timesteps_reach_from_zero_to_the_noise_level() -> None:
    assert Guidance(noise_level=100, step=10).timesteps == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert len(Guidance().timesteps) == 26
