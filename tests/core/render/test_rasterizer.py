import math
from typing import Any

import pytest
import torch
import trimesh
from torch import Tensor

from posecore.geometry.camera import project
from posecore.render.rasterizer import NEAR_PLANE, Fragments, rasterize

PIXELS = torch.eye(3)  # at depth 1 metres are pixels
CAMERA = torch.tensor([[70.0, 3.0, 33.0], [0.0, 80.0, 21.0], [0.0, 0.0, 1.0]])


def soup(seed: int, count: int = 40) -> tuple[Tensor, Tensor]:
    """Triangles in no order: before and behind the camera, inside and outside the picture, through one another."""
    generator = torch.Generator().manual_seed(seed)
    middles = torch.rand(count, 1, 3, generator=generator) * torch.tensor([3.0, 2.0, 4.0]) - torch.tensor(
        [1.5, 1.0, 0.5]
    )
    corners = middles + torch.randn(count, 3, 3, generator=generator) * 0.3
    return corners.reshape(-1, 3), torch.arange(3 * count).reshape(-1, 3)


def traced(vertices: Tensor, faces: Tensor, K: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Depth, face and weights by solving every ray against every triangle, and how near to an edge the hit is."""
    width, height = size
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1).double() @ torch.linalg.inv(K.double()).T
    corners = vertices.double()[faces]
    corners = corners[(corners[..., 2] >= NEAR_PLANE).all(dim=1)]
    ids = (vertices[faces][..., 2] >= NEAR_PLANE).all(dim=1).nonzero().flatten()
    # ray * depth = sum of weights times corners, so weights / depth solve corners^T u = ray.
    u = torch.linalg.solve(corners.transpose(1, 2), rays.reshape(-1, 1, 3, 1).expand(-1, len(corners), -1, -1))[..., 0]
    hit = (u >= 0).all(dim=-1)
    depth = torch.where(hit, 1 / u.sum(dim=-1), math.inf)
    nearest, which = depth.min(dim=1)
    chosen = u[torch.arange(len(u)), which]
    weights = chosen / chosen.sum(dim=-1, keepdim=True)
    empty = nearest.isinf()
    weights[empty] = 0
    face = torch.where(empty, -1, ids[which])
    to_edge = u.abs().amin(dim=(1, 2))
    return nearest.reshape(height, width), face.reshape(height, width), weights.reshape(height, width, 3), to_edge


@pytest.mark.parametrize("seed", range(4))
def test_every_pixel_equals_a_traced_ray(seed: int) -> None:
    size = (64, 44)
    vertices, faces = soup(seed)
    depth, face, weights, to_edge = traced(vertices, faces, CAMERA, size)
    assert to_edge.min() > 1e-9  # no ray is in doubt
    found = rasterize(vertices, faces, CAMERA, size)
    assert 0.1 < (face >= 0).double().mean() < 1
    assert torch.equal(found.face, face)
    torch.testing.assert_close(found.depth.double(), depth, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.barycentric.double(), weights, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_seen_project_to_the_middles_of_their_pixels(dtype: torch.dtype) -> None:
    vertices, faces = soup(7)
    found = rasterize(vertices.to(dtype), faces.int(), CAMERA.to(dtype), (64, 44))
    row, column = (found.face >= 0).nonzero(as_tuple=True)
    corners = vertices[faces[found.face[row, column]]]
    points = (found.barycentric[row, column].unsqueeze(-1) * corners).sum(dim=1)
    middles = torch.stack([column, row], dim=1) + 0.5
    torch.testing.assert_close(project(points, CAMERA), middles, rtol=0, atol=2e-3)
    torch.testing.assert_close(points[:, 2], found.depth[row, column])


def test_a_square_of_one_pixel_fills_that_pixel() -> None:
    square = torch.tensor([[3.0, 5.0, 1.0], [4.0, 5.0, 1.0], [4.0, 6.0, 1.0], [3.0, 6.0, 1.0]])
    found = rasterize(square, torch.tensor([[0, 1, 2], [0, 2, 3]]), PIXELS, (8, 9))
    assert (found.face >= 0).nonzero().tolist() == [[5, 3]]


def test_a_sphere_has_the_depth_of_a_sphere() -> None:
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.5)
    center = torch.tensor([0.2, -0.1, 2.5], dtype=torch.float64)
    vertices, faces = torch.from_numpy(ball.vertices.copy()) + center, torch.from_numpy(ball.faces.copy())
    K = torch.tensor([[100.0, 0.0, 40.0], [0.0, 100.0, 30.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    found = rasterize(vertices, faces, K, (80, 60))
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1).double() @ torch.linalg.inv(K).T
    # |depth ray - center| = radius
    a, b, c = rays.square().sum(dim=-1), rays @ center, center.square().sum() - 0.25
    inside = b.square() - a * c
    depth = (b - inside.clamp_min(0).sqrt()) / a
    clear = inside.abs() > 2e-3  # the mesh's outline lies a little inside the sphere's
    assert clear.double().mean() > 0.97
    assert torch.equal((found.face >= 0)[clear], (inside > 0)[clear])
    seen = clear & (inside > 0.05)
    torch.testing.assert_close(found.depth[seen].double(), depth[seen], rtol=0, atol=5e-4)


def test_the_order_of_faces_does_not_matter() -> None:
    vertices, faces = soup(3)
    order = torch.randperm(len(faces), generator=torch.Generator().manual_seed(0))
    turned = faces[:, [1, 2, 0]][order]
    plain, shuffled = rasterize(vertices, faces, CAMERA, (64, 44)), rasterize(vertices, turned, CAMERA, (64, 44))
    torch.testing.assert_close(shuffled.depth, plain.depth, rtol=1e-6, atol=0)
    empty = torch.tensor([-1])
    assert torch.equal(torch.cat([order, empty])[shuffled.face], plain.face)


@pytest.mark.parametrize("shift", [0.0, 0.5, 0.25])
@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_no_background_shows_between_triangles(shift: float, jitter: float) -> None:
    generator = torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(torch.arange(-2.0, 34.0), torch.arange(-2.0, 44.0), indexing="ij")
    lattice = torch.stack([x + shift, y + shift, torch.ones_like(x)], dim=-1)
    lattice[..., :2] += jitter * (torch.rand(*x.shape, 2, generator=generator) - 0.5)
    corner = (torch.arange(35).unsqueeze(1) * 46 + torch.arange(45)).flatten()
    faces = torch.cat(
        [torch.stack([corner, corner + 1, corner + 47], 1), torch.stack([corner, corner + 47, corner + 46], 1)]
    )
    found = rasterize(lattice.reshape(-1, 3), faces, PIXELS, (40, 30))
    assert (found.face >= 0).all()
    torch.testing.assert_close(found.depth, torch.ones(30, 40))


def test_large_triangles_keep_their_plane() -> None:
    """A slanted plane far larger than the picture, and one behind it: many more fragments than are done at a time."""
    width, height = 900, 700
    far = torch.tensor([[-1e4, -1e4, 3e4], [1e4, -1e4, 3e4], [0.0, 2e4, 3e4]])
    slanted = torch.tensor([[-9.0, 1.0, 1.0], [9.0, 1.0, 1.0], [9.0, -40.0, 42.0], [-9.0, -40.0, 42.0]])  # y + z = 2
    K = torch.tensor([[500.0, 0.0, 450.0], [0.0, 500.0, 350.0], [0.0, 0.0, 1.0]])
    faces = torch.tensor([[3, 4, 5], [0, 1, 2], [3, 5, 6]])
    found = rasterize(torch.cat([far, slanted]), faces, K, (width, height))
    rise = (torch.arange(height) + 0.5 - 350) / 500
    depth = (2 / (1 + rise)).unsqueeze(1).expand(-1, width)
    seen = (found.face == 0) | (found.face == 2)
    assert seen.sum() > 300_000
    torch.testing.assert_close(found.depth[seen], depth[seen], rtol=1e-5, atol=0)
    assert (found.face >= 0).all()


def is_empty(found: Fragments) -> bool:
    return bool((found.face == -1).all() and found.depth.isinf().all() and (found.barycentric == 0).all())


@pytest.mark.parametrize(
    "corners",
    [
        [[-9.0, 1.0, 1.0], [-8.0, 1.0, 1.0], [-8.0, 2.0, 1.0]],
        [[1.0, 90.0, 1.0], [2.0, 90.0, 1.0], [2.0, 91.0, 1.0]],
        [[1.0, 1.0, -1.0], [9.0, 1.0, -1.0], [9.0, 9.0, -1.0]],
        [[1.0, 1.0, 1.0], [9.0, 1.0, 1.0], [9.0, 9.0, 0.04]],
        [[1.0, 1.0, 1.0], [9.0, 9.0, 1.0], [5.0, 5.0, 1.0]],
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]],
        [[1.6, 1.6, 1.0], [2.4, 1.6, 1.0], [2.4, 2.4, 1.0]],
    ],
    ids=["left", "below", "behind", "through the near plane", "edge-on", "a point", "between middles of pixels"],
)
def test_what_no_pixel_sees(corners: list[list[float]]) -> None:
    assert is_empty(rasterize(torch.tensor(corners), torch.tensor([[0, 1, 2]]), PIXELS, (16, 12)))


def test_an_empty_mesh_leaves_the_picture_empty() -> None:
    found = rasterize(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long), PIXELS, (16, 12))
    assert found.depth.shape == (12, 16)
    assert is_empty(found)


def test_the_near_plane_can_be_moved() -> None:
    triangle = torch.tensor([[0.0, 0.0, 1.0], [30.0, 0.0, 1.0], [0.0, 30.0, 1.0]])
    faces = torch.tensor([[0, 1, 2]])
    assert not is_empty(rasterize(triangle, faces, PIXELS, (8, 8), near=1.0))
    assert is_empty(rasterize(triangle, faces, PIXELS, (8, 8), near=1.01))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (0, 5)}, r"image_size is \(0, 5\)"),
        ({"image_size": (5, -1)}, "at least 1 pixel"),
        ({"near": 0.0}, "near is 0.0; valid are depths above 0"),
        ({"near": math.nan}, "near is nan"),
        ({"vertices_cam": torch.tensor([[0.0, 0.0, math.nan]] * 3)}, "vertices_cam holds values that are not finite"),
        ({"faces": torch.tensor([[0, 1, 3]])}, "from 0 to 3; there are 3 vertices"),
        ({"faces": torch.tensor([[-1, 1, 2]])}, "from -1 to 2"),
    ],
)
def test_errors(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "vertices_cam": torch.ones(3, 3),
        "faces": torch.tensor([[0, 1, 2]]),
        "K": PIXELS,
        "image_size": (8, 8),
    }
    with pytest.raises(ValueError, match=message):
        rasterize(**(arguments | changes))
