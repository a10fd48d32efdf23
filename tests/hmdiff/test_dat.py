from typing import Any

import pytest
import torch

from hmdiff.dat import Alignment, Target, bounded, still_active


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gap_is_equation_10_summed_over_all_poses() -> None:
    """And so is its gradient, although the gap keeps no more than mean and spread."""
    poses, joints = draw(2, 7, 4, 3), draw(2, 5, 4, 3, seed=1).requires_grad_()
    gap = Target.of_poses(poses).gap(joints)
    wanted = torch.stack(
        [
            torch.stack([sum((u - pose).square().sum() for u in poses[image]) for pose in joints[image]])
            for image in range(2)
        ]
    )
    torch.testing.assert_close(gap, wanted)
    (found,), (expected,) = (torch.autograd.grad(value.sum(), joints) for value in (gap, wanted))
    torch.testing.assert_close(found, expected)
    assert found.abs().max() > 1


def test_one_pose_may_count_for_many() -> None:
    pose, joints = draw(2, 1, 4, 3), draw(2, 5, 4, 3, seed=1)
    repeated = Target.of_poses(pose.expand(2, 25, 4, 3)).gap(joints)
    torch.testing.assert_close(Target.of_poses(pose, count=25).gap(joints), repeated)
    torch.testing.assert_close(Target.of_poses(pose).gap(joints), repeated / 25)


def test_gap_is_least_at_the_mean() -> None:
    target = Target.of_poses(draw(2, 6, 4, 3))
    torch.testing.assert_close(target.gap(target.mean[:, None]), target.spread[:, None])
    assert (target.gap(target.mean[:, None] + 0.1) > target.spread[:, None]).all()


def test_take_is_some_of_the_images() -> None:
    target, joints = Target.of_poses(draw(3, 6, 4, 3)), draw(3, 5, 4, 3, seed=1)
    assert torch.equal(target.take(slice(1, 3)).gap(joints[1:]), target.gap(joints)[1:])


def test_shifts_are_shortened_and_never_turned() -> None:
    shift = draw(2, 3, 5, 3) * torch.tensor([0.01, 0.1, 30.0], dtype=torch.float64)[:, None, None]
    found = bounded(shift, 0.5)
    rms, own = (values.square().mean(dim=(-2, -1)).sqrt() for values in (found, shift))
    torch.testing.assert_close(rms, own.clamp_max(0.5))
    torch.testing.assert_close(found[:, :2], shift[:, :2], msg="short ones are left alone")
    torch.testing.assert_close(found / rms[..., None, None], shift / own[..., None, None])
    assert torch.equal(bounded(shift, torch.tensor(0.0)), torch.zeros_like(shift))


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_moves_nothing(broken: float) -> None:
    shift = draw(1, 2, 5, 3)
    shift[0, 0] = broken
    shift[0, 1, 2, 0] = broken
    found = bounded(shift, 0.5)
    assert torch.isfinite(found).all()
    assert not found[0, 0].any()
    assert found[0, 1, 2, 0] == 0
    assert found[0, 1].square().mean().sqrt() == pytest.approx(0.5)
    assert torch.equal(bounded(torch.zeros(1, 1, 5, 3), 0.5), torch.zeros(1, 1, 5, 3)), "nothing divided by nothing"


def test_a_sample_once_below_the_threshold_is_left_alone_for_good() -> None:
    settings, first = Alignment(threshold=0.1), torch.tensor([[10.0, 10.0, 20.0, 10.0]])
    active = torch.tensor([[True, True, True, False]])
    active = still_active(active, torch.tensor([[1.0, 0.99, 1.5, 9.0]]), first, settings)
    assert active.tolist() == [[True, False, False, False]], "R_k = r is still aligned (line 8 of Algorithm 1)"
    active = still_active(active, torch.full((1, 4), 50.0), first, settings)
    assert active.tolist() == [[True, False, False, False]]
    active = still_active(active, torch.full((1, 4), torch.nan), first, settings)
    assert not active.any(), "what is no number is not followed"


def test_without_activation_it_is_never_over() -> None:
    active = torch.ones(1, 2, dtype=torch.bool)
    found = still_active(active, torch.zeros(1, 2), torch.ones(1, 2), Alignment(activation=False))
    assert found.all()


def test_defaults_are_the_papers() -> None:
    settings = Alignment()
    assert (settings.gamma, settings.threshold, settings.num_poses) == (0.2, 0.05, 25)
    assert (settings.of, settings.poses, settings.activation) == ("estimate", "samples", True)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"gamma": -0.1}, "alignment.gamma must be finite and not negative, got -0.1"),
        ({"threshold": float("nan")}, "alignment.threshold must be finite and not negative, got nan"),
        ({"max_shift": float("inf")}, "alignment.max_shift must be finite and not negative, got inf"),
        ({"num_poses": 0}, "alignment.num_poses must be at least 1, got 0"),
    ],
)
def test_numbers_are_checked(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Alignment(**option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"of": "mesh"}, r"alignment.of must be one of \('estimate', 'sample', 'nothing'\), got 'mesh'"),
        ({"poses": "all"}, r"alignment.poses must be one of \('samples', 'mode'\), got 'all'"),
        ({"start": "pose"}, r"alignment.start must be one of \('noise', 'estimate'\), got 'pose'"),
    ],
)
def test_choices_are_checked(option: dict[str, Any], message: str) -> None:
    # Past the signature's check of types, which refuses first in tests.
    settings = Alignment.__new__(Alignment)
    settings.__dict__.update({**vars(Alignment()), **option})
    with pytest.raises(ValueError, match=message):
        settings.__post_init__()
