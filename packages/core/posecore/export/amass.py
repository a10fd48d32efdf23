"""A person's motion as a file in the layout of AMASS, which other programs read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.export.files import atomic_write
from posecore.export.smpl_predictions import SMPLPredictions
from posecore.geometry.rotation import rotmat_to_axis_angle

AMASS_FRAME = "x right, y forward, z up; the camera at the origin, taken as level"

_CAM_TO_Z_UP = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0))


def write_amass(
    path: Path | str,
    predictions: SMPLPredictions,
    person_id: str,
    rest_pelvis: Callable[[Float[Tensor, "people 10"]], Float[Tensor, "people 3"]],
) -> None:
    """Writes one person's motion as AMASS does: ``poses betas trans gender mocap_frame_rate mocap_framerate``.

    AMASS's world has z up. The camera frame is turned into it (x right, y forward, z up) as if the camera stood level;
    where it does not, the whole motion is tilted by as much. SMPL turns about its pelvis, so the translation is not
    just turned: R (pelvis + transl) = pelvis + trans. An AMASS file has one shape: the mean of ``betas`` over the
    frames, under which the pelvis keeps its path. ``humandiff_body``, ``humandiff_frame``, ``humandiff_frames`` and
    ``humandiff_betas`` say which body, which axes, which frames of the input, and that the shape is a mean.

    Args:
        path: The file, ``.npz``.
        predictions: People; frames of a video.
        person_id: Whose motion.
        rest_pelvis: Pelvis of the unposed body (metres) for betas, as ``SMPLLayer.rest_joints(betas)[:, 0]``.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If there is no such person, ``fps`` is unknown, or the person's frames do not follow one another.
    """
    rows = [row for row, name in enumerate(predictions.ids) if name == person_id]
    if not rows:
        raise ValueError(f"person_id: {person_id!r} is none of {', '.join(dict.fromkeys(predictions.ids))}")
    if predictions.fps is None:
        raise ValueError("fps: is unknown, and an AMASS file needs the frame rate")
    rows.sort(key=lambda row: predictions.frames[row])
    frames = np.array([predictions.frames[row] for row in rows])
    if (np.diff(frames) != 1).any():
        raise ValueError(
            f"person_id: {person_id!r} has the frames {frames.tolist()[:10]}; an AMASS file needs each from first to "
            "last once"
        )
    betas, transl = predictions.betas[rows].double(), predictions.transl[rows].double()
    mean_betas = betas.mean(dim=0, keepdim=True)
    turn = transl.new_tensor(_CAM_TO_Z_UP)
    trans = (rest_pelvis(betas) + transl) @ turn.T - rest_pelvis(mean_betas)
    root = turn @ predictions.global_orient[rows].double()
    poses = rotmat_to_axis_angle(torch.cat((root[:, None], predictions.body_pose[rows].double()), dim=1))
    arrays: dict[str, Any] = {
        "poses": _float32(poses.flatten(1)),
        "trans": _float32(trans),
        "betas": _float32(mean_betas[0]),
        "gender": np.array("neutral"),
        "mocap_frame_rate": np.array(predictions.fps),
        "mocap_framerate": np.array(predictions.fps),
        "humandiff_body": np.array(predictions.body),
        "humandiff_frame": np.array(AMASS_FRAME),
        "humandiff_frames": frames,
        "humandiff_betas": np.array("mean over the frames"),
    }
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def _float32(tensor: Tensor) -> Float[np.ndarray, "..."]:
    return tensor.detach().cpu().float().numpy()
