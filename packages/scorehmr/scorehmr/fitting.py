"""A fit from start to result: ScoreHMR itself, and the baselines of Table 2 from the same start and data terms."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.body.named_joints import NamedJoints
from posecore.diffusion.noise import NoiseStreams
from posecore.diffusion.schedule import NoiseSchedule
from posecore.fitting.estimate import PosedPeople, SMPLEstimate
from posecore.fitting.optimise import SMPLifySettings, optimise, smplify
from posecore.fitting.priors import GaussianPosePrior, ShapePrior
from posecore.fitting.terms import Term, mean_over_groups
from posecore.geometry.camera import project
from scorehmr.latent import PoseAndShape
from scorehmr.prior import DiffusionPrior
from scorehmr.sampler import Guidance, Progress, refine

Fitter = Literal["scorehmr", "smplify", "prior", "none"]


@dataclass(frozen=True)
class PriorFitSettings:
    """Settings of the plain fit with a learned prior.

    Attributes:
        prior: ``"diffusion"``: the diffusion model's score, which knows the features; ``"gaussian"``: one Gaussian over
            all poses of the open motion.
        steps: Adam steps.
        lr: Adam's learning rate.
        t: Timestep at which the diffusion prior looks at the pose.
        w_prior: Weight of the prior.
        w_betas: Weight of the squared betas.
    """

    prior: Literal["diffusion", "gaussian"] = "diffusion"
    steps: int = 250
    lr: float = 1e-2
    t: int = 50
    w_prior: float = 1.0
    w_betas: float = 1.0


@dataclass(frozen=True)
class FitSettings:
    """How people are fitted.

    Attributes:
        fitter: ``"scorehmr"``; ``"smplify"`` or ``"prior"`` for the baselines; ``"none"`` returns the start.
        guidance: ScoreHMR's loop.
        warm_up: A run of the loop with other settings before it. Not in the paper: for a start that is less accurate
            than what the features tell, a run with the prior's own pull (``w_prior``) comes first.
        smplify: SMPLify.
        prior: The plain fit with the diffusion prior.
        seed: Of the diffusion prior's noise; nothing else draws.
    """

    fitter: Fitter = "scorehmr"
    guidance: Guidance = field(default_factory=Guidance)
    warm_up: Guidance | None = None
    smplify: SMPLifySettings = field(default_factory=SMPLifySettings)
    prior: PriorFitSettings = field(default_factory=PriorFitSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fitter not in get_args(Fitter):
            raise ValueError(f"fitter is {self.fitter!r}; valid are {', '.join(map(repr, get_args(Fitter)))}")


class FitResult(NamedTuple):
    """Estimates of people before and after a fit."""

    start: SMPLEstimate
    fitted: SMPLEstimate
    loops: Int[Tensor, " people"]
    """Outer loops that each person took part in (ScoreHMR)."""


def fit(
    model: PoseAndShape,
    schedule: NoiseSchedule,
    cond: Float[Tensor, "people cond"],
    start: SMPLEstimate,
    terms: list[Term],
    body: NamedJoints,
    settings: FitSettings,
    shape_group: Int[Tensor, " people"] | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Fits people.

    Args:
        model: The diffusion model.
        schedule: Its schedule.
        cond: Standardised features.
        start: x_reg.
        terms: What is fitted to.
        body: Joints of the terms.
        settings: How.
        shape_group: Rows with the same number start with their mean shape, as the release does for views and videos.
        progress: Called with (done, total).
    """
    first = start
    if shape_group is not None:
        first = dataclasses.replace(start, betas=mean_over_groups(start.betas, shape_group))
    loops = torch.zeros(len(start), dtype=torch.long, device=start.transl.device)
    if settings.fitter == "none":
        return FitResult(start, first, loops)

    def learned_prior(t: int, weight: float, part: int = 0) -> DiffusionPrior:
        # A part of the fit has noise of its own: how long the one before took depends on who else is there.
        noise = NoiseStreams.of_rows(settings.seed, torch.tensor([part]))
        return DiffusionPrior(model.prepared(cond, [t]), schedule, model, t, weight, noise)

    if settings.fitter == "scorehmr":
        fitted = first
        for part, guidance in enumerate((settings.warm_up, settings.guidance)):
            if guidance is None:
                continue
            if any(term.couples_people for term in terms):
                guidance = dataclasses.replace(guidance, stop_change=None)
            used = [*terms, learned_prior(guidance.prior_t, guidance.w_prior, part)] if guidance.w_prior else terms
            prepared = not guidance.through_network
            denoiser = model.prepared(cond, guidance.timesteps) if prepared else model.differentiable(cond)
            result = refine(denoiser, schedule, fitted, model, used, body, guidance, progress)
            fitted, loops = result.estimate, loops + result.loops
        return FitResult(start, fitted, loops)
    if settings.fitter == "smplify":
        return FitResult(start, smplify(first, terms, body, settings.smplify, progress), loops)
    prior = settings.prior
    learned = (
        learned_prior(prior.t, prior.w_prior)
        if prior.prior == "diffusion"
        else GaussianPosePrior.load(weight=prior.w_prior)
    )
    priors = [learned, ShapePrior(prior.w_betas)]
    fitted = optimise(first, [*terms, *priors], body, prior.steps, prior.lr, progress=progress)
    return FitResult(start, fitted, loops)


def reprojection_px(
    estimate: SMPLEstimate,
    body: NamedJoints,
    keypoints_px: Float[Tensor, "people joints 2"],
    confidence: Float[Tensor, "people joints"],
    K: Float[Tensor, "people 3 3"],
) -> Float[Tensor, " people"]:
    """Mean distance of projected joints from keypoints, weighted by confidence, pixels; NaN where none was seen."""
    distance = (project(PosedPeople(estimate, body).joints_cam, K) - keypoints_px).norm(dim=-1)
    mean: Tensor = (distance * confidence).sum(-1) / confidence.sum(-1)
    return mean
