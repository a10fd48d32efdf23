"""The rows of `tools/ablations.py`: settings of the shipped models, by table, each with the row it is compared with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffhmr.module import DiffHMR
from diffhmr.sampler import Sampling as DiffHMRSampling
from diffupose.module import DiffuPose
from diffupose.sampler import Sampling
from diffupose.scoring import poses_by_rule
from hmdiff.dat import Alignment
from hmdiff.module import HMDiff
from hmdiff.sampler import Sampling as HMDiffSampling
from posecore.body.skeletons import H36M_17, JOINTS_44
from posecore.body.smpl import SMPLLayer
from posecore.data import CMUMocap, DetectorNoise, OpenImages, PoseDataset, PoseSample
from posecore.data.augment import CropAugmentation
from posecore.fitting.estimate import PosedPeople
from posecore.metrics.protocols import evaluate, evaluate_prefixes, get_protocol
from scorehmr.fitting import FitSettings, PriorFitSettings
from scorehmr.guidance import TermWeights
from scorehmr.module import ScoreHMR
from scorehmr.sampler import Guidance
from scorehmr.start import KeypointStart
from zedo.module import ZeDO
from zedo.sampler import InitialPose, Loop

Scores = dict[str, Tensor]
"""By metric, one value a picture, mm."""
TEST_SETS = ("test_subjects", "test_takes")


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        name: As in the paper's table where it has one.
        run: Scores of a batch.
        against: The row it is compared with; None for a reference.
    """

    name: str
    run: Callable[[PoseSample], Scores]
    against: str | None = None


@dataclass(frozen=True)
class Group:
    """Rows on the same pictures.

    Attributes:
        sets: The test sets from the data folder.
        metrics: Those that are shown.
        rows: In the order of the table.
    """

    sets: Callable[[Path], Mapping[str, PoseDataset]]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]


def cmu(root: Path, strides: tuple[int, int] = (10, 24), **kwargs: Any) -> dict[str, PoseDataset]:
    """Both CMU test sets, every so many frames."""
    return {
        split: CMUMocap(root, split, cameras="ring", stride=stride, **kwargs)
        for split, stride in zip(TEST_SETS, strides, strict=True)
    }


def bodies(root: Path, **kwargs: Any) -> dict[str, PoseDataset]:
    """The same with SMPL bodies, seen by a detector's errors."""
    return cmu(root, joints="body", joint_set="joints44", betas="clip", noise=DetectorNoise(), **kwargs)


def rendered(root: Path, strides: tuple[int, int] = (12, 12)) -> dict[str, PoseDataset]:
    """Rendered pictures of both test sets."""
    return {s: OpenImages(root, [s], stride=stride) for s, stride in zip(TEST_SETS, strides, strict=True)}


# ScoreHMR


def scorehmr(
    batch: PoseSample,
    terms: Mapping[str, Any] | None = None,
    guidance: Mapping[str, Any] | None = None,
    fit: FitSettings | None = None,
    start: str | None = None,
) -> Scores:
    """Scores after a fit; settings are those of terms/keypoints.yaml where not given."""
    model = ScoreHMR.pretrained(
        terms=TermWeights(**(terms or {})),
        fit=replace(fit or FitSettings(), guidance=Guidance(**(guidance or {}))),
        start=KeypointStart(start) if start else None,
    )
    joints = PosedPeople(model(batch).fitted, model.scored_body).joints_cam
    return evaluate(get_protocol("open_smpl24_fit"), joints[:, None], batch["joints_smpl24_cam"])


