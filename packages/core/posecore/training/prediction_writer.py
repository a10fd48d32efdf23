"""What `predict` leaves behind, written as it comes: joints of every hypothesis, pictures, a page, and bodies."""

import copy
import json
import math
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities.exceptions import SIGTERMException
from PIL import Image, ImageDraw
from torch import Tensor

from posecore.body.files import load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.data.predict_dataset import PredictDataset
from posecore.data.predict_rows import taken
from posecore.data.sample import take
from posecore.export.files import OutputFolder, write_text
from posecore.export.predictions import PosePredictions, write_predictions_json, write_predictions_npz
from posecore.fitting.estimate import PosedPeople
from posecore.fitting.joints import fit_to_joints
from posecore.geometry.camera import project
from posecore.render.panels import hypothesis_panel
from posecore.render.skeleton import SIDE_COLORS
from posecore.training.body_files import BodyFormat, checked_formats, posed_bodies, write_meshes
from posecore.training.body_results import (
    Statement,
    assemble,
    data_tracks,
    labels_of,
    mean_known,
    title_of,
    write_bodies,
)
from posecore.training.prediction_parts import PredictionParts
from posecore.training.run_fingerprint import run_fingerprint
from posecore.training.scene_files import write_skeletons_page
from posecore.training.smpl_pictures import only_picture, write_overlays, write_pictures

SKIPPED = "skipped.json"

_SHOWN = 10  # skipped items in the summary
_CONTINUE = "what is done stays in parts/: --output.resume true continues the run"


@dataclass(frozen=True)
class Predicted:
    """All that was predicted, as `PredictionWriter.write` gets it.

    Attributes:
        module: The method.
        data: The people of the rows that were predicted.
        parts: Their results, under the numbers of ``rows``.
        rows: Numbers of the rows in ``parts``, in the order of ``data``.
        statement: What files say of the run.
    """

    module: LightningModule
    data: PredictDataset
    parts: PredictionParts
    rows: Sequence[int]
    statement: Statement

    def __getitem__(self, name: str) -> Tensor:
        """One of the results of all rows."""
        return self.parts.read(name, self.rows)

    def row(self, name: str, row: int) -> Tensor:
        """One of the results of one row of ``data``."""
        return self.parts.read(name, [self.rows[row]])[0]


