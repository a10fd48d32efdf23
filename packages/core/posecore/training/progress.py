"""Progress of long inference inside one step: a bar with the time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning.pytorch import LightningModule
from tqdm.auto import tqdm


@contextmanager
def progress_bar(module: LightningModule, label: str) -> Iterator[Callable[[int, int], None] | None]:
    """A function of (done, total) that moves a bar on standard error, or None where the Trainer shows no bars.

    Args:
        module: The running method; its Trainer decides whether bars are wanted and whether this is the first rank.
        label: What is being done.
    """
    trainer = module._trainer
    if trainer is None or trainer.progress_bar_callback is None or not trainer.is_global_zero:
        yield None
        return
    bar = tqdm(desc=label, total=1, leave=False, position=1, unit_scale=True, mininterval=0.5)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield update
    finally:
        bar.close()
