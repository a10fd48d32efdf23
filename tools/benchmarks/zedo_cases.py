"""ZeDO: the loop and the initial pose optimiser against the plain program, and the loop's peak memory."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.memory import measured_facts
from benchmarks.plain_zedo import plain_initial_poses, plain_zedo
from benchmarks.timing import OURS, Case, Variant
from posecore.data import PoseDataset, PoseSample, SyntheticMotion
from zedo.module import ZeDO
from zedo.network import ScoreNetwork
from zedo.prior import ScoreBackbone
from zedo.sampler import InitialPose, Loop, Target, initial_poses, optimise

# Measured once on an idle machine with two cores, with random weights: of the authors' program.
RELEASED_LOOP_S = {1: 3.7, 100: 16.3, 886: 87.0}
RELEASED_INITIAL_S = {1: 0.9, 886: 1.4}


def problem(people: int, hypotheses: int = 1, seed: int = 0) -> tuple[Float[Tensor, "hypotheses 17 3"], Target]:
    """Anchors, and keypoints of other people 5 px beside the truth; all are found, with confidences from 0.1 to 1."""
    generator = torch.Generator().manual_seed(seed)
    anchors = _spread(SyntheticMotion(num_clips=7), hypotheses)["joints_rel"]
    sample = _spread(SyntheticMotion(num_clips=14, split="test"), people)
    pixels = sample["joints_2d_px"]
    noise = 5 * torch.randn(pixels.shape, generator=generator)
    confidence = 1 - 0.9 * torch.rand(pixels.shape[:-1], generator=generator)
    return anchors, Target(pixels + noise, confidence, sample["K"])


def _spread(dataset: PoseDataset, count: int) -> PoseSample:
    """Rows evenly spread over a data set."""
    return dataset.__getitems__([i * len(dataset) // count for i in range(count)])


def run_ours(
    network: ScoreNetwork, anchors: Tensor, target: Target, num_iterations: int, initial_steps: int = 0
) -> Float[Tensor, "people hypotheses 18 3"]:
    """Poses and, as a last row, translations by `zedo.sampler.optimise`."""
    initial, loop = InitialPose(num_steps=initial_steps), Loop(num_iterations=num_iterations)
    result = optimise(network, ScoreBackbone(), anchors, target, initial, loop)
    return torch.cat([result.joints_rel, result.transl[..., None, :]], dim=-2)


def run_plain(
    network: ScoreNetwork, anchors: Tensor, target: Target, num_iterations: int, initial_steps: int = 0
) -> Float[Tensor, "people hypotheses 18 3"]:
    """The same by `plain_zedo`, in numpy's float64 around the network."""
    inputs = (anchors, target.joints_2d_px, target.confidence, target.K)
    P_init, pixels, confidence, K = (x.double().numpy() for x in inputs)
    poses, transl = plain_zedo(network, P_init, pixels, confidence, K, num_iterations, initial_steps)
    return torch.cat([torch.from_numpy(poses), torch.from_numpy(transl)[..., None, :]], dim=-2)


def zedo_cases(quick: bool) -> Iterator[Case]:
    """The loop with the shipped weights, one hypothesis and no initial optimiser; then the initial optimiser alone."""
    iterations, steps = (50, 50) if quick else (1000, 500)
    network = ZeDO.pretrained().network
    for people in (1, 16) if quick else (1, 100, 886):
        yield _loop_case(network, people, iterations, None if quick else RELEASED_LOOP_S[people])
    for people in (1, 16) if quick else (1, 886):
        yield _initial_case(people, steps, None if quick else RELEASED_INITIAL_S[people])


def _loop_case(network: ScoreNetwork, people: int, iterations: int, released_s: float | None) -> Case:
    anchors, target = problem(people)
    variants = {
        OURS: Variant(lambda: run_ours(network, anchors, target, iterations)),
        "plain": Variant(lambda: run_plain(network, anchors, target, iterations)),
    }
    return Case("zedo", f"loop, {iterations} iterations, B={people}", variants, released_s=released_s)


def _initial_case(people: int, steps: int, released_s: float | None) -> Case:
    anchors, target = problem(people)

    def ours() -> Tensor:
        poses, transl = initial_poses(anchors, target, InitialPose(num_steps=steps))
        return (poses + transl[..., None, :])[:, 0]

    def plain() -> Tensor:
        poses, transl = plain_initial_poses(anchors[0].numpy(), target.joints_2d_px.numpy(), target.K.numpy(), steps)
        return torch.from_numpy(poses + transl[:, None])

    # Adam at a fixed rate does not settle on an absolute error: rounding alone moves the last steps about.
    note = "the difference is where Adam happens to be around the optimum"
    variants = {OURS: Variant(ours), "plain": Variant(plain, note=note)}
    return Case("zedo", f"initial pose, {steps} steps, B={people}", variants, released_s=released_s)


def peak_memory(quick: bool) -> dict[str, Any]:
    """Peak memory of all hypotheses of many frames at once, in a process of its own (`benchmarks.memory`)."""
    hypotheses, frames = (2, 50) if quick else (50, 1000)
    return measured_facts("zedo", hypotheses, frames, 20)
