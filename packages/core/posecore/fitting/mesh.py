"""A body for vertices: how a mesh, for example a network's prediction, becomes SMPL parameters.

A damped Gauss-Newton method (Levenberg-Marquardt) from rigid alignments of the parts. A joint turns everything below it
about itself, so the derivative by its turn is the cross product with a lever; the normal equations need only the inner
products of levers, and one matrix product over the vertices gives them all.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.body.files import BodyModel
from posecore.body.lbs import KinematicTree
from posecore.fitting.estimate import SMPLEstimate
from posecore.geometry.alignment import nearest_rotation
from posecore.geometry.precision import full_precision
from posecore.geometry.rotation import axis_angle_to_rotmat, rotmat_to_axis_angle

_NUM_JOINTS = 24
_FIRST_DAMPING = 1e-3  # share of the diagonal; from parts that are aligned, nearly a full step


@dataclass(frozen=True)
class MeshFit:
    """A body and how far it is from the mesh it was fitted to.

    Attributes:
        estimate: The body.
        residual: Mean distance of its vertices from the given ones, metres.
    """

    estimate: SMPLEstimate
    residual: Float[Tensor, " people"]


@torch.no_grad()
@full_precision
def fit_to_mesh(
    vertices: Float[Tensor, "people vertices 3"],
    model: BodyModel,
    vertex_ids: Int[Tensor, " ids"] | None = None,
    steps: int = 8,
    w_betas: float = 1e-4,
    w_pose: float = 1e-4,
) -> MeshFit:
    """SMPL parameters whose mesh comes nearest to given vertices, in least squares over all vertices.

    Pose blend shapes count in the mesh and not in its derivatives: where the vertices are no exact body, the result is
    near the minimum and not on it.

    Args:
        vertices: Metres, camera frame; they need not be those of a body.
        model: The body.
        vertex_ids: Which of the body's vertices they are; None for all.
        steps: Gauss-Newton steps.
        w_betas: Weight of the squared betas against squared metres, summed over the vertices. The square of the
            vertices' error (here 10 mm) makes the betas' Gaussian count as much as it should.
        w_pose: Weight of the squared angles of all joints but the root. It holds what the vertices hardly tell, such as
            the toes of a coarse mesh.

    Raises:
        ValueError: The body has not SMPL's 24 joints, an id is out of range, there are not as many vertices as ids, or
            a vertex is not finite.
    """
    body = _Body(model, _checked_ids(vertices, model, vertex_ids), vertices)
    centre = vertices.mean(dim=1, keepdim=True)
    target = (vertices - centre).mT.contiguous()
    rotmat, betas = body.align_parts(target, w_pose), vertices.new_zeros(len(vertices), body.num_betas)
    best = body.linearise(target, rotmat, betas, w_betas, w_pose)
    damping = torch.full_like(best.cost, _FIRST_DAMPING)
    for _ in range(steps):
        rotmat, betas = best.stepped(damping)
        tried = body.linearise(target, rotmat, betas, w_betas, w_pose)
        better = tried.cost < best.cost
        best = tried.where(better, best)
        damping = torch.where(better, 0.1 * damping, 10 * damping)
    transl = centre[:, 0] - best.centre
    return MeshFit(SMPLEstimate.from_rotmat(best.rotmat[:, 0], best.rotmat[:, 1:], best.betas, transl), best.residual)


def _checked_ids(
    vertices: Float[Tensor, "people vertices 3"], model: BodyModel, vertex_ids: Int[Tensor, " ids"] | None
) -> Int[Tensor, " chosen"]:
    count, num_joints = model.lbs_weights.shape
    if num_joints != _NUM_JOINTS:
        raise ValueError(f"model: {model.name!r} has {num_joints} joints; the fit is for the {_NUM_JOINTS} of SMPL")
    ids = torch.arange(count) if vertex_ids is None else vertex_ids.to(model.lbs_weights.device).long()
    if not len(ids) or not 0 <= int(ids.min()) <= int(ids.max()) < count:
        found = f"{int(ids.min())} to {int(ids.max())}" if len(ids) else "none"
        raise ValueError(f"vertex_ids: must be from 0 to {count - 1}, one at least, but are {found}")
    if vertices.shape[1] != len(ids):
        named = f"body {model.name!r} has" if vertex_ids is None else "vertex_ids names"
        raise ValueError(f"vertices: there are {vertices.shape[1]} of each person, but {named} {len(ids)}")
    if not bool(vertices.isfinite().all()):
        rows = (~vertices.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(f"vertices: must be finite; those of rows {rows[:5]} are not")
    return ids


@dataclass(frozen=True)
class _Linearised:
    """Where a fit stands, and its normal equations there.

    Attributes:
        rotmat: Rotations relative to the parent.
        betas: Shape.
        parent_rotmat: World rotation of each joint's parent; the identity for the root.
        cost: The objective.
        system: Gauss-Newton's matrix for turns of the joints about world axes, then the betas.
        pull: Its right-hand side: the objective goes down along it.
        centre: Mean vertex without translation, metres.
        residual: Mean distance of the vertices, metres.
    """

    rotmat: Float[Tensor, "people joints 3 3"]
    betas: Float[Tensor, "people betas"]
    parent_rotmat: Float[Tensor, "people joints 3 3"]
    cost: Float[Tensor, " people"]
    system: Float[Tensor, "people unknowns unknowns"]
    pull: Float[Tensor, "people unknowns"]
    centre: Float[Tensor, "people 3"]
    residual: Float[Tensor, " people"]

    def stepped(
        self, damping: Float[Tensor, " people"]
    ) -> tuple[Float[Tensor, "people joints 3 3"], Float[Tensor, "people betas"]]:
        """Rotations and betas after one damped step."""
        system, pull = self.system.double(), self.pull.double()
        diagonal = system.diagonal(dim1=1, dim2=2)
        factor, _ = torch.linalg.cholesky_ex(system + (damping[:, None] * diagonal).diag_embed())
        step = torch.cholesky_solve(pull[..., None], factor)[..., 0].to(self.pull)
        split = 3 * self.rotmat.shape[1]
        turn = step[:, :split].unflatten(1, (-1, 3, 1))
        local = axis_angle_to_rotmat((self.parent_rotmat.mT @ turn)[..., 0])
        return local @ self.rotmat, self.betas + step[:, split:]

    def where(self, kept: Tensor, other: "_Linearised") -> "_Linearised":
        """The rows of this one that are kept, and the other's where they are not."""

        def chosen(name: str) -> Tensor:
            value: Tensor = getattr(self, name)
            return torch.where(kept.view(-1, *[1] * (value.ndim - 1)), value, getattr(other, name))

        return _Linearised(**{name: chosen(name) for name in self.__dataclass_fields__})


