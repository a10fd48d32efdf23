"""A forked program behaves as one that `subprocess.run` starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from posecore.testing.forked import run_module, run_ranks

PROGRAM = """
import os, sys
print(__name__, os.getcwd(), os.path.basename(sys.argv[0]), sys.argv[1:])
print(os.environ["WORD"], "HOME" in os.environ)
print("a warning", file=sys.stderr)
if sys.argv[1:] == ["read"]:
    print(repr(sys.stdin.read()))
"""
ENDINGS = {
    "pass": 0,
    "sys.exit(7)": 7,
    "sys.exit('said')": 1,
    "raise ValueError('raised')": 1,
    "os.kill(os.getpid(), signal.SIGKILL)": -signal.SIGKILL,
    "os.kill(os.getpid(), signal.SIGTERM)": -signal.SIGTERM,
    "import atexit; atexit.register(print, 'late')": 0,
    "import nothing_of_this_name": 1,
}


def both(folder: Path, program: str, *args: str) -> list[subprocess.CompletedProcess[str]]:
    """What the program does, started and forked."""
    (folder / "program.py").write_text(program)
    command = [sys.executable, "-m", "program", *args]
    environment = {**os.environ, "WORD": "a word"}
    environment.pop("HOME", None)
    started = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return [started, run_module("program", args, cwd=folder, env=environment)]


@pytest.mark.parametrize("args", [[], ["read"], ["one", "two words"]])
def test_surroundings_are_those_of_a_started_program(tmp_path: Path, args: list[str]) -> None:
    started, forked = both(tmp_path, PROGRAM, *args)
    assert "a word False" in started.stdout
    assert (forked.returncode, forked.stdout, forked.stderr) == (0, started.stdout, started.stderr)
    assert forked.args == started.args


@pytest.mark.parametrize("ending", ENDINGS)
def test_it_ends_in_the_same_way(tmp_path: Path, ending: str) -> None:
    started, forked = both(tmp_path, f"import os, signal, sys\nprint('begun', flush=True)\n{ending}\n")
    assert forked.returncode == started.returncode == ENDINGS[ending]
    assert forked.stdout == started.stdout
    assert forked.stderr.splitlines()[-1:] == started.stderr.splitlines()[-1:]


def test_every_process_draws_its_own_numbers(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import random, numpy\nprint(random.random(), numpy.random.rand())")
    drawn = [run_module("program", cwd=tmp_path).stdout.split() for _ in range(2)]
    assert len({*drawn[0], *drawn[1]}) == 4


def test_a_program_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)")
    with pytest.raises(subprocess.TimeoutExpired) as error:
        run_module("program", cwd=tmp_path, timeout=1)
    assert error.value.stdout in ("", "begun\n")
    assert run_module("posecore.doctor", ["--help"]).returncode == 0, "the server goes on"


def test_ranks_run_at_once_and_know_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for the other before it ends, with an exit code of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(
        "import os, pathlib, sys, time\n"
        "rank = int(os.environ['LOCAL_RANK'])\n"
        "pathlib.Path(str(rank)).touch()\n"
        "while not pathlib.Path(str(1 - rank)).exists():\n"
        "    time.sleep(0.01)\n"
        "print(os.environ['WORLD_SIZE'], os.environ['MASTER_ADDR'], os.environ['MASTER_PORT'])\n"
        "sys.exit(rank)\n"
    )
    first, second = run_ranks("program", [], 2, timeout=60)
    assert (first.returncode, second.returncode) == (0, 1)
    assert first.stdout == second.stdout
    assert first.stdout.startswith("2 127.0.0.1 ")
