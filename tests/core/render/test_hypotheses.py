from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from matplotlib.patches import Rectangle
from torch import Tensor

from posecore.render.hypotheses import blend_meshes, hypotheses_mesh_panel, hypothesis_colors
from posecore.render.mesh import MESH_COLORS, overlay, render_mesh
from posecore.render.panels import figure_png

PIXELS = torch.eye(3)  # at depth 1 metres are pixels
CAMERA = torch.tensor([[90.0, 0.0, 40.0], [0.0, 90.0, 30.0], [0.0, 0.0, 1.0]])
SQUARE_FACES = torch.tensor([[0, 2, 1], [0, 3, 2]])  # anticlockwise for the camera, whose y points down


def square(left: float, top: float, right: float, bottom: float, z: float = 1.0) -> Tensor:
    """A square that covers these pixels and faces the camera."""
    return z * torch.tensor([[left, top, 1.0], [right, top, 1.0], [right, bottom, 1.0], [left, bottom, 1.0]])


def gray(width: int = 80, height: int = 60) -> np.ndarray:
    return np.full((height, width, 3), 100, dtype=np.uint8)


def balls(people: int = 2, hypotheses: int = 3) -> tuple[Tensor, Tensor]:
    """Spheres, every hypothesis a little further to the right, every person a little further down."""
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.2)
    place = torch.zeros(people, hypotheses, 1, 3)
    place[..., 0] += 0.05 * torch.arange(hypotheses)[:, None]
    place[..., 1] += 0.1 * torch.arange(people)[:, None, None]
    place[..., 2] += 1.5
    return torch.tensor(mesh.vertices).float() + place, torch.tensor(mesh.faces)


@pytest.mark.parametrize(("count", "faintest"), [(1, 0.96), (3, 1 - 0.04 ** (1 / 3)), (50, 0.16)])
def test_agreement_is_solid_and_one_body_alone_shines_through(count: int, faintest: float) -> None:
    """All bodies cover the left square, the last also the right one."""
    bodies = torch.stack([square(2, 2, 8, 8)] * (count - 1) + [square(2, 2, 14, 8)])
    picture = blend_meshes(gray(16, 10), bodies, SQUARE_FACES, PIXELS, ["#ff0000"] * count)
    solid = render_mesh(square(2, 2, 8, 8), SQUARE_FACES, PIXELS, (16, 10), "#ff0000")[5, 5].astype(float)
    opacity = max(0.96, 1 - (1 - 0.16) ** count)
    np.testing.assert_allclose(picture[5, 5], 100 * (1 - opacity) + opacity * solid, atol=1)
    np.testing.assert_allclose(picture[5, 11], 100 * (1 - faintest) + faintest * solid, atol=1)
    assert (picture[9] == 100).all()


def test_colours_mix_in_no_order() -> None:
    bodies = torch.stack([square(2, 2, 8, 8, 1.0), square(5, 2, 14, 8, 2.0)])
    pictures = [
        blend_meshes(gray(16, 10), bodies.flip(0) if turned else bodies, SQUARE_FACES, PIXELS, colors)
        for turned, colors in ((False, ["#ff0000", "#0000ff"]), (True, ["#0000ff", "#ff0000"]))
    ]
    assert np.array_equal(pictures[0], pictures[1])
    both = pictures[0][5, 6].astype(int)
    assert abs(both[0] - both[2]) <= 1
    assert both[0] > both[1] + 50
    assert pictures[0][5, 3, 0] > pictures[0][5, 3, 2] + 50
    assert pictures[0][5, 12, 2] > pictures[0][5, 12, 0] + 50


def test_bodies_outside_of_the_picture_leave_it() -> None:
    bodies = torch.stack([square(20, 2, 30, 8), square(-9, 2, -1, 8)])
    picture = blend_meshes(gray(16, 10), bodies, SQUARE_FACES, PIXELS, ["red", "blue"])
    assert np.array_equal(picture, gray(16, 10))


def test_colours_differ_and_the_pick_has_its_own() -> None:
    colors = hypothesis_colors(25, 4, "#a9bfd9")
    assert colors[4] == "#a9bfd9"
    assert len(set(colors)) == 25


def panel_arguments(people: int = 2, hypotheses: int = 3) -> dict[str, Any]:
    vertices, faces = balls(people, hypotheses)
    return {
        "photo": gray(),
        "vertices": vertices,
        "best": torch.arange(people) % hypotheses,
        "faces": faces,
        "K": CAMERA,
        "keypoints": torch.rand(people, 17, 2, generator=torch.Generator().manual_seed(0)) * 60,
        "confidence": torch.ones(people, 17),
        "boxes": torch.tensor([[40.0, 30.0, 70.0]]).repeat(people, 1),
        "title": "Many $answers",
        "subtitle": "Pick: some\nCamera: one",
        "labels": [f"person {person}" for person in range(people)],
    }


