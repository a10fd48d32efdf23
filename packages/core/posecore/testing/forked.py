"""For tests only: programs in processes of their own that need not import everything anew.

A start of ``python -m <method>`` spends seconds on imports. Here one server per test session imports them once and
forks, so that a program starts at once, in a process that it does not share: it can be killed, has its own environment,
working directory, arguments and streams, and runs as ``__main__``. What is not as in a fresh interpreter: the hash seed
is the server's, and a method finds the modules of methods that ran before it already imported.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

PRELOADED = ("posecore.cli", "timm", "torch._dynamo", "torch.utils.tensorboard", "trimesh")
PARTS = ("module", "data")
"""Submodules of a program that the server imports before the fork."""


def run_module(
    name: str,
    args: Sequence[str | Path] = (),
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m name args``, as `subprocess.run` would with ``capture_output=True, text=True``.

    Args:
        name: The module.
        args: Its arguments.
        cwd: Where it runs; where the caller is, if None.
        env: All environment variables; the caller's, if None. What is read when torch is imported is the server's.
        timeout: Seconds after which it is killed.

    Returns:
        Exit code (minus the signal that ended it), and what it wrote.

    Raises:
        subprocess.TimeoutExpired: It took longer.
        RuntimeError: The server has ended.
    """
    (done,) = _run(name, args, cwd or Path.cwd(), [os.environ if env is None else env], timeout)
    return done


def run_ranks(
    name: str, args: Sequence[str | Path], ranks: int, timeout: float = 300
) -> list[subprocess.CompletedProcess[str]]:
    """The same program in several processes at once, which find each other as those of a cluster's launcher do."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "NODE_RANK": "0"}
    return _run(name, args, Path.cwd(), [os.environ | there | {"LOCAL_RANK": str(i)} for i in range(ranks)], timeout)


def _run(
    name: str, args: Sequence[str | Path], cwd: Path, envs: Sequence[Mapping[str, str]], timeout: float
) -> list[subprocess.CompletedProcess[str]]:
    """One process for each environment; all are killed after ``timeout`` seconds."""
    server = _server()
    assert server.stdin is not None
    with tempfile.TemporaryDirectory() as folder:
        streams = [(Path(folder, f"{i}.stdout"), Path(folder, f"{i}.stderr")) for i in range(len(envs))]
        job = {
            "module": name,
            "args": list(map(str, args)),
            "cwd": str(cwd),
            "envs": [dict(env) for env in envs],
            "streams": [[str(path) for path in pair] for pair in streams],
        }
        server.stdin.write(json.dumps(job).encode() + b"\n")
        server.stdin.flush()
        pids, late = json.loads(_answer(server, None) or ""), False
        answer = _answer(server, timeout)
        if answer is None:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            answer, late = _answer(server, None), True
        written = [(out.read_text(), err.read_text()) for out, err in streams]
    command = [sys.executable, "-m", name, *map(str, args)]
    if late:
        raise subprocess.TimeoutExpired(command, timeout, *map("".join, zip(*written, strict=True)))
    codes = json.loads(answer or "")
    return [subprocess.CompletedProcess(command, code, *both) for code, both in zip(codes, written, strict=True)]


@functools.cache
def _server() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "posecore.testing.forked"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    atexit.register(process.__exit__, None, None, None)  # closes the pipes, at which the server ends, and waits
    return process


def _answer(server: subprocess.Popen[bytes], timeout: float | None) -> str | None:
    """The server's next line; None if it does not come in time."""
    assert server.stdout is not None
    if not select.select([server.stdout], [], [], timeout)[0]:
        return None
    line = server.stdout.readline()
    if not line:
        raise RuntimeError(f"the server of posecore.testing.forked has ended: exit code {server.wait()}")
    return line.decode()


def _serve() -> dict[str, Any] | None:
    """Forks for every job, and says process and exit code; returns the job in the fork, None when there are no more."""
    # Imports are never collected: that takes longer than most programs. Libraries that miss it say so at the end.
    atexit.register(os.dup2, os.open(os.devnull, os.O_WRONLY), 2)
    for name in PRELOADED:
        import_module(name)
    while line := sys.stdin.readline():
        job: dict[str, Any] = json.loads(line)
        for part in PARTS:
            try:
                import_module(f"{job['module']}.{part}")
            except ImportError:  # the program says itself what is missing
                continue
        gc.freeze()
        pids = []
        for env, streams in zip(job["envs"], job["streams"], strict=True):
            pids.append(os.fork())
            if pids[-1] == 0:
                return job | {"env": env, "streams": streams}
        print(json.dumps(pids), flush=True)  # noqa: T201
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)  # noqa: T201
    return None


def _become(job: Mapping[str, Any]) -> None:
    """Turns the fork into the program."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, path in enumerate([os.devnull, *job["streams"]]):
        stream = os.open(path, os.O_RDONLY if number == 0 else flags)
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - without what was read ahead
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    sys.path[0] = job["cwd"]
    sys.argv = [job["module"], *job["args"]]
    # As in a fresh process, nobody has seeded them.
    random.seed()
    np.random.seed()  # noqa: NPY002
    runpy.run_module(job["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__" and (_job := _serve()) is not None:
    _become(_job)
