"""For tests only: a tiny fake of Human3.6M's archive as it is unpacked."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from posecore.data.human36m import CAMERAS, FROM_32
from posecore.safe_pickle import load_npz
from posecore.testing.benchmarks import write_human36m
from posecore.testing.videos import write_video

_ARCHIVE_NAMES = {"Photo": "TakingPhoto", "WalkDog": "WalkingDog"}
_NUM_SUBJECTS = 11


def grey_of_frame(frame: int, view: int) -> int:
    """What all pixels of a frame of the fake videos have, 30 to 250, but for what compression loses."""
    return 30 + 10 * (frame % 20) + 5 * (view % 4)


def write_human36m_archive(
    root: Path,
    subjects: Sequence[str] = ("S1", "S9"),
    clips: Sequence[str] = ("Directions", "Photo 1", "Walking"),
    frames: int = 7,
    videos: bool = False,
) -> Path:
    """Writes S*/MyPoseFeatures/{D3,D2}_Positions/*.cdf (needs cdflib), and S*/Videos/*.mp4 (needs av) if asked for.

    The motion is that of `write_human36m`, whose files, camera-parameters.json among them, are written too; its ``gt``
    keypoints are those of D2_Positions. metadata.xml has the same cameras, and there is a file ``_ALL.cdf``. All pixels
    of a frame have one grey, `grey_of_frame`.
    """
    write_human36m(root, subjects, clips, frames)
    positions = load_npz(root / "data_3d_h36m.npz")["positions_3d"].item()
    keypoints = load_npz(root / "data_2d_h36m_gt.npz")["positions_2d"].item()
    for subject in subjects:
        folder = root / subject / "MyPoseFeatures"
        for clip in clips:
            action, *number = clip.split(" ")
            stem = " ".join((_ARCHIVE_NAMES.get(action, action), *number))
            world = positions[subject][clip]
            write_cdf(folder / "D3_Positions" / f"{stem}.cdf", 1000 * world.reshape(1, frames, 96))
            for view, camera in enumerate(CAMERAS):
                seen = np.zeros((1, frames, 32, 2), dtype=np.float32)
                seen[0][:, FROM_32] = keypoints[subject][clip][view]
                write_cdf(folder / "D2_Positions" / f"{stem}.{camera}.cdf", seen.reshape(1, frames, 64))
                if videos:
                    width, height = CAMERAS[camera]
                    shown = (np.full((height, width, 3), grey_of_frame(n, view), np.uint8) for n in range(frames))
                    write_video(root / subject / "Videos" / f"{stem}.{camera}.mp4", shown)
        write_cdf(folder / "D3_Positions" / "_ALL.cdf", np.zeros((1, frames, 96), dtype=np.float32))
    _write_metadata(root, subjects)
    return root


def write_cdf(path: Path, pose: np.ndarray, name: str = "Pose") -> None:
    """Writes an array (1, rows, columns) as the one variable of a CDF file, as Human3.6M has it."""
    from cdflib.cdfwrite import CDF

    path.parent.mkdir(parents=True, exist_ok=True)
    file = CDF(path, delete=True)
    variable = {"Variable": name, "Data_Type": CDF.CDF_FLOAT, "Num_Elements": 1, "Rec_Vary": True}
    file.write_var({**variable, "Dim_Sizes": list(pose.shape[1:])}, var_data=pose.astype(np.float32))
    file.close()


def _write_metadata(root: Path, subjects: Sequence[str]) -> None:
    content = json.loads((root / "camera-parameters.json").read_text(encoding="utf-8"))
    places = np.zeros((len(CAMERAS), _NUM_SUBJECTS, 6))
    lenses = np.zeros((len(CAMERAS), 9))
    for view, camera in enumerate(CAMERAS):
        K = np.array(content["intrinsics"][camera]["calibration_matrix"])
        lenses[view, :4] = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
        for subject in subjects:
            R, t = (np.array(content["extrinsics"][subject][camera][key]) for key in ("R", "t"))
            angles = np.arctan2(-R[1, 2], R[2, 2]), np.arcsin(R[0, 2]), np.arctan2(-R[0, 1], R[0, 0])
            places[view, int(subject[1:]) - 1] = (*angles, *(-R.T @ t[:, 0]))
    numbers = " ".join(repr(float(value)) for value in (*places.ravel(), *lenses.ravel()))
    text = f"<metadata><dbcameras/><w0>[{numbers}]</w0></metadata>"
    (root / "metadata.xml").write_text(text, encoding="utf-8")
