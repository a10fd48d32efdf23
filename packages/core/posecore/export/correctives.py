"""SMPL's pose blend shapes as a few morph targets, for programs whose skins have none.

A skin moves the rest body with its bones; SMPL first displaces every vertex by an amount that is linear in the pose
(B_P, Eq. 9), which a skin cannot say. Over the frames of one motion the displacements span few directions: their
principal components become morph targets with a weight per frame.

References:
    Loper et al., SMPL: A Skinned Multi-Person Linear Model, SIGGRAPH Asia 2015.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.export.body_motion import BodyMotion

__all__ = ["Correctives", "fit_correctives"]

_ROWS = 64  # frames at a time, so that memory does not grow with the length of the motion


@dataclass(frozen=True, eq=False)
class Correctives:
    """Morph targets and their weights; the sum over targets displaces the rest body before it is skinned.

    Attributes:
        targets: Displacements, metres.
        weights: Of each target in each frame, in [0, 1]; the first target's is 1 throughout.
        max_error: How far any vertex of any frame is at most from where SMPL puts it, metres.
    """

    targets: Float[Tensor, "targets vertices 3"]
    weights: Float[Tensor, "frames targets"]
    max_error: float


def fit_correctives(motion: BodyMotion, tolerance: float) -> Correctives:
    """As few morph targets as keep every vertex of every frame within ``tolerance`` metres of SMPL's.

    A body without pose blend shapes, as the open body, needs none, and an infinite tolerance gives none. Errors are
    those of the rest body: a skin blends rotations, so it never makes a displacement longer.
    """
    posedirs = motion.model.posedirs.detach().cpu().double().flatten(0, 1)
    features = (motion.rotmat_up[:, 1:] - torch.eye(3, dtype=torch.float64)).flatten(1)
    error = _largest(features, posedirs.T)
    if error <= tolerance:
        return Correctives(posedirs.new_zeros(0, len(posedirs) // 3, 3), posedirs.new_zeros(len(features), 0), error)
    # The displacements are features @ posedirs.T, frames x 3 vertices; their SVD is that of a small matrix.
    mean = features.mean(dim=0)
    basis, mix = torch.linalg.qr(posedirs)
    left, strength, right = torch.linalg.svd((features - mean) @ mix.T, full_matrices=False)
    weights, directions = left * strength, right @ basis.T
    fewest, enough = 0, weights.shape[1]
    while fewest < enough:
        middle = (fewest + enough) // 2
        if _largest(weights[:, middle:], directions[middle:]) <= tolerance:
            enough = middle
        else:
            fewest = middle + 1
    error = _largest(weights[:, enough:], directions[enough:])
    weights, directions = weights[:, :enough], directions[:enough]
    # Blender's importer cuts weights off below 0, and others above 1; what that takes away is in the first target.
    low, high = weights.amin(dim=0), weights.amax(dim=0)
    span = (high - low).clamp_min(torch.finfo(torch.float64).tiny)
    constant = mean @ posedirs.T + low @ directions
    targets = torch.cat((constant[None], directions * span[:, None])).unflatten(-1, (-1, 3))
    return Correctives(targets, torch.cat((weights.new_ones(len(weights), 1), (weights - low) / span), dim=1), error)


def _largest(weights: Float[Tensor, "frames targets"], directions: Float[Tensor, "targets coordinates"]) -> float:
    """The longest displacement of any vertex in any frame."""
    weights, directions = weights.float(), directions.float()
    return max(float((rows @ directions).unflatten(-1, (-1, 3)).norm(dim=-1).max()) for rows in weights.split(_ROWS))
