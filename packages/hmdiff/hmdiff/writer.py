"""What ``hmdiff predict`` leaves behind: meshes, samples, SMPL parameters of bodies, joints of hands, and pictures."""

import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from matplotlib.figure import Figure
from torch import Tensor

from hmdiff.module import HMDiff
from posecore.body.joint_maps import joint_map
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import SMPL_24
from posecore.data.predict_dataset import PredictDataset
from posecore.export.files import OutputFolder, atomic_write
from posecore.export.predictions import PosePredictions
from posecore.fitting.estimate import PosedPeople
from posecore.fitting.mesh import fit_to_mesh
from posecore.geometry.camera import project
from posecore.training.body_files import BodyFormat, write_meshes
from posecore.training.body_results import Statement, assemble, data_tracks, labels_of, mean_known, write_bodies
from posecore.training.prediction_writer import Predicted, PredictionWriter, summary, write_joints
from posecore.training.smpl_pictures import mesh_panel, row_labels, write_mesh_pictures

_FIT = ("pose_rot6d", "betas", "transl")


class HMDiffWriter(PredictionWriter):
    """Writes meshes and what is fitted to them, in the layout that `PredictionWriter` has, and ``samples.npz``.

    Of bodies, predictions and motions are SMPL parameters fitted to the final mesh, as the other methods of bodies
    write them; ``settings.fit_residual_mm`` has each row's mean distance of the fit's vertices from the mesh's. Of
    hands, predictions are joints of the final mesh, and there are no motions.

    ``glb/`` (of photographs), ``obj/`` and ``ply/`` have the final mesh itself. ``samples.npz`` has, row by row:

    ==========================  ==================================================================================
    ``vertices``                final full mesh, metres, camera frame
    ``samples``                 coarse meshes (rows, N, V, 3) of H_0, metres, camera axes, relative to the root joint
    ``transl``                  where the root joint is, metres, camera frame
    ``faces coarse_faces``      triangles of both
    ``ids frames image_names``  who, and in which picture
    ==========================  ==================================================================================

    Args:
        folder: Where to; made and checked before any work is done. The default is ``runs/hmdiff/predictions``.
        overwrite: Whether a folder that holds something may be written into.
        resume: Whether an interrupted run in the folder is continued.
        formats: Files beside the predictions, of ``amass smpl glb bvh csv obj ply html``; ``[amass, glb, bvh, html]``
            where None.
        pictures: Whether overlays and the panel are written.
        samples: Whether mesh files are of every sample, too, ``<name>_sample<number>``.
    """

    def __init__(
        self,
        folder: Path | None = None,
        overwrite: bool = False,
        resume: bool = False,
        formats: list[BodyFormat] | None = None,
        pictures: bool = True,
        samples: bool = False,
    ) -> None:
        super().__init__(folder, overwrite, resume, formats, pictures)
        self.samples = samples

    def results(self, module: LightningModule, data: PredictDataset, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch's meshes, and the bodies fitted to them."""
        outputs = {name: value.float() for name, value in outputs.items()}
        model = cast(HMDiff, module).body_model
        if len(model.J_regressor) != SMPL_24.num_joints:
            return outputs
        fit = fit_to_mesh(outputs["vertices_cam"].cpu(), model)
        fitted = {f"fit_{name}": getattr(fit.estimate, name) for name in _FIT}
        joints = PosedPeople(fit.estimate, NamedJoints(data.joint_set, model)).joints_cam
        error_px = _error_px(joints, data.samples["joints_2d_px"], data.samples["confidence"], data)
        return {**outputs, **fitted, "fit_residual": fit.residual, "fit_error_px": error_px}

    def write(self, folder: OutputFolder, predicted: Predicted) -> list[str]:
        """Writes the files; returns lines of the summary."""
        module, data = cast(HMDiff, predicted.module), predicted.data
        count = len(predicted.row("samples_rel", 0))
        details = f", {count} samples each"
        if "fit_residual" in predicted.parts.names:
            files, error_px = self._write_fits(folder, predicted, count)
            details += f"; SMPL fit {1000 * float(predicted['fit_residual'].mean()):.1f} mm from the meshes"
        else:
            files, error_px = self._write_hands(folder, predicted, count)
        if not math.isnan(mean_px := mean_known(error_px)):
            details += f"; mean reprojection error {mean_px:.1f} px"
        _write_samples(folder, predicted)
        files += ["samples.npz", *self._write_meshes(folder, predicted)]
        drawn, notes = write_mesh_pictures(
            folder,
            data,
            module.body_model.faces,
            lambda rows: torch.stack([predicted.row("vertices_cam", row) for row in rows]),
            lambda picture, rows: _panel(picture, predicted, error_px, rows),
            self.pictures,
        )
        return [*notes, *summary(data, details, folder.path, [*files, *drawn])]

    def _write_meshes(self, folder: OutputFolder, predicted: Predicted) -> list[str]:
        """Every row's final mesh, and its samples where they are asked for."""

        def bodies(row: int) -> Float[Tensor, "meshes vertices 3"]:
            final = predicted.row("vertices_cam", row)[None]
            return torch.cat((final, _full_samples(predicted, row))) if self.samples else final

        data, faces = predicted.data, cast(HMDiff, predicted.module).body_model.faces
        frames, tracks = data.people.frames, data_tracks(data)
        return write_meshes(folder, tracks, frames, data.is_video, bodies, faces, self.formats, "sample")

    def _write_fits(
        self, folder: OutputFolder, predicted: Predicted, count: int
    ) -> tuple[list[str], Float[Tensor, " people"]]:
        """The fit of SMPL parameters as files; their names, and its errors in pixels."""
        model, data = cast(HMDiff, predicted.module).body_model, predicted.data
        error_px = predicted["fit_error_px"]
        residual = (1000 * predicted["fit_residual"]).double().numpy().round(2).tolist()
        outputs = {name: predicted[f"fit_{name}"] for name in _FIT}
        statement = _with_settings(predicted.statement, num_samples=count, fit_residual_mm=residual)
        made = assemble(model, data, {**outputs, "reprojection_error_px": error_px}, statement)
        return write_bodies(folder, data, model, made, self.formats), error_px

    def _write_hands(
        self, folder: OutputFolder, predicted: Predicted, count: int
    ) -> tuple[list[str], Float[Tensor, " people"]]:
        """The final mesh's joints as files; their names, and their errors in pixels."""
        module, data = cast(HMDiff, predicted.module), predicted.data
        joint_set = module.mesh.joint_set
        with torch.no_grad():
            joints = module.mesh.full_joints(predicted["vertices_cam"].to(module.device)).cpu()
        mapped = joint_map(data.joint_set, joint_set)
        keypoints = mapped.apply(data.samples["joints_2d_px"]).to(joints)
        confidence = mapped.apply_confidence(data.samples["confidence"]).to(joints)
        error_px = _error_px(joints, keypoints, confidence, data)
        statement = _with_settings(predicted.statement, num_samples=count)
        made = PosePredictions(
            joint_set=joint_set,
            hypotheses=joints[:, None],
            best=torch.zeros(len(joints), dtype=torch.int64),
            reprojection_error_px=error_px[:, None],
            keypoints_2d_px=keypoints,
            confidence=confidence,
            **labels_of(data),
            **statement.words,
        )
        return write_joints(folder, data, made, "html" in self.formats), error_px


def _with_settings(statement: Statement, **settings: object) -> Statement:
    return Statement(statement.method, "", statement.source, statement.notes, {**statement.settings, **settings})


def _full_samples(predicted: Predicted, row: int) -> Float[Tensor, "n vertices 3"]:
    """A row's samples as full meshes where the final one is, metres, camera frame."""
    module = cast(HMDiff, predicted.module)
    with torch.no_grad():
        full = module.upsample(predicted.row("samples_rel", row).to(module.device)).cpu()
    return full + predicted.row("transl", row)


def _write_samples(folder: OutputFolder, predicted: Predicted) -> None:
    """``samples.npz``, row by row: a video's would not fit into the memory."""
    people, module = predicted.data.people, cast(HMDiff, predicted.module)
    arrays = {
        "faces": module.body_model.faces.cpu().numpy(),
        "coarse_faces": module.mesh.faces.cpu().numpy(),
        "ids": np.array(people.ids),
        "frames": np.array(people.frames, dtype=np.int64),
        "image_names": np.array(people.image_names),
    }
    names = {"vertices": "vertices_cam", "samples": "samples_rel", "transl": "transl"}
    with atomic_write(folder.file("samples.npz")) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as content:
        for name, key in names.items():
            _add_rows(content, name, len(people), lambda key=key: predicted.parts.stream(key, predicted.rows))  # type: ignore[misc]
        for name, array in arrays.items():
            _add_rows(content, name, len(array), lambda array=array: iter(array))  # type: ignore[misc]


def _add_rows(content: zipfile.ZipFile, name: str, count: int, rows: Callable[[], Iterator[np.ndarray]]) -> None:
    """An array of an npz file, which is never in memory as a whole."""
    first = np.asarray(next(rows()))
    header = {
        "descr": np.lib.format.dtype_to_descr(first.dtype),
        "fortran_order": False,
        "shape": (count, *first.shape),
    }
    with content.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for row in rows():
            file.write(np.ascontiguousarray(row).tobytes())


def _error_px(
    joints_cam: Float[Tensor, "people joints 3"],
    keypoints: Float[Tensor, "people joints 2"],
    confidence: Float[Tensor, "people joints"],
    data: PredictDataset,
) -> Float[Tensor, " people"]:
    """Mean distance to the seen keypoints, pixels of the photograph; NaN where none is seen."""
    seen = confidence > 0
    distance = (project(joints_cam, data.samples["K"].to(joints_cam)) - keypoints).norm(dim=-1)
    return torch.where(seen, distance, 0.0).sum(dim=-1) / seen.sum(dim=-1)


def _panel(
    picture: np.ndarray, predicted: Predicted, error_px: Float[Tensor, " people"], rows: Sequence[int]
) -> Figure:
    """The final mesh as number 0, then the samples."""
    data, method = predicted.data, predicted.statement.method
    bodies = torch.stack(
        [torch.cat((predicted.row("vertices_cam", row)[None], _full_samples(predicted, row))) for row in rows]
    )
    count = bodies.shape[1] - 1
    samples = f"no. 1 to {count} are samples 0 to {count - 1}, of which it is made" if count > 1 else "no. 1 its sample"
    return mesh_panel(
        picture,
        data,
        rows,
        bodies,
        torch.zeros(len(rows), dtype=torch.int64),
        cast(HMDiff, predicted.module).body_model.faces,
        f"{method}, {count} samples" if count > 1 else method,
        row_labels(data, rows, error_px),
        f"No. 0 is the final mesh, {samples}.\nCamera: {data.camera_statement}",
        "Final",
    )
