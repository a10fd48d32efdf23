"""Every YAML file parses into its method's classes, and each default states the paper's numbers."""

import re
from functools import cache
from pathlib import Path

import pytest
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from diffhmr.data import DiffHMRDataModule
from diffhmr.module import DiffHMR
from diffupose.data import DiffuPoseDataModule
from diffupose.module import DiffuPose
from hmdiff.data import HMDiffDataModule
from hmdiff.module import SHIPPED, HMDiff
from hmdiff.writer import HMDiffWriter
from posecore.training.prediction_writer import PredictionWriter
from posecore.training.results import Results, unit_of
from posecore.training.smpl_writer import SMPLWriter
from scorehmr.data import ScoreHMRDataModule
from scorehmr.module import ScoreHMR
from zedo.data import ZeDODataModule
from zedo.module import ZeDO

PACKAGES = Path(__file__).parents[1] / "packages"
METHODS = {
    "diffhmr": (DiffHMR, DiffHMRDataModule, SMPLWriter),
    "diffupose": (DiffuPose, DiffuPoseDataModule, PredictionWriter),
    "hmdiff": (HMDiff, HMDiffDataModule, HMDiffWriter),
    "scorehmr": (ScoreHMR, ScoreHMRDataModule, SMPLWriter),
    "zedo": (ZeDO, ZeDODataModule, PredictionWriter),
}
DIFFHMR = PACKAGES / "diffhmr/diffhmr/configs"
DIFFUPOSE = PACKAGES / "diffupose/diffupose/configs"
HMDIFF = PACKAGES / "hmdiff/hmdiff/configs"
SCOREHMR = PACKAGES / "scorehmr/scorehmr/configs"
CONFIGS = sorted(path for method in METHODS for path in (PACKAGES / method / method / "configs").rglob("*.yaml"))
ROWS = [path for path in CONFIGS if path.parent.name.startswith("table")]
# Rows that the paper prints no number of: it fits with ProHMR's own prior, these with the diffusion model's and ours.
WITHOUT_NUMBERS = {"scorehmr/table2/gaussian", "scorehmr/table2/prior"}


@cache
@cache
def parser_of(method: str) -> LightningArgumentParser:
    """The method's parser as the CLI builds it, without running anything."""
    module, datamodule, writer = METHODS[method]
    parser = LightningArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--seed_everything", type=bool | int, default=True)
    parser.add_lightning_class_args(module, "model")
    parser.add_lightning_class_args(datamodule, "data")
    parser.add_lightning_class_args(writer, "output")
    parser.add_lightning_class_args(Results, "results")
    parser.add_lightning_class_args(Trainer, "trainer")
    return parser


def test_configs_are_found() -> None:
    assert len(CONFIGS) > 90


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(PACKAGES)))
def test_config_parses_on_top_of_the_default(path: Path) -> None:
    method = path.relative_to(PACKAGES).parts[0]
    default = PACKAGES / method / method / "configs" / "default.yaml"
    args = ["--config", str(default)] if path.parts[-2] != "configs" else []
    config = parser_of(method).parse_args([*args, "--config", str(path)])
    if method == "scorehmr":  # one estimate for each person
        assert config.model.hidden_dim >= 1
    else:
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


@pytest.mark.parametrize("path", ROWS, ids=lambda path: str(path.relative_to(PACKAGES)))
def test_rows_say_what_the_paper_printed(path: Path) -> None:
    method = path.relative_to(PACKAGES).parts[0]
    results = _on_its_configs(method, path).results
    if f"{method}/{path.parent.name}/{path.stem}" in WITHOUT_NUMBERS:
        assert not results.paper
        return
    assert path.parent.name.removeprefix("table") in re.findall(r"\d+", results.table)  # "Tables 1 and 2" share rows
    assert results.row
    assert results.paper
    for name, number in results.paper.items():
        assert unit_of(name), name
        assert number > 0, name
        assert number <= 1 or unit_of(name) != "share", f"{name}: the paper's percent are shares here"
    command = next(line for line in path.read_text().splitlines() if line.startswith("# Command"))
    assert str(path.relative_to(path.parents[1])) in command, "the command runs this row"


def _on_its_configs(method: str, path: Path) -> Namespace:
    """A row on top of the configs that the command in its header names."""
    folder = PACKAGES / method / method / "configs"
    command = next(line for line in path.read_text().splitlines() if line.startswith("# Command"))
    args = [part for name in re.findall(r"--config (\S+\.yaml)", command) for part in ("--config", str(folder / name))]
    return parser_of(method).parse_args(args)


