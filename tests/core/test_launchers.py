import os
import subprocess
import sys
from pathlib import Path

import pytest

from posecore.launchers import with_launcher_options

TOLD = {"LT_CLI_USED": "1", "LT_DEVICES": "2", "LT_NUM_NODES": "1", "LT_PRECISION": "bf16-mixed"}


def test_what_the_launcher_was_told_is_added() -> None:
    args = ["fit", "--config", "smoke.yaml"]
    added = ["--trainer.devices=2", "--trainer.num_nodes=1", "--trainer.precision=bf16-mixed"]
    assert with_launcher_options(args, TOLD) == [*args, *added]
    assert args == ["fit", "--config", "smoke.yaml"]


@pytest.mark.parametrize("environment", [{}, {"LT_DEVICES": "2"}, TOLD | {"LT_CLI_USED": "0"}])
def test_without_the_launcher_nothing_is_added(environment: dict[str, str]) -> None:
    assert with_launcher_options(["fit"], environment) == ["fit"]


@pytest.mark.parametrize("said", [["--trainer.devices=2"], ["--trainer.devices", "2"]])
def test_the_same_value_may_be_said_twice(said: list[str]) -> None:
    found = with_launcher_options(["fit", *said], {"LT_CLI_USED": "1", "LT_DEVICES": "2"})
    assert found == ["fit", *said]


def test_the_last_of_several_values_counts() -> None:
    said = ["fit", "--trainer.devices=3", "--trainer.devices", "2"]
    assert with_launcher_options(said, {"LT_CLI_USED": "1", "LT_DEVICES": "2"}) == said


@pytest.mark.parametrize("said", [["--trainer.devices=4"], ["--trainer.devices", "4"]])
def test_another_value_is_refused(said: list[str]) -> None:
    with pytest.raises(ValueError, match=r"trainer\.devices: the command line says 4, the launcher was told 2"):
        with_launcher_options(["fit", *said], TOLD)


@pytest.mark.parametrize(("environment", "number"), [({}, 1), ({"LOCAL_WORLD_SIZE": "3"}, 3)])
def test_as_many_devices_as_processes_where_the_launcher_chose(environment: dict[str, str], number: int) -> None:
    found = with_launcher_options(["fit"], {"LT_CLI_USED": "1", "LT_DEVICES": "auto"} | environment)
    assert found == ["fit", f"--trainer.devices={number}"]


def test_the_launcher_of_this_lightning_leaves_its_options_where_they_are_read(tmp_path: Path) -> None:
    """`fabric run` for real, with a script that prints what a method would be started with."""
    script = tmp_path / "method.py"
    script.write_text(
        "import sys\nfrom posecore.launchers import with_launcher_options\nprint(with_launcher_options(sys.argv[1:]))\n"
    )
    options = ["--accelerator=cpu", "--strategy=ddp", "--devices=1", "--precision=bf16-mixed"]
    fabric = Path(sys.executable).with_name("fabric")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LT_")}
    done = subprocess.run(
        [fabric, "run", *options, "--main-port=0", script, "fit", "--config", "smoke.yaml"],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    added = ["accelerator=cpu", "strategy=ddp", "devices=1", "num_nodes=1", "precision=bf16-mixed"]
    assert str(["fit", "--config", "smoke.yaml", *(f"--trainer.{option}" for option in added)]) in done.stdout
