import pytest
import torch

from posecore.body.files import load_body_model
from posecore.body.skeletons import COCO_17, H36M_17, SMPL_24
from posecore.body.smpl import SMPLLayer
from posecore.data import DetectorNoise, PoseSample, SyntheticMotion
from posecore.data.transforms import (
    flip_body_pose,
    flip_joints,
    flip_joints_2d,
    flip_rotations,
    flip_sample,
    rotate_joints,
    truncate_keypoints,
)
from posecore.geometry.camera import project, world_to_cam
from posecore.geometry.rotation import random_rotmat


@pytest.fixture(scope="module")
def samples() -> PoseSample:
    return SyntheticMotion(num_clips=3, joints="body", stride=9, noise=DetectorNoise()).samples


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("joint_set", [H36M_17, SMPL_24, COCO_17], ids=lambda s: s.name)
def test_flipping_twice_is_nothing(shape, dtype, joint_set, generator) -> None:
    joints = torch.randn((*shape, joint_set.num_joints, 3), generator=generator, dtype=dtype)
    once = flip_joints(joints, joint_set)
    assert not torch.equal(once, joints)
    assert torch.equal(flip_joints(once, joint_set), joints)
    left, right = joint_set.index("l_wrist"), joint_set.index("r_wrist")
    torch.testing.assert_close(once[..., left, :], joints[..., right, :] * torch.tensor([-1, 1, 1], dtype=dtype))
    pixels = joints[..., :2]
    twice = flip_joints_2d(flip_joints_2d(pixels, 640.0, joint_set), 640.0, joint_set)
    torch.testing.assert_close(twice, pixels, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotation_turns_about_the_origin(shape, dtype, generator) -> None:
    joints = torch.randn((*shape, 17, 3), generator=generator, dtype=dtype)
    rotmat = random_rotmat(shape, generator=generator, dtype=dtype)
    turned = rotate_joints(joints, rotmat)
    torch.testing.assert_close(turned, torch.einsum("...ij,...kj->...ki", rotmat, joints))
    mirrored = rotate_joints(flip_joints(joints, H36M_17), flip_rotations(rotmat))
    torch.testing.assert_close(mirrored, flip_joints(turned, H36M_17))


def test_flipping_then_projecting_is_the_flipped_projection(samples: PoseSample) -> None:
    sample = PoseSample(**samples)
    sample["K"] = samples["K"].clone()
    sample["K"][:, 0, 1] = 3.0  # skew
    sample["K"][:, 0, 2] += 40
    sample["joints_2d_true_px"] = project(sample["joints_cam"], sample["K"])
    flipped = flip_sample(sample, H36M_17)
    projected = project(flipped["joints_cam"], flipped["K"])
    torch.testing.assert_close(projected, flipped["joints_2d_true_px"], atol=1e-2, rtol=0)
    expected = flip_joints_2d(sample["joints_2d_true_px"], sample["image_size"][:, 0], H36M_17)
    torch.testing.assert_close(projected, expected, atol=1e-2, rtol=0)
    seen = samples["confidence"] > 0
    assert (flipped["joints_2d_px"][~(flipped["confidence"] > 0)] == 0).all()
    assert int((flipped["confidence"] > 0).sum()) == int(seen.sum())


def test_flipped_world_camera_and_pose_agree_with_flipped_joints(samples: PoseSample) -> None:
    flipped = flip_sample(samples, H36M_17)
    world = (samples["joints_cam"] - samples["t_world_to_cam"][:, None]) @ samples["R_world_to_cam"]
    seen = world_to_cam(flip_joints(world, H36M_17), flipped["R_world_to_cam"], flipped["t_world_to_cam"])
    torch.testing.assert_close(seen, flipped["joints_cam"], atol=1e-4, rtol=0)
    # The open body is nearly, not exactly, symmetric: some millimetres.
    layer = SMPLLayer(load_body_model(), vertices=())
    keys = ("betas", "body_pose", "global_orient", "transl")
    posed = layer(**{key: flipped[key] for key in keys}).joints
    expected = flip_joints(layer(**{key: samples[key] for key in keys}).joints, SMPL_24)
    assert float((posed - expected).norm(dim=-1).max()) < 0.02
    torch.testing.assert_close(flip_body_pose(flipped["body_pose"]), samples["body_pose"])


def test_the_callers_sample_is_left_alone_and_twice_is_nothing(samples: PoseSample) -> None:
    before = {key: value.clone() for key, value in samples.items() if isinstance(value, torch.Tensor)}
    twice = flip_sample(flip_sample(samples, H36M_17), H36M_17)
    for key, value in before.items():
        assert torch.equal(samples[key], value)
        torch.testing.assert_close(twice[key], value, atol=1e-3, rtol=0)
    single = SyntheticMotion(num_clips=1)[3]
    assert flip_sample(single, H36M_17)["joints_cam"].shape == (17, 3)


def test_wrong_joints_and_missing_image_size() -> None:
    with pytest.raises(ValueError, match=r"joints: h36m17 has 17 joints, got 24 of shape \(2, 24, 3\)"):
        flip_joints(torch.zeros(2, 24, 3), H36M_17)
    with pytest.raises(ValueError, match="h36m17 has 17 joints, got 24"):
        flip_joints_2d(torch.zeros(2, 24, 2), 5.0, H36M_17)
    with pytest.raises(ValueError, match="mirroring joints_2d_px, K needs the key image_size"):
        flip_sample(PoseSample(joints_2d_px=torch.zeros(17, 2), K=torch.eye(3)), H36M_17)


def test_truncation_cuts_beyond_a_line(generator: torch.Generator) -> None:
    """What is cut lies beyond what is kept, on one side of the picture; the share of cut people is the probability."""
    pixels = torch.rand(2000, 17, 2, generator=generator) * 1000
    confidence = torch.rand(2000, 17, generator=generator).masked_fill(
        torch.rand(2000, 17, generator=generator) < 0.1, 0.0
    )
    cut = truncate_keypoints(pixels, confidence, 0.4, generator)
    changed = (cut != confidence).any(dim=1)
    assert 0.3 < changed.float().mean() < 0.44  # 0.4 +- 4 standard errors; a line may also fall behind the last joint
    assert ((cut == confidence) | (cut == 0)).all()
    assert (cut > 0).any(dim=1).all(), "somebody is left without a joint"
    sides = dict.fromkeys(("below", "above", "right", "left"), 0)
    for person in changed.nonzero()[:, 0].tolist():
        kept, lost = cut[person] > 0, (confidence[person] > 0) & (cut[person] == 0)
        x, y = pixels[person].unbind(-1)
        sides["below"] += bool(y[kept].max() < y[lost].min())
        sides["above"] += bool(y[kept].min() > y[lost].max())
        sides["right"] += bool(x[kept].max() < x[lost].min())
        sides["left"] += bool(x[kept].min() > x[lost].max())
    assert sum(sides.values()) >= int(changed.sum())
    assert sides["below"] > 2 * max(sides["above"], sides["right"], sides["left"])
    assert min(sides.values()) > 0.1 * int(changed.sum())


def test_truncation_of_nobody_changes_nothing(generator: torch.Generator) -> None:
    pixels, confidence = torch.rand(5, 17, 2, generator=generator), torch.rand(5, 17, generator=generator)
    assert torch.equal(truncate_keypoints(pixels, confidence, 0.0, generator), confidence)
    assert torch.equal(truncate_keypoints(pixels, torch.zeros(5, 17), 1.0, generator), torch.zeros(5, 17))
