import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from posecore.body.smpl import SMPLLayer
from posecore.geometry.camera import project
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.render.mesh import (
    AMBIENT,
    HEAD_LIGHT,
    MESH_COLORS,
    SOFT_LIGHT,
    SOFT_LIGHT_DIRECTION,
    before_after_panel,
    mesh_side_view,
    overlay,
    render_mesh,
    vertex_normals,
)
from posecore.render.panels import figure_png
from posecore.render.rasterizer import rasterize

PIXELS = torch.eye(3)  # at depth 1 metres are pixels
CAMERA = torch.tensor([[90.0, 0.0, 40.0], [0.0, 90.0, 30.0], [0.0, 0.0, 1.0]])
SIZE = (80, 60)
SQUARE_FACES = torch.tensor([[0, 2, 1], [0, 3, 2]])  # anticlockwise for the camera, whose y points down


def square(left: float, top: float, right: float, bottom: float, z: float = 1.0) -> Tensor:
    """A square that covers these pixels and faces the camera."""
    return z * torch.tensor([[left, top, 1.0], [right, top, 1.0], [right, bottom, 1.0], [left, bottom, 1.0]])


def ball(center: tuple[float, float, float], radius: float = 0.3) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    return torch.tensor(mesh.vertices).float() + torch.tensor(center), torch.tensor(mesh.faces)


def photo(width: int = 80, height: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_of_a_sphere_are_its_radii(batch: tuple[int, ...], dtype: torch.dtype) -> None:
    vertices, faces = ball((0.0, 0.0, 0.0))
    normals = vertex_normals(vertices.to(dtype).expand(*batch, -1, -1), faces)
    radii = (vertices / 0.3).to(dtype).expand(*batch, -1, -1)
    torch.testing.assert_close(normals, radii, rtol=0, atol=2e-2)
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(*batch, len(vertices), dtype=dtype))


