"""Moving bodies as binary glTF 2.0: skinned meshes on SMPL's skeleton with one animation clip.

y is up and z towards the camera, as in the mesh files; metres and seconds.

References:
    Khronos Group, glTF 2.0 Specification, 2021: Sec. 3.7.3 (skins), 3.7.2.2 (morph targets), 3.11 (animations), 4.4
    (GLB).
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from posecore.export.body_motion import BodyMotion
from posecore.export.correctives import Correctives, fit_correctives
from posecore.export.files import write_bytes
from posecore.export.meshes import MESH_FRAME
from posecore.geometry.rotation import rotmat_to_quat_wxyz

__all__ = ["CorrectiveMode", "write_animated_glb"]

CorrectiveMode = Literal["morph", "none"]

_MORPH_TOLERANCE = 5e-5  # metres; with the rounding to float32 below a tenth of a millimetre
_COMPONENT_TYPES = {"float32": 5126, "uint8": 5121, "uint32": 5125}
_ELEMENT_TYPES = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
_VERTEX_DATA, _INDEX_DATA = 34962, 34963
_INFLUENCES = 4  # joints in one set of vertex attributes
_MATERIAL = {
    "name": "body",
    "pbrMetallicRoughness": {"baseColorFactor": [0.65, 0.62, 0.6, 1.0], "metallicFactor": 0.0, "roughnessFactor": 0.8},
}


def write_animated_glb(path: Path | str, people: Sequence[BodyMotion], correctives: CorrectiveMode = "morph") -> None:
    """Writes people as skinned, animated meshes into one ``.glb`` file.

    Each person has an armature of SMPL's 24 joints, named as in ``SMPL_24``, a mesh of its own shape in SMPL's rest
    pose, and all its blend weights: four joints per vertex, and more in further sets (``JOINTS_1``) where a body has
    more; each vertex's strongest come first, for programs that read four. One clip moves everybody, with a key per
    frame: a rotation per joint and the position of the pelvis. It starts with the first person's first frame.

    A skin has no room for SMPL's pose blend shapes. ``"morph"`` adds them as morph targets of 12 bytes per vertex, as
    few as keep every vertex within 0.05 mm: none for the open body, which has no pose blend shapes; for SMPL at most
    207 or the number of frames, and one more. ``"none"`` leaves them out: a smaller file that any program shows, with
    bent joints that lose volume. How far a mesh is from the body at most is in either case in the mesh's ``extras``,
    ``humandiff_max_error_m``. Measured over 300 frames, the open body in the file is within 0.003 mm of
    ``SMPLLayer``'s, and a stand-in with blend shapes of centimetres within 0.04 mm with targets and 7 cm without.

    Args:
        path: The file.
        people: Their motions, at any frame rates.
        correctives: What becomes of the pose blend shapes.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If there are no people, or ``correctives`` is unknown.
    """
    if not people:
        raise ValueError("people: is empty; give at least one motion")
    if correctives not in get_args(CorrectiveMode):
        valid = ", ".join(map(repr, get_args(CorrectiveMode)))
        raise ValueError(f"correctives: is {correctives!r}; valid are {valid}")
    tolerance = _MORPH_TOLERANCE if correctives == "morph" else float("inf")
    start = min(person.first_frame / person.fps for person in people)
    glb = _Glb()
    for person in people:
        _add_person(glb, person, fit_correctives(person, tolerance), start)
    write_bytes(path, glb.to_bytes())


class _Glb:
    """The parts of a file while they are gathered: lists of objects, and one buffer that their numbers lie in."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.meshes: list[dict[str, Any]] = []
        self.skins: list[dict[str, Any]] = []
        self.channels: list[dict[str, Any]] = []
        self.samplers: list[dict[str, Any]] = []
        self.roots: list[int] = []
        self._accessors: list[dict[str, Any]] = []
        self._views: list[dict[str, Any]] = []
        self._buffer = bytearray()

    def accessor(self, values: Shaped[np.ndarray, "..."], target: int | None = None, bounds: bool = False) -> int:
        """Adds an array, one element per row, and returns its number.

        Args:
            values: float32, uint8 or uint32.
            target: What a graphics card uses it for, where it does.
            bounds: Whether the format asks for the least and the largest value.
        """
        element = values.shape[1:]
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self._buffer), "byteLength": values.nbytes}
        if target is not None:
            view["target"] = target
        accessor: dict[str, Any] = {
            "bufferView": len(self._views),
            "componentType": _COMPONENT_TYPES[values.dtype.name],
            "count": len(values),
            "type": _ELEMENT_TYPES[element],
        }
        if bounds:
            accessor["min"] = np.atleast_1d(values.min(axis=0)).tolist()
            accessor["max"] = np.atleast_1d(values.max(axis=0)).tolist()
        self._buffer += np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"))).tobytes()
        self._buffer += bytes(-len(self._buffer) % 4)
        self._views.append(view)
        self._accessors.append(accessor)
        return len(self._accessors) - 1

    def animate(self, node: int, path: str, times: int, values: Shaped[np.ndarray, "..."]) -> None:
        """Adds a channel: values at times, straight lines between them."""
        self.channels.append({"sampler": len(self.samplers), "target": {"node": node, "path": path}})
        self.samplers.append({"input": times, "interpolation": "LINEAR", "output": self.accessor(values)})

    def to_bytes(self) -> bytes:
        """The file."""
        content = {
            "asset": {"version": "2.0", "generator": "humandiff", "extras": {"frame": MESH_FRAME}},
            "scene": 0,
            "scenes": [{"nodes": self.roots}],
            "nodes": self.nodes,
            "meshes": self.meshes,
            "materials": [_MATERIAL],
            "skins": self.skins,
            "animations": [{"name": "motion", "channels": self.channels, "samplers": self.samplers}],
            "accessors": self._accessors,
            "bufferViews": self._views,
            "buffers": [{"byteLength": len(self._buffer)}],
        }
        text = json.dumps(content, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        chunks += struct.pack("<I4s", len(self._buffer), b"BIN\0") + self._buffer
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _add_person(glb: _Glb, person: BodyMotion, correctives: Correctives, start: float) -> None:
    """Adds a skeleton, a skinned mesh and their channels; time 0 of the clip is ``start`` seconds."""
    root = _add_skeleton(glb, person)
    joints = list(range(root, root + len(person.joint_names)))
    inverse_bind = np.tile(np.eye(4), (len(joints), 1, 1))
    inverse_bind[:, 3, :3] = -person.rest_joints.numpy()  # matrices lie column by column in the file
    glb.skins.append(
        {"joints": joints, "skeleton": root, "inverseBindMatrices": glb.accessor(inverse_bind.astype(np.float32))}
    )
    # A skinned mesh moves with its joints alone, so that it belongs to no other node.
    mesh_node = len(glb.nodes)
    glb.nodes.append({"name": f"{person.name}_mesh", "mesh": len(glb.meshes), "skin": len(glb.skins) - 1})
    glb.roots.append(mesh_node)
    _add_mesh(glb, person, correctives)

    seconds = (person.first_frame + np.arange(person.num_frames)) / person.fps - start
    times = glb.accessor(seconds.astype(np.float32), bounds=True)
    glb.animate(root, "translation", times, person.pelvis_up.numpy().astype(np.float32))
    for joint, quaternions in zip(joints, _quaternions(person.rotmat_up), strict=True):
        glb.animate(joint, "rotation", times, quaternions)
    if len(correctives.targets):
        glb.animate(mesh_node, "weights", times, correctives.weights.flatten().numpy().astype(np.float32))


def _add_skeleton(glb: _Glb, person: BodyMotion) -> int:
    """Adds the joints in the rest pose and a node above them that names the person; returns the root joint."""
    root, parents = len(glb.nodes), person.parents
    rest = person.rest_joints.numpy()
    for joint, (name, parent) in enumerate(zip(person.joint_names, parents, strict=True)):
        offset = rest[joint] - (rest[parent] if parent >= 0 else 0)
        node: dict[str, Any] = {"name": name, "translation": offset.astype(np.float32).tolist()}
        if children := [root + child for child, above in enumerate(parents) if above == joint]:
            node["children"] = children
        glb.nodes.append(node)
    glb.roots.append(len(glb.nodes))
    glb.nodes.append({"name": person.name, "children": [root]})
    return root


def _add_mesh(glb: _Glb, person: BodyMotion, correctives: Correctives) -> None:
    vertices, faces = person.rest_vertices.numpy(), person.model.faces.cpu().numpy()
    attributes = {
        "POSITION": glb.accessor(vertices.astype(np.float32), _VERTEX_DATA, bounds=True),
        "NORMAL": glb.accessor(_normals(vertices, faces), _VERTEX_DATA),
    }
    for number, (joints, weights) in enumerate(_influences(person.model.lbs_weights)):
        attributes[f"JOINTS_{number}"] = glb.accessor(joints, _VERTEX_DATA)
        attributes[f"WEIGHTS_{number}"] = glb.accessor(weights, _VERTEX_DATA)
    primitive: dict[str, Any] = {
        "attributes": attributes,
        "indices": glb.accessor(faces.flatten().astype(np.uint32), _INDEX_DATA),
        "material": 0,
    }
    mesh: dict[str, Any] = {"name": f"{person.name}_body", "primitives": [primitive]}
    mesh["extras"] = {"humandiff_body": person.model.name, "humandiff_max_error_m": correctives.max_error}
    if len(correctives.targets):
        targets = correctives.targets.numpy().astype(np.float32)
        primitive["targets"] = [{"POSITION": glb.accessor(target, _VERTEX_DATA, bounds=True)} for target in targets]
        mesh["weights"] = [0.0] * len(targets)
        mesh["extras"]["targetNames"] = [f"corrective_{number:03d}" for number in range(len(targets))]
    glb.meshes.append(mesh)


def _influences(
    lbs_weights: Float[Tensor, "vertices joints"],
) -> list[tuple[UInt8[np.ndarray, "vertices 4"], Float[np.ndarray, "vertices 4"]]]:
    """Joints and weights of each vertex, strongest first, in as many sets of four as the body needs."""
    weights = lbs_weights.detach().cpu().double().numpy()
    weights = weights / weights.sum(axis=1, keepdims=True)
    num_sets = -(-int((weights > 0).sum(axis=1).max()) // _INFLUENCES)
    order = np.argsort(-weights, axis=1, kind="stable")[:, : num_sets * _INFLUENCES]
    strongest = np.take_along_axis(weights, order, axis=1).astype(np.float32)
    joints = np.where(strongest > 0, order, 0).astype(np.uint8)
    return [
        (joints[:, i : i + _INFLUENCES], strongest[:, i : i + _INFLUENCES])
        for i in range(0, num_sets * _INFLUENCES, _INFLUENCES)
    ]


def _normals(vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]) -> np.ndarray:
    """Smooth normals; a vertex of no face gets one that points up, since the format knows no missing ones."""
    import trimesh  # when needed: every command line would wait for it

    normals = np.array(trimesh.Trimesh(vertices, faces, process=False).vertex_normals)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(lengths > 0, normals / np.maximum(lengths, 1e-12), (0.0, 1.0, 0.0)).astype(np.float32)


def _quaternions(rotmat: Float[Tensor, "frames joints 3 3"]) -> Float[np.ndarray, "joints frames 4"]:
    """Quaternions, real part last, each of the sign that is nearer to the frame before, as interpolation wants it."""
    quaternions = rotmat_to_quat_wxyz(rotmat).numpy()[..., [1, 2, 3, 0]].swapaxes(0, 1)
    turned = (quaternions[:, 1:] * quaternions[:, :-1]).sum(axis=-1) < 0
    signs = np.where(np.cumsum(turned, axis=1) % 2 == 1, -1.0, 1.0)
    continuous = np.concatenate((quaternions[:, :1], quaternions[:, 1:] * signs[..., None]), axis=1)
    return continuous.astype(np.float32)
