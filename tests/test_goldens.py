"""Goldens: loss, gradient norm and one sample of each method after one seeded step.

A change of these numbers is a change of what the method computes. If it was not meant, find it. If it was, say so in
CHANGELOG, and write new ones: ``python tests/test_goldens.py --update``.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from posecore.geometry.camera import project
from zedo.losses import denoising_score_matching_loss
from zedo.network import ScoreNetwork
from zedo.prior import BackboneName, make_backbone
from zedo.sampler import InitialPose, Loop, Target, optimise

FOLDER = Path(__file__).parent / "goldens"


def zedo(backbone_name: BackboneName) -> dict[str, object]:
    """One Adam step of a small prior, then ZeDO on two made-up people."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = ScoreNetwork(hidden_dim=128, embed_dim=32, dropout=0.0)
    backbone = make_backbone(backbone_name)
    poses = torch.randn(16, 17, 3, generator=generator) * 0.3
    poses = poses - poses[:, :1]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x_t, noise, label = backbone.perturb(poses, generator)
    loss = denoising_score_matching_loss(network(x_t, label), noise)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in network.parameters()])
    optimizer.step()
    K = torch.tensor([[1000.0, 0, 500], [0, 1000, 500], [0, 0, 1]]).expand(2, 3, 3)
    pixels = project(poses[:2] + torch.tensor([0.0, 0, 4]), K)
    target = Target(pixels, torch.ones(2, 17), K)
    loop = Loop(num_iterations=50)
    result = optimise(network.eval(), backbone, poses[4:6], target, InitialPose(num_steps=20), loop, generator)
    return {
        "loss": loss.item(),
        "gradient_norm": norm.item(),
        "translation": result.transl[0, 0].tolist(),
        "left_wrist": result.joints_rel[1, 1, 13].tolist(),
        "reprojection_px": result.reprojection_px.flatten().tolist(),
    }


CASES: dict[str, Callable[[], dict[str, object]]] = {
    "zedo_score": lambda: zedo("score"),
    "zedo_ddim": lambda: zedo("ddim"),
    "zedo_ddpm": lambda: zedo("ddpm"),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    expected = json.loads((FOLDER / f"{name}.json").read_text())
    found = CASES[name]()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # Loose enough for another CPU's order of summation, far tighter than any change of the method.
        torch.testing.assert_close(
            torch.tensor(found[key]), torch.tensor(value), rtol=2e-3, atol=2e-4, msg=lambda m, key=key: f"{key}: {m}"
        )


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit("usage: python tests/test_goldens.py --update")
    FOLDER.mkdir(exist_ok=True)
    for name, case in CASES.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(case(), indent=2) + "\n")
