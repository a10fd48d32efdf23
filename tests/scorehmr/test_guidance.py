from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from posecore.body.named_joints import NamedJoints
from posecore.data.sample import PoseSample
from posecore.fitting.estimate import PosedPeople, SMPLEstimate
from posecore.fitting.terms import (
    CalibratedReprojection,
    CrossViewConsistency,
    KeypointReprojection,
    Keypoints3D,
    TemporalSmoothness,
)
from scorehmr.guidance import TermWeights

NONE = {"keypoints": 0.0}
HIPS = [8, 9, 12]


def changed(batch: PoseSample, **values: Any) -> PoseSample:
    return cast(PoseSample, {**batch, **values})


def without(batch: PoseSample, *keys: str) -> PoseSample:
    return cast(PoseSample, {key: value for key, value in batch.items() if key not in keys})


@pytest.fixture
def true(people: PoseSample, body: NamedJoints) -> PosedPeople:
    estimate = SMPLEstimate.from_rotmat(people["global_orient"], people["body_pose"], people["betas"], people["transl"])
    return PosedPeople(estimate, body)


@pytest.fixture
def wrong(people: PoseSample, body: NamedJoints, make: SimpleNamespace) -> PosedPeople:
    return PosedPeople(make.start(people), body)


@pytest.mark.parametrize(
    ("weights", "kinds", "keys"),
    [
        ({}, [KeypointReprojection], ()),
        (NONE, [], ()),
        ({**NONE, "views": 450.0}, [CrossViewConsistency], ("clip", "frame")),
        ({**NONE, "calibrated": 0.003}, [CalibratedReprojection], ("clip", "frame")),
        ({"temporal": 30.0}, [KeypointReprojection, TemporalSmoothness], ("clip", "view")),
        ({"keypoints_3d": 5.0}, [KeypointReprojection, Keypoints3D], ()),
        (
            {"views": 1.0, "temporal": 2.0},
            [KeypointReprojection, CrossViewConsistency, TemporalSmoothness],
            ("clip",),
        ),
    ],
)
def test_a_weight_brings_its_term(
    people: PoseSample, weights: dict[str, float], kinds: list[type], keys: tuple[str, ...]
) -> None:
    chosen = TermWeights(**weights)
    terms = chosen.terms(people, "joints44")
    assert [type(term) for term in terms] == kinds
    assert chosen.group_keys == keys
    named = {"keypoints": 0.003, **weights}
    assert sorted(term.weight for term in terms) == sorted(weight for weight in named.values() if weight)
    assert any(term.couples_people for term in terms) == bool(keys)


@pytest.mark.parametrize("name", ["keypoints", "views", "calibrated", "temporal", "keypoints_3d"])
def test_every_term_tells_people_from_one_body(
    people: PoseSample, true: PosedPeople, wrong: PosedPeople, name: str
) -> None:
    """At the truth each term is 0, but for the smoothness of people who move; noise on every row is punished."""
    (term,) = TermWeights(**{**NONE, name: 1.0}).terms(people, "joints44")
    at_truth, at_noise = term(true), term(wrong)
    assert at_truth.shape == (6,)
    if name == "temporal":  # rows are clip, frame, view: 0 and 1 are the first frames of two tracks
        pose = true.estimate.pose_rot6d
        expected = [(pose[row] - pose[row - 2]).square().sum().item() if row in (2, 3) else 0.0 for row in range(6)]
        assert at_truth.tolist() == pytest.approx(expected, abs=1e-5)
    else:
        assert at_truth.max() < 1e-2
        assert bool((at_noise > 10 * at_truth + 1e-3).all())


def test_hips_can_be_left_out(people: PoseSample, wrong: PosedPeople) -> None:
    pixels = people["joints_2d_px"].clone()
    pixels[:, HIPS] += 50
    moved = changed(people, joints_2d_px=pixels)

    def loss(batch: PoseSample, use_hips: bool) -> Tensor:
        (term,) = TermWeights(use_hips=use_hips).terms(batch, "joints44")
        return term(wrong)

    assert torch.equal(loss(moved, False), loss(people, False))
    assert not torch.allclose(loss(moved, True), loss(people, True))
    assert bool((loss(people, True) > loss(people, False)).all())
    assert bool((people["confidence"] == 1).all()), "the caller's batch is not touched"


def test_only_openpose_joints_count(people: PoseSample, wrong: PosedPeople) -> None:
    pixels = people["joints_2d_px"].clone()
    pixels[:, 25:] = 1e4
    both = [
        TermWeights().terms(batch, "joints44")[0](wrong) for batch in (people, changed(people, joints_2d_px=pixels))
    ]
    assert torch.equal(*both)


def test_sigma_reaches_the_terms(people: PoseSample, wrong: PosedPeople) -> None:
    for name in ("keypoints", "calibrated"):
        losses = [
            TermWeights(**{**NONE, name: 1.0}, sigma=sigma).terms(people, "joints44")[0](wrong).max()
            for sigma in (1.0, 100.0)
        ]
        assert losses[0] < 25 * 2 * (1000 / people["image_size"].max(dim=1).values.min()) ** 2
        assert losses[1] > losses[0]


def test_the_image_size_defaults_to_twice_the_principal_point(people: PoseSample, wrong: PosedPeople) -> None:
    K = people["K"].clone()
    K[:, :2, 2] = torch.tensor([300.0, 200.0])
    batch = without(changed(people, K=K), "image_size")
    expected = changed(batch, image_size=torch.tensor([600.0, 400.0]).expand(6, 2))
    both = [TermWeights().terms(batch, "joints44")[0](wrong) for batch in (batch, expected)]
    assert torch.equal(*both)


def test_body25_is_enough(people: PoseSample, true: PosedPeople) -> None:
    keys = ("joints_2d_px", "confidence", "joints_cam")
    batch = changed(people, **{key: people[key][:, :25] for key in keys})  # type: ignore[literal-required]
    for term in TermWeights(keypoints_3d=1.0).terms(batch, "body25"):
        assert term(true).max() < 1e-2


def test_shape_groups(people: PoseSample) -> None:
    assert TermWeights(views=1.0).shape_group(people) is None
    assert TermWeights(mean_betas=True).shape_group(people) is None
    views = TermWeights(views=1.0, mean_betas=True).shape_group(people)
    video = TermWeights(temporal=1.0, mean_betas=True).shape_group(people)
    assert views is not None
    assert video is not None
    assert views.tolist() == [0, 0, 1, 1, 2, 2]
    assert video.tolist() == [0, 1, 0, 1, 2, 3]


def test_what_a_term_needs_is_named(people: PoseSample) -> None:
    with pytest.raises(ValueError, match=r"terms.calibrated: the data has no R_world_to_cam"):
        TermWeights(calibrated=1.0).terms(without(people, "R_world_to_cam"), "joints44")
    for weights in (TermWeights(views=1.0), TermWeights(temporal=1.0)):
        with pytest.raises(ValueError, match="keys: the samples have no clip"):
            weights.terms(without(people, "clip"), "joints44")


@pytest.mark.parametrize("name", ["keypoints", "views", "calibrated", "temporal", "keypoints_3d"])
def test_weights_must_not_be_negative(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: a weight must not be negative, got -1"):
        TermWeights(**{name: -1.0})


def test_sigma_and_power_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"sigma and confidence_power must be positive, got 0.0 and 2.0"):
        TermWeights(sigma=0.0)
    with pytest.raises(ValueError, match=r"sigma and confidence_power must be positive, got 100.0 and -1"):
        TermWeights(confidence_power=-1.0)