def scorehmr_rows(start: str | None) -> tuple[Row, ...]:
    """Starts, baselines of Table 2, and what the paper's loop is made of."""
    gaussian = PriorFitSettings("gaussian", lr=3e-3, w_prior=0.3)
    diffusion = PriorFitSettings("diffusion", lr=3e-3, w_prior=10.0)
    run = partial(scorehmr, start=start)
    first = "ScoreHMR"

    def guided(name: str, **settings: Any) -> Row:
        return Row(name, partial(run, guidance=settings), first)

    def termed(name: str, **settings: Any) -> Row:
        return Row(name, partial(run, terms=settings), first)

    return (
        Row("start", partial(run, fit=FitSettings("none"))),
        Row(first, run, "start"),
        Row("SMPLify", partial(run, fit=FitSettings("smplify")), "start"),
        Row("plain fit, Gaussian prior", partial(run, fit=FitSettings("prior", prior=gaussian)), "start"),
        Row("plain fit, diffusion prior", partial(run, fit=FitSettings("prior", prior=diffusion)), "start"),
        guided("no guidance (rho = 0)", gradient_scale=0.0),
        *(guided(f"{n} loops", outer_loops=n) for n in (1, 2, 5, 20)),
        *(guided(f"tau {t}", noise_level=t) for t in (20, 100, 200)),
        *(guided(f"step {s}", step=s) for s in (1, 5, 10)),
        guided("no early stopping", stop_change=None),
        guided("gradient through the network", through_network=True),
        guided("camera fixed", camera_lr=0.0),
        termed("confidence to the power 1 (Eq. 12)", confidence_power=1.0),
        termed("no robust error (Eq. 12)", sigma=1e6),
        termed("without hips", use_hips=False),
    )


def views_rows() -> tuple[Row, ...]:
    """Table 3's setting, and other noise levels and loops."""
    base = {"noise_level": 100, "step": 10, "outer_loops": 2, "stop_change": None}
    terms = {"keypoints": 0.0, "views": 450.0, "mean_betas": True}

    def row(name: str, **changes: Any) -> Row:
        return Row(name, partial(scorehmr, terms=terms, guidance={**base, **changes}), "start")

    both = {"keypoints": 0.003, "views": 450.0, "mean_betas": True}
    return (
        Row("start", partial(scorehmr, fit=FitSettings("none"))),
        row("views"),
        row("views, 1 loop", outer_loops=1),
        row("views, 5 loops", outer_loops=5),
        row("views, tau 50, step 2", noise_level=50, step=2),
        Row("views + keypoints", partial(scorehmr, terms=both, guidance={"stop_change": None}), "start"),
    )


# ZeDO


def zedo(
    batch: PoseSample,
    hypotheses: int = 1,
    initial: InitialPose | None = None,
    loop: Loop | None = None,
    anchor: Callable[[ZeDO], Tensor] | None = None,
    **kwargs: Any,
) -> Scores:
    """Best of S by the truth, as in the paper; S = 1 has no choice."""
    model = ZeDO.pretrained(
        num_hypotheses=hypotheses,
        initial_pose=initial or InitialPose(depth=None, keypoints=None),
        loop=loop or Loop(),
        protocol="open_h36m17",
        **kwargs,
    )
    if anchor is not None:
        model.anchors_1.copy_(anchor(model))
    with torch.inference_mode():
        found = model(batch).joints_rel
    return evaluate(model.protocol, found, batch["joints_rel"])


def facing(model: ZeDO) -> Tensor:
    """A body in place of the mean pose: the 50 anchors turned to face the camera before their mean is taken.

    The check of Table 7: seen from all sides, poses have a mean without hips and shoulders, which this one has.
    """
    poses: Tensor = model.anchors_50
    across = poses[:, H36M_17.index("l_hip")] - poses[:, H36M_17.index("r_hip")]
    angle = torch.atan2(across[:, 2], across[:, 0])  # to the camera's x, about its y
    cos, sin = angle.cos(), angle.sin()
    x = cos[:, None] * poses[..., 0] + sin[:, None] * poses[..., 2]
    z = -sin[:, None] * poses[..., 0] + cos[:, None] * poses[..., 2]
    return torch.stack((x, poses[..., 1], z), dim=-1).mean(dim=0, keepdim=True)


def zedo_table4(hypotheses: int) -> tuple[Row, ...]:
    """RO and WU by the shipped prior, which has RA."""
    fixed = InitialPose(enabled=False, depth=None, keypoints=None)
    run = partial(zedo, hypotheses=hypotheses)
    return (
        Row("nothing", partial(run, initial=fixed, loop=Loop(warmup=0))),
        Row("RO", partial(run, loop=Loop(warmup=0)), "nothing"),
        Row("RO, WU", run, "nothing"),
    )


