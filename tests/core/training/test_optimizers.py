"""Fused Adam is Adam, and steps aside where Lightning could not clip before it."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from posecore.training.optimizers import adam


class Line(LightningModule):
    """A network whose gradients are clipped."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.network(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self, self.parameters(), lr=1e-2, betas=(0.9, 0.99))


@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", None)])
def test_precision_decides(precision: str, fused: bool | None) -> None:
    module = Line()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    trainer = Trainer(
        accelerator="cpu", precision=precision, max_steps=2, gradient_clip_val=1e-3, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(torch.ones(4, 3)), batch_size=2))
    assert trainer.optimizers[0].param_groups[0]["fused"] is fused
    for parameter, value in zip(module.parameters(), before, strict=True):
        assert not torch.equal(parameter, value)


def test_steps_are_those_of_the_plain_loop() -> None:
    modules = Line(), Line()
    optimizers = [adam(modules[0], modules[0].parameters(), lr=1e-2, betas=(0.9, 0.99))]
    optimizers += [torch.optim.Adam(modules[1].parameters(), lr=1e-2, betas=(0.9, 0.99), foreach=False)]
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.zero_grad()
            module.network(x).square().mean().backward()
            optimizer.step()
    for found, expected in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
