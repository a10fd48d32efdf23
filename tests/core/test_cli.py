import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from posecore.cli import find_configs, run
from posecore.training.prediction_writer import PredictionWriter
from posecore.training.results import Results


class Toy(LightningModule):
    """One weight; refuses a width that does not fit, and fails in training where asked to."""

    def __init__(self, width: int = 1, failure: str | None = None) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.layer = torch.nn.Linear(1, width)
        self.failure = failure

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.failure == "value":
            raise ValueError("batch: no keypoints\nin any picture")
        if self.failure == "bug":
            raise KeyError("joints")
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ToyData(LightningDataModule):
    """Ones, out of a folder that must exist."""

    def __init__(self, root: Path = Path()) -> None:
        super().__init__()
        self.root = root

    def setup(self, stage: str) -> None:
        if not self.root.is_dir():
            raise FileNotFoundError(f"root: there is no folder {self.root}")

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.ones(2, 1)))


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A method's folder of configs, seen from an empty working folder."""
    folder = tmp_path / "configs"
    (folder / "table2").mkdir(parents=True)
    trainer = {
        "accelerator": "cpu",
        "max_steps": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(tmp_path / "runs"),
    }
    (folder / "default.yaml").write_text(json.dumps({"trainer": trainer, "model": {"width": 2}}))  # JSON is YAML
    (folder / "table2" / "wide.yaml").write_text(json.dumps({"model": {"width": 5}}))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.delenv("HUMANDIFF_TRACEBACK", raising=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # which a run sets: gone after the test
    monkeypatch.setattr("sys.argv", ["toy"])
    return folder


@pytest.mark.parametrize("flag", ["--config", "-c"])
@pytest.mark.parametrize("name", ["default", "default.yaml"])
def test_configs_are_found_by_name(configs: Path, flag: str, name: str) -> None:
    args = ["fit", flag, name, "--model.width", "3"]
    assert find_configs(args, configs) == ["fit", flag, str(configs / "default.yaml"), "--model.width", "3"]
    assert args[2] == name


def test_configs_are_found_in_every_form(configs: Path) -> None:
    wide = str(configs / "table2" / "wide.yaml")
    assert find_configs(["--config=table2/wide", "fit"], configs) == [f"--config={wide}", "fit"]
    found = find_configs(["fit", "--config", "default", "--config=table2/wide.yaml"], configs)
    assert found == ["fit", "--config", str(configs / "default.yaml"), f"--config={wide}"]


def test_files_come_before_names_and_other_arguments_stay(configs: Path) -> None:
    Path("default.yaml").write_text("{}")
    args = ["fit", "--config", "default.yaml", "--model.name", "default", "--ckpt_path=default"]
    assert find_configs(args, configs) == args
    assert find_configs([], configs) == []
    assert find_configs(["--config"], configs) == ["--config"]  # the parser says what is wrong


def test_inline_yaml_is_no_name(configs: Path) -> None:
    inline = "model:\n  width: 4\n" + "# " + "x" * 5000
    assert find_configs(["fit", "--config", inline], configs) == ["fit", "--config", inline]


@pytest.mark.parametrize("form", [["--config", "defalt.yaml"], ["--config=defalt.yaml"], ["-c", "defalt.yaml"]])
def test_unknown_configs_list_what_there_is(configs: Path, form: list[str]) -> None:
    expected = r"'defalt.yaml' is neither a file nor one of this method's configs: default.yaml, table2/wide.yaml"
    with pytest.raises(FileNotFoundError, match=expected):
        find_configs(["fit", *form], configs)


def test_run_reads_configs_by_name_and_trains(configs: Path) -> None:
    cli = run(Toy, ToyData, configs, ["fit", "--config", "default", "--config", "table2/wide"])
    assert cli.model.layer.out_features == 5
    assert cli.trainer.global_step == 1
    assert isinstance(cli.datamodule, ToyData)


class OutlineWriter(PredictionWriter):
    """A method's own writer, with an option more."""

    def __init__(self, folder: Path | None = None, overwrite: bool = False, outlines: bool = True) -> None:
        super().__init__(folder, overwrite)
        self.outlines = outlines


def test_a_method_brings_its_own_writer(configs: Path) -> None:
    args = ["fit", "--config", "default", "--output.folder", "there", "--output.outlines", "false"]
    cli = run(Toy, ToyData, configs, args, writer=OutlineWriter)
    (writer,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, PredictionWriter)]
    assert isinstance(writer, OutlineWriter)
    assert (writer.folder, writer.overwrite, writer.outlines) == (Path("there"), False, False)
    with pytest.raises(SystemExit):  # another method's option
        run(Toy, ToyData, configs, args)


