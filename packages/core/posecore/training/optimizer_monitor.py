"""Learning rate and gradient norm, by the same names for every method."""

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer


class OptimizerMonitor(Callback):
    """Logs ``train/learning_rate`` and ``train/grad_norm`` at the steps that are logged.

    The norm is that of all gradients together, before they are clipped. A further parameter group's rate is
    ``train/learning_rate_2`` and so on (Diff-HMR's encoder).
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Logs; gradients are unscaled and not yet clipped here."""
        if not trainer._logger_connector.should_update_logs:
            return
        groups = optimizer.param_groups
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        values = {"train/grad_norm": get_total_norm(gradients)}
        for number, group in enumerate(groups, start=1):
            values["train/learning_rate" + (f"_{number}" if number > 1 else "")] = group["lr"]
        pl_module.log_dict(values)
