from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from posecore.diffusion.noise import NoiseStreams
from posecore.geometry.camera import project
from posecore.geometry.rotation import rotmat_to_axis_angle
from zedo.prior import ScoreBackbone, make_backbone
from zedo.sampler import (
    InitialPose,
    Loop,
    Target,
    ZeDOResult,
    initial_poses,
    optimise,
    project_to_rays,
    solve_translation,
    translation_solver,
)

JOINTS = 17
DTYPES = [torch.float32, torch.float64]


def replace(target: Target, **changes: Tensor) -> Target:
    fields = {"joints_2d_px": target.joints_2d_px, "confidence": target.confidence, "K": target.K}
    return Target(**(fields | changes))


def rows(target: Target, part: slice) -> Target:
    return Target(target.joints_2d_px[part], target.confidence[part], target.K[part])


@pytest.mark.parametrize("axes", ["x", "y", "z", "yz"])
def test_initial_poses_turn_about_the_named_axes_only(make: SimpleNamespace, axes: str) -> None:
    anchors, target = make.anchors(2), make.target(2)
    poses, _ = initial_poses(anchors, target, InitialPose(rotation_axes=axes, keypoints=None, num_steps=40))
    # The anchors span space, so that the turn follows from the points.
    turn = torch.linalg.lstsq(anchors.expand(2, -1, -1, -1), poses).solution.mT
    axis_angle = rotmat_to_axis_angle(turn)
    fixed = [i for i in range(3) if "xyz"[i] not in axes]
    assert axis_angle[..., fixed].abs().max() < 1e-9
    assert axis_angle.norm(dim=-1).min() > 1e-3


def test_scale_stays_in_its_range(make: SimpleNamespace) -> None:
    anchors = make.anchors(1)
    settings = InitialPose(keypoints=None, scale_range=(0.8, 1.2), num_steps=100)
    K = make.target(1).K
    for depth, expected in ((30.0, 3.6), (1.0, 2.4)):
        pixels = project(anchors + torch.tensor([0.0, 0.0, depth], dtype=torch.float64), K)
        target = Target(pixels, torch.ones(1, JOINTS, dtype=torch.float64), K)
        _, transl = initial_poses(anchors, target, settings)
        torch.testing.assert_close(transl.norm(dim=-1), torch.full_like(transl[..., 0], expected))


