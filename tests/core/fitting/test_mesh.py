import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from posecore.body.files import BodyModel, load_body_model
from posecore.body.pyramid import MeshPyramid
from posecore.body.smpl import SMPLLayer
from posecore.fitting.estimate import SMPLEstimate
from posecore.fitting.mesh import _Body, fit_to_mesh
from posecore.geometry.rotation import axis_angle_to_rotmat, geodesic_distance, random_rotmat, rotmat_to_rot6d

# All but toes, hands, collars, neck and head.
_LARGE_PARTS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 18, 19]


@pytest.fixture(scope="module")
def model() -> BodyModel:
    return load_body_model()


@pytest.fixture(scope="module")
def coarse() -> Tensor:
    """The 431 vertices of the coarsest mesh."""
    pyramid = MeshPyramid.load()
    return pyramid.downsample(torch.arange(pyramid.sizes[0], dtype=torch.float64)[:, None])[:, 0].long()


def _people(count: int, seed: int = 0, max_angle: float = 2.5, dtype: torch.dtype = torch.float32) -> SMPLEstimate:
    """Any orientation, every joint turned by up to `max_angle` about any axis, strong shapes, 3 to 7 m away."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.nn.functional.normalize(torch.randn(count, 23, 3, generator=generator), dim=-1)
    angle = max_angle * torch.rand(count, 23, 1, generator=generator)
    betas = 1.5 * torch.randn(count, 10, generator=generator)
    transl = torch.tensor([0.0, 0, 5]) + torch.rand(count, 3, generator=generator) * 4 - 2
    people = SMPLEstimate.from_rotmat(
        random_rotmat((count,), generator), axis_angle_to_rotmat(axis * angle), betas, transl
    )
    return SMPLEstimate(people.pose_rot6d.to(dtype), people.betas.to(dtype), people.transl.to(dtype))


def _mesh(people: SMPLEstimate, model: BodyModel) -> Tensor:
    vertices: Tensor = SMPLLayer(model)(people.betas, people.body_pose, people.global_orient, people.transl).vertices
    return vertices


def _error(found: SMPLEstimate, mesh: Tensor, model: BodyModel) -> Tensor:
    """Mean distance of the full meshes, metres."""
    distance: Tensor = torch.linalg.vector_norm(_mesh(found, model) - mesh, dim=-1)
    return distance.mean(dim=-1)


@pytest.mark.parametrize("seed", [0, 1])
def test_bodies_are_recovered_from_a_coarse_mesh(model: BodyModel, coarse: Tensor, seed: int) -> None:
    people = _people(64, seed)
    mesh = _mesh(people, model)
    fit = fit_to_mesh(mesh[:, coarse], model, coarse)
    assert _error(fit.estimate, mesh, model).max() < 2e-3
    angles = geodesic_distance(fit.estimate.pose_rotmat, people.pose_rotmat)[:, _LARGE_PARTS]
    assert angles.mean() < math.radians(1.5)
    assert (fit.estimate.betas - people.betas).abs().mean() < 0.3
    distance = torch.linalg.vector_norm(_mesh(fit.estimate, model) - mesh, dim=-1)[:, coarse].mean(dim=-1)
    torch.testing.assert_close(fit.residual, distance, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_64_bodies_are_recovered_from_the_full_mesh(model: BodyModel) -> None:
    people = _people(64)
    mesh = _mesh(people, model)
    fit = fit_to_mesh(mesh, model)
    error = _error(fit.estimate, mesh, model)
    assert error.max() < 2e-3
    assert error.median() < 1e-4
    assert geodesic_distance(fit.estimate.pose_rotmat, people.pose_rotmat).mean() < math.radians(0.5)


def test_without_priors_the_fit_is_exact(model: BodyModel) -> None:
    people = _people(3, dtype=torch.float64)
    mesh = _mesh(people, model)
    fit = fit_to_mesh(mesh, model, steps=10, w_betas=0.0, w_pose=0.0)
    # The model's arrays are float32, and the layer has rounded its rest joints to that.
    assert fit.residual.max() < 1e-7
    for name in ("pose_rotmat", "betas", "transl"):
        torch.testing.assert_close(getattr(fit.estimate, name), getattr(people, name), rtol=0, atol=1e-5)


def test_noise_averages_out(model: BodyModel, coarse: Tensor, generator: torch.Generator) -> None:
    mesh = _mesh(_people(32), model)
    noisy = mesh + 0.01 * torch.randn(mesh.shape, generator=generator)
    fit = fit_to_mesh(noisy[:, coarse], model, coarse)
    assert _error(fit.estimate, mesh, model).max() < 0.008
    # Of three times 10 mm the mean distance is 16 mm; the fit takes a little.
    assert 0.014 < fit.residual.mean() < 0.017


def test_pose_blend_shapes_count(model: BodyModel, coarse: Tensor, generator: torch.Generator) -> None:
    smooth = torch.randn(24, 3, 207, generator=generator)
    bulging = replace(model, posedirs=0.004 * torch.einsum("vj,jcp->vcp", model.lbs_weights, smooth))
    people = _people(16, max_angle=1.2)
    mesh = _mesh(people, bulging)
    assert _error(people, _mesh(people, model), bulging).mean() > 0.01
    fit = fit_to_mesh(mesh[:, coarse], bulging, coarse)
    assert _error(fit.estimate, mesh, bulging).max() < 2e-3


def test_the_derivatives_are_those_of_the_mesh(model: BodyModel, coarse: Tensor) -> None:
    people = _people(1, dtype=torch.float64)
    layer, target = SMPLLayer(model, vertices=coarse.tolist()), _people(1, seed=5, dtype=torch.float64)
    goal = layer(target.betas, target.body_pose, target.global_orient).vertices
    goal = (goal - goal.mean(dim=1, keepdim=True)).mT
    body = _Body(model, coarse, goal)
    at = body.linearise(goal, people.pose_rotmat, people.betas, 0.3, 0.2)
    turns, betas = torch.zeros(1, 24, 3, dtype=torch.float64), people.betas.clone()
    turns.requires_grad_()
    betas.requires_grad_()
    local = axis_angle_to_rotmat((at.parent_rotmat.mT @ turns[..., None])[..., 0]) @ people.pose_rotmat
    moved = SMPLEstimate(rotmat_to_rot6d(local), betas, people.transl)
    vertices = layer(betas, moved.body_pose, moved.global_orient).vertices.mT
    angles = moved.pose_axis_angle[:, 1:]
    error = goal - vertices + vertices.mean(dim=-1, keepdim=True)
    cost = error.square().sum() + 0.3 * betas.square().sum() + 0.2 * angles.square().sum()
    torch.testing.assert_close(at.cost[0], cost.detach(), rtol=1e-6, atol=0)
    gradients = torch.autograd.grad(cost, (turns, betas))
    expected = -0.5 * torch.cat([gradient.flatten() for gradient in gradients])
    torch.testing.assert_close(at.pull[0], expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_rows_are_fitted_by_themselves(model: BodyModel, coarse: Tensor, generator: torch.Generator) -> None:
    mesh = _mesh(_people(8), model)[:, coarse]
    mesh = mesh + 0.01 * torch.randn(mesh.shape, generator=generator)
    order = torch.randperm(8, generator=generator)
    together, turned = fit_to_mesh(mesh, model, coarse), fit_to_mesh(mesh[order], model, coarse)
    alone = fit_to_mesh(mesh[3:4], model, coarse)
    for name in ("pose_rotmat", "betas", "transl"):
        values = getattr(together.estimate, name)
        torch.testing.assert_close(getattr(turned.estimate, name), values[order], rtol=0, atol=1e-3)
        torch.testing.assert_close(getattr(alone.estimate, name), values[3:4], rtol=0, atol=1e-3)
    assert len(fit_to_mesh(mesh[:0], model, coarse).estimate) == 0


def test_what_no_vertex_tells_stays_at_rest(model: BodyModel) -> None:
    people = _people(4)
    trunk = (model.lbs_weights[:, [0, 3, 6, 9]].sum(dim=1) > 0.999).nonzero()[:, 0]
    fit = fit_to_mesh(_mesh(people, model)[:, trunk], model, trunk)
    arms = geodesic_distance(fit.estimate.pose_rotmat, torch.eye(3))[:, 18:]
    assert arms.max() < 1e-3
    assert fit.residual.max() < 3e-3


def test_a_heavier_prior_gives_smaller_betas(model: BodyModel, coarse: Tensor) -> None:
    mesh = _mesh(_people(4), model)[:, coarse]
    lengths = [fit_to_mesh(mesh, model, coarse, w_betas=w).estimate.betas.norm() for w in (1e-5, 1e-2, 10.0)]
    assert lengths[0] > lengths[1] > lengths[2]
    assert lengths[2] < 0.2


def test_input_and_model_stay_as_they_are(model: BodyModel, coarse: Tensor) -> None:
    mesh = _mesh(_people(2), model)[:, coarse].requires_grad_()
    before = mesh.detach().clone()
    fit = fit_to_mesh(mesh, model, coarse)
    assert torch.equal(mesh, before)
    assert not fit.estimate.betas.requires_grad
    assert fit.estimate.pose_rot6d.dtype == torch.float32


@pytest.mark.gpu
def test_the_device_follows_the_vertices(model: BodyModel, coarse: Tensor) -> None:
    mesh = _mesh(_people(2), model)[:, coarse]
    there, here = fit_to_mesh(mesh.cuda(), model, coarse.cuda()), fit_to_mesh(mesh, model, coarse)
    assert there.residual.is_cuda
    torch.testing.assert_close(there.estimate.transl.cpu(), here.estimate.transl, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 6890], "vertex_ids: must be from 0 to 6889, one at least, but are 0 to 6890"),
        ([-1, 3], "vertex_ids: must be .* but are -1 to 3"),
        ([], "vertex_ids: .* are none"),
        ([1, 2, 3], "vertices: there are 2 of each person, but vertex_ids names 3"),
        (None, "vertices: there are 2 of each person, but body 'open_body' has 6890"),
    ],
)
def test_wrong_ids(model: BodyModel, ids: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_to_mesh(torch.zeros(1, 2, 3), model, None if ids is None else torch.tensor(ids, dtype=torch.long))


def test_vertices_that_are_no_numbers(model: BodyModel) -> None:
    vertices = torch.zeros(3, 2, 3)
    vertices[1, 0, 2] = torch.nan
    with pytest.raises(ValueError, match=r"vertices: must be finite; those of rows \[1\] are not"):
        fit_to_mesh(vertices, model, torch.tensor([0, 1]))


def test_a_body_with_other_joints(model: BodyModel) -> None:
    hand = replace(
        model,
        name="hand",
        lbs_weights=model.lbs_weights[:, :16],
        J_regressor=model.J_regressor[:16],
        parents=model.parents[:16],
    )
    with pytest.raises(ValueError, match="model: 'hand' has 16 joints; the fit is for the 24 of SMPL"):
        fit_to_mesh(torch.zeros(1, 6890, 3), hand)
