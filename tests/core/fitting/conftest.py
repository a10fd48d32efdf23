"""People before cameras: frames of generated motion as an estimate, and what a detector would see of them."""

from typing import cast

import pytest
import torch

from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import BODY_25
from posecore.data import SyntheticMotion
from posecore.data.sample import PoseSample
from posecore.fitting.estimate import SMPLEstimate


@pytest.fixture(scope="session")
def body() -> NamedJoints:
    return NamedJoints(BODY_25)


@pytest.fixture(scope="session")
def sample() -> PoseSample:
    """Eight people of several actions, float64; the 25 keypoints are OpenPose's, exact and all seen."""
    table = SyntheticMotion(num_clips=8, joints="body", joint_set="joints44", stride=1000)
    batch = {key: value.double() for key, value in table.samples.items() if isinstance(value, torch.Tensor)}
    for key in ("joints_cam", "joints_2d_px", "confidence"):
        batch[key] = batch[key][:, :25]
    return cast(PoseSample, batch)


@pytest.fixture(scope="session")
def people(sample: PoseSample) -> SMPLEstimate:
    return SMPLEstimate.from_rotmat(sample["global_orient"], sample["body_pose"], sample["betas"], sample["transl"])
