"""Results of batches on disk, and what a continued run is compared with."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from posecore.training.prediction_parts import PredictionParts

RUN = {"method": "Toy", "settings": {"data": {"batch_size": 2}, "sizes": [1, 2]}, "weights": "ab"}


def filled(path: Path, rows: tuple[tuple[int, ...], ...] = ((4, 5), (0, 1))) -> PredictionParts:
    parts = PredictionParts(path)
    parts.begin(RUN)
    for batch in rows:
        parts.add(batch, {"x": torch.tensor(batch)[:, None] * 1.5, "best": torch.tensor(batch)})
    parts.refresh()
    return parts


def test_rows_come_back_in_order_whatever_the_batches(tmp_path: Path) -> None:
    parts = filled(tmp_path / "out")
    assert parts.rows == [0, 1, 4, 5]
    assert parts.done == {0, 1, 4, 5}
    assert sorted(parts.names) == ["best", "x"]
    torch.testing.assert_close(parts.read("x"), torch.tensor([[0.0], [1.5], [6.0], [7.5]]))
    assert parts.read("best", [5, 0]).tolist() == [5, 0]
    assert [int(row) for row in parts.stream("best")] == [0, 1, 4, 5]


def test_half_precision_is_kept_as_numbers(tmp_path: Path) -> None:
    parts = PredictionParts(tmp_path / "out")
    parts.add([0], {"x": torch.tensor([1.5], dtype=torch.bfloat16)})
    parts.refresh()
    assert parts.read("x").tolist() == [1.5]


def test_a_row_that_two_processes_had_is_there_once(tmp_path: Path) -> None:
    assert filled(tmp_path / "out", ((0, 1), (1, 2))).rows == [0, 1, 2]


def test_nothing_is_known_of_no_rows(tmp_path: Path) -> None:
    parts = PredictionParts(tmp_path / "out")
    assert (parts.rows, parts.names) == ([], [])


def test_an_interrupted_run_is_refused_unless_asked_for(tmp_path: Path) -> None:
    filled(tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"interrupted run.*--output\.resume true continues it"):
        PredictionParts(tmp_path / "out")
    again = PredictionParts(tmp_path / "out", resume=True)
    assert again.done == {0, 1, 4, 5}
    again.begin(RUN)
    assert not PredictionParts(tmp_path / "out", overwrite=True).done


def test_a_finished_run_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "out").remove()
    for resume, said in ((False, "already holds"), (True, "holds a finished run: there is nothing to continue")):
        with pytest.raises(FileExistsError, match=said):
            PredictionParts(tmp_path / "out", resume=resume)
    assert PredictionParts(tmp_path / "new", resume=True).done == frozenset()


def test_another_run_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    filled(tmp_path / "out")
    other = {**RUN, "settings": {"data": {"batch_size": 3}, "sizes": [1]}, "seed": 0}
    again = PredictionParts(tmp_path / "out", resume=True)
    with pytest.raises(
        ValueError,
        match=r"holds another run: settings\.data\.batch_size was 2 and is 3; settings\.sizes\.1 was 2 and is not set; "
        r"seed was not set and is 0\.",
    ):
        again.begin(other)
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == RUN
    assert again.rows == [0, 1, 4, 5]


def test_many_differences_are_counted(tmp_path: Path) -> None:
    parts = PredictionParts(tmp_path / "out")
    parts.begin({"x": list(range(9))})
    with pytest.raises(ValueError, match=r"x\.4 was 4 and is 5 and 4 more\."):
        PredictionParts(tmp_path / "out", resume=True).begin({"x": list(range(1, 10))})


def test_a_broken_statement_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "out")
    (tmp_path / "out" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json cannot be read"):
        PredictionParts(tmp_path / "out", resume=True).begin(RUN)


def test_what_a_killed_write_left_is_cleared_away(tmp_path: Path) -> None:
    filled(tmp_path / "out")
    (tmp_path / "out" / "parts" / ".rows_000000006.npz.0a1b2c3d.tmp").write_bytes(b"half")
    (tmp_path / "out" / ".mine.tmp").write_bytes(b"a user's")
    again = PredictionParts(tmp_path / "out", resume=True)
    assert again.done == {0, 1, 4, 5}
    assert [path.name for path in (tmp_path / "out").rglob(".*")] == [".mine.tmp"]


def test_a_full_disk_is_one_error_and_the_parts_stay(tmp_path: Path) -> None:
    parts = filled(tmp_path / "out")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"rows_000000009\.npz' cannot be written: File too large"):
            parts.add([9], {"x": torch.zeros(1, 100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert PredictionParts(tmp_path / "out", resume=True).rows == [0, 1, 4, 5]
    assert sorted(path.name for path in (tmp_path / "out" / "parts").iterdir()) == [
        "rows_000000000.npz", "rows_000000004.npz",
    ]  # fmt: skip


def test_one_part_is_in_memory_at_a_time(tmp_path: Path) -> None:
    parts = PredictionParts(tmp_path / "out")
    for row in range(3):
        parts.add([2 * row, 2 * row + 1], {"x": torch.full((2, 3), float(row))})
    parts.refresh()
    stream = parts.stream("x")
    np.testing.assert_array_equal(next(stream), [0, 0, 0])
    (tmp_path / "out" / "parts" / "rows_000000000.npz").unlink()
    np.testing.assert_array_equal(next(stream), [0, 0, 0])
    np.testing.assert_array_equal(next(stream), [1, 1, 1])
