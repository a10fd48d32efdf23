"""Reads BVH motion files: any hierarchy, channels in any order, vectorised forward kinematics."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

_AXES = {"X": 0, "Y": 1, "Z": 2}
_CHANNELS = tuple(f"{axis}{kind}" for kind in ("position", "rotation") for axis in "XYZ")


@dataclass(frozen=True)
class BVH:
    """One BVH file in its own unit of length; angles in degrees, as in the file.

    End sites are joints without channels, named ``<parent>_end``. Parents come before children; the root's parent is
    -1. ``channels[j]`` names the columns of joint j; the columns of ``motion`` follow in that order.
    """

    path: Path
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Float[np.ndarray, "joints 3"]
    channels: tuple[tuple[str, ...], ...]
    motion: Float[np.ndarray, "frames columns"]
    frame_time: float

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return int(self.motion.shape[0])

    @property
    def fps(self) -> float:
        """Frames per second as the header says (not always the truth: see `posecore.data.cmu_mocap`)."""
        return 1.0 / self.frame_time

    def index(self, name: str) -> int:
        """Index of a joint.

        Raises:
            KeyError: if the file has no joint of that name.
        """
        if name not in self.joint_names:
            raise KeyError(f"{self.path}: no joint {name!r}; it has {', '.join(self.joint_names)}")
        return self.joint_names.index(name)

    def forward_kinematics(
        self, offsets: Float[np.ndarray, "joints 3"] | None = None, start: int = 0
    ) -> tuple[Float[np.ndarray, "frames joints 3 3"], Float[np.ndarray, "frames joints 3"]]:
        """World rotations and positions of all joints, in the file's unit.

        A joint's local rotation is the product of its rotation channels in the order in which they are listed
        (``Zrotation Yrotation Xrotation`` is R = Rz Ry Rx); position channels replace the offset.

        Args:
            offsets: rest offsets to use in place of the file's own (a repaired skeleton).
            start: first frame to compute.
        """
        offsets = self.offsets if offsets is None else offsets
        frames = self.num_frames - start
        num_joints = len(self.joint_names)
        # Joints come first in memory, so that every step of the chain works on contiguous blocks.
        rotations = np.empty((num_joints, frames, 3, 3))
        positions = np.empty((num_joints, frames, 3))
        column = 0
        for j, (parent, names) in enumerate(zip(self.parents, self.channels, strict=True)):
            values = self.motion[start:, column : column + len(names)]
            column += len(names)
            translation = np.broadcast_to(offsets[j], (frames, 3)).copy()
            rotation = None if parent < 0 else rotations[parent]
            for name, value in zip(names, values.T, strict=True):
                axis = _AXES[name[0]]
                if name.endswith("position"):
                    translation[:, axis] = value
                else:
                    rotation = _rotate_about_axis(rotation, axis, np.deg2rad(value))
            rotations[j] = np.eye(3) if rotation is None else rotation
            if parent < 0:
                positions[j] = translation
            else:
                positions[j] = positions[parent] + np.einsum("fab,fb->fa", rotations[parent], translation)
        return rotations.swapaxes(0, 1), positions.swapaxes(0, 1)


def _rotate_about_axis(
    rotation: Float[np.ndarray, "frames 3 3"] | None, axis: int, angle: Float[np.ndarray, " frames"]
) -> Float[np.ndarray, "frames 3 3"]:
    """``rotation @ R_axis(angle)``: only the two columns of the other axes mix."""
    base = np.broadcast_to(np.eye(3), (len(angle), 3, 3)) if rotation is None else rotation
    a, b = (axis + 1) % 3, (axis + 2) % 3
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    out = base.copy()
    out[:, :, a] = cos * base[:, :, a] + sin * base[:, :, b]
    out[:, :, b] = cos * base[:, :, b] - sin * base[:, :, a]
    return out


def read_bvh(path: Path) -> BVH:
    """Reads one BVH file.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no BVH file, has no frames, is cut off, or its numbers do not fit its channels; the message
            names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such BVH file")
    hierarchy, separator, motion = path.read_bytes().decode("latin-1").partition("MOTION")
    if not separator or not hierarchy.lstrip().startswith("HIERARCHY"):
        raise ValueError(f"{path}: not a BVH file, it needs a HIERARCHY and a MOTION section")
    names, parents, offsets, channels = _parse_hierarchy(path, hierarchy.split())
    frame_time, values = _parse_motion(path, motion, num_columns=sum(len(c) for c in channels))
    return BVH(path, names, parents, offsets, channels, values, frame_time)


