"""What ScoreHMR's tests share: people before cameras, a small diffusion model, an estimate that is somewhat wrong."""

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import BODY_25
from posecore.data import PoseTable, SyntheticMotion
from posecore.data.sample import PoseSample
from posecore.fitting.estimate import SMPLEstimate
from scorehmr.latent import PoseAndShape

COND = 24


def random_confidence(batch: PoseSample, seed: int = 0) -> PoseSample:
    """The same people with confidences in (0.1, 1], and every third keypoint or so not seen."""
    generator = torch.Generator().manual_seed(seed)
    shape = batch["confidence"].shape
    confidence = 1 - 0.9 * torch.rand(shape, generator=generator)
    confidence[torch.rand(shape, generator=generator) < 0.3] = 0
    return cast(PoseSample, {**batch, "confidence": confidence})


def wrong_start(batch: PoseSample, angle: float = 0.1, metres: float = 0.1, seed: int = 0) -> SMPLEstimate:
    """The truth with noise on every number, as a regressor would give it."""
    generator = torch.Generator().manual_seed(seed)
    true = SMPLEstimate.from_rotmat(batch["global_orient"], batch["body_pose"], batch["betas"], batch["transl"])

    def noisy(values: Tensor, scale: float) -> Tensor:
        return values + scale * torch.randn(values.shape, generator=generator)

    return SMPLEstimate(noisy(true.pose_rot6d, angle), noisy(true.betas, angle), noisy(true.transl, metres))


def small_model(shape: bool = False, cond_dim: int = COND, output: float = 0.1, seed: int = 3) -> PoseAndShape:
    """A diffusion model of random weights; its noise prediction is smooth where ``output`` is small."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PoseAndShape(cond_dim, hidden_dim=32, shape=shape).eval()
    for branch in (model.pose, model.shape):
        if branch is not None:
            for parameter in branch.output.parameters():
                parameter.data.mul_(output)
    return model.requires_grad_(False)


def conditions(people: int, dim: int = COND, seed: int = 5) -> Tensor:
    return torch.randn(people, dim, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def body() -> NamedJoints:
    return NamedJoints(BODY_25)


@pytest.fixture(scope="session")
def table() -> PoseTable:
    """Two clips of a few frames, each frame seen by two views, rows in the order clip, frame, view."""
    return SyntheticMotion(num_clips=2, stride=40, views=2, joints="body", joint_set="joints44", betas="clip")


@pytest.fixture(scope="session")
def people(table: PoseTable) -> PoseSample:
    """Six of their rows: two frames of the first clip and one of the second."""
    last = len(table)
    return table.__getitems__([0, 1, 2, 3, last - 2, last - 1])


@pytest.fixture
def make() -> SimpleNamespace:
    """The functions above under one name: ``make.model()``, ``make.start(people)``."""
    return SimpleNamespace(model=small_model, start=wrong_start, cond=conditions, confidence=random_confidence)
