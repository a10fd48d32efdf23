import dataclasses

import pytest
import torch
from torch import Tensor

from posecore.body.files import BodyModel, load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import BODY_25, COCO_17, H36M_17, JOINTS_44, SMPL_24, JointSet, get_joint_set
from posecore.body.smpl import SMPLLayer, SMPLOutput
from posecore.geometry.rotation import axis_angle_to_rotmat, random_rotmat


@pytest.fixture(scope="module")
def model() -> BodyModel:
    return load_body_model()


@pytest.fixture(scope="module")
def pose() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "betas": torch.randn(3, 10, generator=generator),
        "body_pose": axis_angle_to_rotmat(0.4 * torch.randn(3, 23, 3, generator=generator)),
        "global_orient": random_rotmat((3,), generator),
        "transl": torch.randn(3, 3, generator=generator),
    }


@pytest.fixture(scope="module")
def whole(model: BodyModel, pose: dict[str, Tensor]) -> SMPLOutput:
    """Every vertex and joint of the same bodies."""
    return SMPLLayer(model)(**pose)


def extra_regressor(model: BodyModel) -> Tensor:
    """A made-up regressor of the 19 joints: each a mean of a few vertices."""
    regressor = torch.zeros(19, len(model.v_template))
    generator = torch.Generator().manual_seed(1)
    for row in regressor:
        chosen = torch.randperm(len(row), generator=generator)[:5]
        row[chosen] = torch.rand(5, generator=generator)
    return regressor / regressor.sum(dim=1, keepdim=True)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_smpl24_is_the_kinematic_joints(model: BodyModel, pose: dict[str, Tensor], whole: SMPLOutput) -> None:
    close(NamedJoints(SMPL_24, model)(**pose), whole.joints)


def test_body25_is_kinematic_joints_and_single_vertices(
    model: BodyModel, pose: dict[str, Tensor], whole: SMPLOutput
) -> None:
    found = NamedJoints(BODY_25, model)(**pose)
    landmarks = dict(zip(model.landmark_names, model.landmark_vertex_ids.tolist(), strict=True))
    assert found.shape == (3, 25, 3)
    for index, name in enumerate(BODY_25.joint_names):
        kinematic = "pelvis" if name == "mid_hip" else name
        if kinematic in SMPL_24.joint_names:
            close(found[:, index], whole.joints[:, SMPL_24.index(kinematic)])
        else:
            close(found[:, index], whole.vertices[:, landmarks[name]])


def test_h36m17_is_regressed_from_the_mesh(model: BodyModel, pose: dict[str, Tensor], whole: SMPLOutput) -> None:
    assert model.J_regressor_h36m is not None
    close(NamedJoints(H36M_17, model)(**pose), model.J_regressor_h36m @ whole.vertices)


def test_joints44_begins_with_body25(model: BodyModel, pose: dict[str, Tensor]) -> None:
    found = NamedJoints(JOINTS_44, model)(**pose)
    assert found.shape == (3, 44, 3)
    close(found[:, :25], NamedJoints(BODY_25, model)(**pose))


def test_joints44_of_the_open_body(model: BodyModel, pose: dict[str, Tensor], whole: SMPLOutput) -> None:
    """Limbs are kinematic joints; neck to head come by the Human3.6M regressor."""
    found = NamedJoints(JOINTS_44, model)(**pose)
    for index, name in enumerate(JOINTS_44.joint_names[25:37], start=25):
        close(found[:, index], whole.joints[:, SMPL_24.index(name)])
    assert model.J_regressor_h36m is not None
    h36m = model.J_regressor_h36m @ whole.vertices
    expected = ["thorax", "head_top", "pelvis", "thorax", "spine", "neck_nose", "head_top"]
    for index, name in enumerate(expected, start=37):
        close(found[:, index], h36m[:, H36M_17.index(name)])


def test_joints44_takes_the_bodys_own_regressor(model: BodyModel, pose: dict[str, Tensor], whole: SMPLOutput) -> None:
    regressor = extra_regressor(model)
    found = NamedJoints(JOINTS_44, dataclasses.replace(model, J_regressor_extra=regressor))(**pose)
    close(found[:, 25:], regressor @ whole.vertices)
    close(found[:, :25], NamedJoints(BODY_25, model)(**pose))


@pytest.mark.parametrize("name", ["smpl24", "body25", "joints44", "h36m17"])
def test_works_without_transl_in_rot6d_and_float64(model: BodyModel, pose: dict[str, Tensor], name: str) -> None:
    body = NamedJoints(get_joint_set(name), model)
    at_origin = body(pose["betas"], pose["body_pose"], pose["global_orient"])
    close(at_origin + pose["transl"][:, None], body(**pose))
    columns = [value[..., :2].mT.flatten(-2) for value in (pose["body_pose"], pose["global_orient"])]
    close(body(pose["betas"], *columns, pose_repr="rot6d"), at_origin)
    precise = body(**{key: value.double() for key, value in pose.items()})
    assert precise.dtype == torch.float64
    close(precise.float(), body(**pose))


def test_a_body_is_no_part_of_a_checkpoint(model: BodyModel) -> None:
    assert not NamedJoints(JOINTS_44, model).state_dict()


def test_the_open_body_is_the_default(pose: dict[str, Tensor], whole: SMPLOutput) -> None:
    close(NamedJoints(SMPL_24)(**pose), whole.joints)


@pytest.mark.parametrize("joint_set", [COCO_17, get_joint_set("h36m16")])
def test_other_joint_sets_are_refused(model: BodyModel, joint_set: JointSet) -> None:
    says = f"joint_set: '{joint_set.name}' is none of smpl24, body25, joints44, h36m17"
    with pytest.raises(ValueError, match=says):
        NamedJoints(joint_set, model)


def test_what_a_body_lacks_is_named(model: BodyModel) -> None:
    bare = dataclasses.replace(model, J_regressor_h36m=None)
    for joint_set in (H36M_17, JOINTS_44):
        with pytest.raises(ValueError, match=r"has no J_regressor_h36m, which '\w+' needs"):
            NamedJoints(joint_set, bare)
    faceless = dataclasses.replace(model, landmark_names=(), landmark_vertex_ids=torch.empty(0, dtype=torch.long))
    with pytest.raises(ValueError, match=r"has no landmarks \['nose'\]"):
        NamedJoints(BODY_25, faceless)
    # With a regressor of its own it needs no other.
    own = dataclasses.replace(bare, J_regressor_extra=extra_regressor(model))
    assert NamedJoints(JOINTS_44, own).layer.num_betas == 10
