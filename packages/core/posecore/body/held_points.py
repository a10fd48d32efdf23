"""What the joints of a body hold: bones, and the points that a regressor's rows are made of, as sums of blend shapes.

References:
    Loper et al., SMPL: A Skinned Multi-Person Linear Model, SIGGRAPH Asia 2015.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from posecore.body.files import BodyModel
from posecore.body.lbs import ancestor_chain


def blend_shapes(body: BodyModel, vertices: Int[Tensor, " vertices"]) -> Float[Tensor, "vertices 3 coefficients"]:
    """The mean body, the shapes, and those of the pose where they move any of the vertices; float64.

    The pose's are per entry of R where the file has them per entry of R - I; the mean body makes up for it.
    """
    template, shapes = body.v_template[vertices].double()[..., None], body.shapedirs[vertices].double()
    posedirs = body.posedirs[vertices]
    if not posedirs.any():
        return torch.cat([template, shapes], dim=-1)
    at_rest = posedirs.double().unflatten(-1, (-1, 9))[..., ::4].sum(dim=(-1, -2))
    return torch.cat([template - at_rest[..., None], shapes, posedirs], dim=-1)


def rest_joint_shapes(body: BodyModel) -> Float[Tensor, "joints 3 coefficients"]:
    """Kinematic joints at rest per shape coefficient, the first of which is the mean body's; float64; Eq. (10)."""
    shapes = torch.cat([body.v_template[..., None], body.shapedirs], dim=-1).double()
    return torch.einsum("jv,vck->jck", body.J_regressor.double(), shapes)


@dataclass(frozen=True)
class HeldPoints:
    """Points in the frames of joints, and the sums of them that are asked for.

    Attributes:
        shapes: The points per coefficient, metres, float64.
        holders: The joint that holds each, as a place among the used ones; -1 for the world.
        mix: Weights of the sums.
    """

    shapes: Float[Tensor, "points 3 coefficients"]
    holders: tuple[int, ...]
    mix: Float[Tensor, "outputs points"]


def held_points(
    body: BodyModel,
    used: Sequence[int],
    parents: Sequence[int],
    joints: Sequence[int],
    regressor: Float[Tensor, "regressed all_vertices"],
    origins: bool,
) -> HeldPoints:
    """What gives joints, rows of a regressor, and where each joint takes the world's origin.

    A joint lies at the sum of the bones on its way from the root. A row's joint is a sum of vertices r_v v, and each of
    these sum_j w_vj (R_j (v - rest_j) + p_j): a share of every joint's position p_j, and a point in its frame.

    Args:
        body: The body.
        used: Joints that move anything, and their ancestors; places below are places among them.
        parents: Parent of each, as a place.
        joints: Joints that are asked for, as places.
        regressor: Rows that are asked for.
        origins: Whether skinning wants the origins.
    """
    rest = rest_joint_shapes(body)[list(used)]
    is_root = torch.tensor([parent < 0 for parent in parents])[:, None, None]
    bones = torch.where(is_root, rest, rest - rest[list(parents)])
    ancestors = torch.zeros(len(used), len(used), dtype=torch.float64)
    for joint in range(len(used)):
        ancestors[joint, ancestor_chain(parents, joint)] = 1

    vertices = (regressor != 0).any(dim=0).nonzero().flatten()
    amounts, weights = regressor[:, vertices].double(), body.lbs_weights[vertices][:, list(used)].double()
    shapes = blend_shapes(body, vertices)
    shares = amounts @ weights
    # Pairs of a row and a joint that moves any of its vertices.
    rows, holders = ((amounts != 0).double() @ (weights != 0).double()).nonzero(as_tuple=True)
    num_shapes = shapes.shape[-1]
    bones, rest = (F.pad(part, (0, num_shapes - part.shape[-1])) for part in (bones, rest))
    pairs = torch.tensordot(amounts[rows] * weights.T[holders], shapes, dims=1)
    pairs = pairs - shares[rows, holders, None, None] * rest[holders]
    of_row = (torch.arange(len(regressor))[:, None] == rows).double()

    parts, held_by = [bones, pairs], [*parents, *holders.tolist()]
    positions = [ancestors[list(joints)], shares @ ancestors]
    others = [of_row.new_zeros(len(joints), 0), of_row]
    if origins:
        parts, held_by = [*parts, -rest], [*held_by, *range(len(used))]
        positions, others = [*positions, ancestors], [*others, torch.eye(len(used), dtype=torch.float64)]
    mix = torch.cat([torch.cat(positions), torch.block_diag(*others)], dim=1)
    return HeldPoints(torch.cat(parts), tuple(held_by), mix)
