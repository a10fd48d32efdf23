import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from posecore.body.named_joints import NamedJoints
from posecore.data.predict_input import PredictInput
from posecore.data.sample import PoseSample
from posecore.export.smpl_predictions import SMPLPredictions, write_smpl_npz
from posecore.geometry.rotation import random_rotmat, rotmat_to_rot6d
from posecore.training.checkpoints import save_weights
from scorehmr.features import KeypointFeatures
from scorehmr.keypoints import KeypointRegressor
from scorehmr.start import KeypointStart, cached_start, read_start, regressed_start


class Oracle(KeypointRegressor):
    """A regressor that knows the answer."""

    def __init__(self, pose: Tensor, betas: Tensor) -> None:
        super().__init__(4, 0)
        self.answer = pose, betas

    def forward(self, encoding: Tensor) -> tuple[Tensor, Tensor]:
        return self.answer


def true_pose(batch: PoseSample) -> Tensor:
    return rotmat_to_rot6d(torch.cat((batch["global_orient"][:, None], batch["body_pose"]), dim=1))


def test_the_right_body_is_put_where_it_stands(body: NamedJoints, people: PoseSample, make: SimpleNamespace) -> None:
    """Exact keypoints, in part unseen, and the true pose and shape: the translation is the true one."""
    batch = make.confidence(people)
    found = regressed_start(Oracle(true_pose(batch), batch["betas"]), batch, body)
    torch.testing.assert_close(found.transl, batch["transl"], atol=5e-3, rtol=0)
    assert torch.equal(found.betas, batch["betas"])
    assert not found.pose_rot6d.requires_grad


def test_nobody_seen_is_finite(body: NamedJoints, people: PoseSample) -> None:
    batch = cast(PoseSample, {**people, "confidence": torch.zeros_like(people["confidence"])})
    found = regressed_start(KeypointRegressor(4, 1), batch, body)
    for value in (found.pose_rot6d, found.betas, found.transl):
        assert bool(torch.isfinite(value).all())
    assert bool((found.transl[:, 2] > 0).all())


def test_keypoint_start_reads_weights_and_is_frozen(body: NamedJoints, people: PoseSample, tmp_path: Path) -> None:
    features = KeypointFeatures(feature_dim=5, num_blocks=1)
    path = tmp_path / "start.safetensors"
    save_weights(path, nn.ModuleDict({"features": features}), "scorehmr", {})
    start = KeypointStart(str(path))
    assert not any(parameter.requires_grad for parameter in start.parameters())
    found, expected = start(people, body), regressed_start(features.regressor, people, body)
    assert torch.equal(found.pose_rot6d, expected.pose_rot6d)
    assert torch.equal(found.transl, expected.transl)
    with pytest.raises(FileNotFoundError, match="weights: 'nobody'"):
        KeypointStart("nobody")


def test_the_truth_is_not_read(body: NamedJoints, people: PoseSample) -> None:
    allowed: Any = {key: people[key] for key in ("joints_2d_px", "confidence", "K")}  # type: ignore[literal-required]
    regressor = KeypointRegressor(4, 1)
    assert torch.equal(
        regressed_start(regressor, allowed, body).transl, regressed_start(regressor, people, body).transl
    )


def test_cached_start_is_what_the_data_set_brings(people: PoseSample) -> None:
    assert cached_start(people) is None
    keys = ("global_orient", "body_pose", "betas", "transl")
    batch: Any = {**people, **{f"start_{key}": people[key] for key in keys}}  # type: ignore[literal-required]
    found = cached_start(batch)
    assert found is not None
    torch.testing.assert_close(found.pose_rot6d, true_pose(people))
    torch.testing.assert_close(found.global_orient, people["global_orient"], atol=1e-5, rtol=0)
    assert torch.equal(found.betas, people["betas"])
    assert torch.equal(found.transl, people["transl"])


def test_a_file_of_hypotheses_starts_from_its_pick(tmp_path: Path) -> None:
    """What Diff-HMR writes: several poses per person, one of which is the row's own, and no reprojection error."""
    photo = tmp_path / "photo.png"
    Image.new("RGB", (60, 40)).save(photo)
    keypoints = {"nose": [20.0, 10.0], "l_hip": [25.0, 30.0]}
    people = [{"id": name, "frame": 2, "keypoints": keypoints} for name in "ab"]
    (tmp_path / "k.json").write_text(json.dumps({"joint_set": "coco17", "people": people}))
    data = PredictInput(photo, tmp_path / "k.json").dataset("joints44", True, "people")
    generator = torch.Generator().manual_seed(0)
    root, body = random_rotmat((2, 5), generator), random_rotmat((2, 5, 23), generator)
    best = torch.tensor([3, 1])
    rows = torch.arange(2)
    made = SMPLPredictions(
        method="DiffHMR",
        body="open_body",
        global_orient=root[rows, best],
        body_pose=body[rows, best],
        betas=torch.randn(2, 10, generator=generator),
        transl=torch.randn(2, 3, generator=generator),
        joints=torch.zeros(2, 24, 3),
        joint_set=data.joint_set,
        keypoints_2d_px=data.samples["joints_2d_px"],
        confidence=data.samples["confidence"],
        reprojection_error_px=torch.full((2,), torch.nan),
        K=data.samples["K"],
        image_size=data.samples["image_size"],
        camera_assumed=True,
        camera_statement="assumed",
        ids=data.people.ids,
        frames=data.people.frames,
        views=(0, 0),
        image_names=data.people.image_names,
        hypotheses_global_orient=root,
        hypotheses_body_pose=body,
        best=best,
        pick="the medoid",
    )
    write_smpl_npz(tmp_path / "predictions.npz", made)
    fit = PredictInput(photo, tmp_path / "k.json").dataset("joints44", True)
    start = read_start(tmp_path / "predictions.npz", fit)
    for name in ("global_orient", "body_pose", "betas", "transl"):
        torch.testing.assert_close(start[f"start_{name}"], getattr(made, name), atol=1e-5, rtol=0)
