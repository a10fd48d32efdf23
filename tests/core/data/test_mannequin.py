from pathlib import Path

import pytest
import torch

from posecore.data.mannequin import MannequinChallenge
from posecore.data.smpl_groups import SMPLGroups
from posecore.testing import write_gendered_bodies, write_smpl_groups, write_start_cache


def test_rows_are_views_of_a_fitted_body(tmp_path: Path) -> None:
    people = write_smpl_groups(tmp_path, "mannequin.pkl", counts=(3, 2))
    write_start_cache(tmp_path / "start.pkl", people)
    models = write_gendered_bodies(tmp_path / "models")
    data = MannequinChallenge(tmp_path, image_size=(1280, 720), start="start.pkl", body_models=models)
    assert data.samples["clip"] == ["0000"] * 3 + ["0001"] * 2
    assert data.samples["view"].tolist() == [0, 1, 2, 0, 1]
    assert data.samples["frame"].eq(0).all()
    assert data.samples["joints_smpl24_cam"].shape == (5, 24, 3)
    plain = SMPLGroups(
        tmp_path, "mannequin.pkl", "views", start="start.pkl", image_size=(1280, 720), truth="smpl", body_models=models
    )
    assert set(data.samples) == set(plain.samples)
    for key, value in plain.samples.items():
        found = data.samples[key]  # type: ignore[literal-required]
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value


def test_other_files_and_missing_ones(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no mannequin.pkl .*ScoreHMR"):
        MannequinChallenge(tmp_path)
    write_smpl_groups(tmp_path, "mine.pkl")
    data = MannequinChallenge(tmp_path, "mine.pkl", image_size=(1280, 720), truth="keypoints")
    assert len(data) == 7
    with pytest.raises(ValueError, match=r"truth: \['mesh'\] unknown, valid are keypoints, smpl"):
        MannequinChallenge(tmp_path, "mine.pkl", truth="mesh")
