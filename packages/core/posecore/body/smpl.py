"""SMPL as a PyTorch layer that computes what is asked for and no more.

References:
    Loper et al., SMPL: A Skinned Multi-Person Linear Model, SIGGRAPH Asia 2015.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from posecore.body.files import BodyModel, load_body_model
from posecore.body.lbs import KinematicTree, linear_blend_skinning
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

    Joints that need no vertices are computed from a joint template and joint shape directions that have been regressed
    once; vertices that nobody asks for are never skinned. Every result equals that of the full computation.

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
    _joint_picks: Tensor
    _template: Tensor
    _shapedirs: Tensor
    _posedirs: Tensor
    _weights: Tensor
    _vertex_picks: Tensor
    _regressor: Tensor

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

        needed = (regressor != 0).any(dim=0)
        needed[vertex_ids] = True
        skinned = needed.nonzero().flatten()
        weights = body.lbs_weights[skinned]
        parents = body.parents.tolist()
        used = _with_ancestors({*joint_ids.tolist(), *weights.any(dim=0).nonzero().flatten().tolist()}, parents)
        self.tree = KinematicTree([-1 if parents[j] < 0 else used.index(parents[j]) for j in used])

        precise = body.J_regressor.double()
        tables = {
            "_joint_template": precise @ body.v_template.double(),
            "_joint_shapedirs": torch.einsum("jv,vcb->bjc", precise, body.shapedirs.double()).flatten(1),
            "_template": body.v_template[skinned].T.flatten(),
            "_shapedirs": body.shapedirs[skinned].permute(2, 1, 0).flatten(1),
            "_posedirs": body.posedirs[skinned].permute(2, 1, 0).flatten(1),
            "_weights": weights[:, used].T,
            "_regressor": regressor[:, skinned].T,
        }
        for name, table in tables.items():
            self.register_buffer(name, table.to(body.v_template.dtype).contiguous(), persistent=False)
        self.register_buffer("_used_joints", torch.tensor(used), persistent=False)
        self.register_buffer("_joint_picks", torch.tensor([used.index(j) for j in joint_ids]).long(), persistent=False)
        self.register_buffer("_vertex_picks", torch.searchsorted(skinned, vertex_ids), persistent=False)
        self._has_posedirs = bool(self._posedirs.any())
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
        return SMPLLayer(self.model, joints, vertices, regressor).to(self._template)

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
        vertices, joints = self._pose(shape, rotmat)
        if transl is not None:
            shift = transl.expand(*batch, 3).reshape(-1, 1, 3)
            vertices, joints = vertices + shift, joints + shift
        return SMPLOutput(vertices.view(*batch, *vertices.shape[1:]), joints.view(*batch, *joints.shape[1:]))

    def _pose(
        self, betas: Float[Tensor, "#n betas"], rotmat: Float[Tensor, "n all_joints 3 3"]
    ) -> tuple[Float[Tensor, "n vertices 3"], Float[Tensor, "n joints 3"]]:
        rest_joints = self.rest_joints(betas)
        used_rotmat = rotmat
        if not self._all_joints_used:
            rest_joints = rest_joints.index_select(-2, self._used_joints)
            used_rotmat = rotmat.index_select(-3, self._used_joints)
        world_rotmat, world_joints = self.tree(used_rotmat, rest_joints)

        picked_joints = world_joints.index_select(-2, self._joint_picks)
        if not self._template.numel():
            return rotmat.new_zeros(rotmat.shape[0], 0, 3), picked_joints

        dtype = rotmat.dtype
        shapedirs = self._shapedirs[: betas.shape[-1]].to(dtype)
        rest = torch.addmm(self._template.to(dtype), betas, shapedirs)  # Eq. (8)
        if self._has_posedirs:
            turned = (rotmat[:, 1:] - torch.eye(3, dtype=dtype, device=rotmat.device)).flatten(1)
            rest = torch.addmm(rest, turned, self._posedirs.to(dtype))  # Eq. (9)
        rest = rest.unflatten(-1, (3, -1))
        skinned = linear_blend_skinning(rest, self._weights.to(dtype), world_rotmat, world_joints, rest_joints)

        vertices = skinned if self._all_vertices_picked else skinned.index_select(-1, self._vertex_picks)
        if self._regressor.shape[1]:
            regressed = (skinned @ self._regressor.to(dtype)).transpose(-1, -2)
            picked_joints = torch.cat([picked_joints, regressed], dim=-2)
        return vertices.transpose(-1, -2), picked_joints

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
