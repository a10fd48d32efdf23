"""Bodies as mesh files: OBJ, PLY and glTF.

Every file has y up and z towards the camera, as programs that show such files have it: the camera frame (y down, z
forward) turned by half a turn about x.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.export.files import write_bytes, write_text

MESH_FRAME = "x right, y up, z towards the camera, which is at the origin; metres"


def write_mesh(path: Path | str, vertices_cam: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> None:
    """Writes a mesh file of the kind that the name's end says: ``.obj``, ``.ply`` or ``.glb``.

    Args:
        path: The file.
        vertices_cam: Metres, camera frame (y down, z forward).
        faces: Triangles, counted from 0.

    Raises:
        ValueError: If the name ends otherwise.
        OSError: If the file cannot be written.
    """
    writers = {".obj": write_obj, ".ply": write_ply, ".glb": write_glb}
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        raise ValueError(f"path: '{path}' ends in {suffix!r}; valid are {', '.join(writers)}")
    writers[suffix](path, vertices_cam, faces)


def write_obj(path: Path | str, vertices_cam: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> None:
    """Writes a Wavefront OBJ file, with five decimals of a metre.

    Args:
        path: The file.
        vertices_cam: Metres, camera frame (y down, z forward).
        faces: Triangles, counted from 0.

    Raises:
        OSError: If the file cannot be written.
    """
    lines = [f"# {MESH_FRAME}"]
    lines += [f"v {x:.5f} {y:.5f} {z:.5f}" for x, y, z in _upright(vertices_cam).tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces.cpu() + 1).tolist()]
    write_text(path, "\n".join(lines) + "\n")


def write_ply(path: Path | str, vertices_cam: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> None:
    """Writes a binary PLY file, little-endian, float32.

    Args:
        path: The file.
        vertices_cam: Metres, camera frame (y down, z forward).
        faces: Triangles, counted from 0.

    Raises:
        OSError: If the file cannot be written.
    """
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment {MESH_FRAME}",
        f"element vertex {len(vertices_cam)}",
        *(f"property float {axis}" for axis in "xyz"),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    triangles = np.empty(len(faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    triangles["count"], triangles["corners"] = 3, faces.cpu().numpy()
    content = ("\n".join(header) + "\n").encode("ascii")
    write_bytes(path, content + _upright(vertices_cam).numpy().astype("<f4").tobytes() + triangles.tobytes())


def write_glb(path: Path | str, vertices_cam: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> None:
    """Writes a binary glTF 2.0 file: one mesh that does not move, float32, with smooth normals.

    Args:
        path: The file.
        vertices_cam: Metres, camera frame (y down, z forward).
        faces: Triangles, counted from 0.

    Raises:
        OSError: If the file cannot be written.
    """
    import trimesh  # when needed: every command line would wait for it

    mesh = trimesh.Trimesh(_upright(vertices_cam).numpy(), faces.cpu().numpy(), process=False)
    content = mesh.export(file_type="glb", include_normals=True)
    assert isinstance(content, bytes)  # trimesh's type is that of all its formats
    write_bytes(path, content)


def _upright(vertices_cam: Float[Tensor, "vertices 3"]) -> Float[Tensor, "vertices 3"]:
    """The vertices in the files' frame, float64, on the CPU."""
    return vertices_cam.detach().cpu().double() * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
