"""Draws Figure 3 of the HMDiff paper: where the samples are, step by step, without DAT, with a plain pull, with DAT.

    python tools/plot_mesh_diffusion.py                                             # a rendered picture that is shipped
    python tools/plot_mesh_diffusion.py --data FOLDER --set test_subjects --row 7   # tools/prepare_open_images.py
    python tools/plot_mesh_diffusion.py --photo P.jpg --box 120 40 380 620

Rows are the variants of Tables 4 and 5: "Standard" has no alignment, "Disrupted" draws h_k itself to the prior, "Ours"
is DAT. All begin with the same noise and have the same poses of the prior. Columns are steps, dots are samples, the
star is the target: the true mesh of a rendered picture; of a photograph, a rough mesh about the prior's mean pose.

The estimates of h_0 are drawn beside h_k, which is noise until late: h_k = sqrt(alpha_k) h_0 + sqrt(1 - alpha_k) noise.

Deviation: the paper maps samples to 2D by t-SNE, which keeps neighbours and no distances, so a cloud's size and its
distance from the target mean nothing. Default here are the two directions through the target along which the estimates
of all panels together are farthest from it: one linear map for all panels. `--projection tsne` is the paper's, of the
samples of all panels together; it needs scikit-learn (extra `prior`).
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from jaxtyping import Float
from jsonargparse import ArgumentParser
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import hmdiff
from hmdiff.module import METHOD, SHIPPED, HMDiff
from hmdiff.sampler import Meshes, Record
from posecore.body.skeletons import JOINTS_44
from posecore.data.augment import CropAugmentation
from posecore.data.open_images import SAMPLE, OpenImages
from posecore.data.predict_input import CROP_MARGIN, PredictInput
from posecore.data.sample import PoseSample
from posecore.export.files import write_bytes
from posecore.render.cells import FRAME, GAP, HEADING, MARGIN, QUIET, TEXT, panel_figure
from posecore.render.panels import figure_png
from posecore.training.checkpoints import load_weights, resolve_weights

# A coefficient of 0 moves nothing, and poses and noise are drawn as for the others; with alignment of "nothing" there
# are no poses to draw, and the noise would be another.
VARIANTS: dict[str, dict[str, Any]] = {
    "Standard": {"of": "sample", "gamma": 0.0},
    "Disrupted": {"of": "sample"},
    "Ours (DAT)": {"of": "estimate"},
}
COLORS = {"Standard": "#6b7480", "Disrupted": "#e8761a", "Ours (DAT)": "#2477b3"}
PACKAGE = Path(hmdiff.__file__).parent
_CELL, _SIDE = 1.75, 0.35  # inches; the second is for what stands beside a row
_STAR = "#b5373f"


@dataclass(frozen=True)
class Runs:
    """What the variants did with one picture.

    Attributes:
        k: The steps, falling.
        h: h_k of each variant, metres, camera axes, relative to the root.
        estimates: Of h_0, likewise; those of the last step are the samples of H_0.
        target: The star.
        is_true: Whether that is the true mesh.
    """

    k: tuple[int, ...]
    h: Float[Tensor, "variants steps samples vertices 3"]
    estimates: Float[Tensor, "variants steps samples vertices 3"]
    target: Float[Tensor, "vertices 3"]
    is_true: bool

    def take(self, columns: int) -> "Runs":
        """That many steps, evenly spaced, the first and the last among them."""
        kept = torch.linspace(0, len(self.k) - 1, min(columns, len(self.k))).round().long()
        return replace(
            self, k=tuple(self.k[i] for i in kept.tolist()), h=self.h[:, kept], estimates=self.estimates[:, kept]
        )


def main(args: Sequence[str] | None = None) -> None:
    """Runs the variants and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="open", help="shipped name or safetensors file")
    parser.add_argument("--config", type=Path, help="YAML whose part `model` says what the weights are of")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with open_images/")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--set", default=SAMPLE, help="set of rendered pictures")
    place.add_argument("--photo", type=Path)
    parser.add_argument("--row", type=int, default=0, help="of the set")
    parser.add_argument("--box", type=float, nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"), help="pixels")
    parser.add_argument("--samples", type=int, help="N; the model's where not given")
    parser.add_argument("--steps", type=int, help="of DDIM; the model's where not given")
    parser.add_argument("--columns", type=int, default=6, help="how many of the steps are drawn")
    parser.add_argument("--projection", choices=("pca", "tsne"), default="pca")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/hmdiff/mesh_diffusion.png"))
    given = parser.parse_args(args)
    try:
        if given.columns < 2:
            raise ValueError(f"--columns: must be at least 2, the first step and the last, not {given.columns}")
        model = load(given.weights, given.config)
        model.seed = given.seed
        if given.photo is None:
            batch, name = rendered(model, given.data, given.set, given.row), f"{given.set}, row {given.row}"
        else:
            batch, name = photographed(model, given.photo, given.box), given.photo.name
        runs = run(model, batch, given.samples, given.steps)
        picture = figure_png(draw(runs.take(given.columns), given.projection, given.seed, name))
        given.output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(given.output, picture)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for variant, estimates in zip(VARIANTS, runs.estimates, strict=True):
        print(f"{variant:10}  {numbers(estimates[-1], runs.target)}")
    print(f"written: {given.output}")


def load(weights: str, config: Path | None = None) -> HMDiff:
    """The model that the weights are of.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: The config does not describe a model, or the weights do not fit it.
    """
    section: Any = SHIPPED
    if config is not None:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        section = content.get("model") if isinstance(content, Mapping) else None
        if not isinstance(section, Mapping):
            raise ValueError(f"--config: {config} has no part `model`")
    file = resolve_weights(weights, PACKAGE)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(HMDiff, "model")
    try:
        parsed = parser.parse_object({"model": {**section, "weights": str(file)}})
    except Exception as error:  # jsonargparse's own, of which the message is all there is to know
        raise ValueError(f"--config: {config}: {error}") from error
    model: HMDiff = parser.instantiate(parsed).model
    load_weights(file, model, METHOD)
    return model.eval()


def rendered(model: HMDiff, root: Path, name: str, row: int) -> PoseSample:
    """A picture of a rendered set as the network's crop, with its truth.

    Raises:
        FileNotFoundError: There is no such set.
        ValueError: It has no such row.
    """
    data = OpenImages(root, [name])
    if not 0 <= row < len(data):
        raise ValueError(f"--row: {name} has the rows 0 to {len(data) - 1}, not {row}")
    return CropAugmentation(model.image_size, data.crop_margin).evaluate(data.__getitems__([row]), JOINTS_44)


def photographed(model: HMDiff, photo: Path, box: Sequence[float] | None) -> PoseSample:
    """The person in a box of a photograph, or the one who fills it, as the network's crop.

    Raises:
        FileNotFoundError: There is no such photograph.
        ValueError: It cannot be read, or the box is none.
    """
    given = PredictInput(photo, box=None if box is None else (box[0], box[1], box[2], box[3]))
    rows = given.dataset(JOINTS_44.name, True, "people").__getitems__([0])
    return CropAugmentation(model.image_size, CROP_MARGIN).evaluate(rows, JOINTS_44)


def run(model: HMDiff, batch: PoseSample, num_samples: int | None = None, steps: int | None = None) -> Runs:
    """All variants on a batch of one picture, from the same noise and the same poses of the prior.

    Args:
        model: The model.
        batch: One crop; a true body with it becomes the target.
        num_samples: N; the model's where None.
        steps: Of DDIM; the model's where None.

    Raises:
        ValueError: The model does not sample in steps, or a number is out of range.
    """
    if model.estimator != "diffusion":
        raise ValueError(f"model.estimator is {model.estimator!r}; there are steps to draw of 'diffusion' only")
    sampling = model.sampling if steps is None else replace(model.sampling, num_inference_steps=steps)
    all_records: list[list[Record]] = []
    for changes in VARIANTS.values():
        all_records.append([])
        meshes: Meshes = model(
            batch, num_samples, sampling, replace(model.alignment, **changes), record=all_records[-1].append
        )
    is_true = "betas" in batch
    if is_true:
        coarse = model.truth.coarse_of_level(model.truth.level_vertices(batch))
        target = coarse - model.mesh.joints(coarse)[:, :1]
    else:
        pose = meshes.prior.in_metres(meshes.prior.mean()[:, None], batch["K"], model.image_size)
        target = model.mesh.lift(pose)[:, 0]
    return Runs(
        tuple(record.k for record in all_records[0]),
        torch.stack([torch.stack([record.h[0] for record in records]) for records in all_records]).cpu(),
        torch.stack([torch.stack([record.estimate[0] for record in records]) for records in all_records]).cpu(),
        target[0].cpu(),
        is_true,
    )


def pca(runs: Runs) -> tuple[dict[str, Tensor], Tensor, float]:
    """Both kinds of meshes in the plane through the target in which the estimates are farthest from it.

    Returns:
        Points (variants, steps, samples, 2) of ``h`` and ``estimates``, the target's, and the share of the estimates'
        squared distances from the target that the plane shows. Unit: root mean square over the vertices, metres.
    """
    scale = len(runs.target) ** -0.5
    away = {"h": runs.h - runs.target, "estimates": runs.estimates - runs.target}
    _, size, directions = torch.linalg.svd(away["estimates"].flatten(0, 2).flatten(1).double(), full_matrices=False)
    points = {name: scale * values.flatten(-2).double() @ directions[:2].T for name, values in away.items()}
    share = float(size[:2].square().sum() / size.square().sum().clamp_min(torch.finfo(size.dtype).tiny))
    return points, torch.zeros(2, dtype=torch.float64), share


def tsne(runs: Runs, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """The same points and the target's by t-SNE of all meshes of all panels together; distances mean nothing.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ValueError("--projection tsne needs scikit-learn: pip install 'humandiff[prior]'") from error
    meshes = torch.cat((runs.h.flatten(0, 2), runs.estimates.flatten(0, 2), runs.target[None])).flatten(1)
    perplexity = min(30.0, (len(meshes) - 1) / 3)
    found = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(meshes.numpy())
    h, estimates = torch.from_numpy(found[:-1]).double().chunk(2)
    shape = (*runs.h.shape[:3], 2)
    return {"h": h.view(shape), "estimates": estimates.view(shape)}, torch.from_numpy(found[-1]).double()


def numbers(samples: Float[Tensor, "samples vertices 3"], target: Float[Tensor, "vertices 3"]) -> str:
    """How far samples are from the target and from their mean, over all coordinates and not in a projection."""
    away, spread = (1000 * float((samples - middle).norm(dim=-1).mean()) for middle in (target, samples.mean(dim=0)))
    return f"to target {away:.0f}, spread {spread:.0f} mm"


def draw(runs: Runs, projection: str, seed: int = 0, name: str = "") -> Figure:
    """The picture: h_k above, estimates of h_0 below; in each a row per variant and a column per step.

    Args:
        runs: What is shown.
        projection: ``"pca"`` or ``"tsne"``.
        seed: Of t-SNE.
        name: Of the picture that the meshes are of.
    """
    if projection == "tsne":
        points, star = tsne(runs, seed)
        how = "t-SNE of all panels together, in which distances mean nothing"
    else:
        points, star, share = pca(runs)
        how = (
            f"one plane through the target for all panels, with {100 * share:.0f} % of the estimates' squared "
            "distances from it; the columns of h_k have a scale each, those of the estimates one; "
            "headings say how wide a panel is"
        )
    target = "the true mesh" if runs.is_true else "a rough mesh about the prior's mean pose"
    subtitle = (
        f"Dots: {runs.h.shape[2]} samples. Star: {target}. Projection: {how}.\n"
        "Above h_k, the mesh times sqrt(alpha_k) and noise; below the estimate of h_0 at that step, in the last column "
        "the samples of H_0.\n"
        "Below each panel: mean distance of the vertices from the target and from the samples' mean, in 3D."
    )
    rows, columns = len(VARIANTS), len(runs.k)
    block = rows * (_CELL + HEADING) + HEADING
    figure, head = panel_figure(
        2 * MARGIN + _SIDE + columns * (_CELL + GAP) - GAP, 2 * block + MARGIN, f"Reverse diffusion of {name}", subtitle
    )
    width, height = figure.get_size_inches()
    all_reach = _reach(torch.cat([p.flatten(0, 2) for p in points.values()]), star)
    for number, (kind, label) in enumerate((("h", "h_k"), ("estimates", "h_0"))):
        meshes = cast(Tensor, getattr(runs, kind))
        for column, k in enumerate(runs.k):
            reach = all_reach
            if projection == "pca":
                shown = points[kind][:, column] if kind == "h" else points[kind]
                reach = _reach(shown.reshape(-1, 2), star)
            for row, variant in enumerate(VARIANTS):
                top = head + number * block + HEADING + row * (_CELL + HEADING)
                left = MARGIN + _SIDE + column * (_CELL + GAP)
                corner = (left / width, 1 - (top + _CELL) / height)
                ax = figure.add_axes((*corner, _CELL / width, _CELL / height))
                _panel(ax, points[kind][row, column], star, reach, COLORS[variant])
                ax.set_xlabel(numbers(meshes[row, column], runs.target), fontsize=6.5, color=QUIET, labelpad=3)
                if not row:
                    scale = f", {2 * reach:.2g} m" if projection == "pca" else ""
                    ax.set_title(f"{label} at k = {k}{scale}", fontsize=7.5, color=TEXT, pad=4, parse_math=False)
                if not column:
                    ax.set_ylabel(variant, fontsize=9.5, color=TEXT, weight="bold")
    return figure


def _reach(points: Float[Tensor, "points 2"], star: Float[Tensor, "2"]) -> float:
    """Half the side of a square about the star that holds all points."""
    return max(1.08 * float((points - star).abs().max()), math.ulp(1.0))


def _panel(ax: Axes, dots: Float[Tensor, "samples 2"], star: Float[Tensor, "2"], reach: float, color: str) -> None:
    x, y = star.tolist()
    ax.scatter(dots[:, 0].numpy(), dots[:, 1].numpy(), s=14, color=color, alpha=0.65, linewidths=0, zorder=2)
    ax.scatter(x, y, s=70, marker="*", color=_STAR, edgecolors="white", linewidths=0.5, zorder=3)
    ax.set_xlim(x - reach, x + reach)
    ax.set_ylim(y - reach, y + reach)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_color(FRAME)


if __name__ == "__main__":
    main()
