"""What is logged about many bodies per person, against plain numpy on a few random people."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from diffhmr.scores import Scores
from posecore.body.files import load_body_model
from posecore.body.named_joints import NamedJoints
from posecore.body.skeletons import H36M_17, JOINTS_44
from posecore.body.smpl import SMPLLayer
from posecore.data.base import PoseTable
from posecore.data.sample import PoseSample
from posecore.geometry.rotation import axis_angle_to_rotmat
from posecore.metrics.protocols import get_protocol
from posecore.testing import write_gendered_bodies

PEOPLE, HYPOTHESES = 3, 4
COUNTS = (1, 2, 4)
BEST = torch.tensor([2, 0, 3])
MESH = get_protocol("open_mesh24")
Errors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def batch() -> PoseSample:
    generator = torch.Generator().manual_seed(0)
    pose = axis_angle_to_rotmat(0.4 * torch.randn(PEOPLE, 24, 3, generator=generator))
    return {
        "global_orient": pose[:, 0],
        "body_pose": pose[:, 1:],
        "betas": torch.randn(PEOPLE, 10, generator=generator),
        "smpl24_visible": torch.rand(PEOPLE, 24, generator=generator) < 0.5,
    }


@pytest.fixture(scope="module")
def predicted() -> tuple[Tensor, Tensor]:
    """Poses and betas."""
    generator = torch.Generator().manual_seed(1)
    pose = axis_angle_to_rotmat(0.4 * torch.randn(PEOPLE, HYPOTHESES, 24, 3, generator=generator))
    return pose, torch.randn(PEOPLE, 10, generator=generator)


def scores_of(batch: PoseSample, stage: str = "test", protocol: str = "open_mesh24", **options: Any) -> Scores:
    body_model = options.pop("body_model", None)
    scores = Scores(get_protocol(protocol), load_body_model(body_model), body_model, options.pop("counts", COUNTS))
    sets = {"people": PoseTable(JOINTS_44, batch)}
    scores.make(sets if stage == "val" else {}, sets if stage == "test" else {})
    return scores


def logged(batch: PoseSample, predicted: tuple[Tensor, Tensor], stage: str = "test", **options: Any) -> Any:
    """Values by name, without ``<stage>/people/``."""
    scores = scores_of(batch, stage, **options)
    scores.update(f"{stage}/people", batch, *predicted, BEST)
    prefix = f"{stage}/people/"
    values = scores.compute(stage)
    assert all(name.startswith(prefix) for name in values)
    return {name.removeprefix(prefix): float(value) for name, value in values.items()}


def bodies(pose: Tensor, betas: Tensor, body: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Kinematic joints and vertices relative to the pelvis, mm; every pose on its own."""
    layer = SMPLLayer(load_body_model(body), joints=range(24))
    found = [layer(b, p[1:], p[0]) for b, p in zip(betas, pose, strict=True)]
    joints, vertices = (torch.stack([getattr(f, name) for f in found]) for name in ("joints", "vertices"))
    return tuple(1000 * (points - joints[:, :1]).double().numpy() for points in (joints, vertices))  # type: ignore[return-value]


def distance(points: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(points - true, axis=-1).mean())


def aligned_distance(points: np.ndarray, true: np.ndarray) -> float:
    source, target = points - points.mean(0), true - true.mean(0)
    U, sizes, Vh = np.linalg.svd(target.T @ source)
    signs = np.array([1, 1, np.linalg.det(U) * np.linalg.det(Vh)])
    return distance((sizes * signs).sum() / (source**2).sum() * source @ (U * signs @ Vh).T, target)


def errors_of(joints: np.ndarray, vertices: np.ndarray, true: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    return {
        "mpjpe": distance(joints, true[0]),
        "pa_mpjpe": aligned_distance(joints, true[0]),
        "pve": distance(vertices, true[1]),
    }


def expected(
    batch: PoseSample, predicted: tuple[Tensor, Tensor], truth_of: Callable[[int], Path | None] = lambda row: None
) -> dict[str, float]:
    """Every name and value of the test stage but those of spread, written down row by row."""
    rows: list[dict[str, float]] = []
    true_pose = torch.cat((batch["global_orient"][:, None], batch["body_pose"]), dim=1)
    for row in range(len(true_pose)):
        joints, vertices = bodies(predicted[0][row], predicted[1][row].expand(predicted[0].shape[1], -1))
        of_row = slice(row, row + 1)
        true_joints, true_vertices = bodies(true_pose[of_row], batch["betas"][of_row], truth_of(row))
        true = true_joints[0], true_vertices[0]
        each = [errors_of(j, v, true) for j, v in zip(joints, vertices, strict=True)]
        found = dict(each[int(BEST[row])])
        for name, value in errors_of(joints.mean(0), vertices.mean(0), true).items():
            found[f"mean_{name}"] = value
        for count in (n for n in COUNTS if n <= len(each)):
            nearest = min(each[:count], key=lambda errors: errors["mpjpe"])
            for name in ("mpjpe", "pa_mpjpe", "pve"):
                found[f"min{count}_{name}"] = min(errors[name] for errors in each[:count])
                found[f"best{count}_{name}"] = nearest[name]
        rows.append(found)
    return {name: float(np.mean([found[name] for found in rows])) for name in rows[0]}


def test_pick_mean_least_and_nearest_of_n(batch: PoseSample, predicted: tuple[Tensor, Tensor]) -> None:
    found, wanted = logged(batch, predicted), expected(batch, predicted)
    spread = {name for name in found if name.endswith(("_visible", "_occluded"))}
    assert set(found) - spread == set(wanted)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-4)
    assert wanted["min4_pa_mpjpe"] < wanted["best4_pa_mpjpe"], "the two rules can be told apart here"
    assert wanted["min4_mpjpe"] < wanted["mpjpe"]


