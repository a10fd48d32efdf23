import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from posecore.body.files import load_body_model
from posecore.export import BodyMotion
from posecore.export.correctives import fit_correctives
from posecore.testing import swaying_body, with_pose_blend_shapes


@pytest.fixture(scope="module")
def motion() -> BodyMotion:
    return swaying_body(with_pose_blend_shapes(load_body_model()), frames=70)


def displacements(motion: BodyMotion) -> Tensor:
    """By SMPL's Eq. 9, entry by entry."""
    turned = (motion.body_pose.double() - torch.eye(3).double()).flatten(1)
    return torch.einsum("vcp,fp->fvc", motion.model.posedirs.double(), turned)


@pytest.mark.parametrize("tolerance", [5e-5, 2e-3])
def test_targets_and_weights_give_the_displacements(motion: BodyMotion, tolerance: float) -> None:
    found = fit_correctives(motion, tolerance)
    made = torch.einsum("ft,tvc->fvc", found.weights, found.targets)
    error = float((made - displacements(motion)).norm(dim=-1).max())
    assert error <= tolerance
    assert found.max_error == pytest.approx(error, rel=1e-3)
    assert 0 <= found.weights.min() <= found.weights.max() <= 1
    assert (found.weights[:, 0] == 1).all()


def test_a_coarser_tolerance_takes_fewer_targets(motion: BodyMotion) -> None:
    fine, coarse = (len(fit_correctives(motion, tolerance).targets) for tolerance in (5e-5, 5e-3))
    assert 1 < coarse < fine <= 71


def test_without_targets_the_error_is_the_longest_displacement(motion: BodyMotion) -> None:
    found = fit_correctives(motion, math.inf)
    assert found.targets.shape == (0, 6890, 3)
    assert found.weights.shape == (70, 0)
    assert found.max_error == pytest.approx(float(displacements(motion).norm(dim=-1).max()), rel=1e-5)
    assert found.max_error > 0.01


def test_a_body_without_blend_shapes_needs_none() -> None:
    found = fit_correctives(swaying_body(load_body_model()), 0.0)
    assert len(found.targets) == 0
    assert found.max_error == 0


def test_one_frame_takes_one_target(motion: BodyMotion) -> None:
    keys = ("global_orient", "body_pose", "transl", "betas")
    first = replace(motion, **{key: getattr(motion, key)[:1] for key in keys})
    found = fit_correctives(first, 5e-5)
    assert len(found.targets) == 1
    torch.testing.assert_close(found.targets, displacements(first), rtol=0, atol=1e-7)
