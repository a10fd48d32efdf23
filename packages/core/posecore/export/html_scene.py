"""What a page shows: people in one of three kinds, the camera that saw them, and all of it as JSON.

The JSON (format ``humandiff-scene/1``) is read by ``tools/viewer/src/scene.js``. An array in it is
``{"type", "shape", "offset", "scale"}``: little-endian numbers from byte ``offset`` on of ``buffer``, which is base64;
where there is a ``scale``, they are integers to be multiplied by it. Positions have y up, as in the mesh files.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image
from torch import Tensor

from posecore.body.skeletons import JointSet
from posecore.export.body_motion import BodyMotion
from posecore.export.correctives import fit_correctives
from posecore.geometry.rotation import rotmat_to_quat_wxyz

__all__ = ["Scene", "SceneBodies", "SceneCamera", "SceneMeshes", "SceneSkeletons"]

SCENE_FORMAT = "humandiff-scene/1"

_CAM_TO_Y_UP = (1.0, -1.0, -1.0)
_MORPH_TOLERANCE = 2e-3  # metres, which no eye sees
_MAX_TARGETS = 32  # 55 kB each in a page
_INFLUENCES = 4  # joints per vertex, as graphics cards take them
_LONGEST_SIDE = 1600  # pixels of a photograph
_JPEG_QUALITY = 88


@dataclass(frozen=True, eq=False)
class SceneBodies:
    """A person as posed bodies, one motion per hypothesis.

    Attributes:
        hypotheses: Of the same person, body model and frames; their shapes may differ.
        chosen: Number of the chosen hypothesis in each frame; None is the first one throughout.

    Raises:
        ValueError: If there are no hypotheses, they are not of the same person and frames, or ``chosen`` is not one.
    """

    hypotheses: Sequence[BodyMotion]
    chosen: Int[Tensor, " frames"] | None = None

    def __post_init__(self) -> None:
        if not self.hypotheses:
            raise ValueError("hypotheses: is empty; give at least one motion")
        first = self.hypotheses[0]
        for number, motion in enumerate(self.hypotheses):
            if motion.model is not first.model:
                raise ValueError(f"hypotheses: number {number} has another body model than number 0; give the same one")
            for name in ("name", "first_frame", "num_frames", "fps"):
                if getattr(motion, name) != getattr(first, name):
                    raise ValueError(
                        f"hypotheses: number {number} has {name} {getattr(motion, name)!r}, number 0 has "
                        f"{getattr(first, name)!r}; they must agree"
                    )
        _check_chosen(self.chosen, len(self.hypotheses), first.num_frames)

    @property
    def name(self) -> str:
        """The person's label."""
        return self.hypotheses[0].name


@dataclass(frozen=True, eq=False)
class SceneMeshes:
    """A person as meshes without bones, one per hypothesis and frame; 41 kB each for SMPL's 6890 vertices.

    Attributes:
        name: The person's label.
        vertices_cam: Metres, camera frame (x right, y down, z forward).
        faces: Triangles, counted from 0.
        chosen: As in :class:`SceneBodies`.
        first_frame: Number of the first frame.

    Raises:
        ValueError: If there are no vertices, one is not finite, or ``chosen`` is not one of the hypotheses.
    """

    name: str
    vertices_cam: Float[Tensor, "hypotheses frames vertices 3"]
    faces: Int[Tensor, "faces 3"]
    chosen: Int[Tensor, " frames"] | None = None
    first_frame: int = 0

    def __post_init__(self) -> None:
        _check_points("vertices_cam", self.vertices_cam)
        _check_chosen(self.chosen, *self.vertices_cam.shape[:2])


