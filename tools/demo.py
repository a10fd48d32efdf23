"""`make demo`: the methods on photographs and on pictures and motion with known truth; numbers, pictures, a page.

    python tools/demo.py --output runs/demo [--overwrite] [--hypotheses 10] [--poses 16]

Real motion capture joins where the environment variable HUMANDIFF_DATA names a folder that holds ``cmu_mocap/``, and a
skier where it holds ``photos/``.
"""

import argparse
import html
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffhmr.data import DiffHMRDataModule
from diffhmr.module import DiffHMR
from diffhmr.sampler import Sampling as DiffHMRSampling
from diffupose.data import DiffuPoseDataModule
from diffupose.module import DiffuPose
from diffupose.sampler import Sampling
from hmdiff.data import HMDiffDataModule
from hmdiff.module import HMDiff
from hmdiff.sampler import Sampling as HMDiffSampling
from hmdiff.writer import HMDiffWriter
from posecore.body.skeletons import BODY_25, JOINTS_44
from posecore.body.smpl import SMPLLayer
from posecore.cli import run
from posecore.data import CMUMocap, DetectorNoise, OpenImages, PoseDataset, PoseSample, SyntheticMotion
from posecore.data.augment import CropAugmentation
from posecore.data.crops import IMAGENET_MEAN, IMAGENET_STD
from posecore.export.files import OutputFolder, write_bytes, write_text
from posecore.fitting.estimate import PosedPeople
from posecore.geometry.placement import reprojection_error
from posecore.metrics.protocols import evaluate, get_protocol
from posecore.render.hypotheses import hypotheses_mesh_panel
from posecore.render.mesh import before_after_panel
from posecore.render.panels import figure_png, hypothesis_panel
from posecore.training.prediction_writer import PredictionWriter
from posecore.training.smpl_writer import SMPLWriter
from scorehmr.data import ScoreHMRDataModule
from scorehmr.module import ScoreHMR
from zedo.data import ZeDODataModule
from zedo.module import ZeDO
from zedo.sampler import InitialPose, Target, initial_poses

METHODS = {
    "scorehmr": (ScoreHMR, ScoreHMRDataModule, SMPLWriter),
    "zedo": (ZeDO, ZeDODataModule, PredictionWriter),
    "diffupose": (DiffuPose, DiffuPoseDataModule, PredictionWriter),
    "diffhmr": (DiffHMR, DiffHMRDataModule, SMPLWriter),
    "hmdiff": (HMDiff, HMDiffDataModule, HMDiffWriter),
}
FEW = 5
"""HMDiff's samples and steps: the 25 and 40 of the paper cost a minute and more for all pictures of this demo."""
OPTIONS = {"hmdiff": ["--model.num_hypotheses", str(FEW), "--model.sampling.num_inference_steps", str(FEW)]}
"""What `predict` is given beside its config."""
PACKAGES = Path(__file__).parents[1] / "packages"
PHOTOGRAPHS = Path(__file__).parent / "demo_data"
PROTOCOL = get_protocol("open_h36m17")
BODY_PROTOCOL = get_protocol("open_smpl24_fit")
IMAGE_PROTOCOL = get_protocol("open_mesh24")


