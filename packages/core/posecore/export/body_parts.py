"""The body layer as networks for other programs."""

import torch
from torch import Tensor

from posecore.body.files import BodyModel
from posecore.body.smpl import PoseRepr, SMPLLayer
from posecore.export.network_parts import Array, Call, Fill, Input, Part, normal
from posecore.geometry.rotation import axis_angle_to_rotmat, rotmat_to_rot6d

_SHAPES: dict[PoseRepr, tuple[int, ...]] = {"rotmat": (3, 3), "axis_angle": (3,), "rot6d": (6,)}
_ABOUT: dict[PoseRepr, str] = {
    "rotmat": "rotation matrices",
    "axis_angle": "axis times angle, radians",
    "rot6d": "first two columns of the rotation matrix, one after the other",
}


def export_parts(model: BodyModel | None = None, pose_repr: PoseRepr = "rotmat") -> dict[str, Part]:
    """``mesh`` (vertices and joints) and ``joints`` (kinematic joints alone, a small part of the work).

    Args:
        model: The body; the open body where None.
        pose_repr: How rotations go in.
    """
    full = SMPLLayer(model).eval()
    joints_only = SMPLLayer(model, vertices=()).eval()
    rotation = _SHAPES[pose_repr]
    inputs = (
        Input("betas", ("batch", full.num_betas), "shape, in standard deviations", normal()),
        Input(
            "body_pose",
            ("batch", full.num_body_joints, *rotation),
            f"rotations relative to the parent joint: {_ABOUT[pose_repr]}",
            _rotations(pose_repr),
        ),
        Input(
            "global_orient", ("batch", *rotation), f"rotation of the root: {_ABOUT[pose_repr]}", _rotations(pose_repr)
        ),
        Input("transl", ("batch", 3), "shift of the whole body, metres", normal(2.0)),
    )
    num_vertices, num_joints = full.model.lbs_weights.shape
    vertices = Array("vertices", ("batch", num_vertices, 3), "metres")
    joints = Array("joints", ("batch", num_joints, 3), "kinematic joints, root first, metres")

    def mesh(betas: Tensor, body_pose: Tensor, global_orient: Tensor, transl: Tensor) -> tuple[Tensor, ...]:
        posed = full(betas, body_pose, global_orient, transl, pose_repr)
        return posed.vertices, posed.joints

    def only(betas: Tensor, body_pose: Tensor, global_orient: Tensor, transl: Tensor) -> Tensor:
        posed: Tensor = joints_only(betas, body_pose, global_orient, transl, pose_repr).joints
        return posed

    settings = {"pose_repr": pose_repr, "body": full.model.name, "parents": full.model.parents.tolist()}
    return {
        "mesh": Part(
            "A posed body: vertices and joints.", Call(mesh, full).eval(), inputs, (vertices, joints), settings
        ),
        "joints": Part("The joints of a posed body.", Call(only, joints_only).eval(), inputs, (joints,), settings),
    }


def _rotations(pose_repr: PoseRepr) -> Fill:
    """Draws rotations of about 40 degrees."""

    def draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        batch = shape[: len(shape) - len(_SHAPES[pose_repr])]
        axis_angle = 0.4 * torch.randn(*batch, 3, generator=generator)
        if pose_repr == "axis_angle":
            return axis_angle
        rotmat: Tensor = axis_angle_to_rotmat(axis_angle)
        return rotmat if pose_repr == "rotmat" else rotmat_to_rot6d(rotmat)

    return draw
