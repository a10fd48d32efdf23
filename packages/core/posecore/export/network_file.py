"""Networks as files that other programs run: ONNX, and PyTorch's own exported programs (the extra ``export``).

A file is written only after ONNX Runtime has given the numbers of PyTorch at sizes that the export never saw.
"""

import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, util
from pathlib import Path
from typing import Any, cast

import jaxtyping
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from posecore.export.files import write_bytes
from posecore.export.network_parts import Array, Call, Part

OPSET = 20
"""Of ONNX: the first with GELU as an operator of its own; ONNX Runtime 1.17 and newer run it."""
TOLERANCE = 1e-4
"""Largest absolute difference between ONNX Runtime and PyTorch that a file may have."""
METADATA = "humandiff"
"""The one key of a file's metadata: what it is, as JSON."""
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def trace(part: Part) -> ExportedProgram:
    """The network as a graph whose named axes have any length.

    Raises:
        ValueError: The network is in training mode.
    """
    if part.network.training:
        raise ValueError("network: is in training mode; call eval() first")
    axes = {axis: Dim(axis, min=1) for axis in part.axes}
    shapes = tuple({i: axes[n] for i, n in each.axes.items()} for each in part.inputs)
    # Lengths that differ and are not 1, so that no two axes are taken for one and none for a constant.
    example = part.example([2 + i for i in range(len(axes))])
    # Checks of shapes, where somebody has them on, compare lengths, and a length that was compared is fixed.
    checked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with torch.no_grad():
            wrapped = Call(part.network, part.network).eval()
            program = torch.export.export(wrapped, example, dynamic_shapes=(shapes,), strict=False)
    finally:
        jaxtyping.config.update("jaxtyping_disable", checked)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # folders of this machine do not belong in a file
    return program


def runnable(program: ExportedProgram) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """The program as a function, without guards: tracing takes it that images are fewer than rows, and need not."""
    return program.module(check_guards=False)


def onnx_bytes(part: Part, program: ExportedProgram, about: Mapping[str, Any]) -> bytes:
    """The graph as an ONNX file.

    Args:
        part: What `program` was traced from.
        program: By `trace`.
        about: What a reader of the file should know beside the part: method, weights, commit.

    Raises:
        ImportError: The extra ``export`` is not installed.
    """
    check_installed()
    names = [each.name for each in part.inputs], [each.name for each in part.outputs]
    with warnings.catch_warnings():
        # It says so of every axis that two inputs share, and then gives it the one name.
        warnings.filterwarnings("ignore", message="# The axis name: ")
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(tuple(each.axes for each in part.inputs),),  # gives the axes their names
            optimize=False,  # ONNX Runtime does so when it loads a file; here it would take minutes
            input_names=names[0],
            output_names=names[1],
            verbose=False,
        )
    assert made is not None
    model = made.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # where in PyTorch's graph it comes from: larger than small networks
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(describe(part, about))
    for value, array in zip((*model.graph.input, *model.graph.output), (*part.inputs, *part.outputs), strict=True):
        value.doc_string = array.about
    return cast(bytes, model.SerializeToString())


def describe(part: Part, about: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a file."""

    def arrays(listed: Sequence[Array]) -> dict[str, Any]:
        return {each.name: {"shape": list(each.shape), "about": each.about} for each in listed}

    return {
        **about,
        "about": part.about,
        "inputs": arrays(part.inputs),
        "outputs": arrays(part.outputs),
        "settings": dict(part.settings),
        "opset": OPSET,
        "torch": torch.__version__,
    }


def onnx_runner(content: bytes | Path, num_threads: int | None = None) -> Callable[..., tuple[Tensor, ...]]:
    """A function that runs an ONNX file on the CPU: tensors in the order of the inputs, a tuple of tensors.

    Args:
        content: The file.
        num_threads: PyTorch's where None.

    Raises:
        ImportError: ONNX Runtime is not installed.
    """
    check_installed()
    runtime: Any = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = num_threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors: it warns of every cast that it does not fold into a constant
    session = runtime.InferenceSession(
        content if isinstance(content, bytes) else str(content), options, providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(array) for array in session.run(None, given))

    return run


def largest_difference(
    part: Part, run: Callable[..., Tensor | tuple[Tensor, ...]], sizes: Sequence[int] = (1, 4, 7)
) -> float:
    """Runs the part by PyTorch and by `run` at several lengths of every named axis, on inputs of its own each.

    Returns:
        The largest absolute difference of any number of any output.

    Raises:
        ValueError: It exceeds `TOLERANCE`, or shapes differ, or numbers are not finite; the message says where.
    """
    largest = 0.0
    for seed, size in enumerate(sizes):
        # Axes get lengths of their own: 4 x 5 and not 4 x 4; but 1 x 1, which broadcasts.
        lengths = [size + i if size > 1 else 1 for i in range(len(part.axes))]
        inputs = part.example(lengths, seed + 1)
        with torch.no_grad():
            expected, found = _tuple(part.network(*inputs)), _tuple(run(*inputs))
        for array, ours, theirs in zip(part.outputs, expected, found, strict=True):
            where = f"{array.name} at {', '.join(f'{n} {a}' for n, a in zip(lengths, part.axes, strict=True))}"
            if ours.shape != theirs.shape:
                raise ValueError(f"{where}: has shape {tuple(theirs.shape)}, PyTorch's has {tuple(ours.shape)}")
            difference = float((ours - theirs).abs().max())
            if not difference <= TOLERANCE:  # neither where it is not a number
                raise ValueError(f"{where}: differs from PyTorch by {difference:.1e}, allowed are {TOLERANCE:.0e}")
            largest = max(largest, difference)
    return largest


def write_part(path: Path, part: Part, about: Mapping[str, Any], with_program: bool = False) -> float:
    """Writes ``<path>.onnx``, and ``<path>.pt2`` where asked for, whole and checked or not at all.

    Args:
        path: Without ending.
        part: What to write.
        about: As `onnx_bytes`.
        with_program: Whether PyTorch's exported program is written too.

    Returns:
        The largest absolute difference that was found.

    Raises:
        ImportError: The extra ``export`` is not installed.
        ValueError: A file would differ from PyTorch.
        OSError: A file cannot be written.
    """
    program = trace(part)
    content = onnx_bytes(part, program, about)
    largest = largest_difference(part, onnx_runner(content))
    if with_program:
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # Of weights that are views of a larger tensor: may be wrong, which the next lines would find.
            warnings.filterwarnings("ignore", message="No complete tensor found")
            torch.export.save(program, buffer, extra_files={f"{METADATA}.json": json.dumps(describe(part, about))})
        buffer.seek(0)
        largest = max(largest, largest_difference(part, runnable(torch.export.load(buffer))))
        write_bytes(path.with_name(f"{path.name}.pt2"), buffer.getvalue())
    write_bytes(path.with_name(f"{path.name}.onnx"), content)
    return largest


def check_installed() -> None:
    """Asks for what ONNX needs.

    Raises:
        ImportError: Some of it is not there.
    """
    if missing := [name for name in _NEEDED if util.find_spec(name) is None]:
        raise ImportError(f'{", ".join(missing)}: not installed; ONNX needs pip install "humandiff[export]"')


def _tuple(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (found,) if isinstance(found, Tensor) else tuple(found)
