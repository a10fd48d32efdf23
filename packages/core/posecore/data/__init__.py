"""Datasets of human poses, virtual cameras, detector noise, and the DataModule that methods share."""

from posecore.data.base import PoseDataset, PoseTable
from posecore.data.cameras import CameraSampler, RingCameras, SingleCameras, TrackCameras
from posecore.data.cmu_mocap import CMUMocap
from posecore.data.cmu_rigs import RIGS
from posecore.data.crops import CroppedPeople, PersonCrops, box_of_keypoints, crop
from posecore.data.datamodule import PoseDataModule
from posecore.data.detector_noise import DetectorNoise
from posecore.data.freihand import FreiHAND
from posecore.data.motion import Motion
from posecore.data.open_images import OpenImages
from posecore.data.sample import SAMPLE_KEYS, PoseSample
from posecore.data.shards import Shards
from posecore.data.smpl_groups import SMPLGroups
from posecore.data.smpl_npz import SMPLNpz
from posecore.data.spin_npz import SPINNpz
from posecore.data.start_estimates import CropBoxes, read_start_estimates
from posecore.data.synthetic import SyntheticMotion

__all__ = [
    "RIGS",
    "SAMPLE_KEYS",
    "CMUMocap",
    "CameraSampler",
    "CropBoxes",
    "CroppedPeople",
    "DetectorNoise",
    "FreiHAND",
    "Motion",
    "OpenImages",
    "PersonCrops",
    "PoseDataModule",
    "PoseDataset",
    "PoseSample",
    "PoseTable",
    "RingCameras",
    "SMPLGroups",
    "SMPLNpz",
    "SPINNpz",
    "Shards",
    "SingleCameras",
    "SyntheticMotion",
    "TrackCameras",
    "box_of_keypoints",
    "crop",
    "read_start_estimates",
]
