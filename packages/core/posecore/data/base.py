"""What every dataset promises: a joint set, a length, and whole batches by index."""

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from posecore.body.skeletons import JointSet
from posecore.data.sample import PoseSample, sample_length, take, unbatch


class PoseDataset(Dataset[PoseSample]):
    """A dataset of `PoseSample` rows.

    A subclass sets ``joint_set`` and defines ``__len__`` and ``__getitems__``. ``__getitems__`` returns one sample that
    is batched already, so the DataLoader needs no per-sample Python and its ``collate_fn`` is the identity.
    """

    joint_set: JointSet

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} must define __len__")

    def __getitems__(self, indices: Sequence[int]) -> PoseSample:
        """Rows ``indices`` as one batched sample."""
        raise TypeError(f"{type(self).__name__} must define __getitems__")

    def __getitem__(self, index: int) -> PoseSample:
        """Row ``index`` (negative counts from the end), without a batch dimension.

        Raises:
            IndexError: if there is no such row.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: {index} is outside a dataset of {len(self)} samples")
        return unbatch(self.__getitems__([index % len(self)]), 0)


class PoseTable(PoseDataset):
    """A `PoseDataset` that holds all of its rows in memory: a table to be indexed.

    Poses are small (some 700 bytes a row), so hundreds of thousands fit; everything that costs time is computed once,
    vectorised, before the table is made.

    Args:
        joint_set: the joints of ``samples``.
        samples: one batched sample with all rows.
    """

    def __init__(self, joint_set: JointSet, samples: PoseSample) -> None:
        self.joint_set = joint_set
        self.samples = samples
        self._length = sample_length(samples)

    def __len__(self) -> int:
        return self._length

    def __getitems__(self, indices: Sequence[int]) -> PoseSample:
        """Rows ``indices`` as one batched sample.

        Raises:
            IndexError: if there is no such row.
        """
        rows = torch.as_tensor(indices, dtype=torch.int64)
        if rows.numel() and (int(rows.min()) < 0 or int(rows.max()) >= self._length):
            raise IndexError(f"indices: must lie in 0..{self._length - 1}, got {int(rows.min())}..{int(rows.max())}")
        return take(self.samples, rows)
