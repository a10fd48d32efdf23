"""A body for 3D joints: how a skeleton, for example another method's prediction, becomes SMPL parameters."""

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.files import BodyModel
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import JointSet
from posecore.fitting.estimate import PosedPeople, SMPLEstimate
from posecore.fitting.optimise import optimise
from posecore.fitting.priors import GaussianPosePrior, ShapePrior
from posecore.fitting.terms import Keypoints3D
from posecore.geometry.alignment import procrustes
from posecore.geometry.rotation import rotmat_to_rot6d

_TORSO = ("pelvis", "mid_hip", "l_hip", "r_hip", "spine", "spine1", "thorax", "neck", "l_shoulder", "r_shoulder")


def fit_to_joints(
    joints_cam: Float[Tensor, "people joints 3"],
    joint_set: JointSet,
    model: BodyModel | None = None,
    steps: int = 300,
    lr: float = 5e-2,
    w_joints: float = 3000.0,
    w_pose: float = 0.5,
    w_betas: float = 0.5,
) -> SMPLEstimate:
    """SMPL parameters whose joints come near given ones.

    The torso gives the orientation, Adam the rest, with a Gaussian over poses for the twists that joints do not tell.

    Args:
        joints_cam: Metres, camera frame.
        joint_set: Their joints; one that `NamedJoints` knows.
        model: The body; None takes the open body.
        steps: Adam steps.
        lr: Adam's learning rate.
        w_joints: Weight of the squared distances, per square metre.
        w_pose: Weight of the pose's Gaussian.
        w_betas: Weight of the squared betas.

    Raises:
        ValueError: The joint set is unknown to `NamedJoints`.
    """
    body = NamedJoints(joint_set, model).to(joints_cam.device)
    people = len(joints_cam)
    identity = torch.eye(3, dtype=joints_cam.dtype, device=joints_cam.device).expand(people, 24, 3, 3)
    zeros = joints_cam.new_zeros(people, 10)
    rest = body(zeros, identity[:, 1:], identity[:, 0])
    torso = [i for i, name in enumerate(joint_set.joint_names) if name.removeprefix("op_") in _TORSO]
    rotation = procrustes(rest[:, torso], joints_cam[:, torso], scale=False).rotation
    pose = rotmat_to_rot6d(torch.cat((rotation[:, None], identity[:, 1:]), dim=1))
    start = SMPLEstimate(pose, zeros, joints_cam.new_zeros(people, 3))
    terms = [
        Keypoints3D(joints_cam, torch.ones_like(joints_cam[..., 0]), w_joints),
        GaussianPosePrior.load(weight=w_pose),
        ShapePrior(w_betas),
    ]
    fitted = optimise(start, terms, body, steps, lr, ("global_orient", "body_pose", "betas"))
    offset = (joints_cam - PosedPeople(fitted, body).joints_cam).mean(dim=1)
    return SMPLEstimate(fitted.pose_rot6d, fitted.betas, offset)
