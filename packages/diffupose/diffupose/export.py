"""DiffuPose's network for other programs (`posecore.export.network_parts`)."""

from diffupose.module import DiffuPose
from posecore.export.network_parts import Array, Input, Part, integers, normal, schedule_settings


def export_parts(model: DiffuPose) -> dict[str, Part]:
    """``denoiser``: the graph network or the U-Net, whichever the model has.

    Args:
        model: In eval mode.
    """
    joints = model.joint_set.num_joints
    steps = model.schedule.num_train_timesteps
    seen = {
        "image": "2D keypoints: x from -1 to 1 over the picture's width, y to the same scale, 0 in the middle",
        "person": "2D keypoints as diffupose.keypoints.condition makes them: seen by a camera turned to the person",
    }[model.coordinates]
    inputs = (
        Input("x_t", ("batch", joints, 3), "noisy joints relative to the root, times pose_scale", normal()),
        Input("keypoints", ("batch", joints, 2), seen, normal(0.4)),
        Input("t", ("batch",), f"timestep 0..{steps - 1}", integers(steps)),
    )
    out = "noise in x_t (first three channels); the keypoints again (last two), which sampling does not need"
    settings = {
        **schedule_settings(model.schedule),
        "joint_names": list(model.joint_set.joint_names),
        "coordinates": model.coordinates,
        "pose_scale": model.pose_scale,
        "clip_x0": model.sampling.clip_x0,
    }
    outputs = (Array("noise", ("batch", joints, 5), out),)
    return {"denoiser": Part("DiffuPose's denoiser.", model.network, inputs, outputs, settings)}
