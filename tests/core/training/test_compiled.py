from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from posecore.training import EMA, Compile


class Small(LightningModule):
    """A network of two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 3))
        self.calls = 0

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.calls += self.network._compiled_call_impl is not None
        loss: Tensor = (self.network(batch[0]) - batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(folder: Path, callbacks: list[Any]) -> tuple[Small, dict[str, Any]]:
    rows = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    module = Small()
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(rows), batch_size=4))
    trainer.save_checkpoint(folder / "end.ckpt")
    return module, torch.load(folder / "end.ckpt", weights_only=True)["state_dict"]


def test_a_compiled_training_ends_where_a_plain_one_does(tmp_path: Path) -> None:
    """With the average of the weights, a copy of the model; checkpoints have the same names."""
    plain, expected = trained(tmp_path, [EMA(0.5)])
    fast, found = trained(tmp_path, [Compile(["network"]), EMA(0.5)])
    assert (plain.calls, fast.calls) == (0, 3)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)


def test_parts_and_modes_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="parts: name at least one network"):
        Compile([])
    with pytest.raises(ValueError, match=r"mode must be one of \['default', .*'reduce-overhead'.*, got 'fast'"):
        Compile(["network"], "fast")
    with pytest.raises(ValueError, match=r"parts: Small has no network called 'denoiser'; it has \['network'\]"):
        trained(tmp_path, [Compile(["denoiser"])])
