"""The machine and the working directory."""

import os
import shutil
import tempfile
from importlib import import_module
from pathlib import Path

from posecore.doctor.finding import Finding, probe

_LITTLE_DISK = 2 * 2**30
_FEW_FILES = 1024


def machine_findings() -> list[Finding]:
    """Cores, memory, limits, and whether results can be written here."""
    return [
        probe("cores", _cores, "warning"),
        probe("memory", _memory, "info"),
        probe(
            "OMP_NUM_THREADS", lambda: Finding("OMP_NUM_THREADS", "info", os.environ.get("OMP_NUM_THREADS", "unset"))
        ),
        probe("open files", _open_files, "info"),
        probe(
            "working directory",
            _writable,
            "warning",
            "results",
            "go to a folder of yours, or name one by --output.folder",
        ),
        probe("free disk", _free_disk, "warning"),
    ]


def _cores() -> str:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{allowed} for this process, {os.cpu_count()} in the machine"


def _memory() -> str:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")  # A container's own, where it has one.
    if limit.is_file() and (text := limit.read_text().strip()).isdigit() and int(text) < total:
        return f"{gibibytes(int(text))} for this container, {gibibytes(total)} in the machine"
    return gibibytes(total)


def _open_files() -> str | Finding:
    resource = import_module("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    text = "no limit" if unlimited else f"at most {soft}"
    if not unlimited and soft < _FEW_FILES:
        most = _FEW_FILES if hard == resource.RLIM_INFINITY else min(hard, _FEW_FILES)
        return Finding("open files", "warning", text, "many data loading workers", f"ulimit -n {most}")
    return text


def _writable() -> str:
    folder = Path.cwd()
    with tempfile.TemporaryFile(dir=folder):
        return f"{folder} can be written to"


def _free_disk() -> str | Finding:
    free = shutil.disk_usage(Path.cwd()).free
    if free < _LITTLE_DISK:
        return Finding(
            "free disk", "warning", gibibytes(free), "checkpoints and videos", "make room, or work elsewhere"
        )
    return gibibytes(free)


def gibibytes(size: int) -> str:
    """A number of bytes in words."""
    return f"{size / 2**30:.1f} GiB"
