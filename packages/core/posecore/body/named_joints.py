"""The joints of a named joint set on a posed body, computed from no more vertices than they need."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from posecore.body.files import BodyModel, load_body_model
from posecore.body.skeletons import H36M_17, JOINTS_44, SMPL_24, JointSet
from posecore.body.smpl import PoseRepr, SMPLLayer

_OPENPOSE = "op_"
# OpenPose's joints that are kinematic joints under another name.
_KINEMATIC = {"mid_hip": "pelvis"}
# The seven of the 19 extra joints that no kinematic joint stands for, by their counterpart in Human3.6M's 17.
_EXTRA_BY_H36M = {
    "neck": "thorax",
    "head_top": "head_top",
    "pelvis": "pelvis",
    "thorax": "thorax",
    "spine": "spine",
    "jaw": "neck_nose",
    "head_top_h36m": "head_top",
}


class NamedJoints(nn.Module):
    """Joints of a joint set from SMPL parameters.

    ============  ======================================================================================================
    ``smpl24``    the kinematic joints
    ``body25``    OpenPose's: 14 kinematic joints and 11 single vertices (nose, eyes, ears, toes, heels), as smplx makes
                  them; the middle of the hips is the pelvis, the neck SMPL's neck
    ``joints44``  ``body25``, then the 19 of the body's ``J_regressor_extra``. A body without one (the open body) takes
                  kinematic joints for the limbs and its Human3.6M regressor for the other seven
    ``h36m17``    the body's Human3.6M regressor
    ============  ======================================================================================================

    Args:
        joint_set: One of the above.
        model: The body; None takes the open body.

    Raises:
        ValueError: The joint set is none of these, or the body lacks a landmark or the regressor that it needs.
    """

    _order: Tensor

    def __init__(self, joint_set: JointSet, model: BodyModel | None = None) -> None:
        super().__init__()
        model = model if model is not None else load_body_model()
        self.joint_set = joint_set
        kinematic: list[int] = []
        rows: list[Tensor] = []
        places: list[tuple[bool, int]] = []
        for name in joint_set.joint_names:
            found = _joint(name, joint_set, model)
            if isinstance(found, int):
                places.append((True, len(kinematic)))
                kinematic.append(found)
            else:
                places.append((False, len(rows)))
                rows.append(found)
        regressor = torch.stack(rows) if rows else None
        self.layer = SMPLLayer(model, joints=kinematic, vertices=(), regressor=regressor)
        order = [place if is_kinematic else len(kinematic) + place for is_kinematic, place in places]
        self.register_buffer("_order", torch.tensor(order), persistent=False)
        self._in_order = order == list(range(len(order)))

    def forward(
        self,
        betas: Float[Tensor, "*betas_batch betas"],
        body_pose: Float[Tensor, "..."],
        global_orient: Float[Tensor, "..."],
        transl: Float[Tensor, "*transl_batch 3"] | None = None,
        pose_repr: PoseRepr = "rotmat",
    ) -> Float[Tensor, "*batch joints 3"]:
        """Joints in metres, in the frame that ``global_orient`` and ``transl`` lead to; arguments as `SMPLLayer`."""
        joints: Tensor = self.layer(betas, body_pose, global_orient, transl, pose_repr).joints
        return joints if self._in_order else joints.index_select(-2, self._order)


def _joint(name: str, joint_set: JointSet, model: BodyModel) -> int | Tensor:
    """A kinematic joint, or a regressor's row."""
    if joint_set == H36M_17:
        return _h36m_row(name, model)
    is_extra = joint_set == JOINTS_44 and not name.startswith(_OPENPOSE)
    if is_extra and model.J_regressor_extra is not None:
        return model.J_regressor_extra[joint_set.index(name) - 25]
    if is_extra and name in _EXTRA_BY_H36M:
        return _h36m_row(_EXTRA_BY_H36M[name], model)
    plain = name.removeprefix(_OPENPOSE)
    plain = _KINEMATIC.get(plain, plain)
    if plain in SMPL_24.joint_names and joint_set.name in ("smpl24", "body25", "joints44"):
        return SMPL_24.index(plain)
    if joint_set.name in ("body25", "joints44"):
        return model.landmark_regressor([plain])[0]
    raise ValueError(f"joint_set: {joint_set.name!r} is none of smpl24, body25, joints44, h36m17")


def _h36m_row(name: str, model: BodyModel) -> Tensor:
    if model.J_regressor_h36m is None:
        raise ValueError(f"body {model.name!r} has no J_regressor_h36m, which {name!r} needs")
    return model.J_regressor_h36m[H36M_17.index(name)]
