"""HMDiff's data: raw crops of people with SMPL parameters, or of hands with meshes."""

from posecore.training.crop_datamodule import CropDataModule


class HMDiffDataModule(CropDataModule):
    """People or hands with raw crops: ``SPINNpz``, ``SMPLNpz`` with ``crop_margin``, ``OpenImages``, ``FreiHAND``.

    Arguments are those of `posecore.training.crop_datamodule.CropDataModule`; ``joint_set`` is joints44, or freihand21
    for hands.
    """
