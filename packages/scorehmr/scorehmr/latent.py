"""What ScoreHMR diffuses: the pose (the default), or pose and shape, and a noise predictor for it."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from posecore.fitting.estimate import SMPLEstimate
from scorehmr.network import POSE_DIM, Denoiser
from scorehmr.prepared import PreparedDenoiser


class PoseAndShape(nn.Module):
    """x_0 = theta in 6D, with the shape branch followed by beta, and the denoisers of both.

    The branches are two networks that know nothing of each other (Sec. 4.2; Sup. Mat.): they share the timestep, the
    condition and, in a fit, the gradient of the guidance.

    Args:
        cond_dim: Length of the condition.
        hidden_dim: Width inside a block.
        num_blocks: Blocks of the pose branch.
        shape: Whether the shape is diffused too, by a branch of two blocks.
    """

    betas_min: Tensor
    betas_max: Tensor

    def __init__(self, cond_dim: int, hidden_dim: int = 1024, num_blocks: int = 3, shape: bool = False) -> None:
        super().__init__()
        self.pose = Denoiser(POSE_DIM, cond_dim, num_blocks, hidden_dim)
        self.shape = Denoiser(10, cond_dim, 2, hidden_dim) if shape else None
        # Betas are scaled to [-1, 1] by their range in the training set (`fit_range`).
        self.register_buffer("betas_min", torch.full((10,), -3.0))
        self.register_buffer("betas_max", torch.full((10,), 3.0))

    @property
    def dim(self) -> int:
        """Length of x_0."""
        return POSE_DIM + (0 if self.shape is None else 10)

    def fit_range(self, betas: Float[Tensor, "rows 10"]) -> None:
        """Takes the range of the training set's betas; one that never changes keeps a width of 1."""
        self.betas_min.copy_(betas.amin(dim=0))
        self.betas_max.copy_(torch.maximum(betas.amax(dim=0), self.betas_min + 1))

    @property
    def moves_shape(self) -> bool:
        """Whether betas are diffused."""
        return self.shape is not None

    def encode(self, estimate: SMPLEstimate) -> Float[Tensor, "people dim"]:
        """SMPL parameters as a clean sample."""
        pose = estimate.pose_rot6d.flatten(1)
        if self.shape is None:
            return pose
        betas = 2 * (estimate.betas - self.betas_min) / (self.betas_max - self.betas_min) - 1
        return torch.cat((pose, betas), dim=-1)

    def decode(self, x_0: Float[Tensor, "people dim"], estimate: SMPLEstimate) -> SMPLEstimate:
        """A clean sample as SMPL parameters; what is not diffused is the estimate's."""
        betas = estimate.betas
        if self.shape is not None:
            betas = (x_0[:, POSE_DIM:] + 1) / 2 * (self.betas_max - self.betas_min) + self.betas_min
        return dataclasses.replace(estimate, pose_rot6d=x_0[:, :POSE_DIM].unflatten(-1, (24, 6)), betas=betas)

    def forward(
        self, x_t: Float[Tensor, "people dim"], t: Int[Tensor, " people"], cond: Float[Tensor, "people cond"]
    ) -> Float[Tensor, "people dim"]:
        """The predicted noise."""
        pose: Tensor = self.pose(x_t[:, :POSE_DIM], t, cond)
        if self.shape is None:
            return pose
        return torch.cat((pose, self.shape(x_t[:, POSE_DIM:], t, cond)), dim=-1)

    def prepared(self, cond: Float[Tensor, "people cond"], timesteps: Sequence[int]) -> "PreparedPrediction":
        """The noise prediction for these conditions, fast and without gradients."""
        return PreparedPrediction(self, cond, timesteps)

    def differentiable(self, cond: Float[Tensor, "people cond"]) -> "PlainPrediction":
        """The noise prediction for these conditions, with gradients."""
        return PlainPrediction(self, cond)


class PreparedPrediction:
    """`PreparedDenoiser` of one or both branches."""

    def __init__(self, model: PoseAndShape, cond: Float[Tensor, "people cond"], timesteps: Sequence[int]) -> None:
        self._pose = PreparedDenoiser(model.pose, cond, timesteps)
        self._shape = None if model.shape is None else PreparedDenoiser(model.shape, cond, timesteps)

    def __call__(self, x_t: Float[Tensor, "people dim"], t: int) -> Float[Tensor, "people dim"]:
        """The noise predicted in x_t at one timestep."""
        if self._shape is None:
            return self._pose(x_t, t)
        return torch.cat((self._pose(x_t[:, :POSE_DIM], t), self._shape(x_t[:, POSE_DIM:], t)), dim=-1)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Goes on with these people only."""
        for branch in (self._pose, self._shape):
            if branch is not None:
                branch.keep(rows)


class PlainPrediction:
    """The networks themselves, for guidance through them."""

    def __init__(self, model: PoseAndShape, cond: Float[Tensor, "people cond"]) -> None:
        self._model, self._cond = model, cond

    def __call__(self, x_t: Float[Tensor, "people dim"], t: int) -> Float[Tensor, "people dim"]:
        """The noise predicted in x_t at one timestep."""
        noise: Tensor = self._model(x_t, torch.full((len(x_t),), t, device=x_t.device), self._cond)
        return noise

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Goes on with these people only."""
        self._cond = self._cond[rows]
