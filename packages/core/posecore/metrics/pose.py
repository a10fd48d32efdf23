"""The errors of ``posecore.metrics.functional`` as torchmetrics.

Every metric keeps a float64 sum and a count per group and nothing else, so the mean over any number of batches and
ranks, even or not, is the mean over all poses. A group is whatever a protocol averages over first, usually an action.
Leading batch dimensions are flattened; ``group`` then names one group per pose.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

from posecore.geometry.alignment import align
from posecore.metrics import functional
from posecore.metrics.functional import AUC_THRESHOLDS_MM, CALIBRATION_LEVELS, PCK_THRESHOLD_MM
from posecore.metrics.protocols import AVERAGED_OVER, Protocol, evaluate, evaluate_prefixes

Root = tuple[int, ...] | None


class PoseMetric(Metric):
    """Sums and counts of values that have one entry per pose: the states and averages of every metric here.

    Args:
        groups: Names of the groups. Where given, every update names the group of each pose.
        num_rows: How many different values are kept (levels of a curve, metrics of a protocol).
        average_groups: Whether ``compute`` is the mean of the means of the groups that were seen, instead of the mean
            of all poses.
        **kwargs: For ``torchmetrics.Metric``.

    Raises:
        ValueError: If ``groups`` is empty or names one twice.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = False
    total: Tensor
    count: Tensor

    def __init__(
        self, groups: Sequence[str] | None = None, num_rows: int = 1, average_groups: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if groups is not None and (not groups or len(set(groups)) < len(groups)):
            raise ValueError(f"groups must be one or more different names, got {list(groups)}")
        self.groups = None if groups is None else tuple(groups)
        self.average_groups = average_groups
        shape = (num_rows, 1 if groups is None else len(groups))
        self.add_state("total", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The mean, float64; NaN before any pose was seen."""
        return self._row_means()[0]

    def compute_groups(self) -> dict[str, Tensor]:
        """The mean of each group over all ranks; NaN for one that was not seen.

        A scalar per group, or a vector where the metric keeps several values (``Calibration``: levels;
        ``ProtocolMetric``: in the order of ``row_names``).

        Raises:
            ValueError: If the metric has no groups.
        """
        if self.groups is None:
            raise ValueError("this metric was made without groups")
        with self.sync_context(should_sync=self._to_sync, should_unsync=self._should_unsync):
            means = (self.total / self.count).unbind(dim=1)
        return {name: mean.squeeze(0) for name, mean in zip(self.groups, means, strict=True)}

    def _row_means(self) -> Tensor:
        if not self.average_groups:
            return self.total.sum(dim=1) / self.count.sum(dim=1)
        seen = self.count > 0
        return torch.where(seen, self.total / self.count, 0).sum(dim=1) / seen.sum(dim=1)

    def _add(self, values: Tensor, group: Sequence[str] | None, scored: Tensor | None = None, row: int = 0) -> None:
        """Adds one value per pose, of the poses that ``scored`` names; what they hold, NaN included, is kept."""
        values = values.detach().reshape(-1).to(torch.float64)
        scored = torch.ones_like(values, dtype=torch.bool) if scored is None else scored.reshape(-1)
        index = self._group_index(group, len(values)).to(values.device)
        self.total[row].index_add_(0, index, torch.where(scored, values, 0))
        self.count[row].index_add_(0, index, scored.to(torch.int64))

    def _group_index(self, group: Sequence[str] | None, length: int) -> Tensor:
        if self.groups is None:
            if group is not None:
                raise ValueError("group was given to a metric that was made without groups")
            return torch.zeros(length, dtype=torch.int64)
        if group is None or len(group) != length:
            got = "none" if group is None else len(group)
            raise ValueError(f"group must name the group of each of {length} poses, got {got}")
        unknown = sorted(set(group) - set(self.groups))
        if unknown:
            raise ValueError(f"unknown group {unknown[0]!r}, expected one of {list(self.groups)}")
        return torch.tensor([self.groups.index(name) for name in group], dtype=torch.int64)


class MPJPE(PoseMetric):
    """Mean per joint position error after root alignment, mm."""

    def __init__(self, root: Root = (0,), groups: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(groups, **kwargs)
        self.root = root

    def update(
        self,
        pred: Float[Tensor, "*batch joints 3"],
        target: Float[Tensor, "*batch joints 3"],
        mask: Bool[Tensor, "*batch joints"] | None = None,
        group: Sequence[str] | None = None,
    ) -> None:
        """Adds poses, in m."""
        self._add(functional.mpjpe(pred, target, self.root, mask), group, _scored(mask, self.root))


class PAMPJPE(PoseMetric):
    """Mean per joint position error after Procrustes alignment, mm."""

    def __init__(self, reflection: bool = False, groups: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(groups, **kwargs)
        self.reflection = reflection

    def update(
        self,
        pred: Float[Tensor, "*batch joints 3"],
        target: Float[Tensor, "*batch joints 3"],
        mask: Bool[Tensor, "*batch joints"] | None = None,
        group: Sequence[str] | None = None,
    ) -> None:
        """Adds poses, in m."""
        self._add(functional.pa_mpjpe(pred, target, mask, self.reflection), group, _scored(mask, None))


class NMPJPE(MPJPE):
    """Mean per joint position error after root alignment and scaling, mm."""

    def update(
        self,
        pred: Float[Tensor, "*batch joints 3"],
        target: Float[Tensor, "*batch joints 3"],
        mask: Bool[Tensor, "*batch joints"] | None = None,
        group: Sequence[str] | None = None,
    ) -> None:
        """Adds poses, in m."""
        self._add(functional.n_mpjpe(pred, target, self.root, mask), group, _scored(mask, self.root))


class PVE(PoseMetric):
    """Mean per vertex error, mm; after root alignment where the roots are given."""

    def update(
        self,
        pred: Float[Tensor, "*batch vertices 3"],
        target: Float[Tensor, "*batch vertices 3"],
        pred_root: Float[Tensor, "*batch 3"] | None = None,
        target_root: Float[Tensor, "*batch 3"] | None = None,
        group: Sequence[str] | None = None,
    ) -> None:
        """Adds meshes and the root joints to subtract, in m."""
        self._add(functional.pve(pred, target, pred_root, target_root), group)


class PAPVE(PAMPJPE):
    """Mean per vertex error after Procrustes alignment, mm: ``PAMPJPE`` with vertices in the place of joints."""


class PCK(PoseMetric):
    """Share of joints less than a threshold off after root alignment, 0..1."""

    higher_is_better = True

    def __init__(
        self,
        threshold_mm: float = PCK_THRESHOLD_MM,
        root: Root = (0,),
        groups: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(groups, **kwargs)
        self.thresholds_mm: tuple[float, ...] = (threshold_mm,)
        self.root = root

    def update(
        self,
        pred: Float[Tensor, "*batch joints 3"],
        target: Float[Tensor, "*batch joints 3"],
        mask: Bool[Tensor, "*batch joints"] | None = None,
        group: Sequence[str] | None = None,
    ) -> None:
        """Adds poses, in m."""
        values = functional.auc(pred, target, self.thresholds_mm, self.root, mask)
        self._add(values, group, _scored(mask, self.root))


class AUC(PCK):
    """Mean of PCK over thresholds, 0..1."""

    def __init__(
        self,
        thresholds_mm: Sequence[float] = AUC_THRESHOLDS_MM,
        root: Root = (0,),
        groups: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root=root, groups=groups, **kwargs)
        self.thresholds_mm = tuple(thresholds_mm)


class AccelerationError(PoseMetric):
    """Difference of accelerations: m/s^2 with ``fps``, mm/frame^2 without; every inner frame of a clip is one value."""

    def __init__(
        self, fps: float | None = None, root: Root = None, groups: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(groups, **kwargs)
        self.fps = fps
        self.root = root

    def update(
        self,
        pred: Float[Tensor, "*batch frames joints 3"],
        target: Float[Tensor, "*batch frames joints 3"],
        mask: Bool[Tensor, "*batch frames joints"] | None = None,
        group: str | None = None,
    ) -> None:
        """Adds clips, in m, all of one group."""
        values = functional.acceleration_error(pred, target, self.fps, self.root, mask)
        scored = None if mask is None else functional.is_scored(functional.over_three_frames(mask, self.root), None)
        self._add(values, None if group is None else [group] * values.numel(), scored)


class FScore(PoseMetric):
    """Harmonic mean of precision and recall of vertices at a distance, 0..1.

    Args:
        threshold_mm: The distance.
        aligned: Whether meshes are Procrustes-aligned first, as FreiHAND's are.
        groups: As in ``PoseMetric``.
        **kwargs: For ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(
        self, threshold_mm: float, aligned: bool = True, groups: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(groups, **kwargs)
        self.threshold_mm = threshold_mm
        self.aligned = aligned

    def update(
        self,
        pred: Float[Tensor, "*batch n 3"],
        target: Float[Tensor, "*batch m 3"],
        group: Sequence[str] | None = None,
    ) -> None:
        """Adds meshes, in m; of one topology where they are aligned first."""
        pred = align(pred, target) if self.aligned else pred
        self._add(functional.f_score(pred, target, self.threshold_mm), group)


class HypothesisSpread(MPJPE):
    """Standard deviation over hypotheses, mean over joints (without a single root joint, which has none), mm."""

    higher_is_better = None

    def update(  # type: ignore[override]
        self, pred: Float[Tensor, "*batch hypotheses joints 3"], group: Sequence[str] | None = None
    ) -> None:
        """Adds poses, in m."""
        spread = functional.hypothesis_spread(pred, self.root)
        free = functional.free_joints(torch.ones_like(spread, dtype=torch.bool), self.root)
        self._add(torch.where(free, spread, 0).sum(dim=-1) / free.sum(dim=-1), group)


class Calibration(PoseMetric):
    """Share of joints whose truth lies within the spread of the hypotheses, one value per level."""

    higher_is_better = None

    def __init__(
        self,
        levels: Sequence[float] = CALIBRATION_LEVELS,
        root: Root = (0,),
        groups: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(groups, num_rows=len(levels), **kwargs)
        self.levels = tuple(levels)
        self.root = root

    def update(
        self,
        pred: Float[Tensor, "*batch hypotheses joints 3"],
        target: Float[Tensor, "*batch joints 3"],
        mask: Bool[Tensor, "*batch joints"] | None = None,
        group: Sequence[str] | None = None,
    ) -> None:
        """Adds poses, in m."""
        coverage = functional.calibration(pred, target, self.levels, self.root, mask)
        known = torch.ones_like(target[..., 0], dtype=torch.bool) if mask is None else mask
        scored = functional.free_joints(known, self.root).any(dim=-1)
        for row in range(len(self.levels)):
            self._add(coverage[..., row], group, scored, row)

    def compute(self) -> Tensor:
        """Coverage at each level, float64."""
        return self._row_means()


class ProtocolMetric(PoseMetric):
    """Everything a protocol names, averaged as it says.

    Args:
        protocol: How predictions are scored.
        groups: Names of the groups that ``protocol.group_keys`` makes; needed where there are any.
        counts: Numbers of hypotheses, e.g. 1, 5, 10, 25: the first that many of a draw are scored, for each number.
            None scores all.
        **kwargs: For ``torchmetrics.Metric``.

    Attributes:
        row_names: What is kept: the protocol's metrics, or with counts ``mpjpe_n1``, .., ``mpjpe_n5``, ...

    Raises:
        ValueError: If the protocol averages groups and ``groups`` is not given.
    """

    higher_is_better = None

    def __init__(
        self,
        protocol: Protocol,
        groups: Sequence[str] | None = None,
        counts: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        grouped = protocol.averaging != "frame"
        if grouped and groups is None:
            averaged_over = AVERAGED_OVER[protocol.averaging]
            raise ValueError(f"protocol {protocol.name!r} averages over {averaged_over}: groups must name them")
        names: tuple[str, ...] = protocol.metrics
        if counts is not None:
            names = tuple(f"{metric}_n{count}" for count in counts for metric in protocol.metrics)
        super().__init__(groups, num_rows=len(names), average_groups=grouped, **kwargs)
        self.protocol = protocol
        self.counts = None if counts is None else tuple(counts)
        self.row_names = names

    def update(
        self,
        pred: Float[Tensor, "batch hypotheses joints 3"],
        target: Float[Tensor, "batch joints 3"],
        mask: Bool[Tensor, "batch joints"] | None = None,
        pred_vertices: Float[Tensor, "batch hypotheses vertices 3"] | None = None,
        target_vertices: Float[Tensor, "batch vertices 3"] | None = None,
        group: Sequence[str] | None = None,
    ) -> None:
        """Adds a batch, as ``evaluate`` takes it; one clip in the order of time for ``acceleration``.

        Raises:
            ValueError: If there are fewer hypotheses than a count, and as ``evaluate``.
        """
        batch = pred, target, mask, pred_vertices, target_vertices
        if self.counts is None:
            values = evaluate(self.protocol, *batch)
        else:
            by_count = evaluate_prefixes(self.protocol, self.counts, *batch)
            values = {f"{metric}_n{n}": scores[metric] for n, scores in by_count.items() for metric in scores}
        scored = None if mask is None else self.protocol.is_scored(mask)
        for row, name in enumerate(self.row_names):
            if self.protocol.metrics[row % len(self.protocol.metrics)] == "acceleration":
                known = None if mask is None else functional.over_three_frames(mask, self.protocol.root)
                inner = None if known is None else known[..., list(self.protocol.scored_joints)].any(dim=-1)
                self._add(values[name], None if group is None else group[1:-1], inner, row)
            elif name in values:
                self._add(values[name], group, scored, row)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """The mean of each of ``row_names`` that was seen, float64, in the units of ``posecore.metrics.protocols``."""
        seen = self.count.sum(dim=1).tolist()
        means = self._row_means()
        return {name: means[row] for row, name in enumerate(self.row_names) if seen[row]}


def _scored(mask: Tensor | None, root: Root) -> Tensor | None:
    return None if mask is None else functional.is_scored(mask, root)
