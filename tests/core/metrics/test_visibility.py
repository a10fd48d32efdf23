import math

import pytest
import torch

from posecore.metrics import functional as F
from posecore.metrics.visibility import SpreadByVisibility

NAMES = ("spread", "error", "coverage_50", "coverage_90")


def clouds(size: int, hypotheses: int = 25, joints: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Hypotheses and a truth that is one more draw."""
    generator = torch.Generator().manual_seed(0)
    middle = torch.randn(size, 1, joints, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(size, hypotheses + 1, joints, 3, generator=generator, dtype=torch.float64)
    everyone = middle + 0.02 * noise
    return everyone[:, 1:], everyone[:, 0]


def visibility(size: int, joints: int = 6) -> torch.Tensor:
    return torch.rand(size, joints, generator=torch.Generator().manual_seed(1)) > 0.3


def test_equals_a_loop_over_joints() -> None:
    pred, target = clouds(7)
    visible, mask = visibility(7), visibility(7).flip(0)
    mask[:, 0], mask[0, 0] = True, False  # a pose without a root
    target = torch.where(mask[..., None], target, torch.nan)
    metric = SpreadByVisibility()
    for part in (slice(0, 2), slice(2, 7)):
        metric.update(pred[part], target[part], visible[part], mask[part])
    values: dict[str, list[float]] = {f"{name}_{side}": [] for name in NAMES for side in ("visible", "occluded")}
    for pose in range(1, 7):
        for joint in range(1, 6):
            if not mask[pose, joint]:
                continue
            points = pred[pose, :, joint] - pred[pose, :, 0]
            truth = target[pose, joint] - target[pose, 0]
            middle = points.mean(0)
            spread = math.sqrt(float((points - middle).square().sum()) / 24)
            ranked = torch.cat([truth[None], points])
            distance = (ranked - ranked.mean(0)).norm(dim=-1)
            rank = 1 + int((distance[1:] < distance[0]).sum())
            side = "visible" if visible[pose, joint] else "occluded"
            results = (1000 * spread, 1000 * float((middle - truth).norm()), rank <= 13, rank <= 23)
            for name, value in zip(NAMES, results, strict=True):
                values[f"{name}_{side}"].append(float(value))
    found = metric.compute()
    assert tuple(found) == tuple(values)
    for name, expected in values.items():
        assert len(expected) > 3
        assert found[name].item() == pytest.approx(sum(expected) / len(expected), rel=1e-9), name


def test_calibrated_hypotheses_are_called_so() -> None:
    pred, target = clouds(4000, joints=3)
    visible = visibility(4000, joints=3)
    # Occluded joints three times as wide: as unsure as it should be, or, of the second metric, unaware of it.
    wide = torch.where(visible, 1.0, 3.0)[..., None]
    middle = pred.mean(1)
    calibrated, unaware = SpreadByVisibility(root=None), SpreadByVisibility(root=None)
    truth = middle + wide * (target - middle)
    calibrated.update(middle[:, None] + wide[:, None] * (pred - middle[:, None]), truth, visible)
    unaware.update(pred, truth, visible)
    found, too_sure = calibrated.compute(), unaware.compute()
    for side in ("visible", "occluded"):
        assert found[f"coverage_50_{side}"].item() == pytest.approx(13 / 26, abs=0.02)
        assert found[f"coverage_90_{side}"].item() == pytest.approx(23 / 26, abs=0.02)
        ratio = found[f"error_{side}"] / found[f"spread_{side}"]
        assert ratio.item() == pytest.approx(math.sqrt(8 / (3 * math.pi) * (1 + 1 / 25)), rel=0.02)
    assert found["spread_occluded"] / found["spread_visible"] == pytest.approx(3, rel=0.02)
    assert too_sure["coverage_50_visible"] == found["coverage_50_visible"]
    assert too_sure["coverage_50_occluded"] < 0.2
    assert too_sure["spread_occluded"] / too_sure["spread_visible"] == pytest.approx(1, rel=0.02)


def test_error_along_a_line() -> None:
    pred, target = clouds(4000, joints=3)
    depth = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    metric = SpreadByVisibility(root=None)
    metric.update(pred * depth, target * depth, torch.ones(4000, 3, dtype=torch.bool))
    found = metric.compute()
    ratio = found["error_visible"] / found["spread_visible"]
    assert ratio.item() == pytest.approx(math.sqrt(2 / math.pi * (1 + 1 / 25)), rel=0.02)


def test_matched_spread_compares_the_same_joints() -> None:
    """Joint 1 is narrow and mostly hidden, joint 2 wide and mostly seen; hiding makes both twice as wide."""
    size = 4000
    pred, _ = clouds(size, joints=4)
    share = torch.tensor([1.0, 0.1, 0.9, 1.0])  # joint 3 is always seen, and is on one side only
    visible = torch.rand(size, 4, generator=torch.Generator().manual_seed(2)) < share
    wide = torch.tensor([1.0, 1.0, 10.0, 5.0]) * torch.where(visible, 1.0, 2.0)
    middle = pred.mean(1, keepdim=True)
    metric = SpreadByVisibility(root=None, num_joints=4)
    for rows in (slice(0, 900), slice(900, size)):
        part = middle[rows] + wide[rows, None, :, None] * (pred - middle)[rows]
        metric.update(part, middle[rows, 0], visible[rows])
    found = metric.compute()
    assert found["spread_occluded"] < found["spread_visible"], "other joints"
    assert found["spread_matched_occluded"] / found["spread_matched_visible"] == pytest.approx(2, rel=0.03)
    own = SpreadByVisibility(root=None)
    own.update(middle + wide[:, None, :, None] * (pred - middle), middle[:, 0], visible)
    torch.testing.assert_close({name: found[name] for name in own.compute()}, own.compute())
    apart = SpreadByVisibility(root=None, num_joints=4)
    apart.update(pred, middle[:, 0], torch.ones(size, 4, dtype=torch.bool))
    assert apart.compute()["spread_matched_visible"].isnan()


def test_a_side_without_joints_is_nan() -> None:
    pred, target = clouds(3)
    metric = SpreadByVisibility(F.CALIBRATION_LEVELS)
    metric.update(pred, target, torch.ones(3, 6, dtype=torch.bool))
    found = metric.compute()
    assert len(found) == 2 * (2 + 9)
    assert all(value.isnan() == name.endswith("_occluded") for name, value in found.items())
    curve = F.calibration(pred, target).mean(0)
    assert found["coverage_30_visible"].item() == pytest.approx(curve[2].item())


def test_a_broken_prediction_is_not_dropped() -> None:
    pred, target = clouds(3)
    pred[1, 4, 2, 0] = math.nan
    visible = torch.ones(3, 6, dtype=torch.bool)
    visible[1, 2] = False
    metric = SpreadByVisibility()
    metric.update(pred, target, visible)
    assert all(value.isnan() == name.endswith("_occluded") for name, value in metric.compute().items())


def test_half_precision_is_raised() -> None:
    pred, target = clouds(5)
    half, single = SpreadByVisibility(), SpreadByVisibility()
    visible = visibility(5)
    half.update(pred.half(), target.half(), visible)
    single.update(pred.half().float(), target.half().float(), visible)
    torch.testing.assert_close(half.compute(), single.compute())


def test_rejects_bad_arguments() -> None:
    pred, target = clouds(3)
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        SpreadByVisibility().update(pred[:, :1], target, visibility(3))
    with pytest.raises(ValueError, match=r"levels must be one or more numbers in \(0, 1\], got \(1\.5,\)"):
        SpreadByVisibility((1.5,)).update(pred, target, visibility(3))
