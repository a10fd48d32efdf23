import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import SMPL_24
from posecore.body.smpl import SMPLLayer
from posecore.data.sample import PoseSample
from posecore.fitting.estimate import PosedPeople, SMPLEstimate


def test_the_rotations_of_an_estimate(people: SMPLEstimate, sample: PoseSample) -> None:
    assert len(people) == 8
    torch.testing.assert_close(people.global_orient, sample["global_orient"], rtol=0, atol=1e-6)
    torch.testing.assert_close(people.body_pose, sample["body_pose"], rtol=0, atol=1e-6)
    expected = Rotation.from_matrix(people.pose_rotmat.flatten(0, 1).numpy()).as_rotvec().reshape(8, 24, 3)
    np.testing.assert_allclose(people.pose_axis_angle.numpy(), expected, rtol=0, atol=1e-9)


def test_any_six_numbers_are_a_rotation(generator: torch.Generator) -> None:
    numbers = torch.randn(2, 24, 6, generator=generator, dtype=torch.float64)
    rotmat = SMPLEstimate(numbers, torch.zeros(2, 10), torch.zeros(2, 3)).pose_rotmat
    identity = torch.eye(3, dtype=torch.float64).expand(2, 24, 3, 3)
    torch.testing.assert_close(rotmat @ rotmat.mT, identity, rtol=0, atol=1e-12)
    torch.testing.assert_close(rotmat[..., 0], numbers[..., :3] / numbers[..., :3].norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_axis_angle_of_no_rotation_has_its_gradient(dtype: torch.dtype) -> None:
    # Near the identity the vector is (R21, -R20, R10): numbers 5, 2 and 1 of the two columns.
    pose = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=dtype).repeat(1, 24, 1).requires_grad_()
    estimate = SMPLEstimate(pose, torch.zeros(1, 10, dtype=dtype), torch.zeros(1, 3, dtype=dtype))
    weights = torch.tensor([2.0, 3.0, 5.0], dtype=dtype)
    (gradient,) = torch.autograd.grad((estimate.pose_axis_angle * weights).sum(), pose)
    expected = torch.tensor([0.0, 5, -3, 0, 0, 2], dtype=dtype).expand(1, 24, 6)
    torch.testing.assert_close(gradient, expected)


def test_take_gives_these_people(people: SMPLEstimate) -> None:
    kept = people.take(torch.tensor([5, 2]))
    assert len(kept) == 2
    for row, person in enumerate((5, 2)):
        for name in ("pose_rot6d", "betas", "transl"):
            assert torch.equal(getattr(kept, name)[row], getattr(people, name)[person])


def test_joints_equal_the_layers_and_the_data_sets(people: SMPLEstimate, sample: PoseSample, body: NamedJoints) -> None:
    found = PosedPeople(people, NamedJoints(SMPL_24)).joints_cam
    expected = SMPLLayer(vertices=())(people.betas, people.body_pose, people.global_orient, people.transl).joints
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(PosedPeople(people, body).joints_cam, sample["joints_cam"], rtol=0, atol=1e-5)


def test_joints_are_computed_once_and_only_when_asked_for(people: SMPLEstimate, body: NamedJoints) -> None:
    calls = []
    hook = body.register_forward_hook(lambda *_: calls.append(1))
    try:
        posed = PosedPeople(people, body)
        assert not calls
        assert posed.joints_cam is posed.joints_cam
        assert len(calls) == 1
    finally:
        hook.remove()
