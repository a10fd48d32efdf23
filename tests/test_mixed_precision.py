"""16-mixed and bf16-mixed for every method: 16 bits stay inside the networks, and training and sampling are finite.

Lightning makes bfloat16 of "16-mixed" on a CPU. Here its plugin for GPUs is given to the Trainer, so that float16 is
float16, with the scaler of gradients that belongs to it.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

METHODS = {"diffhmr": "DiffHMR", "diffupose": "DiffuPose", "hmdiff": "HMDiff", "scorehmr": "ScoreHMR", "zedo": "ZeDO"}
pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
HALVES = (torch.float16, torch.bfloat16)
PRECISIONS = ("16-mixed", "bf16-mixed")
# Where 16 bits may arise: networks, and selections of what they give.
NETWORKS = {
    "diffhmr": {"diffhmr.blocks", "diffhmr.network", "training.timm_backbone"},
    "diffupose": {"diffupose.network"},
    "hmdiff": {"hmdiff.network", "hmdiff.pose_head", "training.timm_backbone"},
    "scorehmr": {"scorehmr.keypoints", "scorehmr.network"},
    "zedo": {"zedo.network"},
}
SMALL = {
    "diffhmr": ["--data.batch_size", "2"],
    "hmdiff": ["--data.batch_size", "2", "--model.final_steps", "1", "--model.loss_weights.edge_from", "0"],
}


def build(method: str, folder: Path, *args: str, plugins: Any = (), callbacks: Any = ()) -> LightningCLI:
    """The smoke run of a method, in this process, without the callbacks of its config."""
    module = getattr(importlib.import_module(f"{method}.module"), METHODS[method])
    data = getattr(importlib.import_module(f"{method}.data"), f"{METHODS[method]}DataModule")
    smoke = Path(importlib.import_module(method).__file__ or "").parent / "configs" / "smoke.yaml"
    quiet = ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false", "--trainer.callbacks", "[]"]
    few = [f"--trainer.limit_{stage}_batches=1" for stage in ("val", "test")]
    return LightningCLI(
        module,
        data,
        args=["--config", str(smoke), "--trainer.default_root_dir", str(folder), *quiet, *few, "--data.batch_size=8",
              *SMALL.get(method, []), *args],
        run=False,
        save_config_callback=None,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        trainer_defaults={
            "plugins": list(plugins), "callbacks": list(callbacks), "enable_checkpointing": False,
            "enable_model_summary": False,
        },
    )  # fmt: skip


def plugin(precision: Any) -> MixedPrecision:
    # The usual first scale, 65,536, lets the first gradients overflow: the scaler would skip those steps.
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0) if precision == "16-mixed" else None  # type: ignore[attr-defined]
    return MixedPrecision(precision, "cpu", scaler)


class SixteenBits(TorchDispatchMode):
    """Notes the module of ours in whose lines a 16-bit tensor arises; those of a backward pass have no line."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        results = out if isinstance(out, tuple | list) else (out,)
        if any(isinstance(result, Tensor) and result.dtype in HALVES for result in results):
            self._note()
        return out

    def _note(self) -> None:
        frame = sys._getframe(2)
        while frame is not None and frame.f_code.co_name != "_engine_run_backward":
            place = Path(frame.f_code.co_filename)
            if "packages" in place.parts and "site-packages" not in place.parts:
                self.found.add(f"{place.parent.name}.{place.stem}")
                return
            frame = frame.f_back  # type: ignore[assignment]


class Audit(Callback):
    """Watches every step between the Trainer's hooks, and keeps what it gives."""

    def __init__(self) -> None:
        self.mode = SixteenBits()
        self.losses: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.mode.__enter__()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        self.mode.__exit__(None, None, None)
        self.losses.append(float(loss))

    def on_validation_batch_start(self, *args: Any) -> None:
        self.mode.__enter__()

    def on_validation_batch_end(self, *args: Any) -> None:
        self.mode.__exit__(None, None, None)

    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", METHODS)
