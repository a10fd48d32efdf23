"""ScoreHMR's inference: DDIM inversion and score-guided DDIM sampling in a loop (Sec. 4.1)."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.body.fixed_shape import FixedShapeJoints
from posecore.body.named_joints import NamedJoints
from posecore.diffusion.schedule import NoiseSchedule
from posecore.fitting.adam import RowAdam
from posecore.fitting.estimate import PosedPeople, SMPLEstimate
from posecore.fitting.terms import Term

Progress = Callable[[int, int], None]

_ROWS_AT_ONCE = 128  # of which joints are computed together: some 10 MB


@runtime_checkable
class NoisePredictor(Protocol):
    """epsilon_phi for one batch of conditions."""

    def __call__(self, x_t: Float[Tensor, "people dim"], t: int) -> Float[Tensor, "people dim"]:
        """The noise predicted in x_t at one timestep."""

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Goes on with these people only."""


@runtime_checkable
class Latent(Protocol):
    """What is diffused: the pose alone, or pose and shape."""

    @property
    def moves_shape(self) -> bool:
        """Whether betas are diffused."""

    def encode(self, estimate: SMPLEstimate) -> Float[Tensor, "people dim"]:
        """SMPL parameters as a clean sample x_0."""

    def decode(self, x_0: Float[Tensor, "people dim"], estimate: SMPLEstimate) -> SMPLEstimate:
        """A clean sample as SMPL parameters; what is not diffused is the estimate's."""


