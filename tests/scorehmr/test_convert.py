"""The importer of released checkpoints, on state dicts built with the released names and shapes.

The reference is a plain computation from those names: the formulas of the released layout, line by line.
"""

import hashlib
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from posecore.training.checkpoints import load_weights
from scorehmr.features import Standardizer
from scorehmr.network import Denoiser

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))  # tools are scripts, not an installed package

from convert_scorehmr import convert, main, read, read_statistics

EMA = "ema_model.model."
SIZES = [(3072, 11_307_024), (2048, 8_155_152)]  # PARE's and ProHMR's features, and the networks' parameters


def released_shapes(cond: int = 3072) -> dict[str, tuple[int, ...]]:
    """Every tensor of the released network."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    layer("init_mlp", 144, 144)
    layer("time_mlp.1", 576, 144)
    layer("time_mlp.3", 576, 576)
    for i in range(3):
        layer(f"blocks.{i}.mlp.1", 288, 576)
        layer(f"blocks.{i}.block.layer_norm1", 144 + cond)
        layer(f"blocks.{i}.block.linear_layer1", 1024, 144 + cond)
        layer(f"blocks.{i}.block.layer_norm2", 1024)
        layer(f"blocks.{i}.block.linear_layer2", 144, 1024)
    layer("final_mlp", 144, 144)
    return shapes


def released_network(cond: int = 3072, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of about the size that trained ones have; every one of them matters to the output."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in released_shapes(cond).items():
        value = torch.randn(shape, generator=generator)
        state[name] = value / math.sqrt(shape[1]) if len(shape) > 1 else value
    return state


def released_checkpoint(cond: int = 3072) -> dict[str, Any]:
    """A file's content: two copies of the network, the schedule's 13 buffers, the averager's counters."""
    buffers = {f"buffer_{i}": torch.zeros(1000) for i in range(13)}
    model = buffers | {f"model.{k}": v for k, v in released_network(cond, seed=1).items()}
    ema: dict[str, Any] = {"initted": torch.tensor([True]), "step": torch.tensor([1_000_000])}
    ema |= {f"online_model.{k}": v for k, v in model.items()}
    ema |= {f"ema_model.{k}": v for k, v in buffers.items()}
    ema |= {EMA + k: v for k, v in released_network(cond, seed=0).items()}
    return {"step": 1_000_000, "model": model, "opt": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "ema": ema}


def statistics(cond: int = 3072) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(cond, generator=generator), 0.5 + torch.rand(cond, generator=generator)


def released_forward(state: dict[str, Tensor], x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    """The released network, written from its formulas alone."""

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, h: Tensor) -> Tensor:
        centred = h - h.mean(dim=-1, keepdim=True)
        scale = (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]

    frequency = torch.exp(-math.log(10_000) / 71 * torch.arange(72, dtype=x_t.dtype))
    angle = t[:, None] * frequency
    time = linear("time_mlp.3", F.gelu(linear("time_mlp.1", torch.cat((angle.sin(), angle.cos()), dim=1))))
    h = linear("init_mlp", x_t)
    for i in range(3):
        modulation = linear(f"blocks.{i}.mlp.1", time * torch.sigmoid(time))
        h = h * (1 + modulation[:, :144]) + modulation[:, 144:]
        inner = norm(f"blocks.{i}.block.layer_norm1", torch.cat((h, cond), dim=1))
        inner = norm(f"blocks.{i}.block.layer_norm2", F.gelu(linear(f"blocks.{i}.block.linear_layer1", inner)))
        h = h + F.gelu(linear(f"blocks.{i}.block.linear_layer2", inner))
    return linear("final_mlp", h)


