"""Where a fit starts: the estimate of a released regressor, of another method, or of the open keypoint regressor."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from posecore.body.named_joints import NamedJoints
from posecore.data.predict_dataset import PredictDataset
from posecore.data.sample import PoseSample
from posecore.export.predictions import read_predictions
from posecore.export.smpl_predictions import FORMAT, read_smpl_predictions
from posecore.fitting.estimate import SMPLEstimate
from posecore.fitting.joints import fit_to_joints
from posecore.geometry.placement import solve_translation
from posecore.geometry.rotation import rot6d_to_rotmat, rotmat_to_rot6d
from scorehmr.keypoints import NUM_KEYPOINTS, KeypointRegressor, keypoint_encoding


class KeypointStart(nn.Module):
    """Pose and shape by a keypoint regressor, translation by the rays through the keypoints.

    Args:
        weights: The regressor's: a shipped name (``cmu``, or the less accurate ``start_weak``) or a file.
    """

    def __init__(self, weights: str = "cmu") -> None:
        super().__init__()
        self.regressor = KeypointRegressor.from_weights(weights)
        self.regressor.requires_grad_(False)

    def forward(self, batch: PoseSample, body: NamedJoints) -> SMPLEstimate:
        """The estimate of each person."""
        return regressed_start(self.regressor, batch, body)


@torch.no_grad()
def regressed_start(regressor: KeypointRegressor, batch: PoseSample, body: NamedJoints) -> SMPLEstimate:
    """What a keypoint regressor says.

    Args:
        regressor: The network.
        batch: ``joints_2d_px``, ``confidence``, ``K``; nothing else is read.
        body: Gives OpenPose's 25 joints.
    """
    raw, betas = regressor(keypoint_encoding(batch))
    # Six numbers of the network are no two columns of a rotation yet; the diffusion model has seen nothing else.
    pose = rotmat_to_rot6d(rot6d_to_rotmat(raw))
    at_origin = SMPLEstimate(pose, betas, pose.new_zeros(len(pose), 3))
    joints = body(betas, at_origin.body_pose, at_origin.global_orient)
    seen = batch["joints_2d_px"][:, :NUM_KEYPOINTS], batch["confidence"][:, :NUM_KEYPOINTS], batch["K"]
    transl = solve_translation(joints[:, None], *seen)[:, 0]
    return SMPLEstimate(pose, betas, transl)


def cached_start(batch: PoseSample) -> SMPLEstimate | None:
    """The estimate that the dataset brings along, or None."""
    if "start_body_pose" not in batch:
        return None
    return SMPLEstimate.from_rotmat(
        batch["start_global_orient"], batch["start_body_pose"], batch["start_betas"], batch["start_transl"]
    )


def read_start(path: Path, data: PredictDataset) -> dict[str, Tensor]:
    """Another method's predictions of the same people as ``start_...`` rows of a sample.

    Both kinds that this project's `predict` writes will do: SMPL parameters, and 3D joints (ZeDO, DiffuPose), to which
    a body is fitted first. Rows are matched by id, frame and, of SMPL parameters, view.

    Args:
        path: A ``predictions.npz``; of joints, ``predictions.json`` too.
        data: The people.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is neither, or a person is not in it.
    """
    if _is_smpl(path):
        found = read_smpl_predictions(path)
        views = found.views
        estimate = SMPLEstimate.from_rotmat(found.global_orient, found.body_pose, found.betas, found.transl)
    else:
        joints = read_predictions(path)
        found, views = joints, (0,) * len(joints)  # type: ignore[assignment]
        estimate = fit_to_joints(joints.best_joints, joints.joint_set)
    place = {key: row for row, key in enumerate(zip(found.ids, found.frames, views, strict=True))}
    people = data.people
    wanted = list(zip(people.ids, people.frames, data.samples["view"].tolist(), strict=True))
    seen = data.known.tolist()
    if missing := [key for key, known in zip(wanted, seen, strict=True) if known and key not in place]:
        person, frame, view = missing[0]
        raise ValueError(
            f"start: {path} has nobody with id {person!r} in frame {frame}, view {view} ({len(missing)} of "
            f"{len(wanted)} rows are missing); give the predictions of the same keypoint file"
        )
    # Rows without a keypoint take any; the fit interpolates them.
    rows = estimate.take(torch.tensor([place.get(key, 0) for key in wanted]))
    return {
        "start_global_orient": rows.global_orient,
        "start_body_pose": rows.body_pose,
        "start_betas": rows.betas,
        "start_transl": rows.transl,
    }


def _is_smpl(path: Path) -> bool:
    """Whether a file is one of SMPL parameters; whatever else it is, its own reader says."""
    if path.suffix != ".npz" or not path.is_file():
        return False
    try:
        with np.load(path, allow_pickle=False) as content:
            return "format" in content and str(content["format"]) == FORMAT
    except (ValueError, OSError, EOFError):
        return False
