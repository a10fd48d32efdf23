"""Less memory for a network in training: what its blocks compute is not kept but computed again.

timm's own `set_grad_checkpointing` is not there for every network (HRNet), and lets a batch move the running statistics
of a batch normalisation twice.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(network: nn.Module) -> int:
    """Makes the blocks of a network keep their inputs alone; the backward pass runs each a second time.

    Blocks are the modules in lists of the network that have modules themselves: the residual blocks of a ResNet, the
    high-resolution modules of an HRNet. Loss, gradients, statistics and the names of the weights stay the same.

    Args:
        network: Changed in place.

    Returns:
        How many blocks there are; 0 leaves the network as it was.
    """
    blocks = list(_blocks(network))
    for block in blocks:
        # An attribute and no module around it: names stay, and a copy of the network binds to its own block.
        block.forward = functools.partial(_run, block, block.forward)
    return len(blocks)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _blocks(child)
        elif any(child.children()) and any(True for _ in child.parameters()):
            yield child


def _run(block: nn.Module, forward: Callable[..., Any], *args: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args)
    contexts = functools.partial(_contexts, block)
    return checkpoint(_on_own_lists, forward, *args, use_reentrant=False, context_fn=contexts)


def _on_own_lists(forward: Callable[..., Any], *args: Any) -> Any:
    """HRNet's modules overwrite the list that they are given, which the second run needs as it was."""
    return forward(*(list(arg) if isinstance(arg, list) else arg for arg in args))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _same_statistics(block)


@contextmanager
def _same_statistics(block: nn.Module) -> Iterator[None]:
    """The second run of a block moves no running statistics: the first has."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