def test_diffhmr_default_is_the_paper() -> None:
    """What the paper leaves open is SPIN's, or the usual DDPM's."""
    config = _diffhmr("default.yaml")
    model = config.model
    assert (model.backbone, model.pretrained, model.image_size) == ("resnet50", True, 224)  # Sec. 3.2, 2048 x 7 x 7
    assert (model.estimator, model.rotation, model.conditioning) == ("diffusion", "rot6d", "concat")
    assert (model.schedule, model.sampling.num_inference_steps) == ("cosine_1000", None)
    assert tuple(model.counts) == (1, 5, 10, 25)  # Table 1
    assert model.num_hypotheses == 25
    assert model.protocol == "spin_3dpw"
    assert (model.lr, config.data.batch_size) == (5e-5, 64)  # SPIN's
    augmentation = config.data.augmentation
    assert (augmentation.rotation_degrees, augmentation.scale, augmentation.pixel_noise) == (30, 0.25, 0.4)
    assert augmentation.size == model.image_size
    assert [train.init_args.files for train in config.data.train] == [
        ["h36m_train.npz"], ["mpi_inf_3dhp_train.npz"], ["coco_2014_train.npz"], ["mpii_train.npz"]
    ]  # fmt: skip
    assert sum(config.data.train_weights) == pytest.approx(1)
    assert config.data.test["3dpw"].init_args.truth == "smpl"


def test_diffhmr_rows_change_only_what_they_name() -> None:
    """On the paper's data and on open data alike."""
    for base in ("default.yaml", "data/open.yaml"):
        before = _diffhmr(base)
        for row in sorted(DIFFHMR.glob("*/*.yaml")):
            folder = row.parent.name
            if folder == "data":
                continue
            after = _diffhmr(base, str(row))
            assert after.trainer == before.trainer, row
            if folder != "table2":
                assert after.data == before.data, row
            changed = _changed(before.model, after.model)
            allowed = {
                "table1": {"num_hypotheses", "counts"},
                "table2": {"rotation", "protocol"},
                "sampling": {"sampling"},
                "conditioning": {"conditioning"},
                "x0": {"loss_weights"},
            }[folder]
            assert changed <= allowed, row


def _diffhmr(*configs: str) -> Namespace:
    args = [part for config in configs for part in ("--config", str(DIFFHMR / config))]
    return parser_of("diffhmr").parse_args(args)


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


def test_hmdiff_default_is_the_paper() -> None:
    """What Sec. 5 and the figures say; the rest is in a supplement that is not public."""
    config = _hmdiff("default.yaml")
    model = config.model
    assert (model.stage, model.estimator, model.joint_set) == ("mesh", "diffusion", "smpl24")
    assert (model.backbone, model.pretrained, model.image_size) == ("hrnet_w64", True, 224)  # f_c 2048 x 7 x 7
    assert (model.output_stride, model.conditioning, model.image_feature) == (None, "image", "pooled")  # f_I 128 x 49
    assert (model.num_layers, model.upsampler, model.adjacency_mask) == (1, "fixed", False)
    assert (model.schedule, model.prediction_type, model.unit) == ("linear_200", "epsilon", 1)
    assert (model.num_hypotheses, model.lr) == (25, 1e-4)
    assert (model.sampling.num_inference_steps, model.sampling.eta, model.sampling.start) == (40, 0, "noise")
    dat = model.alignment
    assert (dat.of, dat.gamma, dat.threshold, dat.activation) == ("estimate", 0.2, 0.05, True)
    assert (dat.poses, dat.num_poses) == ("samples", 25)
    assert model.protocol == "hmdiff_3dpw"
    assert str(model.pyramid) == "data/body_models/smpl_pyramid.npz"  # 431 vertices by the tool's default
    assert config.data.augmentation.size == model.image_size
    names = ["h36m_train.npz", "up3d_train.npz", "muco_train.npz", "coco_2014_train.npz", "mpii_train.npz"]
    assert [train.init_args.files for train in config.data.train] == [[name] for name in names]
    assert all(train.init_args.require_pose for train in config.data.train)
    assert config.data.test["3dpw"].init_args.truth == "smpl"


def test_hmdiff_stages_share_backbone_and_head() -> None:
    """So that what stage 1 writes is what stage 2 loads, of the paper's data, of open data and of hands."""
    hands = ("default.yaml", "data/freihand.yaml")
    for first, second in (
        (("pose.yaml",), ("default.yaml",)),
        (("data/open_pose.yaml",), ("data/open.yaml",)),
        ((*hands, "data/freihand_pose.yaml"), hands),
    ):
        pose, mesh = _hmdiff(*first).model, _hmdiff(*second).model
        assert (pose.stage, mesh.stage) == ("pose", "mesh")
        for name in ("backbone", "output_stride", "image_size", "head_channels", "depth_range", "joint_set",
                     "keypoints", "body_model", "pyramid", "protocol"):  # fmt: skip
            assert getattr(pose, name) == getattr(mesh, name), name


