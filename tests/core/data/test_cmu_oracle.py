"""The BVH loader against the original ASF/AMC recording of the same take, read here by independent code."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from posecore.body.skeletons import H36M_17
from posecore.data.bvh import read_bvh
from posecore.data.cmu_rigs import h36m_joints, recognise_rig

pytestmark = pytest.mark.real_data

UNIT = 0.0254 / 0.45  # ASF lengths are inches over 0.45
BONE_ENDS = {
    "r_hip": "rhipjoint", "r_knee": "rfemur", "r_ankle": "rtibia", "l_hip": "lhipjoint", "l_knee": "lfemur",
    "l_ankle": "ltibia", "spine": "lowerback", "thorax": "thorax", "neck_nose": "upperneck", "head_top": "head",
    "l_shoulder": "lclavicle", "l_elbow": "lhumerus", "l_wrist": "lwrist", "r_shoulder": "rclavicle",
    "r_elbow": "rhumerus", "r_wrist": "rwrist",
}  # fmt: skip


def read_asf(path: Path) -> tuple[dict[str, dict], dict[str, str]]:
    """Bones by name (direction, length, axis, dof) and parents by name."""
    sections = path.read_text().split(":")
    bones: dict[str, dict] = {}
    for block in next(s for s in sections if s.startswith("bonedata")).split("begin")[1:]:
        lines = {line.split()[0]: line.split()[1:] for line in block.splitlines() if line.split()}
        bones[lines["name"][0]] = {
            "offset": np.array(lines["direction"], float) * float(lines["length"][0]),
            "axis": Rotation.from_euler("xyz", np.array(lines["axis"][:3], float), degrees=True).as_matrix(),
            "dof": lines.get("dof", []),
        }
    parents = {}
    for line in next(s for s in sections if s.startswith("hierarchy")).splitlines():
        words = line.split()
        parents.update(dict.fromkeys(words[1:], words[0]) if len(words) > 1 else {})
    return bones, parents


def read_amc(path: Path) -> dict[str, np.ndarray]:
    """Numbers of every bone, one row per frame."""
    values: dict[str, list[list[float]]] = {}
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) > 1 and not line.startswith(("#", ":")):
            values.setdefault(words[0], []).append([float(w) for w in words[1:]])
    return {name: np.array(rows) for name, rows in values.items()}


def bone_ends(bones: dict[str, dict], parents: dict[str, str], motion: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """World positions of the far end of every bone, metres."""
    root = motion["root"]
    rotations = {"root": Rotation.from_euler("xyz", root[:, 3:], degrees=True).as_matrix()}
    ends = {"root": root[:, :3]}
    for name, bone in bones.items():
        euler = np.zeros((len(root), 3))
        for k, dof in enumerate(bone["dof"]):
            euler[:, "xyz".index(dof[1])] = motion[name][:, k]
        local = bone["axis"] @ Rotation.from_euler("xyz", euler, degrees=True).as_matrix() @ bone["axis"].T
        rotations[name] = rotations[parents[name]] @ local
        ends[name] = ends[parents[name]] + rotations[name] @ bone["offset"]
    return {name: end * UNIT for name, end in ends.items()}


@pytest.fixture(scope="module")
def original(request: pytest.FixtureRequest) -> np.ndarray:
    folder = request.getfixturevalue("data_root") / "cmu_mocap" / "oracle"
    bones, parents = read_asf(folder / "05.asf")
    ends = bone_ends(bones, parents, read_amc(folder / "05_13.amc"))
    ends["pelvis"] = (ends["lhipjoint"] + ends["rhipjoint"]) / 2
    return np.stack([ends[BONE_ENDS.get(name, name)] for name in H36M_17.joint_names], axis=1)


@pytest.mark.parametrize(("repaired", "low", "high"), [(True, 0.0, 2.5), (False, 20.0, 80.0)])
def test_joints_agree_with_the_original_recording_only_after_the_repair(
    data_root: Path, original: np.ndarray, repaired: bool, low: float, high: float
) -> None:
    bvh = read_bvh(data_root / "cmu_mocap" / "05" / "05_13.bvh")
    rig = recognise_rig(bvh)
    rotations, positions = bvh.forward_kinematics(rig.repaired_offsets(bvh) if repaired else None)
    joints = h36m_joints(rig, bvh, rotations, positions) * rig.unit_to_m
    frames = slice(8, min(len(joints), len(original) + 1))
    # The BVH's frame 0 is an added T-pose, so its frame i is the recording's i - 1.
    error_mm = np.linalg.norm(joints[frames] - original[frames.start - 1 : frames.stop - 1], axis=-1) * 1000
    assert low < error_mm.mean() < high
