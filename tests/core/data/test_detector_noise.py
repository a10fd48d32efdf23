import pytest
import torch

from posecore.body.skeletons import COCO_17, H36M_17, JOINT_SETS
from posecore.data.detector_noise import DetectorNoise, person_size


def people(joints: int = 17, batch: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return 300 + 400 * torch.rand((batch, joints, 2), generator=generator), torch.full((batch, 2), 1000.0)


@pytest.mark.parametrize("joint_set", [H36M_17, COCO_17], ids=lambda s: s.name)
def test_confidence_tells_the_truth_about_the_noise(joint_set, generator) -> None:
    noise = DetectorNoise(ambiguous_prob=0.0, missing_prob=0.0)
    truth, size = people()
    detected, confidence = noise(truth, size, joint_set, generator)
    seen = confidence > 0
    scale = person_size(truth)[:, None, None].expand_as(truth)[seen]
    standardised = (detected - truth)[seen] / scale / noise.deviation_from_confidence(confidence)[seen][:, None]
    for low, high in [(0.02, 0.5), (0.5, 0.9), (0.9, 0.99)]:
        among = (confidence[seen] > low) & (confidence[seen] < high)
        assert among.sum() > 500
        assert float(standardised[among].std()) == pytest.approx(1.0, abs=0.08)


def test_ambiguous_limbs_are_swapped_half_of_the_time_and_say_so(generator) -> None:
    noise = DetectorNoise(std=1e-6, difficulty=0.0, missing_prob=0.0, occluder_prob=0.0, ambiguous_prob=0.4)
    truth, size = people()
    detected, confidence = noise(truth, size, H36M_17, generator)
    flip = torch.tensor(H36M_17.flip)
    wrist, knee, pelvis = (H36M_17.index(name) for name in ("l_wrist", "r_knee", "pelvis"))
    swapped = (detected - truth[:, flip]).norm(dim=-1) < 0.1
    for joint in (wrist, knee):
        assert float(swapped[:, joint].float().mean()) == pytest.approx(0.2, abs=0.03)
        assert (confidence[swapped[:, joint], joint] < 0.51).all()
        among_doubted = swapped[:, joint][confidence[:, joint] < 0.51]
        assert float(among_doubted.float().mean()) == pytest.approx(0.5, abs=0.05)
    assert (confidence[:, pelvis] > 0.99).all()
    assert (swapped[:, wrist] == swapped[:, H36M_17.index("r_shoulder")]).all()  # whole limbs


def test_missing_occluded_and_outside_joints(generator) -> None:
    truth, size = people()
    _, confidence = DetectorNoise(missing_prob=0.3, occluder_prob=0.0)(truth, size, H36M_17, generator)
    assert float((confidence == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    quiet = {"missing_prob": 0.0, "ambiguous_prob": 0.0}
    _, clear = DetectorNoise(**quiet, occluder_prob=0.0)(truth, size, H36M_17, generator)
    detected, hidden = DetectorNoise(**quiet, occluder_prob=1.0)(truth, size, H36M_17, generator)
    assert hidden.mean() < clear.mean() - 0.03
    assert (detected[hidden == 0] == 0).all()
    outside = truth.clone()
    outside[:, 3] += 2000
    detected, confidence = DetectorNoise(**quiet, occluder_prob=0.0)(outside, size, H36M_17, generator)
    assert (confidence[:, 3] == 0).all()
    assert (confidence[:, 4] > 0).all()


@pytest.mark.parametrize("joint_set", JOINT_SETS.values(), ids=lambda s: s.name)
def test_every_joint_set_and_repeatable(joint_set) -> None:
    truth, size = people(joint_set.num_joints, batch=50)
    draws = [DetectorNoise()(truth, size, joint_set, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0][0], draws[1][0])
    assert not torch.equal(draws[0][0], draws[2][0])
    assert draws[0][1].min() >= 0
    assert draws[0][1].max() <= 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"missing_prob": 1.5}, r"missing_prob: must lie in \[0, 1\], got 1.5"),
        ({"ambiguous_prob": -0.1}, "ambiguous_prob"),
        ({"occluder_prob": 2.0}, "occluder_prob"),
        ({"std": -1.0}, "std: must not be negative, got -1.0"),
        ({"difficulty": -1.0}, "difficulty: must not be negative"),
        ({"confidence_scale": 0.0}, "confidence_scale must be positive"),
        ({"occluded_factor": 0.5}, "occluded_factor at least 1"),
    ],
)
def test_arguments_outside_their_range(argument: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectorNoise(**argument)
