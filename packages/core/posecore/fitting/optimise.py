"""Plain optimisation of SMPL parameters: Adam on any terms, and SMPLify as the baseline of regression methods."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from posecore.body.named_joints import NamedJoints
from posecore.fitting.estimate import PosedPeople, SMPLEstimate
from posecore.fitting.priors import POSE_PRIOR_CMU, AnglePrior, MixturePosePrior, ShapePrior
from posecore.fitting.terms import KeypointReprojection, Term
from posecore.geometry.rotation import axis_angle_to_rotmat

PARAMETERS = ("global_orient", "body_pose", "betas", "transl")
Progress = Callable[[int, int], None]

_TORSO = ("r_hip", "l_hip", "r_shoulder", "l_shoulder")


def optimise(
    start: SMPLEstimate,
    terms: Sequence[Term],
    body: NamedJoints,
    steps: int,
    lr: float = 1e-2,
    parameters: Sequence[str] = PARAMETERS,
    progress: Progress | None = None,
) -> SMPLEstimate:
    """Minimises the sum of the weighted terms by Adam, with the pose as axis times angle.

    Adam works on each number by itself, so that nobody's result depends on who else is fitted, unless a term couples
    people.

    Args:
        start: Where to start; it is not changed.
        terms: The objective.
        body: Gives the joints that the terms compare.
        steps: Number of steps.
        lr: Adam's learning rate: a step moves no number (radians, metres, standard deviations) much farther than this.
        parameters: What moves; the others stay.
        progress: Called after each step with (done, total).

    Raises:
        ValueError: There are no terms, or a parameter is unknown.
    """
    if not terms:
        raise ValueError("terms: there are none, and so nothing to minimise; give one at least")
    if unknown := sorted(set(parameters) - set(PARAMETERS)):
        raise ValueError(f"parameters: {unknown} are unknown; valid are {', '.join(PARAMETERS)}")
    pose = start.pose_axis_angle
    values = {"global_orient": pose[:, :1], "body_pose": pose[:, 1:], "betas": start.betas, "transl": start.transl}
    values = {name: value.detach().clone().requires_grad_(name in parameters) for name, value in values.items()}
    moved = [values[name] for name in PARAMETERS if name in parameters]
    adam = torch.optim.Adam(moved, lr)
    for step in range(steps):
        with torch.enable_grad():
            people = PosedPeople(_estimate(**values), body)
            loss = torch.stack([term.weight * term(people).sum() for term in terms]).sum()
            # Not backward(): a term's network keeps no gradients.
            gradients = torch.autograd.grad(loss, moved, allow_unused=True, materialize_grads=True)
        for value, gradient in zip(moved, gradients, strict=True):
            value.grad = gradient
        adam.step()
        if progress is not None:
            progress(step + 1, steps)
    return _estimate(**{name: value.detach() for name, value in values.items()})


def _estimate(
    global_orient: Float[Tensor, "people 1 3"],
    body_pose: Float[Tensor, "people 23 3"],
    betas: Float[Tensor, "people betas"],
    transl: Float[Tensor, "people 3"],
) -> SMPLEstimate:
    return SMPLEstimate.from_rotmat(
        axis_angle_to_rotmat(global_orient[:, 0]), axis_angle_to_rotmat(body_pose), betas, transl
    )


@dataclass(frozen=True)
class SMPLifySettings:
    """Settings of `smplify`; the numbers are SPIN's.

    Attributes:
        camera_steps: Steps on translation and global orientation.
        body_steps: Steps on pose, global orientation and shape.
        lr: Adam's learning rate in both stages.
        crop_size: Side of the square, in pixels, that each person's keypoints are scaled to.
        box_margin: Side of that square over the longer side of the keypoints' box.
        sigma: Of the robust reprojection error, pixels of the crop; the first stage's error is not robust.
        w_depth: Of the squared change of depth in the first stage, per square metre.
        w_pose: Of the mixture pose prior.
        w_angle: Of the prior against limbs that bend backwards.
        w_shape: Of the squared betas.
        ignored_joints: Left out in the second stage, whether ``op_`` stands before them or not: OpenPose marks them
            elsewhere than SMPL.
        pose_prior: File of the pose prior; SMPLify's ``gmm_08.pkl`` will do.
    """

    camera_steps: int = 100
    body_steps: int = 100
    lr: float = 1e-2
    crop_size: float = 224.0
    box_margin: float = 1.2
    sigma: float = 100.0
    w_depth: float = 100.0**2
    w_pose: float = 4.78**2
    w_angle: float = 15.2**2
    w_shape: float = 5.0**2
    ignored_joints: tuple[str, ...] = ("neck", "r_hip", "l_hip")
    pose_prior: Path = POSE_PRIOR_CMU

    def __post_init__(self) -> None:
        for name in ("lr", "crop_size", "box_margin", "sigma"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0, got {getattr(self, name)}")
        for name in ("camera_steps", "body_steps", "w_depth", "w_pose", "w_angle", "w_shape"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be negative, got {getattr(self, name)}")


def smplify(
    start: SMPLEstimate,
    terms: Sequence[Term],
    body: NamedJoints,
    settings: SMPLifySettings | None = None,
    progress: Progress | None = None,
) -> SMPLEstimate:
    """Single-stage SMPLify as SPIN runs it from a regressor's estimate: camera and orientation, then pose and shape.

    Deviation: SPIN fits in a crop of 224 pixels seen by a camera of its own. Here the person is before the whole
    picture's camera, and residuals are scaled so that the square around the keypoints has 224 pixels.
    Deviation: LSP's neck is ignored with OpenPose's. In the first stage SPIN takes the torso of OpenPose if all of it
    was seen and else that of other annotators, each joint with weight 1; here all count by confidence squared.
    Deviation: the pose prior is fitted to the open motion of CMU unless the settings name another.

    Args:
        start: Where to start, in front of the camera.
        terms: One `KeypointReprojection`; its weight, scale and sigma are not used.
        body: Joints of the term; ``body25``, ``joints44`` or another set with hips and shoulders.
        settings: Weights and steps; None takes SPIN's.
        progress: Called after each step with (done, total).

    Raises:
        FileNotFoundError: There is no file of the pose prior.
        ValueError: The terms are not one `KeypointReprojection`, the body's joint set has no torso, or the pose prior's
            file is broken.

    References:
        Bogo et al., Keep it SMPL, ECCV 2016. Kolotouros et al., Learning to Reconstruct 3D Human Pose and Shape via
        Model-fitting in the Loop, ICCV 2019, Sec. 3.2.
    """
    settings = settings if settings is not None else SMPLifySettings()
    if len(terms) != 1 or not isinstance(terms[0], KeypointReprojection):
        found = ", ".join(type(term).__name__ for term in terms) or "none"
        raise ValueError(f"terms: SMPLify fits each person to 2D keypoints, one KeypointReprojection; got {found}")
    keypoints = terms[0]
    names = [name.removeprefix("op_") for name in body.joint_set.joint_names]
    torso = torch.tensor([name in _TORSO for name in names])
    kept = torch.tensor([name not in settings.ignored_joints for name in names])
    if not torso.any():
        raise ValueError(f"body: joint set {body.joint_set.name!r} has none of {', '.join(_TORSO)}")
    total = settings.camera_steps + settings.body_steps

    camera_terms = [_in_crop(keypoints, torso, math.inf, settings), _DepthPrior(start.transl[:, 2], settings.w_depth)]
    placed = optimise(
        start,
        camera_terms,
        body,
        settings.camera_steps,
        settings.lr,
        ("global_orient", "transl"),
        _part(progress, 0, total),
    )
    body_terms = [
        _in_crop(keypoints, kept, settings.sigma, settings),
        MixturePosePrior.load(settings.pose_prior, settings.w_pose),
        AnglePrior(settings.w_angle),
        ShapePrior(settings.w_shape),
    ]
    moved = ("global_orient", "body_pose", "betas")
    later = _part(progress, settings.camera_steps, total)
    return optimise(placed, body_terms, body, settings.body_steps, settings.lr, moved, later)


class _DepthPrior(Term):
    """Squared distance of the translation's depth from a depth, metres."""

    def __init__(self, depth: Float[Tensor, " people"], weight: float) -> None:
        self.depth, self.weight = depth, weight

    def __call__(self, people: PosedPeople) -> Float[Tensor, " people"]:
        return (people.estimate.transl[:, 2] - self.depth).square()

    def take(self, rows: Int[Tensor, " kept"]) -> "_DepthPrior":
        return _DepthPrior(self.depth[rows], self.weight)


