import time
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import roma
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.transform import Rotation
from torch import Tensor

from posecore.geometry import alignment
from posecore.geometry.rotation import geodesic_distance, random_rotmat

BATCH_SHAPES = ((), (2,), (2, 3))
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-9}

each_batch = pytest.mark.parametrize("batch_shape", BATCH_SHAPES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def draw_poses(
    batch_shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, noise: float = 0.05
) -> tuple[Tensor, Tensor]:
    """Random points of a person's size, and the same ones turned, scaled, shifted and a little shaken (metres)."""
    source = 0.3 * torch.randn(*batch_shape, 17, 3, generator=generator, dtype=dtype)
    rotmat = random_rotmat(batch_shape, generator, dtype=dtype)
    shift = torch.randn(*batch_shape, 1, 3, generator=generator, dtype=dtype)
    shake = noise * torch.randn(*batch_shape, 17, 3, generator=generator, dtype=dtype)
    return source, 1.3 * source @ rotmat.transpose(-1, -2) + shift + shake


def reference(source: np.ndarray, target: np.ndarray, scale: bool, reflection: bool) -> np.ndarray:
    """One pose aligned with SciPy's solvers, in float64."""
    source_centered, target_centered = source - source.mean(axis=0), target - target.mean(axis=0)
    if reflection:
        rotmat = orthogonal_procrustes(source_centered, target_centered)[0].T
    else:
        rotmat = Rotation.align_vectors(target_centered, source_centered)[0].as_matrix()
    turned = source_centered @ rotmat.T
    factor = (turned * target_centered).sum() / (source_centered**2).sum() if scale else 1.0
    return factor * turned + target.mean(axis=0)


@pytest.mark.parametrize(("scale", "reflection"), list(product([True, False], repeat=2)))
@pytest.mark.parametrize("mirrored", [False, True])
@each_batch
@each_dtype
def test_align_against_scipy(
    scale: bool,
    reflection: bool,
    mirrored: bool,
    batch_shape: tuple[int, ...],
    dtype: torch.dtype,
    generator: torch.Generator,
) -> None:
    source, target = draw_poses(batch_shape, dtype, generator)
    if mirrored:
        source = source * torch.tensor([-1, 1, 1], dtype=dtype)
    transform = alignment.procrustes(source, target, scale=scale, reflection=reflection)
    assert transform.scale.shape == batch_shape
    assert transform.rotation.shape == (*batch_shape, 3, 3)
    assert transform.translation.shape == (*batch_shape, 3)
    assert transform.rotation.dtype == dtype
    determinant = -1.0 if mirrored and reflection else 1.0
    torch.testing.assert_close(torch.linalg.det(transform.rotation), torch.full(batch_shape, determinant, dtype=dtype))
    assert (transform.scale > 0).all()
    assert scale or (transform.scale == 1).all()
    aligned = alignment.align(source, target, scale=scale, reflection=reflection)
    assert torch.equal(aligned, transform.apply(source))
    pairs = zip(source.double().reshape(-1, 17, 3).numpy(), target.double().reshape(-1, 17, 3).numpy(), strict=True)
    expected = np.stack([reference(*pair, scale, reflection) for pair in pairs])
    np.testing.assert_allclose(aligned.reshape(-1, 17, 3), expected, atol=2 * TOLERANCE[dtype])


@each_batch
@each_dtype
def test_an_exact_similarity_is_found_again(
    batch_shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    source, target = draw_poses(batch_shape, dtype, generator, noise=0)
    torch.testing.assert_close(alignment.align(source, target), target, atol=2 * TOLERANCE[dtype], rtol=0)
    scale = alignment.procrustes(source, target).scale
    torch.testing.assert_close(scale, torch.full_like(scale, 1.3), atol=2 * TOLERANCE[dtype], rtol=0)


@each_dtype
def test_weights_count_points(dtype: torch.dtype, generator: torch.Generator) -> None:
    source, target = draw_poses((2, 3), dtype, generator)
    counts = torch.randint(0, 4, (17,), generator=generator)
    repeated = alignment.procrustes(source.repeat_interleave(counts, -2), target.repeat_interleave(counts, -2))
    weights = counts.to(dtype).expand(2, 3, 17)
    for weighted in (alignment.procrustes(source, target, factor * weights) for factor in (1, 0.01)):
        for one, other in zip(weighted, repeated, strict=True):
            torch.testing.assert_close(one, other, atol=4 * TOLERANCE[dtype], rtol=0)
    uniform = alignment.align(source, target, torch.ones_like(weights))
    torch.testing.assert_close(uniform, alignment.align(source, target), atol=4 * TOLERANCE[dtype], rtol=0)
    # A point of weight 0 does not matter at all.
    spoiled = torch.where(weights[..., None] > 0, source, 1e3)
    for one, other in zip(alignment.procrustes(spoiled, target, weights), repeated, strict=True):
        torch.testing.assert_close(one, other, atol=4 * TOLERANCE[dtype], rtol=0)


def test_no_other_similarity_is_nearer(generator: torch.Generator) -> None:
    source, target = draw_poses((20,), torch.float64, generator, noise=0.3)
    weights = torch.rand(20, 17, generator=generator, dtype=torch.float64)
    best = alignment.procrustes(source, target, weights)

    def cost(transform: alignment.SimilarityTransform) -> Tensor:
        return (weights * (transform.apply(source) - target).square().sum(-1)).sum(-1)

    for size in (1e-3, 1e-2, 1e-1, 1):
        turn = roma.rotvec_to_rotmat(size * torch.randn(20, 3, generator=generator, dtype=torch.float64))
        shift = size * torch.randn(20, 3, generator=generator, dtype=torch.float64)
        grow = torch.exp(size * torch.randn(20, generator=generator, dtype=torch.float64))
        other = alignment.SimilarityTransform(grow * best.scale, turn @ best.rotation, best.translation + shift)
        assert (cost(other) > cost(best)).all()


def test_one_target_serves_many_hypotheses(generator: torch.Generator) -> None:
    source, target = draw_poses((4, 5), torch.float32, generator)
    one = target[:, :1]
    assert torch.equal(alignment.align(source, one), alignment.align(source, one.expand_as(source).contiguous()))


def degenerate_poses() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    cloud, other = 0.3 * torch.randn(2, 17, 3, generator=generator) + 1
    line = torch.linspace(-1, 1, 17)[:, None]
    along_x, along_diagonal = line * torch.tensor([1.0, 0, 0]) + 0.7, line * torch.tensor([1.0, 1, -1])
    box = torch.tensor(list(product([-1.0, 1.0], repeat=3)))
    place = torch.tensor([0.1, -0.7, 3.3]).expand(17, 3)
    return {
        "source at one place": (place, other),
        "target at one place": (cloud, place),
        "both at one place": (place, place + 1),
        "all zero": (torch.zeros(17, 3), torch.zeros(17, 3)),
        "one point": (cloud[:1], other[:1]),
        "two points": (cloud[:2], other[:2]),
        "lines": (along_x, along_diagonal),
        "line onto itself": (along_x, along_x),
        "line onto its reverse": (along_x, along_x.flip(0)),
        "line onto cloud": (along_x, other),
        "plane": (cloud * torch.tensor([1.0, 1, 0]), cloud * torch.tensor([1.0, 1, 0])),
        "equal singular values": (box, 2 * box),
        "mirrored, equal singular values": (box, box * torch.tensor([1.0, 1, -1])),
        "point mirror, equal singular values": (box, -box),
        "mirrored": (cloud, cloud * torch.tensor([-1.0, 1, 1])),
    }


@pytest.mark.filterwarnings("ignore:Optimal rotation is not uniquely")  # the reference says so too
@pytest.mark.parametrize("case", degenerate_poses())
@pytest.mark.parametrize("reflection", [False, True])
@each_dtype
def test_degenerate_poses_give_a_best_fit_and_finite_gradients(case: str, reflection: bool, dtype: torch.dtype) -> None:
    source, target = (points.to(dtype).clone().requires_grad_() for points in degenerate_poses()[case])
    transform = alignment.procrustes(source, target, reflection=reflection)
    eye = torch.eye(3, dtype=dtype)
    tolerance = 4 * TOLERANCE[dtype]
    torch.testing.assert_close(transform.rotation @ transform.rotation.T, eye, atol=tolerance, rtol=0)
    assert reflection or torch.linalg.det(transform.rotation) > 0
    aligned = transform.apply(source)
    assert aligned.isfinite().all()
    # As near as the reference gets, whichever of several best rotations it takes.
    error = (aligned - target).square().sum().item()
    if "one p" not in case and case != "all zero":
        expected = reference(source.detach().double().numpy(), target.detach().double().numpy(), True, reflection)
        assert error == pytest.approx(np.square(expected - target.detach().double().numpy()).sum(), abs=1e-4)
    (aligned * torch.arange(3, dtype=dtype)).sum().backward()
    assert source.grad is not None
    assert target.grad is not None
    assert source.grad.isfinite().all()
    assert target.grad.isfinite().all()


@each_dtype
def test_degenerate_poses_give_what_the_docstring_says(dtype: torch.dtype) -> None:
    cases = {name: [points.to(dtype) for points in pair] for name, pair in degenerate_poses().items()}
    for name, scale in {
        "source at one place": 1,
        "target at one place": 0,
        "both at one place": 1,
        "all zero": 1,
        "one point": 1,
    }.items():
        transform = alignment.procrustes(*cases[name])
        torch.testing.assert_close(transform.rotation, torch.eye(3, dtype=dtype), atol=1e-14, rtol=0)
        assert transform.scale == scale
        target = cases[name][1]
        torch.testing.assert_close(transform.apply(cases[name][0]).mean(0), target.mean(0), atol=1e-6, rtol=0)
    # The smallest turn that lays one line on the other is the angle between them.
    lines = {"lines": np.arccos(1 / np.sqrt(3)), "line onto itself": 0, "line onto its reverse": np.pi}
    for name, angle in lines.items():
        transform = alignment.procrustes(*cases[name])
        found = geodesic_distance(transform.rotation, torch.eye(3, dtype=dtype)).item()
        assert found == pytest.approx(angle, abs=1e-5)
        torch.testing.assert_close(transform.apply(cases[name][0]), cases[name][1], atol=4e-6, rtol=0)
    transform = alignment.procrustes(*cases["lines"], weights=torch.zeros(17, dtype=dtype))
    assert transform.scale == 1
    torch.testing.assert_close(transform.rotation, torch.eye(3, dtype=dtype), atol=1e-14, rtol=0)
    assert transform.translation.tolist() == [0, 0, 0]


def test_one_pose_that_is_no_number_spoils_only_itself(generator: torch.Generator) -> None:
    source, target = draw_poses((4,), torch.float32, generator)
    expected = alignment.align(source, target)
    source[1, 3, 0], target[2, 0, 1] = torch.nan, torch.inf
    aligned = alignment.align(source, target)
    assert torch.equal(aligned[[0, 3]], expected[[0, 3]])
    assert not aligned[1].isfinite().any(dim=-1).any()
    assert not aligned[2].isfinite().all(dim=-1).any()
    assert alignment.nearest_rotation(torch.full((3, 3), torch.nan)).isnan().all()


@each_batch
@each_dtype
def test_nearest_rotation_against_roma(
    batch_shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    for size in (1e-12, 1.0, 1e12):
        matrix = torch.randn(*batch_shape, 3, 3, generator=generator, dtype=dtype)
        expected = roma.special_procrustes(matrix.double(), method="svd").to(dtype)
        rotation = alignment.nearest_rotation(size * matrix)
        torch.testing.assert_close(rotation, expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("third", [1.0, 0.3, 0.01, 0.0, -0.01, -0.3, -0.7])
def test_nearest_rotation_near_and_at_every_kind_of_spectrum(third: float, generator: torch.Generator) -> None:
    """Closed form and eigensolver both lie within reach of this range of singular values."""
    for first, second in ((1.0, 1.0), (1.0, 0.8), (1.0, 0.05), (1.0, 1e-3)):
        singular_values = torch.tensor([first, second, third * second], dtype=torch.float64)
        left, right = (random_rotmat((200,), generator, dtype=torch.float64) for _ in range(2))
        matrix = left @ torch.diag(singular_values) @ right.transpose(-1, -2)
        expected = left @ right.transpose(-1, -2)
        torch.testing.assert_close(alignment.nearest_rotation(matrix), expected, atol=1e-9, rtol=0)


def test_gradients_and_second_derivatives_also_for_equal_singular_values(generator: torch.Generator) -> None:
    left, right = (random_rotmat((4,), generator, dtype=torch.float64) for _ in range(2))
    spectra = torch.tensor([[1.0, 1, 1], [1, 1, 0.2], [1, 0.4, 0.4], [0.9, 0.5, -0.2]], dtype=torch.float64)
    matrix = (left @ torch.diag_embed(spectra) @ right.transpose(-1, -2)).requires_grad_()
    assert torch.autograd.gradcheck(alignment.nearest_rotation, matrix)
    assert torch.autograd.gradgradcheck(alignment.nearest_rotation, matrix[:1])


@pytest.mark.parametrize("reflection", [False, True])
def test_gradients_of_the_whole_alignment(reflection: bool, generator: torch.Generator) -> None:
    source, target = (points[:, :5].contiguous() for points in draw_poses((2,), torch.float64, generator))
    weights = torch.rand(2, 5, generator=generator, dtype=torch.float64) + 0.1
    inputs = [value.requires_grad_() for value in (source, target * torch.tensor([1, 1, -1]), weights)]
    assert torch.autograd.gradcheck(lambda s, t, w: alignment.align(s, t, w, reflection=reflection), inputs)


def test_half_precision_and_autocast_align_in_float32(generator: torch.Generator) -> None:
    source, target = draw_poses((3,), torch.float32, generator)
    expected = alignment.align(source, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(alignment.align(source, target), expected)
    half = alignment.align(source.half(), target.half())
    assert half.dtype == torch.float32
    assert torch.equal(half, alignment.align(source.half().float(), target.half().float()))


def test_inputs_stay_as_they_were(generator: torch.Generator) -> None:
    source, target = draw_poses((3,), torch.float32, generator)
    before = source.clone(), target.clone()
    alignment.align(source, target, torch.ones(3, 17))
    assert torch.equal(source, before[0])
    assert torch.equal(target, before[1])


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"source has 0 points and target 0; valid is one number above 0"):
        alignment.procrustes(torch.zeros(0, 3), torch.zeros(0, 3))


@pytest.mark.slow
def test_the_rotation_is_twice_as_fast_as_a_batched_svd(generator: torch.Generator) -> None:
    matrix = torch.randn(100_000, 3, 3, generator=generator)

    def seconds(solve: Callable[[Tensor], object]) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            solve(matrix)
            times.append(time.process_time() - start)
        return min(times)

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # processor time of several threads would count their waiting
    try:
        assert 2 * seconds(alignment.nearest_rotation) < seconds(torch.linalg.svd)
    finally:
        torch.set_num_threads(num_threads)
