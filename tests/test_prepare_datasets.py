"""Every tool that prepares a licensed data set, on a tiny folder of its layout: shards hold what the loader gives.

A tool is one row of `CASES`.
"""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from posecore.data import PoseTable, Shards
from posecore.testing import (
    write_amass,
    write_coco,
    write_eft,
    write_emdb,
    write_freihand,
    write_gendered_bodies,
    write_hand_model,
    write_human36m_archive,
    write_humaneva,
    write_mpi_inf_3dhp,
    write_mpii,
    write_muco,
    write_ski_pose,
    write_smpl_groups,
    write_spin_npz,
    write_threedpw,
    write_up3d,
)

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))  # tools are scripts, not an installed package

from preparation import Options, Split, compare, counts, main  # noqa: E402
from prepare_spin import splits as spin_splits  # noqa: E402


@dataclass(frozen=True)
class Case:
    """A tool, and the tiny folder that it is tried on.

    Attributes:
        write: Writes the data set's folder; gets that folder, and one with gendered open bodies.
        splits: That the tool makes of it, all that it has; its other splits must be reported as missing.
        crops: Given as --crops where the data set has pictures; None prepares labels alone.
        crop_margin: Given as --crop-margin.
        body_models: Whether the tool is given --body-models.
        arguments: More for the command line, that change nothing of the rows.
        labels_alone: Splits of it that never have pictures.
    """

    write: Callable[[Path, Path], Any]
    splits: tuple[str, ...]
    crops: int | None = None
    crop_margin: float = 1.5
    body_models: bool = False
    arguments: tuple[str, ...] = ()
    labels_alone: tuple[str, ...] = ()

    def options(self, root: Path, bodies: Path) -> Options:
        return Options(root, 1, self.crops, self.crop_margin, bodies if self.body_models else None)

    def argv(self, root: Path, bodies: Path, output: Path) -> list[str]:
        argv = ["--root", root, "--output", output, "--crops", self.crops or 0, "--crop-margin", self.crop_margin]
        argv += ["--body-models", bodies] if self.body_models else []
        return [*map(str, argv), "--workers", "0", *self.arguments]


