"""Every term against a plain loop in NumPy, and against what it must not depend on."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from posecore.body.named_joints import NamedJoints
from posecore.data import SyntheticMotion
from posecore.data.sample import PoseSample
from posecore.fitting.estimate import PosedPeople, SMPLEstimate
from posecore.fitting.terms import (
    CalibratedReprojection,
    CrossViewConsistency,
    KeypointReprojection,
    Keypoints3D,
    TemporalSmoothness,
    Term,
    gmof,
    mean_over_groups,
)

ROWS = torch.tensor([6, 1, 4])


def shaken(people: SMPLEstimate, generator: torch.Generator, size: float = 0.1) -> SMPLEstimate:
    """Other poses, shapes and places near by; the six numbers are no longer those of a rotation."""
    draw = {"generator": generator, "dtype": torch.float64}
    return SMPLEstimate(
        people.pose_rot6d + size * torch.randn(people.pose_rot6d.shape, **draw),
        people.betas + size * torch.randn(people.betas.shape, **draw),
        people.transl + size * torch.randn(people.transl.shape, **draw),
    )


@pytest.fixture
def posed(people: SMPLEstimate, body: NamedJoints, generator: torch.Generator) -> PosedPeople:
    return PosedPeople(shaken(people, generator), body)


@pytest.fixture
def keypoints(sample: PoseSample, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shaken keypoints of mixed confidence in pictures of several sizes, upright and wide."""
    noise = 30 * torch.randn(8, 25, 2, generator=generator, dtype=torch.float64)
    confidence = torch.rand(8, 25, generator=generator, dtype=torch.float64)
    size = torch.tensor([[640.0, 480.0], [1080.0, 1920.0]], dtype=torch.float64).repeat(4, 1)
    return sample["joints_2d_px"] + noise, confidence, sample["K"], size


def reprojection_loop(joints_cam: np.ndarray, keypoints_px, confidence, K, size, sigma: float) -> float:
    """One person: sum over joints, x and y, of (1000 / longer side)^2 conf^2 s^2 r^2 / (s^2 + r^2)."""
    total = 0.0
    for joint, seen, trust in zip(joints_cam, keypoints_px, confidence, strict=True):
        x, y, depth = K @ joint
        for residual in (x / depth - seen[0], y / depth - seen[1]):
            robust = sigma**2 * residual**2 / (sigma**2 + residual**2)
            total += (1000 / max(size)) ** 2 * trust**2 * robust
    return total


