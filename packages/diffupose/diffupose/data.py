"""DiffuPose's data: 3D poses with their 2D keypoints and cameras."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch

from posecore.data.base import PoseDataset
from posecore.data.datamodule import PoseDataModule
from posecore.data.predict_input import PredictInput
from posecore.data.sample import PoseSample
from posecore.data.transforms import flip_sample, truncate_keypoints
from posecore.training.step_seed import step_seed


class DiffuPoseDataModule(PoseDataModule):
    """Poses with keypoints; training poses are mirrored at random, whole batches on the device.

    Args:
        root: Folder that every dataset is made with.
        train: Training sets.
        val: Validation sets by name.
        test: Test sets by name.
        predict: What `predict` reads: 2D keypoints, cameras, photographs or a video.
        batch_size: Poses per batch and process, of every loader.
        num_workers: Loader processes.
        train_weights: Share of each training set; by size where None.
        flip_prob: Probability of mirroring a training pose and its keypoints left-right. Deviation: the release holds
            every pose in both forms; 0.5 sees each as often.
        truncate_prob: Probability of cutting a training person's keypoints off at a line, so that portraits are nothing
            new. Deviation: the paper has whole people only.
        seed: Seed of the order of the training data and of both augmentations.
        joint_set: The joints; sets with more are cut down to them.
    """

    def __init__(
        self,
        root: Path = Path("data"),
        train: list[Callable[[Path], PoseDataset]] | None = None,
        val: dict[str, Callable[[Path], PoseDataset]] | None = None,
        test: dict[str, Callable[[Path], PoseDataset]] | None = None,
        predict: PredictInput | None = None,
        batch_size: int = 1024,
        num_workers: int = 0,
        train_weights: list[float] | None = None,
        flip_prob: float = 0.5,
        truncate_prob: float = 0.0,
        seed: int = 0,
        joint_set: str = "h36m16",
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
        for name, prob in (("flip_prob", flip_prob), ("truncate_prob", truncate_prob)):
            if not 0 <= prob <= 1:
                raise ValueError(f"{name} must be a probability, got {prob}")
        self.flip_prob = flip_prob
        self.truncate_prob = truncate_prob

    def on_after_batch_transfer(self, batch: PoseSample, dataloader_idx: int) -> PoseSample:
        """Mirrors some people of a training batch (3D, 2D and camera together), then cuts some off."""
        if self.trainer is None or not self.trainer.training:
            return batch
        generator = torch.Generator().manual_seed(
            step_seed(self.trainer, self.trainer.fit_loop.epoch_loop.batch_idx + 1, self.seed)
        )
        keys = ("joints_rel", "joints_2d_px", "confidence", "image_size", "K")
        used = cast(PoseSample, {key: value for key, value in batch.items() if key in keys})
        mirrored = torch.rand(len(batch["joints_rel"]), generator=generator).to(batch["joints_rel"].device)
        flipped = flip_sample(used, self.joint_set)
        rows = mirrored < self.flip_prob
        augmented = {
            key: torch.where(rows.reshape(-1, *[1] * (value.ndim - 1)), flipped[key], value)  # type: ignore[literal-required]
            for key, value in cast(dict[str, torch.Tensor], used).items()
        }
        if self.truncate_prob:
            augmented["confidence"] = truncate_keypoints(
                augmented["joints_2d_px"], augmented["confidence"], self.truncate_prob, generator
            )
        return cast(PoseSample, augmented)