def test_larger_triangles_weigh_more_in_a_normal_and_lone_vertices_have_none() -> None:
    vertices = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0], [5.0, 5.0, 5.0]])
    normals = vertex_normals(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    torch.testing.assert_close(normals[0], torch.tensor([3.0, 0.0, 1.0]) / math.sqrt(10))
    assert normals[4].tolist() == [0.0, 0.0, 0.0]


def test_the_shade_of_a_surface_that_faces_the_camera() -> None:
    assert math.hypot(*SOFT_LIGHT_DIRECTION) == pytest.approx(1, abs=0.01)
    wrapped = 0.5 - 0.5 * SOFT_LIGHT_DIRECTION[2]  # the normal is (0, 0, -1)
    light = AMBIENT + HEAD_LIGHT + SOFT_LIGHT * wrapped**2
    picture = render_mesh(square(2, 3, 7, 9), SQUARE_FACES, PIXELS, (12, 12), "#804020")
    assert picture[3:9, 2:7].reshape(-1, 3).tolist() == [[round(light * c) for c in (0x80, 0x40, 0x20)]] * 30
    picture[3:9, 2:7] = 255
    assert (picture == 255).all()


def test_light_comes_from_the_camera_and_from_above_on_the_left() -> None:
    vertices, faces = ball((0.0, 0.0, 1.5))
    picture = render_mesh(vertices, faces, CAMERA, SIZE, "#808080", antialias=1)[..., 0].astype(int)
    assert picture[30, 40] > picture[30, 56]  # middle and rim
    assert picture[20, 30] > picture[40, 50]
    assert picture[20, 40] > picture[40, 40]
    assert len(np.unique(picture)) > 60  # smooth, not one shade per triangle or few


def test_hard_edges_are_the_rasterizer_s() -> None:
    vertices, faces = ball((0.35, -0.2, 1.2))  # partly outside
    picture = render_mesh(vertices, faces, CAMERA, SIZE, antialias=1)
    seen = rasterize(vertices, faces, CAMERA, SIZE).face >= 0
    assert np.array_equal((picture != 255).any(axis=-1), seen.numpy())


@pytest.mark.parametrize("antialias", [2, 4])
def test_edges_are_mixed_by_the_area_covered(antialias: int) -> None:
    black = render_mesh(square(2, 3, 7.5, 9), SQUARE_FACES, PIXELS, (12, 12), "#000000", antialias=antialias)
    assert set(black[3:9, 7].flatten()) == {128}
    assert not black[3:9, 2:7].any()
    assert (black[:, 8:] == 255).all()


def test_alpha_mixes_with_the_background() -> None:
    behind = photo()
    vertices, faces = ball((0.0, 0.0, 1.5))
    solid, half, none = (
        render_mesh(vertices, faces, CAMERA, SIZE, background=behind, alpha=alpha).astype(int) for alpha in (1, 0.5, 0)
    )
    assert np.array_equal(none, behind)
    assert np.abs(half - (solid + behind) / 2).max() <= 1
    assert np.abs(solid - behind).max() > 50


def test_every_person_has_a_colour_and_the_nearer_hides_the_farther() -> None:
    people = torch.stack([square(2, 2, 8, 8, 2.0), square(5, 5, 11, 11, 1.0)])
    colors = ["#ff0000", "#0000ff"]
    picture = render_mesh(people, SQUARE_FACES, PIXELS, (14, 14), colors)
    assert picture[3, 3, 0] > 150
    assert not picture[3, 3, 1:].any()
    for pixel in (picture[6, 6], picture[9, 9]):
        assert pixel[2] > 150
        assert not pixel[:2].any()
    swapped = render_mesh(people.flip(0), SQUARE_FACES, PIXELS, (14, 14), colors[::-1])
    assert np.array_equal(swapped, picture)
    own = render_mesh(people, SQUARE_FACES, PIXELS, (14, 14))
    assert np.array_equal(own, render_mesh(people, SQUARE_FACES, PIXELS, (14, 14), MESH_COLORS[:2]))


@pytest.mark.parametrize(
    "people",
    [square(20, 2, 30, 8), square(2, 2, 8, 8) * -1, square(2, 2, 8, 8, 0.01), torch.zeros(0, 4, 3)],
    ids=["outside", "behind", "too near", "nobody"],
)
def test_nobody_in_the_picture_leaves_the_background(people: Tensor) -> None:
    behind = photo(14, 14)
    picture = render_mesh(people, SQUARE_FACES, PIXELS, (14, 14), background=behind)
    assert np.array_equal(picture, behind)
    assert not np.shares_memory(picture, behind)


def open_body() -> tuple[Tensor, Tensor]:
    """The open body in its rest pose, upright 4 m before the camera."""
    layer = SMPLLayer()
    upright = axis_angle_to_rotmat(torch.tensor([math.pi, 0.0, 0.0]))
    pose = torch.eye(3).expand(layer.num_body_joints, 3, 3)
    output = layer(torch.zeros(10), pose, upright, torch.tensor([0.0, 0.0, 4.0]))
    return output.vertices, layer.model.faces


def test_the_open_body_over_a_photograph() -> None:
    vertices, faces = open_body()
    K = torch.tensor([[400.0, 0.0, 160.0], [0.0, 400.0, 120.0], [0.0, 0.0, 1.0]])
    behind = photo(320, 240)
    picture = overlay(behind, vertices, faces, K, alpha=1.0)
    changed = (picture != behind).any(axis=-1)
    rows, columns = changed.nonzero()
    pixels = project(vertices, K)
    low, high = pixels.amin(dim=0), pixels.amax(dim=0)
    assert abs(rows.min() - float(low[1])) <= 1.5
    assert abs(rows.max() + 1 - float(high[1])) <= 1.5
    assert abs(columns.min() - float(low[0])) <= 1.5
    assert abs(columns.max() + 1 - float(high[0])) <= 1.5
    assert changed[100, 160]  # trunk
    assert not changed[190, 160]  # between the legs
    same = render_mesh(vertices, faces, K, (320, 240), background=behind, alpha=1.0)
    assert np.array_equal(picture, same)


def test_the_side_view_shows_depth_from_left_to_right() -> None:
    near, faces = ball((0.0, 0.0, 3.0))
    far, _ = ball((0.0, 0.0, 5.0))
    side = mesh_side_view(torch.stack([near, far]), faces, 100, ["#ff0000", "#0000ff"])
    assert side.shape == (100, 100, 3)
    red = ((side[..., 0] > 100) & (side[..., 2] < 20)).nonzero()
    blue = ((side[..., 2] > 100) & (side[..., 0] < 20)).nonzero()
    assert red[1].max() < 50 < blue[1].min()
    assert abs(red[0].mean() - 49.5) < 2
    reach = np.ptp(np.concatenate([red[1], blue[1]]))
    assert 80 < reach <= 92
    # From the photograph's right: the person to the right hides the other.
    hidden, _ = ball((-1.0, 0.0, 3.0))
    seen, _ = ball((1.0, 0.0, 3.0))
    side = mesh_side_view(torch.stack([hidden, seen]), faces, 100, ["#ff0000", "#0000ff"])
    assert side[50, 50, 2] > 100
    assert not ((side[..., 0] > 100) & (side[..., 2] < 20)).any()


def test_the_side_view_stands_on_a_grid() -> None:
    vertices, faces = open_body()
    side = mesh_side_view(vertices, faces, 200)
    grid = np.ptp(side.astype(int), axis=-1) < 15
    lines = grid & (side[..., 1] < 240)
    assert lines[150:].any(axis=1).sum() > 5
    assert not lines[:100, :40].any()


def panel_arguments(people: int = 2) -> dict[str, Any]:
    vertices, faces = ball((0.0, 0.0, 1.5))
    start = torch.stack([vertices + torch.tensor([0.2 * person, 0.0, 0.0]) for person in range(people)])
    keypoints = torch.rand(people, 17, 2, generator=torch.Generator().manual_seed(0)) * 60
    return {
        "photo": photo(),
        "start_vertices": start,
        "vertices": start + 0.1,
        "faces": faces,
        "K": CAMERA,
        "keypoints": keypoints,
        "confidence": torch.ones(people, 17),
        "title": "Start and $fit",
        "labels": [f"person {person}" for person in range(people)],
    }


def test_the_panel_has_a_row_per_person_and_four_columns() -> None:
    figure = before_after_panel(**panel_arguments())
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["Photo and 2D keypoints", "Start", "Fitted", "Fitted, from the side"] * 2
    assert [figure.axes[row].get_xlabel() for row in (0, 4)] == ["person 0", "person 1"]
    assert figure.texts[0].get_text() == "Start and $fit"
    start, fitted = (np.asarray(figure.axes[column].images[0].get_array()) for column in (1, 2))
    assert start.shape == fitted.shape
    assert (start != fitted).any()
    assert figure.axes[0].lines
    assert not figure.axes[1].lines
    assert figure_png(figure, dpi=40).startswith(b"\x89PNG")


def test_the_panel_s_frame_holds_the_person_where_the_photo_does() -> None:
    arguments = panel_arguments(1)
    arguments["keypoints"] = arguments["confidence"] = None
    figure = before_after_panel(**arguments)
    assert figure.axes[0].get_title() == "Photo"
    left, right = figure.axes[1].get_xlim()
    bottom, top = figure.axes[1].get_ylim()
    assert right - left == pytest.approx(bottom - top)
    for body in (arguments["start_vertices"][0], arguments["vertices"][0]):
        pixels = project(body, CAMERA)
        assert left <= pixels[:, 0].min() < pixels[:, 0].max() <= right
        assert top <= pixels[:, 1].min() < pixels[:, 1].max() <= bottom
    # The crop that is shown is the photograph's, at its place and enlarged.
    image = figure.axes[0].images[0]
    box = [int(edge) for edge in image.get_extent()]
    crop = arguments["photo"][box[3] : box[2], box[0] : box[1]]
    shown = np.asarray(image.get_array())
    assert shown.shape[0] % crop.shape[0] == 0
    scale = shown.shape[0] // crop.shape[0]
    means = shown.reshape(crop.shape[0], scale, crop.shape[1], scale, 3).mean(axis=(1, 3))
    assert np.corrcoef(means.ravel(), crop.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    "shift", [(-0.7, 0.0, 0.0), (30.0, 0.0, 0.0), (0.0, 0.0, -9.0)], ids=["partly", "all", "behind"]
)
def test_the_panel_draws_people_who_are_outside_the_photo(shift: tuple[float, float, float]) -> None:
    arguments = panel_arguments(1)
    arguments["vertices"] = arguments["start_vertices"] = arguments["start_vertices"] + torch.tensor(shift)
    arguments["confidence"] = torch.zeros(1, 17)
    figure = before_after_panel(**arguments)
    image = np.asarray(figure.axes[2].images[0].get_array())
    same = np.array_equal(image, np.asarray(figure.axes[0].images[0].get_array()))
    assert same == (shift[0] != -0.7)
    side = np.asarray(figure.axes[3].images[0].get_array())
    assert (np.ptp(side.astype(int), axis=-1) > 20).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"background": photo(4, 4)}, r"background is uint8 of shape \(4, 4, 3\); image_size \(80, 60\) needs"),
        ({"background": photo() / 255}, "background is float64"),
        ({"alpha": 1.5}, "alpha is 1.5; valid are numbers from 0 to 1"),
        ({"antialias": 0}, "antialias is 0; valid are 1 or more"),
        ({"backend": "vulkan"}, "backend is 'vulkan'; valid are 'software', 'gl'"),
        ({"vertices_cam": torch.full((700, 3), math.nan)}, "vertices_cam holds values that are not finite"),
        ({"vertices_cam": torch.ones(2, 9, 3)}, "faces hold indices from 0 to 641; there are 9 vertices"),
        ({"color": ["red", "blue"]}, "color holds 2 colours; vertices_cam hold 1 people"),
    ],
)
def test_errors_of_render_mesh(changes: dict[str, Any], message: str) -> None:
    vertices, faces = ball((0.0, 0.0, 1.5))
    arguments: dict[str, Any] = {"vertices_cam": vertices, "faces": faces, "K": CAMERA, "image_size": SIZE}
    # Unwrapped, because the tests' type checker refuses an unknown backend before the function can.
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(render_mesh)(**(arguments | changes))


def test_errors_of_the_side_view() -> None:
    vertices, faces = ball((0.0, 0.0, 1.5))
    with pytest.raises(ValueError, match="there is no vertex to look at"):
        mesh_side_view(vertices[:0], faces[:0])
    with pytest.raises(ValueError, match="vertices_cam holds values that are not finite"):
        mesh_side_view(vertices / 0, faces)
    with pytest.raises(ValueError, match="size is 0; valid are 1 or more pixels"):
        mesh_side_view(vertices, faces, 0)


@pytest.mark.parametrize("name", ["start_vertices", "keypoints", "confidence", "labels"])
def test_errors_of_the_panel(name: str) -> None:
    arguments = panel_arguments()
    with pytest.raises(ValueError, match=f"{name} has length 1; vertices are for 2 people"):
        before_after_panel(**(arguments | {name: arguments[name][:1]}))
    with pytest.raises(ValueError, match="vertices hold no person"):
        before_after_panel(**(arguments | {"vertices": arguments["vertices"][:0]}))