def inputs(cond: int = 3072, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x_t, features = (torch.randn(5, dim, generator=generator).to(dtype) for dim in (144, cond))
    return x_t, torch.tensor([0, 2, 50, 100, 999]), features


@pytest.mark.parametrize(("cond", "parameters"), SIZES)
def test_the_shapes_are_those_of_the_released_networks(cond: int, parameters: int) -> None:
    assert sum(math.prod(shape) for shape in released_shapes(cond).values()) == parameters


@pytest.mark.parametrize("cond", [3072, 2048])
def test_the_converted_network_computes_what_the_released_one_does(cond: int) -> None:
    conversion = convert(released_checkpoint(cond), *statistics(cond))
    state = {name: value.double() for name, value in released_network(cond).items()}
    x_t, t, features = inputs(cond)
    expected = released_forward(state, x_t, t, features)
    assert expected.abs().mean() > 0.1
    found = conversion.model["diffusion"].pose.double()(x_t, t, features)
    # Our time labels are sines of float32 angles up to 999, the reference's of float64.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[:2], expected[:2], rtol=1e-6, atol=1e-6)


def test_every_tensor_of_the_network_has_its_own_place() -> None:
    """With every tensor another one, ours hold what the table says, and each exactly once."""
    conversion, released = convert(released_checkpoint(), *statistics()), released_network()
    own = conversion.model["diffusion"].pose.state_dict()
    assert sorted(conversion.mapped.values()) == sorted(own)
    for old, new in conversion.mapped.items():
        assert torch.equal(own[new], released[old]), old


def test_the_average_is_preferred_and_the_trained_weights_serve_without_it() -> None:
    checkpoint = released_checkpoint(2048)
    size = len(released_shapes(2048))
    averaged = convert(checkpoint, *statistics(2048))
    assert averaged.source == EMA
    assert averaged.step == 1_000_000
    assert averaged.other == {"ema": 2 + 13 + size + 13, "model": 13 + size}
    del checkpoint["ema"], checkpoint["step"]
    raw = convert(checkpoint, *statistics(2048))
    assert raw.source == "model."
    assert raw.step is None
    assert raw.other == {"model": 13}
    assert torch.equal(raw.model["diffusion"].pose.output.bias, released_network(2048, seed=1)["final_mlp.bias"])
    assert not torch.equal(averaged.model["diffusion"].pose.output.bias, raw.model["diffusion"].pose.output.bias)


@pytest.mark.parametrize(("keys", "cond"), [(("pose_feats_mean", "pose_feats_std"), 3072), (("mean", "std"), 2048)])
def test_the_file_loads_and_says_where_it_is_from(
    keys: tuple[str, str], cond: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, stats, output = (tmp_path / name for name in ("model-100.pt", "stats.npz", "weights.safetensors"))
    torch.save(released_checkpoint(cond), source)
    mean, std = statistics(cond)
    np.savez(stats, **{keys[0]: mean.numpy(), keys[1]: std.double().numpy()}, cam_shape_feats_mean=np.zeros(1536))
    assert main([str(source), str(stats), str(output)]) == 0
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        f"blocks.2.block.linear_layer1.weight -> diffusion.pose.blocks.2.linear_in.weight (1024, {144 + cond})",
        "time_mlp.3.bias -> diffusion.pose.time.2.bias (576,)",
        "tensors of 'model' dropped",
        "missing: none; taken from ema_model.model.*, step 1000000",
        f"{dict(SIZES)[cond]} parameters; features of length {cond}",
        digest,
    ):
        assert part in said
    with safe_open(output, framework="pt") as file:
        found = set(file.keys())
    assert {"diffusion.pose.input.weight", "standardizer.mean", "standardizer.std"} <= found
    denoiser, standardizer = Denoiser(cond_dim=cond), Standardizer(cond)
    about = load_weights(output, denoiser, "scorehmr", "diffusion.pose.")
    assert about["sha256 of the checkpoint"] == digest
    load_weights(output, standardizer, "scorehmr", "standardizer.")
    assert torch.equal(standardizer.mean, mean)
    assert torch.equal(standardizer.std, std)
    converted = convert(read(source), mean, std).model["diffusion"].pose
    x_t, t, features = inputs(cond, torch.float32)
    assert torch.equal(denoiser(x_t, t, features), converted(x_t, t, features))

    assert main([str(source), str(stats), str(output)]) == 2
    assert "exists; choose another file or --overwrite" in capsys.readouterr().err
    before = output.read_bytes()
    torch.save(released_checkpoint(cond) | {"step": 5}, source)
    assert output.read_bytes() == before
    assert main([str(source), str(stats), str(output), "--overwrite"]) == 0
    assert output.read_bytes() != before


def test_statistics_are_flattened_channel_by_channel(tmp_path: Path) -> None:
    mean, std = statistics()
    np.savez(tmp_path / "stats.npz", pose_feats_mean=mean.view(128, 24), pose_feats_std=std.view(128, 24))
    found = read_statistics(tmp_path / "stats.npz")
    assert torch.equal(found[0], mean)
    assert torch.equal(found[1], std)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"average": np.zeros(4)}, "has neither pose_feats_mean and pose_feats_std nor mean and std; it holds average"),
        ({"mean": np.zeros(4), "std": np.ones(3)}, r"mean is float64 \(4,\) and std is float64 \(3,\)"),
        ({"mean": np.zeros(4), "std": np.array(["a"] * 4)}, r"std is <U1 \(4,\), expected floats"),
        ({"mean": np.zeros(4), "std": np.array([1.0, 0.0, 1.0, 1.0])}, "a deviation is not above 0"),
        ({"mean": np.array([0.0, np.nan]), "std": np.ones(2)}, "is not finite"),
    ],
)
def test_statistics_that_are_none_are_refused(content: dict[str, np.ndarray], says: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "stats.npz", **content)
    with pytest.raises(ValueError, match=says):
        read_statistics(tmp_path / "stats.npz")