def zedo_table7() -> tuple[Row, ...]:
    """Initial poses."""
    return (
        Row("K-means", zedo),
        *(Row(f"random generation, seed {s}", partial(zedo, anchors="generated", seed=s), "K-means") for s in range(4)),
        Row("mean of anchors that face the camera", partial(zedo, anchor=facing), "K-means"),
    )


def zedo_figure5() -> tuple[Row, ...]:
    """Iterations, and the check of why more are worse: the same number with the path of a thousand."""
    first = "1000 iterations"
    return (
        Row(first, zedo),
        *(Row(f"{n} iterations", partial(zedo, loop=Loop(n)), first) for n in (100, 250, 500, 1500, 2000)),
        *(Row(f"{n} iterations, dt = 1/{n}", partial(zedo, loop=Loop(n, dt=1 / n)), first) for n in (250, 500, 2000)),
    )


# DiffuPose


@cache
def diffupose_model(**kwargs: Any) -> DiffuPose:
    """The shipped network with ten DDIM steps where no other sampling is given."""
    return DiffuPose.pretrained(**{"sampling": Sampling("ddim", 10, eta=1.0, clip_x0=1.5), **kwargs})


def diffupose(batch: PoseSample, rule: str = "", **kwargs: Any) -> Scores:
    """The pose that a rule of `diffupose.scoring` scores."""
    model = diffupose_model(**kwargs)
    with torch.inference_mode():
        found = model(batch)
    return evaluate(model.protocol, poses_by_rule(found, batch)[rule].contiguous(), batch["joints_rel"])


def diffupose_rows() -> tuple[Row, ...]:
    """N of Table 4, and what the paper does without a row of its own."""
    no_flip = Sampling("ddim", 10, eta=1.0, clip_x0=1.5, flip=False)
    first = "N = 10"
    return (
        Row("N = 1", partial(diffupose, num_hypotheses=1)),
        Row("N = 5", partial(diffupose, num_hypotheses=5), "N = 1"),
        Row(first, diffupose, "N = 1"),
        Row("N = 30", partial(diffupose, num_hypotheses=30), first),
        Row("N = 10, no flip in testing", partial(diffupose, sampling=no_flip), first),
        Row("N = 10, medoid", partial(diffupose, aggregation="medoid"), first),
        Row("N = 10, least reprojection error", partial(diffupose, aggregation="reprojection"), first),
        Row("N = 10, true root used", partial(diffupose, rule="true_root_"), first),
    )


# Diff-HMR and HMDiff


@cache
def layer() -> SMPLLayer:
    """The open body."""
    return SMPLLayer()


