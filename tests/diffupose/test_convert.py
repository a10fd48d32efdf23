"""The importer of released checkpoints, on state dicts built with the released names and shapes.

The reference is a plain computation from those names: the formulas of the released layout, row by row.
"""

import hashlib
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from diffupose.module import DiffuPose
from posecore.body.skeletons import get_joint_set

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))  # tools are scripts, not an installed package

from convert_diffupose import convert, main, read

PARENTS = {
    15: [-1, 0, 1, 2, 3, 1, 5, 6, 0, 8, 9, 0, 11, 12, 1],
    16: [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 8, 10, 11, 8, 13, 14],
    17: [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15],
}
EMA, RAW = "ema_model.module.denoise_fn.", "module.denoise_fn."


def released_shapes(joints: int, dim: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of the released network."""
    half = dim // 2
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, in_dim: int, out_dim: int) -> None:
        shapes[f"{name}.W"] = (2, in_dim, out_dim)
        shapes[f"{name}.M"] = (joints, out_dim)
        shapes[f"{name}.adj2"] = (joints, joints)
        shapes[f"{name}.bias"] = (out_dim,)

    def norm(name: str) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (dim,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def linear(name: str, in_dim: int, out_dim: int, *kernel: int) -> None:
        shapes[f"{name}.weight"] = (out_dim, in_dim, *kernel)
        shapes[f"{name}.bias"] = (out_dim,)

    conv("gconv_input.0.gconv", 5, dim)
    norm("gconv_input.0.bn")
    for block in range(4):
        for i in (1, 2):
            conv(f"gconv_layers.{block}.gconv{i}.gconv", dim, dim)
            norm(f"gconv_layers.{block}.gconv{i}.bn")
    conv("gconv_output", dim, 5)
    for name in ("g", "theta", "phi"):
        linear(f"non_local.{name}", dim, half, 1, 1)
    linear("non_local.W.0", half, dim, 1, 1)
    norm("non_local.W.1")
    linear("time_mlp.1", dim // 8, half)
    linear("time_mlp.3", half, half)
    for i in (1, 2, 3):
        linear(f"block{i}.mlp.1", half, 2 * dim)
    return shapes


def released_network(joints: int, dim: int, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of about the size that trained ones have; every one of them matters to the output."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in released_shapes(joints, dim).items():
        value = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            value = torch.tensor(310_000)
        elif name.endswith("running_var"):
            value = 0.5 + value.abs()
        elif name.endswith("adj2"):
            value = 0.1 * value
        elif name.endswith((".W", "weight")) and len(shape) > 1:
            value = value / math.sqrt(shape[-2] if name.endswith(".W") else shape[1])
        state[name] = value
    return state


def released_checkpoint(joints: int = 16, dim: int = 32) -> dict[str, Any]:
    """A file's content: two copies of the network, schedules, the averager's and the scaler's counters."""
    average, raw = released_network(joints, dim, seed=0), released_network(joints, dim, seed=1)
    buffers = {"betas": torch.linspace(0, 1, 100), "alphas_cumprod": torch.linspace(1, 0, 100)}
    model = {f"module.{k}": v for k, v in buffers.items()} | {RAW + k: v for k, v in raw.items()}
    ema = {"initted": torch.tensor([True]), "step": torch.tensor([310_000])}
    ema |= {f"online_model.{k}": v for k, v in model.items()}
    ema |= {f"ema_model.module.{k}": v for k, v in buffers.items()} | {EMA + k: v for k, v in average.items()}
    return {"step": 310_000, "model": model, "ema": ema, "scaler": {"scale": 65536.0, "growth_factor": 2.0}}


def released_forward(state: dict[str, Tensor], x_t: Tensor, keypoints: Tensor, t: Tensor) -> Tensor:
    """The released network in eval mode, written from its formulas alone."""
    joints = x_t.shape[1]
    adjacency = torch.zeros(joints, joints, dtype=x_t.dtype)
    for joint, parent in enumerate(PARENTS[joints]):
        if parent >= 0:
            adjacency[joint, parent] = adjacency[parent, joint] = 1
    adjacency = adjacency / adjacency.sum(dim=1, keepdim=True)
    adjacency[range(joints), range(joints)] = 1
    eye = torch.eye(joints, dtype=x_t.dtype)

    def conv(name: str, h: Tensor) -> Tensor:
        mixing = adjacency + state[f"{name}.adj2"]
        mixing = (mixing + mixing.T) / 2
        own, others = (state[f"{name}.M"] * (h @ state[f"{name}.W"][i]) for i in range(2))
        return (mixing * eye) @ own + (mixing * (1 - eye)) @ others + state[f"{name}.bias"]

    def norm(name: str, h: Tensor) -> Tensor:
        scale = state[f"{name}.weight"] / (state[f"{name}.running_var"] + 1e-5).sqrt()
        return (h - state[f"{name}.running_mean"]) * scale + state[f"{name}.bias"]

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ state[f"{name}.weight"].flatten(1).T + state[f"{name}.bias"]

    def layer(name: str, h: Tensor) -> Tensor:
        return F.relu(norm(f"{name}.bn", conv(f"{name}.gconv", h)))

    quarter = state["time_mlp.1.weight"].shape[1] // 2
    frequency = torch.exp(-math.log(10_000) / (quarter - 1) * torch.arange(quarter, dtype=x_t.dtype))
    angle = t[:, None] * frequency
    emb = linear("time_mlp.3", F.gelu(linear("time_mlp.1", torch.cat((angle.sin(), angle.cos()), dim=1))))

    def time_block(name: str, h: Tensor) -> Tensor:
        scale, shift = linear(f"{name}.mlp.1", F.silu(emb))[:, None].chunk(2, dim=-1)
        return F.silu(h * (1 + scale) + shift)

    h = layer("gconv_input.0", torch.cat((x_t, keypoints), dim=-1))
    for block in range(4):
        h = h + layer(f"gconv_layers.{block}.gconv2", layer(f"gconv_layers.{block}.gconv1", h))
    h = time_block("block1", h)
    theta, phi, g = (linear(f"non_local.{name}", h) for name in ("theta", "phi", "g"))
    attended = torch.softmax(theta @ phi.transpose(1, 2), dim=-1) @ g
    h = h + norm("non_local.W.1", linear("non_local.W.0", attended))
    return conv("gconv_output", time_block("block2", h))


def inputs(joints: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x_t, keypoints = (torch.randn(6, joints, dim, generator=generator).to(dtype) for dim in (3, 2))
    return x_t, keypoints, torch.tensor([0, 1, 17, 50, 98, 99])


def test_the_shapes_are_those_of_the_paper_s_network() -> None:
    """3.22 M parameters, unused time block included."""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    shapes = released_shapes(16, 384)
    assert sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(buffers)) == 3_223_061
    assert shapes["block3.mlp.1.weight"] == (768, 192)


@pytest.mark.parametrize(("joints", "dim"), [(15, 32), (16, 32), (17, 48), (16, 384)])
def test_the_converted_network_computes_what_the_released_one_does(joints: int, dim: int) -> None:
    conversion = convert(released_checkpoint(joints, dim))
    state = {name: value.double() for name, value in released_network(joints, dim, seed=0).items()}
    expected = released_forward(state, *inputs(joints))
    assert expected.abs().mean() > 0.1
    found = conversion.model.network.double()(*inputs(joints))
    # Our time labels are sines of float32 angles up to 99, the reference's of float64.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    # The skeleton is not in the checkpoint, so it must be the released one.
    assert list(conversion.model.joint_set.parents) == PARENTS[joints]
    assert list(get_joint_set("h36m16").parents) == PARENTS[16]


def test_every_tensor_of_the_network_is_used() -> None:
    """A tensor put into a wrong place of the same shape would leave another one without effect."""
    reference = convert(released_checkpoint()).model.network.double()(*inputs(16))
    for name in convert(released_checkpoint()).mapped:
        if name.endswith(("num_batches_tracked", "phi.bias")):  # softmax does not see what phi's bias adds
            continue
        changed = released_checkpoint()
        changed["ema"][EMA + name] = changed["ema"][EMA + name] * 1.5
        found = convert(changed).model.network.double()(*inputs(16))
        assert (found - reference).abs().max() > 1e-6, name


def test_the_average_is_preferred_and_the_trained_weights_serve_without_it() -> None:
    checkpoint = released_checkpoint()
    averaged = convert(checkpoint)
    assert averaged.source == EMA
    assert averaged.step == 310_000
    assert averaged.unused == ["block3.mlp.1.bias", "block3.mlp.1.weight"]
    size = len(released_shapes(16, 32))
    assert averaged.other == {"ema": 2 + 2 + size + 2, "model": 2 + size}
    del checkpoint["ema"], checkpoint["step"]
    raw = convert(checkpoint)
    assert raw.source == RAW
    assert raw.step is None
    assert raw.other == {"model": 2}
    own = averaged.model.network.state_dict()
    for name, value in raw.model.network.state_dict().items():
        assert torch.equal(value, own[name]) == name.endswith("num_batches_tracked"), name


def test_the_file_loads_and_says_where_it_is_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "model.pt", tmp_path / "weights.safetensors"
    torch.save(released_checkpoint(), source)
    assert main([str(source), str(output)]) == 0
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "gconv_layers.3.gconv2.gconv.adj2 -> blocks.3.1.conv.offset (16, 16)",
        "block3.mlp.1.weight",
        "dropped",
        "missing: none; taken from ema_model.module.denoise_fn.*, step 310000",
        "h36m16, --model.dim 32",
        digest,
    ):
        assert part in said
    with safe_open(output, framework="pt") as file:
        assert digest in file.metadata()["about"]
    settings: dict[str, Any] = {"joint_set": "h36m16", "dim": 32, "coordinates": "image", "pose_scale": 1.0}
    model = DiffuPose.pretrained(str(output), **settings)
    converted = convert(read(source)).model
    x_t, keypoints, t = inputs(16, torch.float32)
    assert torch.equal(model.network(x_t, keypoints, t), converted.network(x_t, keypoints, t))
    with pytest.raises(ValueError, match=r"network\.input\.conv\.weight of shape"):
        DiffuPose.pretrained(str(output), **{**settings, "dim": 64})

    before = output.read_bytes()
    assert main([str(source), str(output)]) == 2
    assert "exists; choose another file or --overwrite" in capsys.readouterr().err
    checkpoint = released_checkpoint()
    checkpoint["ema"][EMA + "gconv_output.bias"] += 1
    torch.save(checkpoint, source)
    assert output.read_bytes() == before
    assert main([str(source), str(output), "--overwrite"]) == 0
    assert output.read_bytes() != before


