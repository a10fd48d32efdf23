import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hmdiff.network import CrossAttention, FinalMLP, MeshDenoiser, Prepared
from hmdiff.pose_distribution import PoseDistribution
from posecore.diffusion.embedding import sinusoidal_embedding

V, JOINTS, CELLS, CHANNELS = 7, 3, 4, 256
# A path: every vertex sees itself and its neighbours.
PATH = (
    torch.eye(V, dtype=torch.bool) | torch.diag(torch.ones(V - 1), 1).bool() | torch.diag(torch.ones(V - 1), -1).bool()
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def denoiser(**options: Any) -> MeshDenoiser:
    torch.manual_seed(0)
    settings = {"num_vertices": V, "feature_dim": CHANNELS, "num_joints": JOINTS, "heatmap_size": CELLS}
    made = MeshDenoiser(**{**settings, **options})
    for parameter in made.parameters():  # so that no layer is nearly silent
        torch.nn.init.normal_(parameter, std=0.15)
    return made.eval()


def heatmaps(seed: int = 5) -> PoseDistribution:
    xy, z = draw(2, 2, JOINTS, CELLS, CELLS, seed=seed)
    return PoseDistribution(xy, z, torch.full((2,), 2.0), 1.0)


def features(seed: int = 1) -> Tensor:
    return draw(2, CHANNELS, 2, 3, seed=seed)


def by_hand(g: MeshDenoiser, h: Tensor, k: int, f_i: Tensor) -> Tensor:
    """One row, one layer, one token and one head at a time."""
    step = sinusoidal_embedding(torch.tensor(float(k)), 61)
    x = torch.stack([torch.cat((g.id_embedding.weight[v], step, h[v])) for v in range(V)])
    image = g.image_norm(f_i)

    def attend(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        out = torch.zeros_like(queries)
        for head in range(4):
            part = slice(32 * head, 32 * head + 32)
            for v in range(V):
                near = seen[v].nonzero()[:, 0]
                share = (keys[near, part] @ queries[v, part] / 32**0.5).softmax(0)
                out[v, part] = share @ values[near, part]
        return out

    for layer in g.layers:
        assert isinstance(layer.norms, torch.nn.ModuleList)
        assert isinstance(layer.cross_attention, CrossAttention)
        queries, keys, values = layer.queries_keys_values(layer.norms[0](x)).split(128, dim=-1)  # type: ignore[operator]
        seen = torch.ones(V, V, dtype=torch.bool) if g.adjacency is None else g.adjacency
        x = x + layer.self_out(attend(queries, keys, values, seen))  # type: ignore[operator]
        cross = layer.cross_attention
        keys, values = cross.key_value(image).split(128, dim=-1)
        everything = torch.ones(V, len(image), dtype=torch.bool)
        x = x + cross.out(attend(cross.query(layer.norms[1](x)), keys, values, everything))
        if layer.feed_forward is not None:
            x = x + layer.feed_forward(layer.norms[2](x))  # type: ignore[operator]
    out: Tensor = g.out(g.norm(x))
    return out


@pytest.mark.parametrize(
    "options", [{}, {"adjacency": PATH}, {"num_layers": 2, "feed_forward": 0}, {"image_feature": "projected"}]
)
def test_equals_the_layers_written_out(options: dict[str, Any]) -> None:
    g, f_c, h = denoiser(**options), features(), draw(2, V, 3, seed=2)
    found = g(h, torch.tensor(17), g.prepare(f_c, None))
    for image in range(2):
        cells = f_c[image].flatten(1).T
        if g.project is not None:
            f_i = g.project(cells)
        else:
            f_i = torch.stack([cells[:, 2 * c : 2 * c + 2].mean(dim=1) for c in range(128)], dim=1)
        torch.testing.assert_close(found[image], by_hand(g, h[image], 17, f_i), atol=2e-5, rtol=1e-4)
    assert found.abs().max() > 0.1


def test_pooled_features_are_means_of_sixteen_neighbours() -> None:
    """2048 channels become 128: what is left of them is exactly that."""
    g = denoiser(feature_dim=2048)
    f_c = draw(2, 2048, 7, 7)
    means = torch.stack([f_c[:, 16 * c : 16 * c + 16].mean(dim=1) for c in range(128)], dim=1)
    tokens = g.image_norm(means.flatten(2).transpose(1, 2))
    assert tokens.shape == (2, 49, 128)
    wanted = g.layers[0].cross_attention.keys_values(tokens)  # type: ignore[operator,union-attr]
    torch.testing.assert_close(g.prepare(f_c, None).keys_values[0], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("conditioning", ["image", "pose", "both"])
def test_rows_of_an_image_share_its_keys(conditioning: str) -> None:
    """As every row alone, with its image's features repeated."""
    g, f_c, prior = denoiser(conditioning=conditioning), features(), heatmaps()
    h, k = draw(6, V, 3, seed=2), torch.tensor([3, 40, 5, 199, 0, 7])
    together = g(h, k, g.prepare(f_c, prior).repeat(3))
    for row in range(6):
        image = slice(row // 3, row // 3 + 1)
        alone = g(h[row : row + 1], k[row], g.prepare(f_c[image], prior.take(image)))
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-4)
    part = g(h[3:], k[3:], g.prepare(f_c, prior).take(slice(1, 2)).repeat(3))
    torch.testing.assert_close(part, together[3:], atol=1e-5, rtol=1e-4)


def test_samples_in_another_order_come_out_in_that_order() -> None:
    g = denoiser()
    prepared, h, order = g.prepare(features(), None), draw(6, V, 3), torch.tensor([2, 0, 1, 3, 5, 4])
    found = g(h, torch.tensor(9), prepared)
    torch.testing.assert_close(g(h[order], torch.tensor(9), prepared), found[order], atol=1e-6, rtol=1e-5)


def test_a_step_may_be_one_of_all_rows_or_of_each() -> None:
    g = denoiser()
    prepared, h = g.prepare(features(), None), draw(4, V, 3)
    one = g(h, torch.tensor(9), prepared)
    torch.testing.assert_close(one, g(h, torch.full((4,), 9), prepared))
    assert (one - g(h, torch.tensor(60), prepared)).abs().max() > 1e-2


@pytest.mark.parametrize("num_layers", [1, 2])
def test_distant_vertices_are_not_seen(num_layers: int) -> None:
    """A vertex that moves is noticed as many edges away as there are layers; by all where nothing is masked."""
    masked, free = (denoiser(adjacency=a, num_layers=num_layers) for a in (PATH, None))
    h = draw(2, V, 3)
    moved = h.clone()
    moved[:, 0] += 1
    for g, reach in ((masked, num_layers), (free, V - 1)):
        prepared = g.prepare(features(), None)
        change = (g(moved, torch.tensor(9), prepared) - g(h, torch.tensor(9), prepared)).abs().amax(dim=(0, 2))
        assert (change[: reach + 1] > 1e-4).all()
        assert (change[reach + 1 :] < 1e-6).all()


def test_every_vertex_and_picture_is_told_apart() -> None:
    g, same = denoiser(), torch.zeros(2, V, 3)
    found = g(same, torch.tensor(9), g.prepare(features(), None))
    assert torch.pdist(found[0]).min() > 1e-3, "by the id alone"
    assert (found[0] - found[1]).abs().max() > 1e-3, "by the picture alone"


def test_what_the_vertices_attend_to() -> None:
    h, k = draw(2, V, 3), torch.tensor(9)
    for conditioning, image, pose in (("image", True, False), ("pose", False, True), ("both", True, True)):
        g = denoiser(conditioning=conditioning)
        found = g(h, k, g.prepare(features(), heatmaps()))
        assert (bool((g(h, k, g.prepare(features(2), heatmaps())) - found).abs().max() > 1e-3)) is image
        assert (bool((g(h, k, g.prepare(features(), heatmaps(6))) - found).abs().max() > 1e-3)) is pose
        tokens = 6 * image + JOINTS * pose
        assert g.prepare(features(), heatmaps()).keys_values[0].shape == (2, 2, 4, tokens, 32)


def test_heatmaps_count_as_probabilities_and_with_their_depths() -> None:
    """Logits that differ by a constant are the same heatmap; of E_z, those of a column are."""
    g, prior, h = denoiser(conditioning="pose"), heatmaps(), draw(2, V, 3)

    def found(changed: PoseDistribution) -> Tensor:
        out: Tensor = g(h, torch.tensor(9), g.prepare(features(), changed))
        return out

    column = draw(2, JOINTS, 1, CELLS, seed=8)
    shifted = replace(prior, xy=prior.xy + 3, z=prior.z + column)
    torch.testing.assert_close(found(shifted), found(prior), atol=1e-5, rtol=1e-4)
    assert (found(replace(prior, z=prior.z.flip(2))) - found(prior)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "options", [{}, {"conditioning": "both", "image_feature": "projected"}, {"conditioning": "pose"}, {"num_layers": 2}]
)
def test_every_parameter_learns(options: dict[str, Any]) -> None:
    g = denoiser(**options)
    g(draw(4, V, 3), torch.tensor([1, 2, 3, 4]), g.prepare(features(), heatmaps())).square().sum().backward()
    for name, parameter in g.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert "adjacency" not in g.state_dict()


def test_prepared_counts_images_and_copies_nothing() -> None:
    g = denoiser(num_layers=2)
    prepared = g.prepare(features(), None)
    assert (prepared.num_images, prepared.num_samples, len(prepared.keys_values)) == (2, 1, 2)
    many = prepared.repeat(25)
    assert (many.num_images, many.num_samples) == (2, 25)
    assert many.keys_values[1].data_ptr() == prepared.keys_values[1].data_ptr()
    second = many.take(slice(1, 2))
    assert (second.num_images, second.num_samples) == (1, 25)
    assert torch.equal(second.keys_values[1], prepared.keys_values[1][:, 1:])
    assert isinstance(second, Prepared)


def test_the_final_mlp_begins_as_the_identity_and_learns() -> None:
    torch.manual_seed(0)
    mlp, centre = FinalMLP(V, hidden_dim=16), draw(5, V, 3)
    assert torch.equal(mlp(centre), centre)
    target = 0.5 * centre
    optimizer = torch.optim.Adam(mlp.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.mse_loss(mlp(centre), target)
        loss.backward()
        optimizer.step()
    assert loss < 0.05 * F.mse_loss(centre, target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_dim": 96}, "image_feature: 96 channels of the backbone cannot be averaged to 128; take 'projected'"),
        ({"num_layers": 0}, "num_layers must be at least 1, .* got 0, 4 and 4"),
        ({"num_heads": 3}, "num_heads divide 128 .* got 1, 3 and 4"),
        ({"feed_forward": -1}, "feed_forward not be negative, got 1, 4 and -1"),
    ],
)
def test_numbers_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        denoiser(**options)


@pytest.mark.parametrize("option", ["conditioning", "image_feature"])
def test_choices_are_checked(option: str) -> None:
    # Past the signature's check of types, which refuses first in tests.
    message = r"conditioning must be one of .* and image_feature one of .*, got .*'words'"
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(MeshDenoiser.__init__)(MeshDenoiser.__new__(MeshDenoiser), V, 256, JOINTS, **{option: "words"})


@pytest.mark.parametrize("conditioning", ["pose", "both"])
def test_heatmaps_must_be_there(conditioning: str) -> None:
    with pytest.raises(ValueError, match=f"prior: conditioning '{conditioning}' needs the heatmaps"):
        denoiser(conditioning=conditioning).prepare(features(), None)
