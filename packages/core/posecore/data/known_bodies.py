"""Whose body is known, and the joints to score a data set by that knows none."""

from dataclasses import replace
from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posecore.body.joint_maps import JointMap, joint_map
from posecore.body.skeletons import H36M_17, JOINTS_44, JointSet
from posecore.data.base import PoseDataset, PoseTable
from posecore.data.sample import PoseSample

# Where joints44 has two joints for one of Human3.6M's, the one that SPIN's files put at its place.
_OF_H36M = {"thorax": "neck", "head_top": "head_top_h36m"}


def known_bodies(samples: PoseSample) -> Bool[Tensor, " rows"] | None:
    """Rows whose pose and shape are both known; None where all are."""
    flags = [flag for flag in (samples.get("has_pose"), samples.get("has_betas")) if flag is not None]
    return torch.stack(flags).all(dim=0) if flags else None


def has_bodies(dataset: PoseDataset) -> bool:
    """Whether a body is known of anybody in a set."""
    known = known_bodies(dataset.samples) if isinstance(dataset, PoseTable) else None
    return known is None or bool(known.any())


def own_joints(
    batch: PoseSample, joint_set: JointSet
) -> tuple[Float[Tensor, "rows joints 3"], Bool[Tensor, "rows joints"]]:
    """Joints as the data set has them, such as MPI-INF-3DHP's test set, and which are known.

    Args:
        batch: ``joints_cam`` and ``joints_known`` of joints44.
        joint_set: The joints that are wanted.
    """
    of_joints44 = _own_joint_map(joint_set)
    known = of_joints44.apply_confidence(batch["joints_known"].float()) > 0
    return of_joints44.apply(batch["joints_cam"]), known


@cache
def _own_joint_map(joint_set: JointSet) -> JointMap:
    general = joint_map(JOINTS_44, joint_set)
    if joint_set != H36M_17:
        return general
    weights = general.weights.clone()
    for joint, place in _OF_H36M.items():
        weights[joint_set.index(joint)] = 0
        weights[joint_set.index(joint), JOINTS_44.index(place)] = 1
    return replace(general, weights=weights)
