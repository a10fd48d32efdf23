"""What many hypotheses say about joints that the image shows, and about those it does not."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posecore.metrics import functional
from posecore.metrics.pose import PoseMetric, Root

_SIDES = ("visible", "occluded")


class SpreadByVisibility(PoseMetric):
    """Spread, error and calibration of hypotheses, apart for visible and for occluded joints.

    ==========  ========================================================================================================
    spread      mean of ``functional.hypothesis_spread``, mm: standard deviation of a joint over the hypotheses
    error       mean distance of the hypotheses' mean to the truth, mm
    coverage    share of joints of ``functional.joint_coverage`` at a level: the truth is among the central 50 %, 90 %,
                .. of the hypotheses
    matched     with ``num_joints``: spread joint by joint, mean over the joints that occur on both sides. Which joints
                are hidden is no accident (the trunk's, below the surface, near the root), so only this compares like
                with like
    ==========  ========================================================================================================

    All are means over joints, not over poses, after root alignment; a single root joint is left out. Hypotheses that
    know what the image leaves open spread more on occluded joints than on visible ones, and are calibrated on both:

    - at level q of S hypotheses exactly floor(q (S + 1)) / (S + 1) of the joints are covered, e.g. 13/26 and 23/26 at
      0.5 and 0.9 of 25; less says that they are too alike, more that they spread too far;
    - where the clouds are normal the error is sqrt(1 + 1/S) times the spread, times 0.92 if they are as wide in every
      direction, times 0.80 if they are lines, e.g. along the depth.

    Args:
        levels: Nominal coverages q in (0, 1]; ``functional.CALIBRATION_LEVELS`` gives the whole curve.
        root: Joints whose mean is subtracted from each pose first; None leaves the positions as they are.
        num_joints: Joints of a pose, for ``matched``; 0 leaves it out.
        **kwargs: For ``torchmetrics.Metric``.
    """

    higher_is_better = None

    def __init__(
        self, levels: Sequence[float] = (0.5, 0.9), root: Root = (0,), num_joints: int = 0, **kwargs: Any
    ) -> None:
        names = ("spread", "error", *(f"coverage_{100 * level:g}" for level in levels))
        super().__init__(num_rows=len(_SIDES) * (len(names) + num_joints), **kwargs)
        self.levels = tuple(levels)
        self.root = root
        self.num_joints = num_joints
        self.row_names = tuple(f"{name}_{side}" for name in names for side in _SIDES)

    def update(
        self,
        pred: Float[Tensor, "*batch hypotheses joints 3"],
        target: Float[Tensor, "*batch joints 3"],
        visible: Bool[Tensor, "*batch joints"],
        mask: Bool[Tensor, "*batch joints"] | None = None,
    ) -> None:
        """Adds poses, in m.

        Args:
            pred: Hypotheses.
            target: Truth.
            visible: Joints that the image shows.
            mask: Joints whose truth is known; others count on neither side.

        Raises:
            ValueError: If there are fewer than 2 hypotheses or a level is outside (0, 1].
        """
        coverage = functional.joint_coverage(pred, target, self.levels, self.root)
        spread = functional.hypothesis_spread(pred, self.root)
        mean = pred.mean(dim=-3, dtype=torch.promote_types(pred.dtype, torch.float32))
        error = functional.joint_errors(mean, target, self.root)
        free = functional.free_joints(torch.ones_like(visible) if mask is None else mask, self.root)
        for i, values in enumerate((spread, error, *coverage.unbind(dim=-1))):
            self._add(values, None, free & visible, 2 * i)
            self._add(values, None, free & ~visible, 2 * i + 1)
        if self.num_joints:
            first = len(self.row_names)
            of_joints = spread.detach().double().reshape(-1, self.num_joints)
            for side in (free & visible, free & ~visible):
                rows, side = slice(first, first + self.num_joints), side.reshape(-1, self.num_joints)
                self.total[rows, 0] += torch.where(side, of_joints, 0.0).sum(dim=0)
                self.count[rows, 0] += side.sum(dim=0)
                first += self.num_joints

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """``spread_visible``, ``spread_occluded``, ``error_visible``, .., ``coverage_50_visible``, ..: float64.

        With ``num_joints`` also ``spread_matched_visible`` and ``spread_matched_occluded``. NaN where no such joint was
        seen.
        """
        means = self._row_means()
        found = dict(zip(self.row_names, means, strict=False))
        if self.num_joints:
            visible, occluded = means[len(self.row_names) :].split(self.num_joints)
            on_both = ~(visible.isnan() | occluded.isnan())
            found |= {
                f"spread_matched_{name}": side[on_both].mean()
                for name, side in zip(_SIDES, (visible, occluded), strict=True)
            }
        return found
