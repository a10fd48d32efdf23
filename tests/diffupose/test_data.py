"""Licensed data in their real layouts through the command line, and the mirroring of training batches."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

import diffupose
from diffupose.data import DiffuPoseDataModule
from diffupose.module import DiffuPose
from posecore.cli import run
from posecore.data.human36m import Human36M
from posecore.data.sample import PoseSample
from posecore.geometry.placement import reprojection_error, solve_translation
from posecore.testing import write_human36m, write_humaneva

CONFIGS = Path(diffupose.__file__).parent / "configs"
HUMANEVA = [f"{half}/S{person}" for half in ("Train", "Validate") for person in (1, 2, 3)]
RULES = ("", "refined_", "mean_", "medoid_", "reprojection_", "min_", "true_root_")
SMALL = [
    "--model.dim=32", "--model.num_hypotheses=1", "--model.sampling.sampler=ddim",
    "--model.sampling.num_inference_steps=5", "--data.batch_size=64", "--trainer.accelerator=cpu",
    "--trainer.precision=32-true", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
]  # fmt: skip


def scores_of(config: str, root: Path, folder: Path) -> dict[str, float]:
    """Metrics of ``diffupose test`` with an untrained network."""
    args = ["test", "--config=default.yaml", f"--config={config}", f"--data.root={root}", *SMALL]
    run(DiffuPose, DiffuPoseDataModule, CONFIGS, [*args, f"--trainer.default_root_dir={folder}"])
    (path,) = folder.rglob("metrics.json")
    metrics: dict[str, float] = json.loads(path.read_text())["metrics"]
    assert np.isfinite(list(metrics.values())).all()
    return metrics


@pytest.mark.parametrize("config", ["data/h36m_hr.yaml", "data/h36m_cpn.yaml", "data/h36m_gt.yaml"])
def test_human36m_is_scored_per_action_and_on_average(config: str, tmp_path: Path) -> None:
    write_human36m(tmp_path / "human36m", subjects=("S9", "S11"))
    metrics = scores_of(config, tmp_path, tmp_path / "run")
    for rule in RULES:
        for metric in ("mpjpe", "pa_mpjpe"):
            path = f"test/h36m/{rule}{metric}"
            actions = {name for name in metrics if name.startswith(f"{path}/")}
            assert actions == {f"{path}/Directions", f"{path}/Walking"}
            # Twice as many Walking frames as Directions: the average is over actions, not over frames.
            assert metrics[path] == pytest.approx(np.mean([metrics[name] for name in actions]), abs=1e-3)
    assert "test/h36m/n_mpjpe" in metrics


def test_humaneva_is_scored_per_person_and_action(tmp_path: Path) -> None:
    write_humaneva(tmp_path / "humaneva", HUMANEVA)
    metrics = scores_of("data/humaneva.yaml", tmp_path, tmp_path / "run")
    for rule in RULES:
        path = f"test/humaneva/{rule}pa_mpjpe"
        cells = {name.removeprefix(f"{path}/") for name in metrics if name.startswith(f"{path}/")}
        assert cells == {f"S{person} {action}" for person in (1, 2, 3) for action in ("Walk", "Jog")}
        assert metrics[path] == pytest.approx(np.mean([metrics[f"{path}/{cell}"] for cell in cells]), abs=1e-3)


@pytest.mark.parametrize("config", ["h36m_hr", "humaneva"])
def test_the_paper_s_training_takes_a_step(config: str, tmp_path: Path) -> None:
    if config == "humaneva":
        write_humaneva(tmp_path / "humaneva", HUMANEVA)
    else:
        write_human36m(tmp_path / "human36m", subjects=("S1", "S5", "S6", "S7", "S8", "S9", "S11"), frames=3)
    args = ["fit", "--config=default.yaml", f"--config=data/{config}.yaml", f"--data.root={tmp_path}", *SMALL]
    args += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.check_val_every_n_epoch=1"]
    args += ["--trainer.log_every_n_steps=1", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    cli = run(DiffuPose, DiffuPoseDataModule, CONFIGS, args)
    assert cli.trainer.global_step == 2 // cli.trainer.accumulate_grad_batches
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    assert list((tmp_path / "run").rglob("last.ckpt"))


class Recorder(LightningModule):
    """Keeps the batches that a method would be trained and validated with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[PoseSample] = []
        self.validated: list[PoseSample] = []

    def training_step(self, batch: PoseSample) -> Tensor:
        self.batches.append(batch)
        return self.weight.square()

    def validation_step(self, batch: PoseSample) -> None:
        self.validated.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches_of(
    root: Path, flip_prob: float, seed: int = 0, epochs: int = 1, truncate_prob: float = 0.0
) -> tuple[PoseSample, PoseSample]:
    """What training and validation see of 2,400 poses in batches of 100, joined."""

    def make(folder: Path) -> Human36M:
        return Human36M(folder, subjects=["S1"], joint_set="h36m16")

    options = {"flip_prob": flip_prob, "truncate_prob": truncate_prob}
    data = DiffuPoseDataModule(root, [make], {"h36m": make}, batch_size=100, seed=seed, **options)
    recorder = Recorder()
    Trainer(max_epochs=epochs, accelerator="cpu", barebones=True, num_sanity_val_steps=0).fit(recorder, data)
    return _join(recorder.batches), _join(recorder.validated)


