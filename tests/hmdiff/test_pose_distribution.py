import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from hmdiff.pose_distribution import PoseDistribution
from posecore.diffusion.noise import NoiseStreams
from posecore.geometry.camera import project

SIZE, RANGE = 5, 0.8
K = torch.tensor([[[300.0, 0, 52], [0, 280, 47], [0, 0, 1]], [[250.0, 0, 60], [0, 250, 40], [0, 0, 1]]])
IMAGE_SIZE = 100


def random_heatmaps(size: int = SIZE, dtype: torch.dtype = torch.float32) -> PoseDistribution:
    """Two images, three joints, far from uniform."""
    generator = torch.Generator().manual_seed(3)
    xy, z = 1.5 * torch.randn(2, 2, 3, size, size, generator=generator, dtype=dtype)
    return PoseDistribution(xy, z, torch.tensor([1.8, 2.3], dtype=dtype), RANGE)


def sharp(prior_cells: list[tuple[int, int, int]], size: int = SIZE) -> PoseDistribution:
    """One image whose joints lie in one (column, row, depth) cell each, for sure."""
    xy, z = torch.zeros(2, 1, len(prior_cells), size, size)
    for joint, (x, y, depth) in enumerate(prior_cells):
        xy[0, joint, y, x] = z[0, joint, depth, x] = 100
    return PoseDistribution(xy, z, torch.tensor([2.0]), RANGE)


def cells_of(places: Tensor, size: int = SIZE) -> np.ndarray:
    """(column, row, depth) of each place."""
    x, y, z = places[..., 0], places[..., 1], (places[..., 2] / RANGE + 1) / 2
    return np.stack([(values.double() * size).floor().long().numpy() for values in (x, y, z)], axis=-1)


def people(generator: torch.Generator) -> Tensor:
    """Joints before the cameras of `K`, metres, camera frame."""
    joints = 0.5 * torch.randn(2, 3, 3, generator=generator).clamp(-1.4, 1.4)
    return joints + torch.tensor([[[0.0, 0.1, 6.0]], [[0.2, 0.0, 4.0]]])


def test_samples_have_the_heatmaps_distribution(generator: torch.Generator) -> None:
    """Chi-square of places over all cells, and of depths given the column that was drawn."""
    prior, count = random_heatmaps(), 40_000
    cells = cells_of(prior.sample(count, generator))
    assert cells.shape == (2, count, 3, 3)
    for image in range(2):
        for joint in range(3):
            x, y, z = cells[image, :, joint].T
            place = prior.xy[image, joint].double().flatten().softmax(0).numpy()
            assert chisquare(np.bincount(y * SIZE + x, minlength=SIZE**2), count * place).pvalue > 1e-4
            for column in range(SIZE):
                given = prior.z[image, joint, :, column].double().softmax(0).numpy()
                drawn = np.bincount(z[x == column], minlength=SIZE)
                assert chisquare(drawn, drawn.sum() * given).pvalue > 1e-4


def test_places_are_uniform_within_a_cell(generator: torch.Generator) -> None:
    places = sharp([(3, 1, 4)]).sample(20_000, generator)[0, :, 0].double()
    within = torch.stack((places[:, 0], places[:, 1], (places[:, 2] / RANGE + 1) / 2), dim=-1) * SIZE
    within = within - torch.tensor([3.0, 1.0, 4.0])
    assert within.min() > -1e-5
    assert within.max() < 1 + 1e-5
    for axis in range(3):
        counts = torch.histc(within[:, axis], bins=10, min=0, max=1)
        assert chisquare(counts.numpy()).pvalue > 1e-4
    correlation = np.corrcoef(within.numpy().T) - np.eye(3)
    assert np.abs(correlation).max() < 0.03


def test_depth_follows_the_column_that_was_drawn(generator: torch.Generator) -> None:
    """Two places, each with a depth of its own: never one's place with the other's depth."""
    prior = sharp([(0, 2, 1)])
    prior.xy[0, 0, 4, 3] = 100
    prior.z[0, 0, 4, 3] = 100
    drawn = cells_of(prior.sample(400, generator))[0, :, 0]
    assert {tuple(cell) for cell in drawn.tolist()} == {(0, 2, 1), (3, 4, 4)}
    assert 150 < (drawn[:, 0] == 0).sum() < 250


def test_joints_and_images_are_drawn_apart(generator: torch.Generator) -> None:
    places = random_heatmaps().sample(20_000, generator)
    correlation = np.corrcoef(places[..., 0].transpose(1, 2).flatten(0, 1).numpy()) - np.eye(6)
    assert np.abs(correlation).max() < 0.03