class Harmful:
    """A pickle that would call a function when read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("touched"),))


@pytest.mark.parametrize("case", ["missing", "text", "accounts", "cut off", "code", "list"])
def test_what_is_no_checkpoint_is_one_clear_error(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    says = "is not a checkpoint that can be read safely"
    if case == "missing":
        says = "there is no such file"
    elif case == "text":
        path.write_text("weights")
    elif case == "accounts":
        path.write_text("root:x:0:0:root:/root:/bin/sh\n")  # a text whose first letters are pickle's opcodes
    elif case == "cut off":
        torch.save(released_checkpoint(), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif case == "code":
        torch.save({"model": Harmful()}, path)
    elif case == "list":
        torch.save([torch.zeros(2)], path)
        says = "holds a list, not a checkpoint"
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        read(path)
    assert main([str(path), str(tmp_path / "out.safetensors")]) == 2
    assert "model.pt" in capsys.readouterr().err
    assert not (tmp_path / "touched").exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_a_checkpoint_of_another_program_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not a checkpoint of DiffuPose's released program.*it has \['state_dict'\]"):
        convert({"state_dict": {"network.input.conv.weight": torch.zeros(1)}})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"time_mlp.3.bias": None}, r"lacks time_mlp\.3\.bias"),
        ({"gconv_layers.4.gconv1.gconv.W": torch.zeros(2, 32, 32)}, r"has gconv_layers\.4\.gconv1\.gconv\.W, which"),
        ({"gconv_layers.2.gconv1.gconv.W": torch.zeros(2, 32, 48)}, r"gconv1\.gconv\.W: has shape \(2, 32, 48\)"),
        ({"gconv_layers.2.gconv1.gconv.M": torch.zeros(17, 32)}, r"expected \(16, 32\) at 16 joints and width 32"),
        ({"non_local.g.weight": torch.zeros(16, 32, 3, 3)}, r"non_local\.g\.weight: has shape \(16, 32, 3, 3\)"),
        ({"gconv_input.0.gconv.M": torch.ones(21, 32)}, "has 21 joints, expected one of"),
        ({"gconv_input.0.gconv.W": torch.ones(2, 3, 32)}, r"W \(2, 3, 32\) and M \(16, 32\) should be"),
        ({"gconv_output.bias": torch.full((5,), torch.nan)}, r"gconv_output\.bias: holds values that are not finite"),
        ({"gconv_output.bias": [0.0] * 5}, r"not tensors: gconv_output\.bias"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(change: dict[str, Any], says: str) -> None:
    checkpoint = released_checkpoint()
    for name, value in change.items():
        if value is None:
            del checkpoint["ema"][EMA + name]
        else:
            checkpoint["ema"][EMA + name] = value
    with pytest.raises(ValueError, match=says):
        convert(checkpoint)
