"""Which triangle each pixel sees: a z-buffer in numpy, for one core, without a display or GPU.

Triangles become spans (the pixels of one row between two edges), spans become fragments, and the nearest fragment of a
pixel stays. Both steps treat all triangles at once. Where two triangles share an edge, both compute it from the same
end with the same numbers and both own the pixels right on it, so that no background shows through the seam.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

NEAR_PLANE = 0.05  # metres

_MIN_AREA = 1e-6  # square pixels, twice the area: thinner triangles have no slope of depth that could be computed
_BLOCK = 1 << 17  # fragments at a time: few enough for the cache


@dataclass(frozen=True)
class Fragments:
    """What a picture's pixels see.

    Attributes:
        depth: Camera-frame z in metres at the middle of the pixel; infinite where the pixel is empty.
        face: Row of ``faces``; -1 where the pixel is empty.
        barycentric: Weights of the face's three vertices at the point seen, so already corrected for perspective; they
            sum to 1, and are 0 where the pixel is empty.
    """

    depth: Float[Tensor, "height width"]
    face: Int[Tensor, "height width"]
    barycentric: Float[Tensor, "height width 3"]


@torch.no_grad()
def rasterize(
    vertices_cam: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    K: Float[Tensor, "3 3"],
    image_size: tuple[int, int],
    near: float | int = NEAR_PLANE,
) -> Fragments:
    """Finds the nearest triangle at every pixel, from either side. It runs on the CPU and passes no gradient.

    A pixel sees a triangle that covers its middle: pixel (0, 0) spans [0, 1] and is looked at in (0.5, 0.5), the
    convention of ``posecore.geometry.camera``. Several meshes are one: concatenate vertices, and faces with their
    offsets. Triangles with a vertex nearer than ``near``, or behind the camera, are dropped whole, not clipped.

    Args:
        vertices_cam: Metres, camera frame.
        faces: Vertices of each triangle; their order in a triangle does not matter.
        K: Intrinsics in pixels; the last row is taken as (0, 0, 1).
        image_size: Width and height in pixels.
        near: Depth of the nearest thing drawn, metres.

    Raises:
        ValueError: The picture has no pixel, ``near`` is not positive, a vertex is not finite, or a face names a
            vertex that is not there.
    """
    width, height = image_size
    if width < 1 or height < 1:
        raise ValueError(f"image_size is {image_size}; width and height must be at least 1 pixel")
    if not near > 0:
        raise ValueError(f"near is {near}; valid are depths above 0 metres")
    check_mesh(vertices_cam, faces)
    points = vertices_cam.detach().cpu().double().numpy()
    corners = points[faces.cpu().numpy().astype(np.intp).reshape(-1, 3)]
    kept = np.flatnonzero((corners[..., 2] >= near).all(axis=1))
    x, y, inverse_depth = _project(corners[kept], K.detach().cpu().double().numpy())
    planes, drawable = _depth_planes(x, y, inverse_depth)
    drawable &= (x.max(axis=1) >= 0) & (x.min(axis=1) <= width) & (y.max(axis=1) >= 0) & (y.min(axis=1) <= height)
    kept, x, y, planes = kept[drawable], x[drawable], y[drawable], planes[drawable]

    nearest = _nearest(x, y, planes, width, height)
    pixel = np.flatnonzero(nearest >= 0)
    triangle = nearest[pixel]
    # Weight by depth of each vertex at the pixel; their sum is the inverse depth.
    right = (pixel % width + 0.5 - x[triangle, 0])[:, None]
    down = (pixel // width + 0.5 - y[triangle, 0])[:, None]
    plane = planes[triangle]
    # Pixels right on an edge may come out below 0 by a rounding.
    shares = np.maximum(plane[:, 0] * right + plane[:, 1] * down + plane[:, 2], 0)
    total = shares.sum(axis=1)

    depth = np.full(height * width, np.inf, dtype=np.float32)
    face = np.full(height * width, -1, dtype=np.int64)
    barycentric = np.zeros((height * width, 3), dtype=np.float32)
    depth[pixel], face[pixel], barycentric[pixel] = 1 / total, kept[triangle], shares / total[:, None]
    return Fragments(
        depth=torch.from_numpy(depth.reshape(height, width)),
        face=torch.from_numpy(face.reshape(height, width)),
        barycentric=torch.from_numpy(barycentric.reshape(height, width, 3)),
    )


def check_mesh(vertices_cam: Float[Tensor, "*batch vertices 3"], faces: Int[Tensor, "faces 3"]) -> None:
    """Raises a ``ValueError`` where a vertex is not finite, or a face names a vertex that is not there."""
    if not bool(torch.isfinite(vertices_cam).all()):
        raise ValueError("vertices_cam holds values that are not finite")
    count = vertices_cam.shape[-2]
    if faces.numel() and not 0 <= int(faces.min()) <= int(faces.max()) < count:
        raise ValueError(
            f"faces hold indices from {int(faces.min())} to {int(faces.max())}; there are {count} vertices"
        )


def _project(corners: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels x and y and inverse depth of the triangles' corners, each "faces 3"."""
    inverse_depth = 1 / corners[..., 2]
    at_unit_depth = corners[..., :2] * inverse_depth[..., None]
    pixels = at_unit_depth @ K[:2, :2].T + K[:2, 2]
    return pixels[..., 0], pixels[..., 1], inverse_depth


