import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from hmdiff.mesh import CoarseMesh
from posecore.body.files import OPEN_BODY, BodyModel, load_body_model
from posecore.body.pyramid import MeshPyramid, build_pyramid
from posecore.body.skeletons import COCO_17, H36M_17, MANO_21, SMPL_24, JointSet
from posecore.body.smpl import SMPLLayer
from posecore.safe_pickle import load_npz

ROOT = Path(__file__).parents[2]
TIPS = ("thumb_tip", "index_tip", "middle_tip", "ring_tip", "pinky_tip")


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return load_body_model()


@pytest.fixture(scope="module")
def pyramid() -> MeshPyramid:
    return MeshPyramid.load()


@pytest.fixture(scope="module")
def body_mesh(body: BodyModel, pyramid: MeshPyramid) -> CoarseMesh:
    return CoarseMesh(body, pyramid, SMPL_24)


def made_up_hand() -> BodyModel:
    """A bowl with an open rim, 16 joints somewhere inside, and five vertices that are called fingertips."""
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=0.1)
    mesh.update_faces((mesh.triangles[:, :, 2] > -0.05).all(axis=1))
    mesh.remove_unreferenced_vertices()
    vertices = torch.tensor(np.asarray(mesh.vertices)).float()
    rng = np.random.default_rng(0)
    regressor = torch.tensor(rng.dirichlet(np.ones(len(vertices)), size=16)).float()
    ids = torch.tensor([5, 40, 80, 120, 160])
    return BodyModel(
        name="hand",
        v_template=vertices,
        shapedirs=torch.zeros(len(vertices), 3, 10),
        posedirs=torch.zeros(len(vertices), 3, 135),
        J_regressor=regressor,
        parents=torch.tensor(MANO_21.parents[:16]),
        lbs_weights=torch.full((len(vertices), 16), 1 / 16),
        faces=torch.tensor(np.asarray(mesh.faces)),
        landmark_names=tuple(reversed(TIPS)),  # asked for by name, so the order is free
        landmark_vertex_ids=ids.flip(0),
    )


@pytest.fixture(scope="module")
def hand() -> BodyModel:
    return made_up_hand()


@pytest.fixture(scope="module")
def hand_mesh(hand: BodyModel) -> CoarseMesh:
    return CoarseMesh(hand, build_pyramid(hand.v_template.numpy(), hand.faces.numpy(), [60]), MANO_21)


@pytest.fixture(params=["smpl24", "h36m17", "mano21"])
def mesh(request: pytest.FixtureRequest, body: BodyModel, pyramid: MeshPyramid) -> CoarseMesh:
    made: CoarseMesh
    if request.param == "mano21":
        made = request.getfixturevalue("hand_mesh")
    elif request.param == "h36m17":
        made = CoarseMesh(body, pyramid, H36M_17)
    else:
        made = request.getfixturevalue("body_mesh")
    return made


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_joints_are_those_of_the_upsampled_mesh(mesh: CoarseMesh, batch: tuple[int, ...], dtype: torch.dtype) -> None:
    coarse = draw(*batch, mesh.num_vertices, 3, dtype=dtype)
    joints = mesh.joints(coarse)
    assert joints.shape == (*batch, mesh.joint_set.num_joints, 3)
    assert joints.dtype == dtype
    full = mesh.upsample(coarse)
    torch.testing.assert_close(joints, mesh.full_joint_regressor.to(dtype) @ full, atol=1e-6, rtol=0)
    torch.testing.assert_close(joints, mesh.full_joints(full), atol=1e-6, rtol=0)


def test_joints_are_linear_and_move_with_the_mesh(mesh: CoarseMesh) -> None:
    first, second = (draw(2, mesh.num_vertices, 3, seed=seed) for seed in (1, 2))
    assert torch.equal(mesh.joints(torch.zeros_like(first)), torch.zeros(2, mesh.joint_set.num_joints, 3))
    expected = 0.3 * mesh.joints(first) - 2 * mesh.joints(second)
    torch.testing.assert_close(mesh.joints(0.3 * first - 2 * second), expected, atol=2e-6, rtol=0)
    for regressor in (mesh.joint_regressor, mesh.full_joint_regressor):
        torch.testing.assert_close(regressor.sum(dim=1), torch.ones(len(regressor)), atol=1e-6, rtol=0)
    affine, shift = draw(3, 3, seed=3), draw(2, 1, 3, seed=4)
    moved = mesh.joints(first @ affine + shift)
    torch.testing.assert_close(moved, mesh.joints(first) @ affine + shift, atol=5e-6, rtol=0)


