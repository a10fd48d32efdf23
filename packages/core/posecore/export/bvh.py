"""A person's motion as a BVH file, which animation programs read."""

from io import StringIO
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import roma
from jaxtyping import Float

from posecore.export.body_motion import BodyMotion
from posecore.export.files import write_text

__all__ = ["BVHUnit", "write_bvh"]

BVHUnit = Literal["m", "cm"]

_PER_METRE = {"m": 1.0, "cm": 100.0}
_POSITION_CHANNELS = "Xposition Yposition Zposition"
_ROTATION_CHANNELS = "Zrotation Xrotation Yrotation"


def write_bvh(path: Path | str, motion: BodyMotion, unit: BVHUnit = "m") -> None:
    """Writes the skeleton of the shaped body in SMPL's rest pose, and its motion, y up.

    A local rotation is R = Rz Rx Ry. Every order of three angles has poses where two of them turn about the same axis:
    here a turn of 90 degrees about x, while with the usual ``Z Y X`` it is one about y, which is the heading of anybody
    who walks across the picture. Blender takes each bone's order from the file ("Euler (Native)", its default). Each
    rotation is written with those of its equal angles that are nearest to the frame before, so that curves have no
    jumps and can be edited.

    The root has offset 0 and its position is in its channels: readers disagree on whether channels add to the offset.
    End sites lie at the farthest vertex that follows the last joint most: tips of fingers and toes, and the crown.

    Args:
        path: The file.
        motion: The person's.
        unit: Of length. Blender's importer takes a BVH unit as its own, a metre, at its default scale of 1;
            MotionBuilder, Maya and their like expect centimetres. BVH itself has no place to say it.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If ``unit`` is unknown.
    """
    if unit not in get_args(BVHUnit):
        raise ValueError(f"unit: is {unit!r}; valid are {', '.join(map(repr, get_args(BVHUnit)))}")
    scale = _PER_METRE[unit]
    lines = ["HIERARCHY"]
    order: list[int] = []
    _append_joint(lines, order, motion, 0, scale)
    lines += ["MOTION", f"Frames: {motion.num_frames}", f"Frame Time: {1 / motion.fps:.9f}", ""]
    degrees = np.rad2deg(_continuous_zxy(motion))[:, order]
    table = StringIO()
    np.savetxt(table, np.concatenate((motion.pelvis_up.numpy() * scale, degrees.reshape(len(degrees), -1)), 1), "%.6f")
    write_text(path, "\n".join(lines) + table.getvalue())


def _append_joint(
    lines: list[str], order: list[int], motion: BodyMotion, joint: int, scale: float, indent: str = ""
) -> None:
    """Appends a joint with all below it; ``order`` is the order of joints in the file, depth first."""
    order.append(joint)
    parent, name = motion.parents[joint], motion.joint_names[joint]
    rest = motion.rest_joints.numpy()
    lines += [f"{indent}{'ROOT' if parent < 0 else 'JOINT'} {name}", f"{indent}{{"]
    lines.append(_offset(indent, np.zeros(3) if parent < 0 else (rest[joint] - rest[parent]) * scale))
    count, positions = (6, f"{_POSITION_CHANNELS} ") if parent < 0 else (3, "")
    lines.append(f"{indent}  CHANNELS {count} {positions}{_ROTATION_CHANNELS}")
    children = [child for child, above in enumerate(motion.parents) if above == joint]
    for child in children:
        _append_joint(lines, order, motion, child, scale, f"{indent}  ")
    if not children:
        lines += [f"{indent}  End Site", f"{indent}  {{", _offset(f"{indent}  ", _tip(motion, joint) * scale)]
        lines.append(f"{indent}  }}")
    lines.append(f"{indent}}}")


def _offset(indent: str, offset: Float[np.ndarray, "3"]) -> str:
    return f"{indent}  OFFSET {' '.join(f'{value:.6f}' for value in offset.tolist())}"


def _tip(motion: BodyMotion, joint: int) -> Float[np.ndarray, "3"]:
    """From a last joint to the farthest vertex that follows it most; to itself where there is none."""
    followers = (motion.model.lbs_weights.argmax(dim=1) == joint).cpu()
    offsets = (motion.rest_vertices[followers] - motion.rest_joints[joint]).numpy()
    return offsets[np.linalg.norm(offsets, axis=1).argmax()] if len(offsets) else np.zeros(3)


def _continuous_zxy(motion: BodyMotion) -> Float[np.ndarray, "frames joints 3"]:
    """Angles about z, x and y, radians, each frame's nearest to those of the frame before."""
    angles: Float[np.ndarray, "frames joints 3"] = roma.rotmat_to_euler("ZXY", motion.rotmat_up).numpy()
    z, x, y = np.moveaxis(angles, -1, 0)
    both = np.stack((angles, np.stack((z + np.pi, np.pi - x, y + np.pi), axis=-1)))  # the same rotation twice
    joints = np.arange(angles.shape[1])
    for before, frame in zip(range(len(angles) - 1), range(1, len(angles)), strict=True):
        # Whole turns that bring an angle next to the one before.
        near = both[:, frame] - 2 * np.pi * np.round((both[:, frame] - angles[before]) / (2 * np.pi))
        angles[frame] = near[np.abs(near - angles[before]).sum(axis=-1).argmin(axis=0), joints]
    return angles
