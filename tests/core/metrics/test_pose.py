import copy
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from posecore.metrics import functional as F
from posecore.metrics.pose import (
    AUC,
    MPJPE,
    NMPJPE,
    PAMPJPE,
    PAPVE,
    PCK,
    PVE,
    AccelerationError,
    Calibration,
    FScore,
    HypothesisSpread,
    PoseMetric,
    ProtocolMetric,
)
from posecore.metrics.protocols import PROTOCOLS, evaluate
from posecore.metrics.visibility import SpreadByVisibility

ACTIONS = ("walk", "sit", "run")
# Of the two ranks: uneven in batches, poses and actions; one rank has a batch of which nothing is scored.
BATCHES = {0: [7, 1, 12], 1: [3, 5]}


def make_batch(size: int, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(size, 17, 3, generator=generator, dtype=torch.float64).to(dtype)
    pred = target[:, None] + 0.1 * torch.randn(size, 5, 17, 3, generator=generator, dtype=torch.float64).to(dtype)
    mask = torch.rand(size, 17, generator=generator) > 0.2
    if seed % 2:
        mask[0] = False
    return {"pred": pred, "target": target, "mask": mask, "group": [ACTIONS[(seed + i) % 2] for i in range(size)]}


def make_metrics() -> dict[str, PoseMetric]:
    return {
        "protocol": ProtocolMetric(PROTOCOLS["zedo_h36m"], ACTIONS),
        "by frame": ProtocolMetric(PROTOCOLS["open_h36m17"], ACTIONS),
        "mpjpe": MPJPE(groups=ACTIONS),
        "calibration": Calibration(groups=ACTIONS),
        "counts": ProtocolMetric(PROTOCOLS["zedo_3dhp"], ACTIONS, counts=(1, 3, 5)),
        "visibility": SpreadByVisibility(),
    }


def update(metrics: dict[str, PoseMetric], batch: dict) -> None:
    first = {**batch, "pred": batch["pred"][:, 0]}
    special = {
        "mpjpe": first,
        "visibility": {"pred": batch["pred"], "target": batch["target"], "visible": batch["mask"]},
    }
    for name, metric in metrics.items():
        metric.update(**special.get(name, batch))


def results(metrics: dict[str, PoseMetric]) -> dict[str, object]:
    return {
        name: (metric.compute(), metric.compute_groups() if metric.groups else None) for name, metric in metrics.items()
    }


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)  # as a DataLoader's workers do: the parent's threads are not there after a fork
    torch.distributed.init_process_group(
        "gloo", f"file://{folder / 'store'}", rank=rank, world_size=len(BATCHES), timeout=timedelta(seconds=60)
    )
    metrics = make_metrics()
    for i, size in enumerate(BATCHES[rank]):
        update(metrics, make_batch(size, seed=10 * rank + i))
    torch.save(results(metrics), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_uneven_ranks_equal_one_process(tmp_path: Path) -> None:
    # Forked, because a fresh process spends seconds on its imports.
    torch.multiprocessing.start_processes(run_rank, (tmp_path,), nprocs=len(BATCHES), start_method="fork")
    metrics = make_metrics()
    for rank, sizes in BATCHES.items():
        for i, size in enumerate(sizes):
            update(metrics, make_batch(size, seed=10 * rank + i))
    expected = results(metrics)
    for rank in BATCHES:
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uneven_batches_equal_one(dtype: torch.dtype) -> None:
    batch = make_batch(23, seed=1, dtype=dtype)
    whole, parts = make_metrics(), make_metrics()
    update(whole, batch)
    for part in (slice(0, 1), slice(1, 17), slice(17, 23)):
        update(parts, {key: value[part] for key, value in batch.items()})
    torch.testing.assert_close(results(parts), results(whole), rtol=1e-9, atol=0, equal_nan=True)


def test_each_metric_is_the_mean_of_its_function() -> None:
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 2, 4, 6, 17, 3, generator=generator, dtype=torch.float64)  # batch (2, 4, 6)
    root, true_root = torch.randn(2, 2, 4, 6, 3, generator=generator, dtype=torch.float64)
    truth = target[:, :, 0]  # of 6 hypotheses each
    for metric, args, values in (
        (MPJPE((1, 4)), (pred, target), F.mpjpe(pred, target, (1, 4))),
        (PAMPJPE(), (pred, target), F.pa_mpjpe(pred, target)),
        (PAMPJPE(reflection=True), (pred, target), F.pa_mpjpe(pred, target, reflection=True)),
        (NMPJPE(), (pred, target), F.n_mpjpe(pred, target)),
        (PVE(), (pred, target, root, true_root), F.pve(pred, target, root, true_root)),
        (PAPVE(), (pred, target), F.pa_pve(pred, target)),
        (PCK(900.0), (pred, target), F.pck(pred, target, 900.0)),
        (AUC((900.0, 1500.0), None), (pred, target), F.auc(pred, target, (900.0, 1500.0), None)),
        (AccelerationError(), (pred, target), F.acceleration_error(pred, target)),
        (AccelerationError(25.0, (0,)), (pred, target), F.acceleration_error(pred, target, 25.0, (0,))),
        (FScore(500.0, aligned=False), (pred, target), F.f_score(pred, target, 500.0)),
        (HypothesisSpread(None), (pred,), F.hypothesis_spread(pred, None)),
        (HypothesisSpread(), (pred,), F.hypothesis_spread(pred)[..., 1:]),
    ):
        metric.update(*args)
        found = metric.compute()
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, values.mean(), msg=lambda text, metric=metric: f"{metric}: {text}")
    calibration = Calibration()
    calibration.update(pred, truth)
    torch.testing.assert_close(calibration.compute(), F.calibration(pred, truth).flatten(0, 1).mean(0))
    f_score = FScore(1.0)
    f_score.update(3 * target, target)
    assert f_score.compute().item() == pytest.approx(1)


