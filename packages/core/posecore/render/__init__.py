"""Pictures of poses, drawn without a display."""

from posecore.render.hypotheses import blend_meshes, hypotheses_mesh_panel
from posecore.render.mesh import before_after_panel, mesh_side_view, overlay, render_mesh, vertex_normals
from posecore.render.panels import curve_plot, figure_png, hypothesis_panel, read_photo
from posecore.render.rasterizer import Fragments, rasterize
from posecore.render.skeleton import draw_skeleton_2d, draw_skeleton_3d, draw_skeleton_cloud, side_view

__all__ = [
    "Fragments",
    "before_after_panel",
    "blend_meshes",
    "curve_plot",
    "draw_skeleton_2d",
    "draw_skeleton_3d",
    "draw_skeleton_cloud",
    "figure_png",
    "hypotheses_mesh_panel",
    "hypothesis_panel",
    "mesh_side_view",
    "overlay",
    "rasterize",
    "read_photo",
    "render_mesh",
    "side_view",
    "vertex_normals",
]
