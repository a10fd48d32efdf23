from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from smplcodec import SMPLCodec
from smplcodec.codec import SMPLGender, SMPLVersion
from smplcodec.version import MAJOR

from posecore.body.files import BodyModel, load_body_model
from posecore.body.smpl import SMPLLayer
from posecore.export import write_smpl_file
from posecore.testing import swaying_body


@pytest.fixture(scope="module")
def smpl() -> BodyModel:
    """The open body under the name of an SMPL file."""
    return replace(load_body_model(), name="SMPL_NEUTRAL")


def test_smplcodec_reads_the_motion(tmp_path: Path, smpl: BodyModel) -> None:
    motion = swaying_body(smpl)
    motion = replace(motion, betas=motion.betas[:1])
    write_smpl_file(tmp_path / "a.smpl", motion)
    read = SMPLCodec.from_file(str(tmp_path / "a.smpl"))
    assert (read.codec_version, read.smpl_version, read.gender) == (MAJOR, SMPLVersion.SMPL, SMPLGender.NEUTRAL)
    assert (read.frame_count, read.frame_rate) == (8, 25.0)
    pose, transl, betas = (torch.from_numpy(a) for a in (read.body_pose, read.body_translation, read.shape_parameters))
    layer = SMPLLayer(smpl)
    made = layer(betas, pose[:, 1:], pose[:, 0], transl, pose_repr="axis_angle").vertices
    truth = layer(motion.betas, motion.body_pose, motion.global_orient, motion.transl).vertices
    np.testing.assert_allclose(made, truth * torch.tensor([1.0, -1.0, -1.0]), rtol=0, atol=1e-4)
    read.write(str(tmp_path / "b.smpl"))
    assert SMPLCodec.from_file(str(tmp_path / "b.smpl")) == read


def test_numbers_are_int32_and_float32(tmp_path: Path, smpl: BodyModel) -> None:
    write_smpl_file(tmp_path / "a.smpl", swaying_body(smpl))
    with np.load(tmp_path / "a.smpl", allow_pickle=False) as content:
        assert {array.dtype.name for array in content.values()} == {"int32", "float32"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.smpl"]


def test_the_open_bodys_shape_is_left_out(tmp_path: Path) -> None:
    motion = swaying_body(load_body_model(), frames=1)
    write_smpl_file(tmp_path / "a.smpl", motion)
    read = SMPLCodec.from_file(str(tmp_path / "a.smpl"))
    assert read.shape_parameters is None
    assert read.full_pose.shape == (1, 24, 3)


def test_a_missing_folder_is_named(tmp_path: Path, smpl: BodyModel) -> None:
    with pytest.raises(OSError, match="cannot be written"):
        write_smpl_file(tmp_path / "missing" / "a.smpl", swaying_body(smpl, frames=1))
