"""2D keypoints as a detector gives them: wrong in the ways detectors are wrong, with an honest confidence."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posecore.body.skeletons import JointSet

# Spread of human annotation by body part, after the COCO keypoint sigmas (hips, knees and ankles vary most), relative
# to the mean part.
_SPREAD = {
    "hip": 1.45, "pelvis": 1.3, "spine": 1.3, "knee": 1.15, "ankle": 1.15, "foot": 1.15, "shoulder": 1.0, "elbow": 1.0,
    "wrist": 0.95, "hand": 1.0, "thorax": 0.9, "neck": 0.8, "head": 0.7, "nose": 0.4, "eye": 0.4, "ear": 0.5,
}  # fmt: skip


@dataclass(frozen=True)
class DetectorNoise:
    """Noise model of a 2D keypoint detector.

    Every detection gets a standard deviation: ``std`` of the person's size in the picture, times the joint's own
    spread, times a random difficulty, times ``occluded_factor`` behind an occluder. The error is Gaussian with that
    deviation and the confidence is a function of the deviation alone, not of the error that happened to occur:

        confidence = exp(-(deviation / (``confidence_scale`` * size))^2 / 2)

    so a reader can turn it back into the deviation (`deviation_from_confidence`). Where left and right of a limb are
    confused with probability one half, the confidence of its joints is halved. Missing joints have confidence 0 and lie
    at (0, 0): those drawn at random, half of the occluded ones, and all outside the picture.

    Args:
        std: typical standard deviation over the person's size (mean side of the joints' bounding box); 0.01 is
            some 5 pixels for a person of 500, as a stacked hourglass on Human3.6M.
        difficulty: standard deviation of the logarithm of the random difficulty.
        missing_prob: chance of a joint to be missing at random.
        ambiguous_prob: chance of an arm or leg pair to be ambiguous between left and right (half of them are swapped).
        occluder_prob: chance of a rectangle that covers a part of the person.
        occluded_factor: how much larger the deviation is behind it.
        confidence_scale: deviation over size at which the confidence is 0.61.
    """

    std: float = 0.01
    difficulty: float = 0.4
    missing_prob: float = 0.01
    ambiguous_prob: float = 0.03
    occluder_prob: float = 0.2
    occluded_factor: float = 4.0
    confidence_scale: float = 0.03

    def __post_init__(self) -> None:
        for name in ("missing_prob", "ambiguous_prob", "occluder_prob"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: must lie in [0, 1], got {getattr(self, name)}")
        for name in ("std", "difficulty"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name}: must not be negative, got {getattr(self, name)}")
        if self.confidence_scale <= 0.0 or self.occluded_factor < 1.0:
            raise ValueError(
                "confidence_scale must be positive and occluded_factor at least 1, got "
                f"{self.confidence_scale} and {self.occluded_factor}"
            )

    def __call__(
        self,
        joints_2d_px: Float[Tensor, "batch joints 2"],
        image_size: Float[Tensor, "batch 2"],
        joint_set: JointSet,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "batch joints 2"], Float[Tensor, "batch joints"]]:
        """Detected keypoints (pixels) and their confidences, for true keypoints.

        Args:
            joints_2d_px: exact keypoints.
            image_size: width, height in pixels.
            joint_set: names and left/right pairs of the joints.
            generator: makes the draw repeatable.
        """
        batch, joints = joints_2d_px.shape[:2]
        size = person_size(joints_2d_px)
        spread = torch.tensor([_spread_of(name) for name in joint_set.joint_names])
        difficulty = (self.difficulty * torch.randn((batch, joints), generator=generator)).exp()
        occluded = self._occluded(joints_2d_px, generator)
        factor = torch.where(occluded, self.occluded_factor, 1.0)
        deviation = self.std * spread * difficulty * factor  # over the person's size
        confidence = torch.exp(-0.5 * (deviation / self.confidence_scale) ** 2)

        where, ambiguous = self._swap(joints_2d_px, joint_set, generator)
        confidence = torch.where(ambiguous, confidence / 2, confidence)
        error = torch.randn((batch, joints, 2), generator=generator)
        detected = where + error * (deviation * size[:, None])[..., None]

        missing = torch.rand((batch, joints), generator=generator) < self.missing_prob
        missing |= occluded & (torch.rand((batch, joints), generator=generator) < 0.5)
        missing |= ((detected < 0) | (detected > image_size[:, None])).any(dim=-1)
        return detected.masked_fill(missing[..., None], 0.0), confidence.masked_fill(missing, 0.0)

    def deviation_from_confidence(self, confidence: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Standard deviation over the person's size that a confidence stands for; infinite at 0."""
        return self.confidence_scale * (-2 * confidence.log()).clamp_min(0).sqrt()

    def _occluded(self, joints_2d: Tensor, generator: torch.Generator) -> Bool[Tensor, "batch joints"]:
        """Joints inside a random rectangle, for the share of persons that have an occluder."""
        batch = joints_2d.shape[0]
        low, high = joints_2d.amin(dim=1), joints_2d.amax(dim=1)
        draw = torch.rand((batch, 5), generator=generator)
        center = low + (high - low) * draw[:, :2]
        half = (high - low) * (0.1 + 0.2 * draw[:, 2:4])
        inside = ((joints_2d - center[:, None]).abs() < half[:, None]).all(dim=-1)
        return inside & (draw[:, 4:] < self.occluder_prob)

    def _swap(
        self, joints_2d: Tensor, joint_set: JointSet, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch joints 2"], Bool[Tensor, "batch joints"]]:
        """Swaps left and right of whole limbs; returns the points and which joints are ambiguous."""
        batch = joints_2d.shape[0]
        flip = torch.tensor(joint_set.flip)
        upper = torch.tensor([_is_arm(name) for name in joint_set.joint_names])
        paired = flip != torch.arange(joint_set.num_joints)
        draw = torch.rand((batch, 2, 2), generator=generator)
        group = upper.long()  # legs 0, arms 1
        ambiguous = (draw[:, :, 0] < self.ambiguous_prob)[:, group] & paired
        swapped = ambiguous & (draw[:, :, 1] < 0.5)[:, group]
        return torch.where(swapped[..., None], joints_2d[:, flip], joints_2d), ambiguous


def person_size(joints_2d_px: Float[Tensor, "*batch joints 2"]) -> Float[Tensor, "*batch"]:
    """Mean side of the keypoints' bounding box, pixels."""
    return (joints_2d_px.amax(dim=-2) - joints_2d_px.amin(dim=-2)).mean(dim=-1)


def _spread_of(joint_name: str) -> float:
    return next((value for part, value in _SPREAD.items() if part in joint_name), 1.0)


def _is_arm(joint_name: str) -> bool:
    return any(part in joint_name for part in ("shoulder", "elbow", "wrist", "hand", "collar"))
