"""What ``hmdiff predict`` leaves behind: meshes, samples, SMPL parameters of bodies, joints of hands, and pictures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from hmdiff.module import HMDiff
from posecore.body.joint_maps import joint_map
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import SMPL_24
from posecore.data.fit_input import FitDataset
from posecore.export.files import OutputFolder, atomic_write
from posecore.export.meshes import write_mesh
from posecore.export.predictions import PosePredictions, write_predictions_json, write_predictions_npz
from posecore.fitting.estimate import PosedPeople, SMPLEstimate
from posecore.fitting.mesh import fit_to_mesh
from posecore.geometry.camera import project
from posecore.training.prediction_writer import PredictionWriter
from posecore.training.smpl_pictures import mesh_panel, row_labels, write_mesh_pictures
from posecore.training.smpl_writer import SMPL_FILES, assemble, mean_known, row_names, summary, write_smpl

MeshFormat = Literal["obj", "ply", "glb"]

_FITTED_AT_ONCE = 32  # people; a fit holds some 10 MB of each


class HMDiffWriter(PredictionWriter):
    """Writes meshes, ``samples.npz``, ``predictions.json``, ``predictions.npz``, ``panel.png`` and overlays.

    Of bodies, predictions are SMPL parameters fitted to the final mesh, as the other methods of bodies write them, and
    go into ``amass/<person>.npz`` too; ``settings.fit_residual_mm`` has each row's mean distance of the fit's vertices
    from the mesh's. Of hands, predictions are joints of the final mesh.

    ``meshes/<row>`` is the final mesh itself. ``samples.npz`` has, row by row:

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
        pictures: Whether overlays of every photograph are written; the panel always is.
        mesh_format: Of the files in ``meshes/``.
        samples: Whether every sample is written as a full mesh, too, ``meshes/<row>_sample<number>``.

    Raises:
        ValueError: ``mesh_format`` is none of these.
    """

    def __init__(
        self,
        folder: Path | None = None,
        overwrite: bool = False,
        pictures: bool = True,
        mesh_format: MeshFormat = "obj",
        samples: bool = False,
    ) -> None:
        super().__init__(folder, overwrite)
        if mesh_format not in ("obj", "ply", "glb"):
            raise ValueError(f"mesh_format must be 'obj', 'ply' or 'glb', got {mesh_format!r}")
        self.pictures = pictures
        self.mesh_format = mesh_format
        self.samples = samples

    def write(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], folder: OutputFolder
    ) -> None:
        """Writes the files."""
        module = cast(HMDiff, pl_module)
        data: FitDataset = trainer.datamodule.predict_set  # type: ignore[attr-defined]
        outputs = {name: value.float() for name, value in outputs.items() if name != "row"}
        count = outputs["samples_rel"].shape[1]
        settings = {
            **trainer.datamodule.predict.source,  # type: ignore[attr-defined]
            "notes": list(data.notes),
            "num_samples": count,
        }
        details = f", {count} samples each"
        _write_samples(folder, module, data, outputs)
        self._write_meshes(folder, module, data, outputs)
        if len(module.body_model.J_regressor) == SMPL_24.num_joints:
            error_px, residual = _write_bodies(folder, module, data, outputs, settings)
            files = list(SMPL_FILES)
            details += f"; SMPL fit {1000 * float(residual.mean()):.1f} mm from the meshes"
        else:
            error_px = _write_hands(folder, module, data, outputs, settings)
            files = ["predictions.json", "predictions.npz"]
        if not math.isnan(mean_px := mean_known(error_px)):
            details += f"; mean reprojection error {mean_px:.1f} px"
        write_mesh_pictures(
            folder,
            data,
            module.body_model.faces,
            lambda rows: outputs["vertices_cam"][list(rows)],
            lambda picture, rows: _panel(picture, module, data, outputs, error_px, rows),
            self.pictures,
        )
        files += ["samples.npz", "meshes/", *(["overlays/"] if self.pictures else []), "panel.png"]
        print(summary(data, details, folder.path, files))  # noqa: T201

    def _write_meshes(self, folder: OutputFolder, module: HMDiff, data: FitDataset, outputs: dict[str, Tensor]) -> None:
        """``meshes/``: every row's final mesh, and its samples where they are asked for."""
        faces = module.body_model.faces
        for row, name in enumerate(row_names(data)):
            write_mesh(folder.file(f"meshes/{name}.{self.mesh_format}"), outputs["vertices_cam"][row], faces)
            for number, vertices in enumerate(_full_samples(module, outputs, row) if self.samples else ()):
                write_mesh(folder.file(f"meshes/{name}_sample{number}.{self.mesh_format}"), vertices, faces)


def _full_samples(module: HMDiff, outputs: dict[str, Tensor], row: int) -> Float[Tensor, "n vertices 3"]:
    """A row's samples as full meshes where the final one is, metres, camera frame."""
    with torch.no_grad():
        full = module.upsample(outputs["samples_rel"][row].to(module.device)).cpu()
    return full + outputs["transl"][row]


