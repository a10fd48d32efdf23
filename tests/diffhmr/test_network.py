import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffhmr.blocks import SelfAttention, SequenceConv, TokenGroupNorm
from diffhmr.network import Regressor, UNet1D
from posecore.geometry.rotation import rot6d_to_rotmat

both = pytest.mark.parametrize("conditioning", ["concat", "cross_attention"])


def small(conditioning: str, **options: Any) -> UNet1D:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet1D(5, 4, dim=8, mults=(1, 2), cond_channels=6, conditioning=conditioning, **options).eval()  # type: ignore[arg-type]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@both
def test_size_without_the_condition(conditioning: str) -> None:
    network = UNet1D(conditioning=conditioning)  # type: ignore[arg-type]
    counts = [p.numel() for name, p in network.named_parameters() if not name.startswith("cond_")]
    assert sum(counts) == 14_864_646
    with torch.no_grad():
        assert network(draw(2, 24, 6), torch.tensor(3), network.prepare(draw(2, 2048, 7, 7))).shape == (2, 24, 6)


@both
def test_image_timestep_and_pose_all_matter(conditioning: str) -> None:
    network, x, z, t = small(conditioning), draw(3, 24, 6), draw(3, 5, 2, 2, seed=1), torch.full((3,), 50)
    found = network(x, t, network.prepare(z))
    for other in (
        network(x, t - 40, network.prepare(z)),
        network(x + 0.5, t, network.prepare(z)),
        network(x, t, network.prepare(z + 0.5)),
        network(x, t, network.prepare(z.flip(-1))),  # where in the image, not only what
    ):
        assert (other - found).abs().amax(dim=(1, 2)).min() > 1e-4


@both
def test_rows_do_not_see_one_another(conditioning: str) -> None:
    network, x, z, t = small(conditioning), draw(3, 24, 6), draw(3, 5, 2, 2, seed=1), torch.tensor([3, 500, 999])
    found = network(x, t, network.prepare(z))
    for row in range(3):
        one = slice(row, row + 1)
        torch.testing.assert_close(network(x[one], t[one], network.prepare(z[one])), found[one], atol=1e-5, rtol=1e-5)


@both
def test_hypotheses_share_what_was_prepared(conditioning: str) -> None:
    """Rows ordered by image, prepared once, equal rows each with an image of its own; so do images taken out."""
    network, x, z, t = small(conditioning), draw(8, 24, 6), draw(2, 5, 2, 2, seed=1), torch.arange(8) * 100
    prepared = network.prepare(z).repeat(4)
    assert (len(prepared), prepared.num_images) == (8, 2)
    each = network.prepare(z.repeat_interleave(4, dim=0))
    expected = network(x, t, each)
    torch.testing.assert_close(network(x, t, prepared), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network(x[4:], t[4:], prepared.take(slice(1, 2))), expected[4:], atol=1e-5, rtol=1e-5)
    turned = prepared.take(torch.tensor([1, 0]))
    torch.testing.assert_close(network(x.roll(4, 0), t.roll(4), turned), expected.roll(4, 0), atol=1e-5, rtol=1e-5)


@both
def test_one_timestep_for_all_is_that_timestep_for_each(conditioning: str) -> None:
    network, x, z = small(conditioning), draw(6, 24, 6), draw(2, 5, 2, 2, seed=1)
    prepared = network.prepare(z).repeat(3)
    seen: list[torch.Size] = []
    network.modulation.register_forward_hook(lambda module, args, output: seen.append(output.shape[:1]))
    one, each = network(x, torch.tensor(321), prepared), network(x, torch.full((6,), 321), prepared)
    torch.testing.assert_close(one, each, atol=1e-5, rtol=1e-5)
    assert seen == [(1,), (6,)], "its share is computed once and not per row"


def test_concatenation_is_computed_as_a_sum() -> None:
    """The stem sees pose and condition side by side, the blocks timestep and image: as two products each."""
    network, x, z = small("concat"), draw(2, 24, 6), draw(2, 5, 2, 2, seed=1)
    prepared = network.prepare(z)
    joints = network.cond_joints(F.gelu(network.cond_cells(z)).flatten(1)).unflatten(1, (24, 6))
    weight = torch.cat(
        [conv.linear.weight.unflatten(1, (7, -1)) for conv in (network.stem, network.cond_stem)], dim=-1
    ).permute(0, 2, 1)
    expected = F.conv1d(torch.cat((x, joints), dim=-1).mT, weight, network.stem.linear.bias, padding=3).mT
    assert prepared.stem is not None
    torch.testing.assert_close(network.stem(x) + prepared.stem, expected, atol=1e-5, rtol=1e-5)


@both
def test_gradients_reach_every_parameter(conditioning: str) -> None:
    network, z = small(conditioning).train(), draw(2, 5, 2, 2, seed=1).requires_grad_()
    network(draw(6, 24, 6), torch.arange(6) * 150, network.prepare(z).repeat(3)).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert z.grad is not None
    assert z.grad.abs().amax(dim=1).min() > 0, "and every cell of the image"


