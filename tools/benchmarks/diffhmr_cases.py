"""Diff-HMR: sampling, a training step, crops, pictures and scores against plain programs."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain_diffhmr import plain_crops, plain_pictures, plain_sample, plain_scores
from benchmarks.timing import OURS, Case, Variant
from diffhmr.module import DiffHMR
from diffhmr.network import UNet1D
from diffhmr.sampler import Sampling, sample
from diffhmr.scores import Scores
from posecore.body.files import load_body_model
from posecore.body.skeletons import JOINTS_44
from posecore.data import OpenImages
from posecore.data.augment import CropAugmentation
from posecore.data.base import PoseTable
from posecore.data.open_images import ASSETS, SAMPLE, shard_path
from posecore.data.sample import PoseSample
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.metrics.protocols import get_protocol

OPEN: dict[str, Any] = {"backbone": "resnet10t", "image_size": 96, "dim": 32}
PAPER: dict[str, Any] = {"backbone": "resnet50", "image_size": 224, "dim": 64}
QUICK: dict[str, Any] = {"backbone": "regnetx_002", "image_size": 64, "dim": 16, "hidden_dim": 32}
MARGIN = 1.5


def random_model(**options: Any) -> DiffHMR:
    """A model of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return DiffHMR(pretrained=False, protocol="open_mesh24", **options)


class Hypotheses:
    """Images of which many hypotheses are sampled, each from a given noise."""

    def __init__(self, people: int, hypotheses: int, steps: int, **options: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = random_model(**options).eval()
        size = self.model.image_size
        self.image = torch.randn(people, 3, size, size, generator=generator)
        self.x_T = torch.randn(people, hypotheses, 24, 6, generator=generator)
        self.settings = Sampling("ddim", steps)

    @property
    def denoiser(self) -> UNet1D:
        """The U-Net."""
        assert self.model.denoiser is not None
        return self.model.denoiser

    @torch.no_grad()
    def ours(self) -> Tensor:
        """By `diffhmr.sampler.sample`: the images are looked at once, all hypotheses move together."""
        prepared = self.denoiser.prepare(self.model.encoder(self.image))
        schedule, hypotheses = self.model.schedule, self.x_T.shape[1]
        return sample(self.denoiser, schedule, prepared, hypotheses, self.settings, clip_x0=1.0, x_T=self.x_T).flatten(
            0, 1
        )

    def plain(self, encode_once: bool) -> Tensor:
        """The first hypothesis of the first image by `plain_sample`."""
        steps = self.settings.num_inference_steps
        assert steps is not None
        first = plain_sample(self.model.encoder, self.denoiser, self.image[0], self.x_T[0, 0], steps, encode_once)
        return first[None]


def diffhmr_cases(quick: bool) -> Iterator[Case]:
    """The open sizes, and the paper's for one image; then what else takes time in training and testing."""
    if quick:
        sizes = [("quick", QUICK, 2)]
    else:
        sizes = [("open sizes", OPEN, 1), ("open sizes", OPEN, 8), ("the paper's sizes", PAPER, 1)]
    hypotheses, steps = (3, 4) if quick else (25, 50)
    for label, options, people in sizes:
        name = f"{hypotheses} hypotheses, {steps} DDIM steps, B={people}, {label}"
        yield _sampling(name, Hypotheses(people, hypotheses, steps, **options))
    yield _training_step(8 if quick else 64, QUICK if quick else OPEN)
    yield _crops(8 if quick else 64, 112)
    yield _pictures(8 if quick else 64)
    yield _scoring(2 if quick else 8, 3 if quick else 25)


def _sampling(name: str, problem: Hypotheses) -> Case:
    rows = problem.x_T.shape[0] * problem.x_T.shape[1]
    note = f"extrapolated from 1 of {rows} hypotheses"
    variants = {
        OURS: Variant(problem.ours),
        "plain": Variant(lambda: problem.plain(False), rows, f"encoder at every step; {note}"),
        "encoder once": Variant(lambda: problem.plain(True), rows, f"per hypothesis, condition at every step; {note}"),
    }
    return Case("diffhmr", name, variants, "relative")


def _people(rows: int, size: int) -> PoseSample:
    """Rows of the shipped sample, their raw crops brought to the size of those that training has."""
    batch = OpenImages(ASSETS, [SAMPLE]).__getitems__(range(rows))
    raw = round(MARGIN * size)
    batch["image"] = F.interpolate(batch["image"].float(), (raw, raw), mode="bilinear").round().to(torch.uint8)
    return batch


def _training_step(rows: int, options: dict[str, Any]) -> Case:
    """Forward, backward and Adam; what is compared does not depend on the draws: losses of shape and camera."""
    batch = CropAugmentation(options["image_size"]).evaluate(_people(rows, options["image_size"]), JOINTS_44)

    def stepping(draws: int) -> Variant:
        model = random_model(noise_draws=draws, **options).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)

        def run() -> Tensor:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                losses = model._losses(batch, torch.Generator().manual_seed(0))
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            return torch.stack((losses["betas"], losses["camera"]))

        return Variant(run, 4 / draws, "" if draws == 4 else "4 steps of 1 draw of timestep and noise each")

    variants = {OURS: stepping(4), "1 draw": stepping(1)}
    return Case("diffhmr", f"training on 4 draws of each of {rows} images", variants, "relative")