class _Body:
    """The chosen vertices of a body, one row per coordinate, and their derivatives.

    Args:
        model: The body.
        ids: The vertices.
        like: Gives device and floating-point type.
    """

    def __init__(self, model: BodyModel, ids: Int[Tensor, " vertices"], like: Tensor) -> None:
        precise = model.J_regressor.double()
        directions = torch.einsum("jv,vcb->bjc", precise, model.shapedirs.double())
        self.joint_template = (precise @ model.v_template.double()).to(like)
        self.joint_shapedirs = directions.to(like)
        self.template = model.v_template[ids].T.to(like)
        self.shapedirs = model.shapedirs[ids].permute(2, 1, 0).to(like)
        self.posedirs = model.posedirs[ids].permute(2, 1, 0).to(like) if bool(model.posedirs.any()) else None
        self.weights = model.lbs_weights[ids].T.to(like)
        self.num_betas = len(self.shapedirs)
        self.parents = model.parents.tolist()
        self.tree = KinematicTree(self.parents).to(like)
        below = torch.eye(len(self.parents))
        for joint in range(len(self.parents) - 1, 0, -1):  # parents stand before their children
            below[self.parents[joint]] += below[joint]
        self.below = below.to(like)
        self.weights_below = self.below @ self.weights

    def align_parts(
        self, target: Float[Tensor, "people 3 vertices"], w_pose: float
    ) -> Float[Tensor, "people joints 3 3"]:
        """Rotations relative to the parent, from a rigid alignment of each joint's vertices in the rest pose.

        A part of few vertices is held by `w_pose` to its parent's rotation, as in the fit itself.
        """
        total = self.weights.sum(dim=1, keepdim=True)
        middle = self.weights @ self.template.T / total.clamp_min(torch.finfo(total.dtype).tiny)
        arms = self.weights[:, None] * (self.template - middle[..., None])
        covariance = torch.einsum("pav,jbv->jpab", target, arms)
        world: list[Tensor] = []
        for joint, parent in enumerate(self.parents):
            # |R - R_parent|^2 is twice the squared angle.
            held = 0.5 * w_pose * world[parent] if parent >= 0 else torch.zeros_like(covariance[joint])
            world.append(nearest_rotation(covariance[joint] + held))
        stacked = torch.stack(world, dim=1)
        return self._of_parents(stacked).mT @ stacked

    def linearise(
        self,
        target: Float[Tensor, "people 3 vertices"],
        rotmat: Float[Tensor, "people joints 3 3"],
        betas: Float[Tensor, "people betas"],
        w_betas: float,
        w_pose: float,
    ) -> _Linearised:
        """The objective and its normal equations; the translation is always the best one and no unknown.

        Args:
            target: Vertices about their mean.
            rotmat: Rotations relative to the parent.
            betas: Shape.
            w_betas: Weight of the squared betas.
            w_pose: Weight of the squared angles.
        """
        vertices, world, derivatives = self._pose(rotmat, betas)
        columns = torch.cat((derivatives, (target - vertices)[:, None]), dim=1)
        # About their means, derivatives and errors are what the best translation leaves of them.
        columns = columns - columns.mean(dim=-1, keepdim=True)
        cost, system, pull = _normal_equations(columns, len(self.parents))

        # The derivative of half the squared angle by a turn about an axis of the parent is the angle about that axis.
        angles = rotmat_to_axis_angle(rotmat)
        angles[:, 0] = 0
        parent_rotmat = self._of_parents(world)
        held = torch.tensor([w_pose] * 3 * len(self.parents) + [w_betas] * self.num_betas).to(betas)
        held[:3] = 0
        off = torch.cat(((parent_rotmat @ angles[..., None]).flatten(1), betas), dim=1)
        return _Linearised(
            rotmat=rotmat,
            betas=betas,
            parent_rotmat=parent_rotmat,
            cost=cost + (held * off.square()).sum(dim=1),
            system=system + held.diag(),
            pull=pull - held * off,
            centre=vertices.mean(dim=-1),
            residual=torch.linalg.vector_norm(columns[:, -1], dim=1).mean(dim=-1),
        )

    def _pose(
        self, rotmat: Float[Tensor, "people joints 3 3"], betas: Float[Tensor, "people betas"]
    ) -> tuple[
        Float[Tensor, "people 3 vertices"],
        Float[Tensor, "people joints 3 3"],
        Float[Tensor, "people joints_and_betas 3 vertices"],
    ]:
        """Vertices, world rotations, and the derivatives of the vertices: levers of the joints, shifts of the betas."""
        rest_joints = self.joint_template + torch.einsum("pb,bjc->pjc", betas, self.joint_shapedirs)
        world, joints = self.tree(rotmat, rest_joints)
        rest = self.template + torch.einsum("pb,bcv->pcv", betas, self.shapedirs)
        if self.posedirs is not None:
            turned = (rotmat[:, 1:] - torch.eye(3).to(rotmat)).flatten(1)
            rest = rest + (turned @ self.posedirs.flatten(1)).view_as(rest)

        # Each vertex where each joint would carry it, times the weight; a joint's lever is the sum of those below it.
        offset = joints - (world @ rest_joints[..., None])[..., 0]
        carried = torch.baddbmm(offset.flatten(1)[..., None], world.flatten(1, 2), rest).unflatten(1, joints.shape[1:])
        carried = carried * self.weights[:, None]
        levers = (self.below @ carried.flatten(2)).view_as(carried) - joints[..., None] * self.weights_below[:, None]

        # Along each beta: the vertex's own shift, turned, and what the moved joints carry.
        _, joint_shifts = self.tree(rotmat[:, None].expand(-1, self.num_betas, -1, -1, -1), self.joint_shapedirs)
        offsets = joint_shifts - torch.einsum("pjac,bjc->pbja", world, self.joint_shapedirs)
        blended = (world.flatten(2).mT @ self.weights).unflatten(1, (3, 3))
        shifts = offsets.mT @ self.weights
        for axis in range(3):
            shifts = shifts + blended[:, None, :, axis] * self.shapedirs[:, axis, None]
        return carried.sum(dim=1), world, torch.cat((levers, shifts), dim=1)

    def _of_parents(self, world: Float[Tensor, "people joints 3 3"]) -> Float[Tensor, "people joints 3 3"]:
        """World rotation of each joint's parent; the identity for the root."""
        root = torch.eye(3).to(world).expand(len(world), 1, 3, 3)
        return torch.cat((root, world[:, self.parents[1:]]), dim=1)


