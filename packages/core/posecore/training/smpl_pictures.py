"""Pictures of predicted bodies on their photographs: one overlay for each, and a panel of the first."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from posecore.body.files import BodyModel
from posecore.body.smpl import SMPLLayer
from posecore.data.fit_input import FitDataset
from posecore.export.files import OutputFolder, write_bytes
from posecore.export.smpl_predictions import SMPLPredictions
from posecore.render.hypotheses import hypotheses_mesh_panel
from posecore.render.mesh import before_after_panel, overlay
from posecore.render.panels import figure_png, image_png, read_photo

_PANEL_ROWS = 4


def write_pictures(
    folder: OutputFolder, data: FitDataset, model: BodyModel, made: SMPLPredictions, overlays: bool
) -> None:
    """``panel.png`` of the first picture's people, and every photograph with its people.

    Args:
        folder: Where to.
        data: The people and their photographs.
        model: The body.
        made: Its parameters; of hypotheses, overlays show the pick.
        overlays: Whether ``overlays/`` are written.
    """
    layer = SMPLLayer(model, joints=())
    write_mesh_pictures(
        folder,
        data,
        model.faces,
        lambda rows: _vertices(layer, made.take(rows)),
        lambda picture, rows: _panel(picture, data, layer, made, rows),
        overlays,
    )


def write_mesh_pictures(
    folder: OutputFolder,
    data: FitDataset,
    faces: Int[Tensor, "faces 3"],
    bodies: Callable[[Sequence[int]], Float[Tensor, "people vertices 3"]],
    panel: Callable[[np.ndarray, Sequence[int]], Figure],
    overlays: bool,
) -> None:
    """``panel.png`` of the first picture's people, and every photograph with its people, whatever meshes they are.

    Args:
        folder: Where to.
        data: The people and their photographs.
        faces: Triangles of every mesh.
        bodies: The meshes of some rows, metres, camera frame.
        panel: Draws the first picture with the first of its people; where there is no photograph, it is white.
        overlays: Whether ``overlays/`` are written.
    """
    views = data.samples["view"].tolist()
    photos = [str(photo) if photo is not None else f"{frame} {view}" for photo, frame, view in
              zip(data.photos, data.people.frames, views, strict=True)]  # fmt: skip
    groups = {photo: [row for row, other in enumerate(photos) if other == photo] for photo in dict.fromkeys(photos)}
    for number, rows in enumerate(tqdm(groups.values(), desc="pictures", leave=False)):
        path = data.photos[rows[0]]
        if number and (path is None or not overlays):
            continue
        picture = _blank(data, rows[0]) if path is None else read_photo(path)
        if path is not None and overlays:
            made_picture = overlay(picture, bodies(rows), faces, data.samples["K"][rows[0]])
            write_bytes(folder.file(f"overlays/{Path(path).stem}.png"), image_png(made_picture))
        if not number:
            write_bytes(folder.file("panel.png"), figure_png(panel(picture, rows[:_PANEL_ROWS])))


def mesh_panel(
    picture: np.ndarray,
    data: FitDataset,
    rows: Sequence[int],
    bodies: Float[Tensor, "people hypotheses vertices 3"],
    best: Int[Tensor, " people"],
    faces: Int[Tensor, "faces 3"],
    title: str,
    labels: Sequence[str],
    subtitle: str,
    pick_name: str = "Pick",
) -> Figure:
    """Several bodies of each of some people of one picture, with their keypoints and boxes as far as there are any.

    Args:
        picture: "height width 3" uint8.
        data: The people.
        rows: Those shown.
        bodies: Metres, camera frame.
        best: Number of each person's pick.
        faces: Triangles of every body.
        title: Heading.
        labels: One line per person (`row_labels`).
        subtitle: Smaller text below the title.
        pick_name: What ``best`` is called.
    """
    shown = torch.tensor(rows)
    confidence = data.people.confidence[shown]
    seen = bool((confidence > 0).any())
    return hypotheses_mesh_panel(
        picture,
        bodies,
        best,
        faces,
        data.samples["K"][rows[0]],
        data.people.keypoints[shown] if seen else None,
        confidence if seen else None,
        data.people.joint_set,
        data.samples["box"][shown] if "box" in data.samples else None,
        title,
        labels,
        subtitle,
        pick_name=pick_name,
    )


def row_labels(
    data: FitDataset,
    rows: Sequence[int],
    error_px: Float[Tensor, " people"],
    start_error_px: Float[Tensor, " people"] | None = None,
) -> list[str]:
    """Who is in some rows, and how far from the keypoints; without the error where it is unknown and no fit is shown.

    Args:
        data: The people.
        rows: Those shown.
        error_px: Of all rows; NaN where unknown.
        start_error_px: The same of what a fit started from.
    """
    labels = []
    for row in rows:
        who = f"{data.people.ids[row]} frame {data.people.frames[row]}"
        if start_error_px is not None:
            who += f", {start_error_px[row]:.1f} px -> {error_px[row]:.1f} px"
        elif bool(error_px[row].isfinite()):
            who += f", {error_px[row]:.1f} px"
        labels.append(who)
    return labels


def hypothesis_vertices(
    layer: SMPLLayer, made: SMPLPredictions, rows: Sequence[int]
) -> Float[Tensor, "people hypotheses vertices 3"]:
    """Every hypothesis's body, metres, camera frame; without hypotheses, one body per person."""
    taken = made.take(rows)
    if taken.hypotheses_body_pose is None or taken.hypotheses_global_orient is None:
        return _vertices(layer, taken)[:, None]
    shape = taken.hypotheses_body_pose.shape[:2]
    betas, transl = (values[:, None].expand(*shape, -1) for values in (taken.betas, taken.transl))
    vertices: Tensor = layer(betas, taken.hypotheses_body_pose, taken.hypotheses_global_orient, transl).vertices
    return vertices


def _panel(
    picture: np.ndarray, data: FitDataset, layer: SMPLLayer, made: SMPLPredictions, rows: Sequence[int]
) -> Figure:
    """Before and after of a fit; else the hypotheses."""
    labels = row_labels(data, rows, made.reprojection_error_px, made.start_reprojection_error_px)
    camera = f"Camera: {made.camera_statement}"
    faces, shown, taken = layer.model.faces, torch.tensor(rows), made.take(rows)
    if made.start_body_pose is not None:
        start: Tensor = layer(
            taken.start_betas, taken.start_body_pose, taken.start_global_orient, taken.start_transl
        ).vertices
        people = data.people
        return before_after_panel(
            picture, start, _vertices(layer, taken), faces, made.K[rows[0]], people.keypoints[shown],
            people.confidence[shown], people.joint_set, made.method, labels, camera,
        )  # fmt: skip
    bodies = hypothesis_vertices(layer, made, rows)
    count = bodies.shape[1]
    best = torch.zeros(len(rows), dtype=torch.int64) if taken.best is None else taken.best.cpu()
    title = f"{made.method}, {count} hypotheses" if count > 1 else made.method
    subtitle = f"Pick: {made.pick}\n{camera}" if made.pick and count > 1 else camera
    return mesh_panel(picture, data, rows, bodies, best, faces, title, labels, subtitle)


def _vertices(layer: SMPLLayer, made: SMPLPredictions) -> Float[Tensor, "people vertices 3"]:
    vertices: Tensor = layer(made.betas, made.body_pose, made.global_orient, made.transl).vertices
    return vertices


def _blank(data: FitDataset, row: int) -> np.ndarray:
    """A white picture of the size the camera sees."""
    width, height = data.samples["image_size"][row].round().int().tolist()
    return np.full((height, width, 3), 255, dtype=np.uint8)
