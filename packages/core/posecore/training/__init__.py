"""Callbacks and optimiser pieces that more than one method uses."""

from posecore.training.compiled import Compile
from posecore.training.denoising_strips import DenoisingStrips
from posecore.training.ema import EMA
from posecore.training.estimates_file import EstimatesFile
from posecore.training.joint_errors import JointErrors
from posecore.training.optimizer_monitor import OptimizerMonitor
from posecore.training.pose_panels import PosePanels
from posecore.training.prediction_writer import PredictionWriter
from posecore.training.results import Results
from posecore.training.spread_monitor import SpreadMonitor
from posecore.training.step_seed import StepSeed
from posecore.training.throughput import Throughput
from posecore.training.weights_file import WeightsFile

__all__ = [
    "EMA",
    "Compile",
    "DenoisingStrips",
    "EstimatesFile",
    "JointErrors",
    "OptimizerMonitor",
    "PosePanels",
    "PredictionWriter",
    "Results",
    "SpreadMonitor",
    "StepSeed",
    "Throughput",
    "WeightsFile",
]
