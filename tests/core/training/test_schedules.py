import itertools
import math

import pytest
import torch

from posecore.training.schedules import warmup_schedule


def rates(warmup_steps: int, total_steps: int | float | None, num_steps: int) -> list[float]:
    """The rate of each of the first steps, with a full rate of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_schedule(optimizer, warmup_steps, total_steps)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("total_steps", [None, -1, math.inf])
def test_warmup_then_constant(total_steps: float | None) -> None:
    assert rates(4, total_steps, 8) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


def test_no_warmup() -> None:
    assert rates(0, None, 3) == [1, 1, 1]


def test_warmup_then_half_a_cosine() -> None:
    found = rates(5, 25, 30)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[5] == pytest.approx(1.0)
    assert found[15] == pytest.approx(0.5)
    assert found[10] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert found[25:] == pytest.approx([0] * 5)  # and stays there
    assert all(a >= b for a, b in itertools.pairwise(found[4:]))


def test_cosine_equals_torchs() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert rates(0, 20, 20) == pytest.approx(expected)


def test_run_no_longer_than_its_warmup() -> None:
    assert rates(4, 2, 6) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0])