def test_poses_of_a_person_depend_on_nobody_else() -> None:
    """Each image has a stream of its own; more poses only add to the first ones."""
    prior = random_heatmaps()
    wanted = prior.sample(6, NoiseStreams.of_rows(2, torch.arange(len(prior.xy))))
    found = prior.take(slice(1, 2)).sample(4, NoiseStreams.of_rows(2, torch.tensor([1])))
    torch.testing.assert_close(found, wanted[1:2, :4])
    of_samples = NoiseStreams.of_rows(2, torch.arange(len(prior.xy))).split(6)
    assert prior.sample(6, of_samples).shape == wanted.shape


def test_draws_repeat_with_their_generator() -> None:
    prior = random_heatmaps()
    first, again, other = (prior.sample(6, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    prior.sample(6, torch.Generator())
    assert torch.equal(torch.rand(1), before), "the global generator is left alone"
    torch.manual_seed(5)
    unseeded = prior.sample(6)
    torch.manual_seed(5)
    assert torch.equal(prior.sample(6), unseeded)


def test_mean_is_that_of_many_samples(generator: torch.Generator) -> None:
    prior = random_heatmaps()
    places = prior.sample(100_000, generator).double()
    error = places.std(dim=1) / math.sqrt(100_000)
    assert ((prior.mean() - places.mean(dim=1)).abs() < 4.5 * error).all()
    exact = (torch.tensor([3.5, 1.5, 4.5]) / SIZE * torch.tensor([1, 1, 2 * RANGE])) - torch.tensor([0, 0, RANGE])
    torch.testing.assert_close(sharp([(3, 1, 4)]).mean()[0, 0], exact)


def test_mode_is_the_likeliest_cell_and_the_likeliest_depth_there() -> None:
    prior = random_heatmaps()
    mode = prior.mode()
    assert mode.shape == (2, 1, 3, 3)
    for image in range(2):
        for joint in range(3):
            row, column = np.unravel_index(int(prior.xy[image, joint].argmax()), (SIZE, SIZE))
            depth = int(prior.z[image, joint, :, int(column)].argmax())
            x, y, z = ((cell + 0.5) / SIZE for cell in (float(column), float(row), depth))
            wanted = torch.tensor([x, y, RANGE * (2 * z - 1)])
            torch.testing.assert_close(mode[image, 0, joint], wanted)


def test_take_is_some_of_the_images() -> None:
    prior = random_heatmaps()
    second = prior.take(slice(1, 2))
    torch.testing.assert_close(second.mean(), prior.mean()[1:])
    assert torch.equal(second.side, prior.side[1:])
    assert second.depth_range == RANGE


def test_projected_joints_come_back_in_metres(generator: torch.Generator) -> None:
    """With the true side and depth, perspective and all."""
    joints = people(generator).double()
    places = torch.cat((project(joints, K.double()) / IMAGE_SIZE, joints[..., 2:] - joints[:, :1, 2:]), dim=-1)
    side = IMAGE_SIZE * joints[:, 0, 2] / K[:, 0, 0].double()
    empty = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.float64)
    found = PoseDistribution(empty, empty, side, RANGE).in_metres(places[:, None], K.double(), IMAGE_SIZE)
    torch.testing.assert_close(found[:, 0], joints - joints[:, :1], atol=1e-9, rtol=0)


def test_metres_are_relative_to_the_mean_root(generator: torch.Generator) -> None:
    prior = random_heatmaps()
    places = prior.sample(7, generator)
    found = prior.in_metres(places, K, IMAGE_SIZE)
    torch.testing.assert_close(found[:, :, 0].mean(dim=1), torch.zeros(2, 3), atol=1e-6, rtol=0)
    assert found[:, :, 0].norm(dim=-1).min() > 1e-3, "a root that is drawn anew does not move the other joints"
    for i in range(7):
        apart = found[:, i, 1:] - found[:, i, :1]
        alone = prior.in_metres(places[:, i : i + 1], K, IMAGE_SIZE)[:, 0, 1:]
        torch.testing.assert_close(apart, alone, atol=1e-6, rtol=0)


def test_nobody_stands_behind_the_camera() -> None:
    """A side so small that the root is nearer than the depth range reaches."""
    empty = torch.zeros(1, 2, SIZE, SIZE)
    prior = PoseDistribution(empty, empty, torch.tensor([0.1]), RANGE)  # root at 0.3 m
    places = torch.tensor([[[[0.5, 0.5, 0.0], [0.9, 0.5, -0.7]]]])
    found = prior.in_metres(places, K[:1], IMAGE_SIZE)
    torch.testing.assert_close(found[0, 0, 1, 2], torch.tensor(0.1 - 0.3))
    assert found[0, 0, 1, 0] > 0.0, "right of the middle stays right of it"


def dense_losses(prior: PoseDistribution, joints: Tensor, places: Tensor, sigma: float) -> dict[str, list[float]]:
    """One value per person, with whole targets, in float64."""
    size = prior.xy.shape[-1]
    found: dict[str, list[float]] = {"xy": [], "z": [], "side": []}
    for i in range(len(joints)):
        of_joints: dict[str, list[float]] = {"xy": [], "z": []}
        for j in range(joints.shape[1]):
            depth = float((joints[i, j, 2] - joints[i, 0, 2]) / RANGE / 2 + 0.5)
            x, y = places[i, j].tolist()
            for name, row_place in (("xy", y), ("z", depth)):
                target = np.zeros((size, size))
                at = [min(max(place * size, 0.5), size - 0.5) for place in (row_place, x)]
                for row in range(size):
                    for column in range(size):
                        distance = (row + 0.5 - at[0]) ** 2 + (column + 0.5 - at[1]) ** 2
                        target[row, column] = math.exp(-distance / (2 * sigma**2))
                target /= target.sum()
                logits = getattr(prior, name)[i, j].double().numpy()
                log_p = logits - np.log(np.exp(logits).sum())
                of_joints[name].append(-float((target * log_p).sum()))
        for name, values in of_joints.items():
            found[name].append(float(np.mean(values)))
        true_side = IMAGE_SIZE * float(joints[i, 0, 2]) / float(K[i, 0, 0])
        found["side"].append(abs(math.log(float(prior.side[i])) - math.log(true_side)))
    return found


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_losses_are_cross_entropies_with_whole_gaussians(generator: torch.Generator, sigma: float) -> None:
    prior, joints = random_heatmaps(), people(generator)
    places = torch.rand(2, 3, 2, generator=generator)
    places[0, 0], places[1, 2] = torch.tensor([-0.4, 0.3]), torch.tensor([0.6, 1.7])  # outside: taken to the edge
    wanted = dense_losses(prior, joints, places, sigma)
    found = prior.losses(joints, places, K, IMAGE_SIZE, sigma=sigma)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {name: np.mean(values) for name, values in wanted.items()}, rel=1e-4
    )
    one = prior.losses(joints, places, K, IMAGE_SIZE, known=torch.tensor([False, True]), sigma=sigma)
    assert {name: value.item() for name, value in one.items()} == pytest.approx(
        {name: values[1] for name, values in wanted.items()}, rel=1e-4
    )


