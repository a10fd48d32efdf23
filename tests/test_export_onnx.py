"""Every method's networks as files: PyTorch's numbers at any length, refusals, and the sampler of docs/export.md."""

import json
import re
import sys
from collections.abc import Collection, Iterable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from diffhmr.module import DiffHMR
from diffhmr.network import UNet1D
from diffupose.module import DiffuPose
from diffupose.sampler import Sampling, sample
from diffupose.unet import UNetDenoiser
from hmdiff.module import HMDiff
from posecore.body.files import load_body_model
from posecore.export.network_file import largest_difference, runnable, trace, write_part
from posecore.testing.smpl_files import write_gendered_bodies
from posecore.training.checkpoints import save_weights
from scorehmr.features import CachedFeatures, KeypointFeatures
from scorehmr.module import ScoreHMR
from zedo.module import ZeDO

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))  # tools are scripts, not an installed package

from export_onnx import METHODS, described, main  # noqa: E402


def small_diffhmr(**options: object) -> DiffHMR:
    model = DiffHMR("resnet10t", pretrained=False, image_size=64, hidden_dim=8, cond_channels=4, dim=8, **options)
    if model.denoiser is not None:
        conditioning = model.denoiser.conditioning
        model.denoiser = UNet1D(512, 4, dim=8, mults=(1, 2), conditioning=conditioning, cond_channels=4)
    return model


def small_unet() -> DiffuPose:
    model = DiffuPose(denoiser="unet")
    model.network = UNetDenoiser(dim=32, time_dim=8)
    return model


SMALL = {
    # Narrower, its groups would be of two numbers, whose normalisation is a step: rounding decides then.
    "zedo": lambda: ZeDO(hidden_dim=128, embed_dim=8),
    "zedo_ddpm": lambda: ZeDO(5, 128, 8, backbone="ddpm"),
    "diffupose": lambda: DiffuPose(dim=32, pose_scale=2.0, sampling=Sampling(clip_x0=0.6)),
    "diffupose_unet": small_unet,
    "scorehmr": lambda: ScoreHMR(KeypointFeatures(None, 8, 1), hidden_dim=16, num_blocks=1, diffuse_shape=True),
    "scorehmr_cached": lambda: ScoreHMR(CachedFeatures(6), hidden_dim=16, num_blocks=1),
    "diffhmr": small_diffhmr,
    "diffhmr_cross": lambda: small_diffhmr(conditioning="cross_attention"),
    "diffhmr_regression": lambda: small_diffhmr(estimator="regression"),
    "hmdiff": lambda: HMDiff(
        backbone="resnet10t", pretrained=False, image_size=64, head_channels=8, image_feature="projected", final_dim=8
    ),
    "hmdiff_pose": lambda: HMDiff("pose", "resnet10t", pretrained=False, image_size=64, head_channels=8),
}
PARTS = {
    "zedo": ["denoiser"],
    "zedo_ddpm": ["denoiser"],
    "diffupose": ["denoiser"],
    "diffupose_unet": ["denoiser"],
    "scorehmr": ["denoiser", "regressor"],
    "scorehmr_cached": ["denoiser"],
    "diffhmr": ["encoder", "regressor", "denoiser"],
    "diffhmr_cross": ["encoder", "regressor", "denoiser"],
    "diffhmr_regression": ["encoder", "regressor"],
    "hmdiff": ["backbone", "pose_head", "denoiser", "final", "upsampler"],
    "hmdiff_pose": ["backbone", "pose_head"],
}


