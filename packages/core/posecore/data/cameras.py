"""Virtual cameras around a moving person: single pictures, a ring as in a motion laboratory, a camera that follows."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.geometry.camera import intrinsics

_PERSON_HEIGHT = 1.75  # metres; only turns an apparent height into a distance


@dataclass(frozen=True)
class CameraViews:
    """Cameras of every frame of a clip; pixels run from (0, 0) to ``image_size`` = (width, height)."""

    K: Float[Tensor, "frames views 3 3"]
    R_world_to_cam: Float[Tensor, "frames views 3 3"]
    t_world_to_cam: Float[Tensor, "frames views 3"]
    image_size: tuple[int, int]


class CameraSampler(ABC):
    """Places ``views`` cameras around each frame of a clip, the pelvis inside every picture."""

    @abstractmethod
    def __call__(
        self, pelvis_world: Float[Tensor, "frames 3"], fps: float, views: int, generator: torch.Generator
    ) -> CameraViews:
        """Draws cameras; the same generator state gives the same cameras."""


def look_from(
    azimuth: Float[Tensor, "*batch"], elevation: Float[Tensor, "*batch"], roll: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 3 3"]:
    """R_world_to_cam of a camera that looks back along the direction in which it stands.

    Args:
        azimuth: radians about the world's y axis; 0 stands at +z, where it sees the front of a body in rest pose.
        elevation: radians above the horizon; within +-pi/2.
        roll: in-plane tilt in radians; positive turns the picture clockwise.
    """
    sin_a, cos_a, sin_e, cos_e = azimuth.sin(), azimuth.cos(), elevation.sin(), elevation.cos()
    forward = torch.stack((-cos_e * sin_a, -sin_e, -cos_e * cos_a), dim=-1)
    right = torch.stack((cos_a, torch.zeros_like(cos_a), -sin_a), dim=-1)
    down = torch.linalg.cross(forward, right, dim=-1)
    cos_r, sin_r = roll.cos()[..., None], roll.sin()[..., None]
    return torch.stack((cos_r * right - sin_r * down, sin_r * right + cos_r * down, forward), dim=-2)


def place_on_pixel(
    R_world_to_cam: Float[Tensor, "*batch 3 3"],
    K: Float[Tensor, "*batch 3 3"],
    point_world: Float[Tensor, "*batch 3"],
    pixel: Float[Tensor, "*batch 2"],
    depth: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 3"]:
    """t_world_to_cam with which a camera of given orientation sees a point on a given pixel at a given depth."""
    homogeneous = torch.cat((pixel, torch.ones_like(pixel[..., :1])), dim=-1)
    point_cam = torch.linalg.solve(K, homogeneous[..., None])[..., 0] * depth[..., None]
    moved: Tensor = point_cam - (R_world_to_cam @ point_world[..., None])[..., 0]
    return moved


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


@dataclass(frozen=True)
class SingleCameras(CameraSampler):
    """A camera of its own for every picture, as in a set of photographs.

    Focal length, direction, tilt and the person's size in the picture are drawn; the distance follows from them, so
    that strong and weak perspective both occur.

    Args:
        image_size: width, height in pixels.
        focal_range: focal length over image height (1.145 is Human3.6M's, about 0.8 a phone's, 2 a portrait lens).
        size_range: height of a standing person over image height.
        min_depth: nearest pelvis, metres.
        elevation_deg: range of the camera's elevation in degrees.
        tilt_deg: standard deviation of the in-plane tilt in degrees.
    """

    image_size: tuple[int, int] = (1000, 1000)
    focal_range: tuple[float, float] = (0.8, 2.2)
    size_range: tuple[float, float] = (0.35, 0.85)
    min_depth: float = 2.0
    elevation_deg: tuple[float, float] = (-10.0, 35.0)
    tilt_deg: float = 4.0

    def __call__(
        self, pelvis_world: Float[Tensor, "frames 3"], fps: float, views: int, generator: torch.Generator
    ) -> CameraViews:
        """Draws an independent camera for every frame and view."""
        shape = (pelvis_world.shape[0], views)
        size = torch.tensor(self.image_size, dtype=torch.float32)
        log_low, log_high = (math.log(limit) for limit in self.focal_range)
        focal = _uniform(log_low, log_high, shape, generator).exp() * size[1]
        fraction = _uniform(*self.size_range, shape, generator)
        depth = (focal * _PERSON_HEIGHT / (fraction * size[1])).clamp_min(self.min_depth)
        elevation = _uniform(*self.elevation_deg, shape, generator).deg2rad()
        azimuth = _uniform(-math.pi, math.pi, shape, generator)
        roll = (torch.randn(shape, generator=generator) * self.tilt_deg).deg2rad()
        # The larger the person, the nearer the middle, so that most of the body stays in the picture.
        room = (1 - fraction).clamp_min(0.1)
        offset = _uniform(-0.45, 0.45, (*shape, 2), generator) * room[..., None]
        pixel = (0.5 + offset) * size
        K = intrinsics(focal[..., None], size / 2)
        R = look_from(azimuth, elevation, roll)
        t = place_on_pixel(R, K, pelvis_world[:, None].expand(*shape, 3), pixel, depth)
        return CameraViews(K, R, t, self.image_size)


@dataclass(frozen=True)
class RingCameras(CameraSampler):
    """Fixed cameras on a ring around the person, as Human3.6M's four: 1000 x 1000 pixels, f 1145, 4-5 m away.

    A person who walks out of the ring's middle (``reach``) meets a new ring: cameras stand still within a stretch of
    the clip, and the pelvis is always inside every picture.

    Args:
        image_size: width, height in pixels.
        focal_length: mean focal length in pixels; each camera's differs by some 0.3 %.
        distance: range of the distance from the ring's middle, metres.
        height: range of the camera's height above the mean pelvis, metres.
        reach: half the side of the square in which the pelvis may move before the ring is set up anew, metres.
    """

    image_size: tuple[int, int] = (1000, 1000)
    focal_length: float = 1145.0
    distance: tuple[float, float] = (4.0, 5.2)
    height: tuple[float, float] = (0.4, 0.9)
    reach: float = 0.8

    def __call__(
        self, pelvis_world: Float[Tensor, "frames 3"], fps: float, views: int, generator: torch.Generator
    ) -> CameraViews:
        """Draws one ring of ``views`` cameras for every stretch of the clip."""
        K, R, t = [], [], []
        for stretch in self._stretches(pelvis_world):
            length = stretch.shape[0]
            middle = (stretch.amin(dim=0) + stretch.amax(dim=0)) / 2
            shape = (views,)
            start = _uniform(-math.pi, math.pi, (1,), generator)
            step = 2 * math.pi / views
            azimuth = start + step * (torch.arange(views) + _uniform(-0.12, 0.12, shape, generator))
            distance = _uniform(*self.distance, shape, generator)
            elevation = torch.asin(_uniform(*self.height, shape, generator) / distance)
            roll = (torch.randn(shape, generator=generator) * 0.5).deg2rad()
            focal = self.focal_length * (1 + 0.003 * torch.randn(shape, generator=generator))
            center = torch.tensor(self.image_size) / 2 + 8 * torch.randn((*shape, 2), generator=generator)
            ring_K, ring_R = intrinsics(focal[..., None], center), look_from(azimuth, elevation, roll)
            ring_t = place_on_pixel(ring_R, ring_K, middle.expand(views, 3), center, distance)
            K.append(ring_K.expand(length, -1, -1, -1))
            R.append(ring_R.expand(length, -1, -1, -1))
            t.append(ring_t.expand(length, -1, -1))
        return CameraViews(torch.cat(K), torch.cat(R), torch.cat(t), self.image_size)

    def _stretches(self, pelvis_world: Tensor) -> list[Tensor]:
        """Longest pieces, cut greedily, in which the pelvis stays within a square of side 2 * reach."""
        ground = pelvis_world[:, [0, 2]]
        pieces, start = [], 0
        while start < ground.shape[0]:
            extent = ground[start:].cummax(dim=0).values - ground[start:].cummin(dim=0).values
            outside = (extent > 2 * self.reach).any(dim=-1).nonzero()
            end = start + int(outside[0]) if len(outside) else ground.shape[0]
            pieces.append(pelvis_world[start:end])
            start = end
        return pieces


@dataclass(frozen=True)
class TrackCameras(CameraSampler):
    """A camera that follows the person through the whole clip: it circles, nears and sways slowly.

    Args:
        image_size: width, height in pixels.
        focal_range: focal length over image height, drawn once per clip.
        depth: range of the distance, metres.
        turn_deg_per_s: largest speed of circling, degrees per second.
        smoothing: seconds over which the followed pelvis is averaged; the picture shows the rest of its motion.
    """

    image_size: tuple[int, int] = (1000, 1000)
    focal_range: tuple[float, float] = (0.9, 1.5)
    depth: tuple[float, float] = (3.5, 6.0)
    turn_deg_per_s: float = 15.0
    smoothing: float = 0.8

    def __call__(
        self, pelvis_world: Float[Tensor, "frames 3"], fps: float, views: int, generator: torch.Generator
    ) -> CameraViews:
        """Draws ``views`` smooth paths of a camera."""
        frames = pelvis_world.shape[0]
        shape = (frames, views)
        seconds = torch.arange(frames)[:, None] / fps

        def sway(low: float, high: float) -> Tensor:
            """A slow oscillation (10-20 s) within a range, of random phase."""
            period = _uniform(10.0, 20.0, (views,), generator)
            phase = _uniform(0.0, 2 * math.pi, (views,), generator)
            return (low + high) / 2 + (high - low) / 2 * torch.sin(2 * math.pi * seconds / period + phase)

        size = torch.tensor(self.image_size, dtype=torch.float32)
        speed = _uniform(-self.turn_deg_per_s, self.turn_deg_per_s, (views,), generator).deg2rad()
        azimuth = _uniform(-math.pi, math.pi, (views,), generator) + speed * seconds
        R = look_from(azimuth, sway(0.0, 0.35), sway(-0.05, 0.05))
        depth = sway(*self.depth)
        pixel = torch.stack((sway(0.45, 0.55), sway(0.45, 0.55)), dim=-1) * size
        focal = (_uniform(*self.focal_range, (views,), generator) * size[1]).expand(shape)
        K = intrinsics(focal[..., None], size / 2)
        followed = _moving_average(pelvis_world, width=2 * round(self.smoothing * fps / 2) + 1)
        t = place_on_pixel(R, K, followed[:, None].expand(*shape, 3), pixel, depth)
        return CameraViews(K, R, t, self.image_size)


def _moving_average(x: Float[Tensor, "frames 3"], width: int) -> Float[Tensor, "frames 3"]:
    """Centred mean over ``width`` (odd) frames; the ends repeat the first and the last frame."""
    half = width // 2
    padded = torch.cat((x[:1].expand(half, 3), x, x[-1:].expand(half, 3))).T[None]
    return torch.nn.functional.avg_pool1d(padded, width, stride=1)[0].T.contiguous()


CAMERAS: dict[str, CameraSampler] = {"single": SingleCameras(), "ring": RingCameras(), "track": TrackCameras()}


def get_cameras(cameras: CameraSampler | str) -> CameraSampler:
    """A camera sampler itself, or the default one of that name.

    Raises:
        ValueError: if the name is unknown.
    """
    if not isinstance(cameras, str):
        return cameras
    if cameras not in CAMERAS:
        raise ValueError(f"cameras: {cameras!r} is unknown, valid are {', '.join(CAMERAS)}")
    return CAMERAS[cameras]
