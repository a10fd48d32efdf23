import pytest
import torch

from posecore.body.files import load_body_model
from posecore.body.joint_maps import CONSTRUCTIONS, joint_map
from posecore.body.skeletons import (
    BODY_25,
    COCO_17,
    FREIHAND_21,
    H36M_16,
    H36M_17,
    HALPE_26,
    HUMANEVA_15,
    JOINT_SETS,
    JOINTS_44,
    LSP_14,
    MANO_21,
    MPI_INF_3DHP_17,
    MPI_INF_3DHP_28,
    SMPL_24,
)
from posecore.body.smpl import SMPLLayer

PAIRS = [(source, target) for source in JOINT_SETS.values() for target in JOINT_SETS.values()]


def ids(pair):
    return f"{pair[0].name}-{pair[1].name}"


@pytest.fixture(scope="module")
def posed_joints():
    """Joints of 100 bodies in random poses by name: SMPL's and Human3.6M's regressors and landmark vertices."""
    body = load_body_model()
    generator = torch.Generator().manual_seed(0)
    regressor = torch.cat([body.J_regressor_h36m, body.landmark_regressor(body.landmark_names)])
    layer = SMPLLayer(body).subset(joints=range(24), regressor=regressor)
    pose = torch.randn(100, 24, 3, generator=generator) * 0.3
    betas = torch.randn(100, 10, generator=generator)
    joints = layer(betas, pose[:, 1:], pose[:, 0], pose_repr="axis_angle").joints
    smpl, h36m, landmarks = joints.split([24, 17, len(body.landmark_names)], dim=1)
    by_name = dict(zip(body.landmark_names, landmarks.unbind(dim=1), strict=True))
    by_name |= dict(zip(H36M_17.joint_names, h36m.unbind(dim=1), strict=True))
    # Halpe and OpenPose define these two so.
    by_name["neck"] = (by_name["l_shoulder"] + by_name["r_shoulder"]) / 2
    by_name["mid_hip"] = (by_name["l_hip"] + by_name["r_hip"]) / 2
    return {"smpl24": dict(zip(SMPL_24.joint_names, smpl.unbind(dim=1), strict=True)), "others": by_name}


def on_the_body(posed_joints, joint_set):
    by_name = posed_joints.get(joint_set.name, posed_joints["others"])
    return torch.stack([by_name[name] for name in joint_set.joint_names], dim=1)


# Mean distance in mm that a map may miss its target by; what is not named must be within 12 mm.
H36M_FROM_DETECTIONS = {"thorax": 40, "neck_nose": 35, "spine": 75}
TOLERANCES_MM = [
    (COCO_17, H36M_17, H36M_FROM_DETECTIONS, {"head_top"}),
    (BODY_25, H36M_17, H36M_FROM_DETECTIONS, {"head_top"}),
    (HALPE_26, H36M_17, H36M_FROM_DETECTIONS, set()),
    (HALPE_26, H36M_16, H36M_FROM_DETECTIONS, set()),
    (SMPL_24, H36M_17, {"pelvis": 25, "head_top": 50}, set()),
    (SMPL_24, H36M_16, {"pelvis": 25, "head_top": 50}, set()),
    (H36M_17, SMPL_24, {"pelvis": 25, "neck": 65, "head": 35}, None),
    (COCO_17, SMPL_24, {"pelvis": 25, "neck": 70, "spine2": 75}, None),
    (COCO_17, BODY_25, {}, None),
    (HALPE_26, COCO_17, {}, set()),
    (HALPE_26, BODY_25, {}, set()),
    (BODY_25, COCO_17, {}, set()),
    (H36M_17, H36M_16, {}, set()),
    (H36M_16, H36M_17, {}, {"neck_nose"}),
]


@pytest.mark.parametrize(("source", "target", "tolerance_mm", "missing"), TOLERANCES_MM)
def test_maps_hit_the_joints_of_posed_bodies(posed_joints, source, target, tolerance_mm, missing):
    mapped = joint_map(source, target)
    distance = mapped.apply(on_the_body(posed_joints, source)) - on_the_body(posed_joints, target)
    distance_mm = 1000 * distance.norm(dim=-1).mean(dim=0)
    made = dict(zip(target.joint_names, mapped.available, strict=True))
    if missing is not None:
        assert {name for name in made if not made[name]} == missing
    missed = {
        name: float(mm)
        for name, mm in zip(target.joint_names, distance_mm, strict=True)
        if made[name] and mm > tolerance_mm.get(name, 12)
    }
    assert missed == {}


@pytest.mark.parametrize("pair", PAIRS, ids=ids)
def test_rows_sum_to_one_or_are_empty(pair):
    mapped = joint_map(*pair)
    sums = mapped.weights.sum(dim=1)
    expected = torch.tensor(mapped.available, dtype=sums.dtype)
    torch.testing.assert_close(sums, expected)
    assert mapped.weights.shape == (pair[1].num_joints, pair[0].num_joints)


@pytest.mark.parametrize("pair", PAIRS, ids=ids)
def test_mirrored_input_gives_mirrored_output(pair, generator):
    source, target = pair
    points = torch.randn(source.num_joints, 3, generator=generator)
    mirrored = joint_map(source, target).apply(points[list(source.flip)])
    torch.testing.assert_close(mirrored, joint_map(source, target).apply(points)[list(target.flip)])


@pytest.mark.parametrize("joint_set", JOINT_SETS.values(), ids=JOINT_SETS)
def test_a_set_maps_to_itself_unchanged(joint_set):
    torch.testing.assert_close(joint_map(joint_set, joint_set).weights, torch.eye(joint_set.num_joints).double())


