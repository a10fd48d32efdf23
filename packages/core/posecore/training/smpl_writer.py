"""What `predict` of a method of SMPL bodies leaves behind: parameters, motions and meshes as files, and pictures."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from posecore.body.files import BodyModel
from posecore.body.smpl import SMPLLayer
from posecore.data.fit_input import FitDataset, FitInput
from posecore.data.photo_input import PhotoInput
from posecore.export.amass import write_amass
from posecore.export.files import OutputFolder
from posecore.export.meshes import write_obj
from posecore.export.smpl_predictions import SMPLPredictions, write_smpl_json, write_smpl_npz
from posecore.fitting.estimate import SMPLEstimate
from posecore.geometry.rotation import rot6d_to_rotmat
from posecore.training.prediction_writer import PredictionWriter
from posecore.training.smpl_pictures import hypothesis_vertices, write_pictures


class SMPLWriter(PredictionWriter):
    """Writes ``predictions.json``, ``predictions.npz``, ``amass/<person>.npz``, ``panel.png`` and overlays.

    A method's ``predict_step`` returns ``pose_rot6d betas transl reprojection_error_px``; a fit also what it started
    from, the same under ``start_...``; a method with several answers also ``hypotheses_rot6d`` (rows, hypotheses, 24,
    6) and ``best``, the number of the one whose pose is ``pose_rot6d``. Its ``body_model`` is the body, and its
    ``pick_statement``, where it has one, says in words how ``best`` is chosen. Where photographs are given, every one
    of them is written with its people's bodies on it.

    Args:
        folder: Where to; made and checked before any work is done. The default is ``runs/<method>/predictions``.
        overwrite: Whether a folder that holds something may be written into.
        pictures: Whether overlays of every photograph are written; the panel always is.
        meshes: Whether every body is written as ``meshes/<row>.obj``, hypotheses as ``meshes/<row>_hyp<number>.obj``.
    """

    def __init__(
        self, folder: Path | None = None, overwrite: bool = False, pictures: bool = True, meshes: bool = False
    ) -> None:
        super().__init__(folder, overwrite)
        self.pictures = pictures
        self.meshes = meshes

    def write(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], folder: OutputFolder
    ) -> None:
        """Writes the files."""
        data = trainer.datamodule.predict_set  # type: ignore[attr-defined]
        model: BodyModel = pl_module.body_model  # type: ignore[assignment]
        settings = {**_source(trainer.datamodule.predict), "notes": list(data.notes)}  # type: ignore[attr-defined]
        pick = getattr(pl_module, "pick_statement", "")
        made = assemble(type(pl_module).__name__, model, data, outputs, pick, settings)
        write_smpl(folder, data, model, made)
        if self.meshes:
            _write_meshes(folder, data, model, made)
        write_pictures(folder, data, model, made, self.pictures)
        files = (*SMPL_FILES, *(["meshes/"] if self.meshes else []), "panel.png")
        print(summary(data, _details(made), folder.path, files))  # noqa: T201


SMPL_FILES = ("predictions.json", "predictions.npz", "amass/")
"""What `write_smpl` writes."""


def _source(given: FitInput | PhotoInput) -> dict[str, Any]:
    """Where the people come from."""
    return given.source if isinstance(given, PhotoInput) else {"keypoints": str(given.keypoints)}


def write_smpl(folder: OutputFolder, data: FitDataset, model: BodyModel, made: SMPLPredictions) -> None:
    """``predictions.json``, ``predictions.npz``, and ``amass/``: a file per track of a video, or per row."""
    write_smpl_json(folder.file("predictions.json"), made)
    write_smpl_npz(folder.file("predictions.npz"), made)
    kinematic = SMPLLayer(model, vertices=())

    def rest_pelvis(betas: Tensor) -> Tensor:
        return kinematic.rest_joints(betas)[:, 0]

    if made.fps is not None:
        for person in dict.fromkeys(made.ids):
            write_amass(folder.file(f"amass/{_file_name(person)}.npz"), made, person, rest_pelvis)
        return
    for row, name in enumerate(row_names(data)):
        # A picture has no frame rate; readers of these files want one.
        one = replace(made.take([row]), fps=30.0)
        write_amass(folder.file(f"amass/{name}.npz"), one, made.ids[row], rest_pelvis)


def _write_meshes(folder: OutputFolder, data: FitDataset, model: BodyModel, made: SMPLPredictions) -> None:
    """``meshes/``: every row's body, or every hypothesis of it."""
    layer = SMPLLayer(model, joints=())
    for row, name in enumerate(row_names(data)):
        bodies = hypothesis_vertices(layer, made, [row])[0]
        for number, vertices in enumerate(bodies):
            which = "" if made.best is None else f"_hyp{number}"
            write_obj(folder.file(f"meshes/{name}{which}.obj"), vertices, model.faces)


