"""Shards hold what the loader gave; a run that is killed goes on; what is broken is named."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from posecore.body.skeletons import H36M_17, get_joint_set
from posecore.data import PersonCrops, PoseTable, Shards
from posecore.data import shards as shards_module
from posecore.data.base import select_joints
from posecore.data.datamodule import _identity
from posecore.data.mixing import JoinedDataset
from posecore.data.sample import PoseSample
from posecore.data.shard_writer import write_shards
from posecore.data.shards import read_attributes, shard_path

ROWS, PICTURES, PER_SHARD, SIZE, MARGIN = 150, 20, 70, 12, 1.5
RAW = 18
ABOUT = {"data_set": "things", "split": "train", "created": "2026-01-02"}


def write_pictures(folder: Path) -> None:
    """Smooth pictures, each of its own colour, so that JPEG changes little and a wrong one shows."""
    folder.mkdir(parents=True)
    x, y = np.meshgrid(np.linspace(0, 1, 80), np.linspace(0, 1, 60))
    for number in range(PICTURES):
        pixels = np.stack((120 * x + 5 * number, 120 * y + 100 - 5 * number, np.full_like(x, 10 * number)), axis=-1)
        Image.fromarray(pixels.round().astype(np.uint8)).save(folder / f"{number:02d}.png")


def make_table(folder: Path, pictures: bool = True, seed: int = 0) -> PoseTable:
    """Rows of all kinds of values that `PoseSample` may hold."""
    generator = torch.Generator().manual_seed(seed)
    joints = torch.randn(ROWS, 17, 3, generator=generator)
    box = torch.tensor([40.0, 30.0, 14.0]) + torch.rand(ROWS, 3, generator=generator) * 4
    samples: PoseSample = {
        "joints_cam": joints,
        "joints_rel": joints - joints[:, :1],
        "joints_known": torch.rand(ROWS, 17, generator=generator) > 0.5,
        "K": torch.randn(ROWS, 3, 3, generator=generator).double(),
        "box": box,
        "clip": [f"Straße/{row // 7} 走る" for row in range(ROWS)],
        "gender": ["" if row % 3 else "female" for row in range(ROWS)],
        "frame": torch.arange(ROWS),
        "fps": torch.full((ROWS,), 29.97),
    }
    images = None
    if pictures:
        paths = [folder / f"{row * PICTURES // ROWS:02d}.png" for row in range(ROWS)]
        images = PersonCrops(paths, box[:, :2], box[:, 2], SIZE, MARGIN)
    return PoseTable(H36M_17, samples, images)


def write(table: PoseTable, folder: Path, **options: Any) -> dict[str, Any]:
    return write_shards(table, folder, ABOUT, **{"rows_per_shard": PER_SHARD, **options})


def assert_rows_equal(found: PoseSample, wanted: PoseSample) -> None:
    """Labels exactly, pictures up to JPEG."""
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        ours: Any = found[key]  # type: ignore[literal-required]
        if key == "image":
            assert ours.dtype == torch.uint8
            assert ours.shape == value.shape  # type: ignore[attr-defined]
            assert (ours.float() - value.float()).abs().mean(dim=(1, 2, 3)).max() < 3  # type: ignore[attr-defined]
        elif isinstance(value, torch.Tensor):
            assert ours.dtype == value.dtype
            assert torch.equal(ours, value), key
        else:
            assert ours == value, key


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PoseTable:
    folder = tmp_path_factory.mktemp("pictures") / "rgb"
    write_pictures(folder)
    return make_table(folder)


@pytest.fixture(scope="module")
def made(table: PoseTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of one prepared split, "things/train"; only to be read."""
    root = tmp_path_factory.mktemp("prepared")
    write(table, root / "things/train")
    return root


@pytest.fixture
def spoilt(made: Path, tmp_path: Path) -> Path:
    """A copy of the split, to be spoilt."""
    return shutil.copytree(made / "things/train", tmp_path / "split")


