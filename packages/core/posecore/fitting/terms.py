"""Terms of a fitting objective: observations that a body is fitted to.

ScoreHMR's guidance and the baselines share them. A term gives one loss per person, without its weight. Terms are
combined by summing ``weight * loss``.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.fitting.estimate import PosedPeople
from posecore.geometry.camera import project


class Term(ABC):
    """One term of an objective.

    Attributes:
        weight: What its losses are multiplied by.
        couples_people: Whether one person's loss depends on others (views, frames), so that nobody may leave alone.
        moves_camera: Whether it is a data term of the camera translation.
    """

    weight: float
    couples_people = False
    moves_camera = False

    @abstractmethod
    def __call__(self, people: PosedPeople) -> Float[Tensor, " people"]:
        """The unweighted loss of each person."""

    @abstractmethod
    def take(self, rows: Int[Tensor, " kept"]) -> "Term":
        """The term for these people only."""


def gmof(squared: Float[Tensor, "*batch"], sigma: float) -> Float[Tensor, "*batch"]:
    """Geman and McClure's robust error s^2 r^2 / (s^2 + r^2) of squared residuals r^2: r^2 when small, s^2 at most.

    An infinite ``sigma`` gives r^2.
    """
    return squared / (1 + squared / (sigma * sigma))


class KeypointReprojection(Term):
    """L_repr: distance of projected joints from 2D keypoints, in pixels of an image whose longer side is 1000.

    Deviation from Eq. (12): robust error, confidence squared and the scale of 1000 pixels are the release's; the paper
    prints a plain squared distance times the confidence.

    Args:
        keypoints_px: Keypoints in the order of the body's joints, pixels.
        confidence: In [0, 1].
        K: Intrinsics, pixels.
        image_size: Width and height, pixels.
        weight: The release's 0.003.
        sigma: Residual in pixels at which the robust error has fallen to half of the squared one.

    References:
        Stathopoulos et al., Score-Guided Diffusion for 3D Human Recovery, CVPR 2024, Eq. (12).
    """

    moves_camera = True

    def __init__(
        self,
        keypoints_px: Float[Tensor, "people joints 2"],
        confidence: Float[Tensor, "people joints"],
        K: Float[Tensor, "people 3 3"],
        image_size: Float[Tensor, "people 2"],
        weight: float = 0.003,
        sigma: float = 100.0,
    ) -> None:
        self._arguments = (keypoints_px, confidence, K, image_size)
        self.keypoints_px, self.confidence, self.K = keypoints_px, confidence, K
        self.weight, self.sigma = weight, sigma
        self.factor = (confidence * (1000.0 / image_size.amax(dim=-1, keepdim=True))).square()

    def __call__(self, people: PosedPeople) -> Float[Tensor, " people"]:
        """Sum over joints, x and y."""
        residual = project(people.joints_cam, self.K) - self.keypoints_px
        return (gmof(residual.square(), self.sigma).sum(dim=-1) * self.factor).sum(dim=-1)

    def take(self, rows: Int[Tensor, " kept"]) -> "KeypointReprojection":
        """The term for these people only."""
        keypoints_px, confidence, K, image_size = (argument[rows] for argument in self._arguments)
        return KeypointReprojection(keypoints_px, confidence, K, image_size, self.weight, self.sigma)


class CrossViewConsistency(Term):
    """L_MV, Eq. (13): squared distance of every view's body pose from the views' mean; the root stays out.

    Args:
        group: Which instant each person's row belongs to: rows with the same number are views of one person.
        weight: Deviation: the paper has none; 450 as in the release (0.005 * 300^2).
    """

    couples_people = True

    def __init__(self, group: Int[Tensor, " people"], weight: float = 450.0) -> None:
        self.weight = weight
        _, self.group, count = group.unique(return_inverse=True, return_counts=True)
        self._count = count

    def __call__(self, people: PosedPeople) -> Float[Tensor, " people"]:
        """Sum over 23 joints and 6 numbers."""
        body = people.estimate.pose_rot6d[:, 1:].flatten(1)
        mean = body.new_zeros(len(self._count), body.shape[1]).index_add(0, self.group, body)
        mean = mean / self._count.to(body.dtype)[:, None]
        loss: Tensor = (body - mean[self.group]).square().sum(dim=-1)
        return loss

    def take(self, rows: Int[Tensor, " kept"]) -> "CrossViewConsistency":
        """The term for these people only."""
        return CrossViewConsistency(self.group[rows], self.weight)


class CalibratedReprojection(Term):
    """Reprojection into every view of an instant whose cameras are calibrated: each view's body must fit all views.

    A body is taken from its own camera to the world and from there into each camera of its group; the loss is the mean
    over these cameras of `KeypointReprojection`'s, so one camera alone gives exactly that. Not in the paper.

    Args:
        keypoints_px: Keypoints of each view, pixels.
        confidence: In [0, 1].
        K: Intrinsics, pixels.
        image_size: Width and height, pixels.
        R_world_to_cam: Rotation of each view's camera.
        t_world_to_cam: Its translation, metres.
        group: Rows with the same number are views of one person at one instant.
        weight: As `KeypointReprojection`.
        sigma: As `KeypointReprojection`.
    """

    couples_people = True
    moves_camera = True

    def __init__(
        self,
        keypoints_px: Float[Tensor, "people joints 2"],
        confidence: Float[Tensor, "people joints"],
        K: Float[Tensor, "people 3 3"],
        image_size: Float[Tensor, "people 2"],
        R_world_to_cam: Float[Tensor, "people 3 3"],
        t_world_to_cam: Float[Tensor, "people 3"],
        group: Int[Tensor, " people"],
        weight: float = 0.003,
        sigma: float = 100.0,
    ) -> None:
        self._arguments = (keypoints_px, confidence, K, image_size, R_world_to_cam, t_world_to_cam, group)
        self.weight = weight
        self._body, self._camera = (group[:, None] == group[None]).nonzero(as_tuple=True)
        self._views = KeypointReprojection(keypoints_px, confidence, K, image_size, weight, sigma).take(self._camera)
        # From the camera of the body's row to the camera that looks: x_b = R_b R_a^T (x_a - t_a) + t_b.
        R = R_world_to_cam[self._camera] @ R_world_to_cam[self._body].mT
        self._R, self._t = R, t_world_to_cam[self._camera] - (R @ t_world_to_cam[self._body][..., None])[..., 0]
        self._num_views = torch.bincount(self._body, minlength=len(group))

    def __call__(self, people: PosedPeople) -> Float[Tensor, " people"]:
        """Mean over the views of the sum over joints, x and y."""
        views = self._views
        joints = people.joints_cam[self._body] @ self._R.mT + self._t[:, None]
        residual = project(joints, views.K) - views.keypoints_px
        loss = (gmof(residual.square(), views.sigma).sum(dim=-1) * views.factor).sum(dim=-1)
        return loss.new_zeros(len(people.estimate)).index_add(0, self._body, loss) / self._num_views

    def take(self, rows: Int[Tensor, " kept"]) -> "CalibratedReprojection":
        """The term for these people only."""
        keypoints_px, confidence, K, image_size, R, t, group = (argument[rows] for argument in self._arguments)
        return CalibratedReprojection(
            keypoints_px, confidence, K, image_size, R, t, group, self.weight, self._views.sigma
        )


class TemporalSmoothness(Term):
    """L_temp, Eq. (14): squared distance of each frame's pose, the root's included, from that of the frame before.

    Args:
        track: Which sequence each row belongs to; rows of a sequence come in the order of time, and may have rows of
            others (views) between them.
        weight: Deviation: the paper has none; 30 as in the release, whose author names 10 to 70 as useful.
    """

    couples_people = True

    def __init__(self, track: Int[Tensor, " people"], weight: float = 30.0) -> None:
        self.track, self.weight = track, weight
        self._order = track.argsort(stable=True)
        self._follows = track[self._order][1:] == track[self._order][:-1]

    def __call__(self, people: PosedPeople) -> Float[Tensor, " people"]:
        """Sum over 144 numbers; 0 for the first frame of a sequence."""
        pose = people.estimate.pose_rot6d.flatten(1)[self._order]
        change = torch.where(self._follows, (pose[1:] - pose[:-1]).square().sum(dim=-1), 0.0)
        return change.new_zeros(len(pose)).index_copy(0, self._order, torch.cat((change.new_zeros(1), change)))

    def take(self, rows: Int[Tensor, " kept"]) -> "TemporalSmoothness":
        """The term for these people only."""
        return TemporalSmoothness(self.track[rows], self.weight)


class Keypoints3D(Term):
    """Squared distance of joints from 3D keypoints, both relative to their mean over the joints that are known.

    Args:
        joints: 3D keypoints in the order of the body's joints, axes of the camera, metres; any origin.
        confidence: In [0, 1]; 0 for a joint that is not known.
        weight: Per square metre.
    """

    def __init__(
        self,
        joints: Float[Tensor, "people joints 3"],
        confidence: Float[Tensor, "people joints"],
        weight: float = 300.0,
    ) -> None:
        self.joints, self.confidence, self.weight = joints, confidence, weight
        self._share = (confidence / confidence.sum(dim=-1, keepdim=True).clamp_min(1e-9))[..., None]
        self._centered = joints - (joints * self._share).sum(dim=-2, keepdim=True)

    def __call__(self, people: PosedPeople) -> Float[Tensor, " people"]:
        """Sum over joints, times confidence squared."""
        found = people.joints_cam
        found = found - (found * self._share).sum(dim=-2, keepdim=True)
        return ((found - self._centered).square().sum(dim=-1) * self.confidence.square()).sum(dim=-1)

    def take(self, rows: Int[Tensor, " kept"]) -> "Keypoints3D":
        """The term for these people only."""
        return Keypoints3D(self.joints[rows], self.confidence[rows], self.weight)


def mean_over_groups(
    values: Float[Tensor, "people *rest"], group: Int[Tensor, " people"]
) -> Float[Tensor, "people *rest"]:
    """Each row's mean over the rows of its group: one shape for all views or frames of a person."""
    _, inverse, count = group.unique(return_inverse=True, return_counts=True)
    total = values.new_zeros(len(count), *values.shape[1:]).index_add(0, inverse, values)
    mean: Tensor = total[inverse] / count.to(values.dtype)[inverse].reshape(-1, *[1] * (values.ndim - 1))
    return mean
