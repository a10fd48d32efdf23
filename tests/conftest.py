"""Checks every jaxtyping signature of the plain-PyTorch parts with beartype, and gives tests the real-data folder."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Tests run side by side, one process a core: threads of one would only wait for those of another. The variable is for
# the programs that tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Must run before the packages are imported anywhere in the test session.
install_import_hook(
    [
        "posecore.geometry",
        "posecore.body",
        "posecore.diffusion",
        "posecore.fitting",
        "posecore.metrics",
        "posecore.data",
        "posecore.render",
        "posecore.export",
        "zedo.network",
        "zedo.losses",
        "zedo.prior",
        "zedo.sampler",
        "zedo.anchors",
        "diffhmr.blocks",
        "diffhmr.network",
        "diffhmr.encoder",
        "diffhmr.representation",
        "diffhmr.losses",
        "diffhmr.sampler",
        "diffhmr.scores",
        "diffupose.network",
        "diffupose.unet",
        "diffupose.losses",
        "diffupose.keypoints",
        "diffupose.sampler",
        "diffupose.scoring",
        "scorehmr.network",
        "scorehmr.prepared",
        "scorehmr.latent",
        "scorehmr.losses",
        "scorehmr.keypoints",
        "scorehmr.sampler",
        "scorehmr.features",
        "scorehmr.start",
        "scorehmr.guidance",
        "scorehmr.prior",
        "scorehmr.fitting",
        "hmdiff.backbone",
        "hmdiff.pose_distribution",
        "hmdiff.pose_head",
        "hmdiff.mesh",
        "hmdiff.true_meshes",
        "hmdiff.network",
        "hmdiff.losses",
        "hmdiff.dat",
        "hmdiff.sampler",
        "hmdiff.scores",
    ],
    "beartype.beartype",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips, with the reason said, what this machine cannot run."""
    data_root = os.environ.get("HUMANDIFF_DATA")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if "real_data" in item.keywords and not data_root:
            item.add_marker(pytest.mark.skip(reason="needs real data: set HUMANDIFF_DATA to the folder that holds it"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data (``cmu_mocap/``, ``photos/``); only for tests marked ``real_data``."""
    return Path(os.environ["HUMANDIFF_DATA"])


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator, so that a failing draw fails again."""
    return torch.Generator().manual_seed(0)