def test_hmdiff_rows_change_only_what_they_name() -> None:
    """On the paper's data and on open data alike; what trains nothing changes samplers alone."""
    tests_only = {"standard", "disrupted", "h_u", "no_activation", "single_pose", "gap_of_estimate"}
    allowed = {
        "table3/a": {"estimator"},
        "table3/b": {"estimator", "num_layers"},
        "table4/standard": {"alignment", "sampling"},
        "table4/pose": {"conditioning", "alignment", "sampling"},
        "table4/both": {"conditioning", "alignment", "sampling"},
        "table5/h_u": {"sampling"},
        "table5/disrupted": {"alignment"},
        "table5/single_pose": {"alignment"},
        "table5/no_activation": {"alignment"},
        "readings/adjacency": {"adjacency_mask"},
        "readings/alpha_linear": {"schedule"},
        "readings/gap_of_estimate": {"alignment"},
        "readings/learned_upsampler": {"upsampler"},
        "readings/projected": {"image_feature"},
        "readings/v_prediction": {"prediction_type"},
    }
    # These say what a data set's config is compared with, no more.
    of_data = {"table1/3dpw", "table1/h36m", "table2/freihand", "table6/h36m"}
    rows = {f"{path.parent.name}/{path.stem}" for path in HMDIFF.glob("[rt]*/*.yaml")} - of_data
    assert rows == set(allowed)
    for row in of_data:
        assert _hmdiff("default.yaml", f"{row}.yaml").model == _hmdiff("default.yaml").model, row
    paper = _hmdiff("default.yaml").model
    for base in ("default.yaml", "data/open.yaml"):
        before = _hmdiff(base)
        for row in sorted(rows):
            after = _hmdiff(base, f"{row}.yaml")
            assert after.data == before.data, row
            assert after.trainer == before.trainer, row
            changed = _changed(before.model, after.model)
            # Open data have two of the readings already.
            already = base == "data/open.yaml" and row in ("readings/projected", "readings/v_prediction")
            assert changed == (set() if already else allowed[row]), row
            command = re.findall(r"# Command: hmdiff (\w+) .*", (HMDIFF / f"{row}.yaml").read_text())
            assert command == ["test" if Path(row).name in tests_only else "fit"], row
            for part in changed & {"alignment", "sampling"}:
                # Without these the class's own are used, which are the paper's.
                assert len(_changed(getattr(paper, part), getattr(after.model, part))) == 1, row


def test_hmdiff_open_weights_have_one_architecture() -> None:
    """In training, in `predict` and in Python."""
    trained, used = _hmdiff("data/open.yaml").model, _hmdiff("open.yaml").model
    for name, value in SHIPPED.items():
        assert getattr(trained, name) == getattr(used, name) == value, name
    training = {"pretrained", "noise_draws", "loss_weights", "lr", "lr_schedule", "warmup_steps"}
    assert _changed(trained, used) <= training | {"weights", "sampling"}


def _hmdiff(*configs: str) -> Namespace:
    args = [part for config in configs for part in ("--config", str(HMDIFF / config))]
    return parser_of("hmdiff").parse_args(args)


def test_scorehmr_default_is_the_paper() -> None:
    """What the paper leaves open is the released program's."""
    config = _scorehmr("default.yaml")
    model, data = config.model, config.data
    assert model.features.class_path == "scorehmr.features.CachedFeatures"
    assert model.features.init_args.dim == 3072  # PARE's pose features, 128 x 24
    assert (model.num_blocks, model.hidden_dim, model.diffuse_shape) == (3, 1024, False)  # Sec. 4.2
    assert model.schedule == "cosine_1000"
    assert model.train == "denoiser"
    assert (model.low_noise_share, model.start, model.weights) == (0, None, None)
    weights = model.terms
    assert (weights.keypoints, weights.sigma, weights.use_hips) == (0.003, 100, True)
    assert not any((weights.views, weights.calibrated, weights.temporal, weights.keypoints_3d, weights.mean_betas))
    assert model.fit.fitter == "scorehmr"
    guidance = model.fit.guidance
    assert (guidance.noise_level, guidance.step, guidance.outer_loops) == (50, 2, 10)
    assert (guidance.gradient_scale, guidance.camera_lr, guidance.stop_change) == (1, 1e-2, 1e-5)
    assert not guidance.through_network
    assert guidance.w_prior == 0
    assert model.protocol == "scorehmr_3dpw"
    assert (model.lr, model.lr_schedule, model.warmup_steps) == (1e-4, "constant", 0)
    assert (data.batch_size, data.joint_set) == (128, "joints44")
    files = [(train.init_args.files[0].split("_train")[0], share)
             for train, share in zip(data.train, data.train_weights, strict=True)]  # fmt: skip
    assert sorted(files) == [("coco", 0.3), ("h36m", 0.5), ("mpi_inf_3dhp", 0.2)]
    assert all(train.init_args.require_pose for train in data.train)
    assert (data.flip_prob, data.truncate_prob, data.coco_prob, data.drop_prob) == (0, 0, 0, 0)
    assert data.test["3dpw"].init_args.truth == "smpl"
    assert config.trainer.max_steps == 1_000_000
    assert config.trainer.gradient_clip_val == 1
    (ema,) = [callback for callback in config.trainer.callbacks if callback.class_path.endswith("EMA")]
    assert (ema.init_args.decay, ema.init_args.every_n_steps) == (0.995, 10)


