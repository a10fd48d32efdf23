import math

import pytest
import torch

from posecore.data.cameras import CAMERAS, RingCameras, get_cameras, look_from, place_on_pixel
from posecore.geometry.camera import intrinsics, project, world_to_cam
from posecore.geometry.rotation import geodesic_distance


def walk(frames: int = 300, speed: float = 1.5, fps: float = 30.0) -> torch.Tensor:
    time = torch.arange(frames) / fps
    return torch.stack((0.3 * torch.sin(time), 0.9 + 0.03 * torch.sin(9 * time), speed * time), dim=-1)


@pytest.mark.parametrize("kind", CAMERAS)
@pytest.mark.parametrize("views", [1, 4])
def test_pelvis_is_in_front_of_every_camera_and_inside_every_picture(kind: str, views: int, generator) -> None:
    pelvis = walk()
    seen = get_cameras(kind)(pelvis, 30.0, views, generator)
    assert seen.K.shape == seen.R_world_to_cam.shape == (300, views, 3, 3)
    cam = world_to_cam(pelvis[:, None, None], seen.R_world_to_cam, seen.t_world_to_cam)
    assert cam[..., 2].min() > 1.5
    pixels = project(cam, seen.K)
    assert (pixels > 0).all()
    assert (pixels < torch.tensor(seen.image_size)).all()
    eye = torch.eye(3).expand_as(seen.R_world_to_cam)
    torch.testing.assert_close(seen.R_world_to_cam @ seen.R_world_to_cam.transpose(-1, -2), eye, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(seen.R_world_to_cam), torch.ones(300, views))
    # Cameras are upright: the world's up points up in the picture.
    assert (seen.R_world_to_cam[..., 1, 1] < 0).all()


@pytest.mark.parametrize("kind", CAMERAS)
def test_same_generator_same_cameras(kind: str) -> None:
    first, second, other = (
        get_cameras(kind)(walk(), 30.0, 2, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.t_world_to_cam, second.t_world_to_cam)
    assert not torch.equal(first.t_world_to_cam, other.t_world_to_cam)


def test_camera_at_azimuth_zero_sees_the_front_with_left_on_the_right(generator) -> None:
    zero = torch.tensor(0.0)
    R = look_from(zero, zero, zero)
    torch.testing.assert_close(R, torch.diag(torch.tensor([1.0, -1.0, -1.0])))
    K = intrinsics(1000.0, torch.tensor([500.0, 400.0]))
    point = torch.tensor([0.3, 1.0, -2.0])
    t = place_on_pixel(R, K, point, torch.tensor([123.0, 456.0]), torch.tensor(4.0))
    cam = world_to_cam(point[None], R, t)
    assert cam[0, 2] == pytest.approx(4.0)
    torch.testing.assert_close(project(cam, K), torch.tensor([[123.0, 456.0]]))
    tilted = look_from(zero, zero, torch.tensor(0.2))
    assert float(geodesic_distance(R, tilted)) == pytest.approx(0.2, abs=1e-4)


def test_ring_is_human36m_like_stands_still_and_surrounds_the_person(generator) -> None:
    ring = RingCameras()
    still = ring(walk(speed=0.05), 30.0, 4, generator)
    assert (still.t_world_to_cam == still.t_world_to_cam[:1]).all()
    assert still.image_size == (1000, 1000)
    assert abs(float(still.K[..., 0, 0].mean()) - 1145) < 30
    azimuth = torch.atan2(still.R_world_to_cam[0, :, 2, 0], still.R_world_to_cam[0, :, 2, 2]).sort().values
    assert (azimuth.diff() > math.pi / 4).all()
    moving = ring(walk(speed=1.5), 30.0, 4, generator)
    changes = (moving.t_world_to_cam.diff(dim=0).abs().amax(dim=(1, 2)) > 0).sum()
    assert 5 <= int(changes) <= 12  # 15 m in squares of 1.6 m


def test_tracking_camera_moves_smoothly(generator) -> None:
    seen = get_cameras("track")(walk(), 30.0, 2, generator)
    turn = geodesic_distance(seen.R_world_to_cam[1:], seen.R_world_to_cam[:-1])
    assert float(turn.max()) < 0.02


def test_names_of_cameras() -> None:
    ring = RingCameras()
    assert get_cameras(ring) is ring
    with pytest.raises(ValueError, match="cameras: 'circle' is unknown, valid are single, ring, track"):
        get_cameras("circle")  # type: ignore[arg-type]
