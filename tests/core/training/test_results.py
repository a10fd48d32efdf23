"""Test runs of a toy through a real Trainer, and what they print and write."""

import hashlib
import importlib.metadata
import json
import subprocess
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from posecore.metrics.protocols import get_protocol
from posecore.training import Results
from posecore.training.results import model_options, source_version, unit_of

NUMBERS = {"h36m/mpjpe": 60.0, "h36m/pa_mpjpe": 50.0, "h36m/pck": 0.75, "3dpw/mpjpe": 80.5}


class Method(LightningModule):
    """Logs fixed numbers of two sets."""

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.protocol = get_protocol("zedo_h36m")
        self.weights = weights

    def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.layer(batch[0])

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in NUMBERS.items()}, add_dataloader_idx=False)


class Data(LightningDataModule):
    """Three rows of one set and two of another."""

    test_names = ("h36m", "3dpw")

    def setup(self, stage: str) -> None:
        self.test_sets = {"h36m": TensorDataset(torch.ones(3, 1)), "3dpw": TensorDataset(torch.ones(2, 1))}

    def test_dataloader(self) -> list[DataLoader]:
        return [DataLoader(dataset) for dataset in self.test_sets.values()]


def score(folder: Path, results: Results, model: Method | None = None, **options: object) -> None:
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[results], enable_checkpointing=False, **options,
    )  # fmt: skip
    trainer.test(model or Method(), Data(), verbose=False)


def written(path: Path) -> dict:
    content = json.loads(path.read_text())
    assert isinstance(content, dict)
    return content


def test_a_run_is_written_with_all_that_makes_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    results = Results("Table 2", "S = 1", {"h36m/mpjpe": 65.7})
    results.configs, results.options = ["default.yaml"], ["num_hypotheses=1"]
    score(tmp_path, results)
    content = written(tmp_path / "metrics.json")
    assert content.pop("seconds") >= 0
    assert content.pop("commit") == source_version()
    assert content == {
        "method": "Method",
        "table": "Table 2",
        "row": "S = 1",
        "paper": {"h36m/mpjpe": 65.7},
        "protocol": get_protocol("zedo_h36m").describe(),
        "protocol_name": "zedo_h36m",
        "metrics": {f"test/{name}": value for name, value in NUMBERS.items()},
        "rows": {"h36m": 3, "3dpw": 2},
        "partial": False,
        "configs": ["default.yaml"],
        "options": ["num_hypotheses=1"],
        "weights": None,
        "weights_sha256": None,
        "seed": 7,
        "device": "cpu",
        "precision": "32-true",
    }


def test_ours_stands_beside_the_paper_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score(tmp_path, Results("Table 2", "S = 1", {"h36m/mpjpe": 65.7, "h36m/pck": 0.8}))
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("Method, Table 2, S = 1")
    end = next(i for i, line in enumerate(lines) if line.startswith("metric "))
    protocol = " ".join(line.strip() for line in lines[start + 1 : end])
    assert protocol == f"protocol {get_protocol('zedo_h36m').describe()}"
    assert all(len(line) <= 100 for line in lines[start:end])
    cells = [line.split() for line in lines[end:]]
    assert cells[0] == ["metric", "ours", "paper", "difference", "unit"]
    assert cells[1:5] == [
        ["h36m/mpjpe", "60.0", "65.7", "-5.7", "mm"],
        ["h36m/pa_mpjpe", "50.0", "mm"],
        ["h36m/pck", "0.750", "0.800", "-0.050", "share"],
        ["3dpw/mpjpe", "80.5", "mm"],
    ]
    assert lines[end + 5] == f"written: {tmp_path / 'metrics.json'}"


def test_the_path_may_be_said(tmp_path: Path) -> None:
    score(tmp_path, Results(path=tmp_path / "new" / "numbers.json"))
    content = written(tmp_path / "new" / "numbers.json")
    assert (content["table"], content["row"], content["paper"]) == (None, None, {})
    assert not (tmp_path / "metrics.json").exists()


