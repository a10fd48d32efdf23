"""Which terms guide a fit, and with what weight, from a batch of people (Sec. 4.3)."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from posecore.body.joint_maps import joint_map
from posecore.body.skeletons import BODY_25, get_joint_set
from posecore.data.grouping import row_groups
from posecore.data.sample import PoseSample
from posecore.fitting.terms import (
    CalibratedReprojection,
    CrossViewConsistency,
    KeypointReprojection,
    Keypoints3D,
    TemporalSmoothness,
    Term,
)
from scorehmr.keypoints import NUM_KEYPOINTS

_HIPS = [BODY_25.index(name) for name in ("mid_hip", "r_hip", "l_hip")]


@dataclass(frozen=True)
class TermWeights:
    """Weights of the guidance terms; 0 leaves a term out, all others are used together.

    ==================  =========  =======================================================  =====================
    setting             paper      data it needs                                            release
    ==================  =========  =======================================================  =====================
    ``keypoints``       Eq. (12)   2D keypoints                                             0.003
    ``views``           Eq. (13)   rows of equal ``clip`` and ``frame``                     0.005 * 300^2 = 450
    ``calibrated``      (none)     and ``R_world_to_cam``, ``t_world_to_cam``               (none)
    ``temporal``        Eq. (14)   rows of equal ``clip`` and ``view``, in order of time    30
    ``keypoints_3d``    (none)     ``joints_cam`` as an observation                         (none)
    ==================  =========  =======================================================  =====================

    Attributes:
        keypoints: Reprojection error of each person's own keypoints.
        views: Distance of the views' body poses from their mean.
        calibrated: Reprojection error in all views of an instant, by known cameras.
        temporal: Distance of a frame's pose from that of the frame before.
        keypoints_3d: Distance from 3D keypoints. They are an input here, so it must not be used where the same joints
            are the truth.
        sigma: Residual at which the robust reprojection error levels off, pixels of the picture.
        confidence_power: Power of the confidence that weighs a keypoint. Deviation: 2 as in the release, where the
            paper has 1; a higher one trusts a detector's doubts more (the open settings: 4).
        use_hips: Whether the hips and their middle count; detectors mark them elsewhere than SMPL.
        mean_betas: Whether all views of an instant, or all frames of a video, share their mean shape.
    """

    keypoints: float = 0.003
    views: float = 0.0
    calibrated: float = 0.0
    temporal: float = 0.0
    keypoints_3d: float = 0.0
    sigma: float = 100.0
    confidence_power: float = 2.0
    use_hips: bool = True
    mean_betas: bool = False

    def __post_init__(self) -> None:
        for name in ("keypoints", "views", "calibrated", "temporal", "keypoints_3d"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: a weight must not be negative, got {getattr(self, name)}")
        if self.sigma <= 0 or self.confidence_power <= 0:
            raise ValueError(
                f"sigma and confidence_power must be positive, got {self.sigma} and {self.confidence_power}"
            )

    @property
    def group_keys(self) -> tuple[str, ...]:
        """What people who must be fitted together agree in; none where everybody is fitted alone."""
        if (self.views or self.calibrated) and self.temporal:
            return ("clip",)
        if self.views or self.calibrated:
            return ("clip", "frame")
        return ("clip", "view") if self.temporal else ()

    def shape_group(self, batch: PoseSample) -> Int[Tensor, " people"] | None:
        """Who shares a shape; None where nobody does."""
        if not (self.mean_betas and self.group_keys):
            return None
        return row_groups(batch, self.group_keys).to(batch["confidence"].device)

    def terms(self, batch: PoseSample, joint_set: str) -> list[Term]:
        """The terms for a batch.

        Args:
            batch: What the weights above zero ask for.
            joint_set: Of ``joints_cam``.

        Raises:
            ValueError: The batch lacks a key that a term needs.
        """
        confidence = batch["confidence"][:, :NUM_KEYPOINTS]
        if not self.use_hips:
            confidence = confidence.clone()
            confidence[:, _HIPS] = 0
        if self.confidence_power != 2:
            confidence = confidence.pow(self.confidence_power / 2)  # the terms square it
        seen = batch["joints_2d_px"][:, :NUM_KEYPOINTS], confidence, batch["K"], _image_size(batch)
        device = confidence.device
        terms: list[Term] = []
        if self.keypoints:
            terms.append(KeypointReprojection(*seen, self.keypoints, self.sigma))
        if self.calibrated:
            if "R_world_to_cam" not in batch:
                raise ValueError("terms.calibrated: the data has no R_world_to_cam; give calibrated cameras")
            instant = row_groups(batch, ("clip", "frame")).to(device)
            cameras = batch["R_world_to_cam"], batch["t_world_to_cam"]
            terms.append(CalibratedReprojection(*seen, *cameras, instant, self.calibrated, self.sigma))
        if self.views:
            terms.append(CrossViewConsistency(row_groups(batch, ("clip", "frame")).to(device), self.views))
        if self.temporal:
            terms.append(TemporalSmoothness(row_groups(batch, ("clip", "view")).to(device), self.temporal))
        if self.keypoints_3d:
            to_body25 = joint_map(get_joint_set(joint_set), BODY_25, copies_only=True)
            known = torch.tensor(to_body25.available, device=device).to(confidence.dtype)
            joints = to_body25.apply(batch["joints_cam"])
            terms.append(Keypoints3D(joints, known.expand(len(joints), -1), self.keypoints_3d))
        return terms


def _image_size(batch: PoseSample) -> Tensor:
    """Width and height; twice the principal point where the data does not say."""
    return batch["image_size"] if "image_size" in batch else 2 * batch["K"][:, :2, 2]
