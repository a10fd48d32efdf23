import pytest
import torch

from posecore.body.files import load_body_model
from posecore.body.smpl import SMPLLayer
from posecore.data import DetectorNoise, SyntheticMotion
from posecore.data.motion_samples import make_samples
from posecore.data.synthetic import synthetic_motions
from posecore.testing import assert_pose_dataset


@pytest.mark.parametrize("cameras", ["single", "ring", "track"])
def test_smpl_parameters_agree_with_the_joints_in_the_camera(cameras: str) -> None:
    dataset = SyntheticMotion(num_clips=2, joints="body", cameras=cameras, views=2, stride=7)
    assert_pose_dataset(dataset)
    model = load_body_model()
    rows = dataset.samples
    full = SMPLLayer(model)(
        betas=rows["betas"], body_pose=rows["body_pose"], global_orient=rows["global_orient"], transl=rows["transl"]
    )
    assert model.J_regressor_h36m is not None
    torch.testing.assert_close(model.J_regressor_h36m @ full.vertices, rows["joints_cam"], atol=2e-5, rtol=0)


def test_recorded_skeletons_carry_no_smpl_parameters() -> None:
    dataset = SyntheticMotion(num_clips=1)
    assert not {"betas", "body_pose", "global_orient", "transl"} & set(dataset.samples)


def test_views_and_stride_order_the_rows() -> None:
    motions = synthetic_motions(1)
    samples = make_samples(motions, views=3, stride=5)
    frames = motions[0].frame_index[::5]
    assert samples["frame"].tolist() == frames.repeat_interleave(3).tolist()
    assert samples["view"].tolist() == [0, 1, 2] * len(frames)
    # All views of a frame see the same person: distances between joints are the same.
    joints = samples["joints_cam"].unflatten(0, (-1, 3))
    distances = torch.cdist(joints, joints, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(distances[:, 0], distances[:, 2], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("betas", "shapes"), [("mean", 1), ("clip", 2), ("frame", None)])
def test_shapes_per_frame_clip_or_none(betas: str, shapes: int | None) -> None:
    rows = make_samples(synthetic_motions(2), joints="body", betas=betas, stride=10)["betas"]
    assert len(rows.unique(dim=0)) == (len(rows) if shapes is None else shapes)
    assert rows.abs().max() <= 2.5
    if betas == "mean":
        assert (rows == 0).all()


def test_noise_changes_the_detection_and_nothing_else() -> None:
    motions = synthetic_motions(1)
    exact, noisy = make_samples(motions), make_samples(motions, noise=DetectorNoise())
    assert torch.equal(exact["joints_cam"], noisy["joints_cam"])
    assert torch.equal(exact["joints_2d_true_px"], noisy["joints_2d_true_px"])
    assert not torch.equal(exact["joints_2d_px"], noisy["joints_2d_px"])
    assert (noisy["confidence"] < 1).any()
    assert torch.equal(make_samples(motions, noise=DetectorNoise())["joints_2d_px"], noisy["joints_2d_px"])


def test_no_motion() -> None:
    with pytest.raises(ValueError, match="motions: expected at least one clip"):
        make_samples([])
