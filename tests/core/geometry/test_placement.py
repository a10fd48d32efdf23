import numpy as np
import pytest
import torch
from torch import Tensor

from posecore.geometry.camera import project
from posecore.geometry.placement import refine_xy, reprojection_error, solve_translation

JOINTS = 17
SEEDS = range(5)
DTYPES = [torch.float32, torch.float64]


def scene(people: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Root-relative poses, the true translations, cameras with a skew, and the exact projections."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(people, *shape, generator=generator, dtype=torch.float64)

    joints = 0.3 * torch.randn(people, JOINTS, 3, generator=generator, dtype=torch.float64)
    joints[:, 0] = 0
    transl = torch.stack((uniform(-1, 1), uniform(-0.7, 0.7), uniform(2.5, 9)), dim=-1)
    K = torch.eye(3, dtype=torch.float64).repeat(people, 1, 1)
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 1] = uniform(700, 1500), uniform(700, 1500), uniform(-5, 5)
    K[:, :2, 2] = uniform(300, 700, 2)
    pixels = project(joints + transl[:, None], K)
    return joints.to(dtype), transl.to(dtype), K.to(dtype), pixels.to(dtype)


def confidences(people: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.05 + 0.95 * torch.rand(people, JOINTS, generator=generator, dtype=torch.float64)).to(dtype)


