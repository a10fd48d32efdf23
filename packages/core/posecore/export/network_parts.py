"""What a network is to other programs: names, shapes and meanings of what goes in and comes out.

A method describes its networks as `Part` objects in its ``export.py``; `posecore.export.network_file` makes files of
them. Nothing here knows a method.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from posecore.diffusion.schedule import NoiseSchedule, PredictionType

Fill = Callable[[tuple[int, ...], torch.Generator], Tensor]
"""Draws an input of a shape, of the size that it has in use."""


@dataclass(frozen=True)
class Array:
    """An output of a network.

    Attributes:
        name: In the file.
        shape: Numbers, and the names of axes of any length.
        about: Meaning and unit.
    """

    name: str
    shape: tuple[int | str, ...]
    about: str

    @property
    def axes(self) -> dict[int, str]:
        """Names of the axes of any length, by their place."""
        return {i: n for i, n in enumerate(self.shape) if isinstance(n, str)}


@dataclass(frozen=True)
class Input(Array):
    """An input of a network.

    Attributes:
        fill: Draws one to trace and to check with.
    """

    fill: Fill


@dataclass(frozen=True)
class Part:
    """A network that can be a file of its own.

    Attributes:
        about: What it does.
        network: Takes the inputs in their order, gives a tensor or a tuple of them; in eval mode, on the CPU.
        inputs: What goes in; every named axis is one of an input.
        outputs: What comes out.
        settings: What a program around it must know, such as the noise schedule; becomes JSON.
    """

    about: str
    network: nn.Module
    inputs: Sequence[Input]
    outputs: Sequence[Array]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def axes(self) -> list[str]:
        """Names of the axes of any length, each once."""
        return list(dict.fromkeys(axis for each in self.inputs for axis in each.axes.values()))

    def example(self, sizes: Sequence[int], seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs for these lengths of the named axes, in the order of `axes`."""
        length = dict(zip(self.axes, sizes, strict=True))
        generator = torch.Generator().manual_seed(seed)
        shapes = [tuple(n if isinstance(n, int) else length[n] for n in each.shape) for each in self.inputs]
        return tuple(each.fill(shape, generator) for each, shape in zip(self.inputs, shapes, strict=True))


class Call(nn.Module):
    """A function of tensors as a network.

    Args:
        function: Called with the inputs.
        *modules: Whose weights it uses.
    """

    def __init__(self, function: Callable[..., Tensor | tuple[Tensor, ...]], *modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.used = nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the function returns."""
        return self.function(*inputs)


def normal(std: float = 1.0) -> Fill:
    """Draws normal numbers."""
    return lambda shape, generator: std * torch.randn(shape, generator=generator)


def uniform(low: float, high: float) -> Fill:
    """Draws numbers between two."""
    return lambda shape, generator: low + (high - low) * torch.rand(shape, generator=generator)


def integers(end: int) -> Fill:
    """Draws 0..end-1, int64."""
    return lambda shape, generator: torch.randint(end, shape, generator=generator)


def schedule_settings(schedule: NoiseSchedule, prediction_type: PredictionType = "epsilon") -> dict[str, Any]:
    """What a sampler must know of the noise: alpha-bar of t = 0..T-1, and what the network predicts."""
    return {"prediction_type": prediction_type, "alphas_cumprod": schedule.alphas_cumprod.tolist()}
