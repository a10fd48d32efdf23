"""HMDiff: sampling with and without DAT, true meshes, a training step, attention and poses of U."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain_hmdiff import attention, denoise, plain_poses, plain_sample, plain_true_mesh
from benchmarks.timing import OURS, Case, Variant
from hmdiff.dat import Alignment, Target
from hmdiff.mesh import CoarseMesh
from hmdiff.network import MeshDenoiser
from hmdiff.pose_distribution import PoseDistribution
from hmdiff.sampler import Record, Sampling, sample
from hmdiff.true_meshes import TrueMeshes
from posecore.body.files import load_body_model
from posecore.body.pyramid import MeshPyramid
from posecore.body.skeletons import SMPL_24
from posecore.data.sample import PoseSample
from posecore.diffusion.schedule import NoiseSchedule
from posecore.geometry.rotation import axis_angle_to_rotmat

# Of the shipped weights: f_c, heatmaps, crops.
FEATURE_DIM, CELLS, HEATMAP, CROP = 512, 7, 56, 112
SHARE = 4  # of DDIM's steps one in so many is run: all cost the same


def open_mesh() -> CoarseMesh:
    """The open body's, of 431 vertices."""
    return CoarseMesh(load_body_model(), MeshPyramid.load(), SMPL_24)


def random_network(mesh: CoarseMesh) -> MeshDenoiser:
    """The network g at the open sizes, of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return MeshDenoiser(mesh.num_vertices, FEATURE_DIM, SMPL_24.num_joints, image_feature="projected").eval()


def heatmaps(images: int, width: float) -> PoseDistribution:
    """Gaussians about random places in the middle of crop and depth; one cell has it all where ``width`` is small."""
    generator = torch.Generator().manual_seed(1)
    places = (HEATMAP * (0.3 + 0.4 * torch.rand(images, SMPL_24.num_joints, 3, generator=generator))).floor()
    x, y, z = (torch.arange(HEATMAP) - places[..., None]).unbind(dim=2)
    xy = x[..., None, :].square() + y[..., None].square()
    # What lies farther right lies farther back, so that it matters which column was drawn.
    leaning = (z[..., None] - x[..., None, :]).square()
    spread = -0.5 / width**2
    return PoseDistribution(spread * xy, spread * leaning, torch.full((images,), 2.0), 1.0)


class Hypotheses:
    """An image of which N samples are drawn, each from a given noise."""

    def __init__(self, hypotheses: int, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.mesh = open_mesh()
        self.network = random_network(self.mesh)
        self.schedule = NoiseSchedule.named("linear_200")
        self.settings = Sampling(steps)
        self.f_c = torch.randn(1, FEATURE_DIM, CELLS, CELLS, generator=generator)
        self.h_K = torch.randn(1, hypotheses, self.mesh.num_vertices, 3, generator=generator)
        prior = heatmaps(1, width=2.0)
        K = torch.tensor([[[500.0, 0, CROP / 2], [0, 500, CROP / 2], [0, 0, 1]]])
        self.poses = prior.in_metres(prior.sample(25, generator), K, CROP)

    @torch.no_grad()
    def ours(self, alignment: Alignment, record: Callable[[Record], None] | None = None) -> Tensor:
        """By `hmdiff.sampler.sample`: the image is looked at once, all samples move together."""
        return sample(
            self.network,
            self.schedule,
            self.network.prepare(self.f_c, None),
            self.h_K.shape[1],
            self.settings,
            alignment,
            self.mesh.joint_regressor,
            Target.of_poses(self.poses),
            "v_prediction",
            record=record,
            h_K=self.h_K,
        )[0]

    @torch.no_grad()
    def plain(self, alignment: Alignment) -> Tensor:
        """The first sample by `plain_sample`."""
        steps, clip = self.settings.num_inference_steps, self.settings.clip
        assert steps is not None
        first = plain_sample(
            self.network, self.mesh, self.f_c[0], self.h_K[0, 0], self.poses[0], steps, clip, alignment
        )
        return first[None]

    def ending_early(self) -> Alignment:
        """With a threshold that stops DAT after a third of the steps; that of a trained network says nothing here."""
        ratios: list[Tensor] = []
        always = Alignment(activation=False)
        target = Target.of_poses(self.poses)
        first_gap = target.gap(self.mesh.joint_regressor @ self.h_K)

        def note(step: Record) -> None:
            assert step.gap is not None
            ratios.append(step.gap / first_gap)

        self.ours(always, note)
        third = torch.stack(ratios[: max(len(ratios) // 3, 1)])
        return replace(always, activation=True, threshold=1.001 * float(third.amin(dim=0).max()))


def hmdiff_cases(quick: bool) -> Iterator[Case]:
    """One image of the open sizes, then what else takes time in training."""
    hypotheses, steps = (2, 12) if quick else (25, 40)
    problem = Hypotheses(hypotheses, steps // SHARE)
    for label, alignment in (
        ("without DAT", Alignment(of="nothing")),
        ("DAT throughout", Alignment(activation=False)),
        ("DAT for a third of the steps", problem.ending_early()),
    ):
        yield _sampling(f"{hypotheses} samples, {steps} DDIM steps, {label}", problem, alignment)
    mesh = problem.mesh
    yield _true_meshes(4 if quick else 64, mesh)
    yield _training_step(2 if quick else 32, 2, mesh)
    for rows, training in ((hypotheses, False), (4 if quick else 64, True)):
        yield _attention(rows, training)
    yield _poses(2 if quick else 8, 25)


def _sampling(name: str, problem: Hypotheses, alignment: Alignment) -> Case:
    rows, steps = problem.h_K.shape[1], problem.settings.num_inference_steps
    note = f"extrapolated from {steps} steps"
    variants = {
        OURS: Variant(lambda: problem.ours(alignment), SHARE, note),
        "plain": Variant(lambda: problem.plain(alignment), SHARE * rows, f"{note} of 1 of {rows} samples"),
    }
    return Case("hmdiff", name, variants)


def _true_meshes(rows: int, mesh: CoarseMesh) -> Case:
    generator = torch.Generator().manual_seed(0)
    pose = axis_angle_to_rotmat(0.3 * torch.randn(rows, 24, 3, generator=generator))
    betas = torch.randn(rows, 10, generator=generator)
    transl = torch.tensor([0.0, 0.0, 5.0]).expand(rows, -1)
    batch: PoseSample = {
        "global_orient": pose[:, 0],
        "body_pose": pose[:, 1:],
        "betas": betas,
        "transl": transl,
    }
    truth = TrueMeshes(mesh, load_body_model(), None)

    @torch.no_grad()
    def ours() -> Tensor:
        coarse = truth.coarse_of_level(truth.level_vertices(batch))
        return coarse - mesh.joints(coarse)[:, :1]

    @torch.no_grad()
    def plain() -> Tensor:
        return plain_true_mesh(truth.full_layer, mesh, batch)

    variants = {OURS: Variant(ours), "plain": Variant(plain, note="6890 vertices, brought down; root from them")}
    return Case("hmdiff", f"true coarse meshes of {rows} rows", variants)


def _training_step(rows: int, draws: int, mesh: CoarseMesh) -> Case:
    """Forward and backward of g; what is compared is the gradient of all its weights."""
    generator = torch.Generator().manual_seed(0)
    network = random_network(mesh).train()
    f_c = torch.randn(rows, FEATURE_DIM, CELLS, CELLS, generator=generator)
    h = torch.randn(rows * draws, mesh.num_vertices, 3, generator=generator)
    wanted = torch.randn(h.shape, generator=generator)
    k = torch.randint(200, (len(h),), generator=generator)

    def gradient(out: Tensor) -> Tensor:
        loss = (out - wanted).square().mean()
        used = [p for p in network.parameters() if p.requires_grad]
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, used)])

    variants = {
        OURS: Variant(lambda: gradient(network(h, k, network.prepare(f_c, None).repeat(draws)))),
        "plain": Variant(
            lambda: gradient(denoise(network, h, k, f_c.repeat_interleave(draws, dim=0))),
            note="the image's side for each draw, explicit softmax",
        ),
    }
    return Case("hmdiff", f"a training step of g, {rows} images x {draws} draws", variants, "relative")


def _attention(rows: int, training: bool) -> Case:
    """The self-attention of g: the fused one, and softmax written out."""
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(rows, 431, 3, 4, 32, generator=generator)

    def run(way: Callable[..., Tensor]) -> Tensor:
        heads = given.detach().requires_grad_(training)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        out = way(query, key, value)
        return torch.autograd.grad(out.square().sum(), heads)[0] if training else out

    variants = {
        OURS: Variant(lambda: run(F.scaled_dot_product_attention), note="scaled_dot_product_attention"),
        "explicit": Variant(lambda: run(attention), note="the weights are kept for the gradient"),
    }
    kind = "with its gradient" if training else "without gradient"
    return Case("hmdiff", f"self-attention of {rows} meshes {kind}", variants, "relative")


def _poses(images: int, num_poses: int) -> Case:
    """Of heatmaps of one cell each, so that both find the same up to the cell's size: they draw other numbers."""
    prior = heatmaps(images, width=0.01)
    generator = torch.Generator().manual_seed(0)
    variants = {
        OURS: Variant(lambda: prior.sample(num_poses, generator)),
        "plain": Variant(lambda: plain_poses(prior, num_poses), note="a Categorical for each joint; other draws"),
    }
    return Case("hmdiff", f"{num_poses} poses out of the heatmaps of {images} images", variants)