def _crops(rows: int, size: int) -> Case:
    batch, augmentation = _people(rows, size), CropAugmentation(size, MARGIN)

    def ours() -> Tensor:
        out = augmentation.train(batch, JOINTS_44, torch.Generator().manual_seed(0))
        keypoints = out["joints_2d_px"] / size * (out["confidence"] > 0)[..., None]
        parts = (out["image"], keypoints, out["joints_cam"], out["global_orient"], out["body_pose"])
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    variants = {
        OURS: Variant(ours),
        "plain": Variant(
            lambda: plain_crops(batch, size, MARGIN, 0), note="one by one: PIL and numpy, rounded to 8 bits"
        ),
    }
    return Case("diffhmr", f"random crops of {size} px with labels, {rows} rows", variants, "relative")


def _pictures(rows: int) -> Case:
    dataset = OpenImages(ASSETS, [SAMPLE])
    path = shard_path(ASSETS, SAMPLE, 0, 1)
    variants = {
        OURS: Variant(lambda: dataset.__getitems__(range(rows))["image"], note="labels too"),
        "plain": Variant(lambda: plain_pictures(path, rows), note="h5py, the file opened for every row, no labels"),
    }
    return Case("diffhmr", f"OpenImages, {rows} pictures of 144 px", variants)


def _scoring(people: int, hypotheses: int) -> Case:
    generator = torch.Generator().manual_seed(0)
    pose = axis_angle_to_rotmat(0.3 * torch.randn(people, hypotheses + 1, 24, 3, generator=generator))
    betas = torch.randn(2, people, 10, generator=generator)
    true, best = pose[:, 0], torch.arange(people) % hypotheses
    batch: PoseSample = {"global_orient": true[:, 0], "body_pose": true[:, 1:], "betas": betas[0]}
    body = load_body_model()
    scores = Scores(get_protocol("open_mesh24"), body, None, (hypotheses,))
    scores.make({}, {"people": PoseTable(JOINTS_44, batch)})

    @torch.no_grad()
    def ours() -> Tensor:
        scores.update("test/people", batch, pose[:, 1:], betas[1], best)
        return _in_order(scores.compute("test"))

    @torch.no_grad()
    def plain() -> Tensor:
        return _in_order(plain_scores(body, pose[:, 1:], betas[1], true, betas[0], best))

    name = f"scores of {people} people x {hypotheses} meshes"
    variants = {OURS: Variant(ours), "plain": Variant(plain, note="one by one: smplx and numpy")}
    return Case("diffhmr", name, variants, "relative")


def _in_order(values: dict[str, Any]) -> Tensor:
    by_name = {name.rpartition("/")[2]: float(value) for name, value in values.items()}
    return torch.tensor([by_name[name] for name in sorted(by_name)])
