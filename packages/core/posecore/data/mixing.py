"""Several datasets as one, and the order in which training draws their rows."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DistributedSampler

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


class EpochSampler(DistributedSampler[int]):
    """Random order of rows that depends on seed and epoch alone, shared out over ranks as cards are dealt.

    Batch b of all ranks together is the same rows whatever the number of ranks, as long as their batches together have
    the same size. No row is repeated to make ranks even: what is left over is left out of this epoch. It is a
    ``DistributedSampler`` so that Lightning puts no other one around it; Lightning calls ``set_epoch`` before every
    epoch.

    Args:
        sizes: rows of each dataset.
        weights: share of each dataset in the drawn rows, drawn with replacement; None takes every row once.
        seed: changes the order.
        num_replicas: number of ranks.
        rank: whose rows.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float] | None = None,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.sizes = torch.tensor(sizes)
        self.total = int(self.sizes.sum())
        super().__init__(range(self.total), num_replicas, rank, seed=seed)  # type: ignore[arg-type]
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.done = 0

    def start_at(self, epoch: int, done: int) -> None:
        """Selects an epoch of which this rank has seen ``done`` rows, which a resumed run does not read again."""
        self.epoch, self.done = epoch, done

    def set_epoch(self, epoch: int) -> None:
        """Selects the order of an epoch, from its beginning if it is a new one."""
        if epoch != self.epoch:
            self.start_at(epoch, 0)

    def __len__(self) -> int:
        """Rows of the whole epoch, also where it starts in the middle: Lightning counts batches from the beginning."""
        return self.total // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        mine = self._order()[self.rank :: self.num_replicas][: len(self)]
        return iter(mine[self.done :].tolist())

    def _order(self) -> Int[Tensor, " rows"]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        if self.weights is None:
            return torch.randperm(self.total, generator=generator)
        dataset = torch.multinomial(self.weights, self.total, replacement=True, generator=generator)
        row = (torch.rand(self.total, dtype=torch.float64, generator=generator) * self.sizes[dataset]).long()
        starts = self.sizes.cumsum(0) - self.sizes
        return starts[dataset] + row


class DealtBatches(DistributedSampler[int]):
    """Rows in order, whole batches of them dealt to ranks: rank r of W has the batches r, r + W, r + 2 W, ...

    No row is repeated, so none counts twice. Ranks may have different numbers of batches. Each needs one, since
    Lightning leaves out the evaluation of a rank that has none, and the others would wait for it: a set with fewer
    batches than ranks is dealt in smaller ones. What is drawn for a row does not depend on its batch
    (`posecore.diffusion.noise`). It is a ``DistributedSampler`` so that Lightning puts no other one around it.

    Args:
        rows: number of rows.
        batch_size: rows of a batch.
        num_replicas: number of ranks.
        rank: whose batches.

    Attributes:
        batch_size: Rows of the batches that are dealt, for the loader.

    Raises:
        ValueError: if there are fewer rows than ranks.
    """

    def __init__(self, rows: int, batch_size: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(range(rows), num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        if 0 < rows < num_replicas:
            raise ValueError(f"trainer.devices: {num_replicas} processes for {rows} rows; use at most {rows}")
        self.batch_size = min(batch_size, max(rows // num_replicas, 1)) if num_replicas > 1 else batch_size
        starts = range(rank * self.batch_size, rows, num_replicas * self.batch_size)
        self.mine = [row for start in starts for row in range(start, min(start + self.batch_size, rows))]

    def __len__(self) -> int:
        return len(self.mine)

    def __iter__(self) -> Iterator[int]:
        return iter(self.mine)
