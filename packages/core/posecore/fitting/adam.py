"""Adam on rows that may leave: the state of each person is a row of its own."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class RowAdam:
    """Adam (Kingma and Ba, 2015) without weight decay, equal to `torch.optim.Adam` row by row.

    PyTorch's optimisers hold one parameter of fixed shape. Here people who have converged leave, and the others keep
    their moments. The step is counted on the host, so nothing waits for a device.

    Args:
        like: Values of the shape of the parameter.
        lr: Learning rate.
        betas: Decay of the two moments.
        eps: Added to the root of the second.
    """

    def __init__(
        self,
        like: Float[Tensor, "rows dim"],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.lr, self.betas, self.eps = lr, betas, eps
        self._steps = 0
        self._mean, self._square = torch.zeros_like(like), torch.zeros_like(like)

    def step(self, values: Float[Tensor, "rows dim"], grad: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
        """The values after one step."""
        self._steps += 1
        first, second = self.betas
        self._mean.lerp_(grad, 1 - first)
        self._square.mul_(second).addcmul_(grad, grad, value=1 - second)
        root = self._square.sqrt().div_((1 - second**self._steps) ** 0.5).add_(self.eps)
        return values.addcdiv(self._mean, root, value=-self.lr / (1 - first**self._steps))

    def take(self, rows: Int[Tensor, " kept"]) -> None:
        """Goes on with these rows only."""
        self._mean, self._square = self._mean[rows], self._square[rows]
