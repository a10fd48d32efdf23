"""Terms that need no observation: how likely a pose or shape is in itself."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.body.skeletons import SMPL_24
from posecore.fitting.estimate import PosedPeople
from posecore.fitting.terms import Term
from posecore.safe_pickle import load_npz, load_pickle

POSE_PRIOR_CMU = Path(__file__).parent / "assets" / "pose_prior_cmu.npz"
"""Fitted by ``tools/fit_pose_prior.py``; its array ``source`` says to what."""

_BODY_DIM = 69
_BODY_DIM_ROT6D = 138
# Component of each hinge's axis-angle vector that bends it, and the sign that makes backwards positive.
_HINGES = (("l_elbow", 1, 1.0), ("r_elbow", 1, -1.0), ("l_knee", 0, -1.0), ("r_knee", 0, -1.0))


class Prior(Term):
    """A term that looks at each person alone and at no observation, so that it is the same for any people."""

    def take(self, rows: Int[Tensor, " kept"]) -> "Prior":
        """The term itself."""
        return self


class MixturePosePrior(Prior):
    """SMPLify's pose prior min_j -log(c g_j N(theta; mu_j, Sigma_j)) on the axis-angle pose of 23 joints.

    The minimum over components, where a mixture's likelihood has a sum, is Eq. (5)'s max-mixture. The constant c, which
    moves no optimum, is such that the loss is at least 0: it leaves out (2 pi)^(69/2) and the smallest determinant.

    ===============  ===========================
    ``means``        mu_j, radians
    ``covariances``  Sigma_j, square radians
    ``weights``      g_j
    ``weight``       lambda_theta
    ===============  ===========================

    Args:
        means: Means.
        covariances: Covariances, positive definite.
        weights: Shares of the components, above 0.
        weight: Of the term. SPIN's 4.78^2.

    Raises:
        ValueError: The arrays do not fit together, a share is not above 0 or a covariance not positive definite.

    References:
        Bogo et al., Keep it SMPL, ECCV 2016, Sec. 3.3, Eqs. (4) and (5).
    """

    def __init__(
        self,
        means: Float[Tensor, "components 69"],
        covariances: Float[Tensor, "components 69 69"],
        weights: Float[Tensor, " components"],
        weight: float = 4.78**2,
    ) -> None:
        if not bool((weights > 0).all()):
            raise ValueError(f"weights: every component's share must be above 0, got {weights.tolist()}")
        self.weight = weight
        self._means = means
        self._whitening, log_spread = _whitening("covariances", covariances)
        self._offset = log_spread - log_spread.amin() - weights.double().log()

    @classmethod
    def load(cls, path: Path | str = POSE_PRIOR_CMU, weight: float = 4.78**2) -> "MixturePosePrior":
        """Reads the shipped prior, another ``.npz`` of its layout, or SMPLify's ``gmm_08.pkl``.

        Args:
            path: ``.npz`` with ``means``, ``covariances`` and ``weights``; or a pickle of a dict with ``means``,
                ``covars`` and ``weights``.
            weight: Of the term.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: An array is missing or has another shape, or the file is unsafe or broken.
        """
        path = Path(path)
        arrays = _read(path)
        covariances = "covars" if "covars" in arrays else "covariances"
        means = _array(arrays, "means", (None, _BODY_DIM), path)
        count = len(means)
        return cls(
            means,
            _array(arrays, covariances, (count, _BODY_DIM, _BODY_DIM), path),
            _array(arrays, "weights", (count,), path),
            weight,
        )

    def __call__(self, people: PosedPeople) -> Float[Tensor, " people"]:
        """The most likely component's negative logarithm, at least 0."""
        pose = people.estimate.pose_axis_angle[:, 1:].flatten(1)
        deviation = pose[:, None] - self._means.to(pose)
        squared = torch.einsum("pcd,ced->pce", deviation, self._whitening.to(pose)).square().sum(dim=-1)
        return (0.5 * squared + self._offset.to(pose)).amin(dim=-1)


