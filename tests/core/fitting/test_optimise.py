import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import BODY_25, JOINTS_44, JointSet
from posecore.data.sample import PoseSample
from posecore.fitting.estimate import PosedPeople, SMPLEstimate
from posecore.fitting.optimise import PARAMETERS, SMPLifySettings, _in_crop, optimise, smplify
from posecore.fitting.priors import AnglePrior, GaussianPosePrior, MixturePosePrior, ShapePrior
from posecore.fitting.terms import CrossViewConsistency, KeypointReprojection, Keypoints3D, Term
from posecore.geometry.camera import project
from posecore.geometry.rotation import axis_angle_to_rotmat, geodesic_distance

NUMBERS = ("pose_rot6d", "betas", "transl")
WEIGHTS = ("w_depth", "w_pose", "w_angle", "w_shape")


@pytest.fixture
def keypoints(sample: PoseSample) -> KeypointReprojection:
    return KeypointReprojection(sample["joints_2d_px"], sample["confidence"], sample["K"], sample["image_size"])


@pytest.fixture
def start(people: SMPLEstimate, generator: torch.Generator) -> SMPLEstimate:
    """What a regressor might say: joints some 10 degrees off, mean shape, 10 cm off."""
    draw = {"generator": generator, "dtype": torch.float64}
    turned = people.pose_rotmat @ axis_angle_to_rotmat(0.1 * torch.randn(8, 24, 3, **draw))
    shift = 0.1 * torch.randn(8, 3, **draw)
    return SMPLEstimate.from_rotmat(turned[:, 0], turned[:, 1:], 0 * people.betas, people.transl + shift)


def reprojection_px(estimate: SMPLEstimate, sample: PoseSample, body: NamedJoints) -> Tensor:
    projected = project(PosedPeople(estimate, body).joints_cam, sample["K"])
    return (projected - sample["joints_2d_px"]).norm(dim=-1).mean(dim=-1)


def box_px(sample: PoseSample) -> Tensor:
    seen = sample["joints_2d_px"]
    return (seen.amax(dim=1) - seen.amin(dim=1)).amax(dim=-1)


def test_adam_steps_are_torchs(start: SMPLEstimate, sample: PoseSample, body: NamedJoints) -> None:
    # One parameter, one term, against the plain loop.
    seen = Keypoints3D(sample["joints_cam"], sample["confidence"], weight=3.0)
    found = optimise(start, [seen], body, steps=5, lr=0.02, parameters=("betas",))
    betas = start.betas.clone().requires_grad_()
    adam = torch.optim.Adam([betas], 0.02)
    for _ in range(5):
        adam.zero_grad()
        joints = body(betas, start.body_pose, start.global_orient)
        target = sample["joints_cam"]
        difference = joints - joints.mean(dim=1, keepdim=True) - (target - target.mean(dim=1, keepdim=True))
        (3 * difference.square().sum()).backward()
        adam.step()
    torch.testing.assert_close(found.betas, betas.detach())
    assert torch.equal(found.transl, start.transl)


def test_weights_of_terms_count(start: SMPLEstimate, body: NamedJoints, sample: PoseSample) -> None:
    seen = Keypoints3D(sample["joints_cam"], sample["confidence"])
    few = {"steps": 40, "lr": 0.05, "parameters": ("betas",)}
    weak, strong = (optimise(start, [seen, ShapePrior(weight)], body, **few).betas.norm() for weight in (0.0, 1e3))
    assert strong < 0.2 * weak


def test_comes_nearer_to_exact_keypoints(
    start: SMPLEstimate, keypoints: KeypointReprojection, sample: PoseSample, body: NamedJoints
) -> None:
    seen = Keypoints3D(sample["joints_cam"], sample["confidence"])
    fitted = optimise(start, [keypoints, seen], body, steps=60, lr=3e-2)
    before, after = (
        (PosedPeople(estimate, body).joints_cam - sample["joints_cam"]).norm(dim=-1).mean()
        for estimate in (start, fitted)
    )
    assert before > 0.2  # metres
    assert after < 0.4 * before


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_only_the_parameters_named_move(
    parameter: str, start: SMPLEstimate, keypoints: KeypointReprojection, body: NamedJoints
) -> None:
    moved = optimise(start, [keypoints], body, steps=2, parameters=(parameter,))
    for name in PARAMETERS:
        change = (getattr(moved, name) - getattr(start, name)).abs().max()
        assert change > 1e-3 if name == parameter else change < 1e-9, name


def test_the_start_stays_and_the_result_has_no_graph(
    start: SMPLEstimate, keypoints: KeypointReprojection, body: NamedJoints
) -> None:
    before = {name: getattr(start, name).clone() for name in NUMBERS}
    with torch.no_grad():  # as prediction loops call it
        fitted = optimise(start, [keypoints], body, steps=2)
    for name in NUMBERS:
        assert torch.equal(getattr(start, name), before[name])
        assert not getattr(fitted, name).requires_grad
        assert (getattr(fitted, name) - before[name]).abs().max() > 1e-3