def test_regressor_is_that_of_the_joint_set(body: BodyModel, body_mesh: CoarseMesh, pyramid: MeshPyramid) -> None:
    assert torch.equal(body_mesh.full_joint_regressor, body.J_regressor)
    assert body_mesh.joint_set == SMPL_24
    assert body_mesh.parents == SMPL_24.parents
    h36m = CoarseMesh(body, pyramid, H36M_17)
    assert body.J_regressor_h36m is not None
    assert torch.equal(h36m.full_joint_regressor, body.J_regressor_h36m)
    assert h36m.joint_regressor.shape == (17, 431)


def test_fingertips_are_landmark_vertices(hand: BodyModel, hand_mesh: CoarseMesh) -> None:
    full = draw(len(hand.v_template), 3)
    joints = hand_mesh.full_joints(full)
    torch.testing.assert_close(joints[:16], hand.J_regressor @ full)
    for name, vertex in zip(TIPS, (5, 40, 80, 120, 160), strict=True):
        torch.testing.assert_close(joints[MANO_21.index(name)], full[vertex])


def test_joints_of_posed_bodies_hardly_change(body: BodyModel, body_mesh: CoarseMesh) -> None:
    pose = 0.4 * draw(8, 24, 3)
    posed = SMPLLayer(body)(draw(8, 10), pose[:, 1:], pose[:, 0], pose_repr="axis_angle").vertices
    found = body_mesh.joints(posed[:, body_mesh.vertex_ids])
    assert (found - body_mesh.full_joints(posed)).norm(dim=-1).mean() < 2e-3


@pytest.mark.parametrize("of", ["body", "hand"])
def test_coarse_vertices_are_full_vertices(of: str, request: pytest.FixtureRequest) -> None:
    model: BodyModel = request.getfixturevalue(of)
    mesh: CoarseMesh = request.getfixturevalue(f"{of}_mesh")
    full = draw(2, len(model.v_template), 3)
    assert mesh.sizes == ((6890, 1723, 431) if of == "body" else (len(model.v_template), 60))
    assert mesh.vertex_ids.shape == (mesh.num_vertices,) == (mesh.sizes[-1],)
    assert mesh.mid_ids.shape == (mesh.sizes[1],)
    assert torch.equal(full[:, mesh.vertex_ids], mesh.pyramid.downsample(full))
    assert torch.equal(full[:, mesh.mid_ids], mesh.pyramid.downsample(full, target=1))
    coarse = draw(2, mesh.num_vertices, 3)
    torch.testing.assert_close(mesh.upsample(coarse)[:, mesh.vertex_ids], coarse)
    assert torch.equal(mesh.upsample(mesh.upsample(coarse, target=1), source=1), mesh.upsample(coarse))


@pytest.mark.parametrize("of", ["body", "hand"])
def test_edges_and_adjacency(of: str, request: pytest.FixtureRequest) -> None:
    mesh: CoarseMesh = request.getfixturevalue(f"{of}_mesh")
    expected = {tuple(sorted((face[i], face[i - 1]))) for face in mesh.faces.tolist() for i in range(3)}
    edges = [tuple(edge) for edge in mesh.edges.tolist()]
    assert len(edges) == len(set(edges))
    assert set(edges) == expected
    if of == "body":  # closed: Euler
        assert len(edges) == len(mesh.faces) * 3 // 2 == mesh.num_vertices + len(mesh.faces) - 2
    near = {*expected, *((b, a) for a, b in expected), *((v, v) for v in range(mesh.num_vertices))}
    assert {tuple(pair) for pair in mesh.adjacency.nonzero().tolist()} == near
    assert mesh.adjacency.dtype == torch.bool


@pytest.mark.parametrize("of", ["body", "hand"])
def test_rest_is_the_template_about_its_root(of: str, request: pytest.FixtureRequest) -> None:
    model: BodyModel = request.getfixturevalue(of)
    mesh: CoarseMesh = request.getfixturevalue(f"{of}_mesh")
    torch.testing.assert_close(mesh.joints(mesh.rest)[0], torch.zeros(3), atol=1e-6, rtol=0)
    moved = model.v_template[mesh.vertex_ids] - mesh.rest
    torch.testing.assert_close(moved, moved[:1].expand_as(moved), atol=1e-6, rtol=0)


def test_nothing_goes_into_checkpoints(body_mesh: CoarseMesh) -> None:
    assert body_mesh.state_dict() == {}
    assert list(body_mesh.parameters()) == []


