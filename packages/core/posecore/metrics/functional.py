"""Errors of 3D poses as plain functions: metres in, one value per pose out, in millimetres.

Conventions of every function here:

- ``root`` names the joints whose mean is subtracted from a pose first; ``None`` leaves the positions as they are.
- ``mask`` is true where a joint's truth is known. Other joints count for nothing and may hold any value, NaN included.
  A pose without a known joint, or with an unknown root joint, has no error: its value is NaN (see ``is_scored``).
- A NaN in a prediction makes that pose's value NaN. It is never dropped.
- 16-bit input is raised to float32.

There is no order between the errors: PA-MPJPE may exceed MPJPE, because the alignment minimises squared distances.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from posecore.geometry.alignment import align

HypothesisRule = Literal["min", "mean", "first"]
"""How several errors of one pose become one: the best (an oracle picks it), their mean, or the first."""

MM_PER_M = 1000.0
PCK_THRESHOLD_MM = 150.0
AUC_THRESHOLDS_MM = tuple(5.0 * i for i in range(31))  # 0, 5, .., 150: the 31 of the MPI-INF-3DHP evaluation
CALIBRATION_LEVELS = tuple(i / 10 for i in range(1, 10))


def is_scored(mask: Bool[Tensor, "*batch joints"], root: tuple[int, ...] | None = (0,)) -> Bool[Tensor, "*batch"]:
    """Which poses have an error at all: at least one known joint, and every root joint known."""
    scored = mask.any(dim=-1)
    return scored if root is None else scored & mask[..., list(root)].all(dim=-1)


def free_joints(
    mask: Bool[Tensor, "*batch joints"], root: tuple[int, ...] | None = (0,)
) -> Bool[Tensor, "*batch joints"]:
    """Known joints that root alignment leaves something to say about.

    None where a root joint is unknown; a single root joint is itself left out, being the origin in every pose.
    """
    if root is None:
        return mask
    index = torch.arange(mask.shape[-1], device=mask.device)
    kept = index != root[0] if len(root) == 1 else index >= 0
    return mask & kept & mask[..., list(root)].all(dim=-1, keepdim=True)


def over_three_frames(
    mask: Bool[Tensor, "*batch frames joints"], root: tuple[int, ...] | None = None
) -> Bool[Tensor, "*batch frames-2 joints"]:
    """Joints known, with every root joint, in a frame and both its neighbours: those that have an acceleration."""
    if root is not None:
        mask = mask & mask[..., list(root)].all(dim=-1, keepdim=True)
    return mask[..., 2:, :] & mask[..., 1:-1, :] & mask[..., :-2, :]


def subtract_root(
    points: Float[Tensor, "*batch joints 3"], root: tuple[int, ...] | None = (0,)
) -> Float[Tensor, "*batch joints 3"]:
    """Moves a pose so that the mean of its ``root`` joints is the origin.

    Raises:
        ValueError: If ``root`` is empty or names a joint that does not exist.
    """
    if root is None:
        return points
    if not root or not all(0 <= joint < points.shape[-2] for joint in root):
        raise ValueError(f"root must name joints in 0..{points.shape[-2] - 1}, got {root}")
    return points - points[..., list(root), :].mean(dim=-2, keepdim=True)


def joint_errors(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    root: tuple[int, ...] | None = (0,),
) -> Float[Tensor, "*batch joints"]:
    """Distance of each joint to its truth after root alignment, in mm."""
    pred, target = _raise_half(pred), _raise_half(target)
    difference = subtract_root(pred, root) - subtract_root(target, root)
    distance: Tensor = torch.linalg.vector_norm(difference, dim=-1)
    return distance * MM_PER_M


def mpjpe(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    root: tuple[int, ...] | None = (0,),
    mask: Bool[Tensor, "*batch joints"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Mean per joint position error after root alignment, in mm."""
    return _mean_over_joints(joint_errors(pred, target, root), mask, root)


def pa_mpjpe(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    mask: Bool[Tensor, "*batch joints"] | None = None,
    reflection: bool = False,
) -> Float[Tensor, "*batch"]:
    """Mean per joint position error after the best similarity (Procrustes) alignment of ``pred``, in mm.

    Args:
        pred: Predicted joints, m, in any frame.
        target: True joints, m.
        mask: Joints to align and to score.
        reflection: Let the alignment mirror the pose, as some released programs do. It lowers the error of a pose
            whose left and right are swapped in depth.
    """
    return _mean_over_joints(_aligned_errors(pred, target, mask, reflection), mask, None)


