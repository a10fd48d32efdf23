"""Every YAML file parses into its method's classes, and each default states the paper's numbers."""

import re
from functools import cache
from pathlib import Path

import pytest
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from diffupose.data import DiffuPoseDataModule
from diffupose.module import DiffuPose
from posecore.training.prediction_writer import PredictionWriter
from zedo.data import ZeDODataModule
from zedo.module import ZeDO

PACKAGES = Path(__file__).parents[1] / "packages"
METHODS = {"diffupose": (DiffuPose, DiffuPoseDataModule), "zedo": (ZeDO, ZeDODataModule)}
DIFFUPOSE = PACKAGES / "diffupose/diffupose/configs"
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
    assert len(CONFIGS) > 65


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


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(PACKAGES)))
def test_commands_name_configs_that_exist(path: Path) -> None:
    method = path.relative_to(PACKAGES).parts[0]
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for name in re.findall(r"--config (\S+\.yaml)", "\n".join(comments)):
        assert (PACKAGES / method / method / "configs" / name).is_file(), name


def test_diffupose_default_is_the_paper() -> None:
    config = parser_of("diffupose").parse_args(["--config", str(DIFFUPOSE / "default.yaml")])
    assert config.model.dim == 384  # Table 4, the chosen combination
    assert config.model.num_hypotheses == 10
    assert config.model.schedule == "cosine_100"  # Sec. 4.2
    assert config.model.sampling.sampler == "ddpm"
    assert config.model.sampling.num_inference_steps == 100
    assert config.model.sampling.flip
    assert config.model.aggregation == "mean"  # Sec. 4.3
    assert config.model.coordinates == "image"
    assert config.model.pose_scale == 1
    assert config.model.w_keypoints == 0.8
    assert config.model.lr == 4e-5
    assert (config.model.lr_schedule, config.model.lr_decay) == ("exponential", 0.995)
    assert config.model.joint_set == config.data.joint_set == "h36m16"
    assert config.data.batch_size == 1024
    assert (config.data.flip_prob, config.data.truncate_prob) == (0.5, 0)
    assert config.trainer.max_epochs == 200
    assert config.trainer.accumulate_grad_batches == 2
    (train,) = config.data.train
    assert (train.init_args.subjects, train.init_args.keypoints) == ("train", "hr")
    assert config.data.test["h36m"].init_args.subjects == "test"


def test_diffupose_humaneva_is_the_paper() -> None:
    config = _diffupose("default.yaml", "data/humaneva.yaml")
    assert (config.trainer.max_epochs, config.data.batch_size) == (1000, 128)  # Sec. 4.2
    assert config.model.joint_set == config.data.joint_set == "humaneva15"


def test_diffupose_rows_change_only_what_they_name() -> None:
    """On the paper's data and on open data alike; the bound of the shipped weights survives other samplers."""
    for base in ("default.yaml", "data/cmu.yaml"):
        before = _diffupose(base)
        for row in sorted(DIFFUPOSE.glob("[st]*/*.yaml")) + sorted(DIFFUPOSE.glob("aggregation/*.yaml")):
            after = _diffupose(base, str(row))
            assert after.data == before.data, row
            assert after.trainer == before.trainer, row
            assert after.model.sampling.clip_x0 == before.model.sampling.clip_x0, row
            if row.parent.name == "table4":
                assert row.stem == f"n{after.model.num_hypotheses}_d{after.model.dim}"
            if row.parent.name == "sampling":
                assert row.stem == f"ddim_{after.model.sampling.num_inference_steps}"


def _diffupose(*configs: str) -> Namespace:
    args = [part for config in configs for part in ("--config", str(DIFFUPOSE / config))]
    return parser_of("diffupose").parse_args(args)


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