def test_gmof_is_squared_when_small_and_levels_off() -> None:
    residual = np.array([0.0, 1e-3, 1.0, 50.0, 100.0, 1e3, 1e7])
    expected = 100.0**2 * residual**2 / (100.0**2 + residual**2)
    found = gmof(torch.from_numpy(residual**2), 100.0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert found[4] == 5000.0
    assert torch.equal(gmof(torch.tensor([2.0, 9.0]), math.inf), torch.tensor([2.0, 9.0]))
    assert gmof(torch.tensor([1e37]), 100.0).isfinite().all()


@pytest.mark.parametrize("sigma", [20.0, 100.0])
def test_keypoint_reprojection_against_a_loop(
    posed: PosedPeople, keypoints: tuple[Tensor, Tensor, Tensor, Tensor], sigma: float
) -> None:
    term = KeypointReprojection(*keypoints, sigma=sigma)
    arrays = [argument.numpy() for argument in (posed.joints_cam, *keypoints)]
    expected = [reprojection_loop(*(array[i] for array in arrays), sigma) for i in range(8)]
    np.testing.assert_allclose(term(posed).numpy(), expected, rtol=1e-9)
    assert term.weight == 0.003
    assert term.moves_camera


def test_an_exact_body_has_no_reprojection_error(people: SMPLEstimate, body: NamedJoints, sample: PoseSample) -> None:
    term = KeypointReprojection(sample["joints_2d_px"], sample["confidence"], sample["K"], sample["image_size"])
    assert term(PosedPeople(people, body)).max() < 1e-3  # the data set's numbers are float32
    moved = SMPLEstimate(people.pose_rot6d, people.betas, people.transl + 0.1)
    assert term(PosedPeople(moved, body)).min() > 100


def test_cross_view_consistency_against_a_loop(posed: PosedPeople) -> None:
    group = torch.tensor([7, 3, 7, 3, 3, 9, 7, 3])
    pose = posed.estimate.pose_rot6d.numpy()
    expected = []
    for person in range(8):
        views = [pose[other] for other in range(8) if group[other] == group[person]]
        mean = sum(views) / len(views)
        expected.append(sum(((pose[person][joint] - mean[joint]) ** 2).sum() for joint in range(1, 24)))
    found = CrossViewConsistency(group)(posed)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert found[5] == 0  # alone in its group
    assert CrossViewConsistency(group).weight == 450


def test_the_root_stays_out_of_the_views_consistency(people: SMPLEstimate, body: NamedJoints) -> None:
    same = people.pose_rot6d[:1].expand(8, -1, -1).clone()
    same[:, 0] = people.pose_rot6d[:, 0]
    found = CrossViewConsistency(torch.zeros(8, dtype=torch.long))(
        PosedPeople(SMPLEstimate(same, people.betas, people.transl), body)
    )
    assert found.max() < 1e-20


def test_temporal_smoothness_against_a_loop(posed: PosedPeople) -> None:
    track = torch.tensor([4, 4, 4, 0, 0, 4, 4, 2])
    pose = posed.estimate.pose_rot6d.numpy()
    before = [[j for j in range(i) if track[j] == track[i]] for i in range(8)]
    expected = [((pose[i] - pose[rows[-1]]) ** 2).sum() if rows else 0.0 for i, rows in enumerate(before)]
    found = TemporalSmoothness(track)(posed)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    assert [i for i in range(8) if found[i] == 0] == [0, 3, 7]  # first frames; other tracks may lie between
    assert TemporalSmoothness(track).weight == 30


def test_keypoints_3d_against_a_loop(posed: PosedPeople, sample: PoseSample, generator: torch.Generator) -> None:
    confidence = torch.rand(8, 25, generator=generator, dtype=torch.float64)
    confidence[:, ::3] = 0
    seen = sample["joints_cam"] + 0.05 * torch.randn(8, 25, 3, generator=generator, dtype=torch.float64)
    expected = []
    for person in range(8):
        trust = confidence[person].numpy()
        found, wanted = posed.joints_cam[person].numpy(), seen[person].numpy()
        found = found - np.average(found, axis=0, weights=trust)
        wanted = wanted - np.average(wanted, axis=0, weights=trust)
        expected.append(sum(trust[j] ** 2 * ((found[j] - wanted[j]) ** 2).sum() for j in range(25)))
    np.testing.assert_allclose(Keypoints3D(seen, confidence)(posed).numpy(), expected, rtol=1e-9)


def test_keypoints_3d_of_any_origin_and_with_unknown_joints(
    posed: PosedPeople, sample: PoseSample, generator: torch.Generator
) -> None:
    confidence = torch.ones(8, 25, dtype=torch.float64)
    confidence[:, 4:9] = 0
    confidence[3] = 0
    elsewhere = sample["joints_cam"] + torch.randn(8, 1, 3, generator=generator, dtype=torch.float64)
    spoilt = elsewhere.clone()
    spoilt[:, 4:9] = 1e3
    expected = Keypoints3D(sample["joints_cam"], confidence)(posed)
    torch.testing.assert_close(Keypoints3D(elsewhere, confidence)(posed), expected)
    torch.testing.assert_close(Keypoints3D(spoilt, confidence)(posed), expected)
    assert expected[3] == 0
    assert (expected[[0, 1, 2, 4]] > 0).all()


@pytest.fixture(scope="module")
def views() -> tuple[SMPLEstimate, CalibratedReprojection, dict[str, Tensor]]:
    """Two instants of people before a ring of three calibrated cameras, rows of an instant apart from one another."""
    table = SyntheticMotion(num_clips=2, joints="body", joint_set="joints44", cameras="ring", views=3, stride=1000)
    order = torch.tensor([0, 3, 1, 4, 2, 5])
    data = {k: v[order].double() for k, v in table.samples.items() if isinstance(v, Tensor)}
    data["group"] = torch.tensor([0, 1] * 3)
    people = SMPLEstimate.from_rotmat(data["global_orient"], data["body_pose"], data["betas"], data["transl"])
    return people, calibrated(data), data


def calibrated(data: dict[str, Tensor]) -> CalibratedReprojection:
    seen = data["joints_2d_px"][:, :25], data["confidence"][:, :25], data["K"], data["image_size"]
    return CalibratedReprojection(*seen, data["R_world_to_cam"], data["t_world_to_cam"], data["group"])


def test_an_exact_body_fits_every_calibrated_view(
    views: tuple[SMPLEstimate, CalibratedReprojection, dict[str, Tensor]], body: NamedJoints
) -> None:
    people, term, _ = views
    assert term(PosedPeople(people, body)).max() < 1e-2
    moved = people.transl.clone()
    moved[0, 2] += 0.2  # along the ray of the first camera: the other two see it
    loss = term(PosedPeople(SMPLEstimate(people.pose_rot6d, people.betas, moved), body))
    assert loss[0] > 1000
    assert loss[1:].max() < 1e-2


def test_calibrated_reprojection_against_a_loop(
    views: tuple[SMPLEstimate, CalibratedReprojection, dict[str, Tensor]],
    body: NamedJoints,
    generator: torch.Generator,
) -> None:
    people, term, data = views
    posed = PosedPeople(shaken(people, generator), body)
    arrays = {key: value.numpy() for key, value in data.items()}
    R, t = arrays["R_world_to_cam"], arrays["t_world_to_cam"]
    expected = []
    for row in range(6):
        world = (posed.joints_cam[row].numpy() - t[row]) @ R[row]
        losses = [
            reprojection_loop(
                world @ R[view].T + t[view],
                arrays["joints_2d_px"][view, :25],
                arrays["confidence"][view, :25],
                arrays["K"][view],
                arrays["image_size"][view],
                100.0,
            )
            for view in range(6)
            if view % 2 == row % 2
        ]
        assert len(losses) == 3
        expected.append(sum(losses) / 3)
    np.testing.assert_allclose(term(posed).numpy(), expected, rtol=1e-9)


def test_one_calibrated_camera_alone_is_plain_reprojection(
    posed: PosedPeople, keypoints: tuple[Tensor, Tensor, Tensor, Tensor], sample: PoseSample
) -> None:
    cameras = sample["R_world_to_cam"], sample["t_world_to_cam"]
    alone = CalibratedReprojection(*keypoints, *cameras, torch.arange(8), weight=0.5, sigma=40.0)
    plain = KeypointReprojection(*keypoints, sigma=40.0)
    torch.testing.assert_close(alone(posed), plain(posed), rtol=1e-5, atol=0)  # the cameras were float32


def test_two_hand_made_cameras(body: NamedJoints) -> None:
    # One at the origin; one 4 m to its right and 4 m ahead that looks left: x' = z - 4, z' = 4 - x.
    turned = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]], dtype=torch.float64)
    R = torch.stack((torch.eye(3, dtype=torch.float64), turned))
    t = torch.tensor([[0.0, 0, 0], [-4, 0, 4]], dtype=torch.float64)
    K = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]], dtype=torch.float64).expand(2, 3, 3)
    pose = torch.eye(3, dtype=torch.float64).expand(2, 24, 3, 3).clone()
    pose[1, 0] = turned
    transl = torch.tensor([[0.0, 0, 4], [0, 0, 4]], dtype=torch.float64)
    pelvis = body.layer.rest_joints(torch.zeros(1, 10, dtype=torch.float64))[0, 0]
    # Each body turns about its pelvis, which must lie at the same point of the world.
    transl[1] = turned @ (pelvis + transl[0]) + t[1] - pelvis
    people = SMPLEstimate.from_rotmat(pose[:, 0], pose[:, 1:], torch.zeros(2, 10, dtype=torch.float64), transl)
    joints = PosedPeople(people, body).joints_cam
    seen = torch.stack(
        [torch.stack((500 * p[:, 0] / p[:, 2] + 320, 500 * p[:, 1] / p[:, 2] + 240), dim=-1) for p in joints]
    )
    size = torch.tensor([[640.0, 480.0]] * 2, dtype=torch.float64)
    term = CalibratedReprojection(
        seen, torch.ones(2, 25, dtype=torch.float64), K, size, R, t, torch.zeros(2, dtype=torch.long)
    )
    assert term(PosedPeople(people, body)).max() < 1e-18


