"""The poses of a result that are scored, by rule; which of them use the truth, and how the release's number arises.

Over ``<metric>`` of a set the rules are logged as ``<set>/<rule><metric>``:

==================  =========  ====================================================================================
rule                truth      pose
==================  =========  ====================================================================================
(none)              not used   the aggregated pose as it was sampled
``refined_``        not used   the same, its x and y put on the rays of the keypoints at an *estimated* distance
``mean_``           not used   mean of the hypotheses (Sec. 4.3)
``medoid_``         not used   the hypothesis closest to all others
``reprojection_``   not used   the hypothesis closest to the keypoints
``min_``            **used**   the best hypothesis, for each metric (ZeDO's and Diff-HMR's rule)
``true_root_``      **used**   what the release reports: x and y replaced by the keypoints back-projected with the
                               *true* distance; a prediction with random x and y scores perfectly
==================  =========  ====================================================================================
"""

from typing import get_args

from jaxtyping import Float
from torch import Tensor

from diffupose.sampler import Aggregation, DiffuPoseResult, aggregate
from posecore.data.sample import PoseSample
from posecore.geometry.placement import refine_xy, solve_translation

RULES = ("", "refined_", *(f"{rule}_" for rule in get_args(Aggregation)), "min_", "true_root_")


def poses_by_rule(result: DiffuPoseResult, batch: PoseSample) -> dict[str, Float[Tensor, "people _ joints 3"]]:
    """What each of `RULES` scores: one pose per person, or all hypotheses for ``min_``.

    Args:
        result: Hypotheses and aggregated pose.
        batch: Keypoints and cameras; ``joints_cam`` and ``joints_rel`` are read for ``true_root_`` alone.
    """
    seen = batch["joints_2d_px"], batch["confidence"], batch["K"]
    pose = result.pose[:, None]
    # Deviation: the release also tries blends of replaced and predicted x, y and looks for the one of least error, but
    # its first try overwrites the prediction, so that the replaced one is always what is scored.
    true_root = (batch["joints_cam"] - batch["joints_rel"])[:, :1]
    poses = {
        "": pose,
        "refined_": refine_xy(pose, solve_translation(pose, *seen), *seen),
        "min_": result.joints_rel,
        "true_root_": refine_xy(pose, true_root, *seen),
    }
    for rule in get_args(Aggregation):
        poses[f"{rule}_"] = aggregate(result.joints_rel, result.reprojection_px, rule)[:, None]
    return poses
