"""For tests and tools only: a tiny motion capture database in the layout of the open one."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Name, parent, rest offset; "*" stands for a left joint whose right twin mirrors x. Joints without children get an end
# site. Offsets are rounded from the database's own files.
_Tree = Sequence[tuple[str, str, tuple[float, float, float]]]
_MOTIONBUILDER: _Tree = [
    ("Hips", "", (0, 0, 0)),
    ("*HipJoint", "Hips", (0, 0, 0)),
    ("*UpLeg", "*HipJoint", (1.6, -1.7, 0.85)),
    ("*Leg", "*UpLeg", (2.2, -6.2, 0)),
    ("*Foot", "*Leg", (2.7, -7.5, 0)),
    ("*ToeBase", "*Foot", (0.2, -0.5, 2.2)),
    ("LowerBack", "Hips", (0, 0, 0)),
    ("Spine", "LowerBack", (0, 2.1, -0.1)),
    ("Spine1", "Spine", (0, 2.1, -0.1)),
    ("Neck", "Spine1", (0, 0, 0)),
    ("Neck1", "Neck", (0, 1.7, 0)),
    ("Head", "Neck1", (0, 1.5, -0.6)),
    ("*Shoulder", "Spine1", (0, 0, 0)),
    ("*Arm", "*Shoulder", (3.4, 0.5, 0.2)),
    ("*ForeArm", "*Arm", (5.4, 0, 0)),
    ("*Hand", "*ForeArm", (2.4, 0, 0)),
    ("*FingerBase", "*Hand", (0, 0, 0)),
    ("*HandIndex1", "*FingerBase", (0.7, 0, 0)),
    ("*Thumb", "*Hand", (0, 0, 0)),
]
_THREEDSMAX: _Tree = [
    ("Hips", "", (0, 0, 0)),
    ("*HipJoint", "Hips", (0, 0, 0)),
    ("*Hip", "*HipJoint", (1.2, -1.6, 0.7)),
    ("*Knee", "*Hip", (2.5, -6.8, 0)),
    ("*Ankle", "*Knee", (2.4, -6.5, 0)),
    ("*Toe", "*Ankle", (0.15, -0.4, 2.2)),
    ("lowerback", "Hips", (0, 0, 0)),
    ("Chest", "lowerback", (0, 2, 0)),
    ("Chest2", "Chest", (0, 2, 0)),
    ("lowerneck", "Chest2", (0, 0, 0)),
    ("Neck", "lowerneck", (0, 1.6, 0.1)),
    ("Head", "Neck", (0, 1.6, 0)),
    ("*Collar", "Chest2", (0, 0, 0)),
    ("*Shoulder", "*Collar", (3, 1.4, 0)),
    ("*Elbow", "*Shoulder", (0, -4.3, 0)),
    ("*Wrist", "*Elbow", (0, -3.3, 0)),
    ("*hand", "*Wrist", (0, 0, 0)),
    ("*Fingers", "*hand", (0, -0.66, 0)),
    ("*Thumb", "*Wrist", (0, 0, 0)),
]
_DAZ: _Tree = [
    ("hip", "", (0, 0, 0)),
    ("abdomen", "hip", (0, 20.7, -0.7)),
    ("chest", "abdomen", (0, 11.7, -0.5)),
    ("neck", "chest", (0, 22.2, -2.2)),
    ("head", "neck", (0, 7.1, 1.2)),
    ("*Eye", "head", (4, 8, 8)),
    ("*Collar", "chest", (2.7, 19.3, -4.9)),
    ("*Shldr", "*Collar", (8.8, -2, 1.5)),
    ("*ForeArm", "*Shldr", (28.2, -1.7, 0.5)),
    ("*Hand", "*ForeArm", (22.6, 0.8, 7.1)),
    ("*Mid1", "*Hand", (8.2, 1.2, 3.4)),
    ("*Buttock", "hip", (8.8, 4.4, 1.2)),
    ("*Thigh", "*Buttock", (0, -1.7, -2.2)),
    ("*Shin", "*Thigh", (0, -36.8, 0.7)),
    ("*Foot", "*Shin", (-0.7, -45.1, -5.1)),
]
# Rig: its tree, words for the sides, rotation channels, height of the root, unit in metres, frames to trim.
_RIGS = {
    "cgspeed-motionbuilder-31": (_MOTIONBUILDER, ("Left", "Right"), "ZYX", 16.5, 0.056444, 8),
    "cgspeed-3dsmax-31": (_THREEDSMAX, ("Left", "Right"), "ZYX", 16.0, 0.056444, 0),
    "cgspeed-daz-43": (_DAZ, ("l", "r"), "ZXY", 88.0, 0.0102, 12),
}
# Clip, split, rig, true frame rate: each split and rig once, and a header that is wrong about its rate.
CMU_CLIPS = (
    ("05_01", "train", "cgspeed-motionbuilder-31", 120),
    ("60_01", "train", "cgspeed-daz-43", 60),
    ("10_04", "val", "cgspeed-motionbuilder-31", 120),
    ("131_01", "test_subjects", "cgspeed-3dsmax-31", 120),
    ("05_05", "test_takes", "cgspeed-motionbuilder-31", 120),
)


def write_cmu_mocap(root: Path, num_frames: int = 60, manifest: bool = True) -> Path:
    """Writes ``root/cmu_mocap``: five tiny clips, all rigs and splits, with or without ``manifest.csv``.

    Frames before the rig's trim are a T-pose, as in the database; then all joints sway and the person walks along z.

    Args:
        root: folder to write into.
        num_frames: frames per clip, T-pose included.
        manifest: whether to write the manifest.

    Returns:
        The folder ``root/cmu_mocap``.
    """
    folder = root / "cmu_mocap"
    rows = []
    for seed, (clip, split, rig, fps) in enumerate(CMU_CLIPS):
        subject = clip.split("_")[0]
        (folder / subject).mkdir(parents=True, exist_ok=True)
        (folder / subject / f"{clip}.bvh").write_text(bvh_text(rig, num_frames, seed))
        rows.append({
            "clip": clip, "subject": subject, "split": split, "action": "sway, and walk", "rig": rig,
            "frames": num_frames, "fps": fps, "trim_start": _RIGS[rig][5], "unit_to_m": _RIGS[rig][4],
        })  # fmt: skip
    if manifest:
        with (folder / "manifest.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


def bvh_text(rig: str, num_frames: int, seed: int = 0) -> str:
    """One tiny BVH file of a rig of the CMU database, as text.

    Args:
        rig: "cgspeed-motionbuilder-31", "cgspeed-3dsmax-31" or "cgspeed-daz-43".
        num_frames: frames, those of the T-pose included.
        seed: changes the motion.
    """
    tree, sides, order, height, unit, trim = _RIGS[rig]
    joints = _expand(tree, sides)
    children: dict[str, list[str]] = {name: [] for name in joints}
    for name, (parent, _) in joints.items():
        if parent:
            children[parent].append(name)
    lines = ["HIERARCHY"]
    written: list[str] = []
    rotations = " ".join(f"{axis}rotation" for axis in order)

    def write(name: str, depth: int) -> None:
        indent = "\t" * depth
        written.append(name)
        lines.append(f"{indent}{'JOINT' if depth else 'ROOT'} {name}\n{indent}{{")
        lines.append(f"{indent}\tOFFSET {' '.join(f'{x:.5f}' for x in joints[name][1])}")
        # The root's channels are Z Y X in all rigs.
        channels = f"3 {rotations}" if depth else "6 Xposition Yposition Zposition Zrotation Yrotation Xrotation"
        lines.append(f"{indent}\tCHANNELS {channels}")
        for child in children[name]:
            write(child, depth + 1)
        if not children[name]:
            tip = (0.0, 0.0, 12.0) if rig == "cgspeed-daz-43" and "Foot" in name else (0.0, 1.2, 0.6)
            lines.append(
                f"{indent}\tEnd Site\n{indent}\t{{\n{indent}\t\tOFFSET {' '.join(map(str, tip))}\n{indent}\t}}"
            )
        lines.append(f"{indent}}}")

    write(next(iter(joints)), 0)
    rng = np.random.default_rng(seed)
    time = np.arange(num_frames) / 120
    angles = rng.uniform(3, 15, (len(written), 3)) * np.sin(
        2 * np.pi * rng.uniform(0.3, 1.0, (len(written), 3)) * time[:, None, None]
        + rng.uniform(0, 6, (len(written), 3))
    )
    place = np.stack([0 * time, height + 0 * time, time / unit], axis=-1)
    motion = np.concatenate([place, angles.reshape(num_frames, -1)], axis=-1)
    motion[:trim, 3:] = 0
    lines += ["MOTION", f"Frames: {num_frames}", "Frame Time: .0083333"]
    lines += [" ".join(f"{value:.4f}" for value in row) for row in motion]
    return "\n".join(lines) + "\n"


def _expand(tree: _Tree, sides: tuple[str, str]) -> dict[str, tuple[str, tuple[float, float, float]]]:
    """Every joint's parent and offset, twins written out."""
    special = {"*HipJoint": ("LHipJoint", "RHipJoint"), "*Thumb": ("LThumb", "RThumb")}
    special |= {"*Fingers": ("LFingers", "RFingers"), "*hand": ("lhand", "rhand"), "*Eye": ("leftEye", "rightEye")}

    def word(name: str, side: int) -> str:
        return special[name][side] if name in special else name.replace("*", sides[side])

    joints = {}
    for name, parent, (x, y, z) in tree:
        for side in (0, 1) if name.startswith("*") else (0,):
            joints[word(name, side)] = (word(parent, side), (-x if side else x, y, z))
    return joints