class PredictionWriter(BasePredictionWriter):
    """Writes the results of `predict`, and every method's in the same way.

    What is of the whole run lies at the top of the folder; what is of one person lies in the folder of its format, in
    a file with the person's name: of a video that of the track, of photographs that of the picture, person and frame.

    =======================  =========================================================================================
    ``predictions.json``     joints in 3D with names, hypotheses, camera, source, notes
                             (:mod:`posecore.export.prediction_json`)
    ``predictions.npz``      the same arrays at full precision
    ``panel.png``            the first picture's people, to look at
    ``overlays/``            every photograph with its people
    ``overlay.mp4``          the same of a video
    ``people.html``          a page that shows everybody in a browser (``html``)
    ``people.glb``           of a video: everybody, with skeletons and animation (``glb``)
    ``glb/`` ``obj/``        a mesh per person; of a video OBJ and PLY for each frame, ``obj/<track>/<frame>.obj``
    ``ply/``
    ``amass/`` ``smpl/``     a motion per person: AMASS's npz, ``.smpl``, BVH, a table of joint angles
    ``bvh/`` ``csv/``
    ``skipped.json``         what was left out and why, where anything was
    ``run.json``             settings, inputs and weights of the run, large ones as hashes
    ``parts/``               while the run lasts: the results of its batches
    =======================  =========================================================================================

    A method of joints writes no bodies: files of bodies are in ``body/``, laid out as above, with ``body``.

    Results of a batch are on disk before the next one begins and nothing is kept in memory; the loop's own list of
    predictions is switched off. At the end one process makes the files of the parts and deletes these.

    A method's ``predict_step`` returns ``hypotheses`` (camera frame, metres), ``best`` and ``reprojection_error_px``.

    Args:
        folder: Where to; made and checked before any work is done. The default is ``runs/<method>/predictions``.
        overwrite: Whether a folder that holds something may be written into.
        resume: Whether an interrupted run in the folder is continued: rows that are done are not predicted again.
        formats: Files beside the predictions, of ``amass smpl glb bvh csv obj ply html``; ``[amass, glb, bvh, html]``
            where None.
        pictures: Whether overlays and the panel are written.
        body: Whether the open body is fitted to the chosen joints and written.

    Attributes:
        skipped: After the run, name of everything that was left out, and the reason.
        settings: Options of the command line, which `posecore.cli.run` sets; a continued run must have the same.

    Raises:
        ValueError: A format is unknown.
    """

    def __init__(
        self,
        folder: Path | None = None,
        overwrite: bool = False,
        resume: bool = False,
        formats: list[BodyFormat] | None = None,
        pictures: bool = True,
        body: bool = False,
    ) -> None:
        super().__init__(write_interval="batch")
        self.folder = folder
        self.overwrite = overwrite
        self.resume = resume
        self.formats = checked_formats(formats)
        self.pictures = pictures
        self.body = body
        self.skipped: list[tuple[str, str]] = []
        self.settings: dict[str, Any] = {}
        self._parts: PredictionParts | None = None
        self._begun = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the folder, and tells the data which rows are done.

        Raises:
            FileExistsError: It holds something, and neither ``overwrite`` nor ``resume`` allows for it.
            OSError: It cannot be written.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        path = self.folder or Path("runs") / type(pl_module).__name__.lower() / "predictions"
        # The first process looks before any writes; all of them go on, or all stop.
        found: PredictionParts | OSError | None = None
        if trainer.is_global_zero:
            try:
                found = PredictionParts(path, self.overwrite, self.resume)
            except OSError as error:
                found = error
        found = trainer.strategy.broadcast(found)
        if isinstance(found, OSError):
            raise found
        self._parts, self._begun = found, False
        trainer.datamodule.predict_done = found.done  # type: ignore[attr-defined, union-attr]
        trainer.predict_loop.return_predictions = False

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what run this is, or compares it with what is continued.

        Raises:
            ValueError: Another run is in the folder.
        """
        self._begin(trainer, pl_module)

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._begun or self._parts is None:
            return
        data: PredictDataset = trainer.datamodule.predict_set  # type: ignore[attr-defined]
        run = run_fingerprint(trainer, pl_module, data, self.settings)
        if trainer.is_global_zero:
            self._parts.begin(run)
        self._begun = True

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: dict[str, Tensor],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Writes a batch's results.

        Raises:
            OSError: They cannot be written.
            SIGTERMException: The process was told to end; what is done is kept.
        """
        assert self._parts is not None
        rows = batch["row"].tolist()
        if not rows:
            return
        data: PredictDataset = trainer.datamodule.predict_set  # type: ignore[attr-defined]
        kept = {name: value for name, value in prediction.items() if name != "row"}
        results = self.results(pl_module, part_of(data, rows), kept)
        try:
            self._parts.add(rows, results)
        except OSError as error:
            raise OSError(f"{error}; {_CONTINUE}") from error
        if trainer.received_sigterm:  # Lightning notes the signal, and looks at it in training only.
            print(f"SIGTERM; {_CONTINUE}", file=sys.stderr)  # noqa: T201
            raise SIGTERMException(128 + signal.SIGTERM)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the files of all processes' parts; here, since Lightning runs no other hook where no row is left.

        Raises:
            OSError: A file cannot be written; the parts stay.
        """
        if stage != "predict" or self._parts is None:
            return
        self._begin(trainer, pl_module)
        trainer.strategy.barrier("predictions")
        data: PredictDataset = trainer.datamodule.predict_set  # type: ignore[attr-defined]
        self.skipped = list(data.skipped)
        if not trainer.is_global_zero:
            return
        parts = self._parts
        parts.refresh()
        rows, notes = parts.rows, tuple(data.notes)
        pick = getattr(pl_module, "pick_statement", "")
        statement = Statement(type(pl_module).__name__, pick, data.source, notes)
        predicted = Predicted(pl_module, part_of(data, rows), parts, rows, statement)
        try:
            lines = self.write(parts.output, predicted) if rows else ["nothing was predicted"]
            self._write_skipped(parts.output)
        except OSError as error:
            raise OSError(f"{error}; {_CONTINUE}") from error
        parts.remove()
        self._parts = None
        print("\n".join([*notes, *lines, *self._skipped_lines()]))  # noqa: T201

    def results(self, module: LightningModule, data: PredictDataset, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is kept of a batch.

        Args:
            module: The method.
            data: The batch's people.
            outputs: What ``predict_step`` returned, without ``row``.
        """
        if not self.body:
            return outputs
        joints = outputs["hypotheses"][torch.arange(len(data)), outputs["best"].cpu()].float()
        with torch.inference_mode(mode=False):
            joints = joints.detach().clone().cpu()
            estimate = fit_to_joints(joints, data.joint_set)
        fitted = PosedPeople(estimate, NamedJoints(data.joint_set))
        residual = (fitted.joints_cam - joints).norm(dim=-1).mean(dim=-1)
        seen = data.samples["confidence"] > 0
        distance = (project(fitted.joints_cam, data.samples["K"].float()) - data.samples["joints_2d_px"]).norm(dim=-1)
        return {
            **outputs,
            **{f"body_{name}": getattr(estimate, name) for name in _ESTIMATE},
            "body_residual": residual,
            "body_reprojection_error_px": torch.where(seen, distance, 0.0).sum(dim=-1) / seen.sum(dim=-1),
        }

    def write(self, folder: OutputFolder, predicted: Predicted) -> list[str]:
        """Writes the files.

        Args:
            folder: Where to.
            predicted: What to write.

        Returns:
            Lines of the summary.
        """
        data, statement = predicted.data, predicted.statement
        made = joint_predictions(data, statement, data.joint_set, *(predicted[name] for name in _JOINTS))
        files = write_joints(folder, data, made, "html" in self.formats)
        drawn, notes = write_overlays(
            folder,
            data,
            lambda picture, rows: _with_skeletons(picture, made, rows),
            lambda picture, rows: _panel(made, data, picture, rows),
            self.pictures,
        )
        files += drawn
        details = f" x {made.hypotheses.shape[1]} hypotheses"
        error = mean_known(made.reprojection_error_px[torch.arange(len(made)), made.best])
        details += "" if math.isnan(error) else f"; chosen ones {error:.1f} px from their keypoints"
        if self.body:
            residual, of_body = self._write_bodies(folder, predicted)
            details += f"; bodies {1000 * residual:.1f} mm from the joints"
            files, notes = [*files, *of_body[0]], [*notes, *of_body[1]]
        return [*notes, *summary(data, details, folder.path, files)]

    def _write_bodies(self, folder: OutputFolder, predicted: Predicted) -> tuple[float, tuple[list[str], list[str]]]:
        """``body/``; mean distance of its joints from the method's, names of files, and notes."""
        data, model = predicted.data, load_body_model()
        inner = OutputFolder(folder.path / "body", overwrite=True)
        residual = predicted["body_residual"]
        settings = {"fit_residual_mm": (1000 * residual).double().numpy().round(2).tolist()}
        statement = predicted.statement
        outputs = {name: predicted[f"body_{name}"] for name in (*_ESTIMATE, "reprojection_error_px")}
        said = Statement(statement.method, "", statement.source, statement.notes, settings)
        made = assemble(model, data, outputs, said)
        files = write_bodies(inner, data, model, made, self.formats)
        files += write_meshes(
            inner, data_tracks(data), made.frames, made.fps is not None, posed_bodies(model, made, False),
            model.faces, self.formats, "hyp",
        )  # fmt: skip
        drawn, notes = write_pictures(inner, data, model, made, self.pictures)
        return float(residual.mean()), ([f"body/{name}" for name in (*files, *drawn)], notes)

    def _write_skipped(self, folder: OutputFolder) -> None:
        path = folder.path / SKIPPED
        if self.skipped:
            entries = [{"name": name, "reason": reason} for name, reason in self.skipped]
            write_text(path, json.dumps(entries, indent=2) + "\n")
        else:
            path.unlink(missing_ok=True)

    def _skipped_lines(self) -> list[str]:
        if not self.skipped:
            return []
        lines = [f"{len(self.skipped)} skipped (all in {SKIPPED}):"]
        lines += [f"  {name}: {reason}" for name, reason in self.skipped[:_SHOWN]]
        more = len(self.skipped) - _SHOWN
        return [*lines, f"  and {more} more"] if more > 0 else lines


