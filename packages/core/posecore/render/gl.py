"""The samples of :mod:`posecore.render.mesh` by OpenGL on EGL: no display needed, and quick where there is a GPU.

Needs the extra ``gl`` (moderngl) and the system's EGL library; Mesa's llvmpipe serves without a GPU.
"""

import functools
import importlib
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from posecore.render.mesh import AMBIENT, HEAD_LIGHT, SOFT_LIGHT, SOFT_LIGHT_DIRECTION
from posecore.render.rasterizer import NEAR_PLANE

_VERTEX_SHADER = """
#version 330
uniform mat4 camera;
in vec3 point;
in vec3 normal;
in vec3 color;
out vec3 surface_normal;
out vec3 surface_color;
void main() {
    gl_Position = camera * vec4(point, 1.0);
    surface_normal = normal;
    surface_color = color;
}
"""
_FRAGMENT_SHADER = f"""
#version 330
in vec3 surface_normal;
in vec3 surface_color;
out vec4 result;
void main() {{
    vec3 normal = normalize(surface_normal);
    float wrapped = 0.5 + 0.5 * dot(normal, vec3{SOFT_LIGHT_DIRECTION});
    float light = {AMBIENT} + {HEAD_LIGHT} * max(-normal.z, 0.0) + {SOFT_LIGHT} * wrapped * wrapped;
    result = vec4(min(surface_color * light, 1.0), 1.0);
}}
"""


def gl_samples(
    points: Float[Tensor, "vertices 3"],
    normals: Float[Tensor, "vertices 3"],
    colors: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    K: Float[Tensor, "3 3"],
    image_size: tuple[int, int],
) -> tuple[Float[Tensor, "height width 3"], Bool[Tensor, "height width"]]:
    """Shaded colours in [0, 1], black where nothing is, and where something is; one sample per pixel.

    Args:
        points: Metres, camera frame.
        normals: Unit vectors.
        colors: RGB in [0, 1].
        faces: Triangles; those with a vertex nearer than 5 cm are dropped, as by the software.
        K: Intrinsics in pixels.
        image_size: Width and height in pixels.

    Raises:
        ImportError: moderngl is not installed.
        RuntimeError: No EGL context can be made.
    """
    context, program = _context()
    width, height = image_size
    drawn = faces[(points[faces][..., 2] >= NEAR_PLANE).all(dim=-1)]
    if not len(drawn):
        return torch.zeros(height, width, 3), torch.zeros(height, width, dtype=torch.bool)
    depth = points[drawn][..., 2]
    camera = _clip_from_camera(K, image_size, 0.99 * float(depth.min()), 1.01 * float(depth.max()))
    program["camera"].write(camera.T.astype(np.float32).tobytes())  # column by column

    attributes = torch.cat([points, normals, colors], dim=1).float().contiguous()
    resources = [context.buffer(attributes.numpy().tobytes()), context.buffer(drawn.int().numpy().tobytes())]
    mesh = context.vertex_array(program, [(resources[0], "3f 3f 3f", "point", "normal", "color")], resources[1])
    surfaces = [context.renderbuffer((width, height), 4), context.depth_renderbuffer((width, height))]
    target = context.framebuffer(*surfaces)
    try:
        target.use()
        target.clear(0.0, 0.0, 0.0, 0.0)
        context.enable_only(context.DEPTH_TEST)
        mesh.render(context.TRIANGLES)
        pixels = np.frombuffer(target.read(components=4, alignment=1), dtype=np.uint8).reshape(height, width, 4)
    finally:
        for resource in (mesh, target, *surfaces, *resources):
            resource.release()
    samples = torch.from_numpy(pixels.astype(np.float32) / 255)
    return samples[..., :3], samples[..., 3] > 0


@functools.cache
def _context() -> tuple[Any, Any]:
    """One context and shader for the whole process; making them takes half a second."""
    try:
        moderngl = importlib.import_module("moderngl")
    except ImportError as error:
        raise ImportError("the backend 'gl' needs moderngl: pip install 'humandiff[gl]'") from error
    try:
        context = moderngl.create_context(standalone=True, backend="egl")
    except Exception as error:  # the loader raises whatever the system's library makes of it
        raise RuntimeError(
            f"the backend 'gl' found no EGL device ({error}); install libegl1 and a driver (Debian: libgl1-mesa-dri), "
            "or take backend='software'"
        ) from error
    return context, context.program(vertex_shader=_VERTEX_SHADER, fragment_shader=_FRAGMENT_SHADER)


def _clip_from_camera(K: Float[Tensor, "3 3"], image_size: tuple[int, int], near: float, far: float) -> np.ndarray:
    """The matrix to OpenGL's clip space; the picture's top row comes first when the target is read."""
    width, height = image_size
    rows = np.zeros((4, 4))
    rows[:2, :3] = 2 * K[:2].double().numpy() / np.array([[width], [height]])
    rows[:2, 2] -= 1
    rows[2, 2:] = (far + near) / (far - near), -2 * far * near / (far - near)
    rows[3, 2] = 1
    return rows
