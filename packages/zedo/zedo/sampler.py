"""ZeDO's inference, Algorithm 1: initial pose optimiser, then the optimiser in the loop with the diffusion prior.

Everything is batched over people, frames and hypotheses: a "row" below is one hypothesis of one pose. Frames: camera
(x right, y down, z forward), metres; poses are relative to the pelvis, which sits at the translation ``T``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from posecore.diffusion.noise import NoiseSource, of_part, split_flat
from posecore.geometry.camera import backproject_rays, project
from posecore.geometry.hypotheses import medoid
from posecore.geometry.placement import reprojection_error
from posecore.geometry.precision import full_precision
from posecore.geometry.rotation import quat_wxyz_to_rotmat
from zedo.network import ScoreNetwork
from zedo.prior import Backbone, denoising_step

MIN_CONFIDENCE = 1e-4
BYTES_PER_ROW = 64 * 1024  # measured peak of a row of the default network inside the loop, with room to spare


@dataclass(frozen=True)
class InitialPose:
    """Settings of the initial pose optimiser (Sec. 3.2, Fig. 3).

    Attributes:
        enabled: Off, the anchor is taken as it is (Table 4, rows without "RO") and only the translation is found.
        rotation_axes: Which of the camera's axes the anchor may turn about. ``"z"`` is the optical axis: the turn is in
            the picture plane, not a change of heading.
        keypoints: Joints whose pixels count; None for all. A person with fewer than three of them visible counts all.
        depth: Distance of the pelvis from the camera at scale 1, metres. None estimates it for each person, as the
            ratio of the anchor's extent to the keypoints' (weak perspective), for people at any distance. Deviation:
            the release has one number per data set.
        scale_range: Bounds of the factor on that distance (``T_min <= T_0 <= T_max``).
        num_steps: Adam steps.
        lr: Adam's learning rate.
    """

    enabled: bool = True
    rotation_axes: str = "z"
    keypoints: tuple[int, ...] | None = (0, 1, 4)
    depth: float | None = 3.0
    scale_range: tuple[float, float] = (0.5, 2.0)
    num_steps: int = 500
    lr: float = 0.1

    def __post_init__(self) -> None:
        if not set(self.rotation_axes) <= set("xyz"):
            raise ValueError(f"rotation_axes must name camera axes out of 'xyz', got {self.rotation_axes!r}")
        if not 0 < self.scale_range[0] <= self.scale_range[1]:
            raise ValueError(f"scale_range must be 0 < min <= max, got {self.scale_range}")
        if (self.depth is not None and self.depth <= 0) or self.num_steps < 0 or self.lr <= 0:
            raise ValueError(f"depth and lr must be positive and num_steps not negative, got {self}")


@dataclass(frozen=True)
class Loop:
    """Settings of the optimiser in the loop (Sec. 3.3, Algorithm 1).

    Attributes:
        num_iterations: n of Algorithm 1.
        warmup: Iterations that keep the initial translation; a fifth of the iterations where None (paper: 200 of 1000).
        t_start: Diffusion time of the first iteration ("truncated" inference).
        t_end: Diffusion time of the last one. Deviation: the paper samples t uniformly from (0, 0.1]; the release goes
            evenly down to 0.01, and so does this.
        dt: Length of every denoising step; 1e-3 where None. Deviation: the times of two iterations differ by 9e-5, so
            the process is run about eleven times further than its own clock says. The method depends on it; the
            theory's value is ``(t_start - t_end) / num_iterations``.
        score_factor: Weight of the score; 1.0 as in the release, 0.5 is the probability flow (see ``prior.py``).
        memory_gb: Limit of the memory for rows worked on at once; more rows go in several chunks.
        chunk: Rows worked on at once; None lets ``memory_gb`` decide.
    """

    num_iterations: int = 1000
    warmup: int | None = None
    t_start: float = 0.1
    t_end: float = 0.01
    dt: float | None = None
    score_factor: float = 1.0
    memory_gb: float = 2.0
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.num_iterations < 0 or (self.warmup is not None and self.warmup < 0):
            raise ValueError(f"num_iterations and warmup must not be negative, got {self}")
        if not 0 < self.t_end <= self.t_start <= 1:
            raise ValueError(f"need 0 < t_end <= t_start <= 1, got t_start={self.t_start}, t_end={self.t_end}")
        if self.dt is not None and self.dt <= 0:
            raise ValueError(f"dt must be positive, got {self.dt}")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")


@dataclass(frozen=True)
class Target:
    """What is known of the people: their 2D keypoints and cameras.

    Attributes:
        joints_2d_px: Keypoints, pixels. Where ``confidence`` is 0 the value does not matter (it must be finite).
        confidence: In [0, 1]; 0 for a keypoint that was not found.
        K: Camera matrices.
        root: Index of the pelvis.
        rays: Unit rays through the keypoints, ``r-hat`` of Eq. (3), in float64.
        visible: Which keypoints were found.
    """

    joints_2d_px: Float[Tensor, "people joints 2"]
    confidence: Float[Tensor, "people joints"]
    K: Float[Tensor, "people 3 3"]
    root: int = 0
    rays: Float[Tensor, "people joints 3"] = field(init=False)
    visible: Bool[Tensor, "people joints"] = field(init=False)

    def __post_init__(self) -> None:
        # A thousand moves of micrometres to rays over metres: float32 geometry would end 1e-4 m off. The network is
        # not touched by this, and the geometry is cheap. Apple's GPUs have no float64.
        wide = torch.float32 if self.K.device.type == "mps" else torch.float64
        rays = backproject_rays(self.joints_2d_px.to(wide), self.K.to(wide))
        object.__setattr__(self, "rays", rays)
        object.__setattr__(self, "visible", self.confidence > 0)


class ZeDOResult(NamedTuple):
    """Poses of every hypothesis, and how well each explains its keypoints."""

    joints_rel: Float[Tensor, "people hypotheses joints 3"]
    """Relative to the (drifting) pelvis, metres. Deviation kept from the release: never re-centred on joint 0."""
    transl: Float[Tensor, "people hypotheses 3"]
    """Add to ``joints_rel`` for camera coordinates."""
    reprojection_px: Float[Tensor, "people hypotheses"]
    """Confidence-weighted mean distance of the projected joints from the keypoints; needs no ground truth."""

    @property
    def best(self) -> Tensor:
        """The hypothesis closest to all others (the medoid), ``(people,)``; needs no ground truth.

        All hypotheses nearly reach their keypoints, so the reprojection error cannot tell them apart; on the open
        validation set, where the rule was chosen, the medoid is 5 to 14 mm better than the least reprojection error.
        """
        return medoid(self.joints_rel)


def initial_poses(
    anchors: Float[Tensor, "hypotheses joints 3"], target: Target, settings: InitialPose
) -> tuple[Float[Tensor, "people hypotheses joints 3"], Float[Tensor, "people hypotheses 3"]]:
    """Initial pose optimiser: turns and places the anchors by ``argmin |K (R_0 P_init + T_0) - p_2d|`` (Sec. 3.2).

    Deviation: the paper's ``T_0`` is a free vector within bounds; as in the release it stays on the ray through the
    2D pelvis, with one scalar for the distance. Where the pelvis was not found, the ray through the mean visible
    keypoint takes its place and the pose is hung on the mean of the same joints (the release needs every joint).

    Returns:
        The turned anchors ``P_0 = R_0 P_init`` and ``T_0``.
    """
    people, joints = target.visible.shape
    counted = torch.zeros(joints, dtype=torch.bool, device=target.visible.device)
    counted[list(settings.keypoints) if settings.keypoints is not None else slice(None)] = True
    used = target.visible & counted
    used = torch.where(used.sum(-1, keepdim=True) >= 3, used, target.visible)
    weight = used.to(anchors.dtype) / used.sum(-1, keepdim=True).clamp(min=1)
    # What the translation's ray goes through: the pelvis, or the mean of the visible joints.
    hung_on = target.visible.to(anchors.dtype) / target.visible.sum(-1, keepdim=True).clamp(min=1)
    root = torch.zeros_like(hung_on)
    root[:, target.root] = 1
    hung_on = torch.where(target.visible[:, target.root, None], root, hung_on)
    ray = torch.einsum("pj,pjc->pc", hung_on, target.rays.to(anchors.dtype))
    ray = torch.nn.functional.normalize(ray, dim=-1)[:, None]
    hook = torch.einsum("pj,hjc->phc", hung_on, anchors)

    shape = (people, anchors.shape[0])
    quat = anchors.new_zeros((*shape, 4))
    quat[..., 0] = 1
    scale = anchors.new_ones(shape)
    free = anchors.new_tensor([0.0, *("xyz"[i] in settings.rotation_axes for i in range(3))])
    free[0] = 1.0 if settings.enabled and settings.rotation_axes else 0.0
    free[1:] *= float(settings.enabled)

    depth = torch.full_like(scale, settings.depth) if settings.depth is not None else _weak_depth(anchors, target)

    def place(quat: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        rotmat = quat_wxyz_to_rotmat(quat)
        distance = depth * scale.clamp(*settings.scale_range)
        return rotmat, ray * distance[..., None] - (rotmat @ hook[..., None])[..., 0]

    with torch.inference_mode(False), torch.enable_grad():
        quat, scale = quat.clone().requires_grad_(), scale.clone().requires_grad_()
        # Clones, because autograd refuses tensors that were made in the caller's inference mode.
        ray, hook, depth = ray.clone(), hook.clone(), depth.clone()
        # Gather the joints that count for anybody once: outside them the weight is zero.
        columns = used.any(0).nonzero()[:, 0]
        points, pixels = anchors[:, columns].clone(), target.joints_2d_px[:, None, columns].clone()
        K, weights = target.K[:, None].clone(), weight[:, None, columns, None].clone()
        optimiser = torch.optim.Adam([quat, scale], lr=settings.lr, fused=True)
        for _ in range(settings.num_steps):
            rotmat, transl = place(quat, scale)
            error = (project(points @ rotmat.mT + transl[..., None, :], K) - pixels).abs() * weights
            # A sum over rows of per-row means: every row sees the gradient it would see alone.
            quat.grad, scale.grad = torch.autograd.grad(error.sum(), (quat, scale))
            quat.grad *= free
            optimiser.step()
    rotmat, transl = place(quat.detach(), scale.detach())
    return anchors @ rotmat.mT, transl


def _weak_depth(anchors: Float[Tensor, "hypotheses joints 3"], target: Target) -> Float[Tensor, "people hypotheses"]:
    """Distance at which an anchor spreads over the picture as far as the visible keypoints do; 0.5 to 100 m."""
    weight = target.visible[:, None, :, None] / target.visible.sum(-1).clamp(min=1)[:, None, None, None]

    def spread(points: Tensor) -> Tensor:
        centred = points - (points * weight).sum(-2, keepdim=True)
        return (centred.square() * weight).sum((-2, -1)).sqrt()

    on_plane = (target.rays[..., :2] / target.rays[..., 2:])[:, None].to(anchors.dtype)
    return (spread(anchors[None, ..., :2]) / spread(on_plane).clamp(min=1e-6)).clamp(0.5, 100)


def translation_solver(target: Target) -> Float[Tensor, "people 3 joints_times_3"]:
    """The closed form of Eq. (6): a matrix that takes a pose to the translation that explains the keypoints best.

    Each joint gives two equations, ``-T_x + u T_z = X - u Z`` and ``-T_y + v T_z = Y - v Z`` with ``(u, v)`` on the
    plane z = 1, weighted by the squared confidence. The normal equations depend on the keypoints alone, so their
    solution is a constant matrix, computed once in float64.

    Deviation: linear in 3D, not the pixel distance that Eq. (6) writes, and with confidence to the fourth power in
    the normal equations, as in the release.

    Returns:
        ``M`` with ``T = M vec(P)``. The shortest of all solutions for a person without two visible joints, whose
        distance is not determined; `optimise` keeps the initial translation then.
    """
    rays = target.rays.double()
    u, v = (rays[..., :2] / rays[..., 2:]).unbind(-1)
    # A keypoint that was not found says nothing; the release clamps it to 1e-4 as well.
    conf = target.confidence.double().clamp(MIN_CONFIDENCE, 1) * target.visible
    zero, one = torch.zeros_like(u), torch.ones_like(u)
    rows = torch.stack([torch.stack([-one, zero, u], -1), torch.stack([zero, -one, v], -1)], -2)  # people joints 2 3
    rhs = torch.stack([torch.stack([one, zero, -u], -1), torch.stack([zero, one, -v], -1)], -2)  # times (X, Y, Z)
    weighted = rows * conf[..., None, None] ** 4
    normal = torch.einsum("pjra,pjrb->pab", weighted, rows)
    scale = normal.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=1e-30)[:, None, None]
    inverse = torch.linalg.pinv(normal / scale, hermitian=True, rtol=1e-12) / scale
    return torch.einsum("pab,pjrb,pjrc->pajc", inverse, weighted, rhs).flatten(2).to(target.rays.dtype)


def solve_translation(
    poses: Float[Tensor, "rows joints 3"], solver: Float[Tensor, "rows 3 joints_times_3"]
) -> Float[Tensor, "rows 3"]:
    """``T_i`` of Algorithm 1 by `translation_solver`; a body behind the camera is mirrored to its front."""
    transl = torch.bmm(solver, poses.flatten(1)[..., None])[..., 0]
    return torch.where(transl[:, 2:] < 0, -transl, transl)


def project_to_rays(
    poses: Float[Tensor, "rows joints 3"],
    transl: Float[Tensor, "rows 3"],
    rays: Float[Tensor, "rows joints 3"],
    visible: Bool[Tensor, "rows joints 1"],
) -> Float[Tensor, "rows joints 3"]:
    """Eq. (4): moves every visible joint to the nearest point of its ray, ``((P + T) . r) r - T``.

    Deviation: a joint that is not visible stays where the prior has it; the release pulls it to a meaningless ray.
    """
    transl = transl[:, None]
    placed = poses + transl
    return torch.where(visible, (placed * rays).sum(-1, keepdim=True) * rays - transl, poses)


@full_precision  # a step moves a joint by fractions of a millimetre: bfloat16 would round every one of them away
def optimise(
    network: ScoreNetwork,
    backbone: Backbone,
    anchors: Float[Tensor, "hypotheses joints 3"],
    target: Target,
    initial: InitialPose | None = None,
    loop: Loop | None = None,
    generator: NoiseSource | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ZeDOResult:
    """Algorithm 1 for all people and all hypotheses together.

    Args:
        network: The trained prior, in eval mode.
        backbone: The diffusion it was trained with.
        anchors: Initial poses ``P_init``, one per hypothesis, pelvis-relative metres.
        target: Keypoints and cameras.
        initial: Settings of the initial pose optimiser.
        loop: Settings of the loop.
        generator: Noise of a backbone that adds any (DDPM); `NoiseStreams` have one stream for each person.
        progress: Called with (done, total) row-iterations.

    Returns:
        Poses, translations and reprojection errors of every person and hypothesis.

    Raises:
        ValueError: The joints of anchors, target and network differ.
    """
    initial, loop = initial or InitialPose(), loop or Loop()
    people, joints = target.visible.shape
    if not anchors.shape[1] == joints == network.num_joints:
        raise ValueError(
            f"anchors have {anchors.shape[1]} joints, the keypoints {joints} and the network {network.num_joints}: "
            "all three must be of one joint set"
        )
    hypotheses = anchors.shape[0]
    poses, transl = initial_poses(anchors, target, initial)
    wide = target.rays.dtype
    poses, transl = poses.flatten(0, 1).to(wide), transl.flatten(0, 1).to(wide)
    solver = translation_solver(target)
    times = torch.linspace(loop.t_start, loop.t_end, loop.num_iterations, dtype=torch.float64, device=poses.device)
    steps = backbone.steps(times, loop.dt or 1e-3, loop.score_factor)
    warmup = loop.num_iterations // 5 if loop.warmup is None else loop.warmup
    chunk = loop.chunk or max(1, int(loop.memory_gb * 2**30 / BYTES_PER_ROW))
    row = torch.arange(people * hypotheses, device=poses.device) // hypotheses  # whose keypoints a row explains
    generator = split_flat(generator, hypotheses)
    done_poses, done_transl = torch.empty_like(poses), torch.empty_like(transl)
    with torch.inference_mode():
        denoise = network.frozen(steps.labels.to(anchors.dtype))
        for start in range(0, len(row), chunk):
            part = slice(start, start + chunk)
            P, T, who = poses[part], transl[part], row[part]
            source = of_part(generator, part)
            M, rays, visible = solver[who], target.rays[who], target.visible[who][..., None]
            solvable = visible.sum(1) >= 2
            for i in range(loop.num_iterations):
                if i >= warmup:
                    T = torch.where(solvable, solve_translation(P, M), T)
                P = denoising_step(denoise, steps, project_to_rays(P, T, rays, visible), i, source)
                if progress is not None:
                    progress(start * loop.num_iterations + (i + 1) * len(P), len(row) * loop.num_iterations)
            done_poses[part], done_transl[part] = P, T
    joints_rel = done_poses.to(anchors.dtype, copy=True).unflatten(0, (people, hypotheses))
    translations = done_transl.to(anchors.dtype, copy=True).unflatten(0, (people, hypotheses))
    error = reprojection_error(joints_rel, translations, target.joints_2d_px, target.confidence, target.K)
    return ZeDOResult(joints_rel, translations, error)