_JOINTS = ("hypotheses", "best", "reprojection_error_px")
_ESTIMATE = ("pose_rot6d", "betas", "transl")


def part_of(data: PredictDataset, rows: Sequence[int]) -> PredictDataset:
    """Some rows of what was read, with their labels and photographs; not to be iterated over."""
    if list(rows) == list(range(len(data))):
        return data
    part = copy.copy(data)
    part.people = taken(data.people, rows)
    part.samples = take(data.samples, rows)
    part.photos, part.known = tuple(data.photos[row] for row in rows), data.known[list(rows)]
    return part


def joint_predictions(
    data: PredictDataset, statement: Statement, joint_set: Any, hypotheses: Tensor, best: Tensor, error_px: Tensor
) -> PosePredictions:
    """Joints and what is known of the people; keypoints are the data's, in the order of ``data.joint_set``."""
    return PosePredictions(
        joint_set=joint_set,
        hypotheses=hypotheses.float(),
        best=best,
        reprojection_error_px=error_px.float(),
        keypoints_2d_px=data.samples["joints_2d_px"],
        confidence=data.samples["confidence"],
        **labels_of(data),
        **statement.words,
    )


def write_joints(folder: OutputFolder, data: PredictDataset, made: PosePredictions, page: bool) -> list[str]:
    """``predictions.json``, ``predictions.npz`` and, where it is wanted, the page; names of what was written."""
    write_predictions_json(folder.file("predictions.json"), made)
    write_predictions_npz(folder.file("predictions.npz"), made)
    files = ["predictions.json", "predictions.npz"]
    if page:
        files.append(write_skeletons_page(folder, made, data_tracks(data), title_of(data), only_picture(data)))
    return files


