"""The sampler against a plain and slow Algorithm 1.

It is numpy float64, one person and one hypothesis at a time, with nothing precomputed.
"""

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from zedo.network import ScoreNetwork
from zedo.prior import ScoreBackbone
from zedo.sampler import InitialPose, Loop, Target, initial_poses, optimise, solve_translation, translation_solver


def plain_rotation(quat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation of a quaternion (w, x, y, z) of any length, and its derivative by each of the four, (4, 3, 3)."""
    length = np.linalg.norm(quat)
    unit = quat / length
    w, x, y, z = unit
    rotmat = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    by_unit = 2 * np.array(
        [
            [[0, -z, y], [z, 0, -x], [-y, x, 0]],
            [[0, y, z], [y, -2 * x, -w], [z, w, -2 * x]],
            [[-2 * y, x, w], [x, 0, z], [-w, z, -2 * y]],
            [[-2 * z, -w, x], [w, -2 * z, y], [x, y, 0]],
        ]
    )
    return rotmat, np.einsum("ab,bij->aij", (np.eye(4) - np.outer(unit, unit)) / length, by_unit)


def plain_initial_pose(
    anchor: np.ndarray, pixels: np.ndarray, conf: np.ndarray, K: np.ndarray, settings: InitialPose
) -> tuple[np.ndarray, np.ndarray]:
    """The initial pose optimiser with hand-written gradients and a hand-written Adam."""
    visible = [j for j in range(len(conf)) if conf[j] > 0]
    used = [j for j in visible if settings.keypoints is None or j in settings.keypoints]
    used = used if len(used) >= 3 else visible
    hung_on = [0] if conf[0] > 0 else visible
    rays = [np.linalg.inv(K) @ np.append(pixels[j], 1) for j in hung_on]
    ray = sum(r / np.linalg.norm(r) for r in rays)
    ray, hook = ray / np.linalg.norm(ray), np.mean([anchor[j] for j in hung_on], axis=0)
    low, high = settings.scale_range
    free = np.array([1.0, *(axis in settings.rotation_axes for axis in "xyz"), 1.0])
    if not settings.enabled or not settings.rotation_axes:
        free[:4] = 0
    x, m, v = np.array([1.0, 0, 0, 0, 1]), np.zeros(5), np.zeros(5)  # quaternion and scale
    for step in range(1, settings.num_steps + 1):
        rotmat, by_quat = plain_rotation(x[:4])
        transl = ray * settings.depth * np.clip(x[4], low, high) - rotmat @ hook
        grad = np.zeros(5)
        for j in used:
            point = rotmat @ anchor[j] + transl
            pixel = (K @ point)[:2] / point[2]
            by_pixel = np.sign(pixel - pixels[j]) / len(used)
            by_plane = K[:2, :2].T @ by_pixel
            by_point = np.append(by_plane, -(by_plane @ point[:2]) / point[2]) / point[2]
            grad[:4] += np.einsum("i,aij,j->a", by_point, by_quat, anchor[j] - hook)
            grad[4] += by_point @ ray * settings.depth * (low <= x[4] <= high)
        grad *= free
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        x = x - settings.lr * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    rotmat, _ = plain_rotation(x[:4])
    return anchor @ rotmat.T, ray * settings.depth * np.clip(x[4], low, high) - rotmat @ hook


def plain_translation(pose: np.ndarray, pixels: np.ndarray, conf: np.ndarray, K: np.ndarray) -> np.ndarray:
    """The closed form of Eq. (6) as a least-squares problem."""
    rows, rhs = [], []
    for (X, Y, Z), pixel, c in zip(pose, pixels, conf, strict=True):
        u, v, _ = np.linalg.inv(K) @ np.append(pixel, 1)
        weight = max(c, 1e-4) ** 2 if c > 0 else 0
        rows += [weight * np.array([-1, 0, u]), weight * np.array([0, -1, v])]
        rhs += [weight * (X - Z * u), weight * (Y - Z * v)]
    transl = np.linalg.lstsq(np.array(rows), np.array(rhs))[0]
    return -transl if transl[2] < 0 else transl


def plain_zedo(
    network: ScoreNetwork,
    anchor: np.ndarray,
    pixels: np.ndarray,
    conf: np.ndarray,
    K: np.ndarray,
    initial: InitialPose,
    num_iterations: int,
    score_factor: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1 with the sub-VP SDE written out; the network must be float64."""
    pose, transl = plain_initial_pose(anchor, pixels, conf, K, initial)
    for i in range(num_iterations):
        t = 0.1 + (0.01 - 0.1) * i / (num_iterations - 1)
        if i >= num_iterations // 5:
            transl = plain_translation(pose, pixels, conf, K)
        projected = pose.copy()
        for j in range(len(pose)):
            if conf[j] > 0:
                ray = np.linalg.inv(K) @ np.append(pixels[j], 1)
                ray = ray / np.linalg.norm(ray)
                projected[j] = ((pose[j] + transl) @ ray) * ray - transl
        with torch.no_grad():
            noise = network(torch.from_numpy(projected), torch.tensor(t * 999, dtype=torch.float64)).numpy()
        beta, integral = 0.1 + 19.9 * t, 0.1 * t + 19.9 * t * t / 2
        g_squared, std = beta * (1 - math.exp(-2 * integral)), 1 - math.exp(-integral)
        pose = projected + (0.5 * beta * projected - score_factor * g_squared * noise / std) / 1000
    return pose, transl


def each(function: Callable[..., tuple[np.ndarray, np.ndarray]], anchors: Tensor, target: Target) -> list[Tensor]:
    """Runs ``function(anchor, pixels, conf, K)`` for every person and hypothesis; stacks poses and translations."""
    people = [(target.joints_2d_px[i], target.confidence[i], target.K[i]) for i in range(len(target.K))]
    results = [function(*(x.double().numpy() for x in (anchor, *person))) for person in people for anchor in anchors]
    shape = (len(people), len(anchors))
    return [torch.from_numpy(np.stack(part)).unflatten(0, shape) for part in zip(*results, strict=True)]


def cast(target: Target, dtype: torch.dtype) -> Target:
    return Target(target.joints_2d_px.to(dtype), target.confidence.to(dtype), target.K.to(dtype))


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        (InitialPose(num_steps=60), 1e-9),
        (InitialPose(num_steps=60, rotation_axes="y", keypoints=None, depth=8.0, scale_range=(0.2, 2.0)), 1e-9),
        (InitialPose(num_steps=60, rotation_axes="xyz", keypoints=(0, 1, 4, 7, 9)), 1e-9),
        (InitialPose(num_steps=60, rotation_axes=""), 1e-9),
        (InitialPose(num_steps=60, keypoints=(0, 1)), 1e-9),
        (InitialPose(num_steps=60, enabled=False, keypoints=None, scale_range=(0.9, 1.1)), 1e-9),
        (InitialPose(num_steps=0), 1e-12),
    ],
)
def test_initial_poses_equal_the_plain_optimiser(
    make: SimpleNamespace, settings: InitialPose, tolerance: float
) -> None:
    anchors, target = make.anchors(2), make.target(3)
    poses, transl = initial_poses(anchors, target, settings)
    expected = each(lambda *args: plain_initial_pose(*args, settings), anchors, target)
    torch.testing.assert_close(poses, expected[0], atol=tolerance, rtol=0)
    torch.testing.assert_close(transl, expected[1], atol=tolerance, rtol=0)


