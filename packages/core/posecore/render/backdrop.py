"""What lies behind and before rendered people: rooms, clutter and things in the way, drawn at random."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageFilter

from posecore.render.outfit import random_colors

Picture = Float[np.ndarray, "height width 3"]


def texture(rng: np.random.Generator, size: int) -> Picture:
    """A square of two colours, mixed by noise of several scales or by boards and tiles; values in [0, 1]."""
    colors = random_colors(rng, 2).astype(np.float32)
    colors[1] = colors[0] + rng.uniform(0.1, 1.0) * (colors[1] - colors[0])
    share = np.zeros((size, size), dtype=np.float32)
    weight = 1.0
    for cells in (2, 4, 8, 16, 32):
        grid = rng.uniform(0, 1, (cells, max(1, int(cells * rng.uniform(0.3, 1))))).astype(np.float32)
        share += weight * np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BILINEAR))
        weight *= rng.uniform(0.4, 0.9)
    share = (share - share.min()) / max(float(np.ptp(share)), 1e-6)
    if rng.uniform() < 0.4:  # tiles or boards
        angle, periods = rng.uniform(0, np.pi), rng.uniform(2, 14)
        y, x = np.mgrid[:size, :size].astype(np.float32) / size
        turned = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        pattern = (turned[0] * periods) % 1 > 0.5
        if rng.uniform() < 0.5:
            pattern = pattern ^ ((turned[1] * periods) % 1 > 0.5)
        share = 0.4 * share + 0.6 * pattern
    mixed: np.ndarray = colors[0] + share[..., None] * (colors[1] - colors[0])
    return mixed.clip(0, 1)


def background(rng: np.random.Generator, size: int) -> Picture:
    """A wall, often a floor, and clutter, more or less out of focus."""
    picture = texture(rng, size)
    if rng.uniform() < 0.7:
        horizon = int(size * rng.uniform(0.4, 0.95))
        picture[horizon:] = texture(rng, size)[: size - horizon] * rng.uniform(0.5, 1.0)
    for _ in range(rng.integers(0, 12)):
        mask = _shape(rng, size, rng.uniform(0.05, 0.5) * size, rng.uniform(0, size, 2))
        picture[mask] = texture(rng, size)[mask] if rng.uniform() < 0.3 else random_colors(rng, 1)[0]
    blur = rng.uniform(0, 0.02) * size
    image = Image.fromarray((picture * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float32) / 255


def occluder(
    rng: np.random.Generator, size: int, at: Float[np.ndarray, "2"], reach: float
) -> tuple[Bool[np.ndarray, "height width"], Picture]:
    """Something in the way: a shape around a point, or furniture that hides everything below it.

    Args:
        rng: Draws it.
        size: Side of the picture, pixels.
        at: Its middle (x, y), pixels.
        reach: Its rough extent, pixels.

    Returns:
        The pixels it covers, and its picture.
    """
    mask = np.zeros((size, size), dtype=bool)
    if rng.uniform() < 0.2:
        left, right = np.clip(at[0] + np.array([-1.6, 1.6]) * reach, 0, size).astype(int)
        mask[int(np.clip(max(at[1], 0.5 * size), 0, size)) :, left:right] = True
    else:
        mask = _shape(rng, size, reach, at)
    return mask, texture(rng, size)


def _shape(
    rng: np.random.Generator, size: int, reach: float, at: Float[np.ndarray, "2"]
) -> Bool[np.ndarray, "height width"]:
    """The inside of a box, an ellipse, a bar or a polygon."""
    canvas = Image.new("1", (size, size))
    pen: Any = ImageDraw.Draw(canvas)
    kind = rng.integers(4)
    half = reach * rng.uniform(0.35, 0.65, 2)
    corners = [*(at - half), *(at + half)]
    if kind == 0:
        pen.rectangle(corners, fill=1)
    elif kind == 1:
        pen.ellipse(corners, fill=1)
    elif kind == 2:
        way = rng.normal(size=2)
        ends = (at - way / np.linalg.norm(way) * size, at + way / np.linalg.norm(way) * size)
        pen.line([tuple(end) for end in ends], fill=1, width=max(2, int(0.3 * reach)))
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        points = at + np.stack((np.cos(angles), np.sin(angles)), 1) * half * rng.uniform(0.7, 1.3, (len(angles), 1))
        pen.polygon([tuple(point) for point in points], fill=1)
    return np.asarray(canvas, dtype=bool)
