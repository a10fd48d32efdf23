"""What Diff-HMR diffuses: the 24 rotations of a SMPL pose as numbers (Table 2 compares two ways)."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from posecore.geometry.rotation import axis_angle_to_rotmat, rot6d_to_rotmat, rotmat_to_axis_angle, rotmat_to_rot6d

Rotation = Literal["rot6d", "axis_angle"]
"""``rot6d``: the first two columns of each matrix, one after the other; ``axis_angle``: SMPL's own, radians."""


@dataclass(frozen=True)
class PoseRepresentation:
    """From rotation matrices to x_0 and back.

    Attributes:
        rotation: Which numbers. The paper's choice is 6D, whose scale is that of the noise (Sec. 4.2).
    """

    rotation: Rotation = "rot6d"

    def __post_init__(self) -> None:
        if self.rotation not in get_args(Rotation):
            raise ValueError(f"rotation must be one of {get_args(Rotation)}, got {self.rotation!r}")

    @property
    def channels(self) -> int:
        """Numbers per joint."""
        return 6 if self.rotation == "rot6d" else 3

    @property
    def clip(self) -> float:
        """Bound of every number of a clean sample: an entry of a rotation matrix, or an angle up to half a turn."""
        return 1.0 if self.rotation == "rot6d" else math.pi

    def encode(self, rotmat: Float[Tensor, "*batch 24 3 3"]) -> Float[Tensor, "*batch 24 {self.channels}"]:
        """A pose as a clean sample x_0, root first."""
        return rotmat_to_rot6d(rotmat) if self.rotation == "rot6d" else rotmat_to_axis_angle(rotmat)

    def decode(self, x_0: Float[Tensor, "*batch 24 {self.channels}"]) -> Float[Tensor, "*batch 24 3 3"]:
        """Any numbers as a pose; 6D ones need not be orthogonal."""
        return rot6d_to_rotmat(x_0) if self.rotation == "rot6d" else axis_angle_to_rotmat(x_0)