def row_names(data: FitDataset) -> list[str]:
    """A file name without suffix for each row."""
    people, views = data.people, data.samples["view"].tolist()
    names = []
    for person, image, view, frame in zip(people.ids, people.image_names, views, people.frames, strict=True):
        parts = [Path(image).stem, person, f"view{view}" if max(views) else "", f"frame{frame}"]
        names.append(_file_name("_".join(part for part in parts if part)))
    return names


def assemble(
    method: str,
    model: BodyModel,
    data: FitDataset,
    outputs: dict[str, Tensor],
    pick: str,
    settings: dict[str, Any],
) -> SMPLPredictions:
    """The bodies of a method's outputs (see `SMPLWriter`) and what is known of the people.

    Args:
        method: Its name.
        model: The body.
        data: The people, in the order of the outputs' rows.
        outputs: One row each.
        pick: In words, how ``best`` was chosen.
        settings: What else a reader needs in order to repeat the run (JSON values).
    """
    people, samples = data.people, data.samples
    fitted = _estimate(outputs, "")
    start = _estimate(outputs, "start_") if "start_pose_rot6d" in outputs else None
    hypotheses = rot6d_to_rotmat(outputs["hypotheses_rot6d"].float()) if "hypotheses_rot6d" in outputs else None
    joints = SMPLLayer(model, vertices=())(fitted.betas, fitted.body_pose, fitted.global_orient, fitted.transl).joints
    return SMPLPredictions(
        method=method,
        body=model.name,
        global_orient=fitted.global_orient,
        body_pose=fitted.body_pose,
        betas=fitted.betas,
        transl=fitted.transl,
        start_global_orient=None if start is None else start.global_orient,
        start_body_pose=None if start is None else start.body_pose,
        start_betas=None if start is None else start.betas,
        start_transl=None if start is None else start.transl,
        joints=joints,
        reprojection_error_px=outputs["reprojection_error_px"],
        start_reprojection_error_px=outputs.get("start_reprojection_error_px"),
        hypotheses_global_orient=None if hypotheses is None else hypotheses[:, :, 0],
        hypotheses_body_pose=None if hypotheses is None else hypotheses[:, :, 1:],
        best=outputs.get("best"),
        pick=pick,
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


def _estimate(outputs: dict[str, Tensor], prefix: str) -> SMPLEstimate:
    return SMPLEstimate(*(outputs[prefix + key].float() for key in ("pose_rot6d", "betas", "transl")))


def _file_name(person: str) -> str:
    """A label as a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in person) or "person"


def summary(data: FitDataset, details: str, folder: Path, files: Sequence[str]) -> str:
    """What is printed at the end: notes, how many people, the camera, and what was written where.

    Args:
        data: The people.
        details: What there is to say beside their number; begins with a comma or semicolon.
        folder: Where the files are.
        files: Their names.
    """
    notes = "".join(f"{note}\n" for note in data.notes)
    return notes + (
        f"{len(data)} rows of {len(set(data.people.ids))} people{details}\n"
        f"camera: {data.camera_statement}\n"
        f"written: {folder}/{', '.join(files)}"
    )


def mean_known(errors: Float[Tensor, " people"]) -> float:
    """The mean of the errors that are known; NaN where none is."""
    return float(errors[errors.isfinite()].mean())


def _details(made: SMPLPredictions) -> str:
    after = mean_known(made.reprojection_error_px)
    error = "" if math.isnan(after) else f"; mean reprojection error {after:.1f} px"
    if made.start_reprojection_error_px is not None:
        before = mean_known(made.start_reprojection_error_px)
        error = f"; mean reprojection error {before:.1f} px before, {after:.1f} px after"
    several = "" if made.hypotheses_body_pose is None else f", {made.hypotheses_body_pose.shape[1]} hypotheses each"
    return several + error
