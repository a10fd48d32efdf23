import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from posecore.diffusion.noise import NoiseStreams, integers, normal, of_part, split, split_flat, uniform
from posecore.diffusion.samplers import ddim_step, ddpm_step
from posecore.diffusion.schedule import NoiseSchedule
from posecore.diffusion.sde import VPSDE

SPLITMIX64 = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
"""Published values of the seed 1234567."""
MASK = 2**64 - 1


def streams(rows: int = 3, seed: int = 0) -> NoiseStreams:
    return NoiseStreams.of_rows(seed, torch.arange(rows))


def splitmix64(key: int, number: int) -> int:
    """Value ``number`` in Python's integers."""
    z = (key + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_known_answers() -> None:
    drawn = NoiseStreams(torch.tensor([1234567])).values(5)
    assert [value & MASK for value in drawn[0].tolist()] == SPLITMIX64
    assert [splitmix64(1234567, number) for number in range(5)] == SPLITMIX64, "the reference of the next test"


@pytest.mark.parametrize("seed", [0, 1, -1, 2**40, 2**63, -(2**63)])
def test_keys_are_values_of_the_seed(seed: int) -> None:
    rows = torch.tensor([5, 0, 7, 2**40])
    of_seed = splitmix64(seed & MASK, 0)
    expected = [splitmix64(of_seed, row) for row in rows.tolist()]
    found = NoiseStreams.of_rows(seed, rows)
    assert [key & MASK for key in found.keys.tolist()] == expected
    found.values(99)
    of_rows = [splitmix64(key, 99) for key in expected]
    children = [[splitmix64(key, number) for number in range(3)] for key in of_rows]
    assert [[key & MASK for key in row] for row in found.split(3).keys.tolist()] == children


def test_a_stream_depends_on_nobody_else() -> None:
    whole = streams(8)
    first, then = whole.normal((8, 5, 3)), whole.uniform((8, 4))
    some = NoiseStreams.of_rows(0, torch.tensor([6, 2]))
    assert torch.equal(some.normal((2, 5, 3)), first[[6, 2]])
    part = some[torch.tensor([1])]
    assert torch.equal(some.uniform((2, 4)), then[[6, 2]])
    assert torch.equal(part.uniform((1, 4)), then[[2]]), "a part goes on where the whole was"


def test_hypotheses_are_the_same_for_any_number_of_them() -> None:
    few, many = (streams().split(count) for count in (2, 9))
    assert torch.equal(few.normal((3, 2, 7)), many.normal((3, 9, 7))[:, :2])


def test_nothing_is_drawn_twice() -> None:
    """Rows, hypotheses, later draws and other splits have numbers of their own."""
    source = streams(4)
    children = source.split(3), source.split(3)
    drawn = [source.values(50), source.values(50), *(child.values(50) for child in children), streams(4, 1).values(50)]
    values = torch.cat([part.flatten() for part in drawn])
    assert values.unique().numel() == values.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_numbers_are_normal(dtype: torch.dtype) -> None:
    numbers = NoiseStreams.of_rows(3, torch.arange(2000)).normal((2000, 101), dtype)
    assert numbers.dtype == dtype
    assert torch.isfinite(numbers).all()
    assert stats.kstest(numbers.flatten().numpy(), "norm").pvalue > 0.01
    assert stats.kstest(numbers[:, 0].numpy(), "norm").pvalue > 0.01, "across rows"
    assert 4 < numbers.abs().max() < 6.8


def test_uniform_numbers_and_integers() -> None:
    source = streams(1000)
    numbers, steps = source.uniform((1000, 50)), source.integers(7, (1000, 50))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.01
    assert stats.chisquare(steps.flatten().bincount(minlength=7).numpy()).pvalue > 0.01


@pytest.mark.parametrize("gap", [1, 2, 1000])
def test_neighbours_are_independent(gap: int) -> None:
    """Streams of neighbouring rows and seeds, and numbers that follow one another."""
    numbers = streams(2000 + gap).normal((2000 + gap, 100)).double()
    other = NoiseStreams.of_rows(gap, torch.arange(2000)).normal((2000, 100)).double()
    pairs = [(numbers[gap:], numbers[:-gap]), (numbers[:2000], other)]
    pairs += [(numbers[:, lag:], numbers[:, :-lag]) for lag in (1, 2, 3)]
    for one, two in pairs:
        one, two = one.flatten().numpy(), two.flatten().numpy()
        bound = 4.5 / len(one) ** 0.5
        assert abs(np.corrcoef(one, two)[0, 1]) < bound
        assert abs(np.corrcoef(one**2, two**2)[0, 1]) < bound


def test_precisions_have_the_same_numbers() -> None:
    for draw in (NoiseStreams.normal, NoiseStreams.uniform):
        short, long = (draw(streams(50), (50, 21), dtype) for dtype in (torch.float32, torch.float64))
        torch.testing.assert_close(short.double(), long, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("rows", [1, 3, 2000])
def test_what_is_computed_ahead_changes_nothing(rows: int) -> None:
    """Draws of several kinds, one after the other: each is what a stream gives that begins there."""
    source, draws = streams(rows), [5, 5, 5, 4, 4, 7, 7, 7, 7] * 4
    for number, count in enumerate(draws):
        dtype = torch.float64 if number % 11 == 10 else torch.float32
        alone, mode = source[:], torch.inference_mode(number % 7 == 6)
        with mode:
            assert torch.equal(source.normal((rows, count), dtype), alone.normal((rows, count), dtype)), number
        assert source.drawn == alone.drawn
        if number % 4 == 3:
            assert torch.equal(source.uniform((rows, 2)), alone.uniform((rows, 2)))


@pytest.mark.gpu
def test_devices_have_the_same_numbers() -> None:
    rows = torch.arange(64)
    for draw in (NoiseStreams.normal, NoiseStreams.uniform):
        here, there = (draw(NoiseStreams.of_rows(1, rows.to(device)), (64, 9)) for device in ("cpu", "cuda"))
        torch.testing.assert_close(there.cpu(), here, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 2, 5)])