def test_the_panel_has_a_row_per_person() -> None:
    arguments = panel_arguments()
    figure = hypotheses_mesh_panel(**arguments)
    titles = [ax.get_title() for ax in figure.axes]
    for row, (pick, others) in enumerate(((0, (1, 2)), (1, (0, 2)))):
        name = f"Pick (no. {pick})"
        assert titles[7 * row : 7 * row + 7] == [
            "Photo and 2D keypoints", name, "All 3", f"{name}, from the side", "All 3, from the side",
            *(f"No. {number}" for number in others),
        ]  # fmt: skip
        cells = figure.axes[7 * row : 7 * row + 7]
        pictures = [np.asarray(ax.images[0].get_array()) for ax in cells]
        assert cells[0].get_xlabel() == f"person {row}"
        assert not any(ax.get_xlabel() for ax in cells[1:])
        assert cells[0].lines
        assert [type(patch) for patch in cells[0].patches] == [Rectangle]
        assert (pictures[0] == 100).all()
        # The pick alone, and every other alone, in its own colour.
        left, top, right, bottom = (int(edge) for edge in np.array(cells[1].images[0].get_extent())[[0, 3, 1, 2]])
        scale = pictures[1].shape[0] // (bottom - top)
        K = CAMERA.clone()
        K[:2, 2] -= torch.tensor([left, top])
        K[:2] *= scale
        assert pictures[1].shape[1] == scale * (right - left)
        colors = hypothesis_colors(3, pick, MESH_COLORS[row])
        for picture, number in zip((pictures[1], *pictures[5:]), (pick, *others), strict=True):
            expected = overlay(pictures[0], arguments["vertices"][row, number], arguments["faces"], K, colors[number])
            assert np.array_equal(picture, expected)
        expected = blend_meshes(pictures[0], arguments["vertices"][row], arguments["faces"], K, colors)
        assert np.array_equal(pictures[2], expected)
    assert [text.get_text() for text in figure.texts] == ["Many $answers", "Pick: some\nCamera: one"]
    assert figure_png(figure, dpi=40).startswith(b"\x89PNG")


def test_the_side_views_have_one_scale() -> None:
    """The pick, seen from the side, covers a part of what all cover."""
    arguments = panel_arguments(1)
    arguments["vertices"] = arguments["vertices"] + torch.tensor([0.0, 0.0, 0.3]) * torch.arange(3)[:, None, None]
    cells = hypotheses_mesh_panel(**arguments).axes
    pick, every = ((np.ptp(np.asarray(ax.images[0].get_array()).astype(int), axis=-1) > 15) for ax in cells[3:5])
    assert pick.sum() > 1000
    assert every[pick].mean() > 0.95
    assert every.sum() > 1.5 * pick.sum()


def test_one_hypothesis_has_no_others() -> None:
    arguments = panel_arguments(1, 1)
    arguments["keypoints"] = arguments["confidence"] = arguments["boxes"] = arguments["labels"] = None
    figure = hypotheses_mesh_panel(**arguments)
    assert [ax.get_title() for ax in figure.axes] == ["Photo", "Body", "Body, from the side"]
    assert not figure.axes[0].patches
    assert not figure.axes[0].lines


@pytest.mark.parametrize(("max_shown", "shown", "caption"), [(0, 0, ""), (2, 2, "and 3 more"), (5, 5, ""), (9, 5, "")])
def test_some_hypotheses_are_shown_by_themselves(max_shown: int, shown: int, caption: str) -> None:
    figure = hypotheses_mesh_panel(**panel_arguments(1, 6), max_shown=max_shown)
    cells = figure.axes[5:]
    assert [ax.get_title() for ax in cells] == [f"No. {number}" for number in range(1, 1 + shown)]
    assert [ax.get_xlabel() for ax in cells if ax.get_xlabel()] == ([caption] if caption else [])
    places = [ax.get_position() for ax in figure.axes]
    for number, one in enumerate(places):
        assert 0 <= one.x0 < one.x1 <= 1
        assert 0 <= one.y0 < one.y1 <= 1
        for other in places[:number]:
            assert one.x0 >= other.x1 or one.x1 <= other.x0 or one.y0 >= other.y1 or one.y1 <= other.y0


def test_long_subtitles_are_broken() -> None:
    arguments = panel_arguments(1, 1) | {"subtitle": "word " * 60}
    figure = hypotheses_mesh_panel(**arguments)
    figure_png(figure, dpi=100)
    box = figure.texts[1].get_window_extent()
    assert box.x1 <= figure.bbox.x1
    assert box.y0 > figure.axes[0].get_window_extent().y1
    assert figure.texts[1].get_text().count("\n") >= 1


@pytest.mark.parametrize("name", ["keypoints", "confidence", "boxes", "labels"])
def test_errors_of_numbers_of_people(name: str) -> None:
    arguments = panel_arguments()
    with pytest.raises(ValueError, match=f"{name} has length 1; vertices are for 2 people"):
        hypotheses_mesh_panel(**(arguments | {name: arguments[name][:1]}))


def test_errors_of_the_panel() -> None:
    arguments = panel_arguments()
    for vertices in (arguments["vertices"][:, :0], arguments["vertices"][:0]):
        with pytest.raises(ValueError, match="there is no body to draw"):
            hypotheses_mesh_panel(
                **(arguments | {"vertices": vertices, "best": torch.zeros(len(vertices), dtype=torch.int64)})
            )
    with pytest.raises(ValueError, match=r"best is \[0, 3\]; valid are 0 to 2"):
        hypotheses_mesh_panel(**(arguments | {"best": torch.tensor([0, 3])}))
    with pytest.raises(ValueError, match="max_shown is -1; valid are 0 or more"):
        hypotheses_mesh_panel(**arguments, max_shown=-1)
    with pytest.raises(ValueError, match="colors holds 1 colours for 3 bodies"):
        blend_meshes(gray(), arguments["vertices"][0], arguments["faces"], CAMERA, ["red"])
