"""Every method on two "nodes": two agents of torchrun on this machine, which meet over the loopback interface."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

METHODS = ["diffhmr", "diffupose", "hmdiff", "scorehmr", "zedo"]
SECONDS = 240
"""Time for one command: what hangs fails."""

pytestmark = pytest.mark.cluster


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def on_two_nodes(method: str, *args: str | Path) -> list[str]:
    """Runs a command of a method as two agents do, each with one process; gives what each of them printed."""
    launch = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--local-addr=127.0.0.1", "-m", method, *map(str, args),
        "--trainer.num_nodes=2", "--trainer.devices=1",
    ]  # fmt: skip
    agents = [
        subprocess.Popen(launch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        for _ in range(2)
    ]
    try:
        printed = [agent.communicate(timeout=SECONDS)[0] for agent in agents]
    finally:
        for agent in agents:
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
    for agent, text in zip(agents, printed, strict=True):
        assert agent.returncode == 0, text[-3000:]
    return printed


def metrics_of(folder: Path) -> dict[str, float]:
    (path,) = folder.rglob("metrics.json")
    metrics: dict[str, float] = json.loads(path.read_text())["metrics"]
    return {name: value for name, value in metrics.items() if not name.endswith("per_second")}


@pytest.fixture(scope="module", params=METHODS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, str]:
    """A method, the folder of its run on two nodes, and what both printed."""
    folder = tmp_path_factory.mktemp(request.param)
    printed = on_two_nodes(request.param, "fit", "--config", "smoke.yaml", "--trainer.default_root_dir", folder)
    return request.param, folder, "".join(printed)


def test_two_nodes_train_together(trained: tuple[str, Path, str]) -> None:
    _, folder, printed = trained
    assert "MEMBER: 1/2" in printed
    assert "MEMBER: 2/2" in printed
    assert len(list(folder.rglob("last.ckpt"))) == 1
    assert len(list(folder.rglob("events.*"))) == 1, "one set of logs"
    assert len(list(folder.rglob("config.yaml"))) == 1


@pytest.fixture(scope="module")
def tested(trained: tuple[str, Path, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """Folders of the test on two nodes and of the one in one process, and what the nodes printed."""
    method, folder, _ = trained
    (checkpoint,) = folder.rglob("last.ckpt")
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    # Small batches: a node that had none would get a part of another's.
    args = ["test", "--config", "smoke.yaml", "--ckpt_path", checkpoint, "--data.batch_size", "5"]
    args += ["--trainer.default_root_dir"]
    printed = on_two_nodes(method, *args, two)
    command = [sys.executable, "-m", method, *map(str, args), str(one)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return two, one, printed


def test_two_nodes_report_once(tested: tuple[Path, Path, list[str]]) -> None:
    two, one, printed = tested
    assert sum("written: " in text for text in printed) == 1
    assert metrics_of(two).keys() == metrics_of(one).keys()


def test_two_nodes_give_the_numbers_of_one_process(tested: tuple[Path, Path, list[str]]) -> None:
    two, one, _ = tested
    assert metrics_of(two) == pytest.approx(metrics_of(one), rel=1e-5, abs=1e-4)