def every_term(sample: PoseSample, keypoints: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, tuple[Term, bool]]:
    """Each term with weights of its own, and whether its people are coupled as `ROWS` leave them whole."""
    group = torch.arange(8)
    cameras = sample["R_world_to_cam"], sample["t_world_to_cam"]
    return {
        "keypoints": KeypointReprojection(*keypoints, 0.7, 60.0),
        "views": CrossViewConsistency(group, 0.7),
        "calibrated": CalibratedReprojection(*keypoints, *cameras, group, 0.7, 60.0),
        "temporal": TemporalSmoothness(group, 0.7),
        "keypoints_3d": Keypoints3D(sample["joints_cam"], keypoints[1], 0.7),
    }


@pytest.mark.parametrize("name", ["keypoints", "views", "calibrated", "temporal", "keypoints_3d"])
def test_take_gives_the_losses_of_these_people(
    name: str,
    posed: PosedPeople,
    sample: PoseSample,
    keypoints: tuple[Tensor, Tensor, Tensor, Tensor],
    body: NamedJoints,
) -> None:
    term = every_term(sample, keypoints)[name]
    kept = term.take(ROWS)
    assert type(kept) is type(term)
    assert kept.weight == 0.7
    torch.testing.assert_close(kept(PosedPeople(posed.estimate.take(ROWS), body)), term(posed)[ROWS])