def copied(source, target):
    """Source index of each target joint, -1 where it is not one copied joint."""
    weights = joint_map(source, target, copies_only=True).weights
    return [int(row.argmax()) if row.any() else -1 for row in weights]


# Index lists of public code (SPIN, ScoreHMR, VideoPose3D, MPI-INF-3DHP).
def test_published_index_lists():
    lsp = joint_map(H36M_17, LSP_14)
    assert lsp.weights.argmax(dim=1).tolist() == [3, 2, 1, 4, 5, 6, 16, 15, 14, 11, 12, 13, 8, 10]
    assert all(lsp.available)
    slots = [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11]
    openpose = copied(COCO_17, BODY_25)
    assert [openpose[slot] for slot in slots] == list(range(17))
    assert sum(index >= 0 for index in openpose) == 17
    assert copied(H36M_17, H36M_16) == [i for i in range(17) if i != 9]
    chosen = [7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6]
    assert copied(MPI_INF_3DHP_28, MPI_INF_3DHP_17) == chosen
    from_smpl = [12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7]  # OpenPose's joints after the nose
    assert joint_map(SMPL_24, JOINTS_44).weights[1:15].argmax(dim=1).tolist() == from_smpl
    assert copied(MANO_21, FREIHAND_21) == [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]


@pytest.mark.parametrize(
    ("source", "target", "missing"),
    [
        (H36M_17, HUMANEVA_15, set()),
        (H36M_17, MPI_INF_3DHP_17, set()),
        (MPI_INF_3DHP_17, H36M_17, set()),
        (MPI_INF_3DHP_28, H36M_17, set()),
        (JOINTS_44, H36M_17, set()),
        (HUMANEVA_15, H36M_17, {"head_top"}),
        (LSP_14, H36M_17, {"neck_nose"}),
    ],
)
def test_other_pairs_say_what_is_missing(source, target, missing):
    available = joint_map(source, target).available
    assert {name for name, made in zip(target.joint_names, available, strict=True) if not made} == missing


@pytest.mark.parametrize("source", [MPI_INF_3DHP_17, MPI_INF_3DHP_28], ids=lambda joint_set: joint_set.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mpi_inf_3dhp_gives_h36m_joints_as_exact_copies(source, dtype, generator):
    points = 1000 * torch.randn(5, source.num_joints, 3, generator=generator, dtype=dtype)
    other_names = {"thorax": "neck", "neck_nose": "head"}
    order = [source.index(other_names.get(name, name)) for name in H36M_17.joint_names]
    mapped = joint_map(source, H36M_17)
    assert torch.equal(mapped.apply(points), points[:, order])
    assert sorted(mapped.weights.unique().tolist()) == [0, 1]
    assert mapped.weights.argmax(dim=1).tolist() == order
    assert mapped.weights.sum(dim=1).tolist() == [1] * 17


def test_confidence_is_the_least_of_what_was_used():
    confidence = torch.linspace(0.1, 0.9, 17)
    index = {name: i for i, name in enumerate(COCO_17.joint_names)}
    confidence[index["l_hip"]] = 0.05
    mapped = joint_map(COCO_17, H36M_17).apply_confidence(confidence.expand(2, 17))
    assert mapped.shape == (2, 17)
    assert mapped[0, H36M_17.index("pelvis")] == 0.05
    assert mapped[0, H36M_17.index("l_knee")] == confidence[index["l_knee"]]
    assert mapped[0, H36M_17.index("thorax")] == confidence[index["l_shoulder"]]
    assert mapped[0, H36M_17.index("spine")] == 0.05
    assert mapped[0, H36M_17.index("head_top")] == 0


def test_a_bad_joint_spoils_only_what_is_made_of_it():
    points = torch.ones(17, 2)
    points[COCO_17.index("nose")] = torch.nan
    points[COCO_17.index("r_hip")] = torch.inf
    mapped = joint_map(COCO_17, H36M_17).apply(points)
    good = mapped.isfinite().all(dim=-1)
    spoilt = {name for name, is_good in zip(H36M_17.joint_names, good, strict=True) if not is_good}
    assert spoilt == {"pelvis", "r_hip", "spine"}
    assert mapped[H36M_17.index("head_top")].tolist() == [0, 0]


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 3])
def test_apply_is_the_matrix_product(batch, dtype, dim, generator):
    mapped = joint_map(COCO_17, H36M_17)
    points = torch.randn(*batch, 17, dim, generator=generator, dtype=dtype)
    before = points.clone()
    torch.testing.assert_close(mapped.apply(points), mapped.weights.to(dtype) @ points)
    assert torch.equal(points, before)


def test_wrong_number_of_joints():
    with pytest.raises(ValueError, match=r"\(16, 2\) does not have the 17 joints of 'coco17'"):
        joint_map(COCO_17, H36M_17).apply(torch.zeros(16, 2))
    with pytest.raises(ValueError, match=r"\(3, 16\) does not have the 17 joints of 'coco17'"):
        joint_map(COCO_17, H36M_17).apply_confidence(torch.zeros(3, 16))


def test_rules_are_about_joints_that_exist():
    names = {name.removeprefix("op_") for joint_set in JOINT_SETS.values() for name in joint_set.joint_names}
    assert set(CONSTRUCTIONS) <= names
    for alternatives in CONSTRUCTIONS.values():
        for parts in alternatives:
            assert set(parts) <= names
            assert sum(parts.values()) == pytest.approx(1)