@pytest.mark.parametrize("prior", ["none", "mixture", "gaussian"])
def test_nobody_depends_on_the_batch(
    prior: str, start: SMPLEstimate, keypoints: KeypointReprojection, body: NamedJoints
) -> None:
    terms: list[Term] = [keypoints, AnglePrior(), ShapePrior()]
    terms += {"none": [], "mixture": [MixturePosePrior.load()], "gaussian": [GaussianPosePrior.load()]}[prior]
    together = optimise(start, terms, body, steps=20)
    for rows in (torch.tensor([3]), torch.tensor([6, 1])):
        alone = optimise(start.take(rows), [term.take(rows) for term in terms], body, steps=20)
        for name in NUMBERS:
            torch.testing.assert_close(getattr(alone, name), getattr(together, name)[rows], rtol=0, atol=1e-6)


def test_a_terms_network_gets_no_gradients(start: SMPLEstimate, body: NamedJoints) -> None:
    class Learned(ShapePrior):
        network = nn.Linear(144, 1).double()

        def __call__(self, people: PosedPeople) -> Tensor:
            return self.network(people.estimate.pose_rot6d.flatten(1)).square()[:, 0]

    before = {name: value.clone() for name, value in Learned.network.state_dict().items()}
    optimise(start, [Learned()], body, steps=3)
    assert all(parameter.grad is None for parameter in Learned.network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in Learned.network.state_dict().items())


def test_refuses_what_it_cannot_minimise(
    start: SMPLEstimate, keypoints: KeypointReprojection, body: NamedJoints
) -> None:
    with pytest.raises(ValueError, match="terms: there are none"):
        optimise(start, [], body, steps=1)
    with pytest.raises(ValueError, match=r"parameters: \['pose'\] are unknown; valid are global_orient, body_pose"):
        optimise(start, [keypoints], body, steps=1, parameters=("betas", "pose"))
    views = CrossViewConsistency(torch.arange(8))
    for terms, found in (([], "none"), ([views], "CrossViewConsistency"), ([keypoints, views], "Keypoint.*, Cross")):
        with pytest.raises(ValueError, match=rf"terms: SMPLify fits each person to 2D keypoints.*got {found}"):
            smplify(start, terms, body)
    for name in ("lr", "crop_size", "box_margin", "sigma"):
        with pytest.raises(ValueError, match=f"{name}: must be above 0, got 0"):
            SMPLifySettings(**{name: 0.0})
    for name, value in {"camera_steps": -1, "body_steps": -1, **dict.fromkeys(WEIGHTS, -1.0)}.items():
        with pytest.raises(ValueError, match=f"{name}: must not be negative, got -1"):
            SMPLifySettings(**{name: value})
    with pytest.raises(FileNotFoundError, match=r"gmm_08\.pkl"):
        smplify(start, [keypoints], body, SMPLifySettings(pose_prior=Path("nowhere/gmm_08.pkl")))


def test_smplify_refuses_a_body_without_a_torso(start: SMPLEstimate, keypoints: KeypointReprojection) -> None:
    face = NamedJoints(JointSet(BODY_25.name, ("nose", "l_eye"), (-1, 0), (0, 1), (0,)))
    with pytest.raises(ValueError, match="joint set 'body25' has none of r_hip, l_hip, r_shoulder, l_shoulder"):
        smplify(start, [keypoints], face)


def test_smplify_reduces_the_reprojection_error_and_stays_plausible(
    start: SMPLEstimate, people: SMPLEstimate, keypoints: KeypointReprojection, sample: PoseSample, body: NamedJoints
) -> None:
    fitted = smplify(start, [keypoints], body)
    before, after = (reprojection_px(estimate, sample, body) / box_px(sample) for estimate in (start, fitted))
    assert (after < 0.5 * before).all()
    assert after.max() < 0.02  # of the person's height in the picture
    prior = MixturePosePrior.load()
    assert prior(PosedPeople(fitted, body)).mean() < prior(PosedPeople(start, body)).mean()
    assert fitted.betas.abs().max() < 3
    assert geodesic_distance(fitted.body_pose, people.body_pose).mean() < 0.35


def test_smplify_without_its_pose_prior_leaves_the_poses_of_people(
    start: SMPLEstimate, keypoints: KeypointReprojection, body: NamedJoints
) -> None:
    prior = MixturePosePrior.load()
    free = smplify(start, [keypoints], body, SMPLifySettings(w_pose=0.0))
    bound = smplify(start, [keypoints], body)
    assert (prior(PosedPeople(bound, body)) < prior(PosedPeople(free, body))).all()


