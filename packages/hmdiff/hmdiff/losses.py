"""The geometry terms on the estimate of the clean mesh: vertices, joints, normals and edges (Sec. 4.4).

The paper takes them from Pose2Mesh and gives no formulas. Meshes and joints are in metres, and so are the losses; the
normal term is a cosine. Every term is a mean over what is known, so that rows without truth change nothing, and is 0
where nothing is. ``row_weight`` scales a row's share and leaves the count as it is.

References:
    Choi et al., Pose2Mesh: Graph Convolutional Network for 3D Human Pose and Mesh Recovery from a 2D Human Pose, ECCV
    2020.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hmdiff.mesh import CoarseMesh
from posecore.diffusion.schedule import NoiseSchedule, PredictionType
from posecore.geometry.precision import full_precision

# Metres. A predicted edge shorter than this (coarse edges have centimetres) has a cosine that fades to 0, since the
# gradient of a direction grows as 1 / length: a mesh that has collapsed to a point would otherwise spoil the step.
_SHORTEST_EDGE = 1e-4


@dataclass(frozen=True)
class LossWeights:
    """Weights of L_total (Sec. 4.4) and of the pose head's losses.

    Deviation: the paper's supplement, which has them, is not public. Those of the mesh are Pose2Mesh's, which the
    paper says it follows, in metres.

    Args:
        diffusion: Of L_Diff.
        vertex: Of L_v.
        joint: Of L_j.
        normal: Of L_n.
        edge: Of L_e.
        edge_from: Share of the training before which L_e is 0, as Pose2Mesh has it.
        final: Of L_v and L_j of h_m, what the final MLP is trained with.
        x0: How the losses on the estimate h_0 of step k are weighted: by alpha_k, or all the same.
        xy: Of E_xy's cross-entropy.
        z: Of E_z's.
        side: Of the crop's side in metres.
    """

    diffusion: float = 1.0
    vertex: float = 1.0
    joint: float = 1.0
    normal: float = 0.1
    edge: float = 20.0
    edge_from: float = 0.5
    final: float = 1.0
    x0: Literal["alpha", "uniform"] = "alpha"
    xy: float = 1.0
    z: float = 1.0
    side: float = 1.0

    def __post_init__(self) -> None:
        names = ("diffusion", "vertex", "joint", "normal", "edge", "final", "xy", "z", "side")
        if min(getattr(self, name) for name in names) < 0 or not 0 <= self.edge_from <= 1:
            raise ValueError(f"loss_weights: must not be negative, and edge_from lie in [0, 1], got {self}")
        if self.x0 not in ("alpha", "uniform"):
            raise ValueError(f"loss_weights.x0 must be 'alpha' or 'uniform', got {self.x0!r}")


def vertex_loss(
    vertices: Float[Tensor, "rows vertices 3"],
    true_vertices: Float[Tensor, "rows vertices 3"],
    known: Bool[Tensor, " rows"] | None = None,
    row_weight: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """L_v: absolute error, metres; mean over the coordinates of all rows whose mesh is known."""
    return _mean((vertices - _filled(true_vertices, known)).abs(), known, row_weight)


def joint_loss(
    joints: Float[Tensor, "rows joints 3"],
    true_joints: Float[Tensor, "rows joints 3"],
    known: Bool[Tensor, " rows"] | None = None,
    row_weight: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """L_j: absolute error of joints regressed from the mesh, metres; mean over coordinates of rows that are known."""
    return _mean((joints - _filled(true_joints, known)).abs(), known, row_weight)


@full_precision
def normal_loss(
    vertices: Float[Tensor, "rows vertices 3"],
    true_vertices: Float[Tensor, "rows vertices 3"],
    faces: Int[Tensor, "faces 3"],
    known: Bool[Tensor, " rows"] | None = None,
    row_weight: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """L_n: |cosine| between predicted edges and the true normal of their triangle, between 0 and 1.

    Mean over the three edges of every triangle of all rows whose mesh is known. A true triangle without an area has no
    normal and counts as 0.
    """
    sides, true_sides = (_sides(points, faces) for points in (vertices, _filled(true_vertices, known)))
    normals = torch.nn.functional.normalize(torch.linalg.cross(true_sides[:, :, 0], true_sides[:, :, 1]), dim=-1)
    along = (sides * normals[:, :, None]).sum(dim=-1).abs()
    return _mean(along / sides.norm(dim=-1).clamp_min(_SHORTEST_EDGE), known, row_weight)


@full_precision
def edge_loss(
    vertices: Float[Tensor, "rows vertices 3"],
    true_vertices: Float[Tensor, "rows vertices 3"],
    edges: Int[Tensor, "edges 2"],
    known: Bool[Tensor, " rows"] | None = None,
    row_weight: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """L_e: absolute error of the edges' lengths, metres; mean over the edges of all rows whose mesh is known.

    Args:
        vertices: Predicted.
        true_vertices: True.
        edges: Each edge once, as `CoarseMesh.edges`. Pose2Mesh goes over the triangles and so counts an edge twice,
            but those of an open rim (a hand's wrist) once; without a rim the mean is the same.
        known: Which rows count; all where None.
        row_weight: Of the rows.
    """
    lengths, true_lengths = (_lengths(points, edges) for points in (vertices, _filled(true_vertices, known)))
    return _mean((lengths - true_lengths).abs(), known, row_weight)


def geometry_losses(
    mesh: CoarseMesh,
    weights: LossWeights,
    share_of_training: float,
    vertices: Float[Tensor, "rows vertices 3"],
    true_vertices: Float[Tensor, "rows vertices 3"],
    known: Bool[Tensor, " rows"] | None = None,
    row_weight: Float[Tensor, " rows"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """L_v, L_j, L_n and, from its time on, L_e of estimates of h_0, each by its weight (Sec. 4.4).

    Args:
        mesh: The coarse mesh.
        weights: Of the losses.
        share_of_training: How much of it is done, in [0, 1].
        vertices: Predicted.
        true_vertices: True.
        known: Which rows count; all where None.
        row_weight: Of the rows.
    """
    rest = known, row_weight
    terms = {
        "vertex": vertex_loss(vertices, true_vertices, *rest),
        "joint": joint_loss(mesh.joints(vertices), mesh.joints(true_vertices), *rest),
        "normal": normal_loss(vertices, true_vertices, mesh.faces, *rest),
    }
    if share_of_training >= weights.edge_from:
        terms["edge"] = edge_loss(vertices, true_vertices, mesh.edges, *rest)
    return {name: getattr(weights, name) * value for name, value in terms.items()}


def prediction_target(
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    h_0: Float[Tensor, "rows vertices 3"],
    noise: Float[Tensor, "rows vertices 3"],
    h_k: Float[Tensor, "rows vertices 3"],
    k: Int[Tensor, " rows"],
) -> Float[Tensor, "rows vertices 3"]:
    """What g is to say about h_k: the noise in it, the clean mesh, or v."""
    if prediction_type == "v_prediction":
        return schedule.to_v(noise, h_k, k, "epsilon")
    return noise if prediction_type == "epsilon" else h_0


def mean_of_known(values: Float[Tensor, "rows ..."], known: Tensor | None) -> Float[Tensor, ""]:
    """Mean over the numbers of the rows that are known."""
    per_row = values.flatten(1).mean(dim=1)
    if known is None:
        return per_row.mean()
    return torch.where(known, per_row, 0.0).sum() / known.sum().clamp_min(1)


def _sides(vertices: Float[Tensor, "rows vertices 3"], faces: Int[Tensor, "faces 3"]) -> Tensor:
    """The three edges of every triangle, one after the other around it: (rows, faces, 3, 3)."""
    # index_select, for its gradient is a plain addition; that of indexing with a tensor sorts on a GPU.
    corners = vertices.index_select(1, faces.flatten()).unflatten(1, (-1, 3))
    sides: Tensor = corners.roll(-1, dims=2) - corners
    return sides


def _lengths(vertices: Float[Tensor, "rows vertices 3"], edges: Int[Tensor, "edges 2"]) -> Float[Tensor, "rows edges"]:
    start, end = vertices.index_select(1, edges.flatten()).unflatten(1, (-1, 2)).unbind(dim=2)
    lengths: Tensor = (end - start).norm(dim=-1)
    return lengths


def _filled(true: Tensor, known: Tensor | None) -> Tensor:
    """0 where unknown, so that what stands there may be anything, NaN too."""
    return true if known is None else torch.where(known[:, None, None], true, 0.0)


def _mean(error: Tensor, known: Tensor | None, row_weight: Tensor | None) -> Tensor:
    """Over the numbers of known rows."""
    if row_weight is not None:
        error = error.flatten(1) * row_weight[:, None]
    return mean_of_known(error, known)
