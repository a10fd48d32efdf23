"""ZeDO's data: root-relative 3D poses to train on, 2D keypoints with cameras to test on."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.data.base import PoseDataset
from posecore.data.datamodule import PoseDataModule
from posecore.data.predict_input import PredictInput
from posecore.data.sample import PoseSample
from posecore.data.transforms import flip_joints, rotate_joints
from posecore.geometry.rotation import random_rotmat
from posecore.training.step_seed import step_seed


class ZeDODataModule(PoseDataModule):
    """Poses for ZeDO, with the paper's two augmentations, applied to whole batches on the device.

    Args:
        root: Folder that every dataset is made with.
        train: Training sets; their ``joints_rel`` is all that is used.
        val: Validation sets by name.
        test: Test sets by name.
        predict: What `predict` reads: 2D keypoints, cameras, photographs or a video.
        batch_size: Poses per batch and process, of every loader.
        num_workers: Loader processes.
        train_weights: Share of each training set; by size where None.
        flip_prob: Probability of mirroring a training pose left-right.
        rotate_prob: Probability of turning a training pose by a uniformly random rotation ("RA", Table 4).
        seed: Seed of the order of the training data.
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
        rotate_prob: float = 0.5,
        seed: int = 0,
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
        )
        for name, prob in (("flip_prob", flip_prob), ("rotate_prob", rotate_prob)):
            if not 0 <= prob <= 1:
                raise ValueError(f"{name} must be a probability, got {prob}")
        self.flip_prob = flip_prob
        self.rotate_prob = rotate_prob

    def training_poses(self) -> Float[Tensor, "poses joints 3"]:
        """Every training pose, root-relative metres, camera frame; what anchors are chosen from."""
        if self.train_set is None:
            self.setup("fit")
        if self.train_set is None:
            raise ValueError("data.train: anchors are chosen from training poses, but there is no training set")
        return self.train_set.__getitems__(range(len(self.train_set)))["joints_rel"]

    def on_after_batch_transfer(self, batch: PoseSample, dataloader_idx: int) -> PoseSample:
        """Augments training batches: mirror x with left and right exchanged, then a random rotation."""
        if self.trainer is None or not self.trainer.training:
            return batch
        joints = batch["joints_rel"]
        generator = torch.Generator().manual_seed(
            step_seed(self.trainer, self.trainer.fit_loop.epoch_loop.batch_idx + 1, self.seed)
        )
        mirrored, turned = (torch.rand(2, len(joints), 1, 1, generator=generator)).to(joints.device)
        rotmat = random_rotmat((len(joints),), generator, dtype=joints.dtype).to(joints.device)
        joints = torch.where(mirrored < self.flip_prob, flip_joints(joints, self.joint_set), joints)
        joints = torch.where(turned < self.rotate_prob, rotate_joints(joints, rotmat), joints)
        return cast(PoseSample, {**batch, "joints_rel": joints})
