"""What is logged about coarse meshes, against plain numpy on a few random people."""

import time
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from hmdiff.mesh import CoarseMesh
from hmdiff.scores import ImagesPerSecond, Scores
from hmdiff.true_meshes import TrueMeshes
from posecore.body.files import BodyModel, load_body_model
from posecore.body.joint_maps import joint_map
from posecore.body.pyramid import MeshPyramid
from posecore.body.skeletons import BODY_25, H36M_17, JOINTS_44, get_joint_set
from posecore.body.smpl import SMPLLayer
from posecore.data.base import PoseDataset, PoseTable
from posecore.data.sample import PoseSample
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.metrics.protocols import get_protocol

PEOPLE, SAMPLES = 3, 4
Errors = dict[str, float]


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return load_body_model()


@pytest.fixture(scope="module")
def pyramid() -> MeshPyramid:
    return MeshPyramid.load()


@pytest.fixture(scope="module")
def batch() -> PoseSample:
    generator = torch.Generator().manual_seed(0)
    pose = axis_angle_to_rotmat(0.3 * torch.randn(PEOPLE, 24, 3, generator=generator))
    return {
        "global_orient": pose[:, 0],
        "body_pose": pose[:, 1:],
        "betas": torch.randn(PEOPLE, 10, generator=generator),
        "transl": torch.tensor([0.0, 0.0, 4.0]).expand(PEOPLE, 3),
    }


@pytest.fixture(scope="module")
def samples(body: BodyModel, pyramid: MeshPyramid) -> Tensor:
    """Coarse meshes of other random people, anywhere."""
    generator = torch.Generator().manual_seed(1)
    pose = axis_angle_to_rotmat(0.3 * torch.randn(PEOPLE * SAMPLES, 24, 3, generator=generator))
    vertices = SMPLLayer(body)(torch.zeros(len(pose), 10), pose[:, 1:], pose[:, 0]).vertices
    place = torch.randn(len(pose), 1, 3, generator=generator)
    coarse: Tensor = pyramid.downsample(vertices + place).unflatten(0, (PEOPLE, SAMPLES))
    return coarse


def scores_of(body: BodyModel, pyramid: MeshPyramid, protocol: str = "open_mesh24") -> Scores:
    chosen = get_protocol(protocol)
    mesh = CoarseMesh(body, pyramid, get_joint_set(chosen.joint_set))
    scores = Scores(chosen, TrueMeshes(mesh, body, BODY_25), mesh.upsample, body)
    people: dict[str, PoseDataset] = {"people": PoseTable(BODY_25, {"betas": torch.zeros(PEOPLE, 10)})}
    scores.make(people, people)
    return scores


def logged(scores: Scores, batch: PoseSample, final: Tensor, samples: Tensor, stage: str = "test") -> Errors:
    """Values by name, without ``<stage>/people/``."""
    scores.update(f"{stage}/people", batch, final, samples)
    prefix, values = f"{stage}/people/", scores.compute(stage)
    assert all(name.startswith(prefix) for name in values)
    return {name.removeprefix(prefix): float(value) for name, value in values.items()}


def distance(points: np.ndarray, true: np.ndarray) -> float:
    return 1000 * float(np.linalg.norm(points - true, axis=-1).mean())


def aligned_distance(points: np.ndarray, true: np.ndarray) -> float:
    source, target = points - points.mean(0), true - true.mean(0)
    U, sizes, Vh = np.linalg.svd(target.T @ source)
    signs = np.array([1, 1, np.linalg.det(U) * np.linalg.det(Vh)])
    return distance((sizes * signs).sum() / (source**2).sum() * source @ (U * signs @ Vh).T, target)


def expected(
    batch: PoseSample, final: Tensor, samples: Tensor, body: BodyModel, pyramid: MeshPyramid, protocol: str
) -> list[Errors]:
    """Every name and value of the test stage, one dictionary a person."""
    h36m = protocol == "hmdiff_3dpw"
    regressor = body.J_regressor_h36m if h36m else body.J_regressor
    assert regressor is not None
    joint_ids = list(get_protocol(protocol).joints or range(24))
    rows: list[Errors] = []
    for i in range(len(final)):
        true = SMPLLayer(body)(batch["betas"][i], batch["body_pose"][i], batch["global_orient"][i])
        true_joints = (regressor @ true.vertices if h36m else true.joints).double().numpy()
        true_vertices = true.vertices.double().numpy() - true_joints[0]
        true_joints = true_joints - true_joints[0]
        meshes = {"": final[i], "centre_": samples[i].mean(0), **{f"{n}": one for n, one in enumerate(samples[i])}}
        found: Errors = {}
        joints_of: dict[str, np.ndarray] = {}
        for label, coarse in meshes.items():
            full = pyramid.upsample(coarse)
            joints = (regressor @ full).double().numpy()
            found[f"{label}pve"] = distance(full.double().numpy() - joints[0], true_vertices)
            joints_of[label] = joints = joints - joints[0]
            found[f"{label}mpjpe"] = distance(joints[joint_ids], true_joints[joint_ids])
            found[f"{label}pa_mpjpe"] = aligned_distance(joints[joint_ids], true_joints[joint_ids])
        for name in ("mpjpe", "pa_mpjpe"):
            found[f"min_{name}"] = min(found[f"{n}{name}"] for n in range(samples.shape[1]))
        each = np.stack([joints_of[str(n)] for n in range(samples.shape[1])])
        found["spread"] = 1000 * float(np.linalg.norm(each - each.mean(0), axis=-1).mean())
        rows.append({name: value for name, value in found.items() if not name[0].isdigit()})
    return rows


