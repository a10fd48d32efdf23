"""Callbacks and optimiser pieces that more than one method uses."""

from posecore.training.ema import EMA
from posecore.training.estimates_file import EstimatesFile
from posecore.training.pose_panels import PosePanels
from posecore.training.prediction_writer import PredictionWriter
from posecore.training.results import Results
from posecore.training.step_seed import StepSeed
from posecore.training.weights_file import WeightsFile

__all__ = ["EMA", "EstimatesFile", "PosePanels", "PredictionWriter", "Results", "StepSeed", "WeightsFile"]
