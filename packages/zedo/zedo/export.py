"""ZeDO's network for other programs (`posecore.export.network_parts`)."""

from typing import Any

from posecore.export.network_parts import Array, Input, Part, normal, schedule_settings, uniform
from zedo.module import ZeDO
from zedo.prior import DiscreteBackbone, ScoreBackbone


def export_parts(model: ZeDO) -> dict[str, Part]:
    """``denoiser``: the pose prior, for a loop of one's own around it.

    Args:
        model: In eval mode.
    """
    pose = ("batch", model.network.num_joints, 3)
    backbone = model.backbone
    settings: dict[str, Any] = {}
    label = "noise level"
    if isinstance(backbone, DiscreteBackbone):
        label, settings = "timestep 0..T-1, as a float", schedule_settings(backbone.schedule)
    elif isinstance(backbone, ScoreBackbone):
        sde = backbone.sde
        label = "noise level: 999 t, for a time t in (0, 1] of the sub-VP SDE"
        settings = {"sde": "sub-VP", "beta_min": sde.beta_min, "beta_max": sde.beta_max}
    inputs = (
        Input("x_t", pose, "noisy joints relative to the pelvis, camera axes, metres before the noise", normal(0.5)),
        Input("label", ("batch",), label, uniform(1.0, 999.0)),
    )
    outputs = (Array("noise", pose, "standard normal noise in x_t; the score is -noise / std(t)"),)
    return {"denoiser": Part("ZeDO's prior over poses.", model.network, inputs, outputs, settings)}
