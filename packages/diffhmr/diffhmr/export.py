"""Diff-HMR's networks for other programs (`posecore.export.network_parts`)."""

from typing import cast

from torch import Tensor

from diffhmr.module import DiffHMR
from diffhmr.network import Regressed, UNet1D
from posecore.export.network_parts import Array, Call, Input, Part, integers, normal, schedule_settings


def export_parts(model: DiffHMR) -> dict[str, Part]:
    """``encoder`` (image to z), ``regressor`` (z to shape and camera) and, of a diffusion model, ``denoiser``.

    Args:
        model: In eval mode.
    """
    size = model.image_size
    side = round(model.encoder.num_cells(size) ** 0.5)
    z_shape = ("images", model.encoder.dim, side, side)
    # Features behind a ReLU are not negative.
    z = Input("z", z_shape, "what the encoder made of the images", lambda *given: normal()(*given).relu())
    image = Input(
        "image", ("images", 3, size, size), "crops, red, green, blue, normalised by ImageNet's mean and std", normal()
    )
    encoded = Array("z", z_shape, "features of every cell")
    parts = {"encoder": Part("Diff-HMR's image encoder.", model.encoder, (image,), (encoded,))}
    parts["regressor"] = _regressor(model, z)
    if model.denoiser is not None:
        parts["denoiser"] = _denoiser(model, model.denoiser, z)
    return parts


def _regressor(model: DiffHMR, z: Input) -> Part:
    regressor = model.regressor

    def regress(z: Tensor) -> tuple[Tensor, ...]:
        found: Regressed = regressor(z)
        pose = () if found.pose_rot6d is None else (found.pose_rot6d,)
        return found.betas, found.cam_s_tx_ty, *pose

    outputs = [
        Array("betas", ("images", 10), "shape, in standard deviations"),
        Array("cam_s_tx_ty", ("images", 3), "weak-perspective camera of the crop"),
    ]
    if regressor.pose is not None:
        outputs.append(Array("pose_rot6d", ("images", 24, 6), "rotations, root first, camera axes; not orthogonal yet"))
    return Part("Diff-HMR's regressor of shape and camera.", Call(regress, regressor).eval(), (z,), outputs)


def _denoiser(model: DiffHMR, network: UNet1D, z: Input) -> Part:
    steps = model.schedule.num_train_timesteps
    pose = ("images", "hypotheses", network.length, network.channels)
    numbers = "6D: two columns of the matrix" if model.representation.rotation == "rot6d" else "axis times angle"

    def denoise(x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        images, hypotheses = x_t.shape[:2]
        prepared = network.prepare(z).repeat(hypotheses)
        noise: Tensor = network(x_t.flatten(0, 1), t, prepared)
        return cast(Tensor, noise.unflatten(0, (images, hypotheses)))

    inputs = (
        Input("x_t", pose, f"noisy rotations, root first, camera axes ({numbers})", normal()),
        Input("t", ("images",), f"timestep 0..{steps - 1} of all hypotheses of an image", integers(steps)),
        z,
    )
    settings = {
        **schedule_settings(model.schedule),
        "rotation": model.representation.rotation,
        "clip_x0": model.representation.clip,
    }
    outputs = (Array("noise", pose, "noise in x_t"),)
    return Part("Diff-HMR's denoiser.", Call(denoise, network).eval(), inputs, outputs, settings)
