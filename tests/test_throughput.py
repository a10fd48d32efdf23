"""What keeps a training from waiting: pose-only methods read whole batches from memory, and every run says its wait."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI

POSE_ONLY = {"diffupose": "DiffuPose", "scorehmr": "ScoreHMR", "zedo": "ZeDO"}
PACKAGES = Path(__file__).parents[1] / "packages"


def calls_of_a_batch(method: str, batch_size: int, folder: Path) -> int:
    """Python calls that it takes to have one training batch ready, augmentation included."""
    module = getattr(importlib.import_module(f"{method}.module"), POSE_ONLY[method])
    datamodule = getattr(importlib.import_module(f"{method}.data"), f"{POSE_ONLY[method]}DataModule")
    smoke = PACKAGES / method / method / "configs" / "smoke.yaml"
    cli = LightningCLI(
        module,
        datamodule,
        args=["--config", str(smoke), f"--data.batch_size={batch_size}", "--trainer.logger=false",
              "--trainer.callbacks=[]", "--trainer.default_root_dir", str(folder)],
        run=False,
        save_config_callback=None,
        seed_everything_default=0,
        auto_configure_optimizers=False,
    )  # fmt: skip
    data: Any = cli.datamodule
    data.trainer = cli.trainer
    data.setup("fit")
    cli.trainer.training = True
    batches = iter(data.train_dataloader())
    data.on_after_batch_transfer(next(batches), 0)  # whatever is made once
    count = 0

    def note(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        batch = data.on_after_batch_transfer(next(batches), 0)
    finally:
        sys.setprofile(None)
    assert len(next(iter(batch.values()))) == batch_size
    return count


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
@pytest.mark.parametrize("method", POSE_ONLY)
def test_a_row_more_costs_a_batch_no_more_than_its_index(method: str, tmp_path: Path) -> None:
    small, large = (calls_of_a_batch(method, size, tmp_path) for size in (4, 64))
    # The samplers hand on one index after the other, three calls for each; reading a sample would take dozens.
    assert large - small <= 3 * (64 - 4) + 20


def test_every_config_that_lists_callbacks_of_a_training_measures_it() -> None:
    seen = 0
    for path in PACKAGES.rglob("configs/**/*.yaml"):
        callbacks = (yaml.safe_load(path.read_text()).get("trainer") or {}).get("callbacks") or []
        names = [callback["class_path"] for callback in callbacks]
        if any(name.endswith("ModelCheckpoint") for name in names):
            seen += 1
            assert "posecore.training.Throughput" in names, path
    assert seen > 15
