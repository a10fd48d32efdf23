import pytest
import torch

from posecore.body.skeletons import H36M_16, H36M_17, LSP_14, MPI_INF_3DHP_17, MPI_INF_3DHP_28
from posecore.data.base import PoseTable, select_joints
from posecore.data.sample import PoseSample


def test_select_joints_keeps_joints_by_name_and_every_other_key() -> None:
    rows = torch.arange(3.0)[:, None, None]
    numbered = torch.arange(28.0)[:, None].expand(28, 3) + 100 * rows  # each joint holds its index
    samples = PoseSample(
        joints_cam=numbered,
        joints_rel=numbered + 1000,
        joints_2d_px=numbered[..., :2] + 2000,
        confidence=numbered[..., 0] + 3000,
        joints_2d_true_px=numbered[..., :2] + 4000,
        K=torch.eye(3).repeat(3, 1, 1),
        body_pose=torch.randn(3, 23, 3, 3),
        clip=["a", "b", "c"],
        frame=torch.arange(3),
    )
    table = PoseTable(MPI_INF_3DHP_28, samples)
    cut = select_joints(table, MPI_INF_3DHP_17)
    assert cut.joint_set is MPI_INF_3DHP_17
    assert len(cut) == 3
    batch = cut.__getitems__([2])
    expected = torch.tensor([MPI_INF_3DHP_28.joint_names.index(name) for name in MPI_INF_3DHP_17.joint_names]) + 200.0
    for key, offset in (("joints_cam", 0), ("joints_rel", 1000), ("joints_2d_px", 2000), ("joints_2d_true_px", 4000)):
        torch.testing.assert_close(batch[key][0, :, 1], expected + offset)
    torch.testing.assert_close(batch["confidence"][0], expected + 3000)
    assert batch["clip"] == ["c"]
    assert torch.equal(batch["body_pose"], samples["body_pose"][2:])
    assert torch.equal(batch["K"], samples["K"][2:])
    assert samples["joints_cam"].shape == (3, 28, 3)  # the table itself is as it was


def test_select_joints_refuses_other_joints_and_roots() -> None:
    seventeen = PoseTable(H36M_17, PoseSample(joints_rel=torch.zeros(1, 17, 3)))
    assert select_joints(seventeen, H36M_16)[0]["joints_rel"].shape == (16, 3)
    sixteen = PoseTable(H36M_16, PoseSample(joints_rel=torch.zeros(1, 16, 3)))
    with pytest.raises(ValueError, match="has the joints of h36m16, not of h36m17: it lacks neck_nose"):
        select_joints(sixteen, H36M_17)
    with pytest.raises(ValueError, match=r"the root of mpii3d28 is pelvis, that of lsp14 is l_hip\+r_hip"):
        select_joints(PoseTable(MPI_INF_3DHP_28, PoseSample(joints_rel=torch.zeros(1, 28, 3))), LSP_14)
