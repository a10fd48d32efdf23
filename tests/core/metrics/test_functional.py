import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree, procrustes
from scipy.spatial.transform import Rotation

from posecore.metrics import functional as F

BATCH_SHAPES = [(), (2,), (2, 3)]
DTYPES = [torch.float32, torch.float64]
MIRROR = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)


def poses(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def similarity(points: torch.Tensor, seed: int) -> torch.Tensor:
    rotation = torch.from_numpy(Rotation.random(random_state=seed).as_matrix())
    return 1.7 * points @ rotation.T + torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64)


@pytest.mark.parametrize("batch", BATCH_SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_mpjpe_equals_numpy(batch: tuple[int, ...], dtype: torch.dtype) -> None:
    pred, target = poses(*batch, 17, seed=1, dtype=dtype), poses(*batch, 17, seed=2, dtype=dtype)
    before = pred.clone(), target.clone()
    p, t = pred.numpy(), target.numpy()
    plain = np.linalg.norm(p - t, axis=-1).mean(-1) * 1000
    rooted = np.linalg.norm((p - p[..., 4:5, :]) - (t - t[..., 4:5, :]), axis=-1).mean(-1) * 1000
    hips = np.linalg.norm(
        (p - p[..., [1, 4], :].mean(-2, keepdims=True)) - (t - t[..., [1, 4], :].mean(-2, keepdims=True)), axis=-1
    )
    for root, expected in ((None, plain), ((4,), rooted), ((1, 4), hips.mean(-1) * 1000)):
        found = F.mpjpe(pred, target, root)
        assert found.shape == batch
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert torch.equal(pred, before[0])
    assert torch.equal(target, before[1])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", DTYPES)
def test_pa_mpjpe_equals_scipy_where_no_mirror_is_needed(seed: int, dtype: torch.dtype) -> None:
    target = poses(17, seed=seed)
    pred = similarity(target + 0.05 * poses(17, seed=seed + 100), seed)
    # scipy normalises the target to unit size and allows reflections; a small deviation needs none.
    target_scipy, pred_scipy, _ = procrustes(target.numpy(), pred.numpy())
    size = np.linalg.norm(target - target.mean(0))
    expected = np.linalg.norm(target_scipy - pred_scipy, axis=-1).mean() * size * 1000
    for reflection in (False, True):
        found = F.pa_mpjpe(pred.to(dtype), target.to(dtype), reflection=reflection)
        assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("batch", BATCH_SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_pa_mpjpe_ignores_similarities_and_not_mirrors(batch: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
    pred, target = poses(*batch, 17, seed=seed), poses(*batch, 17, seed=seed + 10)
    expected = F.pa_mpjpe(pred, target)
    moved = F.pa_mpjpe(similarity(pred, seed).to(dtype), target.to(dtype))
    assert moved.shape == batch
    torch.testing.assert_close(moved.double(), expected, rtol=1e-3, atol=1e-3)

    mirrored = similarity(target * MIRROR, seed).to(dtype)
    assert (F.pa_mpjpe(mirrored, target.to(dtype)) > 100).all()
    assert (F.pa_mpjpe(mirrored, target.to(dtype), reflection=True) < 0.1).all()
    for metric in (F.mpjpe, F.n_mpjpe):
        assert (metric(mirrored, target.to(dtype)) > 100).all()


@pytest.mark.parametrize("seed", range(3))
def test_n_mpjpe_ignores_scale_and_finds_the_best(seed: int) -> None:
    pred, target = poses(4, 17, seed=seed), poses(4, 17, seed=seed + 50)
    pred = target + 0.3 * pred
    expected = F.n_mpjpe(pred, target)
    torch.testing.assert_close(F.n_mpjpe(pred * 0.01, target), expected)
    p, t = F.subtract_root(pred), F.subtract_root(target)
    squares = [((s * p - t) ** 2).sum((-1, -2)) for s in np.linspace(0.2, 2.0, 1801)]
    best = np.linspace(0.2, 2.0, 1801)[torch.stack(squares).argmin(0)]
    torch.testing.assert_close(F.mpjpe(torch.from_numpy(best)[:, None, None] * p, t), expected, rtol=1e-2, atol=1e-2)
    collapsed = F.n_mpjpe(torch.zeros_like(target), target)
    torch.testing.assert_close(collapsed, t.norm(dim=-1).mean(-1) * 1000)


def test_equal_poses_have_no_error() -> None:
    target = poses(3, 17)
    for metric in (F.mpjpe, F.pa_mpjpe, F.n_mpjpe, F.pve, F.pa_pve):
        torch.testing.assert_close(metric(target, target), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)


def test_mesh_errors_are_joint_errors_of_vertices() -> None:
    pred, target = poses(2, 50, seed=1), poses(2, 50, seed=2)
    pred_root, target_root = poses(2, seed=3), poses(2, seed=4)
    torch.testing.assert_close(F.pve(pred, target), F.mpjpe(pred, target, None))
    expected = ((pred - pred_root[:, None]) - (target - target_root[:, None])).norm(dim=-1).mean(-1) * 1000
    torch.testing.assert_close(F.pve(pred, target, pred_root, target_root), expected)
    torch.testing.assert_close(F.pa_pve(pred, target), F.pa_mpjpe(pred, target))


def test_masked_joints_count_for_nothing() -> None:
    pred, target = poses(4, 17, seed=1), poses(4, 17, seed=2)
    mask = torch.rand(4, 17, generator=torch.Generator().manual_seed(0)) > 0.3
    mask[:, 0] = True
    mask[3] = False
    broken_target = torch.where(mask[..., None], target, torch.nan)
    broken_pred = torch.where(mask[..., None], pred, torch.inf)
    metrics = [F.mpjpe, F.n_mpjpe, F.pck, F.auc, F.pa_mpjpe]
    for metric in metrics:
        found = metric(broken_pred, broken_target, mask=mask)
        for i in range(3):
            alone = metric(pred[i, mask[i]], target[i, mask[i]])
            torch.testing.assert_close(found[i], alone, rtol=1e-6, atol=1e-6)
        assert found[3].isnan()
    mask[0, 0] = False  # the root of the first pose
    assert F.is_scored(mask).tolist() == [False, True, True, False]
    assert F.is_scored(mask, None).tolist() == [True, True, True, False]
    for metric in metrics[:4]:
        assert metric(pred, target, mask=mask)[0].isnan()
    assert F.pa_mpjpe(pred, target, mask)[0].isfinite()


def test_nan_in_a_prediction_is_never_a_good_score() -> None:
    pred, target = poses(2, 17, seed=1), poses(2, 17, seed=2)
    pred[0, 5, 1] = math.nan
    for metric in (F.mpjpe, F.pa_mpjpe, F.n_mpjpe, F.pck, F.auc, F.pve, F.pa_pve):
        found = metric(pred, target)
        assert found[0].isnan(), metric
        assert found[1].isfinite(), metric
    assert F.f_score(pred, target, 5.0).isnan().tolist() == [True, False]
    hypotheses = torch.stack([pred, target, target], 1)
    assert F.reduce_hypotheses(F.mpjpe(hypotheses, target[:, None].expand_as(hypotheses)))[0].isnan()
    assert F.calibration(hypotheses, target)[0].isnan().all()


def test_pck_and_auc_count_joints() -> None:
    target = torch.zeros(31, 3, dtype=torch.float64)
    pred = target.clone()
    pred[:, 0] = torch.arange(31, dtype=torch.float64) * 0.005 - 1e-9  # just below 0, 5, .., 150 mm
    assert F.pck(pred, target, 150.0, None).item() == 1
    assert F.pck(pred, target, 75.0, None).item() == pytest.approx(16 / 31)
    # Joint i is below thresholds i..30, but none is below 0.
    pred[0, 0] = 0
    expected = sum(31 - max(i, 1) for i in range(31)) / 31**2
    assert F.auc(pred, target, root=None).item() == pytest.approx(expected)
    assert F.auc(target, target).item() == pytest.approx(30 / 31)
    assert len(F.AUC_THRESHOLDS_MM) == 31
    assert F.AUC_THRESHOLDS_MM[-1] == 150


@pytest.mark.parametrize("fps", [None, 30.0, 50.0])
def test_acceleration_of_a_known_motion(fps: float | None) -> None:
    """Free fall: g in m/s^2 at any rate, g / fps^2 per frame."""
    rate = fps or 30.0
    time = torch.arange(20, dtype=torch.float64) / rate
    target = poses(17).expand(20, 17, 3)
    pred = target.clone()
    pred[..., 1] += 0.5 * 9.81 * time[:, None] ** 2
    expected = 9.81 if fps else 9.81 * 1000 / rate**2
    error = F.acceleration_error(pred, target, fps)
    assert error.shape == (18,)
    torch.testing.assert_close(error, torch.full((18,), expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(F.acceleration(pred, fps)[..., 1], torch.full((18, 17), expected, dtype=torch.float64))
    # The whole body falls, so nothing is left after root alignment.
    assert F.acceleration_error(pred, target, fps, root=(0,)).abs().max() < 1e-6


def test_acceleration_needs_three_known_frames() -> None:
    pred, target = poses(2, 8, 5, seed=1), poses(2, 8, 5, seed=2)
    mask = torch.ones(2, 8, 5, dtype=torch.bool)
    mask[0, 4, 2] = False
    found = F.acceleration_error(pred, target, mask=mask)
    kept = [0, 1, 3, 4]
    expected = F.acceleration_error(pred[..., kept, :], target[..., kept, :])
    torch.testing.assert_close(found[0, 2:5], expected[0, 2:5])
    torch.testing.assert_close(found[1], F.acceleration_error(pred, target)[1])
    assert F.over_three_frames(mask, root=(2,))[0, 2:5].any().item() is False
    mask[1, 3] = False
    assert F.acceleration_error(pred, target, mask=mask)[1].isnan().tolist() == [False, True, True, True, False, False]


def test_f_score_equals_a_nearest_neighbour_tree() -> None:
    pred, target = 0.02 * poses(60, seed=1), 0.02 * poses(40, seed=2)
    for threshold in (2.0, 5.0, 15.0):
        precision = (cKDTree(target).query(pred)[0] * 1000 < threshold).mean()
        recall = (cKDTree(pred).query(target)[0] * 1000 < threshold).mean()
        expected = 2 * precision * recall / max(precision + recall, 1e-12)
        assert F.f_score(pred, target, threshold).item() == pytest.approx(expected)
        far = torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64)
        assert F.f_score((pred + far).float(), (target + far).float(), threshold).item() == pytest.approx(
            expected, abs=0.03
        )
    assert F.f_score(pred, pred, 1.0).item() == 1
    assert F.f_score(pred, target + 1, 5.0).item() == 0


def test_hypotheses_are_reduced_as_named() -> None:
    errors = torch.tensor([[3.0, 1.0, 2.0], [5.0, 9.0, 4.0]])
    assert F.reduce_hypotheses(errors, "min").tolist() == [1.0, 4.0]
    assert F.reduce_hypotheses(errors, "mean").tolist() == [2.0, 6.0]
    assert F.reduce_hypotheses(errors, "first").tolist() == [3.0, 5.0]
    assert F.select_hypothesis(errors, errors.argmax(-1)).tolist() == [3.0, 9.0]
    assert F.reduce_hypotheses(errors[0]).item() == 1.0


@pytest.mark.parametrize("batch", BATCH_SHAPES)
def test_spread_is_a_standard_deviation_in_mm(batch: tuple[int, ...]) -> None:
    pred = 0.02 * poses(*batch, 2000, 5)
    pred[..., 0, :] = 0
    spread = F.hypothesis_spread(pred)
    assert spread.shape == (*batch, 5)
    assert (spread[..., 0] == 0).all()
    torch.testing.assert_close(
        spread[..., 1:], torch.full((*batch, 4), 20 * math.sqrt(3), dtype=torch.float64), rtol=0.05, atol=0
    )


@pytest.mark.parametrize("num_hypotheses", [2, 9, 20])
@pytest.mark.parametrize("heavy_tailed", [False, True])
def test_calibrated_hypotheses_are_covered_as_often_as_they_say(num_hypotheses: int, heavy_tailed: bool) -> None:
    everyone = poses(4000, num_hypotheses + 1, 4)
    if heavy_tailed:
        everyone = everyone**3
    levels = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    coverage = F.calibration(everyone[:, 1:], everyone[:, 0], levels, root=None).mean(0)
    expected = [math.floor(level * (num_hypotheses + 1) + 1e-6) / (num_hypotheses + 1) for level in levels]
    torch.testing.assert_close(coverage, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0.02)


def test_calibration_tells_too_alike_from_too_spread() -> None:
    everyone = poses(1000, 11, 4)
    alike = F.calibration(0.1 * everyone[:, 1:], everyone[:, 0], root=None).mean(0)
    spread = F.calibration(10 * everyone[:, 1:], everyone[:, 0], root=None).mean(0)
    levels = torch.tensor(F.CALIBRATION_LEVELS, dtype=torch.float64)
    assert (alike < 0.1 * levels + 0.05).all()
    assert (spread > levels - 0.02).all()
    assert spread[0] > 0.5


def test_calibration_leaves_out_the_root_and_unknown_joints() -> None:
    everyone = poses(3, 11, 4)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[0, 2] = False
    mask[1, 0] = False
    mask[2, 1:] = False
    found = F.calibration(everyone[:, 1:], everyone[:, 0], mask=mask)
    rooted = everyone - everyone[:, :, :1]
    expected = F.calibration(rooted[:1, 1:, [1, 3]], rooted[:1, 0, [1, 3]], root=None)
    torch.testing.assert_close(found[0], expected[0])
    assert found[1:].isnan().all()  # an unknown root, and nothing known but the root
    both = F.free_joints(torch.ones(4, dtype=torch.bool), (0, 1))
    assert both.all()
    assert F.free_joints(mask, None) is mask


def test_joint_coverage_equals_a_loop_over_joints() -> None:
    pred, target, levels = poses(4, 9, 5), poses(4, 5, seed=1), (0.2, 0.5, 0.9)
    target[3, 2] = math.nan
    found = F.joint_coverage(pred, target, levels)
    assert found.shape == (4, 5, 3)
    for pose in range(4):
        for joint in range(1, 5):
            everyone = [target[pose, joint] - target[pose, 0], *(pred[pose, :, joint] - pred[pose, :, 0])]
            middle = sum(everyone) / 10
            distance = [float((point - middle).norm()) for point in everyone]
            rank = 1 + sum(d < distance[0] for d in distance)
            expected = [math.nan] * 3 if (pose, joint) == (3, 2) else [float(rank <= r) for r in (2, 5, 9)]
            np.testing.assert_array_equal(found[pose, joint], expected)
    assert found[:3, 1:].unique().tolist() == [0.0, 1.0]


def test_half_precision_is_raised_and_gradients_pass() -> None:
    pred, target = poses(2, 17, seed=1), poses(2, 17, seed=2)
    for metric in (F.mpjpe, F.pa_mpjpe, F.n_mpjpe):
        assert metric(pred.half(), target.half()).dtype == torch.float32
        torch.testing.assert_close(metric(pred.half(), target.half()).double(), metric(pred, target), rtol=2e-3, atol=1)
        leaf = pred.clone().requires_grad_()
        metric(leaf, target).sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.abs().max() > 0


def test_rejects_bad_arguments() -> None:
    pose = poses(2, 17)
    with pytest.raises(ValueError, match=r"root must name joints in 0\.\.16, got \(17,\)"):
        F.mpjpe(pose, pose, (17,))
    with pytest.raises(ValueError, match="root must name joints"):
        F.subtract_root(pose, ())
    with pytest.raises(ValueError, match="both pred_root and target_root"):
        F.pve(pose, pose, poses(2))
    with pytest.raises(ValueError, match="at least one threshold"):
        F.auc(pose, pose, ())
    with pytest.raises(ValueError, match="at least 3 frames, got 2"):
        F.acceleration(pose)
    with pytest.raises(ValueError, match="at least 3 frames, got 2"):
        F.acceleration_error(pose, pose)
    with pytest.raises(ValueError, match="fps must be positive, got 0"):
        F.acceleration(poses(5, 17), 0.0)
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        F.hypothesis_spread(poses(2, 1, 17))
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        F.calibration(poses(2, 1, 17), pose)
    with pytest.raises(ValueError, match=r"levels must be one or more numbers in \(0, 1\]"):
        F.calibration(poses(2, 3, 17), pose, (0.0, 0.5))
    with pytest.raises(Exception, match="median"):
        F.reduce_hypotheses(torch.zeros(2, 3), "median")
