"""Goldens: loss, gradient norm and one sample of each method after one seeded step.

A change of these numbers is a change of what the method computes. If it was not meant, find it. If it was, say so in
CHANGELOG, and write new ones: ``python tests/test_goldens.py --update``.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import trimesh
from torch import Tensor

from diffhmr.losses import noise_loss as diffhmr_noise_loss
from diffhmr.losses import pose_loss, x0_weight
from diffhmr.network import Conditioning, Prepared, UNet1D
from diffhmr.representation import PoseRepresentation, Rotation
from diffhmr.sampler import Sampling as DiffHMRSampling
from diffhmr.sampler import sample as diffhmr_sample
from diffupose.losses import joint_weights, keypoint_loss, noise_loss
from diffupose.network import GraphDenoiser
from diffupose.sampler import Sampling, sample
from diffupose.unet import UNetDenoiser
from hmdiff.dat import Alignment
from hmdiff.dat import Target as HMDiffTarget
from hmdiff.losses import edge_loss, joint_loss, normal_loss, vertex_loss
from hmdiff.network import Conditioning as HMDiffConditioning
from hmdiff.network import FinalMLP, MeshDenoiser
from hmdiff.network import Prepared as HMDiffPrepared
from hmdiff.pose_head import PoseHead
from hmdiff.sampler import Sampling as HMDiffSampling
from hmdiff.sampler import sample as hmdiff_sample
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import BODY_25, H36M_16
from posecore.diffusion.noise import NoiseStreams
from posecore.diffusion.schedule import NoiseSchedule
from posecore.fitting.estimate import PosedPeople, SMPLEstimate
from posecore.fitting.terms import CrossViewConsistency, KeypointReprojection, TemporalSmoothness, Term
from posecore.geometry.camera import project
from posecore.geometry.rotation import axis_angle_to_rotmat, rotmat_to_rot6d
from scorehmr.latent import PoseAndShape
from scorehmr.losses import noise_loss as scorehmr_noise_loss
from scorehmr.sampler import Guidance, refine
from zedo.losses import denoising_score_matching_loss
from zedo.network import ScoreNetwork
from zedo.prior import BackboneName, make_backbone
from zedo.sampler import InitialPose, Loop, Target, optimise

FOLDER = Path(__file__).parent / "goldens"


def noise_of_two() -> NoiseStreams:
    """What two people are sampled with, as the modules do."""
    return NoiseStreams.of_rows(0, torch.arange(2))


def zedo(backbone_name: BackboneName) -> dict[str, object]:
    """One Adam step of a small prior, then ZeDO on two made-up people."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = ScoreNetwork(hidden_dim=128, embed_dim=32, dropout=0.0)
    backbone = make_backbone(backbone_name)
    poses = torch.randn(16, 17, 3, generator=generator) * 0.3
    poses = poses - poses[:, :1]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x_t, noise, label = backbone.perturb(poses, generator)
    loss = denoising_score_matching_loss(network(x_t, label), noise)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in network.parameters()])
    optimizer.step()
    K = torch.tensor([[1000.0, 0, 500], [0, 1000, 500], [0, 0, 1]]).expand(2, 3, 3)
    pixels = project(poses[:2] + torch.tensor([0.0, 0, 4]), K)
    target = Target(pixels, torch.ones(2, 17), K)
    loop = Loop(num_iterations=50)
    result = optimise(network.eval(), backbone, poses[4:6], target, InitialPose(num_steps=20), loop, noise_of_two())
    return {
        "loss": loss.item(),
        "gradient_norm": norm.item(),
        "translation": result.transl[0, 0].tolist(),
        "left_wrist": result.joints_rel[1, 1, 13].tolist(),
        "reprojection_px": result.reprojection_px.flatten().tolist(),
    }