def freihand(root: Path, bodies: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    write_freihand(root, write_hand_model(root / "hand.npz"), 3, 2)


def humaneva(root: Path, bodies: Path) -> None:
    subjects = [f"{half}/S{number}" for half in ("Train", "Validate") for number in (1, 2, 3)]
    write_humaneva(root, subjects, ["Walking 1 chunk0", "Jog 1 chunk0", "Box 1 chunk0"])


def human36m(root: Path, bodies: Path) -> None:
    write_human36m_archive(root, ("S1", "S5", "S6", "S7", "S8", "S9", "S11"), ("Directions", "Photo 1"), 2, videos=True)


def mpi_inf_3dhp(root: Path, bodies: Path) -> None:
    write_mpi_inf_3dhp(root, (), [f"TS{number}" for number in range(1, 7)], frames=2, pictures=(0,))


def threedpw(root: Path, bodies: Path) -> None:
    write_threedpw(root, ("train", "validation", "test"), open_body=True)


def coco(root: Path, bodies: Path) -> None:
    people = write_coco(root)
    write_eft(root / "eft_fit/COCO2014-All-ver01.json", people)


def mpii(root: Path, bodies: Path) -> None:
    people = write_mpii(root)
    write_mpii(root, "valid")
    write_eft(root / "eft_fit/MPII_ver01.json", people)


def mannequin(root: Path, bodies: Path) -> None:
    people = write_smpl_groups(root, "mannequin.pkl", counts=(3, 2))
    for name, size in zip(people["imgname"], people["image_size"].astype(int).tolist(), strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").resize(tuple(size)).convert("RGB").save(root / name)


CASES: Mapping[str, Case] = {
    "amass": Case(lambda root, bodies: write_amass(root), ("train", "validation", "test")),
    "coco": Case(coco, ("train2014_eft", "train2014"), crops=16),
    "emdb": Case(lambda root, bodies: write_emdb(root), ("emdb1", "emdb2"), crops=16, body_models=True),
    "freihand": Case(freihand, ("training", "evaluation"), crops=24, crop_margin=1.25),
    "human36m": Case(
        human36m,
        ("train", "test", "test_frontal", "videopose3d_train", "videopose3d_test"),
        crops=16,
        labels_alone=("videopose3d_train", "videopose3d_test"),
    ),
    "humaneva": Case(humaneva, ("train", "validation")),
    "mannequin": Case(mannequin, ("test",), crops=16, body_models=True),
    "mpi_inf_3dhp": Case(mpi_inf_3dhp, ("test",), crops=16),
    "mpii": Case(mpii, ("train_eft", "train", "valid"), crops=16),
    "muco": Case(lambda root, bodies: write_muco(root), ("train",), crops=16),
    "ski_pose": Case(lambda root, bodies: write_ski_pose(root), ("train", "test"), crops=16, crop_margin=1.0),
    "threedpw": Case(threedpw, ("train", "validation", "test"), crops=16),
    "up3d": Case(lambda root, bodies: write_up3d(root), ("train", "val", "test"), crops=16),
}


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bodies")
    write_gendered_bodies(folder)
    return folder


@pytest.fixture(scope="module")
def hands(bodies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FreiHAND's folder; only to be read."""
    root = tmp_path_factory.mktemp("freihand")
    freihand(root, bodies)
    return root


def assert_holds(found: Shards, wanted: PoseTable) -> None:
    """All rows of a table: labels exactly, pictures up to JPEG."""
    assert found.joint_set is wanted.joint_set
    ours, theirs = (table.__getitems__(range(len(table))) for table in (found, wanted))
    assert set(ours) == set(theirs)
    for key in ours:
        a, b = ours[key], theirs[key]  # type: ignore[literal-required]
        if key == "image":
            assert a.shape == b.shape
            # Noise in a background differs by more than smooth pictures; another picture by far more than both.
            assert (a.float() - b.float()).abs().mean(dim=(1, 2, 3)).median() < 12
            assert torch.corrcoef(torch.stack((a.float().flatten(), b.float().flatten())))[0, 1] > 0.95
        else:
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, key


def run_tool(name: str, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """What `python tools/prepare_<name>.py` does, in this process; the exit status."""
    path = str(TOOLS / f"prepare_{name}.py")
    monkeypatch.setattr(sys, "argv", [path, *argv])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(path, run_name="__main__")
    return int(ended.value.code or 0)


@pytest.mark.parametrize("name", CASES)
def test_shards_hold_what_the_loader_gives(
    name: str, bodies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, root = CASES[name], tmp_path / "root"
    case.write(root, bodies)
    splits = runpy.run_path(str(TOOLS / f"prepare_{name}.py"))["SPLITS"]
    code = run_tool(name, case.argv(root, bodies, tmp_path / "prepared"), monkeypatch)
    said = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "prepared" / name).iterdir()) == sorted(case.splits), said
    different = False
    for split in case.splits:
        data = Shards(tmp_path / "prepared", f"{name}/{split}")
        assert len(data)
        assert (data.index["data_set"], data.index["split"]) == (name, split)
        assert_holds(data, splits[split].make(case.options(root, bodies)))
        assert (data.images is not None) == (case.crops is not None and split not in case.labels_alone)
        assert f"{split}: there, {len(data)} rows" in said
        different |= any(count["equal"] is False for count in data.index["counts"].values())
    for split in set(splits) - set(case.splits):
        assert f"{split}: missing: " in said
    assert code == (1 if different or set(splits) - set(case.splits) else 0)


def test_a_tool_is_a_program(hands: Path, tmp_path: Path) -> None:
    """In a process of its own, with workers."""
    argv = ["--root", str(hands), "--output", str(tmp_path), "--splits", "evaluation", "--stride", "2"]
    command = [sys.executable, str(TOOLS / "prepare_freihand.py"), *argv, "--crops", "16", "--workers", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "evaluation: there, 1 rows in 1 shards" in ended.stdout
    assert "not compared" in ended.stdout
    assert "100%" in ended.stderr
    assert Shards(tmp_path, "freihand/evaluation")[0]["image"].shape == (3, 24, 24)


def make_hands(part: str) -> dict[str, Split]:
    return {"training": runpy.run_path(str(TOOLS / "prepare_freihand.py"))["SPLITS"][part]}


def test_counts_that_differ_are_a_warning(hands: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--root", str(hands), "--output", str(tmp_path), "--crops", "0"]
    assert main("freihand", "", make_hands("training"), argv) == 1
    said = capsys.readouterr().out
    assert "rows              12      130240  DIFFERENT" in said
    assert "pictures           -      130240  not compared" in said
    assert "training: there, 12 rows in 1 shards; warning: not as many rows as published" in said
    index = Shards(tmp_path, "freihand/training").index
    assert index["counts"]["rows"] == {"counted": 12, "published": 130240, "equal": False}
    assert "ICCV 2019" in index["counts_source"]
    assert index["options"] == {
        "root": str(hands), "stride": 1, "crops": None, "crop_margin": 1.5, "body_models": None
    }  # fmt: skip
    assert len(index["created"]) == 10
    assert main("freihand", "", make_hands("training"), [*argv, "--stride", "3", "--overwrite"]) == 0


def test_counts_of_a_table(hands: Path, tmp_path: Path) -> None:
    humaneva(tmp_path, tmp_path)
    table = runpy.run_path(str(TOOLS / "prepare_humaneva.py"))["SPLITS"]["train"].make(Options(tmp_path))
    found = counts(table)
    assert found == {"rows": 3 * 3 * 3 * 7, "clips": 9, "subjects": 3, "actions": 3}
    pictured = make_hands("training")["training"].make(Options(hands, crops=8))
    assert counts(pictured) == {"rows": 12, "pictures": 12}
    split = Split(lambda options: table, {"rows": 189, "clips": 8, "pictures": 5})
    equal = {name: count["equal"] for name, count in compare(found, split, 1).items()}
    assert equal == {"rows": True, "clips": False, "subjects": None, "actions": None, "pictures": None}
    assert {count["equal"] for count in compare(found, split, 2).values()} == {None}
    with pytest.raises(ValueError, match=r"published: \['frames'\] cannot be counted, valid are rows, clips"):
        Split(lambda options: table, {"frames": 3})


def test_what_is_missing_does_not_keep_the_others(
    hands: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels, then pictures, then a broken file: each is reported, and the other split is prepared."""
    root = tmp_path / "root"
    (root / "evaluation/rgb").mkdir(parents=True)
    for path in hands.glob("evaluation_*.json"):
        (root / path.name).write_bytes(path.read_bytes())
    for number in range(2):
        name = f"evaluation/rgb/{number:08d}.jpg"
        (root / name).write_bytes((hands / name).read_bytes())
    argv = ["--root", str(root), "--output", str(tmp_path / "out"), "--crops", "16", "--workers", "0"]
    assert run_tool("freihand", argv, monkeypatch) == 1
    said = capsys.readouterr().out
    assert "training: missing: root: there is no training_K.json" in said
    assert "FreiHAND is free for research" in said
    assert "evaluation: there, 2 rows" in said

    (root / "evaluation/rgb/00000000.jpg").unlink()
    assert run_tool("freihand", [*argv, "--output", str(tmp_path / "gaps")], monkeypatch) == 1
    assert "evaluation: missing: 1 of 2 pictures are missing: " in capsys.readouterr().out
    run_tool("freihand", [*argv, "--output", str(tmp_path / "gaps"), "--skip-missing"], monkeypatch)
    said = capsys.readouterr().out
    assert "evaluation: there, 1 rows in 1 shards; 1 rows without a readable picture left out" in said
    assert json.loads((tmp_path / "gaps/freihand/evaluation/index.json").read_text())["left_out"][0]["row"] == 0

    (root / "evaluation_K.json").write_text("[[1, 2")
    assert run_tool("freihand", argv, monkeypatch) == 1
    assert "evaluation: not prepared: " in capsys.readouterr().out


def test_another_result_is_refused(hands: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--root", str(hands), "--output", str(tmp_path), "--crops", "0", "--stride", "2"]
    splits = make_hands("evaluation")
    assert main("freihand", "", splits, argv) == 0
    assert main("freihand", "", splits, argv) == 0  # the same again
    capsys.readouterr()
    assert main("freihand", "", splits, [*argv, "--stride", "1"]) == 1
    assert "training: not prepared: " in (said := capsys.readouterr().out)
    assert "--overwrite" in said
    assert len(Shards(tmp_path, "freihand/training")) == 1


@pytest.mark.parametrize(
    "wrong", [("--stride", "0"), ("--crops", "-1"), ("--crop-margin", "0.5"), ("--workers", "-1"), ("--quality", "96")]
)
def test_arguments_out_of_range(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main("x", "", make_hands("training"), ["--root", "r", "--output", "o", *wrong])
    assert "need stride >= 1, crops >= 0, crop margin >= 1" in capsys.readouterr().err


def test_spin_files_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_spin_npz(tmp_path / "spin", "mpii_train.npz", rows=4)
    argv = ["--root", str(tmp_path / "spin"), "--output", str(tmp_path / "out"), "--crops", "20", "--workers", "0"]
    assert run_tool("spin", [*argv, "--files", "mpii_train.npz", "lsp.npz"], monkeypatch) == 1
    assert "lsp: missing: root: there is no lsp.npz" in capsys.readouterr().out
    split = spin_splits(["mpii_train.npz"], None)["mpii_train"]
    assert_holds(Shards(tmp_path / "out", "spin/mpii_train"), split.make(Options(tmp_path / "spin", crops=20)))

    more = ["--files", "mpii_train.npz", "--require-pose", "--truth", "smpl", "--overwrite"]
    assert run_tool("spin", [*argv, *more], monkeypatch) == 0
    posed = Shards(tmp_path / "out", "spin/mpii_train")
    assert len(posed) == 2  # of four; the last two have no pose
    assert "joints_smpl24_cam" in posed.samples

    (tmp_path / "spin/static_fits").mkdir()
    np.save(tmp_path / "spin/static_fits/mpii_fits.npy", np.full((4, 82), 0.1))
    fits = ["--fits", "static_fits/mpii_fits.npy"]
    assert run_tool("spin", [*argv, *more[:3], *fits, "--overwrite"], monkeypatch) == 0
    fitted = Shards(tmp_path / "out", "spin/mpii_train").samples
    assert len(fitted["betas"]) == 4
    torch.testing.assert_close(fitted["betas"][2:], torch.full((2, 10), 0.1))
    assert run_tool("spin", [*argv, *more[:2], *fits, *fits[1:]], monkeypatch) == 2
    assert "--fits: 2 for 1 files" in capsys.readouterr().err

    assert run_tool("spin", [*argv, "--files", "mpii_train.npz", "--stride", "2"], monkeypatch) == 1
    assert "mpii_train: not prepared: --stride: 2" in capsys.readouterr().out
    assert run_tool("spin", argv, monkeypatch) == 2
    assert "--files: expected at least one npz" in capsys.readouterr().err
