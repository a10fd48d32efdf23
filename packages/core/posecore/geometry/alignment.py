"""Least-squares alignment of point sets (Procrustes analysis), differentiable and built for large batches."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.geometry.precision import full_precision
from posecore.geometry.rotation import quat_wxyz_to_rotmat

# All on matrices of Frobenius norm 1.
_NEWTON_STEPS = 16
_MIN_DETERMINACY = 1e-3  # from here on the closed form is good to 1e-10; the most is 1.54
_GRADIENT_DAMPING = 1e-6  # pairwise sums of singular values below this no longer raise the gradient


class SimilarityTransform(NamedTuple):
    """x -> scale * rotation x + translation.

    Attributes:
        scale: Not negative; 1 where no scale was asked for.
        rotation: Orthogonal; its determinant is 1, or -1 where a reflection was allowed and fits better.
        translation: In the points' unit.
    """

    scale: Float[Tensor, "*batch"]
    rotation: Float[Tensor, "*batch 3 3"]
    translation: Float[Tensor, "*batch 3"]

    @full_precision
    def apply(self, points: Float[Tensor, "*#batch n 3"]) -> Float[Tensor, "*#batch n 3"]:
        """Moves points, be it those the transform was found with or others."""
        scaled_rotation = self.scale[..., None, None] * self.rotation
        return points @ scaled_rotation.transpose(-1, -2) + self.translation.unsqueeze(-2)


@full_precision
def procrustes(
    source: Float[Tensor, "*#batch n 3"],
    target: Float[Tensor, "*#batch n 3"],
    weights: Float[Tensor, "*#batch n"] | None = None,
    scale: bool = True,
    reflection: bool = False,
) -> SimilarityTransform:
    """Finds the similarity that takes ``source`` nearest to ``target`` in least squares.

    Minimises sum_i w_i |target_i - (s R source_i + t)|^2 exactly. Batches broadcast. Every input gives a finite answer
    and a finite gradient:

    - all source points at one place: identity rotation, scale 1; all target points at one place: identity, scale 0;
    - points on a line, where any turn about the line fits as well: the smallest rotation that lays line on line;
    - mirrored points without ``reflection``: the best proper rotation, one of them where several are equally good.

    Args:
        source: Points to move, any unit.
        target: Where they should go.
        weights: Not negative, any scale; None weighs all alike. Where all are 0 the transform is the identity.
        scale: Fit a scale; else it is 1.
        reflection: Allow a mirror image (determinant -1) where it fits better.

    Raises:
        ValueError: If there are no points, or not as many on both sides.

    References:
        Umeyama, Least-squares estimation of transformation parameters between two point patterns, PAMI 1991,
        Eq. (40-42); the rotation by :func:`nearest_rotation` in place of the SVD.
    """
    if source.shape[-2] == 0 or source.shape[-2] != target.shape[-2]:
        raise ValueError(
            f"source has {source.shape[-2]} points and target {target.shape[-2]}; valid is one number above 0 for both"
        )
    if weights is not None:
        total = weights.sum(dim=-1, keepdim=True)
        weights = (weights / torch.where(total > 0, total, 1)).unsqueeze(-1)
    source_mean, source_centered, source_variance = _center(source, weights)
    target_mean, target_centered, target_variance = _center(target, weights)
    if weights is None:
        covariance = target_centered.transpose(-1, -2) @ source_centered / source.shape[-2]
    else:
        covariance = target_centered.transpose(-1, -2) @ (weights * source_centered)
    at_one_place = (source_variance == 0) | (target_variance == 0)
    covariance = torch.where(at_one_place[..., None, None], 0, covariance)

    if reflection:
        # The best orthogonal matrix of a negative determinant is minus the best rotation for the mirrored points.
        sign = torch.where(torch.linalg.det(covariance.detach()) < 0, -1, 1).to(covariance.dtype)[..., None, None]
        rotation = sign * nearest_rotation(sign * covariance)
    else:
        rotation = nearest_rotation(covariance)

    if scale:
        # tr(R^T cov) is the sum of the singular values, the last one signed: 0 or more but for rounding.
        explained = (rotation * covariance).sum(dim=(-1, -2)).clamp_min(0)
        has_extent = source_variance > 0
        factor = torch.where(has_extent, explained / torch.where(has_extent, source_variance, 1), 1)
    else:
        factor = torch.ones_like(covariance[..., 0, 0])
    moved_mean = factor[..., None, None] * (source_mean @ rotation.transpose(-1, -2))
    return SimilarityTransform(factor, rotation, (target_mean - moved_mean).squeeze(-2))


def align(
    source: Float[Tensor, "*#batch n 3"],
    target: Float[Tensor, "*#batch n 3"],
    weights: Float[Tensor, "*#batch n"] | None = None,
    scale: bool = True,
    reflection: bool = False,
) -> Float[Tensor, "*#batch n 3"]:
    """Moves ``source`` nearest to ``target``; see :func:`procrustes`."""
    return procrustes(source, target, weights, scale, reflection).apply(source)


def _center(points: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (dimension kept), points about it, and variance, which is exactly 0 where only rounding spreads the points.

    Weights sum to 1 along the points, or are all 0.
    """
    mean = points.mean(dim=-2, keepdim=True) if weights is None else (weights * points).sum(dim=-2, keepdim=True)
    centered = points - mean
    if weights is None:
        variance = centered.square().sum(dim=(-1, -2)) / points.shape[-2]
    else:
        variance = (weights * centered.square()).sum(dim=(-1, -2))
    rounding = 8 * torch.finfo(points.dtype).eps
    is_spread = variance.detach() > rounding**2 * mean.detach().square().sum(dim=(-1, -2))
    return mean, centered, torch.where(is_spread, variance, 0)