def test_smplifys_first_stage_moves_camera_and_orientation_by_the_torso(
    people: SMPLEstimate, keypoints: KeypointReprojection, sample: PoseSample, body: NamedJoints
) -> None:
    away = SMPLEstimate(people.pose_rot6d, people.betas, people.transl + torch.tensor([0.2, 0.1, 0.0]))
    settings = SMPLifySettings(body_steps=0)
    fitted = smplify(away, [keypoints], body, settings)
    assert torch.equal(fitted.betas, away.betas)
    torch.testing.assert_close(fitted.body_pose, away.body_pose, rtol=0, atol=1e-9)
    torch.testing.assert_close(fitted.transl, people.transl, rtol=0, atol=0.03)
    # Keypoints of other joints say nothing to it; these lie inside the box, so that its scale stays.
    spoilt = sample["joints_2d_px"].clone()
    spoilt[:, [BODY_25.index(name) for name in ("neck", "mid_hip")]] += 5.0
    other = KeypointReprojection(spoilt, sample["confidence"], sample["K"], sample["image_size"])
    few = dataclasses.replace(settings, camera_steps=20)
    expected = smplify(away, [keypoints], body, few)
    assert torch.equal(smplify(away, [other], body, few).transl, expected.transl)
    # Depth is held by its own term.
    free = smplify(away, [keypoints], body, dataclasses.replace(few, w_depth=0.0))
    assert (free.transl - away.transl)[:, 2].abs().mean() > (expected.transl - away.transl)[:, 2].abs().mean()


def test_smplifys_second_stage_ignores_hips_and_neck(
    start: SMPLEstimate, keypoints: KeypointReprojection, sample: PoseSample, body: NamedJoints
) -> None:
    spoilt = sample["joints_2d_px"].clone()
    spoilt[:, [BODY_25.index(name) for name in ("neck", "r_hip", "l_hip")]] += 5.0
    settings = SMPLifySettings(camera_steps=0, body_steps=5)
    other = KeypointReprojection(spoilt, sample["confidence"], sample["K"], sample["image_size"])
    expected = smplify(start, [keypoints], body, settings)
    assert torch.equal(smplify(start, [other], body, settings).pose_rot6d, expected.pose_rot6d)
    heeded = dataclasses.replace(settings, ignored_joints=())
    assert not torch.equal(smplify(start, [other], body, heeded).pose_rot6d, expected.pose_rot6d)


def test_residuals_are_pixels_of_a_crop_of_the_given_size(
    start: SMPLEstimate, keypoints: KeypointReprojection, sample: PoseSample, body: NamedJoints
) -> None:
    settings = SMPLifySettings(crop_size=224.0, box_margin=1.25)
    everything = torch.ones(25, dtype=torch.bool)
    term = _in_crop(keypoints, everything, 100.0, settings)
    spans = term.keypoints_px.amax(dim=1) - term.keypoints_px.amin(dim=1)
    torch.testing.assert_close(spans.amax(dim=-1), torch.full((8,), 224 / 1.25, dtype=torch.float64))
    scale = 224 / (1.25 * box_px(sample))
    residual = project(PosedPeople(start, body).joints_cam, sample["K"]) - sample["joints_2d_px"]
    squared = (residual * scale[:, None, None]).square()
    expected = (squared * 1e4 / (squared + 1e4)).sum(dim=(1, 2))
    torch.testing.assert_close(term(PosedPeople(start, body)), expected)


def test_a_person_nobody_saw_comes_back_finite(start: SMPLEstimate, sample: PoseSample, body: NamedJoints) -> None:
    confidence = sample["confidence"].clone()
    confidence[2] = 0
    unseen = KeypointReprojection(sample["joints_2d_px"], confidence, sample["K"], sample["image_size"])
    fitted = smplify(start, [unseen], body, SMPLifySettings(camera_steps=3, body_steps=3))
    for name in NUMBERS:
        assert getattr(fitted, name).isfinite().all()
    torch.testing.assert_close(fitted.transl[2], start.transl[2])


def test_smplify_takes_the_44_joints_under_both_names(start: SMPLEstimate, sample: PoseSample) -> None:
    body = NamedJoints(JOINTS_44)
    seen = torch.cat((sample["joints_2d_px"], sample["joints_2d_px"].new_zeros(8, 19, 2)), dim=1)
    confidence = torch.cat((sample["confidence"], sample["confidence"].new_zeros(8, 19)), dim=1)
    settings = SMPLifySettings(camera_steps=5, body_steps=5)
    term = KeypointReprojection(seen, confidence, sample["K"], sample["image_size"])
    few = KeypointReprojection(sample["joints_2d_px"], sample["confidence"], sample["K"], sample["image_size"])
    found, expected = smplify(start, [term], body, settings), smplify(start, [few], NamedJoints(BODY_25), settings)
    torch.testing.assert_close(found.pose_rot6d, expected.pose_rot6d, rtol=0, atol=1e-6)


def test_progress_counts_all_steps(start: SMPLEstimate, keypoints: KeypointReprojection, body: NamedJoints) -> None:
    calls: list[tuple[int, int]] = []
    settings = SMPLifySettings(camera_steps=2, body_steps=3)
    smplify(start, [keypoints], body, settings, lambda done, total: calls.append((done, total)))
    assert calls == [(step, 5) for step in range(1, 6)]


def test_settings_are_spins() -> None:
    settings = SMPLifySettings()
    assert (settings.camera_steps, settings.body_steps, settings.lr, settings.sigma) == (100, 100, 1e-2, 100)
    weights = (settings.w_depth, settings.w_pose, settings.w_angle, settings.w_shape)
    assert weights == pytest.approx((100**2, 4.78**2, 15.2**2, 5**2))