def reference(joints: np.ndarray, pixels: np.ndarray, confidence: np.ndarray, K: np.ndarray) -> np.ndarray:
    """NumPy's least squares over both equations of every joint of one pose."""
    rays = np.concatenate((pixels, np.ones((len(pixels), 1))), axis=1) @ np.linalg.inv(K).T
    rows, right = [], []
    for joint, (u, v, _), c in zip(joints, rays, confidence, strict=True):
        rows += [np.sqrt(c) * np.array([1, 0, -u]), np.sqrt(c) * np.array([0, 1, -v])]
        right += [np.sqrt(c) * (u * joint[2] - joint[0]), np.sqrt(c) * (v * joint[2] - joint[1])]
    return np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_translation_is_found_exactly(seed: int, dtype: torch.dtype) -> None:
    joints, transl, K, pixels = scene(3, seed, dtype)
    found = solve_translation(joints[:, None], pixels, confidences(3, seed, dtype), K)
    assert found.dtype == dtype
    # A float32 pixel near 1000 is known to 6e-5, which at 9 m is less than a millimetre.
    torch.testing.assert_close(found[:, 0], transl, atol=1e-3 if dtype == torch.float32 else 1e-9, rtol=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_translation_equals_least_squares(seed: int) -> None:
    joints, _, K, pixels = scene(3, seed)
    generator = torch.Generator().manual_seed(seed)
    pixels = pixels + 5 * torch.randn(pixels.shape, generator=generator, dtype=torch.float64)
    hypotheses = joints[:, None] + 0.05 * torch.randn(3, 4, JOINTS, 3, generator=generator, dtype=torch.float64)
    confidence = confidences(3, seed)
    found = solve_translation(hypotheses, pixels, confidence, K)
    for person in range(3):
        rest = pixels[person].numpy(), confidence[person].numpy(), K[person].numpy()
        for number in range(4):
            expected = reference(hypotheses[person, number].numpy(), *rest)
            np.testing.assert_allclose(found[person, number].numpy(), expected, atol=1e-8)


def test_translation_does_not_depend_on_the_scale_of_confidences() -> None:
    joints, _, K, pixels = scene(2, 0)
    confidence, bent = confidences(2, 0), pixels + torch.linspace(-9, 9, JOINTS, dtype=torch.float64)[:, None]
    expected = solve_translation(joints[:, None], bent, confidence, K)
    torch.testing.assert_close(solve_translation(joints[:, None], bent, confidence / 50, K), expected)
    assert not torch.allclose(solve_translation(joints[:, None], bent, confidence**2, K), expected, atol=1e-3)


def test_joints_that_were_not_seen_do_not_move_a_person() -> None:
    joints, transl, K, pixels = scene(2, 0)
    confidence = confidences(2, 0)
    confidence[:, [0, 5, 11]] = 0
    pixels[:, [0, 5, 11]] = torch.tensor([-4000.0, 9e4], dtype=torch.float64)
    joints[:, [5, 11]] = 7.0
    torch.testing.assert_close(solve_translation(joints[:, None], pixels, confidence, K)[:, 0], transl)


@pytest.mark.parametrize("min_depth", [0.5, 2.0])
def test_behind_the_camera_becomes_the_least_depth(min_depth: float) -> None:
    joints, transl, K, pixels = scene(2, 3)
    # A pose mirrored through its root explains the same rays from behind the camera.
    assert reference(-joints[0].numpy(), pixels[0].numpy(), np.ones(JOINTS), K[0].numpy())[2] < 0
    found = solve_translation(
        torch.stack((joints, -joints), dim=1), pixels, torch.ones(2, JOINTS).double(), K, min_depth
    )
    torch.testing.assert_close(found[:, 0], transl)
    torch.testing.assert_close(found[:, 1, 2], torch.full_like(found[:, 1, 2], min_depth))
    # With the depth given, the best x and y put the mean of the joints' distances from their rays to zero.
    rays = torch.cat((pixels, torch.ones_like(pixels[..., :1])), dim=-1) @ torch.linalg.inv(K).mT
    placed = -joints + found[:, 1, None]
    torch.testing.assert_close((placed - rays * placed[..., 2:]).mean(dim=1), torch.zeros_like(transl))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_too_few_joints_give_the_least_depth(dtype: torch.dtype) -> None:
    joints, _, K, pixels = scene(2, 1, dtype)
    confidence = torch.zeros(2, JOINTS, dtype=dtype)
    confidence[0, 7] = 0.4  # the other person was not seen at all
    found = solve_translation(joints[:, None], pixels, confidence, K)
    assert found.isfinite().all()
    assert found[:, 0, 2].tolist() == [0.5, 0.5]
    placed = joints[0, 7] + found[0, 0]
    ray = torch.linalg.solve(K[0], torch.cat((pixels[0, 7], pixels.new_ones(1))))
    torch.testing.assert_close(placed[:2], ray[:2] * placed[2], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_refined_joints_need_z_and_the_root_only(seed: int, dtype: torch.dtype) -> None:
    joints, transl, K, pixels = scene(3, seed, dtype)
    wrong = joints[:, None].repeat(1, 4, 1, 1)
    wrong[..., 1:, :2] = torch.randn(3, 4, JOINTS - 1, 2, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    before = wrong.clone()
    found = refine_xy(wrong, transl[:, None].expand(-1, 4, -1), pixels, confidences(3, seed, dtype), K)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, joints[:, None].expand_as(found), atol=tolerance, rtol=0)
    torch.testing.assert_close(wrong, before, atol=0, rtol=0)


def test_root_and_unseen_joints_are_not_refined() -> None:
    joints, transl, K, pixels = scene(2, 0)
    confidence = torch.ones(2, JOINTS, dtype=torch.float64)
    confidence[0, [4, 9]] = 0
    wrong = joints[:, None] + 1.0  # the root too
    found = refine_xy(wrong, transl[:, None], pixels, confidence, K)
    torch.testing.assert_close(found[0, :, [0, 4, 9]], wrong[0, :, [0, 4, 9]], atol=0, rtol=0)
    torch.testing.assert_close(found[1, :, 0], wrong[1, :, 0], atol=0, rtol=0)
    torch.testing.assert_close(found[..., 2], wrong[..., 2], atol=0, rtol=0)
    rest = [joint for joint in range(1, JOINTS) if joint not in (4, 9)]
    placed = found[0, 0, rest] + transl[0]
    torch.testing.assert_close(project(placed, K[0]), pixels[0, rest])
    assert (found[0, 0, rest, :2] - wrong[0, 0, rest, :2]).abs().min() > 0


def test_reprojection_error_is_a_weighted_mean() -> None:
    joints, transl, K, pixels = scene(2, 0)
    generator = torch.Generator().manual_seed(0)
    hypotheses = joints[:, None] + 0.05 * torch.randn(2, 3, JOINTS, 3, generator=generator, dtype=torch.float64)
    transls = transl[:, None] + 0.05 * torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    confidence = confidences(2, 0)
    confidence[0, 5] = 0
    pixels[0, 5] = -9999.0
    found = reprojection_error(hypotheses, transls, pixels, confidence, K)
    for person in range(2):
        for number in range(3):
            points = (hypotheses[person, number] + transls[person, number]).numpy() @ K[person].numpy().T
            distance = np.linalg.norm(points[:, :2] / points[:, 2:] - pixels[person].numpy(), axis=1)
            expected = np.average(distance, weights=confidence[person].numpy())
            assert found[person, number].item() == pytest.approx(expected, rel=1e-9)
    assert reprojection_error(joints[:, None], transl[:, None], pixels, confidence, K).max() < 1e-9
    assert (reprojection_error(hypotheses, transls, pixels, 0 * confidence, K) == 0).all()  # nobody seen, no number