def _normal_equations(
    columns: Float[Tensor, "people columns 3 vertices"], num_joints: int
) -> tuple[Float[Tensor, " people"], Float[Tensor, "people unknowns unknowns"], Float[Tensor, "people unknowns"]]:
    """Squared error, Gauss-Newton's matrix and its right-hand side, from one matrix product.

    With levers a and b of two joints, turns u and v, and a shift d: (u x a) . d = u . (a x d), and
    (u x a) . (v x b) = (a . b) (u . v) - (u . b) (v . a).

    Args:
        columns: Levers of the joints, shifts of the betas, and the vertices' errors.
        num_joints: How many of them are levers.
    """
    people, count = columns.shape[:2]
    flat = columns.flatten(1, 2)
    products = (flat @ flat.mT).view(people, count, 3, count, 3).transpose(2, 3)
    inner = products.diagonal(dim1=3, dim2=4).sum(dim=-1)
    turns = inner[:, :num_joints, :num_joints, None, None] * torch.eye(3).to(inner)
    turns = (
        (turns - products[:, :num_joints, :num_joints].mT)
        .transpose(2, 3)
        .reshape(people, 3 * num_joints, 3 * num_joints)
    )
    cross = products[:, :num_joints, num_joints:]
    cross = torch.stack([cross[..., i - 2, i - 1] - cross[..., i - 1, i - 2] for i in range(3)], dim=2).flatten(1, 2)
    mixed, shifts = cross[..., :-1], inner[:, num_joints:, num_joints:]
    system = torch.cat((torch.cat((turns, mixed), dim=2), torch.cat((mixed.mT, shifts[:, :-1, :-1]), dim=2)), dim=1)
    return shifts[:, -1, -1], system, torch.cat((cross[..., -1], shifts[:, :-1, -1]), dim=1)
