"""SMPL as a PyTorch layer that computes what is asked for and no more.

References:
    Loper et al., SMPL: A Skinned Multi-Person Linear Model, SIGGRAPH Asia 2015.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from posecore.body.files import BodyModel, load_body_model
from posecore.body.held_points import blend_shapes, held_points, rest_joint_shapes
from posecore.body.lbs import linear_blend_skinning
from posecore.body.posed_points import PosedPoints
from posecore.geometry.precision import full_precision
from posecore.geometry.rotation import axis_angle_to_rotmat, rot6d_to_rotmat

__all__ = ["PoseRepr", "SMPLLayer", "SMPLOutput"]

PoseRepr = Literal["rotmat", "axis_angle", "rot6d"]

_TO_ROTMAT = {"rotmat": lambda rotmat: rotmat, "axis_angle": axis_angle_to_rotmat, "rot6d": rot6d_to_rotmat}
_ROTATION_SHAPE = {"rotmat": (3, 3), "axis_angle": (3,), "rot6d": (6,)}


@dataclass(frozen=True)
class SMPLOutput:
    """A posed body, in metres, in the frame that ``global_orient`` and ``transl`` lead to.

    Attributes:
        vertices: The vertices the layer was made for, in the order asked.
        joints: The kinematic joints the layer was made for, then the joints of its regressor.
    """

    vertices: Float[Tensor, "*batch vertices 3"]
    joints: Float[Tensor, "*batch joints 3"]


class SMPLLayer(nn.Module):
    """A body model of SMPL's kind: shape and pose in, vertices and joints out.

    Any number of vertices, joints and shape components will do: SMPL, SMPL-H, MANO, the open body. Half precision and
    autocast are raised to float32; float64 inputs are computed in float64.

    Joints, be they kinematic or sums of vertices, are computed from the points that joints hold for them, and vertices
    that nobody asks for are never skinned. Every result equals that of the full computation. Gradients are written out
    and can't be differentiated again.

    ================  ==========================================
    ``betas``         beta, in standard deviations
    ``v_template``    T with a bar: the mean body
    ``shapedirs``     S, the shape blend shapes B_S (Eq. 8)
    ``posedirs``      P, the pose blend shapes B_P (Eq. 9)
    ``J_regressor``   J, rest joints from rest vertices (Eq. 10)
    ``lbs_weights``   W, the blend weights (Eq. 2)
    ================  ==========================================

    The body's arrays are no trainable parameters and are not saved in checkpoints: they belong to the body file.
    """

    _joint_template: Tensor
    _joint_shapedirs: Tensor
    _used_joints: Tensor
    _point_shapes: Tensor
    _blend_shapes: Tensor
    _weights: Tensor
    _vertex_picks: Tensor

    def __init__(
        self,
        model: BodyModel | None = None,
        joints: Sequence[int] | None = None,
        vertices: Sequence[int] | None = None,
        regressor: Float[Tensor, "regressed all_vertices"] | None = None,
    ) -> None:
        """Prepares the layer.

        Args:
            model: The body; None takes the open body that is shipped.
            joints: Kinematic joints to return; None returns all.
            vertices: Vertices to return; None returns all.
            regressor: More joints to return, as weighted sums of posed vertices, one per row; rows sum to 1.
                :meth:`BodyModel.landmark_regressor` gives one that picks named vertices.

        Raises:
            ValueError: An index is out of range, or the regressor is for another number of vertices.
        """
        super().__init__()
        self.model = model if model is not None else load_body_model()
        body = self.model
        num_vertices, num_joints = body.lbs_weights.shape
        joint_ids = _indices("joints", joints, num_joints)
        vertex_ids = _indices("vertices", vertices, num_vertices)
        if regressor is None:
            regressor = body.J_regressor.new_zeros(0, num_vertices)
        if regressor.shape[-1] != num_vertices:
            raise ValueError(f"regressor has {regressor.shape[-1]} columns; the body has {num_vertices} vertices")
        regressor = regressor.to(body.v_template)

        skinned = vertex_ids.unique()
        needed = torch.cat([(regressor != 0).any(dim=0).nonzero().flatten(), skinned])
        parents = body.parents.tolist()
        moving = body.lbs_weights[needed].any(dim=0).nonzero().flatten().tolist()
        used = _with_ancestors({*joint_ids.tolist(), *moving}, parents)
        tree = [-1 if parents[j] < 0 else used.index(parents[j]) for j in used]
        picks = [used.index(j) for j in joint_ids.tolist()]
        held = held_points(body, used, tree, picks, regressor, origins=bool(len(skinned)))
        dtype, joint_shapes = body.v_template.dtype, rest_joint_shapes(body)
        self.points = PosedPoints(tree, held.holders, held.mix.to(dtype))
        tables = {
            "_joint_template": joint_shapes[..., 0],
            "_joint_shapedirs": joint_shapes[..., 1:].permute(2, 0, 1).flatten(1),
            "_point_shapes": held.shapes.flatten(0, 1),
            "_blend_shapes": blend_shapes(body, skinned).permute(1, 2, 0),
            # A row more than joints: what every vertex follows alike, the translation.
            "_weights": F.pad(body.lbs_weights[skinned][:, used].T, (0, 0, 0, 1), value=1.0),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.to(dtype).contiguous(), persistent=False)
        self.register_buffer("_used_joints", torch.tensor(used), persistent=False)
        self.register_buffer("_vertex_picks", torch.searchsorted(skinned, vertex_ids), persistent=False)
        self._joint_count = len(joint_ids) + len(regressor)
        self.points_need_pose = held.shapes.shape[-1] > joint_shapes.shape[-1]
        self._vertices_need_pose = self._blend_shapes.shape[1] > joint_shapes.shape[-1]
        self._all_joints_used = len(used) == num_joints
        self._all_vertices_picked = torch.equal(vertex_ids, skinned)

    @property
    def num_betas(self) -> int:
        """Number of shape components of the body."""
        return self._joint_shapedirs.shape[0]

    @property
    def num_body_joints(self) -> int:
        """Number of rotations in ``body_pose``: every kinematic joint but the root."""
        return self._joint_template.shape[0] - 1

    def subset(
        self,
        joints: Sequence[int] = (),
        vertices: Sequence[int] = (),
        regressor: Float[Tensor, "regressed all_vertices"] | None = None,
    ) -> "SMPLLayer":
        """A layer of the same body that returns these joints and vertices only, and skins only what they need.

        Args:
            joints: Kinematic joints to return.
            vertices: Vertices to return.
            regressor: More joints to return, as weighted sums of vertices.

        Raises:
            ValueError: As for the class; or nothing is asked for.
        """
        if not len(joints) and not len(vertices) and (regressor is None or not len(regressor)):
            raise ValueError("joints, vertices and regressor are all empty; ask for at least one of them")
        return SMPLLayer(self.model, joints, vertices, regressor).to(self._weights)

    @full_precision
    def rest_joints(self, betas: Float[Tensor, "*batch betas"]) -> Float[Tensor, "*batch joints 3"]:
        """All kinematic joints of the rest pose, metres; ``global_orient`` turns the body about the first.

        Raises:
            ValueError: There are more betas than the body has shape components.
        """
        self._check_betas(betas)
        directions = self._joint_shapedirs[: betas.shape[-1]].to(betas.dtype)
        offsets: Tensor = (betas @ directions).unflatten(-1, self._joint_template.shape)
        return self._joint_template.to(betas.dtype) + offsets

    @full_precision
    def forward(
        self,
        betas: Float[Tensor, "*betas_batch betas"],
        body_pose: Float[Tensor, "..."],
        global_orient: Float[Tensor, "..."],
        transl: Float[Tensor, "*transl_batch 3"] | None = None,
        pose_repr: PoseRepr = "rotmat",
    ) -> SMPLOutput:
        """Poses the body. The batch dimensions of all inputs broadcast; one shape for many poses is cheap.

        Args:
            betas: Shape, in standard deviations; the components left out count as zero.
            body_pose: ``(*batch, body_joints)`` rotations relative to the parent joint, each as `pose_repr` says.
            global_orient: ``(*batch)`` rotations of the root, each as `pose_repr` says.
            transl: Shift of the whole body, metres.
            pose_repr: ``"rotmat"`` 3 x 3; ``"axis_angle"`` 3, radians; ``"rot6d"`` 6, in the order ``"columns"``.

        Raises:
            ValueError: `pose_repr` is unknown, or a shape does not fit.
        """
        if pose_repr not in get_args(PoseRepr):
            raise ValueError(f"pose_repr is {pose_repr!r}; valid are {', '.join(map(repr, get_args(PoseRepr)))}")
        self._check_betas(betas)
        rotation = _ROTATION_SHAPE[pose_repr]
        _check_shape("global_orient", global_orient, rotation)
        _check_shape("body_pose", body_pose, (self.num_body_joints, *rotation))
        body_rotmat = _TO_ROTMAT[pose_repr](body_pose)
        root_rotmat = _TO_ROTMAT[pose_repr](global_orient)[..., None, :, :]

        shift_batch = () if transl is None else transl.shape[:-1]
        batch = torch.broadcast_shapes(betas.shape[:-1], body_rotmat.shape[:-3], root_rotmat.shape[:-3], shift_batch)
        rotmat = torch.cat([r.expand(*batch, *r.shape[-3:]) for r in (root_rotmat, body_rotmat)], dim=-3)
        rotmat = rotmat.reshape(-1, *rotmat.shape[-3:])
        shape = betas.to(rotmat.dtype)
        shape = shape.reshape(1, -1) if shape[..., 0].numel() == 1 else shape.expand(*batch, -1).flatten(0, -2)
        shift = None if transl is None else transl.to(rotmat.dtype).expand(*batch, 3).reshape(-1, 3)
        vertices, joints = self._pose(shape, rotmat, shift)
        return SMPLOutput(vertices.view(*batch, *vertices.shape[1:]), joints.view(*batch, *joints.shape[1:]))

    def _pose(
        self,
        betas: Float[Tensor, "#n betas"],
        rotmat: Float[Tensor, "n all_joints 3 3"],
        shift: Float[Tensor, "n 3"] | None,
    ) -> tuple[Float[Tensor, "n vertices 3"], Float[Tensor, "n joints 3"]]:
        dtype = rotmat.dtype
        shape = with_pose = self.shape_coefficients(betas)
        if self._vertices_need_pose or self.points_need_pose:
            with_pose = torch.cat([shape.expand(len(rotmat), -1), rotmat[:, 1:].flatten(1)], dim=1)  # Eq. (9)
        points = self.held_points(with_pose if self.points_need_pose else shape)
        used_rotmat = rotmat if self._all_joints_used else rotmat.index_select(-3, self._used_joints)
        posed, world_rotmat = self.points(points, used_rotmat)

        joints = posed[: self._joint_count].permute(2, 0, 1).contiguous()
        if shift is not None:
            joints = joints + shift[:, None]
        if not self._weights.shape[1]:
            return rotmat.new_zeros(rotmat.shape[0], 0, 3), joints
        # Eq. (2) of each joint: columns of its rotation, and where the origin goes.
        rigid = torch.cat([world_rotmat, posed[self._joint_count :, :, None]], dim=2)
        weights = self._weights.to(dtype)[: len(rigid)]
        if shift is not None:
            rigid = torch.cat([rigid, F.pad(shift.T[:, None], (0, 0, 3, 0))[None]])
            weights = self._weights.to(dtype)
        coefficients = with_pose if self._vertices_need_pose else shape
        tables = self._blend_shapes.to(dtype), weights
        skinned = linear_blend_skinning(coefficients, *tables, rigid.permute(2, 1, 3, 0).contiguous())
        vertices = skinned if self._all_vertices_picked else skinned.index_select(-1, self._vertex_picks)
        return vertices.transpose(-1, -2), joints

    def shape_coefficients(self, betas: Float[Tensor, "n betas"]) -> Float[Tensor, "n coefficients"]:
        """Weights of the mean body, which is 1, and of every shape component."""
        coefficients: Tensor = F.pad(F.pad(betas, (1, 0), value=1.0), (0, self.num_betas - betas.shape[-1]))
        return coefficients

    def held_points(self, coefficients: Float[Tensor, "n coefficients"]) -> Float[Tensor, "points 3 n"]:
        """The points of `PosedPoints`, metres, in the frames of the joints that hold them; Eq. (8)."""
        points: Tensor = (self._point_shapes.to(coefficients.dtype) @ coefficients.T).unflatten(0, (-1, 3))
        return points

    def _check_betas(self, betas: Tensor) -> None:
        if betas.shape[-1] > self.num_betas:
            raise ValueError(f"betas has {betas.shape[-1]} components; the body has {self.num_betas}")


def _check_shape(name: str, rotations: Tensor, shape: tuple[int, ...]) -> None:
    if rotations.shape[max(0, rotations.ndim - len(shape)) :] != shape:
        raise ValueError(f"{name} has shape {tuple(rotations.shape)}; it must end in {shape}")


def _indices(name: str, indices: Sequence[int] | None, count: int) -> Tensor:
    if indices is None:
        return torch.arange(count)
    chosen = torch.as_tensor(indices, dtype=torch.long, device="cpu")
    if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < count:
        raise ValueError(f"{name} must be from 0 to {count - 1}, but hold {int(chosen.min())} to {int(chosen.max())}")
    return chosen


def _with_ancestors(joints: set[int], parents: Sequence[int]) -> list[int]:
    """The joints and everything that moves them, in the body's order."""
    for joint in tuple(joints):
        while (joint := parents[joint]) >= 0:
            joints.add(joint)
    return sorted(joints)
