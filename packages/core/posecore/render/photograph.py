"""A rendered photograph of one person with random clothes, light, surroundings and things in the way."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageFilter
from torch import Tensor

from posecore.body.files import BodyModel
from posecore.geometry.camera import project
from posecore.render.backdrop import background, occluder
from posecore.render.mesh import pixel_means, vertex_normals
from posecore.render.outfit import Measures, Outfit
from posecore.render.rasterizer import rasterize

FLESH = 0.17
"""Metres that a joint may lie behind the surface that the camera sees and still count as seen: half a thick trunk."""
_SAMPLES = 2  # along each side of a pixel


@dataclass(frozen=True)
class Photograph:
    """A picture and what it shows.

    Attributes:
        pixels: sRGB.
        visible: Which of the points asked for are seen: inside the picture, behind no occluder, and no deeper than
            ``FLESH`` below the surface.
    """

    pixels: UInt8[np.ndarray, "size size 3"]
    visible: Bool[np.ndarray, " points"]


@dataclass(frozen=True)
class Studio:
    """Takes pictures of a body.

    Args:
        model: Its rest pose has the arms sideways.
        occluder_prob: Share of pictures with one or two things in the way.
    """

    model: BodyModel
    occluder_prob: float = 0.4

    @cached_property
    def _rest(self) -> Float[np.ndarray, "vertices 3"]:
        return self.model.v_template.float().numpy()

    @cached_property
    def _measures(self) -> Measures:
        return Measures.of(self.model)

    def take(
        self,
        vertices_cam: Float[Tensor, "vertices 3"],
        K: Float[Tensor, "3 3"],
        size: int,
        points_cam: Float[Tensor, "points 3"],
        rng: np.random.Generator,
        outfit: Outfit | None = None,
    ) -> Photograph:
        """One picture.

        Args:
            vertices_cam: The body without clothes; metres, camera frame. Cloth stands off it a little.
            K: Intrinsics, pixels.
            size: Width and height, pixels.
            points_cam: Points whose visibility is asked for, such as joints; occluders lie around them.
            rng: Draws everything.
            outfit: What is worn; random where None.

        Raises:
            ValueError: If a vertex is not finite, or ``size`` is below 1.
        """
        outfit = outfit or Outfit.draw(rng, self._measures)
        faces = self.model.faces
        normals = vertex_normals(vertices_cam, faces)
        dressed = vertices_cam + normals * torch.from_numpy(outfit.offsets(self._rest)[:, None])
        fine = torch.diag(torch.tensor([_SAMPLES, _SAMPLES, 1.0], dtype=torch.float64)) @ K.double()
        fragments = rasterize(dressed, faces, fine, (size * _SAMPLES, size * _SAMPLES))
        seen = (fragments.face >= 0).numpy()
        corners = faces[fragments.face[torch.from_numpy(seen)]].numpy()
        weights = fragments.barycentric.numpy()[seen][:, :, None]
        # Rest place and normal of each sample, interpolated at once.
        at_vertices = np.concatenate((self._rest, normals.numpy()), axis=1)[corners]
        at_samples = (
            weights[:, 0] * at_vertices[:, 0] + weights[:, 1] * at_vertices[:, 1] + weights[:, 2] * at_vertices[:, 2]
        )
        normal = at_samples[:, 3:] / np.maximum(np.linalg.norm(at_samples[:, 3:], axis=1, keepdims=True), 1e-6)
        samples = np.zeros((*seen.shape, 4), dtype=np.float32)
        samples[seen, :3], samples[seen, 3] = outfit.colors(at_samples[:, :3]) * _light(rng, normal), 1
        mixed = pixel_means(torch.from_numpy(samples), _SAMPLES)
        picture = background(rng, size) * (1 - mixed[..., 3:]) + mixed[..., :3]

        pixels = project(points_cam.double(), K.double()).numpy()
        hidden = np.zeros((size, size), dtype=bool)
        if rng.uniform() < self.occluder_prob:
            extent = float(np.linalg.norm(np.ptp(pixels, axis=0)))
            for _ in range(rng.integers(1, 3)):
                at = pixels[rng.integers(len(pixels))] + rng.normal(0, 0.08 * extent, 2)
                mask, thing = occluder(rng, size, at, rng.uniform(0.1, 0.4) * extent)
                picture[mask] = thing[mask]
                hidden |= mask
        depth = fragments.depth.numpy()[_SAMPLES // 2 :: _SAMPLES, _SAMPLES // 2 :: _SAMPLES]
        return Photograph(_develop(rng, picture), _visible(pixels, points_cam[:, 2].numpy(), depth, hidden))


def _visible(
    pixels: Float[np.ndarray, "points 2"],
    z: Float[np.ndarray, " points"],
    depth: Float[np.ndarray, "size size"],
    hidden: Bool[np.ndarray, "size size"],
) -> Bool[np.ndarray, " points"]:
    size = len(depth)
    inside = ((pixels >= 0) & (pixels < size)).all(axis=1) & (z > 0)
    column, row = np.where(inside[:, None], pixels, 0).astype(np.intp).T
    # Nothing lies before a point just outside of the body's outline, where the depth is infinite.
    visible: np.ndarray = inside & ~hidden[row, column] & (z - depth[row, column] < FLESH)
    return visible


def _light(rng: np.random.Generator, normal: Float[np.ndarray, "samples 3"]) -> Float[np.ndarray, "samples 3"]:
    """Light from everywhere, and from one or two lamps, mostly from above."""
    light = np.float32(rng.uniform(0.2, 0.6)) * rng.uniform(0.85, 1.15, (1, 3)).astype(np.float32)
    for _ in range(rng.integers(1, 3)):
        way = rng.normal(size=3) + np.array((0, -1.0, -0.7))
        way = (way / np.linalg.norm(way)).astype(np.float32)
        lambert = 0.5 + 0.5 * (normal @ way) if rng.uniform() < 0.5 else (normal @ way).clip(0)
        tint = rng.uniform(0.3, 0.9) * rng.uniform(0.85, 1.15, 3)
        light = light + tint.astype(np.float32) * lambert[:, None]
    lit: np.ndarray = light
    return lit


def _develop(rng: np.random.Generator, picture: Float[np.ndarray, "size size 3"]) -> UInt8[np.ndarray, "size size 3"]:
    """Exposure, contrast, tint, focus and grain."""
    exposed = picture * (rng.uniform(0.8, 1.2) * rng.uniform(0.92, 1.08, 3)).astype(np.float32)
    picture = exposed.clip(0, 1) ** np.float32(rng.uniform(0.75, 1.3))
    image = Image.fromarray((picture * 255).astype(np.uint8))
    if rng.uniform() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, max(0.2, 0.006 * len(picture)))))
    grain = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(0, 7))
    developed: np.ndarray = (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)
    return developed
