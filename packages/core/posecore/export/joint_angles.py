"""Joint angles as a table, for spreadsheets and statistics."""

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.lbs import KinematicTree
from posecore.body.skeletons import SMPL_24
from posecore.export.body_motion import BodyMotion
from posecore.export.files import write_text

__all__ = ["anatomical_angles", "write_joint_angles"]

_SIDES = {"l": 1.0, "r": -1.0}  # the sign of x on that side of a body in its own frame


def write_joint_angles(path: Path | str, people: Sequence[BodyMotion]) -> None:
    """Writes a CSV file with one row per person and frame, and a header that gives the units.

    Columns:

    - ``person``, ``frame`` and ``time_s`` (the frame's number over the frame rate);
    - ``pelvis_position_x_m``, ``_y_m``, ``_z_m``: x right, y up, z towards the camera, which is at the origin;
    - ``<joint>_x_deg``, ``_y_deg``, ``_z_deg`` for each of SMPL's joints: the rotation relative to the parent joint as
      intrinsic angles in the order x, y, z (R = Rx Ry Rz), in (-180, 180], that about y in [-90, 90]; all are 0 in
      SMPL's rest pose (arms sideways). The pelvis's is relative to the axes above. In the rest pose x is to the body's
      left, y up and z forward.
    - the angles of :func:`anatomical_angles`.

    Args:
        path: The file.
        people: Their motions.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If there are no people.
    """
    if not people:
        raise ValueError("people: is empty; give at least one motion")
    table = StringIO()
    writer = csv.writer(table, lineterminator="\n")
    axes = "xyz"
    header = ["person", "frame", "time_s", *(f"pelvis_position_{axis}_m" for axis in axes)]
    header += [f"{joint}_{axis}_deg" for joint in SMPL_24.joint_names for axis in axes]
    for number, person in enumerate(people):
        anatomical = anatomical_angles(person)
        if number == 0:
            writer.writerow([*header, *anatomical])
        euler = roma.rotmat_to_euler("XYZ", person.rotmat_up, degrees=True).flatten(1)
        columns = torch.cat((euler, torch.stack(tuple(anatomical.values()), dim=1)), dim=1)
        for row, (position, angles) in enumerate(zip(person.pelvis_up.tolist(), columns.tolist(), strict=True)):
            frame = person.first_frame + row
            values = [*(f"{value:.5f}" for value in position), *(f"{value:.4f}" for value in angles)]
            writer.writerow([person.name, frame, f"{frame / person.fps:.6f}", *values])
    write_text(path, table.getvalue())


def anatomical_angles(motion: BodyMotion) -> dict[str, Float[Tensor, " frames"]]:
    """Angles between segments that run from joint centre to joint centre, degrees, by column name.

    - ``<side>_knee_flexion_deg``, ``<side>_elbow_flexion_deg``: between the two bones at the joint, 0 where they are in
      line. It has no sign, so that an overstretched joint counts as bent.
    - ``<side>_hip_flexion_deg``, ``<side>_hip_abduction_deg``: of the thigh in the pelvis's axes, first flexion about
      the axis to the left, then abduction; 0 where the thigh points straight down, flexion positive forwards, abduction
      positive away from the other leg.
    - ``<side>_shoulder_elevation_deg``: between the upper arm and straight down in the chest's axes (joint ``spine3``);
      0 hanging, 90 level. ``<side>_shoulder_plane_deg``: the plane of elevation, 0 sideways (abduction), 90 forwards
      (flexion), 180 across the body; it means nothing where the elevation is near 0 or 180.

    The axes are those of SMPL's rest pose, which are not the landmarks that the International Society of Biomechanics
    uses for pelvis and thorax, and SMPL's joints are not measured joint centres: compare angles of one system with one
    another. Turns about a bone's own axis are in the columns of the joint's rotation only.

    References:
        Grood and Suntay, J. Biomech. Eng. 105, 1983 (hip); Wu et al., J. Biomech. 38, 2005 (shoulder).
    """
    world, joints = KinematicTree(motion.parents)(motion.rotmat_up, motion.rest_joints)

    def bone(start: str, end: str, frame: str | None = None) -> Float[Tensor, "frames 3"]:
        """Unit vector from joint to joint, in the axes of a joint."""
        direction = joints[:, SMPL_24.index(end)] - joints[:, SMPL_24.index(start)]
        if frame is not None:
            direction = (world[:, SMPL_24.index(frame)].mT @ direction[..., None]).squeeze(-1)
        unit: Tensor = torch.nn.functional.normalize(direction, dim=-1)
        return unit

    angles: dict[str, Tensor] = {}
    for side, outwards in _SIDES.items():
        for name, chain in (("knee", ("hip", "knee", "ankle")), ("elbow", ("shoulder", "elbow", "wrist"))):
            first, middle, last = (f"{side}_{joint}" for joint in chain)
            angles[f"{side}_{name}_flexion_deg"] = _angle(bone(first, middle), bone(middle, last))
        x, y, z = bone(f"{side}_hip", f"{side}_knee", "pelvis").unbind(dim=-1)
        angles[f"{side}_hip_flexion_deg"] = torch.atan2(z, -y)
        angles[f"{side}_hip_abduction_deg"] = torch.asin((outwards * x).clamp(-1, 1))
        arm = bone(f"{side}_shoulder", f"{side}_elbow", "spine3")
        angles[f"{side}_shoulder_elevation_deg"] = _angle(arm, arm.new_tensor((0.0, -1.0, 0.0)).expand_as(arm))
        angles[f"{side}_shoulder_plane_deg"] = torch.atan2(arm[:, 2], outwards * arm[:, 0])
    return {name: torch.rad2deg(angle) for name, angle in angles.items()}


def _angle(a: Float[Tensor, "frames 3"], b: Float[Tensor, "frames 3"]) -> Float[Tensor, " frames"]:
    """Between unit vectors; exact also where they are nearly parallel."""
    return torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(dim=-1))
