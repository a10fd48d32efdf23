import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from posecore.body.named_joints import NamedJoints
from posecore.data.sample import PoseSample
from posecore.diffusion.schedule import NoiseSchedule
from posecore.fitting.estimate import SMPLEstimate
from posecore.fitting.optimise import SMPLifySettings
from posecore.fitting.terms import KeypointReprojection, TemporalSmoothness, Term
from scorehmr.fitting import FitResult, FitSettings, Fitter, PriorFitSettings, fit, reprojection_px
from scorehmr.sampler import Guidance

COSINE = NoiseSchedule.named("cosine_1000")
QUICK = FitSettings(
    guidance=Guidance(noise_level=20, step=4, outer_loops=4),
    smplify=SMPLifySettings(camera_steps=20, body_steps=15),
    prior=PriorFitSettings(steps=25),
)


def keypoints(batch: PoseSample) -> tuple[Tensor, Tensor, Tensor]:
    return batch["joints_2d_px"][:, :25], batch["confidence"][:, :25], batch["K"]


def run(
    batch: PoseSample,
    body: NamedJoints,
    make: SimpleNamespace,
    fitter: Fitter,
    more_terms: list[Term] | None = None,
    group: Tensor | None = None,
    settings: FitSettings = QUICK,
) -> FitResult:
    terms: list[Term] = [KeypointReprojection(*keypoints(batch), batch["image_size"]), *(more_terms or [])]
    chosen = dataclasses.replace(settings, fitter=fitter)
    return fit(make.model(output=0.02), COSINE, make.cond(6), make.start(batch), terms, body, chosen, group)


@pytest.mark.parametrize("fitter", ["scorehmr", "smplify", "prior"])
def test_a_fit_comes_closer_to_the_keypoints(
    body: NamedJoints, people: PoseSample, make: SimpleNamespace, fitter: Fitter
) -> None:
    result = run(people, body, make, fitter)
    before = reprojection_px(result.start, body, *keypoints(people))
    after = reprojection_px(result.fitted, body, *keypoints(people))
    assert bool((after < before).all())
    assert after.mean() < 0.9 * before.mean()
    start = make.start(people)
    assert torch.equal(result.start.pose_rot6d, start.pose_rot6d)
    assert bool(torch.isfinite(result.fitted.pose_rot6d).all())
    assert not result.fitted.pose_rot6d.requires_grad
    assert bool((result.loops == (4 if fitter == "scorehmr" else 0)).all())


