"""Keeps what a method's `test` found, row by row, so that every number can be computed from it afterwards."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from posecore.data.sample import PoseSample
from posecore.export.files import atomic_write
from posecore.training.step_outputs import StepOutputs

_OF_BATCH = ("confidence", "smpl24_visible", "R_world_to_cam", "frame", "view")
_LABELS = ("subject", "clip", "action")


class Recorder(Callback):
    """Writes ``<set>.npz`` of every test set.

    ====================  =================  ==========================================================================
    array                 shape              meaning
    ====================  =================  ==========================================================================
    ``joints_rel``        (rows, n, J, 3)    what the step calls its hypotheses, metres; ScoreHMR: start and fit
    ``samples_rel``       (rows, S, J, 3)    samples, where ``joints_rel`` is something else
    ``pose``              (rows, J, 3)       the one answer, which no truth chose
    ``target``            (rows, J, 3)       truth
    ``known``             (rows, J)          which of it is known, where not all is
    ``reprojection_px``   (rows, n)          of the hypotheses, where the method says it
    ``calls``             (rows,)            evaluations of the network for one hypothesis
    ``seconds``           (batches,)         inside the method's ``forward``; nothing of reading or scoring
    others                (rows, ...)        keys of the batch
    ====================  =================  ==========================================================================

    Args:
        folder: Where to.
    """

    on_batch: ClassVar[Callable[[float], None] | None] = None
    """Called after every batch with the share of the run that is done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts: dict[str, list[dict[str, Any]]] = {}
        self._hooks: list[Any] = []
        self._start, self._seconds = 0.0, 0.0
        self._found: Any = None
        self._batches = 0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts a clock around the method's ``forward``."""
        self._parts, self._batches = {name: [] for name in trainer.datamodule.test_names}, 0  # type: ignore[attr-defined]
        self._hooks = [
            pl_module.register_forward_pre_hook(self._before),
            pl_module.register_forward_hook(self._after),
        ]

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PoseSample,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps a batch.

        Raises:
            SystemExit: The program was asked to end (SIGTERM); Lightning notes that, and tests on.
        """
        if trainer.received_sigterm:
            raise SystemExit(128 + signal.SIGTERM)
        made: StepOutputs = outputs
        part: dict[str, Any] = {
            key: made[key]  # type: ignore[literal-required]
            for key in ("joints_rel", "samples_rel", "pose", "target", "known")
            if made.get(key) is not None
        }
        rows: dict[str, Any] = dict(batch)
        part |= {key: rows[key] for key in _OF_BATCH if key in rows}
        part = {key: _array(value) for key, value in part.items()}
        part |= {key: np.array(rows[key]) for key in _LABELS if key in rows}
        if isinstance(error := getattr(self._found, "reprojection_px", None), Tensor):
            part["reprojection_px"] = error.cpu().numpy()
        part["calls"] = network_calls(pl_module, self._found).expand(len(part["pose"])).cpu().numpy()
        part["seconds"] = np.array([self._seconds])
        self._found = None
        self._parts[trainer.datamodule.test_names[dataloader_idx]].append(part)  # type: ignore[attr-defined]
        self._batches += 1
        if Recorder.on_batch is not None:
            Recorder.on_batch(self._batches / max(sum(trainer.num_test_batches), 1))  # type: ignore[arg-type]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files.

        Raises:
            ValueError: A set has no row.
        """
        for hook in self._hooks:
            hook.remove()
        for name, parts in self._parts.items():
            if not parts:
                raise ValueError(f"data.test.{name}: has no rows")
            arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            with atomic_write(self.folder / f"{name}.npz") as file:
                np.savez(file, allow_pickle=False, **arrays)

    def _before(self, module: LightningModule, args: Any) -> None:
        self._start = time.perf_counter()

    def _after(self, module: LightningModule, args: Any, found: Any) -> None:
        self._seconds, self._found = time.perf_counter() - self._start, found


def network_calls(module: Any, found: Any) -> Tensor:
    """Evaluations of the diffusion model's network that one hypothesis took, a scalar or one for each row.

    Args:
        module: The method, with the settings it ran with.
        found: What its ``forward`` returned; ScoreHMR says there how many loops each person took part in.

    Raises:
        ValueError: The method is not one of the five.
    """
    match type(module).__name__:
        case "ZeDO":
            return torch.tensor(float(module.loop.num_iterations))
        case "DiffuPose":
            mirrored = 2 if module.sampling.flip else 1  # the mirrored keypoints are sampled, too
            return torch.tensor(float(mirrored * _steps(module)))
        case "DiffHMR":
            return torch.tensor(float(_steps(module) if module.denoiser is not None else 0))
        case "HMDiff":
            return torch.tensor(float(_steps(module) if module.estimator == "diffusion" else 1))
        case "ScoreHMR":
            return _calls_of_fit(module.settings, found)
        case name:
            raise ValueError(f"module: {name} is none of the five methods")


def _steps(module: Any) -> int:
    steps = module.sampling.num_inference_steps
    return int(module.schedule.num_train_timesteps if steps is None else steps)


def _calls_of_fit(settings: Any, found: Any) -> Tensor:
    """Inversion and sampling take a call each per step; a warm-up, whose stop rule is the same, comes first."""
    loops: Tensor = found.loops.float()
    if settings.fitter == "prior" and settings.prior.prior == "diffusion":
        return torch.full_like(loops, settings.prior.steps)
    if settings.fitter != "scorehmr":
        return torch.zeros_like(loops)
    of_loop = 2 * settings.guidance.noise_level / settings.guidance.step
    if settings.warm_up is None:
        return loops * of_loop
    before = loops.clamp(max=settings.warm_up.outer_loops)
    return before * (2 * settings.warm_up.noise_level / settings.warm_up.step) + (loops - before) * of_loop


def _array(values: Tensor) -> np.ndarray:
    """NumPy knows no bfloat16, in which a product under autocast comes out."""
    return (values.float() if values.is_floating_point() else values).detach().cpu().numpy()