def test_half_precision_is_raised(body_mesh: CoarseMesh) -> None:
    coarse = draw(2, 431, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        joints, full = body_mesh.joints(coarse), body_mesh.upsample(coarse)
    torch.testing.assert_close(joints, body_mesh.joints(coarse.float()))
    torch.testing.assert_close(full, body_mesh.upsample(coarse.float()))


def test_gradient_is_the_regressor(hand_mesh: CoarseMesh) -> None:
    coarse = draw(60, 3).requires_grad_()
    hand_mesh.joints(coarse)[3, 1].backward()
    assert coarse.grad is not None
    torch.testing.assert_close(coarse.grad[:, 1], hand_mesh.joint_regressor[3])
    assert not coarse.grad[:, [0, 2]].any()


@pytest.mark.slow
def test_a_users_body_file_gets_its_own_pyramid(tmp_path: Path, pyramid: MeshPyramid) -> None:
    """The open body in SMPL's format, its vertices in another order, so that the shipped pyramid is another mesh's."""
    content = load_npz(OPEN_BODY)
    content = {
        **{key: content[key][::-1].copy() for key in ("v_template", "shapedirs", "posedirs", "weights")},
        "J_regressor": content["J_regressor"][:, ::-1].copy(),
        "f": (6889 - content["f"]).astype(np.uint32),
        "kintree_table": content["kintree_table"],
    }
    path, built = tmp_path / "basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl", tmp_path / "pyramid.npz"
    path.write_bytes(pickle.dumps(content))
    command = [sys.executable, "tools/build_open_body.py", "--pyramid-for", str(path), "--sizes", "1723", "431"]
    subprocess.run([*command, "--output", str(built)], cwd=ROOT, check=True, capture_output=True)
    model = load_body_model(tmp_path)
    mesh = CoarseMesh(model, MeshPyramid.load(built), SMPL_24)
    assert mesh.sizes == (6890, 1723, 431)
    coarse = draw(2, 431, 3)
    torch.testing.assert_close(mesh.joints(coarse), model.J_regressor @ mesh.upsample(coarse), atol=1e-6, rtol=0)
    rest = model.v_template[mesh.vertex_ids]
    assert (mesh.upsample(rest) - model.v_template).norm(dim=-1).mean() < 1e-3
    assert (mesh.joints(rest) - model.J_regressor @ model.v_template).norm(dim=-1).max() < 5e-3
    with pytest.raises(ValueError, match="pyramid is of a mesh of 6890 vertices whose triangles are not those of body"):
        CoarseMesh(model, pyramid, SMPL_24)


def test_a_pyramid_of_another_body(hand: BodyModel, pyramid: MeshPyramid) -> None:
    message = (
        rf"pyramid is of a mesh of 6890 vertices whose triangles are not those of body 'hand' "
        rf"\({len(hand.v_template)} vertices\); build its own with tools/build_open_body.py --pyramid-for FILE"
    )
    with pytest.raises(ValueError, match=message):
        CoarseMesh(hand, pyramid, MANO_21)


@pytest.mark.parametrize(
    ("joint_set", "message"),
    [
        (COCO_17, "joint_set is 'coco17', expected smpl24, h36m17 or mano21"),
        (MANO_21, "body 'open_body' has 24 joints; joint set 'mano21' needs one of 16"),
    ],
)
def test_joint_sets_that_the_body_cannot_give(
    body: BodyModel, pyramid: MeshPyramid, joint_set: JointSet, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CoarseMesh(body, pyramid, joint_set)


def test_a_body_without_a_regressor_or_fingertips(body: BodyModel, pyramid: MeshPyramid, hand: BodyModel) -> None:
    with pytest.raises(ValueError, match="body 'open_body' has no J_regressor_h36m, which joint set 'h36m17' needs"):
        CoarseMesh(replace(body, J_regressor_h36m=None), pyramid, H36M_17)
    plain = replace(hand, landmark_names=(), landmark_vertex_ids=torch.empty(0, dtype=torch.long))
    levels = build_pyramid(hand.v_template.numpy(), hand.faces.numpy(), [60])
    with pytest.raises(ValueError, match=r"body 'hand' has no landmarks \['thumb_tip', .*'pinky_tip'\]"):
        CoarseMesh(plain, levels, MANO_21)


def test_vertices_of_another_level(body_mesh: CoarseMesh) -> None:
    with pytest.raises(ValueError, match="vertices has 1723 vertices, the mesh has 431"):
        body_mesh.joints(torch.zeros(2, 1723, 3))
    with pytest.raises(ValueError, match="vertices has 431 vertices, the mesh has 6890"):
        body_mesh.full_joints(torch.zeros(431, 3))
    with pytest.raises(ValueError, match="vertices has 1723 vertices, level 2 has 431"):
        body_mesh.upsample(torch.zeros(1723, 3))
    with pytest.raises(ValueError, match="target level 2 is coarser than source level 1"):
        body_mesh.upsample(torch.zeros(1723, 3), source=1, target=2)
