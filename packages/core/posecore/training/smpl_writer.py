"""What `predict` of a method of SMPL bodies leaves behind: parameters, motions and meshes as files, and pictures."""

import math
from pathlib import Path

from lightning.pytorch import LightningModule
from torch import Tensor

from posecore.body.files import BodyModel
from posecore.data.predict_dataset import PredictDataset
from posecore.export.files import OutputFolder
from posecore.export.smpl_predictions import SMPLPredictions
from posecore.training.body_files import BodyFormat, posed_bodies, write_meshes
from posecore.training.body_results import assemble, data_tracks, mean_known, write_bodies
from posecore.training.prediction_writer import Predicted, PredictionWriter, summary
from posecore.training.smpl_pictures import write_pictures


class SMPLWriter(PredictionWriter):
    """Writes the bodies of a method, in the layout that `PredictionWriter` has.

    A method's ``predict_step`` returns ``pose_rot6d betas transl reprojection_error_px``; a fit also what it started
    from, the same under ``start_...``; a method with several answers also ``hypotheses_rot6d`` (rows, hypotheses, 24,
    6) and ``best``, the number of the one whose pose is ``pose_rot6d``. Its ``body_model`` is the body, and its
    ``pick_statement``, where it has one, says in words how ``best`` is chosen. Where photographs are given, every one
    of them is written with its people's bodies on it.

    Args:
        folder: Where to; made and checked before any work is done. The default is ``runs/<method>/predictions``.
        overwrite: Whether a folder that holds something may be written into.
        resume: Whether an interrupted run in the folder is continued.
        formats: Files beside the predictions, of ``amass smpl glb bvh csv obj ply html``; ``[amass, glb, bvh, html]``
            where None.
        pictures: Whether overlays and the panel are written.
        hypotheses: Whether mesh files are of every hypothesis, too, ``<name>_hyp<number>``.
    """

    def __init__(
        self,
        folder: Path | None = None,
        overwrite: bool = False,
        resume: bool = False,
        formats: list[BodyFormat] | None = None,
        pictures: bool = True,
        hypotheses: bool = False,
    ) -> None:
        super().__init__(folder, overwrite, resume, formats, pictures)
        self.hypotheses = hypotheses

    def results(self, module: LightningModule, data: PredictDataset, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """All that the method returns."""
        return outputs

    def write(self, folder: OutputFolder, predicted: Predicted) -> list[str]:
        """Writes the files; returns lines of the summary."""
        data = predicted.data
        model: BodyModel = predicted.module.body_model  # type: ignore[assignment]
        made = assemble(model, data, {name: predicted[name] for name in predicted.parts.names}, predicted.statement)
        files = write_bodies(folder, data, model, made, self.formats)
        bodies = posed_bodies(model, made, self.hypotheses)
        files += write_meshes(
            folder, data_tracks(data), made.frames, made.fps is not None, bodies, model.faces, self.formats, "hyp"
        )
        drawn, notes = write_pictures(folder, data, model, made, self.pictures)
        return [*notes, *summary(data, _details(made), folder.path, [*files, *drawn])]


def _details(made: SMPLPredictions) -> str:
    after = mean_known(made.reprojection_error_px)
    error = "" if math.isnan(after) else f"; mean reprojection error {after:.1f} px"
    if made.start_reprojection_error_px is not None:
        before = mean_known(made.start_reprojection_error_px)
        error = f"; mean reprojection error {before:.1f} px before, {after:.1f} px after"
    several = "" if made.hypotheses_body_pose is None else f", {made.hypotheses_body_pose.shape[1]} hypotheses each"
    return several + error
