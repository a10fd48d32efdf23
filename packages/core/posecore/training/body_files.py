"""The files that `predict` writes of bodies, in the formats that other programs open."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.body.files import BodyModel
from posecore.body.smpl import SMPLLayer
from posecore.export.amass import write_amass
from posecore.export.body_motion import BodyMotion
from posecore.export.bvh import write_bvh
from posecore.export.files import OutputFolder
from posecore.export.gltf import write_animated_glb
from posecore.export.joint_angles import write_joint_angles
from posecore.export.meshes import write_mesh
from posecore.export.smpl_file import write_smpl_file
from posecore.export.smpl_predictions import SMPLPredictions

BodyFormat = Literal["amass", "smpl", "glb", "bvh", "csv", "obj", "ply", "html"]

DEFAULT_FORMATS: tuple[BodyFormat, ...] = ("amass", "glb", "bvh", "html")
MESH_FORMATS: tuple[BodyFormat, ...] = ("glb", "obj", "ply")

_STILL_FPS = 30.0  # A picture has no frame rate; readers of these files want one.

Bodies = Callable[[int], Float[Tensor, "meshes vertices 3"]]
"""The meshes of a row, metres, camera frame: the chosen one, and where they are asked for the hypotheses after it."""


def checked_formats(formats: Sequence[str] | None) -> tuple[BodyFormat, ...]:
    """The formats, each once; the default ones where None.

    Raises:
        ValueError: One is unknown.
    """
    wanted = DEFAULT_FORMATS if formats is None else tuple(dict.fromkeys(formats))
    if unknown := [name for name in wanted if name not in get_args(BodyFormat)]:
        raise ValueError(
            f"formats: {', '.join(map(repr, unknown))} unknown; valid are {', '.join(get_args(BodyFormat))}"
        )
    return wanted  # type: ignore[return-value]


@dataclass(frozen=True)
class Track:
    """Rows of one person that follow one another without a gap, or one row of a photograph.

    Attributes:
        name: File name without suffix.
        person: The person's label.
        rows: Places in the predictions, in the order of time.
    """

    name: str
    person: str
    rows: tuple[int, ...]


def tracks_of(ids: Sequence[str], frames: Sequence[int], names: Sequence[str], is_video: bool) -> list[Track]:
    """Who gets a file: every stretch of a person's frames of a video, else every row.

    Args:
        ids: Person of each row.
        frames: Its frame.
        names: File name of each row of photographs.
        is_video: Whether they are frames of a video.
    """
    if not is_video:
        return _distinct(
            [Track(name, person, (row,)) for row, (name, person) in enumerate(zip(names, ids, strict=True))]
        )
    rows_of: dict[str, list[int]] = {person: [] for person in ids}
    for row in sorted(range(len(ids)), key=frames.__getitem__):
        rows_of[ids[row]].append(row)
    tracks = []
    for person, rows in rows_of.items():
        starts = [k for k in range(1, len(rows)) if frames[rows[k]] != frames[rows[k - 1]] + 1]
        parts = [rows[start:end] for start, end in zip([0, *starts], [*starts, len(rows)], strict=True)]
        for number, part in enumerate(parts, start=1):
            name = file_name(person) + (f"_part{number}" if starts else "")
            tracks.append(Track(name, person, tuple(part)))
    return _distinct(tracks)


def file_name(person: str) -> str:
    """A label as a file name, which is no hidden one and names no other folder."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in person)
    return name.lstrip(".") or "person"


def _distinct(tracks: Sequence[Track]) -> list[Track]:
    """Labels that differ may give one file name; those after the first are numbered."""
    taken: set[str] = set()
    found = []
    for track in tracks:
        name, number = track.name, 1
        while name.lower() in taken:  # some file systems do not tell capitals from small letters
            number += 1
            name = f"{track.name}_{number}"
        taken.add(name.lower())
        found.append(replace(track, name=name))
    return found


def motion_of(
    model: BodyModel, made: SMPLPredictions, track: Track, hypothesis: int | None = None, fps: float | None = None
) -> BodyMotion:
    """A track as the exporters take it.

    Args:
        model: The body.
        made: Its parameters.
        track: Whose rows.
        hypothesis: Number of the hypothesis; None takes the chosen ones.
        fps: Frames per second, where the predictions have none.
    """
    rows = list(track.rows)
    orient, pose = made.global_orient[rows], made.body_pose[rows]
    if hypothesis is not None:
        assert made.hypotheses_global_orient is not None
        assert made.hypotheses_body_pose is not None
        orient, pose = made.hypotheses_global_orient[rows, hypothesis], made.hypotheses_body_pose[rows, hypothesis]
    return BodyMotion(
        model, orient, pose, made.betas[rows], made.transl[rows], made.fps or fps or _STILL_FPS,
        name=track.person, first_frame=made.frames[rows[0]],
    )  # fmt: skip


