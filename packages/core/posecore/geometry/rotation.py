"""Conversions between rotation representations, on top of roma.

Names: ``rotmat`` a 3x3 matrix acting on column vectors; ``axis_angle`` an axis times an angle in radians (SMPL's pose
parameters); ``quat_wxyz`` a unit quaternion, real part first; ``rot6d`` two rows or columns of the matrix.
Half-precision inputs are raised to float32 and autocast is switched off inside.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.geometry.precision import full_precision

Rot6dOrder = Literal["columns", "interleaved", "rows"]

# Below this length a vector counts as zero; well above float32's smallest number, so that its square is still a number.
_ZERO_LENGTH = 1e-12


def _check_order(order: str) -> None:
    if order not in get_args(Rot6dOrder):
        raise ValueError(f"order is {order!r}; valid are {', '.join(map(repr, get_args(Rot6dOrder)))}")


@full_precision
def rot6d_to_rotmat(rot6d: Float[Tensor, "*batch 6"], order: Rot6dOrder = "columns") -> Float[Tensor, "*batch 3 3"]:
    """Turns any six numbers into a rotation matrix by Gram-Schmidt.

    Args:
        rot6d: Two 3-vectors of any length; the second need not be orthogonal to the first.
        order: How the six numbers lie in the matrix.
            ``"columns"`` [R00, R10, R20, R01, R11, R21], one column after the other (ProHMR, HMR2, ScoreHMR);
            ``"interleaved"`` [R00, R01, R10, R11, R20, R21], the two columns read row by row (SPIN, PARE);
            ``"rows"`` [R00, R01, R02, R10, R11, R12], the first two rows (PyTorch3D).

    Returns:
        A rotation matrix for every input. A zero first vector counts as the x axis, a second vector that is zero or
        parallel to the first as the coordinate axis that is farthest from the first; so zeros give the identity.
        No gradient flows to a vector that was replaced.

    Raises:
        ValueError: If ``order`` is not one of the three.

    References:
        Zhou et al., On the Continuity of Rotation Representations in Neural Networks, CVPR 2019.
    """
    _check_order(order)
    if order == "interleaved":
        first, second = rot6d[..., 0::2], rot6d[..., 1::2]
    else:
        first, second = rot6d[..., :3], rot6d[..., 3:]
    axes = torch.eye(3, dtype=rot6d.dtype, device=rot6d.device)

    length = torch.linalg.vector_norm(first, dim=-1, keepdim=True)
    x = torch.where(length > _ZERO_LENGTH, first / length.clamp_min(_ZERO_LENGTH), axes[0])

    # What rounding leaves of a parallel vector must not pass for a direction.
    shortest = (4 * torch.finfo(rot6d.dtype).eps * torch.linalg.vector_norm(second, dim=-1, keepdim=True)).detach()
    shortest = shortest.clamp_min(_ZERO_LENGTH)
    rest = second - (x * second).sum(dim=-1, keepdim=True) * x
    farthest_axis = axes[x.detach().abs().argmin(dim=-1)]
    farthest_axis = farthest_axis - (x * farthest_axis).sum(dim=-1, keepdim=True) * x
    rest = torch.where(torch.linalg.vector_norm(rest, dim=-1, keepdim=True) > shortest, rest, farthest_axis)
    y = rest / torch.linalg.vector_norm(rest, dim=-1, keepdim=True)

    z = torch.linalg.cross(x, y, dim=-1)
    return torch.stack((x, y, z), dim=-2 if order == "rows" else -1)


def rotmat_to_rot6d(rotmat: Float[Tensor, "*batch 3 3"], order: Rot6dOrder = "columns") -> Float[Tensor, "*batch 6"]:
    """Reads six numbers out of a rotation matrix, in the order that :func:`rot6d_to_rotmat` explains.

    Raises:
        ValueError: If ``order`` is not one of the three.
    """
    _check_order(order)
    if order == "rows":
        return rotmat[..., :2, :].flatten(-2)
    if order == "interleaved":
        return rotmat[..., :2].flatten(-2)
    return rotmat[..., :2].transpose(-1, -2).flatten(-2)


@full_precision
def axis_angle_to_rotmat(axis_angle: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rodrigues' formula; axis times angle in radians to a matrix. The gradient at zero is right and finite."""
    rotmat: Tensor = roma.rotvec_to_rotmat(axis_angle)
    return rotmat