def order() -> list[int]:
    return torch.randperm(ROWS, generator=torch.Generator().manual_seed(3)).tolist()


def test_rows_are_those_of_the_table(table: PoseTable, made: Path) -> None:
    data = Shards(made, "things/train")
    assert data.joint_set is H36M_17
    assert_rows_equal(data.__getitems__(order()), table.__getitems__(order()))
    assert [path.name for path in sorted((made / "things/train").iterdir())] == [
        "index.json", "shard-00000.h5", "shard-00001.h5", "shard-00002.h5",
    ]  # fmt: skip


def test_pictures_are_told_apart(table: PoseTable, made: Path) -> None:
    """Neighbouring pictures differ by more than what `assert_rows_equal` allows for JPEG."""
    rows = list(range(0, ROWS, 10))
    images = table.__getitems__(rows)["image"].float()
    assert (images[1:] - images[:-1]).abs().mean(dim=(1, 2, 3)).min() > 4


def test_a_stride_takes_rows_across_shards(table: PoseTable, made: Path) -> None:
    data = Shards(made, "things/train", stride=4)
    rows = list(range(0, ROWS, 4))
    assert_rows_equal(data.__getitems__(range(len(data))), table.__getitems__(rows))
    assert len(Shards(made, "things/train", stride=100)) == 2
    with pytest.raises(ValueError, match="stride: must be at least 1, got 0"):
        Shards(made, "things/train", stride=0)


def test_the_index_says_what_was_done(made: Path) -> None:
    index = Shards(made, "things/train").index
    assert {key: index[key] for key in ABOUT} == ABOUT
    assert (index["joint_set"], index["crops"], index["crop_margin"], index["quality"]) == ("h36m17", SIZE, MARGIN, 95)
    assert index["rows"] == ROWS
    assert [shard["rows"] for shard in index["shards"]] == [70, 70, 10]
    assert index["left_out"] == []
    with h5py.File(made / "things/train/shard-00001.h5") as file:
        assert (file.attrs["format"], file.attrs["version"], file.attrs["shard"]) == ("humandiff-shards", 1, 1)
        assert file["image_bytes"].dtype == np.uint8
        assert file["image_bytes"].chunks is None
        assert file["image_offsets"].shape == (71,)


def test_labels_alone(tmp_path: Path) -> None:
    table = make_table(tmp_path, pictures=False)
    index = write(table, tmp_path / "split", rows_per_shard=1000)
    data = Shards(tmp_path, "split")
    assert_rows_equal(data.__getitems__(order()), table.__getitems__(order()))
    assert data.images is None
    assert (index["crops"], len(index["shards"])) == (0, 1)


def test_workers_read_the_same(table: PoseTable, made: Path) -> None:
    data = Shards(made, "things/train")
    data.__getitems__([0, ROWS - 1])  # Files are open in this process when the workers start.
    loader = DataLoader(data, 25, sampler=order(), num_workers=2, collate_fn=_identity)
    for number, batch in enumerate(loader):
        assert_rows_equal(batch, table.__getitems__(order()[25 * number : 25 * number + 25]))
    assert number == ROWS // 25 - 1


def read_many(data: Shards, rows: list[int], queue: Any) -> None:
    """What a forked process does: it finds each picture as often as it looks, while its parent looks, too."""
    queue.put([data.__getitems__([row])["image"].float().mean().item() for row in rows])