class GaussianPosePrior(Prior):
    """Half the squared Mahalanobis distance from the mean pose, in the 6D rotations of 23 joints.

    In 6D it needs no conversion, has no jump at half a turn, and takes the numbers of a pose as they are. A Gaussian in
    axis-angle is a `MixturePosePrior` of one component.

    Args:
        mean: Mean.
        covariance: Covariance, positive definite.
        weight: Of the term.

    Raises:
        ValueError: The covariance is not positive definite.
    """

    def __init__(
        self, mean: Float[Tensor, " 138"], covariance: Float[Tensor, "138 138"], weight: float = 4.78**2
    ) -> None:
        self.weight = weight
        self._mean = mean
        self._whitening, _ = _whitening("covariance", covariance)

    @classmethod
    def load(cls, path: Path | str = POSE_PRIOR_CMU, weight: float = 4.78**2) -> "GaussianPosePrior":
        """Reads ``mean_rot6d`` and ``covariance_rot6d`` of an ``.npz``, the shipped one by default.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: An array is missing or has another shape, or the file is broken.
        """
        path = Path(path)
        arrays = _read(path)
        mean = _array(arrays, "mean_rot6d", (_BODY_DIM_ROT6D,), path)
        return cls(mean, _array(arrays, "covariance_rot6d", (_BODY_DIM_ROT6D, _BODY_DIM_ROT6D), path), weight)

    def __call__(self, people: PosedPeople) -> Float[Tensor, " people"]:
        """0 at the mean."""
        pose = people.estimate.pose_rot6d[:, 1:].flatten(1)
        deviation = pose - self._mean.to(pose)
        return 0.5 * (deviation @ self._whitening.to(pose).mT).square().sum(dim=-1)


class AnglePrior(Prior):
    """SMPLify's term against elbows and knees that bend backwards: exp(theta_i)^2 of four angles, backwards positive.

    The angles are numbers 55 and 58 (y of the left and right elbow, the right one's sign turned) and 12 and 15 (x of
    the knees, sign turned) of SMPL's 72 pose parameters.

    Deviation: the square is the released programs'; Eq. (3) prints the sum of exp(theta_i).

    Args:
        weight: Of the term. SPIN's 15.2^2.

    References:
        Bogo et al., Keep it SMPL, ECCV 2016, Sec. 3.3, Eq. (3).
    """

    def __init__(self, weight: float = 15.2**2) -> None:
        self.weight = weight
        self._joints = [SMPL_24.index(name) for name, _, _ in _HINGES]
        self._axes = [axis for _, axis, _ in _HINGES]
        self._signs = [sign for _, _, sign in _HINGES]

    def __call__(self, people: PosedPeople) -> Float[Tensor, " people"]:
        """Sum over the four; 4 for straight limbs."""
        angles = people.estimate.pose_axis_angle[:, self._joints, self._axes]
        return (2 * angles * angles.new_tensor(self._signs)).exp().sum(dim=-1)


class ShapePrior(Prior):
    """The squared length of the betas, which are in standard deviations.

    Args:
        weight: Of the term. SPIN's 5^2.
    """

    def __init__(self, weight: float = 5.0**2) -> None:
        self.weight = weight

    def __call__(self, people: PosedPeople) -> Float[Tensor, " people"]:
        """Sum over the components."""
        return people.estimate.betas.square().sum(dim=-1)


def _whitening(name: str, covariance: Float[Tensor, "*batch dim dim"]) -> tuple[Tensor, Tensor]:
    """W with W^T W the inverse of the covariance, and half the logarithm of its determinant; float64."""
    factor, failed = torch.linalg.cholesky_ex(covariance.double())
    if bool(failed.any()):
        raise ValueError(f"{name}: a covariance is not positive definite")
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    whitening = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    return whitening, factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)


def _read(path: Path) -> dict[str, Any]:
    arrays = load_npz(path) if path.suffix.lower() == ".npz" else load_pickle(path)
    if not isinstance(arrays, dict):
        raise ValueError(f"{path}: holds a {type(arrays).__name__}, expected the arrays of a pose prior by name")
    return arrays


def _array(arrays: dict[str, Any], name: str, shape: tuple[int | None, ...], path: Path) -> Tensor:
    if name not in arrays:
        raise ValueError(f"{path}: has no {name!r} (it holds {', '.join(map(str, arrays))})")
    array = np.asarray(arrays[name])
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.kind != "f":
        wanted = tuple("any" if size is None else size for size in shape)
        raise ValueError(f"{path}: {name} has shape {array.shape} and type {array.dtype}, expected floats of {wanted}")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))
