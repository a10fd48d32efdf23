"""Joints of bodies whose shape stays, from 6D rotations, with the backward pass written out: for fits of many steps."""

import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.body.named_joints import NamedJoints
from posecore.geometry.precision import full_precision

_ZERO_LENGTH = 1e-12


class FixedShapeJoints:
    """Equals `NamedJoints` at fixed betas, and so does its gradient, with a third of the operations.

    What the shape gives (bones, and where a point lies in the frame of each joint that holds it) is computed once. A
    call then turns rotations into joints, and a gradient back into that of the rotations, in closed form.

    Args:
        named: The joints.
        betas: Shapes, one row per person.

    Raises:
        ValueError: The joints need vertices that move with pose blend shapes, which the closed form leaves out
            (`supports` tells).
    """

    @staticmethod
    def supports(named: NamedJoints) -> bool:
        """Whether the joints need no vertex that moves with pose blend shapes."""
        return not named.layer.points_need_pose

    @torch.no_grad()
    @full_precision
    def __init__(self, named: NamedJoints, betas: Float[Tensor, "people betas"]) -> None:
        if not self.supports(named):
            raise ValueError("named: its vertices move with pose blend shapes; use the joints themselves")
        layer = named.layer
        self.points = layer.held_points(layer.shape_coefficients(betas))
        self.body = copy.deepcopy(layer.points).to(betas)
        self.body._mix = self.body._mix[named._order]
        # Rotations in the order of depth, so that joints of one depth are a slice.
        self.rows = self.body.by_depth(layer._used_joints)

    def __call__(self, pose_rot6d: Float[Tensor, "people 24 6"]) -> Float[Tensor, "people joints 3"]:
        """Joints without translation, metres."""
        joints: Tensor = _Joints.apply(pose_rot6d, self)
        return joints

    def take(self, rows: Int[Tensor, " kept"]) -> "FixedShapeJoints":
        """These people only."""
        new = object.__new__(FixedShapeJoints)
        new.__dict__.update(self.__dict__, points=self.points[..., rows])
        return new


class _Joints(torch.autograd.Function):
    """Gram-Schmidt, forward kinematics and the points that joints hold; people are the last dimension."""

    @staticmethod
    @full_precision
    def forward(ctx: Any, pose_rot6d: Tensor, shaped: FixedShapeJoints) -> Tensor:
        pose = pose_rot6d.permute(1, 2, 0).index_select(0, shaped.rows)
        first, second = pose[:, :3], pose[:, 3:]
        length = torch.linalg.vector_norm(first, dim=1, keepdim=True).clamp_min(_ZERO_LENGTH)
        x = first / length
        along = (x * second).sum(dim=1, keepdim=True)
        rest = torch.addcmul(second, along, x, value=-1)
        height = torch.linalg.vector_norm(rest, dim=1, keepdim=True).clamp_min(_ZERO_LENGTH)
        y = rest / height
        local = torch.stack((x, y, torch.linalg.cross(x, y, dim=1)), dim=2)
        joints, _, saved = shaped.body.pose(shaped.points, local)
        ctx.shaped, ctx.shape = shaped, pose_rot6d.shape
        ctx.save_for_backward(second, x, y, length, height, along, *saved)
        return joints.permute(2, 0, 1).contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    @full_precision
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        shaped: FixedShapeJoints = ctx.shaped
        second, x, y, length, height, along, *saved = ctx.saved_tensors
        _, grad_local = shaped.body.pull(tuple(saved), grad.permute(1, 2, 0).contiguous())
        grad_x, grad_y, grad_z = grad_local.unbind(dim=2)
        grad_x = grad_x + torch.linalg.cross(y, grad_z, dim=1)
        grad_y = grad_y + torch.linalg.cross(grad_z, x, dim=1)
        grad_rest = torch.addcmul(grad_y, (grad_y * y).sum(dim=1, keepdim=True), y, value=-1) / height
        inner = (grad_rest * x).sum(dim=1, keepdim=True)
        grad_second = torch.addcmul(grad_rest, inner, x, value=-1)
        grad_x = grad_x - along * grad_rest - inner * second
        grad_first = torch.addcmul(grad_x, (grad_x * x).sum(dim=1, keepdim=True), x, value=-1) / length
        grad_pose = grad.new_zeros(ctx.shape)
        grad_pose[:, shaped.rows] = torch.cat((grad_first, grad_second), dim=1).permute(2, 0, 1)
        return grad_pose, None
