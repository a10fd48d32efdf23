"""Data of the methods that see crops of photographs: raw crops in, the network's crops out."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch

from posecore.data.augment import CropAugmentation
from posecore.data.base import PoseDataset
from posecore.data.datamodule import PoseDataModule
from posecore.data.predict_dataset import PredictDataset
from posecore.data.predict_input import NO_PHOTO, PredictInput
from posecore.data.sample import PoseSample
from posecore.training.step_seed import step_seed

_PREDICT_KEYS = ("image", "box", "K", "joints_2d_px", "confidence", "row")


class CropDataModule(PoseDataModule):
    """People or hands with raw crops (``posecore.data.SPINNpz``, ``SMPLNpz`` with ``crop_margin``, ``OpenImages``...).

    Crops are cut out, turned, mirrored and normalised on the batch's device, keypoints, camera and mesh with them
    (`posecore.data.augment`); what a network sees is in the frame of its crop.

    Args:
        root: Folder that every dataset is made with.
        train: Training sets.
        val: Validation sets by name.
        test: Test sets by name.
        predict: What `predict` reads: photographs or a video, with boxes or keypoints.
        batch_size: People per batch and process, of every loader.
        num_workers: Loader processes; decoding pictures is what they do.
        train_weights: Share of each training set; by size where None.
        augmentation: The crop's size, and how training changes it; SPIN's where None.
        seed: Seed of the order of the training data and of the augmentation.
        joint_set: The joints of keypoints and truth: joints44, or freihand21.
    """

    def __init__(
        self,
        root: Path = Path("data"),
        train: list[Callable[[Path], PoseDataset]] | None = None,
        val: dict[str, Callable[[Path], PoseDataset]] | None = None,
        test: dict[str, Callable[[Path], PoseDataset]] | None = None,
        predict: PredictInput | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        train_weights: list[float] | None = None,
        augmentation: CropAugmentation | None = None,
        seed: int = 0,
        joint_set: str = "joints44",
    ) -> None:
        super().__init__(
            root=root,
            train=train,
            val=val,
            test=test,
            predict=predict,
            batch_size=batch_size,
            num_workers=num_workers,
            train_weights=train_weights,
            seed=seed,
            joint_set=joint_set,
        )
        self.augmentation = augmentation or CropAugmentation()

    def setup(self, stage: str) -> None:
        """Builds what the stage needs, once.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: A file does not fit, raw crops have another margin than the augmentation takes them for, or
                there is nothing to predict.
        """
        super().setup(stage)
        joined = [] if self.train_set is None else self.train_set.datasets
        for dataset in (*joined, *self.val_sets.values(), *self.test_sets.values(), self.predict_set):
            images = getattr(dataset, "images", None)
            margin = getattr(images, "margin", None)
            if margin is not None and margin != self.augmentation.margin:
                raise ValueError(
                    f"data.augmentation.margin is {self.augmentation.margin}, but the raw crops of "
                    f"{type(dataset).__name__} cover {margin} times the box: set both to the same"
                )

    def _read_predict(self) -> PredictDataset:
        """The people in the photographs, whether keypoints or boxes of them are given."""
        if self.predict is None:
            raise ValueError(NO_PHOTO)
        return self.predict.dataset(self.joint_set.name, copies_only=True, needs="people")

    def on_after_batch_transfer(self, batch: PoseSample, dataloader_idx: int) -> PoseSample:
        """Makes the network's crops of raw ones: random views in training, the box itself otherwise."""
        if self.trainer is not None and self.trainer.training:
            used = cast(PoseSample, {key: value for key, value in batch.items() if not key.startswith("start_")})
            place = self.trainer.fit_loop.epoch_loop.batch_idx + 1
            generator = torch.Generator().manual_seed(step_seed(self.trainer, place, self.seed))
            return self.augmentation.train(used, self.joint_set, generator)
        if self.trainer is not None and self.trainer.predicting:
            batch = cast(PoseSample, {key: value for key, value in batch.items() if key in _PREDICT_KEYS})
        return self.augmentation.evaluate(batch, self.joint_set)
