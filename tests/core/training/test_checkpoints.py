import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from posecore.training.checkpoints import (
    check_stamp,
    load_weights,
    read_weights,
    resolve_weights,
    save_weights,
    stamp,
)


class Tiny(LightningModule):
    """A method of the name it is given, which stamps and checks its checkpoints."""

    def __init__(self, name: str = "tiny", width: int = 3, extra: bool = False) -> None:
        super().__init__()
        self.name = name
        self.layer = torch.nn.Linear(2, width)
        self.register_buffer("faces", torch.arange(width))
        if extra:
            self.register_buffer("anchors", torch.ones(2))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.layer(batch[0]).square().mean()

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.tested = self.layer.weight.detach().clone()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stamp(checkpoint, self.name)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_stamp(checkpoint, self.name)


def trainer(folder: Path) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def loader() -> DataLoader:
    return DataLoader(TensorDataset(torch.ones(2, 2)), batch_size=2)


def test_weights_round_trip(tmp_path: Path) -> None:
    saved, loaded = Tiny(), Tiny()
    with torch.no_grad():
        saved.faces.mul_(2)
        saved.layer.weight.copy_(torch.randn(2, 3).T)  # not contiguous before
    about = {"data": "CMU walking", "seed": "0"}
    save_weights(tmp_path / "a.safetensors", saved, "tiny", about)
    assert load_weights(tmp_path / "a.safetensors", loaded, "tiny") == about
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    assert all(map(torch.equal, loaded.state_dict().values(), saved.state_dict().values()))
    assert loaded.faces.dtype == torch.int64
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:  # a reader without this package
        assert file.metadata()["humandiff_method"] == "tiny"
        assert json.loads(file.metadata()["about"]) == about


def test_weights_may_hold_more_than_the_configuration_needs(tmp_path: Path) -> None:
    saved, loaded = Tiny(extra=True), Tiny()
    save_weights(tmp_path / "a.safetensors", saved, "tiny", {})
    assert load_weights(tmp_path / "a.safetensors", loaded, "tiny") == {}
    assert torch.equal(loaded.layer.weight, saved.layer.weight)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights: there is no file .*nowhere.safetensors"):
        load_weights(tmp_path / "nowhere.safetensors", Tiny(), "tiny")


@pytest.mark.parametrize("keep", [0, 5, 60])
def test_corrupted_file(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(path, Tiny(), "tiny", {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"weights: .*a.safetensors is not a readable safetensors file"):
        load_weights(path, Tiny(), "tiny")


def test_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load_weights(path, Tiny(), "tiny")


def test_weights_of_another_method(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", Tiny(), "hmdiff", {})
    with pytest.raises(ValueError, match=r"a.safetensors belongs to hmdiff, not to tiny"):
        load_weights(tmp_path / "a.safetensors", Tiny(), "tiny")


def test_weights_of_nobody(tmp_path: Path) -> None:
    save_file(Tiny().state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a.safetensors belongs to nobody, not to tiny"):
        load_weights(tmp_path / "a.safetensors", Tiny(), "tiny")


def test_weights_of_another_shape_change_nothing(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", Tiny(width=4), "tiny", {})
    module = Tiny(width=3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"has faces of shape \(4,\), this configuration of tiny needs \(3,\)"):
        load_weights(tmp_path / "a.safetensors", module, "tiny")
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_weights_without_a_tensor_that_is_needed(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", Tiny(), "tiny", {})
    with pytest.raises(ValueError, match="has no anchors, which this configuration of tiny needs"):
        load_weights(tmp_path / "a.safetensors", Tiny(extra=True), "tiny")


def test_a_part_of_the_weights_goes_out_and_comes_in(tmp_path: Path) -> None:
    saved, layer = Tiny(), torch.nn.Linear(2, 3)
    path = tmp_path / "layer.safetensors"
    save_weights(path, saved, "tiny", {"data": "walking"}, only="layer.")
    tensors, about = read_weights(path, "tiny")
    assert set(tensors) == {"layer.weight", "layer.bias"}
    assert about == {"data": "walking"}
    assert load_weights(path, layer, "tiny", prefix="layer.") == about
    assert torch.equal(layer.weight, saved.layer.weight)
    assert torch.equal(layer.bias, saved.layer.bias)
    with pytest.raises(ValueError, match="has no faces, which this configuration of tiny needs"):
        load_weights(path, Tiny(), "tiny")


def test_a_part_is_named_as_the_file_has_it(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    save_weights(path, Tiny(), "tiny", {})
    with pytest.raises(ValueError, match=r"has no features\.weight, which this configuration of tiny needs"):
        load_weights(path, torch.nn.Linear(2, 3), "tiny", prefix="features.")
    with pytest.raises(
        ValueError, match=r"has layer.weight of shape \(3, 2\), this configuration of tiny needs \(4, 2\)"
    ):
        load_weights(path, torch.nn.Linear(2, 4), "tiny", prefix="layer.")


def test_a_part_that_nobody_has_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"only: no weight of tiny begins with 'head\.'"):
        save_weights(tmp_path / "a.safetensors", Tiny(), "tiny", {}, only="head.")
    assert not (tmp_path / "a.safetensors").exists()


def test_half_of_the_size_comes_back_in_32_bits(tmp_path: Path) -> None:
    saved, loaded = Tiny(), Tiny()
    path = tmp_path / "half.safetensors"
    save_weights(path, saved, "tiny", {}, half=True)
    assert read_weights(path, "tiny")[0]["layer.weight"].dtype == torch.float16
    load_weights(path, loaded, "tiny")
    assert loaded.layer.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.layer.weight, saved.layer.weight, rtol=1e-3, atol=1e-6)
    assert torch.equal(loaded.faces, saved.faces)
    with torch.no_grad():
        saved.layer.bias[0] = 1e6
    with pytest.raises(ValueError, match=r"half: layer\.bias holds numbers that 16 bits cannot"):
        save_weights(path, saved, "tiny", {}, half=True)


def test_shipped_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    shipped, own = tmp_path / "weights" / "cmu.safetensors", tmp_path / "own.safetensors"
    for path in (shipped, tmp_path / "weights" / "amass.safetensors", own):
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert resolve_weights("cmu", tmp_path) == shipped
    assert resolve_weights(str(own), tmp_path) == own
    assert resolve_weights("own.safetensors", tmp_path) == Path("own.safetensors")
    with pytest.raises(
        FileNotFoundError, match=r"'cmuu' is neither a file nor a shipped name; shipped are \['amass', 'cmu'\]"
    ):
        resolve_weights("cmuu", tmp_path)


def test_no_shipped_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"shipped are \[\]"):
        resolve_weights("cmu", tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_checkpoints_of_another_method_are_refused(tmp_path: Path) -> None:
    trained = Tiny()
    run = trainer(tmp_path)
    run.fit(trained, loader())
    run.save_checkpoint(tmp_path / "last.ckpt")
    same = Tiny()
    trainer(tmp_path).test(same, loader(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert torch.equal(same.tested, trained.layer.weight)
    # Also where the tensors would fit.
    with pytest.raises(ValueError, match="ckpt_path: this is a checkpoint of tiny; other needs one that `other fit`"):
        trainer(tmp_path).test(Tiny("other"), loader(), ckpt_path=tmp_path / "last.ckpt", verbose=False)


def test_checkpoints_of_nobody_are_refused() -> None:
    with pytest.raises(ValueError, match="ckpt_path: this is no checkpoint of this project; tiny needs"):
        check_stamp({"state_dict": {}}, "tiny")