@both
@pytest.mark.parametrize("shared_t", [True, False])
def test_bfloat16_autocast(conditioning: str, shared_t: bool) -> None:
    network, x, z = small(conditioning), draw(6, 24, 6), draw(2, 5, 2, 2, seed=1)
    t = torch.tensor(7) if shared_t else torch.arange(6)
    expected = network(x, t, network.prepare(z).repeat(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prepared = network.prepare(z).repeat(3)
        found = network(x, t, prepared)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
    assert not torch.equal(found, expected)
    found.sum().backward()
    torch.testing.assert_close(network(x, t, prepared), expected, atol=0.05, rtol=0)  # prepared in 16 bits, run in 32


@both
def test_other_representations_and_lengths(conditioning: str) -> None:
    network = small(conditioning, channels=3, length=6).double()
    x, z = draw(4, 6, 3).double(), draw(2, 5, 2, 2).double()
    found = network(x, torch.tensor(0), network.prepare(z).repeat(2))
    assert (found.shape, found.dtype) == ((4, 6, 3), torch.float64)


@pytest.mark.parametrize(("taps", "stride", "length"), [(3, 1, 24), (3, 1, 1), (7, 1, 3), (4, 2, 6), (4, 2, 24)])
def test_sequence_conv_is_conv1d(taps: int, stride: int, length: int) -> None:
    conv, h = SequenceConv(5, 4, taps, stride), draw(2, length, 5)
    weight = conv.linear.weight.unflatten(1, (taps, 5)).mT
    expected = F.conv1d(h.mT, weight, conv.linear.bias, stride, (taps - 1) // 2).mT
    torch.testing.assert_close(conv(h), expected, atol=1e-5, rtol=1e-5)


def test_group_norm_is_torchs() -> None:
    norm, h = TokenGroupNorm(8, 16), draw(3, 6, 16) * 3 + 1
    nn.init.normal_(norm.weight)
    torch.testing.assert_close(norm(h), F.group_norm(h.mT, 8, norm.weight, norm.bias).mT, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("linear", [True, False])
def test_attention_by_definition(linear: bool) -> None:
    attention, h = SelfAttention(16, linear), draw(2, 6, 16)
    q, k, v = attention.queries_keys_values(F.layer_norm(h, (16,))).chunk(3, dim=-1)
    heads = []
    for head in range(4):
        one = slice(32 * head, 32 * head + 32)
        if linear:  # queries over their numbers, keys over the sequence
            weights = q[..., one].softmax(-1) @ k[..., one].softmax(1).mT
        else:
            weights = (q[..., one] @ k[..., one].mT / 32**0.5).softmax(-1)
        heads.append(weights @ v[..., one])
    torch.testing.assert_close(attention(h), h + attention.output(torch.cat(heads, -1)), atol=1e-5, rtol=1e-5)


@both
def test_sizes_that_do_not_fit(conditioning: str) -> None:
    network = small(conditioning)
    with pytest.raises(ValueError, match=r"z has 5 channels of 3 x 2 cells, but .* built for 5 channels of 4 cells"):
        network.prepare(draw(1, 5, 3, 2))
    with pytest.raises(ValueError, match=r"z has 6 channels of 2 x 2 cells"):
        network.prepare(draw(1, 6, 2, 2))
    with pytest.raises(ValueError, match="x has 5 rows, but prepared stands for 2 images with 3 rows each"):
        network(draw(5, 24, 6), torch.tensor(0), network.prepare(draw(2, 5, 2, 2)).repeat(3))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dim": 12}, "dim must be a positive multiple of 8, got 12"),
        ({"dim": 0}, "dim must be a positive multiple of 8, got 0"),
        ({"mults": ()}, "mults must be positive numbers"),
        ({"mults": (1, 0)}, r"mults must be positive numbers, at least one, got \(1, 0\)"),
        ({"length": 20}, "length must be a multiple of 8, to be halved between 4 levels, got 20"),
    ],
)
def test_unet_refuses(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        UNet1D(**options)


def test_unet_refuses_another_conditioning() -> None:
    # Past the signature's check of types, which refuses first in tests.
    with pytest.raises(ValueError, match=r"conditioning must be one of .*, got 'film'"):
        inspect.unwrap(UNet1D.__init__)(UNet1D.__new__(UNet1D), conditioning="film")


def regressor(with_pose: bool) -> Regressor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Regressor(16, 4, 8, 8, with_pose, dropout=0.5)


@pytest.mark.parametrize("with_pose", [True, False])
def test_regressor_starts_at_the_mean(with_pose: bool) -> None:
    found = regressor(with_pose).eval()(draw(3, 16, 2, 2))
    torch.testing.assert_close(found.cam_s_tx_ty, torch.tensor([0.9, 0, 0]).expand(3, 3), atol=0.02, rtol=0)
    assert found.betas.shape == (3, 10)
    assert found.betas.abs().max() < 0.02
    assert (found.pose_rot6d is not None) == with_pose
    if found.pose_rot6d is not None:
        pose = rot6d_to_rotmat(found.pose_rot6d)
        torch.testing.assert_close(pose, torch.eye(3).expand(3, 24, 3, 3), atol=0.02, rtol=0)


def test_regressor_follows_the_image_with_a_positive_scale() -> None:
    network = regressor(True).eval()
    for head in (network.betas, network.camera, network.pose):
        nn.init.normal_(head.weight, std=3)  # type: ignore[union-attr]
    found = network(10 * draw(50, 16, 2, 2))
    assert found.cam_s_tx_ty[:, 0].min() > 0
    assert found.cam_s_tx_ty[:, 0].std() > 0.01
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(10 * draw(50, 16, 2, 2)).betas, found.betas)


def test_regressor_is_trained() -> None:
    network = regressor(True).train()
    found = network(draw(64, 16, 2, 2))
    assert not torch.equal(found.betas, network(draw(64, 16, 2, 2)).betas), "dropout"
    (found.betas.square().sum() + found.cam_s_tx_ty.square().sum() + found.pose_rot6d.square().sum()).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