def test_initial_poses_without_a_pelvis_equal_the_plain_optimiser(make: SimpleNamespace) -> None:
    anchors, target = make.anchors(2), make.target(2)
    confidence = target.confidence.clone()
    confidence[0, 0] = 0
    target = Target(target.joints_2d_px, confidence, target.K)
    initial = InitialPose(num_steps=30)
    poses, transl = initial_poses(anchors, target, initial)
    expected = each(lambda *args: plain_initial_pose(*args, initial), anchors, target)
    torch.testing.assert_close(poses, expected[0], atol=1e-9, rtol=0)
    torch.testing.assert_close(transl, expected[1], atol=1e-9, rtol=0)


@pytest.mark.parametrize("noise_px", [0.0, 20.0])
def test_translation_equals_plain_least_squares(make: SimpleNamespace, noise_px: float) -> None:
    target, poses = make.target(4, noise_px=noise_px), make.anchors(4, seed=1)
    transl = solve_translation(poses, translation_solver(target))
    expected = each(lambda *args: (args[0], plain_translation(*args)), poses, target)[1]
    torch.testing.assert_close(transl, expected.diagonal(dim1=0, dim2=1).mT, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "score_factor"),
    [(torch.float64, 1e-8, 1.0), (torch.float64, 1e-8, 0.5), (torch.float32, 1e-4, 1.0)],
)
def test_optimise_equals_the_plain_algorithm(
    make: SimpleNamespace, dtype: torch.dtype, tolerance: float, score_factor: float
) -> None:
    anchors, target = make.anchors(2), make.target(3)
    target = cast(cast(target, torch.float32), torch.float64)  # the same keypoints in both precisions
    anchors = anchors.float().double()
    initial, loop = InitialPose(num_steps=30), Loop(num_iterations=60, score_factor=score_factor)
    network = make.network()
    result = optimise(make.network(dtype), ScoreBackbone(), anchors.to(dtype), cast(target, dtype), initial, loop)
    poses, transl = each(lambda *args: plain_zedo(network, *args, initial, 60, score_factor), anchors, target)
    assert result.joints_rel.dtype == dtype
    torch.testing.assert_close(result.joints_rel.double(), poses, atol=tolerance, rtol=0)
    torch.testing.assert_close(result.transl.double(), transl, atol=10 * tolerance, rtol=0)
    # The loop did something: neither the anchors nor their projections to the rays come back.
    start = initial_poses(anchors, target, initial)[0]
    assert (poses - start).norm(dim=-1).mean() > 0.05
    still = optimise(make.network(), make.no_prior(), anchors, target, initial, loop)
    assert (poses - still.joints_rel).norm(dim=-1).mean() > 0.02
