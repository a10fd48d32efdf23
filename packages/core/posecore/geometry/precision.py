"""Keeps geometry out of half precision."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def autocast_off() -> Iterator[None]:
    """No autocast inside, on whatever device it is on outside."""
    with ExitStack() as stack:
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """Runs a geometric function in float32 or better, inside autocast too.

    Autocast turns matrix products into bfloat16 or float16, whose 3 digits mean centimetres on a person 5 m away and
    several pixels on a photo. The decorated function runs with autocast off; half-precision inputs are raised to
    float32 (so is the result, as for PyTorch's own float32 operations); the rest stays as it is. What stands inside of
    a dataclass or a list is not raised.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with autocast_off():
            return function(*map(_raise_half, args), **{name: _raise_half(value) for name, value in kwargs.items()})  # type: ignore[arg-type]

    return wrapper


def _raise_half(value: object) -> object:
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value
