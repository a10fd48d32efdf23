from pathlib import Path

import numpy as np
import torch
import trimesh

from posecore.export.meshes import write_obj


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
