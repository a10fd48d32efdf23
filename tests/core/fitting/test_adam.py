import torch

from posecore.fitting.adam import RowAdam


def gradients(steps: int, rows: int, generator: torch.Generator) -> list[torch.Tensor]:
    return [
        torch.randn(rows, 4, generator=generator, dtype=torch.float64) * 10 ** (step % 5 - 2) for step in range(steps)
    ]


def torch_adam(values: torch.Tensor, gradients: list[torch.Tensor], **settings: object) -> torch.Tensor:
    parameter = values.clone().requires_grad_()
    adam = torch.optim.Adam([parameter], **settings)
    for gradient in gradients:
        parameter.grad = gradient
        adam.step()
    return parameter.detach()


def test_equals_torch(generator: torch.Generator) -> None:
    start = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    steps = gradients(30, 6, generator)
    for settings in ({"lr": 1e-2}, {"lr": 0.3, "betas": (0.7, 0.9), "eps": 1e-3}):
        adam, values = RowAdam(start, **settings), start
        for gradient in steps:
            values = adam.step(values, gradient)
        torch.testing.assert_close(values, torch_adam(start, steps, **settings))


def test_people_who_stay_keep_their_moments(generator: torch.Generator) -> None:
    start = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    steps = gradients(20, 6, generator)
    adam, values, left = RowAdam(start, lr=1e-2), start, torch.arange(6)
    for number, gradient in enumerate(steps):
        if number in (7, 13):
            rows = torch.tensor([3, 0, 4]) if number == 7 else torch.tensor([2, 1])
            adam.take(rows)
            values, left = values[rows], left[rows]
        values = adam.step(values, gradient[left])
    assert left.tolist() == [4, 0]
    torch.testing.assert_close(values, torch_adam(start, steps, lr=1e-2)[left])


def test_the_callers_tensors_stay(generator: torch.Generator) -> None:
    start, gradient = torch.ones(2, 3), torch.ones(2, 3)
    adam = RowAdam(start, lr=0.1)
    moved = adam.step(start, gradient)
    assert torch.equal(start, torch.ones(2, 3))
    assert torch.equal(gradient, torch.ones(2, 3))
    torch.testing.assert_close(moved, torch.full((2, 3), 0.9))