def test_spread_and_error_of_joints_that_are_seen_or_not(batch: PoseSample, predicted: tuple[Tensor, Tensor]) -> None:
    found = logged(batch, predicted)
    values: dict[str, list[float]] = {"spread_visible": [], "spread_occluded": [], "error_visible": []}
    true_pose = torch.cat((batch["global_orient"][:, None], batch["body_pose"]), dim=1)
    true = bodies(true_pose, batch["betas"])[0]
    for row in range(PEOPLE):
        joints = bodies(predicted[0][row], predicted[1][row].expand(HYPOTHESES, -1))[0]
        for joint in range(1, 24):
            side = "visible" if batch["smpl24_visible"][row, joint] else "occluded"
            values[f"spread_{side}"].append(float(np.sqrt(joints[:, joint].var(axis=0, ddof=1).sum())))
            if side == "visible":
                values["error_visible"].append(distance(joints[:, joint].mean(0), true[row, joint]))
    assert {name: found[name] for name in values} == pytest.approx(
        {name: float(np.mean(of_joints)) for name, of_joints in values.items()}, rel=1e-4
    )
    assert 0 <= found["coverage_50_occluded"] <= found["coverage_90_occluded"] <= 1


def test_spread_needs_to_know_what_is_seen(batch: PoseSample, predicted: tuple[Tensor, Tensor]) -> None:
    all_seen = cast(PoseSample, {**batch, "smpl24_visible": torch.ones(PEOPLE, 24, dtype=torch.bool)})
    assert {name for name in logged(all_seen, predicted) if name.startswith(("spread", "coverage"))} == {
        "spread_visible",
        "coverage_50_visible",
        "coverage_90_visible",
    }
    unknown = cast(PoseSample, {key: value for key, value in batch.items() if key != "smpl24_visible"})
    assert not [name for name in logged(unknown, predicted) if name.startswith(("spread", "coverage", "error"))]


def test_validation_is_brief(batch: PoseSample, predicted: tuple[Tensor, Tensor]) -> None:
    wanted = expected(batch, predicted)
    brief = {name: wanted[name] for name in ("mpjpe", "pa_mpjpe")}
    brief |= {f"min_{name}": wanted[f"min{HYPOTHESES}_{name}"] for name in ("mpjpe", "pa_mpjpe")}
    assert logged(batch, predicted, "val") == pytest.approx(brief, rel=1e-4)


def test_one_output_has_no_spread(batch: PoseSample, predicted: tuple[Tensor, Tensor]) -> None:
    scores = scores_of(batch, counts=(1,))
    scores.update("test/people", batch, predicted[0][:, :1], predicted[1], torch.zeros(PEOPLE, dtype=torch.int64))
    found = {name.removeprefix("test/people/"): float(value) for name, value in scores.compute("test").items()}
    labels = ("", "mean_", "min1_", "best1_")
    assert set(found) == {f"{label}{name}" for label in labels for name in MESH.metrics}
    for name in MESH.metrics:
        assert [found[f"{label}{name}"] for label in labels] == pytest.approx([found[name]] * 4)


def test_no_counts_leave_pick_and_mean(batch: PoseSample, predicted: tuple[Tensor, Tensor]) -> None:
    found = logged(batch, predicted, counts=())
    assert {name for name in found if "pve" in name} == {"pve", "mean_pve"}


def test_bodies_that_nobody_knows_are_left_out(batch: PoseSample, predicted: tuple[Tensor, Tensor]) -> None:
    """A pose without a shape is no body; a batch without any body changes nothing."""
    unknown = {
        **batch,
        "has_pose": torch.tensor([True, True, False]),
        "has_betas": torch.tensor([True, False, True]),
        "joints_cam": torch.randn(PEOPLE, 44, 3),
        "joints_known": torch.ones(PEOPLE, 44, dtype=torch.bool),
    }
    scores = scores_of(cast(PoseSample, unknown))
    for part in (slice(0, 2), slice(2, 3)):
        rows = cast(PoseSample, {key: cast(Tensor, value)[part] for key, value in unknown.items()})
        scores.update("test/people", rows, predicted[0][part], predicted[1][part], BEST[part])
    found = scores.compute("test")
    first = cast(PoseSample, {key: cast(Tensor, value)[:1] for key, value in batch.items()})
    wanted = expected(first, (predicted[0][:1], predicted[1][:1]))
    for name, value in wanted.items():
        assert float(found[f"test/people/{name}"]) == pytest.approx(value, rel=1e-4), name


