"""People whose SMPL parameters are known in a world that a camera moves through: what 3DPW and EMDB share."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posecore.body.files import BodyModel, Gender, load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import H36M_17, JOINTS_44, SMPL_24, JointSet
from posecore.body.smpl import SMPLLayer
from posecore.data.sample import PoseSample
from posecore.data.smpl_columns import read_features
from posecore.data.smpl_npz import cache_path
from posecore.data.start_estimates import FOCAL_LENGTH, CropBoxes, read_start_estimates
from posecore.geometry.camera import intrinsics

CAMERAS = ("calibrated", "assumed")
JOINT_SETS = {joint_set.name: joint_set for joint_set in (H36M_17, SMPL_24, JOINTS_44)}
"""Joints that `GenderedBodies` gives, by what ``joint_source`` calls them."""
_HOW_TO_OBTAIN_REGRESSOR = (
    "J_regressor_h36m.npy (17 x 6890) comes with the data of SPIN (GitHub: nkolot/SPIN, fetch_data.sh); put it beside "
    "the SMPL files. joint_source='smpl24' does without it"
)
_FRAMES_AT_ONCE = 512  # Bounds the memory of the skinned vertices.


class GenderedBodies:
    """Joints of gendered bodies, whose files are read when first asked for.

    Args:
        folder: with SMPL's files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: dict[str, BodyModel] = {}
        self.layers: dict[tuple[str, str], NamedJoints] = {}

    def joints(
        self,
        joint_set: JointSet,
        gender: str,
        betas: Float[Tensor, " betas"],
        pose: Float[Tensor, "frames 24 3 3"],
        transl: Float[Tensor, "frames 3"],
    ) -> Float[Tensor, "frames joints 3"]:
        """Joints in metres, float64, in the frame of pose and translation.

        Raises:
            FileNotFoundError: if a body's file or its Human3.6M regressor is not there.
            ValueError: if a file is broken.
        """
        if (gender, joint_set.name) not in self.layers:
            model = self._model(gender)
            if joint_set == H36M_17 and model.J_regressor_h36m is None:
                raise FileNotFoundError(f"no J_regressor_h36m.npy in {self.folder}. {_HOW_TO_OBTAIN_REGRESSOR}")
            self.layers[gender, joint_set.name] = NamedJoints(joint_set, model)
        layer = self.layers[gender, joint_set.name]
        parts = zip(pose.split(_FRAMES_AT_ONCE), transl.split(_FRAMES_AT_ONCE), strict=True)
        return torch.cat([layer(betas, part[:, 1:], part[:, 0], shift) for part, shift in parts])

    def pelvis(self, gender: str, betas: Float[Tensor, " betas"]) -> Float[Tensor, "3"]:
        """Where the pelvis rests: the body turns about it."""
        return SMPLLayer(self._model(gender), vertices=()).rest_joints(betas)[0]

    def _model(self, gender: str) -> BodyModel:
        if gender not in self.models:
            self.models[gender] = load_body_model(self.folder, cast(Gender, gender), dtype=torch.float64)
        return self.models[gender]


def find_bodies(root: Path, folders: tuple[str, ...], body_models: Path | None) -> GenderedBodies:
    """The bodies of ``body_models``; where that is None, those of ``body_models`` in ``root`` or one of ``folders``."""
    if body_models is None:
        places = [root / folder / "body_models" for folder in ("", *folders)]
        body_models = next((place for place in places if place.is_dir()), places[0])
    return GenderedBodies(Path(body_models))


