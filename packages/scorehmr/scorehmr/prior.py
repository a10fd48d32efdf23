"""The diffusion model as the prior of a plain fit: the part of ProHMR's learned prior in the paper's Table 2."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.diffusion.noise import NoiseStreams, normal
from posecore.diffusion.schedule import NoiseSchedule
from posecore.fitting.estimate import PosedPeople
from posecore.fitting.terms import Term
from scorehmr.sampler import Latent, NoisePredictor


class DiffusionPrior(Term):
    """A term whose gradient is the negative score of the noisy pose times sigma: predicted noise - noise.

    The value is <residual, x_0> with the residual held constant, so that its gradient is the residual; the value itself
    means nothing. Every call draws new noise, the same for everybody, and `take` goes on with it: nobody's fit depends
    on who else is there.

    Args:
        denoiser: The noise prediction for these people's conditions.
        schedule: Its schedule.
        latent: What it diffuses.
        t: The timestep.
        weight: Of the term.
        noise: One stream, of the noise.

    References:
        Poole et al., DreamFusion: Text-to-3D using 2D Diffusion, ICLR 2023, Eq. (3).
    """

    def __init__(
        self,
        denoiser: NoisePredictor,
        schedule: NoiseSchedule,
        latent: Latent,
        t: int,
        weight: float,
        noise: NoiseStreams,
    ) -> None:
        self.denoiser, self.schedule, self.latent = denoiser, schedule, latent
        self.t, self.weight, self.noise = t, weight, noise

    def __call__(self, people: PosedPeople) -> Float[Tensor, " people"]:
        """A value whose gradient is the residual."""
        x_0 = self.latent.encode(people.estimate)
        with torch.no_grad():
            noise = normal((1, x_0.shape[1]), x_0, self.noise).expand_as(x_0)
            residual = self.denoiser(self.schedule.q_sample(x_0, self.t, noise), self.t) - noise
        return (residual * x_0).sum(dim=-1)

    def take(self, rows: Int[Tensor, " kept"]) -> "DiffusionPrior":
        """The term for these people only."""
        self.denoiser.keep(rows)
        return type(self)(self.denoiser, self.schedule, self.latent, self.t, self.weight, self.noise[:])
