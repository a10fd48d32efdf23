import inspect

import numpy as np
import pytest
import torch
from scipy.optimize import fsolve
from torch import Tensor

from posecore.geometry import camera
from posecore.geometry.rotation import random_rotmat

BATCH_SHAPES = ((), (2,), (2, 3))
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}

each_batch = pytest.mark.parametrize("batch_shape", BATCH_SHAPES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
each_model = pytest.mark.parametrize("model", ["human36m", "opencv"])

# Two lenses of the strength that Human3.6M's cameras have, and one without a lens.
RADIAL = [[-0.2098, 0.2475, -0.0014], [-0.1983, 0.2184, -0.0090], [0.0, 0.0, 0.0]]
TANGENTIAL = [[-0.0010, -0.0014], [-0.0006, 0.0019], [0.0, 0.0]]


class Scene:
    """A random camera and points before it, in one batch shape and dtype."""

    def __init__(self, batch_shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.generator = torch.Generator().manual_seed(3)
        self.batch_shape, self.dtype = batch_shape, dtype
        self.points = self.draw(17, 3) * torch.tensor([2, 2, 4], dtype=dtype) + torch.tensor([-1, -1, 2], dtype=dtype)
        self.focal_length = 900 + 400 * self.draw(2)
        self.image_size = 800 + 200 * self.draw(2)
        self.K = camera.intrinsics(self.focal_length, self.image_size / 2 + 30 * self.draw(2))
        self.center = self.image_size * self.draw(2)
        self.box_size = 150 + 100 * self.draw()

    def draw(self, *shape: int) -> Tensor:
        return torch.rand((*self.batch_shape, *shape), generator=self.generator, dtype=self.dtype)


@pytest.fixture(params=BATCH_SHAPES, ids=str)
def batch_shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def scene(request: pytest.FixtureRequest, batch_shape: tuple[int, ...]) -> Scene:
    return Scene(batch_shape, request.param)


def close(actual: Tensor, expected: Tensor, size: float = 1.0) -> None:
    """Compares with an error that is small against ``size``, the size of the numbers that were added up."""
    torch.testing.assert_close(actual, expected, atol=TOLERANCE[expected.dtype] * size, rtol=0)


@pytest.mark.parametrize("per_camera", [False, True])
@pytest.mark.parametrize("focal_lengths", [(5.0,), (5.0, 7.0)])
def test_intrinsics_hold_focal_lengths_and_center(
    batch_shape: tuple[int, ...], focal_lengths: tuple[float, ...], per_camera: bool
) -> None:
    center = torch.rand(*batch_shape, 2) + 1
    focal_length = torch.tensor(focal_lengths)
    if per_camera:
        focal_length = focal_length + torch.rand(*batch_shape, 1)
    K = camera.intrinsics(focal_length, center)
    assert K.shape == (*batch_shape, 3, 3)
    assert torch.equal(K[..., [0, 1], [0, 1]], focal_length.expand(*batch_shape, 2))
    assert torch.equal(K[..., :2, 2], center)
    assert torch.equal(K[..., 2, :], torch.tensor([0.0, 0, 1]).expand(*batch_shape, 3))
    assert (K[..., [0, 1], [1, 0]] == 0).all()


def test_intrinsics_broadcast_and_take_plain_numbers() -> None:
    center = torch.rand(4, 2, dtype=torch.float64)
    expected = camera.intrinsics(torch.full((4, 2), 5.0, dtype=torch.float64), center)
    for focal_length in (5, 5.0, torch.tensor([5.0], dtype=torch.float64)):
        assert torch.equal(camera.intrinsics(focal_length, center), expected)
    several = torch.tensor([[3.0], [4.0], [5.0]])
    K = camera.intrinsics(several, torch.tensor([1.0, 2.0]))
    assert K[:, 0, 0].tolist() == K[:, 1, 1].tolist() == [3, 4, 5]
    assert K[:, :2, 2].tolist() == [[1, 2]] * 3


def test_intrinsics_refuse_other_numbers_of_focal_lengths() -> None:
    with pytest.raises(ValueError, match=r"focal_length has shape \(4, 3\); its last dimension must be 1, or 2"):
        camera.intrinsics(torch.ones(4, 3), torch.ones(4, 2))


def test_world_to_cam_is_rotation_then_translation_and_comes_back(scene: Scene) -> None:
    R = random_rotmat(scene.batch_shape, scene.generator, dtype=scene.dtype)
    t = scene.draw(3)
    points_cam = camera.world_to_cam(scene.points, R, t)
    expected = torch.einsum("...ij,...nj->...ni", R, scene.points) + t[..., None, :]
    close(points_cam, expected)
    close(camera.cam_to_world(points_cam, R, t), scene.points)


def test_project_is_the_pinhole_equation(scene: Scene) -> None:
    homogeneous = torch.einsum("...ij,...nj->...ni", scene.K, scene.points)
    close(camera.project(scene.points, scene.K), homogeneous[..., :2] / homogeneous[..., 2:], size=1000)


def test_one_camera_serves_a_batch_and_a_batch_of_cameras_one_set_of_points(generator: torch.Generator) -> None:
    points = torch.rand(4, 5, 3, generator=generator) + 1
    K = camera.intrinsics(100.0, torch.tensor([50.0, 60.0]))
    close(camera.project(points, K), camera.project(points, K.expand(4, 3, 3)), size=100)
    several = K * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    close(camera.project(points[0], several), camera.project(points[0].expand(3, 5, 3), several), size=100)
    assert camera.distort(points[..., :2], torch.tensor(RADIAL[0]), torch.tensor(TANGENTIAL[0])).shape == (4, 5, 2)


def test_points_at_and_behind_the_camera_stay_finite_on_their_side() -> None:
    K = camera.intrinsics(1000.0, torch.tensor([500.0, 500.0]))
    points = torch.tensor([[0.1, -0.2, 0.0], [0.1, -0.2, -3.0], [0.0, 0.0, 0.0], [0.1, -0.2, 1e-30]]).requires_grad_()
    points_2d_px = camera.project(points, K)
    assert points_2d_px.isfinite().all()
    assert (points_2d_px[[0, 1, 3], 0] > 1000).all()
    assert (points_2d_px[[0, 1, 3], 1] < 0).all()
    assert points_2d_px[2].tolist() == [500, 500]
    points_2d_px.sum().backward()
    assert points.grad is not None
    assert points.grad.isfinite().all()
    assert (points.grad[:, 2] == 0).all()


def test_rays_are_unit_and_meet_their_points(scene: Scene) -> None:
    skewed = scene.K.clone()
    skewed[..., 0, 1] = 12.5
    for K in (scene.K, skewed):
        points_2d_px = camera.project(scene.points, K)
        rays = camera.backproject_rays(points_2d_px, K)
        close(rays.norm(dim=-1), torch.ones_like(rays[..., 0]))
        distance = scene.points.norm(dim=-1, keepdim=True)
        close(rays * distance, scene.points, size=5)
        close(camera.project(rays * distance, K), points_2d_px, size=1000)
        close(camera.denormalize_points(camera.normalize_points(points_2d_px, K), K), points_2d_px, size=1000)


def brown(point: np.ndarray, k: list[float], p: list[float], cross: float) -> list[float]:
    """The lens formula written out for one point, term by term."""
    x, y = point
    r2 = x**2 + y**2
    radial = 1 + k[0] * r2 + k[1] * r2**2 + k[2] * r2**3
    return [
        x * radial + cross * p[0] * x * y + p[1] * (r2 + cross * x**2),
        y * radial + p[0] * (r2 + cross * y**2) + cross * p[1] * x * y,
    ]


@each_model
def test_lens_against_the_formula_and_a_root_finder(model: camera.LensModel, generator: torch.Generator) -> None:
    points = 0.8 * torch.rand(12, 2, generator=generator, dtype=torch.float64) - 0.4
    cross = {"human36m": 1, "opencv": 2}[model]
    for k, p in zip(RADIAL, TANGENTIAL, strict=True):
        lens = (torch.tensor(k, dtype=torch.float64), torch.tensor(p, dtype=torch.float64), model)
        expected = [brown(point, k, p, cross) for point in points.numpy()]
        np.testing.assert_allclose(camera.distort(points, *lens), expected, atol=1e-14)
        roots = [
            fsolve(lambda x, k, p, bent: np.subtract(brown(x, k, p, cross), bent), bent, args=(k, p, bent), xtol=1e-12)
            for bent in points.numpy()
        ]
        np.testing.assert_allclose(camera.undistort(points, *lens), roots, atol=2e-6)
        np.testing.assert_allclose(camera.undistort(points, *lens, tolerance=1e-12), roots, atol=1e-10)


@each_model
def test_undistort_undoes_distort(model: camera.LensModel, scene: Scene) -> None:
    points_norm = 0.5 * scene.points[..., :2]
    k = torch.tensor(RADIAL[0], dtype=scene.dtype) * (0.5 + scene.draw(1))
    p = torch.tensor(TANGENTIAL[0], dtype=scene.dtype) * (0.5 + scene.draw(1))
    for first, second in ((camera.distort, camera.undistort), (camera.undistort, camera.distort)):
        back = second(first(points_norm, k, p, model), k, p, model)
        torch.testing.assert_close(back, points_norm, atol=2e-6, rtol=0)


def test_undistort_returns_points_beyond_the_lens_as_they_are() -> None:
    k, p = torch.tensor([-0.3, 0.0, 0.0]), torch.zeros(2)
    # r (1 - 0.3 r^2) has its highest value 0.703 at r = 1.054: nothing is ever bent to 5.
    points_norm = torch.tensor([[0.2, 0.1], [5.0, 0.0], [0.0, 100.0], [-0.3, 0.3]])
    ideal = camera.undistort(points_norm, k, p)
    assert torch.equal(ideal[1:3], points_norm[1:3])
    torch.testing.assert_close(camera.distort(ideal[[0, 3]], k, p), points_norm[[0, 3]], atol=2e-6, rtol=0)


def test_undistort_passes_gradients() -> None:
    k, p = torch.tensor(RADIAL[0], dtype=torch.float64), torch.tensor(TANGENTIAL[0], dtype=torch.float64)
    points = torch.tensor([[0.2, -0.3], [0.1, 0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: camera.undistort(x, k, p, tolerance=1e-14), points)


def test_weak_camera_comes_back_from_the_full_image(scene: Scene) -> None:
    cam_s_tx_ty = scene.draw(3) + torch.tensor([0.5, -0.5, -0.5], dtype=scene.dtype)
    box = (scene.center, scene.box_size, scene.image_size)
    translation = camera.weak_to_full_translation(cam_s_tx_ty, *box, scene.focal_length[..., 0])
    assert translation.shape == (*scene.batch_shape, 3)
    close(camera.full_to_weak_camera(translation, *box, scene.focal_length[..., 0]), cam_s_tx_ty, size=10)
    # With one number for all cameras, as with a tensor.
    translation = camera.weak_to_full_translation(cam_s_tx_ty, *box, 5000)
    as_tensor = torch.full_like(scene.box_size, 5000)
    close(camera.weak_to_full_translation(cam_s_tx_ty, *box, as_tensor), translation, size=100)
    close(camera.full_to_weak_camera(translation, *box, 5000.0), cam_s_tx_ty, size=10)


def test_the_full_camera_sees_what_the_weak_camera_says(scene: Scene) -> None:
    """A flat person at the depth of the translation lands on the same pixels through either camera."""
    cam_s_tx_ty = scene.draw(3) + torch.tensor([0.5, -0.5, -0.5], dtype=scene.dtype)
    focal_length = scene.focal_length[..., 0]
    flat = scene.points * torch.tensor([1, 1, 0], dtype=scene.dtype)
    in_crop = camera.project_weak_perspective(flat, cam_s_tx_ty)
    expected = camera.uncrop_keypoints(in_crop, scene.center, scene.box_size)
    translation = camera.weak_to_full_translation(
        cam_s_tx_ty, scene.center, scene.box_size, scene.image_size, focal_length
    )
    K = camera.intrinsics(focal_length[..., None], scene.image_size / 2)
    close(camera.project(flat + translation[..., None, :], K), expected, size=1000)


def test_weak_camera_numbers() -> None:
    cam_s_tx_ty, center = torch.tensor([0.8, 0.1, -0.2]), torch.tensor([300.0, 200.0])
    translation = camera.weak_to_full_translation(
        cam_s_tx_ty, center, torch.tensor(250.0), torch.tensor([640.0, 480.0]), 5000.0
    )
    # tz = 2 f / (b s) = 50; tx = 0.1 + 2 (300 - 320) / 200; ty = -0.2 + 2 (200 - 240) / 200
    torch.testing.assert_close(translation, torch.tensor([-0.1, -0.6, 50.0]))


def test_crop_keypoints_have_their_edges_at_the_extent_and_come_back(scene: Scene) -> None:
    points_2d_px = camera.project(scene.points, scene.K)
    half = scene.box_size[..., None] / 2
    corners = torch.stack((scene.center - half, scene.center + half), dim=-2)
    for extent in (1.0, 0.5, 1):
        edges = camera.crop_keypoints(corners, scene.center, scene.box_size, extent)
        close(edges[..., 0, :], torch.full_like(scene.center, -extent))
        close(edges[..., 1, :], torch.full_like(scene.center, extent))
        in_crop = camera.crop_keypoints(points_2d_px, scene.center, scene.box_size, extent)
        close(camera.uncrop_keypoints(in_crop, scene.center, scene.box_size, extent), points_2d_px, size=1000)


def test_crop_intrinsics_project_to_crop_keypoints(scene: Scene) -> None:
    skewed = scene.K.clone()
    skewed[..., 0, 1] = 12.5
    for K in (scene.K, skewed):
        crop_K = camera.crop_intrinsics(K, scene.center, scene.box_size, 224)
        in_crop = camera.crop_keypoints(camera.project(scene.points, K), scene.center, scene.box_size)
        close(camera.project(scene.points, crop_K), (in_crop + 1) * 112, size=1000)
        assert torch.equal(crop_K[..., 2, :], K[..., 2, :])
    shared_K = scene.K.reshape(-1, 3, 3)[0]
    several = camera.crop_intrinsics(shared_K, scene.center, scene.box_size, 224)
    expected = camera.crop_intrinsics(shared_K.expand_as(scene.K), scene.center, scene.box_size, 224)
    assert torch.equal(several, expected)


def test_autocast_does_not_reach_the_camera(scene: Scene) -> None:
    R, t = random_rotmat(scene.batch_shape, scene.generator, dtype=scene.dtype), scene.draw(3)
    expected = camera.project(camera.world_to_cam(scene.points, R, t), scene.K)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(camera.project(camera.world_to_cam(scene.points, R, t), scene.K), expected)
    assert camera.project(scene.points.bfloat16(), scene.K.bfloat16()).dtype == torch.float32


def test_refusals() -> None:
    points, center, box_size = torch.zeros(3, 2), torch.zeros(2), torch.tensor(10.0)
    k, p = torch.zeros(3), torch.zeros(2)
    for function in (camera.crop_keypoints, camera.uncrop_keypoints):
        with pytest.raises(ValueError, match=r"extent is -1.0; valid are numbers above 0"):
            function(points, center, box_size, -1.0)
    with pytest.raises(ValueError, match=r"crop_size is 0; valid are numbers of pixels above 0"):
        camera.crop_intrinsics(torch.eye(3), center, box_size, 0)
    with pytest.raises(ValueError, match=r"tolerance is 0.0; valid are lengths above 0"):
        camera.undistort(points, k, p, tolerance=0.0)
    with pytest.raises(ValueError, match=r"max_iterations is 0; valid are 1 or more"):
        camera.undistort(points, k, p, max_iterations=0)
    # Unwrapped, because the tests' type checker refuses the word before the function can.
    for function in (camera.distort, camera.undistort):
        with pytest.raises(ValueError, match=r"model is 'fisheye'; valid are 'human36m', 'opencv'"):
            inspect.unwrap(function)(points, k, p, "fisheye")
