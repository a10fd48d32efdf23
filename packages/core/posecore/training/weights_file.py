"""The finished weights of a training run as a safetensors file that can be shipped."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from posecore.training.checkpoints import save_weights


class WeightsFile(Callback):
    """Writes ``weights.safetensors`` when training ends; after the EMA callback in the list, it holds the average.

    Args:
        path: Where to; ``weights.safetensors`` in the run's log folder where None.
        about: What the weights were trained on, in words; kept in the file.
        only: Keeps the names that begin with this.
        half: Whether numbers are stored in 16 bits, for a file of half the size.
    """

    def __init__(self, path: Path | None = None, about: str = "", only: str = "", half: bool = False) -> None:
        self.path = path
        self.about = about
        self.only = only
        self.half = half

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file."""
        folder = trainer.log_dir or trainer.default_root_dir  # all ranks must ask: it is broadcast
        if not trainer.is_global_zero:
            return
        path = self.path or Path(folder) / "weights.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"about": self.about, "steps": str(trainer.global_step)}
        save_weights(path, pl_module, type(pl_module).__name__.lower(), about, self.only, self.half)