def right(joints: Tensor, places: Tensor, size: int = 8) -> PoseDistribution:
    """Heatmaps that are the Gaussians about the truth."""
    middles = torch.arange(size, dtype=joints.dtype) + 0.5
    depth = (joints[..., 2] - joints[:, :1, 2]) / RANGE / 2 + 0.5
    x, y, z = (
        -0.5 * (middles - (values * size).clamp(0.5, size - 0.5)[..., None]).square()
        for values in (places[..., 0], places[..., 1], depth)
    )
    side = IMAGE_SIZE * joints[:, 0, 2] / K[:, 0, 0].to(joints)
    return PoseDistribution(y[..., None] + x[:, :, None], z[..., None] + x[:, :, None], side, RANGE)


def test_losses_are_least_at_the_right_heatmaps(generator: torch.Generator) -> None:
    joints = people(generator).double()
    places = (0.2 + 0.6 * torch.rand(2, 3, 2, generator=generator)).double()
    best = right(joints, places)
    xy, z = best.xy.clone().requires_grad_(), best.z.clone().requires_grad_()
    least = PoseDistribution(xy, z, best.side, RANGE).losses(joints, places, K.double(), IMAGE_SIZE)
    for gradient in torch.autograd.grad(least["xy"] + least["z"], (xy, z)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)
    assert least["side"].item() == pytest.approx(0, abs=1e-6)
    for shift in (1, -1):
        for axis in (2, 3):
            moved = PoseDistribution(best.xy.roll(shift, axis), best.z.roll(shift, axis), 1.1 * best.side, RANGE)
            worse = moved.losses(joints, places, K.double(), IMAGE_SIZE)
            assert all(worse[name] > least[name] + 0.01 for name in least)


def test_nobody_known_gives_zero_with_a_graph(generator: torch.Generator) -> None:
    heatmaps = random_heatmaps()
    xy = heatmaps.xy.requires_grad_()
    prior = PoseDistribution(xy, heatmaps.z, heatmaps.side, RANGE)
    unknown = torch.zeros(2, dtype=torch.bool)
    found = prior.losses(torch.zeros(2, 3, 3), torch.zeros(2, 3, 2), K, IMAGE_SIZE, known=unknown)
    assert [value.item() for value in found.values()] == [0, 0, 0]
    found["xy"].backward()
    assert xy.grad is not None
    assert not xy.grad.any()
