import inspect
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pygltflib
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from posecore.body.files import BodyModel, load_body_model
from posecore.body.skeletons import SMPL_24
from posecore.body.smpl import SMPLLayer
from posecore.export import BodyMotion, write_animated_glb
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.testing import swaying_body, with_pose_blend_shapes

VALIDATOR = Path(__file__).parents[2] / "js"
COMPONENTS = {5121: np.uint8, 5125: np.uint32, 5126: np.float32}
SIZES = {"SCALAR": (), "VEC3": (3,), "VEC4": (4,), "MAT4": (4, 4)}


class Reader:
    """A file as pygltflib reads it, posed by the rules of the specification and nothing of ours."""

    def __init__(self, path: Path) -> None:
        self.gltf = pygltflib.GLTF2().load(str(path))
        self.blob = self.gltf.binary_blob()

    def array(self, number: int) -> np.ndarray:
        accessor = self.gltf.accessors[number]
        view = self.gltf.bufferViews[accessor.bufferView]
        shape = (accessor.count, *SIZES[accessor.type])
        start = (view.byteOffset or 0) + (accessor.byteOffset or 0)
        kind = COMPONENTS[accessor.componentType]
        return np.frombuffer(self.blob, kind, int(np.prod(shape)), start).reshape(shape).astype(float)

    def state(self, seconds: float) -> dict[tuple[int, str], np.ndarray]:
        """What the only clip sets, by node and path, at the time of a key or held beyond the first and last."""
        (clip,) = self.gltf.animations
        state = {}
        for channel in clip.channels:
            sampler = clip.samplers[channel.sampler]
            times = self.array(sampler.input)
            key = int(np.abs(times - seconds).argmin())
            assert np.isclose(times[key], seconds, atol=1e-5) or not times[0] <= seconds <= times[-1]
            values = self.array(sampler.output).reshape(len(times), -1)
            state[channel.target.node, channel.target.path] = values[key]
        return state

    def node(self, name: str) -> Any:
        (node,) = [node for node in self.gltf.nodes if node.name == name]
        return node

    def vertices(self, name: str, seconds: float) -> np.ndarray:
        state = self.state(seconds)
        world: dict[int, np.ndarray] = {}

        def visit(number: int, above: np.ndarray) -> None:
            node = self.gltf.nodes[number]
            local = np.eye(4)
            quaternion = state.get((number, "rotation"), node.rotation)
            if quaternion is not None:
                local[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
            translation = state.get((number, "translation"), node.translation)
            if translation is not None:
                local[:3, 3] = translation
            world[number] = above @ local
            for child in node.children or []:
                visit(child, world[number])

        for root in self.gltf.scenes[self.gltf.scene].nodes:
            visit(root, np.eye(4))
        node = self.node(f"{name}_mesh")
        skin = self.gltf.skins[node.skin]
        # Matrices lie column by column.
        inverse_bind = self.array(skin.inverseBindMatrices).swapaxes(1, 2)
        bones = np.stack([world[joint] for joint in skin.joints]) @ inverse_bind
        (primitive,) = self.gltf.meshes[node.mesh].primitives
        points = self.array(primitive.attributes.POSITION)
        weights = state.get((self.gltf.nodes.index(node), "weights"), [])
        for weight, target in zip(weights, primitive.targets or [], strict=True):
            points = points + weight * self.array(target["POSITION"])
        homogeneous = np.concatenate((points, np.ones((len(points), 1))), axis=1)
        posed = np.zeros((len(points), 3))
        for number in range(8):
            joints = getattr(primitive.attributes, f"JOINTS_{number}", None)
            if joints is None:
                break
            chosen = bones[self.array(joints).astype(int)]
            blend = self.array(getattr(primitive.attributes, f"WEIGHTS_{number}"))
            posed += np.einsum("vj,vjab,vb->va", blend, chosen, homogeneous)[:, :3]
        return posed


def expected(motion: BodyMotion) -> np.ndarray:
    """The body of SMPLLayer, upright, each frame with the mean shape but its own pelvis."""
    layer = SMPLLayer(motion.model)
    pelvis = (layer.rest_joints(motion.betas) - layer.rest_joints(motion.betas.mean(0)))[:, 0]
    transl = motion.transl + pelvis
    made = layer(motion.betas.mean(0), motion.body_pose, motion.global_orient, transl).vertices
    return (made * torch.tensor([1.0, -1.0, -1.0])).numpy().astype(float)


def assert_same_bodies(path: Path, motion: BodyMotion, tolerance: float, start: float = 0.0) -> float:
    reader, truth = Reader(path), expected(motion)
    error = 0.0
    for frame, vertices in enumerate(truth):
        made = reader.vertices(motion.name, start + frame / motion.fps)
        error = max(error, float(np.linalg.norm(made - vertices, axis=1).max()))
    assert error <= tolerance
    return error


@pytest.fixture(scope="module")
def model() -> BodyModel:
    return load_body_model()


@pytest.fixture(scope="module")
def rich(model: BodyModel) -> BodyModel:
    return with_pose_blend_shapes(model)


def test_skinned_vertices_are_the_bodys(tmp_path: Path, model: BodyModel) -> None:
    motion = swaying_body(model)
    write_animated_glb(tmp_path / "a.glb", [motion])
    assert_same_bodies(tmp_path / "a.glb", motion, 1e-5)
    assert not Reader(tmp_path / "a.glb").gltf.meshes[0].primitives[0].targets
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.glb"]


def test_morph_targets_bring_the_pose_blend_shapes(tmp_path: Path, rich: BodyModel) -> None:
    motion = swaying_body(rich)
    write_animated_glb(tmp_path / "a.glb", [motion])
    assert_same_bodies(tmp_path / "a.glb", motion, 1e-4)
    mesh = Reader(tmp_path / "a.glb").gltf.meshes[0]
    assert len(mesh.weights) == len(mesh.primitives[0].targets) == len(mesh.extras["targetNames"]) > 1
    assert not any(mesh.weights)
    assert mesh.extras["humandiff_max_error_m"] <= 5e-5


def test_without_morph_targets_the_file_says_its_error(tmp_path: Path, rich: BodyModel) -> None:
    motion = swaying_body(rich)
    write_animated_glb(tmp_path / "a.glb", [motion], correctives="none")
    mesh = Reader(tmp_path / "a.glb").gltf.meshes[0]
    stated = mesh.extras["humandiff_max_error_m"]
    error = assert_same_bodies(tmp_path / "a.glb", motion, stated + 1e-5)
    assert error > 0.5 * stated > 0.005
    assert mesh.extras["humandiff_body"] == "with_blend_shapes"
    assert not mesh.primitives[0].targets


def test_more_than_four_joints_a_vertex_are_kept(tmp_path: Path, model: BodyModel) -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(model.lbs_weights.shape, generator=generator) * (torch.arange(24) % 4 == 1)
    weights = 0.7 * model.lbs_weights + 0.3 * spread / spread.sum(dim=1, keepdim=True)
    motion = swaying_body(replace(model, lbs_weights=weights), frames=3)
    write_animated_glb(tmp_path / "a.glb", [motion])
    assert_same_bodies(tmp_path / "a.glb", motion, 1e-5)
    reader = Reader(tmp_path / "a.glb")
    attributes = reader.gltf.meshes[0].primitives[0].attributes
    first, second = reader.array(attributes.WEIGHTS_0), reader.array(attributes.WEIGHTS_1)
    assert (first.min(axis=1) >= second.max(axis=1)).all()
    assert (np.count_nonzero(second, axis=1) > 0).any()


def test_the_skeleton_is_smpls(tmp_path: Path, model: BodyModel) -> None:
    motion = swaying_body(model)
    write_animated_glb(tmp_path / "a.glb", [motion])
    gltf = Reader(tmp_path / "a.glb").gltf
    (skin,) = gltf.skins
    assert [gltf.nodes[joint].name for joint in skin.joints] == list(SMPL_24.joint_names)
    for joint, parent in enumerate(SMPL_24.parents):
        if parent >= 0:
            assert skin.joints[joint] in gltf.nodes[skin.joints[parent]].children
    assert gltf.nodes[skin.skeleton].name == "pelvis"
    assert gltf.asset.extras["frame"].startswith("x right, y up")
    (clip,) = gltf.animations
    assert len(clip.channels) == 25
    times = gltf.accessors[clip.samplers[0].input]
    np.testing.assert_allclose([times.min, times.max], [[0], [7 / 25]], atol=1e-6)


def test_quaternions_go_the_short_way(tmp_path: Path, model: BodyModel) -> None:
    frames = 61
    turns = torch.linspace(0, 4 * torch.pi, frames)[:, None] * torch.tensor([0.0, 1.0, 0.0])
    still = axis_angle_to_rotmat(torch.zeros(frames, 23, 3))
    motion = BodyMotion(model, axis_angle_to_rotmat(turns), still, torch.zeros(1, 10), torch.zeros(frames, 3), fps=30.0)
    write_animated_glb(tmp_path / "a.glb", [motion])
    reader = Reader(tmp_path / "a.glb")
    root = reader.gltf.skins[0].joints[0]
    (clip,) = reader.gltf.animations
    (sampler,) = [c.sampler for c in clip.channels if (c.target.node, c.target.path) == (root, "rotation")]
    quaternions = reader.array(clip.samplers[sampler].output)
    assert ((quaternions[1:] * quaternions[:-1]).sum(axis=1) > 0.9).all()
    np.testing.assert_allclose(quaternions[30], -quaternions[0], atol=1e-6)  # one whole turn


def test_several_people_share_a_clip(tmp_path: Path, model: BodyModel, rich: BodyModel) -> None:
    anna = swaying_body(model, frames=5, first_frame=10)
    bert = replace(swaying_body(rich, frames=3, name="bert", first_frame=12, seed=1), fps=25.0)
    write_animated_glb(tmp_path / "a.glb", [anna, bert])
    assert_same_bodies(tmp_path / "a.glb", anna, 1e-5)
    assert_same_bodies(tmp_path / "a.glb", bert, 1e-4, start=2 / 25)
    reader = Reader(tmp_path / "a.glb")
    assert len(reader.gltf.animations) == 1
    for person in (anna, bert):
        (root,) = reader.node(person.name).children
        assert root == reader.gltf.skins[reader.node(f"{person.name}_mesh").skin].joints[0]


def test_trimesh_reads_the_shaped_rest_pose(tmp_path: Path, model: BodyModel) -> None:
    motion = swaying_body(model)
    write_animated_glb(tmp_path / "a.glb", [motion])
    scene = trimesh.load(tmp_path / "a.glb", process=False)
    (mesh,) = scene.geometry.values()
    rest = model.v_template + model.shapedirs @ motion.betas.mean(dim=0)
    np.testing.assert_allclose(mesh.vertices, rest.numpy(), rtol=0, atol=1e-5)
    assert np.array_equal(mesh.faces, model.faces.numpy())
    assert mesh.volume > 0
    corners = mesh.vertices[mesh.faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert np.mean((mesh.vertex_normals[mesh.faces[:, 0]] * face_normals).sum(axis=1) > 0) > 0.99


def test_a_vertex_without_faces_has_a_normal(tmp_path: Path, model: BodyModel) -> None:
    loose = replace(model, faces=model.faces[(model.faces != 0).all(dim=1)])
    write_animated_glb(tmp_path / "a.glb", [swaying_body(loose, frames=1)])
    reader = Reader(tmp_path / "a.glb")
    normals = reader.array(reader.gltf.meshes[0].primitives[0].attributes.NORMAL)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)


def test_what_cannot_be_written_is_refused(tmp_path: Path, model: BodyModel) -> None:
    with pytest.raises(ValueError, match="people: is empty"):
        write_animated_glb(tmp_path / "a.glb", [])
    with pytest.raises(ValueError, match="correctives: is 'all'; valid are 'morph', 'none'"):
        inspect.unwrap(write_animated_glb)(tmp_path / "a.glb", [swaying_body(model, 1)], "all")
    with pytest.raises(OSError, match="cannot be written"):
        write_animated_glb(tmp_path / "missing" / "a.glb", [swaying_body(model, 1)])


@pytest.mark.skipif(
    shutil.which("node") is None or not (VALIDATOR / "node_modules/gltf-validator").is_dir(),
    reason="needs node and the Khronos validator: npm ci --prefix tests/js",
)
@pytest.mark.parametrize("case", ["open", "morph", "several", "one_frame", "many_joints"])
def test_the_khronos_validator_has_no_complaint(tmp_path: Path, model: BodyModel, rich: BodyModel, case: str) -> None:
    even = replace(model, lbs_weights=torch.full_like(model.lbs_weights, 1 / 24))
    people = {
        "open": [swaying_body(model)],
        "morph": [swaying_body(rich)],
        "several": [swaying_body(model, name="A B"), swaying_body(rich, name="Ä", first_frame=5)],
        "one_frame": [swaying_body(rich, frames=1)],
        "many_joints": [swaying_body(even, frames=2)],
    }[case]
    write_animated_glb(tmp_path / "a.glb", people)
    program = (
        "require('gltf-validator').validateBytes(new Uint8Array(require('fs').readFileSync(process.argv[1])))"
        ".then(report => console.log(JSON.stringify(report)))"
    )
    done = subprocess.run(
        ["node", "-e", program, str(tmp_path / "a.glb")], cwd=VALIDATOR, capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout)
    assert report["info"]["animationCount"] == 1
    assert report["info"]["hasSkins"]
    assert report["issues"]["messages"] == []
