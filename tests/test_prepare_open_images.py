"""The tool that renders the open image sets: what it makes, and that nothing is lost when it is stopped."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from posecore.body.files import load_body_model
from posecore.body.smpl import SMPLLayer
from posecore.data.open_images import OpenImages, read_settings
from posecore.geometry.camera import crop_intrinsics, project
from posecore.render.rasterizer import rasterize

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))  # tools are scripts, not an installed package

import prepare_open_images  # noqa: E402
from prepare_open_images import main  # noqa: E402

SHARD_ROWS, LIMIT = 3, 19
SHARDS = -(-LIMIT // SHARD_ROWS)
FEW = {"split": "val", "num_clips": 2, "stride": 3}
# The tool in a process of its own, with small shards in its workers too. With a number it is killed, all of its
# processes at once, when a worker is about to write a shard and so many are there.
DRIVER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tools!r})
import prepare_open_images as tool

tool.SHARD_ROWS, tool.SETS["val"] = {rows}, {few}
write_shard = tool.write_shard

def write_or_die(path, *rest):
    if len(list(path.parent.glob("*.h5"))) >= {kill_at}:
        path.with_suffix(".partial").write_bytes(b"the half of a shard")
        os.killpg(0, signal.SIGKILL)
    write_shard(path, *rest)

tool.write_shard = write_or_die
if __name__ == "__main__":
    sys.exit(tool.main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_open_images, "SHARD_ROWS", SHARD_ROWS)
    monkeypatch.setitem(prepare_open_images.SETS, "val", FEW)


def arguments(folder: Path, **changes: str) -> list[str]:
    options = {"--limit": str(LIMIT), "--crop": "32", "--workers": "1"} | {f"--{k}": v for k, v in changes.items()}
    flat = [text for pair in options.items() for text in pair]
    return ["--data", str(folder), "--motion", "synthetic", "--sets", "val", *flat]


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "open_images" / "val").glob("*.h5"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that was made in one go, by one process."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_open_images, "SHARD_ROWS", SHARD_ROWS)
        patch.setitem(prepare_open_images.SETS, "val", FEW)
        assert main(arguments(folder)) == 0
    return folder


def test_a_set_can_be_read(made: Path) -> None:
    assert list(shards(made)) == [f"{number:04d}-of-{SHARDS:04d}.h5" for number in range(SHARDS)]
    found = OpenImages(made, ["val"])
    assert len(found) == LIMIT
    assert (found.crop_margin, found[0]["image"].shape) == (1.5, (3, 48, 48))
    assert read_settings(made / "open_images" / "val" / f"0002-of-{SHARDS:04d}.h5") == {
        "set": "val", "raw_size": 48, "motion": "synthetic", "crop": 32, "crop_margin": 1.5, "limit": LIMIT, "seed": 0,
    }  # fmt: skip
    rows = found.samples
    assert len(set(rows["clip"])) == 2, "the limit spreads the rows over the whole set"
    assert len({betas.numpy().tobytes() for betas in rows["betas"]}) > LIMIT // 2
    # Joints that are marked as seen lie on the body.
    model = load_body_model()
    K = crop_intrinsics(rows["K"], rows["box"][:, :2], rows["box"][:, 2] * 1.5, 48)
    bodies = SMPLLayer(model, joints=())(*(rows[key] for key in ("betas", "body_pose", "global_orient", "transl")))
    column, row = project(rows["joints_smpl24_cam"], K).long().clamp(0, 47).unbind(-1)
    on_body = torch.stack(
        [
            (rasterize(vertices, model.faces, camera, (48, 48)).face >= 0)[y, x]
            for vertices, camera, x, y in zip(bodies.vertices, K, column, row, strict=True)
        ]
    )
    assert on_body[rows["smpl24_visible"]].float().mean() > 0.9


def test_the_contact_sheet_shows_the_set(made: Path) -> None:
    first = OpenImages(made, ["val"])[0]["image"].permute(1, 2, 0).numpy()
    with Image.open(made / "open_images" / "val.png") as image:
        sheet = np.asarray(image.convert("RGB"))
    assert sheet.shape == (2 * 48, 12 * 48, 3)
    np.testing.assert_array_equal(sheet[:48, :48], first)
    assert (sheet[:48, 48:96] == (0, 255, 0)).all(axis=2).sum() > 20, "dots on every second one"
    assert (sheet[48:, (LIMIT - 12) * 48 :] == 255).all()


def test_killed_and_started_again(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two workers, killed in the middle; then one: the shards are those of one process that was never stopped."""
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(tools=str(TOOLS), rows=SHARD_ROWS, few=FEW, kill_at=3))
    killed = subprocess.run(
        [sys.executable, str(driver), *arguments(tmp_path, workers="2")],
        capture_output=True, text=True, timeout=200, check=False, start_new_session=True,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    whole = shards(made)
    left = shards(tmp_path)
    assert 3 <= len(left) <= 4  # the other worker may have been writing, too
    assert all(content == whole[name] for name, content in left.items())
    folder = tmp_path / "open_images" / "val"
    assert list(folder.glob("*.partial"))
    with pytest.raises(FileNotFoundError, match=rf"{SHARDS - len(left)} of {SHARDS} shards are missing"):
        OpenImages(tmp_path, ["val"])

    times = {name: (folder / name).stat().st_mtime_ns for name in left}
    assert main(arguments(tmp_path)) == 0
    assert shards(tmp_path) == whole
    assert not list(folder.glob("*.partial"))
    assert times == {name: (folder / name).stat().st_mtime_ns for name in left}
    sheets = [(root / "open_images" / "val.png").read_bytes() for root in (made, tmp_path)]
    assert sheets[0] == sheets[1]

    # One shard is lost: that one is made, no other. Then there is nothing left to do.
    times = {name: (folder / name).stat().st_mtime_ns for name in whole}
    lost = sorted(whole)[4]
    (folder / lost).unlink()
    assert main(arguments(tmp_path)) == 0
    assert shards(tmp_path) == whole
    now = {name: (folder / name).stat().st_mtime_ns for name in whole}
    assert {name for name in whole if now[name] != times[name]} == {lost}
    assert main(arguments(tmp_path)) == 0
    assert now == {name: (folder / name).stat().st_mtime_ns for name in whole}
    assert f"val: {LIMIT} pictures of 48 px" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"crop": "48"}, {"margin": "1.25"}, {"limit": "6"}, {"seed": "1"}])