def test_masks_decide_what_counts() -> None:
    batch = make_batch(9, seed=3)
    pred, target, mask = batch["pred"][:, 0], batch["target"], batch["mask"]
    for metric, values in (
        (MPJPE(), F.mpjpe(pred, target, mask=mask)),
        (PAMPJPE(), F.pa_mpjpe(pred, target, mask)),
        (NMPJPE(), F.n_mpjpe(pred, target, mask=mask)),
        (PCK(), F.pck(pred, target, mask=mask)),
        (AccelerationError(), F.acceleration_error(pred, target, mask=mask)),
    ):
        metric.update(pred, target, mask)
        torch.testing.assert_close(metric.compute(), values.double().nanmean())
        assert metric.count.sum() == values.isfinite().sum()
    broken = pred.clone()
    broken[mask[:, 0].nonzero()[0, 0], 0] = torch.nan  # a prediction of a pose that counts
    metric = MPJPE()
    metric.update(broken, target, mask)
    assert metric.compute().isnan()


def test_actions_weigh_the_same() -> None:
    target = torch.zeros(4, 2, 3)
    pred = target.clone()
    pred[:, 1, 0] = torch.tensor([0.002, 0.004, 0.006, 0.1])  # mean over the two joints: 1, 2, 3, 50 mm
    group = ["walk", "walk", "walk", "sit"]
    metric = MPJPE(groups=ACTIONS)
    metric.update(pred, target, group=group)
    assert metric.compute().item() == pytest.approx((2 + 50) / 2)
    by_group = metric.compute_groups()
    assert list(by_group) == list(ACTIONS)
    assert by_group["walk"].item() == pytest.approx(2)
    assert by_group["run"].isnan()
    frames = MPJPE(groups=ACTIONS, average_groups=False)
    frames.update(pred, target, group=group)
    assert frames.compute().item() == pytest.approx(56 / 4)


def test_protocol_metric_averages_as_the_protocol_says() -> None:
    batch = make_batch(8, seed=2)
    by_action = ProtocolMetric(PROTOCOLS["zedo_3dhp"], ACTIONS)
    by_frame = ProtocolMetric(PROTOCOLS["zedo_3dpw_17"])
    by_action.update(batch["pred"], batch["target"], group=["walk"] * 7 + ["sit"])
    by_frame.update(batch["pred"], batch["target"])
    assert tuple(by_action.compute()) == ("mpjpe", "pa_mpjpe", "pck", "auc")
    assert tuple(by_frame.compute()) == ("mpjpe", "pa_mpjpe")
    walk, sit = (by_action.compute_groups()[name][0] for name in ("walk", "sit"))
    torch.testing.assert_close(by_action.compute()["mpjpe"], (walk + sit) / 2)
    torch.testing.assert_close(by_frame.compute()["mpjpe"], (7 * walk + sit) / 8)


def test_protocol_metric_averages_pairs_of_subject_and_action() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(6, 15, 3, generator=generator, dtype=torch.float64)
    pred = target[:, None] + 0.1 * torch.randn(6, 1, 15, 3, generator=generator, dtype=torch.float64)
    cells = ["S1 Walk"] * 4 + ["S1 Box", "S2 Walk"]
    metric = ProtocolMetric(PROTOCOLS["diffupose_humaneva"], ["S1 Box", "S1 Walk", "S2 Walk"])
    metric.update(pred, target, group=cells)
    errors = F.pa_mpjpe(pred[:, 0], target)
    expected = (errors[:4].mean() + errors[4] + errors[5]) / 3
    torch.testing.assert_close(metric.compute()["pa_mpjpe"], expected)
    assert abs(expected - errors.mean()) > 1
    with pytest.raises(ValueError, match="'diffupose_humaneva' averages over pairs of subject and action: groups must"):
        ProtocolMetric(PROTOCOLS["diffupose_humaneva"])


