"""Pictures of poses, drawn without a display."""

from posecore.render.panels import curve_plot, figure_png, hypothesis_panel, read_photo
from posecore.render.skeleton import draw_skeleton_2d, draw_skeleton_3d, draw_skeleton_cloud, side_view

__all__ = [
    "curve_plot",
    "draw_skeleton_2d",
    "draw_skeleton_3d",
    "draw_skeleton_cloud",
    "figure_png",
    "hypothesis_panel",
    "read_photo",
    "side_view",
]
