import numpy as np
import pytest

from posecore.render.backdrop import background, occluder, texture


@pytest.mark.parametrize("make", [texture, background])
@pytest.mark.parametrize("size", [1, 16, 48])
def test_pictures_are_repeatable_and_in_range(make, size: int) -> None:
    pictures = [make(np.random.default_rng(seed), size) for seed in range(8)]
    for seed, picture in enumerate(pictures):
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.float32
        assert picture.min() >= 0
        assert picture.max() <= 1
        np.testing.assert_array_equal(picture, make(np.random.default_rng(seed), size))
    assert len({picture.tobytes() for picture in pictures}) == 8


def test_a_texture_lies_between_two_colors() -> None:
    for seed in range(20):
        pixels = texture(np.random.default_rng(seed), 48).reshape(-1, 3).astype(np.float64)
        spread = np.linalg.svd(pixels - pixels.mean(axis=0), compute_uv=False)
        assert spread[0] > 0.05, "it is not flat"
        assert spread[1] < 1e-3 * spread[0]


def test_backgrounds_are_of_many_kinds() -> None:
    pictures = np.stack([background(np.random.default_rng(seed), 32) for seed in range(30)])
    means = pictures.mean(axis=(1, 2, 3))
    assert means.min() < 0.3
    assert means.max() > 0.55
    assert (pictures.std(axis=(1, 2)).max(axis=1) > 0.02).mean() > 0.9


def hidden(seed: int, at: tuple[float, float], reach: float, size: int = 64) -> np.ndarray:
    mask, thing = occluder(np.random.default_rng(seed), size, np.array(at), reach)
    assert mask.shape == (size, size)
    assert mask.dtype == bool
    assert thing.shape == (size, size, 3)
    assert 0 <= thing.min() <= thing.max() <= 1
    return mask


def test_occluders_hide_what_they_are_put_on() -> None:
    masks = [hidden(seed, (20.0, 40.0), 20.0) for seed in range(100)]
    assert np.mean([mask[40, 20] for mask in masks]) > 0.85
    assert np.mean([mask.any() for mask in masks]) == 1
    larger = [hidden(seed, (20.0, 40.0), 40.0) for seed in range(100)]
    assert sum(mask.sum() for mask in larger) > 1.7 * sum(mask.sum() for mask in masks)
    assert 0 < np.mean([mask.mean() for mask in masks]) < 0.3


def test_furniture_hides_everything_below() -> None:
    found = 0
    for seed in range(100):
        mask = hidden(seed, (32.0, 20.0), 15.0)
        columns = mask.any(axis=0)
        if (mask[32:, columns]).all() and not mask[:32].any():  # it never ends in the upper half
            assert (np.flatnonzero(columns) == np.arange(8, 56)).all()
            found += 1
    assert 10 <= found <= 30


@pytest.mark.parametrize("at", [(-500.0, 30.0), (30.0, 900.0), (1e5, -1e5)])
def test_an_occluder_may_lie_outside(at: tuple[float, float]) -> None:
    masks = [hidden(seed, at, 10.0) for seed in range(8)]
    assert np.mean([mask.any() for mask in masks]) < 0.5
