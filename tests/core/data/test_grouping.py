from typing import Any, cast

import pytest
import torch
from torch.utils.data import DataLoader

from posecore.body.skeletons import H36M_17
from posecore.data.base import PoseTable
from posecore.data.grouping import WholeGroups, row_groups
from posecore.data.sample import PoseSample


def samples(rows: list[tuple[str, int, int]]) -> PoseSample:
    """Rows of (clip, frame, view); ``betas`` says which row it is."""
    clips, frames, views = (list(column) for column in zip(*rows, strict=True))
    number = torch.arange(len(rows)).float()[:, None]
    return cast(
        PoseSample, {"clip": clips, "frame": torch.tensor(frames), "view": torch.tensor(views), "betas": number}
    )


ROWS = [("b", 0, 0), ("b", 0, 1), ("b", 1, 0), ("b", 1, 1), ("a", 0, 0), ("b", 2, 0), ("a", 0, 1), ("a", 1, 0)]


def dataset(rows: list[tuple[str, int, int]] = ROWS) -> PoseTable:
    return PoseTable(H36M_17, samples(rows))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (("clip",), [0, 0, 0, 0, 1, 0, 1, 1]),
        (("clip", "frame"), [0, 0, 1, 1, 2, 3, 2, 4]),
        (("clip", "view"), [0, 1, 0, 1, 2, 0, 3, 2]),
        (("frame",), [0, 0, 1, 1, 0, 2, 0, 1]),
        ((), list(range(8))),
    ],
)
def test_rows_that_agree_have_one_number(keys: tuple[str, ...], expected: list[int]) -> None:
    assert row_groups(samples(ROWS), keys).tolist() == expected


def test_missing_keys_are_named() -> None:
    with pytest.raises(ValueError, match="keys: the samples have no action, fps to be grouped by, only clip, frame"):
        row_groups(samples(ROWS), ("clip", "action", "fps"))
    with pytest.raises(ValueError, match="keys: the samples have no subject"):
        WholeGroups(dataset(), ("subject",), 4)


@pytest.mark.parametrize(
    ("keys", "max_rows", "expected"),
    [
        (("clip",), 100, [[0, 1, 2, 3, 5, 4, 6, 7]]),
        (("clip",), 7, [[0, 1, 2, 3, 5], [4, 6, 7]]),
        (("clip",), 1, [[0, 1, 2, 3, 5], [4, 6, 7]]),
        (("clip", "frame"), 4, [[0, 1, 2, 3], [4, 6, 5, 7]]),
        (("clip", "view"), 5, [[0, 2, 5, 1, 3], [4, 7, 6]]),
        ((), 3, [[0, 1, 2], [3, 4, 5], [6, 7]]),
    ],
)
def test_groups_stay_whole_and_in_order(keys: tuple[str, ...], max_rows: int, expected: list[list[int]]) -> None:
    groups = WholeGroups(dataset(), keys, max_rows)
    batches = [groups[index] for index in range(len(groups))]
    assert [batch["row"].tolist() for batch in batches] == expected
    for batch, rows in zip(batches, expected, strict=True):
        assert batch["betas"][:, 0].tolist() == rows
        assert batch["clip"] == [ROWS[row][0] for row in rows]


def test_the_table_stays_as_it_was() -> None:
    table = dataset()
    WholeGroups(table, ("clip",), 4)[0]["betas"].zero_()
    assert "row" not in table.samples
    assert table.samples["betas"][:, 0].tolist() == list(range(8))


@pytest.mark.parametrize("index", [2, -1])
def test_there_are_no_other_batches(index: int) -> None:
    with pytest.raises(IndexError, match=f"index: {index} is outside 2 batches"):
        WholeGroups(dataset(), ("clip",), 1)[index]


def test_a_loader_gives_the_batches_as_they_are() -> None:
    loader: Any = DataLoader(WholeGroups(dataset(), ("clip", "frame"), 3), batch_size=None)
    rows = [batch["row"].tolist() for batch in loader]
    assert sorted(row for batch in rows for row in batch) == list(range(8))
    assert rows[0] == [0, 1]


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        ([0, 1], [[0, 1, 2, 3, 5], [4, 6, 7]]),
        ([0, 1, 2, 3, 5], [[4, 6, 7]]),
        ([4, 6, 7, 1], [[0, 1, 2, 3, 5]]),
        (range(8), []),
    ],
)
def test_groups_are_left_out_when_all_of_their_rows_are_done(done: list[int], expected: list[list[int]]) -> None:
    assert WholeGroups(dataset(), ("clip",), 5, frozenset(done)).batches == expected


@pytest.mark.parametrize(("ranks", "sizes"), [(1, [8]), (2, [4, 4]), (4, [2, 2, 2, 2]), (9, [2, 2, 2, 1, 1])])
def test_every_process_has_a_batch(ranks: int, sizes: list[int]) -> None:
    """Groups of 2, 2, 2, 1 and 1 rows, in the order of appearance; five processes are the most."""
    batches = WholeGroups(dataset(), ("clip", "frame"), 100, ranks=ranks).batches
    assert sorted(map(len, batches), reverse=True) == sizes
    assert sorted(row for batch in batches for row in batch) == list(range(8))
