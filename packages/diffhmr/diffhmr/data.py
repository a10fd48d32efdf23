"""Diff-HMR's data: raw crops of people with SMPL parameters and keypoints, as far as these are known."""

from posecore.training.crop_datamodule import CropDataModule


class DiffHMRDataModule(CropDataModule):
    """People with raw crops: ``SPINNpz``, ``SMPLNpz`` with ``crop_margin``, ``OpenImages``.

    Arguments are those of `posecore.training.crop_datamodule.CropDataModule`.
    """