def test_weights_are_named_with_their_hash(tmp_path: Path) -> None:
    weights = tmp_path / "own.safetensors"
    weights.write_bytes(b"numbers")
    score(tmp_path, Results(), Method(str(weights)))
    content = written(tmp_path / "metrics.json")
    assert content["weights"] == str(weights)
    assert content["weights_sha256"] == hashlib.sha256(b"numbers").hexdigest()


def test_a_checkpoint_comes_before_the_weights(tmp_path: Path) -> None:
    weights, checkpoint = tmp_path / "own.safetensors", tmp_path / "last.ckpt"
    weights.write_bytes(b"numbers")
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, callbacks=[Results()], enable_checkpointing=False,
    )  # fmt: skip
    trainer.strategy.connect(Method())
    trainer.save_checkpoint(checkpoint)
    trainer.test(Method(str(weights)), Data(), ckpt_path=checkpoint, verbose=False)
    content = written(tmp_path / "metrics.json")
    assert content["weights"] == str(checkpoint)
    assert content["weights_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()


@pytest.mark.parametrize("limit", [1, 0.5])
def test_a_part_of_a_test_set_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: int | float) -> None:
    score(tmp_path, Results(), limit_test_batches=limit)
    assert written(tmp_path / "metrics.json")["partial"] is True
    assert "PARTIAL" in capsys.readouterr().out


def test_a_row_on_other_data_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score(tmp_path, Results("Table 3", "S = 1", {"3dhp/mpjpe": 86.5}))
    assert "the paper's numbers of this row are of other data: 3dhp/mpjpe" in capsys.readouterr().out
    assert written(tmp_path / "metrics.json")["paper"] == {"3dhp/mpjpe": 86.5}


def test_a_set_that_is_not_tested_is_refused_before_the_test(tmp_path: Path) -> None:
    results = Results("Table 3", "S = 1", {"h36m/mpjpe": 1.0, "3dhp/mpjpe": 86.5})
    with pytest.raises(ValueError, match=r"results\.paper: 3dhp is no test set, data\.test has 3dpw, h36m"):
        score(tmp_path, results)
    assert not (tmp_path / "metrics.json").exists()


def test_a_metric_that_is_not_there_is_named_after_the_file_is_written(tmp_path: Path) -> None:
    results = Results("Table 3", "S = 1", {"h36m/auc": 0.5})
    with pytest.raises(ValueError, match=r"no metric h36m/auc; there are 3dpw/mpjpe, h36m/mpjpe, .*h36m/pck"):
        score(tmp_path, results)
    assert written(tmp_path / "metrics.json")["metrics"]["test/h36m/mpjpe"] == 60


@pytest.mark.parametrize(("table", "row"), [("Table 2", None), (None, "S = 1")])
def test_table_and_row_come_together(table: str | None, row: str | None) -> None:
    with pytest.raises(ValueError, match="a table needs a row and a row its table"):
        Results(table, row)


@pytest.mark.parametrize("name", ["mpjpe", "test/h36m/mpjpe", "/mpjpe", "h36m/"])
def test_names_of_the_paper_s_numbers_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=r"results\.paper: names are '<set>/<metric>'"):
        Results(paper={name: 1.0})


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("h36m/mpjpe", "mm"),
        ("h36m/true_root_pa_mpjpe/Walking", "mm"),
        ("emdb1/start_acceleration", "mm/frame^2"),
        ("freihand/centre_f15", "share"),
        ("3dpw/mpjpe_n25", "mm"),
        ("h36m/images_per_second", "1/s"),
        ("3dpw/spread", ""),
        ("loss", ""),
    ],
)
def test_units(name: str, unit: str) -> None:
    assert unit_of(name) == unit


def test_options_of_the_model_are_kept() -> None:
    args = ["test", "--config", "a.yaml", "--model.loop.dt", "0.1", "--data.root=x", "--model.weights=cmu"]
    assert model_options(args) == ["loop.dt=0.1", "weights=cmu"]


def test_the_source_version_is_this_commit_or_the_installed_version() -> None:
    here = Path(__file__).parent
    head = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    version = source_version()
    assert version == importlib.metadata.version("humandiff") or head.stdout.startswith(version.split("-")[0])
