"""2D keypoints of VideoPose3D: ``positions_2d[subject][action][camera]`` of shape (frames, joints, 2)."""

from pathlib import Path

import numpy as np

from posecore.data.keypoint_rows import KeypointFile, KeypointRow, SetByCount, finite_numbers
from posecore.safe_pickle import load_npz

_SETS = {17: "h36m17", 16: "h36m16"}


def read_videopose3d(path: Path, joint_set: str | None) -> KeypointFile:
    """All clips of the file; ids are ``subject/action/camera``.

    Raises:
        ValueError: If it is no such file, or a clip is not what it must be.
    """
    content = load_npz(path)
    positions = content.get("positions_2d")
    if isinstance(positions, np.ndarray) and positions.shape == ():
        positions = positions.item()
    if not isinstance(positions, dict) or not all(isinstance(actions, dict) for actions in positions.values()):
        raise ValueError(f"{path}: unknown keypoint format: the .npz has no positions_2d[subject][action][camera]")
    chosen = SetByCount(path, joint_set, _SETS)
    rows: list[KeypointRow] = []
    for subject, actions in positions.items():
        for action, cameras in actions.items():
            for camera, clip in enumerate(cameras):
                label = f"{subject}/{action}/{camera}"
                points = finite_numbers(path, label, clip)
                if points.ndim != 3 or points.shape[-1] != 2:
                    raise ValueError(f"{path}: {label} has shape {points.shape}; (frames, joints, 2) is expected")
                points = chosen.leading(label, points)
                values = np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)
                rows.extend(KeypointRow(row, label, frame) for frame, row in enumerate(values))
    said = "VideoPose3D .npz without confidences, all joints taken as seen"
    return KeypointFile(chosen.joint_set, rows, said, chosen.reason, tracked=True)
