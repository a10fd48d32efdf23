"""Coarse copies of a body mesh, and sparse linear maps between them.

Mesh networks work on 431 instead of 6890 vertices. METRO and its successors ship these maps with SMPL's template in
the file; here they are built from the user's own body (`build_pyramid`), and those of the open body are shipped.

References:
    Ranjan et al., Generating 3D Faces using Convolutional Mesh Autoencoders, ECCV 2018: selection down, barycentric up.
    Lin et al., End-to-End Human Pose and Mesh Reconstruction with Transformers, CVPR 2021: 6890, 1723 and 431 vertices.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from posecore.body.simplify import SimplifiedMesh, simplify_mesh

OPEN_BODY_PYRAMID = Path(__file__).parent / "assets" / "open_body_pyramid.npz"


class MeshPyramid(nn.Module):
    """Meshes of one body at several resolutions; level 0 is the full mesh.

    Going down selects vertices; going up takes weighted sums of a few coarse vertices. Both are linear and keep the
    input's dtype. The buffers are not saved in checkpoints: they belong to the body.

    Attributes:
        sizes: number of vertices of each level, for example `(6890, 1723, 431)`.
    """

    sizes: tuple[int, ...]

    def __init__(
        self,
        faces: Sequence[Int[np.ndarray, "_ 3"]],
        kept: Sequence[Int[np.ndarray, "_"]],
        up_indices: Sequence[Int[np.ndarray, "_ _"]],
        up_weights: Sequence[Float[np.ndarray, "_ _"]],
    ) -> None:
        """Take the parts as `build_pyramid` makes them.

        Args:
            faces: triangles of each level, finest first.
            kept: for each level below the first, which vertices of the level above it are its vertices.
            up_indices: for each level but the last, the coarse vertices that make each of its vertices.
            up_weights: their weights; rows sum to 1.

        Raises:
            ValueError: the numbers of levels do not fit together.
        """
        super().__init__()
        if not len(faces) - 1 == len(kept) == len(up_indices) == len(up_weights) or len(kept) == 0:
            raise ValueError(
                f"got {len(faces)} faces, {len(kept)} kept, {len(up_indices)} up_indices and {len(up_weights)} "
                "up_weights; expected one more faces than of each of the others, which are at least one"
            )
        self.sizes = (*(len(index) for index in up_indices), len(kept[-1]))
        self._register("faces", faces, torch.int64)
        self._register("kept", kept, torch.int64)
        self._register("up_indices", up_indices, torch.int64)
        self._register("up_weights", up_weights, torch.float64)

    def _register(self, name: str, arrays: Sequence[np.ndarray], dtype: torch.dtype) -> None:
        for level, array in enumerate(arrays):
            self.register_buffer(f"{name}_{level}", torch.as_tensor(array.copy()).to(dtype), persistent=False)

    @classmethod
    def load(cls, path: Path | str = OPEN_BODY_PYRAMID) -> "MeshPyramid":
        """Read a pyramid written by `save`; without a path, the shipped one of the open body (6890, 1723, 431).

        Raises:
            ValueError: the file is not a pyramid.
        """
        with np.load(path, allow_pickle=False) as file:
            parts = {
                name: [file[key] for key in sorted(file.files) if key.rsplit("_", 1)[0] == name]
                for name in ("faces", "kept", "up_indices", "up_weights")
            }
            if not all(parts.values()):
                raise ValueError(f"{path} has the keys {file.files}, expected those of MeshPyramid.save")
        return cls(**parts)

    def save(self, path: Path | str) -> None:
        """Write an npz (int32 and float32); the same pyramid always gives the same bytes."""
        arrays = {name: buffer.cpu().numpy() for name, buffer in self.named_buffers()}
        np.savez_compressed(
            path,
            allow_pickle=False,
            **{name: a.astype(np.float32 if a.dtype.kind == "f" else np.int32) for name, a in arrays.items()},
        )

    def faces(self, level: int = 0) -> Int[Tensor, "faces 3"]:
        """Triangles of a level."""
        return self.get_buffer(f"faces_{self._level('level', level)}")

    def downsample(
        self, vertices: Float[Tensor, "*batch fine d"], source: int = 0, target: int = -1
    ) -> Float[Tensor, "*batch coarse d"]:
        """Select the vertices of level `target` out of those of level `source`.

        Raises:
            ValueError: a level does not exist, `target` is finer than `source`, or `vertices` are not
                those of `source`.
        """
        source, target = self._levels(vertices, source, target)
        if target < source:
            raise ValueError(f"target level {target} is finer than source level {source}; use upsample")
        for level in range(source, target):
            vertices = vertices[..., self.get_buffer(f"kept_{level}"), :]
        return vertices

    def upsample(
        self, vertices: Float[Tensor, "*batch coarse d"], source: int = -1, target: int = 0
    ) -> Float[Tensor, "*batch fine d"]:
        """Interpolate the vertices of level `target` from those of level `source`.

        Raises:
            ValueError: a level does not exist, `target` is coarser than `source`, or `vertices` are not
                those of `source`.
        """
        source, target = self._levels(vertices, source, target)
        if target > source:
            raise ValueError(f"target level {target} is coarser than source level {source}; use downsample")
        for level in range(source - 1, target - 1, -1):
            indices = self.get_buffer(f"up_indices_{level}")
            weights = self.get_buffer(f"up_weights_{level}").to(vertices)
            # A sum over the few neighbours, one at a time: a gather of all would be `neighbours` times the mesh.
            fine = vertices[..., indices[:, 0], :] * weights[:, 0, None]
            for k in range(1, indices.shape[1]):
                fine = fine + vertices[..., indices[:, k], :] * weights[:, k, None]
            vertices = fine
        return vertices

    def _level(self, name: str, level: int) -> int:
        if not -len(self.sizes) <= level < len(self.sizes):
            raise ValueError(f"{name} is {level}, expected a level between 0 and {len(self.sizes) - 1}")
        return level % len(self.sizes)

    def _levels(self, vertices: Tensor, source: int, target: int) -> tuple[int, int]:
        source, target = self._level("source", source), self._level("target", target)
        if vertices.shape[-2] != self.sizes[source]:
            raise ValueError(f"vertices has {vertices.shape[-2]} vertices, level {source} has {self.sizes[source]}")
        return source, target


def build_pyramid(
    vertices: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    sizes: Sequence[int] = (1723, 431),
    mirror: Int[np.ndarray, " vertices"] | None = None,
    samples: Float[np.ndarray, "samples vertices 3"] | None = None,
) -> MeshPyramid:
    """Build the coarse levels of a body mesh (SMPL, MANO or the open body) and the maps between them.

    Args:
        vertices: the template, metres.
        faces: its triangles.
        sizes: number of vertices of the coarse levels, falling.
        mirror: left/right partner of each vertex; see `simplify_mesh`.
        samples: posed and shaped bodies, metres. With them each fine vertex is a least-squares combination of eight
            coarse ones; without, it is its closest point on the coarse template (three barycentric weights).

    Raises:
        ValueError: `sizes` do not fall, or `simplify_mesh` cannot reach them.
    """
    if any(fine <= coarse for fine, coarse in zip([len(vertices), *sizes], sizes, strict=False)):
        raise ValueError(f"sizes is {tuple(sizes)}, expected falling numbers below {len(vertices)}")
    all_faces = [faces]
    kept: list[np.ndarray] = []
    up_indices: list[np.ndarray] = []
    up_weights: list[np.ndarray] = []
    vertices = np.asarray(vertices, dtype=np.float64)
    for size in sizes:
        mesh = simplify_mesh(vertices, all_faces[-1], size, mirror)
        indices, weights = _closest_point_weights(vertices, mesh)
        if samples is not None:
            indices, weights = _fitted_weights(vertices, mesh, indices, weights, samples)
            samples = samples[:, mesh.kept]
        if mirror is not None:
            mirror = mesh.representative[mirror[mesh.kept]]
        vertices = vertices[mesh.kept]
        all_faces.append(mesh.faces)
        kept.append(mesh.kept)
        up_indices.append(indices)
        up_weights.append(weights)
    return MeshPyramid(all_faces, kept, up_indices, up_weights)


def _closest_point_weights(
    vertices: Float[np.ndarray, "fine 3"], mesh: SimplifiedMesh
) -> tuple[Int[np.ndarray, "fine 3"], Float[np.ndarray, "fine 3"]]:
    """Corners and barycentric weights of the point of the coarse surface closest to each fine vertex.

    Only triangles around the vertex that a fine one was merged into are tried, so a thigh never hangs on the other leg.
    """
    around = _rings(mesh.faces, len(mesh.kept))
    touching: list[list[int]] = [[] for _ in mesh.kept]
    for i, face in enumerate(mesh.faces.tolist()):
        for v in face:
            touching[v].append(i)
    candidates = [sorted({i for n in ring for i in touching[n]}) for ring in around]
    owner = np.repeat(np.arange(len(vertices)), [len(candidates[r]) for r in mesh.representative])
    face = mesh.faces[np.concatenate([candidates[r] for r in mesh.representative])]
    corners = vertices[mesh.kept][face]
    weights = _closest_barycentric(vertices[owner], corners)
    distance = np.linalg.norm(np.einsum("nk,nkd->nd", weights, corners) - vertices[owner], axis=1)
    order = np.lexsort((distance, owner))
    best = order[np.unique(owner[order], return_index=True)[1]]
    return face[best], weights[best]


def _closest_barycentric(
    points: Float[np.ndarray, "n 3"], corners: Float[np.ndarray, "n 3 3"]
) -> Float[np.ndarray, "n 3"]:
    """Barycentric weights of the closest point on a triangle: inside if it projects there, else on the best edge."""
    edge_1, edge_2, to_point = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], points - corners[:, 0]
    d11, d12, d22 = (edge_1**2).sum(1), (edge_1 * edge_2).sum(1), (edge_2**2).sum(1)
    p1, p2 = (to_point * edge_1).sum(1), (to_point * edge_2).sum(1)
    determinant = np.maximum(d11 * d22 - d12**2, 1e-30)
    inside = np.stack([d22 * p1 - d12 * p2, d11 * p2 - d12 * p1], axis=1) / determinant[:, None]
    inside = np.concatenate([1 - inside.sum(1, keepdims=True), inside], axis=1)
    best, best_distance = inside.copy(), np.where((inside >= 0).all(1), -1.0, np.inf)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        edge = corners[:, b] - corners[:, a]
        length = np.maximum((edge**2).sum(1), 1e-30)
        t = np.clip(((points - corners[:, a]) * edge).sum(1) / length, 0, 1)
        distance = ((corners[:, a] + t[:, None] * edge - points) ** 2).sum(1)
        closer = distance < best_distance
        best[closer] = 0
        best[closer, a], best[closer, b] = 1 - t[closer], t[closer]
        best_distance = np.minimum(distance, best_distance)
    return best


def _fitted_weights(
    vertices: Float[np.ndarray, "fine 3"],
    mesh: SimplifiedMesh,
    indices: Int[np.ndarray, "fine 3"],
    weights: Float[np.ndarray, "fine 3"],
    samples: Float[np.ndarray, "samples fine 3"],
    neighbours: int = 8,
    slack: float = 1e-3,
) -> tuple[Int[np.ndarray, "fine neighbours"], Float[np.ndarray, "fine neighbours"]]:
    """Weights that sum to 1 and rebuild the fine vertices of all samples best (least squares).

    Weights may be negative: eight points that do not lie in a plane can then give back the curvature between them.

    Args:
        vertices: fine template.
        mesh: coarse level.
        indices: corners of the closest triangle; always among the neighbours.
        weights: barycentric weights, towards which the fit is drawn.
        samples: fine bodies.
        neighbours: coarse vertices per fine vertex.
        slack: metres of error that a change of all weights by 1 is worth; keeps the weights small.
    """
    coarse = vertices[mesh.kept]
    rings = _rings(mesh.faces, len(mesh.kept), hops=2)
    neighbours = min(neighbours, *(len(ring) for ring in rings))  # a very small mesh has fewer
    chosen = np.empty((len(vertices), neighbours), dtype=np.int64)
    prior = np.zeros((len(vertices), neighbours))
    for v, (corner, r) in enumerate(zip(indices.tolist(), mesh.representative.tolist(), strict=True)):
        others = np.array([n for n in rings[r] if n not in corner])
        nearest = np.argsort(np.linalg.norm(coarse[others] - vertices[v], axis=1), kind="stable")
        chosen[v] = [*corner, *others[nearest[: neighbours - 3]].tolist()]
    prior[:, :3] = weights
    gram = np.zeros((len(vertices), neighbours + 1, neighbours + 1))
    right = np.zeros((len(vertices), neighbours + 1))
    for sample in samples.astype(np.float64):
        fan = sample[mesh.kept][chosen]
        start = np.einsum("vk,vkd->vd", prior, fan)
        fan = fan - start[:, None]  # the weights sum to 1, so the origin is free; here it keeps the numbers small
        gram[:, :-1, :-1] += np.einsum("vkd,vld->vkl", fan, fan)
        right[:, :-1] += np.einsum("vkd,vd->vk", fan, sample - start)
    gram[:, range(neighbours), range(neighbours)] += len(samples) * slack**2
    right[:, :-1] += len(samples) * slack**2 * prior
    gram[:, -1, :-1] = gram[:, :-1, -1] = 1  # Lagrange multiplier of "sum to 1"
    right[:, -1] = 1
    fitted = np.linalg.solve(gram, right[:, :, None])[:, :neighbours, 0]
    fitted[mesh.kept] = 0
    fitted[mesh.kept, (chosen[mesh.kept] == np.arange(len(mesh.kept))[:, None]).argmax(1)] = 1
    return chosen, fitted


def _rings(faces: Int[np.ndarray, "faces 3"], num_vertices: int, hops: int = 1) -> list[list[int]]:
    """Ascending vertices at most `hops` edges away from each vertex, itself included."""
    near = [{v} for v in range(num_vertices)]
    for face in faces.tolist():
        for v in face:
            near[v].update(face)
    rings = near
    for _ in range(hops - 1):
        rings = [set().union(*(near[n] for n in ring)) for ring in rings]
    return [sorted(ring) for ring in rings]
