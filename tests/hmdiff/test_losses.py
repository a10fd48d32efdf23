from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from hmdiff.losses import edge_loss, joint_loss, normal_loss, vertex_loss

# Two triangles of a square's corners and one that stands on a side of it.
FACES = torch.tensor([[0, 1, 2], [0, 2, 3], [1, 0, 4]])
EDGES = torch.tensor([[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [1, 4], [2, 3]])
KNOWN = torch.tensor([True, False, True, True])
WEIGHT = torch.tensor([0.1, 5.0, 1.0, 0.0])
LOSSES: dict[str, Callable[..., Tensor]] = {
    "vertex": vertex_loss,
    "joint": joint_loss,
    "normal": partial(normal_loss, faces=FACES),
    "edge": partial(edge_loss, edges=EDGES),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def draw(rows: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(rows, 5, 3, generator=torch.Generator().manual_seed(seed))


def turns(count: int) -> Tensor:
    """Random rotations."""
    q = torch.linalg.qr(torch.randn(count, 3, 3, generator=torch.Generator().manual_seed(5))).Q
    return q * torch.linalg.det(q)[:, None, None]


def plain(name: str, found: Tensor, true: Tensor) -> float:
    """The loss of one row, by loops."""
    a, b = found.detach().double().numpy(), true.double().numpy()
    terms = []
    if name in ("vertex", "joint"):
        terms = [abs(a[v, c] - b[v, c]) for v in range(len(a)) for c in range(3)]
    elif name == "edge":
        terms = [abs(np.linalg.norm(a[i] - a[j]) - np.linalg.norm(b[i] - b[j])) for i, j in EDGES.tolist()]
    else:
        for i, j, k in FACES.tolist():
            normal = np.cross(b[j] - b[i], b[k] - b[i])
            for side in (a[j] - a[i], a[k] - a[i], a[k] - a[j]):
                terms.append(abs(side @ normal) / np.linalg.norm(side) / np.linalg.norm(normal))
    return float(np.mean(terms))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_mean_over_known_rows(name: str, dtype: torch.dtype) -> None:
    found, true, weight = draw().to(dtype), draw(seed=1).to(dtype), WEIGHT.to(dtype)
    loss, row = LOSSES[name], [plain(name, f, t) for f, t in zip(found, true, strict=True)]
    assert loss(found, true).dtype == dtype
    assert loss(found, true).item() == pytest.approx(np.mean(row), rel=1e-5)
    assert loss(found, true, known=KNOWN).item() == pytest.approx((row[0] + row[2] + row[3]) / 3, rel=1e-5)
    expected = (0.1 * row[0] + row[2]) / 3
    assert loss(found, true, known=KNOWN, row_weight=weight).item() == pytest.approx(expected, rel=1e-5)
    expected = (0.1 * row[0] + 5 * row[1] + row[2]) / 4
    assert loss(found, true, row_weight=weight).item() == pytest.approx(expected, rel=1e-5)


@every_loss
def test_unknown_rows_may_hold_anything(loss: Callable[..., Tensor]) -> None:
    found, true = draw().requires_grad_(), draw(seed=1)
    true[1] = torch.nan
    value = loss(found, true, known=KNOWN)
    value.backward()
    assert found.grad is not None
    assert value.isfinite()
    assert not found.grad[1].any()
    assert found.grad.isfinite().all()
    assert found.grad[[0, 2, 3]].any(dim=(1, 2)).all()


@every_loss
def test_no_known_row_is_zero_with_a_graph(loss: Callable[..., Tensor]) -> None:
    found = draw().requires_grad_()
    value = loss(found, torch.full_like(found, torch.nan), known=torch.zeros(4, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert found.grad is not None
    assert not found.grad.any()


@every_loss
@pytest.mark.parametrize("collapsed", [True, False])
def test_a_mesh_at_a_point_or_at_the_truth_gives_a_bounded_gradient(
    loss: Callable[..., Tensor], collapsed: bool
) -> None:
    true = draw(seed=1)
    found = (torch.zeros_like(true) if collapsed else true.clone()).requires_grad_()
    loss(found, true).backward()
    assert found.grad is not None
    assert found.grad.abs().max() < 1e4


@pytest.mark.parametrize("name", ["vertex", "normal", "edge"])
def test_the_true_mesh_has_no_loss(name: str) -> None:
    true = draw(seed=1)
    assert LOSSES[name](true, true).item() == pytest.approx(0, abs=1e-6)
    assert LOSSES[name](draw(), true).item() > 0.1


def test_normals_and_edges_do_not_see_where_the_mesh_is() -> None:
    found, true, shift = draw(), draw(seed=1), draw(seed=2)[:, :1]
    for name in ("normal", "edge"):
        torch.testing.assert_close(LOSSES[name](found + shift, true), LOSSES[name](found, true))


def test_normals_see_directions_and_edges_see_lengths_only() -> None:
    true = draw(seed=1)
    turned = true @ turns(4)
    assert LOSSES["edge"](turned, true).item() == pytest.approx(0, abs=1e-6)
    assert LOSSES["normal"](turned, true).item() > 0.1
    assert LOSSES["normal"](1.5 * true, true).item() == pytest.approx(0, abs=1e-6)
    lengths = (true[:, EDGES[:, 0]] - true[:, EDGES[:, 1]]).norm(dim=-1)
    torch.testing.assert_close(LOSSES["edge"](1.5 * true, true), 0.5 * lengths.mean())


def test_an_edge_along_the_true_normal_has_a_cosine_of_one() -> None:
    true = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]])
    found = torch.tensor([[[0.0, 0, 0], [0, 0, 2], [0, 0, -1]]])
    face = torch.tensor([[0, 1, 2]])
    assert normal_loss(found, true, face).item() == pytest.approx(1)
    assert normal_loss(found, torch.zeros_like(true), face) == 0  # no area, no normal


@pytest.mark.parametrize("name", ["normal", "edge"])
def test_half_precision_is_raised(name: str) -> None:
    found, true = draw().bfloat16(), draw(seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = LOSSES[name](found, true)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, LOSSES[name](found.float(), true))


@pytest.mark.parametrize("name", ["vertex", "edge", "normal"])
def test_gradients_against_differences(name: str) -> None:
    found, true = draw(2).double().requires_grad_(), draw(2, seed=1).double()
    assert torch.autograd.gradcheck(lambda points: LOSSES[name](points, true), found)
