"""What a fit starts from and returns, and what its terms look at."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.body.fixed_shape import FixedShapeJoints
from posecore.body.named_joints import NamedJoints
from posecore.geometry.rotation import rot6d_to_rotmat, rotmat_to_axis_angle, rotmat_to_rot6d


@dataclass(frozen=True)
class SMPLEstimate:
    """SMPL parameters of people before their cameras.

    Attributes:
        pose_rot6d: 24 rotations in 6D, the root's (in the camera frame) first; any six numbers are a rotation.
        betas: Shape, standard deviations.
        transl: Translation in the camera frame, metres.
    """

    pose_rot6d: Float[Tensor, "people 24 6"]
    betas: Float[Tensor, "people betas"]
    transl: Float[Tensor, "people 3"]

    @classmethod
    def from_rotmat(
        cls,
        global_orient: Float[Tensor, "people 3 3"],
        body_pose: Float[Tensor, "people 23 3 3"],
        betas: Float[Tensor, "people betas"],
        transl: Float[Tensor, "people 3"],
    ) -> "SMPLEstimate":
        """From rotation matrices, as samples and body layers hold them."""
        rotmat = torch.cat((global_orient[:, None], body_pose), dim=1)
        return cls(rotmat_to_rot6d(rotmat), betas, transl)

    def __len__(self) -> int:
        return len(self.pose_rot6d)

    @cached_property
    def pose_rotmat(self) -> Float[Tensor, "people 24 3 3"]:
        """The rotations as matrices."""
        return rot6d_to_rotmat(self.pose_rot6d)

    @cached_property
    def pose_axis_angle(self) -> Float[Tensor, "people 24 3"]:
        """The rotations as axis times angle, radians, the angle in [0, pi]."""
        return rotmat_to_axis_angle(self.pose_rotmat)

    @property
    def global_orient(self) -> Float[Tensor, "people 3 3"]:
        """The root's rotation in the camera frame."""
        return self.pose_rotmat[:, 0]

    @property
    def body_pose(self) -> Float[Tensor, "people 23 3 3"]:
        """The other joints' rotations relative to their parents."""
        return self.pose_rotmat[:, 1:]

    def take(self, rows: Int[Tensor, " kept"]) -> "SMPLEstimate":
        """These people only."""
        return SMPLEstimate(self.pose_rot6d[rows], self.betas[rows], self.transl[rows])


class PosedPeople:
    """One estimate as the terms of an objective see it; joints are computed once, when a term first asks for them.

    Args:
        estimate: The people.
        body: Gives the joints that terms compare; a layer that computes these alone makes every fit faster. With
            `FixedShapeJoints` the estimate's betas are not looked at.
    """

    def __init__(self, estimate: SMPLEstimate, body: NamedJoints | FixedShapeJoints) -> None:
        self.estimate = estimate
        self._body = body

    @cached_property
    def joints_cam(self) -> Float[Tensor, "people joints 3"]:
        """Joints of the body's joint set, metres, camera frame."""
        at_origin: Tensor
        if isinstance(self._body, FixedShapeJoints):
            at_origin = self._body(self.estimate.pose_rot6d)
        else:
            at_origin = self._body(self.estimate.betas, self.estimate.body_pose, self.estimate.global_orient)
        return at_origin + self.estimate.transl[:, None]
