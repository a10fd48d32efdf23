import copy
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffupose.network import GraphDenoiser, GraphLayer, ModulatedGraphConv, NonLocalBlock, skeleton_affinity
from posecore.body.skeletons import H36M_16, H36M_17, HUMANEVA_15, JointSet

JOINT_SETS = [H36M_16, H36M_17, HUMANEVA_15]
TIME_BLOCKS = ["after", "between"]

each_set = pytest.mark.parametrize("joint_set", JOINT_SETS, ids=lambda joint_set: joint_set.name)
each_place = pytest.mark.parametrize("time_blocks", TIME_BLOCKS)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Much of a fresh network is 0 or 1 and would hide errors; this draws it, running statistics too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.weight.copy_(1 + 0.3 * torch.randn(module.weight.shape, generator=generator))
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
                module.running_mean.copy_(0.5 * torch.randn(module.bias.shape, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.bias.shape, generator=generator))
            if isinstance(module, ModulatedGraphConv):
                for parameter in (module.modulation, module.offset, module.bias):
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def small(joint_set: str = "h36m16", time_blocks: str = "after", dim: int = 32) -> GraphDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomised(GraphDenoiser(joint_set, dim, num_blocks=2, time_blocks=time_blocks))


def draw(joints: int, batch: int = 6, dtype: torch.dtype = torch.float32, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, joints, 5, generator=generator, dtype=torch.float64).to(dtype)
    return values[..., :3], values[..., 3:]  # views: as rows of a table come


@pytest.mark.parametrize(("dim", "count"), [(128, 377_749), (256, 1_451_221), (384, 3_223_061)])
def test_sizes_of_the_paper(dim: int, count: int) -> None:
    network = GraphDenoiser("h36m16", dim)
    assert sum(parameter.numel() for parameter in network.parameters()) + network.unused_parameters == count