def diffupose(denoiser: str, sampling: Sampling) -> dict[str, object]:
    """One Adam step of a small denoiser, then two hypotheses of two made-up people."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network: GraphDenoiser | UNetDenoiser = GraphDenoiser(dim=32) if denoiser == "graph" else UNetDenoiser(dim=32)
    network.output.weight.data.mul_(0.05)  # An untrained network's output is large: samples would all be clipped.
    schedule = NoiseSchedule.named("cosine_100")
    x_0 = torch.randn(16, 16, 3, generator=generator) * 0.3
    noise, keypoints = torch.randn(x_0.shape, generator=generator), x_0[..., :2] / 2
    t = torch.randint(100, (16,), generator=generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    output = network(schedule.q_sample(x_0, t, noise), keypoints, t)
    weights = joint_weights(H36M_16)
    loss = noise_loss(output, noise, weights) + 0.8 * keypoint_loss(output, keypoints, weights)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in network.parameters()])
    optimizer.step()
    poses = sample(network.eval(), schedule, keypoints[:2], H36M_16, 2, sampling, 1.0, noise_of_two())
    return {
        "loss": loss.item(),
        "gradient_norm": norm.item(),
        "left_wrist": poses[:, :, 12].flatten().tolist(),
        "mean_abs": poses.abs().mean().item(),
    }


def scorehmr(shape: bool, guidance: Guidance, coupled: list[Term]) -> dict[str, object]:
    """One Adam step of a small denoiser, then a fit of four made-up people to their keypoints."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model, body, schedule = PoseAndShape(16, 32, shape=shape), NamedJoints(BODY_25), NoiseSchedule.named("cosine_1000")
    pose = rotmat_to_rot6d(axis_angle_to_rotmat(0.3 * torch.randn(4, 24, 3, generator=generator)))
    betas = torch.randn(4, 10, generator=generator)
    true = SMPLEstimate(pose, betas, torch.tensor([0.0, 0, 4]).expand(4, 3))
    K = torch.tensor([[1000.0, 0, 500], [0, 1000, 500], [0, 0, 1]]).expand(4, 3, 3)
    pixels = project(PosedPeople(true, body).joints_cam, K)
    cond = torch.randn(4, 16, generator=generator)
    x_0, t = model.encode(true), torch.randint(1000, (4,), generator=generator)
    noise = torch.randn(x_0.shape, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss = scorehmr_noise_loss(model(schedule.q_sample(x_0, t, noise), t, cond), noise)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
    optimizer.step()
    start = SMPLEstimate(pose + 0.1 * torch.randn(pose.shape, generator=generator), betas + 0.1, true.transl + 0.05)
    terms = [KeypointReprojection(pixels, torch.ones(4, 25), K, torch.full((4, 2), 1000.0)), *coupled]
    denoiser = model.eval().prepared(cond, guidance.timesteps)
    found, loops = refine(denoiser, schedule, start, model, terms, body, guidance)
    return {
        "loss": loss.item(),
        "gradient_norm": norm.item(),
        "translation": found.transl.flatten().tolist(),
        "betas": found.betas[1].tolist(),
        "left_knee_rot6d": found.pose_rot6d[:, 4].flatten().tolist(),
        "loops": loops.float().tolist(),
    }


def diffhmr(rotation: Rotation, conditioning: Conditioning, sampling: DiffHMRSampling) -> dict[str, object]:
    """One Adam step of a small denoiser on L_diff and the pose term of L_hmr, then two hypotheses of two images."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    representation, schedule = PoseRepresentation(rotation), NoiseSchedule.named("cosine_1000")
    network = UNet1D(16, 4, representation.channels, dim=16, conditioning=conditioning, cond_channels=8)
    true = axis_angle_to_rotmat(0.3 * torch.randn(4, 24, 3, generator=generator))
    z = torch.randn(4, 16, 2, 2, generator=generator)
    x_0, t = representation.encode(true), torch.tensor([50, 300, 600, 900])
    noise = torch.randn(x_0.shape, generator=generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x_t = schedule.q_sample(x_0, t, noise)
    predicted = network(x_t, t, network.prepare(z))
    weight = x0_weight(schedule.alpha_bar(t, x_0).reshape(-1).to(x_0.dtype))
    pose = representation.decode(schedule.to_x0(predicted, x_t, t))
    loss = diffhmr_noise_loss(predicted, noise) + pose_loss(pose, true, weight=weight)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in network.parameters()])
    optimizer.step()
    prepared = network.eval().prepare(z[:2])

    class NearGaussian(torch.nn.Module):
        """The noise in normal data and a little of the network's: an untrained network alone would clip all samples."""

        channels, length = network.channels, network.length

        def forward(self, x: Tensor, t: Tensor, prepared: Prepared) -> Tensor:
            return schedule.sigma(t, x) * x + 0.1 * network(x, t, prepared)

    found = diffhmr_sample(NearGaussian(), schedule, prepared, 2, sampling, 3.0, noise_of_two())
    return {
        "loss": loss.item(),
        "gradient_norm": norm.item(),
        "left_knee": found[:, :, 4].flatten().tolist(),
        "mean_abs": found.abs().mean().item(),
    }


def hmdiff(conditioning: HMDiffConditioning, sampling: HMDiffSampling, alignment: Alignment) -> dict[str, object]:
    """One Adam step of pose head and small denoiser, then three samples of two images; the mesh is an icosahedron."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    body, schedule = trimesh.creation.icosahedron(), NoiseSchedule.named("linear_200")
    faces, edges = torch.tensor(body.faces.tolist()), torch.tensor(body.edges_unique.tolist())
    to_pose = torch.rand(3, 12, generator=generator).square()
    to_pose = to_pose / to_pose.sum(dim=1, keepdim=True)
    h_0 = 0.3 * torch.tensor(body.vertices.tolist()) + 0.05 * torch.randn(4, 12, 3, generator=generator)
    joints = to_pose @ h_0
    h_0, joints = h_0 - joints[:, :1], joints - joints[:, :1]
    K = torch.tensor([[100.0, 0, 32], [0, 100, 32], [0, 0, 1]]).expand(4, 3, 3)
    in_camera = joints + torch.tensor([0.0, 0, 4])
    f_c = torch.randn(4, 128, 2, 2, generator=generator)
    head = PoseHead(128, 3, channels=8)
    network = MeshDenoiser(12, 128, 3, heatmap_size=16, conditioning=conditioning, num_heads=2, feed_forward=1)
    final = FinalMLP(12, 8)
    parameters = [*head.parameters(), *network.parameters(), *final.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    prior = head(f_c)
    pose_losses = prior.losses(in_camera, project(in_camera, K) / 64, K, 64)
    k = torch.tensor([10, 60, 120, 190])
    noise = torch.randn(h_0.shape, generator=generator)
    h_k = schedule.q_sample(h_0, k, noise)
    out = network(h_k, k, network.prepare(f_c, prior))
    estimate = schedule.to_x0(out, h_k, k)
    weight = schedule.alpha_bar(k, h_0).reshape(-1).to(h_0.dtype)
    mesh_losses = {
        "diffusion": (out - noise).square().mean(),
        "vertex": vertex_loss(estimate, h_0, row_weight=weight) + vertex_loss(final(h_k), h_0),
        "joint": joint_loss(to_pose @ estimate, joints, row_weight=weight),
        "normal": normal_loss(estimate, h_0, faces, row_weight=weight),
        "edge": edge_loss(estimate, h_0, edges, row_weight=weight),
    }
    losses = {**pose_losses, **mesh_losses}
    torch.stack(list(losses.values())).sum().backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    optimizer.step()
    with torch.no_grad():
        prior, source = head.eval()(f_c[:2]), noise_of_two()
        poses = prior.in_metres(prior.sample(4, source), K[:2], 64)
        prepared = network.eval().prepare(f_c[:2], prior)

        class NearGaussian:
            """The noise in normal data and a little of the network's: an untrained one alone is clipped throughout."""

            num_vertices = 12

            def __call__(self, h: Tensor, k: Tensor, prepared: HMDiffPrepared) -> Tensor:
                predicted: Tensor = schedule.sigma(k, h).to(h) * h + 0.02 * network(h, k, prepared)
                return predicted

        samples = hmdiff_sample(
            NearGaussian(), schedule, prepared, 3, sampling, alignment, to_pose, HMDiffTarget.of_poses(poses),
            generator=source,
        )  # fmt: skip
        return {
            "losses": [loss.item() for loss in losses.values()],
            "gradient_norm": norm.item(),
            "poses": poses[:, :, 1].mean(dim=1).flatten().tolist(),
            "vertex": samples[:, :, 5].flatten().tolist(),
            "final": final(samples.mean(dim=1))[:, 0].flatten().tolist(),
            "mean_abs": samples.abs().mean().item(),
        }


CASES: dict[str, Callable[[], dict[str, object]]] = {
    "diffhmr_ddim": lambda: diffhmr("rot6d", "concat", DiffHMRSampling("ddim", 10)),
    "diffhmr_ddpm": lambda: diffhmr("axis_angle", "cross_attention", DiffHMRSampling("ddpm", 20)),
    "diffupose_ddpm": lambda: diffupose("graph", Sampling()),
    "diffupose_ddim": lambda: diffupose("graph", Sampling("ddim", 10, eta=0.5, flip=False)),
    "diffupose_unet": lambda: diffupose("unet", Sampling("ddim", 5)),
    "hmdiff_dat": lambda: hmdiff("image", HMDiffSampling(10), Alignment(num_poses=4, threshold=0.6)),
    "hmdiff_standard": lambda: hmdiff("both", HMDiffSampling(10, eta=0.5), Alignment(of="nothing")),
    "scorehmr_keypoints": lambda: scorehmr(False, Guidance(20, 4, 3, stop_change=3e-2), []),
    "scorehmr_coupled": lambda: scorehmr(
        True,
        Guidance(100, 20, 2, stop_change=None),
        [TemporalSmoothness(torch.tensor([0, 0, 0, 1])), CrossViewConsistency(torch.tensor([0, 0, 1, 1]), 40.0)],
    ),
    "zedo_score": lambda: zedo("score"),
    "zedo_ddim": lambda: zedo("ddim"),
    "zedo_ddpm": lambda: zedo("ddpm"),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    expected = json.loads((FOLDER / f"{name}.json").read_text())
    found = CASES[name]()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # Loose enough for another CPU's order of summation, far tighter than any change of the method.
        torch.testing.assert_close(
            torch.tensor(found[key]), torch.tensor(value), rtol=2e-3, atol=2e-4, msg=lambda m, key=key: f"{key}: {m}"
        )


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit("usage: python tests/test_goldens.py --update")
    FOLDER.mkdir(exist_ok=True)
    for name, case in CASES.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(case(), indent=2) + "\n")
