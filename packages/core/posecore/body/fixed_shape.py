"""Joints of bodies whose shape stays, from 6D rotations, with the backward pass written out: for fits of many steps."""

import itertools
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
        return not (named.layer._has_posedirs and named.layer._template.numel())

    @torch.no_grad()
    @full_precision
    def __init__(self, named: NamedJoints, betas: Float[Tensor, "people betas"]) -> None:
        if not self.supports(named):
            raise ValueError("named: its vertices move with pose blend shapes; use the joints themselves")
        layer = named.layer
        parents = layer.model.parents.tolist()
        # Everything below is in the order of depth, so that joints of one depth are a slice.
        depth = [len(_chain(joint, parents)) - 1 for joint in range(len(parents))]
        order = sorted(range(len(parents)), key=lambda joint: depth[joint])
        place = {joint: row for row, joint in enumerate(order)}
        parent = [0 if parents[joint] < 0 else place[parents[joint]] for joint in order]
        bounds = [sum(d < level for d in depth) for level in range(max(depth) + 2)]
        self.slices = [slice(low, high) for low, high in itertools.pairwise(bounds)]
        self.order = torch.tensor(order, device=betas.device)
        self.from_order = self.order.argsort()
        self.parent = torch.tensor(parent, device=betas.device)
        self.above = [self.parent[level] for level in self.slices]
        self.ancestors = torch.zeros(len(order), len(order)).to(betas)
        self.children = torch.zeros(len(order), len(order)).to(betas)
        for row, joint in enumerate(order):
            self.ancestors[row, [place[at] for at in _chain(joint, parents)]] = 1
            if parents[joint] >= 0:
                self.children[parent[row], row] = 1

        # Joints come first, people second: sums over joints are then plain matrix products.
        rest = layer.rest_joints(betas).transpose(0, 1)[self.order]
        self.bones = rest - rest[self.parent]
        self.root = rest[:1]

        # A joint that is asked for is a kinematic joint, or a sum of vertices r_v v, each of which is
        # sum_j w_vj (R_j (v - rest_j) + p_j): a share of every joint's position, and a point in its frame.
        picks = layer._used_joints[layer._joint_picks]
        weights = torch.zeros(len(order), layer._weights.shape[1]).to(betas)
        weights[layer._used_joints] = layer._weights.to(betas.dtype)
        weights = weights[self.order]
        regressor = layer._regressor.to(betas.dtype)
        share = torch.zeros(len(order), len(picks) + regressor.shape[1]).to(betas)
        share[self.from_order[picks], torch.arange(len(picks), device=betas.device)] = 1
        share[:, len(picks) :] = weights @ regressor
        self.share = share[:, named._order].mT.contiguous()
        self.pulls = (self.share @ self.ancestors).mT.contiguous()
        template = layer._template.to(betas.dtype)
        vertices = torch.addmm(template, betas, layer._shapedirs[: betas.shape[1]].to(betas.dtype)).unflatten(
            -1, (3, -1)
        )
        points = torch.einsum("pcv,jv,vk->jkpc", vertices, weights, regressor)
        points = points - share[:, len(picks) :, None, None] * rest[:, None]
        points = torch.cat((points.new_zeros(len(order), len(picks), len(betas), 3), points), dim=1)[:, named._order]
        self.pair_joint, pair_point = (points != 0).flatten(2).any(dim=-1).nonzero(as_tuple=True)
        self.points = points[self.pair_joint, pair_point]
        pairs = torch.arange(len(pair_point), device=betas.device)
        self.to_joint = torch.zeros(share.shape[1], len(pairs)).to(betas)
        self.to_joint[pair_point, pairs] = 1
        self.to_holder = torch.zeros(len(order), len(pairs)).to(betas)
        self.to_holder[self.pair_joint, pairs] = 1

    def __call__(self, pose_rot6d: Float[Tensor, "people 24 6"]) -> Float[Tensor, "people joints 3"]:
        """Joints without translation, metres."""
        joints: Tensor = _Joints.apply(pose_rot6d, self)
        return joints

    def take(self, rows: Int[Tensor, " kept"]) -> "FixedShapeJoints":
        """These people only."""
        new = object.__new__(FixedShapeJoints)
        new.__dict__.update(
            self.__dict__, root=self.root[:, rows], bones=self.bones[:, rows], points=self.points[:, rows]
        )
        return new


