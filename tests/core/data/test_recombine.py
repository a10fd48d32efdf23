"""Recombined arms: everything but the arms stays, the arms are somebody's, and draws repeat."""

import pytest
import torch

from posecore.data.recombine import ARMS, recombine_arms
from posecore.data.synthetic import synthetic_motions

MOTIONS = synthetic_motions(3, 0, "train", None, 30.0)


def test_only_the_arms_change_and_are_from_the_clips() -> None:
    mixed = recombine_arms(MOTIONS, copies=2)
    assert [motion.clip for motion in mixed[:3]] == [f"{motion.clip}+arms0" for motion in MOTIONS]
    assert len(mixed) == 6
    rest = [joint for joint in range(23) if joint not in ARMS]
    every_arm = {tuple(row.flatten().tolist()) for motion in MOTIONS for row in motion.body_pose[:, list(ARMS)]}
    for motion, source in zip(mixed, [*MOTIONS, *MOTIONS], strict=True):
        assert torch.equal(motion.body_pose[:, rest], source.body_pose[:, rest])
        assert torch.equal(motion.global_orient, source.global_orient)
        assert not torch.equal(motion.body_pose, source.body_pose)
        assert {tuple(row.flatten().tolist()) for row in motion.body_pose[:, list(ARMS)]} <= every_arm


def test_draws_repeat_and_change_with_the_seed_and_the_copy() -> None:
    once, again, other = (recombine_arms(MOTIONS, 2, seed) for seed in (0, 0, 1))
    assert torch.equal(once[0].body_pose, again[0].body_pose)
    assert not torch.equal(once[0].body_pose, other[0].body_pose)
    assert not torch.equal(once[0].body_pose, once[3].body_pose)


def test_the_source_is_left_alone() -> None:
    before = MOTIONS[0].body_pose.clone()
    recombine_arms(MOTIONS, 1)
    assert torch.equal(MOTIONS[0].body_pose, before)


def test_negative_copies_are_refused() -> None:
    with pytest.raises(ValueError, match="copies: must not be negative, got -1"):
        recombine_arms(MOTIONS, -1)