def test_a_set_without_bodies_is_scored_by_its_own_joints(batch: PoseSample, predicted: tuple[Tensor, Tensor]) -> None:
    """MPI-INF-3DHP's test set in SPIN's layout knows the 17 joints under these names, and not LSP's or MPII's."""
    true_pose = torch.cat((batch["global_orient"][:, None], batch["body_pose"]), dim=1)
    joints = NamedJoints(JOINTS_44)(batch["betas"], true_pose[:, 1:], true_pose[:, 0])
    names = {"thorax": "neck", "head_top": "head_top_h36m", "neck_nose": "jaw"}
    known = torch.zeros(PEOPLE, 44, dtype=torch.bool)
    known[:, [JOINTS_44.index(names.get(name, name)) for name in H36M_17.joint_names]] = True
    own = {
        **{key: torch.zeros_like(cast(dict[str, Tensor], batch)[key]) for key in ("betas", "body_pose")},
        "global_orient": torch.eye(3).expand(PEOPLE, 3, 3),
        "has_pose": torch.zeros(PEOPLE, dtype=torch.bool),
        "has_betas": torch.zeros(PEOPLE, dtype=torch.bool),
        "joints_cam": torch.where(known[..., None], joints, 0),
        "joints_known": known,
    }
    found = logged(cast(PoseSample, own), predicted, protocol="spin_mpi_inf_3dhp")
    body = NamedJoints(H36M_17)
    # As joints44 of the open body has them: its limbs are kinematic joints.
    places = [JOINTS_44.index(names.get(name, name)) for name in H36M_17.joint_names]
    errors = np.zeros((PEOPLE, HYPOTHESES))
    for row in range(PEOPLE):
        for i, pose in enumerate(predicted[0][row]):
            points = body(predicted[1][row], pose[1:], pose[0]).double().numpy()
            errors[row, i] = 1000 * aligned_distance(points, joints[row, places].double().numpy())
    assert found["pa_mpjpe"] == pytest.approx(errors[range(PEOPLE), BEST].mean(), rel=1e-4)
    assert found["min4_pa_mpjpe"] == pytest.approx(errors.min(axis=1).mean(), rel=1e-4)
    assert not [name for name in found if "pve" in name or name.endswith("_mpjpe_") or name == "mpjpe"]


def test_the_truth_is_of_the_person_s_own_body_and_the_prediction_neutral(
    batch: PoseSample, predicted: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    folder = write_gendered_bodies(tmp_path / "bodies")
    genders = ["female", "male", "female"]
    gendered = cast(PoseSample, {**batch, "gender": genders})
    found = logged(gendered, predicted, body_model=folder)
    wanted = expected(batch, predicted, lambda row: folder / f"SMPL_{genders[row].upper()}.npz")
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-4)
    neutral = logged(batch, predicted, body_model=folder)
    assert abs(neutral["pve"] - found["pve"]) > 0.5


def test_numbers_of_one_run_do_not_reach_the_next(batch: PoseSample, predicted: tuple[Tensor, Tensor]) -> None:
    scores = scores_of(batch)
    scores.update("test/people", batch, *predicted, BEST)
    first = scores.compute("test")
    assert scores.compute("test") == {}, "nothing was seen since"
    exact = torch.cat((batch["global_orient"][:, None], batch["body_pose"]), dim=1)[:, None].expand(-1, 4, -1, -1, -1)
    scores.update("test/people", batch, exact, batch["betas"], BEST)
    again = scores.compute("test")
    assert float(first["test/people/mpjpe"]) > 50
    assert float(again["test/people/mpjpe"]) < 1e-2
    assert scores.compute("val") == {}


def test_a_diverged_network_is_not_hidden(batch: PoseSample, predicted: tuple[Tensor, Tensor]) -> None:
    scores = scores_of(batch, "val")
    scores.update("val/people", batch, predicted[0], predicted[1] * torch.nan, BEST)
    assert np.isnan(float(scores.compute("val")["val/people/mpjpe"]))


def test_joints_are_returned_as_they_were_scored(batch: PoseSample, predicted: tuple[Tensor, Tensor]) -> None:
    scores = scores_of(batch)
    joints = scores.update("test/people", batch, *predicted, BEST)
    at_pelvis = 1000 * (joints - joints[:, :, :1])
    for row in range(PEOPLE):
        wanted = bodies(predicted[0][row], predicted[1][row].expand(HYPOTHESES, -1))[0]
        np.testing.assert_allclose(at_pelvis[row].numpy(), wanted, atol=1e-2)
    assert replace(MESH, hypotheses="first").joint_set == scores.joint_set.name