def small(name: str) -> nn.Module:
    """A small model whose every weight matters: none is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = SMALL[name]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def parts_of(name: str, model: nn.Module) -> dict:
    return import_module(f"{name.partition('_')[0]}.export").export_parts(model)


def marked(names: Iterable[str], slow: Collection[str]) -> list:
    """Names as parameters, these of them slow."""
    return [pytest.param(each, marks=[pytest.mark.slow] if each in slow else []) for each in names]


@pytest.mark.parametrize(
    "name", marked(SMALL, slow=("diffhmr_cross", "diffhmr_regression", "diffupose", "diffupose_unet", "hmdiff_pose"))
)
def test_every_network_is_traced_for_any_number_of_rows(name: str) -> None:
    parts = parts_of(name, small(name))
    assert list(parts) == PARTS[name]
    for part in parts.values():
        assert largest_difference(part, runnable(trace(part))) < 1e-5
        with torch.no_grad():
            found = part.network(*part.example([2] * len(part.axes)))
        for value in (found,) if isinstance(found, torch.Tensor) else found:
            assert value.std() > 0


# Of ZeDO and of DiffuPose's graph network below.
@pytest.mark.parametrize(
    "name", marked(["scorehmr", "diffupose_unet", "diffhmr", "hmdiff"], slow=("diffupose_unet", "diffhmr", "hmdiff"))
)
def test_onnx_runtime_gives_the_denoisers_numbers(name: str, tmp_path: Path) -> None:
    part = parts_of(name, small(name))["denoiser"]
    write_part(tmp_path / name, part, {"method": name})
    session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx", providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == [each.name for each in part.inputs]
    assert [list(each.shape) for each in session.get_inputs()] == [list(each.shape) for each in part.inputs]


def test_a_denoiser_of_heatmaps_has_no_file() -> None:
    model = HMDiff(
        backbone="resnet10t", pretrained=False, image_size=64, head_channels=8, conditioning="pose", final_dim=8
    )
    with pytest.raises(ValueError, match="conditioning: the denoiser is exported for 'image', this one has 'pose'"):
        parts_of("hmdiff", model.eval())


def test_the_sampler_of_the_documentation_finds_what_the_projects_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small("diffupose")
    assert isinstance(model, DiffuPose)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/onnx"
    folder.mkdir(parents=True)
    write_part(folder / "diffupose_denoiser", parts_of("diffupose", model)["denoiser"], {})
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 30
    names: dict = {}
    exec(code, names)

    keypoints = 0.4 * torch.randn(6, 16, 2, generator=torch.Generator().manual_seed(0))
    settings = Sampling("ddim", 10, eta=0.0, clip_x0=0.6, flip=False)
    expected = sample(
        model.network, model.schedule, keypoints, model.joint_set, 1, settings, 2.0, torch.Generator().manual_seed(3)
    )[:, 0]
    x_T = torch.randn(6, 16, 3, generator=torch.Generator().manual_seed(3))
    found = torch.from_numpy(names["sample"](keypoints.numpy(), x_T.numpy(), 10))
    torch.testing.assert_close(found.float(), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.1


def test_the_tool_writes_a_config_with_weights_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text("data: {batch_size: 3}\nmodel: {hidden_dim: 128, embed_dim: 4}\n")
    (tmp_path / "other.yaml").write_text("model: {embed_dim: 8}\n")
    save_weights(tmp_path / "own.safetensors", small("zedo"), "zedo", {})
    configs = ["--config", str(tmp_path / "small.yaml"), "--config", str(tmp_path / "other.yaml")]
    args = ["zedo", "denoiser", *configs, "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"error: weights: the config names none; give --weights, a safetensors file"):
        main(args)
    args += ["--weights", str(tmp_path / "own.safetensors")]
    main(args)
    assert re.search(r"zedo_denoiser\.onnx: 0\.\d MiB, differs from PyTorch by", capsys.readouterr().out)
    session = onnxruntime.InferenceSession(tmp_path / "out/zedo_denoiser.onnx", providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["humandiff"])
    assert facts["method"] == "zedo"
    assert facts["part"] == "denoiser"
    assert facts["weights"] == str(tmp_path / "own.safetensors")
    assert re.match("[0-9a-f]{12}|0", facts["commit"])
    with pytest.raises(SystemExit, match=r"zedo_denoiser.onnx' exists; choose another --output, or --overwrite"):
        main(args)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["zedo", "encoder"], "part: zedo has no 'encoder'; it has denoiser"),
        (["body", "skin"], "part: body has no 'skin'; it has mesh, joints"),
        (["zedo", "--weights", "no_such"], r"weights: 'no_such' is neither a file nor a shipped name; shipped are \["),
        (["zedo", "--config", "no_such"], "--config: 'no_such' is neither a file nor one of this method's configs"),
        (["zedo", "--config", "{tmp}/empty.yaml"], "--config: .*empty.yaml has no section `model`"),
        (["zedo", "--config", "{tmp}/wrong.yaml"], "hidden_dim"),
        (["body", "--weights", "cmu"], "body: has no weights and no config; --body-model names its file"),
        (["body", "--body-model", "{tmp}/no.pkl"], "no.pkl"),
        (["all", "denoiser"], "all: takes no parts, weights, configs or body model; name one method"),
    ],
)
def test_the_tool_says_what_is_wrong_in_one_line(args: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("data: {}\n")
    (tmp_path / "wrong.yaml").write_text("model: {hidden_dim: wide}\n")
    given = [each.replace("{tmp}", str(tmp_path)) for each in args]
    with pytest.raises(SystemExit, match=message) as error:
        main([*given, "--output", str(tmp_path / "out")])
    assert str(error.value).startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_the_tool_takes_a_body_of_ones_own(tmp_path: Path) -> None:
    write_gendered_bodies(tmp_path / "smpl")
    file = next((tmp_path / "smpl").glob("*NEUTRAL*"))
    body = load_body_model(file)
    parts, about = described("body", None, [], file, "axis_angle")
    assert about["weights"] == body.name
    assert parts["joints"].settings["pose_repr"] == "axis_angle"
    mesh, joints = (tuple(value.shape) for value in parts["mesh"].network(*parts["mesh"].example([2])))
    assert (mesh, joints) == ((2, len(body.v_template), 3), (2, 24, 3))


@pytest.mark.slow
@pytest.mark.parametrize("method", [*METHODS, "body"])
def test_shipped_weights_are_written_and_checked(method: str, tmp_path: Path) -> None:
    main([method, "--output", str(tmp_path), "--pt2"])  # which refuses files that differ
    assert len(list(tmp_path.glob("*.onnx"))) == len(list(tmp_path.glob("*.pt2"))) > 0
