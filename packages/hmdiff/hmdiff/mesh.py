"""The coarse mesh that is diffused: its vertices, triangles and edges, and the joints that are linear in it.

References:
    Lin et al., End-to-End Human Pose and Mesh Reconstruction with Transformers, CVPR 2021: 431 and 195 vertices.
"""

from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from posecore.body.files import BodyModel
from posecore.body.pyramid import OPEN_BODY_PYRAMID, MeshPyramid
from posecore.body.skeletons import H36M_17, MANO_21, SMPL_24, JointSet
from posecore.geometry.precision import full_precision


class CoarseMesh(nn.Module):
    """The coarsest level of a body's or a hand's mesh pyramid, with joints that are exactly linear in its vertices.

    Meshes are in metres. The diffused mesh has camera axes and its root joint, joint 0 of the joint set by the
    regressor, subtracted. All buffers belong to the body and are not saved in checkpoints.

    ==========  ================================================================================================
    ``smpl24``  the body's ``J_regressor``
    ``h36m17``  the body's ``J_regressor_h36m``
    ``mano21``  the hand's ``J_regressor`` and its landmark vertices ``thumb_tip`` to ``pinky_tip``
    ==========  ================================================================================================

    ===================  =======================================================
    ``num_vertices``     V, vertices of the mesh h_k (Sec. 4.1)
    ``joint_regressor``  f, the linear map from mesh to pose (Secs. 4.2 and 4.3)
    ===================  =======================================================

    ``J_regressor`` is made for unposed bodies; on a posed mesh its joints are near the kinematic ones and not equal.

    Attributes:
        joint_set: Of the joints.
        parents: Parent of each joint, -1 for the root.
        pyramid: The levels; ``pyramid.downsample`` selects the vertices of a level out of the full mesh.
        sizes: Vertices of each level, finest first, for example ``(6890, 1723, 431)``.
        num_vertices: V, those of the coarsest.
        vertex_ids: Which full vertices are the coarse ones.
        mid_ids: Which full vertices are those of level 1.
        faces: Triangles of the coarse mesh.
        edges: Each of its edges once, the lower vertex first.
        adjacency: Whether two vertices share an edge or are the same.
        full_joint_regressor: Joints from the full mesh.
        joint_regressor: Joints from the coarse mesh: the full regressor times all upsampling maps, multiplied in
            float64.
        rest: Coarse template minus its root joint, in the template's axes (y up for a body).
        lifting: For each vertex the weights of the two joints nearest to it at rest.
    """

    vertex_ids: Int[Tensor, " vertices"]
    mid_ids: Int[Tensor, " mid_vertices"]
    faces: Int[Tensor, "faces 3"]
    edges: Int[Tensor, "edges 2"]
    adjacency: Bool[Tensor, "vertices vertices"]
    full_joint_regressor: Float[Tensor, "joints full_vertices"]
    joint_regressor: Float[Tensor, "joints vertices"]
    rest: Float[Tensor, "vertices 3"]
    lifting: Float[Tensor, "vertices joints"]

    def __init__(self, model: BodyModel, pyramid: MeshPyramid, joint_set: JointSet) -> None:
        """Precomputes all buffers.

        Args:
            model: The body or hand.
            pyramid: Built for it.
            joint_set: ``smpl24``, ``h36m17`` or ``mano21``.

        Raises:
            ValueError: The pyramid belongs to another mesh, the joint set is none of these, or the body cannot give it.
        """
        super().__init__()
        if not torch.equal(pyramid.faces(), model.faces):
            raise ValueError(
                f"pyramid is of a mesh of {pyramid.sizes[0]} vertices whose triangles are not those of body "
                f"{model.name!r} ({len(model.v_template)} vertices); build its own with "
                "tools/build_open_body.py --pyramid-for FILE"
            )
        self.joint_set = joint_set
        self.parents = joint_set.parents
        self.pyramid = pyramid
        self.sizes = pyramid.sizes
        self.num_vertices = pyramid.sizes[-1]
        full = full_joint_regressor(model, joint_set).double()
        coarse = full @ pyramid.upsample(torch.eye(self.num_vertices, dtype=torch.float64))  # J_reg U_0 U_1
        vertex_ids, faces = _vertex_ids(pyramid, level=-1), pyramid.faces(-1)
        edges = _edges(faces)
        template = model.v_template[vertex_ids].double()
        buffers = {
            "vertex_ids": vertex_ids,
            "mid_ids": _vertex_ids(pyramid, level=1),
            "faces": faces.clone(),
            "edges": edges,
            "adjacency": _adjacency(edges, self.num_vertices),
            "full_joint_regressor": full.float(),
            "joint_regressor": coarse.float(),
            "rest": (template - coarse[0] @ template).float(),
            "lifting": _lifting(template, coarse @ template).float(),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=False)

    @full_precision
    def joints(self, vertices: Float[Tensor, "*batch vertices 3"]) -> Float[Tensor, "*batch joints 3"]:
        """Joints of coarse meshes, in their frame and unit: equal to `full_joints` of `upsample` of them.

        Raises:
            ValueError: The vertices are not those of the coarse mesh.
        """
        return _regressed(self.joint_regressor, vertices)

    @full_precision
    def full_joints(self, vertices: Float[Tensor, "*batch full_vertices 3"]) -> Float[Tensor, "*batch joints 3"]:
        """Joints of full meshes, in their frame and unit.

        Raises:
            ValueError: The vertices are not those of the full mesh.
        """
        return _regressed(self.full_joint_regressor, vertices)

    @full_precision
    def lift(self, joints: Float[Tensor, "*batch joints 3"]) -> Float[Tensor, "*batch vertices 3"]:
        """A rough mesh about a pose: every vertex between the two joints nearest to it (H_U of Table 5)."""
        lifted: Tensor = self.lifting.to(joints.dtype) @ joints
        return lifted

    @full_precision
    def upsample(
        self, vertices: Float[Tensor, "*batch coarse 3"], source: int = -1, target: int = 0
    ) -> Float[Tensor, "*batch fine 3"]:
        """Fixed interpolation, from the coarsest mesh to the full one where no levels are given.

        Raises:
            ValueError: A level does not exist, `target` is coarser than `source`, or the vertices are not those of
                `source`.
        """
        return self.pyramid.upsample(vertices, source, target)


