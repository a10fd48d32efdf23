"""What a fit leaves behind: SMPL parameters as files, and pictures of the bodies on the photographs."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from tqdm.auto import tqdm

from posecore.body.files import BodyModel
from posecore.body.smpl import SMPLLayer
from posecore.data.fit_input import FitDataset
from posecore.export.files import OutputFolder, write_bytes
from posecore.export.smpl_predictions import SMPLPredictions, write_amass, write_smpl_json, write_smpl_npz
from posecore.fitting.estimate import SMPLEstimate
from posecore.render.mesh import before_after_panel, overlay
from posecore.render.panels import figure_png, image_png, read_photo
from posecore.training.prediction_writer import PredictionWriter

_PANEL_ROWS = 4


class SMPLWriter(PredictionWriter):
    """Writes ``predictions.json``, ``predictions.npz``, ``amass/<person>.npz``, ``panel.png`` and overlays.

    A method's ``predict_step`` returns ``pose_rot6d betas transl reprojection_error_px`` and the same before the fit
    under ``start_...``; its ``body_model`` is the body. Where photographs are given, every one of them is written with
    its people's bodies on it.

    Args:
        folder: Where to; made and checked before any work is done. The default is ``runs/<method>/predictions``.
        overwrite: Whether a folder that holds something may be written into.
        pictures: Whether overlays of every photograph are written; the panel always is.
    """

    def __init__(self, folder: Path | None = None, overwrite: bool = False, pictures: bool = True) -> None:
        super().__init__(folder, overwrite)
        self.pictures = pictures

    def write(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], folder: OutputFolder
    ) -> None:
        """Writes the files."""
        data = trainer.datamodule.predict_set  # type: ignore[attr-defined]
        model: BodyModel = pl_module.body_model  # type: ignore[assignment]
        fitted, start = (
            SMPLEstimate(*(outputs[prefix + key].float() for key in ("pose_rot6d", "betas", "transl")))
            for prefix in ("", "start_")
        )
        settings = {"keypoints": str(trainer.datamodule.predict.keypoints), "notes": list(data.notes)}  # type: ignore[attr-defined]
        made = _assemble(type(pl_module).__name__, model, data, fitted, start, outputs, settings)
        write_smpl_json(folder.file("predictions.json"), made)
        write_smpl_npz(folder.file("predictions.npz"), made)
        _write_motions(folder, model, made)
        _write_pictures(folder, data, model, start, fitted, made, self.pictures)
        print(_summary(made, folder.path))  # noqa: T201


def _write_motions(folder: OutputFolder, model: BodyModel, made: SMPLPredictions) -> None:
    """``amass/``: one file per track of a video, or one of a single frame per row."""
    kinematic = SMPLLayer(model, vertices=())

    def rest_pelvis(betas: Tensor) -> Tensor:
        return kinematic.rest_joints(betas)[:, 0]

    if made.fps is not None:
        for person in dict.fromkeys(made.ids):
            write_amass(folder.file(f"amass/{_file_name(person)}.npz"), made, person, rest_pelvis)
        return
    for row, (person, image, view) in enumerate(zip(made.ids, made.image_names, made.views, strict=True)):
        parts = [Path(image).stem, person, f"view{view}" if max(made.views) else "", f"frame{made.frames[row]}"]
        name = _file_name("_".join(part for part in parts if part))
        # A picture has no frame rate; readers of these files want one.
        write_amass(folder.file(f"amass/{name}.npz"), replace(made.take([row]), fps=30.0), person, rest_pelvis)


def _assemble(
    method: str,
    model: BodyModel,
    data: FitDataset,
    fitted: SMPLEstimate,
    start: SMPLEstimate,
    outputs: dict[str, Tensor],
    settings: dict[str, Any],
) -> SMPLPredictions:
    people, samples = data.people, data.samples
    joints = SMPLLayer(model, vertices=())(fitted.betas, fitted.body_pose, fitted.global_orient, fitted.transl).joints
    return SMPLPredictions(
        method=method,
        body=model.name,
        global_orient=fitted.global_orient,
        body_pose=fitted.body_pose,
        betas=fitted.betas,
        transl=fitted.transl,
        start_global_orient=start.global_orient,
        start_body_pose=start.body_pose,
        start_betas=start.betas,
        start_transl=start.transl,
        joints=joints,
        reprojection_error_px=outputs["reprojection_error_px"],
        start_reprojection_error_px=outputs["start_reprojection_error_px"],
        joint_set=data.joint_set,
        keypoints_2d_px=samples["joints_2d_px"],
        confidence=samples["confidence"],
        K=samples["K"],
        camera_assumed=data.camera_assumed,
        camera_statement=data.camera_statement,
        image_size=samples["image_size"],
        ids=people.ids,
        frames=people.frames,
        views=tuple(samples["view"].tolist()),
        image_names=people.image_names,
        fps=float(samples["fps"][0]) if "fps" in samples else None,
        settings=settings,
    )


def _write_pictures(
    folder: OutputFolder,
    data: FitDataset,
    model: BodyModel,
    start: SMPLEstimate,
    fitted: SMPLEstimate,
    made: SMPLPredictions,
    overlays: bool,
) -> None:
    """``panel.png`` of the first picture's people, and every photograph with its people."""
    layer = SMPLLayer(model, joints=())
    photos = [str(photo) if photo is not None else f"{frame} {view}" for photo, frame, view in
              zip(data.photos, made.frames, made.views, strict=True)]  # fmt: skip
    groups = {photo: [row for row, other in enumerate(photos) if other == photo] for photo in dict.fromkeys(photos)}
    for number, rows in enumerate(tqdm(groups.values(), desc="pictures", leave=False)):
        path = data.photos[rows[0]]
        if number and (path is None or not overlays):
            continue
        shown = torch.tensor(rows)
        picture = _blank(made, rows[0]) if path is None else read_photo(path)
        K = made.K[rows[0]]
        bodies = _vertices(layer, fitted.take(shown))
        if path is not None and overlays:
            made_picture = overlay(picture, bodies, model.faces, K)
            write_bytes(folder.file(f"overlays/{Path(path).stem}.png"), image_png(made_picture))
        if not number:
            panel = before_after_panel(
                picture,
                _vertices(layer, start.take(shown[:_PANEL_ROWS])),
                bodies[:_PANEL_ROWS],
                model.faces,
                K,
                data.people.keypoints[shown[:_PANEL_ROWS]],
                data.people.confidence[shown[:_PANEL_ROWS]],
                data.people.joint_set,
                made.method,
                [f"{made.ids[row]} frame {made.frames[row]}, {_pixels(made, row)}" for row in rows[:_PANEL_ROWS]],
                f"Camera: {made.camera_statement}",
            )
            write_bytes(folder.file("panel.png"), figure_png(panel))


