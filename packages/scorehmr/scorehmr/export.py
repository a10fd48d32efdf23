"""ScoreHMR's networks for other programs (`posecore.export.network_parts`)."""

import torch
from torch import Tensor

from posecore.export.network_parts import Array, Call, Input, Part, integers, normal, schedule_settings
from scorehmr.features import KeypointFeatures
from scorehmr.keypoints import ENCODING_DIM
from scorehmr.module import ScoreHMR


def export_parts(model: ScoreHMR) -> dict[str, Part]:
    """``denoiser``, and with the open features ``regressor``, which makes its condition and the start of a fit.

    Guidance is not part of a file: it is a gradient of the terms, taken in the loop around the denoiser.

    Args:
        model: In eval mode.
    """
    diffusion, standardizer = model.diffusion, model.standardizer
    cond_dim = len(standardizer.mean)
    steps = model.schedule.num_train_timesteps
    # Realistic features: as far from the training set's mean as its rows are.
    mean, std = standardizer.mean.cpu(), standardizer.std.cpu()
    shape = "; then betas, scaled to [-1, 1]" if diffusion.moves_shape else ""
    inputs = (
        Input("x_t", ("batch", diffusion.dim), f"noisy pose: 24 rotations in 6D, root first{shape}", normal()),
        Input("t", ("batch",), f"timestep 0..{steps - 1}", integers(steps)),
        Input(
            "features",
            ("batch", cond_dim),
            "the condition as the features' network gives it; the file standardises it",
            lambda shape, generator: mean + std * normal()(shape, generator),
        ),
    )

    def denoise(x_t: Tensor, t: Tensor, features: Tensor) -> Tensor:
        noise: Tensor = diffusion(x_t, t, standardizer(features))
        return noise

    settings = schedule_settings(model.schedule)
    if diffusion.moves_shape:
        settings |= {"betas_min": diffusion.betas_min.tolist(), "betas_max": diffusion.betas_max.tolist()}
    outputs = (Array("noise", ("batch", diffusion.dim), "noise in x_t"),)
    denoiser = Call(denoise, diffusion, standardizer).eval()
    parts = {"denoiser": Part("ScoreHMR's denoiser.", denoiser, inputs, outputs, settings)}
    if isinstance(model.features, KeypointFeatures):
        parts["regressor"] = _regressor(model.features)
    return parts


def _regressor(features: KeypointFeatures) -> Part:
    """From 2D keypoints to the denoiser's features, and to the body that a fit starts from."""
    regressor = features.regressor

    def regress(encoding: Tensor) -> tuple[Tensor, ...]:
        pose, betas = regressor(encoding)
        # As `KeypointFeatures.forward`, which takes a batch of keypoints.
        return torch.cat((regressor.features(encoding), encoding), dim=-1), pose, betas

    about = "25 keypoints (OpenPose's order) as scorehmr.keypoints.keypoint_encoding makes them"
    return Part(
        "ScoreHMR's keypoint regressor.",
        Call(regress, regressor).eval(),
        (Input("encoding", ("batch", ENCODING_DIM), about, normal(0.5)),),
        (
            Array("features", ("batch", features.dim), "condition of the denoiser"),
            Array("pose_rot6d", ("batch", 24, 6), "rotations, root first, camera axes; not orthogonal yet"),
            Array("betas", ("batch", 10), "shape, in standard deviations"),
        ),
    )
