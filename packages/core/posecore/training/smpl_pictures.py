"""Pictures of predicted SMPL bodies on their photographs: one overlay for each, and a panel of the first."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
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
    photos = [str(photo) if photo is not None else f"{frame} {view}" for photo, frame, view in
              zip(data.photos, made.frames, made.views, strict=True)]  # fmt: skip
    groups = {photo: [row for row, other in enumerate(photos) if other == photo] for photo in dict.fromkeys(photos)}
    for number, rows in enumerate(tqdm(groups.values(), desc="pictures", leave=False)):
        path = data.photos[rows[0]]
        if number and (path is None or not overlays):
            continue
        picture = _blank(made, rows[0]) if path is None else read_photo(path)
        if path is not None and overlays:
            bodies = _vertices(layer, made.take(rows))
            made_picture = overlay(picture, bodies, model.faces, made.K[rows[0]])
            write_bytes(folder.file(f"overlays/{Path(path).stem}.png"), image_png(made_picture))
        if not number:
            panel = _panel(picture, data, layer, made, rows[:_PANEL_ROWS])
            write_bytes(folder.file("panel.png"), figure_png(panel))


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
    shown, faces, K = torch.tensor(rows), layer.model.faces, made.K[rows[0]]
    keypoints, confidence, joint_set = (
        data.people.keypoints[shown],
        data.people.confidence[shown],
        data.people.joint_set,
    )
    labels = [", ".join((f"{made.ids[row]} frame {made.frames[row]}", *_pixels(made, row))) for row in rows]
    camera = f"Camera: {made.camera_statement}"
    if made.start_body_pose is not None:
        taken = made.take(rows)
        start: Tensor = layer(
            taken.start_betas, taken.start_body_pose, taken.start_global_orient, taken.start_transl
        ).vertices
        bodies = _vertices(layer, taken)
        return before_after_panel(
            picture, start, bodies, faces, K, keypoints, confidence, joint_set, made.method, labels, camera
        )
    bodies = hypothesis_vertices(layer, made, rows)
    count = bodies.shape[1]
    seen = bool((confidence > 0).any())
    return hypotheses_mesh_panel(
        picture,
        bodies,
        torch.zeros(len(rows), dtype=torch.int64) if made.best is None else made.best[shown].cpu(),
        faces,
        K,
        keypoints if seen else None,
        confidence if seen else None,
        joint_set,
        data.samples["box"][shown] if "box" in data.samples else None,
        f"{made.method}, {count} hypotheses" if count > 1 else made.method,
        labels,
        f"Pick: {made.pick}\n{camera}" if made.pick and count > 1 else camera,
    )


def _vertices(layer: SMPLLayer, made: SMPLPredictions) -> Float[Tensor, "people vertices 3"]:
    vertices: Tensor = layer(made.betas, made.body_pose, made.global_orient, made.transl).vertices
    return vertices


def _blank(made: SMPLPredictions, row: int) -> np.ndarray:
    """A white picture of the size the camera sees."""
    width, height = made.image_size[row].round().int().tolist()
    return np.full((height, width, 3), 255, dtype=np.uint8)


def _pixels(made: SMPLPredictions, row: int) -> list[str]:
    """The error in words; none where it is unknown, and no fit is shown."""
    error = made.reprojection_error_px[row]
    if made.start_reprojection_error_px is not None:
        return [f"{made.start_reprojection_error_px[row]:.1f} px -> {error:.1f} px"]
    return [f"{error:.1f} px"] if bool(error.isfinite()) else []
