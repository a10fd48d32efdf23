import dataclasses

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree

from posecore.body.skeletons import JOINT_SETS, get_joint_set
from posecore.metrics import functional as F
from posecore.metrics.protocols import PROTOCOLS, UNITS, Protocol, evaluate, evaluate_prefixes, get_protocol

NAMED = {
    "zedo_h36m", "zedo_3dpw_17", "zedo_3dpw_14", "zedo_3dhp", "diffupose_h36m", "scorehmr_3dpw", "scorehmr_multiview",
    "scorehmr_video", "hmdiff_3dpw", "hmdiff_h36m", "hmdiff_freihand", "spin_3dpw", "open_h36m17", "open_h36m16",
    "diffupose_h36m_gt", "diffupose_humaneva", "spin_mpi_inf_3dhp", "open_mesh24", "open_mesh24_by_mpjpe",
}  # fmt: skip


def batch(protocol: Protocol, size: int = 6, hypotheses: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    joints = get_joint_set(protocol.joint_set).num_joints
    target = torch.randn(size, joints, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(size, hypotheses, joints, 3, generator=generator, dtype=torch.float64)
    return target[:, None] + 0.1 * noise, target


def test_every_option_set_of_the_papers_is_named() -> None:
    assert set(PROTOCOLS) >= NAMED
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_protocol_scores_and_describes_itself(name: str) -> None:
    protocol = get_protocol(name)
    line = protocol.describe()
    assert "\n" not in line
    for part in (name, protocol.joint_set, str(protocol.num_joints), protocol.hypotheses, *protocol.metrics):
        assert part in line
    assert protocol.joint_set in JOINT_SETS
    assert protocol.reference
    pred, target = batch(protocol)
    meshes = torch.randn(6, 4, 30, 3, dtype=torch.float64)
    before = pred.clone(), target.clone()
    scores = evaluate(protocol, pred, target, None, meshes, meshes[:, 0])
    assert tuple(scores) == protocol.metrics
    for metric, values in scores.items():
        assert values.shape == (4 if metric == "acceleration" else 6,)
        assert (values >= 0).all()
        assert UNITS[metric] != "share" or (values <= 1).all()
    assert torch.equal(pred, before[0])
    assert torch.equal(target, before[1])
    without_mesh = evaluate(protocol, pred, target)
    assert set(without_mesh) == set(protocol.metrics) - {"pve", "pa_pve", "f5", "f15"}


@pytest.mark.parametrize(
    ("name", "keys", "words"),
    [
        ("open_h36m16", (), "mean over frames"),
        ("diffupose_h36m_gt", ("action",), "mean over actions"),
        ("diffupose_humaneva", ("subject", "action"), "mean over pairs of subject and action"),
    ],
)
def test_groups_that_are_averaged(name: str, keys: tuple[str, ...], words: str) -> None:
    assert PROTOCOLS[name].group_keys == keys
    assert f"; {words};" in PROTOCOLS[name].describe()


def test_joint_subsets_are_those_of_the_papers() -> None:
    names = get_joint_set("h36m17").joint_names
    fourteen = PROTOCOLS["zedo_3dpw_14"].scored_joints
    assert {names[i] for i in range(17) if i not in fourteen} == {"pelvis", "spine", "neck_nose"}
    names = get_joint_set("joints44").joint_names
    assert PROTOCOLS["scorehmr_3dpw"].scored_joints == (*range(25, 38), 43)
    assert names[PROTOCOLS["scorehmr_3dpw"].root[0]] == "pelvis"
    assert PROTOCOLS["zedo_h36m"].scored_joints == tuple(range(17))
    assert PROTOCOLS["zedo_h36m"].stride == 640
    assert PROTOCOLS["zedo_h36m"].reflection
    assert not PROTOCOLS["open_h36m17"].reflection
    assert PROTOCOLS["spin_3dpw"].scored_joints == fourteen
    assert PROTOCOLS["spin_3dpw"].root == get_joint_set("h36m17").root
    assert PROTOCOLS["spin_mpi_inf_3dhp"].scored_joints == tuple(range(17))
    assert PROTOCOLS["open_mesh24"].scored_joints == tuple(range(24))


def test_values_are_those_of_the_functions() -> None:
    protocol = PROTOCOLS["zedo_3dpw_14"]
    pred, target = batch(protocol)
    keep = list(protocol.scored_joints)
    rooted_pred, rooted_target = pred[..., keep, :], F.subtract_root(target)[:, None, keep]
    mpjpe = F.mpjpe(rooted_pred, rooted_target.expand_as(rooted_pred), None)
    pa_mpjpe = F.pa_mpjpe(rooted_pred, rooted_target.expand_as(rooted_pred), reflection=True)
    scores = evaluate(protocol, pred, target)
    torch.testing.assert_close(scores["mpjpe"], mpjpe.amin(1))
    torch.testing.assert_close(scores["pa_mpjpe"], pa_mpjpe.amin(1))
    # The best hypothesis by one error need not be the best by another.
    assert (mpjpe.argmin(1) != pa_mpjpe.argmin(1)).any()
    for rule, expected in (("mean", mpjpe.mean(1)), ("first", mpjpe[:, 0])):
        other = dataclasses.replace(protocol, hypotheses=rule)
        torch.testing.assert_close(evaluate(other, pred, target)["mpjpe"], expected)
    aggregate = evaluate(dataclasses.replace(protocol, hypotheses="aggregate"), pred, target)
    mean_pose = rooted_pred.mean(1)
    torch.testing.assert_close(aggregate["mpjpe"], F.mpjpe(mean_pose, rooted_target[:, 0], None))
    torch.testing.assert_close(aggregate["pa_mpjpe"], F.pa_mpjpe(mean_pose, rooted_target[:, 0], reflection=True))


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_only_zedo_leaves_the_prediction_where_it_is(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.center_prediction == (not name.startswith("zedo_"))
    assert ("not re-centred" in protocol.describe()) == name.startswith("zedo_")


@pytest.mark.parametrize("center_prediction", [True, False])
def test_a_shifted_prediction_counts_unless_it_is_centred(center_prediction: bool) -> None:
    metrics = ("mpjpe", "pa_mpjpe", "n_mpjpe", "pve")
    protocol = Protocol("mine", "smpl24", metrics, center_prediction=center_prediction)
    _, target = batch(protocol)
    target_rel = F.subtract_root(target)
    shift = torch.tensor([0.03, 0.0, 0.04], dtype=torch.float64)  # 50 mm
    meshes = torch.randn(6, 30, 3, dtype=torch.float64)
    mesh_rel = meshes - target[:, :1]
    scores = evaluate(protocol, (target_rel + shift)[:, None], target, None, (mesh_rel + shift)[:, None], meshes)
    expected = torch.full((6,), 0.0 if center_prediction else 50.0, dtype=torch.float64)
    torch.testing.assert_close(scores["mpjpe"], expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(scores["pve"], expected, atol=1e-9, rtol=0)
    assert (scores["n_mpjpe"].max() < 1e-9) == center_prediction
    assert scores["pa_mpjpe"].max() < 1e-3


def test_pck_is_of_the_hypothesis_of_least_mpjpe() -> None:
    protocol = PROTOCOLS["zedo_3dhp"]
    target = torch.zeros(1, 17, 3)
    pred = torch.zeros(1, 2, 17, 3)
    pred[0, 0, 1:, 0] = 0.16  # MPJPE 151 mm, PCK 1/17
    pred[0, 1, 1, 0] = 10.0  # MPJPE 588 mm, PCK 16/17
    scores = evaluate(protocol, pred, target)
    assert scores["mpjpe"].item() == pytest.approx(160 * 16 / 17)
    assert scores["pck"].item() == pytest.approx(1 / 17)


ALL_METRICS = ("mpjpe", "pa_mpjpe", "n_mpjpe", "pck", "auc", "acceleration", "pve", "pa_pve", "f5", "f15")
RULES = ("min", "min_by_mpjpe", "min_by_pa_mpjpe", "mean", "first", "aggregate")


def mesh_batch(size: int = 6, hypotheses: int = 5) -> tuple[torch.Tensor, ...]:
    pred, target = batch(PROTOCOLS["open_mesh24"], size, hypotheses)
    generator = torch.Generator().manual_seed(1)
    target_vertices = 0.05 * torch.randn(size, 30, 3, generator=generator, dtype=torch.float64) + target[:, :1]
    noise = torch.randn(size, hypotheses, 30, 3, generator=generator, dtype=torch.float64)
    mask = torch.rand(size, 24, generator=generator) > 0.2
    mask[0, 0], mask[1:, 0] = False, True
    return (
        pred,
        target,
        mask,
        target_vertices[:, None] + pred[:, :, :1] - target[:, None, :1] + 0.01 * noise,
        target_vertices,
    )


def alone(protocol: Protocol, data: tuple[torch.Tensor, ...], hypothesis: int, metric: str) -> torch.Tensor:
    """One hypothesis, of which there is no choice."""
    pred, target, mask, pred_vertices, target_vertices = data
    first = dataclasses.replace(protocol, hypotheses="first", metrics=(metric,))
    one = slice(hypothesis, hypothesis + 1)
    return evaluate(first, pred[:, one], target, mask, pred_vertices[:, one], target_vertices)[metric]


@pytest.mark.parametrize("rule", RULES[:3])
def test_min_equals_a_loop_over_hypotheses(rule: str) -> None:
    protocol = Protocol("mine", "smpl24", ALL_METRICS, hypotheses=rule)
    data = mesh_batch()
    scores = evaluate(protocol, *data)
    errors = {metric: [alone(protocol, data, h, metric).tolist() for h in range(5)] for metric in ALL_METRICS}
    differs = set()
    for metric in ALL_METRICS:
        offset = 1 if metric == "acceleration" else 0
        for pose, found in enumerate(scores[metric].tolist()):
            own = [errors[metric][h][pose] for h in range(5)]
            key = errors["pa_mpjpe" if rule == "min_by_pa_mpjpe" else "mpjpe"]
            chosen = min(range(5), key=lambda h: key[h][pose + offset])
            expected = min(own) if rule == "min" and UNITS[metric] != "share" else own[chosen]
            assert found == pytest.approx(expected, rel=1e-9, nan_ok=True)
            if found > min(own) + 1e-6:
                differs.add(metric)
    # The rules are three, not one.
    assert ("pve" in differs) == (rule != "min")
    assert scores["mpjpe"].isnan().tolist() == [True] + 5 * [False]


def test_min_by_one_metric_is_named() -> None:
    protocol = PROTOCOLS["open_mesh24_by_mpjpe"]
    assert "hypotheses: min_by_mpjpe, every metric of the hypothesis of least MPJPE;" in protocol.describe()
    other = dataclasses.replace(protocol, hypotheses="min_by_pa_mpjpe")
    assert "hypotheses: min_by_pa_mpjpe, every metric of the hypothesis of least PA-MPJPE;" in other.describe()
    assert "hypotheses: min per metric;" in PROTOCOLS["open_mesh24"].describe()


def test_a_metric_that_chooses_need_not_be_reported() -> None:
    data = mesh_batch()
    protocol = Protocol("mine", "smpl24", ("mpjpe", "pa_mpjpe"), hypotheses="min_by_pa_mpjpe")
    brief = dataclasses.replace(protocol, metrics=("mpjpe",))
    found = evaluate(brief, *data)
    assert tuple(found) == ("mpjpe",)
    torch.testing.assert_close(found["mpjpe"], evaluate(protocol, *data)["mpjpe"], equal_nan=True)


@pytest.mark.parametrize("rule", RULES)
def test_prefixes_equal_the_first_hypotheses_alone(rule: str) -> None:
    protocol = Protocol("mine", "smpl24", ALL_METRICS, hypotheses=rule)
    pred, target, mask, pred_vertices, target_vertices = mesh_batch()
    scores = evaluate_prefixes(protocol, (1, 4, 2), pred, target, mask, pred_vertices, target_vertices)
    assert list(scores) == [1, 4, 2]
    for n, found in scores.items():
        expected = evaluate(protocol, pred[:, :n], target, mask, pred_vertices[:, :n], target_vertices)
        assert tuple(found) == ALL_METRICS
        torch.testing.assert_close(found, expected, equal_nan=True)
    assert (scores[4]["pve"][1:] != scores[1]["pve"][1:]).any() == (rule != "first")


def test_reflection_follows_the_protocol() -> None:
    _, target = batch(PROTOCOLS["zedo_h36m"])
    mirrored = (target * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))[:, None]
    assert evaluate(PROTOCOLS["zedo_h36m"], mirrored, target)["pa_mpjpe"].max() < 1e-3
    assert evaluate(PROTOCOLS["open_h36m17"], mirrored, target)["pa_mpjpe"].min() > 100


def test_mesh_errors_are_aligned_at_the_root_or_by_procrustes() -> None:
    protocol = PROTOCOLS["open_mesh24"]
    pred, target = batch(protocol)
    meshes = torch.randn(6, 30, 3, dtype=torch.float64)
    offset = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    scores = evaluate(protocol, (target + offset)[:, None], target, None, (meshes + offset)[:, None], meshes)
    assert scores["pve"].max() < 1e-9
    hand = PROTOCOLS["hmdiff_freihand"]
    pred, target = batch(hand)
    scores = evaluate(hand, pred[:, :1], target, None, 2 * meshes[:, None] + offset, meshes)
    assert scores["f5"].min() == 1
    assert scores["pa_pve"].max() < 1e-6


def aligned(pred: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Similarity, mirrored where that is nearer, by scipy, as FreiHAND's program has it."""
    center, scale = target.mean(axis=0), np.linalg.norm(target - target.mean(axis=0))
    unit = pred - pred.mean(axis=0)
    unit /= np.linalg.norm(unit)
    rotation, of_unit = orthogonal_procrustes(unit, (target - center) / scale)
    return of_unit * scale * unit @ rotation + center


@pytest.mark.parametrize("mirror", [1.0, -1.0])
@pytest.mark.parametrize("noise", [0.002, 0.01])
def test_freihand_is_scored_as_its_program_does(noise: float, mirror: float) -> None:
    rng = np.random.default_rng(0)
    joints, vertices = 0.05 * rng.normal(size=(4, 21, 3)), 0.05 * rng.normal(size=(4, 200, 3))
    # Joints and mesh of the prediction are each of a scale and place of their own.
    flip = [mirror, 1.0, 1.0]
    pred = 1.2 * (joints + noise * rng.normal(size=joints.shape)) * flip + 0.3
    meshes = 0.8 * (vertices + noise * rng.normal(size=vertices.shape)) * flip - 0.1
    expected: dict[str, list[float]] = {"pa_mpjpe": [], "pa_pve": [], "f5": [], "f15": []}
    for row in range(4):
        error = np.linalg.norm(aligned(pred[row], joints[row]) - joints[row], axis=1)
        expected["pa_mpjpe"].append(1000 * error.mean())
        mesh = aligned(meshes[row], vertices[row])
        expected["pa_pve"].append(1000 * np.linalg.norm(mesh - vertices[row], axis=1).mean())
        for metric, threshold in (("f5", 0.005), ("f15", 0.015)):
            precision = (cKDTree(vertices[row]).query(mesh)[0] < threshold).mean()
            recall = (cKDTree(mesh).query(vertices[row])[0] < threshold).mean()
            expected[metric].append(2 * precision * recall / (precision + recall))
    tensors = [torch.from_numpy(array) for array in (pred[:, None], joints, meshes[:, None], vertices)]
    scores = evaluate(PROTOCOLS["hmdiff_freihand"], tensors[0], tensors[1], None, tensors[2], tensors[3])
    assert set(scores) == set(expected)
    for metric, values in expected.items():
        np.testing.assert_allclose(scores[metric], values, rtol=1e-6, err_msg=metric)
    assert 0 < min(expected["f5"]) < max(expected["f15"])


def test_acceleration_takes_the_batch_as_a_clip() -> None:
    protocol = PROTOCOLS["scorehmr_video"]
    pred, target = batch(protocol, hypotheses=1)
    keep = list(protocol.scored_joints)
    expected = F.acceleration_error(
        F.subtract_root(pred[:, 0], protocol.root)[:, keep], F.subtract_root(target, protocol.root)[:, keep]
    )
    torch.testing.assert_close(evaluate(protocol, pred, target)["acceleration"], expected)
    with pytest.raises(ValueError, match="at least 3 frames"):
        evaluate(protocol, pred[:2], target[:2])


def test_masked_poses_have_no_value() -> None:
    protocol = PROTOCOLS["open_h36m17"]
    pred, target = batch(protocol)
    mask = torch.ones(6, 17, dtype=torch.bool)
    mask[0, 0] = False  # root
    mask[1, 5] = False
    target = torch.where(mask[..., None], target, torch.nan)
    assert protocol.is_scored(mask).tolist() == [False, True, True, True, True, True]
    scores = evaluate(protocol, pred, target, mask)
    for values in scores.values():
        assert values.isnan().tolist() == [True] + 5 * [False]
    kept = [j for j in range(17) if j != 5]
    alone = F.mpjpe(pred[1, :, kept], target[1, None, kept].expand(4, 16, 3)).amin()
    torch.testing.assert_close(scores["mpjpe"][1], alone)


def test_rejects_bad_arguments() -> None:
    protocol = PROTOCOLS["open_h36m17"]
    pred, target = batch(protocol)
    with pytest.raises(ValueError, match="scores the 17 joints of h36m17, got 16 joints"):
        evaluate(protocol, pred[..., 1:, :], target[..., 1:, :])
    with pytest.raises(ValueError, match="both pred_vertices and target_vertices"):
        evaluate(protocol, pred, target, None, pred)
    for counts in ((), (1, 5), (0,)):
        with pytest.raises(ValueError, match=r"counts must be one or more numbers of hypotheses in 1\.\.4, got \("):
            evaluate_prefixes(protocol, counts, pred, target)
    with pytest.raises(ValueError, match=r"counts must be one or more numbers of hypotheses in 1\.\.0"):
        evaluate(protocol, pred[:, :0], target)
    with pytest.raises(ValueError, match="unknown protocol 'h36m', expected one of"):
        get_protocol("h36m")
    with pytest.raises(ValueError, match=r"root of protocol 'mine' must lie in 0\.\.16, got \(17,\)"):
        Protocol("mine", "h36m17", ("mpjpe",), root=(17,))
    with pytest.raises(ValueError, match="joints of protocol 'mine' must lie in"):
        Protocol("mine", "h36m17", ("mpjpe",), joints=())