def main() -> None:
    """Runs the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that holds something")
    parser.add_argument("--hypotheses", type=int, default=10, help="S of the tests with known truth: 1, 10 or 50")
    parser.add_argument("--poses", type=int, default=16, help="poses of each test with known truth")
    args = parser.parse_args()
    sys.argv[1:] = []  # the method's command line below is not this program's
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    start = time.perf_counter()
    try:
        output = OutputFolder(args.output, args.overwrite)
        real = os.environ.get("HUMANDIFF_DATA")
        pictures = photographs(output, Path(real) if real else None)
        rows = motion(output, Path(real) if real else None, args.hypotheses, args.poses)
        bodies = fits(output, Path(real) if real else None, args.poses)
        images = rendered(output, args.hypotheses, args.poses)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    results = ((PROTOCOL, rows), (BODY_PROTOCOL, bodies), (IMAGE_PROTOCOL, images))
    tables = [{"protocol": protocol.describe(), "rows": lines} for protocol, lines in results]
    write_text(output.file("metrics.json"), json.dumps(tables, indent=2) + "\n")
    write_text(output.file("index.html"), page(pictures, rows, bodies, images))
    for protocol, lines in results:
        print(f"\n{protocol.describe()}\n{table(lines)}\n")
    print(f"{time.perf_counter() - start:.0f} seconds. Look at {args.output / 'index.html'}")


def photographs(output: OutputFolder, real: Path | None) -> list[tuple[str, str, str]]:
    """Every method's `predict` on each photograph; (title, folder, command) of each."""
    inputs = [
        ("photographer", PHOTOGRAPHS / "photographer.json", PHOTOGRAPHS / "photographer.png"),
        ("astronaut", PHOTOGRAPHS / "astronaut.json", PHOTOGRAPHS / "astronaut.png"),
    ]
    if real is not None and (real / "photos" / "skier.jpg").is_file():
        inputs.append(("skier", real / "photos" / "skier_coco_keypoints.json", real / "photos" / "skier.jpg"))
    done = []
    for name, keypoints, photo in inputs:
        args = ["predict", "--config", "open.yaml"]
        args += ["--data.predict.keypoints", str(keypoints), "--data.predict.photo", str(photo)]
        for method, (module, datamodule, writer) in METHODS.items():
            given = [*args, *OPTIONS.get(method, [])]
            print(f"\n{method} {' '.join(given)}")
            folder = f"{name}/{method}"
            writing = ["--output.folder", str(output.path / folder), "--output.overwrite", "true"]
            run(module, datamodule, PACKAGES / method / method / "configs", [*given, *writing], writer)
            shown = [part if part.startswith("-") else Path(part).name for part in given]
            done.append((name, folder, f"{method} {' '.join(shown)}"))
    return done


