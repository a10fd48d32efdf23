"""The DataModule that every method shares: lists and dicts of dataset factories, built in ``setup``."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset, Subset

from posecore.body.skeletons import get_joint_set
from posecore.data.base import NumberedRows, PoseDataset, PoseTable, select_joints
from posecore.data.mixing import DealtBatches, EpochSampler, JoinedDataset
from posecore.data.predict_dataset import PredictDataset
from posecore.data.predict_input import NO_KEYPOINTS, PredictInput
from posecore.data.sample import PoseSample, group_names

DatasetFactory = Callable[[Path], PoseDataset]


class PoseDataModule(LightningDataModule):
    """Training, validation and test data from factories.

    A factory makes a dataset from the data folder. In YAML, ``class_path: posecore.data.CMUMocap`` with
    ``init_args: {split: train}`` is one: the folder is filled in here. ``val_names`` and ``test_names`` are the dicts'
    names in the order of the dataloaders; methods use them as metric paths.

    Args:
        root: folder with the data; datasets that need none ignore it.
        train: training sets, joined.
        val: validation sets by name.
        test: test sets by name.
        predict: what `predict` reads; its people come as samples of ``joint_set``.
        batch_size: samples per batch, of every loader.
        num_workers: worker processes of every loader. Batches are made by indexing tables, so 0 is fast.
        train_weights: share of each training set in the samples of an epoch, in place of shares by size; the epoch
            keeps its length, rows are drawn with replacement.
        seed: seed of the order of training samples.
        joint_set: name of the joint set that the method works in; datasets with more joints are cut down to it.
    """

    def __init__(
        self,
        root: Path = Path("data"),
        train: list[Callable[[Path], PoseDataset]] | None = None,
        val: dict[str, Callable[[Path], PoseDataset]] | None = None,
        test: dict[str, Callable[[Path], PoseDataset]] | None = None,
        predict: PredictInput | None = None,
        batch_size: int = 256,
        num_workers: int = 0,
        train_weights: list[float] | None = None,
        seed: int = 0,
        joint_set: str = "h36m17",
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise ValueError(
                f"batch_size and num_workers: must be at least 1 and 0, got {batch_size} and {num_workers}"
            )
        if train_weights is not None and (
            len(train_weights) != len(train or []) or min(train_weights, default=0) < 0 or sum(train_weights) <= 0
        ):
            raise ValueError(
                f"train_weights: needs one number >= 0 for each of the {len(train or [])} training sets, not all 0, "
                f"got {train_weights}"
            )
        self.root = root
        self.predict = predict
        self.joint_set = get_joint_set(joint_set)
        self.factories: dict[str, Any] = {"train": list(train or []), "val": dict(val or {}), "test": dict(test or {})}
        self.val_names = list(val or {})
        self.test_names = list(test or {})
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.train_weights = train_weights
        self.seed = seed
        self.train_set: JoinedDataset | None = None
        self.val_sets: dict[str, PoseDataset] = {}
        self.test_sets: dict[str, PoseDataset] = {}
        self.predict_set: PredictDataset | None = None
        self.predict_done: frozenset[int] = frozenset()
        """Rows of the predict set that are not predicted again; set before the dataloader is made."""

    def setup(self, stage: str) -> None:
        """Builds what the stage needs, once.

        Raises:
            FileNotFoundError: if a dataset's files are not below ``root``.
            ValueError: if a dataset lacks joints of the joint set or has another root, or there is nothing to predict.
        """
        if stage == "fit" and self.train_set is None and self.factories["train"]:
            self.train_set = JoinedDataset([self._build("train", make) for make in self.factories["train"]])
        if stage in ("fit", "validate") and not self.val_sets:
            self.val_sets = {name: self._build(f"val.{name}", make) for name, make in self.factories["val"].items()}
        if stage == "test" and not self.test_sets:
            self.test_sets = {name: self._build(f"test.{name}", make) for name, make in self.factories["test"].items()}
        if stage == "predict" and self.predict_set is None:
            self.predict_set = self._read_predict()

    def _read_predict(self) -> PredictDataset:
        """What `predict` is given, as the method needs it."""
        if self.predict is None:
            raise ValueError(NO_KEYPOINTS)
        return self.predict.dataset(self.joint_set.name, needs="keypoints")

    def train_dataloader(self) -> DataLoader[PoseSample]:
        """Shuffled training batches; the last, smaller one is dropped. The order depends on seed and epoch alone.

        A run that is resumed in the middle of an epoch gets the batches that it has not seen; no other is read.

        Raises:
            ValueError: if there is no training set, or a process's share of it is smaller than a batch.
        """
        if self.train_set is None:
            raise ValueError("train: no training sets; name at least one factory, and call setup('fit')")
        sizes = [len(dataset) for dataset in self.train_set.datasets]
        ranks = self.ranks
        sampler = EpochSampler(sizes, self.train_weights, self.seed, *ranks)
        if len(sampler) < self.batch_size:
            share = "" if ranks[0] == 1 else f" of each of {ranks[0]} processes"
            raise ValueError(f"batch_size: {self.batch_size} is more than the {len(sampler)} training samples{share}")
        if self.trainer is not None:
            epoch, batch = next_batch(self.trainer)
            sampler.start_at(epoch, batch * self.batch_size)
            # Lightning knows of no sampler that starts in the middle.
            warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before")
        return self._loader(self.train_set, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> list[DataLoader[PoseSample]]:
        """One loader per entry of ``val_names``."""
        return [self._loader(self.val_sets[name]) for name in self.val_names]

    def test_dataloader(self) -> list[DataLoader[PoseSample]]:
        """One loader per entry of ``test_names``."""
        return [self._loader(self.test_sets[name]) for name in self.test_names]

    def predict_dataloader(self) -> DataLoader[PoseSample]:
        """The rows of the predict set that are not done, in its order; ``row`` says which.

        Raises:
            ValueError: if there is nothing to predict.
        """
        if self.predict_set is None:
            raise ValueError("predict: nothing to predict; give a PredictInput, and call setup('predict')")
        rows = [row for row in range(len(self.predict_set)) if row not in self.predict_done]
        return self._loader(Subset(self.predict_set, rows))

    def groups(self, name: str, keys: tuple[str, ...]) -> list[str]:
        """Names of the groups of a validation or test set, sorted; empty where there are no keys.

        Args:
            name: the set.
            keys: labels that make a group, as `posecore.metrics.protocols.Protocol.group_keys`.

        Raises:
            ValueError: if the set's samples lack one of the labels.
        """
        dataset = (self.val_sets | self.test_sets)[name]
        try:
            rows = dataset.samples if isinstance(dataset, PoseTable) else dataset.__getitems__(range(len(dataset)))
            return sorted(set(group_names(rows, keys) or []))
        except ValueError as error:
            raise ValueError(f"data set {name!r}: {error}") from error

    def _build(self, name: str, make: DatasetFactory) -> PoseDataset:
        try:
            dataset = make(self.root)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"data.{name}: {error}. Set data.root (now {self.root}) to the folder that holds the data"
            ) from error
        if dataset.joint_set == self.joint_set:
            return dataset
        if not isinstance(dataset, PoseTable):
            raise ValueError(f"data.{name}: has the joints of {dataset.joint_set.name}, not of {self.joint_set.name}")
        try:
            return select_joints(dataset, self.joint_set)
        except ValueError as error:
            raise ValueError(f"data.{name}: {error}") from error

    @property
    def ranks(self) -> tuple[int, int]:
        """Number of processes, and this one's number; one without a Trainer."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _loader(self, dataset: Dataset[PoseSample], **options: Any) -> DataLoader[PoseSample]:
        size = self.batch_size
        if "sampler" not in options:
            options["sampler"] = dealt = DealtBatches(len(dataset), size, *self.ranks)  # type: ignore[arg-type]
            size, dataset = dealt.batch_size, NumberedRows(dataset)
        return DataLoader(
            dataset,
            batch_size=size,
            num_workers=self.num_workers,
            collate_fn=_identity,
            persistent_workers=self.num_workers > 0,
            **options,
        )


def next_batch(trainer: Trainer) -> tuple[int, int]:
    """Epoch and number of the training batch that comes next: (0, 0) in a new run, anywhere in a resumed one."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    batches = trainer.fit_loop.epoch_loop.batch_progress
    epoch: int = progress.processed
    if progress.ready == epoch:  # between epochs
        return epoch, 0
    return (epoch + 1, 0) if batches.is_last_batch else (epoch, batches.current.ready)


def _identity(batch: Any) -> Any:
    """``__getitems__`` has made the batch already."""
    return batch