def means(rows: list[Errors]) -> Errors:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


@pytest.mark.parametrize("protocol", ["open_mesh24", "hmdiff_3dpw"])
def test_final_centre_least_and_spread(
    batch: PoseSample, samples: Tensor, body: BodyModel, pyramid: MeshPyramid, protocol: str
) -> None:
    final = samples.flip(0)[:, 0]
    found = logged(scores_of(body, pyramid, protocol), batch, final, samples)
    wanted = means(expected(batch, final, samples, body, pyramid, protocol))
    assert found == pytest.approx(wanted, rel=1e-3)
    assert len(wanted) == 9
    assert wanted["min_mpjpe"] < wanted["mpjpe"]


def test_validation_looks_at_the_final_mesh_only(
    batch: PoseSample, samples: Tensor, body: BodyModel, pyramid: MeshPyramid
) -> None:
    scores = scores_of(body, pyramid)
    found = logged(scores, batch, samples[:, 0], samples, stage="val")
    wanted = means(expected(batch, samples[:, 0], samples, body, pyramid, "open_mesh24"))
    assert found == pytest.approx({name: wanted[name] for name in ("mpjpe", "pa_mpjpe", "pve")}, rel=1e-3)
    assert scores.compute("test") == {}


def test_one_sample_has_no_spread(batch: PoseSample, samples: Tensor, body: BodyModel, pyramid: MeshPyramid) -> None:
    found = logged(scores_of(body, pyramid), batch, samples[:, 0], samples[:, :1])
    assert set(found) == {f"{label}{name}" for label in ("", "centre_") for name in ("mpjpe", "pa_mpjpe", "pve")}
    assert found["mpjpe"] == pytest.approx(found["centre_mpjpe"])


def test_bodies_that_nobody_knows_are_left_out(
    batch: PoseSample, samples: Tensor, body: BodyModel, pyramid: MeshPyramid
) -> None:
    """Over two batches of different size, of which one knows nobody; the spread needs no truth."""
    flags = {"has_pose": torch.tensor([True, True, False]), "has_betas": torch.tensor([True, False, True])}
    unknown, scores, final = {**batch, **flags}, scores_of(body, pyramid), samples[:, 1]
    for part in (slice(0, 2), slice(2, 3)):
        rows = cast(PoseSample, {key: cast(Tensor, value)[part] for key, value in unknown.items()})
        scores.update("test/people", rows, final[part], samples[part])
    found = {name.removeprefix("test/people/"): float(value) for name, value in scores.compute("test").items()}
    rows_of = expected(batch, final, samples, body, pyramid, "open_mesh24")
    wanted = {**rows_of[0], "spread": means(rows_of)["spread"]}
    assert found == pytest.approx(wanted, rel=1e-3)


def test_a_perfect_mesh_has_the_errors_of_its_regressor(
    batch: PoseSample, body: BodyModel, pyramid: MeshPyramid
) -> None:
    """Where joints of both are regressed the true mesh has none; kinematic joints are a little elsewhere."""
    coarse = pyramid.downsample(SMPLLayer(body)(batch["betas"], batch["body_pose"], batch["global_orient"]).vertices)
    found = logged(scores_of(body, pyramid, "hmdiff_3dpw"), batch, coarse, coarse[:, None])
    assert max(found.values()) < 5
    kinematic = logged(scores_of(body, pyramid), batch, coarse, coarse[:, None])
    assert found["mpjpe"] < kinematic["mpjpe"] < 25


def test_meshes_of_the_data_are_scored_by_regressed_joints(
    batch: PoseSample, samples: Tensor, body: BodyModel, pyramid: MeshPyramid
) -> None:
    vertices = pyramid.upsample(samples[:, 2])
    found = logged(scores_of(body, pyramid), {"vertices_cam": vertices}, samples[:, 2], samples)
    for name in ("mpjpe", "pa_mpjpe", "pve", "min_mpjpe", "min_pa_mpjpe"):
        assert found[name] < 0.02, name
    assert found["centre_mpjpe"] > 10


