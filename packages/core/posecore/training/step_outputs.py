"""What a method's ``validation_step`` and ``test_step`` return for the callbacks that draw and measure."""

from collections.abc import Callable
from typing import TypedDict

from jaxtyping import Bool, Float, Int
from torch import Tensor

from posecore.body.skeletons import JointSet


class StepOutputs(TypedDict, total=False):
    """Poses of one batch, metres, camera axes; a method that has nothing to show returns None.

    =================  =========================  =================================================================
    key                shape                      meaning
    =================  =========================  =================================================================
    ``joints_rel``     (people, hypotheses, J, 3)  what is drawn, relative to the root; ScoreHMR: start and fit
    ``best``           (people,)                  the hypothesis that is drawn in full; no truth chose it
    ``joint_set``                                 joints of ``joints_rel`` and ``target`` where they are not those of
                                                  the keypoints
    ``pose``           (people, J, 3)             the one pose that is scored without the truth's help
    ``target``         (people, J, 3)             truth; it may have another origin
    ``known``          (people, J)                which joints of it are known; all where None or missing
    ``samples_rel``    (people, S, K, 3)          hypotheses whose spread is measured, where ``joints_rel`` is not that
    ``samples_set``                               their joints
    ``vertices``                                  gives the full meshes of some people before the camera ``K`` of the
                                                  batch; missing where a method has no meshes
    ``pose_rotmat``    (people, 24, 3, 3)         SMPL parameters of the best hypothesis (`EstimatesFile`)
    ``betas``          (people, 10)
    ``transl``         (people, 3)
    =================  =========================  =================================================================
    """

    joints_rel: Float[Tensor, "people hypotheses joints 3"]
    best: Int[Tensor, " people"]
    joint_set: JointSet
    pose: Float[Tensor, "people joints 3"]
    target: Float[Tensor, "people joints 3"]
    known: Bool[Tensor, "people joints"] | None
    samples_rel: Float[Tensor, "people samples sampled_joints 3"]
    samples_set: JointSet
    vertices: Callable[[slice], Float[Tensor, "shown vertices 3"]]
    pose_rotmat: Float[Tensor, "people 24 3 3"]
    betas: Float[Tensor, "people 10"]
    transl: Float[Tensor, "people 3"]
