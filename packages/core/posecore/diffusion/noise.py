"""Random numbers that depend on whose they are, and not on who else is in the batch.

A ``torch.Generator`` deals its numbers to the rows of a batch in their order, so a row's noise changes with the batch
size, the number of processes and the number of hypotheses of the others. `NoiseStreams` has a stream of numbers for
each row and hypothesis instead, whose i-th number is a function of seed, row, hypothesis and i alone. Sampling takes
either; `normal`, `uniform` and `integers` draw from either.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.diffusion.schedule import working_dtype


def _signed(bits: int) -> int:
    """PyTorch has no unsigned 64-bit arithmetic; products and sums of the signed ones have the same bits."""
    return bits - 2**64 if bits >= 2**63 else bits


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FACTORS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


class NoiseStreams:
    """Streams of random numbers, one for each row, that all are at the same place.

    Each is SplitMix64, a counter-based generator: value i is a hash of ``key + (i + 1) golden ratio``. So numbers are
    computed for all rows together, on any device, and devices differ in rounding alone. Where two keys happen to lie
    a few golden ratios apart, the streams overlap: two strangers then share some noise, which does no harm.

    Args:
        keys: Where each stream begins.

    Attributes:
        keys: As given.
        drawn: 64-bit values that have been taken from every stream.

    References:
        Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014 (its ``mix64variant13``).
    """

    def __init__(self, keys: Int[Tensor, "*rows"]) -> None:
        self.keys = keys
        self.drawn = 0
        self._ahead: tuple[int, Tensor] | None = None
        """Normal numbers that were computed together with those of an earlier draw, and the value they begin with."""

    @staticmethod
    def of_rows(seed: int, rows: Int[Tensor, " rows"]) -> "NoiseStreams":
        """A stream for each row of a data set.

        Args:
            seed: Any integer; others give other numbers.
            rows: Numbers of the rows.
        """
        of_seed = torch.tensor(_signed(seed % 2**64), device=rows.device)
        return NoiseStreams(_value(_value(of_seed, 0), rows.long()))

    def split(self, count: int) -> "NoiseStreams":
        """New streams, ``count`` for each row: the first ones are the same for any count.

        Takes one value from each stream, so a second split gives other streams.

        Returns:
            Streams of the shape (*rows, count).
        """
        of_split = _value(self.keys, self.drawn)
        self.drawn += 1
        return NoiseStreams(_value(of_split[..., None], torch.arange(count, device=self.keys.device)))

    def __getitem__(self, rows: Any) -> "NoiseStreams":
        """The streams of some rows, at the place where these are; they go on by themselves."""
        part = NoiseStreams(self.keys[rows])
        part.drawn = self.drawn
        return part

    def values(self, count: int) -> Int[Tensor, "*rows count"]:
        """The next ``count`` values of every stream: 64 random bits each."""
        steps = torch.arange(self.drawn, self.drawn + count, device=self.keys.device)
        self.drawn += count
        return _value(self.keys[..., None], steps)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers.

        Args:
            shape: Begins with that of the streams.
            dtype: Of the result; the numbers of 32 and 64 bits differ in rounding alone.

        Raises:
            ValueError: ``shape`` begins otherwise.
        """
        count = self._numbers(shape)
        begin, end = self.drawn, self.drawn + (count + 1) // 2
        first, numbers = self._ahead or (0, self.keys.new_empty(0, dtype=dtype))
        kept = numbers.dtype == dtype and numbers.is_inference() == torch.is_inference_mode_enabled()
        if not kept or begin < first or 2 * (end - first) > numbers.shape[-1]:
            # Of small batches the calls themselves take the time: after the first draw, some steps' noise at once.
            draws = 1 if self._ahead is None else min(16, 4096 // max(self.keys.numel() * count, 1))
            first, numbers = begin, _normal(self.values(max(draws, 1) * (end - begin)), dtype)
            self._ahead = first, numbers
        self.drawn = end
        at = 2 * (begin - first)
        return numbers[..., at : at + count].reshape(tuple(shape))

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Numbers in [0, 1).

        Args:
            shape: Begins with that of the streams.
            dtype: float32 or float64, whose digits are filled.

        Raises:
            ValueError: ``shape`` begins otherwise.
        """
        bits = 53 if dtype == torch.float64 else 24
        values = self.values(self._numbers(shape))
        return _shifted(values, 64 - bits).to(dtype).mul_(2.0**-bits).reshape(tuple(shape))

    def integers(self, high: int, shape: Sequence[int]) -> Int[Tensor, "*sample"]:
        """Numbers 0 .. ``high`` - 1, for a ``high`` of at most 31 bits.

        Args:
            high: What they stay below.
            shape: Begins with that of the streams.

        Raises:
            ValueError: ``shape`` begins otherwise, or ``high`` has more bits.
        """
        if not 1 <= high < 2**31:
            raise ValueError(f"high must lie in 1..{2**31 - 1}, got {high}")
        values = self.values(self._numbers(shape))
        return _shifted(_shifted(values, 32) * high, 32).reshape(tuple(shape))

    def _numbers(self, shape: Sequence[int]) -> int:
        """How many numbers of each stream such a tensor holds."""
        if tuple(shape[: self.keys.ndim]) != tuple(self.keys.shape):
            raise ValueError(f"shape must begin with that of the streams, {tuple(self.keys.shape)}, got {tuple(shape)}")
        return math.prod(shape[self.keys.ndim :])


NoiseSource = torch.Generator | NoiseStreams
"""What sampling draws from. A generator may live on the CPU while the sample does not."""


def normal(shape: Sequence[int], like: Float[Tensor, "*sample"], source: NoiseSource | None = None) -> Tensor:
    """Standard normal noise on the device of ``like``, in its precision, but no less than 32 bits.

    Args:
        shape: Of the noise; begins with that of the streams, if it comes from streams.
        like: Says device and precision.
        source: PyTorch's own generator of that device where None.
    """
    dtype = working_dtype(like)
    if isinstance(source, NoiseStreams):
        return source.normal(shape, dtype).to(like.device)
    device = like.device if source is None else source.device
    return torch.randn(tuple(shape), generator=source, device=device, dtype=dtype).to(like.device)


def uniform(shape: Sequence[int], like: Float[Tensor, "*sample"], source: NoiseSource | None = None) -> Tensor:
    """Numbers in [0, 1); arguments as of `normal`."""
    dtype = working_dtype(like)
    if isinstance(source, NoiseStreams):
        return source.uniform(shape, dtype).to(like.device)
    device = like.device if source is None else source.device
    return torch.rand(tuple(shape), generator=source, device=device, dtype=dtype).to(like.device)


def integers(
    high: int, shape: Sequence[int], like: Tensor, source: NoiseSource | None = None
) -> Int[Tensor, "*sample"]:
    """Numbers 0 .. ``high`` - 1; the other arguments as of `normal`."""
    if isinstance(source, NoiseStreams):
        return source.integers(high, shape).to(like.device)
    device = like.device if source is None else source.device
    return torch.randint(high, tuple(shape), generator=source, device=device).to(like.device)


def split(source: NoiseSource | None, count: int) -> NoiseSource | None:
    """`NoiseStreams.split` where there are streams; a generator serves all hypotheses one after the other."""
    return source.split(count) if isinstance(source, NoiseStreams) else source


def split_flat(source: NoiseSource | None, count: int) -> NoiseSource | None:
    """As `split`, for a batch that has rows and hypotheses in one dimension."""
    return NoiseStreams(source.split(count).keys.flatten()) if isinstance(source, NoiseStreams) else source


def of_part(source: NoiseSource | None, rows: slice) -> NoiseSource | None:
    """The streams of a part of the rows; a generator serves one part after the other."""
    return source[rows] if isinstance(source, NoiseStreams) else source


def _normal(values: Int[Tensor, "*rows count"], dtype: torch.dtype) -> Tensor:
    """Two normal numbers from each value, by Box and Muller; (*rows, 2 count)."""
    halves = values.view(torch.int32)
    # A radius of 31 bits reaches 6.7; the angle has both signs.
    radius = (halves[..., 0::2] & 0x7FFFFFFF).to(dtype).add_(0.5).mul_(2.0**-31).log_().mul_(-2).sqrt_()
    angle = halves[..., 1::2].to(dtype).mul_(math.pi * 2.0**-31)
    return torch.stack((radius * angle.cos(), angle.sin_().mul_(radius)), dim=-1).flatten(-2)


def _value(key: Tensor, number: Tensor | int) -> Tensor:
    """Value ``number`` of the streams of ``key``: SplitMix64's, where the first has the number 0."""
    steps = (number + 1) * _GOLDEN
    z = key + (_signed(steps % 2**64) if isinstance(steps, int) else steps)
    z.bitwise_xor_(_shifted(z, 30)).mul_(_FACTORS[0])
    z.bitwise_xor_(_shifted(z, 27)).mul_(_FACTORS[1])
    return z.bitwise_xor_(_shifted(z, 31))


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shifted to the right as an unsigned number."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)
