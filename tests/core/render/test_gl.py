import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from posecore.render.gl import _context
from posecore.render.mesh import overlay, render_mesh

CAMERA = torch.tensor([[90.0, 2.0, 40.0], [0.0, 95.0, 30.0], [0.0, 0.0, 1.0]])


@pytest.fixture
def context() -> None:
    try:
        _context()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"no OpenGL here: {error}")


def people() -> tuple[Tensor, Tensor]:
    """Three balls: one hides another, one is cut by the picture's edge; a fourth holds the camera."""
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=0.3)
    centers = torch.tensor([[0.0, 0.0, 1.5], [0.2, 0.1, 2.2], [-0.6, -0.3, 1.4], [0.0, 0.35, 0.1]])
    return torch.tensor(mesh.vertices).float() + centers[:, None], torch.tensor(mesh.faces)


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("antialias", [1, 2])
def test_the_picture_is_the_software_s(antialias: int) -> None:
    bodies, faces = people()
    software, gl = (
        render_mesh(bodies, faces, CAMERA, (80, 60), antialias=antialias, backend=backend).astype(int)
        for backend in ("software", "gl")
    )
    assert (software != 255).any(axis=-1).mean() > 0.3
    difference = np.abs(software - gl).max(axis=-1)
    assert (difference > 2).mean() < 0.01  # single samples at edges
    assert np.abs(software - gl).mean() < 0.5


@pytest.mark.usefixtures("context")
def test_pictures_do_not_depend_on_those_before() -> None:
    bodies, faces = people()
    photo = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    first = overlay(photo, bodies[0], faces, CAMERA, backend="gl")
    overlay(photo[:40], bodies[1:], faces, CAMERA, backend="gl")
    assert np.array_equal(overlay(photo, bodies[0], faces, CAMERA, backend="gl"), first)


@pytest.mark.usefixtures("context")
def test_what_lies_at_the_near_plane_only_is_not_drawn() -> None:
    triangle = torch.tensor([[-1.0, 0.0, 0.04], [0.0, -1.0, 2.0], [1.0, 0.0, 2.0]])
    picture = render_mesh(triangle, torch.tensor([[0, 1, 2]]), CAMERA, (80, 60), backend="gl")
    assert (picture == 255).all()


def test_without_moderngl_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moderngl", None)
    _context.cache_clear()
    bodies, faces = people()
    with pytest.raises(ImportError, match=r"pip install 'humandiff\[gl\]'"):
        render_mesh(bodies, faces, CAMERA, (80, 60), backend="gl")


def test_without_a_driver_the_error_says_what_to_install() -> None:
    pytest.importorskip("moderngl", reason="needs moderngl")
    program = "from posecore.render.gl import _context; _context()"
    environment = os.environ | {"__EGL_VENDOR_LIBRARY_FILENAMES": os.devnull}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "RuntimeError: the backend 'gl' found no EGL device" in ended.stderr