@each_set
def test_skeleton_affinity(joint_set: JointSet) -> None:
    affinity = skeleton_affinity(joint_set)
    for joint in range(joint_set.num_joints):
        near = {b if a == joint else a for a, b in joint_set.bones if joint in (a, b)}
        for other in range(joint_set.num_joints):
            expected = 1.0 if other == joint else 1 / len(near) if other in near else 0.0
            assert affinity[joint, other].item() == pytest.approx(expected)
    torch.testing.assert_close(affinity.sum(dim=1), torch.full((joint_set.num_joints,), 2.0))
    assert not torch.equal(affinity, affinity.mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_graph_conv_equals_its_equation(dtype: torch.dtype) -> None:
    conv = ModulatedGraphConv(7, 11, skeleton_affinity(H36M_16))
    randomised(conv).to(dtype)
    h = torch.randn(16, 3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    own, others = conv.weight.detach().double().numpy()
    modulation, bias = conv.modulation.detach().double().numpy(), conv.bias.detach().double().numpy()
    offset, features = conv.offset.detach().double().numpy(), h.double().numpy()
    affinity = skeleton_affinity(H36M_16).double().numpy() + offset
    affinity = (affinity + affinity.T) / 2
    found = conv(h)
    assert found.dtype == dtype
    for j in range(16):
        for row in range(3):
            expected = affinity[j, j] * modulation[j] * (features[j, row] @ own) + bias
            for k in range(16):
                if k != j:
                    expected = expected + affinity[j, k] * modulation[k] * (features[k, row] @ others)
            tolerance = 1e-4 if dtype == torch.float32 else 1e-12
            np.testing.assert_allclose(found[j, row].detach().numpy(), expected, atol=tolerance)


def test_learned_affinity_is_symmetric_and_starts_at_the_skeleton() -> None:
    conv = ModulatedGraphConv(4, 4, skeleton_affinity(H36M_17))
    skeleton = skeleton_affinity(H36M_17)
    torch.testing.assert_close(conv.affinity, (skeleton + skeleton.mT) / 2 + 1e-6)
    randomised(conv)
    assert (conv.offset - conv.offset.mT).abs().max() > 0.1
    torch.testing.assert_close(conv.affinity, conv.affinity.mT, atol=0, rtol=0)
    own, others = conv.split_affinity()
    assert (others.diagonal() == 0).all()
    torch.testing.assert_close(others + torch.diag(own), conv.affinity, atol=0, rtol=0)
    assert list(conv.state_dict()) == ["weight", "modulation", "offset", "bias"]  # the skeleton is no weight


def plain_linear(linear: nn.Linear, features: np.ndarray) -> np.ndarray:
    return features @ linear.weight.detach().double().numpy().T + linear.bias.detach().double().numpy()


def plain_attention(block: NonLocalBlock, features: np.ndarray) -> np.ndarray:
    """What the block adds to one pose ``(joints, dim)``, before its normalisation."""
    theta, phi, g = (plain_linear(linear, features) for linear in (block.theta, block.phi, block.g))
    attended = np.zeros_like(g)
    for j in range(len(features)):
        weight = np.exp(theta[j] @ phi.T)
        attended[j] = weight / weight.sum() @ g
    return plain_linear(block.out, attended)


def test_non_local_block_equals_attention_pose_by_pose() -> None:
    block = NonLocalBlock(12).double()
    randomised(block)
    h = torch.randn(16, 3, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, norm = block(h), block.norm
    for row in range(3):
        added = plain_attention(block, h[:, row].numpy())
        added = (added - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + norm.eps)
        expected = h[:, row].numpy() + added * norm.weight.detach().numpy() + norm.bias.detach().numpy()
        np.testing.assert_allclose(found[:, row].detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_non_local_block_starts_as_the_identity(training: bool) -> None:
    block, h = NonLocalBlock(32).train(training), torch.randn(16, 3, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(h), h, atol=0, rtol=0)
    nn.init.ones_(block.norm.weight)
    assert (block(h) - h).abs().max() > 0.1


@each_set
@each_place
def test_any_joint_set(joint_set: JointSet, time_blocks: str) -> None:
    network = small(joint_set.name, time_blocks)
    x_t, keypoints = draw(joint_set.num_joints)
    t = torch.tensor([0, 1, 10, 50, 98, 99])
    found = network(x_t, keypoints, t)
    assert found.shape == (6, joint_set.num_joints, 5)
    # Rows do not see one another.
    for row in range(6):
        one = slice(row, row + 1)
        torch.testing.assert_close(network(x_t[one], keypoints[one], t[one]), found[one], atol=1e-5, rtol=1e-5)


def plain_forward(network: GraphDenoiser, x_t: Tensor, keypoints: Tensor, t: int) -> Tensor:
    """The parts in the order of Fig. 3 (release: time after all graph layers; paper's text: between them)."""

    def timed(number: int, h: Tensor) -> Tensor:
        first, _, second = network.time_embedding
        angle = t * 10000 ** (-torch.arange(network.dim // 16, dtype=h.dtype) / (network.dim // 16 - 1))
        emb = second(F.gelu(first(torch.cat((angle.sin(), angle.cos())))))
        scale, shift = network.time_blocks[number].linear(F.silu(emb)).split(network.dim)
        return F.silu(h * (scale + 1) + shift)

    def graph(layer: GraphLayer, h: Tensor) -> Tensor:
        return F.relu(layer.norm(layer.conv(h).permute(1, 2, 0))).permute(2, 0, 1)

    h = graph(network.input, torch.cat((x_t, keypoints), dim=-1).transpose(0, 1))
    for number, (one, two) in enumerate(network.blocks):
        h = h + graph(two, graph(one, h))
        if network.where == "between":
            h = timed(number, h)
    h = network.non_local(h if network.where == "between" else timed(0, h))
    return network.output(h if network.where == "between" else timed(1, h)).transpose(0, 1)


@each_place
@pytest.mark.parametrize("t", [0, 63])
def test_forward_equals_the_parts_one_by_one(time_blocks: str, t: int) -> None:
    network = small(time_blocks=time_blocks).double()
    x_t, keypoints = draw(16, dtype=torch.float64)
    found = network(x_t, keypoints, torch.full((6,), t))
    # The embedding of an integer timestep is made in float32.
    torch.testing.assert_close(found, plain_forward(network, x_t, keypoints, t), atol=1e-4, rtol=1e-4)


@each_place
def test_timestep_noise_and_keypoints_all_matter(time_blocks: str) -> None:
    network, (x_t, keypoints), t = small(time_blocks=time_blocks), draw(16), torch.full((6,), 50)
    found = network(x_t, keypoints, t)
    for other in (network(x_t, keypoints, t - 40), network(x_t + 0.5, keypoints, t), network(x_t, keypoints + 0.5, t)):
        assert (other - found).abs().amax(dim=(1, 2)).min() > 1e-2


@each_set
@each_place
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_prepared_equals_forward(joint_set: JointSet, time_blocks: str, dtype: torch.dtype) -> None:
    network, levels = small(joint_set.name, time_blocks).to(dtype), torch.tensor([99, 63, 7, 0])
    x_t, keypoints = draw(joint_set.num_joints, dtype=dtype)
    denoise = network.prepare(levels)
    before = x_t.clone(), keypoints.clone()
    for i, level in enumerate(levels):
        expected = network(x_t, keypoints, level.expand(6)).detach()
        tolerance = (1e-5 if dtype == torch.float32 else 1e-9) * expected.abs().max().item()
        for inputs in (x_t, keypoints), (x_t.contiguous(), keypoints.contiguous()):
            found = denoise(*inputs, i)
            assert found.dtype == dtype
            torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    assert torch.equal(x_t, before[0])
    assert torch.equal(keypoints, before[1])


def test_prepared_of_the_default_size_equals_forward() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = randomised(GraphDenoiser())
    x_t, keypoints = draw(16, batch=4)
    with torch.inference_mode():
        expected = network(x_t, keypoints, torch.full((4,), 42))
        found = network.prepare(torch.tensor([42]))(x_t, keypoints, 0)
    torch.testing.assert_close(found, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_prepared_does_not_see_later_weights(dtype: torch.dtype) -> None:
    network, (x_t, keypoints) = small().to(dtype), draw(16, dtype=dtype)
    denoise = network.prepare(torch.tensor([50]))
    before = denoise(x_t, keypoints, 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    assert torch.equal(denoise(x_t, keypoints, 0), before)
    assert not torch.allclose(network.prepare(torch.tensor([50]))(x_t, keypoints, 0), before, rtol=0.1)


def test_prepare_refuses_a_network_in_training() -> None:
    with pytest.raises(RuntimeError, match=r"prepare: the network is in training mode; call eval\(\) first"):
        small().train().prepare(torch.tensor([50]))


@each_place
def test_gradients_reach_every_parameter(time_blocks: str) -> None:
    network, (x_t, keypoints) = small(time_blocks=time_blocks).train(), draw(16)
    network(x_t, keypoints, torch.arange(6) * 15).square().sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


@each_place
def test_renaming_the_joints_renames_the_output(time_blocks: str) -> None:
    network, (x_t, keypoints) = small(time_blocks=time_blocks).double(), draw(16, dtype=torch.float64)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    renamed = copy.deepcopy(network)
    for module in renamed.modules():
        if isinstance(module, ModulatedGraphConv):
            module.skeleton = module.skeleton[order][:, order]
            module.offset.data = module.offset.data[order][:, order]
            module.modulation.data = module.modulation.data[order]
    t = torch.arange(6) * 15
    found = renamed(x_t[:, order], keypoints[:, order], t)
    torch.testing.assert_close(found, network(x_t, keypoints, t)[:, order], atol=1e-9, rtol=1e-9)


def test_joints_have_names() -> None:
    """What the test above relies on is not a symmetry of every network."""
    network, (x_t, keypoints), t = small(), draw(16), torch.full((6,), 50)
    order = torch.arange(16).roll(1)
    assert not torch.allclose(network(x_t[:, order], keypoints[:, order], t), network(x_t, keypoints, t)[:, order])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"dim": 100}, "dim must be a multiple of 16 and at least 32, got 100"),
        ({"dim": 16}, "dim must be a multiple of 16 and at least 32, got 16"),
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"joint_set": "h36m"}, "no joint set is named 'h36m'"),
        ({"time_blocks": "before"}, "unknown time_blocks 'before', expected one of"),
    ],
)
def test_refuses(arguments: dict[str, object], match: str) -> None:
    # Past the signature's check of types, which refuses some of them first in tests.
    with pytest.raises(ValueError, match=match):
        inspect.unwrap(GraphDenoiser.__init__)(GraphDenoiser.__new__(GraphDenoiser), **arguments)
