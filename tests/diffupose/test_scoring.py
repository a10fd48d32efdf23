from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffupose.sampler import DiffuPoseResult, aggregate
from diffupose.scoring import RULES, poses_by_rule
from posecore.body.skeletons import H36M_17
from posecore.data.sample import PoseSample
from posecore.geometry.placement import reprojection_error, solve_translation
from posecore.metrics.functional import mpjpe

Make = Callable[..., PoseSample]
HONEST = [rule for rule in RULES if rule not in ("min_", "true_root_")]


def result_of(joints_rel: Tensor, batch: PoseSample) -> DiffuPoseResult:
    """Hypotheses as the method would hand them back."""
    seen = batch["joints_2d_px"], batch["confidence"], batch["K"]
    transl = solve_translation(joints_rel, *seen)
    error = reprojection_error(joints_rel, transl, *seen)
    return DiffuPoseResult(joints_rel, transl, error, aggregate(joints_rel, error, "mean"))


def scores(result: DiffuPoseResult, batch: PoseSample) -> dict[str, Tensor]:
    """Error of every rule's poses, mm, one number per person."""
    poses = poses_by_rule(result, batch)
    truth = batch["joints_rel"][:, None]
    return {rule: mpjpe(pose, truth.expand_as(pose)).amin(dim=1) for rule, pose in poses.items()}


@pytest.mark.parametrize("seed", range(3))
def test_the_true_root_hides_that_x_and_y_are_random(make_sample: Make, seed: int) -> None:
    """A prediction that knows z and nothing else: the release reports 0 mm for it, honest rules do not."""
    batch = make_sample(H36M_17, people=20, seed=seed)
    guesses = batch["joints_rel"][:, None].repeat(1, 3, 1, 1)
    generator = torch.Generator().manual_seed(seed)
    guesses[:, :, 1:, :2] = torch.randn(20, 3, 16, 2, generator=generator, dtype=torch.float64)
    found = scores(result_of(guesses, batch), batch)
    assert set(found) == set(RULES)
    assert found["true_root_"].max() < 1e-6
    for rule in [*HONEST, "min_"]:
        assert found[rule].mean() > 300, rule


def test_a_perfect_prediction_scores_zero_by_every_rule(make_sample: Make) -> None:
    batch = make_sample(H36M_17)
    found = scores(result_of(batch["joints_rel"][:, None].repeat(1, 3, 1, 1), batch), batch)
    assert all(found[rule].max() < 1e-6 for rule in RULES)


def test_rules_without_the_truth_do_not_read_it(make_sample: Make) -> None:
    batch = make_sample(H36M_17)
    guesses = batch["joints_rel"][:, None] + 0.1 * torch.randn(4, 3, 17, 3, generator=torch.Generator().manual_seed(0))
    result = result_of(guesses, batch)
    expected = poses_by_rule(result, batch)
    for key in ("joints_cam", "joints_rel", "joints_2d_true_px"):
        batch[key] = torch.randn_like(batch[key])
    found = poses_by_rule(result, batch)
    for rule in [*HONEST, "min_"]:
        assert torch.equal(found[rule], expected[rule]), rule
    assert not torch.allclose(found["true_root_"], expected["true_root_"])


def test_each_rule_is_its_description(make_sample: Make) -> None:
    batch = make_sample(H36M_17)
    generator = torch.Generator().manual_seed(0)
    guesses = batch["joints_rel"][:, None] + 0.1 * torch.randn(4, 5, 17, 3, generator=generator, dtype=torch.float64)
    guesses[..., 0, :] = 0
    result = result_of(guesses, batch)._replace(pose=guesses[:, 2])
    poses = poses_by_rule(result, batch)
    assert set(poses) == set(RULES)
    assert torch.equal(poses["min_"], guesses)
    assert {pose.shape for rule, pose in poses.items() if rule != "min_"} == {(4, 1, 17, 3)}
    assert torch.equal(poses[""][:, 0], guesses[:, 2])
    for rule in ("mean", "medoid", "reprojection"):
        assert torch.equal(poses[f"{rule}_"][:, 0], aggregate(guesses, result.reprojection_px, rule))
    # Refined poses keep their depth and lie on the rays from somewhere; the true root's from the true place.
    for rule in ("refined_", "true_root_"):
        assert torch.equal(poses[rule][..., 2], poses[""][..., 2])
        assert not torch.allclose(poses[rule], poses[""])
    truth = batch["joints_cam"]
    rays = truth / truth[..., 2:]
    placed = poses["true_root_"][:, 0] + truth[:, :1]
    torch.testing.assert_close(placed[:, 1:], (rays * placed[..., 2:])[:, 1:])
    transl = solve_translation(poses[""], batch["joints_2d_px"], batch["confidence"], batch["K"])
    placed = poses["refined_"][:, 0] + transl
    torch.testing.assert_close(placed[:, 1:], (rays * placed[..., 2:])[:, 1:])