@full_precision
def rotmat_to_axis_angle(rotmat: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Matrix to axis times angle, the angle in [0, pi]; at pi, where both signs of the axis are right, either one."""
    axis_angle: Tensor = roma.rotmat_to_rotvec(rotmat)
    return axis_angle


@full_precision
def quat_wxyz_to_rotmat(quat_wxyz: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Quaternion of any length, real part first, to a matrix. A zero quaternion gives the identity (no gradient)."""
    rotmat: Tensor = roma.unitquat_to_rotmat(roma.quat_wxyz_to_xyzw(_unit_quaternion(quat_wxyz)))
    return rotmat


@full_precision
def rotmat_to_quat_wxyz(rotmat: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Matrix to unit quaternion, real part first and not negative."""
    return _positive_real(roma.quat_xyzw_to_wxyz(roma.rotmat_to_unitquat(rotmat)))


@full_precision
def axis_angle_to_quat_wxyz(axis_angle: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4"]:
    """Axis times angle in radians to unit quaternion, real part first and not negative."""
    return _positive_real(roma.quat_xyzw_to_wxyz(roma.rotvec_to_unitquat(axis_angle)))


@full_precision
def quat_wxyz_to_axis_angle(quat_wxyz: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3"]:
    """Quaternion of any length, real part first, to axis times angle, the angle in [0, pi]; zero counts as identity."""
    axis_angle: Tensor = roma.unitquat_to_rotvec(roma.quat_wxyz_to_xyzw(_unit_quaternion(quat_wxyz)))
    return axis_angle


def _unit_quaternion(quat_wxyz: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(quat_wxyz, dim=-1, keepdim=True)
    identity = torch.tensor((1.0, 0.0, 0.0, 0.0), dtype=quat_wxyz.dtype, device=quat_wxyz.device)
    return torch.where(length > _ZERO_LENGTH, quat_wxyz / length.clamp_min(_ZERO_LENGTH), identity)


def _positive_real(quat_wxyz: Tensor) -> Tensor:
    return torch.where(quat_wxyz[..., :1] < 0, -quat_wxyz, quat_wxyz)


@full_precision
def geodesic_distance(a: Float[Tensor, "*#batch 3 3"], b: Float[Tensor, "*#batch 3 3"]) -> Float[Tensor, "*#batch"]:
    """Angle in radians, in [0, pi], of the rotation between two rotation matrices; batches broadcast.

    Taken by atan2 from sine and cosine, it keeps its digits near 0 and near pi, where arccos of the trace loses half of
    them and has an infinite gradient. Here the gradient is finite everywhere and zero at 0 and at pi exactly.
    """
    between = a.transpose(-1, -2) @ b
    double_sine = torch.stack(
        (
            between[..., 2, 1] - between[..., 1, 2],
            between[..., 0, 2] - between[..., 2, 0],
            between[..., 1, 0] - between[..., 0, 1],
        ),
        dim=-1,
    )
    double_cosine = between.diagonal(dim1=-2, dim2=-1).sum(dim=-1) - 1
    return torch.atan2(torch.linalg.vector_norm(double_sine, dim=-1), double_cosine)


def random_rotmat(
    shape: Sequence[int] = (),
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*shape 3 3"]:
    """Draws rotation matrices uniformly (Haar measure) over all rotations; ``shape`` is the batch shape."""
    rotmat: Tensor = roma.random_rotmat(tuple(shape), dtype=dtype, device=device, generator=generator)
    return rotmat


@full_precision
def slerp(
    a: Float[Tensor, "*#batch 3 3"], b: Float[Tensor, "*#batch 3 3"], t: Float[Tensor, "*#batch"] | float | int
) -> Float[Tensor, "*#batch 3 3"]:
    """Turns from ``a`` (t = 0) to ``b`` (t = 1) with constant speed on the shortest way; batches broadcast.

    ``t`` outside [0, 1] goes on turning. Half a turn apart, where two ways are equally short, either may be taken.
    """
    between = rotmat_to_axis_angle(a.transpose(-1, -2) @ b)
    step = t.unsqueeze(-1) * between if isinstance(t, Tensor) else t * between
    return a @ axis_angle_to_rotmat(step)