@full_precision
def nearest_rotation(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation nearest to a matrix in the Frobenius norm, which is the one with the largest tr(R^T M).

    Zeros give the identity. Where several rotations are equally near, the smallest one among them is returned and the
    gradient, which has no limit there, is damped. All derivatives are exact elsewhere, also for equal singular values.
    """
    rotation: Tensor = _NearestRotation.apply(matrix)
    return rotation


class _NearestRotation(torch.autograd.Function):
    @staticmethod
    def forward(matrix: Tensor) -> Tensor:
        return _solve_rotation(matrix)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad_rotation: Tensor) -> Tensor:
        """With M = R S: dR = R [w]x, (tr(S) I - S) w = vee(R^T dM - dM^T R); here its adjoint."""
        matrix, rotation = ctx.saved_tensors
        dtype = matrix.dtype
        matrix, rotation, grad_rotation = matrix.double(), rotation.double(), grad_rotation.double()
        norm = torch.linalg.matrix_norm(matrix, keepdim=True)
        stretch = rotation.transpose(-1, -2) @ _unit_norm(matrix)
        eye = torch.eye(3, dtype=torch.float64, device=matrix.device)
        system = stretch.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None] * eye - stretch
        damped = system.transpose(-1, -2) @ system + _GRADIENT_DAMPING**2 * eye
        torque = system.transpose(-1, -2) @ _vee(rotation.transpose(-1, -2) @ grad_rotation).unsqueeze(-1)
        turn = torch.linalg.solve(damped, torque).squeeze(-1)
        grad: Tensor = rotation @ _hat(turn) / torch.where(norm > 0, norm, torch.inf)
        return grad.to(dtype)


def _vee(matrix: Tensor) -> Tensor:
    """Adjoint of :func:`_hat`: the axial vector of M - M^T."""
    skew = matrix - matrix.transpose(-1, -2)
    return torch.stack((skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]), dim=-1)


def _hat(vector: Tensor) -> Tensor:
    """Matrix of the cross product with a vector."""
    x, y, z = vector.unbind(dim=-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).reshape(*x.shape, 3, 3)


def _solve_rotation(matrix: Tensor) -> Tensor:
    """Closed form of Markley's "fast optimal attitude matrix" in float64, and an eigensolver where that loses digits.

    With singular values s1 >= s2 >= |s3|, the last one signed as det(M), ``largest`` = s1 + s2 + s3 is the largest
    root of a quartic in M's invariants, and ``determinacy`` = (s1 + s2) (s2 + s3) (s3 + s1) tells how unique the
    answer is.

    References:
        Markley, Attitude determination using vector observations: a fast optimal matrix algorithm, 1993.
        Horn, Closed-form solution of absolute orientation using unit quaternions, JOSA A 1987.
    """
    unit = _unit_norm(matrix.double())
    rows = unit.unbind(dim=-2)
    cofactors = torch.stack([torch.linalg.cross(rows[i - 2], rows[i - 1], dim=-1) for i in range(3)], dim=-2)
    determinant = (unit[..., 0, :] * cofactors[..., 0, :]).sum(dim=-1)
    cubed = unit @ (unit.transpose(-1, -2) @ unit)
    constant = 2 * (unit * cubed).sum(dim=(-1, -2)) - 1

    # Newton from above the largest root, where the quartic is convex: every step goes down, towards it.
    largest = torch.full_like(determinant, math.sqrt(3))
    for _ in range(_NEWTON_STEPS):
        square = largest * largest
        value = (square - 2) * square - 8 * determinant * largest + constant
        step = value / (4 * largest * (square - 1) - 8 * determinant)
        largest = largest - step

    kappa = (largest * largest - 1) / 2
    determinacy = kappa * largest - determinant
    rotation = (kappa + 1)[..., None, None] * unit + largest[..., None, None] * cofactors - cubed
    rotation = rotation / determinacy[..., None, None]
    # What is not a number stays so; the eigensolver would stop the whole batch for it.
    hard = ~((determinacy > _MIN_DETERMINACY) & (step.abs() < 1e-12)) & constant.isfinite()
    if hard.any():
        rotation[hard] = _smallest_best_rotation(unit[hard], 8 * torch.finfo(matrix.dtype).eps)
    return rotation.to(matrix.dtype)


def _smallest_best_rotation(unit: Tensor, tolerance: float) -> Tensor:
    """The best rotation as an eigenvector of Horn's 4x4 matrix; among equally good ones that of the smallest angle."""
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(dim=-1) for row in unit.unbind(dim=-2))
    horn_rows = (
        (a + e + i, h - f, c - g, d - b),
        (h - f, a - e - i, b + d, c + g),
        (c - g, b + d, e - a - i, f + h),
        (d - b, c + g, f + h, i - a - e),
    )
    horn = torch.stack([torch.stack(row, dim=-1) for row in horn_rows], dim=-2)
    eigenvalues, eigenvectors = torch.linalg.eigh(horn)
    # Projected onto the best quaternions, (1, 0, 0, 0) gives the one of the smallest angle; if that has no share
    # there, all best rotations are half turns and any will do.
    best = eigenvalues > eigenvalues[..., -1:] - tolerance
    real_part = eigenvectors[..., 0, :] * best
    projected = (eigenvectors @ real_part.unsqueeze(-1)).squeeze(-1)
    has_share = torch.linalg.vector_norm(real_part, dim=-1, keepdim=True) > tolerance
    return quat_wxyz_to_rotmat(torch.where(has_share, projected, eigenvectors[..., -1]))


def _unit_norm(matrix: Tensor) -> Tensor:
    """The matrix divided by its Frobenius norm; a multiple of the identity for zeros."""
    norm = torch.linalg.matrix_norm(matrix, keepdim=True)
    identity = torch.eye(3, dtype=matrix.dtype, device=matrix.device) / math.sqrt(3)
    return torch.where(norm == 0, identity, matrix / torch.where(norm == 0, 1, norm))