def test_none_returns_the_start(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    result = run(people, body, make, "none")
    for name in ("pose_rot6d", "betas", "transl"):
        assert torch.equal(getattr(result.fitted, name), getattr(make.start(people), name))


@pytest.mark.parametrize("fitter", ["scorehmr", "none"])
def test_a_group_shares_its_mean_shape(
    body: NamedJoints, people: PoseSample, make: SimpleNamespace, fitter: Fitter
) -> None:
    group = torch.tensor([0, 1, 0, 1, 1, 2])
    settings = FitSettings(guidance=Guidance(noise_level=2, step=2, outer_loops=1))
    result = run(people, body, make, fitter, group=group, settings=settings)
    betas = make.start(people).betas
    for rows in ([0, 2], [1, 3, 4], [5]):
        torch.testing.assert_close(result.fitted.betas[rows], betas[rows].mean(dim=0).expand(len(rows), 10))
    assert torch.equal(result.start.betas, betas)


def test_people_who_are_coupled_stay_to_the_end(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    settings = FitSettings(guidance=Guidance(noise_level=4, step=2, outer_loops=3, stop_change=100.0))
    alone = run(people, body, make, "scorehmr", settings=settings)
    together = run(people, body, make, "scorehmr", [TemporalSmoothness(torch.zeros(6).long())], settings=settings)
    assert alone.loops.tolist() == [1] * 6
    assert together.loops.tolist() == [3] * 6


def test_smoothness_makes_a_track_smoother(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    track = torch.tensor([0, 0, 0, 0, 1, 1])
    change = []
    for weight in (0.0, 30.0):
        pose = run(people, body, make, "scorehmr", [TemporalSmoothness(track, weight)]).fitted.pose_rot6d
        change.append((pose[1:4] - pose[:3]).square().sum())
    assert change[1] < 0.9 * change[0]


def test_the_prior_fit_repeats_itself(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    def poses(seed: int) -> Tensor:
        settings = FitSettings(prior=PriorFitSettings(steps=3), seed=seed)
        return run(people, body, make, "prior", settings=settings).fitted.pose_rot6d

    assert torch.equal(poses(0), poses(0))
    assert not torch.equal(poses(0), poses(1))


def test_the_learned_prior_can_guide_too(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    """Its draws repeat, and nobody's fit depends on who else is there, or on when they leave."""
    model, cond, start = make.model(output=1.0), make.cond(6), make.start(people)
    term = KeypointReprojection(*keypoints(people), people["image_size"])

    def poses(w_prior: float, seed: int = 0, rows: Tensor | None = None) -> Tensor:
        rows = torch.arange(6) if rows is None else rows
        guidance = Guidance(noise_level=6, step=2, outer_loops=3, stop_change=1e-2, w_prior=w_prior)
        settings = FitSettings(guidance=guidance, seed=seed)
        own_terms: list[Term] = [term.take(rows)]
        result = fit(model, COSINE, cond[rows], start.take(rows), own_terms, body, settings)
        return result.fitted.pose_rot6d

    guided = poses(2.0)
    assert torch.equal(guided, poses(2.0))
    assert not torch.equal(guided, poses(2.0, seed=1))
    assert torch.equal(poses(0.0), poses(0.0, seed=1))
    assert not torch.allclose(guided, poses(0.0))
    for rows in (torch.tensor([4]), torch.tensor([5, 0])):
        torch.testing.assert_close(poses(2.0, rows=rows), guided[rows], atol=2e-5, rtol=0)


def test_guidance_through_the_network_is_a_setting(
    body: NamedJoints, people: PoseSample, make: SimpleNamespace
) -> None:
    through = Guidance(noise_level=20, step=10, outer_loops=1, through_network=True)
    plain = dataclasses.replace(through, through_network=False)
    poses = [
        run(people, body, make, "scorehmr", settings=FitSettings(guidance=g)).fitted.pose_rot6d
        for g in (plain, through)
    ]
    assert not torch.equal(*poses)
    torch.testing.assert_close(*poses, atol=0.05, rtol=0)


def test_unknown_fitters_are_named() -> None:
    settings = FitSettings()
    object.__setattr__(settings, "fitter", "adam")  # past the type check of these tests
    with pytest.raises(ValueError, match="fitter is 'adam'; valid are 'scorehmr', 'smplify', 'prior', 'none'"):
        settings.__post_init__()


def test_reprojection_is_weighted_by_confidence(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    batch = make.confidence(people)
    batch["confidence"][2] = 0
    start: SMPLEstimate = make.start(people)
    found = reprojection_px(start, body, *keypoints(batch))
    joints = body(start.betas, start.body_pose, start.global_orient, start.transl)
    for row in range(6):
        seen = [j for j in range(25) if batch["confidence"][row, j] > 0]
        pixels = [batch["K"][row] @ joints[row, j] for j in seen]
        distance = [(p[:2] / p[2] - batch["joints_2d_px"][row, j]).norm() for j, p in zip(seen, pixels, strict=True)]
        weight = [batch["confidence"][row, j] for j in seen]
        if seen:
            expected = sum(w * d for w, d in zip(weight, distance, strict=True)) / sum(weight)
            torch.testing.assert_close(found[row], expected, rtol=1e-3, atol=1e-2)
        else:
            assert found[row].isnan()