def fits(output: OutputFolder, real: Path | None, poses: int) -> list[dict[str, str | float]]:
    """ScoreHMR's bodies before and after the fit, on bodies of known shape and pose seen by a detector's errors."""
    model = ScoreHMR.pretrained()
    rows: list[dict[str, str | float]] = []
    settings: dict[str, Any] = {"joints": "body", "joint_set": "joints44", "cameras": "ring", "noise": DetectorNoise()}
    sets: dict[str, PoseDataset] = {
        "synthetic motion": SyntheticMotion(split="test", num_clips=28, stride=10, **settings)
    }
    if real is not None and (real / "cmu_mocap").is_dir():
        for split in ("test_subjects", "test_takes"):
            sets[f"CMU {split}"] = CMUMocap(real, split, **settings)
    for name, dataset in sets.items():
        step = max(1, len(dataset) // poses)
        batch = dataset.__getitems__(range(0, step * poses, step)[: len(dataset)])
        start = time.perf_counter()
        result = model(batch)
        print(f"{name}: {len(batch['K'])} bodies fitted by ScoreHMR in {time.perf_counter() - start:.1f} s")
        truth = batch["joints_smpl24_cam"]
        for label, estimate in (("start: regressed from keypoints", result.start), ("ScoreHMR", result.fitted)):
            joints = PosedPeople(estimate, model.scored_body).joints_cam
            scores = evaluate(BODY_PROTOCOL, joints[:, None], truth)
            rows.append(
                {
                    "data": f"{name}, detector-like 2D",
                    "method": label,
                    "MPJPE mm": round(float(scores["mpjpe"].mean()), 1),
                    "PA-MPJPE mm": round(float(scores["pa_mpjpe"].mean()), 1),
                }
            )
        layer = SMPLLayer(joints=())
        shown = torch.arange(3)
        before, after = (
            layer(e.betas, e.body_pose, e.global_orient, e.transl).vertices
            for e in (result.start.take(shown), result.fitted.take(shown))
        )
        width, height = batch["image_size"][0].int().tolist()
        figure = before_after_panel(
            np.full((height, width, 3), 245, dtype=np.uint8),
            before,
            after,
            layer.model.faces,
            batch["K"][0],
            batch["joints_2d_px"][shown, :25],
            batch["confidence"][shown, :25],
            BODY_25,
            f"ScoreHMR on {name}",
        )
        write_bytes(output.file(f"{name}_ScoreHMR.png".replace(" ", "_").lower()), figure_png(figure))
    return rows


Bodies = tuple[Tensor, Tensor]
"""Joints and vertices, both (people, hypotheses, _, 3), metres."""


def rendered(output: OutputFolder, hypotheses: int, poses: int) -> list[dict[str, str | float]]:
    """Diff-HMR's and HMDiff's bodies on the rendered pictures that are shipped, beside one that faces the camera."""
    dataset = OpenImages(Path(), ["sample"])
    rows_shown = list(range(0, len(dataset), max(1, len(dataset) // poses)))[:poses]
    raw = dataset.__getitems__(rows_shown)
    layer = SMPLLayer()
    true = layer(raw["betas"], raw["body_pose"], raw["global_orient"])
    facing = torch.eye(3).expand(len(true.joints), 1, 24, 3, 3).clone()
    facing[:, :, 0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # The camera's y points down, its z away.
    still = layer(torch.zeros(len(facing), 1, 10), facing[:, :, 1:], facing[:, :, 0])
    made: dict[str, Bodies] = {
        "facing the camera": (still.joints, still.vertices),
        **bodies_of_diffhmr(output, raw, layer, hypotheses),
        **meshes_of_hmdiff(output, raw),
    }
    rows: list[dict[str, str | float]] = []
    for method, (joints, vertices) in made.items():
        scores = evaluate(IMAGE_PROTOCOL, joints, true.joints, None, vertices, true.vertices)
        values = {f"{name.upper().replace('_', '-')} mm": float(value.mean()) for name, value in scores.items()}
        rows.append({"data": "rendered pictures", "method": method} | {k: round(v, 1) for k, v in values.items()})
    return rows


def bodies_of_diffhmr(output: OutputFolder, raw: PoseSample, layer: SMPLLayer, hypotheses: int) -> dict[str, Bodies]:
    """Diff-HMR's bodies by the rule that chose them."""
    model = DiffHMR.pretrained(num_hypotheses=hypotheses, sampling=DiffHMRSampling(num_inference_steps=25))
    batch = CropAugmentation(size=model.image_size).evaluate(raw, JOINTS_44)
    start = time.perf_counter()
    with torch.inference_mode():
        found = model(batch)
    took(raw, hypotheses, start, "Diff-HMR")
    posed = layer(found.betas[:, None], found.pose_rotmat[:, :, 1:], found.pose_rotmat[:, :, 0])
    bodies = posed.vertices + found.transl[:, None, None]
    draw_rendered(output, batch, bodies, found.best, layer, "Diff-HMR", f"{hypotheses} hypotheses")
    best = torch.arange(len(found.best)), found.best
    return {
        f"Diff-HMR, n = {hypotheses}, chosen without truth": (
            posed.joints[best][:, None],
            posed.vertices[best][:, None],
        ),
        f"Diff-HMR, n = {hypotheses}, least of each metric": (posed.joints, posed.vertices),
    }


def meshes_of_hmdiff(output: OutputFolder, raw: PoseSample) -> dict[str, Bodies]:
    """HMDiff's final meshes, and the samples that they are made of."""
    model = HMDiff.pretrained(num_hypotheses=FEW, sampling=HMDiffSampling(num_inference_steps=FEW))
    batch = CropAugmentation(size=model.image_size).evaluate(raw, JOINTS_44)
    start = time.perf_counter()
    found = model(batch)
    took(raw, FEW, start, "HMDiff")
    with torch.inference_mode():
        final, samples = model.upsample(found.final)[:, None], model.upsample(found.samples)
    meshes = torch.cat((final[:3], samples[:3]), dim=1) + found.transl[:3, None, None]
    best = torch.zeros(len(meshes), dtype=torch.int64)
    draw_rendered(output, batch, meshes, best, model.truth.full_layer, "HMDiff", f"no. 0 made of {FEW} samples")
    # A mesh has no kinematic joints: these are regressed from it.
    return {
        f"HMDiff, N = {FEW}, final mesh": (model.mesh.full_joints(final), final),
        f"HMDiff, N = {FEW}, least of each metric": (model.mesh.full_joints(samples), samples),
    }


def took(raw: PoseSample, hypotheses: int, start: float, method: str) -> None:
    """Says how long it took."""
    seconds = time.perf_counter() - start
    print(f"rendered pictures: {len(raw['K'])} people x {hypotheses} in {seconds:.1f} s by {method}")


def draw_rendered(
    output: OutputFolder,
    batch: PoseSample,
    bodies: Float[Tensor, "people n vertices 3"],
    best: Int[Tensor, " people"],
    layer: SMPLLayer,
    method: str,
    what: str,
) -> None:
    """The first three rendered pictures with the bodies that were found in them."""
    for number in range(3):
        photo = batch["image"][number] * torch.tensor(IMAGENET_STD)[:, None, None]
        photo = photo + torch.tensor(IMAGENET_MEAN)[:, None, None]
        figure = hypotheses_mesh_panel(
            (photo.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy(),
            bodies[number : number + 1],
            best[number : number + 1],
            layer.model.faces,
            batch["K"][number],
            title=f"{method} on a rendered picture, {what}",
            pick_name="Final" if method == "HMDiff" else "Pick",
        )
        write_bytes(output.file(rendered_name(method, number)), figure_png(figure))


def rendered_name(method: str, number: int) -> str:
    """The picture's file name."""
    return f"rendered_{method.replace('-', '').lower()}_{number}.png"


def motion(output: OutputFolder, real: Path | None, hypotheses: int, poses: int) -> list[dict[str, str | float]]:
    """Both methods and trivial baselines on motion with known truth, with exact and with a detector's 2D."""
    initial_pose = InitialPose(depth=None, keypoints=None)
    many = ZeDO.pretrained(num_hypotheses=hypotheses, initial_pose=initial_pose)
    one = ZeDO.pretrained(num_hypotheses=1, initial_pose=initial_pose)
    # The fast setting of the method card.
    diffupose = DiffuPose.pretrained(num_hypotheses=hypotheses, sampling=Sampling("ddim", 10, eta=1.0, clip_x0=1.5))
    rows: list[dict[str, str | float]] = []
    for noise_name, noise in (("exact 2D", None), ("detector-like 2D", DetectorNoise())):
        for name, dataset in data_sets(real, noise).items():
            step = max(1, len(dataset) // poses)
            batch = dataset.__getitems__(range(0, step * poses, step)[: len(dataset)])
            start = time.perf_counter()
            with torch.inference_mode():
                result, single = many(batch), one(batch)
                middle = time.perf_counter()
                sampled = diffupose(batch)
            seconds = middle - start, time.perf_counter() - middle
            chosen = result.joints_rel[torch.arange(len(result.best)), result.best][:, None]
            truth = batch["joints_rel"]
            for method, pred in {
                "mean pose": many.anchors_1.expand(len(truth), -1, -1, -1),
                "nearest anchor": nearest_anchor(many, batch),
                "ZeDO, S = 1": single.joints_rel,
                f"ZeDO, S = {hypotheses}, chosen without truth": chosen,
                f"ZeDO, S = {hypotheses}, best (minMPJPE)": result.joints_rel,
                "DiffuPose, N = 1": sampled.joints_rel[:, :1],
                f"DiffuPose, N = {hypotheses}, mean": sampled.pose[:, None],
                f"DiffuPose, N = {hypotheses}, best (minMPJPE)": sampled.joints_rel,
            }.items():
                scores = evaluate(PROTOCOL, pred.contiguous(), truth)
                rows.append(
                    {
                        "data": f"{name}, {noise_name}",
                        "method": method,
                        "MPJPE mm": round(float(scores["mpjpe"].mean()), 1),
                        "PA-MPJPE mm": round(float(scores["pa_mpjpe"].mean()), 1),
                    }
                )
            print(
                f"{name}, {noise_name}: {len(truth)} poses; ZeDO x {hypotheses + 1} hypotheses in {seconds[0]:.1f} s, "
                f"DiffuPose x {hypotheses} in {seconds[1]:.1f} s"
            )
            for method, made in (("ZeDO", result), ("DiffuPose", sampled)) if noise is None else ():
                figure = hypothesis_panel(
                    None,
                    batch["joints_2d_px"][:4],
                    batch["confidence"][:4],
                    made.joints_rel[:4],
                    made.best[:4],
                    dataset.joint_set,
                    f"{method} on {name}, {noise_name}",
                )
                write_bytes(output.file(f"{name}_{method}.png".replace(" ", "_").lower()), figure_png(figure))
    return rows


def data_sets(real: Path | None, noise: DetectorNoise | None) -> dict[str, PoseDataset]:
    """Synthetic motion, and the two CMU test sets where they are."""
    sets: dict[str, PoseDataset] = {
        "synthetic motion": SyntheticMotion(split="test", num_clips=28, stride=10, cameras="ring", noise=noise)
    }
    if real is not None and (real / "cmu_mocap").is_dir():
        for split in ("test_subjects", "test_takes"):
            sets[f"CMU {split}"] = CMUMocap(real, split, cameras="ring", noise=noise)
    return sets


def nearest_anchor(model: ZeDO, batch: PoseSample) -> Float[Tensor, "people 1 joints 3"]:
    """The anchor that, turned and placed, lies closest to the keypoints; what ZeDO starts from, without its loop."""
    target = Target(batch["joints_2d_px"], batch["confidence"], batch["K"])
    poses, transl = initial_poses(model.anchors_50, target, model.initial_pose)
    best = reprojection_error(poses, transl, target.joints_2d_px, target.confidence, target.K).argmin(-1)
    return poses[torch.arange(len(best)), best][:, None]


def table(rows: list[dict[str, str | float]]) -> str:
    """The rows as text."""
    columns = list(rows[0])
    cells = [columns, *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def page(
    pictures: list[tuple[str, str, str]],
    rows: list[dict[str, str | float]],
    bodies: list[dict[str, str | float]],
    images: list[dict[str, str | float]],
) -> str:
    """A page that shows every picture with the command that made it, and the tables."""
    figures = "".join(
        f"<figure><img src='{folder}/panel.png' alt='{name}: keypoints and 3D hypotheses'><figcaption><code>"
        f"{html.escape(command)}</code> <a href='{folder}/predictions.json'>JSON</a> "
        f"<a href='{folder}/predictions.npz'>npz</a></figcaption></figure>"
        for name, folder, command in pictures
    )
    names = dict.fromkeys(str(row["data"]).rsplit(", ", 1)[0] for row in rows)
    truths = "".join(
        f"<figure><img src='{f'{name}_{method}'.replace(' ', '_').lower()}.png' alt='{method} on {name}'></figure>"
        for name in names
        for method in METHODS
        if method not in ("diffhmr", "hmdiff")
    )
    truths += "".join(
        f"<figure><img src='{rendered_name(method, n)}' alt='{method} on a rendered picture'></figure>"
        for method in ("Diff-HMR", "HMDiff")
        for n in range(3)
    )

    def html_table(lines: list[dict[str, str | float]]) -> str:
        head = "".join(f"<th>{column}</th>" for column in lines[0])
        cells = ("".join(f"<td>{html.escape(str(value))}</td>" for value in line.values()) for line in lines)
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{cell}</tr>' for cell in cells)}</table>"

    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>humandiff demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1400px; padding: 0 1rem; color: #1f2937 }}
img {{ max-width: 100%; border: 1px solid #d1d5db; border-radius: 6px }} figure {{ margin: 1.5rem 0 }}
table {{ border-collapse: collapse }}
td, th {{ padding: .3rem .9rem; border-bottom: 1px solid #e5e7eb; text-align: left }}
td:nth-child(n+3) {{ text-align: right; font-variant-numeric: tabular-nums }}
</style>
<h1>humandiff demo: ScoreHMR, ZeDO, DiffuPose, Diff-HMR and HMDiff</h1>
<p>2D keypoints in, a body or many 3D poses out. ScoreHMR fits a body, guided by its diffusion model; ZeDO fits a pose
prior to the keypoints, DiffuPose samples poses given them. Diff-HMR and HMDiff look at the picture itself: Diff-HMR
samples bodies, and the keypoints only pick one; HMDiff samples meshes vertex by vertex, and makes one of all samples,
here with {FEW} samples and steps in place of 25 and 40. Their open weights have seen rendered pictures alone. All were
trained on CMU motion capture. The cameras of the photographs are unknown, so a focal length was assumed (each panel
says which).</p>
{figures}
<h2>Motion with known truth</h2>
<p>Protocol {html.escape(PROTOCOL.describe())}. Few poses, so that the demo is quick; the method card has the numbers
of the whole test.</p>
{html_table(rows)}
<p>Protocol {html.escape(BODY_PROTOCOL.describe())}.</p>
{html_table(bodies)}
<p>Protocol {html.escape(IMAGE_PROTOCOL.describe())}.</p>
{html_table(images)}
{truths}
</html>
"""


if __name__ == "__main__":
    main()
