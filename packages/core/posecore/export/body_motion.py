"""A person's motion, as the writers of animated files take it, and the same turned upright.

Files of animation have y up. The camera frame (y down, z forward) is turned into it by half a turn about x, as the mesh
files are: the camera stays at the origin and is taken as level. Where it is not, the whole motion is tilted by as much.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.files import BodyModel
from posecore.body.skeletons import SMPL_24
from posecore.body.smpl import SMPLLayer

__all__ = ["BodyMotion"]

_CAM_TO_Y_UP = (1.0, -1.0, -1.0)


@dataclass(frozen=True, eq=False)
class BodyMotion:
    """One person's body over frames that follow one another without a gap.

    Animated files have one shape: where ``betas`` differ between frames, their mean is taken, and the pelvis keeps the
    path that it has under each frame's own. What is computed from it is float64 on the CPU.

    Attributes:
        model: The body, with SMPL's 24 joints.
        global_orient: Rotation of the root in the camera frame (x right, y down, z forward).
        body_pose: Rotations of the other joints relative to their parents.
        betas: Shape, standard deviations; one for all frames or one each.
        transl: Translation in the camera frame, metres.
        fps: Frames per second.
        name: The person's label.
        first_frame: Number of the first frame; says how several people lie in time.

    Raises:
        ValueError: If the body has not SMPL's joints, there are no frames, the arrays differ in their number, a value
            is not finite, or ``fps`` is not positive.
    """

    model: BodyModel
    global_orient: Float[Tensor, "frames 3 3"]
    body_pose: Float[Tensor, "frames 23 3 3"]
    betas: Float[Tensor, "shapes betas"]
    transl: Float[Tensor, "frames 3"]
    fps: float
    name: str = "person"
    first_frame: int = 0

    def __post_init__(self) -> None:
        if tuple(self.model.parents.tolist()) != SMPL_24.parents:
            raise ValueError(
                f"model: body {self.model.name!r} has {len(self.model.parents)} joints; SMPL's {SMPL_24.num_joints} "
                "in SMPL's tree are needed"
            )
        if not self.num_frames:
            raise ValueError("global_orient: has no frames; a motion needs at least one")
        for name, allowed in (
            ("body_pose", (self.num_frames,)),
            ("transl", (self.num_frames,)),
            ("betas", (1, self.num_frames)),
        ):
            if len(getattr(self, name)) not in allowed:
                raise ValueError(f"{name}: has {len(getattr(self, name))} rows for {self.num_frames} frames")
        for name in ("global_orient", "body_pose", "betas", "transl"):
            if not getattr(self, name).isfinite().all():
                raise ValueError(f"{name}: holds a value that is not finite")
        if not 0 < self.fps < float("inf"):
            raise ValueError(f"fps: is {self.fps}; it must be positive")

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.global_orient)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the joints."""
        return SMPL_24.joint_names

    @property
    def parents(self) -> tuple[int, ...]:
        """Parent of each joint, -1 for the root; parents come before their children."""
        return SMPL_24.parents

    @cached_property
    def mean_betas(self) -> Float[Tensor, " betas"]:
        """The shape of the file."""
        return _exact(self.betas).mean(dim=0)

    @cached_property
    def rest_vertices(self) -> Float[Tensor, "vertices 3"]:
        """The shaped body in the rest pose (y up, facing +z), metres."""
        shapedirs = _exact(self.model.shapedirs)[..., : len(self.mean_betas)]
        return _exact(self.model.v_template) + shapedirs @ self.mean_betas

    @cached_property
    def rest_joints(self) -> Float[Tensor, "24 3"]:
        """Joints of the shaped body in the rest pose, metres."""
        return self._layer.rest_joints(self.mean_betas)

    @cached_property
    def rotmat_up(self) -> Float[Tensor, "frames 24 3 3"]:
        """Rotations relative to the parent joint; the root's is relative to a world with y up."""
        root = _exact(self.global_orient) * torch.tensor(_CAM_TO_Y_UP, dtype=torch.float64)[:, None]
        return torch.cat((root[:, None], _exact(self.body_pose)), dim=1)

    @cached_property
    def pelvis_up(self) -> Float[Tensor, "frames 3"]:
        """Positions of the root joint in a world with y up, metres."""
        # SMPL turns about its pelvis, so the pelvis lies at its rest position plus the translation.
        pelvis = self._layer.rest_joints(_exact(self.betas))[:, 0] + _exact(self.transl)
        return pelvis * torch.tensor(_CAM_TO_Y_UP, dtype=torch.float64)

    @cached_property
    def _layer(self) -> SMPLLayer:
        return SMPLLayer(self.model, vertices=()).cpu()


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()