def test_final_joints_are_returned(batch: PoseSample, samples: Tensor, body: BodyModel, pyramid: MeshPyramid) -> None:
    for stage in ("val", "test"):
        joints, sampled = scores_of(body, pyramid).update(f"{stage}/people", batch, samples[:, 3], samples)
        wanted = body.J_regressor @ pyramid.upsample(samples)
        torch.testing.assert_close(joints[:, 0], wanted[:, 3], atol=1e-5, rtol=0)
        if stage == "test":
            # Relative to the root, as they are compared.
            torch.testing.assert_close(sampled, wanted - wanted[:, :, :1], atol=1e-5, rtol=0)
        else:
            assert sampled is None


def test_numbers_of_one_run_do_not_reach_the_next(
    batch: PoseSample, samples: Tensor, body: BodyModel, pyramid: MeshPyramid
) -> None:
    scores = scores_of(body, pyramid)
    first = logged(scores, batch, samples[:, 0], samples)
    assert scores.compute("test") == {}, "nothing was seen since"
    still = samples[:, :1].expand(-1, SAMPLES, -1, -1)
    again = logged(scores, batch, samples[:, 0], still)
    assert again["mpjpe"] == pytest.approx(first["mpjpe"])
    assert again["spread"] < 1e-3 < first["spread"]


def test_a_diverged_network_is_not_hidden(
    batch: PoseSample, samples: Tensor, body: BodyModel, pyramid: MeshPyramid
) -> None:
    found = logged(scores_of(body, pyramid), batch, samples[:, 0] * torch.nan, samples, stage="val")
    assert np.isnan(found["mpjpe"])
    assert np.isnan(found["pve"])


def test_metrics_of_joints_are_those_that_have_a_least_value(body: BodyModel, pyramid: MeshPyramid) -> None:
    scores: Any = scores_of(body, pyramid)
    protocol = get_protocol("open_mesh24")
    assert scores.metrics["test/people/final"].protocol == replace(protocol, hypotheses="first")
    assert scores.metrics["test/people/min"].protocol.metrics == ("mpjpe", "pa_mpjpe")
    assert "val/people/min" not in scores.metrics
    assert scores.state_dict() == {}


def test_a_set_without_bodies_is_scored_by_its_own_joints(
    batch: PoseSample, samples: Tensor, body: BodyModel, pyramid: MeshPyramid
) -> None:
    """What SPIN's Human3.6M files hold: joints of joints44 and no parameters; a joint that is not known counts not."""
    scores = scores_of(body, pyramid, "hmdiff_h36m")
    nobody = torch.zeros(PEOPLE, dtype=torch.bool)
    people: dict[str, PoseDataset] = {"people": PoseTable(JOINTS_44, {"has_pose": nobody, "has_betas": nobody})}
    scores.make({}, people)
    scores.update_prior("test/people", batch, torch.zeros(PEOPLE, 3, 3))
    assert "test/people/prior_mpjpe" not in scores.compute("test"), "there is no mesh to compare with"
    full = pyramid.upsample(samples[:, 0])
    predicted = cast(Tensor, body.J_regressor_h36m) @ full
    joints = torch.zeros(PEOPLE, 44, 3)
    copied = joint_map(H36M_17, JOINTS_44)
    joints[:] = copied.apply(predicted)
    # Where joints44 has two joints for one, SPIN's Human3.6M is at "neck" and "head_top_h36m".
    for name, place in (("thorax", "neck"), ("head_top", "head_top_h36m")):
        joints[:, JOINTS_44.index(place)] = predicted[:, H36M_17.index(name)]
    wrist = JOINTS_44.index("l_wrist")
    joints[:, wrist] += 5
    known = torch.ones(PEOPLE, 44, dtype=torch.bool)
    known[:, wrist] = False
    rows: PoseSample = {"joints_cam": joints + 1, "joints_known": known, "has_pose": nobody, "has_betas": nobody}
    found = logged(scores, rows, samples[:, 0], samples)
    assert max(found["mpjpe"], found["pa_mpjpe"], found["min_mpjpe"]) < 0.02
    assert found["centre_mpjpe"] > 10


def test_speed_counts_images_by_the_seconds_of_a_test(body: BodyModel, pyramid: MeshPyramid) -> None:
    scores = scores_of(body, pyramid)
    images = torch.zeros(PEOPLE, 3, 8, 8)
    for stage in ("val", "test"):
        for _ in range(2):
            with scores.timed(f"{stage}/people", images):
                time.sleep(0.05)
    assert scores.compute("val") == {}
    (speed,) = scores.compute("test").values()
    # Sleep never ends early; on a busy machine it ends late.
    assert 0 < float(speed) <= PEOPLE / 0.05
    assert scores.compute("test") == {}, "nothing was timed since"


def test_speed_of_several_processes_is_that_of_the_slowest() -> None:
    metric = ImagesPerSecond()
    metric.update(10, 2.0)
    metric.update(10, 3.0)
    assert float(metric.compute()) == 4
    reductions = cast(dict[str, Any], metric._reductions)
    reduced = {name: reduce(torch.tensor([1.0, 3.0])) for name, reduce in reductions.items()}
    assert reduced == {"images": 4, "seconds": 3}
