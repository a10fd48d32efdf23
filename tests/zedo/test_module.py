import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer

from posecore.body.skeletons import H36M_17
from posecore.data import PoseSample, PoseTable
from posecore.geometry.camera import project
from posecore.metrics.protocols import PROTOCOLS, evaluate
from zedo.data import ZeDODataModule
from zedo.module import ZeDO
from zedo.sampler import InitialPose, Loop

SUBJECTS = ["S9"] * 4 + ["S11"] * 2
ACTIONS = ["Walking"] * 3 + ["Eating"] * 2 + ["Walking"]
CELLS = {"frame": [range(6)], "action": [[0, 1, 2, 5], [3, 4]], "subject_action": [[0, 1, 2], [3], [4], [5]]}


def table(root: Path) -> PoseTable:
    joints_rel = 0.3 * torch.randn(6, 17, 3, generator=torch.Generator().manual_seed(0))
    joints_rel = joints_rel - joints_rel[:, :1]
    K = torch.tensor([[1000.0, 0, 500], [0, 1000, 500], [0, 0, 1]]).repeat(6, 1, 1)
    seen = project(joints_rel + torch.tensor([0.0, 0.0, 3.0]), K)
    labels = PoseSample(joints_rel=joints_rel, joints_2d_px=seen, confidence=torch.ones(6, 17), K=K)
    return PoseTable(H36M_17, labels | PoseSample(subject=SUBJECTS, action=ACTIONS))


@pytest.mark.parametrize("averaging", CELLS)
def test_test_averages_as_the_protocol_says(tmp_path: Path, averaging: str) -> None:
    torch.manual_seed(0)
    model = ZeDO(
        hidden_dim=32,
        embed_dim=16,
        num_hypotheses=1,
        initial_pose=InitialPose(num_steps=2),
        loop=Loop(num_iterations=3),
    )
    model.anchors_1.copy_(torch.randn(1, 17, 3))
    model.protocol = dataclasses.replace(PROTOCOLS["zedo_h36m"], averaging=averaging)
    data = ZeDODataModule(tmp_path, test={"people": table}, batch_size=6)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    (found,) = trainer.test(model, data, verbose=False)
    batch = table(tmp_path).__getitems__(range(6))
    with torch.no_grad():
        result = model.eval()(batch)
    for metric, values in evaluate(model.protocol, result.joints_rel, batch["joints_rel"]).items():
        expected = torch.stack([values[list(cell)].mean() for cell in CELLS[averaging]]).mean()
        assert found[f"test/people/{metric}"] == pytest.approx(expected.item(), rel=1e-4)
        assert found[f"test/people/chosen_{metric}"] == pytest.approx(expected.item(), rel=1e-4)


def test_anchors_of_a_file_take_the_place_of_the_weights_own(tmp_path: Path) -> None:
    poses = 0.3 * np.random.default_rng(0).standard_normal((3, 17, 3))
    poses -= poses[:, :1]
    np.save(tmp_path / "centres.npy", poses)
    model = ZeDO(hidden_dim=32, embed_dim=16, num_hypotheses=3, anchors_file=tmp_path / "centres.npy")
    np.testing.assert_allclose(model.initial_anchors(), poses, atol=1e-6)
    assert not {name for name in model.state_dict() if "centres" in name or "anchors_3" in name}
    model = ZeDO(hidden_dim=32, embed_dim=16, num_hypotheses=1, anchors_file=tmp_path / "centres.npy")
    model.anchors_1.fill_(0.5)
    with pytest.raises(ValueError, match=r"anchors_file: .* has shape \(3, 17, 3\), expected \(1, 17, 3\)"):
        model.initial_anchors()
    with pytest.raises(ValueError, match="anchors_file: takes the place of K-means anchors, but anchors is 'random'"):
        ZeDO(anchors="random", anchors_file=tmp_path / "centres.npy")
    with pytest.raises(ValueError, match=r"has no anchors; give .* model.anchors_file"):
        ZeDO(hidden_dim=32, embed_dim=16).initial_anchors()
