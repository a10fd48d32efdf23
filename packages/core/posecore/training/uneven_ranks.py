"""Validation of several processes that have different numbers of batches."""

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.parallel import DistributedDataParallel


class UnevenRanks(Callback):
    """Lets a rank validate more batches than another, as `posecore.data.mixing.DealtBatches` gives them.

    ``DistributedDataParallel`` sends the first rank's buffers (such as the running means of batch normalisation) around
    before every forward pass, also of validation, and would wait for ever for a rank that has no batch left. Here they
    are sent once, when validation starts.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sends the buffers, and none until validation ends."""
        if isinstance(model := trainer.strategy.model, DistributedDataParallel):
            if model.will_sync_module_buffers():
                model._sync_buffers()
            model.require_forward_param_sync = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sends them before every training step again."""
        if isinstance(model := trainer.strategy.model, DistributedDataParallel):
            model.require_forward_param_sync = True
