"""Batches that keep together what belongs together: the views of an instant, the frames of a video."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from posecore.data.base import PoseDataset, PoseTable
from posecore.data.sample import PoseSample, sample_length


def row_groups(samples: PoseSample, keys: Sequence[str]) -> Int[Tensor, " rows"]:
    """A number for each row of a batched sample, equal for rows that agree in all keys, in the order of appearance.

    Args:
        samples: A batched sample.
        keys: For example "clip" and "frame" for the views of an instant, "clip" and "view" for a video; without any,
            every row is a group of its own.

    Raises:
        ValueError: A key is missing.
    """
    rows: Mapping[str, Any] = samples
    if missing := [key for key in keys if key not in rows]:
        raise ValueError(f"keys: the samples have no {', '.join(missing)} to be grouped by, only {', '.join(rows)}")
    if not keys:
        return torch.arange(sample_length(samples))
    columns = [value.tolist() if isinstance(value, Tensor) else value for value in (rows[key] for key in keys)]
    numbers: dict[tuple[Any, ...], int] = {}
    return torch.tensor([numbers.setdefault(labels, len(numbers)) for labels in zip(*columns, strict=True)])


class WholeGroups(Dataset[PoseSample]):
    """A dataset whose items are batches: as many whole groups as ``max_rows`` holds, at least one.

    Rows of a group keep the dataset's order, wherever they lie in it; ``row`` of a batch says where. Use it with
    ``DataLoader(batch_size=None)``.

    Args:
        dataset: The rows.
        keys: What rows of a group agree in.
        max_rows: Rows of a batch, unless a single group has more.
        done: Groups whose rows are all in it are left out.
        ranks: Processes that the batches are for, each of which needs one: where ``max_rows`` would make fewer, batches
            are smaller, as long as there are groups enough.

    Raises:
        ValueError: A key is missing.
    """

    def __init__(
        self, dataset: PoseDataset, keys: Sequence[str], max_rows: int, done: Collection[int] = (), ranks: int = 1
    ) -> None:
        self.dataset = dataset
        # A table's labels are at hand; asking for all rows would read all pictures.
        rows = dataset.samples if isinstance(dataset, PoseTable) else dataset.__getitems__(range(len(dataset)))
        group = row_groups(rows, keys)
        order = group.argsort(stable=True)
        groups = [members.tolist() for members in order.split(group.bincount().tolist())]
        groups = [members for members in groups if not all(row in done for row in members)]
        self.batches: list[list[int]] = []
        for limit in (max_rows, max(sum(map(len, groups)) // ranks, 1), 1):
            if len(self.batches) < min(ranks, len(groups)):
                self.batches = _packed(groups, min(limit, max_rows))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> PoseSample:
        """One batch."""
        if not 0 <= index < len(self):
            raise IndexError(f"index: {index} is outside {len(self)} batches")
        batch = self.dataset.__getitems__(self.batches[index])
        batch["row"] = torch.tensor(self.batches[index])
        return batch


def _packed(groups: Sequence[list[int]], max_rows: int) -> list[list[int]]:
    batches: list[list[int]] = []
    for members in groups:
        if not batches or len(batches[-1]) + len(members) > max_rows:
            batches.append([])
        batches[-1] += members
    return batches
