"""DiffuPose: ancestral sampling against the plain program, and fewer steps against a hundred."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.plain_diffupose import plain_diffupose
from benchmarks.timing import OURS, Case, Variant
from diffupose.module import DiffuPose
from diffupose.network import GraphDenoiser
from diffupose.sampler import Sampling, sample
from posecore.body.skeletons import H36M_16
from posecore.diffusion.schedule import NoiseSchedule

# Measured once on an idle machine with two cores, with random weights: of the authors' program, d = 384, 16 joints.
RELEASED_S = {2: 0.82, 64: 5.1, 256: 21.5}
RELEASED_PER_ROW_S = 5.1 / 64


def random_network(dim: int, joint_set: str = "h36m16") -> GraphDenoiser:
    """A network of random weights whose parts all matter: none of its gains is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = GraphDenoiser(joint_set, dim)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.weight.data.uniform_(0.5, 1.0)
                torch.nn.init.normal_(module.bias, std=0.1)
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 2.0)
    return network.eval()


def run_ours(network: GraphDenoiser, keypoints: Tensor, hypotheses: int, settings: Sampling) -> Tensor:
    """By `diffupose.sampler.sample`, rows of one person after the other."""
    generator = torch.Generator().manual_seed(0)
    schedule = NoiseSchedule.named("cosine_100")
    return sample(network, schedule, keypoints, network.joint_set, hypotheses, settings, 1.0, generator).flatten(0, 1)


def run_plain(network: GraphDenoiser, keypoints: Tensor, hypotheses: int, chunk: int) -> Tensor:
    """The same by `plain_diffupose`, in the same chunks, so that it draws the same noise."""
    generator = torch.Generator().manual_seed(0)
    rows = keypoints.repeat_interleave(hypotheses, dim=0)
    return torch.cat([plain_diffupose(network, part, 100, 1.0, generator) for part in rows.split(chunk)])


def diffupose_cases(quick: bool) -> Iterator[Case]:
    """A hundred ancestral steps at the released program's sizes and with N = 10; then DDIM with fewer steps."""
    network = random_network(32 if quick else 384)
    settings = Sampling(flip=False)
    for people, hypotheses in ((2, 1), (4, 3)) if quick else ((2, 1), (64, 1), (256, 1), (64, 10)):
        keypoints = 0.3 * torch.randn(people, H36M_16.num_joints, 2, generator=torch.Generator().manual_seed(1))
        variants = {
            OURS: Variant(lambda k=keypoints, n=hypotheses: run_ours(network, k, n, settings)),  # type: ignore[misc]
            "plain": Variant(lambda k=keypoints, n=hypotheses: run_plain(network, k, n, settings.chunk)),  # type: ignore[misc]
        }
        rows = people * hypotheses
        released = None if quick else RELEASED_S.get(rows, RELEASED_PER_ROW_S * rows)
        name = f"100 ancestral steps, {people} poses x N = {hypotheses}, d = {network.dim}"
        yield Case("diffupose", name, variants, released_s=released)
    yield _fewer_steps(quick)


def _fewer_steps(quick: bool) -> Case:
    """The shipped network; the results differ because they are other samples of the same poses."""
    network = random_network(32, "h36m17") if quick else DiffuPose.pretrained("cmu17").network
    assert isinstance(network, GraphDenoiser)
    people = 4 if quick else 64
    keypoints = 0.3 * torch.randn(people, 17, 2, generator=torch.Generator().manual_seed(1))
    variants = {OURS: Variant(lambda: run_ours(network, keypoints, 10, Sampling(flip=False)))}
    for steps in (5, 10, 25, 50):
        ddim = Sampling("ddim", steps, flip=False)
        note = "another sample; the method card has its error"
        variants[f"DDIM {steps}"] = Variant(lambda s=ddim: run_ours(network, keypoints, 10, s), note=note)  # type: ignore[misc]
    return Case("diffupose", f"100 ancestral steps against DDIM, {people} poses x N = 10, shipped network", variants)