def n_mpjpe(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    root: tuple[int, ...] | None = (0,),
    mask: Bool[Tensor, "*batch joints"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Mean per joint position error after root alignment and the best scale of ``pred``, in mm.

    The scale minimises the squared distances and may be negative; a prediction collapsed onto its root stays there.

    References:
        Rhodin et al., Unsupervised Geometry-Aware Representation for 3D Human Pose Estimation, Sec. 4 (N-MPJPE).
    """
    pred, target = subtract_root(_raise_half(pred), root), subtract_root(_raise_half(target), root)
    pred_known, target_known = _zero_unknown(pred, mask), _zero_unknown(target, mask)
    norm = pred_known.square().sum(dim=(-1, -2), keepdim=True)
    scale = (pred_known * target_known).sum(dim=(-1, -2), keepdim=True) / torch.where(norm == 0, 1, norm)
    return _mean_over_joints(joint_errors(scale * pred, target, None), mask, root)


def pve(
    pred: Float[Tensor, "*batch vertices 3"],
    target: Float[Tensor, "*batch vertices 3"],
    pred_root: Float[Tensor, "*batch 3"] | None = None,
    target_root: Float[Tensor, "*batch 3"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Mean per vertex error (PVE, MPVPE) of meshes of one topology, in mm.

    Args:
        pred: Predicted vertices, m.
        target: True vertices, m.
        pred_root: Root joint of the prediction, subtracted from its vertices.
        target_root: Root joint of the truth; given where ``pred_root`` is.

    Raises:
        ValueError: If only one of the roots is given.
    """
    if (pred_root is None) != (target_root is None):
        raise ValueError("pve needs both pred_root and target_root, or neither")
    if pred_root is not None and target_root is not None:
        pred, target = pred - pred_root[..., None, :], target - target_root[..., None, :]
    return mpjpe(pred, target, root=None)


def pa_pve(
    pred: Float[Tensor, "*batch vertices 3"],
    target: Float[Tensor, "*batch vertices 3"],
    reflection: bool = False,
) -> Float[Tensor, "*batch"]:
    """Mean per vertex error after the best similarity alignment of the mesh, in mm."""
    return pa_mpjpe(pred, target, None, reflection)


def pck(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    threshold_mm: float = PCK_THRESHOLD_MM,
    root: tuple[int, ...] | None = (0,),
    mask: Bool[Tensor, "*batch joints"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Share of joints less than ``threshold_mm`` off after root alignment: 0..1 (papers print per cent).

    References:
        Mehta et al., Monocular 3D Human Pose Estimation In The Wild Using Improved CNN Supervision, Sec. 5.
    """
    return auc(pred, target, (threshold_mm,), root, mask)


def auc(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    thresholds_mm: Sequence[float] = AUC_THRESHOLDS_MM,
    root: tuple[int, ...] | None = (0,),
    mask: Bool[Tensor, "*batch joints"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Mean PCK over thresholds, 0..1.

    Nothing is less than 0 mm off, so a perfect pose reaches 30/31 with the default 0, 5, .., 150 mm.

    Raises:
        ValueError: If ``thresholds_mm`` is empty.
    """
    if not thresholds_mm:
        raise ValueError("thresholds_mm must hold at least one threshold")
    errors = joint_errors(pred, target, root)
    thresholds = torch.tensor(thresholds_mm, dtype=errors.dtype, device=errors.device)
    share = (errors[..., None] < thresholds).to(errors.dtype).mean(dim=-1)
    # A comparison with NaN is false, a clean miss: say NaN instead.
    return _mean_over_joints(torch.where(errors.isnan(), errors, share), mask, root)


def acceleration(
    joints: Float[Tensor, "*batch frames joints 3"], fps: float | None = None
) -> Float[Tensor, "*batch frames-2 joints 3"]:
    """Second difference x[f+1] - 2 x[f] + x[f-1]: in m/s^2, or in mm/frame^2 where no ``fps`` is given.

    Raises:
        ValueError: If there are fewer than 3 frames or ``fps`` is not positive.
    """
    if joints.shape[-3] < 3:
        raise ValueError(f"acceleration needs at least 3 frames, got {joints.shape[-3]}")
    if fps is not None and fps <= 0:
        raise ValueError(f"fps must be positive, got {fps}")
    joints = _raise_half(joints)
    second_difference = joints[..., 2:, :, :] - 2 * joints[..., 1:-1, :, :] + joints[..., :-2, :, :]
    return second_difference * (MM_PER_M if fps is None else fps**2)


def acceleration_error(
    pred: Float[Tensor, "*batch frames joints 3"],
    target: Float[Tensor, "*batch frames joints 3"],
    fps: float | None = None,
    root: tuple[int, ...] | None = None,
    mask: Bool[Tensor, "*batch frames joints"] | None = None,
) -> Float[Tensor, "*batch frames-2"]:
    """Mean norm over joints of the difference of accelerations, one value per inner frame of a clip.

    Args:
        pred: Predicted joints of consecutive frames, m.
        target: True joints.
        fps: Frames per second. Given, the result is in m/s^2; not given, in mm/frame^2, the number that most papers
            print, some of them under the name mm/s^2.
        root: Joints whose mean is subtracted in every frame first.
        mask: Known joints; a joint counts where it is known in all three frames.

    Raises:
        ValueError: If there are fewer than 3 frames or ``fps`` is not positive.

    References:
        Kanazawa et al., Learning 3D Human Dynamics from Video, Sec. 4.1.
    """
    difference = acceleration(subtract_root(pred, root), fps) - acceleration(subtract_root(target, root), fps)
    known = None if mask is None else over_three_frames(mask, root)
    return _mean_over_joints(torch.linalg.vector_norm(difference, dim=-1), known, None)


def f_score(
    pred: Float[Tensor, "*batch n 3"], target: Float[Tensor, "*batch m 3"], threshold_mm: float
) -> Float[Tensor, "*batch"]:
    """Harmonic mean of precision and recall of two point sets at a distance, 0..1.

    Precision is the share of predicted points less than ``threshold_mm`` from the nearest true point, recall the share
    of true points that near a predicted one. Nothing is aligned here; FreiHAND's F@5 and F@15 are computed on meshes
    moved by ``posecore.geometry.alignment.align``. Memory is one n x m table per mesh.

    References:
        Knapitsch et al., Tanks and Temples, Sec. 5; Zimmermann et al., FreiHAND, Sec. 4.3.
    """
    pred, target = _raise_half(pred), _raise_half(target)
    # The matrix-product shortcut loses 1e-3 m on points 5 m away from the origin.
    distance = torch.cdist(pred, target, compute_mode="donot_use_mm_for_euclid_dist") * MM_PER_M
    precision = (distance.amin(dim=-1) < threshold_mm).to(pred.dtype).mean(dim=-1)
    recall = (distance.amin(dim=-2) < threshold_mm).to(pred.dtype).mean(dim=-1)
    total = precision + recall
    score = 2 * precision * recall / torch.where(total == 0, 1, total)
    return torch.where(distance.isnan().any(dim=-1).any(dim=-1), torch.nan, score)


def reduce_hypotheses(
    errors: Float[Tensor, "*batch hypotheses"], rule: HypothesisRule = "min"
) -> Float[Tensor, "*batch"]:
    """One error per pose from the errors of its hypotheses.

    ``min`` is an oracle: it looks at the truth, and improves with the number of hypotheses whatever they are. To score
    the average pose instead, average first (``pred.mean(dim=-3)``) and score that.

    Raises:
        ValueError: If ``rule`` is unknown.
    """
    if rule == "min":
        return errors.amin(dim=-1)
    if rule == "mean":
        return errors.mean(dim=-1)
    if rule == "first":
        return errors[..., 0]
    raise ValueError(f"unknown rule {rule!r}, expected one of {get_args(HypothesisRule)}")


def select_hypothesis(
    values: Float[Tensor, "*batch hypotheses"], index: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """The value of the hypothesis that ``index`` names, e.g. the PCK of the hypothesis of least MPJPE."""
    return values.gather(-1, index[..., None]).squeeze(-1)


def hypothesis_spread(
    pred: Float[Tensor, "*batch hypotheses joints 3"], root: tuple[int, ...] | None = (0,)
) -> Float[Tensor, "*batch joints"]:
    """Standard deviation of each joint over the hypotheses, in mm.

    The square root of the summed variances of x, y and z (unbiased, divisor S - 1), after root alignment of each
    hypothesis: for a normal cloud of std s per axis it is s sqrt(3).

    Raises:
        ValueError: If there are fewer than 2 hypotheses.
    """
    _check_hypotheses(pred)
    variance = subtract_root(_raise_half(pred), root).var(dim=-3).sum(dim=-1)
    return variance.sqrt() * MM_PER_M


def joint_coverage(
    pred: Float[Tensor, "*batch hypotheses joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    levels: Sequence[float] = CALIBRATION_LEVELS,
    root: tuple[int, ...] | None = (0,),
) -> Float[Tensor, "*batch joints {len(levels)}"]:
    """Whether the truth of each joint lies within the spread of the hypotheses: 1 or 0 at each of several levels.

    For each joint the S hypotheses and the truth are ranked by their distance to the mean of all S + 1. The truth is
    covered at level q if its rank, counted from 1, is at most q (S + 1). Where the truth looks like one more
    hypothesis every rank is equally likely, whatever the distribution, so that exactly floor(q (S + 1)) / (S + 1) of
    the joints are covered. Less says the hypotheses are too alike, more that they are spread too far.

    Args:
        pred: Hypotheses, m.
        target: Truth, m.
        levels: Nominal coverages q in (0, 1].
        root: Joints whose mean is subtracted first. A single root joint is the origin in all poses, so that its value
            says nothing (see ``free_joints``).

    Returns:
        1, 0, or NaN where the truth or a hypothesis is NaN.

    Raises:
        ValueError: If there are fewer than 2 hypotheses or a level is outside (0, 1].
    """
    _check_hypotheses(pred)
    if not levels or not all(0 < level <= 1 for level in levels):
        raise ValueError(f"levels must be one or more numbers in (0, 1], got {tuple(levels)}")
    pred, target = subtract_root(_raise_half(pred), root), subtract_root(_raise_half(target), root)
    everyone = torch.cat([target.unsqueeze(-3), pred], dim=-3)
    distance = torch.linalg.vector_norm(everyone - everyone.mean(dim=-3, keepdim=True), dim=-1)
    rank = 1 + (distance[..., 1:, :] < distance[..., :1, :]).sum(dim=-2)
    bounds = torch.tensor(levels, dtype=pred.dtype, device=pred.device) * everyone.shape[-3]
    # 0.7 * 10 is 7.000000000000001 in one precision and 6.9999995 in another.
    covered = (rank[..., None] <= bounds + 1e-4).to(pred.dtype)
    return torch.where(distance.isnan().any(dim=-2)[..., None], torch.nan, covered)


def calibration(
    pred: Float[Tensor, "*batch hypotheses joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    levels: Sequence[float] = CALIBRATION_LEVELS,
    root: tuple[int, ...] | None = (0,),
    mask: Bool[Tensor, "*batch joints"] | None = None,
) -> Float[Tensor, "*batch {len(levels)}"]:
    """How often the truth lies within the spread of the hypotheses, at several levels: the mean of ``joint_coverage``.

    Args:
        pred: Hypotheses, m.
        target: Truth, m.
        levels: Nominal coverages q in (0, 1].
        root: Joints whose mean is subtracted first. A single root joint is left out.
        mask: Known joints.

    Returns:
        Share of this pose's joints that are covered, one per level; average it over many poses. NaN where no joint is
        left.

    Raises:
        ValueError: If there are fewer than 2 hypotheses or a level is outside (0, 1].
    """
    covered = joint_coverage(pred, target, levels, root)
    known = free_joints(torch.ones_like(covered[..., 0], dtype=torch.bool) if mask is None else mask, root)
    return _mean_over_joints(covered.movedim(-1, 0), known.expand(len(levels), *known.shape), None).movedim(0, -1)


def _aligned_errors(pred: Tensor, target: Tensor, mask: Tensor | None, reflection: bool) -> Tensor:
    pred, target = _zero_unknown(_raise_half(pred), mask), _zero_unknown(_raise_half(target), mask)
    weights = None if mask is None else mask.to(pred.dtype)
    # SVD refuses (CPU) or hangs on (some GPU solvers) NaN: such poses are aligned as zeros and get their NaN back.
    bad = ~(pred.isfinite().all(dim=-1).all(dim=-1) & target.isfinite().all(dim=-1).all(dim=-1))[..., None, None]
    safe_pred, safe_target = torch.where(bad, 0, pred), torch.where(bad, 0, target)
    aligned = align(safe_pred, safe_target, weights, scale=True, reflection=reflection)
    return torch.where(bad[..., 0], torch.nan, joint_errors(aligned, safe_target, None))


def _mean_over_joints(errors: Tensor, mask: Tensor | None, root: tuple[int, ...] | None) -> Tensor:
    if mask is None:
        return errors.mean(dim=-1)
    count = mask.sum(dim=-1)
    mean = torch.where(mask, errors, 0).sum(dim=-1) / count.clamp_min(1)
    return torch.where(is_scored(mask, root), mean, torch.nan)


def _zero_unknown(points: Tensor, mask: Tensor | None) -> Tensor:
    return points if mask is None else torch.where(mask[..., None], points, 0)


def _raise_half(points: Tensor) -> Tensor:
    return points.to(torch.promote_types(points.dtype, torch.float32))


def _check_hypotheses(pred: Tensor) -> None:
    if pred.shape[-3] < 2:
        raise ValueError(f"the spread of hypotheses needs at least 2 of them, got {pred.shape[-3]}")
