"""The importer of released checkpoints, on state dicts built with the released names and shapes.

The reference is a plain computation from those names: the formulas of the released network, row by row.
"""

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from posecore.testing import write_ski_pose
from zedo.__main__ import main as zedo
from zedo.module import ZeDO

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))  # tools are scripts, not an installed package

from convert_zedo import convert, main, names, read

HIDDEN = ("pre_dense", "b1_dense1", "b1_dense2", "b2_dense1", "b2_dense2")


def released_shapes(width: int = 1024, embed: int = 512) -> dict[str, tuple[int, ...]]:
    """Every parameter of the released network, in an order of its own."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, in_dim: int, out_dim: int) -> None:
        shapes.update({f"{name}.weight": (out_dim, in_dim), f"{name}.bias": (out_dim,)})

    for name in HIDDEN:
        linear(name, 51 if name == "pre_dense" else width, width)
        linear(f"{name}_t", embed, width)
        shapes.update({f"{name.replace('dense', 'gnorm')}.{part}": (width,) for part in ("weight", "bias")})
        if name == "pre_dense":
            linear("shared_time_embed.0", embed, embed)
    linear("post_dense", width, 51)
    return shapes


def released_network(width: int, embed: int, seed: int) -> dict[str, Tensor]:
    """Random tensors of about the size that trained ones have; every one of them matters to the output."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) / (math.sqrt(shape[1]) if len(shape) > 1 else 1)
        for name, shape in released_shapes(width, embed).items()
    }


def released_checkpoint(width: int = 64, embed: int = 32) -> dict[str, Any]:
    """A file's content: the trained network with its buffer, and the average as a list without names."""
    raw, average = released_network(width, embed, 0), released_network(width, embed, 1)
    state = {"module.sigmas": torch.linspace(1, 0, 1000)} | {f"module.{name}": value for name, value in raw.items()}
    return {
        "epoch": 1500,
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 2e-4}]},
        "ema": {"decay": 0.9999, "num_updates": 7, "shadow_params": list(average.values())},
        "step": 31_500,
    }