def summary(data: PredictDataset, details: str, folder: Path, files: Sequence[str]) -> list[str]:
    """Lines that are printed at the end: how many people, the camera, and what was written where.

    Args:
        data: The people.
        details: What there is to say beside their number; begins with a comma, semicolon or space.
        folder: Where the files are.
        files: Their names.
    """
    return [
        f"{len(data)} rows of {len(set(data.people.ids))} people{details}",
        f"camera: {data.camera_statement}",
        f"written: {folder}/{', '.join(files)}",
    ]


def _panel(made: PosePredictions, data: PredictDataset, picture: np.ndarray, rows: Sequence[int]) -> Any:
    shown = list(rows)
    hypotheses, best = made.hypotheses[shown], made.best[shown]
    return hypothesis_panel(
        picture,
        data.people.keypoints[shown],
        data.people.confidence[shown],
        hypotheses,
        best,
        made.joint_set,
        f"{made.method}, {hypotheses.shape[1]} hypotheses",
        f"Camera: {made.camera_statement}",
        keypoint_set=data.people.joint_set,
        reprojected_px=project(made.best_joints[shown], made.K[shown]),
        labels=[f"{made.ids[row]} frame {made.frames[row]}" for row in shown],
    )


def _with_skeletons(picture: np.ndarray, made: PosePredictions, rows: Sequence[int]) -> np.ndarray:
    """The picture with the chosen joints of some people projected into it."""
    image = Image.fromarray(picture)
    pen, thick = ImageDraw.Draw(image), max(2, round(max(image.size) / 300))
    sides = dict.fromkeys(made.joint_set.left, "left") | dict.fromkeys(made.joint_set.right, "right")
    joints = made.best_joints[list(rows)]
    for person, pixels in zip(joints, project(joints, made.K[list(rows)]).tolist(), strict=True):
        for joint, parent in enumerate(made.joint_set.parents):
            if parent >= 0 and float(person[[joint, parent], 2].min()) > 0:
                color = SIDE_COLORS[sides.get(joint, "middle")]
                pen.line((*pixels[joint], *pixels[parent]), fill=color, width=thick)
    return np.asarray(image)
