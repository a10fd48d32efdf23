"""For tests and tools only: a body in motion, and pose blend shapes for a body that has none."""

from dataclasses import replace

import torch

from posecore.body.files import BodyModel
from posecore.export.body_motion import BodyMotion
from posecore.geometry.rotation import axis_angle_to_rotmat

_CAM_FROM_Y_UP = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))


def swaying_body(
    model: BodyModel, frames: int = 8, name: str = "anna", first_frame: int = 0, seed: int = 0
) -> BodyMotion:
    """A person upright before the camera, every joint swaying at its own pace and the whole body turning, at 25 fps.

    The shape differs from frame to frame.
    """
    generator = torch.Generator().manual_seed(seed)
    size, pace, phase = torch.rand(3, 24, 3, generator=generator)
    seconds = torch.arange(frames)[:, None, None] / 25
    angles = size * torch.sin(6.3 * (pace + 0.2) * seconds + 6.3 * phase)
    rotmat = axis_angle_to_rotmat(angles)
    heading = axis_angle_to_rotmat(torch.tensor((0.0, 4.0, 0.0)) * seconds[:, 0])
    steps = torch.stack((seconds[:, 0, 0], torch.full((frames,), 0.3), 4 - seconds[:, 0, 0]), dim=1)
    return BodyMotion(
        model,
        global_orient=torch.tensor(_CAM_FROM_Y_UP) @ heading @ rotmat[:, 0],
        body_pose=rotmat[:, 1:],
        betas=torch.randn(1, 10, generator=generator) + 0.1 * torch.randn(frames, 10, generator=generator),
        transl=steps,
        fps=25.0,
        name=name,
        first_frame=first_frame,
    )


def with_pose_blend_shapes(model: BodyModel, seed: int = 0) -> BodyModel:
    """The body with smooth displacements of some centimetres around every joint that turns, as SMPL has them."""
    generator = torch.Generator().manual_seed(seed)
    joints = (model.J_regressor @ model.v_template)[1:]
    near = torch.exp(-(((model.v_template[:, None] - joints).norm(dim=-1) / 0.12) ** 2))
    waves = torch.randn(3, 3, 9 * len(joints), generator=generator) * 15
    shapes = torch.sin(torch.einsum("vc,cdp->vdp", model.v_template, waves))
    return replace(model, name="with_blend_shapes", posedirs=0.02 * shapes * near.repeat_interleave(9, dim=1)[:, None])
