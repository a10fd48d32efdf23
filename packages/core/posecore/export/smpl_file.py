"""A person's motion as a ``.smpl`` file, the layout of Meshcapade's smplcodec and its editor."""

from pathlib import Path

import numpy as np
from torch import Tensor

from posecore.body.files import OPEN_BODY
from posecore.export.body_motion import BodyMotion
from posecore.export.files import atomic_write
from posecore.geometry.rotation import rotmat_to_axis_angle

__all__ = ["write_smpl_file"]

# The numbers that smplcodec gives them.
_CODEC_VERSION = 2
_SMPL = 0
_NEUTRAL = 0


def write_smpl_file(path: Path | str, motion: BodyMotion) -> None:
    """Writes the npz that smplcodec reads: ``bodyPose bodyTranslation shapeParameters frameCount frameRate`` and more.

    y is up, as SMPL's rest pose has it, and z towards the camera. Poses are axis-angles in radians, the root first.
    SMPL turns about its pelvis, so the translation is not just turned: it brings the pelvis of the body's own rest pose
    to where it is.

    The layout has no room for other keys, so it cannot name the body, and its readers pose SMPL. With parameters of
    the open body the poses are as good there, and the path is right but for the constant distance between the two
    bodies' rest pelvises; the betas would mean another shape. They are left out, and readers show their mean body.

    Args:
        path: The file, ``.smpl``.
        motion: The person's.

    Raises:
        OSError: If the file cannot be written.
    """
    arrays = {
        "codecVersion": np.array(_CODEC_VERSION, np.int32),
        "smplVersion": np.array(_SMPL, np.int32),
        "gender": np.array(_NEUTRAL, np.int32),
        "frameCount": np.array(motion.num_frames, np.int32),
        "frameRate": np.array(motion.fps, np.float32),
        "bodyPose": _float32(rotmat_to_axis_angle(motion.rotmat_up)),
        "bodyTranslation": _float32(motion.pelvis_up - motion.rest_joints[0]),
    }
    if motion.model.name != OPEN_BODY.stem:
        arrays["shapeParameters"] = _float32(motion.mean_betas)
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _float32(tensor: Tensor) -> np.ndarray:
    return tensor.numpy().astype(np.float32)
