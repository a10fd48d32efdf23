"""Python, humandiff, the libraries that it needs, and those that it can use."""

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

from posecore.doctor.finding import Finding, installed_version, probe
from posecore.doctor.machine import gibibytes

_ROOT = Path(__file__).parents[4]
"""Of the repository, where this is a checkout."""

_MATCH = "torch and torchvision must match: pip install -e . -c constraints.txt installs a pair that does"
_OPTIONAL = (  # Modules that are really imported, and what to install for them.
    ("av", "videos in and out, packed pictures of benchmarks", "video"),
    ("onnxruntime", "2D keypoints of photographs without a keypoint file", "detect"),
    ("onnx", "networks as ONNX files (tools/export_onnx.py)", "export"),
    ("onnxscript", "networks as ONNX files (tools/export_onnx.py)", "export"),
    ("rtmlib", "2D keypoints of photographs without a keypoint file", "detect"),
    ("cdflib", "Human3.6M's own archives", "benchmarks"),
    ("scipy", "MATLAB files of MPI-INF-3DHP", "benchmarks"),
    ("anny", "rebuilding the open body", "body"),
    ("sklearn", "fitting a pose prior of your own", "prior"),
)


def software_findings() -> list[Finding]:
    """Python, humandiff and the essential libraries."""
    return [
        probe("python", _python),
        probe("humandiff", _humandiff, "warning", "the commands of the methods", "pip install -e . -c constraints.txt"),
        probe("requirements", _requirements, get="pip install -e . -c constraints.txt"),
        probe("constraints.txt", _constraints, "info"),
        probe("torch", _torch, get=_MATCH),
        probe("devices", _devices, get="CUDA_VISIBLE_DEVICES= (empty) runs everything on the CPU"),
        probe("torchvision", _torchvision, get=_MATCH),
        *(probe(name, partial(_imported, name), get=_MATCH) for name in ("lightning", "timm", "numpy")),
    ]


def optional_findings() -> list[Finding]:
    """Packages that some input, output or data set needs."""
    return [_optional(*package) for package in _OPTIONAL]


def rendering_findings() -> list[Finding]:
    """What draws pictures."""
    gl = "quicker pictures of meshes on machines with a GPU"
    get = "install libegl1 and a driver (Debian: libgl1-mesa-dri); the software rasteriser does without"
    return [
        probe("software", _rasterizer),
        _absent("moderngl", gl, "gl") or probe("moderngl (EGL)", _moderngl, "warning", gl, get),
        probe("matplotlib", _matplotlib, get="unset MPLBACKEND if it names a backend that is not there"),
    ]


def _python() -> str:
    return f"{sys.version.split()[0]} on {sys.platform} ({sys.prefix})"


def _humandiff() -> str:
    version = installed_version("humandiff")
    if version is None:
        raise RuntimeError(f"not installed, only imported from {Path(__file__).parents[2]}")
    return f"{version}, {_commit()}"


