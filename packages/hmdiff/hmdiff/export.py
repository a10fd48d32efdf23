"""HMDiff's networks for other programs (`posecore.export.network_parts`)."""

from typing import cast

from torch import Tensor

from hmdiff.module import HMDiff
from hmdiff.network import MeshDenoiser
from posecore.export.network_parts import Array, Call, Input, Part, integers, normal, schedule_settings


def export_parts(model: HMDiff) -> dict[str, Part]:
    """``backbone``, ``pose_head``, and of a diffusion model ``denoiser`` (g), ``final`` and ``upsampler``.

    DAT is not part of a file: it is a gradient, taken in the loop around g.

    Args:
        model: In eval mode.

    Raises:
        ValueError: g attends to the heatmaps (Table 4), for which there is no file.
    """
    size, side = model.image_size, model.backbone.side(model.image_size)
    f_c = Array("f_c", ("images", model.backbone.dim, side, side), "features of every cell")
    image = Input(
        "image", ("images", 3, size, size), "crops, red, green, blue, normalised by ImageNet's mean and std", normal()
    )
    # Features behind a ReLU are not negative.
    seen = Input(f_c.name, f_c.shape, "what the backbone made of the images", lambda *given: normal()(*given).relu())
    parts = {
        "backbone": Part("HMDiff's backbone.", model.backbone, (image,), (f_c,)),
        "pose_head": _pose_head(model, seen),
    }
    if model.denoiser is None:
        return parts
    parts["denoiser"] = _denoiser(model, model.denoiser, seen)
    coarse = ("images", model.mesh.num_vertices, 3)
    frame = "metres, camera axes, relative to the root joint"
    final = Array("final", coarse, f"final coarse mesh, {frame}")
    if model.final is not None:
        centre = Input("centre", coarse, f"mean of an image's samples, {frame}", normal(0.4))
        parts["final"] = Part("HMDiff's final MLP.", model.final, (centre,), (final,))
    upsampled = Array("vertices", ("images", len(model.body_model.v_template), 3), f"full mesh, {frame}")
    modules = [model.mesh, *([] if model.upsampler is None else [model.upsampler])]
    parts["upsampler"] = Part(
        "From HMDiff's coarse mesh to the full one.",
        Call(model.upsample, *modules).eval(),
        (Input("coarse", coarse, f"coarse mesh, {frame}", normal(0.4)),),
        (upsampled,),
    )
    return parts


def _pose_head(model: HMDiff, seen: Input) -> Part:
    head = model.pose_head

    def heatmaps(f_c: Tensor) -> tuple[Tensor, ...]:
        prior = head(f_c)
        return prior.xy, prior.z, prior.side

    joints, size = head.num_joints, 8 * model.backbone.side(model.image_size)
    outputs = (
        Array("xy", ("images", joints, size, size), "logits over the crop's rows and columns"),
        Array("z", ("images", joints, size, size), "logits over depth (rows) and the crop's columns"),
        Array("side", ("images",), "metres that the crop's side is at the root"),
    )
    settings = {"joint_names": list(model.sampled_joints.joint_names), "depth_range": head.depth_range}
    return Part("HMDiff's pose head.", Call(heatmaps, head).eval(), (seen,), outputs, settings)


def _denoiser(model: HMDiff, network: MeshDenoiser, seen: Input) -> Part:
    if network.conditioning != "image":
        raise ValueError(f"conditioning: the denoiser is exported for 'image', this one has {network.conditioning!r}")
    steps = model.schedule.num_train_timesteps
    meshes = ("images", "samples", network.num_vertices, 3)

    def denoise(h: Tensor, k: Tensor, f_c: Tensor) -> Tensor:
        images, samples = h.shape[:2]
        prepared = network.prepare(f_c, None).repeat(samples)
        out: Tensor = network(h.flatten(0, 1), k[:, None].expand(-1, samples).flatten(), prepared)
        return cast(Tensor, out.unflatten(0, (images, samples)))

    inputs = (
        Input("h", meshes, "noisy coarse meshes relative to the root joint, camera axes, over `unit` metres", normal()),
        Input("k", ("images",), f"step 0..{steps - 1} of all samples of an image", integers(steps)),
        seen,
    )
    settings = {**schedule_settings(model.schedule, model.prediction_type), "unit": model.unit}
    outputs = (Array("prediction", meshes, f"{model.prediction_type} of h"),)
    return Part("HMDiff's diffusion model g.", Call(denoise, network).eval(), inputs, outputs, settings)