def write_motions(
    folder: OutputFolder,
    model: BodyModel,
    made: SMPLPredictions,
    tracks: Sequence[Track],
    formats: Sequence[BodyFormat],
) -> list[str]:
    """A file per track in each of ``amass smpl bvh csv``, and of a video ``people.glb`` with everybody.

    Args:
        folder: Where to.
        model: The body.
        made: Its parameters.
        tracks: Who is in which rows.
        formats: Which files are wanted; others than these are left to others.

    Returns:
        Names of what was written; a folder's ends in a slash.
    """
    kinematic = SMPLLayer(model, vertices=())

    def rest_pelvis(betas: Float[Tensor, "people 10"]) -> Float[Tensor, "people 3"]:
        joints: Tensor = kinematic.rest_joints(betas)
        return joints[:, 0]

    for track in tracks:
        one = made.take(track.rows)
        motion = motion_of(model, made, track)
        if "amass" in formats:
            # The file's own reader looks for the person among the rows; a stretch holds one only.
            one = replace(one, fps=motion.fps)
            write_amass(folder.file(f"amass/{track.name}.npz"), one, track.person, rest_pelvis)
        if "smpl" in formats:
            write_smpl_file(folder.file(f"smpl/{track.name}.smpl"), motion)
        if "bvh" in formats:
            write_bvh(folder.file(f"bvh/{track.name}.bvh"), motion, unit="m")
        if "csv" in formats:
            write_joint_angles(folder.file(f"csv/{track.name}.csv"), [motion])
    written = [f"{name}/" for name in formats if name in ("amass", "smpl", "bvh", "csv")]
    if "glb" in formats and made.fps is not None:
        write_animated_glb(folder.file("people.glb"), [motion_of(model, made, track) for track in tracks])
        written.append("people.glb")
    return written


def write_meshes(
    folder: OutputFolder,
    tracks: Sequence[Track],
    frames: Sequence[int],
    is_video: bool,
    bodies: Bodies,
    faces: Int[Tensor, "faces 3"],
    formats: Sequence[BodyFormat],
    label: str,
) -> list[str]:
    """A mesh file per row in each of ``obj ply`` and, of photographs, ``glb``; one row in memory at a time.

    Args:
        folder: Where to.
        tracks: Who is in which rows.
        frames: Frame of each row.
        is_video: Whether a track's meshes go into a folder of its name, a file per frame.
        bodies: The meshes of a row.
        faces: Triangles of every mesh.
        formats: Which files are wanted; others than these are left to others.
        label: What the meshes after the first are called in their names, before their number.

    Returns:
        Names of what was written.
    """
    wanted = [name for name in formats if name in MESH_FORMATS and not (is_video and name == "glb")]
    for track in tracks if wanted else ():
        for row in track.rows:
            name = f"{track.name}/{frames[row]:06d}" if is_video else track.name
            for number, vertices in enumerate(bodies(row)):
                which = f"_{label}{number - 1}" if number else ""
                for kind in wanted:
                    write_mesh(folder.file(f"{kind}/{name}{which}.{kind}"), vertices, faces)
    return [f"{name}/" for name in wanted]


def posed_bodies(model: BodyModel, made: SMPLPredictions, hypotheses: bool) -> Bodies:
    """The bodies of predictions, posed when they are asked for; with their hypotheses where these are wanted."""
    layer = SMPLLayer(model, joints=())

    def bodies(row: int) -> Float[Tensor, "meshes vertices 3"]:
        one = made.take([row])
        meshes: list[Tensor] = [layer(one.betas, one.body_pose, one.global_orient, one.transl).vertices]
        if hypotheses and one.hypotheses_body_pose is not None and one.hypotheses_global_orient is not None:
            count = one.hypotheses_body_pose.shape[1]
            meshes.append(
                layer(
                    one.betas.expand(count, -1), one.hypotheses_body_pose[0], one.hypotheses_global_orient[0],
                    one.transl.expand(count, -1),
                ).vertices
            )  # fmt: skip
        return torch.cat(meshes)

    return bodies


def in_chunks(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Consecutive pieces."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
