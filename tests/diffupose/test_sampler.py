import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffupose.network import GraphDenoiser, Prepared
from diffupose.sampler import DiffuPoseResult, Sampling, aggregate, mirror_keypoints, sample
from diffupose.unet import UNetDenoiser
from posecore.body.skeletons import H36M_16, H36M_17
from posecore.data.transforms import flip_joints
from posecore.diffusion.dpm_solver import dpm_solver_step
from posecore.diffusion.noise import NoiseStreams
from posecore.diffusion.samplers import ddim_step, ddpm_step, timesteps
from posecore.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.named("cosine_100")
STEPS = [5, 10, 25, 50]


class Oracle:
    """A denoiser that knows ``x_0``: the pose that it reads off the first coordinate of the keypoints.

    Keypoints that are mirrored belong to the mirrored pose, as for a network that has learned it.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def pose(self, keypoints: Tensor) -> Tensor:
        u, v = keypoints.unbind(-1)
        return torch.stack((u, v, u.square() - v), dim=-1) * self.scale

    def prepare(self, levels: Tensor) -> Prepared:
        def denoise(x_t: Tensor, keypoints: Tensor, i: int) -> Tensor:
            noise = SCHEDULE.to_noise(self.pose(keypoints), x_t, int(levels[i]), "sample")
            return torch.cat((noise, keypoints), dim=-1)

        return denoise


class Constant:
    """A denoiser whose noise is the same for all: its samples keep the noise that was drawn."""

    def prepare(self, levels: Tensor) -> Prepared:
        return lambda x_t, keypoints, i: torch.full((*x_t.shape[:2], 5), 0.1, dtype=x_t.dtype)


def draw_keypoints(people: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    keypoints = 0.3 * torch.randn(people, 16, 2, generator=generator, dtype=torch.float64)
    keypoints[:, 0] = 0
    return keypoints.to(dtype)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_network() -> GraphDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = GraphDenoiser("h36m16", 32, num_blocks=1).eval().double()
    network.output.weight.data.mul_(0.05)  # An untrained network's output is large: samples would all be clipped.
    return network


@pytest.mark.parametrize("settings", [Sampling(), Sampling("ddim", 10, eta=0.5)], ids=lambda s: s.sampler)
def test_hypotheses_depend_on_nobody_else(settings: Sampling) -> None:
    """Not on batch, chunk or the number of hypotheses: each has a stream of noise of its own."""
    keypoints, network = draw_keypoints(), small_network()
    rows = torch.tensor([7, 3, 5])

    def found(part: slice, num_hypotheses: int, **changes: Any) -> Tensor:
        source = NoiseStreams.of_rows(1, rows[part])
        used = dataclasses.replace(settings, **changes)
        return sample(network, SCHEDULE, keypoints[part], H36M_16, num_hypotheses, used, generator=source)

    wanted = found(slice(None), 4)
    torch.testing.assert_close(found(slice(1, 3), 4, chunk=5), wanted[1:])
    torch.testing.assert_close(found(slice(0, 1), 2), wanted[:1, :2])
    assert not torch.allclose(found(slice(None), 4, flip=False), wanted)
    assert torch.pdist(wanted.flatten(2).flatten(0, 1)).min() > 1e-3


SETTINGS = [
    Sampling("ddpm", None),
    *(Sampling("ddpm", steps) for steps in STEPS),
    *(Sampling("ddim", steps, eta=eta) for steps in STEPS for eta in (0.0, 1.0)),
    *(Sampling("dpm_solver", 5, eta=eta) for eta in (0.0, 1.0)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.sampler}-{s.num_inference_steps}-{s.eta:g}")
def test_an_oracle_is_followed_to_the_pose(settings: Sampling, dtype: torch.dtype) -> None:
    keypoints = draw_keypoints(dtype=dtype)
    found = sample(Oracle(), SCHEDULE, keypoints, H36M_16, 4, settings, 1.0, seeded())
    assert (found.shape, found.dtype) == ((3, 4, 16, 3), dtype)
    # In float32 the noise, asked for at the last timestep, tells x_0 to a few digits only.
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    expected = Oracle().pose(keypoints)[:, None].expand_as(found)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("pose_scale", [0.5, 3.0])
def test_pose_scale_is_undone(pose_scale: float) -> None:
    """The network works in scaled metres, the bound on joints and the result are in metres."""
    keypoints = draw_keypoints()
    keypoints[0, 3] = 1.3  # x, y at 1.3 m: inside the bound
    keypoints[0, 4] = 1.8  # and outside
    settings = Sampling("ddim", 10, clip_x0=1.5, flip=False)
    found = sample(Oracle(pose_scale), SCHEDULE, keypoints, H36M_16, 1, settings, pose_scale, seeded())[:, 0]
    torch.testing.assert_close(found[0, 4, :2], torch.tensor([1.5, 1.5], dtype=torch.float64), atol=1e-6, rtol=0)
    found[0, 4], expected = 0, Oracle().pose(keypoints)
    expected[0, 4] = 0
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("clip_x0", [None, 0.2])
def test_clipping(clip_x0: float | None) -> None:
    keypoints = draw_keypoints()
    expected = Oracle().pose(keypoints)
    assert expected.abs().max() > 0.8
    found = sample(Oracle(), SCHEDULE, keypoints, H36M_16, 1, Sampling(clip_x0=clip_x0, flip=False), 1.0, seeded())
    expected = expected if clip_x0 is None else expected.clamp(-clip_x0, clip_x0)
    torch.testing.assert_close(found[:, 0], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        ("ddpm", None, 0.0),
        ("ddpm", 7, 0.0),
        ("ddim", 10, 0.0),
        ("ddim", 10, 0.7),
        ("dpm_solver", 5, 0.0),
        ("dpm_solver", 10, 0.7),
    ],
    ids=str,
)
def test_equals_a_plain_loop(settings: tuple[str, int | None, float], flip: bool) -> None:
    """Algorithm 2 step by step, with the noise in the same order: rows are person, view, hypothesis."""
    name, num_steps, eta = settings
    network, keypoints, generator = small_network(), draw_keypoints(), seeded(7)
    views = [keypoints, mirror_keypoints(keypoints, H36M_16)] if flip else [keypoints]
    rows = torch.stack([view[person] for person in range(3) for view in views for _ in range(4)])
    x_t = torch.randn(len(rows), 16, 3, generator=generator, dtype=torch.float64)
    steps = timesteps(100, num_steps or 100, "trailing")
    assert steps[0] == 99
    before = None
    with torch.no_grad():
        for t, t_prev in zip(steps, [*steps[1:], -1], strict=True):
            noise = network(x_t, rows, torch.full((len(rows),), t))[..., :3]
            if name == "ddpm":
                step = ddpm_step(SCHEDULE, noise, x_t, t, t_prev, clip_x0=1.0, generator=generator)
            elif name == "ddim":
                step = ddim_step(SCHEDULE, noise, x_t, t, t_prev, eta=eta, clip_x0=1.0, generator=generator)
            else:
                step = dpm_solver_step(
                    SCHEDULE, noise, x_t, t, t_prev, before, eta=eta, clip_x0=1.0, generator=generator
                )
            x_t, before = step.x_prev, (step.x_0, t)
    expected = x_t.view(3, len(views), 4, 16, 3)
    expected = torch.stack((expected[:, 0], flip_joints(expected[:, 1], H36M_16))).mean(0) if flip else expected[:, 0]
    expected[:, :, 0] = 0
    chosen = Sampling(name, num_steps, eta, flip=flip)
    found = sample(network, SCHEDULE, keypoints, H36M_16, 4, chosen, 1.0, seeded(7))
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)
    assert (found[:, 0] - found[:, 1]).abs().max() > 1e-3


def test_flip_averages_a_pose_and_its_unflipped_mirror() -> None:
    class LeansRight(Oracle):
        """Finds everything 0.1 m too far in +x, however the keypoints lie."""

        def pose(self, keypoints: Tensor) -> Tensor:
            return super().pose(keypoints) + torch.tensor([0.1, 0.0, 0.0], dtype=keypoints.dtype)

    keypoints = draw_keypoints()
    truth = Oracle().pose(keypoints)
    once, both = (
        sample(
            LeansRight(), SCHEDULE, keypoints, H36M_16, 2, Sampling("ddim", 5, clip_x0=None, flip=flip), 1.0, seeded()
        )
        for flip in (False, True)
    )
    assert (once[:, 0, 1:] - truth[:, 1:])[..., 0].mean().item() == pytest.approx(0.1)
    torch.testing.assert_close(both, truth[:, None].expand_as(both), atol=1e-9, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("settings", [Sampling("ddpm"), Sampling("ddim", 10), Sampling("ddim", 10, eta=1.0)], ids=repr)
def test_seeds(settings: Sampling, flip: bool) -> None:
    network, keypoints = small_network(), draw_keypoints()
    settings = Sampling(settings.sampler, settings.num_inference_steps, settings.eta, flip=flip)
    first = sample(network, SCHEDULE, keypoints, H36M_16, 3, settings, 1.0, seeded(3))
    assert torch.equal(sample(network, SCHEDULE, keypoints, H36M_16, 3, settings, 1.0, seeded(3)), first)
    assert not torch.allclose(sample(network, SCHEDULE, keypoints, H36M_16, 3, settings, 1.0, seeded(4)), first)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (first[:, one] - first[:, other]).abs().amax(dim=(1, 2)).min() > 1e-3
    assert (first[:, :, 0] == 0).all()


@pytest.mark.parametrize("chunk", [1, 5, 24, 100])
def test_without_fresh_noise_chunks_change_nothing(chunk: int) -> None:
    """DDIM with eta 0 draws a row's noise once, before its steps, and so in the order of the rows."""
    network, keypoints = small_network(), draw_keypoints()
    found, expected = (
        sample(network, SCHEDULE, keypoints, H36M_16, 4, Sampling("ddim", 10, chunk=rows), 1.0, seeded())
        for rows in (chunk, 24)
    )
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_with_fresh_noise_chunks_are_samples_one_after_another() -> None:
    """A chunk takes all of its noise before the next one starts; here one person is one chunk."""
    network, keypoints, generator = small_network(), draw_keypoints(), seeded()
    one, other = Sampling("ddpm", 10, chunk=8), Sampling("ddpm", 10, chunk=5)
    whole = sample(network, SCHEDULE, keypoints, H36M_16, 4, one, 1.0, seeded())
    parts = [sample(network, SCHEDULE, keypoints[i : i + 1], H36M_16, 4, one, 1.0, generator) for i in range(3)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-9, rtol=0)
    assert not torch.allclose(sample(network, SCHEDULE, keypoints, H36M_16, 4, other, 1.0, seeded()), whole)