def _commit() -> str:
    git = shutil.which("git")
    if git is None or not (_ROOT / ".git").exists():
        return "no checkout: its commit is not known"
    # Takes no lock: other programs may be at work in the checkout.
    command = [git, "--no-optional-locks", "-C", str(_ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return f"commit {done.stdout.strip()}" if done.returncode == 0 else "its commit cannot be read"


def _requirements() -> str | Finding:
    requirement = import_module("packaging.requirements").Requirement
    if installed_version("humandiff") is None:
        return Finding("requirements", "info", "not known, since humandiff is not installed")
    wanted = [requirement(text) for text in metadata.requires("humandiff") or []]
    wanted = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    found = [(each, installed_version(each.name)) for each in wanted]
    unmet = [
        f"{each.name}{each.specifier} (found {version or 'none'})"
        for each, version in found
        if version is None or not each.specifier.contains(version, prereleases=True)
    ]
    if unmet:
        raise RuntimeError(f"{len(unmet)} of {len(wanted)} not met: {', '.join(unmet)}")
    return f"all {len(wanted)} are installed in versions that will do"


def _constraints() -> str | Finding:
    path = next((path for path in (_ROOT / "constraints.txt", Path("constraints.txt")) if path.is_file()), None)
    if path is None:
        return Finding("constraints.txt", "info", "not here: versions are not compared with the tested ones")
    pins = dict(line.split("==") for line in path.read_text().split() if line.count("==") == 1)
    found = {name: version for name in pins if (version := installed_version(name)) is not None}
    differ = [
        f"{name} {version} (tested {pins[name]})" for name, version in found.items() if _release(version) != pins[name]
    ]
    if not differ:
        return f"{len(found)} installed packages have the tested versions"
    named = ", ".join(differ[:4]) + (f" and {len(differ) - 4} more" if len(differ) > 4 else "")
    get = "pip install -e . -c constraints.txt, if something fails"
    return Finding("constraints.txt", "info", f"{len(differ)} of {len(found)} packages differ: {named}", get=get)


def _torch() -> str:
    torch = import_module("torch")
    if float((torch.ones(2, 2) @ torch.ones(2, 2)).sum()) != 8:
        raise RuntimeError(f"{torch.__version__} multiplies matrices wrongly")
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    return f"{torch.__version__}, built for {built}"


def _devices() -> str | Finding:
    torch = import_module("torch")
    threads = f"CPU with {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        names = []
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            torch.ones(2, device=f"cuda:{number}").sum().item()  # Fails where torch was built for other GPUs.
            names.append(f"{about.name} ({gibibytes(about.total_memory)})")
        return f"{', '.join(names)}; {threads}"
    if torch.backends.mps.is_available():
        return f"Apple GPU (MPS); {threads}"
    if Path("/proc/driver/nvidia/version").exists():
        reason = "the driver is too old or hides it" if torch.version.cuda else "this torch was built for the CPU alone"
        get = "see pytorch.org/get-started for a build that fits your driver"
        return Finding("devices", "warning", f"{threads}; an NVIDIA GPU is not used: {reason}", "speed", get)
    return f"{threads}, no GPU"


def _torchvision() -> str:
    torch = import_module("torch")
    torchvision = import_module("torchvision")
    kept = import_module("torchvision.ops").nms(
        torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]]), torch.tensor([1.0, 2]), 0.5
    )
    if kept.tolist() != [1]:
        raise RuntimeError(f"{torchvision.__version__}: nms gives {kept.tolist()}, not [1]")
    for text in metadata.requires("torchvision") or []:
        wanted = text.replace(" ", "").partition("torch==")[2]
        if text.startswith("torch") and wanted and wanted != _release(torch.__version__):
            raise RuntimeError(f"{torchvision.__version__} is built for torch {wanted}, not {torch.__version__}")
    return f"{torchvision.__version__} matches torch"


def _imported(name: str) -> str:
    version = getattr(import_module(name), "__version__", None) or installed_version(name)
    return str(version or "version not known")


def _absent(module: str, enables: str, extra: str) -> Finding | None:
    if util.find_spec(module) is not None:
        return None
    return Finding(module, "missing", "not installed", enables, f'pip install "humandiff[{extra}]"')


def _optional(module: str, enables: str, extra: str) -> Finding:
    get = f'pip install --force-reinstall "humandiff[{extra}]"'
    return _absent(module, enables, extra) or probe(module, partial(_imported, module), "warning", enables, get)


def _rasterizer() -> str:
    torch = import_module("torch")
    rasterize: Callable[..., Any] = import_module("posecore.render.rasterizer").rasterize
    corners = torch.tensor([[-5.0, -5, 1], [5, -5, 1], [0, 5, 1]])
    K = torch.tensor([[4.0, 0, 4], [0, 4, 4], [0, 0, 1]])
    if not bool(rasterize(corners, torch.tensor([[0, 1, 2]]), K, (8, 8)).face.ge(0).any()):
        raise RuntimeError("draws no pixel of a triangle")
    return "draws"


def _moderngl() -> str:
    context = import_module("moderngl").create_context(standalone=True, backend="egl")
    try:
        return f"{installed_version('moderngl')} on {context.info['GL_RENDERER']}"
    finally:
        context.release()


def _matplotlib() -> str:
    matplotlib = import_module("matplotlib")
    figure = import_module("matplotlib.figure").Figure(figsize=(1, 1))
    import_module("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    figure.savefig(io.BytesIO(), format="png")
    return f"{matplotlib.__version__}, draws with Agg, which needs no display"


def _release(version: str) -> str:
    """A version without the local part, such as ``+cu128``."""
    return version.partition("+")[0]