def test_sixteen_bits_stay_in_the_networks(method: str, precision: str, tmp_path: Path) -> None:
    """Losses, validation, sampling, guidance and scores are watched operation by operation."""
    audit = Audit()
    cli = build(
        method, tmp_path, "--trainer.max_steps=1", "--trainer.gradient_clip_val=1.0",
        plugins=[plugin(precision)], callbacks=[audit],
    )  # fmt: skip
    before = {name: value.clone() for name, value in cli.model.named_parameters()}
    cli.trainer.fit(cli.model, cli.datamodule)
    (scores,) = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    assert audit.mode.found, "autocast is on"
    assert audit.mode.found <= NETWORKS[method]
    assert torch.tensor(audit.losses).isfinite().all()
    after = dict(cli.model.named_parameters())
    trained = [name for name, value in after.items() if value.requires_grad]
    assert any(not torch.equal(after[name], before[name]) for name in trained), "a step was taken"
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in after.values())
    assert "test/synthetic/mpjpe" in scores
    assert torch.tensor(list(scores.values())).isfinite().all()


class Gradients(Callback):
    """Gradients of every optimiser step: as they are before they are clipped, and as the optimiser saw them."""

    def __init__(self) -> None:
        self.whole: list[Tensor] = []
        self.clipped: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.whole.append(flat_gradient(pl_module))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.clipped.append(flat_gradient(pl_module))


def flat_gradient(model: torch.nn.Module) -> Tensor:
    gradients = [p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None]
    return torch.cat(gradients).clone()


@pytest.mark.parametrize("method", ["zedo", "diffhmr"])  # one group of parameters, and two
def test_gradients_are_clipped_after_the_scale_of_float16_is_taken_out(method: str, tmp_path: Path) -> None:
    """With the scale still in them, they would all be clipped to a 256th of what was asked for."""
    found = []
    for name, plugins in (("scaled", [plugin("16-mixed")]), ("plain", [])):
        gradients = Gradients()
        clip = ["--trainer.max_steps=1", "--trainer.gradient_clip_val=0.01", "--trainer.limit_val_batches=0"]
        cli = build(method, tmp_path / name, *clip, plugins=plugins, callbacks=[gradients])
        cli.trainer.fit(cli.model, cli.datamodule)
        (whole,), (clipped,) = gradients.whole, gradients.clipped
        assert float(whole.norm()) > 0.1
        assert float(clipped.norm()) == pytest.approx(0.01, rel=1e-3)
        torch.testing.assert_close(clipped, whole * float(0.01 / whole.norm()), rtol=1e-3, atol=1e-8)
        found.append(whole)
    assert float(torch.nn.functional.cosine_similarity(found[0], found[1], dim=0)) > 0.98
    assert float(found[0].norm() / found[1].norm()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_two_accumulated_batches_are_the_mean_of_both(method: str, tmp_path: Path) -> None:
    """Each with noise of its own, which `StepSeed` draws by batch and not by optimiser step."""
    found = {}
    for name, args in (("apart", []), ("together", ["--trainer.accumulate_grad_batches=2"])):
        gradients = Gradients()
        steps = ["--trainer.max_epochs=1", "--trainer.max_steps=-1", "--trainer.limit_train_batches=2"]
        still = ["--model.lr=0", "--trainer.limit_val_batches=0", "--trainer.gradient_clip_val=0"]
        seed = ["--trainer.callbacks+=posecore.training.StepSeed"]
        cli = build(method, tmp_path / name, *steps, *still, *seed, *args, callbacks=[gradients])
        cli.trainer.fit(cli.model, cli.datamodule)
        found[name] = gradients.whole
    first, second = found["apart"]
    (both,) = found["together"]
    assert not torch.allclose(first, second)
    torch.testing.assert_close(both, (first + second) / 2, rtol=1e-3, atol=1e-6)
