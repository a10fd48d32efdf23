"""A Slurm of this machine's own for the tests: controller, two nodes and munge, all below one temporary folder.

Needs Debian's packages (`tools/slurm/install_debian.sh`); nothing of the system's configuration is read or changed.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}

# Two nodes of two CPUs, both on this machine. Partition "high" takes nodes from jobs of "low". These hear of it 60 s
# before, by the signal that `--signal` of the job names, and go back to the queue: the usual set-up of a cluster that
# lends what its owners do not use. A requeued job waits for the life of its credential: 120 s by default, here 5.
CONFIGURATION = """
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
ReturnToService=2
SlurmdTimeout=300
NodeName=node1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=node2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=low Nodes=node1,node2 Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 State=UP
PartitionName=high Nodes=node1,node2 PriorityTier=2 PreemptMode=OFF State=UP
"""


@dataclass
class Slurm:
    """The running cluster, as its users see it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str | Path) -> str:
        """Runs one of Slurm's programs and gives what it prints."""
        done = subprocess.run(
            list(map(str, command)), env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *args: str | Path) -> str:
        """Submits a batch job and gives its id."""
        return self.call("sbatch", "--parsable", *args).strip()

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says."""
        fields = self.call("scontrol", "--oneliner", "show", "job", number).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def wait(self, number: str, state: str, seconds: float = 240) -> dict[str, str]:
        """Waits until a job is in a state; fails where it ends in another one."""
        end = time.monotonic() + seconds
        while True:
            job = self.job(number)
            if job["JobState"] == state:
                return job
            assert job["JobState"] not in ENDED, job
            assert time.monotonic() < end, f"not {state} after {seconds} s: {job}"
            time.sleep(0.5)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A cluster of two nodes on this machine; stopped at the end."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: run tools/slurm/install_debian.sh")
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(folder=folder, user=getpass.getuser(), ports=_free_ports(3))
    )
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    cluster = Slurm(folder)
    daemons: list[subprocess.Popen[bytes]] = []

    def start(*command: str | Path) -> None:
        output = (folder / "daemons.log").open("ab")
        environment = cluster.environment | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        daemons.append(
            subprocess.Popen(
                list(map(str, command)), env=environment, stdout=output, stderr=output, start_new_session=True
            )
        )

    try:
        start(
            "munged", "--foreground", "--force", "--num-threads=2", f"--socket={folder}/munge.socket",
            f"--key-file={folder}/munge.key", f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munge.seed",
            f"--log-file={folder}/munged.log",
        )  # fmt: skip
        _wait_for(lambda: (folder / "munge.socket").exists(), folder)
        start("slurmctld", "-D", "-f", folder / "slurm.conf")
        for node in ("node1", "node2"):
            (folder / f"spool-{node}").mkdir()
            start("slurmd", "-D", "-N", node, "-f", folder / "slurm.conf")
        _wait_for(lambda: _idle(cluster) == 2, folder)
        yield cluster
    finally:
        _end_jobs(cluster)  # they would outlive the daemons
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _idle(cluster: Slurm) -> int:
    done = subprocess.run(
        ["sinfo", "--noheader", "--partition=low", "--format=%D %t"],
        env=cluster.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return sum(int(count) for count, state in map(str.split, done.stdout.splitlines()) if state == "idle")


def _end_jobs(cluster: Slurm) -> None:
    for _ in range(60):
        command = ["squeue", "--noheader", "--format=%A"]
        done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=False)
        left = done.stdout.split()
        if not left:
            return
        subprocess.run(["scancel", *left], env=cluster.environment, capture_output=True, check=False)
        time.sleep(0.5)


def _wait_for(condition: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        logs = "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(folder.glob("*.log")))
        assert time.monotonic() < end, f"Slurm did not start:\n{logs}"
        time.sleep(0.2)