def _write_samples(folder: OutputFolder, module: HMDiff, data: FitDataset, outputs: dict[str, Tensor]) -> None:
    people = data.people
    arrays = {
        "vertices": outputs["vertices_cam"].numpy(),
        "samples": outputs["samples_rel"].numpy(),
        "transl": outputs["transl"].numpy(),
        "faces": module.body_model.faces.cpu().numpy(),
        "coarse_faces": module.mesh.faces.cpu().numpy(),
        "ids": np.array(people.ids),
        "frames": np.array(people.frames, dtype=np.int64),
        "image_names": np.array(people.image_names),
    }
    with atomic_write(folder.file("samples.npz")) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _write_bodies(
    folder: OutputFolder, module: HMDiff, data: FitDataset, outputs: dict[str, Tensor], settings: dict[str, Any]
) -> tuple[Float[Tensor, " people"], Float[Tensor, " people"]]:
    """The fit of SMPL parameters as files; its errors in pixels, and its distances from the meshes in metres."""
    model = module.body_model
    fits = [fit_to_mesh(some, model) for some in outputs["vertices_cam"].split(_FITTED_AT_ONCE)]
    residual = torch.cat([fit.residual for fit in fits])
    parameters = {
        name: torch.cat([getattr(fit.estimate, name) for fit in fits]) for name in ("pose_rot6d", "betas", "transl")
    }
    fitted = PosedPeople(SMPLEstimate(**parameters), NamedJoints(data.joint_set, model))
    error_px = _error_px(fitted.joints_cam, data.samples["joints_2d_px"], data.samples["confidence"], data)
    settings = {**settings, "fit_residual_mm": (1000 * residual).double().numpy().round(2).tolist()}
    made = assemble(type(module).__name__, model, data, {**parameters, "reprojection_error_px": error_px}, "", settings)
    write_smpl(folder, data, model, made)
    return error_px, residual


def _write_hands(
    folder: OutputFolder, module: HMDiff, data: FitDataset, outputs: dict[str, Tensor], settings: dict[str, Any]
) -> Float[Tensor, " people"]:
    """The final mesh's joints as files; their errors in pixels."""
    people, samples, joint_set = data.people, data.samples, module.mesh.joint_set
    with torch.no_grad():
        joints = module.mesh.full_joints(outputs["vertices_cam"].to(module.device)).cpu()
    mapped = joint_map(data.joint_set, joint_set)
    keypoints = mapped.apply(samples["joints_2d_px"]).to(joints)
    confidence = mapped.apply_confidence(samples["confidence"]).to(joints)
    error_px = _error_px(joints, keypoints, confidence, data)
    made = PosePredictions(
        method=type(module).__name__,
        joint_set=joint_set,
        hypotheses=joints[:, None],
        best=torch.zeros(len(joints), dtype=torch.int64),
        reprojection_error_px=error_px[:, None],
        keypoints_2d_px=keypoints,
        confidence=confidence,
        K=samples["K"],
        camera_assumed=data.camera_assumed,
        camera_statement=data.camera_statement,
        ids=people.ids,
        frames=people.frames,
        image_names=people.image_names,
        image_size=samples["image_size"],
        settings=settings,
    )
    write_predictions_json(folder.file("predictions.json"), made)
    write_predictions_npz(folder.file("predictions.npz"), made)
    return error_px


def _error_px(
    joints_cam: Float[Tensor, "people joints 3"],
    keypoints: Float[Tensor, "people joints 2"],
    confidence: Float[Tensor, "people joints"],
    data: FitDataset,
) -> Float[Tensor, " people"]:
    """Mean distance to the seen keypoints, pixels of the photograph; NaN where none is seen."""
    seen = confidence > 0
    distance = (project(joints_cam, data.samples["K"].to(joints_cam)) - keypoints).norm(dim=-1)
    return torch.where(seen, distance, 0.0).sum(dim=-1) / seen.sum(dim=-1)


def _panel(
    picture: np.ndarray,
    module: HMDiff,
    data: FitDataset,
    outputs: dict[str, Tensor],
    error_px: Float[Tensor, " people"],
    rows: Sequence[int],
) -> Figure:
    """The final mesh as number 0, then the samples."""
    bodies = torch.stack(
        [torch.cat((outputs["vertices_cam"][row, None], _full_samples(module, outputs, row))) for row in rows]
    )
    count = bodies.shape[1] - 1
    samples = f"no. 1 to {count} are samples 0 to {count - 1}, of which it is made" if count > 1 else "no. 1 its sample"
    return mesh_panel(
        picture,
        data,
        rows,
        bodies,
        torch.zeros(len(rows), dtype=torch.int64),
        module.body_model.faces,
        f"{type(module).__name__}, {count} samples" if count > 1 else type(module).__name__,
        row_labels(data, rows, error_px),
        f"No. 0 is the final mesh, {samples}.\nCamera: {data.camera_statement}",
        "Final",
    )
