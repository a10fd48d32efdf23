import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from posecore.fitting.estimate import SMPLEstimate
from posecore.fitting.gaps import interpolate_gaps
from posecore.geometry.rotation import geodesic_distance, random_rotmat

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def make_estimate(people: int, seed: int, dtype: torch.dtype = torch.float64) -> SMPLEstimate:
    generator = torch.Generator().manual_seed(seed)
    rotmat = random_rotmat((people, 24), generator, dtype=dtype)
    betas, transl = (torch.randn(people, size, generator=generator, dtype=dtype) for size in (10, 3))
    return SMPLEstimate.from_rotmat(rotmat[:, 0], rotmat[:, 1:], betas, transl)


def make_tracks(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three tracks with frame numbers that have gaps of their own; each has a known row."""
    generator = torch.Generator().manual_seed(seed)
    track = torch.tensor([7] * 12 + [2] * 1 + [5] * 9)
    frame = torch.randint(1, 4, (22,), generator=generator).cumsum(0)
    known = torch.rand(22, generator=generator) < 0.4
    known[[3, 12, 20]] = True
    return known, track, frame


@each_dtype
@pytest.mark.parametrize("seed", range(4))
def test_each_track_is_scipys_slerp_and_numpys_interp(seed: int, dtype: torch.dtype) -> None:
    known, track, frame = make_tracks(seed)
    estimate = make_estimate(len(track), seed, dtype)
    filled = interpolate_gaps(estimate, known, track, frame)
    assert filled.pose_rot6d.dtype == filled.betas.dtype == filled.transl.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    for number in (7, 2, 5):
        rows = track == number
        times, keys = frame[rows].numpy(), frame[rows & known].numpy()
        # scipy does not repeat the ends; np.interp does.
        inside = times.clip(keys.min(), keys.max())
        for joint in range(24):
            key_rotations = Rotation.from_matrix(estimate.pose_rotmat[rows & known, joint].double().numpy())
            expected = Slerp(keys, key_rotations)(inside) if len(keys) > 1 else key_rotations
            expected = torch.from_numpy(expected.as_matrix()).to(dtype)
            error = geodesic_distance(filled.pose_rotmat[rows, joint], expected.expand(len(times), 3, 3))
            assert float(error.max()) < 2 * tolerance
        for name in ("betas", "transl"):
            for column, values in enumerate(getattr(estimate, name)[rows & known].double().numpy().T):
                found = getattr(filled, name)[rows, column].double().numpy()
                np.testing.assert_allclose(found, np.interp(times, keys, values), atol=tolerance)


def test_known_rows_stay_and_unknown_ones_are_not_read() -> None:
    known, track, frame = make_tracks(0)
    known[:3] = False
    estimate = make_estimate(len(track), 0)
    # Estimates of networks are no unit vectors; a known row keeps its very numbers, and repeats have them, too.
    raw = SMPLEstimate(estimate.pose_rot6d * 2, estimate.betas, estimate.transl)
    unread = [torch.where(known.reshape(-1, *[1] * (v.ndim - 1)), v, torch.nan) for v in vars(raw).values()]
    filled = interpolate_gaps(SMPLEstimate(*unread), known, track, frame)
    for name in ("pose_rot6d", "betas", "transl"):
        assert bool(getattr(filled, name).isfinite().all())
        assert torch.equal(getattr(filled, name)[known], getattr(raw, name)[known])
    assert torch.equal(filled.pose_rot6d[:3], raw.pose_rot6d[3].expand(3, 24, 6))


def test_a_tracks_neighbour_is_no_neighbour_in_time() -> None:
    estimate = make_estimate(4, 1)
    known = torch.tensor([True, False, False, True])
    filled = interpolate_gaps(estimate, known, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 3]))
    for name in ("pose_rot6d", "betas", "transl"):
        assert torch.equal(getattr(filled, name), getattr(estimate, name)[[0, 0, 3, 3]])


@pytest.mark.parametrize(
    ("known", "track", "frame", "message"),
    [
        ([1, 1, 0, 0], [4, 4, 9, 9], [0, 1, 0, 1], "track 9 has no known row"),
        ([0, 0, 1, 1], [4, 4, 9, 9], [0, 1, 0, 1], "track 4 has no known row"),
        ([1, 1, 1, 1], [4, 9, 4, 9], [0, 1, 2, 3], "rows of a track must follow one another"),
        ([1, 1, 1, 1], [4, 4, 4, 9], [0, 5, 5, 6], "track 4 has frame 5 after frame 5"),
    ],
)
def test_tracks_that_cannot_be(known: list[int], track: list[int], frame: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interpolate_gaps(make_estimate(4, 0), torch.tensor(known) > 0, torch.tensor(track), torch.tensor(frame))


def test_nobody() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert len(interpolate_gaps(make_estimate(0, 0), nothing > 0, nothing, nothing)) == 0