def _depth_planes(x: np.ndarray, y: np.ndarray, inverse_depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each vertex's weight divided by its depth, which is linear over the picture.

    Returns:
        planes: "faces 3 3": slopes along x and y and the value at the first corner (rows), for each vertex (columns).
        drawable: False for triangles that are seen edge-on or are no triangles.
    """
    dx, dy = x[:, 1:] - x[:, :1], y[:, 1:] - y[:, :1]
    area = dx[:, 0] * dy[:, 1] - dx[:, 1] * dy[:, 0]
    drawable = np.abs(area) > _MIN_AREA
    inverse_area = 1 / np.where(drawable, area, 1.0)
    planes = np.zeros((len(x), 3, 3))
    planes[:, 0, 1], planes[:, 1, 1] = dy[:, 1] * inverse_area, -dx[:, 1] * inverse_area
    planes[:, 0, 2], planes[:, 1, 2] = -dy[:, 0] * inverse_area, dx[:, 0] * inverse_area
    planes[:, :2, 0] = -planes[:, :2, 1:].sum(axis=2)
    planes[:, 2, 0] = 1.0
    return planes * inverse_depth[:, None, :], drawable


def _nearest(x: np.ndarray, y: np.ndarray, planes: np.ndarray, width: int, height: int) -> np.ndarray:
    """The triangle that each pixel sees, or -1, for a flat picture."""
    triangle, row, first, count = _spans(x, y, width, height)
    slope, fall, base = planes.sum(axis=2).T
    closeness = (
        base[triangle]
        + slope[triangle] * (first + 0.5 - x[triangle, 0])
        + fall[triangle] * (row + 0.5 - y[triangle, 0])
    )
    slope, start = slope[triangle], row * width + first

    nearest = np.full(height * width, -1, dtype=np.intp)
    buffer = np.zeros(height * width)
    ends = np.cumsum(count)
    edges = [0, *np.searchsorted(ends, np.arange(_BLOCK, int(count.sum()), _BLOCK)).tolist(), len(count)]
    for low, high in itertools.pairwise(edges):
        repeats = count[low:high]
        steps = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        pixel = steps + np.repeat(start[low:high], repeats)
        near = steps * np.repeat(slope[low:high], repeats)
        near += np.repeat(closeness[low:high], repeats)
        np.maximum.at(buffer, pixel, near)
        won = np.flatnonzero(near == buffer[pixel])
        nearest[pixel[won]] = np.repeat(triangle[low:high], repeats)[won]
    return nearest


def _spans(x: np.ndarray, y: np.ndarray, width: int, height: int) -> tuple[np.ndarray, ...]:
    """Triangle, row, first pixel and number of pixels of every piece of a row that a triangle covers."""
    order = np.argsort(y, axis=1)
    x, y = np.take_along_axis(x, order, axis=1), np.take_along_axis(y, order, axis=1)
    top = np.ceil(np.clip(y[:, 0] - 0.5, 0, height)).astype(np.intp)
    bottom = np.floor(np.clip(y[:, 2] - 0.5, -1, height - 1)).astype(np.intp)
    rows = np.maximum(bottom - top + 1, 0)
    triangle = np.repeat(np.arange(len(x)), rows)
    row = np.arange(len(triangle)) + np.repeat(top - (np.cumsum(rows) - rows), rows)

    # Down the long edge 0-2 on one side, and down 0-1 or 1-2 on the other.
    slopes = np.stack([_slope(x, y, 0, 2), _slope(x, y, 0, 1), _slope(x, y, 1, 2)], axis=1)
    middle = row + 0.5
    lower = (middle >= y[triangle, 1]).astype(np.intp)
    one = x[triangle, 0] + (middle - y[triangle, 0]) * slopes[triangle, 0]
    other = x[triangle, lower] + (middle - y[triangle, lower]) * slopes[triangle, 1 + lower]
    first = np.ceil(np.clip(np.minimum(one, other) - 0.5, 0, width)).astype(np.intp)
    last = np.floor(np.clip(np.maximum(one, other) - 0.5, -1, width - 1)).astype(np.intp)
    count = last - first + 1
    seen = np.flatnonzero(count > 0)
    return triangle[seen], row[seen], first[seen], count[seen]


def _slope(x: np.ndarray, y: np.ndarray, upper: int, lower: int) -> np.ndarray:
    """Pixels to the right per pixel down along an edge; 0 for level ones, on which both ends bound the row."""
    drop = y[:, lower] - y[:, upper]
    slope: np.ndarray = np.where(drop > 0, (x[:, lower] - x[:, upper]) / np.where(drop > 0, drop, 1.0), 0.0)
    return slope