def test_take_keeps_groups_and_tracks_together(posed: PosedPeople, body: NamedJoints) -> None:
    labels = torch.tensor([5, 5, 2, 2, 2, 8, 8, 8])
    rows = torch.tensor([2, 3, 4, 5, 6, 7])
    few = PosedPeople(posed.estimate.take(rows), body)
    for term in (CrossViewConsistency(labels), TemporalSmoothness(labels)):
        torch.testing.assert_close(term.take(rows)(few), term(posed)[rows])
        assert term.couples_people


@pytest.mark.parametrize("name", ["keypoints", "views", "calibrated", "temporal", "keypoints_3d"])
def test_gradients_are_those_of_finite_differences(
    name: str,
    people: SMPLEstimate,
    sample: PoseSample,
    keypoints: tuple[Tensor, Tensor, Tensor, Tensor],
    body: NamedJoints,
    generator: torch.Generator,
) -> None:
    term = every_term(sample, keypoints)[name]
    if name == "views":
        term = CrossViewConsistency(torch.zeros(8, dtype=torch.long))
    if name == "temporal":
        term = TemporalSmoothness(torch.zeros(8, dtype=torch.long))
    near = shaken(people, generator)
    direction = torch.randn(8 * (24 * 6 + 10 + 3), generator=generator, dtype=torch.float64)
    turn, grow, move = direction.split([8 * 144, 8 * 10, 8 * 3])

    def losses(step: Tensor) -> Tensor:
        estimate = SMPLEstimate(
            near.pose_rot6d + step * turn.view(8, 24, 6),
            near.betas + step * grow.view(8, 10),
            near.transl + step * move.view(8, 3),
        )
        return term(PosedPeople(estimate, body))

    assert torch.autograd.gradcheck(losses, torch.zeros((), dtype=torch.float64, requires_grad=True), rtol=1e-4)


def test_mean_over_groups_against_a_loop(generator: torch.Generator) -> None:
    group = torch.tensor([4, 0, 4, 4, 0, 7])
    for shape in ((6,), (6, 10), (6, 2, 3)):
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        expected = np.stack([values.numpy()[group.numpy() == number].mean(axis=0) for number in group.numpy()])
        np.testing.assert_allclose(mean_over_groups(values, group).numpy(), expected, rtol=1e-12)
