import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from posecore.body.files import load_body_model
from posecore.body.skeletons import SMPL_24
from posecore.body.smpl import SMPLLayer
from posecore.export import BodyMotion, write_joint_angles
from posecore.export.joint_angles import anatomical_angles
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.testing import swaying_body


@pytest.fixture(scope="module")
def motion() -> BodyMotion:
    return swaying_body(load_body_model())


def posed(motion: BodyMotion, **degrees: tuple[float, float, float]) -> dict[str, float]:
    """Angles of one frame in which the named joints are turned."""
    angles = torch.zeros(24, 3)
    for joint, values in degrees.items():
        angles[SMPL_24.index(joint)] = torch.deg2rad(torch.tensor(values))
    rotmat = axis_angle_to_rotmat(angles)[None]
    one = replace(
        motion,
        global_orient=rotmat[:, 0],
        body_pose=rotmat[:, 1:],
        transl=torch.zeros(1, 3),
        betas=torch.zeros(1, 10),
    )
    return {name: float(angle) for name, angle in anatomical_angles(one).items()}


def test_the_table(tmp_path: Path, motion: BodyMotion) -> None:
    other = swaying_body(motion.model, frames=2, name="bert, the second", first_frame=5, seed=1)
    write_joint_angles(tmp_path / "a.csv", [motion, other])
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["person"] for row in rows] == ["anna"] * 8 + ["bert, the second"] * 2
    assert [int(row["frame"]) for row in rows[-2:]] == [5, 6]
    assert [float(row["time_s"]) for row in rows[-2:]] == pytest.approx([5 / 25, 6 / 25])
    assert len(rows[0]) == 6 + 72 + 12
    assert all(name.endswith(("_m", "_deg")) for name in list(rows[0])[3:])
    for person, part in ((motion, rows[:8]), (other, rows[8:])):
        joints = SMPLLayer(person.model)(person.betas, person.body_pose, person.global_orient, person.transl).joints
        pelvis = [[float(row[f"pelvis_position_{axis}_m"]) for axis in "xyz"] for row in part]
        np.testing.assert_allclose(pelvis, joints[:, 0].numpy() * [1, -1, -1], atol=2e-5)
        local = torch.cat(
            (torch.diag(torch.tensor([1.0, -1, -1])) @ person.global_orient[:, None], person.body_pose), 1
        )
        for number, joint in enumerate(SMPL_24.joint_names):
            euler = [[float(row[f"{joint}_{axis}_deg"]) for axis in "xyz"] for row in part]
            made = Rotation.from_euler("XYZ", euler, degrees=True).as_matrix()
            np.testing.assert_allclose(made, local[:, number].numpy(), atol=1e-5)
            assert np.abs(np.asarray(euler)[:, 1]).max() <= 90
        for name, values in anatomical_angles(person).items():
            np.testing.assert_allclose([float(row[name]) for row in part], values.numpy(), atol=1e-4)


def test_flexion_of_knees_and_elbows_is_the_angle_between_bones(motion: BodyMotion) -> None:
    joints = SMPLLayer(motion.model)(motion.betas, motion.body_pose, motion.global_orient, motion.transl).joints
    angles = anatomical_angles(motion)
    for name, chain in (("knee", ("hip", "knee", "ankle")), ("elbow", ("shoulder", "elbow", "wrist"))):
        for side in "lr":
            a, b, c = (joints[:, SMPL_24.index(f"{side}_{joint}")].double().numpy() for joint in chain)
            first, second = b - a, c - b
            lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
            between = np.rad2deg(np.arccos((first * second).sum(axis=1) / lengths))
            # The angles are of the mean shape, the joints of each frame's own.
            np.testing.assert_allclose(angles[f"{side}_{name}_flexion_deg"].numpy(), between, atol=1)


def test_the_rest_pose(motion: BodyMotion) -> None:
    angles = posed(motion)
    for side in "lr":
        assert angles[f"{side}_knee_flexion_deg"] < 12
        assert angles[f"{side}_elbow_flexion_deg"] < 12
        assert abs(angles[f"{side}_hip_flexion_deg"]) < 8
        assert 0 < angles[f"{side}_hip_abduction_deg"] < 12
        assert angles[f"{side}_shoulder_elevation_deg"] == pytest.approx(90, abs=15)
        assert angles[f"{side}_shoulder_plane_deg"] == pytest.approx(0, abs=15)


@pytest.mark.parametrize("side", ["l", "r"])
def test_signs_of_the_hip(motion: BodyMotion, side: str) -> None:
    rest, raised = posed(motion), posed(motion, **{f"{side}_hip": (-70.0, 0, 0)})
    # A turn about the axis that comes first adds to the first angle and leaves the second.
    assert raised[f"{side}_hip_flexion_deg"] - rest[f"{side}_hip_flexion_deg"] == pytest.approx(70, abs=1e-3)
    assert raised[f"{side}_hip_abduction_deg"] == pytest.approx(rest[f"{side}_hip_abduction_deg"], abs=1e-3)
    other = "r" if side == "l" else "l"
    assert raised[f"{other}_hip_flexion_deg"] == pytest.approx(rest[f"{other}_hip_flexion_deg"], abs=1e-3)
    outwards = 30.0 if side == "l" else -30.0
    apart = posed(motion, **{f"{side}_hip": (0, 0, outwards)})
    assert apart[f"{side}_hip_abduction_deg"] - rest[f"{side}_hip_abduction_deg"] == pytest.approx(30, abs=1)


@pytest.mark.parametrize(("side", "sign"), [("l", 1.0), ("r", -1.0)])
def test_signs_of_the_shoulder(motion: BodyMotion, side: str, sign: float) -> None:
    hanging = posed(motion, **{f"{side}_shoulder": (0, 0, -75.0 * sign)})
    assert hanging[f"{side}_shoulder_elevation_deg"] < 30
    forwards = posed(motion, **{f"{side}_shoulder": (0, -90.0 * sign, 0)})
    assert forwards[f"{side}_shoulder_elevation_deg"] == pytest.approx(90, abs=15)
    assert forwards[f"{side}_shoulder_plane_deg"] == pytest.approx(90, abs=15)


def test_knees_and_elbows_bend(motion: BodyMotion) -> None:
    rest = posed(motion)
    bent = posed(motion, l_knee=(90.0, 0, 0), r_elbow=(0, 90.0, 0))
    assert bent["l_knee_flexion_deg"] == pytest.approx(90, abs=12)
    assert bent["r_elbow_flexion_deg"] == pytest.approx(90, abs=12)
    assert bent["r_knee_flexion_deg"] == pytest.approx(rest["r_knee_flexion_deg"], abs=1e-3)


def test_angles_do_not_depend_on_where_the_body_faces(motion: BodyMotion) -> None:
    turned = replace(motion, global_orient=axis_angle_to_rotmat(torch.rand(8, 3)), transl=motion.transl + 1)
    for name, values in anatomical_angles(motion).items():
        torch.testing.assert_close(anatomical_angles(turned)[name], values, rtol=0, atol=1e-3)


def test_what_cannot_be_written_is_refused(tmp_path: Path, motion: BodyMotion) -> None:
    with pytest.raises(ValueError, match="people: is empty"):
        write_joint_angles(tmp_path / "a.csv", [])
    with pytest.raises(OSError, match="cannot be written"):
        write_joint_angles(tmp_path / "missing" / "a.csv", [motion])
