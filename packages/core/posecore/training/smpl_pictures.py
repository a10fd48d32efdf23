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
from posecore.data.predict_dataset import PredictDataset
from posecore.data.predict_pictures import Picture
from posecore.export.files import OutputFolder, write_bytes
from posecore.export.smpl_predictions import SMPLPredictions
from posecore.export.video_file import VideoFile
from posecore.render.hypotheses import hypotheses_mesh_panel
from posecore.render.mesh import before_after_panel, overlay
from posecore.render.panels import figure_png, image_png

_PANEL_ROWS = 4


def write_pictures(
    folder: OutputFolder, data: PredictDataset, model: BodyModel, made: SMPLPredictions, wanted: bool
) -> tuple[list[str], list[str]]:
    """``panel.png`` of the first picture's people, and every photograph or frame with its people.

    Args:
        folder: Where to.
        data: The people and their photographs.
        model: The body.
        made: Its parameters; of hypotheses, overlays show the pick.
        wanted: Whether any picture is written.

    Returns:
        Names of what was written, and notes.
    """
    layer = SMPLLayer(model, joints=())
    return write_mesh_pictures(
        folder,
        data,
        model.faces,
        lambda rows: _vertices(layer, made.take(rows)),
        lambda picture, rows: _panel(picture, data, layer, made, rows),
        wanted,
    )


def write_mesh_pictures(
    folder: OutputFolder,
    data: PredictDataset,
    faces: Int[Tensor, "faces 3"],
    bodies: Callable[[Sequence[int]], Float[Tensor, "people vertices 3"]],
    panel: Callable[[np.ndarray, Sequence[int]], Figure],
    wanted: bool,
) -> tuple[list[str], list[str]]:
    """The same, whatever meshes the people are.

    Args:
        folder: Where to.
        data: The people and their photographs.
        faces: Triangles of every mesh.
        bodies: The meshes of some rows, metres, camera frame.
        panel: Draws the first picture with the first of its people; where there is no photograph, it is white.
        wanted: Whether any picture is written.

    Returns:
        Names of what was written, and notes.
    """

    def drawn(picture: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        return overlay(picture, bodies(rows), faces, data.samples["K"][rows[0]])

    return write_overlays(folder, data, drawn, panel, wanted)


def write_overlays(
    folder: OutputFolder,
    data: PredictDataset,
    drawn: Callable[[np.ndarray, Sequence[int]], np.ndarray],
    panel: Callable[[np.ndarray, Sequence[int]], Figure],
    wanted: bool,
) -> tuple[list[str], list[str]]:
    """``panel.png``, and ``overlays/<photo>.png`` or ``overlay.mp4``, with one picture in memory at a time.

    Args:
        folder: Where to.
        data: The people and their photographs.
        drawn: A picture with the people of some rows on it.
        panel: Draws a picture with some of its people.
        wanted: Whether any picture is written.

    Returns:
        Names of what was written, and notes.
    """
    if not wanted:
        return [], []
    pictures = pictures_of(data)
    first = tuple(pictures[0].rows) if pictures else _first_instant(data)
    still = pictures[0].read() if pictures else _blank(data, first[0])
    write_bytes(folder.file("panel.png"), figure_png(panel(still, first[:_PANEL_ROWS])))
    if not pictures:
        return ["panel.png"], []
    if data.fps is None:
        # Two folders may have pictures of one name; each keeps its own overlay.
        taken: dict[str, int] = {}
        for picture in tqdm(pictures, desc="overlays", leave=False):
            stem = Path(picture.name).stem
            taken[stem] = taken.get(stem, 0) + 1
            name = stem if taken[stem] == 1 else f"{stem}_{taken[stem]}"
            made = drawn(picture.read(), picture.rows)
            write_bytes(folder.file(f"overlays/{name}.png"), image_png(made))
        return ["panel.png", "overlays/"], []
    height, width = still.shape[:2]
    try:
        video = VideoFile(folder.file("overlay.mp4"), data.fps, (width, height))
    except ImportError as error:
        return ["panel.png"], [f"overlay.mp4 was not written: {error}"]
    with video:
        before, frame = still, data.people.frames[first[0]]
        for picture in tqdm(pictures, desc="overlay.mp4", leave=False):
            # Frames in which nobody is known have no picture; the one before stands still for them.
            now = data.people.frames[picture.rows[0]]
            for _ in range(frame + 1, now):
                video.write(before)
            before, frame = drawn(picture.read(), picture.rows), now
            video.write(before)
    return ["panel.png", "overlay.mp4"], []


def pictures_of(data: PredictDataset) -> list[Picture]:
    """The distinct pictures of the rows; of a video in the order of time, whatever file each frame is in."""
    pictures = list(data.pictures())
    return sorted(pictures, key=lambda one: data.people.frames[one.rows[0]]) if data.is_video else pictures


def only_picture(data: PredictDataset) -> np.ndarray | None:
    """The photograph, where there is one only."""
    pictures = pictures_of(data)
    return pictures[0].read() if len(pictures) == 1 and not data.is_video else None


def _first_instant(data: PredictDataset) -> tuple[int, ...]:
    """The rows that are seen together with the first one."""
    places = list(zip(data.people.frames, data.samples["view"].tolist(), strict=True))
    return tuple(row for row, place in enumerate(places) if place == places[0])


def mesh_panel(
    picture: np.ndarray,
    data: PredictDataset,
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
    data: PredictDataset,
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
    picture: np.ndarray, data: PredictDataset, layer: SMPLLayer, made: SMPLPredictions, rows: Sequence[int]
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


def _blank(data: PredictDataset, row: int) -> np.ndarray:
    """A white picture of the size the camera sees."""
    width, height = data.samples["image_size"][row].round().int().tolist()
    return np.full((height, width, 3), 255, dtype=np.uint8)
