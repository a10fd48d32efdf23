"""Every YAML file parses into its method's classes, and each default states the paper's numbers."""

from functools import cache
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from posecore.training.prediction_writer import PredictionWriter
from zedo.data import ZeDODataModule
from zedo.module import ZeDO

PACKAGES = Path(__file__).parents[1] / "packages"
METHODS = {"zedo": (ZeDO, ZeDODataModule)}
CONFIGS = sorted(path for method in METHODS for path in (PACKAGES / method / method / "configs").rglob("*.yaml"))


@cache
def parser_of(method: str) -> LightningArgumentParser:
    """The method's parser as the CLI builds it, without running anything."""
    module, datamodule = METHODS[method]
    parser = LightningArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--seed_everything", type=bool | int, default=True)
    parser.add_lightning_class_args(module, "model")
    parser.add_lightning_class_args(datamodule, "data")
    parser.add_lightning_class_args(PredictionWriter, "output")
    parser.add_lightning_class_args(Trainer, "trainer")
    return parser


def test_configs_are_found() -> None:
    assert len(CONFIGS) > 25


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(PACKAGES)))
def test_config_parses_on_top_of_the_default(path: Path) -> None:
    method = path.relative_to(PACKAGES).parts[0]
    default = PACKAGES / method / method / "configs" / "default.yaml"
    args = ["--config", str(default)] if path.parts[-2] != "configs" else []
    config = parser_of(method).parse_args([*args, "--config", str(path)])
    assert config.model.num_hypotheses >= 1
    header = path.read_text().splitlines()[:4]
    assert header[0].startswith("# "), "the first line says what the config is"
    assert any(f"{method} " in line for line in path.read_text().splitlines() if line.startswith("#"))


def test_zedo_default_is_the_paper() -> None:
    config = parser_of("zedo").parse_args(["--config", str(PACKAGES / "zedo/zedo/configs/default.yaml")])
    assert config.model.loop.num_iterations == 1000  # Sec. 4.2
    assert config.model.loop.t_start == 0.1
    assert config.model.initial_pose.rotation_axes == "z"
    assert config.model.lr == 2e-4
    assert config.data.batch_size == 50000
    assert config.trainer.max_epochs == 5000
    assert config.data.flip_prob == 0.5


def test_the_last_config_replaces_the_test_sets() -> None:
    folder = PACKAGES / "zedo/zedo/configs"
    config = parser_of("zedo").parse_args(
        ["--config", str(folder / "default.yaml"), "--config", str(folder / "data/cmu.yaml")]
    )
    assert sorted(config.data.test) == ["test_subjects", "test_takes"]


def test_unknown_option_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("model:\n  num_hypothesis: 3\n")
    with pytest.raises(SystemExit):
        parser_of("zedo").parse_args(["--config", str(broken)])
