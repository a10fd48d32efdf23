"""ScoreHMR: the keypoint fit against the plain program, the network alone, and the peak memory of a fit."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import measured_facts
from benchmarks.plain_scorehmr import denoise, plain_scorehmr
from benchmarks.timing import OURS, Case, Variant
from posecore.body.files import load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import BODY_25
from posecore.data import PoseSample, SyntheticMotion
from posecore.diffusion.schedule import NoiseSchedule
from posecore.fitting.estimate import SMPLEstimate
from posecore.fitting.terms import KeypointReprojection
from scorehmr.latent import PoseAndShape
from scorehmr.sampler import Guidance, refine

# Measured once on an idle machine with two cores, with random weights: of the authors' program, 10 outer loops.
RELEASED_S = {1: 5.25, 32: 21.3}


class Problem:
    """People with keypoints, starts a few degrees beside the truth, and a network of PARE's size with small weights."""

    def __init__(self, people: int, cond_dim: int = 3072, hidden_dim: int = 1024) -> None:
        generator = torch.Generator().manual_seed(0)
        data = SyntheticMotion(num_clips=14, joints="body", joint_set="joints44")
        self.batch: PoseSample = data.__getitems__([i * len(data) // people for i in range(people)])
        true = SMPLEstimate.from_rotmat(
            *(self.batch[key] for key in ("global_orient", "body_pose", "betas", "transl"))  # type: ignore[literal-required]
        )
        noise = 0.05 * torch.randn(true.pose_rot6d.shape, generator=generator)
        self.start = SMPLEstimate(true.pose_rot6d + noise, true.betas, true.transl + 0.05)
        self.confidence = 1 - 0.9 * torch.rand(people, 25, generator=generator)
        self.cond = torch.randn(people, cond_dim, generator=generator)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.model = PoseAndShape(cond_dim, hidden_dim)
        for parameter in self.model.parameters():
            parameter.data *= 0.3  # an untrained network of full strength drives poses apart
        self.body = NamedJoints(BODY_25)
        self.schedule = NoiseSchedule.named("cosine_1000")

    def ours(self, guidance: Guidance) -> Tensor:
        """By `scorehmr.sampler.refine`."""
        term = KeypointReprojection(
            self.batch["joints_2d_px"][:, :25], self.confidence, self.batch["K"], self.batch["image_size"]
        )
        denoiser = self.model.prepared(self.cond, guidance.timesteps)
        return refine(denoiser, self.schedule, self.start, self.model, [term], self.body, guidance).estimate.pose_rot6d

    def plain(self, guidance: Guidance) -> Tensor:
        """The same by `plain_scorehmr`."""
        pose, _ = plain_scorehmr(
            self.model.pose,
            load_body_model(),
            self.cond,
            self.start.pose_rot6d,
            self.start.betas,
            self.start.transl,
            self.batch["joints_2d_px"][:, :25],
            self.confidence,
            self.batch["K"],
            self.batch["image_size"],
            loops=guidance.outer_loops,
            stop_change=guidance.stop_change,
        )
        return pose


def scorehmr_cases(quick: bool) -> Iterator[Case]:
    """The default keypoint fit, all ten loops gone through by everybody; then one call of the network."""
    guidance = Guidance(outer_loops=1 if quick else 10, stop_change=None)
    for people in (1, 4) if quick else (1, 32, 256):
        problem = Problem(people, 64 if quick else 3072, 32 if quick else 1024)
        variants = {OURS: Variant(lambda p=problem: p.ours(guidance))}  # type: ignore[misc]
        plain = None if people > 32 else lambda p=problem: p.plain(guidance)  # type: ignore[misc]
        variants["plain"] = Variant(plain, note="not run: minutes" if plain is None else "")
        released = None if quick else RELEASED_S.get(people)
        name = f"keypoint fit, {guidance.outer_loops} loops, B={people}"
        yield Case("scorehmr", name, variants, "relative", released)
    for people in (4,) if quick else (1, 32, 256):
        problem = Problem(people, 64 if quick else 3072, 32 if quick else 1024)
        prepared, x = problem.model.prepared(problem.cond, [50]), problem.start.pose_rot6d.flatten(1)
        variants = {
            OURS: Variant(lambda p=prepared, x=x: p(x, 50)),  # type: ignore[misc]
            "plain": Variant(lambda p=problem, x=x: _plain_call(p, x)),  # type: ignore[misc]
        }
        yield Case("scorehmr", f"network call, PARE features, B={people}", variants, "relative")


@torch.no_grad()
def _plain_call(problem: Problem, x: Tensor) -> Tensor:
    return denoise(problem.model.pose, x, 50, problem.cond)


def peak_memory(quick: bool) -> dict[str, Any]:
    """Peak memory of the keypoint fit of many people at once, in a process of its own (`benchmarks.memory`)."""
    return measured_facts("scorehmr", 8 if quick else 256, 1)
