"""The gradient of two processes is the one of a single process that has the rows of both.

Each process has half of the rows, losses are means over rows, and DDP averages gradients. In training that is hidden by
what differs between processes on purpose or by nature, so it is held still here: each row's noise comes from its own
stream (in training noise depends on the rank), dropout is off, batch normalisation uses its running statistics (half a
batch has others), and all keypoints are known (losses are means over what is known, and halves may know more or less).
"""

import datetime
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from posecore.cli import run
from posecore.data.sample import PoseSample, row_numbers, take
from posecore.diffusion.noise import NoiseStreams

METHODS = {"diffhmr": "DiffHMR", "diffupose": "DiffuPose", "hmdiff": "HMDiff", "scorehmr": "ScoreHMR", "zedo": "ZeDO"}
ROWS = 8
SECONDS = 600
"""Time for both processes: what hangs fails."""


class Loss(nn.Module):
    """A method's training loss as a module's output, which DDP wants; noise from the rows' streams."""

    def __init__(self, method: str, module: Any) -> None:
        super().__init__()
        self.method, self.module = method, module

    def forward(self, batch: PoseSample) -> Tensor:
        module, streams = self.module, NoiseStreams.of_rows(0, row_numbers(batch))
        if self.method == "diffupose":
            noise, keypoints = module._losses(batch, streams)
            return cast(Tensor, noise + module.w_keypoints * keypoints)
        if self.method == "scorehmr":
            return cast(Tensor, module._noise_loss(batch, streams))
        if self.method == "zedo":
            x_t, noise, label = module.backbone.perturb(batch["joints_rel"], streams)
            score_loss = import_module("zedo.losses").denoising_score_matching_loss
            return cast(Tensor, score_loss(module.network(x_t, label), noise))
        return torch.stack(list(module._losses(batch, streams).values())).sum()


def problem(method: str, folder: Path) -> tuple[Loss, PoseSample]:
    """The smoke config's model, whose training has not begun, and its first rows."""
    name, package = METHODS[method], import_module(method)
    args = ["--config", "smoke.yaml", "--trainer.max_steps", "0", "--trainer.default_root_dir", str(folder / method)]
    if method == "hmdiff":
        args += ["--model.final_images", str(ROWS)]  # the same images in one batch and in two
    cli = run(
        getattr(import_module(f"{method}.module"), name),
        getattr(import_module(f"{method}.data"), f"{name}DataModule"),
        Path(str(package.__file__)).parent / "configs",
        ["fit", *args],
    )
    batch = cli.datamodule.on_after_batch_transfer(cli.datamodule.train_set.__getitems__(list(range(ROWS))), 0)
    batch["row"] = torch.arange(ROWS)
    if "confidence" in batch:
        batch["confidence"] = torch.ones_like(batch["confidence"])
    for part in cli.model.train().modules():
        if isinstance(part, nn.Dropout | nn.modules.batchnorm._BatchNorm):
            part.eval()
    return Loss(method, cli.model), batch


def gradients(method: str, folder: Path, rank: int | None = None) -> dict[str, Tensor]:
    """Of all rows in this process, or of this rank's half of them and the other's."""
    loss, batch = problem(method, folder)
    if rank is None:
        loss(batch).backward()
    else:
        half = ROWS // 2
        parallel = DistributedDataParallel(loss)  # has to live until the gradients are averaged
        parallel(take(batch, range(rank * half, (rank + 1) * half))).backward()
    return {name: p.grad for name, p in loss.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """Gradients of all methods, as the first of two processes has them."""
    folder = tmp_path_factory.mktemp("two")
    ranks = [
        # -P: the folders of this folder bear the packages' names
        subprocess.Popen([sys.executable, "-P", __file__, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    try:
        said = [rank.communicate(timeout=SECONDS)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], said[0][-2000:] + said[1][-2000:]
    found: dict[str, dict[str, Tensor]] = torch.load(folder / "0.pt", weights_only=True)
    for method, of_rank in torch.load(folder / "1.pt", weights_only=True).items():
        assert all(torch.equal(of_rank[name], found[method][name]) for name in of_rank)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_two_halves_have_the_gradient_of_the_whole(
    method: str, of_two: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    whole = gradients(method, tmp_path)
    assert whole.keys() == of_two[method].keys()
    assert max(float(gradient.abs().max()) for gradient in whole.values()) > 1e-3
    for name, gradient in whole.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(of_two[method][name], gradient, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=name)


if __name__ == "__main__":
    this, into = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", f"file://{into}/meet", rank=this, world_size=2, timeout=datetime.timedelta(seconds=SECONDS)
    )
    # `fit` is told that it is alone: the processes meet below, in DDP.
    made = {method: gradients(method, into / str(this), this) for method in METHODS}
    torch.save(made, into / f"{this}.pt")
    distributed.destroy_process_group()