def released_forward(state: dict[str, Tensor], x_t: Tensor, t: Tensor) -> Tensor:
    """The released network in eval mode: noise in poses ``x_t`` at times ``t`` in (0, 1]."""
    half = state["shared_time_embed.0.weight"].shape[1] // 2
    frequency = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half, dtype=x_t.dtype))
    angle = 999 * t[:, None] * frequency

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def silu(h: Tensor) -> Tensor:
        return h / (1 + torch.exp(-h))

    emb = silu(linear("shared_time_embed.0", torch.cat((angle.sin(), angle.cos()), dim=1)))

    def hidden(name: str, h: Tensor) -> Tensor:
        h = linear(name, h) + linear(f"{name}_t", emb)
        groups = h.reshape(len(h), 32, -1)
        variance, mean = torch.var_mean(groups, dim=-1, unbiased=False, keepdim=True)
        norm = name.replace("dense", "gnorm")
        normed = ((groups - mean) / (variance + 1e-5).sqrt()).reshape(h.shape)
        return silu(normed * state[f"{norm}.weight"] + state[f"{norm}.bias"])

    h = hidden("pre_dense", x_t.flatten(1))
    for block in ("b1", "b2"):
        h = h + hidden(f"{block}_dense2", hidden(f"{block}_dense1", h))
    return linear("post_dense", h).reshape(x_t.shape)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x_t = torch.randn(5, 17, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return x_t.to(dtype), torch.tensor([1e-5, 0.01, 0.1, 0.5, 1.0], dtype=dtype)


def test_the_shapes_are_those_of_the_released_network() -> None:
    assert sum(math.prod(shape) for shape in released_shapes().values()) == 7_203_379
    assert set(names()) == set(released_shapes())


@pytest.mark.parametrize(("width", "embed"), [(64, 32), (1024, 512)])
@pytest.mark.parametrize("averaged", [False, True])
def test_the_converted_network_computes_what_the_released_one_does(width: int, embed: int, averaged: bool) -> None:
    conversion = convert(released_checkpoint(width, embed), averaged)
    state = {name: value.double() for name, value in released_network(width, embed, int(averaged)).items()}
    x_t, t = inputs()
    expected = released_forward(state, x_t, t)
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(conversion.model.network.double()(x_t, 999 * t), expected, rtol=1e-8, atol=1e-8)
    assert conversion.averaged == averaged
    assert conversion.step == 31_500


def test_every_tensor_of_the_network_is_used() -> None:
    """A tensor put into a wrong place of the same shape would leave another one without effect."""
    x_t, t = inputs()
    reference = convert(released_checkpoint()).model.network.double()(x_t, 999 * t)
    for name in released_shapes():
        changed = released_checkpoint()
        changed["model_state_dict"][f"module.{name}"] *= 1.5
        found = convert(changed).model.network.double()(x_t, 999 * t)
        assert (found - reference).abs().max() > 1e-6, name


def test_the_file_is_tested_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "checkpoint_1500.pth", tmp_path / "weights.safetensors"
    torch.save(released_checkpoint(), source)
    assert main([str(source), str(output)]) == 0
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "b2_dense2_t.weight -> network.time_layers.4.weight (64, 32)",
        "sigmas, a buffer that the released program never reads, dropped",
        "averaged weights (ema) dropped",
        "missing: none; weights: raw, as the release evaluates; step 31500",
        "--model.hidden_dim 64 --model.embed_dim 32",
        f"{digest} (none is published to compare)",
    ):
        assert part in said
    with safe_open(output, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
    assert about["sha256 of the checkpoint"] == digest
    assert about["weights"] == "raw"
    model = ZeDO.pretrained(str(output), hidden_dim=64, embed_dim=32)
    x_t, t = inputs(torch.float32)
    assert torch.equal(model.network(x_t, 999 * t), convert(read(source)).model.network(x_t, 999 * t))

    write_ski_pose(tmp_path / "data", splits=("test",))
    centres = 0.3 * np.random.default_rng(0).standard_normal((2, 17, 3))
    np.save(tmp_path / "centres.npy", centres)
    monkeypatch.chdir(tmp_path)
    arguments: dict[str, Any] = {
        "data.root": tmp_path / "data",
        "model.weights": output,
        "model.hidden_dim": 64,
        "model.embed_dim": 32,
        "model.num_hypotheses": 2,
        "model.anchors_file": tmp_path / "centres.npy",
        "model.initial_pose.num_steps": 2,
        "model.loop.num_iterations": 3,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "trainer.default_root_dir": tmp_path / "run",
    }
    options = [f"--{key}={value}" for key, value in arguments.items()]
    configs = ["--config", "default.yaml", "--config", "data/ski_pose.yaml"]
    monkeypatch.setattr(sys, "argv", ["zedo", "test", *configs, *options])
    zedo()
    assert "test/ski/mpjpe" in capsys.readouterr().out


def test_the_output_is_not_overwritten_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "checkpoint_1500.pth", tmp_path / "weights.safetensors"
    torch.save(released_checkpoint(), source)
    assert main([str(source), str(output)]) == 0
    before = output.read_bytes()
    assert main([str(source), str(output), "--ema"]) == 2
    assert "exists; choose another file or --overwrite" in capsys.readouterr().err
    assert output.read_bytes() == before
    assert main([str(source), str(output), "--ema", "--overwrite"]) == 0
    said = capsys.readouterr().out
    assert "weights: averaged (EMA), which the release does not use" in said
    assert "raw weights dropped" in said
    assert output.read_bytes() != before
    source.write_text("weights")
    assert main([str(source), str(tmp_path / "other.safetensors")]) == 2
    assert "is not a checkpoint that can be read safely" in capsys.readouterr().err
    assert not (tmp_path / "other.safetensors").exists()


def test_a_checkpoint_of_another_program_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not a checkpoint of ZeDO's released program.*it has \['state_dict'\]"):
        convert({"state_dict": {"network.head.weight": torch.zeros(1)}})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"b1_gnorm2.bias": None}, r"lacks b1_gnorm2\.bias"),
        ({"pre_dense_cond.weight": torch.zeros(64, 51)}, r"has pre_dense_cond\.weight, which ZeDO's does not"),
        ({"b2_dense1.weight": torch.zeros(64, 32)}, r"b2_dense1\.weight has shape \(64, 32\), expected \(64, 64\)"),
        ({"pre_dense.weight": torch.zeros(48, 51)}, r"have weights \(48, 51\) and \(64, 32\), expected"),
        ({"pre_dense.weight": torch.zeros(64, 50)}, r"have weights \(64, 50\) and \(64, 32\), expected"),
        ({"post_dense.bias": torch.full((51,), torch.nan)}, r"post_dense\.bias holds values that are not finite"),
        ({"post_dense.bias": [0.0] * 51}, r"not tensors: post_dense\.bias"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(change: dict[str, Any], says: str) -> None:
    checkpoint = released_checkpoint()
    for name, value in change.items():
        if value is None:
            del checkpoint["model_state_dict"][f"module.{name}"]
        else:
            checkpoint["model_state_dict"][f"module.{name}"] = value
    with pytest.raises(ValueError, match=says):
        convert(checkpoint)


def test_an_average_that_does_not_fit_is_refused() -> None:
    checkpoint = released_checkpoint()
    shadow = checkpoint["ema"]["shadow_params"]
    shadow[2], shadow[6] = shadow[6], shadow[2]
    with pytest.raises(ValueError, match=r"ema shadow_params: \S+ has shape"):
        convert(checkpoint, averaged=True)
    shadow.pop()
    with pytest.raises(ValueError, match="a list of 34 averaged parameters, found 33 of them"):
        convert(checkpoint, averaged=True)
    del checkpoint["ema"]
    with pytest.raises(ValueError, match="found none"):
        convert(checkpoint, averaged=True)
    assert convert(checkpoint).dropped == ["sigmas, a buffer that the released program never reads,"]