def test_every_run_has_a_report_that_knows_its_configs(configs: Path) -> None:
    """A row replaces the numbers of the config below it; the model's options are kept, other ones are not."""
    below = {"table": "Table 1", "row": "all", "paper": {"toy/mpjpe": 50.0, "toy/auc": 0.5}}
    above = {"table": "Table 2", "row": "wide", "paper": {"toy/mpjpe": 40.0}}
    (configs / "below.yaml").write_text(json.dumps({"results": below}))
    Path("own.yaml").write_text(json.dumps({"results": above}))
    args = ["fit", "--config", "default", "--config", "below", "--config", "own.yaml"]
    cli = run(Toy, ToyData, configs, [*args, "--model.width=7", "--trainer.max_steps", "1"])
    (results,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, Results)]
    assert (results.table, results.row, results.paper) == ("Table 2", "wide", {"toy/mpjpe": 40.0})
    assert results.configs == ["default.yaml", "below.yaml", "own.yaml"]
    assert results.options == ["width=7"]


def test_run_reads_the_command_line(configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["toy", "fit", "--config=default", "--model.width=7"])
    assert run(Toy, ToyData, configs).model.layer.out_features == 7


ERRORS = [
    (["--config", "nowhere.yaml"], FileNotFoundError, "--config: 'nowhere.yaml' is neither a file nor"),
    (["--config", "default", "--data.root", "gone"], FileNotFoundError, "root: there is no folder gone"),
    (["--config", "default", "--model.width", "0"], ValueError, "width must be at least 1, got 0"),
    (["--config", "default", "--model.failure", "value"], ValueError, "batch: no keypoints"),
]


@pytest.mark.parametrize(("args", "error", "message"), ERRORS)
def test_expected_errors_are_one_line(
    configs: Path, capfd: pytest.CaptureFixture[str], args: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(Toy, ToyData, configs, ["fit", *args])
    assert exit_.value.code == 2
    printed = capfd.readouterr().err
    assert [line for line in printed.splitlines() if line.startswith("error: ") and message in line]
    assert "HUMANDIFF_TRACEBACK=1" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(("args", "error", "message"), ERRORS)
def test_expected_errors_are_raised_on_request(
    configs: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], error: type[Exception], message: str
) -> None:
    monkeypatch.setenv("HUMANDIFF_TRACEBACK", "1")
    with pytest.raises(error, match=message):
        run(Toy, ToyData, configs, ["fit", *args])


def test_bugs_keep_their_traceback(configs: Path) -> None:
    with pytest.raises(KeyError, match="joints"):
        run(Toy, ToyData, configs, ["fit", "--config", "default", "--model.failure", "bug"])


def test_unknown_arguments_end_the_program(configs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(Toy, ToyData, configs, ["fit", "--config", "default", "--model.widht", "3"])
    assert exit_.value.code == 2
    assert "widht" in capfd.readouterr().err


@pytest.mark.parametrize("content", [b"root:x:0:0:root:/root:/bin/bash\n" * 9, b"\x80\x02", b"", b"PK\x03\x04broken"])
def test_what_is_no_checkpoint_is_said_before_any_work(
    configs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    path = tmp_path / "wrong.ckpt"
    path.write_bytes(content)
    with pytest.raises(SystemExit):
        run(Toy, ToyData, configs, ["fit", "--config", "default", "--ckpt_path", str(path)])
    printed = capfd.readouterr().err
    assert "wrong.ckpt is not a checkpoint that can be read" in printed
    assert "Traceback" not in printed