def test_odd_and_empty_draws(shape: tuple[int, ...]) -> None:
    assert streams().normal(shape).shape == shape
    assert streams(0).normal((0, 4)).shape == (0, 4)
    assert streams().normal((3, 0)).shape == (3, 0)


def test_steps_take_streams() -> None:
    schedule, sde = NoiseSchedule.named("cosine_100"), VPSDE()
    x = torch.randn(4, 2, 5, 3, generator=torch.Generator().manual_seed(0))
    steps = [
        lambda x, source: ddpm_step(schedule, x, x, 50, generator=source).x_prev,
        lambda x, source: ddim_step(schedule, x, x, 50, 40, eta=0.5, generator=source).x_prev,
        lambda x, source: sde.reverse_step(x, 0.5, 0.01, x, source),
    ]
    for step in steps:
        moved = step(x, streams(4).split(2))
        alone = step(x[2:3, :1], NoiseStreams.of_rows(0, torch.tensor([2])).split(1))
        torch.testing.assert_close(alone, moved[2:3, :1])
        assert not torch.allclose(step(x, streams(4, 1).split(2)), moved)


@pytest.mark.parametrize("kind", ["generator", "streams", "nothing"])
def test_any_source_serves(kind: str) -> None:
    def source() -> torch.Generator | NoiseStreams | None:
        torch.manual_seed(3)
        made = {"generator": torch.Generator().manual_seed(3), "streams": streams(2)}
        return made.get(kind)

    like = torch.zeros(1, dtype=torch.float16)
    for draw in (normal, uniform):
        first, again = (draw((2, 6), like, source()) for _ in range(2))
        assert (first.shape, first.dtype) == ((2, 6), torch.float32)
        assert torch.equal(first, again)
    assert torch.equal(*(integers(9, (2, 6), like, source()) for _ in range(2)))
    children = split(source(), 4)
    assert isinstance(children, NoiseStreams) == (kind == "streams")
    if isinstance(children, NoiseStreams):
        flat, part = split_flat(streams(2), 4), of_part(streams(2), slice(1, 2))
        assert isinstance(flat, NoiseStreams)
        assert isinstance(part, NoiseStreams)
        assert torch.equal(flat.keys, children.keys.flatten())
        assert torch.equal(part.keys, streams(2).keys[1:])
    else:
        made = source()
        assert split_flat(made, 4) is of_part(made, slice(1)) is made


def test_a_compiled_program_could_hold_the_draw() -> None:
    """No number is read on the host: what is drawn depends on shapes and on how often was drawn."""
    meta = NoiseStreams(torch.empty(4, dtype=torch.int64, device="meta"))
    assert meta.split(2).normal((4, 2, 3)).shape == (4, 2, 3)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: streams().normal((2, 3)), r"shape must begin with that of the streams, \(3,\), got \(2, 3\)"),
        (lambda: streams().uniform(()), r"shape must begin with"),
        (lambda: streams().split(2).integers(5, (3, 3)), r"\(3, 2\), got \(3, 3\)"),
        (lambda: streams().integers(0, (3,)), r"high must lie in 1\.\.2147483647, got 0"),
        (lambda: streams().integers(2**31, (3,)), r"high must lie in"),
    ],
)
def test_refuses(call: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()  # type: ignore[operator]


def test_seeds_and_rows_are_told_apart() -> None:
    """Row 1 of seed 0 is not row 0 of seed 1."""
    keys = [NoiseStreams.of_rows(seed, torch.arange(100)).keys.tolist() for seed in range(100)]
    assert len(set(itertools.chain(*keys))) == 100 * 100
