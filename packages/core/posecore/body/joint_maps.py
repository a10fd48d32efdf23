"""Linear maps from one joint set to another: COCO to Human3.6M, SMPL to Human3.6M, and every other pair.

There is one table instead of one per pair: a joint that both sets name is copied, and a joint that the source lacks is
built from others by the rules of :data:`CONSTRUCTIONS` where that is possible. The rules are checked against joints
regressed from the posed open body; how far each falls from its target is written beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.body.skeletons import JointSet

__all__ = ["CONSTRUCTIONS", "JointMap", "joint_map"]

_MIDDLE = 0.5

_Rules = Mapping[str, tuple[Mapping[str, float], ...]]

# How to make a joint that the source lacks: alternatives, best first, each ``{joint: weight}`` with weights that sum to
# 1. The joints on the right may be constructed in turn. Behind: mean distance to the target in 200 posed open bodies.
CONSTRUCTIONS: _Rules = {
    "pelvis": ({"mid_hip": 1.0}, {"l_hip": _MIDDLE, "r_hip": _MIDDLE}),  # 4 mm
    "mid_hip": ({"l_hip": _MIDDLE, "r_hip": _MIDDLE},),  # by definition
    "thorax": ({"l_shoulder": _MIDDLE, "r_shoulder": _MIDDLE},),  # 31 mm
    "neck": ({"thorax": 1.0},),  # BODY_25's by definition; 55 mm below SMPL's
    "spine": ({"spine2": 1.0}, {"pelvis": _MIDDLE, "thorax": _MIDDLE}),  # 4 mm; 63 mm when the back is bent much
    "spine2": ({"spine": 1.0},),  # 4 mm
    # Human3.6M's neck/nose lies in the head behind the mouth: the middle of the ears is 58 mm and the nose 124 mm away.
    "neck_nose": ({"jaw": 1.0}, {"l_ear": 0.35, "r_ear": 0.35, "thorax": 0.3}, {"head": 1.0}),  # 22 mm
    "jaw": ({"neck_nose": 1.0},),  # another name
    "head": ({"neck_nose": _MIDDLE, "head_top": _MIDDLE},),  # 26 mm from SMPL's
    "head_top": ({"head_top_h36m": 1.0},),  # another name
    "head_top_h36m": ({"head_top": 1.0},),
}

# MPI-INF-3DHP's neck is the base of the neck, which every method that is tested across the two sets takes for
# Human3.6M's thorax; the middle of the shoulders lies lower.
_MPI_INF_3DHP: _Rules = {"thorax": ({"neck": 1.0},)}

# What a set's own joints tell better than the general rules.
_SOURCE_CONSTRUCTIONS: Mapping[str, _Rules] = {
    "smpl24": {
        "mid_hip": ({"pelvis": 1.0},),  # as ProHMR and HMR 2.0 fill OpenPose's; 17 mm
        "thorax": ({"l_collar": 0.36, "r_collar": 0.36, "neck": 0.28},),  # 7 mm
        "neck_nose": ({"head": 0.75, "neck": 0.25},),  # 8 mm
        "head_top": ({"head": 1.6, "neck": -0.6},),  # 39 mm
    },
    "mpii3d17": _MPI_INF_3DHP,
    "mpii3d28": _MPI_INF_3DHP,
    "muco21": _MPI_INF_3DHP,
}


@dataclass(frozen=True, eq=False)
class JointMap:
    """A linear map between joint sets.

    Attributes:
        source: Set of the input.
        target: Set of the output.
        weights: Row t holds the weights of the source joints in target joint t. Rows sum to 1, or are all 0 where the
            joint cannot be made.
    """

    source: JointSet
    target: JointSet
    weights: Float[Tensor, "target source"]

    @cached_property
    def available(self) -> tuple[bool, ...]:
        """For each target joint, whether it can be made from the source."""
        return tuple(bool(row.any()) for row in self.weights)

    @cached_property
    def _used(self) -> Int[Tensor, "target used"]:
        """Source joints of each row, padded with one of its own, so that a bad joint spoils only what is made of it."""
        rows = [row.nonzero().flatten().tolist() or [0] for row in self.weights]
        width = max(map(len, rows))
        return torch.tensor([row + [row[-1]] * (width - len(row)) for row in rows])

    @cached_property
    def _used_weights(self) -> Float[Tensor, "target used"]:
        repeated = torch.zeros_like(self._used, dtype=torch.bool)
        repeated[:, 1:] = self._used[:, 1:] == self._used[:, :-1]
        return self.weights.gather(1, self._used).masked_fill(repeated, 0)

    def apply(self, points: Float[Tensor, "*batch source dim"]) -> Float[Tensor, "*batch target dim"]:
        """Maps positions of any dimension; 2D positions too, since a perspective image of a middle is nearly a middle.

        Returns:
            Positions in the units and frame of the input; zeros for joints that are not available.

        Raises:
            ValueError: The input does not have the source's joints.
        """
        self._check(points, dim=-2)
        used = self._used.to(points.device)
        weights = self._used_weights.to(points)
        made = (points[..., used, :] * weights[..., None]).sum(dim=-2)
        return torch.where(self._available_like(points)[:, None], made, torch.zeros_like(made))

    def apply_confidence(self, confidence: Float[Tensor, "*batch source"]) -> Float[Tensor, "*batch target"]:
        """The confidence of each target joint: the least of the joints it is made of, 0 where it is not available.

        Raises:
            ValueError: The input does not have the source's joints.
        """
        self._check(confidence, dim=-1)
        least = confidence[..., self._used.to(confidence.device)].amin(dim=-1)
        return torch.where(self._available_like(confidence), least, torch.zeros_like(least))

    def _available_like(self, tensor: Tensor) -> Tensor:
        return torch.tensor(self.available, device=tensor.device)

    def _check(self, tensor: Tensor, dim: int) -> None:
        if tensor.ndim < -dim or tensor.shape[dim] != self.source.num_joints:
            raise ValueError(
                f"input of shape {tuple(tensor.shape)} does not have the {self.source.num_joints} joints of "
                f"{self.source.name!r} in dimension {dim}"
            )


@cache
def joint_map(source: JointSet, target: JointSet, copies_only: bool = False) -> JointMap:
    """The map from one joint set to another.

    Args:
        source: Set to map from.
        target: Set to map to.
        copies_only: Leaves out joints that would be constructed from others, as ScoreHMR does when it fills OpenPose's
            25 joints from COCO's 17 (the neck and the middle of the hips stay empty).
    """
    weights = torch.zeros(target.num_joints, source.num_joints, dtype=torch.float64)
    rules = {} if copies_only else {**CONSTRUCTIONS, **_SOURCE_CONSTRUCTIONS.get(source.name, {})}
    for row, joint in enumerate(target.joint_names):
        for name, weight in (_make(joint, source, rules, frozenset()) or {}).items():
            weights[row, source.index(name)] = weight
    return JointMap(source=source, target=target, weights=weights)


def _make(joint: str, source: JointSet, rules: _Rules, tried: frozenset[str]) -> dict[str, float] | None:
    """Weights of source joints that make `joint`, or None; `tried` keeps the rules from running in circles."""
    for name in (joint, f"op_{joint}", joint.removeprefix("op_")):
        if name in source.joint_names:
            return {name: 1.0}
    for parts in rules.get(joint.removeprefix("op_"), ()):
        made: dict[str, float] = {}
        for part, weight in parts.items():
            piece = None if part in tried else _make(part, source, rules, tried | {joint, joint.removeprefix("op_")})
            if piece is None:
                break
            for name, inner in piece.items():
                made[name] = made.get(name, 0.0) + weight * inner
        else:
            return made
    return None
