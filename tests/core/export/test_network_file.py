"""Networks as ONNX files: the right numbers at any length, and no file where they are wrong."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from posecore.body.smpl import SMPLLayer
from posecore.export.body_parts import export_parts
from posecore.export.network_file import check_installed, largest_difference, onnx_runner, trace, write_part
from posecore.export.network_parts import Array, Call, Input, Part, integers, normal, uniform
from posecore.geometry.rotation import axis_angle_to_rotmat

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

FORMULA = "x @ w, scaled by t: a network whose numbers are known without PyTorch."


def formula(network: nn.Module | None = None) -> Part:
    w = torch.arange(6.0).reshape(3, 2)

    def run(x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        return (x @ w) * t[:, None, None], x.sum(dim=-1)

    return Part(
        FORMULA,
        network or Call(run).eval(),
        (
            Input("x", ("rows", "columns", 3), "metres", normal(2.0)),
            Input("t", ("rows",), "timestep", integers(10)),
        ),
        (Array("scaled", ("rows", "columns", 2), "metres"), Array("sums", ("rows", "columns"), "metres")),
        {"unit": 0.5},
    )


def test_a_file_says_what_it_is_and_computes_it_at_any_length(tmp_path: Path) -> None:
    assert write_part(tmp_path / "net", formula(), {"method": "none"}, with_program=True) < 5e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.pt2"]
    for path in tmp_path.iterdir():
        assert Path(__file__).name.encode() not in path.read_bytes()  # nor the folders of whoever exported it
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [each.doc_string for each in model.graph.input] == ["metres", "timestep"]
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert [(each.name, each.shape) for each in session.get_inputs()] == [
        ("x", ["rows", "columns", 3]),
        ("t", ["rows"]),
    ]
    assert [(each.name, each.shape) for each in session.get_outputs()] == [
        ("scaled", ["rows", "columns", 2]),
        ("sums", ["rows", "columns"]),
    ]
    facts = json.loads(session.get_modelmeta().custom_metadata_map["humandiff"])
    assert facts["method"] == "none"
    assert facts["about"] == FORMULA
    assert facts["settings"] == {"unit": 0.5}
    assert facts["inputs"]["x"] == {"shape": ["rows", "columns", 3], "about": "metres"}
    assert facts["opset"] == {each.domain: each.version for each in model.opset_import}[""]

    program = torch.export.load(tmp_path / "net.pt2").module()
    for rows, columns in ((1, 1), (5, 1), (1, 6), (7, 7)):
        x = np.random.default_rng(0).normal(size=(rows, columns, 3)).astype(np.float32)
        t = np.arange(rows)
        expected = np.einsum("rci,io,r->rco", x, np.arange(6.0).reshape(3, 2), t)
        scaled, sums = session.run(None, {"x": x, "t": t})
        np.testing.assert_allclose(scaled, expected, atol=1e-5)
        np.testing.assert_allclose(sums, x.sum(axis=-1), atol=1e-5)
        np.testing.assert_allclose(program(torch.from_numpy(x), torch.from_numpy(t))[0], expected, atol=1e-5)


class DrawsAnew(nn.Module):
    """As `formula`, but with another number at each call, which no file can have."""

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        return x[..., :2] * torch.rand(()) * t[:, None, None], x.sum(dim=-1)


def test_a_file_that_differs_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"scaled at 1 rows, 1 columns: differs from PyTorch by .*, allowed are 1e-04"):
        write_part(tmp_path / "net", formula(DrawsAnew().eval()), {})
    assert list(tmp_path.iterdir()) == []


def test_differences_are_found_whatever_they_are() -> None:
    part = formula()
    network = part.network

    def off(x: Tensor, t: Tensor, by: float) -> tuple[Tensor, ...]:
        scaled, sums = network(x, t)
        return scaled, sums + by if len(x) == 4 else sums

    assert largest_difference(part, network) == 0
    assert largest_difference(part, lambda x, t: off(x, t, 9e-5)) == pytest.approx(9e-5, rel=0.05)
    for wrong in (2e-4, float("nan")):
        with pytest.raises(ValueError, match="sums at 4 rows, 5 columns: differs from PyTorch by"):
            largest_difference(part, lambda x, t, wrong=wrong: off(x, t, wrong))
    with pytest.raises(
        ValueError, match=r"scaled at 1 rows, 1 columns: has shape \(1, 1, 1\), PyTorch's has \(1, 1, 2\)"
    ):
        largest_difference(part, lambda x, t: (network(x, t)[0][..., :1], x.sum(dim=-1)))


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"network: is in training mode; call eval\(\) first"):
        trace(formula(Call(lambda x, t: x).train()))


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    monkeypatch.setattr(sys, "path", [])
    for name in [*sys.modules]:
        if name.partition(".")[0] in ("onnx", "onnxscript"):
            monkeypatch.delitem(sys.modules, name)
    message = r'onnx, onnxscript: not installed; ONNX needs pip install "humandiff\[export\]"'
    with pytest.raises(ImportError, match=message):
        check_installed()


def test_inputs_are_drawn_as_said() -> None:
    generator = torch.Generator().manual_seed(0)
    assert 1.8 < normal(2.0)((1000,), generator).std() < 2.2
    drawn = uniform(3.0, 4.0)((1000,), generator)
    assert 3 <= drawn.min() < 3.1 < 3.9 < drawn.max() <= 4
    assert integers(3)((1000,), generator).unique().tolist() == [0, 1, 2]
    first, again, other = (formula().example((2, 3), seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("pose_repr", "name"),
    [
        ("rotmat", "joints"),
        pytest.param("axis_angle", "mesh", marks=pytest.mark.slow),
        pytest.param("rot6d", "joints", marks=pytest.mark.slow),
    ],
)
def test_a_body_file_poses_as_the_layer_does(pose_repr: str, name: str, tmp_path: Path) -> None:
    parts = export_parts(pose_repr=pose_repr)
    assert list(parts) == ["mesh", "joints"]
    write_part(tmp_path / name, parts[name], {})
    run = onnx_runner(tmp_path / f"{name}.onnx", num_threads=1)
    generator = torch.Generator().manual_seed(5)
    betas, transl = torch.randn(3, 10, generator=generator), torch.randn(3, 3, generator=generator)
    pose = 0.5 * torch.randn(3, 24, 3, generator=generator)
    rotmat = axis_angle_to_rotmat(pose)
    given = {"axis_angle": pose, "rotmat": rotmat, "rot6d": rotmat[..., :2].mT.flatten(-2)}[pose_repr]
    found = run(betas, given[:, 1:], given[:, 0], transl)
    expected = SMPLLayer()(betas, rotmat[:, 1:], rotmat[:, 0], transl)
    torch.testing.assert_close(found[-1], expected.joints, atol=1e-5, rtol=0)
    if name == "mesh":
        torch.testing.assert_close(found[0], expected.vertices, atol=1e-5, rtol=0)
