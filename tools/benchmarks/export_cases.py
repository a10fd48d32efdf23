"""Every network that has a file: PyTorch, its exported program, and ONNX Runtime, at one and at many rows."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.timing import OURS, Case, Variant
from diffhmr.export import export_parts as diffhmr_parts
from diffhmr.module import DiffHMR
from diffupose.export import export_parts as diffupose_parts
from diffupose.module import DiffuPose
from hmdiff.export import export_parts as hmdiff_parts
from hmdiff.module import HMDiff
from posecore.export.body_parts import export_parts as body_parts
from posecore.export.network_file import check_installed, onnx_bytes, onnx_runner, runnable, trace
from posecore.export.network_parts import Part
from scorehmr.export import export_parts as scorehmr_parts
from scorehmr.module import ScoreHMR
from zedo.export import export_parts as zedo_parts
from zedo.module import ZeDO

Network = Callable[..., Tensor | tuple[Tensor, ...]]

PARTS: dict[str, Callable[[], dict[str, Part]]] = {
    "zedo": lambda: zedo_parts(ZeDO.pretrained()),
    "diffupose": lambda: diffupose_parts(DiffuPose.pretrained()),
    "diffupose U-Net": lambda: diffupose_parts(DiffuPose(denoiser="unet").eval()),  # no shipped weights: random ones
    "scorehmr": lambda: scorehmr_parts(ScoreHMR.pretrained()),
    "diffhmr": lambda: diffhmr_parts(DiffHMR.pretrained()),
    "hmdiff": lambda: hmdiff_parts(HMDiff.pretrained()),
    "body": body_parts,
}
QUICK = "zedo"


def export_cases(quick: bool) -> Iterator[Case]:
    """``humandiff`` is the network as PyTorch runs it; a second axis (hypotheses, samples) has the length 1."""
    missing = _missing()
    for method, parts in PARTS.items():
        if quick and method != QUICK:
            continue
        for name, part in parts().items():
            program = trace(part)
            runs: dict[str, Network] = {OURS: part.network, "torch.export": runnable(program)}
            if not missing:
                runs["onnxruntime"] = onnx_runner(onnx_bytes(part, program, {}))
            for size in (1, 3) if quick else (1, 8) if part.axes[0] == "images" else (1, 32, 256):
                inputs = part.example([size] + [1] * (len(part.axes) - 1))
                variants = {each: Variant(partial(_run, run, inputs)) for each, run in runs.items()}
                if missing:
                    variants["onnxruntime"] = Variant(None, note=missing)
                yield Case("export", f"{method} {name}, {size} {part.axes[0]}", variants, "relative")


def _missing() -> str:
    """Why ONNX Runtime cannot take part; empty where it can."""
    try:
        check_installed()
    except ImportError as error:
        return f"not run: {error}"
    return ""


def _run(network: Network, inputs: tuple[Tensor, ...]) -> Tensor:
    """The first output."""
    with torch.inference_mode():
        found = network(*inputs)
    return found if isinstance(found, Tensor) else found[0]