@dataclass(frozen=True, eq=False)
class SceneSkeletons:
    """A person as joints and the bones between them.

    Attributes:
        name: The person's label.
        joints_cam: Metres, camera frame (x right, y down, z forward).
        joint_set: Says parents, sides and the root.
        chosen: As in :class:`SceneBodies`.
        first_frame: Number of the first frame.

    Raises:
        ValueError: If the number of joints is not the set's, one is not finite, or ``chosen`` is not one of the
            hypotheses.
    """

    name: str
    joints_cam: Float[Tensor, "hypotheses frames joints 3"]
    joint_set: JointSet
    chosen: Int[Tensor, " frames"] | None = None
    first_frame: int = 0

    def __post_init__(self) -> None:
        _check_points("joints_cam", self.joints_cam)
        joints = self.joints_cam.shape[2]
        if joints != self.joint_set.num_joints:
            raise ValueError(f"joints_cam: has {joints} joints; {self.joint_set.name} has {self.joint_set.num_joints}")
        _check_chosen(self.chosen, *self.joints_cam.shape[:2])


ScenePerson: TypeAlias = SceneBodies | SceneMeshes | SceneSkeletons


@dataclass(frozen=True, eq=False)
class SceneCamera:
    """The camera that took the picture, and the picture.

    Attributes:
        K: Intrinsics, pixels.
        image_size: Width and height of the picture that ``K`` is of, pixels.
        photo: The picture upright, RGB; for a still picture, or what a standing camera saw once. It is stored as JPEG
            of at most 1600 pixels.

    Raises:
        ValueError: If a focal length or the size is not positive.
    """

    K: Float[Tensor, "3 3"]
    image_size: tuple[int, int]
    photo: UInt8[np.ndarray, "height width 3"] | None = None

    def __post_init__(self) -> None:
        if not (self.K.isfinite().all() and self.K[0, 0] > 0 and self.K[1, 1] > 0):
            raise ValueError(f"K: is {self.K.tolist()}; focal lengths must be positive and all numbers finite")
        if min(self.image_size) <= 0:
            raise ValueError(f"image_size: is {self.image_size}; width and height must be positive")


@dataclass(frozen=True, eq=False)
class Scene:
    """All that a page shows.

    Attributes:
        title: The headline, such as the name of the picture.
        method: Name of the method.
        people: One entry per person and stretch of frames without a gap; entries of one name are switched together.
        fps: Frames per second.
        camera: Lets a viewer see from where the camera was.
        camera_statement: In words, where the camera comes from.
        camera_assumed: Whether it was assumed and not given.
        pick: In words, how the chosen hypotheses were chosen.

    Raises:
        ValueError: If there are no people, ``fps`` is not positive, or a motion has another one.
    """

    title: str
    method: str
    people: Sequence[ScenePerson]
    fps: float = 30.0
    camera: SceneCamera | None = None
    camera_statement: str = ""
    camera_assumed: bool = True
    pick: str = ""

    def __post_init__(self) -> None:
        if not self.people:
            raise ValueError("people: is empty; a scene needs at least one person")
        if not 0 < self.fps < float("inf"):
            raise ValueError(f"fps: is {self.fps}; it must be positive")
        for person in self.people:
            if isinstance(person, SceneBodies) and person.hypotheses[0].fps != self.fps:
                raise ValueError(
                    f"fps: is {self.fps}, and {person.name!r} moves at {person.hypotheses[0].fps}; they must agree"
                )


def scene_content(scene: Scene) -> dict[str, Any]:
    """The scene as JSON values (module docstring)."""
    pack = _Pack()
    people = []
    for person in scene.people:
        match person:
            case SceneBodies():
                people.append(_bodies(pack, person))
            case SceneMeshes():
                people.append(_meshes(pack, person))
            case SceneSkeletons():
                people.append(_skeletons(pack, person))
    return {
        "format": SCENE_FORMAT,
        "title": scene.title,
        "method": scene.method,
        "unit": "metres",
        "fps": scene.fps,
        "camera_statement": scene.camera_statement,
        "camera_assumed": scene.camera_assumed,
        "pick": scene.pick,
        "camera": None if scene.camera is None else _camera(scene.camera),
        "surfaces": pack.surfaces,
        "people": people,
        "buffer": base64.b64encode(pack.buffer).decode(),
    }


