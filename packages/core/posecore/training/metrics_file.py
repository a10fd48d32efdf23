"""The numbers of a test run as a file that says what they are."""

import json
import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from posecore.export.files import write_text
from posecore.metrics.protocols import Protocol


class MetricsFile(Callback):
    """Writes ``metrics.json`` beside the logs of a test run: every metric, the protocol in full, seconds.

    Args:
        path: Where to; ``metrics.json`` in the run's log folder where None.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._start = 0.0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file."""
        if not trainer.is_global_zero:
            return
        protocol = getattr(pl_module, "protocol", None)
        content = {
            "method": type(pl_module).__name__,
            "protocol": protocol.describe() if isinstance(protocol, Protocol) else None,
            "metrics": {name: round(float(value), 4) for name, value in trainer.callback_metrics.items()},
            "seconds": round(time.perf_counter() - self._start, 2),
        }
        path = self.path or Path(trainer.log_dir or trainer.default_root_dir) / "metrics.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, indent=2) + "\n")
