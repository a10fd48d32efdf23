"""Means over people, joint by joint: what the dashboard's figures of single joints are made of."""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from posecore.metrics.pose import PoseMetric


class JointMeans(PoseMetric):
    """One mean per joint, averaged over groups as every metric here is."""

    def update(
        self,
        values: Float[Tensor, "people joints"],
        counted: Bool[Tensor, "people joints"],
        group: Sequence[str] | None = None,
    ) -> None:
        """Adds people; values that are not counted may be anything."""
        for joint in range(values.shape[1]):
            self._add(values[:, joint], group, counted[:, joint], joint)

    def compute(self) -> Float[Tensor, " joints"]:
        """The means, float64; NaN for a joint that was never counted."""
        return self._row_means()
