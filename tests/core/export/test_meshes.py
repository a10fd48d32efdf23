import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from posecore.body.files import load_body_model
from posecore.export.meshes import MESH_FRAME, write_glb, write_mesh, write_obj, write_ply


@pytest.fixture(scope="module")
def body() -> tuple[Tensor, Tensor]:
    """Vertices, in the camera frame, and faces."""
    model = load_body_model()
    return model.v_template * torch.tensor([1.0, -1.0, -1.0]) + torch.tensor([0.5, 1.0, 5.0]), model.faces


def test_trimesh_reads_the_body_upright(tmp_path: Path) -> None:
    solid = trimesh.creation.icosphere(subdivisions=1)
    vertices = torch.tensor(solid.vertices).float() + torch.tensor([1.0, 2.0, 3.0])
    write_obj(tmp_path / "body.obj", vertices, torch.tensor(solid.faces))
    read = trimesh.load(tmp_path / "body.obj", process=False, force="mesh")
    assert isinstance(read, trimesh.Trimesh)
    expected = vertices.numpy() * [1, -1, -1]
    np.testing.assert_allclose(read.vertices, expected, atol=1e-5)
    assert np.array_equal(read.faces, solid.faces)
    # A half turn keeps the inside inside.
    assert read.volume > 0
    first = (tmp_path / "body.obj").read_text().splitlines()[0]
    assert first == "# x right, y up, z towards the camera, which is at the origin; metres"


@pytest.mark.parametrize("suffix", [".ply", ".glb", ".GLB"])
def test_trimesh_reads_what_was_written(tmp_path: Path, body: tuple[Tensor, Tensor], suffix: str) -> None:
    vertices, faces = body
    write_mesh(tmp_path / f"body{suffix}", vertices.double().requires_grad_(), faces.int())
    read = trimesh.load(tmp_path / f"body{suffix}", process=False, force="mesh")
    assert isinstance(read, trimesh.Trimesh)
    np.testing.assert_allclose(read.vertices, vertices.numpy() * [1, -1, -1], rtol=0, atol=1e-6)
    assert np.array_equal(read.faces, faces.numpy())
    assert read.volume > 0
    assert [entry.name for entry in tmp_path.iterdir()] == [f"body{suffix}"]


def test_the_header_of_a_ply_file(tmp_path: Path, body: tuple[Tensor, Tensor]) -> None:
    vertices, faces = body
    write_ply(tmp_path / "body.ply", vertices, faces)
    content = (tmp_path / "body.ply").read_bytes()
    header, data = content.split(b"end_header\n", 1)
    lines = header.decode("ascii").splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", f"comment {MESH_FRAME}"]
    assert len(data) == 12 * len(vertices) + 13 * len(faces)


def test_a_glb_file_has_one_mesh_with_smooth_normals(tmp_path: Path, body: tuple[Tensor, Tensor]) -> None:
    vertices, faces = body
    write_glb(tmp_path / "body.glb", vertices, faces)
    content = (tmp_path / "body.glb").read_bytes()
    assert struct.unpack("<4sII", content[:12]) == (b"glTF", 2, len(content))
    length = struct.unpack("<I", content[12:16])[0]
    scene = json.loads(content[20 : 20 + length])
    assert len(scene["meshes"]) == len(scene["nodes"]) == 1
    assert "matrix" not in scene["nodes"][0]
    assert "animations" not in scene
    (primitive,) = scene["meshes"][0]["primitives"]
    accessor = scene["accessors"][primitive["attributes"]["NORMAL"]]
    start = 28 + length + scene["bufferViews"][accessor["bufferView"]]["byteOffset"]
    normals = np.frombuffer(content, "<f4", 3 * len(vertices), start).reshape(-1, 3)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    # The mean of the faces around a vertex looks the same way as the faces.
    corners = (vertices.double() * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))[faces]
    face_normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sums = torch.zeros(len(vertices), 3, dtype=torch.float64)
    sums.index_add_(0, faces.flatten(), face_normals.repeat_interleave(3, dim=0))
    cosine = torch.nn.functional.cosine_similarity(sums, torch.tensor(normals).double())
    assert cosine.median() > 0.99


def test_write_mesh_writes_obj_as_well(tmp_path: Path, body: tuple[Tensor, Tensor]) -> None:
    write_mesh(tmp_path / "a.obj", *body)
    write_obj(tmp_path / "b.obj", *body)
    assert (tmp_path / "a.obj").read_bytes() == (tmp_path / "b.obj").read_bytes()


@pytest.mark.parametrize("name", ["body.stl", "body", "body.obj.gz"])
def test_another_name_is_refused(tmp_path: Path, body: tuple[Tensor, Tensor], name: str) -> None:
    with pytest.raises(ValueError, match=rf"path: '.*{name}' ends in '.*'; valid are \.obj, \.ply, \.glb"):
        write_mesh(tmp_path / name, *body)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".glb"])
def test_a_missing_folder_is_named(tmp_path: Path, body: tuple[Tensor, Tensor], suffix: str) -> None:
    with pytest.raises(OSError, match=r"missing/body.*' cannot be written"):
        write_mesh(tmp_path / "missing" / f"body{suffix}", *body)