def _join(batches: list[PoseSample]) -> PoseSample:
    keys = ("joints_rel", "joints_2d_px", "confidence", "image_size", "K")
    return {key: torch.cat([batch[key] for batch in batches]) for key in keys}  # type: ignore[return-value,literal-required,misc]


def is_mirrored(samples: PoseSample) -> Tensor:
    """The four cameras' principal points lie 10 to 13 pixels right of the middle; those of mirrored cameras left."""
    return samples["K"][:, 0, 2] < samples["image_size"][:, 0] / 2


def error_px(samples: PoseSample) -> Tensor:
    """How far each pose is from its keypoints, at the place where it fits best."""
    seen = samples["joints_2d_px"], samples["confidence"], samples["K"]
    joints = samples["joints_rel"][:, None]
    return reprojection_error(joints, solve_translation(joints, *seen), *seen)[:, 0]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("h36m")
    write_human36m(root, subjects=("S1",), frames=200)
    return root


def test_mirroring_moves_pose_keypoints_and_camera_together(recorded: Path) -> None:
    whole = Human36M(recorded, subjects=["S1"], joint_set="h36m16")
    table = whole.__getitems__(range(len(whole)))
    batch, validated = batches_of(recorded, 0.5)
    mirrored = is_mirrored(batch)
    # Half of 2,400 poses; 122 is five standard deviations.
    assert abs(int(mirrored.sum()) - 1200) < 122
    assert error_px(batch).max() < 0.02
    # Every row is a row of the data, or its mirror image with left and right exchanged.
    order = list(whole.joint_set.flip)
    image = table["joints_rel"][:, order] * torch.tensor([-1.0, 1.0, 1.0])
    for rows, source in ((~mirrored, table["joints_rel"]), (mirrored, image)):
        distance = torch.cdist(batch["joints_rel"][rows].flatten(1).double(), source.flatten(1).double())
        assert distance.min(dim=1).values.max() < 1e-5
    # One of the three left behind would show: the principal points are off the middle, and people are not symmetric.
    unmirrored: PoseSample = {**batch, "K": torch.where(mirrored[:, None, None], _mirror_camera(batch), batch["K"])}
    assert error_px(unmirrored)[mirrored].min() > 0.1
    for key in ("joints_rel", "joints_2d_px", "K"):
        assert torch.equal(validated[key], table[key]), f"validation is not mirrored: {key}"  # type: ignore[literal-required]


def _mirror_camera(samples: PoseSample) -> Tensor:
    K = samples["K"].clone()
    K[:, 0, 2] = samples["image_size"][:, 0] - K[:, 0, 2]
    return K


@pytest.mark.parametrize(("flip_prob", "share"), [(0.0, 0.0), (0.2, 0.2), (1.0, 1.0)])
def test_mirroring_has_the_asked_for_probability(recorded: Path, flip_prob: float, share: float) -> None:
    batch, _ = batches_of(recorded, flip_prob)
    found = is_mirrored(batch).double().mean()
    assert abs(found - share) <= 5 * (share * (1 - share) / 2400) ** 0.5


def test_mirroring_is_repeatable_and_different_in_every_epoch(recorded: Path) -> None:
    first, _ = batches_of(recorded, 0.5, epochs=2)
    again, _ = batches_of(recorded, 0.5, epochs=2)
    other, _ = batches_of(recorded, 0.5, epochs=2, seed=1)
    assert all(torch.equal(first[key], again[key]) for key in ("joints_rel", "joints_2d_px", "K"))  # type: ignore[literal-required]
    assert not torch.equal(first["K"], other["K"])
    early, late = is_mirrored(first).split(2400)
    assert not torch.equal(early, late)


def test_cutting_people_off_changes_confidences_alone(recorded: Path) -> None:
    whole, _ = batches_of(recorded, 0.5)
    cut, validated = batches_of(recorded, 0.5, truncate_prob=0.3)
    for key in ("joints_rel", "joints_2d_px", "K", "image_size"):
        assert torch.equal(cut[key], whole[key]), key  # type: ignore[literal-required]
    assert (whole["confidence"] == 1).all()
    missing = (cut["confidence"] == 0).any(dim=1)
    assert abs(int(missing.sum()) - 720) < 113  # 2,400 times 0.3; five standard deviations
    assert (cut["confidence"] > 0).any(dim=1).all()
    assert (validated["confidence"] == 1).all()


@pytest.mark.parametrize("name", ["flip_prob", "truncate_prob"])
def test_probabilities_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be a probability, got 1\.5"):
        DiffuPoseDataModule(**{name: 1.5})