def _in_crop(
    term: KeypointReprojection, joints: Bool[Tensor, " joints"], sigma: float, settings: SMPLifySettings
) -> KeypointReprojection:
    """The same keypoints and camera in pixels of a picture in which each person's box has the crop's size.

    Args:
        term: Gives keypoints and cameras.
        joints: The others get confidence 0.
        sigma: Of the robust error.
        settings: The crop's size and margin.
    """
    seen = (term.confidence > 0)[..., None]
    low = term.keypoints_px.where(seen, math.inf).amin(dim=1)
    high = term.keypoints_px.where(seen, -math.inf).amax(dim=1)
    side = settings.box_margin * (high - low).amax(dim=-1).clamp_min(1.0)  # also where nothing was seen
    scale = (settings.crop_size / side)[:, None, None]
    K = torch.cat((term.K[:, :2] * scale, term.K[:, 2:]), dim=1)
    confidence = term.confidence * joints.to(term.confidence)
    plain = torch.full_like(K[:, 0, :2], 1000.0)  # the term's own scale is then 1
    return KeypointReprojection(term.keypoints_px * scale, confidence, K, plain, weight=1.0, sigma=sigma)


def _part(progress: Progress | None, done_before: int, total: int) -> Progress | None:
    """Reports a stage's steps as part of the whole."""
    return None if progress is None else lambda done, _: progress(done_before + done, total)
