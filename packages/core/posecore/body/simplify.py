"""Half-edge collapse: fewer vertices, the same surface, every kept vertex one of the old ones.

Because the kept vertices are a subset, skinning weights, blend shapes and any posed mesh are reduced by plain indexing.

References:
    Garland and Heckbert, Surface Simplification Using Quadric Error Metrics, SIGGRAPH 1997 (the cost).
    Dey, Edelsbrunner, Guha and Nekhayev, Topology Preserving Edge Contraction, 1999 (the link condition).
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

_EVENNESS = (
    1e-3  # weight of "stay near the old vertices" against "stay on the old planes"; keeps flat parts evenly meshed
)
_BOUNDARY_WEIGHT = 10.0  # weight of the planes that hold an open boundary (MANO's wrist) in place
_MIN_NORMAL_COSINE = 0.2  # a collapse may turn a triangle by at most about 78 degrees
_FIRST_FACTOR = 1e-6  # cost factor of the vertices that are to go first


@dataclass(frozen=True)
class SimplifiedMesh:
    """Result of `simplify_mesh`.

    Attributes:
        faces: triangles over the kept vertices, oriented as the input's.
        kept: ascending input indices of the kept vertices.
        representative: for each input vertex the new index of the kept vertex it was merged into (itself, if kept).
    """

    faces: Int[np.ndarray, "new_faces 3"]
    kept: Int[np.ndarray, " new_vertices"]
    representative: Int[np.ndarray, " vertices"]


def simplify_mesh(
    vertices: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    num_vertices: int,
    mirror: Int[np.ndarray, " vertices"] | None = None,
    first: Bool[np.ndarray, " vertices"] | None = None,
) -> SimplifiedMesh:
    """Collapse edges, cheapest first, until exactly `num_vertices` are left.

    The topology is kept: a closed surface stays closed and of its genus, an open one keeps its boundary loops.

    Args:
        vertices: rest positions, metres.
        faces: consistently oriented triangles of a manifold mesh, with or without boundary.
        num_vertices: how many vertices to keep.
        mirror: index of each vertex's left/right partner (itself on the midline). Collapses are then made in mirrored
            pairs, so that the result is as symmetric as the input.
        first: vertices to remove before all others (for example the inside of the mouth).

    Raises:
        ValueError: `num_vertices` is not in `[4, vertices]`, an edge has more than two faces, `mirror` does not map the
            mesh onto itself, or topology and symmetry allow no further collapse.
    """
    if not 4 <= num_vertices <= len(vertices):
        raise ValueError(f"num_vertices is {num_vertices}, expected a number between 4 and {len(vertices)}")
    if mirror is not None:
        _check_mirror(faces, mirror)
    mesh = _Collapser(np.asarray(vertices, dtype=np.float64), faces, mirror, first)
    mesh.run(num_vertices)
    kept = np.flatnonzero(mesh.alive)
    new_index = np.full(len(vertices), -1)
    new_index[kept] = np.arange(len(kept))
    old_faces = np.array([mesh.faces[i] for i in mesh.real_faces()])
    return SimplifiedMesh(new_index[old_faces], kept, new_index[mesh.merged_into()])


def boundary_edges(faces: Int[np.ndarray, "faces 3"]) -> Int[np.ndarray, "edges 2"]:
    """Directed edges that have a face on one side only, as their face runs through them.

    Raises:
        ValueError: a directed edge belongs to two faces (not manifold, or not consistently oriented).
    """
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    base = int(directed.max()) + 1
    key, opposite = directed @ [base, 1], directed @ [1, base]
    if len(np.unique(key)) != len(key):
        raise ValueError("faces: a directed edge belongs to two faces; expected an oriented manifold mesh")
    return directed[~np.isin(key, opposite)]


def _check_mirror(faces: Int[np.ndarray, "faces 3"], mirror: Int[np.ndarray, " vertices"]) -> None:
    if not np.array_equal(mirror[mirror], np.arange(len(mirror))):
        raise ValueError("mirror: applying it twice must give every vertex back")
    own, mirrored = (np.sort(f, axis=1) for f in (faces, mirror[faces]))
    if not np.array_equal(own[np.lexsort(own.T)], mirrored[np.lexsort(mirrored.T)]):
        raise ValueError("mirror: it must map faces onto faces")


def _vertex_quadrics(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"], boundary: Int[np.ndarray, "edges 2"]
) -> Float[np.ndarray, "vertices 4 4"]:
    """Area-weighted squared distances to the planes around each vertex, as quadratic forms of (x, y, z, 1)."""
    corner = vertices[faces]
    cross = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    length = np.linalg.norm(cross, axis=1, keepdims=True)
    normal, area = cross / np.maximum(length, 1e-20), 0.5 * length[:, 0]
    plane = np.concatenate([normal, -(normal * corner[:, 0]).sum(1, keepdims=True)], axis=1)
    planes = area[:, None, None] * plane[:, :, None] * plane[:, None, :]
    quadrics = np.zeros((len(vertices), 4, 4))
    vertex_area = np.zeros(len(vertices))
    for k in range(3):
        np.add.at(quadrics, faces[:, k], planes / 3)
        np.add.at(vertex_area, faces[:, k], area / 3)
    # |x - p|^2 as a quadratic form: the evenness term, and with it a cost above zero in flat parts.
    point = np.zeros((len(vertices), 4, 4))
    point[:, :3, :3] = np.eye(3)
    point[:, :3, 3] = point[:, 3, :3] = -vertices
    point[:, 3, 3] = (vertices**2).sum(1)
    quadrics += _EVENNESS * vertex_area[:, None, None] * point
    if len(boundary):  # distance to the straight boundary edge, also weighted by an area
        start, end = vertices[boundary[:, 0]], vertices[boundary[:, 1]]
        span = np.linalg.norm(end - start, axis=1, keepdims=True)
        along = (end - start) / np.maximum(span, 1e-20)
        across = np.eye(3) - along[:, :, None] * along[:, None, :]
        offset = -np.einsum("eij,ej->ei", across, start)
        line = np.zeros((len(boundary), 4, 4))
        line[:, :3, :3] = across
        line[:, :3, 3] = line[:, 3, :3] = offset
        line[:, 3, 3] = (offset**2).sum(1)
        for k in range(2):
            np.add.at(quadrics, boundary[:, k], _BOUNDARY_WEIGHT * span[:, :, None] ** 2 * line)
    return quadrics


class _Collapser:
    """The mesh while it shrinks: neighbour sets, incident faces, quadrics and a heap of candidate collapses.

    Open boundaries are closed by one virtual vertex (the last index), so that the link condition of a closed surface
    also protects the boundary; it is never collapsed.
    """

    def __init__(
        self,
        vertices: Float[np.ndarray, "vertices 3"],
        faces: Int[np.ndarray, "faces 3"],
        mirror: Int[np.ndarray, " vertices"] | None,
        first: Bool[np.ndarray, " vertices"] | None,
    ) -> None:
        self.vertices = vertices
        self.virtual = len(vertices)
        boundary = boundary_edges(faces)
        self.quadrics = _vertex_quadrics(vertices, faces, boundary)
        self.homogeneous = np.concatenate([vertices, np.ones((len(vertices), 1))], axis=1)
        self.faces = faces.tolist() + [[b, a, self.virtual] for a, b in boundary.tolist()]
        self.mirror = np.arange(len(vertices)).tolist() if mirror is None else mirror.tolist()
        self.symmetric = mirror is not None
        self.factor = np.where(np.zeros(len(vertices), bool) if first is None else first, _FIRST_FACTOR, 1.0)
        self.alive = np.ones(len(vertices), dtype=bool)
        self.target = list(range(len(vertices)))
        self.version = [0] * len(vertices)
        self.neighbours: list[set[int]] = [set() for _ in range(len(vertices) + 1)]
        self.incident: list[set[int]] = [set() for _ in range(len(vertices) + 1)]
        for i, face in enumerate(self.faces):
            for v in face:
                self.incident[v].add(i)
                self.neighbours[v].update(face)
        for v, ring in enumerate(self.neighbours):
            ring.discard(v)
        self.heap: list[tuple[float, int, int, int]] = []

    def real_faces(self) -> list[int]:
        """Indices of the faces that are left, without those of the virtual vertex, ascending."""
        left = set().union(*(self.incident[v] for v in np.flatnonzero(self.alive)))
        return sorted(left - self.incident[self.virtual])

    def merged_into(self) -> list[int]:
        """For each vertex the kept vertex at the end of its chain of collapses."""
        for v in range(len(self.target)):
            end = v
            while self.target[end] != end:
                end = self.target[end]
            self.target[v] = end
        return self.target

    def run(self, num_vertices: int) -> None:
        """Collapse until `num_vertices` are left; only where nothing else is possible may triangles turn over."""
        count = int(self.alive.sum())
        min_cosine = _MIN_NORMAL_COSINE
        while count > num_vertices:
            before = count
            self.heap = []
            for v in np.flatnonzero(self.alive).tolist():
                self._push(v, (n for n in self.neighbours[v] if n > v))
            while self.heap and count > num_vertices:
                _, a, b, version = heapq.heappop(self.heap)
                if not (self.alive[a] and self.alive[b]) or version != self.version[a] + self.version[b]:
                    continue
                count -= self._try_collapse(a, b, count - num_vertices, min_cosine)
            if count == before:
                if min_cosine < 0:
                    raise ValueError(
                        f"num_vertices is {num_vertices}, but topology and symmetry allow no fewer than {count}"
                    )
                min_cosine = -2.0

    def _push(self, v: int, ring: Iterable[int]) -> None:
        """Queue both directions of the edges from `v` to `ring`."""
        others = [n for n in sorted(ring) if n != self.virtual]
        if not others:
            return
        quadric = self.quadrics[others] + self.quadrics[v]
        away = np.einsum("ni,nij,nj->n", self.homogeneous[others], quadric, self.homogeneous[others]) * self.factor[v]
        into = np.einsum("i,nij,j->n", self.homogeneous[v], quadric, self.homogeneous[v]) * self.factor[others]
        for n, cost_away, cost_into in zip(others, away.tolist(), into.tolist(), strict=True):
            version = self.version[v] + self.version[n]
            heapq.heappush(self.heap, (cost_away, v, n, version))
            heapq.heappush(self.heap, (cost_into, n, v, version))

    def _try_collapse(self, a: int, b: int, allowed: int, min_cosine: float) -> int:
        """Merge `a` into `b` (and its mirror image) where that is valid; says how many vertices went."""
        if not self._is_valid(a, b, min_cosine):
            return 0
        if not self.symmetric:
            self._collapse(a, b)
            self._push(b, self.neighbours[b])
            return 1
        a_m, b_m = self.mirror[a], self.mirror[b]
        if a_m == a:
            if b_m != b:  # would have to move to both sides
                return 0
            self._collapse(a, b)
            self._push(b, self.neighbours[b])
            return 1
        if allowed < 2 or a_m in self.neighbours[a] or b == a_m:
            return 0
        # The partner's link condition as it will be once a has gone.
        ring = set(self.neighbours[b_m])
        if a in ring:
            ring |= {b} - {b_m}
        if b_m == b:
            ring |= self.neighbours[a] - {b}
        if len((ring - {a}) & self.neighbours[a_m]) != 2:
            return 0
        self._collapse(a, b)
        self._collapse(a_m, b_m)
        for v in {b, b_m}:
            self._push(v, self.neighbours[v])
        return 2

    def _is_valid(self, a: int, b: int, min_cosine: float) -> bool:
        if len(self.neighbours[a] & self.neighbours[b]) != 2:  # the link condition
            return False
        if len(self.neighbours[a]) == 3 == len(self.neighbours[b]):  # a tetrahedron would fold flat
            return False
        turned = [self.faces[i] for i in sorted(self.incident[a]) if b not in self.faces[i]]
        turned = [face for face in turned if self.virtual not in face]
        if not turned:
            return True
        corners = np.array(turned)
        old = self.vertices[corners]
        new = self.vertices[np.where(corners == a, b, corners)]
        old_normal = np.cross(old[:, 1] - old[:, 0], old[:, 2] - old[:, 0])
        new_normal = np.cross(new[:, 1] - new[:, 0], new[:, 2] - new[:, 0])
        scale = np.linalg.norm(old_normal, axis=1) * np.linalg.norm(new_normal, axis=1)
        return bool(((old_normal * new_normal).sum(1) >= min_cosine * scale).all())

    def _collapse(self, a: int, b: int) -> None:
        for i in self.incident[a]:
            face = self.faces[i]
            if b in face:
                for v in face:
                    if v != a:
                        self.incident[v].discard(i)
            else:
                face[face.index(a)] = b
                self.incident[b].add(i)
        for n in self.neighbours[a]:
            self.neighbours[n].discard(a)
            if n != b:
                self.neighbours[n].add(b)
                self.neighbours[b].add(n)
        self.neighbours[a], self.incident[a] = set(), set()
        self.quadrics[b] += self.quadrics[a]
        self.version[b] += 1
        self.target[a] = b
        self.alive[a] = False
