"""Bodies as mesh files."""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.export.files import write_text

MESH_FRAME = "x right, y up, z towards the camera, which is at the origin; metres"


def write_obj(path: Path | str, vertices_cam: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> None:
    """Writes a Wavefront OBJ file. Its y points up, as programs that show such files have it.

    Args:
        path: The file.
        vertices_cam: Metres, camera frame (y down, z forward).
        faces: Triangles, counted from 0.

    Raises:
        OSError: If the file cannot be written.
    """
    turned = vertices_cam.detach().cpu().double() * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    lines = [f"# {MESH_FRAME}"]
    lines += [f"v {x:.5f} {y:.5f} {z:.5f}" for x, y, z in turned.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces.cpu() + 1).tolist()]
    write_text(path, "\n".join(lines) + "\n")