class _Pack:
    """The buffer while it is gathered, and the surfaces that people share."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.surfaces: list[dict[str, Any]] = []
        self._numbers: dict[bytes, int] = {}

    def array(self, values: Shaped[np.ndarray, "..."], scale: float | None = None) -> dict[str, Any]:
        entry = {"type": values.dtype.name, "shape": list(values.shape), "offset": len(self.buffer), "scale": scale}
        self.buffer += np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"))).tobytes()
        self.buffer += bytes(-len(self.buffer) % 4)
        return entry

    def small(self, values: Float[np.ndarray, "..."]) -> dict[str, Any]:
        """Adds numbers in two bytes each, exact to 1/65000 of the largest."""
        scale = float(np.abs(values).max(initial=0.0)) / 32767 or 1.0
        return self.array(np.round(values / scale).astype(np.int16), scale)

    def surface(self, faces: Int[np.ndarray, "faces 3"], skin: BodyMotion | None = None) -> int:
        """The number of a surface, which is added where it is new: triangles, and what moves it."""
        kind = np.uint16 if faces.max(initial=0) < 2**16 else np.uint32
        key = faces.tobytes() + (b"" if skin is None else skin.model.lbs_weights.cpu().numpy().tobytes())
        if key not in self._numbers:
            surface: dict[str, Any] = {"faces": self.array(faces.astype(kind).flatten())}
            if skin is not None:
                joints, weights = _influences(skin.model.lbs_weights)
                surface |= {"skin_joints": self.array(joints), "skin_weights": self.array(weights, 1 / 65535)}
                surface["parents"] = list(skin.parents)
            self._numbers[key] = len(self.surfaces)
            self.surfaces.append(surface)
        return self._numbers[key]


def _bodies(pack: _Pack, person: SceneBodies) -> dict[str, Any]:
    """Rest bodies, one per shape, and rotations: a frame of a hypothesis is 200 bytes and shares all else."""
    motions = person.hypotheses
    first, count = motions[0], len(motions)
    shapes: dict[bytes, int] = {}
    shape_of = [shapes.setdefault(motion.mean_betas.numpy().tobytes(), len(shapes)) for motion in motions]
    rest = [motions[shape_of.index(number)] for number in range(len(shapes))]
    rotmat = torch.stack([motion.rotmat_up for motion in motions])
    quaternions = rotmat_to_quat_wxyz(rotmat).numpy()[..., [1, 2, 3, 0]]
    content = {
        "kind": "skin",
        "surface": pack.surface(first.model.faces.cpu().numpy(), first),
        "shapes": [
            {"vertices": pack.small(body.rest_vertices.numpy()), "joints": pack.small(body.rest_joints.numpy())}
            for body in rest
        ],
        "shape_of": shape_of,
        "rotations": pack.small(quaternions),
        "roots": pack.array(np.stack([motion.pelvis_up.numpy() for motion in motions]).astype(np.float32)),
    }
    # Pose blend shapes of all hypotheses at once, so that they share the targets.
    together = replace(
        first,
        global_orient=torch.cat([motion.global_orient for motion in motions]),
        body_pose=torch.cat([motion.body_pose for motion in motions]),
        transl=torch.cat([motion.transl for motion in motions]),
        betas=first.betas[:1],
    )
    correctives = fit_correctives(together, _MORPH_TOLERANCE)
    targets, weights = correctives.targets[:_MAX_TARGETS].clone(), correctives.weights[:, :_MAX_TARGETS]
    if len(targets):
        # The strongest come first. Of the others the mean is kept, in the first, which always weighs 1.
        rest_of_them = correctives.weights[:, _MAX_TARGETS:].mean(dim=0)
        targets[0] += (rest_of_them[:, None, None] * correctives.targets[_MAX_TARGETS:]).sum(dim=0)
        content["targets"] = pack.small(targets.numpy())
        content["weights"] = pack.small(weights.unflatten(0, (count, first.num_frames)).numpy())
    return content | _common(pack, person.name, first.first_frame, (count, first.num_frames), person.chosen)


def _meshes(pack: _Pack, person: SceneMeshes) -> dict[str, Any]:
    vertices = _y_up(person.vertices_cam)
    roots = vertices.mean(axis=2)
    return {
        "kind": "vertices",
        "surface": pack.surface(person.faces.cpu().numpy()),
        "vertices": pack.small(vertices - roots[:, :, None]),
        "roots": pack.array(roots.astype(np.float32)),
    } | _common(pack, person.name, person.first_frame, vertices.shape[:2], person.chosen)


def _skeletons(pack: _Pack, person: SceneSkeletons) -> dict[str, Any]:
    joints, joint_set = _y_up(person.joints_cam), person.joint_set
    roots = joints[:, :, list(joint_set.root)].mean(axis=2)
    sides = dict.fromkeys(joint_set.left, "left") | dict.fromkeys(joint_set.right, "right")
    return {
        "kind": "joints",
        "surface": None,
        "joints": pack.small(joints - roots[:, :, None]),
        "roots": pack.array(roots.astype(np.float32)),
        "parents": list(joint_set.parents),
        "sides": [sides.get(j) for j in range(joint_set.num_joints)],
    } | _common(pack, person.name, person.first_frame, joints.shape[:2], person.chosen)


def _common(
    pack: _Pack, name: str, first_frame: int, size: tuple[int, ...], chosen: Int[Tensor, " frames"] | None
) -> dict[str, Any]:
    hypotheses, frames = size
    picks = np.zeros(frames) if chosen is None else chosen.cpu().numpy()
    return {
        "name": name,
        "first_frame": first_frame,
        "num_frames": frames,
        "num_hypotheses": hypotheses,
        "chosen": pack.array(picks.astype(np.uint16)),
    }


def _camera(camera: SceneCamera) -> dict[str, Any]:
    width, height = camera.image_size
    focal_and_centre = [float(camera.K[row, column]) for row, column in ((0, 0), (1, 1), (0, 2), (1, 2))]
    content: dict[str, Any] = {"focal_and_centre": focal_and_centre, "width": width, "height": height, "photo": None}
    if camera.photo is not None:
        picture, file = Image.fromarray(camera.photo), io.BytesIO()
        picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        picture.save(file, "JPEG", quality=_JPEG_QUALITY)
        content["photo"] = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return content


def _influences(
    lbs_weights: Float[Tensor, "vertices joints"],
) -> tuple[UInt8[np.ndarray, "vertices 4"], Shaped[np.ndarray, "vertices 4"]]:
    """The four joints that move each vertex most, and their weights in units of 1/65535, which sum to one."""
    weights = lbs_weights.detach().cpu().double().numpy()
    order = np.argsort(-weights, axis=1, kind="stable")[:, :_INFLUENCES]
    strongest = np.take_along_axis(weights, order, axis=1)
    units = np.round(strongest / strongest.sum(axis=1, keepdims=True) * 65535)
    units[:, 0] += 65535 - units.sum(axis=1)
    return np.where(units > 0, order, 0).astype(np.uint8), units.astype(np.uint16)


def _y_up(points_cam: Float[Tensor, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    points: np.ndarray = (points_cam.detach().cpu().double() * torch.tensor(_CAM_TO_Y_UP, dtype=torch.float64)).numpy()
    return points


def _check_points(name: str, points: Float[Tensor, "hypotheses frames points 3"]) -> None:
    if not points.numel():
        raise ValueError(f"{name}: has shape {tuple(points.shape)}; give at least one hypothesis, frame and point")
    if not points.isfinite().all():
        raise ValueError(f"{name}: holds a value that is not finite")


def _check_chosen(chosen: Int[Tensor, " frames"] | None, hypotheses: int, frames: int) -> None:
    if chosen is None:
        return
    if len(chosen) != frames:
        raise ValueError(f"chosen: has {len(chosen)} entries for {frames} frames")
    if not bool(((chosen >= 0) & (chosen < hypotheses)).all()):
        raise ValueError(f"chosen: is {chosen.tolist()}; valid are 0 to {hypotheses - 1}")