def body_rows(
    rows: PoseSample,
    R_world_to_cam: Float[np.ndarray, "frames 3 3"],
    t_world_to_cam: Float[np.ndarray, "frames 3"],
    pose: Float[Tensor, "frames 24 3 3"],
    betas: Float[np.ndarray, "10"],
    transl: Float[np.ndarray, "frames 3"],
    pelvis: Float[np.ndarray, "*frames 3"],
) -> PoseSample:
    """Adds ``global_orient body_pose betas transl``, brought from the world into the camera frame.

    Args:
        rows: get the keys.
        R_world_to_cam: of each frame's camera.
        t_world_to_cam: metres.
        pose: rotations of SMPL's 24 joints, root first, world frame.
        betas: shape.
        transl: SMPL's translation in the world, metres.
        pelvis: where the body's pelvis rests, metres.
    """
    R = torch.from_numpy(R_world_to_cam)
    # A body turns about its pelvis, which rests at `pelvis`: R (pelvis + transl_world) + t = pelvis + transl_cam.
    moved = (R @ torch.from_numpy(pelvis + transl)[..., None])[..., 0]
    rows["global_orient"] = (R @ pose[:, 0]).float()
    rows["body_pose"] = pose[:, 1:].float()
    rows["betas"] = torch.from_numpy(betas).float().expand(len(R), -1).clone()
    rows["transl"] = (moved + torch.from_numpy(t_world_to_cam) - torch.from_numpy(pelvis)).float()
    return rows


def truth_rows(rows: PoseSample, gender: str, joints_smpl24_cam: Float[np.ndarray, "frames 24 3"]) -> PoseSample:
    """Adds what `SPINNpz` and `SMPLNpz` give with ``truth="smpl"`` beside pose and shape, all of it known."""
    count, joints = rows["joints_cam"].shape[:2]
    rows["joints_smpl24_cam"] = torch.from_numpy(joints_smpl24_cam).float()
    rows["joints_known"] = torch.ones(count, joints, dtype=torch.bool)
    rows["has_pose"] = torch.ones(count, dtype=torch.bool)
    rows["has_betas"] = torch.ones(count, dtype=torch.bool)
    rows["gender"] = [gender] * count
    return rows


def assumed_camera(samples: PoseSample) -> PoseSample:
    """The samples before the camera that released regressors assume, without what only the calibrated camera agrees to.

    Its focal length is 5000 px, its principal point the middle of the picture. Keypoints stay where they are in the
    picture. ``joints_cam`` stays in the calibrated camera's frame, whose axes are the same, and does not project to
    them any more: compare it relative to the pelvis.
    """
    left = {"joints_2d_true_px", "transl", "R_world_to_cam", "t_world_to_cam"}
    kept: dict[str, Any] = {key: value for key, value in samples.items() if key not in left}
    kept["K"] = intrinsics(FOCAL_LENGTH, samples["image_size"].double() / 2).float()
    return cast(PoseSample, kept)


def check_caches(features: str | None, start: str | None, stride: int, camera: str) -> None:
    """Checks that caches of all rows can be given.

    Raises:
        ValueError: if rows are skipped, or start estimates are for another camera.
    """
    if stride != 1 and (features or start):
        raise ValueError(
            f"stride: caches of features and start estimates hold every row, so it must be 1, got {stride}"
        )
    if start and camera != "assumed":
        raise ValueError(
            f"camera: start estimates stand before the camera that regressors assume, so it must be 'assumed', got "
            f"{camera!r}"
        )


def with_caches(samples: PoseSample, root: Path, features: str | None, start: str | None) -> PoseSample:
    """The samples with ``features`` and start estimates from caches of all of their rows.

    Args:
        samples: with ``box`` and ``image_size``.
        root: folder of the caches.
        features: name of the cache of features (`read_features`); None leaves them out.
        start: name of the cache of predictions (`read_start_estimates`); None leaves them out.

    Raises:
        FileNotFoundError: if a cache is not there.
        ValueError: if it has another number of rows or is broken.
    """
    out = cast(dict[str, Any], {**samples})
    rows, box = len(samples["box"]), samples["box"]
    if (path := cache_path(root, features)) is not None:
        out["features"] = read_features(path, rows)
    if (path := cache_path(root, start)) is not None:
        out |= read_start_estimates(path, rows, CropBoxes(box[:, :2], box[:, 2], samples["image_size"]))
    return cast(PoseSample, out)