class DiffHMRRows:
    """Rows that share their hypotheses: those of a batch are drawn once for every number of steps."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], dict[str, Scores]] = {}

    def __call__(self, batch: PoseSample, row: str, steps: int = 25) -> Scores:
        """Scores of a row: the least of so many for each metric, as in the paper, or the pick, without truth."""
        key = id(batch), steps  # a batch lives as long as its group runs
        if key not in self._kept:
            self._kept[key] = self._run(batch, steps)
        return self._kept[key][row]

    def _run(self, batch: PoseSample, steps: int) -> dict[str, Scores]:
        model = DiffHMR.pretrained(num_hypotheses=25, sampling=DiffHMRSampling(num_inference_steps=steps))
        true = layer()(batch["betas"], batch["body_pose"], batch["global_orient"])
        protocol = get_protocol("open_mesh24")
        with torch.inference_mode():
            found = model(CropAugmentation(size=model.image_size).evaluate(batch, JOINTS_44))
        parts: list[dict[str, Scores]] = []
        for rows in torch.arange(len(true.joints)).split(16):  # 25 meshes each
            posed = layer()(found.betas[rows, None], found.pose_rotmat[rows, :, 1:], found.pose_rotmat[rows, :, 0])
            best = torch.arange(len(rows)), found.best[rows]
            truth = true.joints[rows], None
            least = evaluate_prefixes(
                protocol, (1, 5, 10, 25), posed.joints, *truth, posed.vertices, true.vertices[rows]
            )
            pick = evaluate(
                protocol, posed.joints[best][:, None], *truth, posed.vertices[best][:, None], true.vertices[rows]
            )
            parts.append({f"n = {count}": scores for count, scores in least.items()} | {"pick": pick})
        return {row: {m: torch.cat([part[row][m] for part in parts]) for m in parts[0][row]} for row in parts[0]}


def diffhmr_rows() -> tuple[Row, ...]:
    """Table 1."""
    run = DiffHMRRows()
    return (
        Row("n = 1", partial(run, row="n = 1")),
        *(Row(f"n = {n}", partial(run, row=f"n = {n}"), "n = 1") for n in (5, 10, 25)),
        Row("pick of 25, no truth", partial(run, row="pick"), "n = 1"),
        Row("n = 1, 5 steps", partial(run, row="n = 1", steps=5), "n = 1"),
        Row("n = 25, 5 steps", partial(run, row="n = 25", steps=5), "n = 25"),
    )


def hmdiff(batch: PoseSample, alignment: Mapping[str, Any] | None = None, **sampling: Any) -> Scores:
    """The final mesh of three samples in 40 steps."""
    model = HMDiff.pretrained(
        num_hypotheses=3,
        sampling=HMDiffSampling(**sampling),
        alignment=Alignment(**(alignment or {})),
    )
    found = model(CropAugmentation(size=model.image_size).evaluate(batch, JOINTS_44))
    true = layer()(batch["betas"], batch["body_pose"], batch["global_orient"])
    with torch.inference_mode():
        final = model.upsample(found.final)[:, None]
        joints = model.mesh.full_joints(final)
    return evaluate(get_protocol("open_mesh24"), joints, true.joints, None, final, true.vertices)


def hmdiff_rows() -> tuple[Row, ...]:
    """Tables 4 and 5, those rows that share one training, and the checks of what differs."""
    first = "with DAT"
    return (
        Row(first, hmdiff),
        Row("Table 4, standard", partial(hmdiff, {"of": "nothing"}), first),
        Row("Table 5, H_U", partial(hmdiff, start="pose"), first),
        Row("Table 5, disrupted", partial(hmdiff, {"of": "sample"}), first),
        Row("Table 5, u_c", partial(hmdiff, {"poses": "mode"}), first),
        Row("Table 5, without activation strategy", partial(hmdiff, {"activation": False}), first),
        Row("r = 0.25", partial(hmdiff, {"threshold": 0.25}), first),
        Row("standard, 10 steps", partial(hmdiff, {"of": "nothing"}, num_inference_steps=10), first),
        Row("with DAT, 10 steps", partial(hmdiff, num_inference_steps=10), first),
    )


POSE = ("mpjpe", "pa_mpjpe")
MESH = ("pve", "mpjpe", "pa_mpjpe")
NOISE = {"noise": DetectorNoise()}
GROUPS = {
    "scorehmr/keypoints": Group(bodies, POSE, scorehmr_rows(None)),
    "scorehmr/keypoints_weak_start": Group(bodies, POSE, scorehmr_rows("start_weak")),
    "scorehmr/views": Group(partial(bodies, strides=(40, 96), views=4), POSE, views_rows()),
    "zedo/table4": Group(cmu, POSE, zedo_table4(1)),
    "zedo/table4_detector": Group(partial(cmu, **NOISE), POSE, zedo_table4(1)),
    "zedo/table4_s10": Group(partial(cmu, strides=(20, 48)), POSE, zedo_table4(10)),
    "zedo/table7": Group(cmu, POSE, zedo_table7()),
    "zedo/figure5": Group(cmu, POSE, zedo_figure5()),
    "diffupose/table4": Group(cmu, POSE, diffupose_rows()),
    "diffhmr/table1": Group(rendered, MESH, diffhmr_rows()),
    "hmdiff/tables4and5": Group(rendered, MESH, hmdiff_rows()),
}
"""By method and table."""