def full_joint_regressor(model: BodyModel, joint_set: JointSet) -> Float[Tensor, "joints vertices"]:
    """Joints from the full mesh in the order of the joint set.

    Raises:
        ValueError: The joint set is none of smpl24, h36m17 and mano21, or the body cannot give it.
    """
    if joint_set == H36M_17:
        if model.J_regressor_h36m is None:
            raise ValueError(f"body {model.name!r} has no J_regressor_h36m, which joint set 'h36m17' needs")
        return model.J_regressor_h36m
    if joint_set not in (SMPL_24, MANO_21):
        raise ValueError(f"joint_set is {joint_set.name!r}, expected smpl24, h36m17 or mano21")
    tips = [name for name in joint_set.joint_names if name.endswith("_tip")]
    num_kinematic = joint_set.num_joints - len(tips)
    if len(model.J_regressor) != num_kinematic:
        raise ValueError(
            f"body {model.name!r} has {len(model.J_regressor)} joints; joint set {joint_set.name!r} needs one of "
            f"{num_kinematic}"
        )
    return torch.cat([model.J_regressor, model.landmark_regressor(tips)])


def _regressed(regressor: Tensor, vertices: Tensor) -> Tensor:
    if vertices.shape[-2] != regressor.shape[1]:
        raise ValueError(f"vertices has {vertices.shape[-2]} vertices, the mesh has {regressor.shape[1]}")
    return regressor.to(vertices.dtype) @ vertices


def _vertex_ids(pyramid: MeshPyramid, level: int) -> Int[Tensor, " vertices"]:
    """Which full vertices a level selects: their numbers, sent down like coordinates."""
    numbers = torch.arange(pyramid.sizes[0], dtype=torch.float64)[:, None]
    return pyramid.downsample(numbers, target=level)[:, 0].long()


def _edges(faces: Int[Tensor, "faces 3"]) -> Int[Tensor, "edges 2"]:
    pairs = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges: Tensor = pairs.sort(dim=1).values.unique(dim=0)
    return edges


def _adjacency(edges: Int[Tensor, "edges 2"], num_vertices: int) -> Bool[Tensor, "vertices vertices"]:
    adjacency = torch.eye(num_vertices, dtype=torch.bool)
    adjacency[edges[:, 0], edges[:, 1]] = True
    adjacency[edges[:, 1], edges[:, 0]] = True
    return adjacency


def _lifting(template: Float[Tensor, "vertices 3"], joints: Float[Tensor, "joints 3"]) -> Tensor:
    distance, nearest = torch.cdist(template, joints).topk(2, largest=False)
    weights = (1 / distance.clamp_min(1e-6)).double()
    lifting = torch.zeros(len(template), len(joints), dtype=torch.float64)
    return lifting.scatter(1, nearest, weights / weights.sum(dim=1, keepdim=True))


class LearnedUpsampler(nn.Module):
    """A linear map from the coarsest level to the one above it, which begins as the pyramid's fixed one.

    Args:
        mesh: The coarse mesh.
    """

    def __init__(self, mesh: CoarseMesh) -> None:
        super().__init__()
        fixed = mesh.pyramid.upsample(torch.eye(mesh.num_vertices, dtype=torch.float64), target=len(mesh.sizes) - 2)
        self.weight = nn.Parameter(fixed.float())

    @full_precision
    def forward(self, coarse: Float[Tensor, "*batch vertices 3"]) -> Float[Tensor, "*batch fine 3"]:
        """Vertices of the finer level, metres."""
        fine: Tensor = self.weight @ coarse
        return fine


def load_pyramid(path: Path | None, own_body: bool, num_vertices: int) -> MeshPyramid:
    """The coarse meshes that belong to the body: of the file, or the open body's.

    Args:
        path: The file.
        own_body: Whether the body is not the open one.
        num_vertices: Of the body.

    Raises:
        ValueError: A body of one's own needs a pyramid of its own.
    """
    if path is None and own_body:
        raise ValueError(
            f"pyramid: the body of {num_vertices} vertices needs its own coarse meshes; make them with "
            "tools/build_open_body.py --pyramid-for FILE (--sizes 195 for MANO) and name the file by model.pyramid"
        )
    return MeshPyramid.load(OPEN_BODY_PYRAMID if path is None else path)