def test_noise_is_normal() -> None:
    """A denoiser without opinion lets the drawn noise through, scaled: no row, joint or axis is left out."""
    settings = Sampling("ddim", 1, clip_x0=None, flip=False, chunk=100)
    found = sample(Constant(), SCHEDULE, draw_keypoints(), H36M_16, 1000, settings, 1.0, seeded())[:, :, 1:]
    found = found * SCHEDULE.alphas_cumprod[99].sqrt() + 0.1 * (1 - SCHEDULE.alphas_cumprod[99]).sqrt()
    assert found.mean(dim=1).abs().max() < 0.15
    assert (found.std(dim=1) - 1).abs().max() < 0.15


@pytest.mark.parametrize("chunk", [4, 7, 500])
def test_progress_reaches_the_total(chunk: int) -> None:
    calls: list[tuple[int, int]] = []
    settings = Sampling("ddim", 5, chunk=chunk)
    sample(Oracle(), SCHEDULE, draw_keypoints(), H36M_16, 4, settings, 1.0, seeded(), lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert {call[1] for call in calls} == {3 * 2 * 4 * 5}
    assert done == sorted(set(done))
    assert done[-1] == 3 * 2 * 4 * 5


def test_nobody() -> None:
    assert sample(small_network(), SCHEDULE, draw_keypoints(0), H36M_16, 4, Sampling()).shape == (0, 4, 16, 3)


@pytest.mark.parametrize("denoiser", [GraphDenoiser, UNetDenoiser])
def test_both_networks_can_be_sampled_under_autocast(denoiser: type[GraphDenoiser] | type[UNetDenoiser]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = denoiser("h36m17", 32).eval()
    keypoints = 0.3 * torch.randn(2, 17, 2, generator=seeded())
    arguments = (network, SCHEDULE, keypoints, H36M_17, 2, Sampling("ddim", 5), 1.0)
    expected = sample(*arguments, seeded())
    before = keypoints.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(sample(*arguments, seeded()), expected, atol=0, rtol=0)
    assert torch.equal(keypoints, before)
    assert not expected.requires_grad


@pytest.mark.parametrize("seed", range(3))
def test_aggregation_equals_brute_force(seed: int) -> None:
    generator = seeded(seed)
    joints = torch.randn(4, 5, 16, 3, generator=generator, dtype=torch.float64)
    joints[..., 0, :] = 0
    error = torch.rand(4, 5, generator=generator, dtype=torch.float64)
    poses = {rule: aggregate(joints, error, rule) for rule in ("mean", "medoid", "reprojection")}
    for person in range(4):
        all_poses = joints[person].numpy()
        np.testing.assert_allclose(poses["mean"][person].numpy(), sum(all_poses) / 5, atol=1e-12)
        total = [sum(np.linalg.norm(one - other, axis=1).sum() for other in all_poses) for one in all_poses]
        np.testing.assert_array_equal(poses["medoid"][person].numpy(), all_poses[int(np.argmin(total))])
        least = int(np.argmin(error[person].numpy()))
        np.testing.assert_array_equal(poses["reprojection"][person].numpy(), all_poses[least])


@pytest.mark.parametrize("rule", ["mean", "medoid", "reprojection"])
def test_one_hypothesis_is_the_pose(rule: str) -> None:
    joints = torch.randn(4, 1, 16, 3, generator=seeded())
    assert torch.equal(aggregate(joints, torch.ones(4, 1), rule), joints[:, 0])


def test_best_is_nearest_to_the_pose() -> None:
    joints = torch.randn(4, 5, 16, 3, generator=seeded())
    error = torch.rand(4, 5, generator=seeded())
    for rule in ("mean", "medoid", "reprojection"):
        pose = aggregate(joints, error, rule)
        result = DiffuPoseResult(joints, torch.zeros(4, 5, 3), error, pose)
        distance = (joints - pose[:, None]).norm(dim=-1).mean(dim=-1)
        assert result.best.tolist() == distance.argmin(dim=1).tolist()
        if rule == "reprojection":
            assert torch.equal(result.best, error.argmin(dim=1))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1, got 0"),
        ({"eta": 1.5}, r"eta must lie in \[0, 1\], got 1.5"),
        ({"eta": -0.1}, r"eta must lie in \[0, 1\], got -0.1"),
        ({"clip_x0": 0.0}, "clip_x0 must be positive metres or None, got 0.0"),
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
    ],
)
def test_sampling_refuses(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Sampling(**settings)


def test_sampling_refuses_another_sampler() -> None:
    settings = Sampling()
    # Past the check of types, which refuses first in tests.
    object.__setattr__(settings, "sampler", "dpm")
    with pytest.raises(ValueError, match="sampler must be 'ddpm', 'ddim' or 'dpm_solver', got 'dpm'"):
        settings.__post_init__()


def test_sample_refuses() -> None:
    keypoints = draw_keypoints()
    with pytest.raises(ValueError, match="num_hypotheses must be at least 1, got 0"):
        sample(Oracle(), SCHEDULE, keypoints, H36M_16, 0, Sampling())
    with pytest.raises(ValueError, match=r"num_inference_steps must lie in 1\.\.100, got 101"):
        sample(Oracle(), SCHEDULE, keypoints, H36M_16, 1, Sampling("ddim", 101))
    with pytest.raises(RuntimeError, match="training mode"):
        sample(small_network().train(), SCHEDULE, keypoints, H36M_16, 1, Sampling())


def test_aggregate_refuses() -> None:
    # Past the signature's check of types, which refuses first in tests.
    with pytest.raises(ValueError, match="unknown aggregation 'best', expected one of"):
        inspect.unwrap(aggregate)(torch.zeros(1, 1, 16, 3), torch.zeros(1, 1), "best")
