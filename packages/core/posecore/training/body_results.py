"""All that is written of predicted bodies, whichever method they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.files import BodyModel
from posecore.body.smpl import SMPLLayer
from posecore.data.predict_dataset import PredictDataset
from posecore.export.files import OutputFolder
from posecore.export.smpl_predictions import SMPLPredictions, write_smpl_json, write_smpl_npz
from posecore.fitting.estimate import SMPLEstimate
from posecore.geometry.rotation import rot6d_to_rotmat
from posecore.training.body_files import BodyFormat, Track, file_name, tracks_of, write_motions
from posecore.training.scene_files import write_bodies_page
from posecore.training.smpl_pictures import only_picture


@dataclass(frozen=True)
class Statement:
    """What files say of a run beside the numbers.

    Attributes:
        method: The method's name.
        pick: In words, how ``best`` was chosen.
        source: What was read.
        notes: What was assumed, left out or filled in.
        settings: What else a reader needs in order to repeat the run.
    """

    method: str
    pick: str = ""
    source: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> dict[str, Any]:
        """As arguments of predictions."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def labels_of(data: PredictDataset) -> dict[str, Any]:
    """What predictions of both kinds say of their rows: who, where, and in which camera."""
    people, samples = data.people, data.samples
    return {
        "K": samples["K"],
        "camera_assumed": data.camera_assumed,
        "camera_statement": data.camera_statement,
        "image_size": samples["image_size"],
        "ids": people.ids,
        "frames": people.frames,
        "views": tuple(samples["view"].tolist()),
        "image_names": people.image_names,
        "fps": data.fps,
    }


def assemble(
    model: BodyModel, data: PredictDataset, outputs: Mapping[str, Tensor], statement: Statement
) -> SMPLPredictions:
    """The bodies of a method's outputs and what is known of the people.

    Args:
        model: The body.
        data: The people, in the order of the outputs' rows.
        outputs: One row each, under the names that `posecore.training.smpl_writer.SMPLWriter` has.
        statement: What else the files say.
    """
    fitted = _estimate(outputs, "")
    start = _estimate(outputs, "start_") if "start_pose_rot6d" in outputs else None
    hypotheses = rot6d_to_rotmat(outputs["hypotheses_rot6d"].float()) if "hypotheses_rot6d" in outputs else None
    joints = SMPLLayer(model, vertices=())(fitted.betas, fitted.body_pose, fitted.global_orient, fitted.transl).joints
    return SMPLPredictions(
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
        joint_set=data.joint_set,
        keypoints_2d_px=data.samples["joints_2d_px"],
        confidence=data.samples["confidence"],
        **labels_of(data),
        **statement.words,
    )


def write_bodies(
    folder: OutputFolder, data: PredictDataset, model: BodyModel, made: SMPLPredictions, formats: Sequence[BodyFormat]
) -> list[str]:
    """``predictions.json``, ``predictions.npz``, motion files and the page; meshes and pictures are written apart.

    Args:
        folder: Where to.
        data: The people.
        model: The body.
        made: Its parameters.
        formats: Which files are wanted beside the predictions.

    Returns:
        Names of what was written.
    """
    write_smpl_json(folder.file("predictions.json"), made)
    write_smpl_npz(folder.file("predictions.npz"), made)
    tracks = data_tracks(data)
    written = ["predictions.json", "predictions.npz", *write_motions(folder, model, made, tracks, formats)]
    if "html" in formats:
        written.append(write_bodies_page(folder, model, made, tracks, title_of(data), only_picture(data)))
    return written


def data_tracks(data: PredictDataset) -> list[Track]:
    """Who gets a file (see `posecore.training.body_files.tracks_of`)."""
    return tracks_of(data.people.ids, data.people.frames, row_names(data), data.is_video)


def row_names(data: PredictDataset) -> list[str]:
    """A file name without suffix for each row."""
    labels = labels_of(data)
    views = labels["views"]
    names = []
    for person, image, view, frame in zip(labels["ids"], labels["image_names"], views, labels["frames"], strict=True):
        parts = [Path(image).stem, person, f"view{view}" if max(views) else "", f"frame{frame}"]
        names.append(file_name("_".join(part for part in parts if part)))
    return names


def title_of(data: PredictDataset) -> str:
    """The picture's name where there is one only."""
    names = set(data.people.image_names) - {""}
    if len(names) == 1:
        return names.pop()
    return f"{len(names)} pictures" if names else f"{len(set(data.people.ids))} people"


def mean_known(errors: Float[Tensor, " people"]) -> float:
    """The mean of the errors that are known; NaN where none is."""
    return float(errors[errors.isfinite()].mean())


def _estimate(outputs: Mapping[str, Tensor], prefix: str) -> SMPLEstimate:
    return SMPLEstimate(*(torch.as_tensor(outputs[prefix + key]).float() for key in ("pose_rot6d", "betas", "transl")))
