"""Bodies as shaded meshes: over a photograph, from the side, and before against after a fit.

Light is fixed to the camera: a head light, a soft light from above on the left, and light from everywhere. Normals are
interpolated over each triangle and shaded per sample; several samples per pixel make soft edges.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import matplotlib.colors as mcolors
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from posecore.body.skeletons import COCO_17, JointSet
from posecore.geometry.camera import project
from posecore.render.cells import (
    CAPTION,
    CELL_PIXELS,
    GAP,
    HEADING,
    MARGIN,
    add_caption,
    add_cell,
    enlarged,
    panel_figure,
    part_camera,
    person_box,
)
from posecore.render.rasterizer import NEAR_PLANE, check_mesh, rasterize
from posecore.render.skeleton import draw_skeleton_2d

Backend = Literal["software", "gl"]

MESH_COLORS = ("#a9bfd9", "#e3b596", "#a5cdb0", "#c9b3d9", "#e0cf8f", "#d9a3ad")
AMBIENT, HEAD_LIGHT, SOFT_LIGHT = 0.24, 0.52, 0.34
SOFT_LIGHT_DIRECTION = (-0.48, -0.72, -0.5)  # towards the light, camera frame; unit length to two digits

_GRID = "#dde2e8"
_GRID_STEP = 0.5  # metres
_SIDE_FILL = 0.9  # of the picture that the body takes in its longer direction
_CELL = 2.9  # inches, side of the panel's cells


def vertex_normals(
    vertices: Float[Tensor, "*batch vertices 3"], faces: Int[Tensor, "faces 3"]
) -> Float[Tensor, "*batch vertices 3"]:
    """Unit normals: the mean over each vertex's triangles, weighted by area; 0 for a vertex without any.

    They point to where the corners of a triangle run anticlockwise, which is outwards for SMPL's meshes.
    """
    corners = vertices[..., faces, :]
    edges = corners[..., 1:, :] - corners[..., :1, :]
    face_normals = torch.linalg.cross(edges[..., 0, :], edges[..., 1, :])
    repeated = face_normals.repeat_interleave(3, dim=-2)
    normals = torch.zeros_like(vertices).index_add(vertices.ndim - 2, faces.flatten(), repeated)
    return torch.nn.functional.normalize(normals, dim=-1)


@torch.no_grad()
def render_mesh(
    vertices_cam: Float[Tensor, "*people vertices 3"],
    faces: Int[Tensor, "faces 3"],
    K: Float[Tensor, "3 3"],
    image_size: tuple[int, int],
    color: str | Sequence[str] | None = None,
    background: np.ndarray | None = None,
    alpha: float | int = 1.0,
    antialias: int = 2,
    backend: Backend = "software",
) -> np.ndarray:
    """Draws one body or several. Parts outside the picture or nearer than 5 cm to the camera are left out.

    Args:
        vertices_cam: Metres, camera frame.
        faces: The triangles of each body, anticlockwise seen from outside.
        K: Intrinsics in pixels.
        image_size: Width and height in pixels.
        color: Matplotlib's name or hex code of one colour for all, or one per person; None takes ``MESH_COLORS``.
        background: Photograph of that size, "height width 3" uint8; None is white.
        alpha: From 0, the background alone, to 1, where it does not shine through. Nearer bodies hide others in full.
        antialias: Samples along each side of a pixel; 1 gives hard edges.
        backend: ``"software"``; or ``"gl"``, the same picture by OpenGL, which needs the extra ``gl`` and EGL.

    Returns:
        "height width 3" uint8 sRGB.

    Raises:
        ValueError: ``background``, ``alpha``, ``antialias``, ``backend`` or the number of colours does not fit, or as
            :func:`posecore.render.rasterizer.rasterize`.
        ImportError: ``backend`` is ``"gl"`` and moderngl is not installed.
        RuntimeError: ``backend`` is ``"gl"`` and no EGL context can be made.
    """
    width, height = image_size
    if background is None:
        background = np.full((height, width, 3), 255, dtype=np.uint8)
    if background.shape != (height, width, 3) or background.dtype != np.uint8:
        raise ValueError(
            f"background is {background.dtype} of shape {background.shape}; "
            f"image_size {image_size} needs uint8 of shape {(height, width, 3)}"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; valid are numbers from 0 to 1")
    layer = mesh_layer(vertices_cam, faces, K, image_size, color, antialias, backend)
    picture = background.copy()
    if layer is not None:
        left, top, right, bottom = layer.window
        blended = picture[top:bottom, left:right] * (1 - alpha * layer.coverage) + 255 * alpha * layer.light
        picture[top:bottom, left:right] = np.rint(blended).astype(np.uint8)
    return picture


@dataclass(frozen=True)
class MeshLayer:
    """Drawn bodies before they are laid on anything.

    Attributes:
        window: Left, top, right, bottom of the part of the picture that it covers, whole pixels.
        light: Shaded colour in [0, 1] of the part of each pixel that a body covers, times that part; "height width 3".
        coverage: Part of each pixel that a body covers; "height width 1".
    """

    window: tuple[int, int, int, int]
    light: np.ndarray
    coverage: np.ndarray


@torch.no_grad()
def mesh_layer(
    vertices_cam: Float[Tensor, "*people vertices 3"],
    faces: Int[Tensor, "faces 3"],
    K: Float[Tensor, "3 3"],
    image_size: tuple[int, int],
    color: str | Sequence[str] | None = None,
    antialias: int = 2,
    backend: str = "software",
) -> MeshLayer | None:
    """What :func:`render_mesh` lays on its background; None where nothing lies in the picture. Arguments as there.

    Raises:
        ValueError: As :func:`render_mesh`.
        ImportError: As :func:`render_mesh`.
        RuntimeError: As :func:`render_mesh`.
    """
    if antialias < 1:
        raise ValueError(f"antialias is {antialias}; valid are 1 or more samples")
    if backend not in get_args(Backend):
        raise ValueError(f"backend is {backend!r}; valid are {', '.join(map(repr, get_args(Backend)))}")
    check_mesh(vertices_cam, faces)
    bodies = vertices_cam.detach().cpu().float().reshape(-1, *vertices_cam.shape[-2:])
    faces, K = faces.cpu(), K.detach().cpu().double()
    people, num_vertices = bodies.shape[:2]
    colors = _people_colors(color, people).repeat_interleave(num_vertices, dim=0)
    points, normals = bodies.reshape(-1, 3), vertex_normals(bodies, faces).reshape(-1, 3)
    offsets = num_vertices * torch.arange(people)[:, None, None]
    window = _window(points, K, image_size)
    if window is None:
        return None

    left, top, right, bottom = window
    size = ((right - left) * antialias, (bottom - top) * antialias)
    if backend == "gl":
        from posecore.render.gl import gl_samples as draw  # an optional dependency
    else:
        draw = _software_samples
    samples, seen = draw(
        points, normals, colors, (faces + offsets).reshape(-1, 3), part_camera(K, left, top, antialias), size
    )
    return MeshLayer(window, pixel_means(samples, antialias), pixel_means(seen.float()[..., None], antialias))


def overlay(
    photo: np.ndarray,
    vertices_cam: Float[Tensor, "*people vertices 3"],
    faces: Int[Tensor, "faces 3"],
    K: Float[Tensor, "3 3"],
    color: str | Sequence[str] | None = None,
    alpha: float | int = 0.9,
    antialias: int = 2,
    backend: Backend = "software",
) -> np.ndarray:
    """The photograph ("height width 3" uint8) with the bodies on it; arguments and errors as :func:`render_mesh`."""
    size = (photo.shape[1], photo.shape[0])
    return render_mesh(vertices_cam, faces, K, size, color, photo, alpha, antialias, backend)


@torch.no_grad()
def mesh_side_view(
    vertices_cam: Float[Tensor, "*people vertices 3"],
    faces: Int[Tensor, "faces 3"],
    size: int = CELL_PIXELS,
    color: str | Sequence[str] | None = None,
    antialias: int = 2,
    backend: Backend = "software",
) -> np.ndarray:
    """The bodies from the photograph's right, so that its camera would stand on the left of the picture.

    The view turns by 90 degrees about the vertical of the camera frame through the middle of all bodies, and fits them
    in. A grid of half metres lies at the lowest vertex.

    Args:
        vertices_cam: Metres, camera frame.
        faces: The triangles of each body.
        size: Side of the picture in pixels.
        color: As for :func:`render_mesh`.
        antialias: As for :func:`render_mesh`.
        backend: As for :func:`render_mesh`.

    Returns:
        "size size 3" uint8 sRGB.

    Raises:
        ValueError: There is no vertex, or ``size`` is below 1, or as :func:`render_mesh`.
    """
    if size < 1:
        raise ValueError(f"size is {size}; valid are 1 or more pixels")
    check_mesh(vertices_cam, faces)
    scene = side_scene(vertices_cam, size)
    return render_mesh(scene.vertices, faces, scene.K, (size, size), color, scene.floor, 1.0, antialias, backend)


@dataclass(frozen=True)
class SideScene:
    """Bodies before the camera of :func:`mesh_side_view`.

    Attributes:
        vertices: Metres, that camera's frame.
        K: That camera, pixels.
        floor: White paper with the grid of half metres; "size size 3" uint8.
    """

    vertices: Float[Tensor, "*people vertices 3"]
    K: Float[Tensor, "3 3"]
    floor: np.ndarray


def side_scene(vertices_cam: Float[Tensor, "*people vertices 3"], size: int = CELL_PIXELS) -> SideScene:
    """The scene of :func:`mesh_side_view`, for pictures of some of the bodies, or of them in another manner.

    Args:
        vertices_cam: Finite, metres, camera frame; all bodies that are to fit into the picture.
        size: Side of the picture in pixels.

    Raises:
        ValueError: There is no vertex.
    """
    if not vertices_cam.numel():
        raise ValueError(f"vertices_cam has shape {tuple(vertices_cam.shape)}; there is no vertex to look at")
    points = vertices_cam.detach().cpu().double()
    low, high = points.flatten(0, -2).amin(dim=0), points.flatten(0, -2).amax(dim=0)
    x, y, z = (points - (low + high) / 2).unbind(dim=-1)
    radius = max(float((high - low).max()) / 2, 1e-3)
    turned = torch.stack((z, y, 4 * radius - x), dim=-1)
    reach = float((turned[..., :2].abs() / turned[..., 2:]).max())
    focal = _SIDE_FILL * size / (2 * max(reach, 1e-6))
    K = torch.tensor([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return SideScene(turned, K, _floor_grid(K, size, float(y.max()), 4 * radius, radius))


def before_after_panel(
    photo: np.ndarray,
    start_vertices: Float[Tensor, "_ vertices 3"],
    vertices: Float[Tensor, "people vertices 3"],
    faces: Int[Tensor, "faces 3"],
    K: Float[Tensor, "3 3"],
    keypoints: Float[Tensor, "_ keypoints 2"] | None = None,
    confidence: Float[Tensor, "_ keypoints"] | None = None,
    keypoint_set: JointSet = COCO_17,
    title: str = "",
    labels: Sequence[str] | None = None,
    subtitle: str = "",
    backend: Backend = "software",
) -> Figure:
    """One row per person: photograph with 2D keypoints, body before the fit, body after it, and that from the side.

    The frame is square and holds the person's keypoints and both bodies as far as they lie in the photograph.

    Args:
        photo: "height width 3" uint8.
        start_vertices: Before the fit; metres, camera frame.
        vertices: After the fit.
        faces: The triangles of each body.
        K: Intrinsics of the photograph, pixels.
        keypoints: Pixels; None shows the photograph alone.
        confidence: In [0, 1]; 0 leaves a keypoint out, None shows all.
        keypoint_set: Names and order of ``keypoints``.
        title: Heading of the whole picture.
        labels: One line per person, below the photograph.
        subtitle: One line of smaller text below the title.
        backend: As for :func:`render_mesh`.

    Raises:
        ValueError: There is nobody, the numbers of people differ, or as :func:`render_mesh`.
    """
    people = len(vertices)
    if people == 0:
        raise ValueError("vertices hold no person to draw")
    parts = {"start_vertices": start_vertices, "keypoints": keypoints, "confidence": confidence, "labels": labels}
    for name, part in parts.items():
        if part is not None and len(part) != people:
            raise ValueError(f"{name} has length {len(part)}; vertices are for {people} people")
    headings = ("Photo" if keypoints is None else "Photo and 2D keypoints", "Start", "Fitted", "Fitted, from the side")
    row_height = HEADING + _CELL + CAPTION
    width = 2 * MARGIN + len(headings) * (_CELL + GAP) - GAP
    figure, head = panel_figure(width, people * row_height, title, subtitle)
    for row in range(people):
        color = MESH_COLORS[row % len(MESH_COLORS)]
        points = None if keypoints is None else keypoints[row].detach().cpu().double()
        sure = torch.ones(0) if points is None else torch.ones(len(points))
        if confidence is not None:
            sure = confidence[row].detach().cpu()
        box = person_box(photo, K, (start_vertices[row], vertices[row]), None if points is None else points[sure > 0])
        crop, K_crop = enlarged(photo, K, box)
        pictures = [crop]
        pictures += [
            overlay(crop, body[row], faces, K_crop, color, backend=backend) for body in (start_vertices, vertices)
        ]
        side = mesh_side_view(vertices[row], faces, CELL_PIXELS, color, backend=backend)
        boxes = [box] * 3 + [(0, 0, CELL_PIXELS, CELL_PIXELS)]
        top = head + row * row_height + HEADING
        for column, (picture, shown) in enumerate(zip((*pictures, side), boxes, strict=True)):
            place = (MARGIN + column * (_CELL + GAP), top)
            ax = add_cell(figure, place, _CELL, picture, shown, headings[column])
            if column == 0 and points is not None:
                draw_skeleton_2d(ax, points, keypoint_set, sure)
            if column == 0 and labels is not None:
                add_caption(ax, labels[row])
    return figure


def _software_samples(
    points: Float[Tensor, "vertices 3"],
    normals: Float[Tensor, "vertices 3"],
    colors: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    K: Float[Tensor, "3 3"],
    image_size: tuple[int, int],
) -> tuple[Float[Tensor, "height width 3"], Bool[Tensor, "height width"]]:
    """Shaded colours in [0, 1], black where nothing is, and where something is."""
    fragments = rasterize(points, faces, K, image_size)
    seen = fragments.face >= 0
    corners = faces[fragments.face[seen]]
    weights = fragments.barycentric[seen]
    normal = torch.bmm(weights[:, None], normals[corners])[:, 0]
    normal /= normal.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    samples = torch.zeros(*seen.shape, 3)
    samples[seen] = (colors[corners[:, 0]] * _light(normal)[:, None]).clamp_max(1.0)
    return samples, seen


def _light(normal: Float[Tensor, "samples 3"]) -> Float[Tensor, "samples"]:
    """How bright a surface is that looks along its unit normal; the GL shader has the same formula."""
    wrapped = 0.5 + 0.5 * (normal @ torch.tensor(SOFT_LIGHT_DIRECTION))  # reaches around the body
    return AMBIENT + HEAD_LIGHT * (-normal[:, 2]).clamp_min(0.0) + SOFT_LIGHT * wrapped.square()


def pixel_means(samples: Float[Tensor, "sample_rows sample_columns channels"], antialias: int) -> np.ndarray:
    """Means over the samples of each pixel."""
    grid = samples.numpy()
    parts = [grid[i::antialias, j::antialias] for i in range(antialias) for j in range(antialias)]
    means: np.ndarray = sum(parts[1:], start=parts[0]) / np.float32(antialias**2)
    return means


def _people_colors(color: str | Sequence[str] | None, people: int) -> Float[Tensor, "people 3"]:
    names = [color] * people if isinstance(color, str) else color
    if names is None:
        names = [MESH_COLORS[person % len(MESH_COLORS)] for person in range(people)]
    if len(names) != people:
        raise ValueError(f"color holds {len(names)} colours; vertices_cam hold {people} people")
    return torch.tensor([mcolors.to_rgb(name) for name in names]).reshape(-1, 3)


def _window(
    points: Float[Tensor, "vertices 3"], K: Float[Tensor, "3 3"], image_size: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the part of the picture where vertices may show, in whole pixels."""
    pixels = project(points[points[:, 2] >= NEAR_PLANE].double(), K)
    if not len(pixels):
        return None
    limit = torch.tensor(image_size, dtype=torch.float64)
    left, top = torch.minimum(pixels.amin(dim=0).clamp_min(0).floor(), limit).int().tolist()
    right, bottom = torch.minimum(pixels.amax(dim=0).clamp_min(0).ceil(), limit).int().tolist()
    return (left, top, right, bottom) if left < right and top < bottom else None


def _floor_grid(K: Float[Tensor, "3 3"], size: int, floor_y: float, distance: float, radius: float) -> np.ndarray:
    """White paper with a grid of half metres on the floor, around the point below the body."""
    oversampling = 2
    paper = Image.new("RGB", (size * oversampling, size * oversampling), "white")
    pen = ImageDraw.Draw(paper)
    steps = min(max(2, math.ceil(1.2 * radius / _GRID_STEP)), 20)
    reach = min(steps * _GRID_STEP, 0.9 * distance)
    for step in range(-steps, steps + 1):
        offset = max(-reach, min(reach, step * _GRID_STEP))
        for ends in (((-reach, offset), (reach, offset)), ((offset, -reach), (offset, reach))):
            line = torch.tensor([[x, floor_y, distance + z] for x, z in ends], dtype=K.dtype)
            pixels = oversampling * project(line, K)
            pen.line([(x, y) for x, y in pixels.tolist()], fill=_GRID, width=oversampling)
    return np.array(paper.reduce(oversampling))
