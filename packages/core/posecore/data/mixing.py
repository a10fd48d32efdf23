"""Several datasets as one, and the order in which training draws their rows."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch.utils.data import Sampler

from posecore.data.base import PoseDataset
from posecore.data.sample import PoseSample, concatenate, take


class JoinedDataset(PoseDataset):
    """Several datasets one after the other, with batches across them.

    Keys that not all of them have are left out of mixed batches, so every batch has the same keys.

    Raises:
        ValueError: if there are none, or their joint sets differ.
    """

    def __init__(self, datasets: Sequence[PoseDataset]) -> None:
        if not datasets:
            raise ValueError("datasets: expected at least one")
        names = [dataset.joint_set.name for dataset in datasets]
        if len(set(names)) != 1:
            raise ValueError(f"datasets: must share one joint set, got {', '.join(names)}")
        self.datasets = list(datasets)
        self.joint_set = datasets[0].joint_set
        self.starts = torch.tensor([0, *(len(dataset) for dataset in datasets)]).cumsum(0)
        self.keys = set.intersection(*(set(dataset[0]) for dataset in datasets))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitems__(self, indices: Sequence[int]) -> PoseSample:
        """Rows ``indices`` as one batched sample."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        owner = torch.bucketize(rows, self.starts[1:], right=True)
        order = owner.argsort(stable=True)
        parts = []
        for i in owner.unique().tolist():
            part = self.datasets[i].__getitems__((rows[owner == i] - self.starts[i]).tolist())
            parts.append(cast(PoseSample, {key: value for key, value in part.items() if key in self.keys}))
        return parts[0] if len(parts) == 1 else take(concatenate(parts), order.argsort())


class EpochSampler(Sampler[int]):
    """Random order of rows that depends on seed and epoch alone, so a resumed run continues the same order.

    Lightning calls ``set_epoch`` before every epoch, and shares the order out over ranks.

    Args:
        sizes: rows of each dataset.
        weights: share of each dataset in the drawn rows, drawn with replacement; None takes every row once.
        seed: changes the order.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float] | None = None, seed: int = 0) -> None:
        self.sizes = torch.tensor(sizes)
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Selects the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        if self.weights is None:
            return iter(torch.randperm(len(self), generator=generator).tolist())
        dataset = torch.multinomial(self.weights, len(self), replacement=True, generator=generator)
        row = (torch.rand(len(self), dtype=torch.float64, generator=generator) * self.sizes[dataset]).long()
        starts = self.sizes.cumsum(0) - self.sizes
        return iter((starts[dataset] + row).tolist())
