"""Points that the joints of a tree hold, posed, with the backward pass written out: what a body's joints come from.

References:
    Loper et al., SMPL: A Skinned Multi-Person Linear Model, SIGGRAPH Asia 2015.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from posecore.body.lbs import ancestor_chain
from posecore.geometry.precision import full_precision

__all__ = ["PosedPoints"]

_Saved = tuple[Tensor, Tensor, Tensor]


class PosedPoints(nn.Module):
    """Turns rotations relative to the parent joint into world rotations, and into sums of points that joints hold.

    Everything about a body that a pose moves is such a sum. Bones: a joint lies at the sum of the bones on its way from
    the root, each of which turns with the parent. A vertex, or a weighted sum of vertices, is a share of every joint's
    position and a point in the frame of each joint that holds it.

    People are the last dimension throughout and joints of one depth lie side by side, so that each step is one
    operation on contiguous memory, forwards and backwards. The gradient can't be differentiated again.

    Attributes:
        num_joints: Joints of the tree.
    """

    _mix: Tensor
    _holders: Tensor
    _to_holder: Tensor
    _order: Tensor
    _from_order: Tensor
    _parents: Tensor

    def __init__(self, parents: Sequence[int], holders: Sequence[int], mix: Float[Tensor, "outputs points"]) -> None:
        """Lays out the tree.

        Args:
            parents: Parent of each joint, -1 for a root.
            holders: The joint that holds each point, -1 for the world.
            mix: Weights of the sums.
        """
        super().__init__()
        chains = [ancestor_chain(parents, joint) for joint in range(len(parents))]
        self.num_joints = len(parents)
        order = sorted(range(len(parents)), key=lambda joint: len(chains[joint]))
        sizes = [len(list(level)) for _, level in itertools.groupby(order, key=lambda joint: len(chains[joint]))]
        bounds = [0, *itertools.accumulate(sizes)]
        self._levels = [slice(low, high) for low, high in itertools.pairwise(bounds)]
        place = {joint: row for row, joint in enumerate(order)} | {-1: len(order)}  # the world is a frame at the end
        held_by = torch.tensor([place[joint] for joint in holders])
        # Tables of the tree, no part of a model's weights, so no checkpoint has them.
        self.register_buffer("_mix", mix, persistent=False)
        self.register_buffer("_holders", held_by, persistent=False)
        to_holder = (torch.arange(len(order))[:, None] == held_by).to(mix.dtype)
        self.register_buffer("_to_holder", to_holder, persistent=False)
        self.register_buffer("_order", torch.tensor(order), persistent=False)
        self.register_buffer("_from_order", torch.tensor(order).argsort(), persistent=False)
        self.register_buffer("_parents", torch.tensor([place[parents[joint]] for joint in order]), persistent=False)

    @full_precision
    def forward(
        self, points: Float[Tensor, "points 3 #people"], rotmat: Float[Tensor, "people joints 3 3"]
    ) -> tuple[Float[Tensor, "outputs 3 people"], Float[Tensor, "joints 3 3 people"]]:
        """Poses the points.

        Args:
            points: Each in the frame of the joint that holds it.
            rotmat: Rotation of each joint relative to its parent; a root's is relative to the world.

        Returns:
            The sums, and world rotations.
        """
        if torch.is_grad_enabled() and (points.requires_grad or rotmat.requires_grad):
            outputs, world = _Posed.apply(points, rotmat, self)
            return outputs, world
        outputs, world, _ = self.pose(points, self.by_depth(rotmat.permute(1, 2, 3, 0)))
        return outputs, world

    def by_depth(self, joints: Tensor) -> Tensor:
        """Rows of joints in the order of depth, that of :meth:`pose` and :meth:`pull`."""
        return joints.index_select(0, self._order)

    def from_depth(self, joints: Tensor) -> Tensor:
        """Rows of joints in their own order again."""
        return joints.index_select(0, self._from_order)

    def pose(self, points: Tensor, local: Tensor) -> tuple[Tensor, Tensor, _Saved]:
        """The forward pass: sums, world rotations, and what the backward pass needs."""
        frames = local.new_empty(len(local) + 1, *local.shape[1:])
        frames[-1] = torch.eye(3, dtype=local.dtype, device=local.device)[:, :, None]
        frames[self._levels[0]] = local[self._levels[0]]
        for level in self._levels[1:]:
            above = frames.index_select(0, self._parents[level])
            frames[level] = (above[:, :, :, None] * local[level][:, None]).sum(dim=2)
        held = (frames.index_select(0, self._holders) * points[:, None]).sum(dim=2)
        outputs = (self._mix.to(held.dtype) @ held.flatten(1)).view(len(self._mix), *held.shape[1:])
        return outputs, self.from_depth(frames), (points, local, frames)

    def pull(self, saved: _Saved, of_outputs: Tensor, of_world: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The backward pass: gradients of the points and of the local rotations, these in the order of depth."""
        points, local, frames = saved
        dtype = frames.dtype
        of_held = (self._mix.to(dtype).mT @ of_outputs.flatten(1)).view(len(points), *of_outputs.shape[1:])
        of_points = (frames.index_select(0, self._holders) * of_held[:, :, None]).sum(dim=1)
        if points.shape[-1] == 1:
            of_points = of_points.sum(dim=-1, keepdim=True)
        # What pulls at a frame: outer products with the points that it holds.
        outer = (of_held[:, :, None] * points[:, None]).flatten(1)
        of_frames = (self._to_holder.to(dtype) @ outer).view_as(local)
        if of_world is not None:
            of_frames += self.by_depth(of_world)
        # From hands and feet to the root: a frame is its parent's times the joint's own rotation.
        for level in self._levels[:0:-1]:
            passed = (of_frames[level][:, :, None] * local[level][:, None]).sum(dim=3)
            of_frames.index_add_(0, self._parents[level], passed)
        above = frames.index_select(0, self._parents)
        return of_points, (above[:, :, :, None] * of_frames[:, :, None]).sum(dim=1)


class _Posed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, rotmat: Tensor, body: PosedPoints) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.body = body
        outputs, world, saved = body.pose(points, body.by_depth(rotmat.permute(1, 2, 3, 0)))
        ctx.save_for_backward(*saved)
        return outputs, world

    @staticmethod
    @torch.autograd.function.once_differentiable
    @full_precision
    def backward(ctx: Any, of_outputs: Tensor | None, of_world: Tensor | None) -> tuple[Tensor, Tensor, None]:
        body: PosedPoints = ctx.body
        if of_outputs is None:
            frames = ctx.saved_tensors[2]
            of_outputs = frames.new_zeros(len(body._mix), 3, frames.shape[-1])
        of_points, of_local = body.pull(ctx.saved_tensors, of_outputs, of_world)
        return of_points, body.from_depth(of_local).permute(3, 0, 1, 2), None
