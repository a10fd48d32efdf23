"""The tool that draws Figure 3: what it records and projects, and its command line with a tiny untrained model."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hmdiff.dat import Alignment
from hmdiff.module import HMDiff
from hmdiff.sampler import Sampling, sample
from posecore.training.checkpoints import save_weights

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))  # tools are scripts, not an installed package

from plot_mesh_diffusion import VARIANTS, Runs, main, numbers, pca, rendered, run, tsne

SMALL: dict[str, Any] = {
    "backbone": "regnetx_002",
    "pretrained": False,
    "image_size": 64,
    "head_channels": 8,
    "image_feature": "projected",
    "num_heads": 2,
    "final_dim": 0,
    "num_hypotheses": 3,
    "sampling": {"num_inference_steps": 4},
    "alignment": {"num_poses": 4},
}


@pytest.fixture(scope="module")
def model() -> HMDiff:
    torch.manual_seed(0)
    settings = {"sampling": Sampling(**SMALL["sampling"]), "alignment": Alignment(**SMALL["alignment"])}
    return HMDiff(**{**SMALL, **settings}).eval()


@pytest.fixture(scope="module")
def runs(model: HMDiff) -> Runs:
    return run(model, rendered(model, Path("nowhere"), "sample", 3))


@pytest.fixture(scope="module")
def files(model: HMDiff, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Arguments of the command line for weights and architecture."""
    folder = tmp_path_factory.mktemp("weights")
    save_weights(folder / "w.safetensors", model, "hmdiff", {})
    (folder / "c.yaml").write_text(yaml.safe_dump({"model": SMALL, "trainer": {"max_steps": 1}}))
    return "--weights", str(folder / "w.safetensors"), "--config", str(folder / "c.yaml")


def made_up(variants: int = 3, steps: int = 2, samples: int = 6, vertices: int = 5) -> Runs:
    generator = torch.Generator().manual_seed(0)
    h, estimates = torch.randn(2, variants, steps, samples, vertices, 3, generator=generator)
    return Runs(tuple(range(steps)), h, estimates, torch.randn(vertices, 3, generator=generator), True)


def test_variants_begin_with_the_same_noise_and_part_afterwards(model: HMDiff, runs: Runs) -> None:
    assert runs.h.shape == runs.estimates.shape == (3, 4, 3, 431, 3)
    assert runs.k[0] == 199
    standard, disrupted, ours = runs.h
    torch.testing.assert_close(standard[0], disrupted[0], rtol=0, atol=0)
    torch.testing.assert_close(standard[0], ours[0], rtol=0, atol=0)
    assert (
        min(float((a - b)[1].abs().max()) for a, b in ((standard, ours), (standard, disrupted), (ours, disrupted))) > 0
    )


def test_standard_is_the_process_without_alignment(model: HMDiff, runs: Runs) -> None:
    """Estimates along the way are those of DDIM from the same h_K with nothing that would move it."""
    batch = rendered(model, Path("nowhere"), "sample", 3)
    nothing = Alignment(of="nothing")
    assert model.denoiser is not None
    with torch.no_grad():
        f_c = model.backbone(batch["image"])
        prepared = model.denoiser.prepare(f_c, model.pose_head(f_c))
        regressor = model.mesh.joint_regressor
        unaligned = sample(
            model.denoiser, model.schedule, prepared, 3, model.sampling, nothing, regressor, h_K=runs.h[0, 0][None]
        )
    torch.testing.assert_close(runs.estimates[0, -1], unaligned[0])
    torch.testing.assert_close(runs.estimates[list(VARIANTS).index("Ours (DAT)"), -1], model(batch).samples[0])


def test_the_target_is_the_true_mesh_about_its_root(model: HMDiff, runs: Runs) -> None:
    batch = rendered(model, Path("nowhere"), "sample", 3)
    full, _ = model.truth.full(batch)
    coarse = full[0, model.mesh.vertex_ids]
    torch.testing.assert_close(runs.target, coarse - model.mesh.joints(coarse)[0], rtol=0, atol=1e-4)
    assert runs.is_true