class Harmful:
    """A pickle that would call a function when read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("touched"),))  # type: ignore[return-value]


@pytest.mark.parametrize("case", ["missing", "text", "cut off", "code", "list"])
def test_what_is_no_checkpoint_is_one_clear_error(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model-100.pt"
    says = "is not a checkpoint that can be read safely"
    if case == "missing":
        says = "there is no such file"
    elif case == "text":
        path.write_text("weights")
    elif case == "cut off":
        torch.save({"model": torch.zeros(4000)}, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif case == "code":
        torch.save({"ema": Harmful()}, path)
    elif case == "list":
        torch.save([torch.zeros(2)], path)
        says = "holds a list, not a checkpoint"
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        read(path)
    np.savez(tmp_path / "stats.npz", mean=np.zeros(4), std=np.ones(4))
    assert main([str(path), str(tmp_path / "stats.npz"), str(tmp_path / "out.safetensors")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "touched").exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_a_checkpoint_of_another_program_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not a checkpoint of ScoreHMR's released program.*it has \['state_dict'\]"):
        convert({"state_dict": {"denoiser.input.weight": torch.zeros(1)}}, *statistics())


def test_statistics_of_other_features_are_refused() -> None:
    with pytest.raises(ValueError, match="statistics: are of 2048 features, but the network takes 3072"):
        convert(released_checkpoint(), *statistics(2048))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"time_mlp.3.bias": None}, r"lacks time_mlp\.3\.bias"),
        ({"blocks.3.mlp.1.weight": torch.zeros(288, 576)}, r"has blocks\.3\.mlp\.1\.weight, which ScoreHMR's does not"),
        (
            {"blocks.1.block.linear_layer1.weight": torch.zeros(1024, 144 + 2048)},
            r"linear_layer1\.weight: has shape \(1024, 2192\), expected \(1024, 3216\) with features of length 3072",
        ),
        ({"blocks.0.block.layer_norm1.weight": torch.zeros(144)}, r"has shape \(144,\), expected \(144 \+ features,\)"),
        ({"final_mlp.bias": torch.full((144,), torch.nan)}, r"final_mlp\.bias: holds values that are not finite"),
        ({"final_mlp.bias": [0.0] * 144}, r"not tensors: final_mlp\.bias"),
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
        convert(checkpoint, *statistics())