def _chain(joint: int, parents: list[int]) -> list[int]:
    """The joint and its ancestors up to the root."""
    chain = [joint]
    while (joint := parents[joint]) >= 0:
        chain.append(joint)
    return chain


class _Joints(torch.autograd.Function):
    """Gram-Schmidt, forward kinematics and the points that joints hold."""

    @staticmethod
    @full_precision
    def forward(ctx: Any, pose_rot6d: Tensor, body: FixedShapeJoints) -> Tensor:
        pose = pose_rot6d.transpose(0, 1).index_select(0, body.order)
        first, second = pose[..., :3], pose[..., 3:]
        length = torch.linalg.vector_norm(first, dim=-1, keepdim=True).clamp_min(_ZERO_LENGTH)
        x = first / length
        along = (x * second).sum(dim=-1, keepdim=True)
        rest = torch.addcmul(second, along, x, value=-1)
        height = torch.linalg.vector_norm(rest, dim=-1, keepdim=True).clamp_min(_ZERO_LENGTH)
        y = rest / height
        local = torch.stack((x, y, torch.linalg.cross(x, y, dim=-1)), dim=-1)

        world = torch.empty_like(local)
        world[:1] = local[:1]
        people = (-1, 3, 3)
        for level, above in zip(body.slices[1:], body.above[1:], strict=True):
            frames = torch.bmm(world.index_select(0, above).view(people), local[level].view(people))
            world[level] = frames.view_as(local[level])
        turned = (world.index_select(0, body.parent) * body.bones[..., None, :]).sum(dim=-1)
        positions = (body.ancestors @ turned.flatten(1)).view_as(turned) + body.root
        held = (world.index_select(0, body.pair_joint) * body.points[..., None, :]).sum(dim=-1)
        ctx.body = body
        ctx.save_for_backward(second, x, y, length, height, along, local, world)
        joints = torch.addmm(body.share @ positions.flatten(1), body.to_joint, held.flatten(1))
        return joints.view(-1, *turned.shape[1:]).transpose(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @full_precision
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        body: FixedShapeJoints = ctx.body
        second, x, y, length, height, along, local, world = ctx.saved_tensors
        of_joints = grad.transpose(0, 1).reshape(grad.shape[1], -1)
        # What pulls at a joint's frame: outer products with the points it holds, and with the bones of its children.
        grad_turned = (body.pulls @ of_joints).view_as(body.bones)
        grad_held = (body.to_joint.mT @ of_joints).view_as(body.points)
        held = (grad_held[..., None] * body.points[..., None, :]).flatten(1)
        turned = (grad_turned[..., None] * body.bones[..., None, :]).flatten(1)
        grad_world = torch.addmm(body.to_holder @ held, body.children, turned).view_as(world)
        # From hands and feet to the root: a frame is its parent's times the joint's own rotation.
        people = (-1, 3, 3)
        for level, upper in zip(body.slices[:0:-1], body.slices[-2::-1], strict=True):
            passed = torch.bmm(grad_world[level].view(people), local[level].view(people).mT)
            above = body.children[upper, level] @ passed.view(level.stop - level.start, -1)
            grad_world[upper] += above.view_as(grad_world[upper])
        grad_local = torch.empty_like(grad_world)
        grad_local[:1] = grad_world[:1]
        frames = world.index_select(0, body.parent[1:]).view(people).mT
        grad_local[1:] = torch.bmm(frames, grad_world[1:].view(people)).view_as(grad_local[1:])

        grad_x, grad_y, grad_z = grad_local.unbind(dim=-1)
        grad_x = grad_x + torch.linalg.cross(y, grad_z, dim=-1)
        grad_y = grad_y + torch.linalg.cross(grad_z, x, dim=-1)
        grad_rest = torch.addcmul(grad_y, (grad_y * y).sum(dim=-1, keepdim=True), y, value=-1) / height
        inner = (grad_rest * x).sum(dim=-1, keepdim=True)
        grad_second = torch.addcmul(grad_rest, inner, x, value=-1)
        grad_x = grad_x - along * grad_rest - inner * second
        grad_first = torch.addcmul(grad_x, (grad_x * x).sum(dim=-1, keepdim=True), x, value=-1) / length
        grad_pose = torch.cat((grad_first, grad_second), dim=-1).index_select(0, body.from_order)
        return grad_pose.transpose(0, 1), None