def test_the_plane_is_the_best_one_through_the_target() -> None:
    runs = made_up()
    points, star, share = pca(runs)
    assert star.tolist() == [0, 0]
    away = (runs.estimates - runs.target).flatten(0, 2).flatten(1).numpy().astype(np.float64)
    values, vectors = np.linalg.eigh(away.T @ away)
    assert share == pytest.approx(values[-2:].sum() / values.sum())
    expected = (away @ vectors[:, [-1, -2]]) / math.sqrt(5)
    found = points["estimates"].reshape(-1, 2).numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)
    # One linear map for both kinds, which makes no distance longer.
    both = Runs(runs.k, runs.estimates, runs.estimates, runs.target, True)
    points, _, _ = pca(both)
    torch.testing.assert_close(points["h"], points["estimates"])
    lengths = (runs.estimates - runs.target).square().sum(dim=-1).mean(dim=-1).sqrt()
    assert bool((points["estimates"].norm(dim=-1) <= lengths + 1e-6).all())


def test_tsne_puts_near_meshes_near(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    runs = made_up(samples=5)
    # Estimates lie about the target and h far away from it.
    runs = Runs(runs.k, 100 + runs.h, 0.1 * runs.estimates + runs.target, runs.target, True)
    points, star = tsne(runs, seed=0)
    assert points["h"].shape == points["estimates"].shape == (3, 2, 5, 2)
    far, near = ((points[kind] - star).norm(dim=-1).min() for kind in ("h", "estimates"))
    assert far > near
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(ValueError, match="--projection tsne needs scikit-learn"):
        tsne(runs, seed=0)


def test_numbers_are_mean_distances() -> None:
    samples = torch.tensor([[[0.0, 0, 0]], [[0, 0, 0.01]]])
    assert numbers(samples, torch.tensor([[0.0, 0, 0.045]])) == "to target 40, spread 5 mm"


def test_a_picture_of_a_set(files: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "figure.png"
    main([*files, "--set", "sample", "--row", "3", "--columns", "3", "--output", str(out)])
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].strip() for line in lines[:3]] == list(VARIANTS)
    assert all("to target" in line for line in lines[:3])
    assert lines[3] == f"written: {out}"


def test_a_photograph_with_a_box_by_tsne(files: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    Image.new("RGB", (80, 60), "gray").save(tmp_path / "p.png")
    out = tmp_path / "figure.png"
    choice = ["--projection", "tsne", "--columns", "2", "--steps", "2", "--samples", "2"]
    main([*files, "--photo", str(tmp_path / "p.png"), "--box", "20", "5", "50", "55", *choice, "--output", str(out)])
    with Image.open(out) as picture:
        assert picture.width > 300


def test_what_cannot_be_drawn_is_refused_in_one_line(files: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("trainer: {}\n")
    (tmp_path / "wrong.yaml").write_text("model: {depth: 3}\n")
    single = tmp_path / "single.yaml"
    single.write_text(yaml.safe_dump({"model": {**SMALL, "estimator": "single_step"}}))
    for args, message in (
        ([*files, "--columns", "1"], "error: --columns: must be at least 2"),
        ([*files, "--row", "9999"], "error: --row: sample has the rows 0 to "),
        ([*files[:2], "--config", str(tmp_path / "empty.yaml")], "has no part `model`"),
        ([*files[:2], "--config", str(tmp_path / "wrong.yaml")], "error: --config: .*depth"),
        ([*files[:2], "--config", str(single)], "error: model.estimator is 'single_step'"),
        (["--weights", str(tmp_path / "none.safetensors")], "error: weights: .* is neither a file nor a shipped name"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*args, "--output", str(tmp_path / "figure.png")])
    assert not (tmp_path / "figure.png").exists()
