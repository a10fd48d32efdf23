"""Forward kinematics and linear blend skinning, for any kinematic tree.

References:
    Loper et al., SMPL: A Skinned Multi-Person Linear Model, SIGGRAPH Asia 2015.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from posecore.geometry.precision import full_precision

__all__ = ["KinematicTree", "ancestor_chain", "linear_blend_skinning"]


def ancestor_chain(parents: Sequence[int], joint: int) -> list[int]:
    """The joint and its ancestors up to the root.

    Raises:
        ValueError: The bones run in a circle.
    """
    chain = [joint]
    while (parent := parents[chain[-1]]) >= 0:
        if parent in chain:
            raise ValueError(f"parents {tuple(parents)} run in a circle through joint {parent}")
        chain.append(parent)
    return chain


class KinematicTree(nn.Module):
    """Turns rotations relative to the parent joint into world rotations and joint positions.

    All joints of the same depth are turned at once: SMPL's 24 joints take 8 matrix products in sequence instead of 23.

    Attributes:
        parents: Parent index of each joint, -1 for a root; joints may be in any order and there may be several roots.
    """

    _parent_index: Tensor
    _ancestors: Tensor
    _by_depth: Tensor
    _from_depth: Tensor
    _roots: Tensor

    def __init__(self, parents: Sequence[int]) -> None:
        """Lays out the tree.

        Raises:
            ValueError: A parent is no joint, or the bones run in a circle.
        """
        super().__init__()
        self.parents = tuple(int(parent) for parent in parents)
        count = len(self.parents)
        if not self.parents or not all(-1 <= parent < count for parent in self.parents):
            raise ValueError(f"parents are {self.parents}; each must be -1 or the index of one of {count} joints")
        chains = [ancestor_chain(self.parents, joint) for joint in range(count)]
        depth = [len(chain) - 1 for chain in chains]
        order = sorted(range(count), key=lambda joint: depth[joint])
        levels = [[joint for joint in order if depth[joint] == d] for d in range(max(depth) + 1)]
        self._sizes = [len(level) for level in levels]

        ancestors = torch.zeros(count, count)
        for joint, chain in enumerate(chains):
            ancestors[joint, chain] = 1
        # Tables of the tree, no part of a model's weights, so no checkpoint has them.
        self.register_buffer("_parent_index", torch.tensor(self.parents).clamp(min=0), persistent=False)
        self.register_buffer("_ancestors", ancestors, persistent=False)
        self.register_buffer("_by_depth", torch.tensor(order), persistent=False)
        self.register_buffer("_from_depth", torch.tensor(order).argsort(), persistent=False)
        for d in range(1, len(levels)):
            above = torch.tensor([levels[d - 1].index(self.parents[joint]) for joint in levels[d]])
            self.register_buffer(f"_above_{d}", above, persistent=False)
        roots = torch.tensor([parent < 0 for parent in self.parents])[:, None]
        self.register_buffer("_roots", roots, persistent=False)

    @full_precision
    def forward(
        self, rotmat: Float[Tensor, "*batch joints 3 3"], rest_joints: Float[Tensor, "*#batch joints 3"]
    ) -> tuple[Float[Tensor, "*batch joints 3 3"], Float[Tensor, "*batch joints 3"]]:
        """Poses the tree.

        Args:
            rotmat: Rotation of each joint relative to its parent; a root's is relative to the world.
            rest_joints: Positions in the rest pose, metres. A root stays where it is.

        Returns:
            World rotations, and world positions in metres.
        """
        levels = list(rotmat.index_select(-3, self._by_depth).split(self._sizes, dim=-3))
        for d in range(1, len(levels)):
            levels[d] = levels[d - 1].index_select(-3, getattr(self, f"_above_{d}")) @ levels[d]
        world = torch.cat(levels, dim=-3).index_select(-3, self._from_depth)

        # A joint lies at the sum of the turned bones on its way from the root: one product with a matrix of 0 and 1.
        bones = rest_joints - rest_joints.index_select(-2, self._parent_index)
        turned = (world.index_select(-3, self._parent_index) @ bones[..., None]).squeeze(-1)
        turned = torch.where(self._roots, rest_joints, turned)
        return world, self._ancestors.to(turned.dtype) @ turned


@full_precision
def linear_blend_skinning(
    coefficients: Float[Tensor, "#people coefficients"],
    blend_shapes: Float[Tensor, "3 coefficients points"],
    weights: Float[Tensor, "joints points"],
    rigid: Float[Tensor, "4 3 people joints"],
) -> Float[Tensor, "people 3 points"]:
    """Makes points of the rest pose as sums of blend shapes, and moves them with the joints that hold them.

    Points are laid out with one row per coordinate, so that every sum below runs over contiguous memory. On a CPU a
    block of points at a time goes through all steps, which then find it in the cache. Gradients are of the
    coefficients and of the motion, and can't be differentiated again.

    Args:
        coefficients: Weights of the blend shapes.
        blend_shapes: Shifts of each point, metres; the body at rest is one of them, of coefficient 1.
        weights: How much each point follows each joint.
        rigid: Motion of each joint: the three columns of its rotation, then its translation, metres.

    Returns:
        World positions of the points.
    """
    if torch.is_grad_enabled() and (coefficients.requires_grad or rigid.requires_grad):
        points: Tensor = _Skinning.apply(coefficients, blend_shapes, weights, rigid)
        return points
    return _skin(coefficients, blend_shapes, weights, rigid, None)


# Of the largest array of a block; more would leave the cache, and fresh memory of the system is slow to touch.
_BLOCK_BYTES = 3_000_000
_MIN_BLOCK = 128  # points
_ALIGNMENT = 16  # points: rows of a block that are whole cache lines are faster by a fifth


def _blocks(rigid: Tensor, points: int) -> list[slice]:
    """Blocks of points that go through all steps at once."""
    if rigid.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(0, points)]
    width = _BLOCK_BYTES // max(1, rigid[..., 0].numel() * rigid.element_size())
    width = max(_MIN_BLOCK, width // _ALIGNMENT * _ALIGNMENT)
    return [slice(start, start + width) for start in range(0, points, width)]


def _blend(rigid: Tensor, weights: Tensor) -> Tensor:
    """The motion of each point: four columns as above."""
    return (rigid.flatten(0, 2) @ weights).view(*rigid.shape[:3], weights.shape[1])


def _skin(
    coefficients: Tensor, blend_shapes: Tensor, weights: Tensor, rigid: Tensor, rest_blocks: list[Tensor] | None
) -> Tensor:
    """Posed points; the blocks of the rest pose go into ``rest_blocks``."""
    posed = rigid.new_empty(rigid.shape[2], 3, weights.shape[1])
    coefficients = coefficients.expand(3, -1, -1)
    for block in _blocks(rigid, weights.shape[1]):
        rest = torch.bmm(coefficients, blend_shapes[..., block])
        column_x, column_y, column_z, shift = _blend(rigid, weights[:, block])
        out = torch.addcmul(shift, column_x, rest[0]).addcmul_(column_y, rest[1]).addcmul_(column_z, rest[2])
        posed[..., block] = out.transpose(0, 1)
        if rest_blocks is not None:
            rest_blocks.append(rest)
    return posed


class _Skinning(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, blend_shapes: Tensor, weights: Tensor, rigid: Tensor) -> Tensor:
        rest_blocks: list[Tensor] = []
        posed = _skin(coefficients, blend_shapes, weights, rigid, rest_blocks)
        ctx.save_for_backward(coefficients, blend_shapes, weights, rigid, *rest_blocks)
        return posed

    @staticmethod
    @torch.autograd.function.once_differentiable
    @full_precision
    def backward(ctx: Any, of_posed: Tensor) -> tuple[Tensor, None, None, Tensor]:
        coefficients, blend_shapes, weights, rigid, *rest_blocks = ctx.saved_tensors
        of_rigid = rigid.new_zeros(rigid.shape[-1], rigid[..., 0].numel())
        of_coefficients = coefficients.new_zeros(3, *coefficients.shape)
        for block, rest in zip(_blocks(rigid, weights.shape[1]), rest_blocks, strict=True):
            pull = of_posed[..., block].transpose(0, 1).contiguous()
            blended = _blend(rigid, weights[:, block])
            of_rest = (blended[:3, 0] * pull[0]).addcmul_(blended[:3, 1], pull[1]).addcmul_(blended[:3, 2], pull[2])
            if len(coefficients) == 1:
                of_rest = of_rest.sum(dim=1, keepdim=True)
            of_coefficients.baddbmm_(of_rest, blend_shapes[..., block].mT)
            torch.mul(rest[:, None], pull, out=blended[:3])
            blended[3] = pull
            of_rigid.addmm_(weights[:, block], blended.flatten(0, 2).mT)
        return of_coefficients.sum(dim=0), None, None, of_rigid.mT.reshape(rigid.shape)
