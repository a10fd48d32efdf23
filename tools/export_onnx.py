"""Networks of the methods, and the body layer, as ONNX files for other programs: docs/export.md.

    python tools/export_onnx.py zedo [PART ...] [--weights NAME_OR_FILE] [--config NAME_OR_FILE] [--pt2] \
        [--output runs/onnx] [--overwrite]
    python tools/export_onnx.py body [--body-model FILE] [--pose-repr axis_angle]
    python tools/export_onnx.py all

The first name is a method, ``body`` or ``all`` of them with shipped weights. Without ``--config`` the network is that
of the shipped weights. A file is kept only if ONNX Runtime gives PyTorch's numbers. Needs the extra ``export``.
"""

import argparse
import inspect
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import LightningModule

from posecore.body.files import load_body_model
from posecore.body.smpl import PoseRepr
from posecore.cli import find_configs
from posecore.export.body_parts import export_parts as body_parts
from posecore.export.network_file import check_installed, write_part
from posecore.export.network_parts import Part
from posecore.training.results import source_version

METHODS = {"zedo": "ZeDO", "diffupose": "DiffuPose", "diffhmr": "DiffHMR", "scorehmr": "ScoreHMR", "hmdiff": "HMDiff"}
BODY = "body"


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the files; by the command line where no arguments are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=[*METHODS, BODY, "all"])
    parser.add_argument("parts", nargs="*", metavar="PART", help="which of its networks; all where none is named")
    parser.add_argument("--weights", help="a shipped name or a safetensors file; the method's shipped one by default")
    parser.add_argument("--config", action="append", default=[], help="YAML whose section `model` describes it")
    parser.add_argument("--body-model", type=Path, help="SMPL's or MANO's file, for `body`; the open body by default")
    parser.add_argument("--pose-repr", choices=["rotmat", "axis_angle", "rot6d"], default="rotmat", help="for `body`")
    parser.add_argument("--pt2", action="store_true", help="write PyTorch's exported program too")
    parser.add_argument("--output", type=Path, default=Path("runs/onnx"))
    parser.add_argument("--overwrite", action="store_true", help="take the place of files that exist")
    args = parser.parse_args(arguments)
    try:
        check_installed()
        if args.method == "all" and (args.parts or args.weights or args.config or args.body_model):
            raise ValueError("all: takes no parts, weights, configs or body model; name one method")
        if args.method == BODY and (args.weights or args.config):
            raise ValueError("body: has no weights and no config; --body-model names its file")
        for name in [*METHODS, BODY] if args.method == "all" else [args.method]:
            parts, about = described(name, args.weights, args.config, args.body_model, args.pose_repr)
            write(args.output, name, chosen(name, parts, args.parts), about, args.pt2, args.overwrite)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


def described(
    name: str, weights: str | None, configs: Sequence[str], body_model: Path | None, pose_repr: PoseRepr
) -> tuple[dict[str, Part], dict[str, Any]]:
    """The parts of a method or of the body, and what their files say about where they are from."""
    about: dict[str, Any] = {"method": name, "commit": source_version()}
    if name == BODY:
        body = load_body_model(body_model)
        return body_parts(body, pose_repr), {**about, "weights": body.name}
    model = built(name, weights, configs)
    parts: dict[str, Part] = import_module(f"{name}.export").export_parts(model)
    return parts, {**about, "weights": model.weights, "configs": list(configs)}


def built(name: str, weights: str | None, configs: Sequence[str]) -> Any:
    """The method with weights, on the CPU, in eval mode.

    Raises:
        ValueError: A config has no ``model`` section or one that does not fit, or nobody names weights.
        FileNotFoundError: There is no such config, or there are no such weights.
    """
    kind: Any = getattr(import_module(f"{name}.module"), METHODS[name])
    options = from_configs(kind, configs) if configs else {}
    if weights is not None:
        options["weights"] = weights
    if configs and options["weights"] is None:
        raise ValueError(f"weights: the config names none; give --weights, a safetensors file of {name}")
    return kind.pretrained(**options)


def from_configs(kind: type[LightningModule], configs: Sequence[str]) -> dict[str, Any]:
    """All arguments of the module that the ``model`` sections of the configs describe, one on top of the other."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "model", instantiate=False)  # built once the weights are known
    own = Path(inspect.getfile(kind)).parent / "configs"
    settings = None
    for found in find_configs([f"--config={each}" for each in configs], own):
        content = yaml.safe_load(Path(found.removeprefix("--config=")).read_text())
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise ValueError(f"--config: {found.removeprefix('--config=')} has no section `model`")
        try:
            settings = parser.parse_object({"model": content["model"]}, settings)
        except ArgumentError as error:
            raise ValueError(f"--config: {found.removeprefix('--config=')}: {' '.join(str(error).split())}") from error
    return dict(vars(parser.instantiate(settings).model))


def chosen(name: str, parts: dict[str, Part], names: Sequence[str]) -> dict[str, Part]:
    """The parts of these names, all where there are none."""
    if unknown := [each for each in names if each not in parts]:
        raise ValueError(f"part: {name} has no {unknown[0]!r}; it has {', '.join(parts)}")
    return {each: parts[each] for each in dict.fromkeys(names or parts)}


def write(
    folder: Path, name: str, parts: dict[str, Part], about: dict[str, Any], with_program: bool, overwrite: bool
) -> None:
    """Writes the files of one method, after a look whether all of them may be."""
    endings = (".onnx", ".pt2") if with_program else (".onnx",)
    paths = [folder / f"{name}_{part}{ending}" for part in parts for ending in endings]
    if (existing := [path for path in paths if path.exists()]) and not overwrite:
        raise FileExistsError(f"'{existing[0]}' exists; choose another --output, or --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in parts.items():
        start = time.perf_counter()
        difference = write_part(folder / f"{name}_{part}", content, {**about, "part": part}, with_program)
        path = folder / f"{name}_{part}.onnx"
        seconds = time.perf_counter() - start
        megabytes = path.stat().st_size / 2**20
        print(f"{path}: {megabytes:.1f} MiB, differs from PyTorch by {difference:.1e}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