def _parse_hierarchy(
    path: Path, tokens: list[str]
) -> tuple[tuple[str, ...], tuple[int, ...], Float[np.ndarray, "joints 3"], tuple[tuple[str, ...], ...]]:
    names: list[str] = []
    parents: list[int] = []
    offsets: list[list[float]] = []
    channels: list[tuple[str, ...]] = []
    open_joints: list[int] = []
    words = iter(tokens[1:])
    try:
        for word in words:
            if word in ("ROOT", "JOINT", "End"):
                parent = open_joints[-1] if open_joints else -1
                name = next(words)
                names.append(f"{names[parent]}_end" if word == "End" else name)
                parents.append(parent)
                offsets.append([0.0, 0.0, 0.0])
                channels.append(())
            elif word == "{":
                open_joints.append(len(names) - 1)
            elif word == "}":
                open_joints.pop()
            elif word == "OFFSET":
                offsets[open_joints[-1]] = [float(next(words)) for _ in range(3)]
            elif word == "CHANNELS":
                listed = tuple(next(words) for _ in range(int(next(words))))
                if unknown := set(listed) - set(_CHANNELS):
                    raise ValueError(f"unknown channels {sorted(unknown)}, valid are {', '.join(_CHANNELS)}")
                channels[open_joints[-1]] = listed
            else:
                raise ValueError(f"unexpected word {word!r}")
        if open_joints or not names:
            raise ValueError("no joints" if not names else "unbalanced braces")
    except (StopIteration, IndexError, ValueError) as error:
        raise ValueError(f"{path}: broken HIERARCHY section: {error or 'it ends too early'}") from error
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: broken HIERARCHY section: a joint name appears twice")
    return tuple(names), tuple(parents), np.asarray(offsets), tuple(channels)


def _parse_motion(path: Path, text: str, num_columns: int) -> tuple[float, Float[np.ndarray, "frames columns"]]:
    header = re.match(r"\s*Frames:\s*(\d+)\s+Frame Time:\s*([0-9.eE+-]+)", text)
    if header is None:
        raise ValueError(f"{path}: the MOTION section needs 'Frames: <n>' and 'Frame Time: <seconds>'")
    num_frames, frame_time = int(header[1]), float(header[2])
    if num_frames == 0 or frame_time <= 0:
        raise ValueError(f"{path}: no motion, the header says {num_frames} frames of {frame_time} s")
    body = text[header.end() :].strip()  # numpy reads blank text as one number
    first_row = next((line for line in body.splitlines() if line.strip()), "")
    if first_row and len(first_row.split()) != num_columns:
        raise ValueError(f"{path}: the channels ask for {num_columns} numbers a frame, got {len(first_row.split())}")
    with warnings.catch_warnings():
        # numpy's own parser of numbers in text is ten times faster than split() and float().
        warnings.simplefilter("error", DeprecationWarning)
        try:
            values = np.fromstring(body, dtype=np.float64, sep=" ")
        except (ValueError, DeprecationWarning) as error:
            raise ValueError(f"{path}: the MOTION section contains something that is no number") from error
    if values.size != num_frames * num_columns:
        raise ValueError(
            f"{path}: truncated or overlong motion, {num_frames} frames of {num_columns} numbers were announced, "
            f"got {values.size / num_columns:.1f} frames"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: the MOTION section contains numbers that are not finite")
    return frame_time, values.reshape(num_frames, num_columns)