@pytest.mark.parametrize("distance", [4.0, 12.0, 40.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_depth_is_estimated_where_not_given(make: SimpleNamespace, distance: float, dtype: torch.dtype) -> None:
    anchors, K = make.anchors(2), make.target(1).K
    pixels = project(anchors[:1] + torch.tensor([0.2, -0.3, distance], dtype=torch.float64), K)
    confidence = torch.ones(1, JOINTS, dtype=dtype)
    confidence[:, 5] = 0
    pixels[:, 5] = 9999.0  # not found, so it says nothing about the extent either
    target = Target(pixels.to(dtype), confidence, K.to(dtype))
    _, transl = initial_poses(anchors.to(dtype), target, InitialPose(depth=None, num_steps=0))
    assert transl[0, 0].norm().item() == pytest.approx(distance, rel=0.15)
    seen = [j for j in range(JOINTS) if j != 5]
    on_plane = (target.rays / target.rays[..., 2:])[0, seen, :2].double().numpy()
    spread = [np.sqrt(points.var(axis=0).sum()) for points in (anchors[1, seen, :2].numpy(), on_plane)]
    assert transl[0, 1].norm().item() == pytest.approx(spread[0] / spread[1], rel=1e-4)


def test_disabled_initial_pose_leaves_the_anchor_unturned(make: SimpleNamespace) -> None:
    anchors, target = make.anchors(3), make.target(2)
    poses, transl = initial_poses(anchors, target, InitialPose(enabled=False, num_steps=50))
    torch.testing.assert_close(poses, anchors.expand(2, -1, -1, -1), atol=0, rtol=0)
    assert (transl.norm(dim=-1) - 3.0).abs().min() > 1e-2  # the distance was found all the same
    torch.testing.assert_close(
        torch.nn.functional.normalize(transl, dim=-1), target.rays[:, :1].expand(-1, 3, -1), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_initial_poses_find_a_turn_in_the_picture_plane(make: SimpleNamespace, dtype: torch.dtype) -> None:
    anchors = make.anchors(1)
    angle = torch.tensor([0.7, -1.1], dtype=torch.float64)
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    turn = torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero, zero, zero, one], -1)
    truth = anchors @ turn.unflatten(-1, (3, 3)).mT
    transl = torch.tensor([[0.3, -0.2, 4.0], [-0.5, 0.1, 2.5]], dtype=torch.float64)
    K = make.target(2).K
    pixels = project(truth + transl[:, None], K)
    target = Target(pixels.to(dtype), torch.ones(2, JOINTS, dtype=dtype), K.to(dtype))
    poses, found = initial_poses(anchors.to(dtype), target, InitialPose(keypoints=None, lr=0.02, num_steps=300))
    torch.testing.assert_close(poses[:, 0].double(), truth, atol=0.02, rtol=0)
    torch.testing.assert_close(found[:, 0].double(), transl, atol=0.1, rtol=0)


@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_chunks_and_batches_change_nothing(make: SimpleNamespace, chunk: int) -> None:
    anchors, target = make.anchors(2), make.target(3)
    network, initial = make.network(), InitialPose(num_steps=20)

    def run(anchors: Tensor, target: Target, **loop: int) -> ZeDOResult:
        return optimise(network, ScoreBackbone(), anchors, target, initial, Loop(num_iterations=20, **loop))

    whole = run(anchors, target)
    for part, expected in zip(run(anchors, target, chunk=chunk), whole, strict=True):
        torch.testing.assert_close(part, expected, atol=1e-9, rtol=0)
    for person in range(3):
        for hypothesis in range(2):
            alone = run(anchors[hypothesis : hypothesis + 1], rows(target, slice(person, person + 1)))
            for part, expected in zip(alone, whole, strict=True):
                torch.testing.assert_close(part[0, 0], expected[person, hypothesis], atol=1e-9, rtol=0)


def test_missing_joints_change_nothing(make: SimpleNamespace) -> None:
    anchors, target = make.anchors(2), make.target(2)
    confidence = target.confidence.clone()
    confidence[:, [4, 9, 16]] = 0
    target = replace(target, confidence=confidence)
    pixels = target.joints_2d_px.clone()
    pixels[:, [4, 9, 16]] = torch.tensor([-3000.0, 7.0], dtype=pixels.dtype)
    args = (InitialPose(num_steps=20), Loop(num_iterations=20))
    first = optimise(make.network(), ScoreBackbone(), anchors, target, *args)
    second = optimise(make.network(), ScoreBackbone(), anchors, replace(target, joints_2d_px=pixels), *args)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    # Without a prior nothing else moves them either: they stay where the initial pose put them.
    still = optimise(make.network(), make.no_prior(), anchors, target, *args)
    start, _ = initial_poses(anchors, target, args[0])
    torch.testing.assert_close(still.joints_rel[..., [4, 9, 16], :], start[..., [4, 9, 16], :], atol=0, rtol=0)
    assert (still.joints_rel[..., 0, :] - start[..., 0, :]).abs().min() > 0


def test_missing_pelvis(make: SimpleNamespace) -> None:
    anchors, target = make.anchors(2), make.target(2)
    confidence = target.confidence.clone()
    confidence[0, 0] = 0
    target = replace(target, confidence=confidence)
    initial = InitialPose(num_steps=30)
    poses, transl = initial_poses(anchors, target, initial)
    # The mean of the visible joints hangs on the mean of their rays.
    visible = target.visible[0]
    centre = (poses[0] + transl[0][:, None])[:, visible].mean(1)
    ray = target.rays[0, visible].mean(0)
    assert torch.linalg.cross(centre, ray.expand_as(centre)).abs().max() < 1e-9
    result = optimise(make.network(), ScoreBackbone(), anchors, target, initial, Loop(num_iterations=30))
    assert all(part.isfinite().all() for part in result)
    assert (result.transl[..., 2] > 0).all()


@pytest.mark.parametrize("visible", [(), (9,), (0,), (3, 12), (0, 1, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_few_visible_joints_are_finite(make: SimpleNamespace, visible: tuple[int, ...], dtype: torch.dtype) -> None:
    anchors, target = make.anchors(2, dtype), make.target(2, dtype)
    confidence = torch.zeros_like(target.confidence)
    confidence[0, list(visible)] = 0.7
    confidence[1] = target.confidence[1]
    args = (InitialPose(num_steps=30), Loop(num_iterations=30))
    result = optimise(make.network(dtype), ScoreBackbone(), anchors, replace(target, confidence=confidence), *args)
    assert all(part.isfinite().all() for part in result)
    assert result.joints_rel.abs().max() < 10
    if visible:
        assert (result.transl[0, :, 2] > 0.5).all()  # never at the camera's centre
    # The other person does not notice.
    alone = optimise(make.network(dtype), ScoreBackbone(), anchors, rows(target, slice(1, 2)), *args)
    torch.testing.assert_close(result.joints_rel[1:], alone.joints_rel, atol=1e-3, rtol=0)


def test_translation_is_found_exactly(make: SimpleNamespace) -> None:
    target = make.target(4, noise_px=0)
    poses = make.anchors(4, seed=1)  # whose exact projection the target is
    transl = solve_translation(poses, translation_solver(target))
    torch.testing.assert_close(project(poses + transl[:, None], target.K), target.joints_2d_px, atol=1e-6, rtol=0)


def test_translation_weighs_by_the_confidence_to_the_fourth(make: SimpleNamespace) -> None:
    target = make.target(1, noise_px=20)
    poses = make.anchors(1, seed=1)
    normal, right = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for j in range(JOINTS):
        u, v = (target.rays[0, j, :2] / target.rays[0, j, 2]).tolist()
        A = torch.tensor([[-1, 0, u], [0, -1, v]], dtype=torch.float64)
        b = torch.tensor([[1, 0, -u], [0, 1, -v]], dtype=torch.float64) @ poses[0, j]
        normal += target.confidence[0, j] ** 4 * A.T @ A
        right += target.confidence[0, j] ** 4 * A.T @ b
    found = solve_translation(poses, translation_solver(target))
    torch.testing.assert_close(found[0], torch.linalg.solve(normal, right), atol=1e-9, rtol=0)


def test_translation_behind_the_camera_is_mirrored(make: SimpleNamespace) -> None:
    target = make.target(2, noise_px=0)
    poses = make.anchors(2, seed=1)
    transl = solve_translation(poses, translation_solver(target))
    # A pose mirrored through its pelvis explains the same rays from behind the camera.
    flipped = solve_translation(-poses, translation_solver(target))
    assert (transl[:, 2] > 0).all()
    torch.testing.assert_close(flipped, transl, atol=1e-9, rtol=0)


def test_projection_to_rays_is_the_nearest_point(make: SimpleNamespace) -> None:
    target = make.target(3)
    poses, transl = make.anchors(3), torch.tensor([0.1, 0.2, 4.0], dtype=torch.float64).expand(3, 3)
    visible = torch.ones(3, JOINTS, 1, dtype=torch.bool)
    visible[1, 5] = False
    found = project_to_rays(poses, transl, target.rays, visible)
    placed = found + transl[:, None]
    on_ray = torch.linalg.cross(placed, target.rays).norm(dim=-1)
    moved = found - poses
    assert on_ray[visible[..., 0]].max() < 1e-12
    assert (moved * target.rays).sum(-1)[visible[..., 0]].abs().max() < 1e-12  # square to the ray
    assert (moved[1, 5] == 0).all()


@pytest.mark.parametrize("num_iterations", [1, 4, 25])
def test_without_a_prior_the_keypoints_are_met(make: SimpleNamespace, num_iterations: int) -> None:
    target = make.target(1)
    anchors = make.anchors(1, seed=1) + 0.1 * make.anchors(3)
    loop = Loop(num_iterations=num_iterations)
    result = optimise(make.network(), make.no_prior(), anchors, target, InitialPose(num_steps=20), loop)
    distance = project(result.joints_rel + result.transl[..., None, :], target.K[:, None])
    distance = (distance - target.joints_2d_px[:, None]).norm(dim=-1)
    assert distance.masked_fill(~target.visible[:, None], 0).max() < 1e-6
    assert result.reprojection_px.max() < 1e-6


def test_the_truth_stays_where_it_is(make: SimpleNamespace) -> None:
    truth, target = make.anchors(2, seed=1), make.target(2, noise_px=0)
    initial = InitialPose(num_steps=0)
    for person in range(2):
        one = rows(target, slice(person, person + 1))
        result = optimise(
            make.network(), make.no_prior(), truth[person : person + 1], one, initial, Loop(num_iterations=20, warmup=0)
        )
        torch.testing.assert_close(result.joints_rel[0, 0], truth[person], atol=1e-9, rtol=0)
        assert result.reprojection_px.item() < 1e-6


def test_warmup_keeps_the_initial_translation(make: SimpleNamespace) -> None:
    anchors, target = make.anchors(2), make.target(2)
    initial = InitialPose(num_steps=20)
    _, transl = initial_poses(anchors, target, initial)

    def last(num_iterations: int, warmup: int | None) -> Tensor:
        loop = Loop(num_iterations=num_iterations, warmup=warmup)
        return optimise(make.network(), ScoreBackbone(), anchors, target, initial, loop).transl

    torch.testing.assert_close(last(10, 10), transl, atol=0, rtol=0)
    torch.testing.assert_close(last(10, 2), last(10, None), atol=0, rtol=0)  # a fifth where not given
    assert (last(10, 9) - transl).norm(dim=-1).min() > 1e-3


def test_no_iterations_return_the_initial_pose(make: SimpleNamespace) -> None:
    anchors, target = make.anchors(2), make.target(2)
    initial = InitialPose(num_steps=20)
    result = optimise(make.network(), ScoreBackbone(), anchors, target, initial, Loop(num_iterations=0))
    poses, transl = initial_poses(anchors, target, initial)
    torch.testing.assert_close(result.joints_rel, poses, atol=0, rtol=0)
    torch.testing.assert_close(result.transl, transl, atol=0, rtol=0)


def test_no_people(make: SimpleNamespace) -> None:
    target = rows(make.target(1), slice(0, 0))
    result = optimise(make.network(), ScoreBackbone(), make.anchors(2), target, loop=Loop(num_iterations=2))
    assert result.joints_rel.shape == (0, 2, JOINTS, 3)
    assert result.best.shape == (0,)


def test_best_is_the_medoid_whatever_the_hypotheses_root() -> None:
    joints_rel = torch.randn(4, 5, JOINTS, 3, generator=torch.Generator().manual_seed(0))
    expected = []
    for person in joints_rel - joints_rel[:, :, :1]:
        distance = [sum(float((a - b).norm(dim=-1).mean()) for b in person) for a in person]
        expected.append(int(np.argmin(distance)))
    moved = joints_rel + torch.randn(4, 5, 1, 3, generator=torch.Generator().manual_seed(1))
    result = ZeDOResult(moved, torch.zeros(4, 5, 3), torch.zeros(4, 5))
    assert result.best.tolist() == expected
    assert len(set(expected)) > 1


def test_turning_camera_and_people_together_turns_the_loop(make: SimpleNamespace) -> None:
    """Eq. (4) and Eq. (6) know no up: rays, poses and translations may be turned together about the optical axis."""
    target = make.target(1)
    K = torch.diag(torch.tensor([1000.0, 1000.0, 1.0], dtype=torch.float64))[None]
    pixels = target.joints_2d_px - 500
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    args = (InitialPose(num_steps=0), Loop(num_iterations=15))
    conf = target.confidence
    plain = optimise(make.network(), make.no_prior(), make.anchors(2), Target(pixels, conf, K), *args)
    turned = Target(pixels @ turn[:2, :2].T, conf, K)
    result = optimise(make.network(), make.no_prior(), make.anchors(2) @ turn.T, turned, *args)
    torch.testing.assert_close(result.joints_rel, plain.joints_rel @ turn.T, atol=1e-9, rtol=0)
    torch.testing.assert_close(result.transl, plain.transl @ turn.T, atol=1e-9, rtol=0)


def test_progress_reaches_the_total(make: SimpleNamespace) -> None:
    calls: list[tuple[int, int]] = []
    anchors, target = make.anchors(2), make.target(2)
    loop = Loop(num_iterations=5, chunk=3)
    optimise(
        make.network(),
        ScoreBackbone(),
        anchors,
        target,
        InitialPose(num_steps=1),
        loop,
        progress=lambda done, total: calls.append((done, total)),
    )
    done = [call[0] for call in calls]
    assert {call[1] for call in calls} == {20}
    assert done == sorted(set(done))
    assert done[-1] == 20


def test_memory_decides_the_chunks(make: SimpleNamespace) -> None:
    def num_chunks(**settings: float) -> int:
        calls: list[int] = []
        loop = Loop(num_iterations=1, **settings)
        initial = InitialPose(num_steps=0)
        target, backbone = make.target(3), make.no_prior()
        optimise(
            make.network(),
            backbone,
            make.anchors(2),
            target,
            initial,
            loop,
            progress=lambda done, _: calls.append(done),
        )
        return len(calls)

    assert num_chunks() == 1
    assert num_chunks(memory_gb=2 * 64 * 1024 / 2**30) == 3  # two rows of 64 KiB at once
    assert num_chunks(memory_gb=0.0) == 6
    assert num_chunks(memory_gb=0.0, chunk=6) == 1


def test_noise_of_a_person_depends_on_nobody_else(make: SimpleNamespace) -> None:
    """Not on batch, chunk or the number of hypotheses."""
    target, anchors, numbers = make.target(3), make.anchors(4), torch.tensor([7, 3, 5])

    def found(part: slice, hypotheses: int, chunk: int | None = None) -> Tensor:
        return optimise(
            make.network(),
            make_backbone("ddpm"),
            anchors[:hypotheses],
            rows(target, part),
            InitialPose(num_steps=3),
            Loop(num_iterations=20, chunk=chunk),
            NoiseStreams.of_rows(1, numbers[part]),
        ).joints_rel

    wanted = found(slice(None), 4)
    torch.testing.assert_close(found(slice(1, 3), 4, 5), wanted[1:])
    torch.testing.assert_close(found(slice(0, 1), 2), wanted[:1, :2])


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_discrete_backbones_run_reproducibly(make: SimpleNamespace, name: str) -> None:
    anchors, target = make.anchors(2), make.target(2)

    def run(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        loop = Loop(num_iterations=20)
        initial = InitialPose(num_steps=10)
        return optimise(make.network(), make_backbone(name), anchors, target, initial, loop, generator).joints_rel

    assert run(0).isfinite().all()
    assert torch.equal(run(0), run(0))
    assert torch.equal(run(0), run(1)) == (name == "ddim")  # only DDPM draws


def test_runs_inside_inference_mode_and_keeps_its_inputs(make: SimpleNamespace) -> None:
    anchors, target = make.anchors(2), make.target(2)
    before = [x.clone() for x in (anchors, target.joints_2d_px, target.confidence, target.K)]
    args = (InitialPose(num_steps=10), Loop(num_iterations=10))
    outside = optimise(make.network(), ScoreBackbone(), anchors, target, *args)
    with torch.inference_mode():
        inside = optimise(make.network(), ScoreBackbone(), make.anchors(2), make.target(2), *args)
    with torch.no_grad():
        without = optimise(make.network(), ScoreBackbone(), anchors, target, *args)
    assert torch.equal(inside.joints_rel, outside.joints_rel)
    assert torch.equal(without.joints_rel, outside.joints_rel)
    assert not outside.joints_rel.is_inference()
    assert all(map(torch.equal, before, (anchors, target.joints_2d_px, target.confidence, target.K)))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"rotation_axes": "w"}, "rotation_axes must name camera axes out of 'xyz', got 'w'"),
        ({"scale_range": (0.0, 1.0)}, r"scale_range must be 0 < min <= max, got \(0.0, 1.0\)"),
        ({"scale_range": (2.0, 1.0)}, "scale_range"),
        ({"depth": 0.0}, "depth and lr must be positive and num_steps not negative"),
        ({"num_steps": -1}, "num_steps not negative"),
        ({"lr": 0.0}, "depth and lr must be positive"),
    ],
)
def test_initial_pose_refuses(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        InitialPose(**settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_iterations": -1}, "num_iterations and warmup must not be negative"),
        ({"warmup": -1}, "num_iterations and warmup must not be negative"),
        ({"t_start": 1.5}, "need 0 < t_end <= t_start <= 1, got t_start=1.5, t_end=0.01"),
        ({"t_end": 0.0}, "t_end=0.0"),
        ({"t_start": 0.05, "t_end": 0.1}, "need 0 < t_end <= t_start"),
        ({"dt": 0.0}, "dt must be positive, got 0.0"),
        ({"dt": -1e-3}, "dt must be positive, got -0.001"),
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"chunk": -1}, "chunk must be at least 1, got -1"),
    ],
)
def test_loop_refuses(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Loop(**settings)


def test_joint_sets_must_agree(make: SimpleNamespace) -> None:
    target = make.target(1)
    with pytest.raises(ValueError, match="anchors have 16 joints, the keypoints 17 and the network 17"):
        optimise(make.network(), ScoreBackbone(), make.anchors(1)[:, :16], target)
