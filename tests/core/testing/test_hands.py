from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from posecore.body.files import BodyModel, load_body_model
from posecore.body.pyramid import build_pyramid
from posecore.body.simplify import boundary_edges, simplify_mesh
from posecore.body.skeletons import MANO_21
from posecore.body.smpl import SMPLLayer
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.testing import write_hand_model


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> BodyModel:
    return load_body_model(write_hand_model(tmp_path_factory.mktemp("hand") / "hand.npz"))


def joints(hand: BodyModel) -> dict[str, np.ndarray]:
    regressor = torch.cat((hand.J_regressor, hand.landmark_regressor(MANO_21.joint_names[16:])))
    return dict(zip(MANO_21.joint_names, (regressor @ hand.v_template).numpy(), strict=True))


def test_it_has_mano_s_sizes(hand: BodyModel) -> None:
    assert hand.v_template.shape == (778, 3)
    assert hand.faces.shape == (1538, 3)
    assert hand.shapedirs.shape == (778, 3, 10)
    assert hand.parents.tolist() == list(MANO_21.parents[:16])
    assert hand.hand_components is not None
    torch.testing.assert_close(hand.hand_components @ hand.hand_components.T, torch.eye(45), atol=1e-5, rtol=0)
    for weights in (hand.lbs_weights, hand.J_regressor):
        assert weights.min() >= 0
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights)))


def test_the_surface_is_a_disc_open_at_the_wrist_and_faces_outwards(hand: BodyModel) -> None:
    faces, vertices = hand.faces.numpy(), hand.v_template.numpy()
    rim = boundary_edges(faces)
    assert len(rim) == 16
    np.testing.assert_allclose(vertices[rim][..., 0], 0, atol=1e-7)
    edges = {tuple(sorted(edge)) for face in faces.tolist() for edge in zip(face, face[1:] + face[:1], strict=True)}
    assert len(vertices) - len(edges) + len(faces) == 1
    assert np.array_equal(np.unique(faces), np.arange(778))
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.body_count == 1
    # The opening lies in a plane through the origin, so it adds nothing to the volume.
    assert 1.5e-4 < mesh.volume < 5e-4
    assert mesh.area_faces.min() > 1e-7


def test_it_is_a_right_hand_of_a_hand_s_size(hand: BodyModel) -> None:
    at = joints(hand)
    assert 0.16 < np.linalg.norm(at["middle_tip"] - at["wrist"]) < 0.21
    for finger in ("index", "middle", "ring", "pinky", "thumb"):
        chain = [at[f"{finger}1"], at[f"{finger}2"], at[f"{finger}3"], at[f"{finger}_tip"]]
        bones = np.diff(chain, axis=0)
        assert (np.linalg.norm(bones, axis=1) > 0.015).all(), finger
        assert (bones[:, 0] < 0).all(), finger
    across = [at[f"{finger}1"][2] for finger in ("thumb", "index", "middle", "ring", "pinky")]
    assert across == sorted(across, reverse=True)
    assert at["thumb_tip"][1] < at["index_tip"][1], "the thumb lies on the palm's side, below"


def test_every_shape_component_changes_the_hand(hand: BodyModel) -> None:
    moved = hand.shapedirs.norm(dim=1).amax(dim=0)
    assert ((moved > 3e-4) & (moved < 0.02)).all()
    assert np.linalg.matrix_rank(hand.shapedirs.flatten(0, 1).numpy()) == 10


def test_fingers_curl_into_the_palm_and_alone(hand: BodyModel) -> None:
    layer = SMPLLayer(hand, regressor=hand.landmark_regressor(MANO_21.joint_names[16:]))
    pose = torch.zeros(15, 3)
    index = [MANO_21.index(f"index{number}") - 1 for number in (1, 2, 3)]
    pose[index, 2] = 1.2
    rest = layer(torch.zeros(10), torch.zeros(15, 3), torch.zeros(3), pose_repr="axis_angle")
    bent = layer(torch.zeros(10), axis_angle_to_rotmat(pose), torch.eye(3))
    moved = (bent.joints - rest.joints)[16:]
    tips = [name.removesuffix("_tip") for name in MANO_21.joint_names[16:]]
    assert moved[tips.index("index"), 1] < -0.02
    assert moved[[tips.index(name) for name in ("middle", "ring", "pinky", "thumb")]].abs().max() < 1e-6


def test_the_coarse_hand_of_195_vertices(hand: BodyModel) -> None:
    vertices, faces = hand.v_template.double().numpy(), hand.faces.numpy()
    coarse = simplify_mesh(vertices, faces, 195)
    assert len(coarse.kept) == 195
    assert len(boundary_edges(coarse.faces)) >= 3
    assert hand.hand_components is not None
    assert hand.hand_mean is not None
    pose = hand.hand_mean + 0.7 * torch.randn(80, 10) @ hand.hand_components[:10]
    layer = SMPLLayer(hand)
    posed = layer(torch.randn(80, 10), pose.unflatten(-1, (15, 3)), torch.zeros(3), pose_repr="axis_angle").vertices
    pyramid = build_pyramid(vertices, faces, [195], samples=posed[:40].double().numpy())
    error = (pyramid.upsample(pyramid.downsample(posed[40:])) - posed[40:]).norm(dim=-1)
    assert error.mean() < 0.002


def test_the_file_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = (load_body_model(write_hand_model(tmp_path / name)) for name in ("a.npz", "b.npz"))
    for key in ("v_template", "shapedirs", "lbs_weights", "faces", "hand_components"):
        assert torch.equal(getattr(first, key), getattr(second, key)), key