def _vertices(layer: SMPLLayer, estimate: SMPLEstimate) -> Float[Tensor, "people vertices 3"]:
    vertices: Tensor = layer(estimate.betas, estimate.body_pose, estimate.global_orient, estimate.transl).vertices
    return vertices


def _blank(made: SMPLPredictions, row: int) -> np.ndarray:
    """A white picture of the size the camera sees."""
    width, height = made.image_size[row].round().int().tolist()
    return np.full((height, width, 3), 255, dtype=np.uint8)


def _pixels(made: SMPLPredictions, row: int) -> str:
    before = "" if made.start_reprojection_error_px is None else f"{made.start_reprojection_error_px[row]:.1f} px -> "
    return f"{before}{made.reprojection_error_px[row]:.1f} px"


def _file_name(person: str) -> str:
    """A label as a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in person) or "person"


def _summary(made: SMPLPredictions, folder: Path) -> str:
    def mean(errors: Any) -> float:
        seen = errors[errors.isfinite()]
        return float(seen.mean()) if len(seen) else math.nan

    before = mean(made.start_reprojection_error_px)
    notes = "".join(f"{note}\n" for note in made.settings["notes"])
    return notes + (
        f"{len(made)} rows of {len(set(made.ids))} people; mean reprojection error {before:.1f} px before, "
        f"{mean(made.reprojection_error_px):.1f} px after\n"
        f"camera: {made.camera_statement}\n"
        f"written: {folder}/predictions.json, predictions.npz, amass/, panel.png"
    )
