"""Weights in and out: a stamp that tells methods' checkpoints apart, and the safetensors files that are shipped."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from posecore.export.files import write_bytes

STAMP = "humandiff_method"


def stamp(checkpoint: dict[str, Any], method: str) -> None:
    """Writes the method's name into a Lightning checkpoint."""
    checkpoint[STAMP] = method


def check_stamp(checkpoint: dict[str, Any], method: str) -> None:
    """Refuses the checkpoint of another method, before its tensors fail to fit.

    Raises:
        ValueError: The checkpoint is another method's, or nobody's.
    """
    found = checkpoint.get(STAMP)
    if found != method:
        whose = f"a checkpoint of {found}" if found else "no checkpoint of this project"
        raise ValueError(f"ckpt_path: this is {whose}; {method} needs one that `{method} fit` wrote")


def save_weights(
    path: Path, module: nn.Module, method: str, about: dict[str, str], only: str = "", half: bool = False
) -> None:
    """Writes a module's state dict as safetensors, with the method's name and what the file is.

    Args:
        path: The file.
        module: Whose state dict.
        method: The method's name, checked on loading.
        about: What a reader should know: data, config, commit, seed.
        only: Keeps the names that begin with this, for example "features.".
        half: Whether numbers are stored in 16 bits (IEEE half), for a file of half the size; loading makes 32 of them.

    Raises:
        ValueError: No name begins with ``only``, or a number is too large for 16 bits.
    """
    state = {name: value for name, value in module.state_dict().items() if name.startswith(only)}
    if not state:
        raise ValueError(f"only: no weight of {method} begins with {only!r}")
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    if half:
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
        if large := [name for name, value in tensors.items() if not bool(value.isfinite().all())]:
            raise ValueError(f"half: {large[0]} holds numbers that 16 bits cannot")
    write_bytes(path, save(tensors, metadata={STAMP: method, "about": json.dumps(about, sort_keys=True)}))


def read_weights(path: Path, method: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file of this method, and what the file says about itself.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a safetensors file, or another method's.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights: there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"weights: {path} is not a readable safetensors file ({error})") from error
    if metadata.get(STAMP) != method:
        raise ValueError(f"weights: {path} belongs to {metadata.get(STAMP) or 'nobody'}, not to {method}")
    return tensors, json.loads(metadata.get("about", "{}"))


def load_weights(path: Path, module: nn.Module, method: str, prefix: str = "") -> dict[str, str]:
    """Loads a safetensors file of this method into a module.

    Args:
        path: The file.
        module: Takes the weights.
        method: The method's name.
        prefix: What the module's names begin with in the file, where the file holds more than the module.

    Returns:
        What the file says about itself.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a safetensors file, another method's, or of another architecture.
    """
    tensors, about = read_weights(path, method)
    own = module.state_dict()
    for name, value in own.items():
        found = tensors.get(prefix + name)
        if found is None:
            raise ValueError(f"weights: {path} has no {prefix}{name}, which this configuration of {method} needs")
        if found.shape != value.shape:
            raise ValueError(
                f"weights: {path} has {prefix}{name} of shape {tuple(found.shape)}, "
                f"this configuration of {method} needs {tuple(value.shape)}"
            )
    module.load_state_dict({name: tensors[prefix + name] for name in own})
    return about


def resolve_weights(weights: str, package_folder: Path) -> Path:
    """A shipped file by its name (``cmu`` is ``weights/cmu.safetensors``), or a path.

    Raises:
        FileNotFoundError: Neither; the message lists the shipped names.
    """
    shipped = package_folder / "weights" / f"{weights}.safetensors"
    if shipped.is_file():
        return shipped
    if Path(weights).is_file():
        return Path(weights)
    names = sorted(path.stem for path in shipped.parent.glob("*.safetensors"))
    raise FileNotFoundError(f"weights: {weights!r} is neither a file nor a shipped name; shipped are {names}")
