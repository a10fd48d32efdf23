from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from hmdiff.mesh import CoarseMesh
from hmdiff.true_meshes import TrueMeshes
from posecore.body.files import BodyModel, load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.pyramid import MeshPyramid
from posecore.body.skeletons import BODY_25, SMPL_24
from posecore.body.smpl import SMPLLayer
from posecore.data.sample import PoseSample
from posecore.geometry.camera import project
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.testing import write_gendered_bodies

PEOPLE = 3


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return load_body_model()


@pytest.fixture(scope="module")
def mesh(body: BodyModel) -> CoarseMesh:
    return CoarseMesh(body, MeshPyramid.load(), SMPL_24)


@pytest.fixture(scope="module")
def truth(mesh: CoarseMesh, body: BodyModel) -> TrueMeshes:
    return TrueMeshes(mesh, body, BODY_25)


@pytest.fixture
def batch() -> PoseSample:
    generator = torch.Generator().manual_seed(0)
    pose = axis_angle_to_rotmat(0.3 * torch.randn(PEOPLE, 24, 3, generator=generator))
    transl = torch.tensor([0.0, 0.2, 4.0]) + 0.3 * torch.randn(PEOPLE, 3, generator=generator)
    return {
        "global_orient": pose[:, 0],
        "body_pose": pose[:, 1:],
        "betas": torch.randn(PEOPLE, 10, generator=generator),
        "transl": transl,
    }


def changed(batch: PoseSample, **keys: Any) -> PoseSample:
    """With these keys; without those that are None."""
    return cast(PoseSample, {key: value for key, value in {**batch, **keys}.items() if value is not None})


def posed(model: BodyModel, batch: PoseSample) -> tuple[Tensor, Tensor]:
    """Vertices and kinematic joints of the whole body in the camera frame."""
    found = SMPLLayer(model)(batch["betas"], batch["body_pose"], batch["global_orient"], batch.get("transl"))
    return found.vertices, found.joints


def test_the_coarse_mesh_is_that_of_the_posed_body(
    truth: TrueMeshes, mesh: CoarseMesh, body: BodyModel, batch: PoseSample
) -> None:
    found = truth.level_vertices(batch)
    assert found.shape == (PEOPLE, 431, 3)
    torch.testing.assert_close(found, mesh.pyramid.downsample(posed(body, batch)[0]), atol=1e-5, rtol=0)
    assert torch.equal(truth.coarse_of_level(found), found)
    assert truth.mesh is mesh


def test_a_finer_level_holds_the_coarse_mesh(mesh: CoarseMesh, body: BodyModel, batch: PoseSample) -> None:
    truth = TrueMeshes(mesh, body, BODY_25, level=1)
    full = posed(body, batch)[0]
    found = truth.level_vertices(batch)
    torch.testing.assert_close(found, mesh.pyramid.downsample(full, target=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(truth.coarse_of_level(found), mesh.pyramid.downsample(full), atol=1e-5, rtol=0)


def test_meshes_of_the_data_come_before_parameters(truth: TrueMeshes, mesh: CoarseMesh, batch: PoseSample) -> None:
    vertices = torch.randn(PEOPLE, 6890, 3, generator=torch.Generator().manual_seed(1))
    hands = changed(batch, vertices_cam=vertices)
    assert torch.equal(truth.level_vertices(hands), mesh.pyramid.downsample(vertices))
    full, joints = truth.full(hands)
    assert torch.equal(full, vertices)
    assert joints is None


def test_keypoints_place_a_body_without_a_place(truth: TrueMeshes, body: BodyModel, batch: PoseSample) -> None:
    """Exact projections give back the place; a keypoint that nobody saw changes nothing."""
    K = torch.tensor([[1100.0, 0, 110], [0, 1100, 115], [0, 0, 1]]).expand(PEOPLE, 3, 3)
    joints = NamedJoints(BODY_25, body)(batch["betas"], batch["body_pose"], batch["global_orient"], batch["transl"])
    pixels, confidence = project(joints, K), torch.ones(PEOPLE, 25)
    pixels[:, 4], confidence[:, 4] = 0, 0
    placeless = changed(batch, transl=None, joints_2d_px=pixels, confidence=confidence, K=K)
    torch.testing.assert_close(truth.level_vertices(placeless), truth.level_vertices(batch), atol=2e-3, rtol=0)


def test_nothing_says_where_the_bodies_are(mesh: CoarseMesh, body: BodyModel, batch: PoseSample) -> None:
    truth = TrueMeshes(mesh, body, keypoints=None)
    message = "batch: has neither vertices_cam nor transl, and no keypoints that would place a body"
    with pytest.raises(ValueError, match=message):
        truth.level_vertices(changed(batch, transl=None))


def test_the_full_mesh_is_of_the_persons_own_body(
    mesh: CoarseMesh, body: BodyModel, batch: PoseSample, tmp_path: Path
) -> None:
    """Of three bodies of different size, in any order; neutral where nothing is said."""
    folder = write_gendered_bodies(tmp_path / "bodies")
    truth = TrueMeshes(mesh, body, BODY_25, body_model=folder)
    genders = ["female", "neutral", "male"]
    for _ in range(2):  # bodies are kept
        vertices, joints = truth.full(changed(batch, gender=genders))
        assert joints is not None
        for row, gender in enumerate(genders):
            one = cast(PoseSample, {key: cast(Tensor, value)[row : row + 1] for key, value in batch.items()})
            wanted = posed(load_body_model(folder, gender), changed(one, transl=None))  # type: ignore[arg-type]
            torch.testing.assert_close(vertices[row], wanted[0][0], atol=1e-5, rtol=0)
            torch.testing.assert_close(joints[row], wanted[1][0], atol=1e-5, rtol=0)
        genders = genders[::-1]
    neutral = truth.full(batch)[0]
    torch.testing.assert_close(neutral, posed(body, changed(batch, transl=None))[0], atol=1e-5, rtol=0)
    assert (neutral - vertices)[0].abs().max() > 0.02


def test_without_files_every_body_is_the_same(truth: TrueMeshes, batch: PoseSample) -> None:
    found = truth.full(changed(batch, gender=["female", "male", "male"]))[0]
    torch.testing.assert_close(found, truth.full(batch)[0])


def test_nothing_goes_into_checkpoints_or_is_learnt(truth: TrueMeshes) -> None:
    assert truth.state_dict() == {}
    assert list(truth.parameters()) == []
    assert not any(isinstance(part, CoarseMesh) for part in truth.modules()), "it belongs to another"
