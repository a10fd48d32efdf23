"""ZeDO's inference as one would first write it down: what the fast program is compared with.

It follows the paper and its published conventions step by step. Everything an iteration needs it computes in that
iteration: the cameras are inverted, the rays made, the noise level embedded for every pose, the equations for the
translation set up and solved; the pose goes from numpy to the network and back. Hypotheses run one after another.
Every joint counts as found: one with confidence 0 is pulled to its ray like any other.

References:
    Jiang et al., Back to Optimization: Diffusion-based Zero-Shot 3D Human Pose Estimation, WACV 2024, Algorithm 1.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zedo.network import ScoreNetwork

Poses = Float[np.ndarray, "people joints 3"]


def plain_zedo(
    network: ScoreNetwork,
    anchors: Float[np.ndarray, "hypotheses joints 3"],
    joints_2d_px: Float[np.ndarray, "people joints 2"],
    confidence: Float[np.ndarray, "people joints"],
    K: Float[np.ndarray, "people 3 3"],
    num_iterations: int = 1000,
    initial_steps: int = 500,
) -> tuple[Float[np.ndarray, "people hypotheses joints 3"], Float[np.ndarray, "people hypotheses 3"]]:
    """Algorithm 1 with the settings that the paper uses on Human3.6M.

    Args:
        network: The prior, trained under the sub-VP SDE; in eval mode.
        anchors: Initial poses relative to the pelvis (joint 0), metres.
        joints_2d_px: Keypoints.
        confidence: In (0, 1].
        K: Camera matrices.
        num_iterations: Iterations of the loop; the first fifth keeps the initial translation.
        initial_steps: Adam steps of the initial pose optimiser.

    Returns:
        Poses and translations, camera frame, metres.
    """
    poses, translations = [], []
    for anchor in anchors:
        pose, transl = plain_initial_poses(anchor, joints_2d_px, K, initial_steps)
        for i, t in enumerate(np.linspace(0.1, 0.01, num_iterations)):
            rays = _rays(joints_2d_px, K)
            if i >= num_iterations // 5:
                transl = _translation(pose, rays, confidence)
            pose = _denoise(network, _to_rays(pose, transl, rays), t)
        poses.append(pose)
        translations.append(transl)
    return np.stack(poses, axis=1), np.stack(translations, axis=1)


def plain_initial_poses(
    anchor: Float[np.ndarray, "joints 3"],
    joints_2d_px: Float[np.ndarray, "people joints 2"],
    K: Float[np.ndarray, "people 3 3"],
    num_steps: int,
    keypoints: tuple[int, ...] = (0, 1, 4),
    depth: float = 3.0,
    scale_range: tuple[float, float] = (0.5, 2.0),
    lr: float = 0.1,
) -> tuple[Poses, Float[np.ndarray, "people 3"]]:
    """Turns the anchor about the optical axis and moves it along the pelvis' ray to fit the keypoints (Sec. 3.2).

    A quaternion (w, 0, 0, z) of any length and one scale per person; Adam on the mean absolute pixel error.
    """
    people = len(joints_2d_px)
    points, pixels, camera = (torch.from_numpy(x) for x in (anchor, joints_2d_px, K))
    ray = torch.from_numpy(_rays(joints_2d_px, K)[:, 0])
    ray = ray / ray.norm(dim=-1, keepdim=True)
    w, z, scale = (torch.full((people, 1), value, dtype=points.dtype) for value in (1.0, 0.0, 1.0))
    parameters = [x.requires_grad_() for x in (w, z, scale)]
    optimiser = torch.optim.Adam(parameters, lr=lr)

    def place() -> tuple[Tensor, Tensor]:
        length = (w.square() + z.square()).sqrt()
        cos, sin = w / length, z / length
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        rotmat = torch.stack(
            [
                torch.cat([1 - 2 * sin * sin, -2 * cos * sin, zero], dim=-1),
                torch.cat([2 * cos * sin, 1 - 2 * sin * sin, zero], dim=-1),
                torch.cat([zero, zero, one], dim=-1),
            ],
            dim=1,
        )
        return torch.einsum("bij,nj->bni", rotmat, points), ray * depth * scale.clamp(*scale_range)

    for _ in range(num_steps):
        pose, transl = place()
        projected = torch.einsum("bij,bnj->bni", camera, pose + transl[:, None])
        error = (projected[..., :2] / projected[..., 2:] - pixels).abs().sum(-1)[:, list(keypoints)]
        optimiser.zero_grad()
        error.mean().backward()
        optimiser.step()
    with torch.no_grad():
        pose, transl = place()
    return pose.numpy(), transl.numpy()


def _rays(joints_2d_px: Float[np.ndarray, "people joints 2"], K: Float[np.ndarray, "people 3 3"]) -> Poses:
    """Where the keypoints lie on the plane one metre before the camera."""
    homogeneous = np.concatenate([joints_2d_px, np.ones_like(joints_2d_px[..., :1])], axis=-1)
    rays = homogeneous @ np.linalg.inv(K).transpose(0, 2, 1)
    on_plane: Poses = rays / rays[..., 2:]
    return on_plane


def _translation(pose: Poses, rays: Poses, confidence: Float[np.ndarray, "people joints"]) -> Poses:
    """Eq. (6), linear in 3D: rows [-1, 0, u] and [0, -1, v], weighted by the squared confidence."""
    u, v = rays[..., 0], rays[..., 1]
    X, Y, Z = pose[..., 0], pose[..., 1], pose[..., 2]
    zero, one = np.zeros_like(u), np.ones_like(u)
    A = np.concatenate([np.stack([-one, zero, u], axis=-1), np.stack([zero, -one, v], axis=-1)], axis=1)
    b = np.concatenate([X - Z * u, Y - Z * v], axis=1)
    weight = np.tile(np.clip(confidence, 1e-4, 1) ** 2, (1, 2))
    A, b = A * weight[..., None], (b * weight)[..., None]
    transl = np.linalg.solve(A.transpose(0, 2, 1) @ A, A.transpose(0, 2, 1) @ b)[..., 0]
    in_front: Poses = np.where(transl[:, 2:] < 0, -transl, transl)
    return in_front


def _to_rays(pose: Poses, transl: Float[np.ndarray, "people 3"], rays: Poses) -> Poses:
    """Eq. (4): the nearest point of the ray for every joint."""
    unit = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    placed = pose + transl[:, None]
    moved: Poses = (placed * unit).sum(axis=-1, keepdims=True) * unit - transl[:, None]
    return moved


def _denoise(network: ScoreNetwork, pose: Poses, t: float) -> Poses:
    """Eq. (5): an Euler step of length 1/1000 with the score at full weight and no noise."""
    weight = network.head.weight
    x_t = torch.from_numpy(pose).to(weight.dtype)
    times = torch.full((len(pose),), t, dtype=torch.float64)
    integral = 0.1 * times + 9.95 * times.square()
    beta, std = 0.1 + 19.9 * times, 1 - torch.exp(-integral)
    g_squared = beta * (1 - torch.exp(-2 * integral))
    with torch.no_grad():
        score = -network(x_t, (999 * times).to(weight.dtype)).double() / std[:, None, None]
    x = x_t.double()
    moved: Poses = (x + (0.5 * beta[:, None, None] * x + g_squared[:, None, None] * score) / 1000).numpy()
    return moved
