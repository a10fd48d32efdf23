"""ScoreHMR's data: people with 2D keypoints, SMPL parameters, and what belongs together (views, videos)."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from posecore.body.skeletons import COCO_17
from posecore.data.base import PoseDataset
from posecore.data.datamodule import PoseDataModule
from posecore.data.grouping import WholeGroups
from posecore.data.mixing import DealtBatches
from posecore.data.predict_dataset import PredictDataset
from posecore.data.predict_input import NO_KEYPOINTS, PredictInput
from posecore.data.sample import PoseSample
from posecore.data.transforms import flip_sample, truncate_keypoints
from posecore.training.step_seed import step_seed
from scorehmr.start import read_start

_FLAGS = ("has_pose", "has_betas")
_TRAINING_KEYS = ("joints_2d_px", "confidence", "image_size", "K", "global_orient", "body_pose", "betas", *_FLAGS)


class ScoreHMRDataModule(PoseDataModule):
    """People with keypoints of ``joints44``, of which the first 25 are OpenPose's.

    Args:
        root: Folder that every dataset is made with.
        train: Training sets.
        val: Validation sets by name.
        test: Test sets by name.
        predict: What `predict` reads: 2D keypoints, cameras, photographs or a video.
        predict_start: Predictions of the same people to start from: a ``predictions.npz`` of this or another method.
        batch_size: People per batch and process, of every loader.
        num_workers: Loader processes.
        train_weights: Share of each training set; by size where None. The released model's: Human3.6M 0.5, COCO 0.3,
            MPI-INF-3DHP 0.2.
        flip_prob: Probability of mirroring a training person (open features only: cached ones belong to one picture).
        truncate_prob: Probability of cutting a training person's keypoints off at a line (open features only).
        coco_prob: Probability of leaving a training person the keypoints that COCO's 17 have: no neck, middle of the
            hips or feet (open features only).
        drop_prob: Probability of each single keypoint of a training person to be unseen (open features only).
        seed: Seed of the order of the training data and of the augmentations.
        joint_set: The joints of the keypoints.
    """

    def __init__(
        self,
        root: Path = Path("data"),
        train: list[Callable[[Path], PoseDataset]] | None = None,
        val: dict[str, Callable[[Path], PoseDataset]] | None = None,
        test: dict[str, Callable[[Path], PoseDataset]] | None = None,
        predict: PredictInput | None = None,
        predict_start: Path | None = None,
        batch_size: int = 128,
        num_workers: int = 0,
        train_weights: list[float] | None = None,
        flip_prob: float = 0.0,
        truncate_prob: float = 0.0,
        coco_prob: float = 0.0,
        drop_prob: float = 0.0,
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
        probs = {
            "flip_prob": flip_prob, "truncate_prob": truncate_prob, "coco_prob": coco_prob, "drop_prob": drop_prob
        }  # fmt: skip
        for name, prob in probs.items():
            if not 0 <= prob <= 1:
                raise ValueError(f"{name} must be a probability, got {prob}")
        self.probs = probs
        self.predict_start = predict_start
        self.group_keys: tuple[str, ...] = ()
        """What rows of a batch must not be parted by; the model sets it, since its terms know."""
        missing = [name.removeprefix("op_") not in COCO_17.joint_names for name in self.joint_set.joint_names]
        self._not_in_coco = torch.tensor(missing)

    def setup(self, stage: str) -> None:
        """Builds what the stage needs, once.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: A file does not fit, or there is nothing to predict.
        """
        made = self.predict_set is not None
        super().setup(stage)
        if self.predict_set is not None and not made and self.predict_start is not None:
            start = read_start(self.predict_start, self.predict_set)
            self.predict_set.samples = cast(PoseSample, {**self.predict_set.samples, **start})

    def _read_predict(self) -> PredictDataset:
        """The people with a row for every frame of a track that a fit fills in, and no constructed keypoint."""
        if self.predict is None:
            raise ValueError(NO_KEYPOINTS)
        return self.predict.dataset(self.joint_set.name, copies_only=True, needs="keypoints", fill_gaps=True)

    def predict_dataloader(self) -> DataLoader[PoseSample]:
        """The rows of the predict set, whole groups together; a group is left out if all of its rows are done.

        Raises:
            ValueError: There is nothing to predict.
        """
        if self.predict_set is None:
            raise ValueError("predict: nothing to predict; give a PredictInput, and call setup('predict')")
        return self._whole_groups(self.predict_set, self.predict_done)

    def _loader(self, dataset: Dataset[PoseSample], **options: Any) -> DataLoader[PoseSample]:
        grouped = self.group_keys and "sampler" not in options  # training knows no groups
        return self._whole_groups(cast(PoseDataset, dataset)) if grouped else super()._loader(dataset, **options)

    def _whole_groups(self, dataset: PoseDataset, done: Collection[int] = ()) -> DataLoader[PoseSample]:
        groups = WholeGroups(dataset, self.group_keys, self.batch_size, done, self.ranks[0])
        return DataLoader(
            groups, batch_size=None, sampler=DealtBatches(len(groups), 1, *self.ranks), num_workers=self.num_workers
        )

    def on_after_batch_transfer(self, batch: PoseSample, dataloader_idx: int) -> PoseSample:
        """Mirrors some people of a training batch (2D, camera and body together), then takes keypoints away."""
        if self.trainer is None or not self.trainer.training or not any(self.probs.values()):
            return batch
        if fixed := [key for key in ("features", "image") if key in batch]:
            names = ", ".join(name for name, prob in self.probs.items() if prob)
            raise ValueError(f"{names}: keypoints can be changed, but not {fixed[0]} with them; set these to 0")
        generator = torch.Generator().manual_seed(
            step_seed(self.trainer, self.trainer.fit_loop.epoch_loop.batch_idx + 1, self.seed)
        )
        used = cast(PoseSample, {key: value for key, value in batch.items() if key in _TRAINING_KEYS})
        device = batch["joints_2d_px"].device
        draw = torch.rand((2, len(batch["joints_2d_px"])), generator=generator).to(device)
        rows = draw[0] < self.probs["flip_prob"]
        flipped = flip_sample(used, self.joint_set)
        augmented: dict[str, Any] = {
            key: torch.where(rows.reshape(-1, *[1] * (value.ndim - 1)), flipped[key], value)  # type: ignore[literal-required]
            for key, value in cast(dict[str, torch.Tensor], used).items()
        }
        confidence = augmented["confidence"]
        lost = (draw[1] < self.probs["coco_prob"])[:, None] & self._not_in_coco.to(device)
        lost = lost | (torch.rand(confidence.shape, generator=generator).to(device) < self.probs["drop_prob"])
        confidence = confidence.masked_fill(lost, 0.0)
        keypoints = augmented["joints_2d_px"]
        augmented["confidence"] = truncate_keypoints(keypoints, confidence, self.probs["truncate_prob"], generator)
        return cast(PoseSample, augmented)