@dataclass(frozen=True)
class Guidance:
    """Settings of the inversion - guided-sampling loop.

    ======================  ===============  =========================  ==================
    setting                 paper            keypoints, video: release  views: release
    ======================  ===============  =========================  ==================
    ``noise_level``         tau              50                         100
    ``step``                (not stated)     2                          10
    ``outer_loops``         (not stated)     10                         2
    ``gradient_scale``      rho, Eq. (10)    1                          1
    ``stop_change``         lambda_thr       1e-5                       (none)
    ======================  ===============  =========================  ==================

    Attributes:
        noise_level: tau, the timestep that estimates are inverted to.
        step: Timesteps per DDIM step, both ways.
        outer_loops: How often inversion and sampling follow each other.
        gradient_scale: rho; the terms have weights of their own.
        camera_lr: Learning rate of the camera translation's Adam, metres.
        stop_change: A person is finished when the relative change of the data term between two guidance steps falls
            below this. None goes through all loops.
        through_network: Whether the gradient with respect to x_t passes through the denoiser (the full Jacobian of
            Eq. (8)). Deviation: off as in the release, where x_0-hat's noise prediction counts as a constant.
        w_prior: Weight of the diffusion model's own score as one more guidance term (`scorehmr.prior`). Not in the
            paper: inversion and sampling undo each other, so without it a start that is worse than what the features
            tell is moved by the observations alone.
        prior_t: Timestep at which that term looks at the pose.
    """

    noise_level: int = 50
    step: int = 2
    outer_loops: int = 10
    gradient_scale: float = 1.0
    camera_lr: float = 1e-2
    stop_change: float | None = 1e-5
    through_network: bool = False
    w_prior: float = 0.0
    prior_t: int = 200

    def __post_init__(self) -> None:
        if self.step < 1 or self.noise_level < self.step or self.noise_level % self.step:
            raise ValueError(f"noise_level must be a positive multiple of step, got {self.noise_level} and {self.step}")
        if self.outer_loops < 1:
            raise ValueError(f"outer_loops must be at least 1, got {self.outer_loops}")
        for name in ("camera_lr", "gradient_scale", "w_prior", "prior_t"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    @property
    def timesteps(self) -> list[int]:
        """0, step, .., noise_level."""
        return list(range(0, self.noise_level + 1, self.step))


class RefineResult(NamedTuple):
    """What `refine` returns."""

    estimate: SMPLEstimate
    """The last x_0-hat, decoded, with the camera translation that belongs to it."""
    loops: Int[Tensor, " people"]
    """Outer loops that each person took part in."""


def refine(
    denoiser: NoisePredictor,
    schedule: NoiseSchedule,
    start: SMPLEstimate,
    latent: Latent,
    terms: Sequence[Term],
    body: NamedJoints,
    guidance: Guidance,
    progress: Progress | None = None,
) -> RefineResult:
    """Fits people to observations, from a regression estimate.

    The estimate counts as the latent at t = 0: no noise is ever added, so the result is deterministic. Inversion visits
    0, step, .., tau (Eq. 7) and guided sampling the way back (Eqs. 9, 10). The next loop starts from the latent at
    t = 0; what is returned is the guided x_0-hat of the last step above it.

    Args:
        denoiser: The noise prediction for these people's conditions.
        schedule: The schedule it was trained with.
        start: x_reg.
        latent: How x_0 and SMPL parameters become each other.
        terms: The guidance; with none, the start comes back but for the error of the inversion.
        body: Joints that the terms look at.
        guidance: Settings.
        progress: Called with (done, total) steps of the denoiser.

    Raises:
        ValueError: Early stopping is asked for where terms couple people, or ``noise_level`` is beyond the schedule.
    """
    if guidance.stop_change is not None and any(term.couples_people for term in terms):
        raise ValueError("stop_change: people who belong together cannot stop one by one; set it to None")
    if guidance.noise_level >= schedule.num_train_timesteps:
        raise ValueError(
            f"noise_level must be below the schedule's {schedule.num_train_timesteps} timesteps, "
            f"got {guidance.noise_level}"
        )
    fit = _Fit(denoiser, schedule, start, latent, terms, body, guidance)
    ts = guidance.timesteps
    calls, total = 0, guidance.outer_loops * 2 * (len(ts) - 1)
    for _ in range(guidance.outer_loops):
        for t, t_next in itertools.pairwise(ts):
            fit.invert(t, t_next)
        for t, t_prev in itertools.pairwise(reversed(ts)):
            fit.sample(t, t_prev)
        calls += 2 * (len(ts) - 1)
        if progress is not None:
            progress(calls, total)
        if not fit.drop_finished():
            break
    return fit.result()


class _Piece(NamedTuple):
    """Some of the people, and the terms that look at them."""

    rows: Int[Tensor, " rows"]
    body: NamedJoints | FixedShapeJoints
    terms: list[Term]


class _Fit:
    """People who are still being fitted, and the results of everybody."""

    def __init__(
        self,
        denoiser: NoisePredictor,
        schedule: NoiseSchedule,
        start: SMPLEstimate,
        latent: Latent,
        terms: Sequence[Term],
        body: NamedJoints,
        guidance: Guidance,
    ) -> None:
        self.denoiser, self.latent, self.terms = denoiser, latent, list(terms)
        fixed = not latent.moves_shape and FixedShapeJoints.supports(body)
        self.body = FixedShapeJoints(body, start.betas) if fixed else body
        self.guidance, self.start = guidance, start
        # Read once: the loops below never wait for the device.
        alpha_bar = schedule.alphas_cumprod[guidance.timesteps]
        self.signal = dict(zip(guidance.timesteps, alpha_bar.sqrt().tolist(), strict=True))
        self.sigma = dict(zip(guidance.timesteps, (1 - alpha_bar).sqrt().tolist(), strict=True))
        self.all_x_0, self.all_transl = latent.encode(start), start.transl.clone()
        self.all_loops = torch.zeros(len(start), dtype=torch.long, device=start.transl.device)

        # Of the people who are left:
        self.rows = torch.arange(len(start), device=start.transl.device)
        self.fixed = start
        self.pieces = self._pieces()
        self.x, self.transl = self.all_x_0, start.transl
        self.camera = RowAdam(start.transl, guidance.camera_lr)
        self.best_x_0, self.best_transl = self.x, self.transl
        self.last_loss: Tensor | None = None
        self.finished = torch.zeros(len(start), dtype=torch.bool, device=start.transl.device)
        self.stopping = self.finished

    @torch.no_grad()
    def invert(self, t: int, t_next: int) -> None:
        """Eq. (7)."""
        noise = self.denoiser(self.x, t)
        self.x = torch.add(self.signal[t_next] * self._clean(self.x, noise, t), noise, alpha=self.sigma[t_next])

    def sample(self, t: int, t_prev: int) -> None:
        """Eqs. (9) and (10)."""
        noise, gradient = self._guide(t)
        # Eq. (10). Both terms of the step below use the changed noise.
        noise = torch.add(noise, gradient, alpha=self.guidance.gradient_scale * self.sigma[t])
        x_0 = self._clean(self.x, noise, t)  # Eq. (9)
        self.x = torch.add(self.signal[t_prev] * x_0, noise, alpha=self.sigma[t_prev])
        if self.guidance.stop_change is None:
            self.best_x_0, self.best_transl = x_0, self.transl
            return
        self.best_x_0 = torch.where(self.finished[:, None], self.best_x_0, x_0)
        self.best_transl = torch.where(self.finished[:, None], self.best_transl, self.transl)
        self.finished = self.finished | self.stopping

    def _clean(self, x_t: Tensor, noise: Tensor, t: int) -> Tensor:
        """Eq. (4)."""
        x_0: Tensor = torch.sub(x_t, noise, alpha=self.sigma[t]) / self.signal[t]
        return x_0

    @torch.enable_grad()
    def _guide(self, t: int) -> tuple[Tensor, Tensor]:
        """The noise prediction and the gradient of the guidance loss with respect to x_t; moves the camera."""
        through = self.guidance.through_network
        x = self.x.detach().requires_grad_(through)
        with torch.set_grad_enabled(through):
            noise = self.denoiser(x, t)
            x_0 = self._clean(x, noise, t)
        if not self.terms:
            self.stopping = self.finished
            return noise.detach(), torch.zeros_like(x)
        # Without the network in between, the gradient with respect to x_t is that to x_0-hat over sqrt(alpha-bar).
        if self.pieces:
            return noise, self._gradient_by_pieces(x_0) / self.signal[t]
        variable = x if through else x_0.requires_grad_()
        transl = self.transl.detach().requires_grad_()
        people = PosedPeople(self.latent.decode(x_0, dataclasses.replace(self.fixed, transl=transl)), self.body)
        losses = [term(people) for term in self.terms]
        if self.guidance.stop_change is not None:
            data = [loss.detach() for term, loss in zip(self.terms, losses, strict=True) if term.moves_camera]
            self.stopping = self.finished | self._converged(data)
        total = torch.stack([term.weight * loss for term, loss in zip(self.terms, losses, strict=True)]).sum(dim=0)
        if self.guidance.stop_change is not None:
            # Who stops now is not moved by this step any more; nor are those who wait for the end of the loop.
            total = total.masked_fill(self.stopping, 0.0)
        total = total.sum()
        gradient, transl_gradient = torch.autograd.grad(total, (variable, transl), allow_unused=True)
        self._move_camera(transl_gradient)
        return noise.detach(), gradient if through else gradient / self.signal[t]

    def _move_camera(self, gradient: Tensor | None) -> None:
        """One step along the gradient of the camera's own, unweighted loss."""
        data = [term.weight for term in self.terms if term.moves_camera]
        if data and gradient is not None:  # The pose's gradient still saw the camera before this step.
            self.transl = self.camera.step(self.transl, gradient / data[0])

    def _pieces(self) -> list[_Piece]:
        """Rows that the terms of single people look at one piece after the other; none where all fit at once.

        The joints of a whole video, with what their gradient keeps, would take memory that grows with its length.
        Terms that couple people look at the poses of all; where people may stop one by one, nothing couples them, and
        batches are small enough.
        """
        few = len(self.start) <= _ROWS_AT_ONCE
        if few or self.guidance.stop_change is not None or self.guidance.through_network:
            return []
        alone = [term for term in self.terms if not term.couples_people]
        return [
            _Piece(
                rows,
                self.body.take(rows) if isinstance(self.body, FixedShapeJoints) else self.body,
                [term.take(rows) for term in alone],
            )
            for rows in torch.arange(len(self.start), device=self.start.transl.device).split(_ROWS_AT_ONCE)
        ]

    def _gradient_by_pieces(self, x_0: Tensor) -> Tensor:
        """The gradient of the guidance loss with respect to x_0-hat, in pieces; moves the camera."""
        everybody = torch.arange(len(x_0), device=x_0.device)
        coupled = _Piece(everybody, self.body, [term for term in self.terms if term.couples_people])
        gradient, transl_gradient = torch.zeros_like(x_0), torch.zeros_like(self.transl)
        for rows, body, terms in [*self.pieces, coupled]:
            if not terms:
                continue
            variable = x_0[rows].detach().requires_grad_()
            transl = self.transl[rows].detach().requires_grad_()
            fixed = dataclasses.replace(self.fixed.take(rows), transl=transl)
            people = PosedPeople(self.latent.decode(variable, fixed), body)
            total = torch.stack([term.weight * term(people) for term in terms]).sum()
            of_x_0, of_transl = torch.autograd.grad(total, (variable, transl), allow_unused=True)
            gradient[rows] += of_x_0
            if of_transl is not None:
                transl_gradient[rows] += of_transl
        self._move_camera(transl_gradient)
        return gradient

    def _converged(self, losses: list[Tensor]) -> Tensor:
        """Whose data term has hardly changed since the guidance step before (across loops too)."""
        none = torch.zeros_like(self.finished)
        if self.guidance.stop_change is None or not losses:
            return none
        loss = torch.stack(losses).sum(dim=0)
        last, self.last_loss = self.last_loss, loss
        if last is None:
            return none
        return (last - loss).abs() / torch.maximum(last, loss).clamp_min(1.0) < self.guidance.stop_change

    def drop_finished(self) -> bool:
        """Keeps results, sends people home who have finished, and says whether anybody is left."""
        self.all_x_0 = self.all_x_0.index_copy(0, self.rows, self.best_x_0)
        self.all_transl = self.all_transl.index_copy(0, self.rows, self.best_transl)
        self.all_loops[self.rows] += 1
        if self.guidance.stop_change is None:
            return True
        left = (~self.finished).nonzero().flatten()  # The one wait for the device in a loop.
        if len(left) == len(self.rows):
            return True
        self.rows, self.fixed = self.rows[left], self.fixed.take(left)
        self.x, self.transl, self.finished = self.x[left], self.transl[left], self.finished[left]
        self.best_x_0, self.best_transl = self.best_x_0[left], self.best_transl[left]
        self.last_loss = None if self.last_loss is None else self.last_loss[left]
        self.camera.take(left)
        self.denoiser.keep(left)
        if isinstance(self.body, FixedShapeJoints):
            self.body = self.body.take(left)
        self.terms = [term.take(left) for term in self.terms]
        return len(left) > 0

    def result(self) -> RefineResult:
        """Everybody's last x_0-hat, decoded."""
        fixed = dataclasses.replace(self.start, transl=self.all_transl)
        return RefineResult(self.latent.decode(self.all_x_0, fixed), self.all_loops)
