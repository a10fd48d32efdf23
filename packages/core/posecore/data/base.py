"""What every dataset promises: a joint set, a length, and whole batches by index; and a table's cut to fewer joints."""

from collections.abc import Callable, Sequence
from typing import Any, cast

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
        images: reads ``image`` of rows by their numbers; pictures are the one thing that does not fit into a table.
    """

    def __init__(
        self,
        joint_set: JointSet,
        samples: PoseSample,
        images: Callable[[Sequence[int]], torch.Tensor] | None = None,
    ) -> None:
        self.joint_set = joint_set
        self.samples = samples
        self.images = images
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
        batch = take(self.samples, rows)
        if self.images is not None:
            batch["image"] = self.images(rows.tolist())
        return batch


class NumberedRows(Dataset[PoseSample]):
    """A dataset whose batches say in ``row`` which rows they hold, for evaluation.

    What is drawn for a row then depends on the row, not on its place in a batch (`posecore.diffusion.noise`).
    """

    def __init__(self, dataset: Dataset[PoseSample]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, indices: Sequence[int]) -> PoseSample:
        """Rows ``indices`` as one batched sample."""
        batch: PoseSample = self.dataset.__getitems__(indices)  # type: ignore[attr-defined]
        if "row" in batch:  # what is predicted has its own numbers
            return batch
        return cast(PoseSample, {**batch, "row": torch.as_tensor(indices, dtype=torch.int64)})


_JOINT_KEYS = ("joints_cam", "joints_known", "joints_rel", "joints_2d_px", "confidence", "joints_2d_true_px")


def select_joints(dataset: PoseTable, target: JointSet) -> PoseTable:
    """The table with the joints of ``target`` alone, found by name and in its order.

    Root-relative joints stay as they are, so both sets must have the same root.

    Args:
        dataset: has all joints of ``target``, for example H36M-17 for H36M-16.
        target: which joints to keep.

    Raises:
        ValueError: if a joint is missing, or the roots differ.
    """
    source = dataset.joint_set
    if missing := [name for name in target.joint_names if name not in source.joint_names]:
        raise ValueError(f"has the joints of {source.name}, not of {target.name}: it lacks {', '.join(missing)}")
    roots = [{joints.joint_names[i] for i in joints.root} for joints in (source, target)]
    if roots[0] != roots[1]:
        source_root, target_root = ("+".join(sorted(root)) for root in roots)
        raise ValueError(f"the root of {source.name} is {source_root}, that of {target.name} is {target_root}")
    rows = torch.tensor([source.index(name) for name in target.joint_names])
    samples = {
        key: cast(torch.Tensor, value).index_select(1, rows) if key in _JOINT_KEYS else value
        for key, value in cast(dict[str, Any], dataset.samples).items()
    }
    return PoseTable(target, cast(PoseSample, samples), dataset.images)