def test_other_arguments_do_not_touch_what_is_there(
    change: dict[str, str], made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shards(made)
    assert main(arguments(made, **change)) == 2
    assert "was made with other arguments" in capsys.readouterr().err
    assert shards(made) == before
    assert len(OpenImages(made, ["val"])) == LIMIT


def test_another_seed_makes_other_pictures(made: Path, tmp_path: Path) -> None:
    assert main(arguments(tmp_path, seed="1", limit="3", output=str(tmp_path / "out"))) == 0
    assert not (tmp_path / "open_images").exists()
    other = OpenImages(tmp_path / "out", ["val"])
    pictures = OpenImages(made, ["val"]).__getitems__(range(LIMIT))["image"]
    assert all(not (pictures == other[row]["image"]).all(dim=(1, 2, 3)).any() for row in range(3))


@pytest.mark.parametrize(
    "change", [{"crop": "15"}, {"margin": "0.9"}, {"margin": "nan"}, {"limit": "-1"}, {"workers": "0"}]
)
def test_bad_arguments(change: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments(tmp_path, **change))
    assert stop.value.code == 2
    assert "need crop >= 16, margin >= 1, limit >= 0 and workers >= 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_motion_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 2
    assert "error: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_broken_shard_is_named(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "open_images" / "val"
    folder.mkdir(parents=True)
    for name, content in shards(made).items():
        (folder / name).write_bytes(content if name.startswith(("0000", "0001")) else content[:1000])
        if name.startswith("0002"):
            break
    before = shards(tmp_path)
    assert main(arguments(tmp_path)) == 2
    assert f"0002-of-{SHARDS:04d}.h5: is no shard of rendered images that can be read" in capsys.readouterr().err
    assert shards(tmp_path) == before