def test_forked_processes_do_not_share_positions_in_files(made: Path) -> None:
    data = Shards(made, "things/train")
    rows = order() * 3
    wanted = [data.__getitems__([row])["image"].float().mean().item() for row in rows]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=read_many, args=(data, rows, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [data.__getitems__([row])["image"].float().mean().item() for row in rows]
    assert [found, queue.get(timeout=60), queue.get(timeout=60)] == [wanted] * 3
    for process in processes:
        process.join()


def test_a_pickled_split_is_small_and_the_same(table: PoseTable, made: Path) -> None:
    data = Shards(made, "things/train")
    data.__getitems__([0])
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 - ours
    assert_rows_equal(copy.__getitems__(order()), table.__getitems__(order()))


def test_more_shards_than_files_that_are_kept_open(
    table: PoseTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "_MOST_OPEN", 2)
    write(table, tmp_path / "split", rows_per_shard=20)
    data = Shards(tmp_path, "split")
    assert_rows_equal(data.__getitems__(order()), table.__getitems__(order()))
    assert len(data.images._open) == 2  # type: ignore[union-attr]


def test_shards_can_be_mixed_and_cut(table: PoseTable, made: Path) -> None:
    """With the rows of the loader in one training set, and in fewer joints."""
    data = Shards(made, "things/train")
    joined = JoinedDataset([table, data])
    batch = joined.__getitems__([ROWS + 3, 3, 2 * ROWS - 1, ROWS - 1])
    for even, odd in ((0, 1), (2, 3)):
        assert torch.equal(batch["joints_cam"][even], batch["joints_cam"][odd])
        assert (batch["image"][even].float() - batch["image"][odd].float()).abs().mean() < 3
    fewer = select_joints(data, get_joint_set("h36m16"))
    assert fewer[5]["joints_cam"].shape == (16, 3)
    assert fewer[5]["image"].shape == (3, RAW, RAW)


def test_shards_of_shards(table: PoseTable, made: Path, tmp_path: Path) -> None:
    write(Shards(made, "things/train", stride=3), tmp_path / "split")
    found = Shards(tmp_path, "split")
    assert_rows_equal(found.__getitems__(range(50)), table.__getitems__(range(0, ROWS, 3)))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_write_the_same(made: Path, table: PoseTable, tmp_path: Path, workers: int) -> None:
    write(table, tmp_path, workers=workers)
    for path in sorted((made / "things/train").glob("*.h5")):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


# Writes a split in a process of its own, which is killed, with its workers, when the second shard is half written.
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import h5py
import test_shards as tests
from posecore.data import shard_writer

create = h5py.Group.create_dataset

def create_or_die(self, name, *args, **options):
    if name == "image_bytes" and "00001" in self.file.filename:
        self.file.flush()
        os.killpg(0, signal.SIGKILL)
    return create(self, name, *args, **options)

h5py.Group.create_dataset = create_or_die
tests.write(tests.make_table(Path({pictures!r})), Path({folder!r}), workers=1)
"""


def test_a_killed_run_goes_on(table: PoseTable, made: Path, tmp_path: Path) -> None:
    pictures = table.images.files[0].parent  # type: ignore[union-attr]
    program = KILLED.format(tests=str(Path(__file__).parent), pictures=str(pictures), folder=str(tmp_path / "split"))
    ended = subprocess.run([sys.executable, "-c", program], start_new_session=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    left = sorted(path.name for path in (tmp_path / "split").iterdir())
    assert left == [".shard-00001.h5.partial", "shard-00000.h5"]
    with pytest.raises(FileNotFoundError, match=r"has no index\.json, so its preparation was not finished"):
        Shards(tmp_path, "split")

    before = (tmp_path / "split/shard-00000.h5").stat().st_mtime_ns
    write(table, tmp_path / "split")
    assert (tmp_path / "split/shard-00000.h5").stat().st_mtime_ns == before  # kept, not made again
    names = [path.name for path in sorted((tmp_path / "split").iterdir())]
    assert names == [path.name for path in sorted((made / "things/train").iterdir())]
    for name in names:
        assert (tmp_path / "split" / name).read_bytes() == (made / "things/train" / name).read_bytes()


def test_what_is_there_is_kept_and_a_lost_shard_made_again(table: PoseTable, spoilt: Path) -> None:
    shard_path(spoilt, 1).unlink()
    times = {path.name: path.stat().st_mtime_ns for path in spoilt.glob("*.h5")}
    write(table, spoilt)
    assert {name: (spoilt / name).stat().st_mtime_ns for name in times} == times
    assert len(Shards(spoilt.parent, "split")) == ROWS


@pytest.mark.parametrize("change", ["labels", "quality", "margin", "rows_per_shard"])
def test_another_result_is_refused_unless_overwritten(table: PoseTable, spoilt: Path, change: str) -> None:
    options: dict[str, Any] = {}
    other = PoseTable(table.joint_set, table.samples, table.images)
    if change == "labels":
        other.samples = PoseSample(**{**table.samples, "fps": torch.zeros(ROWS)})  # type: ignore[typeddict-item]
    elif change == "margin":
        crops = table.images
        assert isinstance(crops, PersonCrops)
        other.images = PersonCrops(crops.pictures, crops.center_px, crops.box_size_px, SIZE, 1.25)
    else:
        options = {change: {"quality": 80, "rows_per_shard": 100}[change]}
    before = {path: path.read_bytes() for path in spoilt.iterdir()}
    with pytest.raises(FileExistsError, match=r"shard-00000\.h5 is broken, or was made of other rows or settings"):
        write(other, spoilt, **options)
    assert {path: path.read_bytes() for path in spoilt.iterdir()} == before
    write(other, spoilt, overwrite=True, **options)
    assert len(list(spoilt.glob("*.h5"))) == (2 if change == "rows_per_shard" else 3)
    assert_rows_equal(Shards(spoilt.parent, "split").__getitems__([0, ROWS - 1]), other.__getitems__([0, ROWS - 1]))


def test_a_broken_shard_is_refused_unless_overwritten(table: PoseTable, spoilt: Path) -> None:
    shard_path(spoilt, 2).write_bytes(shard_path(spoilt, 2).read_bytes()[:3000])
    with pytest.raises(FileExistsError, match=r"shard-00002\.h5 is broken"):
        write(table, spoilt)
    write(table, spoilt, overwrite=True)
    assert len(Shards(spoilt.parent, "split")) == ROWS


@pytest.fixture
def gaps(tmp_path: Path) -> PoseTable:
    """A table whose pictures 1 to 6 are missing and whose picture 12 is cut off."""
    folder = tmp_path / "rgb"
    write_pictures(folder)
    for number in range(1, 7):
        (folder / f"{number:02d}.png").unlink()
    content = (folder / "12.png").read_bytes()
    (folder / "12.png").write_bytes(content[: len(content) // 2])
    return make_table(folder)


def test_missing_pictures_are_counted_before_any_work(gaps: PoseTable, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"6 of 20 pictures are missing: \S+/01\.png, .*05\.png, \.\.\.\. Their"
    ):
        write(gaps, tmp_path / "split")
    assert not (tmp_path / "split").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named(gaps: PoseTable, tmp_path: Path, workers: int) -> None:
    rows = [row for row in range(ROWS) if not 1 <= row * PICTURES // ROWS <= 6]
    crops = gaps.images
    assert isinstance(crops, PersonCrops)
    samples = gaps.__class__(gaps.joint_set, gaps.samples).__getitems__(rows)
    box = samples["box"]
    table = PoseTable(
        H36M_17, samples, PersonCrops([crops.pictures[row] for row in rows], box[:, :2], box[:, 2], SIZE, MARGIN)
    )
    with pytest.raises(ValueError, match=r"12\.png is no picture that can be read.*--skip-missing"):
        write(table, tmp_path / "split", workers=workers)
    assert not (tmp_path / "split/index.json").exists()
    # Left out in one run, refused in the next: the shards that lack them are not taken for whole.
    write(table, tmp_path / "split", skip_missing=True)
    with pytest.raises(ValueError, match=r"12\.png is no picture"):
        write(table, tmp_path / "split")


def test_rows_without_a_picture_are_left_out_and_listed(gaps: PoseTable, tmp_path: Path) -> None:
    index = write(gaps, tmp_path / "split", skip_missing=True)
    kept = [row for row in range(ROWS) if row * PICTURES // ROWS not in (*range(1, 7), 12)]
    assert_rows_equal(Shards(tmp_path, "split").__getitems__(range(len(kept))), gaps.__getitems__(kept))
    assert index["rows"] == len(kept)
    assert [entry["row"] for entry in index["left_out"]] == [row for row in range(ROWS) if row not in kept]
    assert "01.png" in index["left_out"][0]["reason"]
    assert "12.png is no picture that can be read" in index["left_out"][-1]["reason"]
    assert write(gaps, tmp_path / "split", skip_missing=True) == index


def test_a_shard_may_be_empty_but_not_all(gaps: PoseTable, tmp_path: Path) -> None:
    write(gaps, tmp_path / "split", skip_missing=True, rows_per_shard=10)
    data = Shards(tmp_path, "split")
    assert 0 in [shard["rows"] for shard in data.index["shards"]]
    assert data.__getitems__(range(len(data)))["image"].shape == (len(data), 3, RAW, RAW)
    shutil.rmtree(tmp_path / "rgb")
    with pytest.raises(ValueError, match="no row is left of 150: none has a picture that can be read"):
        write(gaps, tmp_path / "nothing", skip_missing=True)


@pytest.mark.parametrize("wrong", [{"rows_per_shard": 0}, {"quality": 0}, {"quality": 100}, {"workers": -1}])
def test_arguments_out_of_range(table: PoseTable, tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"rows_per_shard, quality and workers: must be at least 1, in 1\.\.95"):
        write(table, tmp_path, **wrong)


def test_pictures_must_be_raw_crops(table: PoseTable, tmp_path: Path) -> None:
    crops = table.images
    assert isinstance(crops, PersonCrops)
    normalised = PersonCrops(crops.pictures, crops.center_px, crops.box_size_px, SIZE)
    for images in (normalised, lambda rows: torch.zeros(len(rows), 3, 4, 4)):
        with pytest.raises(ValueError, match="table: its pictures are no raw crops of files"):
            write(PoseTable(table.joint_set, table.samples, images), tmp_path)


def edit_index(split: Path, **changes: Any) -> None:
    index = json.loads((split / "index.json").read_text())
    (split / "index.json").write_text(json.dumps({**index, **changes}))


def edit_shard(split: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(shard_path(split, 1), "r+") as file:
        change(file)


def replace(name: str, values: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        if values is not None:
            file.create_dataset(name, **values)

    return change


SPOILT: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "no folder": (shutil.rmtree, FileNotFoundError, "there is no .*split; tools/prepare_"),
    "no index": (lambda split: (split / "index.json").unlink(), FileNotFoundError, r"has no index\.json"),
    "cut index": (
        lambda split: (split / "index.json").write_text((split / "index.json").read_text()[:-20]),
        ValueError,
        r"index\.json: is no JSON, or cut off",
    ),
    "list": (lambda split: (split / "index.json").write_text("[]"), ValueError, r"index\.json: holds a list"),
    "other index": (lambda split: edit_index(split, format="x"), ValueError, r"index\.json: format is 'x', expected"),
    "new index": (lambda split: edit_index(split, version=2), ValueError, r"index\.json: is of version 2, .* reads 1"),
    "no rows": (
        lambda split: edit_index(split, rows="many"),
        ValueError,
        r"index\.json: rows is 'many', so it is brok",
    ),
    "new key": (lambda split: edit_index(split, keys=["joints_cam", "mood"]), ValueError, r"keys \['mood'\] unknown"),
    "shard name": (
        lambda split: edit_index(split, shards=[{"file": "../shard-00000.h5", "rows": 70}]),
        ValueError,
        r"index\.json: shard 0 is .*so it is broken",
    ),
    "joint set": (lambda split: edit_index(split, joint_set="coco17"), ValueError, "joint_set is 'h36m17', but index"),
    "no shard": (
        lambda split: shard_path(split, 1).unlink(),
        FileNotFoundError,
        r"shard-00001\.h5: shard 1 of 3 is missing",
    ),
    "cut shard": (
        lambda split: os.truncate(shard_path(split, 1), shard_path(split, 1).stat().st_size - 100),
        ValueError,
        r"shard-00001\.h5: is no shard, or cut off",
    ),
    "no HDF5": (
        lambda split: shard_path(split, 1).write_text("shard"),
        ValueError,
        r"shard-00001\.h5: is no shard, or cut off",
    ),
    "other HDF5": (
        lambda split: edit_shard(split, lambda file: file.attrs.pop("format")),
        ValueError,
        r"shard-00001\.h5: format is None, expected 'humandiff-shards'",
    ),
    "new shard": (
        lambda split: edit_shard(split, lambda file: file.attrs.modify("version", 2)),
        ValueError,
        r"shard-00001\.h5: is of version 2, this program reads 1",
    ),
    "fingerprint": (
        lambda split: edit_shard(split, lambda file: file.attrs.modify("fingerprint", "0")),
        ValueError,
        r"shard-00001\.h5: fingerprint is '0', but index\.json says .*not of one preparation",
    ),
    "other place": (
        lambda split: shutil.copy(shard_path(split, 0), shard_path(split, 1)),
        ValueError,
        r"shard-00001\.h5: shard is 0, but index\.json says 1",
    ),
    "rows": (
        lambda split: edit_shard(split, lambda file: file.attrs.modify("rows", 69)),
        ValueError,
        r"shard-00001\.h5: rows is 69, but index\.json says 70",
    ),
    "no column": (
        lambda split: edit_shard(split, replace("joints_cam", None)),
        ValueError,
        r"shard-00001\.h5: is cut off or broken",
    ),
    "short column": (
        lambda split: edit_shard(split, replace("K", {"data": np.zeros((69, 3, 3))})),
        ValueError,
        r"shard-00001\.h5: is cut off or broken .*K has 69 rows instead of 70",
    ),
    "offsets": (
        lambda split: edit_shard(split, replace("image_offsets", {"data": np.arange(71)})),
        ValueError,
        r"shard-00001\.h5: is cut off or broken .*image_offsets does not fit 70 rows",
    ),
    "chunks": (
        lambda split: edit_shard(
            split, lambda file: replace("image_bytes", {"data": file["image_bytes"][()], "chunks": (512,)})(file)
        ),
        ValueError,
        r"shard-00001\.h5: is cut off or broken .*image_offsets does not fit",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_broken_is_named(spoilt: Path, case: str) -> None:
    spoil, kind, message = SPOILT[case]
    spoil(spoilt)
    with pytest.raises(kind, match=message):
        Shards(spoilt.parent, "split")


def test_a_broken_jpeg_is_named(made: Path, spoilt: Path) -> None:
    with h5py.File(shard_path(spoilt, 1), "r+") as file:
        start, end = file["image_offsets"][3:5].tolist()
        file["image_bytes"][start:end] = 0
    data = Shards(spoilt.parent, "split")
    assert len(data.__getitems__([72, 74])["image"]) == 2
    with pytest.raises(ValueError, match=r"shard-00001\.h5: picture at byte \d+ cannot be read"):
        data[73]


def test_a_picture_of_another_size_is_named(spoilt: Path) -> None:
    """Of a shard whose margin was changed by hand, in the index too."""
    for number in range(3):
        with h5py.File(shard_path(spoilt, number), "r+") as file:
            file.attrs["crop_margin"] = 2.0
    edit_index(spoilt, crop_margin=2.0)
    assert read_attributes(shard_path(spoilt, 0))["crop_margin"] == 2
    with pytest.raises(ValueError, match=r"\(18, 18\) pixels, expected a side of 24"):
        Shards(spoilt.parent, "split")[0]
