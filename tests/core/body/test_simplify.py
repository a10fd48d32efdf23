import numpy as np
import pytest
import trimesh

from posecore.body.simplify import boundary_edges, simplify_mesh


def _sphere(subdivisions: int = 3) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def _hilly_square(side: int = 21) -> tuple[np.ndarray, np.ndarray]:
    """An open height field over the square from 0 to 1, flat at its boundary."""
    y, x = np.divmod(np.arange(side * side), side)
    grid = np.stack([x, y], axis=1) / (side - 1)
    corner = np.arange(side * side).reshape(side, side)[:-1, :-1].ravel()
    faces = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + side + 1], axis=1),
            np.stack([corner, corner + side + 1, corner + side], axis=1),
        ]
    )
    return np.column_stack([grid, 0.3 * np.sin(np.pi * grid).prod(1) ** 2]), faces


def _nearest_mirror(vertices: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(vertices[:, None] * [-1, 1, 1] - vertices[None], axis=-1)
    return distance.argmin(1)


def _as_trimesh(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices, faces, process=False)


@pytest.mark.parametrize("num_vertices", [641, 300, 42, 12])
def test_closed_surface_keeps_its_topology_and_shape(num_vertices: int) -> None:
    vertices, faces = _sphere()
    result = simplify_mesh(vertices, faces, num_vertices)
    mesh = _as_trimesh(vertices[result.kept], result.faces)
    assert len(result.kept) == num_vertices
    assert len(result.faces) == 2 * num_vertices - 4
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert mesh.volume > 0.5 * 4 / 3 * np.pi
    assert len(np.unique(result.faces)) == num_vertices


def test_quadric_error_prefers_flat_parts() -> None:
    box = trimesh.creation.box().subdivide().subdivide().subdivide()
    result = simplify_mesh(np.asarray(box.vertices), np.asarray(box.faces), 60)
    mesh = _as_trimesh(np.asarray(box.vertices)[result.kept], result.faces)
    assert mesh.volume == pytest.approx(1.0, abs=1e-3)
    assert (np.abs(mesh.vertices) == 0.5).all(1).sum() == 8  # all corners are left


def test_torus_stays_a_torus() -> None:
    torus = trimesh.creation.torus(1.0, 0.3, major_sections=24, minor_sections=12)
    result = simplify_mesh(np.asarray(torus.vertices), np.asarray(torus.faces), 40)
    mesh = _as_trimesh(np.asarray(torus.vertices)[result.kept], result.faces)
    assert mesh.is_watertight
    assert mesh.euler_number == 0


def test_open_boundary_stays_one_loop_where_it_is() -> None:
    vertices, faces = _hilly_square()
    result = simplify_mesh(vertices, faces, 60)
    mesh = _as_trimesh(vertices[result.kept], result.faces)
    edges = boundary_edges(result.faces)
    rim = mesh.vertices[np.unique(edges), :2]
    assert mesh.euler_number == 1  # a disc
    assert len(edges) == len(rim) < 80
    np.testing.assert_array_equal(np.minimum(rim, 1 - rim).min(1), 0)  # on the square's sides
    assert (np.minimum(rim, 1 - rim) == 0).all(1).sum() == 4  # and all four corners are left
    assert mesh.area == pytest.approx(_as_trimesh(vertices, faces).area, rel=0.02)


@pytest.mark.parametrize("num_vertices", [300, 101, 52])
def test_mirrored_collapse_gives_a_symmetric_mesh(num_vertices: int) -> None:
    vertices, faces = _sphere()
    mirror = _nearest_mirror(vertices)
    result = simplify_mesh(vertices, faces, num_vertices, mirror=mirror)
    new_mirror = result.representative[mirror[result.kept]]
    kept = vertices[result.kept]
    assert len(kept) == num_vertices
    np.testing.assert_allclose(kept[new_mirror] * [-1, 1, 1], kept, atol=1e-12)
    assert {tuple(sorted(f)) for f in new_mirror[result.faces].tolist()} == {
        tuple(sorted(f)) for f in result.faces.tolist()
    }


def test_vertices_named_first_go_first() -> None:
    vertices, faces = _sphere()
    first = vertices[:, 1] > 0.5
    result = simplify_mesh(vertices, faces, len(vertices) - int(first.sum()) // 2, first=first)
    assert set(np.flatnonzero(~first)) <= set(result.kept.tolist())


def test_representative_is_near_and_keeps_kept_vertices() -> None:
    vertices, faces = _sphere()
    result = simplify_mesh(vertices, faces, 162)
    np.testing.assert_array_equal(result.representative[result.kept], np.arange(162))
    assert np.linalg.norm(vertices[result.kept][result.representative] - vertices, axis=1).max() < 0.7


def test_same_input_gives_same_result() -> None:
    vertices, faces = _sphere()
    a, b = simplify_mesh(vertices, faces, 100), simplify_mesh(vertices, faces, 100)
    np.testing.assert_array_equal(a.faces, b.faces)
    np.testing.assert_array_equal(a.kept, b.kept)


@pytest.mark.parametrize("num_vertices", [3, 643])
def test_impossible_number_of_vertices(num_vertices: int) -> None:
    vertices, faces = _sphere()
    with pytest.raises(ValueError, match=f"num_vertices is {num_vertices}, expected a number between 4 and 642"):
        simplify_mesh(vertices, faces, num_vertices)


def test_topology_may_allow_no_fewer() -> None:
    torus = trimesh.creation.torus(1.0, 0.3, major_sections=12, minor_sections=8)
    with pytest.raises(ValueError, match="num_vertices is 4, but topology and symmetry allow no fewer than"):
        simplify_mesh(np.asarray(torus.vertices), np.asarray(torus.faces), 4)


def test_inconsistent_faces_are_refused() -> None:
    vertices, faces = _sphere(0)
    faces = faces.copy()
    faces[0] = faces[0, ::-1]
    with pytest.raises(ValueError, match="a directed edge belongs to two faces"):
        simplify_mesh(vertices, faces, 8)


def test_wrong_mirror_is_refused() -> None:
    vertices, faces = _sphere(1)
    with pytest.raises(ValueError, match="applying it twice must give every vertex back"):
        simplify_mesh(vertices, faces, 20, mirror=np.roll(np.arange(len(vertices)), 1))
    swap = np.arange(len(vertices))
    swap[[0, 1]] = 1, 0
    with pytest.raises(ValueError, match="mirror: it must map faces onto faces"):
        simplify_mesh(vertices, faces, 20, mirror=swap)