def test_scorehmr_applications_are_the_releases() -> None:
    views, video = (_scorehmr("default.yaml", f"terms/{name}.yaml").model for name in ("views", "video"))
    assert (views.terms.keypoints, views.terms.views, views.terms.mean_betas) == (0, 450, True)  # 0.005 * 300^2
    guidance = views.fit.guidance
    assert (guidance.noise_level, guidance.step, guidance.outer_loops, guidance.stop_change) == (100, 10, 2, None)
    assert (video.terms.keypoints, video.terms.temporal, video.terms.views) == (0.003, 30, 0)
    guidance = video.fit.guidance
    assert (guidance.noise_level, guidance.step, guidance.outer_loops, guidance.stop_change) == (50, 2, 10, None)


def test_scorehmr_rows_change_only_what_they_name() -> None:
    """Terms bring weights and their loop, starts a start, data the data; each on the paper's data and on open data."""
    allowed = {"terms": {"terms", "fit"}, "start": {"start"}}
    rows = [path for folder in allowed for path in sorted((SCOREHMR / folder).glob("*.yaml"))]
    assert len(rows) >= 4
    for base in ("default.yaml", "data/cmu.yaml"):
        before = _scorehmr(base)
        assert _changed(before.model, _scorehmr(base, "terms/keypoints.yaml").model) == set(), "the default application"
        for row in rows:
            after = _scorehmr(base, str(row))
            assert after.data == before.data, row
            assert after.trainer == before.trainer, row
            assert _changed(before.model, after.model) <= allowed[row.parent.name], row
            assert after.model.fit.fitter == before.model.fit.fitter, row
    before = _scorehmr("data/cmu.yaml")
    for name, in_model in (("cmu_views", set()), ("cmu_video", {"protocol"})):
        after = _scorehmr("data/cmu.yaml", f"data/{name}.yaml")
        assert _changed(before.model, after.model) == in_model
        assert _changed(before.data, after.data) == {"test"}
        assert after.trainer == before.trainer


def _changed(before: Namespace, after: Namespace) -> set[str]:
    old, new = vars(before), vars(after)
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def _scorehmr(*configs: str) -> Namespace:
    args = [part for config in configs for part in ("--config", str(SCOREHMR / config))]
    return parser_of("scorehmr").parse_args(args)


def test_zedo_default_is_the_paper() -> None:
    config = parser_of("zedo").parse_args(["--config", str(PACKAGES / "zedo/zedo/configs/default.yaml")])
    assert config.model.loop.num_iterations == 1000  # Sec. 4.2
    assert config.model.loop.t_start == 0.1
    assert config.model.initial_pose.rotation_axes == "z"
    assert config.model.lr == 2e-4
    assert config.data.batch_size == 50000
    assert config.trainer.max_epochs == 5000
    assert config.data.flip_prob == 0.5


def test_zedo_rows_of_one_number_are_one_setting() -> None:
    """The paper prints some results in up to three tables."""
    rows: dict[tuple[str, float], list[Namespace]] = {}
    for path in sorted((PACKAGES / "zedo/zedo/configs").glob("table*/*.yaml")):
        row = _on_its_configs("zedo", path)
        ((name, number),) = [item for item in row.results.paper.items() if item[0].endswith("/mpjpe")]
        rows.setdefault((name, number), []).append(row)
    assert sum(len(same) for same in rows.values()) > len(rows) + 8
    for place, same in rows.items():
        assert all((row.model, row.data) == (same[0].model, same[0].data) for row in same), place


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


def test_fast_zedo_runs_the_prior_as_far_as_the_default() -> None:
    """Over-integration is part of the method: fewer iterations are longer ones."""
    configs = PACKAGES / "zedo/zedo/configs"
    parser = parser_of("zedo")
    default, fast = (
        parser.parse_args(["--config", str(configs / "default.yaml"), *extra]).model.loop
        for extra in ([], ["--config", str(configs / "fast.yaml")])
    )
    assert fast.num_iterations < default.num_iterations
    assert fast.num_iterations * fast.dt == pytest.approx(default.num_iterations * default.dt)
    assert fast.warmup == default.warmup