def test_protocol_metric_takes_clips_and_meshes() -> None:
    clip = ProtocolMetric(PROTOCOLS["open_h36m17_clip"], ACTIONS)
    batch = make_batch(9, seed=3)
    clip.update(**{**batch, "group": ["walk"] * 9})
    assert tuple(clip.compute()) == ("mpjpe", "pa_mpjpe", "acceleration")
    assert clip.count[0].sum() == (F.is_scored(batch["mask"])).sum()
    assert clip.count[2].sum() == F.is_scored(F.over_three_frames(batch["mask"], (0,)), None).sum()
    mesh = ProtocolMetric(PROTOCOLS["hmdiff_3dpw"])
    vertices = torch.randn(9, 1, 40, 3)
    mesh.update(batch["pred"][:, :1], batch["target"], None, vertices, vertices[:, 0])
    assert tuple(mesh.compute()) == ("mpjpe", "pa_mpjpe", "pve")


def test_protocol_metric_of_several_numbers_of_hypotheses() -> None:
    batch = make_batch(8, seed=2)
    generator = torch.Generator().manual_seed(0)
    vertices = torch.randn(8, 5, 40, 3, generator=generator)
    protocol = PROTOCOLS["spin_3dpw"]
    metric = ProtocolMetric(protocol, counts=(1, 2, 5))
    for part in (slice(0, 3), slice(3, 8)):
        metric.update(batch["pred"][part], batch["target"][part], None, vertices[part], vertices[part, 0] + 0.1)
    expected = {}
    for n in (1, 2, 5):
        scores = evaluate(protocol, batch["pred"][:, :n], batch["target"], None, vertices[:, :n], vertices[:, 0] + 0.1)
        expected |= {f"{name}_n{n}": values.double().mean() for name, values in scores.items()}
    found = metric.compute()
    assert tuple(found) == metric.row_names == tuple(expected)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert found["mpjpe_n1"] > found["mpjpe_n2"] > found["mpjpe_n5"]
    without_mesh = ProtocolMetric(protocol, ACTIONS, counts=(1, 5))
    without_mesh.update(batch["pred"], batch["target"], group=batch["group"])
    assert tuple(without_mesh.compute()) == ("mpjpe_n1", "pa_mpjpe_n1", "mpjpe_n5", "pa_mpjpe_n5")
    assert without_mesh.compute_groups()["walk"].shape == (6,)
    with pytest.raises(ValueError, match=r"counts must be one or more numbers of hypotheses in 1\.\.5, got \(25,\)"):
        ProtocolMetric(protocol, counts=(25,)).update(batch["pred"], batch["target"])


def test_protocol_metric_of_a_clip_with_several_numbers_of_hypotheses() -> None:
    batch = make_batch(9, seed=3)
    clip = ProtocolMetric(PROTOCOLS["open_h36m17_clip"], ACTIONS, counts=(1, 2))
    plain = ProtocolMetric(PROTOCOLS["open_h36m17_clip"], ACTIONS)
    for metric in (clip, plain):
        metric.update(**batch)
    for name, value in plain.compute().items():  # the rule is the first one
        torch.testing.assert_close(clip.compute()[f"{name}_n1"], value)
        torch.testing.assert_close(clip.compute()[f"{name}_n2"], value)


def test_sums_do_not_lose_small_values() -> None:
    metric = PVE()
    metric.update(torch.full((1, 1, 3), 1e6), torch.zeros(1, 1, 3))
    for _ in range(10):
        metric.update(torch.tensor([[[1e-5, 0.0, 0.0]]]).expand(1000, 1, 3), torch.zeros(1000, 1, 3))
    large = 1e9 * 3**0.5
    assert (metric.total.sum() - large).item() == pytest.approx(100, rel=0.5, abs=60)
    assert copy.deepcopy(metric).half().total.dtype == torch.float64


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_rejects_bad_arguments() -> None:
    pose = torch.zeros(2, 17, 3)
    with pytest.raises(ValueError, match="groups must be one or more different names"):
        MPJPE(groups=[])
    with pytest.raises(ValueError, match=r"groups must be one or more different names, got \['a', 'a'\]"):
        MPJPE(groups=["a", "a"])
    with pytest.raises(ValueError, match="group was given to a metric that was made without groups"):
        MPJPE().update(pose, pose, group=["walk", "sit"])
    with pytest.raises(ValueError, match="group must name the group of each of 2 poses, got none"):
        MPJPE(groups=ACTIONS).update(pose, pose)
    with pytest.raises(ValueError, match="group must name the group of each of 2 poses, got 1"):
        MPJPE(groups=ACTIONS).update(pose, pose, group=["walk"])
    with pytest.raises(ValueError, match="unknown group 'fly', expected one of"):
        MPJPE(groups=ACTIONS).update(pose, pose, group=["walk", "fly"])
    with pytest.raises(ValueError, match="this metric was made without groups"):
        MPJPE().compute_groups()
    with pytest.raises(ValueError, match="protocol 'zedo_h36m' averages over actions: groups must name them"):
        ProtocolMetric(PROTOCOLS["zedo_h36m"])
    assert MPJPE().compute().isnan()
